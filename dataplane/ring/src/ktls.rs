//! Records of TLS 1.3 that the kernel seals (its `tls` protocol on a TCP socket, docs/networking/tls.rst): what it can do, and
//! a key's layout. Only the sending side; what comes in is opened by its reader.
//!
//! Must stay true: what a host can do is tried, not guessed from a version; a socket that refused is as it was before.

use crate::net::set_option_bytes;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::time::Duration;

// linux/tls.h.
pub(crate) const SOL_TLS: i32 = 282;
pub(crate) const SET_RECORD_TYPE: i32 = 1;
const TLS_TX: i32 = 1;
const TCP_ULP: i32 = 31;
const TLS_1_3: u16 = 0x0304;

/// Longest form of a key for the kernel: version and cipher, nonce, key, sequence number.
const INFO_BYTES_MAX: usize = 4 + 12 + 32 + 8;
/// For the few bytes that are sent to try it.
const TRIAL_SPAN_MAX: Duration = Duration::from_secs(2);

/// How records are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealCipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl SealCipher {
    const ALL: [SealCipher; 3] =
        [SealCipher::Aes128Gcm, SealCipher::Aes256Gcm, SealCipher::Chacha20Poly1305];

    fn name(self) -> &'static str {
        match self {
            SealCipher::Aes128Gcm => "AES-128-GCM",
            SealCipher::Aes256Gcm => "AES-256-GCM",
            SealCipher::Chacha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    /// The kernel's number for it, how long its key is, and how much of the nonce is called salt.
    fn shape(self) -> (u16, usize, usize) {
        match self {
            SealCipher::Aes128Gcm => (51, 16, 4),
            SealCipher::Aes256Gcm => (52, 32, 4),
            SealCipher::Chacha20Poly1305 => (54, 32, 0),
        }
    }
}

/// A key, and the number of the record that is sealed with it next.
#[derive(Clone, Copy)]
pub struct SealKey<'a> {
    pub cipher: SealCipher,
    pub key: &'a [u8],
    pub iv: [u8; 12],
    pub sequence: u64,
}

impl SealKey<'_> {
    /// `struct tls12_crypto_info_*`: version, cipher, iv, key, salt, sequence number.
    fn info(&self) -> io::Result<([u8; INFO_BYTES_MAX], usize)> {
        let (number, key_bytes, salt_bytes) = self.cipher.shape();
        if self.key.len() != key_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a key of another cipher"));
        }
        let mut info = [0; INFO_BYTES_MAX];
        let mut len = 0;
        let (salt, iv) = self.iv.split_at(salt_bytes);
        let (version, number) = (TLS_1_3.to_ne_bytes(), number.to_ne_bytes());
        let sequence = self.sequence.to_be_bytes();
        for part in [&version[..], &number, iv, self.key, salt, &sequence] {
            info[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        Ok((info, len))
    }
}

/// Has the kernel seal what is sent from now on.
pub(crate) fn begin(socket: &impl AsRawFd, key: &SealKey<'_>) -> io::Result<()> {
    set_option_bytes(socket, libc::IPPROTO_TCP, TCP_ULP, b"tls")?;
    set_key(socket, key)
}

/// The key for what is sent from now on.
pub(crate) fn set_key(socket: &impl AsRawFd, key: &SealKey<'_>) -> io::Result<()> {
    let (mut info, len) = key.info()?;
    let outcome = set_option_bytes(socket, SOL_TLS, TLS_TX, &info[..len]);
    info.fill(0);
    outcome
}

/// How many records have been sealed under the key that `cipher` goes with.
pub(crate) fn sealed(socket: &impl AsRawFd, cipher: SealCipher) -> io::Result<u64> {
    let (number, key_bytes, salt_bytes) = cipher.shape();
    let mut info = [0u8; INFO_BYTES_MAX];
    let wanted = 4 + (12 - salt_bytes) + key_bytes + salt_bytes + 8;
    info[..2].copy_from_slice(&TLS_1_3.to_ne_bytes());
    info[2..4].copy_from_slice(&number.to_ne_bytes());
    let mut len = wanted as libc::socklen_t;
    let at = info.as_mut_ptr().cast();
    // SAFETY: passes the address of a live array that is longer than the length given.
    let outcome =
        unsafe { libc::getsockopt(socket.as_raw_fd(), SOL_TLS, TLS_TX, at, &raw mut len) };
    let error = io::Error::last_os_error();
    let sequence = info[wanted - 8..wanted].try_into().map(u64::from_be_bytes);
    info.fill(0); // the key was in it
    match (outcome, sequence) {
        (0, Ok(sequence)) => Ok(sequence),
        _ => Err(error),
    }
}

/// What this host's kernel can do for senders of TLS 1.3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelSealing {
    pub ciphers: Vec<SealCipher>,
    /// A key can be followed by another one (Linux 6.14 and newer).
    pub changes_keys: bool,
}

