//! s2n-quic with the edge's own HTTP/3 frames: the registry has none for it.
//!
//! All is its default (GSO, GRO, discovery of the path's MTU, CUBIC), with rustls for the handshake.

use crate::{Files, Setting};
use bytes::Bytes;
use s2n_quic::provider::tls::rustls;
use s2n_quic::stream::{BidirectionalStream, ReceiveStream};
use std::sync::Arc;
use tidegate_http::Fields;
use tidegate_http3::{
    Connection as Rules, Limits, RequestEvent, RequestReader, Side, encode_data_head,
    encode_response,
};

/// Serves until it is killed.
pub async fn serve(setting: &Setting) -> Result<(), String> {
    let tls = rustls::Server::builder()
        .with_certificate(setting.chain.as_path(), setting.key.as_path())
        .and_then(|tls| tls.with_application_protocols([b"h3"].into_iter()))
        .and_then(|tls| tls.build())
        .map_err(|e| format!("certificate and key: {e}"))?;
    let mut server = s2n_quic::Server::builder()
        .with_tls(tls)
        .map_err(|e| e.to_string())?
        .with_io(setting.address)
        .map_err(|e| e.to_string())?
        .start()
        .map_err(|e| format!("{}: {e}", setting.address))?;
    while let Some(connection) = server.accept().await {
        tokio::spawn(answer_all(connection, Arc::clone(&setting.files)));
    }
    Ok(())
}

async fn answer_all(connection: s2n_quic::Connection, files: Arc<Files>) -> Option<()> {
    let (mut handle, acceptor) = connection.split();
    let (mut requests, mut others) = acceptor.split();
    let mut control = handle.open_send_stream().await.ok()?;
    let mut preamble = Vec::new();
    Rules::new(Side::Server, Limits::REQUEST).preamble(&mut preamble);
    control.send(preamble.into()).await.ok()?;
    tokio::spawn(async move {
        while let Ok(Some(stream)) = others.accept_receive_stream().await {
            tokio::spawn(read(stream));
        }
    });
    while let Ok(Some(stream)) = requests.accept_bidirectional_stream().await {
        tokio::spawn(answer(stream, Arc::clone(&files)));
    }
    // Until here: a control stream that ends would end the connection.
    drop(control);
    Some(())
}

/// The client's own streams say nothing that a file depends on.
async fn read(mut stream: ReceiveStream) {
    while let Ok(Some(_)) = stream.receive().await {}
}

async fn answer(mut stream: BidirectionalStream, files: Arc<Files>) -> Option<()> {
    let mut reader = RequestReader::new(Limits::REQUEST);
    let head = loop {
        let mut chunk = stream.receive().await.ok()??;
        if let Some(RequestEvent::Head(head)) = reader.read(&mut chunk).ok()? {
            break head;
        }
    };
    let body = files.at(head.head.path.as_bytes());
    let (status, body) = body.map_or((404, Bytes::new()), |body| (200, body));
    let mut fields = Fields::new();
    fields.set("content-type", "video/iso.segment").ok()?;
    fields.set("content-length", body.len().to_string()).ok()?;
    let mut front = Vec::new();
    encode_response(status, &fields, &mut front);
    encode_data_head(body.len() as u64, &mut front);
    stream.send_vectored(&mut [front.into(), body]).await.ok()?;
    stream.finish().ok()
}
