//! The keys of messages, where they say which row is meant.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;

use crate::column::Column;
use crate::error::ConfigError;
use crate::format::{FormatConfig, FormatKind};
use crate::messages::{MessageDecoder, Messages};

/// Reads the key columns from the keys of messages: a JSON object that holds them; or, where there is but one, its
/// value alone, between quotes or bare.
pub(super) struct Keys {
    decoder: Box<MessageDecoder>,
    /// What stands before a value alone, so that it is an object.
    lone: Option<Vec<u8>>,
}

impl Keys {
    pub(super) fn new(format: &FormatConfig, columns: Vec<Column>, time_zone: &str) -> Result<Keys, ConfigError> {
        let format = FormatConfig {
            kind: Some(FormatKind::Json),
            delimiter: None,
            header: None,
            envelope: None,
            ..format.clone()
        };
        let lone = match columns.as_slice() {
            [column] => {
                let mut before = b"{".to_vec();
                quote(column.input_name().as_bytes(), &mut before);
                before.push(b':');
                Some(before)
            }
            _ => None,
        };
        Ok(Keys {
            decoder: Box::new(MessageDecoder::new(&format, &columns, &[], time_zone)?),
            lone,
        })
    }

    /// Returns the key columns, one value a message; tells of the messages whose key is not known.
    pub(super) fn decode(
        &mut self,
        keys: &[Option<&[u8]>],
        messages: usize,
        bad: &mut dyn FnMut(usize, String),
    ) -> Vec<ArrayRef> {
        let wrapped: Vec<Option<Vec<u8>>> = match &self.lone {
            Some(before) => keys.iter().map(|key| wrapped(before, (*key)?)).collect(),
            None => Vec::new(),
        };
        let whole = |message: usize| {
            let wrapped = wrapped.get(message).and_then(Option::as_deref);
            // What is no key at all is read as one that is cut off.
            wrapped
                .or(keys.get(message).copied().flatten())
                .filter(|key| !key.trim_ascii().is_empty())
        };
        let values: Vec<Option<&[u8]>> = (0..messages).map(whole).collect();
        let found = self.decoder.decode(&Messages {
            keys: &[],
            values: &values,
            filled: Vec::new(),
        });
        for (rejected, &message) in found.decoded.rejected.iter().zip(&found.rejected_of) {
            let reason = match values[message as usize] {
                Some(_) => format!("key of the message: {}", rejected.reason),
                None => "a message without a key, which says which row is meant".to_owned(),
            };
            bad(message as usize, reason);
        }
        // The row of each message's key.
        let mut rows: Vec<Option<u32>> = vec![None; messages];
        for (row, &message) in found.rows_of.iter().enumerate() {
            if rows[message as usize].replace(row as u32).is_some() {
                bad(message as usize, "key of the message: several objects".to_owned());
            }
        }
        for (message, row) in rows.iter().enumerate() {
            if row.is_none() {
                // It holds no object at all, unless something else was told of it.
                bad(message, "key of the message: no object".to_owned());
            }
        }
        let rows = UInt32Array::from(rows);
        let columns = found.decoded.rows.columns().iter();
        columns
            .map(|column| take(column, &rows, None).unwrap_or_else(|_| column.slice(0, 0)))
            .collect()
    }
}

/// Makes an object of a value alone; none of what is one already.
fn wrapped(before: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let key = key.trim_ascii();
    if key.is_empty() || key.starts_with(b"{") {
        return None;
    }
    let mut object = before.to_vec();
    match key {
        [b'"', .., b'"'] => object.extend_from_slice(key),
        _ => quote(key, &mut object),
    }
    object.push(b'}');
    Some(object)
}

/// Writes a text as JSON does; what is not UTF-8 stays so.
fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0..0x20 => out.extend(format!("\\u{byte:04x}").into_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
