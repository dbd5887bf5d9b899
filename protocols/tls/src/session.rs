//! A session from its first byte on: rustls until the handshake is over, then own records for TLS 1.3 (`traffic.rs`).
//!
//! Must stay true: nothing is sealed before the handshake is over and nothing after an error; the bytes of a record that is
//! not whole yet stay in the session and nowhere else; a session whose configuration does not give its keys away stays
//! with rustls, and behaves alike.

use crate::aead::TxKey;
use crate::error::TlsError;
use crate::traffic::{Order, Traffic, sealed_len_max};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, ReadEarlyData, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, ExtractedSecrets, ProtocolVersion, ServerConfig};
use std::sync::Arc;

/// Which end of a session this is.
pub trait Side {
    type Connection;
    type Data;
    /// What the other end may have sent of one message of the handshake, in records as small as it likes.
    const HANDSHAKE_BYTES_MAX: usize;

    fn process<'c, 'i>(
        connection: &'c mut Self::Connection,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(connection: &Self::Connection) -> &CommonState;
    fn into_kernel(
        connection: Self::Connection,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error>;
    fn take_ticket(kernel: &mut KernelConnection<Self::Data>, body: &[u8]) -> Result<(), TlsError>;
    /// Appends data of the first flight to `plain`; how many bytes more of the input are done with.
    fn read_early(
        reader: ReadEarlyData<'_, '_, Self::Data>,
        plain: &mut Vec<u8>,
    ) -> Result<usize, TlsError>;
}

/// The end that has the certificate.
#[derive(Debug)]
pub struct Server;

impl Side for Server {
    type Connection = UnbufferedServerConnection;
    type Data = ServerConnectionData;
    // Anybody may send it and stop in the middle, so it has room in what a connection is counted with. Hellos with keys against
    // quantum computers and all that is encrypted stay below 4 KiB.
    const HANDSHAKE_BYTES_MAX: usize = 12 << 10;

    fn process<'c, 'i>(
        connection: &'c mut Self::Connection,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        connection.process_tls_records(incoming)
    }

    fn common(connection: &Self::Connection) -> &CommonState {
        connection
    }

    fn into_kernel(
        connection: Self::Connection,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        connection.dangerous_into_kernel_connection()
    }

    fn take_ticket(_: &mut KernelConnection<Self::Data>, _: &[u8]) -> Result<(), TlsError> {
        Err(TlsError::Unexpected("a ticket from a client"))
    }

    fn read_early(
        mut reader: ReadEarlyData<'_, '_, Self::Data>,
        plain: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let mut discard = 0;
        while let Some(record) = reader.next_record() {
            let record = record?;
            discard += record.discard;
            plain.extend_from_slice(record.payload);
        }
        Ok(discard)
    }
}

/// The end that asks.
#[derive(Debug)]
pub struct Client;

impl Side for Client {
    type Connection = UnbufferedClientConnection;
    type Data = ClientConnectionData;
    // Chains of certificates can be long.
    const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

    fn process<'c, 'i>(
        connection: &'c mut Self::Connection,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        connection.process_tls_records(incoming)
    }

    fn common(connection: &Self::Connection) -> &CommonState {
        connection
    }

    fn into_kernel(
        connection: Self::Connection,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        connection.dangerous_into_kernel_connection()
    }

    fn take_ticket(kernel: &mut KernelConnection<Self::Data>, body: &[u8]) -> Result<(), TlsError> {
        Ok(kernel.handle_new_session_ticket(body)?)
    }

    fn read_early(
        _: ReadEarlyData<'_, '_, Self::Data>,
        _: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        Err(TlsError::Unexpected("early data from a server"))
    }
}

enum Layer<S: Side> {
    Rustls(Box<S::Connection>),
    Own(Box<Traffic<S>>),
    /// After an error.
    Over,
}

/// One TLS session.
pub struct Session<S: Side> {
    layer: Layer<S>,
    /// The configuration lets the keys go.
    owns_records: bool,
    /// The key is kept, to be handed over.
    keeps_key: bool,
    /// Those that are left when the session is over.
    orders: Vec<Order>,
    handshaking: bool,
    /// The other end is not proved yet, and may be answered: it has sent data with its first flight.
    early: bool,
    ended: bool,
    incoming: Vec<u8>,
    version: Option<ProtocolVersion>,
    alpn: Option<Box<[u8]>>,
    peer_is_proved: bool,
    keeps_peer: bool,
    peer: Option<Box<CertificateDer<'static>>>,
}

impl Session<Server> {
    /// Waits for a client's first record.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let owns_records = config.enable_secret_extraction;
        Ok(Session::new(UnbufferedServerConnection::new(config)?, owns_records))
    }
}

impl Session<Client> {
    /// Asks for `name`; its first record comes from the first [`Session::receive`].
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TlsError> {
        let owns_records = config.enable_secret_extraction;
        Ok(Session::new(UnbufferedClientConnection::new(config, name)?, owns_records))
    }
}

impl<S: Side> Session<S> {
    fn new(connection: S::Connection, owns_records: bool) -> Self {
        Session {
            layer: Layer::Rustls(Box::new(connection)),
            owns_records,
            keeps_key: false,
            orders: Vec::new(),
            handshaking: true,
            early: false,
            ended: false,
            incoming: Vec::new(),
            version: None,
            alpn: None,
            peer_is_proved: false,
            keeps_peer: false,
            peer: None,
        }
    }

