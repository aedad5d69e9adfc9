//! Turns the texts of one column into an Arrow array of its declared type.
//!
//! Every format that carries text ends here, so `"1.50"` means the same in JSON
//! and in CSV. A value that does not fit marks its row; the column goes on.
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, BooleanBuilder, ListArray, StringBuilder};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, FieldRef, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType,
};

use crate::cells::{Cell, Kind};
use crate::decoded::quoted;
use crate::error::ConfigError;
use crate::fixed::{Fixed, Room};
use crate::lists::Elements;
use crate::times::Times;

/// How texts of a format stand for NULL.
#[derive(Debug, Clone)]
pub(crate) struct Nulls {
    /// Texts that mean NULL, spaces around them aside.
    pub(crate) tokens: Vec<String>,
    /// CSV: an empty field is NULL in every column but text, where `tokens`
    /// decide, and quotes make it a text.
    pub(crate) delimited: bool,
}

/// Builds one column.
pub(crate) struct ColumnBuilder {
    field: FieldRef,
    nulls: Nulls,
    times: Times,
    values: Values,
}

enum Values {
    /// Texts, and the room for how many of them and for their bytes.
    Text(StringBuilder, Room, Room),
    Int16(Fixed<Int16Type>),
    Int32(Fixed<Int32Type>),
    Int64(Fixed<Int64Type>),
    Float32(Fixed<Float32Type>),
    Float64(Fixed<Float64Type>),
    Boolean(BooleanBuilder),
    Date(Fixed<Date32Type>),
    Timestamp(Fixed<TimestampMicrosecondType>),
    Decimal(Fixed<Decimal128Type>, u8, i8),
    Binary(BinaryBuilder),
    List(Box<Lists>),
}

/// Lists so far, one after the other.
struct Lists {
    items: ColumnBuilder,
    item: FieldRef,
    lengths: Vec<usize>,
    valid: Vec<bool>,
    found: Elements,
}

impl Lists {
    /// Appends a list, or NULL where it is none; its bad elements are NULL, too.
    fn append(&mut self, list: Option<&str>) -> Result<(), String> {
        let found = list.map(|text| self.found.find(text)).unwrap_or(Ok(()));
        let Some(text) = list.filter(|_| found.is_ok()) else {
            self.lengths.push(0);
            self.valid.push(false);
            return found;
        };
        let mut wrong = None;
        let prefix = format!("column \"{}\": ", self.item.name());
        let mut bad = |index: usize, reason: String| {
            let reason = reason.strip_prefix(&prefix).unwrap_or(&reason);
            wrong.get_or_insert_with(|| format!("element {}: {reason}", index + 1));
        };
        // One type, whoever calls: lists may stand in lists.
        let bad: &mut dyn FnMut(usize, String) = &mut bad;
        self.items
            .append(self.found.cells(text), &mut |index, reason| bad(index, reason));
        self.lengths.push(self.found.len());
        self.valid.push(true);
        wrong.map_or(Ok(()), Err)
    }
}

impl ColumnBuilder {
    pub(crate) fn new(field: &FieldRef, nulls: Nulls, times: Times) -> Result<ColumnBuilder, ConfigError> {
        let values = match field.data_type() {
            DataType::Utf8 => Values::Text(StringBuilder::new(), Room::default(), Room::default()),
            own @ DataType::Int16 => Values::Int16(Fixed::new(own)),
            own @ DataType::Int32 => Values::Int32(Fixed::new(own)),
            own @ DataType::Int64 => Values::Int64(Fixed::new(own)),
            own @ DataType::Float32 => Values::Float32(Fixed::new(own)),
            own @ DataType::Float64 => Values::Float64(Fixed::new(own)),
            DataType::Boolean => Values::Boolean(BooleanBuilder::new()),
            own @ DataType::Date32 => Values::Date(Fixed::new(own)),
            own @ DataType::Timestamp(TimeUnit::Microsecond, _) => Values::Timestamp(Fixed::new(own)),
            own @ DataType::Decimal128(precision, scale) if *scale >= 0 => {
                Values::Decimal(Fixed::new(own), *precision, *scale)
            }
            DataType::Binary => Values::Binary(BinaryBuilder::new()),
            DataType::List(item) => Values::List(Box::new(Lists {
                items: ColumnBuilder::new(item, nulls.clone(), times.clone())?,
                item: Arc::clone(item),
                lengths: Vec::new(),
                valid: Vec::new(),
                found: Elements::default(),
            })),
            other => {
                return Err(ConfigError::new(format!(
                    "column \"{}\" has type {other}, which no source can read",
                    field.name()
                )));
            }
        };
        Ok(ColumnBuilder {
            field: Arc::clone(field),
            nulls,
            times,
            values,
        })
    }

