//! Reachability over random edges: from the SQL text, and written by hand for typed differential dataflow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use dataflows::Updates;
use differential_dataflow::input::InputSession;
use differential_dataflow::operators::Iterate;
use queries::{Catalog, SourceRelation, View};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use timely::dataflow::ProbeHandle;

use super::views::Running;

const REACH: &str = "WITH RECURSIVE reach AS (SELECT CAST(0 AS bigint) AS node UNION \
                     SELECT e.target FROM reach r JOIN edges e ON e.source = r.node) SELECT node FROM reach";

/// Edges, and those of them that go and come back, one at a time.
pub struct Graph {
    pub edges: Vec<(i64, i64)>,
    pub changed: Vec<(i64, i64)>,
}

impl Graph {
    /// Two edges a node on average: most of it hangs together.
    pub fn generate(edges: usize, changes: usize) -> Graph {
        let mut random = Pcg64::seed_from_u64(7);
        let nodes = edges as i64 / 2;
        // The start is sure to lead somewhere.
        let mut all: Vec<(i64, i64)> = (1..10).map(|target| (0, target)).collect();
        while all.len() < edges {
            all.push((random.random_range(0..nodes), random.random_range(0..nodes)));
        }
        all.sort_unstable();
        all.dedup();
        let changed = (0..changes).map(|_| all[random.random_range(0..all.len())]).collect();
        Graph { edges: all, changed }
    }

    /// The number of nodes that can be reached.
    pub fn reached(&self) -> usize {
        let (mut reached, mut waiting) = (std::collections::HashSet::from([0]), vec![0]);
        while let Some(node) = waiting.pop() {
            let from = self.edges.partition_point(|edge| edge.0 < node);
            for (_, target) in self.edges[from..].iter().take_while(|edge| edge.0 == node) {
                if reached.insert(*target) {
                    waiting.push(*target);
                }
            }
        }
        reached.len()
    }
}

/// How long a run took: until the whole graph was in, and for all changes, one a tick, each waited for.
pub struct Took {
    pub loading: Duration,
    pub changing: Duration,
    pub reached: i64,
}

/// The view.
pub fn view(graph: &Graph, workers: usize) -> Took {
    let schema = batch(&[]).schema();
    let mut catalog = Catalog::new("UTC").expect("a time zone");
    let source = SourceRelation {
        name: "edges".into(),
        schema,
        append_only: false,
        key: None,
        retain_us: None,
        expires_after_us: None,
        time_column: None,
        lateness_us: None,
    };
    catalog.add_source(source).expect("a new name");
    let view: View = catalog.plan_view("view", REACH).expect("a supported view");
    let mut running = Running::start(&view, workers);
    let edges: Arc<str> = "edges".into();
    let mut reached = 0;
    let mut see = |updates: &Updates| reached += updates.diffs().iter().sum::<i64>();
    let start = Instant::now();
    running.send_updates(&edges, Updates::inserts(batch(&graph.edges)), &mut see);
    running.finish(&mut see);
    let loading = start.elapsed();
    for edge in &graph.changed {
        let rows = batch(&[*edge]);
        for updates in [Updates::deletes(rows.clone()), Updates::inserts(rows)] {
            running.send_updates(&edges, updates, &mut see);
            running.finish(&mut see);
        }
    }
    Took {
        loading,
        changing: start.elapsed() - loading,
        reached,
    }
}

/// The same by hand, over `i64` nodes.
pub fn differential(graph: &Graph) -> Took {
    let (edges, changed) = (graph.edges.clone(), graph.changed.clone());
    timely::execute_directly(move |worker| {
        let probe = ProbeHandle::new();
        let mut input = InputSession::<u64, (i64, i64), isize>::new();
        let mut roots = InputSession::<u64, i64, isize>::new();
        let reached = std::rc::Rc::new(std::cell::Cell::new(0));
        worker.dataflow(|scope| {
            let edges = input.to_collection(scope);
            let roots = roots.to_collection(scope);
            let reached = std::rc::Rc::clone(&reached);
            roots
                .clone()
                .iterate(|scope, nodes| {
                    let (edges, roots) = (edges.enter(scope), roots.enter(scope));
                    let next = nodes.map(|node| (node, ())).join_map(edges, |_, (), target| *target);
                    next.concat(roots).distinct()
                })
                .inspect(move |(_, _, diff)| reached.set(reached.get() + *diff as i64))
                .probe_with(&probe);
        });
        roots.insert(0);
        let mut tick = 0;
        let mut advance = |input: &mut InputSession<u64, (i64, i64), isize>| {
            tick += 1;
            input.advance_to(tick);
            roots.advance_to(tick);
            input.flush();
            roots.flush();
            worker.step_while(|| probe.less_than(&tick));
        };
        let start = Instant::now();
        edges.iter().for_each(|edge| input.insert(*edge));
        advance(&mut input);
        let loading = start.elapsed();
        for edge in changed {
            input.remove(edge);
            advance(&mut input);
            input.insert(edge);
            advance(&mut input);
        }
        Took {
            loading,
            changing: start.elapsed() - loading,
            reached: reached.get(),
        }
    })
}

fn batch(edges: &[(i64, i64)]) -> RecordBatch {
    let fields = ["source", "target"].map(|name| Field::new(name, DataType::Int64, false));
    let column = |of: fn(&(i64, i64)) -> i64| Arc::new(Int64Array::from_iter_values(edges.iter().map(of)));
    RecordBatch::try_new(
        Arc::new(Schema::new(fields.to_vec())),
        vec![column(|edge| edge.0), column(|edge| edge.1)],
    )
    .expect("two columns")
}
