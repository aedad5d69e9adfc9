//! What the proofs by public benchmarks share: one deployment on several numbers of workers, fed the
//! same, and compared with DataFusion over the test's own rows.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use connectors::Decoded;
use queries::Relations;
use sangam::config::{self, Deployment, ViewDef};
use sangam::engine::{Engine, Operation, Snapshot};

use crate::oracle::bag::{Reader, Sum};

/// How long a tick, or a snapshot, may take before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(300);

/// Functions that plain DataFusion does not have.
const OURS: &[&str] = &["tumble(", "hop(", "session(", "cumulate("];

/// Rows for a source, in a tick of their own.
pub(crate) struct Post {
    pub(crate) source: &'static str,
    pub(crate) operation: Operation,
    pub(crate) rows: RecordBatch,
}

/// One running engine.
pub(crate) struct Side {
    pub(crate) engine: Engine,
    pub(crate) workers: usize,
    /// How long the engine took over all it was fed.
    pub(crate) took: Duration,
    /// The newest tick.
    pub(crate) tick: u64,
}

/// A deployment, running several times.
pub(crate) struct Proof {
    pub(crate) deployment: Deployment,
    pub(crate) sides: Vec<Side>,
    readers: Vec<Reader>,
    /// For each view, how long its batch answers took.
    batch_took: Vec<Duration>,
    /// For each view, at how many checkpoints it answered something.
    filled: Vec<usize>,
    pub(crate) checkpoints: usize,
    /// How often plain DataFusion was asked as well.
    pub(crate) plain: usize,
    /// Views whose text leaves open which of equal rows come first.
    ties: &'static [&'static str],
}

/// Reads a deployment, or says all that is wrong with it.
pub(crate) fn load(dir: &Path) -> Deployment {
    config::load(dir).unwrap_or_else(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}: {}", dir.display(), problems.join("\n"))
    })
}

/// Reads a number from the environment.
pub(crate) fn number(name: &str) -> Option<f64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs a test of the engine on a thread of its own stack and runtime.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of our own")
        .block_on(test)
}