    /// The column's name.
    pub(crate) fn name(&self) -> &str {
        self.field.name()
    }

    /// The column's type.
    pub(crate) fn data_type(&self) -> &DataType {
        self.field.data_type()
    }

    /// Appends one value a cell. A cell that does not fit becomes NULL here and
    /// `bad(index of the cell, reason)` is told.
    pub(crate) fn append<'a>(&mut self, cells: impl Iterator<Item = Cell<'a>>, bad: &mut impl FnMut(usize, String)) {
        let ColumnBuilder {
            field,
            nulls,
            times,
            values,
        } = self;
        let mut column = Texts {
            field,
            plain: !nulls.delimited && nulls.tokens.is_empty(),
            nulls,
            bad,
            text: false,
            nests: false,
        };
        match values {
            Values::Text(builder, ..) => {
                column.text = true;
                let strict = !column.nulls.delimited;
                column.each(cells, |cell| match (cell, strict) {
                    (Some(Cell { kind: Kind::Bare, text }), true) => {
                        builder.append_null();
                        Err(format!("{text} is not a text; texts stand between quotes"))
                    }
                    (cell, _) => {
                        builder.append_option(cell.map(|cell| cell.text));
                        Ok(())
                    }
                });
            }
            Values::Int16(builder) => column.each_parsed(cells, integer::<i16>, |v| builder.append(v)),
            Values::Int32(builder) => column.each_parsed(cells, integer::<i32>, |v| builder.append(v)),
            Values::Int64(builder) => column.each_parsed(cells, bigint, |v| builder.append(v)),
            Values::Float32(builder) => column.each_parsed(cells, float32, |v| builder.append(v)),
            Values::Float64(builder) => column.each_parsed(cells, float64, |v| builder.append(v)),
            Values::Boolean(builder) => {
                let strict = !column.nulls.delimited;
                column.each_parsed(cells, |text| boolean(text, strict), |v| builder.append_option(v));
            }
            Values::Date(builder) => {
                column.each_parsed(cells, |text| times.date(text), |v| builder.append(v));
            }
            Values::Timestamp(builder) => {
                column.each_parsed(cells, |text| times.instant(text), |v| builder.append(v));
            }
            Values::Decimal(builder, precision, scale) => {
                column.each_parsed(cells, |text| decimal(text, *precision, *scale), |v| builder.append(v));
            }
            Values::Binary(builder) => column.each_parsed(cells, hexadecimal, |v| builder.append_option(v)),
            Values::List(lists) => {
                column.nests = true;
                column.each(cells, |cell| lists.append(cell.map(|cell| cell.text)));
            }
        }
    }

    /// Returns what was appended, and starts anew.
    pub(crate) fn finish(&mut self) -> ArrayRef {
        match &mut self.values {
            Values::Text(builder, texts, bytes) => {
                let now = (builder.offsets_slice().len(), builder.values_slice().len());
                let next = StringBuilder::with_capacity(texts.after(now.0), bytes.after(now.1));
                Arc::new(std::mem::replace(builder, next).finish())
            }
            Values::Int16(builder) => builder.finish(),
            Values::Int32(builder) => builder.finish(),
            Values::Int64(builder) => builder.finish(),
            Values::Float32(builder) => builder.finish(),
            Values::Float64(builder) => builder.finish(),
            Values::Boolean(builder) => Arc::new(builder.finish()),
            Values::Date(builder) => builder.finish(),
            Values::Timestamp(builder) => builder.finish(),
            Values::Decimal(builder, ..) => builder.finish(),
            Values::Binary(builder) => Arc::new(builder.finish()),
            Values::List(lists) => Arc::new(ListArray::new(
                Arc::clone(&lists.item),
                OffsetBuffer::from_lengths(std::mem::take(&mut lists.lengths)),
                lists.items.finish(),
                Some(NullBuffer::from(std::mem::take(&mut lists.valid))),
            )),
        }
    }
}

/// What all types share: which cells are NULL, and what is told of bad ones.
struct Texts<'b, F> {
    field: &'b FieldRef,
    nulls: &'b Nulls,
    /// Whether no text means NULL.
    plain: bool,
    bad: &'b mut F,
    text: bool,
    /// Whether what stands between brackets is a value.
    nests: bool,
}

