//! One case: a deployment, some ticks, and at each the engine against the ledger and DataFusion.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use dataflows::plan::{Operator, WindowFunction};
use queries::{Relation, Relations};
use sangam::config::Deployment;
use sangam::engine::{Changes, Engine, Operation, Snapshot};

use super::bag::{Bag, Reader, nearly};
use super::changes::Running;
use super::closing::Closed;
use super::deployment::{Made, make};
use super::dice::Dice;
use super::failing::{Place, normal};
use super::ledger::{Book, Verdict};
use super::shrink::Script;
use super::sources::Kind;
use super::traffic::{Step, decoded, enter, step};
use super::values::batch;

/// How a case is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) ticks: usize,
    /// How long one answer may take.
    pub(crate) patience: Duration,
    /// For how long a case that fails is made smaller.
    pub(crate) shrinks: Option<Duration>,
    /// The operator or function that a case must have to be played at all.
    pub(crate) needs: Option<&'static str>,
}

/// What a case came to, for the statistics over all cases.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) views: usize,
    pub(crate) refused: Vec<String>,
    /// Pairs of view and tick, and how many of them had rows.
    pub(crate) pairs: usize,
    pub(crate) pairs_filled: usize,
    /// The same of operators, at some ticks: those that hold or passed on something.
    pub(crate) operators: usize,
    pub(crate) operators_busy: usize,
    /// Changes of the deployment while it ran, and the rows new views were filled with.
    pub(crate) changes: usize,
    pub(crate) filled_rows: usize,
    pub(crate) inserted: usize,
    pub(crate) retracted: usize,
    pub(crate) late: usize,
    pub(crate) rejected: usize,
    pub(crate) failing_rows: usize,
    pub(crate) plain: usize,
    pub(crate) emptied: usize,
    /// Rows of closed buckets.
    pub(crate) closed: usize,
    /// Rows of views that close which audits compared, and which they could not.
    pub(crate) audited: usize,
    pub(crate) passed_over: usize,
    /// Rows each worker's operators read.
    pub(crate) by_worker: Vec<u64>,
    pub(crate) kinds: HashMap<&'static str, usize>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.views += other.views;
        self.refused.extend(other.refused);
        self.pairs += other.pairs;
        self.pairs_filled += other.pairs_filled;
        self.operators += other.operators;
        self.operators_busy += other.operators_busy;
        self.changes += other.changes;
        self.filled_rows += other.filled_rows;
        self.inserted += other.inserted;
        self.retracted += other.retracted;
        self.late += other.late;
        self.rejected += other.rejected;
        self.failing_rows += other.failing_rows;
        self.plain += other.plain;
        self.emptied += other.emptied;
        self.closed += other.closed;
        self.audited += other.audited;
        self.passed_over += other.passed_over;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
    }
}

/// Runs the case of a seed, if it has what is needed. The error is the whole story of what was wrong.
pub(crate) async fn run(seed: u64, settings: Settings) -> Result<Tally, String> {
    let mut dice = Dice::new(seed);
    let workers = 1 + (seed % 2) as usize;
    let dir = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let made = make(&mut dice, workers, dir.path());
    if settings
        .needs
        .is_some_and(|kind| !kinds(&made.deployment).contains_key(kind))
    {
        return Ok(Tally::default());
    }
    let mut taste = made.taste;
    let mut steps = Vec::new();
    let random = |books: &[Book], tick: u64, count: usize| {
        (count <= settings.ticks).then(|| {
            taste.now_us += dice.between(0, 900) * 1_000_000;
            let next = step(&mut dice, books, taste, tick);
            steps.push(next.clone());
            next
        })
    };
    match play(&made, settings, random).await {
        Played::Right(tally) => Ok(*tally),
        Played::Wrong { what, tick, count } => {
            let story = format!(
                "case {seed}, tick {count} ({tick}): {what}\n\n{}\nRun it alone with SANGAM_ORACLE_SEED={seed} SANGAM_ORACLE_CASES=1.",
                made.print()
            );
            Err(match settings.shrinks {
                Some(patience) => {
                    let small = Script::new(&made, workers, steps)
                        .shrunk(&what, settings, patience)
                        .await;
                    format!("{story}\n\nMade small:\n{}", small.print())
                }
                None => story,
            })
        }
    }
}

/// How a case ended.
pub(crate) enum Played {
    Right(Box<Tally>),
    /// What was wrong, at which tick, after how many steps.
    Wrong {
        what: String,
        tick: u64,
        count: usize,
    },
}

