//! What a change carries over: finished rows of views, into those that are declared anew and those that read them.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use dataflows::plan::{Bucket, Reach, times_of};
use dataflows::workers::{Closed, FlowId, Seed};
use futures_util::TryStreamExt;
use queries::cold::Span;
use queries::{QueryError, Relation};

use super::closing;
use super::readers::look_back;
use super::wiring::NewFlow;
use super::{Engine, Snapshot};
use crate::config::{Deployment, ViewDef};

/// A view that is declared anew, and goes on where it was closed.
pub(super) struct Carried {
    pub(super) flow: FlowId,
    pub(super) name: String,
    bucket: usize,
    unit_us: i64,
    back: Reach,
}

/// Finds the views among new ones that keep their finished rows, as the ones do that they replace.
///
/// # Errors
/// Names a view whose history is of other columns.
pub(super) fn carried(
    engine: &Engine,
    old: &Deployment,
    new: &[NewFlow],
    views: &[ViewDef],
) -> Result<Vec<Carried>, String> {
    let mut carried = Vec::new();
    for flow in new {
        let Some(view) = flow.entry.view.as_ref().map(|definition| &definition.view) else {
            continue;
        };
        let before = old
            .views
            .iter()
            .map(|definition| &definition.view)
            .find(|before| before.name == view.name);
        let kept = |view: &queries::View| view.closing.as_ref().is_some_and(|closing| closing.keep_us.is_some());
        let Some(before) = before.filter(|before| kept(before)) else {
            continue;
        };
        let history = engine
            .inner
            .shared
            .holdings
            .lock()
            .inventory
            .views
            .get(&view.name)
            .map_or(0, |kept| kept.rows);
        let layouts = (closing::layout(before), closing::layout(view));
        let is_same = matches!(&layouts, (Ok(before), Ok(after)) if before.fingerprint() == after.fingerprint());
        if !kept(view) || !is_same {
            if history > 0 {
                return Err(format!(
                    "view \"{0}\" has history of {history} rows, and would have other columns, or keep none: give the \
                     new view another name, or drop \"{0}\" and its history first",
                    view.name
                ));
            }
            continue;
        }
        let Some(of_view) = &view.closing else { continue };
        carried.push(Carried {
            flow: flow.entry.spec.id,
            name: view.name.clone(),
            bucket: of_view.bucket,
            unit_us: closing::unit_us(view, of_view.bucket),
            back: look_back(views, &view.name, of_view.bucket),
        });
    }
    Ok(carried)
}

impl Carried {
    /// Picks the rows it begins with, of what the view it replaces shows.
    pub(super) async fn seeds(&self, snapshot: &Snapshot, closed: Closed) -> Result<Vec<Seed>, QueryError> {
        let Some(relation) = snapshot.relations.get(&self.name) else {
            return Ok(Vec::new());
        };
        let mut seeds = Vec::new();
        let mut seed = |rows: RecordBatch| {
            if rows.num_rows() > 0 {
                seeds.push(Seed {
                    flow: self.flow,
                    rows,
                    told: true,
                });
            }
        };
        let bucket = Bucket {
            column: self.bucket,
            of: None,
        };
        for rows in &relation.batches {
            let times = times_of(&bucket, rows);
            let is_closed = |time: Option<i64>| Some(time.is_some_and(|time| time < closed.below));
            let is_closed: BooleanArray = times.iter().map(is_closed).collect();
            seed(filter_record_batch(rows, &is_closed).expect("one verdict a row"));
        }
        let held_us = closed.held.min(closed.stored).saturating_mul(self.unit_us);
        for rows in in_files(relation, self.bucket, self.back, held_us, snapshot.tick).await? {
            seed(rows);
        }
        Ok(seeds)
    }
}

/// Reads of a relation's rows in files those before a time, and those that readers look back to.
async fn in_files(
    relation: &Relation,
    bucket: usize,
    back: Reach,
    held_us: i64,
    tick: u64,
) -> Result<Vec<RecordBatch>, QueryError> {
    let Some(cold) = &relation.cold else {
        return Ok(Vec::new());
    };
    let now_us = i64::try_from(tick).unwrap_or(i64::MAX);
    let from_us = match back {
        Reach::None => i64::MAX,
        Reach::Back(back_us) => now_us.saturating_sub(back_us),
        Reach::All => i64::MIN,
    };
    let spans = match from_us <= held_us {
        true => vec![(i64::MIN, i64::MAX)],
        false => vec![(i64::MIN, held_us), (from_us, i64::MAX)],
    };
    let mut rows = Vec::new();
    for (from_us, to_us) in spans.into_iter().filter(|(from_us, to_us)| from_us < to_us) {
        let span = Span {
            column: relation.schema.field(bucket).name().clone(),
            from_us: (from_us > i64::MIN).then_some(from_us),
            to_us: (to_us < i64::MAX).then_some(to_us),
        };
        let read: Vec<RecordBatch> = cold.stream(&relation.schema, Some(&span))?.try_collect().await?;
        rows.extend(read);
    }
    Ok(rows)
}

/// Brings rows of views that are in files to memory, as far back as new views read them.
pub(super) async fn hydrate(snapshot: &mut Snapshot, old: &Deployment, readers: &[ViewDef]) -> Result<(), QueryError> {
    let tick = snapshot.tick;
    for (name, relation) in &mut snapshot.relations {
        let view = old.views.iter().find(|definition| definition.view.name == *name);
        let Some(closing) = view.and_then(|definition| definition.view.closing.as_ref()) else {
            continue;
        };
        let back = look_back(readers, name, closing.bucket);
        let rows = in_files(relation, closing.bucket, back, i64::MIN, tick).await?;
        relation.batches.extend(rows);
    }
    Ok(())
}
