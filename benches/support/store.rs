//! Runs a view in a whole engine: ticks are cut, the source keeps its rows, the view store folds the changes.
#![allow(dead_code, reason = "each bench uses its part of this")]

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use connectors::Decoded;
use sangam::engine::{Engine, Operation};

/// Returns how long it takes from the first batch until a reader has the view's rows after the last one.
pub fn time(sql: &str, ticks: &[RecordBatch]) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let engine = start(sql, &ticks[0]);
        let begin = Instant::now();
        let mut tick = 0;
        // Answered once cut, which is not before fewer than `in_flight` are unfinished.
        for rows in ticks {
            let decoded = Decoded {
                rows: rows.clone(),
                rejected: Vec::new(),
            };
            tick = engine
                .ingest("facts", Operation::Insert, decoded)
                .await
                .expect("an open source")
                .tick;
        }
        let snapshot = engine.snapshot(&["view".to_owned()], tick).await.expect("a view");
        let took = begin.elapsed();
        let rows: usize = snapshot.relations["view"]
            .batches
            .iter()
            .map(RecordBatch::num_rows)
            .sum();
        assert_eq!(
            rows as u64,
            engine.rows("view"),
            "the base holds what the changes come to"
        );
        engine.shutdown();
        took
    })
}

/// Starts an engine with one source of the batch's columns and one view over it.
pub fn start(sql: &str, batch: &RecordBatch) -> Engine {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    let columns: Vec<String> = batch
        .schema()
        .fields()
        .iter()
        .map(|field| {
            let sql = match field.data_type() {
                DataType::Utf8 => "text",
                DataType::Float64 => "double",
                _ => "bigint",
            };
            format!("{} = \"{sql} not null\"", field.name())
        })
        .collect();
    // Under the event clock every batch is a tick of its own.
    write("deployment.toml", "clock = \"event\"\nworkers = 1\n");
    write(
        "sources/facts.toml",
        &format!(
            "columns = {{ {} }}\n[connector]\ntype = \"http\"\n[format]\ntype = \"json\"\n",
            columns.join(", ")
        ),
    );
    write("views/view.sql", sql);
    Engine::start(sangam::config::load(dir.path()).expect("a good deployment")).expect("an engine")
}
