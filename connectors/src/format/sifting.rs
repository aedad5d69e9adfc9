//! Reads the values of rows that were split, and sets the bad ones aside: what all input of text has in common.
use std::borrow::Cow;
use std::iter::{Copied, Peekable};
use std::slice::Iter;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::cells::Cells;
use crate::column::Column;
use crate::decoded::{Rejected, TAKEN_BACK};
use crate::error::ConfigError;
use crate::format::{Envelope, FormatConfig, FormatKind, Rows, Step};
use crate::formats::csv::CsvRows;
use crate::formats::json::JsonRows;
use crate::times::Times;
use crate::values::ColumnBuilder;

/// The values of rows that were split, one column after another.
pub(crate) struct RowValues {
    pub(crate) cells: Cells,
    /// The slot that each column is read from.
    slots: Vec<usize>,
    builders: Vec<ColumnBuilder>,
    enveloped: Option<Enveloped>,
}

/// What is known of rows in an envelope.
struct Enveloped {
    /// Whether rows have a key.
    keyed: bool,
    /// The columns of the key that are read here.
    key: Vec<usize>,
    /// Which rows so far are taken back.
    taken_back: Vec<bool>,
}

/// Which rows so far are good, and what is told of the bad ones.
#[derive(Default)]
pub(crate) struct Sifted {
    /// Rows so far, good and bad.
    pub(crate) rows: usize,
    /// Bad rows with the place where they begin, to be sorted at the end.
    pub(crate) rejected: Vec<(usize, Rejected)>,
    /// Where the present piece of the input begins, where it is read in pieces.
    pub(crate) base: usize,
    good: Option<Vec<bool>>,
}

impl Sifted {
    /// Refuses what begins at `start` of the present piece.
    pub(crate) fn reject(&mut self, start: usize, rejected: Rejected) {
        self.rejected.push((self.base + start, rejected));
    }
}

/// Places where bytes were not valid UTF-8, in their order.
pub(crate) struct Invalid<'a>(Peekable<Copied<Iter<'a, usize>>>);

impl<'a> Invalid<'a> {
    pub(crate) fn new(places: &'a [usize]) -> Invalid<'a> {
        Invalid(places.iter().copied().peekable())
    }

    /// What is wrong with the row at `start..end`, if anything; rows are asked for in their order.
    fn within(&mut self, start: usize, end: usize) -> Option<String> {
        while self.0.next_if(|place| *place < start).is_some() {}
        let place = self.0.next_if(|place| *place < end)?;
        Some(format!("not valid UTF-8 at byte {} of the row", place - start + 1))
    }
}

/// Which rows are good; all of them, mostly.
pub(crate) struct Good {
    rows: usize,
    some: Option<BooleanArray>,
}

impl Good {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.some.as_ref().map_or(self.rows, BooleanArray::true_count)
    }

    /// Which they are, where it is not all.
    pub(crate) fn some(&self) -> Option<&BooleanArray> {
        self.some.as_ref()
    }
}

impl RowValues {
    /// Takes up what was split: the places of rows go to `ranges`. Returns where to go on.
    pub(crate) fn take(
        &mut self,
        step: Step,
        raw: &[u8],
        invalid: &mut Invalid<'_>,
        ranges: &mut Vec<(usize, usize)>,
        sifted: &mut Sifted,
    ) -> usize {
        match step {
            Step::Row { start, end, next, rows } => {
                if let Some(reason) = invalid.within(start, end) {
                    (0..rows).for_each(|_| self.cells.drop_row());
                    sifted.reject(start, Rejected::new(&raw[start..end], reason));
                } else {
                    ranges.extend(std::iter::repeat_n((start, end), rows));
                }
                next
            }
            Step::Bad {
                start,
                end,
                next,
                reason,
            } => {
                let reason = invalid.within(start, end).unwrap_or(reason);
                sifted.reject(start, Rejected::new(&raw[start..end], reason));
                next
            }
            Step::Skip { next } => next,
            Step::More => raw.len(),
        }
    }

    /// Reads the values of the rows split so far, which stand at `ranges`; `bad` says what is wrong with each
    /// besides, if anything is wrong with any.
    pub(crate) fn read(
        &mut self,
        text: &str,
        raw: &[u8],
        ranges: &[(usize, usize)],
        mut bad: Vec<Option<String>>,
        sifted: &mut Sifted,
    ) {
        let taken_back = self.cells.taken_back();
        for (at, (builder, slot)) in self.builders.iter_mut().zip(&self.slots).enumerate() {
            // Where a key says which row is meant, the rest of one that is taken back is not looked at.
            let only_keys = self
                .enveloped
                .as_ref()
                .is_some_and(|enveloped| enveloped.keyed && !enveloped.key.contains(&at));
            builder.append(self.cells.column(text, *slot), &mut |row, reason| {
                if only_keys && taken_back[row] {
                    return;
                }
                bad.resize(ranges.len(), None);
                bad[row].get_or_insert(reason);
            });
        }
        if let Some(enveloped) = &mut self.enveloped {
            enveloped.taken_back.extend_from_slice(taken_back);
        }
        if !bad.is_empty() {
            bad.resize(ranges.len(), None);
            let good = sifted.good.get_or_insert_with(|| vec![true; sifted.rows]);
            good.resize(sifted.rows, true);
            // Both rows of a change are good, or neither.
            let mut bad = bad.as_mut_slice();
            for change in ranges.chunk_by(|one, other| one == other) {
                let (these, rest) = bad.split_at_mut(change.len());
                bad = rest;
                let reason = these.iter_mut().find_map(Option::take);
                good.resize(good.len() + change.len(), reason.is_none());
                if let Some(reason) = reason {
                    let (start, end) = change[0];
                    let rejected = Rejected::new(&raw[start..end], reason);
                    sifted.rejected.push((sifted.base + start, rejected));
                }
            }
        }
        sifted.rows += ranges.len();
    }

