//! What a client says before anything is agreed on: the name that it asks for, by which a server chooses how to go on.

use crate::error::TlsError;
use rustls::server::Acceptor;

/// The beginning of a connection.
#[derive(Debug, PartialEq)]
pub enum Hello {
    /// Not whole yet.
    Part,
    /// The name in lower case, if it gave one (RFC 6066 §3).
    Asks(Option<String>),
    /// It is none; the alert that says so.
    Refused(TlsError, Vec<u8>),
}

/// Looks at the first bytes of a connection. The session is given all of them again.
pub fn look_at_hello(mut bytes: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        match acceptor.read_tls(&mut bytes) {
            Ok(1..) => {}
            Ok(0) | Err(_) => break, // as much as it may be
        }
    }
    match acceptor.accept() {
        Ok(None) => Hello::Part,
        Ok(Some(hello)) => {
            Hello::Asks(hello.client_hello().server_name().map(str::to_ascii_lowercase))
        }
        Err((error, mut alert)) => {
            let mut out = Vec::new();
            // Into memory; what it holds is a few bytes.
            while let Ok(1..) = alert.write(&mut out) {}
            if out.is_empty() {
                // A record of its own: alert, TLS 1.2 (RFC 8446 §5.1), fatal, unexpected_message.
                out.extend([21, 3, 3, 0, 2, 2, 10]);
            }
            Hello::Refused(error.into(), out)
        }
    }
}
