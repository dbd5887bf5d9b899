//! `tidegate tls`: an own CA and certificates from it, ECDSA P-256.
//!
//! Must stay true: a CA is known by its key alone (its name is derived from it), so that a certificate made
//! later from the same folder chains to it; keys are readable by their owner only and never overwritten.

use crate::failure::Failure;
use crate::source_dir;
use aws_lc_rs::digest;
use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Subcommand)]
pub enum Tls {
    /// Make a CA: ca.pem and ca.key.
    MakeCa(MakeCa),
    /// Make a certificate from a CA: cert.pem and key.pem.
    MakeCert(MakeCert),
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

impl Tls {
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Tls::MakeCa(verb) => verb.run(),
            Tls::MakeCert(verb) => verb.run(),
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
        let ca_path = self.ca.join("ca.key");
        let ca_text =
            std::fs::read_to_string(&ca_path).map_err(|error| Failure::file(&ca_path, &error))?;
        let ca_key = KeyPair::from_pem(&ca_text).map_err(|error| {
            Failure::content(&ca_path, format!("no key ({error}); make one with `tls make-ca`"))
        })?;
        let issuer_params = ca_params(&ca_key)?;
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
        println!("made {}", self.out.join("cert.pem").display());
        Ok(())
    }
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(DAY_SECONDS));
    params.not_after = epoch + Duration::from_secs(now + (days.saturating_sub(1)) * DAY_SECONDS);
}

fn failed(error: rcgen::Error) -> Failure {
    Failure::Input(format!("no certificate can be made: {error}; check the names"))
}

const DAY_SECONDS: u64 = 86_400;
/// Public trust programs and Apple's clients refuse longer ones.
const CERTIFICATE_DAYS_MAX: u64 = 825;
const CA_DAYS: u64 = 3650;
