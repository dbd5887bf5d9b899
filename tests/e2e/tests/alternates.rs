//! Alternates: answers that vary are stored side by side, each for the clients that chose it (RFC 9111 §4.1), through
//! both tiers. Method: an origin that answers in the language it was asked for and counts; bodies tell who got whose.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::{
    Asked, Connection, Fleet, FleetOptions, HandOrigin, Response, content, range_of, reply,
};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BIG: usize = 1_300_000;

fn language(asked: &Asked) -> String {
    let given = asked.field("accept-language");
    if given.is_empty() { "default".to_owned() } else { given.to_owned() }
}

/// One edge, one parent, an origin that speaks languages.
fn world(name: &str, adjust: fn(&mut tidegate_contract::Snapshot)) -> (Fleet, HandOrigin) {
    let serial = AtomicUsize::new(0);
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if asked.line.starts_with("POST ") {
            return reply(stream, 200, "", b"done");
        }
        let number = serial.fetch_add(1, Ordering::SeqCst);
        let language = language(asked);
        let vary = match asked.target() {
            "/plain" => "",
            "/agent" => "Vary: User-Agent, Origin\r\n",
            "/grow" if asked.field("accept-language") == "de" => {
                "Vary: X-Device, Accept-Language\r\n"
            }
            _ => "Vary: Accept-Language\r\n",
        };
        let fields = format!("Cache-Control: max-age=3600\r\nETag: \"{language}\"\r\n{vary}");
        if asked.target().starts_with("/big") {
            let bytes = content(&language, BIG);
            if let Some((first, last)) = range_of(asked, BIG) {
                let fields = format!("{fields}Content-Range: bytes {first}-{last}/{BIG}\r\n");
                return reply(stream, 206, &fields, &bytes[first..=last]);
            }
            return reply(stream, 200, &fields, &bytes);
        }
        let device = asked.field("x-device");
        let body = match asked.target() {
            "/counted" => format!("{language} {number}"),
            _ => format!("{language} {device}"),
        };
        reply(stream, 200, &fields, body.as_bytes());
    });
    let options = FleetOptions {
        edges: 1,
        parents: 1,
        origin: Some(origin.address),
        adjust,
        ..FleetOptions::default()
    };
    (Fleet::start(name, &options), origin)
}

fn ask(fleet: &Fleet, path: &str, extra: &str) -> Response {
    let response = fleet.get("edge-1", path, extra).unwrap();
    fleet.settle("edge-1");
    fleet.settle("parent-1");
    response
}

fn text(fleet: &Fleet, path: &str, extra: &str) -> String {
    String::from_utf8(ask(fleet, path, extra).body).unwrap()
}

#[test]
fn each_language_is_one_object_on_every_tier_and_outlives_a_restart() {
    let (mut fleet, origin) = world("languages", |_| {});
    let clients =
        ["Accept-Language: de\r\n", "Accept-Language: fr\r\n", "", "Accept-Language:  de \r\n"];
    let expected = ["de ", "fr ", "default ", "de "];
    for round in 0..3 {
        for (client, expected) in clients.iter().zip(expected) {
            assert_eq!(text(&fleet, "/a", client), expected, "round {round}");
        }
        // The first answer told by what it varies; it is the one for those who say nothing.
        let asked: Vec<String> = origin.all().iter().map(language).collect();
        assert_eq!(asked, ["default", "de", "fr"], "round {round}");
        if round == 1 {
            fleet.restart("edge-1");
            fleet.restart("parent-1");
        }
    }
    let hit = ask(&fleet, "/a", clients[0]);
    assert!(hit.cache_status("edge-1").unwrap().contains("; hit"));
    assert_eq!(hit.field("vary"), Some("Accept-Language"));
    let miss = ask(&fleet, "/a", "Accept-Language: it\r\n");
    assert!(miss.cache_status("edge-1").unwrap().contains("fwd=vary-miss"), "{miss:?}");
    // No other field of a client's goes to the origin.
    let _other = ask(&fleet, "/b", "Accept-Language: de\r\nX-Device: tv\r\nCookie: a=b\r\n");
    for asked in origin.all() {
        assert_eq!((asked.field("x-device"), asked.field("cookie")), ("", ""));
    }
}

