//! Bytes on disk of the same readings: in the log and in a checkpoint of an engine, and as one plain Parquet file.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;
use connectors::Decoded;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sangam::engine::{Data, Engine, Operation};
use sangam::log::Durability;

use super::stations::{Stations, schema};

/// Bytes of each row.
pub struct Room {
    /// In the log, before any checkpoint.
    pub log: f64,
    /// In the files of a checkpoint.
    pub checkpoint: f64,
    /// What the log takes after it: its file does not shrink, its pages are used again.
    pub rest: f64,
}

/// Returns the bytes of each row of some minutes in one file, as anybody would write it: in the order they came.
pub fn as_parquet(minutes: i64) -> f64 {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema(), Some(properties)).expect("a writer");
    let mut stations = Stations::new();
    let mut rows = 0;
    for minute in 0..minutes {
        let batch = stations.minutes(minute..minute + 1);
        rows += batch.num_rows();
        writer.write(&batch).expect("rows");
    }
    let file = writer.into_inner().expect("a file");
    file.len() as f64 / rows as f64
}

/// Has an engine take some minutes in, so many rows a tick, and make a checkpoint of them.
pub fn of_engine(minutes: i64, tick_rows: usize) -> Room {
    let dir = tempfile::tempdir().expect("a folder");
    let put = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    // No checkpoint but the last.
    put(
        "deployment.toml",
        "clock = \"event\"\nworkers = 1\ncheckpoint_bytes = 100000000000\n",
    );
    put(
        "sources/readings.toml",
        "columns = { station = \"text not null\", at = \"timestamp not null\", ph = \"double\", \
         dissolved_oxygen = \"double\", turbidity = \"double\", temperature = \"double\" }\n\
         time = { column = \"at\" }\n[connector]\ntype = \"http\"\n",
    );
    let deployment = sangam::config::load(dir.path()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let declared = deployment.sources[0].schema.clone();
    let data = dir.path().join("data");
    let engine = Engine::open(
        deployment.clone(),
        Data {
            history: deployment.history(&data),
            dir: data.clone(),
            // What was answered for is written.
            durability: Durability::Sync,
            forget: Vec::new(),
            reads: true,
        },
    );
    let engine = engine.expect("an engine");
    while engine.recovery().is_some() {
        assert_eq!(engine.failure(), None);
        std::thread::sleep(Duration::from_millis(5));
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rows = runtime.block_on(async {
        let (mut stations, mut rows, mut last) = (Stations::new(), 0, 0);
        for minute in 0..minutes {
            let minute = stations.minutes(minute..minute + 1);
            let minute = RecordBatch::try_new(declared.clone(), minute.columns().to_vec()).expect("its columns");
            for from in (0..minute.num_rows()).step_by(tick_rows) {
                let decoded = Decoded {
                    rows: minute.slice(from, tick_rows.min(minute.num_rows() - from)),
                    rejected: Vec::new(),
                };
                let accepted = engine
                    .ingest("readings", Operation::Insert, decoded)
                    .await
                    .expect("it runs");
                (rows, last) = (rows + accepted.accepted, accepted.tick);
            }
        }
        engine.snapshot(&["readings".to_owned()], last).await.expect("it runs");
        rows
    });
    let each = |bytes: u64| bytes as f64 / rows as f64;
    let log = data.join("log.redb");
    let before = each(on_disk(&log));
    // With the last checkpoint.
    engine.shutdown();
    Room {
        log: before,
        checkpoint: each(on_disk(&data.join("checkpoint"))),
        rest: each(on_disk(&log)),
    }
}

/// What a file, or all of a folder, takes on the disk.
fn on_disk(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return std::fs::metadata(path).map_or(0, |data| data.blocks() * 512);
    };
    entries.flatten().map(|entry| on_disk(&entry.path())).sum()
}
