//! Multisets of rows: compared bit by bit, multiplicity included, and told apart for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use dataflows::Updates;
use foldhash::quality::FixedState;

/// Rows, each as its bytes, with how often it is there.
pub(crate) type Bag = BTreeMap<Box<[u8]>, i64>;

/// What the rows of a bag add up to, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) rows: u64,
    hashes: u64,
    squares: u64,
}

/// Reads the rows of one relation.
pub(crate) struct Reader {
    schema: SchemaRef,
    converter: RowConverter,
}

impl Reader {
    pub(crate) fn new(schema: &SchemaRef) -> Self {
        let fields = schema
            .fields()
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        Reader {
            schema: Arc::clone(schema),
            converter: RowConverter::new(fields).expect("every type has an order"),
        }
    }

    /// Reads the rows of batches.
    pub(crate) fn bag(&self, batches: &[RecordBatch]) -> Result<Bag, String> {
        let mut bag = Bag::new();
        for batch in batches {
            self.add(&mut bag, batch, |_| 1)?;
        }
        Ok(bag)
    }

    /// Adds changes to rows.
    pub(crate) fn apply(&self, bag: &mut Bag, updates: &Updates) -> Result<(), String> {
        self.add(bag, updates.rows(), |row| updates.diffs()[row])
    }

    /// Adds the rows of batches up, so that equal bags are told without making any.
    pub(crate) fn sum(&self, batches: &[RecordBatch]) -> Result<Sum, String> {
        let hash = FixedState::with_seed(1);
        let mut sum = Sum::default();
        for batch in batches {
            let columns: Vec<ArrayRef> = batch.columns().iter().map(one_nan).collect();
            let rows = self
                .converter
                .convert_columns(&columns)
                .map_err(|error| error.to_string())?;
            for row in &rows {
                let hash = hash.hash_one(row.data());
                sum.rows += 1;
                // Two sums: rows that cancel each other out in one do not in the other.
                sum.hashes = sum.hashes.wrapping_add(hash);
                sum.squares = sum.squares.wrapping_add(hash.wrapping_mul(hash | 1));
            }
        }
        Ok(sum)
    }

    fn add(&self, bag: &mut Bag, batch: &RecordBatch, diff: impl Fn(usize) -> i64) -> Result<(), String> {
        let types = |schema: &SchemaRef| -> Vec<DataType> {
            schema.fields().iter().map(|field| field.data_type().clone()).collect()
        };
        if types(&batch.schema()) != types(&self.schema) {
            return Err(format!(
                "columns are {:?}, not {:?}",
                types(&batch.schema()),
                types(&self.schema)
            ));
        }
        let columns: Vec<ArrayRef> = batch.columns().iter().map(one_nan).collect();
        let rows = self
            .converter
            .convert_columns(&columns)
            .map_err(|error| error.to_string())?;
        for row in 0..batch.num_rows() {
            let entry = bag.entry(rows.row(row).data().into()).or_default();
            *entry += diff(row);
        }
        bag.retain(|_, count| *count != 0);
        Ok(())
    }

    /// Tells, row by row, what is there and should not be, and the reverse; none when nothing is.
    pub(crate) fn difference(&self, expected: &Bag, found: &Bag) -> Option<String> {
        if expected == found {
            return None;
        }
        let mut text = String::new();
        let mut told = 0;
        let rows: std::collections::BTreeSet<&Box<[u8]>> = expected.keys().chain(found.keys()).collect();
        for row in rows {
            let (want, have) = (
                expected.get(row).copied().unwrap_or(0),
                found.get(row).copied().unwrap_or(0),
            );
            if want != have {
                told += 1;
                if told <= 12 {
                    let _ = writeln!(text, "    expected {want} x, found {have} x: {}", self.print(row));
                }
            }
        }
        let count = |bag: &Bag| bag.values().sum::<i64>();
        let _ = writeln!(
            text,
            "    ({told} rows differ; {} rows expected, {} found)",
            count(expected),
            count(found)
        );
        Some(text)
    }

