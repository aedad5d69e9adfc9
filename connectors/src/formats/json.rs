//! JSON: one object a line, or one array of objects.
//!
//! Objects are read here rather than by `arrow-json`, which fails a whole batch
//! at its first bad line and takes lines that are not JSON (a missing comma, two
//! halves of different lines), nor by `serde_json`, whose doubles are not always
//! the nearest. `grammar` says where each value ends.
pub(crate) mod grammar;
mod known;

use std::sync::Arc;

use crate::cells::{Cells, Kind};
use crate::format::{ROW_BYTES_MAX, Step};
use crate::formats::envelope;
use crate::formats::json::grammar::{Fault, Text, after_space, nested, scalar, string, unescape};
use crate::formats::json::known::Known;

/// Splits JSON into objects.
pub(crate) struct JsonRows {
    /// The names looked for, one a slot.
    names: Vec<String>,
    mode: Mode,
    /// The keys of the first object in order, with their slots: the others
    /// mostly have the same.
    recent: Vec<(String, Option<usize>)>,
    /// The same keys, to be passed over at a glance.
    known: Known,
    /// Whether rows in an envelope have a key, and the slots of it.
    envelope: Option<(bool, Arc<[usize]>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Unknown,
    Lines,
    /// Inside a line that is too long to be held.
    SkippingLine,
    /// Inside an array; whether an element has just been read.
    Array {
        after_element: bool,
    },
    /// After the array's end.
    Closed,
    /// The rest cannot be made sense of, and has been refused.
    Abandoned,
}

impl JsonRows {
    pub(crate) fn new(names: Vec<String>) -> JsonRows {
        JsonRows {
            names,
            mode: Mode::Unknown,
            recent: Vec::new(),
            known: Known::default(),
            envelope: None,
        }
    }

    /// Reads rows in an envelope; `keyed` says that something tells them apart, `key` are the slots of as much of
    /// it as is read here.
    pub(crate) fn enveloped(self, keyed: bool, key: Vec<usize>) -> JsonRows {
        JsonRows {
            envelope: Some((keyed, key.into())),
            ..self
        }
    }

    pub(crate) fn restart(&mut self) {
        self.mode = Mode::Unknown;
    }

    /// Finds the object that begins at or after `from`.
    pub(crate) fn next(&mut self, text: &str, from: usize, last: bool, cells: &mut Cells) -> Step {
        let bytes = text.as_bytes();
        let start = if self.mode == Mode::SkippingLine {
            from
        } else {
            after_space(bytes, from)
        };
        if start >= bytes.len() {
            let truncated = last && matches!(self.mode, Mode::Array { .. });
            if truncated {
                self.mode = Mode::Abandoned;
                return bad(start, start, start, "the array is never closed");
            }
            return if start > from {
                Step::Skip { next: start }
            } else {
                Step::More
            };
        }
        match self.mode {
            Mode::Unknown if bytes[start] == b'[' => {
                self.mode = Mode::Array { after_element: false };
                Step::Skip { next: start + 1 }
            }
            Mode::Unknown => {
                self.mode = Mode::Lines;
                let step = self.line(text, start, last, cells);
                match step {
                    // One object written over several lines, as people do.
                    Step::Bad { .. } if last => match self.whole(text, start, cells) {
                        Some(rows) => rows_at(rows, start, bytes.len(), bytes.len()),
                        None => step,
                    },
                    Step::More => {
                        self.mode = Mode::Unknown;
                        Step::More
                    }
                    step => step,
                }
            }
            Mode::Lines => self.line(text, start, last, cells),
            Mode::SkippingLine => match text[start..].find('\n') {
                Some(at) => {
                    self.mode = Mode::Lines;
                    Step::Skip { next: start + at + 1 }
                }
                None => Step::Skip { next: bytes.len() },
            },
            Mode::Array { after_element } => self.element(text, start, last, after_element, cells),
            Mode::Closed => {
                self.mode = Mode::Abandoned;
                bad(start, bytes.len(), bytes.len(), "text follows the end of the array")
            }
            Mode::Abandoned => Step::Skip { next: bytes.len() },
        }
    }

