//! The signed file that a snapshot travels in, and the keys that sign it.
//!
//! Must stay true: [`verify`] gives out a snapshot only when every byte of the file is covered by a signature
//! of a trusted key and [`crate::check`] finds nothing wrong in it; any other file is an [`EnvelopeError`]
//! that says what to do. There is exactly one way to write a given header, so no two files differ and mean
//! the same.
//!
//! Byte map: six lines, each ended by one LF, then the payload and nothing after it.
//! ```text
//! tidegate-snapshot 1
//! generation 7
//! bytes 5120
//! sha256 <64 hex digits of the payload's hash>
//! key <16 hex digits: the signer's key id>
//! signature <128 hex digits: Ed25519 over a domain word, the five lines above, and the payload>
//! {"schema":1,"generation":7, ...}
//! ```

use crate::snapshot::Snapshot;
use aws_lc_rs::{
    digest,
    rand::{self, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::Deserialize;
use std::fmt;

/// The key that publishes snapshots.
pub struct SigningKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

/// A key whose snapshots are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// Why a snapshot file was refused. `Display` says what is wrong and how to mend it.
#[derive(Debug)]
pub enum EnvelopeError {
    /// Does not begin as a snapshot file, or its header is not as this program writes it.
    Header { line: usize, what: &'static str },
    /// A file format of a later release.
    Format(String),
    /// Larger than [`SNAPSHOT_BYTES_MAX`].
    TooLarge(usize),
    /// The payload is shorter or longer than the header says.
    Length { said: usize, found: usize },
    /// The payload's hash is not the header's.
    Hash,
    /// Signed by a key that is not trusted here.
    UnknownKey { signer: String, trusted: Vec<String> },
    /// The signature does not fit.
    Signature { signer: String },
    /// A schema of a later release.
    Schema { found: u32 },
    /// Signed, but not a snapshot.
    Payload(serde_json::Error),
    /// Signed, but its parts do not fit together.
    Content(Vec<crate::check::Problem>),
}

/// A key file or a new key that did not work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(pub &'static str);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for KeyError {}

impl SigningKey {
    /// A new key from the system's random source.
    pub fn generate() -> Result<SigningKey, KeyError> {
        let mut seed = [0u8; 32];
        rand::SecureRandom::fill(&SystemRandom::new(), &mut seed)
            .map_err(|_| KeyError("the system's random source failed; try again"))?;
        SigningKey::from_seed(seed)
    }

    /// Reads what [`SigningKey::to_text`] wrote.
    pub fn from_text(text: &str) -> Result<SigningKey, KeyError> {
        let seed =
            text.strip_prefix(SIGNING_KEY_HEAD).and_then(|rest| crate::hex::decode(rest.trim()));
        SigningKey::from_seed(
            seed.ok_or(KeyError(
                "not a signing key; give the file `signing.key` that keygen wrote",
            ))?,
        )
    }

    fn from_seed(seed: [u8; 32]) -> Result<SigningKey, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| {
            KeyError("the signing key is damaged; make a new one and trust it everywhere")
        })?;
        Ok(SigningKey { seed, pair })
    }

    /// The text of the key file. Keep it secret.
    pub fn to_text(&self) -> String {
        format!("{SIGNING_KEY_HEAD}{}\n", crate::hex::encode(&self.seed))
    }

    /// The half that verifies.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0u8; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, secret not shown)", self.public().id())
    }
}

impl PublicKey {
    /// Short name of the key: the first 8 bytes of its SHA-256, in hexadecimal.
    pub fn id(&self) -> String {
        crate::hex::encode(&digest::digest(&digest::SHA256, &self.0).as_ref()[..8])
    }

    /// The text of a trust file: one key per line, so that a new key can be trusted before the old one goes.
    pub fn list_to_text(keys: &[PublicKey]) -> String {
        let mut text = String::from(TRUST_HEAD);
        for key in keys {
            text.push_str(&crate::hex::encode(&key.0));
            text.push('\n');
        }
        text
    }

    /// Reads a trust file. Empty lines and lines that begin with `#` are left out.
    pub fn list_from_text(text: &str) -> Result<Vec<PublicKey>, KeyError> {
        let rest = text
            .strip_prefix(TRUST_HEAD)
            .ok_or(KeyError("not a trust file; give the file `trust.pub` that keygen wrote"))?;
        let lines =
            rest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Option<Vec<PublicKey>> =
            lines.map(|line| crate::hex::decode(line).map(PublicKey)).collect();
        match keys {
            Some(keys) if !keys.is_empty() => Ok(keys),
            Some(_) => Err(KeyError("the trust file names no key; copy one out of `trust.pub`")),
            None => {
                Err(KeyError("a key in the trust file is not 64 hexadecimal digits; copy it again"))
            }
        }
    }
}

