//! Goal: datagrams survive the wire, and nothing that was touched is ever believed.
//! Method: round trips of generated values; mutated and random datagrams; replays.

use proptest::prelude::*;
use tidegate_contract::heartbeat::{DATAGRAM_BYTES_MAX, decode};
use tidegate_contract::*;

fn key(byte: u8) -> HeartbeatKey {
    HeartbeatKey::from_hex(&format!("{byte:02x}").repeat(32)).unwrap()
}

prop_compose! {
    fn stamp()(boot: u64, sequence: u64, unix_ms: u64) -> Stamp { Stamp { boot, sequence, unix_ms } }
}

prop_compose! {
    fn heartbeat()(
        server in "[a-z0-9-]{1,63}", stamp in stamp(), draining: bool, generation: u64,
        connections: u32, requests_per_second: u32, bytes_per_second: u64
    ) -> Heartbeat {
        let state = if draining { ServingState::Draining } else { ServingState::Up };
        let load = Load { connections, requests_per_second, bytes_per_second };
        Heartbeat { server, stamp, state, load, generation }
    }
}

prop_compose! {
    fn verdict()(server in "[a-z0-9-]{1,63}", state in 0..4usize, generation: u64) -> Verdict {
        use VerdictState::*;
        Verdict { server, state: [Up, Draining, Down, Held][state], generation }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn heartbeats_survive_the_wire(heartbeat in heartbeat()) {
        let mut wire = Vec::new();
        heartbeat.encode(&key(1), &mut wire);
        prop_assert!(wire.len() <= DATAGRAM_BYTES_MAX);
        prop_assert_eq!(Heartbeat::decode(&wire, &key(1)), Ok(heartbeat));
        prop_assert_eq!(decode(&wire, &key(2)), Err(DatagramError::Mac));
    }

    #[test]
    fn verdicts_survive_the_wire_in_as_many_datagrams_as_they_need(
        monitor in "[a-z0-9-]{1,63}", stamp in stamp(), verdicts in prop::collection::vec(verdict(), 0..60)
    ) {
        let mut wire = Vec::new();
        let mut rest = &verdicts[..];
        let mut back = Vec::new();
        loop {
            let count = Verdicts::fitting(&monitor, rest);
            let part = Verdicts { monitor: monitor.clone(), stamp, verdicts: rest[..count].to_vec() };
            part.encode(&key(1), &mut wire);
            prop_assert!(wire.len() <= DATAGRAM_BYTES_MAX);
            prop_assert_eq!(decode(&wire, &key(1)), Ok(Datagram::Verdicts(part.clone())));
            back.extend(part.verdicts);
            rest = &rest[count..];
            if rest.is_empty() { break; }
            prop_assert!(count > 0);
        }
        prop_assert_eq!(back, verdicts);
    }

    #[test]
    fn touched_datagrams_are_refused(
        heartbeat in heartbeat(), at: prop::sample::Index, byte: u8, kind in 0..3u8
    ) {
        let mut wire = Vec::new();
        heartbeat.encode(&key(1), &mut wire);
        let whole = wire.clone();
        let at = at.index(wire.len());
        match kind {
            0 => wire[at] = byte,
            1 => wire.insert(at, byte),
            _ => wire.truncate(at),
        }
        prop_assume!(wire != whole);
        prop_assert!(decode(&wire, &key(1)).is_err());
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..1400), prefix: bool) {
        let mut bytes = bytes;
        if prefix { bytes.splice(0..0, *b"TGHB\x01\x01"); }
        prop_assert!(decode(&bytes, &key(1)).is_err());
    }
}

#[test]
fn replays_and_overtaken_datagrams_are_refused_and_a_new_process_is_accepted() {
    let mut newest = Newest::default();
    let mut take = |boot, sequence| newest.accept(&Stamp { boot, sequence, unix_ms: 0 });
    assert!(take(10, 0) && take(10, 1) && take(10, 5));
    assert!(!take(10, 5) && !take(10, 4) && !take(9, 100));
    assert!(take(11, 0) && !take(10, 6));
}

#[test]
fn keys_are_64_digits() {
    assert!(HeartbeatKey::from_hex("00").is_err());
    assert!(HeartbeatKey::from_hex(&"zz".repeat(32)).is_err());
    assert!(HeartbeatKey::from_hex(&format!("{}\n", "AB".repeat(32))).is_ok());
}
