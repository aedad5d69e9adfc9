use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, TimeUnit, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;

use super::*;
use crate::column::Column;
use crate::sources::Batch;
use crate::sources::ConnectorConfig;

fn columns() -> Vec<Column> {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("Asia/Kolkata".into()));
    vec![
        Column::new(Arc::new(Field::new("station", DataType::Utf8, false))),
        Column::new(Arc::new(Field::new("at", time, false))),
        Column {
            from: Some("pH".to_owned()),
            ..Column::new(Arc::new(Field::new("ph", DataType::Float64, true)))
        },
    ]
}

fn open(directory: &Path, connector: &str, format: &str) -> Result<Box<dyn Reader>, Vec<ConfigError>> {
    let columns = columns();
    let format = toml::from_str(format).unwrap();
    let setting = Setting {
        name: "readings",
        columns: &columns,
        format: &format,
        time_column: Some(1),
        time_zone: "Asia/Kolkata",
        directory,
        start_us: 0,
    };
    let connector: ConnectorConfig = toml::from_str(&format!("type = \"file\"\n{connector}")).unwrap();
    let problems = connector.check(&setting);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(connector.reader(&setting).unwrap().unwrap())
}

/// Reads up to the end, or up to where one has to wait.
fn drain(reader: &mut dyn Reader) -> Result<(Vec<String>, Vec<String>), ReadError> {
    let (mut stations, mut rejected) = (Vec::new(), Vec::new());
    loop {
        match reader.read(0)? {
            Read::Rows(Batch { decoded, .. }) => {
                assert!(decoded.rows.num_rows() <= BATCH_ROWS);
                stations.extend(
                    decoded
                        .rows
                        .column(0)
                        .as_string::<i32>()
                        .iter()
                        .flatten()
                        .map(str::to_owned),
                );
                rejected.extend(decoded.rejected.into_iter().map(|rejected| rejected.raw));
            }
            Read::Wait(_) | Read::End => return Ok((stations, rejected)),
        }
    }
}

fn table(rows: std::ops::Range<usize>) -> String {
    rows.fold("pH,station,at\n".to_owned(), |text, row| {
        text + &format!("7.{row},\"K{row}\",2026-01-01 00:00:00\n")
    })
}

fn names(rows: std::ops::Range<usize>) -> Vec<String> {
    rows.map(|row| format!("K{row}")).collect()
}