impl Proof {
    pub(crate) fn start(deployment: Deployment, workers: &[usize], ties: &'static [&'static str]) -> Proof {
        let sides = workers
            .iter()
            .map(|&workers| {
                let mut deployment = deployment.clone();
                deployment.options.workers = Some(workers);
                Side {
                    engine: Engine::start(deployment).expect("the engine starts"),
                    workers,
                    took: Duration::ZERO,
                    tick: 1,
                }
            })
            .collect();
        let schemas = deployment.views.iter().map(|view| &view.view.schema);
        Proof {
            sides,
            readers: schemas.map(Reader::new).collect(),
            batch_took: vec![Duration::ZERO; deployment.views.len()],
            filled: vec![0; deployment.views.len()],
            checkpoints: 0,
            plain: 0,
            ties,
            deployment,
        }
    }

    fn names(&self) -> Vec<String> {
        self.deployment
            .views
            .iter()
            .map(|view| view.view.name.clone())
            .collect()
    }

    /// The tick at which rows must count: that of their newest time, or the next.
    pub(crate) fn tick_of(&self, post: &Post, last: u64) -> u64 {
        let source = self.deployment.sources.iter().find(|source| source.name == post.source);
        let time = source.and_then(|source| source.time);
        let newest = time.filter(|_| post.operation == Operation::Insert).and_then(|time| {
            let times = post.rows.column(time.column).as_primitive::<TimestampMicrosecondType>();
            arrow::compute::max(times)
        });
        u64::try_from(newest.unwrap_or(0)).unwrap_or(0).max(last + 1)
    }

    /// Feeds every side, one after the other, and waits until it has taken all in.
    pub(crate) async fn feed(&mut self, posts: &[Post]) {
        for at in 0..self.sides.len() {
            let started = Instant::now();
            for post in posts {
                let rows = Decoded {
                    rows: post.rows.clone(),
                    rejected: Vec::new(),
                };
                let wanted = self.tick_of(post, self.sides[at].tick);
                let side = &mut self.sides[at];
                let accepted = side.engine.ingest(post.source, post.operation, rows).await;
                let accepted = accepted.unwrap_or_else(|error| panic!("{error}: {:?}", side.engine.failure()));
                assert_eq!(
                    (accepted.tick, accepted.accepted),
                    (wanted, post.rows.num_rows()),
                    "{}: {accepted:?}",
                    post.source
                );
                side.tick = accepted.tick;
            }
            self.settle(at).await;
            self.sides[at].took += started.elapsed();
        }
    }

    /// Waits until every view of a side is complete.
    async fn settle(&self, at: usize) {
        let side = &self.sides[at];
        let views = self.names();
        let mut progress = side.engine.progress();
        let settled = async {
            loop {
                progress.borrow_and_update();
                let behind = views.iter().any(|view| side.engine.completed(view) < side.tick);
                if !behind || side.engine.failure().is_some() || progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, settled).await.is_ok();
        let behind: Vec<&String> = views
            .iter()
            .filter(|view| side.engine.completed(view) < side.tick)
            .collect();
        assert!(
            in_time && behind.is_empty(),
            "on {} workers {behind:?} are not complete: {:?}",
            side.workers,
            side.engine.failure()
        );
    }

    /// Compares every view on every side with the batch answer over the rows that must be there; with
    /// `plain`, the batch answer also with plain DataFusion over the same text.
    pub(crate) async fn check(&mut self, mut inputs: Relations, plain: bool, what: &str) {
        let tick = self.sides[0].tick;
        let names = self.names();
        let mut expected: Vec<(Vec<RecordBatch>, Sum)> = Vec::new();
        for (at, definition) in self.deployment.views.iter().enumerate() {
            let view = &definition.view;
            let started = Instant::now();
            let answer = self.deployment.catalog.batch(view, &inputs, tick).await;
            self.batch_took[at] += started.elapsed();
            let answer = answer.unwrap_or_else(|error| panic!("{what}: {}: {error}", view.name));
            let sum = self.readers[at].sum(&answer).expect("rows of the view");
            self.filled[at] += usize::from(answers(&answer));
            let means_the_same =
                !OURS.iter().any(|function| view.sql.contains(function)) && !self.ties.contains(&view.name.as_str());
            if plain && means_the_same {
                let stock = self.deployment.catalog.plain_batch(&view.sql, &inputs, tick).await;
                let stock = stock.unwrap_or_else(|error| panic!("{what}: plain DataFusion: {}: {error}", view.name));
                agree(&self.readers[at], &view.schema, &answer, &stock)
                    .unwrap_or_else(|difference| panic!("{what}: {} and plain DataFusion:\n{difference}", view.name));
                self.plain += 1;
            }
            inputs.insert(view.name.clone(), (Arc::clone(&view.schema), answer.clone()).into());
            expected.push((answer, sum));
        }
        for side in &self.sides {
            assert_eq!(side.tick, tick, "the sides were fed the same");
            let snapshot = tokio::time::timeout(PATIENCE, side.engine.snapshot(&names, tick)).await;
            let Snapshot { tick: of, relations } = snapshot
                .expect("a snapshot in time")
                .unwrap_or_else(|error| panic!("{what}: {error}: {:?}", side.engine.failure()));
            assert_eq!(of, tick);
            for (at, (answer, sum)) in expected.iter().enumerate() {
                let (name, reader) = (&names[at], &self.readers[at]);
                let found = &relations[name].batches;
                if reader.sum(found).expect("rows of the view") != *sum {
                    let (want, have) = (reader.bag(answer).expect("rows"), reader.bag(found).expect("rows"));
                    let difference = reader.difference(&want, &have).unwrap_or_default();
                    panic!("{what}: {name} on {} workers differs:\n{difference}", side.workers);
                }
                assert_eq!(side.engine.errors(name), 0, "{what}: rows of {name} fail");
                assert_eq!(side.engine.failed(name), None, "{what}: {name}");
            }
        }
        self.checkpoints += 1;
    }

    /// The rows held by a view's operators, on one side.
    pub(crate) fn state_rows(&self, side: usize, view: &str) -> u64 {
        let operators = self.sides[side].engine.operators().into_iter();
        operators
            .filter(|operator| operator.view == view)
            .map(|operator| operator.stats.state_rows)
            .sum()
    }

    /// What came of it, in a few lines; `count` things were fed.
    pub(crate) fn print(&self, count: usize, things: &str) {
        for side in &self.sides {
            println!(
                "  {} worker(s): {:.1?}, {:.0} {things}/s through all {} queries",
                side.workers,
                side.took,
                count as f64 / side.took.as_secs_f64(),
                self.deployment.views.len()
            );
        }
        let mut slowest: Vec<(&Duration, &ViewDef)> = self.batch_took.iter().zip(&self.deployment.views).collect();
        slowest.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        let slowest: Vec<String> = slowest
            .iter()
            .take(3)
            .map(|(took, view)| format!("{} {took:.1?}", view.view.name))
            .collect();
        println!(
            "  {} checkpoints, {} answers compared with plain DataFusion as well; batch answers took {:.1?} ({})",
            self.checkpoints,
            self.plain,
            self.batch_took.iter().sum::<Duration>(),
            slowest.join(", ")
        );
    }

    /// Views that never answered anything.
    pub(crate) fn silent(&self) -> Vec<String> {
        let views = self.names().into_iter().zip(&self.filled);
        views
            .filter(|(_, filled)| **filled == 0)
            .map(|(name, _)| name)
            .collect()
    }

    pub(crate) fn stop(self) {
        for side in self.sides {
            side.engine.shutdown();
        }
    }
}

