//! Which rows and columns of a relation a subscription shows, and how its changes are written.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::compute::{concat_batches, filter, filter_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use dataflows::Updates;
use dataflows::json::RowEncoder;
use queries::{Catalog, Predicate};

use super::net::{by_key, net};
use crate::engine::Relation;
use crate::server::error::{ApiError, nearest};
use crate::server::sql::bad_sql;

/// A relation seen through a filter and a choice of columns. Equal subscriptions share one.
pub(super) struct Selection {
    /// Unique in this process.
    pub(super) id: u64,
    /// The relation's name.
    pub(super) relation: String,
    /// A hash of the relation's definition.
    pub(super) definition: u64,
    /// A hash of the filter and the columns, the same in every process.
    pub(super) fingerprint: u64,
    predicate: Option<Predicate>,
    /// Positions in the relation, in the order sent.
    columns: Vec<usize>,
    schema: SchemaRef,
    rows: RowEncoder,
    converter: RowConverter,
    key: Option<Key>,
}

struct Key {
    /// Positions among the chosen columns.
    columns: Vec<usize>,
    encoder: RowEncoder,
    converter: RowConverter,
}

impl Selection {
    pub(super) fn new(
        catalog: &Catalog,
        relation: &Relation,
        filter: Option<&str>,
        columns: Option<&[String]>,
    ) -> Result<Self, ApiError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let predicate = filter
            .map(|text| catalog.compile_predicate(&relation.schema, text))
            .transpose()
            .map_err(|problem| ApiError {
                code: "bad_where",
                ..bad_sql(problem)
            })?;
        let columns = choose(relation, columns)?;
        let schema: SchemaRef = relation
            .schema
            .project(&columns)
            .map_err(|error| ApiError::bad_request("bad_columns", error.to_string()))?
            .into();
        let all: Vec<usize> = (0..columns.len()).collect();
        let key = relation.key.as_ref().map(|key| -> Result<Key, ApiError> {
            let key: Vec<usize> = key
                .iter()
                .filter_map(|column| columns.iter().position(|chosen| chosen == column))
                .collect();
            Ok(Key {
                encoder: RowEncoder::with_columns(&schema, &key),
                converter: converter(&schema, &key)?,
                columns: key,
            })
        });
        Ok(Selection {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            relation: relation.name.clone(),
            definition: relation.definition,
            fingerprint: fingerprint(filter, &columns),
            rows: RowEncoder::new(&schema),
            converter: converter(&schema, &all)?,
            key: key.transpose()?,
            predicate,
            columns,
            schema,
        })
    }

    /// Returns the rows and columns of `batch` that are shown.
    pub(super) fn select(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let chosen = batch.project(&self.columns)?;
        match &self.predicate {
            Some(predicate) => filter_record_batch(&chosen, &predicate.evaluate(batch)),
            None => Ok(chosen),
        }
    }

    /// Appends rows as returned by [`select`](Self::select), separated by commas.
    pub(super) fn write(&self, rows: &RecordBatch, out: &mut Vec<u8>) {
        self.rows.objects(rows, out);
    }

    /// Writes what `runs` come to, if they come to anything: the lists of a changes frame.
    pub(super) fn changes(&self, runs: &[Updates]) -> Result<Option<Bytes>, ArrowError> {
        let (rows, diffs) = self.select_runs(runs)?;
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let changes = net(&self.converter, &rows, &diffs)?;
        if changes.is_empty() {
            return Ok(None);
        }
        let bound = self.rows.bind(&rows);
        let mut out = Vec::with_capacity(changes.len() * 64);
        if let Some(key) = &self.key {
            let (upserts, deletes) = by_key(&key.converter, rows.project(&key.columns)?.columns(), &changes)?;
            out.extend_from_slice(b"\"upsert\":[");
            list(upserts, &mut out, |row, out| bound.object(row, out));
            out.extend_from_slice(b"],\"delete\":[");
            let bound = key.encoder.bind(&rows);
            list(deletes, &mut out, |row, out| bound.object(row, out));
        } else {
            // A row that comes three times is listed three times.
            let copies = |sign: i64| {
                changes
                    .iter()
                    .filter(move |change| change.diff.signum() == sign)
                    .flat_map(|change| {
                        std::iter::repeat_n(
                            change.row,
                            usize::try_from(change.diff.unsigned_abs()).unwrap_or(usize::MAX),
                        )
                    })
            };
            out.extend_from_slice(b"\"insert\":[");
            list(copies(1), &mut out, |row, out| bound.object(row, out));
            out.extend_from_slice(b"],\"delete\":[");
            list(copies(-1), &mut out, |row, out| bound.object(row, out));
        }
        out.push(b']');
        Ok(Some(out.into()))
    }

    /// Filters and projects each run, then puts them in a row.
    fn select_runs<'a>(&self, runs: &'a [Updates]) -> Result<(RecordBatch, Cow<'a, [i64]>), ArrowError> {
        if let ([run], None) = (runs, &self.predicate) {
            return Ok((self.select(run.rows())?, Cow::Borrowed(run.diffs())));
        }
        let mut batches = Vec::with_capacity(runs.len());
        let mut diffs = Vec::new();
        for run in runs {
            let chosen = run.rows().project(&self.columns)?;
            match &self.predicate {
                None => {
                    diffs.extend_from_slice(run.diffs());
                    batches.push(chosen);
                }
                Some(predicate) => {
                    let passes = predicate.evaluate(run.rows());
                    let all = Int64Array::new(run.diffs().clone(), None);
                    let passing = filter(&all, &passes)?;
                    diffs.extend_from_slice(passing.as_primitive::<Int64Type>().values());
                    batches.push(filter_record_batch(&chosen, &passes)?);
                }
            }
        }
        Ok((concat_batches(&self.schema, &batches)?, Cow::Owned(diffs)))
    }
}