#[test]
fn plain_and_compressed_files() {
    let directory = tempfile::tempdir().unwrap();
    let text = table(0..50_000);
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.csv"), &text).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(File::create(path("b.csv.gz")).unwrap(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap();
    fs::write(path("c.csv.zst"), zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    fs::write(path("d.tsv"), text.replace(',', "\t")).unwrap();
    for name in ["a.csv", "b.csv.gz", "c.csv.zst", "d.tsv"] {
        let mut reader = open(directory.path(), &format!("path = \"{name}\""), "").unwrap();
        assert_eq!(drain(reader.as_mut()).unwrap(), (names(0..50_000), vec![]), "{name}");
        assert!(matches!(reader.read(0), Ok(Read::End)));
    }
    let mut reader = open(directory.path(), "path = [\"a.csv\", \"c.csv.zst\"]", "").unwrap();
    assert_eq!(drain(reader.as_mut()).unwrap().0.len(), 100_000);

    // What a damaged archive holds before the damage is read.
    let whole = fs::read(path("b.csv.gz")).unwrap();
    fs::write(path("e.csv.gz"), &whole[..whole.len() / 2]).unwrap();
    let mut reader = open(directory.path(), "path = \"e.csv.gz\"", "").unwrap();
    let mut rows = 0;
    let error = loop {
        match reader.read(0) {
            Ok(Read::Rows(Batch { decoded, .. })) => rows += decoded.rows.num_rows(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(rows > 10_000, "{rows}");
    assert!(error.to_string().contains("could not read on in file"), "{error}");
    assert!(matches!(reader.read(0), Ok(Read::End)));
}

#[test]
fn json_arrays_long_lines_and_latin1_stream() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let rows: Vec<String> = (0..30_000)
        .map(|row| format!("{{\"station\":\"K{row}\",\"at\":\"2026-01-01\",\n\"pH\":[7]}}").replace("[7]", "7"))
        .collect();
    fs::write(path("a.json"), format!("[{}]", rows.join(",\n"))).unwrap();
    let mut reader = open(directory.path(), "path = \"a.json\"", "").unwrap();
    assert_eq!(drain(reader.as_mut()).unwrap(), (names(0..30_000), vec![]));

    let mut text = table(0..5);
    text += &"x".repeat(5 << 20);
    text += "\n7,K5,2026-01-01\n\"";
    text += &"y\n".repeat(1 << 20);
    text += "7,K6,2026-01-01\n";
    fs::write(path("b.csv"), text).unwrap();
    let mut reader = open(directory.path(), "path = \"b.csv\"", "").unwrap();
    let (stations, rejected) = drain(reader.as_mut()).unwrap();
    assert_eq!(stations, names(0..7));
    assert_eq!(rejected.len(), 1 + (1 << 20));
    assert!(rejected.iter().all(|raw| raw.len() <= crate::decoded::RAW_BYTES_MAX));

    // Characters of two bytes lie across every boundary of a chunk.
    let mut mixed = b"station,at\n".to_vec();
    for row in 0..120_000 {
        mixed.extend(if row % 7 == 0 {
            b"K\xe9".as_slice()
        } else {
            "Ké".as_bytes()
        });
        mixed.extend(b",2026-01-01\n");
    }
    fs::write(path("c.csv"), mixed).unwrap();
    let mut reader = open(directory.path(), "path = \"c.csv\"", "encoding = \"latin1\"").unwrap();
    let (stations, rejected) = drain(reader.as_mut()).unwrap();
    assert!(rejected.is_empty() && stations.len() == 120_000);
    assert!(stations.iter().all(|station| station == "Ké"));
}

#[test]
fn follows_a_file_through_growth_cuts_and_replacement() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.csv");
    let mut reader = open(directory.path(), "path = \"a.csv\"\nfollow = true\npoll = \"1ms\"", "").unwrap();
    let mut expect = |rows: std::ops::Range<usize>, bad: &[&str]| {
        let (stations, rejected) = drain(reader.as_mut()).unwrap();
        assert_eq!(stations, names(rows));
        assert_eq!(rejected, bad);
    };
    expect(0..0, &[]);
    let mut file = File::create(&path).unwrap();
    file.write_all(table(0..2).as_bytes()).unwrap();
    expect(0..2, &[]);
    file.write_all(b"7.1,K2,2026-01").unwrap();
    expect(0..0, &[]);
    file.write_all(b"-01\n7.1,K3,2026-01-01\n7,K4").unwrap();
    expect(2..4, &[]);
    // Replaced: the row cut off is refused, the new file has its own header.
    fs::write(directory.path().join("b.csv"), "station,at\nK4,2026-01-01\n").unwrap();
    fs::rename(directory.path().join("b.csv"), &path).unwrap();
    expect(4..5, &["7,K4"]);
    // Cut and written anew, shorter than before.
    fs::write(&path, "at,station\n2026-01-01,K5").unwrap();
    expect(0..0, &[]);
    fs::write(&path, "at,station\n2026-01-01,K5\n").unwrap();
    expect(5..6, &[]);
    fs::remove_file(&path).unwrap();
    expect(0..0, &[]);
}

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_is_cast_to_the_declared_columns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.parquet");
    let day_ms = 86_400_000;
    write_parquet(
        &path,
        vec![
            ("unused", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
            (
                "pH",
                Arc::new(Float32Array::from(vec![Some(7.5), None, Some(1.0), Some(2.0)])),
            ),
            (
                "station",
                Arc::new(StringViewArray::from(vec![Some("K0"), Some("K1"), None, Some("K3")])),
            ),
            (
                "at",
                Arc::new(TimestampMillisecondArray::from(vec![
                    day_ms,
                    2 * day_ms,
                    3 * day_ms,
                    -2 * day_ms,
                ])),
            ),
        ],
    );
    let mut reader = open(directory.path(), "path = \"a.parquet\"", "").unwrap();
    let Read::Rows(Batch { decoded, .. }) = reader.read(0).unwrap() else {
        panic!("no rows")
    };
    assert_eq!(decoded.rows.schema(), crate::column::schema(&columns()));
    let at = decoded.rows.column(1).as_primitive::<TimestampMicrosecondType>();
    // Zoneless, so in the deployment's zone, 5.5 hours ahead.
    assert_eq!(at.value(0), 86_400_000_000 - 19_800_000_000);
    assert_eq!(
        decoded
            .rows
            .column(2)
            .as_primitive::<Float64Type>()
            .iter()
            .collect::<Vec<_>>(),
        [Some(7.5), None]
    );
    let reasons: Vec<_> = decoded
        .rejected
        .iter()
        .map(|rejected| rejected.reason.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "column \"station\": missing, but declared not null",
            "column \"at\": outside the years 1970 to 9999"
        ]
    );
    assert!(
        decoded.rejected[0].raw.contains("station=null"),
        "{}",
        decoded.rejected[0].raw
    );
    assert!(matches!(reader.read(0), Ok(Read::End)));

    // Texts are read with the format's own patterns.
    write_parquet(
        &path,
        vec![
            ("station", Arc::new(Int32Array::from(vec![1, 2]))),
            ("at", Arc::new(StringArray::from(vec!["01/31/2026", "x"]))),
            ("pH", Arc::new(Float64Array::from(vec![1.0, 2.0]))),
        ],
    );
    let mut reader = open(directory.path(), "path = \"a.parquet\"", "timestamp = \"%m/%d/%Y\"").unwrap();
    let (stations, rejected) = drain(reader.as_mut()).unwrap();
    assert_eq!((stations, rejected.len()), (vec!["1".to_owned()], 1));
}

#[test]
fn wrong_files_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.parquet"), "not parquet at all").unwrap();
    let mut reader = open(directory.path(), "path = \"a.parquet\"", "").unwrap();
    let error = reader.read(0).unwrap_err().to_string();
    assert!(error.contains("a.parquet\" as parquet"), "{error}");
    assert!(matches!(reader.read(0), Ok(Read::End)));
    write_parquet(&path("b.parquet"), vec![("other", Arc::new(Int32Array::from(vec![1])))]);
    let error = open(directory.path(), "path = \"b.parquet\"", "")
        .unwrap()
        .read(0)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("none of the declared columns (station, at, pH)"),
        "{error}"
    );
    write_parquet(
        &path("c.parquet"),
        vec![
            ("station", Arc::new(StringArray::from(vec!["K"]))),
            ("at", Arc::new(arrow::array::BooleanArray::from(vec![true]))),
        ],
    );
    let error = open(directory.path(), "path = \"c.parquet\"", "")
        .unwrap()
        .read(0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("column \"at\" has type Boolean"), "{error}");
    fs::write(path("d.csv.zst"), "plain").unwrap();
    assert!(
        open(directory.path(), "path = \"d.csv.zst\"", "")
            .unwrap()
            .read(0)
            .is_err()
    );

    let problem = |connector: &str, format: &str| {
        let problems = open(directory.path(), connector, format).err().unwrap();
        problems
            .iter()
            .map(|problem| format!("{problem} {}", problem.hint.clone().unwrap_or_default()))
            .collect::<String>()
    };
    assert!(problem("path = \"absent.csv\"", "").contains("absent.csv\" is not there"));
    assert!(problem("path = \"a.parquet\"\nfollow = true", "").contains("one plain file"));
    assert!(problem("path = \"d.csv.zst\"\nfollow = true", "").contains("one plain file"));
    assert!(problem("path = []", "").contains("no files"));
    assert!(problem("path = \"d.csv.zst\"\nspeed = 0", "").contains("not a pace"));
    assert!(problem("path = \"a.parquet\"", "delimiter = \";\"").contains("option of csv"));
    assert!(problem("path = \"readings\"", "").contains("does not tell its format"));
}