    /// Returns the columns of all rows, which of them are good, and what is told of the bad ones, with their places.
    pub(crate) fn finish(&mut self, sifted: Sifted) -> (Vec<ArrayRef>, Good, Vec<(usize, Rejected)>) {
        let mut arrays: Vec<ArrayRef> = self.builders.iter_mut().map(ColumnBuilder::finish).collect();
        if let Some(enveloped) = &mut self.enveloped {
            arrays.push(Arc::new(BooleanArray::from(std::mem::take(&mut enveloped.taken_back))));
        }
        let Sifted {
            rows,
            mut rejected,
            good,
            ..
        } = sifted;
        rejected.sort_by_key(|(start, _)| *start);
        let some = good.map(|mut good| {
            good.resize(rows, true);
            BooleanArray::from(good)
        });
        (arrays, Good { rows, some }, rejected)
    }
}

/// Makes what splits `format` into rows, and what reads their values into `columns` but for those `filled`
/// otherwise.
pub(crate) fn reading(
    format: &FormatConfig,
    columns: &[Column],
    filled: &[usize],
    time_zone: &str,
) -> Result<(Rows, RowValues), ConfigError> {
    let kind = format.kind.unwrap_or(FormatKind::Json);
    let header = format.header.unwrap_or(true);
    let read: Vec<&Column> = (0..columns.len())
        .filter(|column| !filled.contains(column))
        .map(|column| &columns[column])
        .collect();
    let mut names: Vec<String> = Vec::new();
    let mut slots = Vec::new();
    for column in &read {
        let name = column.input_name();
        // Columns may share one field of the input, unless it goes by place.
        let known = names.iter().position(|known| known == name).filter(|_| header);
        slots.push(known.unwrap_or(names.len()));
        if known.is_none() {
            names.push(name.to_owned());
        }
    }
    let cells = Cells::new(names.len());
    let enveloped = format.envelope.map(|_| Enveloped {
        keyed: columns.iter().any(|column| column.key),
        key: (0..read.len()).filter(|&column| read[column].key).collect(),
        taken_back: Vec::new(),
    });
    let rows = match kind {
        FormatKind::Json => Rows::Json(match (&enveloped, format.envelope) {
            (Some(enveloped), Some(Envelope::Debezium)) => {
                let key = enveloped.key.iter().map(|&column| slots[column]).collect();
                JsonRows::new(names).enveloped(enveloped.keyed, key)
            }
            _ => JsonRows::new(names),
        }),
        FormatKind::Csv => {
            let delimiter = format.delimiter.unwrap_or(',') as u8;
            Rows::Csv(CsvRows::new(delimiter, header, names))
        }
        FormatKind::Parquet => {
            return Err(ConfigError::new("parquet is read from files only")
                .with_hint("Use json or csv, or a connector of type \"file\"."));
        }
    };
    let times = Times::new(time_zone, format.timestamp.as_deref())?;
    let nulls = format.nulls(kind);
    let builders = read
        .iter()
        .map(|column| ColumnBuilder::new(&column.field, nulls.clone(), times.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    let values = RowValues {
        cells,
        slots,
        builders,
        enveloped,
    };
    Ok((rows, values))
}

/// Makes a batch of the rows that are `good`, of which there are `rows`.
pub(crate) fn batch(
    schema: &SchemaRef,
    mut arrays: Vec<ArrayRef>,
    rows: usize,
    good: Option<&BooleanArray>,
) -> RecordBatch {
    if let Some(good) = good {
        // Same lengths: every column got one value a row.
        let kept = arrays
            .iter()
            .map(|array| filter(array, good))
            .collect::<Result<Vec<_>, _>>();
        arrays = kept.unwrap_or_default();
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), arrays, &options).unwrap_or_else(|error| {
        // Unreachable: types and nullability were upheld value by value.
        tracing::error!(%error, "decoded rows do not fit their schema");
        RecordBatch::new_empty(schema.clone())
    })
}

/// The schema of rows in an envelope.
pub(crate) fn enveloped_schema(columns: &[Column]) -> SchemaRef {
    let fields = columns
        .iter()
        .map(|column| column.field.as_ref().clone().with_nullable(true));
    let mark = Field::new(TAKEN_BACK, DataType::Boolean, false);
    Arc::new(Schema::new(fields.chain([mark]).collect::<Vec<_>>()))
}

/// Reads `bytes` as UTF-8; what is not valid becomes as many `?`, and the first
/// such place of each row is told.
pub(crate) fn read_utf8(bytes: &[u8]) -> (Cow<'_, str>, Vec<usize>) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (Cow::Borrowed(text), Vec::new());
    }
    let mut text = String::with_capacity(bytes.len());
    let mut invalid = Vec::new();
    let mut told = false;
    for chunk in bytes.utf8_chunks() {
        // Rows end with a line or with an object.
        told &= !chunk.valid().contains(['\n', '}']);
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            if !told {
                invalid.push(text.len());
                told = true;
            }
            text.extend(chunk.invalid().iter().map(|_| '?'));
        }
    }
    (Cow::Owned(text), invalid)
}
