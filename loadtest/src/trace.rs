//! The reference trace: requests as viewers make them, each on one line with its virtual time, so that the same day can
//! be replayed against any cache.
//!
//! ```text
//! # tidegate-trace 1
//! # seed=1
//! # ...                                  (every parameter of the recipe, one a line)
//! 0 17 GET /vod/t3/e0/5000k/s0.234210.m4s - 234210 vod
//! 41 90 GET /live/c1/2500k/n0.39120.m4s 0-19559 39120 live
//! ```
//!
//! A line: virtual time in ms, number of the client, method, path, range of bytes (`first-last`, or `-` for all), size
//! of the whole object, class. One space between. The size and the class are in the path too ([`Object`]), so that an
//! origin needs nothing but the path to make the object.
//!
//! Must stay true: times never go back; a path has one size and one class; a file is read and written line by line and
//! never held whole; what is no line is refused with its number.

pub mod make;
pub mod model;
mod object;
pub mod origin;
pub mod random;
pub mod recipe;
pub mod replay;

pub use object::{CLASSES, Class, Object};

use std::fmt;
use std::io::{self, BufRead, Read, Write};

/// First line of a file.
pub const FIRST_LINE: &str = "# tidegate-trace 1";
/// Bytes of a line: far more than a path of the generator takes.
pub const LINE_BYTES_MAX: u64 = 4096;

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Virtual time.
    pub at_ms: u64,
    pub client: u64,
    pub path: String,
    /// First and last byte, both inside the object; `None`: all of it.
    pub range: Option<(u64, u64)>,
    /// What the path says.
    pub object: Object,
}

impl Line {
    /// Body bytes of the answer.
    pub fn body_bytes(&self) -> u64 {
        self.range.map_or(self.object.size, |(first, last)| last - first + 1)
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// Which word is wrong.
    pub fn parse(text: &str) -> Result<Line, LineError> {
        let mut words = text.split(' ');
        let mut word = |what| words.next().ok_or(LineError(what));
        let at_ms = number(word("time")?, "time")?;
        let client = number(word("client")?, "client")?;
        if word("method")? != "GET" {
            return Err(LineError("method"));
        }
        let path = word("path")?;
        let object = Object::parse(path).ok_or(LineError("path"))?;
        let range = match word("range")? {
            "-" => None,
            text => {
                let (first, last) = text.split_once('-').ok_or(LineError("range"))?;
                let (first, last) = (number(first, "range")?, number(last, "range")?);
                if first > last || last >= object.size {
                    return Err(LineError("range"));
                }
                Some((first, last))
            }
        };
        if number(word("size")?, "size")? != object.size {
            return Err(LineError("size"));
        }
        if Class::parse(word("class")?) != Some(object.class) {
            return Err(LineError("class"));
        }
        if words.next().is_some() {
            return Err(LineError("end"));
        }
        Ok(Line { at_ms, client, path: path.to_owned(), range, object })
    }
}

fn number(text: &str, what: &'static str) -> Result<u64, LineError> {
    text.parse().map_err(|_| LineError(what))
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} GET {} ", self.at_ms, self.client, self.path)?;
        match self.range {
            None => f.write_str("-")?,
            Some((first, last)) => write!(f, "{first}-{last}")?,
        }
        write!(f, " {} {}", self.object.size, self.object.class)
    }
}

/// Which word of a line is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineError(pub &'static str);

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the {} is wrong; a line is `ms client GET path range size class`, as `tidegate-load trace make` writes it",
            self.0
        )
    }
}

impl std::error::Error for LineError {}

/// Why a trace cannot be read on.
#[derive(Debug)]
pub enum TraceError {
    Io(io::Error),
    NotATrace,
    /// Number of the line, from 1.
    Line(u64, LineError),
    TooLong(u64),
    /// The time is before that of the line above.
    Backwards(u64),
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceError::Io(error) => write!(f, "the trace cannot be read: {error}"),
            TraceError::NotATrace => {
                write!(f, "this is no trace: its first line is not `{FIRST_LINE}`")
            }
            TraceError::Line(number, error) => write!(f, "line {number}: {error}"),
            TraceError::TooLong(number) => {
                write!(f, "line {number} is longer than {LINE_BYTES_MAX} bytes")
            }
            TraceError::Backwards(number) => {
                write!(f, "line {number}: its time is before that of the line above; sort by time")
            }
        }
    }
}

impl std::error::Error for TraceError {}

/// Reads a trace line by line.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    text: Vec<u8>,
    number: u64,
    at_ms: u64,
}

impl<R: BufRead> Reader<R> {
    /// At the start of a file.
    ///
    /// # Errors
    /// It is no trace.
    pub fn new(input: R) -> Result<Reader<R>, TraceError> {
        let mut reader = Reader { input, text: Vec::new(), number: 0, at_ms: 0 };
        if reader.next_text()? && reader.text == FIRST_LINE.as_bytes() {
            Ok(reader)
        } else {
            Err(TraceError::NotATrace)
        }
    }

    /// The next text line, without its end, into `text`; false at the end of the file.
    fn next_text(&mut self) -> Result<bool, TraceError> {
        self.text.clear();
        self.number += 1;
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX + 1);
        let count = limited.read_until(b'\n', &mut self.text).map_err(TraceError::Io)?;
        if self.text.last() == Some(&b'\n') {
            self.text.pop();
        } else if count as u64 > LINE_BYTES_MAX {
            return Err(TraceError::TooLong(self.number));
        }
        Ok(count > 0)
    }

    /// The next request; `None` at the end of the file.
    ///
    /// # Errors
    /// The line is wrong, or cannot be read.
    pub fn next_line(&mut self) -> Result<Option<Line>, TraceError> {
        while self.next_text()? {
            if self.text.is_empty() || self.text[0] == b'#' {
                continue;
            }
            let text = std::str::from_utf8(&self.text)
                .map_err(|_| TraceError::Line(self.number, LineError("encoding")))?;
            let line = Line::parse(text).map_err(|e| TraceError::Line(self.number, e))?;
            if line.at_ms < self.at_ms {
                return Err(TraceError::Backwards(self.number));
            }
            self.at_ms = line.at_ms;
            return Ok(Some(line));
        }
        Ok(None)
    }
}

/// Writes a whole trace: the header with the recipe, then line after line.
///
/// # Errors
/// Those of the output.
pub fn write(recipe: &recipe::Recipe, out: &mut impl Write) -> io::Result<make::Made> {
    writeln!(out, "{FIRST_LINE}")?;
    for (name, value) in recipe.parameters() {
        writeln!(out, "# {name}={value}")?;
    }
    let mut generator = make::Generator::new(recipe.clone());
    for line in generator.by_ref() {
        writeln!(out, "{line}")?;
    }
    Ok(generator.made())
}

#[cfg(test)]
mod tests;
