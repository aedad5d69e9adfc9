//! A local archive from outside: what was written is read by SQL, whatever became of the files meanwhile.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::*;
use arrow::util::pretty::pretty_format_batches;
use futures_util::TryStreamExt;
use queries::cold::{Span, TICK_COLUMN};
use queries::{Catalog, Relation, Relations, SourceRelation};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;

const ZONE: &str = "Asia/Kolkata";
const DAY_US: i64 = 86_400_000_000;
/// 2026-11-28T00:00:00Z.
const START_US: i64 = 1_795_824_000_000_000;

async fn archive(folder: &Path) -> Archive {
    Archive::open(folder.to_str().unwrap(), "a").await.unwrap()
}

fn at() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into()))
}

fn readings() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("station", DataType::Utf8, false),
        Field::new("at", at(), false),
        Field::new("ph", DataType::Float64, true),
        Field::new("note", DataType::Utf8, true),
    ]))
}

/// Some rows from `first` to `last`.
fn some(count: usize, first: i64, last: i64, random: &mut Pcg64Mcg) -> RecordBatch {
    let stations = (0..count).map(|_| format!("s{:03}", random.random_range(0..40)));
    let stations = StringArray::from_iter_values(stations);
    let times = TimestampMicrosecondArray::from_iter_values((0..count).map(|_| random.random_range(first..last)));
    let values: Float64Array = (0..count)
        .map(|_| {
            random
                .random_bool(0.9)
                .then(|| f64::from(random.random_range(0..1_400)) / 100.0)
        })
        .collect();
    let notes: StringArray = (0..count)
        .map(|row| random.random_bool(0.1).then(|| format!("note {row}")))
        .collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(stations),
        Arc::new(times.with_timezone(ZONE)),
        Arc::new(values),
        Arc::new(notes),
    ];
    RecordBatch::try_new(readings(), columns).unwrap()
}

fn printed(batches: &[RecordBatch]) -> String {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('+')).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Answers a query over a relation's files, or over rows in memory.
async fn ask(sql: &str, schema: &SchemaRef, relation: impl Into<Relation>) -> String {
    let mut catalog = Catalog::new(ZONE).unwrap();
    catalog
        .add_source(SourceRelation {
            name: "readings".into(),
            schema: schema.clone(),
            append_only: true,
            key: None,
            retain_us: None,
            expires_after_us: None,
            time_column: None,
            lateness_us: None,
        })
        .unwrap();
    let query = catalog.plan_query(sql).unwrap();
    let relations = Relations::from([("readings".to_owned(), relation.into())]);
    let (_, batches) = catalog
        .run_query(&query, &relations, START_US as u64, 256 << 20)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    printed(&batches)
}

fn only_cold(archive: &Archive, schema: &SchemaRef, entries: &[FileEntry]) -> Relation {
    Relation {
        schema: schema.clone(),
        batches: Vec::new(),
        cold: Some(archive.cold(entries)),
    }
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut folders } else { &mut found }.push(path);
        }
    }
    found
}

