//! The elements of a list, which is written as a JSON array in every format.

use crate::cells::{Cell, Kind};
use crate::formats::json::grammar::{Fault, Text, after_space, nested, scalar, string, unescape};

/// Where the elements of one list stand.
#[derive(Default)]
pub(crate) struct Elements {
    spans: Vec<(Kind, usize, usize, bool)>,
    /// Texts that hold escapes, resolved.
    unescaped: String,
}

impl Elements {
    /// Finds the elements of a list; says what is wrong where it is none.
    pub(crate) fn find(&mut self, text: &str) -> Result<(), String> {
        self.spans.clear();
        self.unescaped.clear();
        let text = text.trim_ascii();
        if !text.starts_with('[') {
            return Err("not a list, which stands between square brackets".to_owned());
        }
        match self.array(text) {
            Ok(end) if end == text.len() => Ok(()),
            Ok(_) => Err("text follows the end of the list".to_owned()),
            Err(fault) => Err(fault.reason(0, text.len())),
        }
    }

    fn array(&mut self, text: &str) -> Result<usize, Fault> {
        let bytes = text.as_bytes();
        let mut at = after_space(bytes, 1);
        if bytes.get(at) == Some(&b']') {
            return Ok(at + 1);
        }
        loop {
            at = match bytes.get(at) {
                None => return Err(Fault::end(at)),
                Some(b'"') => {
                    let (Text { start, end, escaped }, after) = string(bytes, at)?;
                    match escaped {
                        true => {
                            let from = self.unescaped.len();
                            unescape(&text[start..end], start, &mut self.unescaped)?;
                            self.spans.push((Kind::Quoted, from, self.unescaped.len(), true));
                        }
                        false => self.spans.push((Kind::Quoted, start, end, false)),
                    }
                    after
                }
                Some(b'{' | b'[') => {
                    let after = nested(bytes, at)?;
                    self.spans.push((Kind::Nested, at, after, false));
                    after
                }
                Some(_) => {
                    let after = scalar(bytes, at)?;
                    let kind = if &text[at..after] == "null" {
                        Kind::Missing
                    } else {
                        Kind::Bare
                    };
                    self.spans.push((kind, at, after, false));
                    after
                }
            };
            at = after_space(bytes, at);
            match bytes.get(at) {
                Some(b',') => at = after_space(bytes, at + 1),
                Some(b']') => return Ok(at + 1),
                _ => return Err(Fault::expected(bytes, at, "expected a comma or a closing bracket")),
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns the elements of the list that was found in `text`.
    pub(crate) fn cells<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Cell<'a>> {
        let text = text.trim_ascii();
        self.spans.iter().map(move |&(kind, start, end, unescaped)| Cell {
            kind,
            text: &(if unescaped { self.unescaped.as_str() } else { text })[start..end],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<Vec<(Kind, String)>, String> {
        let mut elements = Elements::default();
        elements.find(text)?;
        Ok(elements
            .cells(text)
            .map(|cell| (cell.kind, cell.text.to_owned()))
            .collect())
    }

    #[test]
    fn elements_of_all_kinds() {
        let text = r#" [1, "a\n", null ,[2,[]], {"x":1}, "b"] "#;
        let expected = [
            (Kind::Bare, "1"),
            (Kind::Quoted, "a\n"),
            (Kind::Missing, "null"),
            (Kind::Nested, "[2,[]]"),
            (Kind::Nested, r#"{"x":1}"#),
            (Kind::Quoted, "b"),
        ];
        let found_texts = found(text).unwrap();
        let found_texts: Vec<(Kind, &str)> = found_texts.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
        assert_eq!(found_texts, expected);
        assert_eq!(found("[]"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_list() {
        for text in [
            "", "1", "{}", "[", "[1", "[1,]", "[1 2]", "[1] 2", "[,]", "[tru]", "[\"a]",
        ] {
            assert!(found(text).is_err(), "{text}");
        }
    }
}