/// Plays a deployment step by step, until there is no next one; then everything is taken back.
pub(crate) async fn play(
    made: &Made,
    settings: Settings,
    next: impl FnMut(&[Book], u64, usize) -> Option<Step>,
) -> Played {
    let engine = match Engine::start(made.deployment.clone()) {
        Ok(engine) => engine,
        Err(error) => {
            return Played::Wrong {
                what: format!("{error:#}"),
                tick: 0,
                count: 0,
            };
        }
    };
    let mut case = Case::new(made, engine.clone(), settings);
    let result = case.play(next).await;
    let tally = std::mem::take(&mut case.tally);
    let (tick, count) = (case.tick, case.count);
    drop(case);
    match result {
        Ok(()) => {
            engine.shutdown();
            Played::Right(Box::new(tally))
        }
        Err(what) => {
            // A tick that never completes would keep the engine from ever shutting down.
            match what.contains("no answer") || engine.failure().is_some() {
                true => std::mem::forget(engine),
                false => engine.shutdown(),
            }
            Played::Wrong { what, tick, count }
        }
    }
}

pub(crate) struct Case<'a> {
    pub(crate) made: &'a Made,
    pub(crate) engine: Engine,
    settings: Settings,
    pub(crate) tick: u64,
    count: usize,
    books: Vec<Book>,
    /// Sources, then views.
    names: Vec<String>,
    schemas: Vec<SchemaRef>,
    readers: Vec<Reader>,
    /// What each relation must hold, and whether that is new.
    inputs: Relations,
    expected: Vec<Bag>,
    changed: Vec<bool>,
    /// What a subscriber has made of the changes.
    subscribed: Vec<Bag>,
    places: Vec<Vec<Place>>,
    reasons: Vec<Vec<String>>,
    temporal: Vec<bool>,
    /// What each view has closed, and its last batch answer.
    closed: Vec<Option<(Closed, Vec<RecordBatch>)>>,
    passed: HashMap<(String, usize), u64>,
    pub(crate) running: Running,
    pub(crate) tally: Tally,
}

impl<'a> Case<'a> {
    fn new(made: &'a Made, engine: Engine, settings: Settings) -> Self {
        let deployment = &made.deployment;
        let sources = deployment
            .sources
            .iter()
            .map(|source| (source.name.clone(), Arc::clone(&source.schema)));
        let views = deployment
            .views
            .iter()
            .map(|view| (view.view.name.clone(), Arc::clone(&view.view.schema)));
        let (names, schemas): (Vec<String>, Vec<SchemaRef>) = sources.chain(views).unzip();
        let count = names.len();
        let tally = Tally {
            views: deployment.views.len(),
            refused: made.refused.clone(),
            kinds: kinds(deployment),
            ..Tally::default()
        };
        Case {
            made,
            engine,
            settings,
            tick: 1,
            count: 0,
            books: made.specs.iter().cloned().map(Book::new).collect(),
            running: Running::all(deployment.views.len()),
            readers: schemas.iter().map(Reader::new).collect(),
            schemas,
            names,
            inputs: Relations::new(),
            expected: vec![Bag::new(); count],
            changed: vec![true; count],
            subscribed: vec![Bag::new(); count],
            places: deployment
                .views
                .iter()
                .map(|view| Place::all(&view.view, &deployment.options.time_zone))
                .collect(),
            reasons: vec![Vec::new(); deployment.views.len()],
            temporal: deployment
                .views
                .iter()
                .map(|view| {
                    view.view.plan.nodes.iter().any(|node| {
                        matches!(
                            node.operator,
                            Operator::TemporalFilter { .. } | Operator::TemporalAny { .. }
                        )
                    })
                })
                .collect(),
            closed: deployment
                .views
                .iter()
                .map(|view| Some((Closed::new(view.view.closing.clone()?), Vec::new())))
                .collect(),
            passed: HashMap::new(),
            tally,
        }
    }

    pub(crate) fn sources(&self) -> usize {
        self.made.specs.len()
    }