    /// Where what the socket receives is appended to, before [`Session::receive`].
    pub fn incoming(&mut self) -> &mut Vec<u8> {
        &mut self.incoming
    }

    /// Whether bytes of a record wait for the rest of it.
    pub fn has_part(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// Whether what came may have been recorded, and be sent by somebody else (RFC 8446 §8): data of the first flight has been
    /// opened, answers can be sealed, and the handshake is not over.
    pub fn is_early(&self) -> bool {
        self.early && self.handshaking
    }

    /// Whether the handshake is not over: nothing can be sealed yet, but for what [`Session::is_early`] says.
    pub fn is_handshaking(&self) -> bool {
        self.handshaking
    }

    /// Whether the peer has said that it sends no more (close_notify, RFC 8446 §6.1).
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// After the handshake.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// What was agreed on by ALPN (RFC 7301).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// Whether the peer has shown a certificate, which was verified as the configuration says.
    pub fn peer_is_proved(&self) -> bool {
        self.peer_is_proved
    }

    /// Has the session keep what [`Session::peer`] gives; before the handshake.
    pub fn keep_peer(&mut self) {
        self.keeps_peer = true;
    }

    /// The certificate that the peer has shown and that was verified, where it is kept.
    pub fn peer(&self) -> Option<&CertificateDer<'static>> {
        self.peer.as_deref()
    }

    /// Whether records are sealed here and not by rustls.
    pub fn seals_itself(&self) -> bool {
        matches!(self.layer, Layer::Own(_))
    }

    /// Has the session keep the key that [`Session::hand_over`] gives; before the handshake.
    pub fn keep_key(&mut self) {
        self.keeps_key = true;
    }

    /// Hands the sending side over, once: whoever gets the key seals all that follows. From then on [`Session::seal`] copies, and
    /// records that are not data are ordered ([`Session::take_order`]). `None`: it cannot be handed over, or not now.
    pub fn hand_over(&mut self) -> Option<TxKey> {
        match &mut self.layer {
            Layer::Own(traffic) => traffic.hand_over(),
            _ => None,
        }
    }

    /// Who was given the key does not seal after all, and has sent nothing.
    pub fn take_back(&mut self) {
        if let Layer::Own(traffic) = &mut self.layer {
            traffic.take_back();
        }
    }

    /// So many records were sealed in this session's place: the key may be due to be changed.
    ///
    /// # Errors
    /// The session is not open.
    pub fn note_sealed(&mut self, records: u64) -> Result<(), TlsError> {
        if let Layer::Own(traffic) = &mut self.layer {
            traffic.note_sealed(records)?;
        }
        Ok(())
    }

    /// What is to be sealed next that is not data. A change of keys comes before any data, an alert behind all of it.
    pub fn take_order(&mut self, with_alerts: bool) -> Option<Order> {
        let orders = match &mut self.layer {
            Layer::Own(traffic) => &mut traffic.orders,
            _ => &mut self.orders,
        };
        let is_due = |order: &Order| with_alerts || matches!(order, Order::ChangeKey { .. });
        let order = orders.first().is_some_and(is_due).then(|| orders.remove(0));
        if orders.is_empty() {
            *orders = Vec::new(); // an idle session keeps nothing
        }
        order
    }

    /// Nothing is sealed any more; what was ordered stays.
    fn end(&mut self) {
        if let Layer::Own(traffic) = std::mem::replace(&mut self.layer, Layer::Over) {
            self.orders = traffic.orders;
        }
    }

    /// Takes what has come in; appends opened bytes to `plain`, and what is to be sent now to `out` (also with an error:
    /// the alert).
    ///
    /// # Errors
    /// The session is over.
    pub fn receive(&mut self, plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let outcome = self.receive_records(plain, out);
        if outcome.is_err() {
            self.end();
        }
        if self.incoming.is_empty() || outcome.is_err() || self.ended {
            self.incoming = Vec::new(); // an idle session keeps nothing
        }
        outcome
    }