/// Columns of every type there is, some rows of each with NULLs where they may stand.
fn every_type() -> RecordBatch {
    let nullable = |name: &str, column: ArrayRef| (Field::new(name, column.data_type().clone(), true), column);
    let strict = |name: &str, column: ArrayRef| (Field::new(name, column.data_type().clone(), false), column);
    let item = Arc::new(Field::new("item", DataType::Float64, true));
    let list = ListArray::new(
        item,
        OffsetBuffer::from_lengths([2, 0, 1, 0]),
        Arc::new(Float64Array::from(vec![Some(1.5), None, Some(-0.0)])),
        Some(vec![true, true, true, false].into()),
    );
    let fields = Fields::from(vec![
        Field::new("river", DataType::Utf8, true),
        Field::new("since", at(), true),
    ]);
    let structs = StructArray::new(
        fields,
        vec![
            Arc::new(StringArray::from(vec![Some("Ganga"), None, Some("Yamuna"), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1), Some(-1), None, None]).with_timezone(ZONE)),
        ],
        Some(vec![true, true, true, false].into()),
    );
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for (row, is_there) in [true, true, false, true].into_iter().enumerate() {
        for pair in 0..row {
            map.keys().append_value(format!("k{pair}"));
            map.values().append_option((pair > 0).then_some(pair as i64));
        }
        map.append(is_there).unwrap();
    }
    let mut lists_of_structs = Vec::new();
    for row in 0..4_i64 {
        lists_of_structs.push((row != 1).then(|| vec![Some(row), None]));
    }
    let columns = vec![
        strict(
            "hour",
            Arc::new(TimestampMicrosecondArray::from(vec![START_US; 4]).with_timezone(ZONE)),
        ),
        strict("text", Arc::new(StringArray::from(vec!["", "नदी", "a\"b,c", "\u{0}"]))),
        nullable(
            "maybe",
            Arc::new(StringArray::from(vec![None, Some(""), None, Some("x")])),
        ),
        nullable(
            "flag",
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), None])),
        ),
        nullable(
            "i8",
            Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(0), Some(i8::MAX)])),
        ),
        nullable(
            "i16",
            Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(0), Some(i16::MAX)])),
        ),
        nullable(
            "i32",
            Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(0), Some(i32::MAX)])),
        ),
        nullable(
            "i64",
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(0), Some(i64::MAX)])),
        ),
        nullable(
            "u8",
            Arc::new(UInt8Array::from(vec![Some(0), None, Some(1), Some(u8::MAX)])),
        ),
        nullable(
            "u16",
            Arc::new(UInt16Array::from(vec![Some(0), None, Some(1), Some(u16::MAX)])),
        ),
        nullable(
            "u32",
            Arc::new(UInt32Array::from(vec![Some(0), None, Some(1), Some(u32::MAX)])),
        ),
        nullable(
            "u64",
            Arc::new(UInt64Array::from(vec![Some(0), None, Some(1), Some(u64::MAX)])),
        ),
        nullable(
            "f32",
            Arc::new(Float32Array::from(vec![
                Some(f32::NAN),
                None,
                Some(-0.0),
                Some(f32::MIN),
            ])),
        ),
        nullable(
            "f64",
            Arc::new(Float64Array::from(vec![
                Some(f64::NAN),
                None,
                Some(f64::NEG_INFINITY),
                Some(0.1),
            ])),
        ),
        nullable(
            "decimal",
            Arc::new(
                Decimal128Array::from(vec![Some(-12_345), None, Some(0), Some(99)])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
        ),
        nullable(
            "wide",
            Arc::new(
                Decimal128Array::from(vec![Some(i128::from(i64::MAX) * 1_000_000), None, Some(-1), Some(0)])
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
        ),
        nullable(
            "wider",
            Arc::new(
                Decimal256Array::from(vec![
                    Some(i256::from_i128(i128::MAX)),
                    None,
                    Some(i256::MINUS_ONE),
                    None,
                ])
                .with_precision_and_scale(60, 4)
                .unwrap(),
            ),
        ),
        nullable(
            "date",
            Arc::new(Date32Array::from(vec![Some(-1), None, Some(0), Some(20_000)])),
        ),
        nullable(
            "date64",
            Arc::new(Date64Array::from(vec![
                Some(-86_400_000),
                None,
                Some(0),
                Some(86_400_000),
            ])),
        ),
        nullable(
            "clock",
            Arc::new(Time64MicrosecondArray::from(vec![
                Some(0),
                None,
                Some(1),
                Some(86_399_999_999),
            ])),
        ),
        nullable(
            "clock_ns",
            Arc::new(Time64NanosecondArray::from(vec![Some(0), None, Some(1), Some(2)])),
        ),
        nullable(
            "clock_s",
            Arc::new(Time32SecondArray::from(vec![Some(0), None, Some(1), Some(2)])),
        ),
        nullable(
            "zoneless",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None, Some(0), Some(1)])),
        ),
        nullable(
            "nanos",
            Arc::new(TimestampNanosecondArray::from(vec![Some(-1), None, Some(0), Some(1)])),
        ),
        nullable(
            "seconds",
            Arc::new(TimestampSecondArray::from(vec![Some(-1), None, Some(0), Some(1)])),
        ),
        nullable(
            "took",
            Arc::new(DurationMicrosecondArray::from(vec![Some(-1), None, Some(0), Some(1)])),
        ),
        nullable(
            "binary",
            Arc::new(BinaryArray::from_opt_vec(vec![
                Some(b"\0\xff"),
                None,
                Some(b""),
                Some(b"x"),
            ])),
        ),
        nullable(
            "fixed",
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                    [Some([1_u8, 2]), None, Some([3, 4]), Some([5, 6])].into_iter(),
                    2,
                )
                .unwrap(),
            ),
        ),
        nullable("nothing", Arc::new(NullArray::new(4))),
        nullable("list", Arc::new(list)),
        nullable("struct", Arc::new(structs)),
        nullable("map", Arc::new(map.finish())),
        nullable(
            "large",
            Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(lists_of_structs)),
        ),
        nullable(
            "vector",
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
                vec![
                    Some(vec![Some(1.0), Some(2.0)]),
                    None,
                    Some(vec![None, Some(3.0)]),
                    Some(vec![Some(0.0); 2]),
                ],
                2,
            )),
        ),
    ];
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    // What SQL has no word for is told by metadata.
    let told = HashMap::from([("ARROW:extension:name".to_owned(), "sangam.json".to_owned())]);
    let fields: Vec<Field> = fields
        .into_iter()
        .map(|field| {
            if field.name() == "maybe" {
                field.with_metadata(told.clone())
            } else {
                field
            }
        })
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[tokio::test]
async fn every_type_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path()).await;
    let rows = every_type();
    let layout = Layout::new("everything", rows.schema(), Some("hour"), &["text".to_owned()]).unwrap();
    let mut entries = Vec::new();
    for sequence in 0..3 {
        entries.extend(
            archive
                .write(&layout, std::slice::from_ref(&rows), sequence)
                .await
                .unwrap(),
        );
    }
    let merged = archive.compact(&entries, 3).await.unwrap();
    let expected = concat_batches(&rows.schema(), [&rows, &rows, &rows]).unwrap();
    for (files, times) in [
        (&entries[..1], 1),
        (&entries[..], 3),
        (std::slice::from_ref(&merged), 3),
    ] {
        let read: Vec<RecordBatch> = archive
            .cold(files)
            .stream(&rows.schema(), None)
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        for batch in &read {
            assert_eq!(batch.schema(), rows.schema());
        }
        let all = expected.slice(0, 4 * times);
        assert_eq!(printed(&read), printed(&[all]));
    }
    // The file itself says so, too, to whoever reads it.
    let file = fs::File::open(folder.path().join(&merged.path)).unwrap();
    let read = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    for (found, expected) in read.schema().fields().iter().zip(rows.schema().fields()) {
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn what_files_cannot_hold_is_refused() {
    let hour = Field::new("hour", at(), false);
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    let list = DataType::List(Arc::new(Field::new("item", interval.clone(), true)));
    for data_type in [interval, list, DataType::Struct(Fields::empty())] {
        let schema = Arc::new(Schema::new(vec![hour.clone(), Field::new("x", data_type, true)]));
        let error = Layout::new("v", schema, Some("hour"), &[]).unwrap_err();
        assert_eq!(error.kind, HistoryErrorKind::Unsupported);
        assert!(error.what.contains("column \"x\" of \"v\""), "{error}");
    }
    let schema = Arc::new(Schema::new(vec![hour.clone(), hour.clone()]));
    assert!(
        Layout::new("v", schema, Some("hour"), &[])
            .unwrap_err()
            .what
            .contains("two columns")
    );
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
    assert!(
        Layout::new("v", schema.clone(), None, &[])
            .unwrap_err()
            .what
            .contains("no time")
    );
    assert!(
        Layout::new("v", schema.clone(), Some("x"), &[])
            .unwrap_err()
            .what
            .contains("no column of times")
    );
    assert!(
        Layout::new("../v", schema, None, &[])
            .unwrap_err()
            .what
            .contains("cannot be the name")
    );
    let raw = Arc::new(Schema::new(vec![Field::new(TICK_COLUMN, DataType::UInt64, false)]));
    assert!(Layout::new("v", raw, None, &[]).unwrap_err().what.contains("__seq"));

    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path()).await;
    let maybe = Arc::new(Schema::new(vec![Field::new("hour", at(), true)]));
    let layout = Layout::new("v", maybe.clone(), Some("hour"), &[]).unwrap();
    let of = |time: Option<i64>| {
        let hours = TimestampMicrosecondArray::from(vec![time]).with_timezone(ZONE);
        [RecordBatch::try_new(maybe.clone(), vec![Arc::new(hours)]).unwrap()]
    };
    assert!(
        archive
            .write(&layout, &of(None), 1)
            .await
            .unwrap_err()
            .what
            .contains("has no \"hour\"")
    );
    assert!(
        archive
            .write(&layout, &of(Some(i64::MAX)), 1)
            .await
            .unwrap_err()
            .what
            .contains("outside the years")
    );
    assert!(
        archive
            .write(&layout, &[every_type()], 1)
            .await
            .unwrap_err()
            .what
            .contains("other columns")
    );
    assert_eq!(archive.write(&layout, &[], 1).await.unwrap(), []);
    assert!(archive.compact(&[], 1).await.is_err());
}

