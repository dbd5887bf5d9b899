//! One TOML table being read: each key is taken at most once, what is left over is a problem.
//!
//! Must stay true: every key that is taken is remembered with its place, so that later checks can point at
//! it.

use super::values::FromToml;
use super::{At, Compiler};
use crate::check::Object;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) struct Table<'t, 'c, 'a> {
    compiler: &'c mut Compiler<'a>,
    object: Object,
    file: usize,
    offset: usize,
    table: &'t DeTable<'a>,
    /// Keys asked for so far.
    known: Vec<&'static str>,
}

impl<'t, 'c, 'a> Table<'t, 'c, 'a> {
    pub(super) fn new(
        compiler: &'c mut Compiler<'a>,
        object: Object,
        file: usize,
        offset: usize,
        table: &'t DeTable<'a>,
    ) -> Self {
        compiler.places.entry((object, String::new())).or_insert(At { file, offset });
        Table { compiler, object, file, offset, table, known: Vec::new() }
    }

    pub(super) fn compiler(&mut self) -> &mut Compiler<'a> {
        self.compiler
    }

    pub(super) fn object(&self) -> Object {
        self.object
    }

    pub(super) fn file(&self) -> usize {
        self.file
    }

    /// The value of `key`; a value of the wrong kind is a problem and counts as absent.
    pub(super) fn take<T: FromToml>(&mut self, key: &'static str) -> Option<T> {
        let value = self.value(key)?;
        match T::from_toml(value.get_ref()) {
            Ok(value) => Some(value),
            Err(mend) => {
                let what =
                    format!("{key} is {} here", crate::source::values::describe(value.get_ref()));
                self.tell_at(key, value.span().start, what, mend);
                None
            }
        }
    }

    /// The value of a key that must be there; otherwise a problem and a stand-in.
    pub(super) fn need<T: FromToml + Default>(&mut self, key: &'static str, example: &str) -> T {
        let before = self.compiler.diagnostics.len();
        let value = self.take(key);
        if value.is_none() && self.compiler.diagnostics.len() == before {
            self.tell_missing(key, example);
        }
        value.unwrap_or_default()
    }

    /// Replaces `target` when `key` is there.
    pub(super) fn set<T: FromToml>(&mut self, key: &'static str, target: &mut T) {
        if let Some(value) = self.take(key) {
            *target = value;
        }
    }

    /// The inner table `key` and its place.
    pub(super) fn table(&mut self, key: &'static str) -> Option<(usize, &'t DeTable<'a>)> {
        let value = self.value(key)?;
        let inner = value.get_ref().as_table();
        if inner.is_none() {
            self.tell_at(
                key,
                value.span().start,
                format!("{key} is not a table here"),
                format!("write [{key}]"),
            );
        }
        inner.map(|table| (value.span().start, table))
    }

    /// The tables of the list `key`, each with its place.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(usize, &'t DeTable<'a>)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let mend = format!("write [[{key}]] before each of them");
        let Some(array) = value.get_ref().as_array() else {
            self.tell_at(
                key,
                value.span().start,
                format!("{key} is not a list of tables here"),
                mend,
            );
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push((item.span().start, table)),
                None => {
                    self.tell_at(
                        key,
                        item.span().start,
                        format!("{key} holds what is no table"),
                        mend.clone(),
                    );
                }
            }
        }
        tables
    }

    pub(super) fn tell_missing(&mut self, key: &'static str, example: &str) {
        let offset = self.offset;
        self.tell_at(key, offset, format!("{key} is missing"), format!("add {example}"));
    }

    pub(super) fn tell(&mut self, key: &'static str, what: String, mend: &str) {
        let offset =
            self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v.span().start);
        self.tell_at(key, offset.unwrap_or(self.offset), what, mend.to_owned());
    }

    /// A key that there is no more.
    pub(super) fn gone(&mut self, key: &'static str, instead: &str) {
        if self.table.iter().any(|(k, _)| k.get_ref() == key) {
            self.known.push(key);
            self.tell(key, format!("{key} is not read any more"), &format!("write {instead}"));
        }
    }

    pub(super) fn mark_told(&mut self, key: &str) {
        self.compiler.told.insert((self.object, key.to_owned()));
    }

    /// Ends the reading: keys that nobody asked for are problems.
    pub(super) fn finish(self) {
        for (key, _) in self.table.iter() {
            let word: &str = key.get_ref();
            if self.known.contains(&word) {
                continue;
            }
            let mend = match crate::nearest::nearest(word, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            let at = At { file: self.file, offset: key.span().start };
            self.compiler.tell(at, format!("unknown key `{}`", word.escape_default()), mend);
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'a>>> {
        self.known.push(key);
        let table = self.table;
        let (_, value) = table.iter().find(|(k, _)| k.get_ref() == key)?;
        let at = At { file: self.file, offset: value.span().start };
        self.compiler.places.entry((self.object, key.to_owned())).or_insert(at);
        Some(value)
    }

    fn tell_at(&mut self, key: &str, offset: usize, what: String, mend: String) {
        self.mark_told(key);
        self.compiler.tell(At { file: self.file, offset }, what, mend);
    }
}
