//! TLS over one of the ring's sockets: the session is `tidegate_tls`, this is its I/O.
//!
//! A large answer is sealed piece by piece into one scratch that the connections of a thread share, and sent at once; only
//! what the socket does not take is copied out and held. So an idle connection holds no buffer, and a slow one no more
//! than a piece. Must stay true: what was sealed leaves in that order or not at all (a failed send ends the session);
//! what is held is counted ([`sealed_bytes`]); an end without close_notify is an error, so that nobody can cut a body
//! short unseen (RFC 8446 §6.1).
//!
//! Where the kernel seals ([`TlsStream::seal_by_kernel`]), plain bytes go to the socket from the caller's memory.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidegate_ring::{KernelSealing, SealCipher, SealKey, TcpStream, empty_message};
use tidegate_tls::{Cipher, Order, Session, Side, TlsError, TxKey, sealed_len_max};

/// Plain bytes sealed at a time: large sends cost less per byte.
const PIECE_BYTES: usize = 256 << 10;
/// The same for a peer that did not take a piece at once: it holds less.
const SLOW_PIECE_BYTES: usize = 64 << 10;
/// What is sent with many others by the ring, instead of at once.
const MESSAGE_BYTES_MAX: usize = 12 << 10;
/// Slices of one piece.
const SLICES_MAX: usize = 8;
/// For the few bytes that are sent while receiving.
const STALL: Duration = Duration::from_secs(10);

static SEALED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes that are sealed, and held because their peers do not take them.
pub fn sealed_bytes() -> u64 {
    SEALED_BYTES.load(Ordering::Relaxed)
}

