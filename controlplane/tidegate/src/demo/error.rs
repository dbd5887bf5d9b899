//! What can go wrong in the demo, each with the place and the mend.

use crate::failure::Failure;
use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why the demo could not go on.
#[derive(Debug)]
pub enum DemoError {
    /// The viewer's film cannot be used.
    Film { file: PathBuf, what: String, mend: &'static str },
    /// A program that the demo starts is missing or ended badly.
    Tool { program: String, what: String, mend: String },
    /// Another process listens where a node should.
    PortTaken { node: String, address: std::net::SocketAddr, holder: Option<String> },
    /// A node ended, or did not answer in time.
    Node { id: String, what: String, log: PathBuf, last_lines: String },
    /// A file or folder could not be read or written.
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    /// An option that makes no sense.
    Option { name: &'static str, what: String },
    /// The person, or the system, asked to stop.
    Stopped,
}

impl DemoError {
    /// An I/O error with the path it happened at.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DemoError {
        let path = path.to_path_buf();
        move |source| DemoError::Io { what, path, source }
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DemoError::Film { file, what, mend } => {
                write!(f, "the film {} cannot be used: {what}. {mend}", file.display())
            }
            DemoError::Tool { program, what, mend } => write!(f, "{program}: {what}. {mend}"),
            DemoError::PortTaken { node, address, holder } => {
                write!(f, "{address} is in use, and node {node} needs it. ")?;
                match holder {
                    Some(holder) => {
                        write!(f, "It is held by {holder}: end that (another demo?) or ")?
                    }
                    None => write!(f, "End what holds it (`ss -ltnup` shows it) or ")?,
                }
                write!(f, "use other addresses with `--net N` (127.N.x.x) or `--pages-port N`.")
            }
            DemoError::Node { id, what, log, last_lines } => {
                write!(f, "node {id}: {what}. Its log is {}", log.display())?;
                if !last_lines.is_empty() {
                    write!(f, "; the last lines:\n{last_lines}")?;
                }
                Ok(())
            }
            DemoError::Io { what, path, .. } => write!(f, "cannot {what} {}", path.display()),
            DemoError::Option { name, what } => write!(f, "option {name}: {what}"),
            DemoError::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for DemoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DemoError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The exit code says whose it is: what was given, or this host.
impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Failure {
        let mut text = error.to_string();
        if let Some(cause) = error.source() {
            text.push_str(&format!(": {cause}"));
        }
        match error {
            DemoError::Film { .. } | DemoError::Option { .. } => Failure::Input(text),
            _ => Failure::Host(text),
        }
    }
}