impl KernelSealing {
    /// What the kernel was found to be able to do; tried once in a process' life.
    ///
    /// # Errors
    /// Nothing; why.
    pub fn of_host() -> Result<&'static KernelSealing, &'static str> {
        static FOUND: OnceLock<Result<KernelSealing, String>> = OnceLock::new();
        FOUND.get_or_init(KernelSealing::probe).as_ref().map_err(String::as_str)
    }

    fn probe() -> Result<KernelSealing, String> {
        let mut found = KernelSealing::default();
        let mut why = String::new();
        for cipher in SealCipher::ALL {
            match trial(cipher) {
                Ok(changes_keys) => {
                    found.changes_keys =
                        changes_keys && (found.changes_keys || found.ciphers.is_empty());
                    found.ciphers.push(cipher);
                }
                Err(error) if why.is_empty() => why = format!("{}: {error}", cipher.name()),
                Err(_) => {}
            }
        }
        if found.ciphers.is_empty() { Err(why) } else { Ok(found) }
    }
}

impl fmt::Display for KernelSealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.ciphers.iter().map(|cipher| cipher.name()).collect();
        let keys = if self.changes_keys { "can be changed" } else { "cannot be changed" };
        write!(f, "{}; keys {keys}", names.join(", "))
    }
}

/// Sends a byte over loopback, sealed, and sees that a record comes out; whether the key can be changed then.
fn trial(cipher: SealCipher) -> io::Result<bool> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut sender = TcpStream::connect_timeout(&listener.local_addr()?, TRIAL_SPAN_MAX)?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(TRIAL_SPAN_MAX))?;
    let key = SealKey { cipher, key: &[7; 32][..cipher.shape().1], iv: [7; 12], sequence: 0 };
    begin(&sender, &key)?;
    sender.write_all(b"x")?;
    let mut record = [0; 5 + 1 + 1 + 16];
    receiver.read_exact(&mut record)?;
    if record[..5] != [23, 3, 3, 0, 18] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what it sends is no record"));
    }
    if sealed(&sender, cipher)? != 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it miscounts its records"));
    }
    Ok(set_key(&sender, &SealKey { key: &[8; 32][..cipher.shape().1], ..key }).is_ok())
}

/// Sends one record of this content type at once, whole or not at all.
pub(crate) fn send_record(socket: &impl AsRawFd, content: u8, bytes: &[u8]) -> io::Result<()> {
    let mut piece =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0u64; 4];
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    // SAFETY: arithmetic only.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(1) } as _;
    // SAFETY: arithmetic on the live header.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: the control buffer is live, aligned for a header, and longer than one.
    let first = unsafe { &mut *first };
    first.cmsg_level = SOL_TLS;
    first.cmsg_type = SET_RECORD_TYPE;
    // SAFETY: arithmetic only.
    first.cmsg_len = unsafe { libc::CMSG_LEN(1) } as _;
    // SAFETY: arithmetic within the control buffer.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: behind the header the buffer has room for a byte and more.
    unsafe { data.write(content) };
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the header names live memory only.
    match unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) } {
        sent if sent < 0 => Err(io::Error::last_os_error()),
        sent if sent as usize == bytes.len() => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::WriteZero, "a record was sent in part")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_the_kernel_has_them() {
        let key = [9; 32];
        let iv = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let info = |cipher: SealCipher, bytes| {
            let (info, len) =
                SealKey { cipher, key: &key[..bytes], iv, sequence: 258 }.info().unwrap();
            info[4..len].to_vec()
        };
        let sequence = [0, 0, 0, 0, 0, 0, 1, 2];
        let gcm = |bytes: usize| [&iv[4..], &key[..bytes], &iv[..4], &sequence].concat();
        assert_eq!(info(SealCipher::Aes128Gcm, 16), gcm(16));
        assert_eq!(info(SealCipher::Aes256Gcm, 32), gcm(32));
        assert_eq!(info(SealCipher::Chacha20Poly1305, 32), [&iv[..], &key, &sequence].concat());
        let wrong = SealKey { cipher: SealCipher::Aes256Gcm, key: &key[..16], iv, sequence: 0 };
        assert!(wrong.info().is_err());
    }

    #[test]
    fn what_the_kernel_can_do_is_told() {
        // Either is fine; what is told must hold.
        match KernelSealing::of_host() {
            Ok(found) => assert!(found.ciphers.iter().all(|cipher| trial(*cipher).is_ok())),
            Err(why) => {
                assert!(trial(SealCipher::Aes128Gcm).is_err(), "{why}");
                println!("skipped in part: this kernel seals nothing ({why})");
            }
        }
        let some = KernelSealing { ciphers: SealCipher::ALL.to_vec(), changes_keys: false };
        let told = "AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305; keys cannot be changed";
        assert_eq!(some.to_string(), told);
    }
}
