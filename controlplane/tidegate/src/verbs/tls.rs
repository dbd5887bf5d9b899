//! `tidegate tls`: an own CA, certificates from it, and the list of those that it has revoked, ECDSA P-256.
//!
//! Must stay true: a CA is known by its key alone (its name is derived from it), so that a certificate made
//! later from the same folder chains to it; keys are readable by their owner only and never overwritten; what a list
//! revokes, each later one does.

use crate::failure::Failure;
use crate::source_dir;
use aws_lc_rs::digest;
use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_certificates::hexadecimal;
use tidegate_certificates::revoked::{Earlier, Entry, number_of};

#[derive(Subcommand)]
pub enum Tls {
    /// Make a CA: ca.pem and ca.key.
    MakeCa(MakeCa),
    /// Make a certificate from a CA: cert.pem and key.pem.
    MakeCert(MakeCert),
    /// Revoke certificates of a CA: add them to its list, or make the list anew.
    Revoke(Revoke),
}

#[derive(Args)]
pub struct MakeCa {
    /// Folder for ca.pem and ca.key.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
pub struct MakeCert {
    /// Folder of the CA.
    #[arg(long)]
    ca: PathBuf,
    /// Folder for cert.pem and key.pem.
    #[arg(long)]
    out: PathBuf,
    /// DNS names; a first label `*` stands for any one label.
    #[arg(long)]
    name: Vec<String>,
    /// IP addresses.
    #[arg(long)]
    address: Vec<IpAddr>,
    /// Days until it ends; clients refuse more than 825.
    #[arg(long, default_value_t = CERTIFICATE_DAYS_MAX)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CERTIFICATE_DAYS_MAX))]
    days: u64,
}

#[derive(Args)]
pub struct Revoke {
    /// Folder of the CA.
    #[arg(long)]
    ca: PathBuf,
    /// PEM files of certificates of that CA.
    #[arg(long)]
    cert: Vec<PathBuf>,
    /// Serial numbers of certificates of that CA, as `openssl x509 -serial` and `/status` write them.
    #[arg(long, value_parser = serial)]
    serial: Vec<Serial>,
    /// The list. It is made if it is not there; without --cert and --serial it is made anew with what it has.
    #[arg(long)]
    crl: PathBuf,
    /// Days until there should be a newer one; servers tell of it then, and go on with what they have.
    #[arg(long, default_value_t = CERTIFICATE_DAYS_MAX)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CA_DAYS))]
    days: u64,
}

/// A serial number, big-endian, without zeros in front.
#[derive(Clone)]
struct Serial(Vec<u8>);

/// From hexadecimal digits, with colons or without.
fn serial(text: &str) -> Result<Serial, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let digits = digits.trim_start_matches('0');
    let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
    // RFC 5280 section 4.1.2.2: 20 octets at most, and positive.
    if !is_number || digits.len() > 40 {
        return Err("not the hexadecimal digits of a serial number, at most 40".to_owned());
    }
    let even = format!("{}{digits}", if digits.len() % 2 == 1 { "0" } else { "" });
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok();
        text.and_then(|text| u8::from_str_radix(text, 16).ok()).unwrap_or_default()
    };
    Ok(Serial(even.as_bytes().chunks(2).map(byte).collect()))
}

impl Tls {
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Tls::MakeCa(verb) => verb.run(),
            Tls::MakeCert(verb) => verb.run(),
            Tls::Revoke(verb) => verb.run(),
        }
    }
}

impl MakeCa {
    fn run(self) -> Result<(), Failure> {
        source_dir::make_dir(&self.out)?;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = ca_params(&key)?.self_signed(&key).map_err(failed)?;
        source_dir::write_new(&self.out.join("ca.key"), key.serialize_pem().as_bytes(), true)?;
        source_dir::write_new(&self.out.join("ca.pem"), certificate.pem().as_bytes(), false)?;
        println!("made {}", self.out.join("ca.pem").display());
        Ok(())
    }
}

