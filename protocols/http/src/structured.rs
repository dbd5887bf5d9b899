//! Structured fields (RFC 9651), as far as this project reads them: lists of strings, and dictionaries of
//! directives.
//!
//! Must stay true: a field that breaks the rules anywhere says nothing at all (RFC 9651 §4.2).

use crate::fields::Fields;
use sfv::{BareItem, Dictionary, Item, List, ListEntry, Parser};

/// A member of a dictionary, without its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    String(String),
    /// A value of a type that no directive has.
    Other,
}

/// The dictionary that all fields of this name make together; `None`: there is none, or it breaks the rules.
pub fn dictionary(fields: &Fields, name: &str) -> Option<Vec<(String, Value)>> {
    let text = fields.combined(name)?;
    let members: Dictionary = Parser::new(&*text).parse().ok()?;
    let value = |entry: ListEntry| match entry {
        ListEntry::Item(Item { bare_item: BareItem::Boolean(flag), .. }) => Value::Boolean(flag),
        ListEntry::Item(Item { bare_item: BareItem::Integer(n), .. }) => Value::Integer(n.into()),
        ListEntry::Item(Item { bare_item: BareItem::String(s), .. }) => {
            Value::String(s.as_str().to_owned())
        }
        _ => Value::Other,
    };
    Some(members.into_iter().map(|(key, entry)| (key.as_str().to_owned(), value(entry))).collect())
}

/// The strings of the list that all fields of this name make together; none when it breaks the rules.
pub fn strings(fields: &Fields, name: &str) -> Vec<String> {
    let Some(text) = fields.combined(name) else { return Vec::new() };
    let members: List = Parser::new(&*text).parse().unwrap_or_default();
    let string = |entry| match entry {
        ListEntry::Item(Item { bare_item: BareItem::String(s), .. }) => Some(s.as_str().to_owned()),
        _ => None,
    };
    // A member of another kind makes the list none of strings.
    members.into_iter().map(string).collect::<Option<Vec<_>>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(values: &[&str]) -> Fields {
        let mut fields = Fields::new();
        for value in values {
            fields.append("x", (*value).to_owned()).unwrap();
        }
        fields
    }

    #[test]
    fn dictionaries_are_read_whole_or_not_at_all() {
        let read = |values: &[&str]| dictionary(&fields(values), "x");
        let integer = |name: &str, n| (name.to_owned(), Value::Integer(n));
        assert_eq!(
            read(&["a=1, b;p=2", "c=\"x\""]),
            Some(vec![
                integer("a", 1),
                ("b".to_owned(), Value::Boolean(true)),
                ("c".to_owned(), Value::String("x".to_owned())),
            ])
        );
        assert_eq!(read(&["a=1, a=2"]), Some(vec![integer("a", 2)]), "the last one counts");
        assert_eq!(read(&["a=1.0, b=tok, c=(1 2)"]).unwrap().len(), 3);
        for broken in ["a=1,", "a =1", "a= 1", "A=1", "a=1 b", "a=\"", "=1", "a;=1"] {
            assert_eq!(read(&[broken]), None, "{broken}");
        }
        assert_eq!(read(&[""]), Some(vec![]));
        assert_eq!(dictionary(&Fields::new(), "x"), None);
    }

    #[test]
    fn lists_of_strings() {
        let read = |values: &[&str]| strings(&fields(values), "x");
        assert_eq!(read(&["\"a\", \"b\\\\c\";x=1", "\"d\""]), ["a", "b\\c", "d"]);
        for broken in ["\"a\", b", "\"a\" \"b\"", "\"a\",", "(\"a\")", "\"\u{e4}\""] {
            assert!(read(&[broken]).is_empty(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_survived(text in "[ -~]{0,60}") {
            let fields = fields(&[&text]);
            let _ = (dictionary(&fields, "x"), strings(&fields, "x"));
        }
    }
}