    async fn play(&mut self, mut next: impl FnMut(&[Book], u64, usize) -> Option<Step>) -> Result<(), String> {
        // Before any row: constants and empty groups.
        self.check(0).await?;
        let mut change = Dice::new(u64::from(self.made.taste.now_us.unsigned_abs() as u32));
        while let Some(next) = next(&self.books, self.tick, self.count + 1) {
            self.count += 1;
            let count = self.count;
            self.perform(next).await?;
            if self.made.changes && change.chance(20) {
                self.change(&mut change).await?;
            }
            if count.is_multiple_of(10) {
                self.observe();
                self.audit().await?;
            }
            if self.made.taste.tame && count % 15 == 6 {
                self.plain().await?;
            }
        }
        self.empty().await?;
        self.letters().await?;
        self.tally.by_worker = self.engine.rows_by_worker();
        for book in &self.books {
            self.tally.late += book.total.late;
            self.tally.rejected += book.total.rejected;
        }
        Ok(())
    }

    /// Sends a step and checks everything at its tick.
    async fn perform(&mut self, next: Step) -> Result<(), String> {
        let before = self.tick;
        let (tick, verdict) = enter(&next, &mut self.books, before);
        let (found, reply) = match &next {
            Step::Advance { to } => {
                let tick = self
                    .patiently(self.engine.advance(*to))
                    .await?
                    .map_err(|error| self.stopped(&error))?;
                (tick, Verdict::default())
            }
            Step::Post {
                source,
                operation,
                rows,
                only_key,
                refused,
            } => {
                match operation {
                    // A snapshot says again what is there.
                    Operation::Insert if matches!(self.books[*source].spec.kind, Kind::Snapshot { .. }) => {}
                    Operation::Insert => self.tally.inserted += rows.len(),
                    Operation::Delete => self.tally.retracted += rows.len(),
                }
                let decoded = decoded(&self.schemas[*source], &self.books[*source], rows, *only_key, *refused);
                let sent = self.engine.ingest(&self.names[*source], *operation, decoded);
                let reply = self.patiently(sent).await?.map_err(|error| self.stopped(&error))?;
                let told = Verdict {
                    accepted: reply.accepted,
                    late: reply.late,
                    rejected: reply.rejected,
                };
                if told != verdict {
                    return Err(format!(
                        "source {} was to answer {verdict:?}, but answers {told:?} {:?}",
                        self.names[*source], reply.reasons
                    ));
                }
                (reply.tick, told)
            }
        };
        let _ = reply;
        self.tick = tick;
        if found != tick {
            return Err(format!("the tick was to be {tick}, but is {found}"));
        }
        self.check(before).await
    }

    pub(crate) async fn patiently<T>(&self, answer: impl Future<Output = T>) -> Result<T, String> {
        tokio::time::timeout(self.settings.patience, answer).await.map_err(|_| {
            let behind: Vec<&String> = self
                .names
                .iter()
                .filter(|name| self.engine.completed(name) < self.tick)
                .collect();
            let failure = self.engine.failure().unwrap_or_default();
            format!(
                "no answer within {:?}; not complete are {behind:?}; {failure}",
                self.settings.patience
            )
        })
    }

    fn stopped(&self, error: &impl std::fmt::Display) -> String {
        format!("{error}: {}", self.engine.failure().unwrap_or_default())
    }

    /// Compares everything the engine shows at the newest tick with what it must be.
    async fn check(&mut self, before: u64) -> Result<(), String> {
        self.expect().await?;
        self.compare(before).await
    }

    /// Compares what is shown now with what is expected.
    pub(crate) async fn compare(&mut self, before: u64) -> Result<(), String> {
        let mut asked: Vec<String> = (0..self.names.len())
            .filter(|&at| self.is_present(at))
            .map(|at| self.names[at].clone())
            .collect();
        asked.push("sangam.errors".to_owned());
        let Snapshot { tick, relations } = self
            .patiently(self.engine.snapshot(&asked, self.tick))
            .await?
            .map_err(|error| self.stopped(&error))?;
        if tick != self.tick {
            return Err(format!("the snapshot is of tick {tick}"));
        }
        for at in 0..self.names.len() {
            if !self.is_present(at) {
                continue;
            }
            let name = &self.names[at].clone();
            let Relation { schema, batches, .. } = relations
                .get(name)
                .ok_or_else(|| format!("the snapshot has no {name}"))?;
            if *schema != self.schemas[at] {
                return Err(format!("{name}: the snapshot's columns are {schema:?}"));
            }
            let found = self.readers[at]
                .bag(batches)
                .map_err(|what| format!("{name}: {what}"))?;
            if let Some(difference) = self.readers[at].difference(&self.expected[at], &found) {
                return Err(format!("{name} differs:\n{difference}"));
            }
            if self.is_news(at) {
                self.subscribed[at] = found.clone();
            } else {
                self.subscribe(at, before)?;
            }
            if let Some(view) = at.checked_sub(self.sources()) {
                self.tally.pairs += 1;
                self.tally.pairs_filled += usize::from(!found.is_empty());
                if let Some(key) = &self.made.deployment.views[view].key
                    && self.changed[at]
                    && let Some(row) = self.readers[at].doubled(batches, key)
                {
                    return Err(format!(
                        "{name} implies the key {key:?}, but two rows have that of {row}"
                    ));
                }
                if let Some(failed) = self.engine.failed(name) {
                    return Err(format!("{name} failed: {failed}"));
                }
            }
        }
        self.errors(&relations["sangam.errors"].batches)
    }