/// A random 32-byte key for heartbeats, in hexadecimal.
pub fn random_key_hex() -> Result<String, KeyError> {
    let mut key = [0u8; 32];
    rand::SecureRandom::fill(&SystemRandom::new(), &mut key)
        .map_err(|_| KeyError("the system's random source failed; try again"))?;
    Ok(crate::hex::encode(&key))
}

/// The file for `snapshot`. Does not check it: that is the work of [`crate::check`] before and `verify`
/// after.
pub fn sign(snapshot: &Snapshot, key: &SigningKey) -> Vec<u8> {
    let payload = serde_json::to_vec(snapshot)
        .expect("a snapshot has only string keys and derived serialisers");
    let hash = crate::hex::encode(digest::digest(&digest::SHA256, &payload).as_ref());
    let header = header_text(snapshot.generation, payload.len(), &hash, &key.public().id());
    let signature = key.pair.sign(&signed_bytes(&header, &payload));
    let mut file = header.into_bytes();
    file.extend_from_slice(
        format!("signature {}\n", crate::hex::encode(signature.as_ref())).as_bytes(),
    );
    file.extend_from_slice(&payload);
    file
}

/// Opens a snapshot file.
///
/// # Errors
/// [`EnvelopeError`] when it is cut, altered, signed by another key, of a later release, or not consistent.
pub fn verify(bytes: &[u8], trusted: &[PublicKey]) -> Result<Snapshot, EnvelopeError> {
    let file = Parts::read(bytes)?;
    let Some(key) = trusted.iter().find(|key| key.id() == file.signer) else {
        return Err(EnvelopeError::UnknownKey {
            signer: file.signer.chars().take(16).collect(),
            trusted: trusted.iter().map(PublicKey::id).collect(),
        });
    };
    UnparsedPublicKey::new(&ED25519, key.0)
        .verify(&signed_bytes(&file.header, file.payload), &file.signature)
        .map_err(|_| EnvelopeError::Signature { signer: file.signer.to_owned() })?;
    open_payload(file.payload, file.generation)
}

/// Opens a snapshot file to look at it, whoever signed it; gives the key id that it names. Nothing may run on
/// this.
///
/// # Errors
/// As [`verify`], but for the signature, which is not looked at.
pub fn inspect(bytes: &[u8]) -> Result<(Snapshot, String), EnvelopeError> {
    let file = Parts::read(bytes)?;
    Ok((open_payload(file.payload, file.generation)?, file.signer.escape_default().to_string()))
}

/// A file taken apart, its header as this program writes it, its length and hash right.
struct Parts<'a> {
    header: String,
    generation: u64,
    signer: &'a str,
    signature: [u8; 64],
    payload: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Result<Parts<'a>, EnvelopeError> {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(EnvelopeError::TooLarge(bytes.len()));
        }
        let mut lines = Lines { rest: bytes, line: 0 };
        let format = lines.field("tidegate-snapshot ")?;
        if format != "1" {
            return Err(EnvelopeError::Format(format.chars().take(20).collect()));
        }
        let generation: u64 =
            lines.field("generation ")?.parse().map_err(|_| lines.wrong("not a number"))?;
        let length: usize =
            lines.field("bytes ")?.parse().map_err(|_| lines.wrong("not a number"))?;
        let hash = lines.field("sha256 ")?;
        let signer = lines.field("key ")?;
        let head_end = bytes.len() - lines.rest.len();
        let signature_text = lines.field("signature ")?;
        let signature: [u8; 64] = crate::hex::decode(signature_text)
            .ok_or_else(|| lines.wrong("a signature has 128 hexadecimal digits"))?;
        let payload = lines.rest;
        if payload.len() != length {
            return Err(EnvelopeError::Length { said: length, found: payload.len() });
        }
        if crate::hex::encode(digest::digest(&digest::SHA256, payload).as_ref()) != hash {
            return Err(EnvelopeError::Hash);
        }
        // Numbers and hexadecimal digits have several spellings; only ours is taken.
        let header = header_text(generation, length, hash, signer);
        if header.as_bytes() != &bytes[..head_end]
            || crate::hex::encode(&signature) != signature_text
        {
            return Err(EnvelopeError::Header {
                line: 1,
                what: "not written as this program writes it",
            });
        }
        Ok(Parts { header, generation, signer, signature, payload })
    }
}

