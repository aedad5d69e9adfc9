//! Makes messages of what a view changed.
use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use dataflows::json::RowEncoder;

use crate::sinks::Delivery;
use crate::sinks::kafka::Mode;

/// Encodes rows of a view, and their keys.
pub(super) struct Encoder {
    mode: Mode,
    rows: RowEncoder,
    keys: Option<RowEncoder>,
    /// The keys of a delivery, one after the other.
    key_bytes: Vec<u8>,
    value: Vec<u8>,
}

/// A message to be written.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) key: Option<&'a [u8]>,
    /// None: the row of that key is gone.
    pub(super) value: Option<&'a [u8]>,
}

impl Encoder {
    pub(super) fn new(mode: Mode, schema: &SchemaRef, key: Option<&[usize]>) -> Encoder {
        Encoder {
            mode,
            rows: RowEncoder::new(schema),
            keys: key.map(|key| RowEncoder::with_columns(schema, key)),
            key_bytes: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Tells of each message that a delivery comes to, in their order.
    pub(super) fn each<E>(
        &mut self,
        delivery: &Delivery,
        mut tell: impl FnMut(Message<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Encoder {
            mode,
            rows,
            keys,
            key_bytes,
            value,
        } = self;
        let count = delivery.rows.num_rows();
        let bound = rows.bind(&delivery.rows);
        key_bytes.clear();
        let mut ends = Vec::new();
        if let Some(keys) = keys {
            let bound = keys.bind(&delivery.rows);
            for row in 0..count {
                bound.object(row, key_bytes);
                ends.push(key_bytes.len());
            }
        }
        let key = |row: usize| {
            let end = *ends.get(row)?;
            Some(&key_bytes[if row == 0 { 0 } else { ends[row - 1] }..end])
        };
        if *mode == Mode::Upsert {
            // Of each key, the row that came: a delivery leads from one state to the next.
            let mut newest: HashMap<&[u8], usize> = HashMap::with_capacity(count);
            for row in 0..count {
                let Some(key) = key(row) else { continue };
                let newest = newest.entry(key).or_insert(row);
                if delivery.diffs[row] > 0 {
                    *newest = row;
                }
            }
            for row in 0..count {
                let Some(key) = key(row).filter(|key| newest.get(key) == Some(&row)) else {
                    continue;
                };
                value.clear();
                let stays = delivery.diffs[row] > 0;
                if stays {
                    bound.object(row, value);
                }
                tell(Message {
                    key: Some(key),
                    value: stays.then_some(value.as_slice()),
                })?;
            }
            return Ok(());
        }
        let end = format!(",\"ts_us\":{}}}", delivery.tick);
        // What goes is told first: a row that changes is never there twice.
        for goes in [true, false] {
            for row in 0..count {
                let diff = delivery.diffs[row];
                if diff == 0 || (diff < 0) != goes {
                    continue;
                }
                value.clear();
                value.extend_from_slice(match goes {
                    true => br#"{"op":"d","before":"#,
                    false => br#"{"op":"c","before":null,"after":"#,
                });
                bound.object(row, value);
                if goes {
                    value.extend_from_slice(br#","after":null"#);
                }
                value.extend_from_slice(end.as_bytes());
                for _ in 0..diff.unsigned_abs() {
                    tell(Message {
                        key: key(row),
                        value: Some(value),
                    })?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, StringArray};

    use super::*;

    fn delivery() -> Delivery {
        let rows = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![1, 2, 1, 3, 4])) as _),
            (
                "v",
                Arc::new(StringArray::from(vec!["new", "gone", "old", "twice", "kept"])) as _,
            ),
        ]);
        Delivery {
            tick: 77,
            rows: rows.unwrap(),
            diffs: vec![1, -1, -1, 2, 1],
        }
    }

    fn told(mode: Mode, key: Option<&[usize]>) -> Vec<String> {
        let delivery = delivery();
        let mut told = Vec::new();
        let text = |bytes: Option<&[u8]>| bytes.map_or("-".to_owned(), |bytes| String::from_utf8_lossy(bytes).into());
        let _ = Encoder::new(mode, &delivery.rows.schema(), key).each(&delivery, |message| {
            told.push(format!("{} {}", text(message.key), text(message.value)));
            Ok::<(), Infallible>(())
        });
        told
    }

    #[test]
    fn upserts_tell_the_newest_of_each_key() {
        assert_eq!(
            told(Mode::Upsert, Some(&[0])),
            [
                r#"{"id":1} {"id":1,"v":"new"}"#,
                r#"{"id":2} -"#,
                r#"{"id":3} {"id":3,"v":"twice"}"#,
                r#"{"id":4} {"id":4,"v":"kept"}"#,
            ]
        );
    }

    #[test]
    fn changes_tell_all_that_comes_and_goes() {
        assert_eq!(
            told(Mode::Changes, None),
            [
                r#"- {"op":"d","before":{"id":2,"v":"gone"},"after":null,"ts_us":77}"#,
                r#"- {"op":"d","before":{"id":1,"v":"old"},"after":null,"ts_us":77}"#,
                r#"- {"op":"c","before":null,"after":{"id":1,"v":"new"},"ts_us":77}"#,
                r#"- {"op":"c","before":null,"after":{"id":3,"v":"twice"},"ts_us":77}"#,
                r#"- {"op":"c","before":null,"after":{"id":3,"v":"twice"},"ts_us":77}"#,
                r#"- {"op":"c","before":null,"after":{"id":4,"v":"kept"},"ts_us":77}"#,
            ]
        );
        assert!(told(Mode::Changes, Some(&[0]))[0].starts_with(r#"{"id":2} {"op":"d""#));
    }
}