/// Tells whether there is a row with a value: a sum over nothing is NULL.
fn answers(batches: &[RecordBatch]) -> bool {
    batches.iter().any(|batch| {
        let columns = batch.columns().iter();
        batch.num_rows() > 0 && columns.clone().any(|column| column.null_count() < column.len())
    })
}

/// Compares our batch answer with that of plain DataFusion, whose sums of floats may differ in their
/// last bits, and whose numbers may be of other types: decimals of a few digits where ours are doubles.
fn agree(reader: &Reader, schema: &SchemaRef, ours: &[RecordBatch], stock: &[RecordBatch]) -> Result<(), String> {
    let Some(first) = stock.iter().chain(ours).next() else {
        return Ok(());
    };
    let types = |schema: &SchemaRef| -> Vec<DataType> {
        schema.fields().iter().map(|field| field.data_type().clone()).collect()
    };
    let (own, other) = (types(schema), types(&first.schema()));
    if own == other && reader.sum(ours)? == reader.sum(stock)? {
        return Ok(());
    }
    let near: Vec<bool> = own
        .iter()
        .zip(&other)
        .map(|(own, other)| own != other || own.is_floating())
        .collect();
    let (ours, mut stock) = (near_rows(ours, &near)?, near_rows(stock, &near)?);
    let slack = if own == other { 0.0 } else { 1e-5 };
    let rows = |all: &NearRows| all.values().map(Vec::len).sum::<usize>();
    if rows(&ours) != rows(&stock) {
        return Err(format!("    {} rows against {}", rows(&ours), rows(&stock)));
    }
    for (text, numbers) in ours {
        let others = stock.entry(text.clone()).or_default();
        for numbers in numbers {
            let is_near = |other: &Vec<Option<f64>>| {
                numbers.iter().zip(other).all(|pair| match pair {
                    (Some(own), Some(other)) => {
                        own == other
                            || (own.is_nan() && other.is_nan())
                            || (own - other).abs() <= slack + 1e-9 * own.abs().max(other.abs())
                    }
                    (own, other) => own == other,
                })
            };
            let Some(at) = others.iter().position(is_near) else {
                return Err(format!("    no row {text} {numbers:?}, but {others:?}"));
            };
            others.swap_remove(at);
        }
    }
    Ok(())
}

/// Rows by the text of what must be equal, with the numbers that must be near.
type NearRows = HashMap<String, Vec<Vec<Option<f64>>>>;

fn near_rows(batches: &[RecordBatch], near: &[bool]) -> Result<NearRows, String> {
    let mut rows = NearRows::new();
    let options = FormatOptions::default().with_null("NULL");
    for batch in batches {
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        for (column, near) in batch.columns().iter().zip(near) {
            if *near {
                numbers.push(cast(column, &DataType::Float64).map_err(|error| error.to_string())?);
            } else {
                texts.push(ArrayFormatter::try_new(column, &options).map_err(|error| error.to_string())?);
            }
        }
        for row in 0..batch.num_rows() {
            let text: Vec<String> = texts.iter().map(|column| column.value(row).to_string()).collect();
            let numbers = numbers.iter().map(|column| {
                let column = column.as_primitive::<Float64Type>();
                column.is_valid(row).then(|| column.value(row))
            });
            rows.entry(text.join(" ")).or_default().push(numbers.collect());
        }
    }
    Ok(rows)
}
