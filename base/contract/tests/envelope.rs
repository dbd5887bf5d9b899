//! Goal: only an untouched file of a trusted key opens, whatever is done to the bytes.
//! Method: thousands of mutations (flips, cuts, insertions, splices) of a real file; each must be refused.

mod common;

use common::example;
use proptest::prelude::*;
use std::sync::LazyLock;
use tidegate_contract::{EnvelopeError, PublicKey, Role, SigningKey, Snapshot, diff, sign, verify};

struct Fixture {
    key: SigningKey,
    trust: Vec<PublicKey>,
    file: Vec<u8>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let key = SigningKey::generate().unwrap();
    let trust = vec![key.public()];
    let file = sign(&example(), &key);
    Fixture { key, trust, file }
});

fn signed(change: impl FnOnce(&mut Snapshot)) -> Result<Snapshot, EnvelopeError> {
    let mut snapshot = example();
    change(&mut snapshot);
    verify(&sign(&snapshot, &FIXTURE.key), &FIXTURE.trust)
}

#[test]
fn a_signed_snapshot_opens_unchanged() {
    assert_eq!(verify(&FIXTURE.file, &FIXTURE.trust).unwrap(), example());
}

#[test]
fn keys_survive_their_text_files() {
    let key = SigningKey::from_text(&FIXTURE.key.to_text()).unwrap();
    assert_eq!(key.public(), FIXTURE.key.public());
    let other = SigningKey::generate().unwrap().public();
    let text = PublicKey::list_to_text(&[other, key.public()]) + "# a remark\n\n";
    assert_eq!(PublicKey::list_from_text(&text).unwrap(), [other, key.public()]);
    assert!(verify(&FIXTURE.file, &[other, key.public()]).is_ok());
    assert!(SigningKey::from_text(&text).is_err());
    assert!(PublicKey::list_from_text("tidegate-trust 1\n").is_err());
    assert!(!format!("{key:?}").contains(key.to_text().lines().nth(1).unwrap()));
}

#[test]
fn each_refusal_says_what_is_wrong() {
    let file = &FIXTURE.file;
    let trust = &FIXTURE.trust;
    let stranger = [SigningKey::generate().unwrap().public()];
    assert!(matches!(verify(file, &stranger), Err(EnvelopeError::UnknownKey { .. })));
    assert!(matches!(verify(file, &[]), Err(EnvelopeError::UnknownKey { .. })));
    assert!(matches!(verify(&file[..file.len() - 1], trust), Err(EnvelopeError::Length { .. })));
    assert!(matches!(
        verify(&[file.as_slice(), b"\n"].concat(), trust),
        Err(EnvelopeError::Length { .. })
    ));
    assert!(matches!(verify(b"", trust), Err(EnvelopeError::Header { line: 1, .. })));
    let later = [b"tidegate-snapshot 2", &file[19..]].concat();
    assert!(matches!(verify(&later, trust), Err(EnvelopeError::Format(_))));
    let upper = String::from_utf8_lossy(file).replacen("sha256 ", "sha256  ", 1);
    assert!(verify(upper.as_bytes(), trust).is_err());
    assert!(matches!(signed(|s| s.schema = 2), Err(EnvelopeError::Schema { found: 2 })));
    assert!(matches!(signed(|s| s.generation = 0), Err(EnvelopeError::Content(_))));
}

#[test]
fn signed_nonsense_is_refused_too() {
    assert!(matches!(
        signed(|s| s.steering.default_group = "x".into()),
        Err(EnvelopeError::Content(_))
    ));
    assert!(matches!(
        signed(|s| s.servers.retain(|s| s.role != Role::Origin)),
        Err(EnvelopeError::Content(_))
    ));
    assert!(matches!(signed(|s| s.cache_groups.clear()), Err(EnvelopeError::Content(_))));
    assert!(matches!(
        signed(|s| s.delivery_services[0].behaviours.clear()),
        Err(EnvelopeError::Content(_))
    ));
    let error = signed(|s| s.servers[0].weight = 1e9).unwrap_err().to_string();
    assert!(error.contains("servers[0].weight: weight 1000000000 is out of range"), "{error}");
}

#[test]
fn every_single_bit_of_the_header_and_many_of_the_payload_matter() {
    let head = FIXTURE.file.iter().position(|b| *b == b'{').unwrap();
    for position in (0..FIXTURE.file.len()).filter(|p| *p < head || p % 11 == 0) {
        for bit in 0..8 {
            let mut file = FIXTURE.file.clone();
            file[position] ^= 1 << bit;
            assert!(
                verify(&file, &FIXTURE.trust).is_err(),
                "bit {bit} of byte {position} does not matter"
            );
        }
    }
    for cut in 0..FIXTURE.file.len() {
        assert!(verify(&FIXTURE.file[..cut], &FIXTURE.trust).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn mutated_files_are_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..6)
    ) {
        let mut file = FIXTURE.file.clone();
        for (index, byte, kind) in edits {
            let at = index.index(file.len());
            match kind {
                0 => file[at] = byte,
                1 => file.insert(at, byte),
                2 => { file.remove(at); }
                _ => { let moved = file.split_off(at); file.splice(0..0, moved); }
            }
        }
        prop_assume!(file != FIXTURE.file);
        let outcome = verify(&file, &FIXTURE.trust);
        prop_assert!(outcome.is_err());
        prop_assert!(outcome.unwrap_err().to_string().len() > 10);
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(verify(&bytes, &FIXTURE.trust).is_err());
    }
}

#[test]
fn a_difference_names_object_field_and_who_reacts() {
    let old = example();
    assert_eq!(diff(&old, &Snapshot { generation: 9, ..old.clone() }), []);
    let mut new = old.clone();
    new.servers[0].weight = 3.0;
    new.servers.remove(3);
    new.delivery_services[0].behaviours.swap(0, 1);
    new.delivery_services[0].behaviours[2].negative_ttl_seconds = 9;
    new.keys.heartbeat_hex = "77".repeat(32);
    let text: String = diff(&old, &new).iter().map(|c| format!("{c}\n")).collect();
    for want in [
        "~ server edge-b1 weight: 1.0 -> 3.0  (routers, monitors, edges, live)",
        "- server edge-l2",
        "~ delivery service films behaviours.api.negative_ttl_seconds: 0 -> 9  (edges, parents, live)",
        "~ delivery service films behaviours.playlists.position: 0 -> 1",
        "~ keys heartbeat_hex: (not shown) -> (not shown)  (every server, live)",
    ] {
        assert!(text.contains(want), "wanted {want}\nfound:\n{text}");
    }
    assert!(!text.contains("7777"));
}
