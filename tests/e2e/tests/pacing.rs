//! What players tell of themselves (CMCD) and what delivery services say of pace: how answers leave, what is brought in before
//! it is asked for, and what of it nobody else hears. Method: real programs; counters, the log and the kernel's own word.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use tidegate_contract::{Congestion, Snapshot};
use tidegate_e2e::fleet::{HOST, behaviour};
use tidegate_e2e::{
    Connection, Fleet, FleetOptions, HandOrigin, block_on, content, get, h2, h3, reply,
};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn options() -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, https: true, ..FleetOptions::default() }
}

/// The last pace in the edge's log for this protocol, in kbit/s.
fn logged_pace(fleet: &Fleet, protocol: &str) -> Option<u64> {
    let text = std::fs::read_to_string(fleet.dir.join("edge-1.log")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let of: Vec<serde_json::Value> =
        lines.filter(|l: &serde_json::Value| l["protocol"] == protocol).collect();
    of.iter().rev().find_map(|line| line["pace_kbps"].as_u64())
}

/// What the kernel says of the connections that a member has on this port, where there is a program to ask it with.
fn kernel_says(of: SocketAddr) -> Option<String> {
    let filter = format!("sport = :{}", of.port());
    let output =
        Command::new("ss").args(["-tin", "state", "established", &filter]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn what_a_player_finds_enough_paces_its_answers_over_every_version() {
    // Goal: `rtp` reaches the kernel over HTTP/1.1 and HTTP/2, our own bucket over HTTP/3, and bytes stay right. Method: a
    // hit of 1.5 MB at 40 Mbit/s over each; a client that leaves most of it unread while the kernel is asked.
    const LEN: usize = 1_500_000;
    let fleet = Fleet::start("pace", &options());
    let bytes = fleet.put("a.m4s", LEN);
    assert_eq!(fleet.get("edge-1", "/a.m4s", "").unwrap().body, bytes);
    fleet.settle("edge-1");
    assert_eq!(fleet.counter("edge-1", "paced_answers_total"), 0);

    let edge = fleet.member("edge-1");
    let mut plain = Connection::open(edge.http()).unwrap();
    let asked = "CMCD-Status: rtp=40000\r\nCMCD-Object: br=3200\r\n";
    assert_eq!(plain.get(HOST, "/a.m4s", asked).unwrap().body, bytes);
    assert_eq!(fleet.counter("edge-1", "paced_answers_total"), 1);
    fleet.until("the line is written", |fleet| logged_pace(fleet, "HTTP/1.1").is_some());
    assert_eq!(logged_pace(&fleet, "HTTP/1.1"), Some(40_000));
    if let Some(said) = kernel_says(edge.http()) {
        assert!(said.contains("/40Mbps") || said.contains("/40000000bps"), "{said}");
    }
    // The next answer on the same connection is for a player that starts.
    assert_eq!(plain.get(HOST, "/a.m4s", "CMCD-Status: rtp=40000,su\r\n").unwrap().body, bytes);
    assert_eq!(fleet.counter("edge-1", "paced_answers_total"), 1);
    if let Some(said) = kernel_says(edge.http()) {
        assert!(!said.contains("/40Mbps") && !said.contains("/40000000bps"), "{said}");
    }

    block_on(async {
        let client = h2::Client::connect(&fleet, "edge-1").await;
        let fields = [("cmcd-request", "rtp=48000")];
        let mut first = client.begin("/a.m4s", &fields).await.unwrap();
        let mut second = client.begin("/a.m4s", &fields).await.unwrap();
        // Both have had their burst, and neither is read to its end: windows are full.
        let (mut a, mut b) = (0, 0);
        while a < 600_000 || b < 600_000 {
            a += if a < 600_000 { first.some().await.unwrap().unwrap().len() } else { 0 };
            b += if b < 600_000 { second.some().await.unwrap().unwrap().len() } else { 0 };
        }
        assert_eq!(fleet.counter("edge-1", "paced_answers_total"), 3);
        if let Some(said) = kernel_says(fleet.member("edge-1").https()) {
            assert!(said.contains("/96Mbps") || said.contains("/96000000bps"), "their sum: {said}");
        }
        assert_eq!(client.get("/a.m4s", &fields).await.unwrap().body, bytes);

        assert_eq!(fleet.counter("edge-1", "quic_paced_total"), 0);
        let client = h3::Client::connect(&fleet).await;
        assert_eq!(client.get("/a.m4s", &[]).await.unwrap().body, bytes);
        assert_eq!(fleet.counter("edge-1", "quic_paced_total"), 0, "nobody asked for it");
        let fields = [("cmcd-request", "rtp=100000"), ("cmcd-object", "br=3000")];
        let both = tokio::join!(client.get("/a.m4s", &fields), client.get("/a.m4s", &fields));
        assert_eq!((both.0.unwrap().body, both.1.unwrap().body), (bytes.clone(), bytes.clone()));
        assert!(fleet.counter("edge-1", "quic_paced_total") > 0);
    });
    assert_eq!(fleet.counter("edge-1", "cmcd_ignored_total"), 0);
}

fn rules(snapshot: &mut Snapshot) {
    let behaviours = &mut snapshot.delivery_services[0].behaviours;
    let mut slow = behaviour("slow", "/slow/*", true, 60);
    slow.pacing.rate_max_kbps = Some(80_000);
    slow.pacing.congestion = Some(Congestion::Reno);
    let mut deaf = behaviour("deaf", "/deaf/*", true, 60);
    (deaf.pacing.cmcd, deaf.pacing.pass_cmcd) = (false, true);
    deaf.cache_key.drop.clear();
    let mut passed = behaviour("passed", "/passed/*", false, 0);
    passed.cache_key.drop.clear();
    let mut told = passed.clone();
    (told.name, told.path, told.pacing.pass_cmcd) = ("told".into(), "/told/*".into(), true);
    let mut posts = behaviour("posts", "/posts/*", true, 60);
    posts.methods = vec!["POST".into()];
    let mut frugal = behaviour("frugal", "/frugal/*", true, 60);
    frugal.pacing.prefetch = false;
    behaviours.splice(0..0, [slow, deaf, passed, told, posts, frugal]);
}

fn with_origin() -> (HandOrigin, Fleet) {
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        let fields = "Cache-Control: max-age=3600\r\nETag: \"1\"\r\n";
        reply(stream, 200, fields, &content(asked.target(), 20_000));
    });
    let options = FleetOptions { origin: Some(origin.address), adjust: rules, ..options() };
    let fleet = Fleet::start("told", &options);
    (origin, fleet)
}

#[test]
fn what_players_tell_goes_no_further_and_what_services_say_holds() {
    let (origin, fleet) = with_origin();
    let get = |path: &str, extra: &str| fleet.get("edge-1", path, extra).unwrap();
    // One object, whatever a player tells, and the origin hears nothing of it.
    let cmcd = "CMCD-Request: bl=9000,nor=\"b\"\r\nCMCD-Session: sid=\"x\"\r\n";
    for path in ["/frugal/a", "/frugal/a?CMCD=bs%2Csid%3D%22y%22", "/frugal/a?CMCD=bs"] {
        assert_eq!(get(path, cmcd).status, 200);
    }
    assert_eq!((origin.count(), origin.count_of("/frugal/a")), (1, 1));
    get("/passed/a?x=1&CMCD=bs&y", cmcd);
    assert_eq!(origin.count_of("/passed/a?x=1&y"), 1);
    let silent = |asked: &tidegate_e2e::Asked| !asked.fields.keys().any(|k| k.starts_with("cmcd-"));
    assert!(origin.all().iter().all(silent), "{:?}", origin.all());
    // Unless it is meant to.
    get("/told/a?CMCD=bs", cmcd);
    let last = origin.all().pop().unwrap();
    assert_eq!((last.target(), last.field("cmcd-session")), ("/told/a?CMCD=bs", "sid=\"x\""));
    get("/deaf/a?CMCD=bs", cmcd);
    assert_eq!(origin.count_of("/deaf/a?CMCD=bs"), 1);
    // What breaks the rules of it is nobody's error.
    let before = fleet.counter("edge-1", "cmcd_ignored_total");
    assert_eq!(get("/frugal/a", "CMCD-Request: bl=soon\r\n").status, 200);
    assert_eq!(get("/frugal/a?CMCD=%", "").status, 200);
    assert_eq!(fleet.counter("edge-1", "cmcd_ignored_total"), before + 2);
    // A service's own limit needs no player's word, and holds where the player asks for more.
    let before = fleet.counter("edge-1", "paced_answers_total");
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    assert_eq!(client.get(HOST, "/slow/a", "").unwrap().status, 200);
    assert_eq!(client.get(HOST, "/slow/a", "CMCD-Status: rtp=900000\r\n").unwrap().status, 200);
    assert_eq!(fleet.counter("edge-1", "paced_answers_total"), before + 2);
    if let Some(said) = kernel_says(fleet.member("edge-1").http()) {
        assert!(said.contains(" reno "), "{said}");
        assert!(said.contains("/80Mbps") || said.contains("/80000000bps"), "{said}");
    }
    assert_eq!(fleet.counter("edge-1", "pacing_failed_total"), 0);
    // Between servers of the fleet nothing is paced.
    assert_eq!(fleet.counter("parent-1", "paced_answers_total"), 0);
}

#[test]
fn congestion_control_is_the_behaviours_over_quic_too() {
    // Goal: what a behaviour asks for is in force with its answer, and kept until another one asks for another. Method: one
    // connection, large answers of each kind, in turns; the edge's own count of changes.
    const LEN: usize = 3_000_000;
    fn each(snapshot: &mut Snapshot) {
        let kinds = [Congestion::Bbr, Congestion::Cubic, Congestion::Reno].map(|congestion| {
            let name = congestion.name();
            let mut rule = behaviour(name, &format!("/{name}/*"), true, 60);
            rule.pacing.congestion = Some(congestion);
            rule
        });
        snapshot.delivery_services[0].behaviours.splice(0..0, kinds);
    }
    let origin = HandOrigin::start(LOCAL, |asked, stream| {
        reply(stream, 200, "Cache-Control: max-age=60\r\n", &content(asked.target(), LEN));
    });
    let options = FleetOptions { origin: Some(origin.address), adjust: each, ..options() };
    let fleet = Fleet::start("quic-congestion", &options);
    block_on(async {
        let client = h3::Client::connect(&fleet).await;
        let kinds = [
            ("any", 0),   // CUBIC, as it begins
            ("cubic", 0), // is there
            ("bbr", 1),
            ("bbr", 1),
            ("any", 1), // says nothing
            ("reno", 2),
            ("cubic", 3),
        ];
        for (kind, changes) in kinds {
            let path = format!("/{kind}/a");
            let answer = client.get(&path, &[]).await.unwrap();
            assert!(answer.body == content(&path, LEN), "{kind}");
            assert_eq!(fleet.counter("edge-1", "quic_congestion_changes_total"), changes, "{kind}");
        }
    });
    assert_eq!(fleet.counter("edge-1", "pacing_failed_total"), 0);
}

#[test]
fn what_a_player_asks_for_next_is_there_and_was_asked_for_once() {
    let (origin, fleet) = with_origin();
    let edge = |name: &str| fleet.counter("edge-1", name);
    let get = |path: &str, extra: &str| fleet.get("edge-1", path, extra).unwrap();
    let next = |nor: &str| format!("CMCD-Request: nor=\"{nor}\"\r\n");
    // Twice, so that it also holds behind a hit, and by both ways of telling.
    assert_eq!(get("/film/1", &next("2")).status, 200);
    fleet.until("it is brought in", |_| origin.count_of("/film/2") == 1);
    fleet.settle("edge-1");
    let query = "/film/2?CMCD=nor%3D%22..%252Ffilm%252F3%253Fp%253D1%22";
    let hit = get(query, "");
    assert!(hit.cache_status("edge-1").unwrap().contains("hit"), "{hit:?}");
    assert_eq!(hit.body, content("/film/2", 20_000));
    fleet.until("it is brought in", |_| origin.count_of("/film/3?p=1") == 1);
    fleet.settle("edge-1");
    let hit = get("/film/3?p=1", &next("2"));
    assert!(hit.cache_status("edge-1").unwrap().contains("hit"), "{hit:?}");
    assert_eq!(edge("prefetch_fills_total"), 2, "what is there is left alone");
    assert_eq!(origin.count(), 3);
    // Who comes while it is on its way joins it: the origin is asked once.
    for n in 10..20 {
        assert_eq!(get(&format!("/film/{n}"), &next(&format!("{}", n + 1))).status, 200);
    }
    fleet.until("the last is brought in", |_| origin.count_of("/film/20") == 1);
    fleet.settle("edge-1");
    for n in 10..=20 {
        assert_eq!(origin.count_of(&format!("/film/{n}")), 1, "{n}");
    }
    // What leads elsewhere, or to what is no shared answer.
    let (asked, refused) = (origin.count(), edge("prefetch_refused_total"));
    let long = "x".repeat(3000);
    let bad = [
        "https://other.example/x",
        "//other.example/x",
        "../../../x",
        "%2e%2e/%2e%2e/%2e%2e/x",
        "a%00",
        long.as_str(),
        "/passed/x",
        "/posts/x",
        "/frugal/x",
    ];
    for nor in bad {
        assert_eq!(get("/film/1", &next(nor)).status, 200, "{nor}");
    }
    assert_eq!(edge("prefetch_refused_total"), refused + bad.len() as u64);
    // From where nothing is prefetched, or with credentials.
    get("/frugal/1", &next("/film/90"));
    assert_eq!(get("/film/1", &format!("{}Authorization: x\r\n", next("91"))).status, 200);
    fleet.settle("edge-1");
    let new: Vec<_> = origin.all().split_off(asked);
    assert!(new.iter().all(|a| ["/frugal/1", "/film/1"].contains(&a.target())), "{new:?}");
    // A parent brings in what it is asked for and no more.
    assert_eq!(fleet.counter("parent-1", "prefetch_fills_total"), 0);
}

#[test]
fn a_range_of_the_next_object_brings_its_blocks_alone() {
    const LEN: usize = 3 << 20;
    let fleet = Fleet::start("next-range", &options());
    let (_, next) = (fleet.put("a.m4s", 1000), fleet.put("b.mp4", LEN));
    let told = "CMCD-Request: nor=\"b.mp4\",nrr=\"600000-700000\"\r\n";
    assert_eq!(fleet.get("edge-1", "/a.m4s", told).unwrap().status, 200);
    fleet.until("a block is brought in", |fleet| {
        fleet.counter("edge-1", "bytes_filled_total") >= 1000 + (512 << 10)
    });
    fleet.settle("edge-1");
    let range = "Range: bytes=600000-700000\r\n";
    let hit = fleet.get("edge-1", "/b.mp4", range).unwrap();
    assert!(hit.cache_status("edge-1").unwrap().contains("hit"), "{hit:?}");
    assert!(hit.body == next[600_000..=700_000]);
    assert_eq!(fleet.counter("edge-1", "bytes_filled_total"), 1000 + (512 << 10));
    let admin = fleet.member("edge-1").admin();
    assert_eq!(get(admin, "x", "/health", "").unwrap().status, 200);
}
