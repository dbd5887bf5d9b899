//! Records of TLS 1.3 after the handshake (RFC 8446 §5): data both ways, alerts, key updates and tickets.
//!
//! Must stay true: records leave in the order in which they were sealed (the caller sends what it is given before it
//! asks for more); a key seals no more records than its cipher bears (RFC 8446 §5.5), then its successor is announced; what
//! a peer can make us keep is one record and one message of [`MESSAGE_BYTES_MAX`]; a peer that sends records without
//! data for ever is let go, and so is one that changes its keys more often than what it sends is worth.

use crate::aead::{ALERT, DATA, HANDSHAKE, HEADER_BYTES, RecordKey, TAG_BYTES, TxKey};
use crate::error::TlsError;
use crate::session::Side;
use rustls::kernel::KernelConnection;
use rustls::{ExtractedSecrets, SupportedCipherSuite};

/// Content of one record at most (RFC 8446 §5.1).
pub const RECORD_BYTES_MAX: usize = 1 << 14;
/// What a protected record may be longer than its content (RFC 8446 §5.2).
const EXPANSION_BYTES_MAX: usize = 256;
/// A handshake message after the handshake: tickets are the longest.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Records in a row that bring no data: empty ones, key updates, tickets.
const QUIET_RECORDS_MAX: u32 = 64;

/// Changes of the peer's key, and in how many records there may be one more: it costs us as much as some fifty small ones.
const KEY_UPDATES_MAX: u64 = 64;
const RECORDS_PER_KEY_UPDATE: u64 = 64;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const FATAL: u8 = 2;
const WARNING: u8 = 1;

/// A key update without the wish for one in return, as a record.
const KEY_UPDATE_MESSAGE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
const KEY_UPDATE_BYTES: usize = HEADER_BYTES + KEY_UPDATE_MESSAGE.len() + 1 + TAG_BYTES;
const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;

/// What one who seals in a session's place shall send, apart from data.
#[derive(Debug)]
pub enum Order {
    /// A record of this type and content, and then all by another key.
    ChangeKey { content_type: u8, content: [u8; 5], key: TxKey },
    /// A record of this type and content.
    Alert { content_type: u8, content: [u8; 2] },
}

/// Who seals in our place.
enum Elsewhere {
    /// Nobody; the key cannot be handed over.
    Never,
    /// Nobody; the key is kept for that.
    NotYet(TxKey),
    Now,
}

/// Records that may be sealed elsewhere before we hear of it.
const UNHEARD_RECORDS_MAX: u64 = 1 << 22;

/// Room that `plain_bytes` take at most when they are sealed at once.
pub const fn sealed_len_max(plain_bytes: usize) -> usize {
    let records = plain_bytes.div_ceil(RECORD_BYTES_MAX);
    // Each record may be the first under a new key.
    plain_bytes + records * (OVERHEAD_BYTES + KEY_UPDATE_BYTES) + KEY_UPDATE_BYTES
}

/// A session after its handshake.
pub(crate) struct Traffic<S: Side> {
    kernel: KernelConnection<S::Data>,
    tx: RecordKey,
    rx: RecordKey,
    /// Records that one key may seal.
    records_max: u64,
    /// The peer asked for a new key of ours.
    key_due: bool,
    /// Begun handshake message.
    message: Vec<u8>,
    quiet_records: u32,
    /// From the peer, under all keys; and how often it changed them.
    records: u64,
    key_updates: u64,
    /// The peer has said that it sends no more.
    pub(crate) ended: bool,
    elsewhere: Elsewhere,
    /// At most one of each kind.
    pub(crate) orders: Vec<Order>,
}

impl<S: Side> Traffic<S> {
    pub(crate) fn new(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<S::Data>,
        keeps_key: bool,
    ) -> Result<Traffic<S>, TlsError> {
        let limit = match kernel.negotiated_cipher_suite() {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(_) => return Err(TlsError::NotOpen),
        };
        let elsewhere = match keeps_key {
            true => Elsewhere::NotYet(TxKey::new(&secrets.tx)?),
            false => Elsewhere::Never,
        };
        Ok(Traffic {
            elsewhere,
            orders: Vec::new(),
            kernel,
            tx: RecordKey::new(secrets.tx)?,
            rx: RecordKey::new(secrets.rx)?,
            // One is left for the announcement of the next key.
            records_max: limit - 1,
            key_due: false,
            message: Vec::new(),
            quiet_records: 0,
            records: 0,
            key_updates: 0,
            ended: false,
        })
    }

