//! Who may give a node orders on its admin port: requests signed with the CDN's admin key.
//!
//! ```text
//! Authorization: TG1-HMAC-SHA256 time=1795132800 nonce=0011223344556677 mac=<64 hexadecimal digits>
//! mac = HMAC-SHA256(key, "TG1\n" method "\n" node "\n" target "\n" time "\n" nonce "\n" SHA-256 of the body)
//! ```
//! The key itself never travels, so plain HTTP inside a management network gives nobody the right to order; an
//! order that was overheard is good for the node it names, and for [`ORDER_SECONDS_MAX`] only.
//!
//! Must stay true: nothing of a request is acted on before its MAC fits; the comparison takes the same time for
//! every wrong MAC (`hmac::verify`).

use aws_lc_rs::{digest, hmac};
use std::fmt;

/// How far an order's time may be from the node's clock, either way.
pub const ORDER_SECONDS_MAX: u64 = 300;

const SCHEME: &str = "TG1-HMAC-SHA256";

/// The key that signs orders.
#[derive(Clone)]
pub struct AdminKey(hmac::Key);

/// An admin key could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminKeyError;

impl fmt::Display for AdminKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an admin key is 64 hexadecimal digits; make one with `tidegate snapshot keygen`",
        )
    }
}

impl std::error::Error for AdminKeyError {}

/// What is ordered of whom.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    pub method: &'a str,
    /// Server id of the node that shall act.
    pub node: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub body: &'a [u8],
}

/// Why an order was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderError {
    /// No `Authorization`, or of another form.
    Unsigned,
    /// Signed at a time too far from this node's clock, which is given in unix seconds.
    Time { node_seconds: u64 },
    /// Another key, another node, or altered.
    Mac,
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderError::Unsigned => {
                f.write_str("orders are signed with the admin key; use `tidegate purge`")
            }
            OrderError::Time { node_seconds } => write!(
                f,
                "the order's time is more than {ORDER_SECONDS_MAX} s from this node's clock \
                 (unix time {node_seconds}); set the clocks right"
            ),
            OrderError::Mac => f.write_str(
                "the signature does not fit; sign with the admin key of the running snapshot, for this node",
            ),
        }
    }
}

impl std::error::Error for OrderError {}