const QUESTIONS: [&str; 8] = [
    "SELECT * FROM readings",
    "SELECT count(*), count(ph), min(at), max(at) FROM readings",
    "SELECT station, count(*), sum(ph) FROM readings GROUP BY station",
    "SELECT * FROM readings WHERE at >= TIMESTAMP '2026-11-28 12:00:00' AND at < TIMESTAMP '2026-11-28 13:00:00'",
    "SELECT * FROM readings WHERE station = 's007'",
    "SELECT count(*) FROM readings WHERE station > 's020' AND at > now() + INTERVAL '30 hours' AND ph BETWEEN 3 AND 4",
    "SELECT * FROM readings WHERE note LIKE 'note 1%' AND ph IS NULL",
    "SELECT * FROM readings ORDER BY at DESC, station LIMIT 7",
];

#[tokio::test]
async fn whatever_becomes_of_the_files_the_answers_stay() {
    for seed in 0..6 {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let archive = archive(folder.path()).await;
        let key: &[String] = if seed % 2 == 0 { &[] } else { &["station".to_owned()] };
        let layout = Layout::new("readings", readings(), Some("at"), key).unwrap();
        let (mut all, mut entries, mut sequence) = (Vec::new(), Vec::<FileEntry>::new(), 0);
        for _ in 0..30 {
            let count = random.random_range(1..2_000);
            let first = START_US + random.random_range(0..40 * DAY_US);
            let rows = some(count, first, first + random.random_range(1..2 * DAY_US), &mut random);
            sequence += 1;
            let pieces = [rows.slice(0, count / 2), rows.slice(count / 2, count - count / 2)];
            let written = archive.write(&layout, &pieces, sequence).await.unwrap();
            assert_eq!(written.iter().map(|entry| entry.rows).sum::<u64>(), count as u64);
            entries.extend(written);
            all.push(rows);
            // Now and then files are merged, or the oldest rows go.
            if random.random_bool(0.3) {
                for group in plan_compaction(&entries) {
                    sequence += 1;
                    let merged = archive.compact(&group, sequence).await.unwrap();
                    assert_eq!(merged.rows, group.iter().map(|entry| entry.rows).sum::<u64>());
                    let gone: Vec<&str> = group.iter().map(|entry| entry.path.as_str()).collect();
                    entries.retain(|entry| !gone.contains(&entry.path.as_str()));
                    archive.remove(&gone).await.unwrap();
                    entries.push(merged);
                }
            }
            if random.random_bool(0.1) {
                let before = START_US + random.random_range(0..20 * DAY_US);
                for gone in expired(&entries, before) {
                    entries.retain(|entry| *entry != gone);
                    archive.remove(&[&gone.path]).await.unwrap();
                    // Which rows went with it is read off its bounds.
                    let (first, last) = (gone.time_min_us.unwrap(), gone.time_max_us.unwrap());
                    assert!(last < before, "seed {seed}");
                    let kept = kept_rows(&all, &archive, &entries, (first, last)).await;
                    all = kept;
                }
            }
        }
        for entry in &entries {
            archive.verify(entry).await.unwrap();
        }
        let manifest = serde_json::to_string(&entries).unwrap();
        assert_eq!(serde_json::from_str::<Vec<FileEntry>>(&manifest).unwrap(), entries);
        assert_eq!(archive.orphans(&entries).await.unwrap(), Vec::<String>::new());
        for sql in QUESTIONS {
            let expected = ask(sql, &readings(), (readings(), all.clone())).await;
            let found = ask(sql, &readings(), only_cold(&archive, &readings(), &entries)).await;
            assert_eq!(found, expected, "seed {seed}: {sql}");
        }
    }
}

