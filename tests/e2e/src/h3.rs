//! A client that means well: `quinn` and our own frames, one endpoint for each connection.

use crate::Fleet;
use crate::alike::Answer;
use crate::fleet::HOST;
use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use tidegate_http::{Fields, Method, Scheme};
use tidegate_http3::{
    Connection as Rules, Limits, ResponseEvent, ResponseReader, Side, UniStream, encode_data_head,
    encode_request,
};

/// One connection; copies are the same one.
#[derive(Clone)]
pub struct Client {
    pub endpoint: quinn::Endpoint,
    pub quic: quinn::Connection,
    pub rules: Rc<RefCell<Rules>>,
    /// It lives as long as the connection.
    control: Rc<tokio::sync::Mutex<SendStream>>,
}

/// QUIC with the fleet's TLS; the window is that of each stream.
pub fn configuration(fleet: &Fleet, window: u32) -> quinn::ClientConfig {
    let mut tls = rustls::ClientConfig::clone(fleet.tls.as_ref().expect("a fleet with https"));
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(Arc::new(tls)).unwrap();
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(window));
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    config
}

/// A connection on which nothing was said yet.
pub async fn quic(
    fleet: &Fleet,
    address: SocketAddr,
    window: u32,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
    let name = fleet.member("edge-1").https().ip().to_string();
    let config = configuration(fleet, window);
    let quic = endpoint.connect_with(config, address, &name).unwrap().await?;
    Ok((endpoint, quic))
}

impl Client {
    pub async fn connect(fleet: &Fleet) -> Client {
        Client::through(fleet, fleet.member("edge-1").https(), 1 << 20).await
    }

    pub async fn through(fleet: &Fleet, address: SocketAddr, window: u32) -> Client {
        let (endpoint, quic) = quic(fleet, address, window).await.unwrap();
        let rules = Rules::new(Side::Client, Limits::RESPONSE);
        let mut preamble = Vec::new();
        rules.preamble(&mut preamble);
        let mut control = quic.open_uni().await.unwrap();
        control.write_all(&preamble).await.unwrap();
        let rules = Rc::new(RefCell::new(rules));
        let client =
            Client { endpoint, quic, rules, control: Rc::new(tokio::sync::Mutex::new(control)) };
        let listener = client.clone();
        tokio::task::spawn_local(async move {
            while let Ok(mut stream) = listener.quic.accept_uni().await {
                let listener = listener.clone();
                tokio::task::spawn_local(async move {
                    let mut state = UniStream::default();
                    while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
                        let outcome = listener.rules.borrow_mut().receive(&mut state, chunk.bytes);
                        outcome.unwrap();
                    }
                });
            }
        });
        client
    }

    /// Sends frames on the control stream.
    pub async fn say(&self, frames: &[u8]) {
        self.control.lock().await.write_all(frames).await.unwrap();
    }

    /// Another port, as when a phone's network changes it.
    pub fn rebind(&self) {
        self.endpoint.rebind(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
    }

    pub async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Result<Answer, String> {
        self.ask("GET", path, fields, Bytes::new()).await
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        let mut begun = self.send(method, path, fields, body).await?;
        let mut body = Vec::new();
        while let Some(data) = begun.some().await? {
            body.extend_from_slice(&data);
        }
        Ok(Answer { status: begun.status, fields: begun.fields, body })
    }

    /// Up to the answer's head.
    pub async fn begin(&self, path: &str, fields: &[(&str, &str)]) -> Result<Begun, String> {
        self.send("GET", path, fields, Bytes::new()).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Begun, String> {
        let method = Method::parse(method.as_bytes()).unwrap();
        let (mut sending, receiving) = self.quic.open_bi().await.map_err(|e| e.to_string())?;
        let mut out = request(&method, path, fields);
        if !body.is_empty() {
            encode_data_head(body.len() as u64, &mut out);
            out.extend_from_slice(&body);
        }
        // What is refused early is not sent to its end.
        let _refused = sending.write_all(&out).await;
        let _refused = sending.finish();
        let reader = ResponseReader::new(method, Limits::RESPONSE);
        let mut begun =
            Begun { status: 0, fields: Vec::new(), receiving, reader, input: Bytes::new() };
        match begun.next().await? {
            Some(ResponseEvent::Head(parsed)) => {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                begun.status = parsed.head.status;
                begun.fields =
                    parsed.head.fields.iter().map(|(n, v)| (n.to_owned(), text(v))).collect();
                Ok(begun)
            }
            other => Err(format!("no head but {other:?}")),
        }
    }
}

/// A request's HEADERS frame.
pub fn request(method: &Method, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = Fields::new();
    for (name, value) in fields {
        all.append(name.to_string(), value.to_string()).unwrap();
    }
    let mut out = Vec::new();
    encode_request(method, Scheme::Https, HOST, path, &all, &mut out).unwrap();
    out
}

/// An answer whose body is still to be read.
pub struct Begun {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    receiving: RecvStream,
    reader: ResponseReader,
    input: Bytes,
}

impl Begun {
    /// The next bytes; `None`: that was all.
    pub async fn some(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.next().await? {
                None => return Ok(None),
                Some(ResponseEvent::Data(data)) => return Ok(Some(data)),
                Some(_) => {}
            }
        }
    }

    async fn next(&mut self) -> Result<Option<ResponseEvent>, String> {
        loop {
            match self.reader.read(&mut self.input).map_err(|e| e.to_string())? {
                None | Some(ResponseEvent::Interim(_)) => {}
                event => return Ok(event),
            }
            if self.input.is_empty() {
                match self.receiving.read_chunk(usize::MAX, true).await {
                    Ok(Some(chunk)) => self.input = chunk.bytes,
                    Ok(None) => {
                        self.reader.end().map_err(|e| e.to_string())?;
                        return Ok(None);
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
    }
}
