//! Who is shut out although his certificate has not ended: lists of revoked certificates (RFC 5280 §5).
//!
//! Must stay true: a list counts for the authority that signed it and for no other; what a verifier could not use, or would
//! turn away everybody for, is refused when the file is read, and never found out by a handshake.
//!
//! A list that is older than it says it should be (nextUpdate) still counts, and is told. To refuse whom it does not name would
//! let a list that somebody forgot take the whole fleet down, and what it is there for is one server out of many.

use crate::{hexadecimal, utc};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde::Serialize;
use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// What a file of lists says.
#[derive(Debug, Clone, Default)]
pub struct Revoked {
    lists: Vec<CertificateRevocationListDer<'static>>,
    said: Vec<Listed>,
    out: HashSet<Box<[u8]>>,
    /// Whose lists are not looked at.
    strangers: Vec<String>,
    /// Of the file that a server shows, when it is among them.
    own: Option<String>,
}

/// One list, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub file: String,
    pub authority: String,
    /// Rises with each list that the authority makes.
    pub number: String,
    /// How many it revokes.
    pub revoked: usize,
    pub made: String,
    /// When there should be a newer one.
    pub next: Option<String>,
    #[serde(skip)]
    next_seconds: Option<i64>,
}

impl Revoked {
    /// The lists of a PEM file, made by these `authorities`; `field` names it in the configuration, and `chain` is what is shown
    /// with the same authorities.
    ///
    /// # Errors
    /// A text that names the file, what is wrong with it, and the mend.
    pub fn read(
        path: &str,
        field: &str,
        authorities: &[CertificateDer<'_>],
        chain: &[CertificateDer<'_>],
    ) -> Result<Revoked, String> {
        let mend = format!(
            "mend: give {field} a PEM file of lists (X509 CRL) by its authorities, as `tidegate tls revoke` makes it, or leave it \
             out"
        );
        let failed = |what: &dyn Display| format!("revoked {path}: {what}\n    {mend}");
        let known: Vec<X509Certificate<'_>> = authorities
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, found)| found))
            .collect();
        let mut all = Revoked::default();
        let mut issuers = HashSet::new();
        for der in CertificateRevocationListDer::pem_file_iter(path).map_err(|e| failed(&e))? {
            let der = der.map_err(|e| failed(&e))?;
            let list = parsed(&der).map_err(|e| failed(&e))?;
            let issuer = list.issuer().to_string();
            let mut signers = known
                .iter()
                .filter(|authority| authority.subject().as_raw() == list.issuer().as_raw())
                .peekable();
            if signers.peek().is_none() {
                all.strangers.push(format!("revoked {path}: the list of {issuer} is not looked at, since it is none of {field}'s authorities"));
                continue;
            }
            for signer in signers {
                signed_by(&list, signer)
                    .map_err(|e| failed(&format_args!("the list of {issuer}: {e}")))?;
            }
            if !issuers.insert(list.issuer().as_raw().to_vec()) {
                let what = format_args!("two lists of {issuer}; the newer one alone says all");
                return Err(failed(&what));
            }
            let next = list.next_update().map(|time| time.timestamp());
            all.said.push(Listed {
                file: path.to_owned(),
                authority: issuer,
                number: list.crl_number().map_or_else(String::new, ToString::to_string),
                revoked: list.iter_revoked_certificates().count(),
                made: utc(list.last_update().timestamp()),
                next: next.map(utc),
                next_seconds: next,
            });
            let issuer = list.issuer().as_raw();
            let entries = list.iter_revoked_certificates();
            all.out.extend(entries.map(|entry| identity(issuer, entry.raw_serial())));
            all.lists.push(der);
        }
        if all.lists.is_empty() {
            return Err(failed(&"no list of any of the authorities in it"));
        }
        // What rustls cannot use: deltas, lists without extensions or nextUpdate.
        let mut roots = RootCertStore::empty();
        let _of_no_use = roots.add_parsable_certificates(authorities.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        client_verifier(Arc::new(roots), Some(&all), &provider).map_err(|e| failed(&e))?;
        let own = chain.first().and_then(peer).is_some_and(|own| all.holds(&own));
        all.own = own.then(|| path.to_owned());
        Ok(all)
    }

    /// Whether it revokes this peer's certificate; [`peer`] makes the name of one.
    pub fn holds(&self, peer: &[u8]) -> bool {
        self.out.contains(peer)
    }

    /// The lists themselves.
    pub fn lists(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.lists
    }

    /// What an operator can see of them.
    pub fn listed(&self) -> &[Listed] {
        &self.said
    }

    /// What an operator should hear of them at `now` (unix seconds).
    pub fn remarks(&self, now: i64) -> Vec<String> {
        let old = self.said.iter().filter(|list| list.next_seconds.is_some_and(|next| next < now));
        let old = old.map(|list| {
            format!(
                "revoked {}: the list of {} should have been renewed by {}; it goes on to count\n    mend: tidegate tls revoke --ca \
                 FOLDER --crl FILE makes it anew",
                list.file,
                list.authority,
                list.next.as_deref().unwrap_or_default()
            )
        });
        let own = self.own.iter().map(|file| {
            format!("revoked {file}: it names this server's own certificate: the others turn it away\n    mend: make it a new one")
        });
        self.strangers.iter().cloned().chain(old).chain(own).collect()
    }
}

