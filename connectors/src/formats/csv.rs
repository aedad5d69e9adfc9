//! CSV: a header line names the fields, each record is a row.
//!
//! Records are split here rather than by `arrow-csv`, which fails a whole batch
//! at its first ragged line or stray byte, and cannot say where a record began.
//! The values go through Arrow's builders like any other format's.
use crate::cells::{Cells, Kind};
use crate::decoded::quoted;
use crate::format::{ROW_BYTES_MAX, Step};

const UNUSED: u32 = u32::MAX;

/// Splits CSV into records.
pub(crate) struct CsvRows {
    delimiter: u8,
    header: bool,
    /// The names looked for, one a slot.
    names: Vec<String>,
    layout: Option<Layout>,
    /// Inside a record that is too long to be held, up to its line's end.
    skipping: bool,
}

/// What the header said.
struct Layout {
    fields: usize,
    /// The slot of each field, or [`UNUSED`].
    slots: Vec<u32>,
}

impl CsvRows {
    pub(crate) fn new(delimiter: u8, header: bool, names: Vec<String>) -> CsvRows {
        let mut rows = CsvRows {
            delimiter,
            header,
            names,
            layout: None,
            skipping: false,
        };
        rows.restart();
        rows
    }

    pub(crate) fn restart(&mut self) {
        self.skipping = false;
        self.layout = (!self.header).then(|| Layout {
            fields: self.names.len(),
            slots: (0..self.names.len() as u32).collect(),
        });
    }

    /// Finds the record that begins at `from`.
    pub(crate) fn next(&mut self, text: &str, from: usize, last: bool, cells: &mut Cells) -> Step {
        let bytes = text.as_bytes();
        if self.skipping {
            return match text[from..].find('\n') {
                Some(at) => {
                    self.skipping = false;
                    Step::Skip { next: from + at + 1 }
                }
                None if from < text.len() => Step::Skip { next: text.len() },
                None => Step::More,
            };
        }
        // Empty lines are no records.
        match &bytes[from..] {
            [] => return Step::More,
            [b'\n', ..] => return Step::Skip { next: from + 1 },
            [b'\r', b'\n', ..] => return Step::Skip { next: from + 2 },
            [b'\r'] if last => return Step::Skip { next: from + 1 },
            _ => {}
        }
        let Some(layout) = &self.layout else {
            return self.read_header(text, from, last);
        };

        cells.add_row();
        let mut fields = 0;
        let record = scan(bytes, from, self.delimiter, last, |start, end, quotes| {
            let slot = layout.slots.get(fields).copied().unwrap_or(UNUSED);
            fields += 1;
            if slot != UNUSED {
                set(cells, slot as usize, text, start, end, quotes);
            }
        });
        match record {
            Record::Whole { end, next } if fields == layout.fields => {
                if end - from > ROW_BYTES_MAX {
                    cells.drop_row();
                    return too_long(from, end, next);
                }
                Step::Row {
                    start: from,
                    end,
                    next,
                    rows: 1,
                }
            }
            Record::Whole { end, next } => {
                cells.drop_row();
                let expected = layout.fields;
                let whose = if self.header { "the header has" } else { "expected" };
                Step::Bad {
                    start: from,
                    end,
                    next,
                    reason: format!("the line has {fields} fields, {whose} {expected}"),
                }
            }
            Record::Malformed { end, next, reason } => {
                cells.drop_row();
                Step::Bad {
                    start: from,
                    end,
                    next,
                    reason: reason.to_owned(),
                }
            }
            Record::Partial { in_quotes } => {
                cells.drop_row();
                self.partial(text, from, last, in_quotes)
            }
        }
    }

    /// A record that the input does not end. A quote that never closes must not
    /// swallow what follows: only its line is refused.
    fn partial(&mut self, text: &str, from: usize, last: bool, in_quotes: bool) -> Step {
        let length = text.len() - from;
        if !last && length <= ROW_BYTES_MAX {
            return Step::More;
        }
        let line = text[from..].find('\n').map(|at| from + at);
        match line {
            Some(end) if in_quotes => Step::Bad {
                start: from,
                end,
                next: end + 1,
                reason: "a quote is never closed".to_owned(),
            },
            None if in_quotes && last => Step::Bad {
                start: from,
                end: text.len(),
                next: text.len(),
                reason: "a quote is never closed".to_owned(),
            },
            _ => {
                self.skipping = true;
                too_long(from, text.len(), text.len())
            }
        }
    }