    /// Checks that no two rows agree in some columns, floats as keys.
    pub(crate) fn doubled(&self, batches: &[RecordBatch], key: &[usize]) -> Option<String> {
        let fields = key
            .iter()
            .map(|&at| SortField::new(self.schema.field(at).data_type().clone()))
            .collect();
        let converter = RowConverter::new(fields).expect("every type has an order");
        let mut seen = std::collections::HashSet::new();
        for batch in batches {
            let columns: Vec<ArrayRef> = key
                .iter()
                .map(|&at| dataflows::aggregates::canonical(batch.column(at)))
                .collect();
            let rows = converter.convert_columns(&columns).expect("columns of the schema");
            for row in 0..batch.num_rows() {
                if !seen.insert(rows.row(row).owned()) {
                    let bag = self.bag(&[batch.slice(row, 1)]).expect("rows of the schema");
                    return bag.keys().next().map(|row| self.print(row));
                }
            }
        }
        None
    }

    fn print(&self, row: &[u8]) -> String {
        let parser = self.converter.parser();
        let columns = self
            .converter
            .convert_rows([parser.parse(row)])
            .expect("bytes this reader wrote");
        let options = FormatOptions::default().with_null("NULL");
        let cells: Vec<String> = columns
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| {
                let text = match column.data_type() {
                    DataType::Float64 if column.is_valid(0) => {
                        format!("{:?}", column.as_primitive::<Float64Type>().value(0))
                    }
                    DataType::Utf8 if column.is_valid(0) => format!("{:?}", column.as_string::<i32>().value(0)),
                    _ => ArrayFormatter::try_new(column, &options)
                        .map_or_else(|error| error.to_string(), |cells| cells.value(0).to_string()),
                };
                format!("{}={text}", field.name())
            })
            .collect();
        cells.join(" ")
    }
}

/// Makes all NaNs one; keeps every other bit.
fn one_nan(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            let one: Float64Array = column
                .as_primitive::<Float64Type>()
                .unary(|value| if value.is_nan() { f64::NAN } else { value });
            Arc::new(one)
        }
        _ => Arc::clone(column),
    }
}

/// Compares two answers of which sums of floats may differ in their last bits.
pub(crate) fn nearly(schema: &SchemaRef, left: &[RecordBatch], right: &[RecordBatch]) -> Result<(), String> {
    let cells = |batches: &[RecordBatch]| -> Vec<Vec<Cell>> {
        let mut rows = Vec::new();
        for batch in batches {
            for row in 0..batch.num_rows() {
                rows.push(batch.columns().iter().map(|column| Cell::of(column, row)).collect());
            }
        }
        rows
    };
    let (left, mut right) = (cells(left), cells(right));
    if left.len() != right.len() {
        return Err(format!(
            "    {} rows against {} of plain DataFusion ({})",
            left.len(),
            right.len(),
            schema.fields().len()
        ));
    }
    for row in left {
        let Some(at) = right
            .iter()
            .position(|other| row.iter().zip(other).all(|(left, right)| left.near(right)))
        else {
            return Err(format!("    plain DataFusion has no row {row:?}, but {right:?}"));
        };
        right.swap_remove(at);
    }
    Ok(())
}

#[derive(Debug)]
enum Cell {
    Null,
    Double(f64),
    Text(String),
}

impl Cell {
    fn of(column: &ArrayRef, row: usize) -> Cell {
        if column.is_null(row) {
            return Cell::Null;
        }
        match column.data_type() {
            DataType::Float64 => Cell::Double(column.as_primitive::<Float64Type>().value(row)),
            _ => {
                let options = FormatOptions::default();
                let cells = ArrayFormatter::try_new(column, &options).expect("a type that prints");
                Cell::Text(cells.value(row).to_string())
            }
        }
    }

    fn near(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Text(left), Cell::Text(right)) => left == right,
            (Cell::Double(left), Cell::Double(right)) => {
                left == right
                    || (left.is_nan() && right.is_nan())
                    || (left - right).abs() <= 1e-6 * (1.0 + left.abs().max(right.abs()))
            }
            _ => false,
        }
    }
}