/// By what a certificate is known in [`Revoked::holds`]: who signed it, and its number there.
pub fn peer(leaf: &CertificateDer<'_>) -> Option<Box<[u8]>> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    Some(identity(leaf.issuer().as_raw(), leaf.raw_serial()))
}

/// Verifies clients by `roots`, and that they are not revoked. Of an authority without a list all are let in: one that is
/// being brought in beside another has revoked nobody yet.
///
/// # Errors
/// What rustls cannot use.
pub fn client_verifier(
    roots: Arc<RootCertStore>,
    revoked: Option<&Revoked>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .with_crls(revoked.into_iter().flat_map(|revoked| revoked.lists.iter().cloned()))
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status()
        .build()
        .map_err(|e| e.to_string())
}

/// The same of servers.
///
/// # Errors
/// What rustls cannot use.
pub fn server_verifier(
    roots: Arc<RootCertStore>,
    revoked: Option<&Revoked>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .with_crls(revoked.into_iter().flat_map(|revoked| revoked.lists.iter().cloned()))
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status()
        .build()
        .map_err(|e| e.to_string())
}

/// A list as its authority made it, to make the next one from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// Big-endian.
    pub number: Vec<u8>,
    pub entries: Vec<Entry>,
}

/// One revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Big-endian, without zeros in front.
    pub serial: Vec<u8>,
    /// Unix seconds.
    pub at: i64,
    /// Its number in RFC 5280 §5.3.1.
    pub reason: Option<u8>,
    pub invalid_since: Option<i64>,
}

impl Earlier {
    /// From the bytes of a PEM file with one list of this authority.
    ///
    /// # Errors
    /// It is not that.
    pub fn read(pem: &[u8], authority: &CertificateDer<'_>) -> Result<Earlier, String> {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
        let lists = lists.map_err(|e| e.to_string())?;
        let [der] = &*lists else {
            return Err(format!(
                "{} lists in it, where one of this authority is wanted",
                lists.len()
            ));
        };
        let list = parsed(der)?;
        let (_, authority) = X509Certificate::from_der(authority).map_err(|e| e.to_string())?;
        if list.issuer().as_raw() != authority.subject().as_raw() {
            return Err(format!(
                "it is a list of {}, and not of {}",
                list.issuer(),
                authority.subject()
            ));
        }
        signed_by(&list, &authority)?;
        let entries = list.iter_revoked_certificates().map(|entry| Entry {
            serial: plain(entry.raw_serial()).to_vec(),
            at: entry.revocation_date.timestamp(),
            reason: entry.reason_code().map(|(_, code)| code.0),
            invalid_since: entry.invalidity_date().map(|(_, time)| time.timestamp()),
        });
        let number = list.crl_number().map_or_else(|| vec![0], |number| number.to_bytes_be());
        Ok(Earlier { number, entries: entries.collect() })
    }
}

/// The number of a certificate that this authority signed, as [`Entry`] has it.
///
/// # Errors
/// It did not, or it is none.
pub fn number_of(
    leaf: &CertificateDer<'_>,
    authority: &CertificateDer<'_>,
) -> Result<Vec<u8>, String> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|e| e.to_string())?;
    let (_, authority) = X509Certificate::from_der(authority).map_err(|e| e.to_string())?;
    let is_issuer = leaf.issuer().as_raw() == authority.subject().as_raw();
    if !is_issuer || leaf.verify_signature(Some(authority.public_key())).is_err() {
        return Err(format!("it is of {}, and not of {}", leaf.issuer(), authority.subject()));
    }
    Ok(plain(leaf.raw_serial()).to_vec())
}

fn parsed(der: &[u8]) -> Result<CertificateRevocationList<'_>, String> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], list)) => Ok(list),
        Ok(_) => Err("bytes behind a list".to_owned()),
        Err(e) => Err(format!("no list: {e}")),
    }
}

fn signed_by(
    list: &CertificateRevocationList<'_>,
    authority: &X509Certificate<'_>,
) -> Result<(), String> {
    // rustls would find it at the first handshake.
    let algorithm = &list.signature_algorithm.algorithm;
    if *algorithm == OID_PKCS1_SHA1WITHRSA || *algorithm == OID_SHA1_WITH_RSA {
        return Err("signed with SHA-1, which proves nothing".to_owned());
    }
    let key = authority.public_key();
    list.verify_signature(key).map_err(|e| {
        let number = hexadecimal(authority.raw_serial());
        format!("not signed by the authority of that name (serial {number}): {e}")
    })
}

fn identity(issuer: &[u8], serial: &[u8]) -> Box<[u8]> {
    [issuer, plain(serial)].concat().into()
}

/// Without the zeros that only say that a number is not negative.
fn plain(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros.min(serial.len().saturating_sub(1))..]
}

#[cfg(test)]
mod tests;
