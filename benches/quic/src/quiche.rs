//! tokio-quiche, as its example shows: the driver speaks HTTP/3, a task answers its events.
//!
//! Beside its defaults: datagrams up to 1472 bytes, as large as the edge's, and no datagrams of applications. Sockets
//! get what the library knows to make use of (GSO, GRO).

use crate::{Files, Setting};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use std::sync::Arc;
use tokio_quiche::buf_factory::BufFactory;
use tokio_quiche::http3::driver::{IncomingH3Headers, OutboundFrame, ServerH3Event};
use tokio_quiche::http3::settings::Http3Settings;
use tokio_quiche::metrics::DefaultMetrics;
use tokio_quiche::quiche::h3::{Header, NameValue};
use tokio_quiche::settings::{CertificateKind, Hooks, QuicSettings, TlsCertificatePaths};
use tokio_quiche::{ConnectionParams, ServerH3Controller, ServerH3Driver};

/// The largest UDP payload in an Ethernet frame over IPv4, what the edge comes to by discovery.
const DATAGRAM_BYTES: usize = 1472;

/// Serves until it is killed.
pub async fn serve(setting: &Setting) -> Result<(), String> {
    let socket = tokio::net::UdpSocket::bind(setting.address)
        .await
        .map_err(|e| format!("{}: {e}", setting.address))?;
    let mut quic = QuicSettings::default();
    quic.max_send_udp_payload_size = DATAGRAM_BYTES;
    quic.max_recv_udp_payload_size = DATAGRAM_BYTES;
    quic.enable_dgram = false;
    let (chain, key) = (setting.chain.to_string_lossy(), setting.key.to_string_lossy());
    let tls = TlsCertificatePaths { cert: &chain, private_key: &key, kind: CertificateKind::X509 };
    let parameters = ConnectionParams::new_server(quic, tls, Hooks::default());
    let mut listeners =
        tokio_quiche::listen([socket], parameters, DefaultMetrics).map_err(|e| e.to_string())?;
    let Some(connections) = listeners.first_mut() else {
        return Err("tokio-quiche gave no listener for the socket".to_owned());
    };
    while let Some(connection) = connections.next().await {
        // One that failed is the client's loss; the next one comes.
        let Ok(connection) = connection else { continue };
        let (driver, controller) = ServerH3Driver::new(Http3Settings::default());
        connection.start(driver);
        tokio::spawn(answer_all(controller, Arc::clone(&setting.files)));
    }
    Ok(())
}

async fn answer_all(mut controller: ServerH3Controller, files: Arc<Files>) {
    while let Some(event) = controller.event_receiver_mut().recv().await {
        match event {
            ServerH3Event::Headers { incoming_headers, .. } => {
                tokio::spawn(answer(incoming_headers, Arc::clone(&files)));
            }
            ServerH3Event::Core(_) => {}
        }
    }
}

async fn answer(request: IncomingH3Headers, files: Arc<Files>) -> Option<()> {
    let path = request.headers.iter().find(|header| header.name() == b":path");
    let body = path.and_then(|path| files.at(path.value()));
    let mut sender = request.send;
    let Some(mut body) = body else {
        let head = vec![Header::new(b":status", b"404"), Header::new(b"content-length", b"0")];
        sender.send(OutboundFrame::Headers(head, None)).await.ok()?;
        return sender.send(OutboundFrame::Body(Bytes::new(), true)).await.ok();
    };
    let head = vec![
        Header::new(b":status", b"200"),
        Header::new(b"content-type", b"video/iso.segment"),
        Header::new(b"content-length", body.len().to_string().as_bytes()),
    ];
    sender.send(OutboundFrame::Headers(head, None)).await.ok()?;
    while !body.is_empty() {
        let piece = body.split_to(body.len().min(BufFactory::MAX_BUF_SIZE));
        let last = body.is_empty();
        sender.send(OutboundFrame::Body(piece, last)).await.ok()?;
    }
    Some(())
}
