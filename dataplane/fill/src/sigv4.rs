//! AWS Signature Version 4 for S3, in header fields: what an S3 origin wants of each request.
//!
//! After "Signature Version 4 signing process" and "Authenticating Requests: Using the Authorization Header" of the
//! Amazon S3 API reference. Pure: time, key and request come in, field values go out.
//!
//! Must stay true: the canonical path is what is sent, byte for byte, each segment encoded once (S3's rule; other AWS
//! services encode twice); no secret is in any text that this module gives out but the signature.

use aws_lc_rs::{digest, hmac};
use std::fmt::{self, Write};

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    /// Of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, not shown)", self.access_key_id)
    }
}

/// Why a credentials file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialsError {
    /// Line number, from 1.
    Line(usize),
    Missing(&'static str),
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialsError::Line(line) => write!(
                f,
                "line {line} is none of aws_access_key_id = ..., aws_secret_access_key = ..., aws_session_token = ..."
            ),
            CredentialsError::Missing(name) => write!(f, "{name} is missing"),
        }
    }
}

impl std::error::Error for CredentialsError {}

impl Credentials {
    /// Reads a credentials file: lines `name = value` as in the files of AWS's tools; a `[profile]` line and comments
    /// are passed over.
    ///
    /// # Errors
    /// A line that is none of these, or a name that is missing.
    pub fn from_text(text: &str) -> Result<Credentials, CredentialsError> {
        let (mut id, mut secret, mut token) = (None, None, None);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';', '[']) {
                continue;
            }
            let wrong = CredentialsError::Line(number + 1);
            let (name, value) = line.split_once('=').ok_or(wrong)?;
            let value = value.trim();
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(wrong);
            }
            let slot = match name.trim() {
                "aws_access_key_id" => &mut id,
                "aws_secret_access_key" => &mut secret,
                "aws_session_token" => &mut token,
                _ => return Err(wrong),
            };
            *slot = Some(value.to_owned());
        }
        Ok(Credentials {
            access_key_id: id.ok_or(CredentialsError::Missing("aws_access_key_id"))?,
            secret_access_key: secret.ok_or(CredentialsError::Missing("aws_secret_access_key"))?,
            session_token: token,
        })
    }
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct ToSign<'a> {
    pub method: &'a str,
    /// As it is sent: encoded by [`encode_path`], without a query.
    pub path: &'a str,
    pub host: &'a str,
    pub region: &'a str,
}

/// SHA-256 of nothing, in hexadecimal.
pub const EMPTY_BODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The fields that a request without a body gets at `unix_seconds`, by name.
pub fn sign(
    request: &ToSign<'_>,
    more: &[(&str, &str)],
    credentials: &Credentials,
    unix_seconds: u64,
) -> Vec<(&'static str, String)> {
    let time = amz_date(unix_seconds);
    let date = &time[..8];
    let mut signed: Vec<(&str, &str)> =
        vec![("host", request.host), ("x-amz-content-sha256", EMPTY_BODY), ("x-amz-date", &time)];
    if let Some(token) = &credentials.session_token {
        signed.push(("x-amz-security-token", token));
    }
    signed.extend_from_slice(more);
    signed.sort_unstable();
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut canonical = format!("{}\n{}\n\n", request.method, request.path);
    for (name, value) in &signed {
        // Writing to a String cannot fail.
        let _ = writeln!(canonical, "{name}:{}", value.trim());
    }
    let _ = write!(canonical, "\n{names}\n{EMPTY_BODY}");
    let scope = format!("{date}/{}/s3/aws4_request", request.region);
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
    let secret = format!("AWS4{}", credentials.secret_access_key);
    let key = [date, request.region, "s3", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| mac(&key, part.as_bytes()));
    let signature = hex(&mac(&key, to_sign.as_bytes()));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
        credentials.access_key_id
    );
    let mut fields = vec![
        ("authorization", authorization),
        ("x-amz-content-sha256", EMPTY_BODY.to_owned()),
        ("x-amz-date", time.clone()),
    ];
    if let Some(token) = &credentials.session_token {
        fields.push(("x-amz-security-token", token.clone()));
    }
    fields
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `20130524T000000Z`
fn amz_date(unix_seconds: u64) -> String {
    // Days since 1970 to a date of the Gregorian calendar; years begin in March here, so that leap days come last.
    let (days, seconds) = ((unix_seconds / 86_400) as i64, unix_seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The path of an object, encoded as S3 wants it: bytes of `path` (percent-encoded as clients send it) decoded and
/// encoded again, slashes kept, behind `before` (a bucket, a prefix; not encoded yet).
pub fn encode_path(before: &str, path: &str) -> String {
    let mut out = String::with_capacity(before.len() + path.len() + 8);
    before.bytes().for_each(|byte| encode(byte, &mut out));
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                encode((high * 16 + low) as u8, &mut out);
                at += 3;
            }
            (byte, _, _) => {
                encode(byte, &mut out);
                at += 1;
            }
        }
    }
    out
}

