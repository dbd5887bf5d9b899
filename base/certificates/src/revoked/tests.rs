//! Goal: a list shuts out whom it names and nobody else, whatever its age; a file that verifiers could not use is refused with place
//! and mend. Method: authorities, certificates and lists by rcgen, held against rustls' own verifiers.

use super::*;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, Error};
use std::path::PathBuf;
use std::time::Duration;

/// 2026-11-22.
const NOW: i64 = 1_795_305_600;

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let der = params.self_signed(&key).unwrap().into();
    Authority { params, key, der }
}

impl Authority {
    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    fn leaf(&self, serial: &[u8]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["edge-1.cdn.test".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial.to_vec()));
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer()).unwrap().into()
    }

    /// A list that should be renewed by the first day of `year`.
    fn list(&self, serials: &[&[u8]], year: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial.to_vec()),
            revocation_time: date_time_ymd(2026, 2, 3),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(vec![1, 4]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer())
        .unwrap()
        .pem()
        .unwrap()
    }
}

struct File(PathBuf);

impl File {
    fn new(name: &str, text: impl AsRef<[u8]>) -> File {
        let file = format!("tidegate-revoked-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, text).unwrap();
        File(path)
    }

    fn read(&self, authorities: &[&Authority]) -> Result<Revoked, String> {
        let known: Vec<_> = authorities.iter().map(|one| one.der.clone()).collect();
        Revoked::read(&self.0.display().to_string(), "fleet_tls.revoked", &known, &[])
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// Whether each kind of verifier lets this one in; both must say the same.
fn let_in(
    leaf: &CertificateDer<'_>,
    authorities: &[&Authority],
    revoked: &Revoked,
) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    authorities.iter().for_each(|one| roots.add(one.der.clone()).unwrap());
    let (roots, at) =
        (Arc::new(roots), UnixTime::since_unix_epoch(Duration::from_secs(NOW as u64)));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = client_verifier(roots.clone(), Some(revoked), &provider).unwrap();
    let as_client = client.verify_client_cert(leaf, &[], at).map(drop);
    let server = server_verifier(roots, Some(revoked), &provider).unwrap();
    let name = ServerName::try_from("edge-1.cdn.test").unwrap();
    let server: &dyn rustls::client::danger::ServerCertVerifier = &*server;
    let as_server = server.verify_server_cert(leaf, &[], &name, &[], at).map(drop);
    assert_eq!(as_client, as_server);
    as_client
}

const REVOKED: Result<(), Error> = Err(Error::InvalidCertificate(CertificateError::Revoked));

#[test]
fn who_is_named_is_shut_out_and_nobody_else() {
    let (ours, other) = (authority("ours"), authority("other"));
    // A number that looks negative, and a longer one.
    let (first, second): (&[u8], &[u8]) = (&[0x9a, 0x01], &[0x12, 0x34, 0x56]);
    let list = File::new("good", ours.list(&[first, second], 2030));
    let revoked = list.read(&[&ours, &other]).unwrap();
    let both = [&ours, &other];
    for serial in [first, second] {
        let leaf = ours.leaf(serial);
        assert_eq!(let_in(&leaf, &both, &revoked), REVOKED);
        assert!(revoked.holds(&peer(&leaf).unwrap()));
        // The same number, of an authority that has no list.
        let leaf = other.leaf(serial);
        assert_eq!(let_in(&leaf, &both, &revoked), Ok(()));
        assert!(!revoked.holds(&peer(&leaf).unwrap()));
    }
    let leaf = ours.leaf(&[0x9a, 0x02]);
    assert_eq!(let_in(&leaf, &both, &revoked), Ok(()));
    assert!(!revoked.holds(&peer(&leaf).unwrap()));
    assert!(revoked.remarks(NOW).is_empty());
    let [listed] = revoked.listed() else { panic!("one list") };
    assert_eq!((&*listed.authority, &*listed.number, listed.revoked), ("CN=ours", "260", 2));
    assert_eq!(listed.next.as_deref(), Some("2030-01-01T00:00:00Z"));
}

#[test]
fn an_old_list_counts_and_is_told() {
    let ours = authority("ours");
    let list = File::new("old", ours.list(&[&[7]], 2021));
    let revoked = list.read(&[&ours]).unwrap();
    assert_eq!(let_in(&ours.leaf(&[7]), &[&ours], &revoked), REVOKED);
    assert_eq!(let_in(&ours.leaf(&[8]), &[&ours], &revoked), Ok(()), "the fleet goes on");
    let told = revoked.remarks(NOW);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("renewed by 2021-01-01T00:00:00Z") && told[0].contains("mend: "));
}

#[test]
fn a_server_that_is_named_itself_hears_of_it() {
    let ours = authority("ours");
    let list = File::new("own", ours.list(&[&[7]], 2030));
    let path = list.0.display().to_string();
    let told = |serial| {
        let known = [ours.der.clone()];
        let read = Revoked::read(&path, "fleet_tls.revoked", &known, &[ours.leaf(&[serial])]);
        read.unwrap().remarks(NOW)
    };
    assert!(told(8).is_empty());
    assert!(told(7)[0].contains("names this server's own certificate"), "{:?}", told(7));
}

#[test]
fn several_authorities_have_a_list_each() {
    let (first, second, third) = (authority("first"), authority("second"), authority("third"));
    let all = [first.list(&[&[1]], 2030), second.list(&[&[2]], 2030), third.list(&[&[3]], 2030)];
    let file = File::new("several", all.concat());
    let known = [&first, &second];
    let revoked = file.read(&known).unwrap();
    assert_eq!(let_in(&first.leaf(&[1]), &known, &revoked), REVOKED);
    assert_eq!(let_in(&first.leaf(&[2]), &known, &revoked), Ok(()));
    assert_eq!(let_in(&second.leaf(&[2]), &known, &revoked), REVOKED);
    let told = revoked.remarks(NOW);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("the list of CN=third is not looked at"), "{told:?}");
}