    /// Adds the row of a message at `start..end`, which the end of `text` or a line end follows, if it is one object
    /// with the keys of the first and nothing else, as nearly all are.
    #[inline]
    pub(crate) fn known_message(&self, text: &str, start: usize, end: usize, cells: &mut Cells) -> bool {
        if self.envelope.is_some() {
            return false;
        }
        match self.known.line(text.as_bytes(), start, true, cells) {
            Some((found, _)) if found == end => true,
            Some(_) => {
                // A line of several.
                cells.drop_row();
                false
            }
            None => false,
        }
    }

    fn line(&mut self, text: &str, start: usize, last: bool, cells: &mut Cells) -> Step {
        let bytes = text.as_bytes();
        if self.envelope.is_none()
            && let Some((end, next)) = self.known.line(bytes, start, last, cells)
        {
            return rows_at(1, start, end, next);
        }
        let (end, next) = match text[start..].find('\n') {
            Some(at) => (start + at, start + at + 1),
            None if last => (bytes.len(), bytes.len()),
            None if bytes.len() - start > ROW_BYTES_MAX => {
                self.mode = Mode::SkippingLine;
                return too_long(start, bytes.len(), bytes.len());
            }
            None => return Step::More,
        };
        if end - start > ROW_BYTES_MAX {
            return too_long(start, end, next);
        }
        match self.entry(&text[..end], start, cells) {
            Ok((after, rows)) if after_space(&bytes[..end], after) == end => rows_at(rows, start, end, next),
            Ok((_, rows)) => {
                (0..rows).for_each(|_| cells.drop_row());
                bad(start, end, next, "text follows the object on its line")
            }
            Err(fault) => {
                let reason = fault.reason(start, end);
                Step::Bad {
                    start,
                    end,
                    next,
                    reason,
                }
            }
        }
    }

    /// Reads all of the rest where it is one object; tells how many rows it holds.
    fn whole(&mut self, text: &str, start: usize, cells: &mut Cells) -> Option<usize> {
        if text.len() - start > ROW_BYTES_MAX {
            return None;
        }
        let (after, rows) = self.entry(text, start, cells).ok()?;
        if after_space(text.as_bytes(), after) == text.len() {
            return Some(rows);
        }
        (0..rows).for_each(|_| cells.drop_row());
        None
    }

    /// Reads the object at `start`, and adds the rows it holds: itself, or those of an envelope. Returns its
    /// end and the number of rows.
    fn entry(&mut self, text: &str, start: usize, cells: &mut Cells) -> Result<(usize, usize), Fault> {
        let Some((keyed, key)) = self.envelope.clone() else {
            return Ok((self.row(text, start, cells)?, 1));
        };
        let (message, end) = envelope::message(text, start, keyed)?;
        let mut rows = 0;
        if let Some(before) = message.before {
            self.row(text, before, cells)?;
            cells.take_back();
            rows += 1;
            // Only what names its key is another row than the one that comes.
            if message.after.is_some() && keyed && !cells.has(&key) {
                cells.drop_row();
                rows -= 1;
            }
        }
        if let Some(after) = message.after {
            if let Err(fault) = self.row(text, after, cells) {
                (0..rows).for_each(|_| cells.drop_row());
                return Err(fault);
            }
            rows += 1;
            if rows == 2 && keyed && cells.agree(text, &key) {
                cells.drop_row_before_last();
                rows = 1;
            }
        }
        Ok((end, rows))
    }

    /// Adds the row of the object at `start`; returns its end.
    fn row(&mut self, text: &str, start: usize, cells: &mut Cells) -> Result<usize, Fault> {
        cells.add_row();
        self.object(text, start, cells).inspect_err(|_| cells.drop_row())
    }