fn list(rows: impl IntoIterator<Item = usize>, out: &mut Vec<u8>, write: impl Fn(usize, &mut Vec<u8>)) {
    for (position, row) in rows.into_iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write(row, out);
    }
}

/// Finds the columns by name, all when none are named.
fn choose(relation: &Relation, names: Option<&[String]>) -> Result<Vec<usize>, ApiError> {
    let fields = relation.schema.fields();
    let Some(names) = names else {
        return Ok((0..fields.len()).collect());
    };
    let bad = |message: String| ApiError::bad_request("bad_columns", message);
    if names.is_empty() {
        return Err(bad("columns is an empty list".to_owned()).hint("Leave columns out to get all of them."));
    }
    let known: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let mut chosen = Vec::with_capacity(names.len());
    for name in names {
        let Some(position) = known.iter().position(|known| known == name) else {
            let hint = match nearest(name, &known) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("It has: {}.", known.join(", ")),
            };
            return Err(bad(format!("\"{}\" has no column \"{name}\"", relation.name)).hint(hint));
        };
        if chosen.contains(&position) {
            return Err(bad(format!("column \"{name}\" is named twice")));
        }
        chosen.push(position);
    }
    // Without its whole key a row could not be told from the one it replaces.
    let key = relation.key.as_deref().unwrap_or_default();
    let missing: Vec<&str> = key
        .iter()
        .filter(|column| !chosen.contains(column))
        .map(|&column| known[column])
        .collect();
    if !missing.is_empty() {
        return Err(bad(format!(
            "the key of \"{}\" is missing from columns: {}",
            relation.name,
            missing.join(", ")
        ))
        .hint("Rows are replaced and deleted by key: name all its columns, too."));
    }
    Ok(chosen)
}

fn converter(schema: &SchemaRef, columns: &[usize]) -> Result<RowConverter, ApiError> {
    let fields = columns
        .iter()
        .map(|&column| SortField::new(schema.field(column).data_type().clone()))
        .collect();
    RowConverter::new(fields).map_err(|error| {
        ApiError::bad_request(
            "no_changes",
            format!("changes of these columns cannot be computed: {error}"),
        )
        .hint("Leave the columns of this type out.")
    })
}