#[test]
fn what_cannot_be_used_is_refused_with_place_and_mend() {
    let (ours, other) = (authority("ours"), authority("other"));
    let namesake = authority("ours");
    let good = ours.list(&[&[7]], 2030);
    let certificate = ours.params.self_signed(&ours.key).unwrap().pem();
    let broken = good.replace("\n-----END", "\nAAAA\n-----END");
    for (what, text, expected) in [
        ("empty", "", "no list of any of the authorities in it"),
        ("words", "no list at all", "no list of any of the authorities in it"),
        ("certificate", &certificate, "no list of any of the authorities in it"),
        ("others", &other.list(&[], 2030), "no list of any of the authorities in it"),
        ("namesake", &namesake.list(&[&[7]], 2030), "not signed by the authority of that name"),
        ("twice", &[&*good, &*good].concat(), "two lists of CN=ours"),
        ("half", &good[..good.len() / 2], ""),
        ("broken", &broken, ""),
        ("none", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n", "no list: "),
    ] {
        let file = File::new(what, text);
        let why = file.read(&[&ours]).unwrap_err();
        let place = format!("revoked {}: ", file.0.display());
        let mend = "\n    mend: give fleet_tls.revoked a PEM file of lists";
        let all = why.starts_with(&place) && why.contains(mend) && why.contains(expected);
        assert!(all, "{what}: {why}");
    }
    let why = Revoked::read("/no/such", "admin_tls.revoked", &[], &[]).unwrap_err();
    assert!(why.starts_with("revoked /no/such: ") && why.contains("admin_tls.revoked"), "{why}");
}

#[test]
fn a_list_that_was_changed_on_its_way_is_refused() {
    let ours = authority("ours");
    let pem = ours.list(&[&[7], &[8]], 2030);
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, authority) = X509Certificate::from_der(&ours.der).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ours.der.clone()).unwrap();
    let roots = Arc::new(roots);
    // What `Revoked::read` asks: a signature that fits, and that rustls can use it.
    let is_good = |bytes: &[u8]| {
        let lists = vec![CertificateRevocationListDer::from(bytes.to_vec())];
        let revoked = Revoked { lists, ..Revoked::default() };
        parsed(bytes).is_ok_and(|list| signed_by(&list, &authority).is_ok())
            && client_verifier(roots.clone(), Some(&revoked), &provider).is_ok()
    };
    assert!(is_good(&der));
    for place in 0..der.len() {
        let mut bytes = der.to_vec();
        bytes[place] ^= 0x01;
        assert!(!is_good(&bytes), "{place}");
        assert!(!is_good(&der[..place]), "{place}");
    }
}

#[test]
fn the_next_list_is_made_from_the_earlier_one() {
    let (ours, other) = (authority("ours"), authority("other"));
    let pem = ours.list(&[&[0x9a, 1], &[7]], 2030);
    let earlier = Earlier::read(pem.as_bytes(), &ours.der).unwrap();
    assert_eq!(earlier.number, [1, 4]);
    let entry = |serial: &[u8]| Entry {
        serial: serial.to_vec(),
        at: 1_770_076_800, // 2026-02-03
        reason: Some(1),
        invalid_since: None,
    };
    assert_eq!(earlier.entries, [entry(&[0x9a, 1]), entry(&[7])]);
    let why = Earlier::read(pem.as_bytes(), &other.der).unwrap_err();
    assert!(why.contains("it is a list of CN=ours, and not of CN=other"), "{why}");
    let why = Earlier::read(b"", &ours.der).unwrap_err();
    assert!(why.contains("0 lists in it"), "{why}");
    let twice = Earlier::read([&*pem, &*pem].concat().as_bytes(), &ours.der).unwrap_err();
    assert!(twice.contains("2 lists in it"), "{twice}");

    assert_eq!(number_of(&ours.leaf(&[0x9a, 1]), &ours.der).unwrap(), [0x9a, 1]);
    let why = number_of(&ours.leaf(&[7]), &other.der).unwrap_err();
    assert!(why.contains("and not of CN=other"), "{why}");
    let namesake = authority("ours");
    assert!(number_of(&namesake.leaf(&[7]), &ours.der).is_err(), "of another with the same name");
    assert!(number_of(&CertificateDer::from(vec![1, 2]), &ours.der).is_err());
}