/// Returns the rows of before without those that went with a file: rows in its span that no file has any more.
async fn kept_rows(
    all: &[RecordBatch],
    archive: &Archive,
    entries: &[FileEntry],
    (first, last): (i64, i64),
) -> Vec<RecordBatch> {
    let span = Span {
        column: "at".into(),
        from_us: Some(first),
        to_us: Some(last + 1),
    };
    let mut kept: Vec<RecordBatch> = archive
        .cold(entries)
        .with_time("at")
        .stream(&readings(), Some(&span))
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    for batch in all {
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let outside = (0..times.len() as u32).filter(|row| !(first..=last).contains(&times.value(*row as usize)));
        kept.push(take_record_batch(batch, &UInt32Array::from_iter_values(outside)).unwrap());
    }
    kept
}

#[tokio::test]
async fn what_a_crash_leaves_is_found_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path()).await;
    let mut random = Pcg64Mcg::seed_from_u64(1);
    let layout = Layout::new("readings", readings(), Some("at"), &[]).unwrap();
    let rows = [some(100, START_US, START_US + DAY_US, &mut random)];
    let entries = archive.write(&layout, &rows, 1).await.unwrap();
    let unnamed = archive.write(&layout, &rows, 2).await.unwrap();
    let other = Layout::new("hourly", readings(), Some("at"), &[]).unwrap();
    let lone = archive.write(&other, &rows, 1).await.unwrap();
    let torn = format!(
        "readings/date=2026-11-28/.{}.tmp",
        "20261128T000000-20261128T230000-3.parquet"
    );
    fs::write(folder.path().join(&torn), b"PAR1 and then the power went").unwrap();
    for kept in ["notes.txt", "readings/readme.md", "readings/date=2026-11-28/x.csv"] {
        fs::write(folder.path().join(kept), b"an operator's own").unwrap();
    }
    let mut expected = vec![lone[0].path.clone(), torn, unnamed[0].path.clone()];
    expected.sort_unstable();
    let orphans = archive.orphans(&entries).await.unwrap();
    assert_eq!(orphans, expected);
    archive.remove(&orphans).await.unwrap();
    archive.remove(&orphans).await.unwrap();
    assert_eq!(archive.orphans(&entries).await.unwrap(), Vec::<String>::new());
    // The file, three of the operator's, and whose it is; the empty folders went.
    assert_eq!(paths(folder.path()).len(), 5);
    assert!(!folder.path().join("hourly").exists());
    let found = ask(
        "SELECT count(*) FROM readings",
        &readings(),
        only_cold(&archive, &readings(), &entries),
    )
    .await;
    assert!(found.contains("100"), "{found}");
}

