//! TOML values as the types of the snapshot. An error is the mend, in words.

use super::{CLASSES, Class};
use crate::snapshot::{
    Admission, Congestion, Ktls, LocationStyle, RamPolicy, Role, ServerStatus, TlsVersion,
};
use std::net::IpAddr;
use toml::de::DeValue;

pub(super) trait FromToml: Sized {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;
}

/// What kind of value stands there.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let start: String = text.chars().take(40).collect();
            format!("\"{}\"", start.escape_default())
        }
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

impl FromToml for String {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| "write a text in \"quotes\"".to_owned())
    }
}

impl FromToml for bool {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "write true or false".to_owned())
    }
}

macro_rules! whole_numbers {
    ($($kind:ty),*) => {$(
        impl FromToml for $kind {
            fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
                let number = value
                    .as_integer()
                    .and_then(|n| <$kind>::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok());
                number.ok_or_else(|| format!("write a whole number from 0 to {}", <$kind>::MAX))
            }
        }
    )*};
}

whole_numbers!(u16, u32, u64, usize);

impl FromToml for f64 {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let text = match value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return Err("write a number".to_owned()),
        };
        let number: Option<f64> = text.replace('_', "").parse().ok();
        number.filter(|n| n.is_finite()).ok_or_else(|| "write a finite number".to_owned())
    }
}

impl FromToml for Vec<String> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let mend = || "write a list of texts: [\"a\", \"b\"]".to_owned();
        let items = value.as_array().ok_or_else(mend)?;
        items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(mend))
            .collect()
    }
}

impl FromToml for Vec<IpAddr> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let texts = Vec::<String>::from_toml(value)?;
        let parsed = texts.iter().map(|text| {
            text.parse().map_err(|_| {
                format!("`{}` is no IP address; write e.g. \"192.0.2.1\"", text.escape_default())
            })
        });
        parsed.collect()
    }
}

/// Bytes, written as a number or as a text with a unit.
pub(super) struct Size(pub(super) u64);

impl FromToml for Size {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let mend = || "write bytes, or a size like \"512 MiB\", \"8 GiB\", \"2 TiB\"".to_owned();
        let Some(text) = value.as_str() else {
            return u64::from_toml(value).map(Size).map_err(|_| mend());
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| mend())?;
        let shift = match text[digits..].trim() {
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(mend()),
        };
        number.checked_mul(1 << shift).map(Size).ok_or_else(mend)
    }
}

fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, String> {
    let list =
        || words.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let text = value.as_str().ok_or_else(|| format!("write one of {}", list()))?;
    if let Some((_, found)) = words.iter().find(|(name, _)| *name == text) {
        return Ok(*found);
    }
    Err(match crate::nearest::nearest(text, words.iter().map(|(name, _)| *name)) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write one of {}", list()),
    })
}

impl FromToml for Role {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let roles = [
            ("edge", Role::Edge),
            ("parent", Role::Parent),
            ("origin", Role::Origin),
            ("router", Role::Router),
            ("monitor", Role::Monitor),
        ];
        word(value, &roles)
    }
}

impl FromToml for ServerStatus {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let statuses = [
            ("ONLINE", ServerStatus::Online),
            ("REPORTED", ServerStatus::Reported),
            ("ADMIN_DOWN", ServerStatus::AdminDown),
            ("OFFLINE", ServerStatus::Offline),
        ];
        word(value, &statuses)
    }
}

impl FromToml for RamPolicy {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let words =
            [("s3-fifo", RamPolicy::S3Fifo), ("sieve", RamPolicy::Sieve), ("lru", RamPolicy::Lru)];
        word(value, &words)
    }
}

impl FromToml for Ktls {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        word(value, &[("off", Ktls::Off), ("auto", Ktls::Auto)])
    }
}

impl FromToml for Admission {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let words = [
            ("adaptive", Admission::Adaptive),
            ("always", Admission::Always),
            ("second-request", Admission::SecondRequest),
            ("hot", Admission::Hot),
            ("never", Admission::Never),
        ];
        word(value, &words)
    }
}

impl FromToml for Congestion {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let words =
            [("bbr", Congestion::Bbr), ("cubic", Congestion::Cubic), ("reno", Congestion::Reno)];
        word(value, &words)
    }
}

impl FromToml for LocationStyle {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        word(value, &[("name", LocationStyle::Name), ("address", LocationStyle::Address)])
    }
}

impl FromToml for TlsVersion {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        word(value, &[("1.3", TlsVersion::Tls13), ("1.2", TlsVersion::Tls12)])
    }
}

impl FromToml for Class {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        word(value, &CLASSES)
    }
}
