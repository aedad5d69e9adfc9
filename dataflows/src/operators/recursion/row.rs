//! Rows as bytes: what goes round in a loop.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, SortField};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that fit beside the tag and the length in 24.
const SHORT_BYTES_MAX: usize = 22;

/// A row, or a key, in arrow's row format: equal rows are equal bytes.
///
/// Differential dataflow sorts, copies and sends these; one type serves every loop, so that its
/// operators are compiled once.
#[derive(Clone)]
pub(super) enum Row {
    Short { length: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Arc<[u8]>),
}

impl Row {
    pub(super) const EMPTY: Row = Row::Short {
        length: 0,
        bytes: [0; SHORT_BYTES_MAX],
    };

    pub(super) fn new(data: &[u8]) -> Row {
        Row::joined(data, &[])
    }

    /// Returns the row of one row's columns and then the other's: the format has nothing in between.
    pub(super) fn concat(&self, other: &Row) -> Row {
        Row::joined(self.bytes(), other.bytes())
    }

    fn joined(first: &[u8], second: &[u8]) -> Row {
        let length = first.len() + second.len();
        if length > SHORT_BYTES_MAX {
            return Row::Long([first, second].concat().into());
        }
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes[..first.len()].copy_from_slice(first);
        bytes[first.len()..length].copy_from_slice(second);
        Row::Short {
            length: length as u8,
            bytes,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Row::Short { length, bytes } => &bytes[..usize::from(*length)],
            Row::Long(bytes) => bytes,
        }
    }

    /// The memory it holds beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Row::Short { .. } => 0,
            Row::Long(bytes) => bytes.len() + 2 * size_of::<usize>(),
        }
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Row) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Row) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Row) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl Hash for Row {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.bytes());
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", self.bytes())
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Row, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| Row::new(&bytes))
    }
}

/// Turns batches of one schema into rows and back.
pub(super) struct Codec {
    schema: SchemaRef,
    converter: RowConverter,
    parser: RowParser,
}

impl Codec {
    pub(super) fn new(schema: SchemaRef) -> Result<Codec, ArrowError> {
        let fields = schema.fields().iter();
        let converter = RowConverter::new(fields.map(|field| SortField::new(field.data_type().clone())).collect())?;
        let parser = converter.parser();
        Ok(Codec {
            schema,
            converter,
            parser,
        })
    }

    /// Returns one row for each of `count` rows of these columns.
    pub(super) fn encode(&self, columns: &[ArrayRef], count: usize) -> Vec<Row> {
        if columns.is_empty() {
            return vec![Row::EMPTY; count];
        }
        let columns: Vec<ArrayRef> = columns.iter().map(one_nan).collect();
        let rows = self
            .converter
            .convert_columns(&columns)
            .expect("a batch has its operator's columns");
        rows.iter().map(|row| Row::new(row.data())).collect()
    }

    /// Returns the batch of some rows.
    pub(super) fn decode<'a>(&self, rows: impl ExactSizeIterator<Item = &'a Row>) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let rows = rows.map(|row| self.parser.parse(row.bytes()));
        let columns = self.converter.convert_rows(rows).expect("the same codec wrote them");
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .expect("the same codec wrote them")
    }
}

/// Gives every NaN the same bits.
///
/// Which of two NaNs a sum of both becomes is up to the processor, and differs with a row's place in
/// its batch: a row that is derived again would not be the same row.
fn one_nan(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => Arc::new(
            column
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|value| if value.is_nan() { f64::NAN } else { value }),
        ),
        DataType::Float32 => Arc::new(
            column
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|value| if value.is_nan() { f32::NAN } else { value }),
        ),
        _ => Arc::clone(column),
    }
}

/// Tells whether values of a type come back from the row format as they went in.
pub(super) fn comes_back(data_type: &DataType) -> bool {
    let nested = match data_type {
        // They come back as their values.
        DataType::Dictionary(..) | DataType::RunEndEncoded(..) | DataType::Union(..) => return false,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => comes_back(field.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| comes_back(field.data_type())),
        _ => true,
    };
    nested && RowConverter::supports_fields(&[SortField::new(data_type.clone())])
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn schema(types: &[DataType]) -> SchemaRef {
        let fields = types
            .iter()
            .enumerate()
            .map(|(index, data_type)| Field::new(format!("c{index}"), data_type.clone(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    #[test]
    fn rows_come_back_whole_and_side_by_side() {
        assert_eq!(size_of::<Row>(), 24);
        let left: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(i64::MIN)])),
            Arc::new(StringArray::from(vec![
                None,
                Some(""),
                Some("a text of more than 22 bytes"),
            ])),
        ];
        let right: Vec<ArrayRef> = vec![Arc::new(Float64Array::from(vec![Some(-0.0), Some(f64::NAN), None]))];
        let (l, r) = (schema(&[DataType::Int64, DataType::Utf8]), schema(&[DataType::Float64]));
        let both = schema(&[DataType::Int64, DataType::Utf8, DataType::Float64]);
        let lefts = Codec::new(l).unwrap().encode(&left, 3);
        let rights = Codec::new(r).unwrap().encode(&right, 3);
        let rows: Vec<Row> = lefts
            .iter()
            .zip(&rights)
            .map(|(left, right)| left.concat(right))
            .collect();
        let batch = Codec::new(both).unwrap().decode(rows.iter());
        let columns: Vec<ArrayRef> = left.into_iter().chain(right).collect();
        for (found, expected) in batch.columns().iter().zip(&columns) {
            assert_eq!(found.to_data(), expected.to_data());
        }
    }

    #[test]
    fn types_that_would_come_back_as_others_are_known() {
        let text = || Box::new(DataType::Utf8);
        assert!(comes_back(&DataType::Decimal128(10, 2)));
        assert!(comes_back(&DataType::new_list(DataType::Int64, true)));
        assert!(!comes_back(&DataType::Dictionary(Box::new(DataType::Int32), text())));
        assert!(!comes_back(&DataType::new_list(
            DataType::Dictionary(Box::new(DataType::Int32), text()),
            true
        )));
    }
}