    fn receive_records(&mut self, plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if let Layer::Rustls(connection) = &mut self.layer {
            loop {
                let (done, discard) = step::<S>(connection, &mut self.incoming, plain, out);
                self.incoming.drain(..discard);
                match done {
                    Ok(Step::On) => {}
                    Ok(Step::Early) => self.early = true,
                    Ok(Step::Blocked) => return Ok(()),
                    Ok(Step::PeerEnded) => self.ended = true,
                    Ok(Step::Open) => break,
                    Err(error) => {
                        // The alert that says why lies ready. Once: rustls would read on, and find the same again.
                        let _told = step::<S>(connection, &mut self.incoming, plain, out);
                        return Err(error);
                    }
                }
            }
            if self.handshaking {
                let common = S::common(connection);
                self.version = common.protocol_version();
                self.alpn = common.alpn_protocol().map(Into::into);
                if common.is_handshaking() {
                    return Ok(()); // answers may be sent already, where the configuration says so
                }
                let shown = common.peer_certificates();
                self.peer_is_proved = shown.is_some();
                let leaf = shown.and_then(<[_]>::first).filter(|_| self.keeps_peer);
                self.peer = leaf.map(|leaf| Box::new(leaf.clone().into_owned()));
                self.handshaking = false;
            }
            let is_13 = self.version == Some(ProtocolVersion::TLSv1_3);
            if !is_13 || !self.owns_records || self.ended {
                return Ok(());
            }
            let Layer::Rustls(connection) = std::mem::replace(&mut self.layer, Layer::Over) else {
                return Err(TlsError::NotOpen);
            };
            let (secrets, kernel) = S::into_kernel(*connection)?;
            self.layer = Layer::Own(Box::new(Traffic::new(secrets, kernel, self.keeps_key)?));
        }
        match &mut self.layer {
            Layer::Own(traffic) => {
                let outcome = traffic.receive(&mut self.incoming, plain, out);
                self.ended = traffic.ended;
                outcome
            }
            Layer::Rustls(_) => Ok(()),
            Layer::Over => Err(TlsError::NotOpen),
        }
    }

    #[cfg(test)]
    pub(crate) fn traffic(&mut self) -> &mut Traffic<S> {
        match &mut self.layer {
            Layer::Own(traffic) => traffic,
            _ => panic!("rustls has it"),
        }
    }

    /// Seals the pieces, one after the other, into `out`, which has at least [`sealed_len_max`] bytes; how many it took.
    ///
    /// # Errors
    /// The session is not open.
    pub fn seal(&mut self, pieces: &[&[u8]], out: &mut [u8]) -> Result<usize, TlsError> {
        match &mut self.layer {
            _ if self.handshaking && !self.early => Err(TlsError::NotOpen),
            Layer::Own(traffic) => traffic.seal(pieces, out),
            Layer::Rustls(connection) => {
                let plain = pieces.concat();
                // rustls keeps places in what has come in: it wants to see it each time.
                let state = S::process(connection, &mut self.incoming).state?;
                match state {
                    _ if plain.is_empty() => Ok(0),
                    ConnectionState::WriteTraffic(mut writer) => {
                        writer.encrypt(&plain, out).map_err(|_: EncryptError| TlsError::NotOpen)
                    }
                    _ => Err(TlsError::NotOpen),
                }
            }
            Layer::Over => Err(TlsError::NotOpen),
        }
    }

    /// Appends the goodbye to `out`: nothing is sealed after it.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        // A session without keys, or after an error, has no goodbye to say.
        match std::mem::replace(&mut self.layer, Layer::Over) {
            Layer::Own(mut traffic) => {
                let _none = traffic.seal_close(out);
                self.orders = traffic.orders;
            }
            Layer::Rustls(mut connection) => {
                let status = S::process(&mut connection, &mut self.incoming);
                if let Ok(ConnectionState::WriteTraffic(mut writer)) = status.state {
                    let start = out.len();
                    out.resize(start + sealed_len_max(2), 0);
                    let len = writer.queue_close_notify(&mut out[start..]).unwrap_or(0);
                    out.truncate(start + len);
                }
            }
            Layer::Over => {}
        }
    }
}

enum Step {
    On,
    /// Data of the first flight was opened.
    Early,
    /// More must come in.
    Blocked,
    PeerEnded,
    /// Nothing more to do: data may be sealed.
    Open,
}

/// One step of rustls' state machine, and how many bytes of `incoming` it is done with.
fn step<S: Side>(
    connection: &mut S::Connection,
    incoming: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> (Result<Step, TlsError>, usize) {
    let UnbufferedStatus { mut discard, state, .. } = S::process(connection, incoming);
    let step = match state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::ReadTraffic(mut reader)) => loop {
            match reader.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(Step::On),
            }
        },
        Ok(ConnectionState::ReadEarlyData(reader)) => S::read_early(reader, plain).map(|bytes| {
            discard += bytes;
            Step::Early
        }),
        Ok(ConnectionState::EncodeTlsData(mut encoder)) => {
            let start = out.len();
            let mut written = encoder.encode(&mut []);
            if let Err(EncodeError::InsufficientSize(size)) = written {
                out.resize(start + size.required_size, 0);
                written = encoder.encode(&mut out[start..]);
            }
            written.map(|_| Step::On).map_err(|_| TlsError::NotOpen)
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done(); // it lies in `out`, which the caller sends
            Ok(Step::On)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerEnded),
        Ok(ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => Ok(Step::Open),
        Ok(_) => Err(TlsError::Unexpected("a state that rustls did not have")),
    };
    (step, discard)
}
