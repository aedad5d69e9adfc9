//! TPC-H: all 22 queries as views of one deployment, kept current while orders come and go.
//!
//! Tables are streamed in by tenths, then the second refresh function takes orders with their items
//! back by tenths, spread over the whole range; at each tenth, on one worker and on two, every view is
//! what DataFusion answers over the rows that are there, and in the end nothing is held.
//!
//! `SANGAM_TPCH_SCALE` is the scale (0.1 takes minutes); with `SANGAM_TPCH_ALONE` each query is also
//! run by itself and timed.
mod tables;

use std::path::Path;
use std::time::Instant;

use queries::Relations;
use sangam::config::Deployment;
use sangam::engine::Operation;

use crate::proofs::{Post, Proof, block_on, load, number};
use tables::{STEPS, Table, tables};

/// A smaller scale leaves a query without an answer.
const SCALE: f64 = 0.02;

/// The validation texts of the specification, by name.
fn texts() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tpch/queries");
    let mut texts: Vec<(String, String)> = std::fs::read_dir(folder)
        .expect("the queries")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("a text"))
        })
        .collect();
    texts.sort();
    texts
}

/// Writes the deployment of some queries.
fn deployment(dir: &Path, tables: &[Table], texts: &[(String, String)]) -> Deployment {
    let (sources, views) = (dir.join("sources"), dir.join("views"));
    for folder in [&sources, &views] {
        std::fs::create_dir_all(folder).expect("a folder of our own");
    }
    std::fs::write(dir.join("deployment.toml"), "clock = \"event\"\n").expect("a folder of our own");
    for table in tables {
        std::fs::write(sources.join(format!("{}.toml", table.name)), table.toml()).expect("a folder of our own");
    }
    for (name, text) in texts {
        std::fs::write(views.join(format!("{name}.sql")), text).expect("a folder of our own");
    }
    load(dir)
}

#[test]
fn all_queries_are_right_on_the_way_up_and_down() {
    let scale = number("SANGAM_TPCH_SCALE").unwrap_or(SCALE);
    let started = Instant::now();
    let tables = tables(scale);
    let rows: usize = tables.iter().map(Table::len).sum();
    let texts = texts();
    assert_eq!(texts.len(), 22);
    println!("TPC-H at scale {scale}: {rows} rows, made in {:.1?}", started.elapsed());
    if number("SANGAM_TPCH_ALONE").is_some() {
        alone(&tables, &texts);
    }
    let dir = tempfile::tempdir().expect("a folder of our own");
    let proof = Proof::start(deployment(dir.path(), &tables, &texts), &[1, 2], &[]);
    let proof = block_on(play(proof, tables));
    let silent = proof.silent();
    assert!(silent.is_empty() || scale < SCALE, "{silent:?} never answered anything");
    proof.print(2 * rows, "rows");
    println!("  {:.1?} in all", started.elapsed());
    proof.stop();
}

async fn play(mut proof: Proof, mut tables: Vec<Table>) -> Proof {
    let _honest = crate::HONEST.read().await;
    for step in 0..STEPS {
        for table in &mut tables {
            let posts = table.enter(step);
            proof.feed(&posts).await;
        }
        proof
            .check(relations(&tables), step % 3 == 0, &format!("up, step {step}"))
            .await;
    }
    for step in 0..STEPS {
        for table in tables.iter_mut().filter(|table| table.is_refreshed()) {
            let posts = table.leave(step);
            proof.feed(&posts).await;
        }
        proof
            .check(relations(&tables), step % 3 == 0, &format!("down, step {step}"))
            .await;
    }
    // Not the benchmark's, but ours: whatever was taken back is forgotten.
    for table in tables.iter_mut().filter(|table| !table.is_refreshed()) {
        for step in 0..STEPS {
            let posts = table.leave(step);
            proof.feed(&posts).await;
        }
    }
    proof.check(relations(&tables), false, "when all is gone").await;
    for definition in &proof.deployment.views {
        let (view, plan) = (&definition.view.name, &definition.view.plan);
        let has_one_row = |node: &dataflows::plan::Node| match &node.operator {
            dataflows::plan::Operator::Aggregate { keys, .. } => keys.is_empty(),
            dataflows::plan::Operator::Constant { .. } => true,
            _ => false,
        };
        if plan.nodes.iter().any(has_one_row) {
            continue;
        }
        for side in 0..proof.sides.len() {
            assert_eq!(proof.state_rows(side, view), 0, "{view} still holds rows");
        }
    }
    proof
}

fn relations(tables: &[Table]) -> Relations {
    let relations = tables
        .iter()
        .map(|table| (table.name.to_owned(), (table.schema(), table.rows()).into()));
    relations.collect()
}

/// Runs each query by itself, on one worker, and says how fast it was.
fn alone(tables: &[Table], texts: &[(String, String)]) {
    for text in texts {
        let dir = tempfile::tempdir().expect("a folder of our own");
        let mut proof = Proof::start(deployment(dir.path(), tables, std::slice::from_ref(text)), &[1], &[]);
        let read = proof.deployment.views[0].view.inputs.clone();
        let mut tables: Vec<Table> = tables
            .iter()
            .filter(|table| read.iter().any(|read| read == table.name))
            .cloned()
            .collect();
        let rows: usize = tables.iter().map(Table::len).sum();
        block_on(async {
            let mut seconds = Vec::new();
            for operation in [Operation::Insert, Operation::Delete] {
                for step in 0..STEPS {
                    for table in &mut tables {
                        let posts: Vec<Post> = match operation {
                            Operation::Insert => table.enter(step),
                            Operation::Delete => table.leave(step),
                        };
                        proof.feed(&posts).await;
                    }
                }
                seconds.push(proof.sides[0].took.as_secs_f64());
                if operation == Operation::Insert {
                    let state = proof.state_rows(0, &text.0);
                    println!(
                        "  {}: up {:.2} s, {:.0} rows/s, {state} rows of state",
                        text.0,
                        seconds[0],
                        rows as f64 / seconds[0]
                    );
                }
            }
            println!("  {}: down {:.2} s", text.0, seconds[1] - seconds[0]);
        });
        proof.stop();
    }
}