    fn element(&mut self, text: &str, start: usize, last: bool, after_element: bool, cells: &mut Cells) -> Step {
        let bytes = text.as_bytes();
        match bytes[start] {
            b']' => {
                self.mode = Mode::Closed;
                return Step::Skip { next: start + 1 };
            }
            b',' if after_element => {
                self.mode = Mode::Array { after_element: false };
                return Step::Skip { next: start + 1 };
            }
            _ => {}
        }
        let fault = if after_element {
            Fault {
                at: start,
                what: "expected a comma between two rows",
            }
        } else {
            match self.entry(text, start, cells) {
                Ok((next, rows)) if next - start <= ROW_BYTES_MAX => {
                    self.mode = Mode::Array { after_element: true };
                    return rows_at(rows, start, next, next);
                }
                Ok((next, rows)) => {
                    (0..rows).for_each(|_| cells.drop_row());
                    self.mode = Mode::Array { after_element: true };
                    return too_long(start, next, next);
                }
                Err(fault) => fault,
            }
        };
        // Go on after the element, wherever its brackets say that it ends.
        match element_end(bytes, start) {
            Some(end) => {
                self.mode = Mode::Array { after_element: true };
                let reason = fault.reason(start, end);
                Step::Bad {
                    start,
                    end,
                    next: end,
                    reason,
                }
            }
            None if !last && bytes.len() - start <= ROW_BYTES_MAX => Step::More,
            None => {
                self.mode = Mode::Abandoned;
                let reason = format!("{}; the rest of the array is refused", fault.reason(start, bytes.len()));
                Step::Bad {
                    start,
                    end: bytes.len(),
                    next: bytes.len(),
                    reason,
                }
            }
        }
    }

    /// Reads the object at `start` into the row added last; returns its end.
    fn object(&mut self, text: &str, start: usize, cells: &mut Cells) -> Result<usize, Fault> {
        let bytes = text.as_bytes();
        if bytes.get(start) != Some(&b'{') {
            return Err(Fault {
                at: start,
                what: "expected an object",
            });
        }
        let mut at = after_space(bytes, start + 1);
        if bytes.get(at) == Some(&b'}') {
            return Ok(at + 1);
        }
        let mut nth = 0;
        loop {
            let (key, after) = string(bytes, at)?;
            let slot = self.slot(text, nth, key, at);
            nth += 1;
            at = after_space(bytes, after);
            if bytes.get(at) != Some(&b':') {
                return Err(Fault::expected(bytes, at, "expected a colon"));
            }
            at = after_space(bytes, at + 1);
            at = match bytes.get(at) {
                Some(b'"') => {
                    let (value, after) = string(bytes, at)?;
                    if let Some(slot) = slot {
                        if value.escaped {
                            let begin = cells.unescaped.len();
                            unescape(&text[value.start..value.end], value.start, &mut cells.unescaped)?;
                            cells.set_unescaped(slot, begin);
                        } else {
                            cells.set(slot, value.start, value.end, Kind::Quoted);
                        }
                    }
                    after
                }
                Some(b'{' | b'[') => {
                    let after = nested(bytes, at)?;
                    if let Some(slot) = slot {
                        cells.set(slot, at, after, Kind::Nested);
                    }
                    after
                }
                Some(_) => {
                    let after = scalar(bytes, at)?;
                    if let Some(slot) = slot {
                        let kind = if bytes[at] == b'n' { Kind::Missing } else { Kind::Bare };
                        cells.set(slot, at, after, kind);
                    }
                    after
                }
                None => return Err(Fault::end(at)),
            };
            at = after_space(bytes, at);
            match bytes.get(at) {
                Some(b',') => at = after_space(bytes, at + 1),
                Some(b'}') => return Ok(at + 1),
                _ => {
                    return Err(Fault::expected(bytes, at, "expected a comma or a closing brace"));
                }
            }
        }
    }

