//! HPACK (RFC 7541): blocks of a client's fields out of the table that both keep; our own fields without one.
//!
//! Must stay true: a block is read to its end whatever it holds, so that the table stays the client's; what it unpacks to is
//! counted line by line, and beyond the limits nothing of it is kept.

mod dynamic;
mod encode;
mod table;
#[cfg(test)]
mod tests;

pub use encode::{
    FieldWriter, encode_length, encode_status, encode_table_size_0, is_of_one_connection,
};

use crate::FIELDS_BYTES_MAX;
use crate::error::{Code, Error};
use crate::scratch::Scratch;
use dynamic::Dynamic;
use tidegate_http::{huffman, prefix};

/// What is left of the client's table between blocks.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Dynamic,
}

/// Copied for one block, before the connection is ended instead of the request refused.
const UNPACKED_BYTES_MAX: usize = 8 * FIELDS_BYTES_MAX;

const CUT: Error = wrong("a block ends inside of a field");

const fn wrong(what: &'static str) -> Error {
    Error::new(Code::COMPRESSION_ERROR, what)
}

impl Decoder {
    /// Reads a block into an empty scratch.
    ///
    /// # Errors
    /// The connection's: it is no block, or the client's table is not ours any more.
    pub fn decode(&mut self, block: &[u8], into: &mut Scratch) -> Result<(), Error> {
        into.clear();
        let mut rest = block;
        let mut may_resize = true;
        while let Some(first) = rest.first() {
            match first {
                // §6.1.
                0x80.. => {
                    let (_, index) = prefix::decode(&mut rest, 7).ok_or(CUT)?;
                    self.indexed(index, into)?;
                }
                // §6.2.1.
                0x40.. => {
                    let (name, value) = self.literal(&mut rest, 6, into)?;
                    self.table.insert(name, value);
                    into.line_came();
                    bounded(into)?;
                }
                // §6.3; at the begin of a block alone (§4.2).
                0x20.. => {
                    let (_, size) = prefix::decode(&mut rest, 5).ok_or(CUT)?;
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    if !may_resize || !self.table.resize(size) {
                        return Err(wrong("a table of a size that may not be"));
                    }
                    continue;
                }
                // §6.2.2, §6.2.3.
                _ => {
                    self.literal(&mut rest, 4, into)?;
                    into.line_came();
                    bounded(into)?;
                }
            }
            may_resize = false;
        }
        Ok(())
    }

    fn indexed(&self, index: u64, into: &mut Scratch) -> Result<(), Error> {
        let (name, value) = self.entry(index)?;
        into.put(name, value);
        Ok(())
    }

    /// §2.3.3: the static entries first.
    fn entry(&self, index: u64) -> Result<(&[u8], &[u8]), Error> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let found = match index.checked_sub(table::ENTRIES + 1) {
            Some(dynamic) => self.table.get(dynamic),
            None => table::get(index),
        };
        found.ok_or(wrong("a field that no table has"))
    }

    /// Name and value stand at the scratch's end; it is not a line yet.
    fn literal<'a>(
        &self,
        rest: &mut &[u8],
        bits: u8,
        into: &'a mut Scratch,
    ) -> Result<(&'a [u8], &'a [u8]), Error> {
        let (_, index) = prefix::decode(rest, bits).ok_or(CUT)?;
        match index {
            0 => string(rest, into.tail())?,
            index => {
                let (name, _) = self.entry(index)?;
                into.tail().extend_from_slice(name);
            }
        }
        into.name_ends();
        string(rest, into.tail())?;
        Ok(into.last())
    }

    /// Bytes that the table holds, as RFC 7541 §4.1 counts them.
    pub fn table_bytes(&self) -> usize {
        self.table.size()
    }
}

/// A few bytes name a long name again and again: what it costs to follow the table has an end, too.
fn bounded(into: &Scratch) -> Result<(), Error> {
    match into.unpacked() > UNPACKED_BYTES_MAX {
        true => Err(Error::flood("a block that unpacks to much")),
        false => Ok(()),
    }
}

/// §5.2.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (huffman, len) = prefix::decode(rest, 7).ok_or(CUT)?;
    let len = usize::try_from(len).ok().filter(|len| *len <= rest.len()).ok_or(CUT)?;
    let (text, after) = rest.split_at(len);
    *rest = after;
    match huffman {
        0 => out.extend_from_slice(text),
        _ => huffman::decode(text, out).ok_or(wrong("a string is no Huffman code"))?,
    }
    Ok(())
}