impl MakeCert {
    fn run(self) -> Result<(), Failure> {
        if self.name.is_empty() && self.address.is_empty() {
            return Err(Failure::Input("a certificate needs a --name or an --address".to_owned()));
        }
        let ca_key = ca_key(&self.ca)?;
        let issuer_params = ca_params(&ca_key)?;
        let authority = CertificateDer::from(issuer_params.self_signed(&ca_key).map_err(failed)?);
        let issuer = Issuer::new(issuer_params, ca_key);
        let mut params = CertificateParams::new(self.name.clone()).map_err(failed)?;
        params
            .subject_alt_names
            .extend(self.address.iter().map(|address| SanType::IpAddress(*address)));
        let subject = self.name.first().cloned().or(self.address.first().map(ToString::to_string));
        params.distinguished_name = common_name(&subject.unwrap_or_default());
        set_validity(&mut params, self.days);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Servers of the fleet ask each other with the same certificate (`fleet_tls`).
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        source_dir::make_dir(&self.out)?;
        source_dir::write_new(&self.out.join("key.pem"), key.serialize_pem().as_bytes(), true)?;
        source_dir::write_new(&self.out.join("cert.pem"), certificate.pem().as_bytes(), false)?;
        let number = number_of(certificate.der(), &authority).map_err(Failure::Input)?;
        println!("made {}, serial {}", self.out.join("cert.pem").display(), hexadecimal(&number));
        Ok(())
    }
}