    /// The slot of the object's `nth` key, if it is declared.
    fn slot(&mut self, text: &str, nth: usize, key: Text, at: usize) -> Option<usize> {
        let name = &text[key.start..key.end];
        if let Some((recent, slot)) = self.recent.get(nth)
            && recent == name
        {
            return *slot;
        }
        let slot = if key.escaped {
            let mut plain = String::new();
            // A key that cannot be unescaped matches nothing; its name is not kept.
            unescape(name, at, &mut plain).ok()?;
            self.names.iter().position(|wanted| *wanted == plain)
        } else {
            self.names.iter().position(|wanted| wanted == name)
        };
        if self.recent.len() == nth && nth < 256 && name.len() < 256 {
            self.recent.push((name.to_owned(), slot));
            self.known.push(name, slot);
        }
        slot
    }
}

/// Tells of an object with so many rows.
fn rows_at(rows: usize, start: usize, end: usize, next: usize) -> Step {
    match rows {
        0 => Step::Skip { next },
        rows => Step::Row { start, end, next, rows },
    }
}

fn bad(start: usize, end: usize, next: usize, reason: &str) -> Step {
    Step::Bad {
        start,
        end,
        next,
        reason: reason.to_owned(),
    }
}

fn too_long(start: usize, end: usize, next: usize) -> Step {
    bad(
        start,
        end,
        next,
        &format!("the row is longer than {ROW_BYTES_MAX} bytes"),
    )
}

/// Where a faulty array element seems to end: at the comma or bracket after it
/// that stands in no string and no bracket.
fn element_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut at = start;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b',' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Tells whether `text` is one JSON object and nothing else; for tests.
#[cfg(test)]
pub(crate) fn is_object(text: &str) -> bool {
    let mut rows = JsonRows {
        names: Vec::new(),
        mode: Mode::Lines,
        recent: Vec::new(),
        known: Known::default(),
        envelope: None,
    };
    let start = after_space(text.as_bytes(), 0).min(text.len().saturating_sub(1));
    rows.whole(text, start, &mut Cells::new(0)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_strict() {
        for text in [
            r#"{}"#,
            r#" {"a":1} "#,
            r#"{"a":-0.5e+3,"b":[],"c":{},"d":[1,[{"x":null}]],"e":"\u00e9\n"}"#,
        ] {
            assert!(is_object(text), "{text}");
        }
        for text in [
            r#"{"a":1 "b":2}"#,
            r#"{"a":1,}"#,
            r#"{,"a":1}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":+1}"#,
            r#"{"a":1e}"#,
            r#"{"a":tru}"#,
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12g4"}"#,
            r#"{a:1}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[}"#,
            r#"{"a":{"b"}}"#,
            r#"{"a":1}}"#,
            r#"{"a":1"#,
            r#"{"a":"x"#,
            r#"{'a':1}"#,
            "{\"a\":\"\u{1}\"}",
            r#"{"a":NaN}"#,
            r#"{"a":1-2}"#,
            r#"{"a":[1 2]}"#,
            "[]",
            "1",
            "",
        ] {
            assert!(!is_object(text), "{text}");
        }
        assert!(is_object(&format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64))));
        assert!(!is_object(&format!("{{\"a\":{}{}}}", "[".repeat(65), "]".repeat(65))));
    }

    /// Mutations of good objects are judged as `serde_json` judges them.
    #[test]
    fn agrees_with_serde_json() {
        use rand::{RngExt, SeedableRng};
        let seed = 7;
        println!("seed {seed}");
        let mut random = rand_pcg::Pcg64::seed_from_u64(seed);
        let good = r#"{"a":-1.5e3,"b":[1,{"c":"x\u00e9\"y"},[]],"d":null,"e":true,"f":{"g":{}},"h":"","i":0}"#;
        let alphabet = b"{}[]\",:\\ue0123-+.tfn\n x";
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut text = good.as_bytes().to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..text.len());
                match random.random_range(0..3) {
                    0 => drop(text.remove(at)),
                    1 => text.insert(at, alphabet[random.random_range(0..alphabet.len())]),
                    _ => text[at] = alphabet[random.random_range(0..alphabet.len())],
                }
            }
            let text = String::from_utf8(text).unwrap();
            let judged = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            // Two rules are ours: surrogates are judged where a column wants the
            // text, and a number may be beyond a double's range.
            let ours = matches!(&judged, Err(error) if error.to_string().contains("surrogate")
                || error.to_string().contains("hex escape") || error.to_string().contains("out of range"));
            if !ours {
                assert_eq!(is_object(&text), judged.is_ok(), "{text} {judged:?}");
            }
            accepted += usize::from(judged.is_ok());
        }
        assert!(accepted > 1000, "{accepted}");
    }
}