#[tokio::test]
async fn a_name_is_never_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path()).await;
    let mut random = Pcg64Mcg::seed_from_u64(2);
    let layout = Layout::new("readings", readings(), Some("at"), &[]).unwrap();
    let rows = [some(10, START_US, START_US + 1_000, &mut random)];
    let entries = archive.write(&layout, &rows, 1).await.unwrap();
    let error = archive.write(&layout, &rows, 1).await.unwrap_err();
    assert_eq!(error.kind, HistoryErrorKind::Taken, "{error}");
    archive.verify(&entries[0]).await.unwrap();
    assert_eq!(paths(folder.path()).len(), 2);
}

#[tokio::test]
async fn a_flipped_byte_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path()).await;
    let mut random = Pcg64Mcg::seed_from_u64(3);
    let layout = Layout::new("readings", readings(), Some("at"), &[]).unwrap();
    let mut entries = Vec::new();
    for sequence in 1..=2 {
        let rows = [some(100_000, START_US, START_US + DAY_US, &mut random)];
        entries.extend(archive.write(&layout, &rows, sequence).await.unwrap());
    }
    let path = folder.path().join(&entries[0].path);
    let whole = fs::read(&path).unwrap();
    assert!(entries[0].blocks.len() > 5);
    for _ in 0..50 {
        let mut bytes = whole.clone();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        fs::write(&path, &bytes).unwrap();
        let error = archive.verify(&entries[0]).await.unwrap_err();
        assert_eq!(error.kind, HistoryErrorKind::Damaged);
        let from = at as u64 / entries[0].block_bytes * entries[0].block_bytes;
        let expected = format!("\"{}\" is damaged: bytes {from} to", entries[0].path);
        assert!(error.what.contains(&expected), "{at}: {error}");
        assert!(error.hint.contains("backup"), "{error}");
        // It is not copied into a new file, either.
        let error = archive.compact(&entries, 9).await.unwrap_err();
        assert_eq!(error.kind, HistoryErrorKind::Damaged);
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(
        archive
            .verify(&entries[0])
            .await
            .unwrap_err()
            .what
            .contains("bytes long")
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(
        archive.verify(&entries[0]).await.unwrap_err().kind,
        HistoryErrorKind::Missing
    );
    // Nothing half done is left.
    fs::write(&path, &whole).unwrap();
    archive.verify(&entries[0]).await.unwrap();
    assert_eq!(archive.orphans(&entries).await.unwrap(), Vec::<String>::new());
    let later = FileEntry {
        version: FORMAT_VERSION + 1,
        ..entries[0].clone()
    };
    assert_eq!(
        archive.verify(&later).await.unwrap_err().kind,
        HistoryErrorKind::Version
    );
    assert_eq!(
        archive.compact(&[later], 9).await.unwrap_err().kind,
        HistoryErrorKind::Version
    );
}

#[tokio::test]
async fn a_place_has_one_owner_and_says_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a/b");
    let place = place.to_str().unwrap();
    let failing = async |place: &str, owner: &str| Archive::open(place, owner).await.map(|_| ()).unwrap_err();
    Archive::open(place, "one").await.unwrap();
    Archive::open(&format!("file://{place}"), "one").await.unwrap();
    let error = failing(place, "two").await;
    assert_eq!(error.kind, HistoryErrorKind::Setting);
    assert!(error.what.contains("another deployment"), "{error}");
    fs::write(
        format!("{place}/sangam-history.json"),
        br#"{"version":9,"owner":"one"}"#,
    )
    .unwrap();
    assert_eq!(failing(place, "one").await.kind, HistoryErrorKind::Version);
    fs::write(format!("{place}/sangam-history.json"), b"{").unwrap();
    assert_eq!(failing(place, "one").await.kind, HistoryErrorKind::Damaged);
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    for (place, hint) in [
        ("gs://bucket/x", "s3://bucket/prefix"),
        ("s3://", "s3://bucket/prefix"),
        ("", "Name a folder"),
        (file.to_str().unwrap(), "Name a folder"),
        (file.join("below").to_str().unwrap(), "Name a folder"),
        ("/proc/history", ""),
    ] {
        let error = failing(place, "one").await;
        assert!(error.hint.contains(hint), "{place}: {error}");
        assert!(
            matches!(error.kind, HistoryErrorKind::Setting | HistoryErrorKind::Unavailable),
            "{error}"
        );
    }
}

