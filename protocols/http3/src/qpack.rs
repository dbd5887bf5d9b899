//! Field sections with the static table alone (RFC 9204 with a dynamic table of capacity 0).
//!
//! Must stay true: what comes out is counted line by line against the limits, so that no few bytes become
//! many; an instruction or a reference that needs the dynamic table is an error, since we allowed none.

mod instructions;
mod table;

pub(crate) use instructions::{DecoderStream, EncoderStream};
pub(crate) use table::{Found, find};
pub use tidegate_http::huffman;

use crate::Limits;
use crate::error::{Code, Error};
use bytes::Bytes;
use std::ops::Range;
use tidegate_http::prefix as integer;

/// One field line of a decoded section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    name: Text,
    value: Text,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Text {
    Static(&'static str),
    /// A range of the section's bytes.
    Own(Range<usize>),
}

/// A decoded section: its lines in order, over one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    bytes: Bytes,
    lines: Vec<Line>,
}

/// A name as it was sent.
pub(crate) enum Name<'a> {
    Static(&'static str),
    Own(&'a [u8]),
}

impl Name<'_> {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Static(name) => name.as_bytes(),
            Name::Own(name) => name,
        }
    }
}

/// RFC 9114 §4.2.2: what each line costs beside its bytes.
pub(crate) const LINE_OVERHEAD_BYTES: usize = 32;

impl Section {
    /// Decodes the payload of a HEADERS frame.
    ///
    /// # Errors
    /// The connection's when it is no field section without a dynamic table, the stream's when it is too large.
    pub fn decode(block: &[u8], limits: &Limits) -> Result<Section, Error> {
        let mut rest = block;
        let wrong = Err(Error::connection(
            Code::QPACK_DECOMPRESSION_FAILED,
            "a field section needs a dynamic table",
        ));
        // Required Insert Count is 0, and then a negative Base does not exist (RFC 9204 §4.5.1).
        let (_, required) = integer::decode(&mut rest, 8).ok_or(CUT)?;
        let (sign, _base) = integer::decode(&mut rest, 7).ok_or(CUT)?;
        if required != 0 || sign != 0 {
            return wrong;
        }
        let mut bytes = Vec::with_capacity(block.len() * 2);
        let mut lines = Vec::with_capacity(16);
        let mut size = 0usize;
        while let Some(first) = rest.first() {
            let line = match first >> 4 {
                // Indexed, static.
                0b1100..=0b1111 => {
                    let (_, index) = integer::decode(&mut rest, 6).ok_or(CUT)?;
                    let (name, value) = table::get(index).ok_or(NO_ENTRY)?;
                    Line { name: Text::Static(name), value: Text::Static(value) }
                }
                // Literal with a static name; the second bit says that it is never to be indexed.
                0b0101 | 0b0111 => {
                    let (_, index) = integer::decode(&mut rest, 4).ok_or(CUT)?;
                    let (name, _) = table::get(index).ok_or(NO_ENTRY)?;
                    let value = string(&mut rest, 7, &mut bytes)?;
                    Line { name: Text::Static(name), value }
                }
                0b0010 | 0b0011 => {
                    let name = string(&mut rest, 3, &mut bytes)?;
                    let value = string(&mut rest, 7, &mut bytes)?;
                    Line { name, value }
                }
                _ => return wrong,
            };
            size = size.saturating_add(line.name.len() + line.value.len() + LINE_OVERHEAD_BYTES);
            if size > limits.section_bytes_max {
                return Err(Error::excess(431, "the field section is too large"));
            }
            if lines.len() == limits.fields_max {
                return Err(Error::excess(431, "too many fields"));
            }
            lines.push(line);
        }
        Ok(Section { bytes: bytes.into(), lines })
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (self.text(&line.name), self.text(&line.value)))
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (Name<'_>, Bytes)> {
        self.lines.iter().map(|line| {
            let name = match &line.name {
                Text::Static(name) => Name::Static(name),
                Text::Own(range) => Name::Own(&self.bytes[range.clone()]),
            };
            let value = match &line.value {
                Text::Static(value) => Bytes::from_static(value.as_bytes()),
                Text::Own(range) => self.bytes.slice(range.clone()),
            };
            (name, value)
        })
    }

    fn text<'a>(&'a self, text: &'a Text) -> &'a [u8] {
        match text {
            Text::Static(text) => text.as_bytes(),
            Text::Own(range) => &self.bytes[range.clone()],
        }
    }
}

impl Text {
    fn len(&self) -> usize {
        match self {
            Text::Static(text) => text.len(),
            Text::Own(range) => range.len(),
        }
    }
}

const CUT: Error =
    Error::connection(Code::QPACK_DECOMPRESSION_FAILED, "a field section ends inside a line");
const NO_ENTRY: Error =
    Error::connection(Code::QPACK_DECOMPRESSION_FAILED, "the static table has no such entry");

/// A string whose length has this many bits of prefix, with the Huffman flag in front of them.
fn string(rest: &mut &[u8], prefix: u8, bytes: &mut Vec<u8>) -> Result<Text, Error> {
    let (flags, length) = integer::decode(rest, prefix).ok_or(CUT)?;
    let length = usize::try_from(length).ok().filter(|n| *n <= rest.len()).ok_or(CUT)?;
    let (coded, after) = rest.split_at(length);
    *rest = after;
    let start = bytes.len();
    if flags & 1 == 0 {
        bytes.extend_from_slice(coded);
    } else {
        huffman::decode(coded, bytes).ok_or(Error::connection(
            Code::QPACK_DECOMPRESSION_FAILED,
            "a string is no Huffman code",
        ))?;
    }
    Ok(Text::Own(start..bytes.len()))
}

/// Appends what stands before the lines of a section.
pub fn encode_prefix(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
}

/// Appends one line. `name` is lower case.
pub fn encode_line(name: &str, value: &[u8], out: &mut Vec<u8>) {
    match find(name, value) {
        Found::Line(index) => integer::encode(0b11, 6, u64::from(index), out),
        Found::Name(index) => {
            // RFC 9204 §7.1.3: what an attacker might guess piece by piece is never to be indexed.
            let flags = if is_secret(name) { 0b0111 } else { 0b0101 };
            integer::encode(flags, 4, u64::from(index), out);
            encode_string(0, 7, value, out);
        }
        Found::Nothing => {
            encode_string(0b001 << 1 | u64::from(is_secret(name)), 3, name.as_bytes(), out);
            encode_string(0, 7, value, out);
        }
    }
}

fn is_secret(name: &str) -> bool {
    matches!(name, "authorization" | "cookie" | "proxy-authorization" | "set-cookie")
}

/// `flags` stand before the Huffman flag.
fn encode_string(flags: u64, prefix: u8, text: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        integer::encode(flags << 1 | 1, prefix, coded as u64, out);
        out.reserve(coded);
        huffman::encode(text, out);
    } else {
        integer::encode(flags << 1, prefix, text.len() as u64, out);
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests;