fn encode(byte: u8, out: &mut String) {
    if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
        out.push(char::from(byte));
    } else {
        let _ = write!(out, "%{byte:02X}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Credentials {
        Credentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
        }
    }

    /// The "GET Object" example of the S3 API reference, with its signature.
    #[test]
    fn the_published_example_comes_out() {
        let request = ToSign {
            method: "GET",
            path: "/test.txt",
            host: "examplebucket.s3.amazonaws.com",
            region: "us-east-1",
        };
        let fields = sign(&request, &[("range", "bytes=0-9")], &example(), 1_369_353_600);
        let expected = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                        SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
                        Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(fields[0], ("authorization", expected.to_owned()));
        assert_eq!(fields[2], ("x-amz-date", "20130524T000000Z".to_owned()));
    }

    #[test]
    fn a_session_token_is_sent_and_signed() {
        let credentials = Credentials { session_token: Some("tok/en==".to_owned()), ..example() };
        let request = ToSign { method: "GET", path: "/a", host: "h", region: "eu-west-1" };
        let fields = sign(&request, &[], &credentials, 0);
        assert!(fields[0].1.contains("host;x-amz-content-sha256;x-amz-date;x-amz-security-token"));
        assert_eq!(fields[3], ("x-amz-security-token", "tok/en==".to_owned()));
        assert!(!format!("{credentials:?}").contains("wJalr"));
    }

    #[test]
    fn dates_are_right_over_leap_years() {
        for (seconds, expected) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_709_164_800, "20240229T000000Z"),
            (1_795_132_799, "20261119T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(amz_date(seconds), expected);
        }
    }

    #[test]
    fn paths_are_encoded_once() {
        for (before, path, expected) in [
            ("", "/a/b.m4s", "/a/b.m4s"),
            ("/bucket", "/a%20b", "/bucket/a%20b"),
            ("/bucket/pre fix", "/a+b", "/bucket/pre%20fix/a%2Bb"),
            ("", "/%C3%A9", "/%C3%A9"),
            ("", "/\u{e9}", "/%C3%A9"),
            ("", "/a%2Fb", "/a/b"),
            ("", "/a%2fb~(c)!", "/a/b~%28c%29%21"),
            ("", "/100%", "/100%25"),
        ] {
            assert_eq!(encode_path(before, path), expected, "{before}{path}");
        }
    }

    #[test]
    fn credentials_files_are_read_or_refused_by_line() {
        let good = "[default]\n# ours\naws_access_key_id = A\naws_secret_access_key=b/c+d=\n\n";
        let read = Credentials::from_text(good).unwrap();
        assert_eq!((read.access_key_id.as_str(), read.secret_access_key.as_str()), ("A", "b/c+d="));
        let with_token = format!("{good}aws_session_token = t\n");
        assert_eq!(
            Credentials::from_text(&with_token).unwrap().session_token.as_deref(),
            Some("t")
        );
        for (text, error) in [
            ("", CredentialsError::Missing("aws_access_key_id")),
            ("aws_access_key_id = A\n", CredentialsError::Missing("aws_secret_access_key")),
            ("aws_access_key_id A\n", CredentialsError::Line(1)),
            ("\naccess = A\n", CredentialsError::Line(2)),
            ("aws_access_key_id = \n", CredentialsError::Line(1)),
            ("aws_access_key_id = A B\n", CredentialsError::Line(1)),
        ] {
            assert_eq!(Credentials::from_text(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        /// Encoded twice it is the same: what a parent sends is what its key says.
        #[test]
        fn an_encoded_path_stays_as_it_is(path in "/[ -~]{0,30}") {
            let once = encode_path("", &path);
            prop_assert_eq!(encode_path("", &once), once);
        }

        #[test]
        fn any_credentials_file_is_survived(text in "[ -~\n]{0,200}") {
            let _ = Credentials::from_text(&text);
        }
    }
}
