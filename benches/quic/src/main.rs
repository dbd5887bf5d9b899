//! HTTP/3 servers of the crate registry: the files of one folder, from memory, one thread.
//!
//! `tidegate-bench-quic s2n|quiche IP:PORT CHAIN KEY FOLDER`. Each is set up as its own documents show, and then given
//! what helps it here: datagrams up to the path's MTU as the edge sends, bodies that are not copied on our side of its
//! interface, no log. `s2n` is s2n-quic with the edge's own HTTP/3 frames, for it has none in the registry; `quiche` is
//! tokio-quiche with its own.
#![forbid(unsafe_code)]

mod quiche;
mod s2n;

use bytes::Bytes;
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

/// What a server is given.
pub struct Setting {
    pub address: SocketAddr,
    pub chain: PathBuf,
    pub key: PathBuf,
    pub files: Arc<Files>,
}

/// Bodies by path.
pub struct Files(HashMap<Vec<u8>, Bytes>);

impl Files {
    fn read(folder: &Path) -> Result<Files, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
        let mut files = HashMap::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_file() {
                let path = format!("/{}", entry.file_name().to_string_lossy());
                files.insert(
                    path.into_bytes(),
                    Bytes::from(fs::read(entry.path()).map_err(failed)?),
                );
            }
        }
        Ok(Files(files))
    }

    /// The body at this path; `None` is a 404.
    pub fn at(&self, path: &[u8]) -> Option<Bytes> {
        self.0.get(path).cloned()
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match start(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("tidegate-bench-quic: {message}");
            ExitCode::FAILURE
        }
    }
}

fn start(words: &[String]) -> Result<(), String> {
    let [server, address, chain, key, folder] = words else {
        return Err("five words: s2n or quiche, IP:PORT, certificate chain, key, folder".to_owned());
    };
    let setting = Rc::new(Setting {
        address: address.parse().map_err(|e| format!("{address} is no IP:PORT: {e}"))?,
        chain: chain.into(),
        key: key.into(),
        files: Arc::new(Files::read(Path::new(folder))?),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("this host gives no runtime: {e}"))?;
    match server.as_str() {
        "s2n" => runtime.block_on(s2n::serve(&setting)),
        "quiche" => runtime.block_on(quiche::serve(&setting)),
        other => Err(format!("there is no server {other}: s2n or quiche")),
    }
}