/// Reads the schema number first: a later schema shall be named as such, not as a missing field.
fn open_payload(payload: &[u8], generation: u64) -> Result<Snapshot, EnvelopeError> {
    #[derive(Deserialize)]
    struct SchemaOnly {
        schema: u32,
    }
    let SchemaOnly { schema } = serde_json::from_slice(payload).map_err(EnvelopeError::Payload)?;
    if schema != crate::SCHEMA {
        return Err(EnvelopeError::Schema { found: schema });
    }
    let snapshot: Snapshot = serde_json::from_slice(payload).map_err(EnvelopeError::Payload)?;
    let problems = crate::check::check(&snapshot);
    if !problems.is_empty() {
        return Err(EnvelopeError::Content(problems));
    }
    if snapshot.generation != generation {
        return Err(EnvelopeError::Header {
            line: 2,
            what: "another generation than the payload's",
        });
    }
    Ok(snapshot)
}

fn header_text(generation: u64, length: usize, hash: &str, signer: &str) -> String {
    format!(
        "tidegate-snapshot 1\ngeneration {generation}\nbytes {length}\nsha256 {hash}\nkey {signer}\n"
    )
}

/// The domain word keeps a signature over a snapshot from being taken for one over anything else.
fn signed_bytes(header: &str, payload: &[u8]) -> Vec<u8> {
    [b"tidegate snapshot signature v1\0".as_slice(), header.as_bytes(), payload].concat()
}

struct Lines<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Lines<'a> {
    fn field(&mut self, name: &'static str) -> Result<&'a str, EnvelopeError> {
        self.line += 1;
        // The longest line is the signature's; looking no further keeps a huge file of one line cheap.
        let end = self.rest.iter().take(HEADER_LINE_BYTES_MAX).position(|b| *b == b'\n');
        let (line, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => {
                return Err(self.wrong("the file ends inside its header, or is no snapshot file"));
            }
        };
        let text = std::str::from_utf8(line).map_err(|_| self.wrong("not text"))?;
        let value =
            text.strip_prefix(name).ok_or_else(|| self.wrong("not the line expected here"))?;
        self.rest = rest;
        Ok(value)
    }

    fn wrong(&self, what: &'static str) -> EnvelopeError {
        EnvelopeError::Header { line: self.line, what }
    }
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const COPY: &str = "copy the file again from where it was built";
        match self {
            EnvelopeError::Header { line, what } => {
                write!(f, "line {line} of the header: {what}; {COPY}")
            }
            EnvelopeError::Format(found) => {
                write!(
                    f,
                    "file format `{}` is unknown here; update this program first",
                    found.escape_default()
                )
            }
            EnvelopeError::TooLarge(size) => {
                write!(
                    f,
                    "{size} bytes are more than a snapshot may have ({SNAPSHOT_BYTES_MAX}); {COPY}"
                )
            }
            EnvelopeError::Length { said, found } if found < said => {
                write!(f, "cut: {found} of {said} bytes are there; {COPY}")
            }
            EnvelopeError::Length { said, found } => {
                write!(f, "{found} bytes follow the header, which says {said}; {COPY}")
            }
            EnvelopeError::Hash => {
                write!(f, "altered: the payload's hash is not the header's; {COPY}")
            }
            EnvelopeError::UnknownKey { signer, trusted } => write!(
                f,
                "signed by key {}, trusted here: {}; add the signer to the trust file, \
                 or build with a trusted key",
                signer.escape_default(),
                trusted.join(", ")
            ),
            EnvelopeError::Signature { signer } => {
                write!(f, "altered: the signature of key {signer} does not fit; {COPY}")
            }
            EnvelopeError::Schema { found } => write!(
                f,
                "schema {found}, this program knows {}; run the same release where it is built and used",
                crate::SCHEMA
            ),
            EnvelopeError::Payload(_) => f.write_str(
                "the payload is no snapshot; build it with the same release as this program",
            ),
            EnvelopeError::Content(problems) => {
                f.write_str("its parts do not fit together; mend the source and build it again")?;
                problems.iter().take(10).try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for EnvelopeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EnvelopeError::Payload(error) => Some(error),
            _ => None,
        }
    }
}

/// Bytes of a snapshot file: 1 M coverage prefixes take about 60 MB as JSON.
pub const SNAPSHOT_BYTES_MAX: usize = 128 * 1024 * 1024;
const HEADER_LINE_BYTES_MAX: usize = 256;
const SIGNING_KEY_HEAD: &str = "tidegate-signing-key 1\n";
const TRUST_HEAD: &str = "tidegate-trust 1\n";