#[test]
fn what_is_not_heeded_makes_no_alternates() {
    let (fleet, origin) = world("ignored", |_| {});
    for client in ["User-Agent: a\r\n", "User-Agent: b\r\nOrigin: https://x\r\n", ""] {
        assert_eq!(text(&fleet, "/agent", client), "default ");
    }
    assert_eq!(origin.count_of("/agent"), 1);
    // To the letter of the standard, for those who ask for it.
    let (fleet, origin) = world("strict", |snapshot| {
        for behaviour in &mut snapshot.delivery_services[0].behaviours {
            behaviour.vary_ignore = Vec::new();
        }
    });
    for _again in 0..2 {
        for client in
            ["User-Agent: a\r\n", "User-Agent: b\r\n", "User-Agent: a\r\nOrigin: https://x\r\n"]
        {
            assert_eq!(text(&fleet, "/agent", client), "default ");
        }
    }
    assert_eq!(origin.count_of("/agent"), 4);
    let agents: Vec<String> =
        origin.all().iter().map(|asked| asked.field("user-agent").to_owned()).collect();
    assert_eq!(agents, ["", "a", "b", "a"]);
}

#[test]
fn many_clients_of_two_languages_make_few_fills_and_never_get_each_others() {
    let (fleet, origin) = world("many", |_| {});
    let address = fleet.member("edge-1").http();
    let go = Arc::new(std::sync::Barrier::new(40));
    let threads: Vec<_> = (0..40)
        .map(|n| {
            let go = go.clone();
            thread::spawn(move || {
                let language = if n % 2 == 0 { "de" } else { "fr" };
                let mut client = Connection::open(address).unwrap();
                go.wait();
                for path in ["/one", "/two", "/big/three"] {
                    let extra = format!("Accept-Language: {language}\r\n");
                    let response = client.get(HOST, path, &extra).unwrap();
                    let expected = match path {
                        "/big/three" => content(language, BIG),
                        _ => format!("{language} ").into_bytes(),
                    };
                    assert!(response.body == expected, "{path} {language}");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    for path in ["/one", "/two", "/big/three"] {
        assert!(origin.count_of(path) <= 3, "{path}: {}", origin.count_of(path));
    }
}

#[test]
fn parts_of_an_alternate_are_its_own() {
    // Goal: part fills say what the alternate was chosen by. Method: ranges of two languages in turn, from cold.
    let (fleet, origin) = world("parts", |_| {});
    for round in 0..2 {
        for language in ["de", "fr", "default"] {
            let bytes = content(language, BIG);
            for (first, last) in [(1_200_000, 1_200_009), (5, 700_000), (0, BIG - 1)] {
                let chosen = match language {
                    "default" => String::new(),
                    other => format!("Accept-Language: {other}\r\n"),
                };
                let extra = format!("{chosen}Range: bytes={first}-{last}\r\n");
                let response = ask(&fleet, "/big", &extra);
                assert_eq!(response.status, 206);
                assert!(
                    response.body == bytes[first..=last],
                    "{language} {first} in round {round}"
                );
                assert_eq!(response.field("etag"), Some(format!("\"{language}\"").as_str()));
            }
        }
        if round == 0 {
            let asked = origin.count();
            assert!(asked <= 12, "{asked}");
        }
    }
}

#[test]
fn names_that_come_later_split_what_was_one() {
    let (fleet, origin) = world("grow", |_| {});
    let german = "Accept-Language: de\r\n";
    assert_eq!(text(&fleet, "/grow", ""), "default ");
    assert_eq!(
        text(&fleet, "/grow", "X-Device: tv\r\n"),
        "default ",
        "it does not vary by that yet"
    );
    // The German answer varies by the device, too.
    assert_eq!(text(&fleet, "/grow", &format!("{german}X-Device: tv\r\n")), "de tv");
    assert_eq!(text(&fleet, "/grow", german), "de ");
    assert_eq!(text(&fleet, "/grow", &format!("{german}X-Device: phone\r\n")), "de phone");
    for _again in 0..2 {
        let asked = origin.count();
        assert_eq!(text(&fleet, "/grow", &format!("{german}X-Device: tv\r\n")), "de tv");
        assert_eq!(text(&fleet, "/grow", german), "de ");
        assert_eq!(origin.count(), asked, "all are stored");
    }
}

#[test]
fn purges_and_unsafe_methods_reach_all_alternates() {
    let (mut fleet, origin) = world("reach", |_| {});
    let clients = ["Accept-Language: de\r\n", "Accept-Language: fr\r\n", ""];
    let all = |fleet: &Fleet| clients.map(|client| text(fleet, "/counted", client));
    let first = all(&fleet);
    assert_eq!(all(&fleet), first);
    let output = Command::new(binary("tidegate"))
        .args(["purge", "--hard", "--url", "http://film.example/counted", "--snapshot"])
        .arg(fleet.dir.join("snapshot"))
        .arg("--trust")
        .arg(fleet.dir.join("trust.pub"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let second = all(&fleet);
    assert!(first.iter().zip(&second).all(|(a, b)| a != b), "{first:?} {second:?}");
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    let post = format!("POST /counted HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx");
    client.send(post.as_bytes()).unwrap();
    assert_eq!(client.response(false).unwrap().status, 200);
    // What the POST made invalid stays so over a restart.
    for node in ["edge-1", "parent-1"] {
        fleet.settle(node);
        fleet.restart(node);
    }
    let third = all(&fleet);
    assert!(second.iter().zip(&third).all(|(a, b)| a != b), "{second:?} {third:?}");
    assert_eq!(all(&fleet), third);
    assert_eq!(origin.count_of("/plain"), 0);
}

#[test]
fn who_asks_in_a_thousand_ways_fills_no_cache() {
    let (fleet, _origin) = world("explosion", |_| {});
    let ask = |language: &str| {
        let fields = format!("Accept-Language: {language}\r\n");
        let answer = fleet.get("edge-1", "/plain-not", &fields).unwrap();
        assert!(answer.body.starts_with(language.as_bytes()), "{language}");
        answer.cache_status("edge-1").unwrap()
    };
    for n in 0..1000 {
        let said = ask(&format!("x-{n}"));
        assert!(said.contains("fwd="), "{said}");
    }
    // The first ones are kept, the later ones passed on.
    assert!(ask("x-10").contains("; hit"));
    assert!(!ask("x-900").contains("; hit"));
    for id in ["edge-1", "parent-1"] {
        assert!(fleet.counter(id, "alternates_refused_total") >= 900, "{id}");
    }
    // Another URL has its own.
    let fields = "Accept-Language: x-900\r\n";
    fleet.get("edge-1", "/other-url", fields).unwrap();
    let again = fleet.get("edge-1", "/other-url", fields).unwrap();
    assert!(again.cache_status("edge-1").unwrap().contains("; hit"));
}

#[test]
fn what_players_name_as_next_makes_no_more_alternates_either() {
    // Goal: what is brought in before it is asked for keeps to the same limit. Method: a full house of languages, then a
    // player of one more language that names the URL as its next.
    let (fleet, origin) = world("named", |_| {});
    for n in 0..70 {
        let fields = format!("Accept-Language: x-{n}\r\n");
        assert_eq!(fleet.get("edge-1", "/full", &fields).unwrap().status, 200);
    }
    let asked = origin.count_of("/full");
    let refused = fleet.counter("edge-1", "alternates_refused_total");
    let named = "Accept-Language: x-900\r\nCMCD-Request: nor=\"full\"\r\n";
    assert_eq!(fleet.get("edge-1", "/now", named).unwrap().status, 200);
    fleet.until("the player's next was judged", |fleet| {
        let brought = fleet.counter("edge-1", "prefetch_fills_total");
        fleet.counter("edge-1", "alternates_refused_total") + brought > refused
    });
    assert_eq!(fleet.counter("edge-1", "prefetch_fills_total"), 0);
    assert_eq!(origin.count_of("/full"), asked);
}
