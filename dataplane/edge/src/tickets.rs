//! Session tickets of TLS (RFC 8446 §4.6.1) whose keys follow from one secret and the time, so that all servers that share the
//! secret take each other's tickets, and nobody has to hand out keys.
//!
//! Must stay true: a ticket is worthless twelve hours after it was made, also to who learns the key of that time (the
//! secret itself is another matter: who has it and recorded a resumed session's begin can forge tickets, not read
//! what was said, as each session has fresh keys); what is not ours opens to nothing.

use crate::h3::Secret;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use rustls::server::ProducesTickets;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How long a key makes tickets; as long again it opens them.
const KEY_SECONDS: u64 = 6 * 3600;
const SECRET_BYTES_MIN: usize = 32;
const EPOCH_BYTES: usize = 8;

/// The secret of a file, or one that only this process has.
fn secret(file: Option<&str>) -> Result<Vec<u8>, String> {
    let Some(path) = file else {
        let mut secret = [0; SECRET_BYTES_MIN];
        rand::fill(&mut secret).map_err(|_| "the system gives no randomness")?;
        return Ok(secret.to_vec());
    };
    let mend = "mend: head -c 32 /dev/urandom > the file, the same on all servers of the PoP";
    let secret = std::fs::read(Path::new(path))
        .map_err(|e| format!("ticket secret {path}: {e}\n    {mend}"))?;
    match secret.len() {
        SECRET_BYTES_MIN.. => Ok(secret),
        found => Err(format!("ticket secret {path}: {found} bytes are too few\n    {mend}")),
    }
}

/// What keys of QUIC follow from (`h3.rs`). With the secret of a file it outlives the process, so that clients of one that was
/// killed learn it from the next one. It is of one server: another that shares the file has another.
///
/// # Errors
/// As [`Tickets::new`].
pub fn quic_secret(file: Option<&str>, server: &str) -> Result<Secret, String> {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret(file)?);
    let own = hmac::sign(&secret, format!("tidegate quic of {server}").as_bytes());
    let own = own.as_ref().first_chunk().ok_or("the digest is too short")?;
    Ok(Secret(*own))
}

/// Makes and opens tickets.
pub struct Tickets {
    secret: hmac::Key,
    now: fn() -> u64,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets(not shown)")
    }
}

impl Tickets {
    /// With the secret of a file, or one of its own.
    ///
    /// # Errors
    /// A text that names the file, what is wrong with it and the mend.
    pub fn new(file: Option<&str>) -> Result<Tickets, String> {
        let secret = secret(file)?;
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Ok(Tickets { secret: hmac::Key::new(hmac::HMAC_SHA256, &secret), now })
    }

    fn epoch(&self) -> u64 {
        (self.now)() / KEY_SECONDS
    }

    fn key(&self, epoch: u64) -> Option<RandomizedNonceKey> {
        let mut named = b"tidegate session tickets".to_vec();
        named.extend(epoch.to_be_bytes());
        let key = hmac::sign(&self.secret, &named);
        RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).ok()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        KEY_SECONDS as u32
    }

    /// Epoch, nonce, sealed state.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.epoch();
        let name = epoch.to_be_bytes();
        let mut sealed = plain.to_vec();
        let key = self.key(epoch)?;
        let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<EPOCH_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (epoch, now) = (u64::from_be_bytes(*name), self.epoch());
        // The clock of the server that made it may be ahead.
        if epoch.saturating_add(1) < now || epoch > now + 1 {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::from(nonce);
        let plain = self.key(epoch)?.open_in_place(nonce, Aad::from(name), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1_000 * KEY_SECONDS) };
    }

    fn tickets(secret: &[u8]) -> Tickets {
        Tickets { secret: hmac::Key::new(hmac::HMAC_SHA256, secret), now: || NOW.get() }
    }

    #[test]
    fn servers_that_share_a_secret_open_each_others_tickets_for_a_while() {
        let (one, other, stranger) = (tickets(&[1; 32]), tickets(&[1; 32]), tickets(&[2; 32]));
        let made = 1_000 * KEY_SECONDS;
        let ticket = one.encrypt(b"state").unwrap();
        for (after, opens) in
            [(0i64, true), (2, true), (-1, true), (-3 * KEY_SECONDS as i64, false)]
        {
            NOW.set(made.saturating_add_signed(after));
            assert_eq!(other.decrypt(&ticket).is_some(), opens, "{after}");
        }
        for (epochs, opens) in [(1, true), (2, false), (1000, false)] {
            NOW.set(made + epochs * KEY_SECONDS);
            assert_eq!(other.decrypt(&ticket).as_deref(), opens.then_some(&b"state"[..]));
        }
        NOW.set(made);
        assert_eq!(stranger.decrypt(&ticket), None);
        assert_ne!(one.encrypt(b"state").unwrap(), ticket, "no two are alike");
    }

    #[test]
    fn the_key_of_resets_follows_from_secret_server_and_address() {
        let file = std::env::temp_dir().join(format!("tidegate-resets-{}", std::process::id()));
        std::fs::write(&file, [3; 40]).unwrap();
        let path = file.to_str();
        let token = |path, server, port| {
            let secret = quic_secret(path, server).unwrap();
            let key = secret.reset_key(([127, 0, 0, 1], port).into());
            hmac::sign(&key, b"an id").as_ref().to_vec()
        };
        let first = token(path, "edge-1", 443);
        assert_eq!(first, token(path, "edge-1", 443));
        assert_ne!(first, token(path, "edge-2", 443));
        assert_ne!(first, token(path, "edge-1", 444));
        assert_ne!(first, token(None, "edge-1", 443));
        std::fs::write(&file, [3; 31]).unwrap();
        let refused = quic_secret(path, "edge-1").err().unwrap();
        assert!(refused.contains("31 bytes are too few"), "{refused}");
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn what_was_changed_opens_to_nothing() {
        let tickets = tickets(&[1; 32]);
        let ticket = tickets.encrypt(b"state").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "{at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "{at}");
        }
        assert_eq!(tickets.decrypt(&[255; 64]), None);
    }
}