    pub(crate) fn hand_over(&mut self) -> Option<TxKey> {
        // Not in the middle of a change of keys, nor under a key that was never kept.
        let Elsewhere::NotYet(key) = &self.elsewhere else { return None };
        if self.key_due || self.ended {
            return None;
        }
        let key = key.at(self.tx.sequence());
        self.elsewhere = Elsewhere::Now;
        Some(key)
    }

    pub(crate) fn take_back(&mut self) {
        self.elsewhere = Elsewhere::Never;
    }

    fn is_handed_over(&self) -> bool {
        matches!(self.elsewhere, Elsewhere::Now)
    }

    pub(crate) fn note_sealed(&mut self, records: u64) -> Result<(), TlsError> {
        if records.saturating_add(UNHEARD_RECORDS_MAX) >= self.records_max {
            self.order_key()?;
        }
        Ok(())
    }

    fn order_key(&mut self) -> Result<(), TlsError> {
        self.key_due = false;
        if self.orders.iter().any(|order| matches!(order, Order::ChangeKey { .. })) {
            return Ok(()); // it answers all who have asked meanwhile
        }
        let key = TxKey::new(&self.kernel.update_tx_secret()?)?;
        self.orders.push(Order::ChangeKey {
            content_type: HANDSHAKE,
            content: KEY_UPDATE_MESSAGE,
            key,
        });
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn set_records_max(&mut self, records: u64) {
        self.records_max = records;
    }

    /// Seals anything as one record: for peers that misbehave.
    #[cfg(test)]
    pub(crate) fn seal_raw(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![0; content.len() + OVERHEAD_BYTES];
        self.tx.seal(content_type, content, &mut out).unwrap();
        out
    }

    /// Seals the pieces, one after the other, into `out`, of at least [`sealed_len_max`] bytes; how many it took.
    pub(crate) fn seal(&mut self, pieces: &[&[u8]], out: &mut [u8]) -> Result<usize, TlsError> {
        let mut left: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut pieces = pieces.iter().copied();
        let mut piece: &[u8] = &[];
        let mut at = 0;
        if self.is_handed_over() {
            for piece in pieces {
                out[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
            return Ok(at);
        }
        if self.key_due {
            at += self.change_key(&mut out[at..])?;
        }
        while left > 0 {
            if self.tx.sequence() >= self.records_max {
                at += self.change_key(&mut out[at..])?;
            }
            while piece.is_empty() {
                piece = pieces.next().unwrap_or_default();
            }
            let len = left.min(RECORD_BYTES_MAX);
            let record = &mut out[at..at + len + OVERHEAD_BYTES];
            if piece.len() >= len {
                let (content, rest) = piece.split_at(len);
                self.tx.seal(DATA, content, record)?;
                piece = rest;
            } else {
                // Small pieces share a record: they are put together in it.
                let mut filled = 0;
                while filled < len {
                    let (now, rest) = piece.split_at(piece.len().min(len - filled));
                    record[HEADER_BYTES + filled..][..now.len()].copy_from_slice(now);
                    filled += now.len();
                    piece = rest;
                    if piece.is_empty() {
                        piece = pieces.next().unwrap_or_default();
                    }
                }
                self.tx.seal_in_place(DATA, record)?;
            }
            at += len + OVERHEAD_BYTES;
            left -= len;
        }
        Ok(at)
    }

    /// Announces the next key under the old one, and goes over to it (RFC 8446 §4.6.3).
    fn change_key(&mut self, out: &mut [u8]) -> Result<usize, TlsError> {
        self.tx.seal(HANDSHAKE, &KEY_UPDATE_MESSAGE, &mut out[..KEY_UPDATE_BYTES])?;
        let secrets = self.kernel.update_tx_secret()?;
        if let Elsewhere::NotYet(key) = &mut self.elsewhere {
            *key = TxKey::new(&secrets)?;
        }
        self.tx = RecordKey::new(secrets)?;
        self.key_due = false;
        Ok(KEY_UPDATE_BYTES)
    }

    /// Appends an alert to `out`.
    pub(crate) fn seal_alert(&mut self, code: u8, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let level = if code == CLOSE_NOTIFY { WARNING } else { FATAL };
        if self.is_handed_over() {
            self.orders.push(Order::Alert { content_type: ALERT, content: [level, code] });
            return Ok(());
        }
        let start = out.len();
        out.resize(start + OVERHEAD_BYTES + 2, 0);
        self.tx.seal(ALERT, &[level, code], &mut out[start..])
    }

    /// The peer is told that nothing more comes.
    pub(crate) fn seal_close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.seal_alert(CLOSE_NOTIFY, out)
    }

    /// Takes whole records out of `incoming`; appends their data to `plain`, and answers that are due to `out`.
    pub(crate) fn receive(
        &mut self,
        incoming: &mut Vec<u8>,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        let mut at = 0;
        let outcome = loop {
            match self.take_record(&mut incoming[at..], plain) {
                Ok(Some(bytes)) => at += bytes,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        incoming.drain(..at);
        if self.ended {
            incoming.clear(); // what follows a close_notify is nothing (RFC 8446 §6.1)
        }
        if self.key_due && outcome.is_ok() && !self.ended && self.is_handed_over() {
            self.order_key()?;
        } else if self.key_due && outcome.is_ok() && !self.ended {
            let start = out.len();
            out.resize(start + KEY_UPDATE_BYTES, 0);
            self.change_key(&mut out[start..])?;
        }
        if let Some(code) = outcome.as_ref().err().and_then(TlsError::alert) {
            self.seal_alert(code, out)?;
        }
        outcome
    }

    /// Opens the first record; its length, or `None`: it is not whole yet.
    fn take_record(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<Option<usize>, TlsError> {
        let Some((header, rest)) = incoming.split_first_chunk_mut::<HEADER_BYTES>() else {
            return Ok(None);
        };
        if self.ended {
            return Ok(None);
        }
        let header = *header;
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != DATA {
            return Err(TlsError::Unexpected("a record without protection"));
        }
        if len > RECORD_BYTES_MAX + EXPANSION_BYTES_MAX {
            return Err(TlsError::RecordOverflow);
        }
        let Some(sealed) = rest.get_mut(..len) else { return Ok(None) };
        let (content_type, content) = self.rx.open(header, sealed)?;
        if content.len() > RECORD_BYTES_MAX {
            return Err(TlsError::RecordOverflow);
        }
        self.quiet_records += 1;
        self.records += 1;
        if content_type != HANDSHAKE && !self.message.is_empty() {
            // RFC 8446 §5.1: nothing comes between the parts of a message.
            return Err(TlsError::Unexpected("a record inside of a handshake message"));
        }
        match content_type {
            DATA => {
                plain.extend_from_slice(content);
                if !content.is_empty() {
                    self.quiet_records = 0;
                }
            }
            ALERT => match *content {
                [_, CLOSE_NOTIFY] => self.ended = true,
                [_, USER_CANCELED] => {} // a close_notify follows
                [_, code] => return Err(TlsError::Alert(code)),
                _ => return Err(TlsError::Unexpected("an alert of another length than two")),
            },
            HANDSHAKE if content.is_empty() => {
                return Err(TlsError::Unexpected("an empty handshake record"));
            }
            HANDSHAKE => {
                self.message.extend_from_slice(content);
                self.take_messages()?;
            }
            _ => return Err(TlsError::Unexpected("a record of an unknown type")),
        }
        if self.quiet_records > QUIET_RECORDS_MAX {
            return Err(TlsError::Unexpected("one more record without data"));
        }
        Ok(Some(HEADER_BYTES + len))
    }

    /// Handshake messages that are whole.
    fn take_messages(&mut self) -> Result<(), TlsError> {
        while let Some((head, rest)) = self.message.split_first_chunk::<4>() {
            let len = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
            if len > MESSAGE_BYTES_MAX {
                return Err(TlsError::Unexpected("a handshake message of that length"));
            }
            let Some(body) = rest.get(..len) else { return Ok(()) };
            match head[0] {
                NEW_SESSION_TICKET => S::take_ticket(&mut self.kernel, body)?,
                KEY_UPDATE => {
                    if rest.len() > len {
                        // What follows would be under the old key (RFC 8446 §5.1).
                        return Err(TlsError::Unexpected("a message behind a key update"));
                    }
                    self.key_updates += 1;
                    if self.key_updates > KEY_UPDATES_MAX + self.records / RECORDS_PER_KEY_UPDATE {
                        return Err(TlsError::Unexpected("one more change of keys"));
                    }
                    self.key_due |= match *body {
                        [0] => false,
                        [1] => true,
                        _ => return Err(TlsError::Unexpected("a key update of an unknown kind")),
                    };
                    self.rx = RecordKey::new(self.kernel.update_rx_secret()?)?;
                }
                _ => return Err(TlsError::Unexpected("a handshake message of that type")),
            }
            self.message.drain(..4 + len);
        }
        if self.message.is_empty() {
            self.message = Vec::new(); // an idle session keeps nothing
        }
        Ok(())
    }
}
