//! Changes in an envelope, as change-data capture writes them (Debezium's JSON).
//!
//! A message says with `op` what happened, and with `before` and `after` what the row was and is: `c` (created)
//! and `r` (read by a first snapshot) bring a row, `d` takes one back, `u` does both. It may stand in the
//! `payload` of another object, beside its `schema`. A tombstone, which is `null`, says nothing new.

use crate::formats::json::grammar::{Fault, after_space, nested, scalar, string};

/// What a message comes to: where its rows stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    /// The row that is taken back.
    pub(crate) before: Option<usize>,
    /// The row that comes.
    pub(crate) after: Option<usize>,
}

/// Where the values of some keys of an object begin.
struct Found<const N: usize> {
    values: [Option<usize>; N],
    end: usize,
}

/// Reads the message at `start`; tells what it comes to, and its end.
///
/// `keyed` says that rows are known by their key: what a row was need not be told where it is replaced.
pub(crate) fn message(text: &str, start: usize, keyed: bool) -> Result<(Message, usize), Fault> {
    let bytes = text.as_bytes();
    if bytes.get(start) == Some(&b'n') {
        return Ok((NOTHING, scalar(bytes, start)?));
    }
    let names = ["op", "before", "after", "payload"];
    let found = find(text, start, names)?;
    let ([op, before, after, payload], end) = (found.values, found.end);
    let ([op, before, after], start) = match (op, payload) {
        (None, Some(payload)) if bytes.get(payload) == Some(&b'n') => return Ok((NOTHING, end)),
        (None, Some(payload)) => (find(text, payload, ["op", "before", "after"])?.values, payload),
        _ => ([op, before, after], start),
    };
    let fault = |at: usize, what: &'static str| Err(Fault { at, what });
    let Some(op) = op else {
        return fault(start, "an envelope without op");
    };
    let there = |row: Option<usize>| row.filter(|&at| bytes.get(at) != Some(&b'n'));
    let (before, after) = (there(before), there(after));
    let word = match string(bytes, op) {
        Ok((word, _)) => &text[word.start..word.end],
        Err(_) => "",
    };
    let message = match (word, before, after) {
        ("c" | "r", _, Some(_)) => Message { before: None, after },
        ("u", None, Some(_)) if !keyed => return fault(op, "an update without before, which only a key could replace"),
        ("u", before, Some(_)) => Message { before, after },
        ("c" | "r" | "u", _, None) => return fault(op, "an envelope without after, the row that comes"),
        ("d", Some(_), _) => Message { before, after: None },
        ("d", None, _) => return fault(op, "an envelope without before, the row that is taken back"),
        ("t", ..) => return fault(op, "a truncation, which is not followed"),
        _ => return fault(op, "an op that is none of c, r, u and d"),
    };
    Ok((message, end))
}

const NOTHING: Message = Message {
    before: None,
    after: None,
};

/// Finds the values of some keys of the object at `start`, and its end.
fn find<const N: usize>(text: &str, start: usize, names: [&str; N]) -> Result<Found<N>, Fault> {
    let bytes = text.as_bytes();
    let mut found = Found {
        values: [None; N],
        end: start,
    };
    if bytes.get(start) != Some(&b'{') {
        return Err(Fault {
            at: start,
            what: "expected an envelope, which is an object",
        });
    }
    let mut at = after_space(bytes, start + 1);
    if bytes.get(at) == Some(&b'}') {
        found.end = at + 1;
        return Ok(found);
    }
    loop {
        let (key, after) = string(bytes, at)?;
        at = after_space(bytes, after);
        if bytes.get(at) != Some(&b':') {
            return Err(Fault::expected(bytes, at, "expected a colon"));
        }
        at = after_space(bytes, at + 1);
        if let Some(slot) = names.iter().position(|name| *name == &text[key.start..key.end]) {
            found.values[slot] = Some(at);
        }
        at = match bytes.get(at) {
            Some(b'"') => string(bytes, at)?.1,
            Some(b'{' | b'[') => nested(bytes, at)?,
            Some(_) => scalar(bytes, at)?,
            None => return Err(Fault::end(at)),
        };
        at = after_space(bytes, at);
        match bytes.get(at) {
            Some(b',') => at = after_space(bytes, at + 1),
            Some(b'}') => {
                found.end = at + 1;
                return Ok(found);
            }
            _ => return Err(Fault::expected(bytes, at, "expected a comma or a closing brace")),
        }
    }
}
