//! From when to when a chain of certificates holds, and what an operator is told about it.
//!
//! Must stay true: a chain ends with the first of its certificates that does; what is told names the file and the mend.

use crate::{hexadecimal, utc};
use rustls::pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// One PEM file that is shown to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    pub file: String,
    /// Whom the leaf is made out to.
    pub names: Vec<String>,
    /// The leaf's number at its authority, as `openssl x509 -serial` writes it.
    pub serial: String,
    /// Unix time from which on all of the chain hold; `None`: none of them could be read.
    #[serde(serialize_with = "as_utc")]
    pub begins: Option<i64>,
    /// Unix time up to which all of them do.
    #[serde(serialize_with = "as_utc")]
    pub ends: Option<i64>,
    /// Which of the chain ends first; 0 is the leaf.
    #[serde(skip)]
    ends_first: usize,
    /// What could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

/// An operator has so much time from the first word to the end.
const SOON_SECONDS: i64 = 14 * DAY_SECONDS;
const DAY_SECONDS: i64 = 86_400;

impl Shown {
    /// Of a chain that was read from `file`, leaf first.
    pub fn of(file: &str, chain: &[CertificateDer<'_>]) -> Shown {
        let mut shown = Shown {
            file: file.to_owned(),
            names: Vec::new(),
            serial: String::new(),
            begins: None,
            ends: None,
            ends_first: 0,
            unread: Vec::new(),
        };
        for (place, der) in chain.iter().enumerate() {
            let certificate = match X509Certificate::from_der(der) {
                Ok((_, certificate)) => certificate,
                Err(why) => {
                    shown.unread.push(format!("certificate {} of the chain: {why}", place + 1));
                    continue;
                }
            };
            if place == 0 {
                shown.names = names(&certificate);
                shown.serial = hexadecimal(certificate.raw_serial());
            }
            let begins = certificate.validity().not_before.timestamp();
            let ends = certificate.validity().not_after.timestamp();
            shown.begins = Some(shown.begins.map_or(begins, |latest| latest.max(begins)));
            if shown.ends.is_none_or(|earliest| ends < earliest) {
                (shown.ends, shown.ends_first) = (Some(ends), place);
            }
        }
        shown
    }

    /// What an operator should hear of it at `now` (unix seconds).
    pub fn remarks(&self, now: i64) -> Vec<String> {
        let who = match self.names.is_empty() {
            true => format!("certificate {}", self.file),
            false => format!("certificate {} ({})", self.file, self.names.join(", ")),
        };
        let mut told: Vec<String> = self
            .unread
            .iter()
            .map(|what| {
                format!("{who}: {what}; nobody is told when it ends\n    mend: openssl x509 -in {} -text", self.file)
            })
            .collect();
        let of_chain = match self.ends_first {
            0 => String::new(),
            place => format!(", with certificate {} of its chain", place + 1),
        };
        let mend = "mend: put a new one and its key in place; they are taken up within a second";
        if let Some(ends) = self.ends {
            let at = utc(ends);
            if ends < now {
                told.push(format!(
                    "{who} ended at {at}{of_chain}: it is shown, and refused by who looks\n    {mend}"
                ));
            } else if ends - now <= SOON_SECONDS {
                let days = (ends - now) / DAY_SECONDS;
                told.push(format!("{who} ends in {days} day(s), at {at}{of_chain}\n    {mend}"));
            }
        }
        if let Some(begins) = self.begins.filter(|begins| *begins > now) {
            told.push(format!(
                "{who} is not valid before {}, and it is {}: it is shown, and refused by who looks\n    mend: set this machine's \
                 clock (timedatectl), or put one in place that is valid now",
                utc(begins),
                utc(now)
            ));
        }
        told
    }
}

/// When the first of them ends, in unix seconds; 0: there are none.
pub fn earliest_end(all: &[Shown]) -> u64 {
    let ends = all.iter().filter_map(|shown| shown.ends);
    // One that ended before 1970 has ended; 0 is for none.
    ends.map(|end| u64::try_from(end).unwrap_or(0).max(1)).min().unwrap_or(0)
}

/// Of its Subject Alternative Name (RFC 5280 §4.2.1.6): what TLS looks at.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            _ => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}

// serde hands a reference to the field.
#[expect(clippy::ref_option)]
fn as_utc<S: Serializer>(seconds: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
    seconds.map(utc).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SerialNumber, date_time_ymd};

    /// 2026-11-22.
    const NOW: i64 = 1_795_305_600;