    /// Computes what every relation must hold: sources by the ledger, views by DataFusion.
    async fn expect(&mut self) -> Result<(), String> {
        for (at, book) in self.books.iter_mut().enumerate() {
            self.changed[at] = std::mem::take(&mut book.changed);
            if self.changed[at] {
                let rows = vec![batch(&self.schemas[at], &book.rows())];
                self.expected[at] = self.readers[at].bag(&rows)?;
                self.inputs
                    .insert(self.names[at].clone(), (Arc::clone(&self.schemas[at]), rows).into());
            }
        }
        self.close();
        let catalog = &self.made.deployment.catalog;
        for (index, definition) in self.made.deployment.views.iter().enumerate() {
            let (at, view) = (self.made.specs.len() + index, &definition.view);
            let reads_change = view.inputs.iter().any(|input| {
                self.names
                    .iter()
                    .position(|name| name == input)
                    .is_none_or(|input| self.changed[input])
            });
            self.changed[at] = false;
            let is_due = reads_change || self.temporal[index] || self.count == 0;
            if !is_due && self.closed[index].is_none() {
                continue;
            }
            // A recursion that never ends must be told from one that takes its time.
            let rows = match &self.closed[index] {
                Some((_, last)) if !is_due => last.clone(),
                _ => self
                    .patiently(catalog.batch(view, &self.inputs, self.tick))
                    .await
                    .map_err(|what| format!("{}, in batch: {what}", view.name))?
                    .map_err(|error| format!("{}: {error}", view.name))?,
            };
            let rows = match &mut self.closed[index] {
                Some((closed, last)) => {
                    last.clone_from(&rows);
                    let held = closed.holds(&rows);
                    if self.made.views[index].steady {
                        let (closed, answer) = closed.steady(&rows);
                        let reader = &self.readers[at];
                        if let Some(difference) = reader.difference(&reader.bag(&answer)?, &reader.bag(&closed)?) {
                            return Err(format!("{} closed a bucket too early:\n{difference}", view.name));
                        }
                    }
                    held
                }
                None => rows,
            };
            let bag = self.readers[at].bag(&rows)?;
            self.changed[at] = bag != self.expected[at] || self.count == 0;
            self.expected[at] = bag;
            self.inputs
                .insert(view.name.clone(), (Arc::clone(&view.schema), rows).into());
            let mut reasons = Vec::new();
            for place in &mut self.places[index] {
                reasons.extend(
                    place
                        .reasons(catalog, &self.inputs, self.tick)
                        .await
                        .map_err(|what| format!("{}: {what}", view.name))?,
                );
            }
            self.reasons[index] = reasons;
        }
        Ok(())
    }

    /// Closes what the watermarks at the end of the tick before have passed.
    fn close(&mut self) {
        let views = self.made.deployment.views.iter().map(|view| view.view.name.as_str());
        let before: HashMap<&str, Option<i64>> = views
            .zip(&self.closed)
            .filter_map(|(name, closed)| Some((name, closed.as_ref()?.0.watermark_us)))
            .collect();
        for (closed, _) in self.closed.iter_mut().flatten() {
            let watermark_us = closed.watermark(&self.books, |name| before.get(name).copied().flatten());
            self.tally.closed += closed.close(watermark_us);
        }
    }

    /// Follows a relation's changes, as a subscriber does.
    fn subscribe(&mut self, at: usize, before: u64) -> Result<(), String> {
        let name = &self.names[at];
        let Changes::Runs(runs) = self.engine.changes(name, before, self.tick) else {
            return Err(format!("{name}: the changes after tick {before} are gone"));
        };
        for updates in &runs {
            self.readers[at]
                .apply(&mut self.subscribed[at], updates)
                .map_err(|what| format!("{name}: a change: {what}"))?;
        }
        match self.readers[at].difference(&self.expected[at], &self.subscribed[at]) {
            Some(difference) => Err(format!("{name}: its changes add up to something else:\n{difference}")),
            None => Ok(()),
        }
    }

