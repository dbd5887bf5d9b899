//! Purge: what was purged does not come back, by whatever name, on every node, also after kill -9 and in the middle of
//! a fill. Method: an origin whose answers carry a serial number; `tidegate purge` as operators run it; the bodies and
//! the origin's counts tell what was served from where.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_contract::{AdminKey, Order, PurgeLog};
use tidegate_e2e::fleet::{HOST, binary};
use tidegate_e2e::{
    Asked, Connection, Fleet, FleetOptions, Gate, HandOrigin, Response, get, reply,
};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An origin that confirms what it gave last for a target, and gives something new otherwise; `down`: it fails.
struct World {
    fleet: Fleet,
    origin: HandOrigin,
    down: Arc<AtomicBool>,
    changed: Arc<AtomicBool>,
}

fn world(name: &str, options: &FleetOptions) -> World {
    let (down, changed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let serial = AtomicUsize::new(0);
    let (is_down, is_changed) = (down.clone(), changed.clone());
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        if is_down.load(Ordering::SeqCst) {
            return reply(stream, 503, "", b"down");
        }
        if asked.fields.contains_key("if-none-match") && !is_changed.load(Ordering::SeqCst) {
            return reply(stream, 304, &format!("ETag: {}\r\n", asked.field("if-none-match")), b"");
        }
        let number = serial.fetch_add(1, Ordering::SeqCst);
        let tags = match asked.target() {
            "/show/1/a" => "Surrogate-Key: show-1 drama\r\n",
            "/show/1/b" => "Cache-Tag: show-1, comedy\r\n",
            "/show/2/a" => "Cache-Groups: \"show-2\", \"drama\"\r\n",
            _ => "",
        };
        let fields = format!("ETag: \"{number}\"\r\nCache-Control: max-age=3600\r\n{tags}");
        reply(stream, 200, &fields, format!("{} {number}", asked.target()).as_bytes());
    });
    let options = FleetOptions { origin: Some(origin.address), ..options.clone() };
    World { fleet: Fleet::start(name, &options), origin, down, changed }
}

fn one_edge() -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, ..FleetOptions::default() }
}

const PATHS: [&str; 5] = ["/show/1/a", "/show/1/b", "/show/2/a", "/other", "/show/1/a?x=1"];

impl World {
    fn get(&self, path: &str) -> Response {
        self.fleet.get("edge-1", path, "").unwrap()
    }

    fn body(&self, path: &str) -> String {
        let response = self.get(path);
        assert_eq!(response.status, 200, "{path}");
        String::from_utf8(response.body).unwrap()
    }

    fn bodies(&self) -> Vec<String> {
        PATHS.iter().map(|path| self.body(path)).collect()
    }

    fn settle(&self) {
        for member in &self.fleet.members {
            self.fleet.settle(&member.server.id);
        }
    }

    fn purge(&self, arguments: &[&str]) -> Output {
        purge(&self.fleet, arguments)
    }
}

