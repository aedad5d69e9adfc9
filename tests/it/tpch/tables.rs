//! The tables, cut into the pieces in which they come and go, and the test's own books of what is there.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use sangam::engine::Operation;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

use crate::proofs::Post;

/// Steps in which everything comes, and goes.
pub(crate) const STEPS: usize = 10;

/// Rows in a tick.
const TICK_ROWS: usize = 4_096;

/// One table.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    key: &'static [&'static str],
    schema: SchemaRef,
    /// Rows by the step at which they come and the step at which they go.
    pieces: Vec<Vec<RecordBatch>>,
    here: Vec<Vec<bool>>,
}

/// Makes all tables at a scale, those that others refer to first.
pub(crate) fn tables(scale: f64) -> Vec<Table> {
    let orders = whole(OrderArrow::new(OrderGenerator::new(scale, 1, 1)));
    let order_keys = orders.column(0).as_primitive::<Int64Type>().values().to_vec();
    // An item comes and goes with its order.
    let order_of = |keys: &ArrayRef| -> Vec<usize> {
        let keys = keys.as_primitive::<Int64Type>().values().iter();
        keys.map(|key| order_keys.binary_search(key).expect("orders come by key"))
            .collect()
    };
    let items = whole(LineItemArrow::new(LineItemGenerator::new(scale, 1, 1)));
    let of_item = order_of(items.column(0));
    let (all, count) = (
        |rows: &RecordBatch| (0..rows.num_rows()).collect::<Vec<_>>(),
        order_keys.len(),
    );
    let plain = |name, key, rows: RecordBatch| {
        let numbers = all(&rows);
        let count = rows.num_rows();
        Table::new(name, key, &rows, &numbers, count)
    };
    vec![
        plain(
            "region",
            &["r_regionkey"],
            whole(RegionArrow::new(RegionGenerator::new(scale, 1, 1))),
        ),
        plain(
            "nation",
            &["n_nationkey"],
            whole(NationArrow::new(NationGenerator::new(scale, 1, 1))),
        ),
        plain(
            "supplier",
            &["s_suppkey"],
            whole(SupplierArrow::new(SupplierGenerator::new(scale, 1, 1))),
        ),
        plain(
            "part",
            &["p_partkey"],
            whole(PartArrow::new(PartGenerator::new(scale, 1, 1))),
        ),
        plain(
            "partsupp",
            &["ps_partkey", "ps_suppkey"],
            whole(PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1))),
        ),
        plain(
            "customer",
            &["c_custkey"],
            whole(CustomerArrow::new(CustomerGenerator::new(scale, 1, 1))),
        ),
        Table::new("orders", &["o_orderkey"], &orders, &all(&orders), count),
        Table::new("lineitem", &["l_orderkey", "l_linenumber"], &items, &of_item, count),
    ]
}

/// Puts a generator's batches together, texts as the engine keeps them.
fn whole(batches: impl Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>) -> RecordBatch {
    let batches: Vec<RecordBatch> = batches
        .map(|batch| plain(&batch.expect("a generator's batch")))
        .collect();
    concat_batches(&batches[0].schema(), &batches).expect("one schema")
}

fn plain(batch: &RecordBatch) -> RecordBatch {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let data_type = match field.data_type() {
            DataType::Utf8View => DataType::Utf8,
            other => other.clone(),
        };
        columns.push(cast(column, &data_type).expect("a text"));
        fields.push(Field::new(field.name(), data_type, false));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the same columns")
}

impl Table {
    /// Cuts rows up by the number of what they belong to, of `count`: they come in its order, and go
    /// from all over the range.
    fn new(name: &'static str, key: &'static [&'static str], rows: &RecordBatch, of: &[usize], count: usize) -> Table {
        let mut cells = vec![vec![Vec::new(); STEPS]; STEPS];
        for (row, &number) in of.iter().enumerate() {
            cells[number * STEPS / count][number % STEPS].push(row as u32);
        }
        let piece = |cell: Vec<u32>| take_record_batch(rows, &UInt32Array::from(cell)).expect("rows of the table");
        Table {
            name,
            key,
            schema: rows.schema(),
            pieces: cells
                .into_iter()
                .map(|cells| cells.into_iter().map(piece).collect())
                .collect(),
            here: vec![vec![false; STEPS]; STEPS],
        }
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().flatten().map(RecordBatch::num_rows).sum()
    }

    /// The source's file.
    pub(crate) fn toml(&self) -> String {
        let fields = self.schema.fields().iter();
        let columns: Vec<String> = fields
            .map(|field| {
                let sql = match field.data_type() {
                    DataType::Int64 => "bigint".to_owned(),
                    DataType::Int32 => "integer".to_owned(),
                    DataType::Date32 => "date".to_owned(),
                    DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
                    _ => "text".to_owned(),
                };
                format!("{} = \"{sql} not null\"\n", field.name())
            })
            .collect();
        let key: Vec<String> = self.key.iter().map(|key| format!("\"{key}\"")).collect();
        format!(
            "key = [{}]\n[columns]\n{}[connector]\ntype = \"http\"\n",
            key.join(", "),
            columns.concat()
        )
    }

    /// Whether the benchmark's refresh functions touch it.
    pub(crate) fn is_refreshed(&self) -> bool {
        ["orders", "lineitem"].contains(&self.name)
    }

    /// The rows that are there.
    pub(crate) fn rows(&self) -> Vec<RecordBatch> {
        let pieces = self.pieces.iter().flatten().zip(self.here.iter().flatten());
        let here = pieces.filter(|(piece, here)| **here && piece.num_rows() > 0);
        here.map(|(piece, _)| piece.clone()).collect()
    }

    /// Lets the rows of a step come.
    pub(crate) fn enter(&mut self, step: usize) -> Vec<Post> {
        self.here[step].fill(true);
        self.posts(Operation::Insert, self.pieces[step].iter())
    }

    /// Lets the rows of a step go; they are named by their keys.
    pub(crate) fn leave(&mut self, step: usize) -> Vec<Post> {
        self.here.iter_mut().for_each(|here| here[step] = false);
        let mut key: Vec<usize> = self
            .key
            .iter()
            .map(|name| self.schema.index_of(name).expect("a key column"))
            .collect();
        key.sort_unstable();
        let keys: Vec<RecordBatch> = self
            .pieces
            .iter()
            .map(|pieces| pieces[step].project(&key).expect("key columns"))
            .collect();
        self.posts(Operation::Delete, keys.iter())
    }

    fn posts<'a>(&self, operation: Operation, pieces: impl Iterator<Item = &'a RecordBatch>) -> Vec<Post> {
        let pieces: Vec<&RecordBatch> = pieces.filter(|piece| piece.num_rows() > 0).collect();
        let Some(first) = pieces.first() else { return Vec::new() };
        let rows = concat_batches(&first.schema(), pieces.iter().copied()).expect("one schema");
        (0..rows.num_rows())
            .step_by(TICK_ROWS)
            .map(|from| Post {
                source: self.name,
                operation,
                rows: rows.slice(from, TICK_ROWS.min(rows.num_rows() - from)),
            })
            .collect()
    }
}