impl Revoke {
    fn run(self) -> Result<(), Failure> {
        let key = ca_key(&self.ca)?;
        let params = ca_params(&key)?;
        let authority = CertificateDer::from(params.self_signed(&key).map_err(failed)?);
        let earlier = match std::fs::read(&self.crl) {
            Ok(pem) => Earlier::read(&pem, &authority).map_err(|why| {
                let mend = "give the list that `tls revoke` made for this --ca, or a new file";
                Failure::content(&self.crl, format!("{why}; {mend}"))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Earlier { number: vec![0], entries: Vec::new() }
            }
            Err(error) => return Err(Failure::file(&self.crl, &error)),
        };
        let mut wanted: Vec<Vec<u8>> = self.serial.into_iter().map(|Serial(bytes)| bytes).collect();
        for path in &self.cert {
            let pem = std::fs::read(path).map_err(|error| Failure::file(path, &error))?;
            let leaf = CertificateDer::from_pem_slice(&pem).map_err(|error| {
                Failure::content(path, format!("no certificate ({error}); give a PEM file of one"))
            })?;
            let found = number_of(&leaf, &authority).map_err(|why| {
                Failure::content(path, format!("{why}; give a certificate of this --ca"))
            })?;
            wanted.push(found);
        }
        let now = unix_seconds();
        let mut entries = earlier.entries;
        for serial in wanted {
            let number = hexadecimal(&serial);
            if entries.iter().any(|entry| entry.serial == serial) {
                println!("{number} is revoked already");
                continue;
            }
            println!("revoked {number}");
            let at = i64::try_from(now).unwrap_or(i64::MAX);
            entries.push(Entry { serial, at, reason: None, invalid_since: None });
        }
        let (many, epoch) = (entries.len(), date_time_ymd(1970, 1, 1));
        let list = CertificateRevocationListParams {
            // A day ago: clocks of others run behind.
            this_update: epoch + Duration::from_secs(now.saturating_sub(DAY_SECONDS)),
            next_update: epoch + Duration::from_secs(now + self.days * DAY_SECONDS),
            crl_number: SerialNumber::from(next_number(&earlier.number, now)),
            issuing_distribution_point: None,
            revoked_certs: entries.into_iter().map(revoked_params).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let no_list = |error| Failure::Input(format!("no list can be made: {error}"));
        let list = list.signed_by(&Issuer::new(params, key)).map_err(no_list)?;
        let pem = list.pem().map_err(no_list)?;
        source_dir::replace(&self.crl, pem.as_bytes(), false)?;
        println!("made {}, which revokes {many}", self.crl.display());
        Ok(())
    }
}

fn revoked_params(entry: Entry) -> RevokedCertParams {
    use RevocationReason as Reason;
    let reason = [
        Reason::KeyCompromise,
        Reason::CaCompromise,
        Reason::AffiliationChanged,
        Reason::Superseded,
        Reason::CessationOfOperation,
        Reason::CertificateHold,
        Reason::RemoveFromCrl,
        Reason::PrivilegeWithdrawn,
        Reason::AaCompromise,
    ];
    let of = |seconds: i64| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    };
    RevokedCertParams {
        serial_number: SerialNumber::from(entry.serial),
        revocation_time: of(entry.at),
        reason_code: reason.into_iter().find(|reason| Some(*reason as u8) == entry.reason),
        invalidity_date: entry.invalid_since.map(of),
    }
}

/// Rises from list to list, also when the earlier one was lost.
fn next_number(earlier: &[u8], now: u64) -> Vec<u8> {
    let mut next = [&[0], earlier].concat();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    let plain = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    let (next, by_clock): (Vec<u8>, Vec<u8>) = (plain(&next), plain(&now.to_be_bytes()));
    // The longer one is greater.
    std::cmp::max_by_key(next, by_clock, |number| (number.len(), number.clone()))
}

fn ca_key(folder: &Path) -> Result<KeyPair, Failure> {
    let path = folder.join("ca.key");
    let text = std::fs::read_to_string(&path).map_err(|error| Failure::file(&path, &error))?;
    KeyPair::from_pem(&text).map_err(|error| {
        Failure::content(&path, format!("no key ({error}); make one with `tls make-ca`"))
    })
}

fn ca_params(key: &KeyPair) -> Result<CertificateParams, Failure> {
    let hash = digest::digest(&digest::SHA256, key.der_bytes());
    let short: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = common_name(&format!("Tidegate CA {short}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_DAYS);
    Ok(params)
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// Begins a day ago (clocks of clients run behind) and lasts so many days from now.
fn set_validity(params: &mut CertificateParams, days: u64) {
    let (now, epoch) = (unix_seconds(), date_time_ymd(1970, 1, 1));
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(DAY_SECONDS));
    params.not_after = epoch + Duration::from_secs(now + (days.saturating_sub(1)) * DAY_SECONDS);
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn failed(error: rcgen::Error) -> Failure {
    Failure::Input(format!("no certificate can be made: {error}; check the names"))
}

const DAY_SECONDS: u64 = 86_400;
/// Public trust programs and Apple's clients refuse longer ones.
const CERTIFICATE_DAYS_MAX: u64 = 825;
const CA_DAYS: u64 = 3650;

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("tidegate-verb-tls-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn ca(&self, name: &str) -> PathBuf {
            let out = self.0.join(name);
            MakeCa { out: out.clone() }.run().unwrap();
            out
        }

        fn cert(&self, ca: &str, name: &str) -> PathBuf {
            let (ca, out) = (self.0.join(ca), self.0.join(name));
            let name = vec![format!("{name}.example")];
            MakeCert { ca, out: out.clone(), name, address: Vec::new(), days: 9 }.run().unwrap();
            out.join("cert.pem")
        }

        fn revoke(&self, ca: &str, cert: &[&Path], serials: &[&str]) -> Result<Earlier, String> {
            let crl = self.0.join("crl.pem");
            let cert = cert.iter().map(|path| path.to_path_buf()).collect();
            let serials = serials.iter().map(|text| serial(text).unwrap()).collect();
            let ca = self.0.join(ca);
            Revoke { ca: ca.clone(), cert, serial: serials, crl: crl.clone(), days: 30 }
                .run()
                .map_err(|failure| failure.to_string())?;
            let authority = CertificateDer::from_pem_file(ca.join("ca.pem")).unwrap();
            Earlier::read(&std::fs::read(crl).unwrap(), &authority)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_list_keeps_what_it_has_and_its_number_rises() {
        let folder = Folder::new("keeps");
        folder.ca("ca");
        let edge = folder.cert("ca", "edge-1");
        let empty = folder.revoke("ca", &[], &[]).unwrap();
        assert!(empty.entries.is_empty());
        let first = folder.revoke("ca", &[&edge], &["0a:FF"]).unwrap();
        assert_eq!(first.entries.len(), 2);
        assert_eq!(first.entries[0].serial, [0x0a, 0xff]);
        let again = folder.revoke("ca", &[&edge], &["1234567890"]).unwrap();
        assert_eq!(again.entries[..2], first.entries, "as they were, and once");
        assert_eq!(again.entries.len(), 3);
        let numbers = [&empty, &first, &again].map(|list| (list.number.len(), &list.number));
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        // What servers make of it.
        let ca = CertificateDer::from_pem_file(folder.0.join("ca/ca.pem")).unwrap();
        let leaf = CertificateDer::from_pem_file(&edge).unwrap();
        let path = folder.0.join("crl.pem").display().to_string();
        let read = tidegate_certificates::Revoked::read(&path, "x", &[ca], &[]).unwrap();
        assert!(read.holds(&tidegate_certificates::revoked::peer(&leaf).unwrap()));
        let files = std::fs::read_dir(&folder.0).unwrap().count();
        assert_eq!(files, 3, "nothing is left beside the list");
    }

    #[test]
    fn bad_inputs_are_refused_and_leave_the_list_as_it_is() {
        let folder = Folder::new("bad");
        folder.ca("ca");
        folder.ca("other");
        let (edge, stranger) = (folder.cert("ca", "edge-1"), folder.cert("other", "edge-2"));
        folder.revoke("ca", &[&edge], &[]).unwrap();
        let crl = folder.0.join("crl.pem");
        let before = std::fs::read(&crl).unwrap();
        let refused = |ca: &str, cert: &[&Path], expected: &str| {
            let why = folder.revoke(ca, cert, &[]).unwrap_err();
            assert!(why.contains(expected), "{expected}: {why}");
        };
        refused("ca", &[&stranger], "edge-2/cert.pem: it is of CN=Tidegate CA ");
        refused("ca", &[&folder.0.join("none.pem")], "none.pem: No such file");
        refused("ca", &[&crl], "crl.pem: no certificate");
        refused("other", &[&stranger], "crl.pem: it is a list of CN=Tidegate CA ");
        refused("none", &[], "ca.key: No such file");
        std::fs::write(folder.0.join("other/ca.key"), "no key").unwrap();
        refused("other", &[], "make one with `tls make-ca`");
        assert_eq!(std::fs::read(&crl).unwrap(), before);
        std::fs::write(&crl, "no list").unwrap();
        refused("ca", &[&edge], "crl.pem: 0 lists in it");
        for text in ["", "0", "00:00", "xyz", "-1", "1".repeat(41).as_str()] {
            assert!(serial(text).is_err(), "{text}");
        }
        assert_eq!(serial("00:9A:1").map(|Serial(bytes)| bytes), Ok(vec![0x09, 0xa1]));
    }

    #[test]
    fn numbers_of_lists_rise_whatever_the_clock_does() {
        assert_eq!(next_number(&[0], 0x0102), [1, 2]);
        assert_eq!(next_number(&[1, 2], 0x0102), [1, 3]);
        assert_eq!(next_number(&[0xff, 0xff], 1), [1, 0, 0]);
        assert_eq!(next_number(&[2; 20], u64::MAX), [&[2; 19][..], &[3]].concat());
    }
}
