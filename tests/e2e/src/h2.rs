//! A client that means well: the `h2` crate over TLS.

use crate::Fleet;
use crate::alike::Answer;
use crate::fleet::HOST;
use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Method, Request, Uri};
use rustls::pki_types::ServerName;
use std::future::Future;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// One connection.
#[derive(Clone)]
pub struct Client {
    sender: SendRequest<Bytes>,
    /// Whom it asks.
    pub host: String,
    /// How the connection ended.
    end: watch::Receiver<Option<Result<(), String>>>,
}

/// TLS that offers HTTP/2 alone.
pub fn tls(fleet: &Fleet) -> Arc<rustls::ClientConfig> {
    let mut config = rustls::ClientConfig::clone(fleet.tls.as_ref().expect("a fleet with https"));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

impl Client {
    pub async fn connect(fleet: &Fleet, edge: &str) -> Client {
        let address = fleet.member(edge).https();
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::IpAddress(address.ip().into());
        Client::connect_as(tcp, name, tls(fleet)).await
    }

    /// Asks for `name` in the handshake.
    pub async fn connect_as(
        tcp: TcpStream,
        name: ServerName<'static>,
        config: Arc<rustls::ClientConfig>,
    ) -> Client {
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(65_535).initial_connection_window_size(1 << 26);
        let (sender, connection) = builder.handshake(tls).await.unwrap();
        let (tell, end) = watch::channel(None);
        tokio::task::spawn_local(async move {
            let _nobody_waits = tell.send(Some(connection.await.map_err(|e| e.to_string())));
        });
        Client { sender, host: HOST.to_owned(), end }
    }

    /// Waits for the connection's end, whose reason is given if it is an error.
    pub async fn told_to_go(&self) -> Option<String> {
        // A sender that is told to go is not ready any more, though what is under way goes on.
        loop {
            if let Err(error) = self.sender.clone().ready().await {
                return error
                    .reason()
                    .filter(|r| *r != h2::Reason::NO_ERROR)
                    .map(|r| r.to_string());
            }
            if let Some(end) = self.end.borrow().clone() {
                return end.err();
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    pub fn get(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> impl Future<Output = Result<Answer, String>> + use<> {
        self.ask(Method::GET, path, fields, Bytes::new())
    }

    pub fn ask(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: Bytes,
    ) -> impl Future<Output = Result<Answer, String>> + use<> {
        let begun = self.send(method, path, fields, body);
        async move {
            let mut begun = begun.await?;
            let mut body = Vec::new();
            while let Some(data) = begun.some().await? {
                body.extend_from_slice(&data);
            }
            Ok(Answer { status: begun.status, fields: begun.fields, body })
        }
    }

    /// Up to the answer's head.
    pub fn begin(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> impl Future<Output = Result<Begun, String>> + use<> {
        self.send(Method::GET, path, fields, Bytes::new())
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: Bytes,
    ) -> impl Future<Output = Result<Begun, String>> + use<> {
        let uri: Uri = format!("https://{}{path}", self.host).parse().unwrap();
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let sender = self.sender.clone();
        async move {
            let mut sender = sender.ready().await.map_err(|e| e.to_string())?;
            let (answer, mut sending) =
                sender.send_request(request, body.is_empty()).map_err(|e| e.to_string())?;
            if !body.is_empty() {
                // What is refused early is not sent to its end.
                let _refused = sending.send_data(body, true);
            }
            let (head, body) = answer.await.map_err(|e| e.to_string())?.into_parts();
            let fields = head.headers.iter();
            let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
            let fields = fields.map(|(name, value)| (name.to_string(), text(value))).collect();
            Ok(Begun { status: head.status.as_u16(), fields, body })
        }
    }
}

/// An answer whose body is still to be read.
pub struct Begun {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    body: RecvStream,
}

impl Begun {
    /// The next bytes; `None`: that was all.
    pub async fn some(&mut self) -> Result<Option<Bytes>, String> {
        match self.body.data().await {
            None => Ok(None),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(data)) => {
                let _over = self.body.flow_control().release_capacity(data.len());
                Ok(Some(data))
            }
        }
    }
}