    fn made(names: &[&str], from: (i32, u8, u8), to: (i32, u8, u8)) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        params.serial_number = Some(SerialNumber::from(vec![0xfe, 0x01]));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn a_chain_ends_with_the_first_of_its_certificates() {
        let leaf = made(&["a.example", "192.0.2.7", "2001:db8::1"], (2026, 1, 1), (2027, 6, 1));
        let above = made(&["ca"], (2026, 3, 1), (2027, 1, 2));
        let shown = Shown::of("a.pem", &[leaf.clone(), above]);
        assert_eq!(shown.names, ["a.example", "192.0.2.7", "2001:db8::1"]);
        assert_eq!(shown.serial, "FE01");
        assert_eq!(utc(shown.begins.unwrap()), "2026-03-01T00:00:00Z");
        assert_eq!(utc(shown.ends.unwrap()), "2027-01-02T00:00:00Z");
        let alone = Shown::of("b.pem", &[leaf]);
        assert_eq!(utc(alone.ends.unwrap()), "2027-06-01T00:00:00Z");
        let end = earliest_end(&[alone, shown.clone()]);
        assert_eq!(i64::try_from(end).ok(), shown.ends);
        assert_eq!(earliest_end(&[]), 0, "none in use");
    }

    #[test]
    fn times_are_read_in_both_forms() {
        // RFC 5280 §4.1.2.5: UTCTime up to 2049, GeneralizedTime from 2050 on.
        let shown = Shown::of("a.pem", &[made(&["a"], (1999, 12, 31), (2050, 1, 1))]);
        assert_eq!(utc(shown.begins.unwrap()), "1999-12-31T00:00:00Z");
        assert_eq!(utc(shown.ends.unwrap()), "2050-01-01T00:00:00Z");
        let shown = Shown::of("a.pem", &[made(&["a"], (2049, 12, 31), (9999, 12, 31))]);
        assert_eq!(utc(shown.begins.unwrap()), "2049-12-31T00:00:00Z");
        assert_eq!(utc(shown.ends.unwrap()), "9999-12-31T00:00:00Z");
        assert!(shown.remarks(NOW).iter().all(|told| told.contains("not valid before 2049")));
    }

    #[test]
    fn what_ended_has_not_begun_or_ends_soon_is_told_and_nothing_else() {
        let told = |from, to| Shown::of("/a.pem", &[made(&["a.example"], from, to)]).remarks(NOW);
        assert!(told((2026, 1, 1), (2026, 12, 7)).is_empty(), "15 days");
        for (from, to, expected) in [
            ((2026, 1, 1), (2026, 12, 6), "ends in 14 day(s), at 2026-12-06T00:00:00Z"),
            ((2026, 1, 1), (2026, 11, 22), "ends in 0 day(s)"),
            ((2026, 1, 1), (2026, 11, 21), "ended at 2026-11-21T00:00:00Z"),
            ((2026, 11, 23), (2027, 11, 21), "not valid before 2026-11-23T00:00:00Z"),
        ] {
            let told = told(from, to);
            assert_eq!(told.len(), 1, "{told:?}");
            let place = told[0].starts_with("certificate /a.pem (a.example) ");
            let mend = told[0].contains("\n    mend: ");
            assert!(place && mend && told[0].contains(expected), "{expected}: {}", told[0]);
        }
        let leaf = made(&["a.example"], (2026, 1, 1), (2027, 6, 1));
        let above = made(&["ca"], (2026, 1, 1), (2026, 11, 30));
        let told = Shown::of("/a.pem", &[leaf, above]).remarks(NOW);
        assert!(told[0].contains("ends in 8 day(s)"), "{told:?}");
        assert!(told[0].contains("with certificate 2 of its chain"), "{told:?}");
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_counts() {
        let leaf = made(&["a.example"], (2026, 1, 1), (2027, 6, 1));
        let cut = |len: usize| CertificateDer::from(leaf[..len].to_vec());
        for len in 0..leaf.len() {
            let shown = Shown::of("a.pem", &[cut(len), leaf.clone()]);
            assert_eq!(shown.unread.len(), 1, "{len}");
            assert_eq!(utc(shown.ends.unwrap()), "2027-06-01T00:00:00Z");
            assert!(shown.remarks(NOW)[0].contains("certificate 1 of the chain"), "{len}");
        }
        // Each byte of it may be another one: it is read or told, and nothing panics.
        for place in 0..leaf.len() {
            let mut bytes = leaf.to_vec();
            bytes[place] ^= 0x81;
            let shown = Shown::of("a.pem", &[CertificateDer::from(bytes)]);
            assert_eq!(shown.ends.is_none(), !shown.unread.is_empty(), "{place}");
            let _told = shown.remarks(NOW);
        }
        let none = Shown::of("a.pem", &[CertificateDer::from(Vec::new())]);
        assert_eq!(
            (none.begins, none.ends, earliest_end(std::slice::from_ref(&none))),
            (None, None, 0)
        );
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(utc(NOW + 3_723), "2026-11-22T01:02:03Z");
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(i64::MAX), format!("{} s after 1970", i64::MAX), "no calendar has it");
    }
}
