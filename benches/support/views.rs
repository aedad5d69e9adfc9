//! Runs a view from its SQL text on worker threads alone: batches in, delta batches out.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, unbounded};
use dataflows::Updates;
use dataflows::workers::{FlowSpec, Response, TickInput, Workers};
use queries::{Catalog, SourceRelation, View};

/// Ticks handed over before the oldest is answered.
pub const IN_FLIGHT: usize = 4;

/// Plans a view over sources that only insert.
pub fn plan(sources: &[(&str, SchemaRef)], sql: &str) -> View {
    plan_over(sources, sql, true)
}

/// Plans a view over sources whose rows may be taken back.
pub fn plan_retracting(sources: &[(&str, SchemaRef)], sql: &str) -> View {
    plan_over(sources, sql, false)
}

fn plan_over(sources: &[(&str, SchemaRef)], sql: &str, append_only: bool) -> View {
    let mut catalog = Catalog::new("UTC").expect("a time zone");
    for (name, schema) in sources {
        let source = SourceRelation {
            name: (*name).to_owned(),
            schema: Arc::clone(schema),
            append_only,
            key: None,
            retain_us: None,
            expires_after_us: None,
            time_column: None,
            lateness_us: None,
        };
        catalog.add_source(source).expect("a new name");
    }
    catalog.plan_view("view", sql).expect("a supported view")
}

/// A view on its workers.
pub struct Running {
    workers: Workers,
    answers: Receiver<Response>,
    tick: u64,
    missing: usize,
}

impl Running {
    pub fn start(view: &View, workers: usize) -> Running {
        let (responses, answers) = unbounded();
        let workers = Workers::start(workers, responses).expect("threads");
        workers.install(&Arc::new(FlowSpec::new(0, &view.name, view.plan.clone())));
        Running {
            workers,
            answers,
            tick: 0,
            missing: 0,
        }
    }

    /// Sends one tick of one source, first waiting while too many are unanswered.
    pub fn send(&mut self, source: &Arc<str>, rows: &RecordBatch, see: &mut impl FnMut(&Updates)) {
        self.send_updates(source, Updates::inserts(rows.clone()), see);
    }

    /// The same with rows that may be taken back.
    pub fn send_updates(&mut self, source: &Arc<str>, updates: Updates, see: &mut impl FnMut(&Updates)) {
        while self.missing >= IN_FLIGHT * self.workers.count() {
            self.hear(see);
        }
        self.tick += 1;
        self.missing += self.workers.count();
        let inputs = vec![(Arc::clone(source), updates)];
        self.workers.tick(TickInput::new(self.tick, inputs, vec![0]));
    }

    /// Waits for every answer.
    pub fn finish(&mut self, see: &mut impl FnMut(&Updates)) {
        while self.missing > 0 {
            self.hear(see);
        }
    }

    fn hear(&mut self, see: &mut impl FnMut(&Updates)) {
        match self.answers.recv().expect("workers answer") {
            Response::Completed(completed) => {
                self.missing -= completed.len();
                completed.iter().flat_map(|completed| &completed.rows).for_each(see);
            }
            Response::Died { reason, .. } => panic!("a worker died: {reason}"),
        }
    }

    /// Sends all ticks of one source and returns how long it took until the last was answered.
    pub fn time(&mut self, source: &str, ticks: &[RecordBatch], mut see: impl FnMut(&Updates)) -> Duration {
        let source: Arc<str> = source.into();
        let start = Instant::now();
        for rows in ticks {
            self.send(&source, rows, &mut see);
        }
        self.finish(&mut see);
        start.elapsed()
    }

    /// Returns rows and bytes of state, over all operators.
    pub fn state(&self) -> (u64, u64) {
        let operators = self.workers.stats().into_iter().flatten();
        operators.fold((0, 0), |(rows, bytes), stats| {
            (rows + stats.state_rows, bytes + stats.state_bytes)
        })
    }
}
