//! Hot and cold rows together, against the same rows in memory.

use std::collections::BTreeMap;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::physical_plan::{ExecutionPlan, collect};
use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::batch::over;
use crate::{Catalog, QueryError, Relation, Relations, SourceRelation};

const HOUR_US: i64 = 3_600_000_000;
/// 2026-03-01T00:00:00Z.
const START_US: i64 = 1_772_323_200_000_000;
const TICK: u64 = START_US as u64 + 100 * HOUR_US as u64;
const BLOCK_BYTES: u64 = 1_000;

fn schema() -> SchemaRef {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("Asia/Kolkata".into()));
    Arc::new(Schema::new(vec![
        Field::new("station", DataType::Utf8, false),
        Field::new("at", at, false),
        Field::new("ph", DataType::Float64, true),
    ]))
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::new("Asia/Kolkata").unwrap();
    catalog
        .add_source(SourceRelation {
            name: "readings".into(),
            schema: schema(),
            append_only: true,
            key: None,
            retain_us: None,
            expires_after_us: None,
            time_column: Some("at".into()),
            lateness_us: None,
        })
        .unwrap();
    catalog
}

/// Rows of some hours, one a station and minute.
fn rows(hours: std::ops::Range<i64>, random: &mut Pcg64Mcg) -> RecordBatch {
    let mut stations = Vec::new();
    let mut times = Vec::new();
    let mut values = Vec::new();
    for hour in hours {
        for station in 0..10 {
            for minute in 0..60 {
                stations.push(format!("s{station}"));
                times.push(START_US + hour * HOUR_US + minute * 60_000_000);
                let value = random.random_range(0..1_400);
                values.push((value > 20).then(|| f64::from(value) / 100.0));
            }
        }
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(stations)),
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("Asia/Kolkata")),
        Arc::new(Float64Array::from(values)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Adds the columns that raw input has, every row in a tick of its own.
fn raw(rows: &RecordBatch, first_tick: u64) -> RecordBatch {
    let mut fields = rows.schema().fields().to_vec();
    let mut columns = rows.columns().to_vec();
    let count = rows.num_rows() as u64;
    for (name, column) in [
        (
            TICK_COLUMN,
            Arc::new(UInt64Array::from_iter_values(first_tick..first_tick + count)) as ArrayRef,
        ),
        (SEQUENCE_COLUMN, Arc::new(UInt64Array::from(vec![0; count as usize]))),
        (DIFF_COLUMN, Arc::new(Int64Array::from(vec![1; count as usize]))),
    ] {
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), false)));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Puts a file, a row group for each batch, and returns what its manifest would say.
async fn put(store: &Arc<InMemory>, path: &str, row_groups: &[RecordBatch]) -> ColdFile {
    let properties = WriterProperties::builder()
        .set_data_page_row_count_limit(60)
        .set_write_batch_size(60)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), row_groups[0].schema(), Some(properties)).unwrap();
    for batch in row_groups {
        writer.write(batch).unwrap();
        writer.flush().unwrap();
    }
    let bytes = writer.into_inner().unwrap();
    let mut times = Vec::new();
    let mut ticks = Vec::new();
    for batch in row_groups {
        times.extend_from_slice(batch.column(1).as_primitive::<TimestampMicrosecondType>().values());
        if let Some(column) = batch.column_by_name(TICK_COLUMN) {
            ticks.extend_from_slice(column.as_primitive::<arrow::datatypes::UInt64Type>().values());
        }
    }
    let file = ColdFile {
        path: path.to_owned(),
        bytes: bytes.len() as u64,
        rows: times.len() as u64,
        time_us: times.iter().min().copied().zip(times.iter().max().copied()),
        ticks: ticks.iter().min().copied().zip(ticks.iter().max().copied()),
        block_bytes: BLOCK_BYTES,
        blocks: bytes.chunks(BLOCK_BYTES as usize).map(crc32fast::hash).collect(),
    };
    store.put(&Path::from(path), bytes.into()).await.unwrap();
    file
}

/// Readings of ten hours in files, of five more in memory, and all of them in memory.
struct Case {
    store: Arc<InMemory>,
    cold: Cold,
    relations: Relations,
    all: Relations,
}