    fn read_header(&mut self, text: &str, from: usize, last: bool) -> Step {
        let mut fields = Vec::new();
        let record = scan(text.as_bytes(), from, self.delimiter, last, |start, end, quotes| {
            let name = &text[start..end];
            fields.push(if quotes == Quotes::Doubled {
                name.replace("\"\"", "\"")
            } else {
                name.to_owned()
            });
        });
        let (end, next) = match record {
            Record::Whole { end, next } => (end, next),
            Record::Malformed { end, next, .. } => (end, next),
            Record::Partial { in_quotes } => return self.partial(text, from, last, in_quotes),
        };
        let mut slots = vec![UNUSED; fields.len()];
        for (slot, wanted) in self.names.iter().enumerate() {
            if let Some(field) = fields.iter().position(|name| name.trim() == wanted.trim()) {
                slots[field] = slot as u32;
            }
        }
        if slots.iter().all(|slot| *slot == UNUSED) {
            let names = fields.join(", ");
            // Not a header at all, most likely: refuse it like the lines below
            // it rather than take nothing from each of them.
            return Step::Bad {
                start: from,
                end,
                next,
                reason: format!("no declared column in the header {}", quoted(&names)),
            };
        }
        self.layout = Some(Layout {
            fields: fields.len(),
            slots,
        });
        Step::Skip { next }
    }
}

fn too_long(start: usize, end: usize, next: usize) -> Step {
    Step::Bad {
        start,
        end,
        next,
        reason: format!("the row is longer than {ROW_BYTES_MAX} bytes"),
    }
}

fn set(cells: &mut Cells, slot: usize, text: &str, start: usize, end: usize, quotes: Quotes) {
    match quotes {
        Quotes::None => cells.set(slot, start, end, Kind::Bare),
        Quotes::Plain => cells.set(slot, start, end, Kind::Quoted),
        Quotes::Doubled => {
            let begin = cells.unescaped.len();
            let mut pieces = text[start..end].split("\"\"");
            cells.unescaped.push_str(pieces.next().unwrap_or_default());
            for piece in pieces {
                cells.unescaped.push('"');
                cells.unescaped.push_str(piece);
            }
            cells.set_unescaped(slot, begin);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    None,
    Plain,
    /// Quoted, with doubled quotes inside.
    Doubled,
}

#[derive(Debug, PartialEq, Eq)]
enum Record {
    Whole {
        end: usize,
        next: usize,
    },
    Malformed {
        end: usize,
        next: usize,
        reason: &'static str,
    },
    Partial {
        in_quotes: bool,
    },
}

/// Reads one record, telling of each field's text (without its quotes).
fn scan(bytes: &[u8], from: usize, delimiter: u8, last: bool, mut field: impl FnMut(usize, usize, Quotes)) -> Record {
    let mut at = from;
    let mut malformed = None;
    loop {
        if bytes.get(at) == Some(&b'"') {
            let start = at + 1;
            let mut quotes = Quotes::Plain;
            at = start;
            let end = loop {
                match bytes[at..].iter().position(|byte| *byte == b'"') {
                    None => return Record::Partial { in_quotes: true },
                    Some(found) => at += found,
                }
                match bytes.get(at + 1) {
                    Some(b'"') => {
                        quotes = Quotes::Doubled;
                        at += 2;
                    }
                    // Whether this quote closes, only the next byte will tell.
                    None if !last => return Record::Partial { in_quotes: true },
                    _ => break at,
                }
            };
            at += 1;
            field(start, end, quotes);
            let rest = at;
            while at < bytes.len() && bytes[at] != delimiter && bytes[at] != b'\n' {
                at += 1;
            }
            if !bytes[rest..at].iter().all(u8::is_ascii_whitespace) {
                malformed = Some("text follows a closing quote");
            }
        } else {
            let start = at;
            while at < bytes.len() && bytes[at] != delimiter && bytes[at] != b'\n' {
                at += 1;
            }
            let mut end = at;
            if bytes.get(at) != Some(&delimiter) {
                while end > start && bytes[end - 1] == b'\r' {
                    end -= 1;
                }
            }
            field(start, end, Quotes::None);
        }
        match bytes.get(at) {
            Some(b'\n') => {
                return match malformed {
                    None => Record::Whole { end: at, next: at + 1 },
                    Some(reason) => Record::Malformed {
                        end: at,
                        next: at + 1,
                        reason,
                    },
                };
            }
            Some(_) => at += 1,
            None if !last => return Record::Partial { in_quotes: false },
            None => {
                return match malformed {
                    None => Record::Whole { end: at, next: at },
                    Some(reason) => Record::Malformed {
                        end: at,
                        next: at,
                        reason,
                    },
                };
            }
        }
    }
}
