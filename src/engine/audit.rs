//! Compares what views hold with the batch answer over what their inputs hold, at one tick.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::row::{OwnedRow, RowConverter, SortField};
use dataflows::Tick;

use super::{Engine, EngineError};

/// What an audit found.
#[derive(Clone, Debug)]
pub struct Audit {
    /// The tick as of which everything was compared.
    pub tick: Tick,
    /// Each view and alert, in the order of the deployment.
    pub views: Vec<Audited>,
}

/// What an audit found of one view.
#[derive(Clone, Debug)]
pub struct Audited {
    /// Its name.
    pub view: String,
    /// Rows it holds.
    pub rows: usize,
    /// How it differs from the batch answer, if it does.
    pub difference: Option<String>,
    /// Why it was not compared, if it was not.
    pub passed_over: Option<&'static str>,
}

impl Engine {
    /// Compares each view with DataFusion's answer to its plan over the rows that its inputs hold, all at one tick.
    ///
    /// # Errors
    /// When the engine stops meanwhile.
    pub async fn audit(&self) -> Result<Audit, EngineError> {
        let deployment = self.deployment();
        let names: Vec<String> = self.relations().into_iter().map(|relation| relation.name).collect();
        let snapshot = self.snapshot(&names, self.acknowledged()).await?;
        let mut views = Vec::new();
        for definition in &deployment.views {
            let name = definition.view.name.clone();
            let Some(relation) = snapshot.relations.get(&name) else {
                continue;
            };
            let rows = relation.batches.iter().map(RecordBatch::num_rows).sum();
            let mut audited = Audited {
                view: name,
                rows,
                difference: None,
                passed_over: None,
            };
            if definition.view.closing.is_some() {
                audited.passed_over = Some("what it has closed stays, although the rows it was made of are gone");
            } else {
                let batch = deployment
                    .catalog
                    .batch(&definition.view, &snapshot.relations, snapshot.tick)
                    .await;
                audited.difference = match batch {
                    Ok(batch) => difference(&relation.schema, &relation.batches, &batch),
                    Err(error) => Some(format!("batch failed: {error}")),
                };
            }
            views.push(audited);
        }
        Ok(Audit {
            tick: snapshot.tick,
            views,
        })
    }
}

/// Says how rows differ, as multisets.
pub(super) fn difference(schema: &Schema, held: &[RecordBatch], batch: &[RecordBatch]) -> Option<String> {
    let sorted = |batches: &[RecordBatch]| -> Result<Vec<OwnedRow>, String> {
        let fields = schema
            .fields()
            .iter()
            .map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(|error| error.to_string())?;
        let mut rows = Vec::new();
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            let encoded = converter
                .convert_columns(batch.columns())
                .map_err(|error| error.to_string())?;
            rows.extend(encoded.iter().map(|row| row.owned()));
        }
        rows.sort_unstable();
        Ok(rows)
    };
    match (sorted(held), sorted(batch)) {
        (Ok(held), Ok(batch)) if held == batch => None,
        (Ok(held), Ok(batch)) => {
            let missing = batch.iter().filter(|row| held.binary_search(row).is_err()).count();
            let too_many = held.iter().filter(|row| batch.binary_search(row).is_err()).count();
            Some(format!(
                "it holds {} rows, batch {}; {missing} are missing, {too_many} are too many",
                held.len(),
                batch.len()
            ))
        }
        (Err(error), _) | (_, Err(error)) => Some(format!("its rows cannot be compared: {error}")),
    }
}
