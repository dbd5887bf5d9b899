//! How a command fails, and its exit code: 1 what was given is wrong (a source tree, a snapshot, a key), 2
//! the command line is wrong (by clap), 3 this host is in the way (a file, a port).

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug)]
pub enum Failure {
    /// What was given is wrong; the text says what and how to mend it.
    Input(String),
    /// This host is in the way.
    Host(String),
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Input(_) => ExitCode::from(1),
            Failure::Host(_) => ExitCode::from(3),
        }
    }

    /// A file that cannot be read or written.
    pub fn file(path: &Path, error: &std::io::Error) -> Failure {
        Failure::Host(format!("{}: {error}; check the path and its permissions", path.display()))
    }

    /// A file whose content is wrong.
    pub fn content(path: &Path, error: impl fmt::Display) -> Failure {
        Failure::Input(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Input(text) | Failure::Host(text)) = self;
        f.write_str(text)
    }
}