async fn case(seed: u64) -> Case {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let store = Arc::new(InMemory::new());
    let (mut files, mut batches) = (Vec::new(), Vec::new());
    for file in 0..5 {
        let hours: Vec<RecordBatch> = (0..2)
            .map(|hour| rows(file * 2 + hour..file * 2 + hour + 1, &mut random))
            .collect();
        // The third was raw input once: its other columns are nobody's business.
        let written = if file == 2 {
            hours.iter().map(|rows| raw(rows, 1)).collect()
        } else {
            hours.clone()
        };
        files.push(put(&store, &format!("readings/{file}.parquet"), &written).await);
        batches.extend(hours);
    }
    let hot = vec![rows(10..15, &mut random)];
    batches.extend(hot.clone());
    let cold = Cold::new(&ColdStore::new(store.clone()), files).with_time("at");
    let relation = Relation {
        schema: schema(),
        batches: hot,
        cold: Some(cold.clone()),
    };
    Case {
        store,
        cold,
        relations: Relations::from([("readings".to_owned(), relation)]),
        all: Relations::from([("readings".to_owned(), (schema(), batches).into())]),
    }
}

fn printed(batches: &[RecordBatch]) -> String {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('+')).collect();
    lines.sort_unstable();
    lines.join("\n")
}

async fn ask(sql: &str, relations: &Relations) -> Result<String, QueryError> {
    let catalog = catalog();
    let query = catalog.plan_query(sql)?;
    let (_, batches) = catalog.run_query(&query, relations, TICK, 64 << 20).await?;
    Ok(printed(&batches))
}

const QUESTIONS: [&str; 10] = [
    "SELECT * FROM readings",
    "SELECT count(*) FROM readings",
    "SELECT station, count(*), sum(ph), min(at), max(at) FROM readings GROUP BY station",
    "SELECT * FROM readings WHERE at >= TIMESTAMP '2026-03-01 08:30:00' AND at < TIMESTAMP '2026-03-01 09:10:00'",
    "SELECT max(at) FROM readings WHERE at > now() - INTERVAL '92 hours'",
    "SELECT count(*) FROM readings WHERE station = 's3' AND ph IS NULL",
    "SELECT r.at, r.ph FROM (SELECT at, ph, station AS s FROM readings) AS r WHERE r.s IN ('s1', 's2') AND r.ph > 13",
    "SELECT a.station, count(*) FROM readings a JOIN readings b ON a.station = b.station AND a.at = b.at WHERE a.at < TIMESTAMP '2026-03-01 07:00:00' GROUP BY a.station",
    "SELECT at, ph FROM readings WHERE station = 's7' ORDER BY at DESC LIMIT 5",
    "SELECT date_trunc('hour', at), avg(ph) FROM readings GROUP BY 1",
];

#[tokio::test]
async fn files_and_memory_are_one_relation() {
    let case = case(7).await;
    for sql in QUESTIONS {
        let expected = ask(sql, &case.all).await.unwrap();
        assert_eq!(ask(sql, &case.relations).await.unwrap(), expected, "{sql}");
        // As a view, whose own plan batch executes.
        let catalog = catalog();
        if let Ok(view) = catalog.plan_view("v", sql) {
            let of = async |relations| printed(&catalog.batch(&view, relations, TICK).await.unwrap());
            assert_eq!(of(&case.relations).await, of(&case.all).await, "{sql}");
        }
    }
    let (columns, _) = {
        let catalog = catalog();
        let query = catalog.plan_query("SELECT * FROM readings").unwrap();
        catalog
            .run_query(&query, &case.relations, TICK, 64 << 20)
            .await
            .unwrap()
    };
    let types: Vec<&DataType> = columns.fields().iter().map(|field| field.data_type()).collect();
    assert_eq!(
        types,
        schema()
            .fields()
            .iter()
            .map(|field| field.data_type())
            .collect::<Vec<_>>()
    );
}