/// Readings with the columns of raw input: a tick for every second row.
fn raw(rows: &RecordBatch, first_tick: u64) -> RecordBatch {
    let count = rows.num_rows() as u64;
    let mut fields = rows.schema().fields().to_vec();
    let mut columns = rows.columns().to_vec();
    let ticks = UInt64Array::from_iter_values((0..count).map(|row| first_tick + row / 2 * 1_000_000));
    let sequences = UInt64Array::from_iter_values((0..count).map(|row| row % 2));
    let diffs = Int64Array::from_iter_values((0..count).map(|row| if row % 5 == 0 { -1 } else { 1 }));
    for (name, column) in [
        ("__tick", Arc::new(ticks) as ArrayRef),
        ("__seq", Arc::new(sequences)),
        ("__diff", Arc::new(diffs)),
    ] {
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), false)));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[tokio::test]
async fn raw_input_is_replayed_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path()).await;
    let mut random = Pcg64Mcg::seed_from_u64(4);
    let schema = raw(&some(1, 0, 1, &mut random), 0).schema();
    let layout = Layout::new("readings", schema.clone(), Some("at"), &[]).unwrap();
    let (mut all, mut entries) = (Vec::new(), Vec::new());
    for piece in 0..40_u64 {
        // Each piece is two hours of ticks; the times in it lie anywhere.
        let rows = some(2_000, START_US, START_US + 3 * DAY_US, &mut random);
        let rows = raw(&rows, START_US as u64 + piece * 7_200_000_000);
        entries.extend(
            archive
                .write(&layout, std::slice::from_ref(&rows), piece)
                .await
                .unwrap(),
        );
        all.push(rows);
    }
    for (number, group) in plan_compaction(&entries).into_iter().enumerate() {
        let merged = archive.compact(&group, 1_000 + number as u64).await.unwrap();
        assert!(merged.tick_min < merged.tick_max);
        entries.retain(|entry| !group.contains(entry));
        entries.push(merged);
    }
    // Days of ticks, not of what the rows say: a month that is over, and a day that goes on.
    let mut dates: Vec<&str> = entries.iter().map(|entry| entry.date.as_str()).collect();
    dates.dedup();
    assert_eq!(dates, ["2026-12-01", "2026-11"]);
    let expected = concat_batches(&schema, &all).unwrap();
    let cold = archive.cold(&entries);
    let replayed: Vec<RecordBatch> = cold
        .replay(&schema, None, 64 << 20)
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(concat_batches(&schema, &replayed).unwrap(), expected);
    let span = Span {
        column: TICK_COLUMN.into(),
        from_us: expected
            .column(4)
            .as_primitive::<UInt64Type>()
            .value(30_000)
            .try_into()
            .ok(),
        to_us: expected
            .column(4)
            .as_primitive::<UInt64Type>()
            .value(50_000)
            .try_into()
            .ok(),
    };
    let part: Vec<RecordBatch> = cold
        .replay(&schema, Some(&span), 64 << 20)
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(concat_batches(&schema, &part).unwrap(), expected.slice(30_000, 20_000));
    // Who asks for the source's own columns sees no others.
    let plain: Vec<RecordBatch> = cold.stream(&readings(), None).unwrap().try_collect().await.unwrap();
    assert_eq!(plain[0].schema(), readings());
    assert_eq!(plain.iter().map(RecordBatch::num_rows).sum::<usize>(), 80_000);
}
