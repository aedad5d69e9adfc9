//! What is written down of a source, and how it goes on from there.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use dataflows::Updates;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::partitions::SavedPartitions;
use super::{Retain, Retained, SourceState, append};
use crate::log::{Rows, Stretch};

/// The name of the column that says with which segment a row expires, where its time does not tell.
const SEGMENT: &str = "__segment";

/// The clock of a source, and what its rows expire by.
#[derive(Serialize, Deserialize)]
struct SavedState {
    clock_us: Option<i64>,
    #[serde(default)]
    partitions: SavedPartitions,
    retain: Option<Retain>,
}

impl SourceState {
    /// Says what the rows are, in a form that differs where they would mean something else.
    pub(in crate::engine) fn shape(&self) -> Value {
        let source = &self.source;
        let columns: Vec<Value> = source
            .schema
            .fields()
            .iter()
            .map(|field| json!([field.name(), format!("{}", field.data_type()), field.is_nullable()]))
            .collect();
        let name = |column: usize| source.schema.field(column).name().as_str();
        json!({
            "columns": columns,
            "key": source.key.as_ref().map(|key| key.iter().map(|&column| name(column)).collect::<Vec<_>>()),
            "version": source.version.map(name),
            "retractions": source.retractions,
            "snapshot": source.snapshot,
            "time": source.time.map(|time| name(time.column)),
            "arrival": source.arrival.map(name),
        })
    }

    /// Returns its clock, as it is written down.
    pub(in crate::engine) fn state(&self) -> Value {
        let state = SavedState {
            clock_us: self.clock_us,
            partitions: self.partitions.save(),
            retain: self.retain,
        };
        serde_json::to_value(state).expect("numbers and texts become JSON")
    }

    /// Returns its rows as they are to be written down; `store` gives those of its relation.
    pub(in crate::engine) fn save(&mut self, store: impl FnOnce() -> Vec<RecordBatch>) -> Rows {
        if !std::mem::take(&mut self.unsaved) {
            return Rows::Same;
        }
        let by_time = self.source.time.is_some() || self.retain.is_none();
        match &self.rows {
            Retained::Appended(segments) => Rows::Grown(
                segments
                    .iter()
                    .map(|(segment, chunks)| Stretch {
                        segment: *segment,
                        batches: chunks.batches().to_vec(),
                    })
                    .collect(),
            ),
            Retained::Keyed(_) | Retained::Counted(_) if by_time => Rows::Any(store()),
            Retained::Keyed(keyed) => Rows::Any(vec![self.with_segments(keyed.all(&self.source.schema))]),
            Retained::Counted(counted) => Rows::Any(vec![self.with_segments(counted.all(&self.source.schema))]),
        }
    }

    fn with_segments(&self, (rows, segments): (RecordBatch, Vec<i64>)) -> RecordBatch {
        let mut fields: Vec<Arc<Field>> = self.source.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(SEGMENT, DataType::Int64, false)));
        let segments: ArrayRef = Arc::new(Int64Array::from(segments));
        let columns = rows.columns().iter().cloned().chain([segments]).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("one segment a row")
    }

    /// Goes on by the clock it had. Says whether its segments are those it would make now.
    pub(in crate::engine) fn restore(&mut self, state: &Value) -> Result<bool, serde_json::Error> {
        let state: SavedState = serde_json::from_value(state.clone())?;
        self.clock_us = state.clock_us;
        self.clock_before_us = state.clock_us;
        self.partitions.restore(state.partitions);
        self.unsaved = false;
        Ok(state.retain == self.retain)
    }

    /// Takes back in what was written down of a segment; what changes is handed out as at any tick.
    ///
    /// Where `retain` is another now, segments are made anew of the times of rows.
    pub(in crate::engine) fn load(&mut self, segment: i64, rows: RecordBatch, was: &Value) -> Result<(), String> {
        let (rows, segments) = self.declared(segment, rows, was)?;
        let segments = self.retain.is_some().then_some(segments);
        let schema = Arc::clone(&self.source.schema);
        match &mut self.rows {
            Retained::Appended(kept) => {
                append(kept, &rows, segments.as_deref(), &mut self.changes.steps);
                self.changes.updates.push(Updates::inserts(rows));
            }
            Retained::Keyed(keyed) => {
                let changes = keyed.upsert(&rows, segments.as_deref(), &schema);
                self.changes.updates.extend(changes);
            }
            Retained::Counted(counted) => {
                counted.insert(&rows, segments.as_deref());
                self.changes.updates.push(Updates::inserts(rows));
            }
        }
        Ok(())
    }

    /// Brings rows into the declared columns, in their order, and says when each expires.
    fn declared(&self, segment: i64, rows: RecordBatch, was: &Value) -> Result<(RecordBatch, Vec<i64>), String> {
        let columns = self
            .source
            .schema
            .fields()
            .iter()
            .map(|field| match rows.column_by_name(field.name()) {
                Some(column) => Ok(Arc::clone(column)),
                None if field.is_nullable() => Ok(new_null_array(field.data_type(), rows.num_rows())),
                None => Err(format!("column \"{}\" is missing", field.name())),
            });
        let columns = columns.collect::<Result<Vec<ArrayRef>, String>>()?;
        let declared =
            RecordBatch::try_new(Arc::clone(&self.source.schema), columns).map_err(|error| error.to_string())?;
        let before: Option<Retain> = serde_json::from_value(was["retain"].clone()).unwrap_or_default();
        let anew = |segment: i64| match (self.retain, before) {
            (Some(now), Some(before)) if now != before => now.segment(segment.saturating_mul(before.width_us)),
            _ => segment,
        };
        let segments = match (&self.source.time, rows.column_by_name(SEGMENT)) {
            (Some(_), _) => self.segments_of(0, &declared).unwrap_or_default(),
            (None, Some(segments)) => {
                let segments = segments.as_primitive::<Int64Type>();
                segments.values().iter().map(|segment| anew(*segment)).collect()
            }
            (None, None) => vec![anew(segment); declared.num_rows()],
        };
        Ok((declared, segments))
    }
}