/// FNV-1a: tokens must mean the same in every process, so no seeded hash will do.
fn fingerprint(filter: Option<&str>, columns: &[usize]) -> u64 {
    let columns = columns.iter().flat_map(|column| column.to_le_bytes());
    let filter = filter.into_iter().flat_map(str::bytes);
    columns
        .chain([0xff])
        .chain(filter)
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::engine::RelationKind;

    fn relation(key: Option<Vec<usize>>) -> Relation {
        let schema = Schema::new(vec![
            Field::new("station", DataType::Utf8, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("score", DataType::Float64, true),
        ]);
        Relation {
            name: "risk".to_owned(),
            kind: RelationKind::View,
            schema: Arc::new(schema),
            key,
            definition: 1,
        }
    }

    fn selection(
        key: Option<Vec<usize>>,
        filter: Option<&str>,
        columns: Option<&[&str]>,
    ) -> Result<Selection, ApiError> {
        let columns: Option<Vec<String>> = columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        Selection::new(
            &Catalog::new("UTC").unwrap(),
            &relation(key),
            filter,
            columns.as_deref(),
        )
    }

    fn run(rows: &[(&str, f64, i64)]) -> Updates {
        let stations: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>());
        let scores: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.1)));
        let schema = relation(None).schema;
        let batch = RecordBatch::try_new(schema, vec![stations.clone(), stations, scores]).unwrap();
        Updates::new(batch, rows.iter().map(|row| row.2).collect::<Vec<_>>())
    }

    fn text(selection: &Selection, runs: &[Updates]) -> Option<String> {
        selection
            .changes(runs)
            .unwrap()
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn with_a_key_the_net_is_upserts_and_deletions() {
        let all = selection(Some(vec![0]), None, Some(&["score", "station"])).unwrap();
        let runs = [
            run(&[("a", 1.0, -1), ("a", 2.0, 1)]),
            run(&[("a", 2.0, -1), ("a", 3.0, 1), ("b", 9.0, -1)]),
        ];
        assert_eq!(
            text(&all, &runs).unwrap(),
            r#""upsert":[{"score":3.0,"station":"a"}],"delete":[{"station":"b"}]"#
        );
        let back = [
            run(&[("a", 1.0, -1), ("a", 2.0, 1)]),
            run(&[("a", 2.0, -1), ("a", 1.0, 1)]),
        ];
        assert_eq!(text(&all, &back), None);
        assert_eq!(text(&all, &[]), None);
    }

    #[test]
    fn a_row_that_leaves_the_filter_is_deleted_and_one_that_enters_is_upserted() {
        let high = selection(Some(vec![0]), Some("score >= 50"), Some(&["station"])).unwrap();
        let leaves = [run(&[("a", 60.0, -1), ("a", 40.0, 1)])];
        assert_eq!(
            text(&high, &leaves).unwrap(),
            r#""upsert":[],"delete":[{"station":"a"}]"#
        );
        let enters = [run(&[("a", 40.0, -1), ("a", 60.0, 1)])];
        assert_eq!(
            text(&high, &enters).unwrap(),
            r#""upsert":[{"station":"a"}],"delete":[]"#
        );
        // What changed is not among the chosen columns.
        let stays = [run(&[("a", 60.0, -1), ("a", 61.0, 1)])];
        assert_eq!(text(&high, &stays), None);
        let below = [run(&[("a", 10.0, -1), ("a", 11.0, 1)])];
        assert_eq!(text(&high, &below), None);
    }

    #[test]
    fn without_a_key_rows_come_as_often_as_they_are() {
        let all = selection(None, None, Some(&["station"])).unwrap();
        let runs = [run(&[
            ("a", 1.0, 1),
            ("a", 2.0, 1),
            ("b", 1.0, -2),
            ("c", 1.0, 1),
            ("c", 5.0, -1),
        ])];
        assert_eq!(
            text(&all, &runs).unwrap(),
            r#""insert":[{"station":"a"},{"station":"a"}],"delete":[{"station":"b"},{"station":"b"}]"#
        );
    }

    #[test]
    fn columns_are_checked() {
        let code = |key: Option<Vec<usize>>, columns: &[&str]| {
            selection(key, None, Some(columns))
                .err()
                .map(|error| (error.message, error.hint.unwrap_or_default()))
        };
        assert_eq!(code(None, &["score"]), None);
        assert!(code(None, &[]).is_some());
        assert!(code(None, &["score", "score"]).is_some());
        assert_eq!(code(None, &["scor"]).unwrap().1, "Did you mean \"score\"?");
        assert!(
            code(Some(vec![0, 1]), &["score", "name"])
                .unwrap()
                .0
                .ends_with("station")
        );
    }

    #[test]
    fn equal_selections_have_equal_fingerprints() {
        let of = |filter, columns: Option<&[&str]>| selection(None, filter, columns).unwrap().fingerprint;
        assert_eq!(of(None, None), of(None, Some(&["station", "name", "score"])));
        assert_ne!(of(None, None), of(Some("true"), None));
        assert_ne!(of(None, None), of(None, Some(&["name", "station", "score"])));
    }
}
