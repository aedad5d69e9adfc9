//! What a format makes of bytes: rows, and what could not become one.
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// Bytes of a rejected row that are kept, so that one bad row stays small.
pub const RAW_BYTES_MAX: usize = 4096;

/// The name of the column that says, of rows in an envelope, which of them are taken back.
pub const TAKEN_BACK: &str = "__taken_back";

/// The rows of some input, in its order, and the rows that were refused.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The good rows; a batch of exactly the declared schema, but for rows in an envelope: there a column
    /// [`TAKEN_BACK`] follows, and any column may be NULL where it says yes.
    pub rows: RecordBatch,
    /// The bad rows, in the order of the input.
    pub rejected: Vec<Rejected>,
}

impl Decoded {
    /// Nothing at all.
    pub fn empty(schema: SchemaRef) -> Decoded {
        Decoded {
            rows: RecordBatch::new_empty(schema),
            rejected: Vec::new(),
        }
    }

    /// Whether the input held neither rows nor anything refused.
    pub fn is_empty(&self) -> bool {
        self.rows.num_rows() == 0 && self.rejected.is_empty()
    }
}

/// A row that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The row as it came: lossy UTF-8, cut to [`RAW_BYTES_MAX`] bytes.
    pub raw: String,
    /// Why, naming the column where there is one.
    pub reason: String,
}

impl Rejected {
    /// Refuses `raw`, keeping its beginning.
    pub fn new(raw: &[u8], reason: impl Into<String>) -> Rejected {
        let raw = raw.trim_ascii();
        let mut text = String::from_utf8_lossy(&raw[..raw.len().min(RAW_BYTES_MAX)]).into_owned();
        if text.len() > RAW_BYTES_MAX {
            // Replacement characters are longer than the bytes they stand for.
            let end = text.floor_char_boundary(RAW_BYTES_MAX);
            text.truncate(end);
        }
        Rejected {
            raw: text,
            reason: reason.into(),
        }
    }
}

/// Quotes a value for a reason, shortened so that reasons stay readable.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.len() <= SHOWN {
        format!("\"{text}\"")
    } else {
        format!("\"{}…\"", &text[..text.floor_char_boundary(SHOWN)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_text_is_bounded_and_lossy() {
        let rejected = Rejected::new(&[0xff; 10_000], "why");
        assert!(rejected.raw.len() <= RAW_BYTES_MAX);
        assert!(rejected.raw.starts_with('\u{fffd}'));
        assert_eq!(Rejected::new(b" a\r\n", "why").raw, "a");
    }

    #[test]
    fn long_values_are_shortened() {
        assert_eq!(quoted("a"), "\"a\"");
        assert!(quoted(&"ä".repeat(100)).chars().count() < 65);
    }
}