/// So many more of them.
pub(crate) fn note_held(bytes: usize) {
    SEALED_BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// And less.
pub(crate) fn note_sent(bytes: usize) {
    SEALED_BYTES.fetch_sub(bytes as u64, Ordering::Relaxed);
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection between two threads: nothing is under way on it, and nothing unread.
pub(crate) struct ParkedTls<S: Side> {
    socket: std::net::TcpStream,
    session: Session<S>,
    slow: bool,
}

/// A connection with a session on it.
pub struct TlsStream<S: Side> {
    tcp: TcpStream,
    session: Session<S>,
    /// Opened during the handshake, not yet taken.
    plain: Vec<u8>,
    /// The peer did not take the last piece at once.
    slow: bool,
    kernel: Option<Kernel>,
}

/// The kernel seals what is sent. It does not see to it that a key is not used for too long; this does.
#[derive(Default)]
pub(crate) struct Kernel {
    /// How many records it may have sealed since it was asked for their number.
    unasked: u64,
}

impl Kernel {
    /// Plain bytes have been sent.
    pub(crate) fn after<S: Side>(
        &mut self,
        bytes: usize,
        tcp: &TcpStream,
        session: &mut Session<S>,
    ) -> io::Result<()> {
        // Each send begins a record; when memory is short the kernel makes small ones.
        self.unasked += 1 + bytes as u64 / 1024;
        if self.unasked >= UNASKED_RECORDS_MAX {
            self.unasked = 0;
            session.note_sealed(tcp.sealed_records()?).map_err(invalid)?;
        }
        Ok(())
    }

    /// Sends what the session has to say besides data.
    pub(crate) async fn obey(tcp: &TcpStream, order: Order, stall: Duration) -> io::Result<()> {
        match order {
            Order::Alert { content_type, content } => {
                tcp.send_record(content_type, &content, stall).await
            }
            Order::ChangeKey { content_type, content, key } => {
                if !KernelSealing::of_host().is_ok_and(|kernel| kernel.changes_keys) {
                    // Nothing may be said under the old key any more but goodbye.
                    return Err(io::Error::new(io::ErrorKind::Unsupported, CANNOT_CHANGE_KEYS));
                }
                tcp.send_record(content_type, &content, stall).await?;
                tcp.change_seal_key(&seal_key(&key))
            }
        }
    }
}

const CANNOT_CHANGE_KEYS: &str = "the session needs another key, and this kernel cannot change it";

/// Records of which the kernel is not asked how many they are; the session allows for more (2^22).
const UNASKED_RECORDS_MAX: u64 = 1 << 20;

fn seal_cipher(cipher: Cipher) -> SealCipher {
    match cipher {
        Cipher::Aes128Gcm => SealCipher::Aes128Gcm,
        Cipher::Aes256Gcm => SealCipher::Aes256Gcm,
        Cipher::Chacha20Poly1305 => SealCipher::Chacha20Poly1305,
    }
}

fn seal_key(key: &TxKey) -> SealKey<'_> {
    let cipher = seal_cipher(key.cipher);
    SealKey { cipher, key: key.key(), iv: key.iv, sequence: key.sequence }
}

impl<S: Side> TlsStream<S> {
    /// Does the handshake, up to data that came with the peer's first flight if there is any (see [`Session::is_early`]). Sends fail when the peer takes nothing for `stall`; how long all of it may take is the
    /// caller's to say.
    ///
    /// # Errors
    /// Of the connection, or of the session (`InvalidData`, around a [`TlsError`]).
    pub async fn begin(tcp: TcpStream, session: Session<S>, stall: Duration) -> io::Result<Self> {
        let mut stream = TlsStream { tcp, session, plain: Vec::new(), slow: false, kernel: None };
        let mut plain = Vec::new();
        stream.open(&mut plain, stall).await?;
        while stream.session.is_handshaking() && !stream.session.is_early() {
            stream.shake_on(&mut plain, stall).await?;
        }
        stream.plain = plain;
        Ok(stream)
    }

    /// Waits for the end of a handshake that [`TlsStream::begin`] has left early.
    ///
    /// # Errors
    /// Like [`TlsStream::begin`].
    pub async fn confirm(&mut self, stall: Duration) -> io::Result<()> {
        let mut plain = std::mem::take(&mut self.plain);
        while self.session.is_handshaking() {
            self.shake_on(&mut plain, stall).await?;
        }
        self.plain = plain;
        Ok(())
    }

    async fn shake_on(&mut self, plain: &mut Vec<u8>, stall: Duration) -> io::Result<()> {
        if self.session.incoming().len() > S::HANDSHAKE_BYTES_MAX {
            let what = "a message of the TLS handshake is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if self.tcp.receive(self.session.incoming()).await? == 0 {
            let what = "the connection ended during the TLS handshake";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        self.open(plain, stall).await
    }

    /// The session, for what was agreed on.
    pub fn session(&self) -> &Session<S> {
        &self.session
    }

    /// Without this thread's part in it; `Err`: the kernel still works on it for this thread.
    pub(crate) fn park(self) -> Result<ParkedTls<S>, Box<Self>> {
        if self.kernel.is_some() {
            return Err(Box::new(self)); // what is known of the socket stays here
        }
        let TlsStream { tcp, session, plain, slow, kernel } = self;
        match tcp.into_std() {
            Ok(socket) => Ok(ParkedTls { socket, session, slow }),
            Err(tcp) => Err(Box::new(TlsStream { tcp, session, plain, slow, kernel })),
        }
    }

    /// Takes up what was parked, on whichever thread.
    pub(crate) fn unpark(parked: ParkedTls<S>) -> Self {
        let ParkedTls { socket, session, slow } = parked;
        let tcp = TcpStream::from_std(socket);
        TlsStream { tcp, session, plain: Vec::new(), slow, kernel: None }
    }

    /// Has the kernel seal from now on, if it can and the session keeps its key ([`Session::keep_key`]); whether it does.
    pub fn seal_by_kernel(&mut self) -> bool {
        let Some(key) = self.session.hand_over() else { return false };
        let Ok(host) = KernelSealing::of_host() else {
            self.session.take_back();
            return false;
        };
        // A peer that has gone meanwhile is no reason to stop here.
        let can = host.ciphers.contains(&seal_cipher(key.cipher));
        if can && self.tcp.seal_by_kernel(&seal_key(&key)).is_ok() {
            self.kernel = Some(Kernel::default());
            return true;
        }
        self.session.take_back();
        false
    }

    /// What carries it.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The connection, its session, what was opened already, and whether the kernel seals.
    pub(crate) fn into_parts(self) -> (TcpStream, Session<S>, Vec<u8>, Option<Kernel>) {
        (self.tcp, self.session, self.plain, self.kernel)
    }

    async fn obey(&mut self, stall: Duration) -> io::Result<()> {
        while let Some(order) = self.session.take_order(true) {
            Kernel::obey(&self.tcp, order, stall).await?;
        }
        Ok(())
    }

    /// Opens what has come in, and sends what is due for it.
    async fn open(&mut self, plain: &mut Vec<u8>, stall: Duration) -> io::Result<()> {
        let mut out = Vec::new();
        let outcome = self.session.receive(plain, &mut out);
        if !out.is_empty() {
            let sent = self.tcp.send_all(&[&out], stall).await;
            if outcome.is_ok() {
                sent?;
            }
        }
        if self.kernel.is_some() {
            let obeyed = self.obey(stall).await;
            if outcome.is_ok() {
                obeyed?;
            }
        }
        outcome.map_err(invalid)
    }

    /// Appends what arrives; zero: the peer has ended its side in order.
    ///
    /// # Errors
    /// Like [`TlsStream::begin`]; `UnexpectedEof`: the connection ended and the session did not.
    pub async fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        if !self.plain.is_empty() {
            let plain = std::mem::take(&mut self.plain);
            into.extend_from_slice(&plain);
            return Ok(plain.len());
        }
        let before = into.len();
        while into.len() == before {
            if self.session.has_ended() {
                return Ok(0);
            }
            if self.tcp.receive(self.session.incoming()).await? == 0 {
                let what = "the connection ended without a close_notify";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            self.open(into, STALL).await?;
        }
        Ok(into.len() - before)
    }

    /// Sends all pieces, in order.
    ///
    /// # Errors
    /// `TimedOut`: the peer took nothing for `stall`.
    pub async fn send_all(&mut self, pieces: &[&[u8]], stall: Duration) -> io::Result<()> {
        let mut rest = Rest { pieces, offset: 0 };
        if let Some(kernel) = &mut self.kernel {
            let bytes = rest.len();
            self.tcp.send_all(pieces, stall).await?;
            kernel.after(bytes, &self.tcp, &mut self.session)?;
            return self.obey(stall).await;
        }
        if rest.len() <= MESSAGE_BYTES_MAX {
            let mut message = empty_message();
            message.resize(sealed_len_max(rest.len()), 0);
            let len = self.session.seal(pieces, &mut message).map_err(invalid)?;
            message.truncate(len);
            return self.tcp.send_message(message, stall).await;
        }
        loop {
            let piece_bytes = if self.slow { SLOW_PIECE_BYTES } else { PIECE_BYTES };
            let mut slices = [&[][..]; SLICES_MAX];
            if rest.take(piece_bytes, &mut slices) == 0 {
                return Ok(());
            }
            let held = SCRATCH.with_borrow_mut(|scratch| {
                scratch.resize(sealed_len_max(PIECE_BYTES), 0);
                let len = self.session.seal(&slices, scratch).map_err(invalid)?;
                let sent = self.tcp.send_now(&scratch[..len])?;
                io::Result::Ok(Held::new(&scratch[sent..len]))
            })?;
            self.slow = held.is_some();
            if let Some(held) = held {
                self.tcp.send_all(&[&held.0], stall).await?;
            }
        }
    }

    /// Says goodbye and ends the sending side.
    pub async fn close(&mut self, stall: Duration) {
        let mut out = Vec::new();
        self.session.close(&mut out);
        // A peer that is gone already needs no goodbye.
        let _gone = match self.kernel {
            Some(_) => self.obey(stall).await,
            None => self.tcp.send_all(&[&out], stall).await,
        };
        self.tcp.shutdown_write();
    }

    /// Whether the connection is open and nothing waits to be read.
    pub fn is_quiet(&self) -> bool {
        let taken = self.plain.is_empty() && !self.session.has_part() && !self.session.has_ended();
        taken && self.tcp.is_quiet()
    }
}

pub(crate) fn invalid(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Sealed bytes that wait for the peer.
pub(crate) struct Held(Vec<u8>);

impl Held {
    /// `None`: there are none.
    pub(crate) fn new(bytes: &[u8]) -> Option<Held> {
        if bytes.is_empty() {
            return None;
        }
        note_held(bytes.len());
        Some(Held(bytes.to_vec()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        note_sent(self.0.len());
    }
}

/// What is left of some pieces.
struct Rest<'a> {
    pieces: &'a [&'a [u8]],
    /// Into the first of them.
    offset: usize,
}

impl<'a> Rest<'a> {
    fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum::<usize>() - self.offset
    }

    /// Takes up to `bytes_max` from the front, in slices; how many bytes that are.
    fn take(&mut self, bytes_max: usize, slices: &mut [&'a [u8]; SLICES_MAX]) -> usize {
        let (mut taken, mut count) = (0, 0);
        while count < SLICES_MAX && taken < bytes_max {
            let Some(piece) = self.pieces.first() else { break };
            let left = &piece[self.offset..];
            let now = left.len().min(bytes_max - taken);
            if now > 0 {
                slices[count] = &left[..now];
                count += 1;
                taken += now;
            }
            if now == left.len() {
                self.pieces = &self.pieces[1..];
                self.offset = 0;
            } else {
                self.offset += now;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_taken_in_order_and_whole() {
        let all: Vec<Vec<u8>> = (0..30u8).map(|i| vec![i; usize::from(i) * 37 % 211]).collect();
        let pieces: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        for bytes_max in [1, 7, 100, 300, 5000] {
            let mut rest = Rest { pieces: &pieces, offset: 0 };
            let mut taken = Vec::new();
            loop {
                let left = rest.len();
                let mut slices = [&[][..]; SLICES_MAX];
                let n = rest.take(bytes_max, &mut slices);
                assert!(n <= bytes_max && n == slices.iter().map(|s| s.len()).sum::<usize>());
                assert_eq!(rest.len(), left - n);
                taken.extend(slices.concat());
                if n == 0 {
                    break;
                }
            }
            assert_eq!(taken, all.concat());
        }
    }
}
