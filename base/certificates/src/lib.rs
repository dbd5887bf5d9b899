//! What the certificates of a server say beside names and keys, for both planes: when they end, and which are revoked.
//!
//! Owns no clock: the time comes from the caller. Must stay true: nothing here
//! decides whether a certificate is shown; what cannot be read of one is told, and is no reason to stand still.

pub mod revoked;
mod shown;

pub use revoked::{Listed, Revoked};
pub use shown::{Shown, earliest_end};

/// A serial number as `openssl x509 -serial` writes it; the zero that only says that it is not negative is left out.
pub fn hexadecimal(serial: &[u8]) -> String {
    let bytes = match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

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