    /// Compares `sangam.errors` with the prediction.
    fn errors(&mut self, batches: &[RecordBatch]) -> Result<(), String> {
        let mut found: Vec<[String; 4]> = Vec::new();
        for batch in batches {
            let columns: Vec<_> = (0..4).map(|at| batch.column(at).as_string::<i32>()).collect();
            found.extend((0..batch.num_rows()).map(|row| std::array::from_fn(|at| columns[at].value(row).to_owned())));
        }
        self.tally.failing_rows += found.len();
        for (index, definition) in self.made.deployment.views.iter().enumerate() {
            if !self.is_present(self.sources() + index) {
                continue;
            }
            let name = &definition.view.name;
            // What failed in a bucket that is closed is let go of with it.
            if self.closed[index].is_some() {
                continue;
            }
            let of_view = || found.iter().filter(|[view, ..]| view == name);
            let (mut want, mut have): (Vec<String>, Vec<String>) = match &self.made.views[index].known {
                Some(known) => {
                    let book = &self.books[known.source];
                    let want = known.errors(&book.spec, &book.rows()).into_iter();
                    let want =
                        want.map(|(expression, row, reason)| format!("{expression} on {}: {reason}", normal(&row)));
                    let have = of_view().map(|[_, expression, row, reason]| {
                        let row = serde_json::from_str(row).map_or_else(|error| error.to_string(), |row| normal(&row));
                        format!("{expression} on {row}: {reason}")
                    });
                    (want.collect(), have.collect())
                }
                None => (
                    self.reasons[index].clone(),
                    of_view().map(|[.., reason]| reason.clone()).collect(),
                ),
            };
            for reason in want
                .iter_mut()
                .chain(&mut have)
                .filter(|reason| reason.starts_with("the function panicked"))
            {
                reason.truncate("the function panicked".len());
            }
            want.sort_unstable();
            have.sort_unstable();
            if want != have {
                let listed = |these: &[String], those: &[String]| {
                    let rest = these.iter().filter(|one| {
                        these.iter().filter(|other| other == one).count()
                            != those.iter().filter(|other| other == one).count()
                    });
                    rest.take(6).map(|one| format!("\n      {one}")).collect::<String>()
                };
                return Err(format!(
                    "{name}: sangam.errors was to have {} rows and has {}:\n    expected{}\n    found{}",
                    want.len(),
                    have.len(),
                    listed(&want, &have),
                    listed(&have, &want)
                ));
            }
        }
        Ok(())
    }

    /// Counts the operators that hold something, or passed something on since the last time.
    fn observe(&mut self) {
        for (at, operator) in self.engine.operators().into_iter().enumerate() {
            let last = self
                .passed
                .insert((operator.view, at), operator.stats.rows_in)
                .unwrap_or(0);
            self.tally.operators += 1;
            self.tally.operators_busy += usize::from(operator.stats.state_rows > 0 || operator.stats.rows_in > last);
        }
    }

    /// Asks plain DataFusion over the text, where nothing of ours makes a difference.
    async fn plain(&mut self) -> Result<(), String> {
        let deployment = &self.made.deployment;
        for (index, definition) in deployment.views.iter().enumerate() {
            let view = &definition.view;
            if !self.made.views[index].plain {
                continue;
            }
            let Ok(plain) = deployment.catalog.plain_batch(&view.sql, &self.inputs, self.tick).await else {
                continue;
            };
            let types_differ = plain.iter().any(|batch| {
                let types = |schema: &SchemaRef| {
                    schema
                        .fields()
                        .iter()
                        .map(|field| field.data_type().clone())
                        .collect::<Vec<_>>()
                };
                types(&batch.schema()) != types(&view.schema)
            });
            if types_differ {
                continue;
            }
            self.tally.plain += 1;
            nearly(&view.schema, &self.inputs[&view.name].batches, &plain)
                .map_err(|what| format!("{} differs from plain DataFusion:\n{what}", view.name))?;
        }
        Ok(())
    }