impl AdminKey {
    /// Reads the key out of [`crate::Keys::admin_hex`].
    ///
    /// # Errors
    /// When it is not 64 hexadecimal digits.
    pub fn from_hex(hex: &str) -> Result<AdminKey, AdminKeyError> {
        let bytes = crate::hex::decode::<32>(hex.trim()).ok_or(AdminKeyError)?;
        Ok(AdminKey(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The MAC of a text that only holders of the key can have written.
    pub(crate) fn mac_of(&self, text: &str) -> [u8; 32] {
        let mut mac = [0; 32];
        mac.copy_from_slice(hmac::sign(&self.0, text.as_bytes()).as_ref());
        mac
    }

    /// Whether `mac` is that of `text`.
    pub(crate) fn is_mac_of(&self, text: &str, mac: &[u8; 32]) -> bool {
        hmac::verify(&self.0, text.as_bytes(), mac).is_ok()
    }

    /// The value of `Authorization` for an order given at `unix_seconds`.
    pub fn sign(&self, order: &Order<'_>, unix_seconds: u64, nonce: u64) -> String {
        let text = signed_text(order, unix_seconds, nonce);
        let mac = crate::hex::encode(hmac::sign(&self.0, text.as_bytes()).as_ref());
        format!("{SCHEME} time={unix_seconds} nonce={nonce:016x} mac={mac}")
    }

    /// Checks the value of `Authorization` at the node's time `now_seconds`.
    ///
    /// # Errors
    /// When the order may not be followed.
    pub fn verify(
        &self,
        order: &Order<'_>,
        authorization: Option<&str>,
        now_seconds: u64,
    ) -> Result<(), OrderError> {
        let (time, nonce, mac) = authorization.and_then(parse).ok_or(OrderError::Unsigned)?;
        let text = signed_text(order, time, nonce);
        hmac::verify(&self.0, text.as_bytes(), &mac).map_err(|_| OrderError::Mac)?;
        if time.abs_diff(now_seconds) > ORDER_SECONDS_MAX {
            return Err(OrderError::Time { node_seconds: now_seconds });
        }
        Ok(())
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(not shown)")
    }
}

fn signed_text(order: &Order<'_>, time: u64, nonce: u64) -> String {
    let Order { method, node, target, body } = order;
    let body = crate::hex::encode(digest::digest(&digest::SHA256, body).as_ref());
    format!("TG1\n{method}\n{node}\n{target}\n{time}\n{nonce:016x}\n{body}")
}

fn parse(value: &str) -> Option<(u64, u64, [u8; 32])> {
    let mut words = value.strip_prefix(SCHEME)?.strip_prefix(' ')?.split(' ');
    let time = words.next()?.strip_prefix("time=")?;
    let nonce = words.next()?.strip_prefix("nonce=")?;
    let mac = words.next()?.strip_prefix("mac=")?;
    let plain = time.bytes().all(|b| b.is_ascii_digit()) && nonce.len() == 16;
    if !plain || words.next().is_some() {
        return None;
    }
    let nonce = u64::from_be_bytes(crate::hex::decode::<8>(nonce)?);
    Some((time.parse().ok()?, nonce, crate::hex::decode(mac)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_132_800;

    fn key(digits: &str) -> AdminKey {
        AdminKey::from_hex(&digits.repeat(32)).unwrap()
    }

    fn order<'a>() -> Order<'a> {
        Order { method: "POST", node: "edge-1", target: "/purge", body: b"{}" }
    }

    #[test]
    fn a_signed_order_is_followed_for_a_while_by_the_one_it_names() {
        let key = key("5a");
        let signed = key.sign(&order(), NOW, 7);
        assert_eq!(key.verify(&order(), Some(&signed), NOW), Ok(()));
        assert_eq!(key.verify(&order(), Some(&signed), NOW + ORDER_SECONDS_MAX), Ok(()));
        assert_eq!(key.verify(&order(), Some(&signed), NOW - ORDER_SECONDS_MAX), Ok(()));
        let late = NOW + ORDER_SECONDS_MAX + 1;
        let refused = key.verify(&order(), Some(&signed), late);
        assert_eq!(refused, Err(OrderError::Time { node_seconds: late }));
        for other in [
            Order { method: "GET", ..order() },
            Order { node: "edge-2", ..order() },
            Order { target: "/purge?x", ..order() },
            Order { body: b"{ }", ..order() },
        ] {
            assert_eq!(key.verify(&other, Some(&signed), NOW), Err(OrderError::Mac), "{other:?}");
        }
        let other_key = AdminKey::from_hex(&"5b".repeat(32)).unwrap();
        assert_eq!(other_key.verify(&order(), Some(&signed), NOW), Err(OrderError::Mac));
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let key = key("5a");
        let good = key.sign(&order(), NOW, 7);
        for wrong in [
            None,
            Some(String::new()),
            Some("Bearer abc".to_owned()),
            Some(good.replace("TG1-", "TG2-")),
            Some(good.replace("time=", "time=+")),
            Some(format!("{good} x=1")),
            Some(good[..good.len() - 1].to_owned()),
            Some(good.replace(" nonce", "  nonce")),
        ] {
            let refused = key.verify(&order(), wrong.as_deref(), NOW);
            assert_eq!(refused, Err(OrderError::Unsigned), "{wrong:?}");
        }
        let other_time = good.replace(&NOW.to_string(), &(NOW + 1).to_string());
        assert_eq!(key.verify(&order(), Some(&other_time), NOW), Err(OrderError::Mac));
        assert!(AdminKey::from_hex("5a").is_err());
        assert!(!format!("{key:?}").contains("5a"));
    }
}
