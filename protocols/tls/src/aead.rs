//! The protection of single records of TLS 1.3 (RFC 8446 §5.2), in one direction, under one key.
//!
//! Must stay true: no nonce is used twice under a key (the sequence number only rises, and is not set); a record that
//! does not open leaves nothing that looks like opened bytes.

use crate::error::TlsError;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305};
use aws_lc_rs::aead::{Algorithm, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

/// Type, version, length.
pub(crate) const HEADER_BYTES: usize = 5;
pub(crate) const TAG_BYTES: usize = 16;

/// Content types (RFC 8446 §5.1).
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const DATA: u8 = 23;

/// A key and where its sequence numbers are.
pub(crate) struct RecordKey {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// How records are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

/// A key for somebody else who seals in this session's place, and the number of the record that comes next.
#[derive(Clone)]
pub struct TxKey {
    pub cipher: Cipher,
    key: [u8; 32],
    key_bytes: usize,
    pub iv: [u8; 12],
    pub sequence: u64,
}

impl TxKey {
    pub(crate) fn new(
        (sequence, secrets): &(u64, ConnectionTrafficSecrets),
    ) -> Result<TxKey, TlsError> {
        let (cipher, from, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Cipher::Chacha20Poly1305, key, iv)
            }
            _ => return Err(TlsError::NotOpen),
        };
        let (mut key, from) = ([0; 32], from.as_ref());
        key.get_mut(..from.len()).ok_or(TlsError::NotOpen)?.copy_from_slice(from);
        let iv = iv.as_ref().try_into().map_err(|_| TlsError::NotOpen)?;
        Ok(TxKey { cipher, key, key_bytes: from.len(), iv, sequence: *sequence })
    }

    /// The same, some records later.
    pub(crate) fn at(&self, sequence: u64) -> TxKey {
        TxKey { sequence, ..self.clone() }
    }

    /// Its secret bytes, as many as the cipher has.
    pub fn key(&self) -> &[u8] {
        &self.key[..self.key_bytes]
    }
}

impl std::fmt::Debug for TxKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TxKey({:?}, {})", self.cipher, self.sequence) // and nothing that is secret
    }
}

impl RecordKey {
    pub(crate) fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<RecordKey, TlsError> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(TlsError::NotOpen),
        };
        let iv = iv.as_ref().try_into().map_err(|_| TlsError::NotOpen)?;
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| TlsError::NotOpen)?;
        Ok(RecordKey { key: LessSafeKey::new(key), iv, sequence })
    }

    /// As who was handed it would seal.
    #[cfg(test)]
    pub(crate) fn of(key: &TxKey) -> Result<RecordKey, TlsError> {
        let algorithm: &'static Algorithm = match key.cipher {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::Chacha20Poly1305 => &CHACHA20_POLY1305,
        };
        let bare = UnboundKey::new(algorithm, key.key()).map_err(|_| TlsError::NotOpen)?;
        Ok(RecordKey { key: LessSafeKey::new(bare), iv: key.iv, sequence: key.sequence })
    }

    /// Records sealed or opened so far.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// RFC 8446 §5.3.
    fn next_nonce(&mut self) -> Result<Nonce, TlsError> {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(TlsError::NotOpen)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Seals `plain` as a record of this content type into `out`, which is exactly as long as the record.
    pub(crate) fn seal(
        &mut self,
        content: u8,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<(), TlsError> {
        let (nonce, header) = (self.next_nonce()?, header(plain.len()));
        let (head, rest) = out.split_at_mut(HEADER_BYTES);
        let (body, tail) = rest.split_at_mut(plain.len());
        head.copy_from_slice(&header);
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(header), plain, body, &[content], tail)
            .map_err(|_| TlsError::NotOpen)
    }

    /// Like `seal`, of what lies where the record's content belongs in `out` already.
    pub(crate) fn seal_in_place(&mut self, content: u8, out: &mut [u8]) -> Result<(), TlsError> {
        let len = out.len() - HEADER_BYTES - 1 - TAG_BYTES;
        let (nonce, header) = (self.next_nonce()?, header(len));
        let (head, rest) = out.split_at_mut(HEADER_BYTES);
        let (body, tail) = rest.split_at_mut(len);
        head.copy_from_slice(&header);
        self.key
            .seal_in_place_scatter(nonce, Aad::from(header), body, &[content], tail)
            .map_err(|_| TlsError::NotOpen)
    }

    /// Opens what follows a record's header, where it lies: the content type and the content.
    pub(crate) fn open<'a>(
        &mut self,
        header: [u8; HEADER_BYTES],
        sealed: &'a mut [u8],
    ) -> Result<(u8, &'a [u8]), TlsError> {
        let nonce = self.next_nonce()?;
        let inner = self
            .key
            .open_in_place(nonce, Aad::from(header), sealed)
            .map_err(|_| TlsError::BadRecordMac)?;
        // The content type is the last byte that is not zero: what follows is padding.
        match inner.iter().rposition(|byte| *byte != 0) {
            Some(at) => Ok((inner[at], &inner[..at])),
            None => Err(TlsError::Unexpected("a record of nothing but padding")),
        }
    }
}

/// Of a protected record with so many bytes of content.
fn header(content_bytes: usize) -> [u8; HEADER_BYTES] {
    let [high, low] = ((content_bytes + 1 + TAG_BYTES) as u16).to_be_bytes();
    [DATA, 3, 3, high, low]
}
