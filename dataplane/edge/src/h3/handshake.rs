//! TLS inside of QUIC: rustls' handshake, behind the face that `quinn-proto` has for it.
//!
//! A server's [`Session`] waits for the whole ClientHello where delivery services differ in what they say of early data, and
//! goes on with the configuration of the service that is asked for. After the handshake rustls has nothing more to do (the
//! keys of updates follow from secrets), and is let go: an idle connection does not hold it.
//!
//! Must stay true: who asks for a service without early data, for none, or in a hello that cannot be read, gets none; a
//! handshake that fails ends its own connection, by the alert that TLS has for it.

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::AlertDescription;
use rustls::quic::{KeyChange, Secrets, ServerConnection, Version};
use std::any::Any;
use std::sync::Arc;
use tidegate_engine::Node;
use tidegate_tls::{Hello, HelloReader};

/// No hello of a client that means well is longer; a longer one is not looked into.
const HELLO_BYTES_MAX: usize = 16 << 10;

/// How viewers are spoken to by HTTP/3.
pub struct QuicTls {
    usual: Arc<rustls::ServerConfig>,
    early: Arc<rustls::ServerConfig>,
    /// For what depends on no configuration.
    plain: Arc<QuicServerConfig>,
}

impl QuicTls {
    /// From the configurations for most viewers, and for those who may send data with their first flight.
    ///
    /// # Errors
    /// A text: one of them is none for QUIC.
    pub fn new(
        usual: rustls::ServerConfig,
        early: rustls::ServerConfig,
    ) -> Result<QuicTls, String> {
        let (mut usual, mut early) = (usual, early);
        for config in [&mut usual, &mut early] {
            config.alpn_protocols = vec![b"h3".to_vec()];
            config.ignore_client_order = true;
        }
        // How much it may be is bounded by windows (RFC 9001 section 4.6.1).
        early.max_early_data_size = u32::MAX;
        let usual = Arc::new(usual);
        let plain = QuicServerConfig::try_from(usual.clone())
            .map_err(|e| format!("QUIC is not available: {e}"))?;
        Ok(QuicTls { usual, early: Arc::new(early), plain: Arc::new(plain) })
    }

    /// What all of it has in common.
    pub fn plain(&self) -> Arc<QuicServerConfig> {
        self.plain.clone()
    }
}

/// [`QuicTls`] on a node whose delivery services say who may send early data.
pub struct Greeting {
    pub tls: Arc<QuicTls>,
    pub node: Arc<Node>,
}

impl crypto::ServerConfig for Greeting {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        crypto::ServerConfig::initial_keys(&*self.tls.plain, version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        crypto::ServerConfig::retry_tag(&*self.tls.plain, version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        let mut said = Vec::new();
        params.write(&mut said);
        let waiting = Waiting { greeting: self.clone(), parameters: said, hello: Come::default() };
        Box::new(Session {
            greeting: self,
            version,
            state: State::Waits(Box::new(waiting)),
            next_secrets: None,
        })
    }
}

/// One connection's TLS.
struct Session {
    greeting: Arc<Greeting>,
    version: u32,
    state: State,
    next_secrets: Option<Box<Secrets>>,
}

enum State {
    /// For the rest of the ClientHello.
    Waits(Box<Waiting>),
    Shakes(Box<ServerConnection>),
    /// Well or not.
    Over,
}

struct Waiting {
    greeting: Arc<Greeting>,
    parameters: Vec<u8>,
    hello: Come,
}

/// What has come of a ClientHello.
#[derive(Default)]
struct Come {
    bytes: Vec<u8>,
    /// The same as records, as the reader of hellos knows them.
    records: Vec<u8>,
    reader: HelloReader,
}

impl Come {
    /// More of it. Whether it is whole, or not worth waiting for; and the name that it asks for.
    fn add(&mut self, bytes: &[u8]) -> Option<Option<String>> {
        self.bytes.extend_from_slice(bytes);
        for part in bytes.chunks(HELLO_BYTES_MAX) {
            // Handshake, of whatever version (RFC 8446 section 5.1).
            let [high, low] = (part.len() as u16).to_be_bytes();
            self.records.extend([22, 3, 1, high, low]);
            self.records.extend_from_slice(part);
        }
        match self.reader.read(&self.records) {
            Hello::Part if self.bytes.len() <= HELLO_BYTES_MAX => None,
            Hello::Asks { name, .. } => Some(name),
            // What is wrong with it is said by the handshake.
            Hello::Part | Hello::Refused(..) => Some(None),
        }
    }
}

impl Waiting {
    /// The name that the client asks for, when it is known or does not matter.
    fn asked(&mut self, bytes: &[u8]) -> Option<Option<String>> {
        if self.hello.bytes.is_empty() && !self.greeting.node.view.load().has_tls_rules() {
            self.hello.bytes.extend_from_slice(bytes);
            return Some(None);
        }
        self.hello.add(bytes)
    }