    /// Takes everything back; then nothing may be left, in any operator.
    async fn empty(&mut self) -> Result<(), String> {
        for source in 0..self.sources() {
            let rows = self.books[source].rows();
            if self.books[source].spec.kind != Kind::Append && !rows.is_empty() {
                self.count += 1;
                let snapshot = matches!(self.books[source].spec.kind, Kind::Snapshot { .. });
                let step = Step::Post {
                    source,
                    operation: if snapshot { Operation::Insert } else { Operation::Delete },
                    rows: if snapshot { Vec::new() } else { rows },
                    only_key: source % 2 == 0,
                    refused: 0,
                };
                self.perform(step).await?;
            }
        }
        self.count += 1;
        self.perform(Step::Advance {
            to: self.tick + 400_000_000_000_000,
        })
        .await?;
        let mut emptied: Vec<String> = Vec::new();
        for book in self.books.iter().filter(|book| book.len() == 0) {
            emptied.push(book.spec.name.clone());
        }
        // A global aggregate is never empty, nor what is closed, nor is what reads them.
        for (name, plan) in self.engine.plans() {
            let holds_always = plan.nodes.iter().any(|node| match &node.operator {
                Operator::Aggregate { keys, .. } => keys.is_empty(),
                Operator::Constant { .. } | Operator::Close { .. } => true,
                _ => false,
            });
            let reads_none = plan
                .relations()
                .iter()
                .all(|input| emptied.iter().any(|name| name == input));
            if reads_none && !holds_always {
                emptied.push(name);
            }
        }
        for operator in self.engine.operators() {
            if !emptied.contains(&operator.view) {
                continue;
            }
            self.tally.emptied += 1;
            if operator.stats.state_rows > 0 {
                return Err(format!(
                    "every row was taken back, but the operator {} of {} still holds {}",
                    operator.stats.name, operator.view, operator.stats.state_rows
                ));
            }
        }
        Ok(())
    }

    /// Compares the numbers of rows that stand in `sangam.late` and `sangam.rejected`.
    async fn letters(&mut self) -> Result<(), String> {
        let names = ["sangam.late".to_owned(), "sangam.rejected".to_owned()];
        let read = self
            .patiently(self.engine.snapshot(&names, self.tick))
            .await?
            .map_err(|error| self.stopped(&error))?;
        for book in &self.books {
            for (name, want) in names.iter().zip([book.total.late, book.total.rejected]) {
                let of_source = |batch: &RecordBatch| {
                    batch
                        .column(0)
                        .as_string::<i32>()
                        .iter()
                        .filter(|source| *source == Some(book.spec.name.as_str()))
                        .count()
                };
                let have: usize = read.relations[name].batches.iter().map(of_source).sum();
                if have != want {
                    return Err(format!(
                        "{name} was to have {want} rows of {}, and has {have}",
                        book.spec.name
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Counts the operators of a deployment's views by kind, and the functions they call by name.
fn kinds(deployment: &Deployment) -> HashMap<&'static str, usize> {
    let mut kinds = HashMap::new();
    for node in deployment.views.iter().flat_map(|view| &view.view.plan.nodes) {
        *kinds.entry(kind(&node.operator)).or_default() += 1;
        match &node.operator {
            Operator::Window { calls, .. } => {
                let running = calls
                    .iter()
                    .filter(|call| matches!(call.function, WindowFunction::Running { .. }));
                *kinds.entry("ewma").or_default() += running.count();
            }
            Operator::Aggregate { calls, leaves, .. } => {
                *kinds.entry("leaving groups").or_default() += usize::from(!leaves.is_empty());
                for call in calls {
                    *kinds.entry(call.function.name()).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    kinds.retain(|_, count| *count > 0);
    kinds
}

fn kind(operator: &Operator) -> &'static str {
    match operator {
        Operator::Get { .. } => "get",
        Operator::Constant { .. } => "constant",
        Operator::Filter { .. } => "filter",
        Operator::Project { .. } => "project",
        Operator::TemporalFilter { .. } => "temporal",
        Operator::TemporalAny { .. } => "temporal any",
        Operator::Consolidate => "consolidate",
        Operator::Unnest { .. } => "unnest",
        Operator::Aggregate { keys, .. } if keys.is_empty() => "global aggregate",
        Operator::Aggregate { calls, .. } if calls.is_empty() => "distinct",
        Operator::Aggregate { .. } => "aggregate",
        Operator::Join { band: Some(_), .. } => "join by time",
        Operator::Join { .. } => "join",
        Operator::Window { calls, .. } if calls.is_empty() => "top",
        Operator::Window { .. } => "window",
        Operator::Union => "union",
        Operator::Close { .. } => "close",
        Operator::Recursive { .. } => "recursion",
        Operator::Table { .. } => "table function",
        Operator::Loop | Operator::Outer { .. } => "inside a recursion",
    }
}
