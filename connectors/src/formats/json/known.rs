//! Lines that are alike, as a machine writes them: the keys of the first object, in their order.
//!
//! Whatever is not so (an escape, something nested, another order, a fault) is left to the reader of any JSON.

use wide::u8x16;

use crate::cells::{Cells, Kind};
use crate::format::ROW_BYTES_MAX;
use crate::formats::json::grammar::{plain_until, scalar};

/// The keys that are expected, in order.
#[derive(Default)]
pub(super) struct Known {
    keys: Vec<Key>,
}

/// A key as it was written, from the comma or brace before it to the colon after it, and its slot if it is declared.
struct Key {
    text: Vec<u8>,
    /// Its first 16 bytes, and which bits of them there are.
    head: u128,
    mask: u128,
    slot: Option<usize>,
}

impl Known {
    /// Expects one more key. Its name was read as a string: what ended it then, ends it again.
    pub(super) fn push(&mut self, name: &str, slot: Option<usize>) {
        let before = if self.keys.is_empty() { '{' } else { ',' };
        let text = format!("{before}\"{name}\":").into_bytes();
        let mut head = [0; 16];
        let length = text.len().min(16);
        head[..length].copy_from_slice(&text[..length]);
        self.keys.push(Key {
            head: u128::from_le_bytes(head),
            mask: u128::MAX >> (128 - 8 * length),
            text,
            slot,
        });
    }

    /// Adds the row of the line at `start`, if it is one object of these keys and nothing else; returns where it ends
    /// and where the next begins.
    #[inline]
    pub(super) fn line(&self, bytes: &[u8], start: usize, last: bool, cells: &mut Cells) -> Option<(usize, usize)> {
        if self.keys.is_empty() {
            return None;
        }
        cells.add_row();
        let found = self.object(bytes, start, cells).and_then(|after| {
            let end = after_blank(bytes, after);
            let next = match bytes.get(end) {
                Some(b'\n') => end + 1,
                None if last => end,
                _ => return None,
            };
            (end - start <= ROW_BYTES_MAX).then_some((end, next))
        });
        if found.is_none() {
            cells.drop_row();
        }
        found
    }

    #[inline]
    fn object(&self, bytes: &[u8], start: usize, cells: &mut Cells) -> Option<usize> {
        let mut row = cells.last_row();
        let mut at = start;
        for key in &self.keys {
            at = after_blank(bytes, key.after(bytes, at)?);
            let (begin, end, kind) = match bytes.get(at)? {
                b'"' => {
                    let end = plain_until(bytes, at + 1);
                    if *bytes.get(end)? != b'"' {
                        return None;
                    }
                    (at + 1, end, Kind::Quoted)
                }
                b'{' | b'[' => return None,
                first => {
                    let kind = if *first == b'n' { Kind::Missing } else { Kind::Bare };
                    let end = after_digits(bytes, at).map_or_else(|| scalar(bytes, at).ok(), Some)?;
                    (at, end, kind)
                }
            };
            if let Some(slot) = key.slot {
                row.set(slot, begin, end, kind);
            }
            at = end + usize::from(kind == Kind::Quoted);
        }
        let at = after_blank(bytes, at);
        (*bytes.get(at)? == b'}').then_some(at + 1)
    }
}

impl Key {
    /// What follows the key and its colon, if it and what is before it stand at `at`, spaces aside.
    #[inline]
    fn after(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let rest = bytes.get(at..)?;
        if let Some(head) = rest.first_chunk()
            && u128::from_le_bytes(*head) & self.mask == self.head
            && (self.text.len() <= 16 || rest.get(16..)?.starts_with(&self.text[16..]))
        {
            return Some(at + self.text.len());
        }
        self.after_spaced(bytes, at)
    }

    /// The same where there may be spaces, or the end of the input is near.
    fn after_spaced(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let at = after_blank(bytes, at);
        if *bytes.get(at)? != self.text[0] {
            return None;
        }
        let name = &self.text[1..self.text.len() - 1];
        let at = after_blank(bytes, at + 1);
        let colon = after_blank(bytes, at + name.len());
        (bytes.get(at..)?.starts_with(name) && *bytes.get(colon)? == b':').then_some(colon + 1)
    }
}

/// What follows a plain whole number of less than 16 digits, as most are; none of any other value.
#[inline]
fn after_digits(bytes: &[u8], at: usize) -> Option<usize> {
    let block = bytes.get(at..)?.first_chunk::<16>()?;
    let values = u8x16::from(*block) - u8x16::splat(b'0');
    let digits = values.simd_eq(values.min(u8x16::splat(9))).to_bitmask().trailing_ones() as usize;
    let is_whole = digits > 0 && (block[0] != b'0' || digits == 1);
    (is_whole && matches!(block.get(digits), Some(b',' | b'}'))).then_some(at + digits)
}

/// The first place from `at` on that holds no space within a line. Mostly there is none.
#[inline]
fn after_blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\r')) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field};
    use rand::{RngExt, SeedableRng};

    use crate::{Column, Decoder, FormatConfig};

    /// Whatever follows a line of the same keys is read as if it came first.
    #[test]
    fn lines_are_read_as_any_json_is() {
        let seed = 11;
        println!("seed {seed}");
        let mut random = rand_pcg::Pcg64::seed_from_u64(seed);
        let columns = [
            ("a", DataType::Int64),
            ("bc", DataType::Utf8),
            ("a longer name than 16", DataType::Float64),
        ];
        let columns = columns.map(|(name, data_type)| Column::new(Arc::new(Field::new(name, data_type, true))));
        let decoder = || Decoder::new(&FormatConfig::default(), &columns, "UTC").expect("a decoder");
        let good = r#"{"a":-15,"bc":"some text, and more","a longer name than 16":2.5e3,"other":null}"#;
        let alphabet = b"{}[]\",:\\ue0123-+.tfn\n \t\rx";
        let (mut rows, mut alike) = (0, 0);
        for _ in 0..20_000 {
            let mut line = good.as_bytes().to_vec();
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..line.len());
                match random.random_range(0..3) {
                    0 => drop(line.remove(at)),
                    1 => line.insert(at, alphabet[random.random_range(0..alphabet.len())]),
                    _ => line[at] = alphabet[random.random_range(0..alphabet.len())],
                }
            }
            if line.trim_ascii_start().starts_with(b"[") {
                // An array, where it comes first.
                continue;
            }
            // Two lines each, so that neither is taken for one object over several lines.
            let other = [line.as_slice(), b"\n{}\n"].concat();
            let alone = decoder().decode(&other);
            let after = decoder().decode(&[good.as_bytes(), b"\n", &other].concat());
            let first = after.rows.num_rows() - alone.rows.num_rows();
            assert_eq!(first, 1, "{}", String::from_utf8_lossy(&line));
            assert_eq!(
                after.rows.slice(1, alone.rows.num_rows()),
                alone.rows,
                "{}",
                String::from_utf8_lossy(&line)
            );
            assert_eq!(after.rejected, alone.rejected, "{}", String::from_utf8_lossy(&line));
            rows += alone.rows.num_rows();
            alike += usize::from(line == good.as_bytes());
        }
        assert!(
            rows > 25_000 && alike > 5_000,
            "{rows} rows, {alike} of lines unchanged"
        );
    }
}