/// Sums a figure of all scans of files, by name; two figures for what tells pruned from all.
fn figures(plan: &Arc<dyn ExecutionPlan>, found: &mut BTreeMap<String, usize>) {
    use datafusion::physical_plan::metrics::MetricValue;
    if plan.name() == "DataSourceExec" {
        for metric in plan
            .metrics()
            .iter()
            .flat_map(|metrics| metrics.iter().cloned().collect::<Vec<_>>())
        {
            let name = metric.value().name().to_owned();
            match metric.value() {
                MetricValue::PruningMetrics { pruning_metrics, .. } => {
                    *found.entry(format!("{name}: pruned")).or_default() += pruning_metrics.pruned();
                    *found.entry(format!("{name}: matched")).or_default() += pruning_metrics.matched();
                }
                value => *found.entry(name).or_default() += value.as_usize(),
            }
        }
    }
    for child in plan.children() {
        figures(child, found);
    }
}

/// Runs a query and returns what its scans say.
async fn scanned(sql: &str, relations: &Relations) -> BTreeMap<String, usize> {
    let catalog = catalog();
    let view = catalog.plan_view("v", sql).unwrap();
    let plan = crate::rewrites::temporal::at_tick(view.logical, TICK as i64, catalog.zone()).unwrap();
    let plan = over(plan, relations).unwrap();
    let session = catalog.session_for_views();
    let plan = crate::batch::physical(session, &plan).await.unwrap();
    collect(Arc::clone(&plan), session.task_ctx()).await.unwrap();
    let mut found = BTreeMap::new();
    figures(&plan, &mut found);
    println!("{sql}: {found:?}");
    found
}

#[tokio::test]
async fn files_row_groups_and_pages_are_passed_over() {
    let case = case(8).await;
    let whole = scanned("SELECT at, ph FROM readings", &case.relations).await;
    // The first minutes of one hour: of five files one, of its two row groups one.
    let part = scanned(
        "SELECT at, ph FROM readings WHERE at >= TIMESTAMP '2026-03-01 07:30:00' AND at < TIMESTAMP '2026-03-01 07:40:00'",
        &case.relations,
    )
    .await;
    assert_eq!(whole["row_groups_pruned_statistics: pruned"], 0, "{whole:?}");
    assert_eq!(part["row_groups_pruned_statistics: matched"], 1, "{part:?}");
    assert_eq!(part["row_groups_pruned_statistics: pruned"], 1, "{part:?}");
    assert!(part["bytes_scanned"] * 5 < whole["bytes_scanned"], "{part:?} {whole:?}");
    // One station is one page in ten of every row group.
    let station = scanned("SELECT at, ph FROM readings WHERE station = 's4'", &case.relations).await;
    assert_eq!(station["page_index_rows_pruned: matched"], 600, "{station:?}");
    assert_eq!(station["page_index_rows_pruned: pruned"], 5_400, "{station:?}");
    // By the moment of the tick, through a projection and past a row that may fail.
    let recent = scanned(
        "SELECT s FROM (SELECT station AS s, at AS t, ph FROM readings) WHERE CAST(ph AS INTEGER) > 3 AND t > now() - INTERVAL '91 hours'",
        &case.relations,
    )
    .await;
    assert_eq!(recent["row_groups_pruned_statistics: matched"], 1, "{recent:?}");
    assert_eq!(recent["row_groups_pruned_statistics: pruned"], 1, "{recent:?}");
    // A column nobody asks for is not read.
    let narrow = scanned("SELECT station FROM readings", &case.relations).await;
    assert!(
        narrow["bytes_scanned"] * 2 < whole["bytes_scanned"],
        "{narrow:?} {whole:?}"
    );
    // Files that cannot hold a row are not even opened.
    let none = scanned(
        "SELECT at FROM readings WHERE at > now() - INTERVAL '1 hour'",
        &case.relations,
    )
    .await;
    assert!(!none.contains_key("bytes_scanned"), "{none:?}");
}

#[tokio::test]
async fn rows_that_are_in_files_too_are_seen_once() {
    let mut case = case(9).await;
    // The last two hours of the files are still in memory, as just after a bucket was closed.
    let relation = case.relations.get_mut("readings").unwrap();
    let all = &case.all["readings"].batches;
    relation.batches.extend_from_slice(&all[8..10]);
    relation.cold = Some(case.cold.clone().with_hot_from(START_US + 10 * HOUR_US));
    for sql in QUESTIONS {
        let expected = ask(sql, &case.all).await.unwrap();
        assert_eq!(ask(sql, &case.relations).await.unwrap(), expected, "{sql}");
    }
}