impl<F: FnMut(usize, String)> Texts<'_, F> {
    fn each<'a>(
        &mut self,
        cells: impl Iterator<Item = Cell<'a>>,
        mut append: impl FnMut(Option<Cell<'a>>) -> Result<(), String>,
    ) {
        for (index, cell) in cells.enumerate() {
            // What nearly every cell is needs no further look.
            let result = if self.plain && matches!(cell.kind, Kind::Bare | Kind::Quoted) {
                append(Some(cell))
            } else if cell.kind == Kind::Nested && !self.nests {
                append(None).and(Err("an object or array, not a plain value".to_owned()))
            } else if self.is_null(cell) {
                let result = append(None);
                if self.field.is_nullable() {
                    result
                } else {
                    Err(self.absent(cell))
                }
            } else {
                append(Some(cell))
            };
            if let Err(reason) = result {
                (self.bad)(index, format!("column \"{}\": {reason}", self.field.name()));
            }
        }
    }

    fn each_parsed<'a, T>(
        &mut self,
        cells: impl Iterator<Item = Cell<'a>>,
        mut parse: impl FnMut(&str) -> Result<T, String>,
        mut append: impl FnMut(Option<T>),
    ) {
        self.each(cells, |cell| {
            match cell.map(|cell| parse(cell.text.trim_ascii())).transpose() {
                Ok(value) => {
                    append(value);
                    Ok(())
                }
                Err(reason) => {
                    append(None);
                    Err(reason)
                }
            }
        });
    }

    #[inline]
    fn is_null(&self, cell: Cell<'_>) -> bool {
        match cell.kind {
            Kind::Missing => true,
            Kind::Quoted if self.text && self.nulls.delimited => false,
            _ => {
                let text = cell.text.trim_ascii();
                (text.is_empty() && self.nulls.delimited && !self.text)
                    || self.nulls.tokens.iter().any(|token| token == text)
            }
        }
    }

    fn absent(&self, cell: Cell<'_>) -> String {
        if cell.kind == Kind::Missing || cell.text.is_empty() {
            "missing, but declared not null".to_owned()
        } else {
            format!("{} means NULL, but the column is declared not null", quoted(cell.text))
        }
    }
}

trait Integer: Sized + std::str::FromStr {
    const NAME: &'static str;
    fn from_whole(value: f64) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ty, $name:literal;)*) => {$(
        impl Integer for $type {
            const NAME: &'static str = $name;
            fn from_whole(value: f64) -> Option<Self> {
                // Beyond 2^53 a double no longer says which integer was meant.
                (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0)
                    .then(|| <$type>::try_from(value as i64).ok())?
            }
        }
    )*};
}

integers! {
    i16, "a smallint (-32768 to 32767)";
    i32, "an integer of 32 bits";
    i64, "an integer of 64 bits";
}

/// Reads an integer of 64 bits; one of a few digits alone, as nearly all are, surely fits.
#[inline]
fn bigint(text: &str) -> Result<i64, String> {
    let (digits, negative) = match text.as_bytes() {
        [b'-', digits @ ..] => (digits, true),
        digits => (digits, false),
    };
    if digits.is_empty() || digits.len() > 18 {
        return integer(text);
    }
    let mut value = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return integer(text);
        }
        value = value * 10 + i64::from(digit);
    }
    Ok(if negative { -value } else { value })
}

fn integer<T: Integer>(text: &str) -> Result<T, String> {
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    // "27.0" and "1e3" are whole numbers too.
    let bytes = text.as_bytes();
    if bytes.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
        && let Some(value) = Float64Type::parse(text).and_then(T::from_whole)
    {
        return Ok(value);
    }
    Err(format!("{} is not {}", quoted(text), T::NAME))
}

fn float64(text: &str) -> Result<f64, String> {
    match Float64Type::parse(text) {
        Some(value) if value.is_finite() || !has_digit(text) => Ok(value),
        Some(_) => Err(format!("{} is too large for a double", quoted(text))),
        None => Err(format!("{} is not a number", quoted(text))),
    }
}

fn float32(text: &str) -> Result<f32, String> {
    match Float32Type::parse(text) {
        Some(value) if value.is_finite() || !has_digit(text) => Ok(value),
        Some(_) => Err(format!("{} is too large for a real", quoted(text))),
        None => Err(format!("{} is not a number", quoted(text))),
    }
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
}

fn boolean(text: &str, strict: bool) -> Result<bool, String> {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(&["true"]) || (!strict && is(&["t", "yes", "y", "1", "1.0"])) {
        Ok(true)
    } else if is(&["false"]) || (!strict && is(&["f", "no", "n", "0", "0.0"])) {
        Ok(false)
    } else {
        Err(format!("{} is neither true nor false", quoted(text)))
    }
}

