//! A sink that is declared for the first time is told what its view holds, before what changes from then on.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use queries::cold::Span;

use super::Coordinator;
use super::recovery::Recovered;
use crate::log::{Manifest, Outgoing, Told};

impl Coordinator {
    /// Hands new sinks, once everything is as the last run left it, the rows of their views as of its last tick.
    pub(super) fn greet(&mut self, manifest: Option<&Manifest>, recovered: &Recovered) -> anyhow::Result<()> {
        let tick = self.clock.last();
        let mut known: BTreeSet<String> = self.told.sinks().map(str::to_owned).collect();
        match manifest.map(|manifest| manifest.state["sinks"].as_array()) {
            // One of a program that did not write down which there were.
            Some(None) => return Ok(()),
            Some(Some(names)) => known.extend(names.iter().filter_map(|name| name.as_str()).map(str::to_owned)),
            None => {}
        }
        for status in self.shared.sinks.status() {
            let Some(entry) = self.topology.relation(&status.from).map(Arc::clone) else {
                continue;
            };
            if tick == 0 || known.contains(&status.sink) {
                continue;
            }
            let mut rows: Vec<RecordBatch> = entry.store.snapshot(tick).unwrap_or_default();
            let schema = Arc::clone(&entry.relation.schema);
            if let Some(bucket) = self.closings.rows_in_files(&status.from).map(|rows| rows.bucket) {
                let span = Span {
                    column: schema.field(bucket).name().clone(),
                    from_us: self.closings.shown_from_us(&status.from),
                    to_us: None,
                };
                recovered.past.finished(&status.from, &schema, &span, &mut |finished| {
                    rows.push(finished);
                    Ok(())
                })?;
            }
            let rows = concat_batches(&schema, &rows)?;
            if rows.num_rows() == 0 {
                continue;
            }
            tracing::info!(
                sink = status.sink,
                rows = rows.num_rows(),
                "a new sink is told what its view holds"
            );
            let sink: Arc<str> = status.sink.as_str().into();
            self.shared.sinks.add(&sink);
            let number = self.append_told(Told {
                tick,
                transitions: Vec::new(),
                outgoing: vec![Outgoing {
                    sink: Arc::clone(&sink),
                    diffs: vec![1; rows.num_rows()],
                    rows,
                }],
            });
            self.untold.push_back((number, super::Untold::Outgoing(sink)));
        }
        Ok(())
    }
}
