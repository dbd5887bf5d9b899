//! What the certificates of a server say beside names and keys, for both planes.
//!
//! Owns no file and no clock: certificates as they were read and the time come from the caller. Must stay true: nothing here
//! decides whether a certificate is shown; what cannot be read is told, and is no reason to stand still.

mod shown;

pub use shown::{Shown, earliest_end};

/// Unix seconds as people write them (RFC 3339), in UTC.
pub fn utc(seconds: i64) -> String {
    let Ok(time) = x509_parser::time::ASN1Time::from_timestamp(seconds) else {
        return format!("{seconds} s after 1970"); // no calendar has it
    };
    let time = time.to_datetime();
    let (hour, minute, second) = time.to_hms();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