/// Reads a decimal exactly; digits beyond the scale are rounded half away from
/// zero. (Arrow's own parser cuts them off and miscounts very long texts.)
fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, String> {
    let wrong = || format!("{} is not a decimal number", quoted(text));
    let too_large = || format!("{} is too large for decimal({precision},{scale})", quoted(text));
    let (negative, unsigned) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        None => (unsigned, 0),
        Some(at) => (&unsigned[..at], unsigned[at + 1..].parse::<i16>().map_err(|_| wrong())?),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty()
        || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
    {
        return Err(wrong());
    }
    // Digits left of the point, once it has moved to where the scale ends.
    let kept = whole.len() as i64 + i64::from(exponent) + i64::from(scale);
    let digits = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|byte| i128::from(byte - b'0'));
    let mut value = 0_i128;
    let mut seen = 0_i64;
    for digit in digits {
        if seen < kept {
            value = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(digit))
                .ok_or_else(too_large)?;
        } else {
            if seen == kept && digit >= 5 {
                value += 1;
            }
            break;
        }
        seen += 1;
    }
    while seen < kept && value != 0 {
        value = value.checked_mul(10).ok_or_else(too_large)?;
        seen += 1;
    }
    if value >= 10_i128.pow(u32::from(precision.min(38))) {
        return Err(too_large());
    }
    Ok(if negative { -value } else { value })
}

/// Reads bytes as pairs of hexadecimal digits, after `\x` or plain.
fn hexadecimal(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.strip_prefix("\\x").unwrap_or(text).as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    bytes
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| format!("{} is not hexadecimal", quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for (text, expected) in [
            ("5", Some(5)),
            ("-32768", Some(-32768)),
            ("32768", None),
            ("27.0", Some(27)),
            ("1e3", Some(1000)),
            ("1.5", None),
            ("", None),
            ("abc", None),
            ("+7", Some(7)),
            ("1e99", None),
            ("NaN", None),
            ("0x10", None),
        ] {
            assert_eq!(integer::<i16>(text).ok(), expected, "{text}");
        }
        for text in [
            "9223372036854775807",
            "-999999999999999999",
            "0",
            "-0",
            "007",
            "27.0",
            "-",
            "",
            "1x",
            "--1",
            "+1",
        ] {
            assert_eq!(bigint(text), integer::<i64>(text), "{text}");
        }
        assert_eq!(integer::<i64>("9223372036854775807"), Ok(i64::MAX));
        assert!(integer::<i64>("9223372036854775808").is_err());
        assert!(integer::<i64>("1e18").is_err());
    }

    #[test]
    fn floats() {
        for (text, expected) in [
            ("1.5", 1.5),
            ("-0.0", 0.0),
            ("1e-400", 0.0),
            (".5", 0.5),
            ("-inf", f64::NEG_INFINITY),
        ] {
            assert_eq!(float64(text), Ok(expected), "{text}");
        }
        assert!(float64("NAN").unwrap().is_nan());
        for text in ["", "1e400", "1,5", "1.5x", "--1", "0x1"] {
            assert!(float64(text).is_err(), "{text}");
        }
        assert!(float32("1e39").is_err());
    }

    #[test]
    fn decimals() {
        for (text, expected) in [
            ("1", Some(100)),
            ("1.005", Some(101)),
            ("-1.005", Some(-101)),
            ("1.004", Some(100)),
            ("999.99", Some(99999)),
            ("999.995", None),
            ("1000", None),
            ("0000000000001", Some(100)),
            ("1e2", Some(10000)),
            ("1.5e-1", Some(15)),
            ("5e-3", Some(1)),
            ("4e-3", Some(0)),
            ("5e-4", Some(0)),
            ("1e-30000", Some(0)),
            ("0e30000", Some(0)),
            ("1e30000", None),
            (".5", Some(50)),
            ("5.", Some(500)),
            ("", None),
            (".", None),
            ("-", None),
            ("1e", None),
            ("1.2.3", None),
            ("NaN", None),
            ("99e-4", Some(1)),
            ("0.0049", Some(0)),
        ] {
            assert_eq!(decimal(text, 5, 2).ok(), expected, "{text}");
        }
        assert!(decimal(&"1".repeat(300), 38, 0).is_err());
        assert_eq!(decimal(&format!("0.{}", "1".repeat(300)), 5, 2), Ok(11));
    }

    #[test]
    fn booleans_and_bytes() {
        assert_eq!(boolean("False", true), Ok(false));
        assert_eq!(boolean("1", false), Ok(true));
        assert!(boolean("1", true).is_err());
        assert_eq!(hexadecimal("\\x00fF"), Ok(vec![0, 255]));
        assert_eq!(hexadecimal(""), Ok(vec![]));
        assert!(hexadecimal("abc").is_err());
        assert!(hexadecimal("éa").is_err());
    }
}