#[tokio::test]
async fn a_span_is_streamed_without_a_plan() {
    let case = case(10).await;
    let span = |column: &str, from: i64, to: i64| Span {
        column: column.to_owned(),
        from_us: Some(from),
        to_us: Some(to),
    };
    let hours = span("at", START_US + HOUR_US * 5 / 2, START_US + HOUR_US * 6);
    let streamed: Vec<RecordBatch> = case
        .cold
        .stream(&schema(), Some(&hours))
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let sql =
        "SELECT * FROM readings WHERE at >= TIMESTAMP '2026-03-01 08:00:00' AND at < TIMESTAMP '2026-03-01 11:30:00'";
    assert_eq!(printed(&streamed), ask(sql, &case.all).await.unwrap());
    assert_eq!(streamed[0].schema(), schema());
    let all: Vec<RecordBatch> = case.cold.stream(&schema(), None).unwrap().try_collect().await.unwrap();
    assert_eq!(all.iter().map(RecordBatch::num_rows).sum::<usize>(), 6_000);
    let error = case
        .cold
        .stream(&schema(), Some(&span("att", 0, 1)))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.to_string(), "history has no column \"att\"");
}

#[tokio::test]
async fn raw_input_is_replayed_in_the_order_it_came() {
    let mut random = Pcg64Mcg::seed_from_u64(11);
    let store = Arc::new(InMemory::new());
    let mut files = Vec::new();
    for (file, first_tick) in [(1, 2_000), (0, 1_000), (2, 2_300)] {
        files.push(
            put(
                &store,
                &format!("{file}.parquet"),
                &[raw(&rows(file..file + 1, &mut random), first_tick)],
            )
            .await,
        );
    }
    let cold = Cold::new(&ColdStore::new(store), files).with_time("at");
    let schema = raw(&rows(0..1, &mut random), 0).schema();
    let span = Span {
        column: TICK_COLUMN.to_owned(),
        from_us: Some(1_500),
        to_us: Some(2_400),
    };
    let replayed: Vec<RecordBatch> = cold
        .replay(&schema, Some(&span), 1 << 20)
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let ticks: Vec<u64> = replayed
        .iter()
        .flat_map(|batch| {
            batch
                .column(3)
                .as_primitive::<arrow::datatypes::UInt64Type>()
                .values()
                .to_vec()
        })
        .collect();
    let mut expected: Vec<u64> = (1_500..1_600).chain(2_000..2_400).chain(2_300..2_400).collect();
    expected.sort_unstable();
    assert_eq!(ticks, expected);
}

#[tokio::test]
async fn what_was_changed_or_taken_away_is_named() {
    let case = case(12).await;
    let path = Path::from("readings/3.parquet");
    let bytes = case.store.get(&path).await.unwrap().bytes().await.unwrap();
    for at in [10, bytes.len() / 2, bytes.len() - 30] {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1;
        case.store.put(&path, flipped.into()).await.unwrap();
        // Footers are remembered: who opens the file first sees the damage.
        let cold = Cold::new(&ColdStore::new(case.store.clone()), case.cold.files().to_vec());
        let mut relations = case.relations.clone();
        relations.get_mut("readings").unwrap().cold = Some(cold.with_time("at"));
        let error = ask("SELECT * FROM readings", &relations).await.unwrap_err().to_string();
        assert!(
            error.starts_with("history file \"readings/3.parquet\" is damaged: bytes "),
            "{error}"
        );
        let from = at as u64 / BLOCK_BYTES * BLOCK_BYTES;
        assert!(error.contains(&format!("bytes {from} to ")), "{at}: {error}");
        // What is not read is not missed.
        let elsewhere = "SELECT count(ph) FROM readings WHERE at < TIMESTAMP '2026-03-01 07:00:00'";
        ask(elsewhere, &relations).await.unwrap();
    }
    case.store
        .put(&path, bytes.slice(..bytes.len() - 100).into())
        .await
        .unwrap();
    let error = ask("SELECT * FROM readings", &case.relations)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"readings/3.parquet\" is damaged"), "{error}");
    case.store.delete(&path).await.unwrap();
    let error = ask("SELECT * FROM readings", &case.relations)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("history file \"readings/3.parquet\" is missing"),
        "{error}"
    );
}