    /// The handshake with who asks for this name.
    fn begin(&self, name: Option<&str>, version: u32) -> Result<ServerConnection, rustls::Error> {
        let Greeting { tls, node } = &*self.greeting;
        let config = match node.view.load().takes_early_data(name) {
            true => &tls.early,
            false => &tls.usual,
        };
        // The library speaks of no other versions (it has asked for their first keys).
        let version = if version == 1 { Version::V1 } else { Version::V1Draft };
        ServerConnection::new(config.clone(), version, self.parameters.clone())
    }
}

impl Session {
    fn shaking(&self) -> Option<&ServerConnection> {
        match &self.state {
            State::Shakes(tls) => Some(tls),
            State::Waits(_) | State::Over => None,
        }
    }
}

fn failed(alert: Option<AlertDescription>, error: &rustls::Error) -> TransportError {
    let alert = alert.unwrap_or(AlertDescription::InternalError);
    TransportError {
        code: TransportErrorCode::crypto(alert.into()),
        frame: None,
        reason: error.to_string(),
    }
}

fn read(tls: &mut ServerConnection, bytes: &[u8]) -> Result<(), TransportError> {
    tls.read_hs(bytes).map_err(|error| failed(tls.alert(), &error))
}

type PacketKeys = KeyPair<Box<dyn PacketKey>>;

impl crypto::Session for Session {
    fn initial_keys(&self, dst_cid: &ConnectionId, _: Side) -> Keys {
        let Greeting { tls, .. } = &*self.greeting;
        let keys = crypto::ServerConfig::initial_keys(&*tls.plain, self.version, dst_cid);
        // A session is begun only for a version that there were such keys for.
        keys.unwrap_or_else(|_| unreachable!("a session of version {}", self.version))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.shaking()?.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None // a client's question
    }

    fn is_handshaking(&self) -> bool {
        match &self.state {
            State::Waits(_) => true,
            State::Shakes(tls) => tls.is_handshaking(),
            State::Over => false,
        }
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        match &mut self.state {
            State::Waits(waiting) => {
                let Some(name) = waiting.asked(bytes) else { return Ok(false) };
                let begun = waiting.begin(name.as_deref(), self.version);
                let mut tls = Box::new(begun.map_err(|error| failed(None, &error))?);
                let hello = std::mem::take(&mut waiting.hello.bytes);
                let outcome = read(&mut tls, &hello);
                self.state = State::Shakes(tls);
                outcome?;
            }
            State::Shakes(tls) => read(tls, bytes)?,
            // A client has nothing to say after its handshake (RFC 9001 section 6: keys are changed by QUIC).
            State::Over => {
                return Err(TransportError {
                    code: TransportErrorCode::crypto(AlertDescription::UnexpectedMessage.into()),
                    frame: None,
                    reason: "a TLS message after the handshake".to_owned(),
                });
            }
        }
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let said = self.shaking().and_then(|tls| tls.quic_transport_parameters());
        said.map(|mut said| TransportParameters::read(Side::Server, &mut said))
            .transpose()
            .map_err(TransportError::from)
    }

    fn write_handshake(&mut self, into: &mut Vec<u8>) -> Option<Keys> {
        let State::Shakes(tls) = &mut self.state else { return None };
        let keys = match tls.write_hs(into) {
            Some(KeyChange::Handshake { keys }) => keys,
            Some(KeyChange::OneRtt { keys, next }) => {
                self.next_secrets = Some(Box::new(next));
                keys
            }
            None => {
                if into.is_empty() && !tls.is_handshaking() {
                    self.state = State::Over;
                }
                return None;
            }
        };
        Some(Keys {
            header: KeyPair {
                local: Box::new(keys.local.header),
                remote: Box::new(keys.remote.header),
            },
            packet: KeyPair {
                local: Box::new(keys.local.packet),
                remote: Box::new(keys.remote.packet),
            },
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<PacketKeys> {
        let keys = self.next_secrets.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false // only clients are sent one
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError) // nobody asks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::quic::ClientConnection;
    use rustls::{ClientConfig, RootCertStore};

    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client =
            ClientConnection::new(Arc::new(config), Version::V1, name, vec![1, 2, 3]).unwrap();
        let mut hello = Vec::new();
        assert!(client.write_hs(&mut hello).is_none());
        hello
    }

    #[test]
    fn the_name_is_known_when_the_hello_is_whole_however_it_is_cut() {
        for (asked, wanted) in [("Film.Example", Some("film.example")), ("127.0.0.1", None)] {
            let hello = hello(asked);
            let wanted = Some(wanted.map(str::to_owned));
            for cut in 1..hello.len() {
                let mut come = Come::default();
                assert_eq!(come.add(&hello[..cut]), None, "{cut}");
                assert_eq!(come.add(&hello[cut..]), wanted, "{cut}");
                assert_eq!(come.bytes, hello);
            }
            let mut come = Come::default();
            let all: Vec<_> = hello.chunks(1).map(|byte| come.add(byte)).collect();
            let (last, before) = all.split_last().unwrap();
            assert!(before.iter().all(Option::is_none));
            assert_eq!(*last, wanted);
        }
    }

    #[test]
    fn what_is_no_hello_or_has_no_end_is_not_waited_for() {
        assert_eq!(Come::default().add(&[0xff; 100]), Some(None));
        assert_eq!(Come::default().add(&[2, 0, 0, 1, 0]), Some(None), "another message");
        // A hello that says that it is long: it is waited for so long.
        let mut come = Come::default();
        let mut more = vec![1, 0, 0xff, 0xff];
        more.resize(1000, 0);
        let mut came = 0;
        while come.add(&more).is_none() {
            came += more.len();
            assert!(came <= HELLO_BYTES_MAX);
        }
        assert!(came + 2 * more.len() > HELLO_BYTES_MAX);
    }
}
