//! What a drive is spared: objects asked for once, and more than its daily writes. Method: an edge with a store and a
//! policy; counters of bytes written, and what is warm after a kill.

use std::time::Instant;
use tidegate_contract::{Admission, Behaviour, Snapshot};
use tidegate_e2e::{Fleet, FleetOptions, content};

fn options(adjust: fn(&mut Snapshot)) -> FleetOptions {
    FleetOptions { edges: 1, parents: 1, adjust, ..FleetOptions::default() }
}

fn second_request(snapshot: &mut Snapshot) {
    for server in &mut snapshot.servers {
        server.machine.store_admission = Admission::SecondRequest;
    }
}

fn get(fleet: &Fleet, name: &str, size: usize) {
    let response = fleet.get("edge-1", &format!("/{name}"), "").unwrap();
    assert!(response.body == content(name, size), "{name}");
}

#[test]
fn what_is_asked_for_once_is_not_written_and_what_is_asked_for_again_is() {
    // Goal: second-request admission. Method: many objects once, some of them twice, of all sizes; bytes written,
    // and after a kill the twice-asked ones are hits, the others are filled.
    let mut fleet = Fleet::start("second", &options(second_request));
    let sizes = [10, 40_000, 600_000, 1_500_000];
    let name = |n: usize| format!("o{n}.m4s");
    for n in 0..16 {
        fleet.put(&name(n), sizes[n % 4]);
        get(&fleet, &name(n), sizes[n % 4]);
    }
    fleet.settle("edge-1");
    assert_eq!(fleet.counter("edge-1", "store_written_bytes_total"), 0);
    for n in 0..8 {
        get(&fleet, &name(n), sizes[n % 4]);
    }
    fleet.settle("edge-1");
    let written = fleet.counter("edge-1", "store_written_bytes_total");
    assert!((4_280_000..6_000_000).contains(&written), "{written}");
    fleet.restart("edge-1");
    let asked = fleet.counter("parent-1", "requests_total");
    for n in 0..8 {
        get(&fleet, &name(n), sizes[n % 4]);
    }
    assert_eq!(fleet.counter("parent-1", "requests_total"), asked, "warm");
    for n in 8..16 {
        get(&fleet, &name(n), sizes[n % 4]);
    }
    assert_eq!(fleet.counter("parent-1", "requests_total"), asked + 8);
    // Parents are spared alike: one edge asked them once, after the restart a second time.
    fleet.settle("parent-1");
    let parent = fleet.counter("parent-1", "store_written_bytes_total");
    assert!((4_280_000..6_000_000).contains(&parent), "{parent}");
}

/// On a server that writes what is asked for again, three behaviours that want something else.
fn classes(snapshot: &mut Snapshot) {
    second_request(snapshot);
    for service in &mut snapshot.delivery_services {
        let all = service.behaviours.last().unwrap().clone();
        for (name, own) in
            [("dear", Admission::Always), ("hot", Admission::Hot), ("brief", Admission::Never)]
        {
            let (path, store_admission) = (format!("/{name}-*"), Some(own));
            let behaviour =
                Behaviour { name: name.to_owned(), path, store_admission, ..all.clone() };
            service.behaviours.insert(0, behaviour);
        }
    }
}

#[test]
fn behaviours_have_policies_of_their_own() {
    // Goal: admission by class. Method: one object of each behaviour, asked for five times; bytes written after each
    // round tell which of them went to the drive, and a kill tells that they are there.
    let mut fleet = Fleet::start("classes", &options(classes));
    let names = ["dear-1.m4s", "other-1.m4s", "hot-1.m4s", "brief-1.m4s"];
    names.iter().for_each(|name| drop(fleet.put(name, 700_000)));
    for round in [1, 2, 2, 3, 3] {
        names.iter().for_each(|name| get(&fleet, name, 700_000));
        fleet.settle("edge-1");
        let written = fleet.counter("edge-1", "store_written_bytes_total");
        let whole = round * 700_000;
        assert!((whole..whole + 100_000).contains(&written), "{written} for {round} objects");
    }
    fleet.restart("edge-1");
    for (name, fills) in names.iter().zip([0, 0, 0, 1]) {
        let asked = fleet.counter("parent-1", "requests_total");
        get(&fleet, name, 700_000);
        assert_eq!(fleet.counter("parent-1", "requests_total"), asked + fills, "{name}");
    }
}

#[test]
fn ranges_and_conditions_count_as_requests_and_a_304_keeps_what_was_kept() {
    let mut fleet = Fleet::start("parts", &options(second_request));
    let bytes = fleet.put("p.mp4", 2_000_000);
    for range in ["0-99", "1000000-1000099"] {
        let extra = format!("Range: bytes={range}\r\n");
        assert_eq!(fleet.get("edge-1", "/p.mp4", &extra).unwrap().status, 206);
        fleet.settle("edge-1");
    }
    fleet.restart("edge-1");
    let asked = fleet.counter("parent-1", "requests_total");
    let response = fleet.get("edge-1", "/p.mp4", "Range: bytes=1000050-1000060\r\n").unwrap();
    assert!(response.body == bytes[1_000_050..=1_000_060]);
    assert_eq!(fleet.counter("parent-1", "requests_total"), asked);
}

#[test]
fn the_daily_writes_of_a_drive_are_never_passed() {
    // Goal: the endurance budget. Method: a store of 256 MiB that may be written 100 times a day (303 KiB a second), and
    // 60 MB of fills as fast as they come; all are served, and bytes written stay below rate times time.
    const WRITES_PER_DAY: f64 = 100.0;
    let mut fleet = Fleet::start(
        "wear",
        &options(|snapshot| {
            for server in &mut snapshot.servers {
                server.machine.store_writes_per_day = Some(WRITES_PER_DAY);
                server.machine.store_rated_bytes = Some(1 << 40);
            }
        }),
    );
    let begun = Instant::now(); // later than the store's own start, which only makes the bound harder
    let check = |fleet: &Fleet, begun: Instant| {
        let written = fleet.counter("edge-1", "store_written_bytes_total");
        // Opening a store and starting a fleet take time that counts for it: allow for half a minute.
        let seconds = begun.elapsed().as_secs_f64() + 30.0;
        let allowed = WRITES_PER_DAY * (256 << 20) as f64 * seconds / 86_400.0;
        assert!(written as f64 <= allowed, "{written} written, {allowed} allowed");
        written
    };
    for n in 0..100 {
        let name = format!("w{n}.m4s");
        fleet.put(&name, 600_000);
        get(&fleet, &name, 600_000);
        check(&fleet, begun);
    }
    fleet.settle("edge-1");
    assert!(fleet.counter("edge-1", "bytes_filled_total") >= 60_000_000);
    assert!(fleet.counter("edge-1", "store_life_left_days") > 0);
    // It goes on when tokens have come: after a while something is written again, and outlives a kill.
    fleet.until("something is written", |fleet| {
        for n in 0..4 {
            get(fleet, &format!("w{n}.m4s"), 600_000);
        }
        check(fleet, begun) > 0
    });
    fleet.settle("edge-1");
    fleet.restart("edge-1");
    get(&fleet, "w0.m4s", 600_000);
}
