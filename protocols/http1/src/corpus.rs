//! The corpus of malformed requests: one text file that unit tests and the end-to-end test both replay.
//!
//! Form of the file: one case per line, three columns parted by `" | "`: name, statuses that may be answered
//! (`400` or `400/501`; `ok` for well-formed requests that must be taken), bytes. Escapes in the bytes: `\r`
//! `\n` `\t` `\0` `\\` `\xNN`, and `\{COUNT*TEXT}` for repetition (no nesting, escapes allowed in TEXT).
//! Lines that start with `#` and empty lines are notes. Must stay true: names are unique.

/// The text of `tests/corpus/malformed.txt`.
pub const MALFORMED: &str = include_str!("../tests/corpus/malformed.txt");

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    /// Statuses that may be answered, each followed by a close; empty: the request is well-formed.
    pub statuses: Vec<u16>,
    pub bytes: Vec<u8>,
}

/// Reads a corpus text.
///
/// # Errors
/// The number of the first line that has not the form above, and why.
pub fn load(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |what: &str| format!("line {} of the corpus: {what}", index + 1);
        let mut columns = line.splitn(3, " | ");
        let (Some(name), Some(statuses), Some(bytes)) =
            (columns.next(), columns.next(), columns.next())
        else {
            return Err(at("three columns parted by ' | ' are needed"));
        };
        let statuses = match statuses.trim() {
            "ok" => Vec::new(),
            list => list
                .split('/')
                .map(|code| code.parse::<u16>().map_err(|_| at("a status is a number or 'ok'")))
                .collect::<Result<_, _>>()?,
        };
        let bytes = unescape(bytes).ok_or_else(|| at("an escape is unknown or not complete"))?;
        let name = name.trim().to_owned();
        if cases.iter().any(|case| case.name == name) {
            return Err(at("the name was used before"));
        }
        cases.push(Case { name, statuses, bytes });
    }
    Ok(cases)
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let kind = rest.chars().next()?;
        rest = &rest[kind.len_utf8()..];
        match kind {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '0' => out.push(0),
            '\\' => out.push(b'\\'),
            'x' => {
                out.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
                rest = &rest[2..];
            }
            '{' => {
                let (inside, after) = rest.split_once('}')?;
                let (count, part) = inside.split_once('*')?;
                let part = unescape(part)?;
                let count: usize = count.parse().ok()?;
                if count.checked_mul(part.len())? > REPEATED_BYTES_MAX {
                    return None;
                }
                out.extend(part.iter().copied().cycle().take(count * part.len()));
                rest = after;
            }
            _ => return None,
        }
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

/// No case needs more than the largest limit of a head many times over.
const REPEATED_BYTES_MAX: usize = 4 * 1024 * 1024;