fn purge(fleet: &Fleet, arguments: &[&str]) -> Output {
    Command::new(binary("tidegate"))
        .arg("purge")
        .args(arguments)
        .arg("--snapshot")
        .arg(fleet.dir.join("snapshot"))
        .arg("--trust")
        .arg(fleet.dir.join("trust.pub"))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// The purges that the tests try, and which of [`PATHS`] each reaches.
const CASES: [(&[&str], [bool; 5]); 8] = [
    (&["--url", "http://film.example/show/1/a"], [true, false, false, false, false]),
    (&["--url", "https://film.example/show/1/a?x=1&token=t"], [false, false, false, false, true]),
    (&["--service", "film", "--prefix", "/show/1"], [true, true, false, false, true]),
    (&["--service", "film", "--prefix", "/show/1/a"], [true, false, false, false, true]),
    (&["--service", "film", "--tag", "show-1"], [true, true, false, false, false]),
    (&["--service", "film", "--tag", "drama"], [true, false, true, false, false]),
    (&["--service", "film", "--prefix", "/"], [true; 5]),
    (&["--service", "film", "--all"], [true; 5]),
];

#[test]
fn a_hard_purge_takes_out_what_it_names_and_nothing_else() {
    // Goal: URL, prefix, tag and service, on edge and parent. Method: each purge in turn; exactly the named paths
    // have new bodies afterwards, and the origin is asked without a condition.
    let mut world = world("hard", &one_edge());
    for (arguments, reached) in CASES {
        let before = world.bodies();
        world.settle();
        let asked = world.origin.count();
        let output = world.purge(&[arguments, &["--hard"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        for node in ["edge-1", "parent-1"] {
            assert!(said(&output).contains(node), "{}", said(&output));
        }
        let after = world.bodies();
        for (index, path) in PATHS.iter().enumerate() {
            assert_eq!(before[index] != after[index], reached[index], "{arguments:?} {path}");
        }
        let expected = reached.iter().filter(|reached| **reached).count();
        assert_eq!(world.origin.count() - asked, expected, "{arguments:?}");
        let questions = &world.origin.all()[asked..];
        let conditions = questions.iter().filter(|a| a.fields.contains_key("if-none-match"));
        assert_eq!(conditions.count(), 0, "{arguments:?}");
    }
    // Once more over a restart: nothing that was purged comes back, what was not is warm.
    let before = world.bodies();
    world.settle();
    let output = world.purge(&["--service", "film", "--prefix", "/show/1", "--hard"]);
    assert!(output.status.success(), "{}", said(&output));
    for node in ["edge-1", "parent-1"] {
        world.fleet.restart(node);
    }
    let asked = world.origin.count();
    let after = world.bodies();
    for (index, path) in PATHS.iter().enumerate() {
        assert_eq!(before[index] != after[index], path.starts_with("/show/1"), "{path}");
    }
    assert_eq!(world.origin.count() - asked, 3);
}

#[test]
fn a_soft_purge_makes_stale_and_keeps_for_bad_times() {
    // Goal: confirmed by a 304 it is good again; while the origin is down it is still served; a changed one is
    // replaced. Method: soft purges with an origin that confirms, fails, and changes, each over a restart, too.
    let mut world = world("soft", &one_edge());
    for (arguments, reached) in CASES {
        let before = world.bodies();
        world.settle();
        let asked = world.origin.count();
        let output = world.purge(arguments);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(world.bodies(), before, "confirmed: {arguments:?}");
        let questions = &world.origin.all()[asked..];
        assert!(questions.iter().all(|asked| asked.fields.contains_key("if-none-match")));
        let expected = reached.iter().filter(|reached| **reached).count();
        assert_eq!(questions.len(), expected, "{arguments:?}");
        world.settle();
        assert_eq!(world.bodies(), before);
        assert_eq!(
            world.origin.count() - asked,
            expected,
            "once confirmed it is fresh: {arguments:?}"
        );
    }
    let before = world.bodies();
    world.settle();
    assert!(world.purge(&["--service", "film", "--all"]).status.success());
    for restarted in [false, true] {
        if restarted {
            world.settle();
            world.fleet.restart("edge-1");
            world.fleet.restart("parent-1");
        }
        world.down.store(true, Ordering::SeqCst);
        for (path, body) in PATHS.iter().zip(&before) {
            let response = world.get(path);
            assert_eq!((response.status, &response.body[..]), (200, body.as_bytes()), "{path}");
            // Stale is told: by the edge, or by the parent that it asked.
            let status = response.field("cache-status").unwrap();
            let is_stale = status.contains("ttl=-") || status.contains("ttl=0");
            assert!(is_stale, "{status}, restarted: {restarted}");
        }
        world.down.store(false, Ordering::SeqCst);
    }
    world.changed.store(true, Ordering::SeqCst);
    let after = world.bodies();
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{after:?}");
    // And what is hard is not served in bad times either.
    world.settle();
    assert!(world.purge(&["--service", "film", "--all", "--hard"]).status.success());
    world.down.store(true, Ordering::SeqCst);
    assert!(matches!(world.get("/other").status, 502..=504));
}

#[test]
fn a_fill_under_way_does_not_bring_the_purged_back() {
    // Goal: a purge reaches answers that are on their way, before their head and in their body. Method: the origin
    // holds its first answer back, once before its first byte and once in the middle; the purge comes then.
    for (name, head_first, purge_by) in [
        ("before-head", false, &["--service", "film", "--prefix", "/held"][..]),
        ("in-body", true, &["--service", "film", "--prefix", "/held"][..]),
        ("tag-before-head", false, &["--service", "film", "--tag", "held"][..]),
        ("tag-in-body", true, &["--service", "film", "--tag", "held"][..]),
    ] {
        let (began, go_on) = (Gate::default(), Gate::default());
        let (origin_began, origin_go_on) = (began.clone(), go_on.clone());
        let serial = AtomicUsize::new(0);
        let origin = HandOrigin::start(LOCAL, move |_, stream| {
            let number = serial.fetch_add(1, Ordering::SeqCst);
            let body = format!("version {number} of the held object");
            let head = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\nSurrogate-Key: held\r\nETag: \"{number}\"\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            );
            if number > 0 {
                let _gone = stream.write_all((head + &body).as_bytes());
                return;
            }
            let all = head.clone() + &body;
            let (now, later) = all.split_at(if head_first { head.len() + 5 } else { 0 });
            let _gone = stream.write_all(now.as_bytes());
            origin_began.open();
            origin_go_on.wait();
            let _gone = stream.write_all(later.as_bytes());
        });
        let options = FleetOptions { origin: Some(origin.address), ..one_edge() };
        let mut fleet = Fleet::start(name, &options);
        let address = fleet.member("edge-1").http();
        let first = thread::spawn(move || {
            Connection::open(address).unwrap().get(HOST, "/held/a", "").unwrap()
        });
        began.wait();
        if head_first {
            // Its head has come through to the edge.
            fleet.until("the edge knows the object", |f| {
                f.status("edge-1")["objects"] == 1 && f.counter("edge-1", "fills_open") == 1
            });
        } else {
            fleet.until("the edge asks", |f| f.counter("edge-1", "fills_total") == 1);
        }
        let output = purge(&fleet, &[purge_by, &["--hard"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        // A prefix tells before the head came that the fill is purged; by its tags it is known only with its head.
        let second = thread::spawn(move || {
            Connection::open(address).unwrap().get(HOST, "/held/a", "").unwrap()
        });
        let waits_for_head = !head_first && purge_by.contains(&"--tag");
        if waits_for_head {
            fleet.until("the second waits", |f| f.counter("edge-1", "collapsed_total") >= 1);
            go_on.open();
        }
        let second = second.join().unwrap();
        assert_eq!(second.body, b"version 1 of the held object", "{name}");
        go_on.open();
        let first = first.join().unwrap();
        assert_eq!(first.body, b"version 0 of the held object", "{name}: asked before the purge");
        for node in ["edge-1", "parent-1"] {
            fleet.settle(node);
        }
        for restarted in [false, true] {
            if restarted {
                fleet.restart("edge-1");
                fleet.restart("parent-1");
            }
            let third = fleet.get("edge-1", "/held/a", "").unwrap();
            assert_eq!(third.body, b"version 1 of the held object", "{name}, {restarted}");
        }
        assert_eq!(origin.count(), 2, "{name}");
    }
}

#[test]
fn purges_hold_through_many_kills() {
    // Goal: kill -9 right after the receipt, again and again. Method: one path is purged in each round and everything
    // is killed; a version that was seen before its purge must never be seen again.
    let mut world = world("kills", &one_edge());
    let mut gone: Vec<String> = Vec::new();
    for round in 0..8 {
        let path = PATHS[round % 4];
        let body = world.body(path);
        assert!(!gone.contains(&body), "round {round}: {body} came back");
        if round % 2 == 0 {
            world.settle(); // it lies on disk, or only in memory
        }
        let url = format!("http://{HOST}{path}");
        let output = world.purge(&["--url", &url, "--hard"]);
        assert!(output.status.success(), "{}", said(&output));
        gone.push(body);
        world.fleet.restart("parent-1");
        world.fleet.restart("edge-1");
        for path in PATHS {
            let body = world.body(path);
            assert!(!gone.contains(&body), "round {round}: {body} came back");
        }
    }
    assert!(world.fleet.counter("edge-1", "purge_rules") >= 4, "they are read back at start");
}

#[test]
fn purges_hold_that_are_ordered_before_the_store_is_read() {
    // Goal: a node that serves before it has read its store takes purges that reach what lies there. Method: nodes that
    // do not wait for their stores are killed and purged as soon as they answer; what was seen before is not seen again,
    // then and after another kill.
    let options = FleetOptions { store_wait_seconds: 0, ..one_edge() };
    let mut world = world("early", &options);
    let mut gone: Vec<String> = Vec::new();
    for round in 0..6 {
        let path = PATHS[round % 4];
        let body = world.body(path);
        assert!(!gone.contains(&body), "round {round}: {body} came back");
        world.settle();
        for id in ["parent-1", "edge-1"] {
            world.fleet.kill_and_launch(id);
            world.fleet.until("it answers", |fleet| {
                get(fleet.member(id).admin(), "x", "/health", "").is_ok_and(|r| r.status == 200)
            });
        }
        let url = format!("http://{HOST}{path}");
        let output = world.purge(&["--url", &url, "--hard"]);
        assert!(output.status.success(), "{}", said(&output));
        gone.push(body);
        for restarted in [false, true] {
            for path in PATHS {
                let body = world.body(path);
                assert!(!gone.contains(&body), "round {round}, {restarted}: {body} came back");
            }
            world.fleet.restart("parent-1");
            world.fleet.restart("edge-1");
        }
    }
}

#[test]
fn orders_that_are_not_signed_or_make_no_sense_change_nothing() {
    // Goal: nobody else purges. Method: each wrong order at the admin port; status, text, and a hit afterwards.
    let world = world("orders", &one_edge());
    let before = world.body("/other");
    let admin = world.fleet.member("edge-1").admin();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let key = AdminKey::from_hex(&"11".repeat(32)).unwrap();
    let post = |body: &str, authorization: Option<String>| -> Response {
        let mut client = Connection::open(admin).unwrap();
        let authorization =
            authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        let request = format!(
            "POST /purge HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.send(request.as_bytes()).unwrap();
        client.response(false).unwrap()
    };
    let sign = |key: &AdminKey, node: &str, body: &str, seconds: u64| {
        let order = Order { method: "POST", node, target: "/purge", body: body.as_bytes() };
        Some(key.sign(&order, seconds, 7))
    };
    let all = r#"{"delivery_service":"film","all":true,"mode":"hard"}"#;
    let other_key = AdminKey::from_hex(&"12".repeat(32)).unwrap();
    for (authorization, what) in [
        (None, "orders are signed"),
        (Some("Bearer 1111".to_owned()), "orders are signed"),
        (sign(&other_key, "edge-1", all, now), "the signature does not fit"),
        (sign(&key, "edge-2", all, now), "the signature does not fit"),
        (sign(&key, "edge-1", "{}", now), "the signature does not fit"),
        (sign(&key, "edge-1", all, now - 10_000), "set the clocks right"),
    ] {
        let response = post(all, authorization);
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, 403, "{text}");
        assert!(text.contains(what), "{text}");
    }
    for (body, what) in [
        ("", "the order"),
        ("{", "the order"),
        (r#"{"al":true}"#, "unknown field `al`"),
        (r#"{"delivery_service":"film"}"#, "exactly one of"),
        (r#"{"delivery_service":"film","all":true,"tag":"x"}"#, "exactly one of"),
        (r#"{"all":true}"#, "give delivery_service"),
        (r#"{"delivery_service":"nobody","all":true}"#, "no active delivery service `nobody`"),
        (r#"{"delivery_service":"film","prefix":"a"}"#, "begin with `/`"),
        (r#"{"delivery_service":"film","prefix":"/../a"}"#, "no one meaning"),
        (r#"{"delivery_service":"film","tag":"a b"}"#, "a tag is"),
        (r#"{"url":"film.example/a"}"#, "write it like"),
        (r#"{"url":"http://elsewhere.example/a"}"#, "no delivery service answers"),
        (r#"{"url":"http://film.example/a","delivery_service":"other"}"#, "belongs to"),
        (r#"{"delivery_service":"film","all":true,"mode":"gentle"}"#, "gentle"),
    ] {
        let response = post(body, sign(&key, "edge-1", body, now));
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, 400, "{body}: {text}");
        assert!(text.contains(what), "{body}: {text}");
    }
    let response = tidegate_e2e::get(admin, "x", "/purge", "").unwrap();
    assert_eq!((response.status, response.field("allow")), (405, Some("POST")));
    assert_eq!(world.fleet.counter("edge-1", "purges_total"), 0);
    assert_eq!(world.body("/other"), before);
    // And the same order, rightly signed, is followed.
    let response = post(all, sign(&key, "edge-1", all, now));
    let receipt: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((response.status, &receipt["durable"]), (200, &true.into()), "{receipt}");
    assert_eq!(world.fleet.counter("edge-1", "purges_total"), 1);
    // The command's own refusals.
    for (arguments, what) in [
        (&["--service", "nobody", "--all"][..], "no delivery service `nobody`; known: film"),
        (&["--service", "film", "--all", "--node", "edge-9"], "no edge or parent of this id"),
        (&["--all"], "--service"),
        (&["--service", "film"], "--url"),
    ] {
        let output = world.purge(arguments);
        assert!(!output.status.success() && said(&output).contains(what), "{}", said(&output));
    }
}

/// Two edges behind a parent; what an edge answers.
fn two_edges(name: &str, store_wait_seconds: u64) -> World {
    let options =
        FleetOptions { edges: 2, parents: 1, store_wait_seconds, ..FleetOptions::default() };
    world(name, &options)
}

impl World {
    fn at(&self, id: &str) -> String {
        String::from_utf8(self.fleet.get(id, "/other", "").unwrap().body).unwrap()
    }

    /// The purge log, as the nodes find it.
    fn log_file(&self) -> PathBuf {
        self.fleet.dir.join("snapshot.purges")
    }

    /// Waits until a node has noted how far it followed the log.
    fn is_noted(&self, id: &str) {
        let place = PurgeLog::read(&fs::read(self.log_file()).unwrap(), &admin_key()).unwrap();
        let line = format!("purges {}\n", place.place().encode());
        let roll = self.fleet.dir.join(format!("{id}.roll"));
        self.fleet.until("it is noted", |_| fs::read_to_string(&roll).unwrap().contains(&line));
    }

    /// Puts orders in the log, as if nobody could be reached.
    fn log(&self, orders: &[String]) {
        let mut log = match fs::read(self.log_file()) {
            Ok(bytes) => PurgeLog::read(&bytes, &admin_key()).unwrap(),
            Err(_) => PurgeLog::begin(1),
        };
        orders.iter().for_each(|order| assert!(log.add(order, &admin_key()).is_some()));
        let fresh = self.fleet.dir.join("purges.new");
        fs::write(&fresh, log.encode(&admin_key())).unwrap();
        fs::rename(fresh, self.log_file()).unwrap();
    }
}

fn admin_key() -> AdminKey {
    AdminKey::from_hex(&"11".repeat(32)).unwrap()
}

fn order_of_all(mode: &str) -> String {
    format!(r#"{{"id":"by-log","mode":"{mode}","delivery_service":"film","all":true}}"#)
}

#[test]
fn a_node_that_was_away_has_caught_up_before_its_first_answer() {
    // Goal: receipts per node, and nothing that was purged comes back with a node. Method: one of two edges is dead during
    // the purge; the command fails and says that it waits. It comes back, with its store read or not: its first answer is
    // new. It does not purge the same twice, nor do those who were told.
    for (name, store_wait_seconds) in [("away", 60), ("away-early", 0)] {
        let mut world = two_edges(name, store_wait_seconds);
        let old = world.at("edge-1");
        assert_eq!(world.at("edge-2"), old);
        world.settle();
        world.fleet.kill("edge-2");
        let output = world.purge(&["--service", "film", "--all", "--hard", "--json"]);
        assert_eq!(output.status.code(), Some(1));
        let said = said(&output);
        assert!(said.contains("not purged on 1 of 3 nodes (edge-2): they will"), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let done: Vec<(&str, bool, bool)> = report["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| {
                let is = |what: &str| node[what].as_bool().unwrap();
                (node["node"].as_str().unwrap(), is("purged"), is("waits"))
            })
            .collect();
        let expected =
            [("parent-1", true, false), ("edge-1", true, false), ("edge-2", false, true)];
        assert_eq!(done, expected);
        let new = world.at("edge-1");
        assert_ne!(new, old);
        world.fleet.kill_and_launch("edge-2");
        world.fleet.until("it answers", |fleet| fleet.get("edge-2", "/pass/x", "").is_ok());
        assert_eq!(world.at("edge-2"), new, "{name}: its first answer");
        world.fleet.kill_and_launch("edge-2");
        world.fleet.wait_for("edge-2");
        assert_eq!(world.at("edge-2"), new, "{name}: killed in the middle of it");
        for id in ["edge-1", "edge-2", "parent-1"] {
            world.is_noted(id);
            world.fleet.settle(id);
        }
        let news = world.fleet.said("edge-2").matches("were news").count();
        assert!((1..=2).contains(&news), "{news}");
        // They do what they are told, and not again by the log, which they may have looked at before.
        let by_log = ["edge-1", "parent-1"].map(|id| {
            assert_eq!(world.fleet.counter(id, "purges_total"), 1, "{id}");
            let said = world.fleet.said(id);
            let (before, after) = said.split_once("purged (hard) all of film").unwrap();
            assert_eq!(after.matches("were news").count(), 0, "{id} was told");
            before.matches("were news").count()
        });
        let asked = world.origin.count();
        for id in ["edge-1", "edge-2", "parent-1"] {
            world.fleet.restart(id);
        }
        for id in ["edge-1", "edge-2"] {
            assert_eq!(world.at(id), new);
        }
        assert_eq!(world.origin.count(), asked, "{name}");
        assert_eq!(world.fleet.said("edge-2").matches("were news").count(), news);
        for (id, news) in ["edge-1", "parent-1"].into_iter().zip(by_log) {
            assert_eq!(world.fleet.said(id).matches("were news").count(), news, "{id} was told");
        }
    }
}

#[test]
fn nodes_that_cannot_be_told_hear_of_a_purge_by_the_log() {
    // Goal: a control link that is down costs a moment. Method: the order is put in the log, and nobody is told.
    let world = two_edges("by-log", 60);
    let old = [world.at("edge-1"), world.at("edge-2")];
    world.log(&[order_of_all("hard")]);
    for id in ["parent-1", "edge-1", "edge-2"] {
        world.fleet.until("it has heard", |fleet| fleet.said(id).contains("1 purge(s) were news"));
    }
    assert!(![world.at("edge-1"), world.at("edge-2")].iter().any(|body| old.contains(body)));
    // And what is ordered as ever is done once.
    let output = world.purge(&["--service", "film", "--all", "--hard"]);
    assert!(output.status.success(), "{}", said(&output));
    for id in ["parent-1", "edge-1", "edge-2"] {
        world.is_noted(id);
        // They do what they are told, and not again by the log, which they may have looked at before.
        assert_eq!(world.fleet.counter(id, "purges_total"), 1, "{id}");
        let said = world.fleet.said(id);
        let (_, after) = said.split_once("purged (hard) all of film").unwrap();
        assert_eq!(after.matches("were news").count(), 0, "{id} was told");
    }
    // Orders for some nodes, and those that shall not be in the log, are not.
    let before = fs::read(world.log_file()).unwrap();
    for arguments in [&["--node", "edge-1"][..], &["--unlogged"]] {
        let output = world.purge(&[&["--service", "film", "--all"], arguments].concat());
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(fs::read(world.log_file()).unwrap(), before);
}

#[test]
fn what_the_log_does_not_say_any_more_is_taken_for_purged() {
    // Goal: a node that was away for longer than the log reaches back asks about all it has, or forgets it when a hard purge
    // was lost; so does one that does not find the log that it followed. Method: more purges than the log holds.
    let mut world = two_edges("long-away", 60);
    for (mode, is_new) in [("soft", false), ("hard", true)] {
        let old = world.at("edge-2");
        world.log(&[order_of_all("soft")]);
        world.is_noted("edge-2");
        assert_eq!(world.at("edge-2"), old);
        world.settle();
        world.fleet.kill("edge-2");
        let nothing = |n| {
            format!(
                r#"{{"id":"{n}","mode":"soft","delivery_service":"film","prefix":"/none/{n}"}}"#
            )
        };
        let orders = (0..2000).map(nothing);
        world.log(&[order_of_all(mode)].into_iter().chain(orders).collect::<Vec<_>>());
        world.is_noted("parent-1");
        world.fleet.restart("edge-2");
        let told = format!("all that is stored is purged ({mode})");
        assert!(world.fleet.said("edge-2").contains(&told), "{}", world.fleet.said("edge-2"));
        let asked = world.origin.count();
        assert_eq!(world.at("edge-2") != old, is_new, "{mode}");
        assert_eq!(world.origin.count(), asked + 1, "{mode}");
        assert_eq!(world.origin.all()[asked].fields.contains_key("if-none-match"), !is_new);
    }
    world.is_noted("edge-2");
    world.settle();
    world.fleet.kill("edge-2");
    fs::remove_file(world.log_file()).unwrap();
    world.fleet.restart("edge-2");
    assert!(world.fleet.said("edge-2").contains("it was there before"));
    world.at("edge-2");
    assert_eq!(world.fleet.counter("edge-2", "revalidated_total"), 1);
    // One that was altered is refused while it runs, and what it runs on stays.
    fs::write(world.log_file(), "tidegate-purges 1 log=0\n").unwrap();
    world.fleet.until("it says so", |fleet| fleet.said("edge-2").contains("or cut; publish"));
    world.at("edge-2");
    assert_eq!(world.fleet.counter("edge-2", "revalidated_total"), 1);
    let output = world.purge(&["--service", "film", "--all"]);
    assert!(!output.status.success() && said(&output).contains("the purge log is refused"));
}

#[test]
fn an_answer_to_an_unsafe_method_invalidates_its_groups() {
    // Goal: Cache-Group-Invalidation of a POST's answer (draft-ietf-httpbis-cache-groups) reaches stored answers of
    // these groups. Method: two groups, one invalidated; its object is asked about again.
    let asked_for: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let log = asked_for.clone();
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        log.lock().unwrap().push(asked.clone());
        if asked.line.starts_with("POST ") {
            return reply(stream, 200, "Cache-Group-Invalidation: \"list\"\r\n", b"done");
        }
        let group = if asked.target() == "/list" { "list" } else { "rest" };
        let fields = format!(
            "Cache-Control: max-age=3600\r\nETag: \"x\"\r\nCache-Groups: \"all\", \"{group}\"\r\n"
        );
        let confirmed = asked.fields.contains_key("if-none-match");
        reply(
            stream,
            if confirmed { 304 } else { 200 },
            &fields,
            if confirmed { b"" } else { b"x" },
        );
    });
    let fleet =
        Fleet::start("groups", &FleetOptions { origin: Some(origin.address), ..one_edge() });
    for path in ["/list", "/rest", "/list", "/rest"] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().status, 200);
        fleet.settle("edge-1");
    }
    assert_eq!(origin.count(), 2);
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    client
        .send(
            format!("POST /add HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx").as_bytes(),
        )
        .unwrap();
    assert_eq!(client.response(false).unwrap().status, 200);
    for path in ["/list", "/rest"] {
        assert_eq!(fleet.get("edge-1", path, "").unwrap().status, 200);
    }
    let asked = asked_for.lock().unwrap();
    let last: Vec<&str> = asked[3..].iter().map(Asked::target).collect();
    assert_eq!(last, ["/list"], "asked about again, and nothing else");
    assert_eq!(asked[3].field("if-none-match"), "\"x\"");
}

#[test]
fn what_clients_make_origins_invalidate_leaves_room_for_orders() {
    // Goal: the journal of a store is not used up by unsafe requests, so that purges of operators are taken. Method: more
    // invalidations of the same groups than the journal holds; then an order; what both said holds after kill -9.
    const POSTS: usize = 2_000;
    const GROUPS: usize = 64;
    let serial = AtomicUsize::new(0);
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let number = serial.fetch_add(1, Ordering::SeqCst);
        if asked.line.starts_with("POST ") {
            let groups: Vec<String> = (0..GROUPS).map(|n| format!("\"g{n}\"")).collect();
            let fields = format!("Cache-Group-Invalidation: {}\r\n", groups.join(", "));
            return reply(stream, 200, &fields, b"done");
        }
        let fields = "Cache-Control: max-age=3600\r\nCache-Groups: \"g7\"\r\n";
        reply(stream, 200, fields, format!("serial {number}").as_bytes());
    });
    let mut fleet =
        Fleet::start("flood", &FleetOptions { origin: Some(origin.address), ..one_edge() });
    let grouped = fleet.get("edge-1", "/grouped", "").unwrap().body;
    fleet.settle("edge-1");
    fleet.settle("parent-1");
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    for _ in 0..POSTS {
        let post = format!("POST /add HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx");
        client.send(post.as_bytes()).unwrap();
        assert_eq!(client.response(false).unwrap().status, 200);
    }
    let other = fleet.get("edge-1", "/other", "").unwrap().body;
    fleet.settle("edge-1");
    let output = Command::new(binary("tidegate"))
        .args(["purge", "--hard", "--url", "http://film.example/other", "--snapshot"])
        .arg(fleet.dir.join("snapshot"))
        .arg("--trust")
        .arg(fleet.dir.join("trust.pub"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for node in ["edge-1", "parent-1"] {
        assert_eq!(fleet.counter(node, "purge_journal_errors_total"), 0);
        fleet.restart(node);
    }
    assert_ne!(fleet.get("edge-1", "/other", "").unwrap().body, other);
    assert_ne!(fleet.get("edge-1", "/grouped", "").unwrap().body, grouped);
}

#[test]
fn what_clients_make_origins_invalidate_by_ever_new_names_leaves_room_for_orders() {
    // Goal: a journal that is full of soft purges of one service takes the next one all the same, of whomever: one record says for
    // all of them that the service's content is stale. Method: far more groups than the journal holds, each named once; then an
    // order; what all of them said holds after kill -9, and the operator was told.
    const POSTS: usize = 1_600;
    const GROUPS: usize = 64;
    let serial = AtomicUsize::new(0);
    let origin = HandOrigin::start(LOCAL, move |asked, stream| {
        let number = serial.fetch_add(1, Ordering::SeqCst);
        if asked.line.starts_with("POST ") {
            let groups: Vec<String> =
                (0..GROUPS).map(|n| format!("\"g{}\"", number * GROUPS + n)).collect();
            let fields = format!("Cache-Group-Invalidation: {}\r\n", groups.join(", "));
            return reply(stream, 200, &fields, b"done");
        }
        // Of the group that is named first.
        let fields =
            format!("Cache-Control: max-age=3600\r\nCache-Groups: \"g{}\"\r\n", 2 * GROUPS);
        reply(stream, 200, &fields, format!("serial {number}").as_bytes());
    });
    let mut fleet =
        Fleet::start("names", &FleetOptions { origin: Some(origin.address), ..one_edge() });
    let grouped = fleet.get("edge-1", "/grouped", "").unwrap().body;
    let other = fleet.get("edge-1", "/other", "").unwrap().body;
    for node in ["edge-1", "parent-1"] {
        fleet.settle(node);
    }
    let mut client = Connection::open(fleet.member("edge-1").http()).unwrap();
    for _ in 0..POSTS {
        let post = format!("POST /add HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1\r\n\r\nx");
        client.send(post.as_bytes()).unwrap();
        assert_eq!(client.response(false).unwrap().status, 200);
    }
    let output = Command::new(binary("tidegate"))
        .args(["purge", "--hard", "--url", "http://film.example/other", "--snapshot"])
        .arg(fleet.dir.join("snapshot"))
        .arg("--trust")
        .arg(fleet.dir.join("trust.pub"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for node in ["edge-1", "parent-1"] {
        assert_eq!(fleet.counter(node, "purge_journal_errors_total"), 0);
        assert!(fleet.counter(node, "purges_summed_up_total") > 10_000);
        assert!(fleet.counter(node, "purge_rules") < (POSTS * GROUPS) as u64 / 2);
        let told = fleet.said(node);
        assert!(told.contains("all that is stored of service film is stale now"), "{told}");
        fleet.restart(node);
    }
    assert_ne!(fleet.get("edge-1", "/other", "").unwrap().body, other);
    assert_ne!(fleet.get("edge-1", "/grouped", "").unwrap().body, grouped);
}
