//! History in a bucket: what `history` promises of a folder, over S3.
//!
//! Keys and endpoint of a bucket come from the environment, and a process has but one: each
//! test starts a server and then itself again, with the environment set.

pub(crate) mod bucket;

use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use queries::{Catalog, Relation, Relations, SourceRelation};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use sangam::history::{Archive, FileEntry, HistoryError, HistoryErrorKind, Layout, expired, plan_compaction};

use bucket::Server;

/// Set in the process that does what the test is about.
const INSIDE: &str = "SANGAM_TEST_BUCKET";
const DAY_US: i64 = 86_400_000_000;
/// 2026-11-28T00:00:00Z.
const START_US: i64 = 1_795_824_000_000_000;

/// Runs a test again, inside, with these variables; says whether this is the inside.
fn inside(test: &str, variables: impl FnOnce(&Server) -> Vec<(&'static str, String)>) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let Some(server) = Server::start() else { return false };
    let told = Command::new(std::env::current_exe().expect("this test"))
        .args([&format!("history::{test}"), "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .env("AWS_REGION", "eu-central-1")
        .envs(variables(&server))
        .output()
        .expect("this test again");
    let said = [told.stdout, told.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(
        told.status.success() && said[0].contains("1 passed"),
        "{}\n{}",
        said[0],
        said[1]
    );
    false
}

/// The environment of a deployment whose bucket is there.
fn usual(server: &Server) -> Vec<(&'static str, String)> {
    server.make_bucket("sangam");
    vec![
        ("AWS_ENDPOINT_URL", format!("http://{}", server.address)),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
    ]
}

fn schema() -> SchemaRef {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("Asia/Kolkata".into()));
    Arc::new(Schema::new(vec![
        Field::new("station", DataType::Utf8, false),
        Field::new("at", at, false),
        Field::new("ph", DataType::Float64, true),
    ]))
}

/// Rows of a day: with `noise`, of values that nothing can compress.
fn rows(count: usize, day: i64, noise: bool, random: &mut Pcg64) -> RecordBatch {
    let stations = StringArray::from_iter_values((0..count).map(|_| format!("s{}", random.random_range(0..50))));
    let times = (0..count).map(|_| START_US + day * DAY_US + random.random_range(0..DAY_US));
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("Asia/Kolkata");
    let values: Float64Array = (0..count)
        .map(|_| {
            let value = f64::from(random.random_range(0..1_400)) / 100.0;
            Some(if noise { random.random() } else { value })
        })
        .collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(stations), Arc::new(times), Arc::new(values)];
    RecordBatch::try_new(schema(), columns).expect("rows")
}

async fn ask(sql: &str, relation: Relation) -> Result<String, String> {
    let mut catalog = Catalog::new("Asia/Kolkata").expect("a zone");
    let readings = SourceRelation {
        name: "readings".into(),
        schema: schema(),
        append_only: true,
        key: None,
        retain_us: None,
        expires_after_us: None,
        time_column: None,
        lateness_us: None,
    };
    catalog.add_source(readings).expect("a source");
    let query = catalog.plan_query(sql).expect("a query");
    let relations = Relations::from([("readings".to_owned(), relation)]);
    let answer = catalog.run_query(&query, &relations, START_US as u64, 256 << 20).await;
    let (_, batches) = answer.map_err(|error| error.to_string())?;
    let text = pretty_format_batches(&batches).expect("a table").to_string();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_history() {
    if !inside("a_bucket_holds_history", usual) {
        return;
    }
    let mut random = Pcg64::seed_from_u64(1);
    let archive = Archive::open("s3://sangam/a/b/", "me").await.expect("an archive");
    let layout = Layout::new("readings", schema(), Some("at"), &["station".to_owned()]).expect("a layout");
    let (mut all, mut entries, mut sequence) = (Vec::new(), Vec::<FileEntry>::new(), 0);
    for day in 0..4 {
        for _ in 0..10 {
            let rows = rows(1_000, day, false, &mut random);
            sequence += 1;
            entries.extend(
                archive
                    .write(&layout, std::slice::from_ref(&rows), sequence)
                    .await
                    .expect("written"),
            );
            all.push(rows);
        }
    }
    let unnamed = archive.write(&layout, &all[..1], 900).await.expect("written");
    let groups = plan_compaction(&entries);
    // The month that is over, and eight of the ten files of the day that goes on.
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [30, 10]);
    for group in groups {
        sequence += 1;
        let merged = archive.compact(&group, sequence).await.expect("merged");
        entries.retain(|entry| !group.contains(entry));
        entries.push(merged);
        let gone: Vec<String> = group.into_iter().map(|entry| entry.path).collect();
        archive.remove(&gone).await.expect("removed");
    }
    let orphans = archive.orphans(&entries).await.expect("a list");
    assert_eq!(orphans, [unnamed[0].path.clone()]);
    archive.remove(&orphans).await.expect("removed");
    assert!(archive.orphans(&entries).await.expect("a list").is_empty());
    for gone in expired(&entries, START_US + 3 * DAY_US) {
        entries.retain(|entry| *entry != gone);
        archive.remove(&[&gone.path]).await.expect("removed");
        all.drain(..30);
    }
    assert_eq!(all.len(), 10);
    // A program that starts anew knows its manifest, and nothing else.
    let archive = Archive::open("s3://sangam/a/b", "me").await.expect("an archive");
    for entry in &entries {
        archive.verify(entry).await.expect("sound");
    }
    for sql in [
        "SELECT * FROM readings",
        "SELECT station, count(*), avg(ph) FROM readings GROUP BY station",
        "SELECT * FROM readings WHERE station = 's7' AND at < TIMESTAMP '2026-12-01 12:00:00'",
        "SELECT max(at) FROM readings WHERE ph > 13.9",
    ] {
        let cold = Relation {
            schema: schema(),
            batches: Vec::new(),
            cold: Some(archive.cold(&entries)),
        };
        let expected = ask(sql, (schema(), all.clone()).into()).await;
        assert_eq!(ask(sql, cold).await, expected, "{sql}");
    }
    let error = Archive::open("s3://sangam/a/b", "another").await.expect_err("an owner");
    assert!(error.what.contains("another deployment"), "{error}");
    // Another prefix is another place.
    Archive::open("s3://sangam/a/c", "another").await.expect("an archive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_to_a_bucket_in_parts() {
    if !inside("a_large_file_goes_to_a_bucket_in_parts", usual) {
        return;
    }
    let mut random = Pcg64::seed_from_u64(2);
    let archive = Archive::open("s3://sangam", "me").await.expect("an archive");
    let layout = Layout::new("readings", schema(), Some("at"), &[]).expect("a layout");
    let rows = rows(1_500_000, 0, true, &mut random);
    let entries = archive
        .write(&layout, std::slice::from_ref(&rows), 1)
        .await
        .expect("written");
    assert!(entries[0].bytes > 12 << 20, "{} bytes", entries[0].bytes);
    archive.verify(&entries[0]).await.expect("sound");
    let error = archive
        .write(&layout, std::slice::from_ref(&rows), 1)
        .await
        .expect_err("taken");
    assert_eq!(error.kind, HistoryErrorKind::Taken, "{error}");
    archive.verify(&entries[0]).await.expect("sound still");
    let small = [rows.slice(0, 10)];
    let few = archive.write(&layout, &small, 2).await.expect("written");
    assert_eq!(
        archive.write(&layout, &small, 2).await.expect_err("taken").kind,
        HistoryErrorKind::Taken
    );
    let merged = archive
        .compact(&[entries[0].clone(), few[0].clone()], 3)
        .await
        .expect("merged");
    assert_eq!(merged.rows, 1_500_010);
    let relation = Relation {
        schema: schema(),
        batches: Vec::new(),
        cold: Some(archive.cold([&merged])),
    };
    let sum = |rows: &RecordBatch| arrow::compute::sum(rows.column(2).as_primitive::<Float64Type>());
    let expected = sum(&rows)
        .zip(sum(&small[0]))
        .map_or(0.0, |(all, few)| (all + few).round());
    let found = ask(
        "SELECT count(*), CAST(round(sum(ph)) AS BIGINT) FROM readings",
        relation,
    )
    .await
    .expect("an answer");
    assert!(
        found.contains("1500010") && found.contains(&format!(" {expected} ")),
        "{found}, {expected}"
    );
    archive.remove(&[&entries[0].path]).await.expect("removed");
    let error = archive.verify(&entries[0]).await.expect_err("gone");
    assert_eq!(error.kind, HistoryErrorKind::Missing);
    let gone = Relation {
        schema: schema(),
        batches: Vec::new(),
        cold: Some(archive.cold([&entries[0]])),
    };
    let error = ask("SELECT count(ph) FROM readings", gone).await.expect_err("gone");
    assert!(error.contains("is missing"), "{error}");
}

async fn refused(place: &str) -> HistoryError {
    Archive::open(place, "me").await.map(|_| ()).expect_err("refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_told() {
    if !inside("a_bucket_that_is_not_there_is_told", usual) {
        return;
    }
    let error = refused("s3://elsewhere/x").await;
    assert_eq!(error.kind, HistoryErrorKind::Setting);
    assert!(error.what.contains("there is no such bucket"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_is_told() {
    let variables = |server: &Server| {
        let usual = usual(server);
        server.refuse_all();
        usual
    };
    if !inside("a_key_that_may_not_is_told", variables) {
        return;
    }
    let error = refused("s3://sangam/x").await;
    assert_eq!(error.kind, HistoryErrorKind::Setting, "{error}");
    assert!(error.hint.contains("AWS_ACCESS_KEY_ID"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_has_to_be_allowed() {
    let variables = |server: &Server| {
        let mut usual = usual(server);
        usual.retain(|(name, _)| *name != "AWS_ALLOW_HTTP");
        usual
    };
    if !inside("plain_http_has_to_be_allowed", variables) {
        return;
    }
    let error = refused("s3://sangam/x").await;
    assert_eq!(error.kind, HistoryErrorKind::Setting, "{error}");
    assert!(error.hint.contains("AWS_ALLOW_HTTP=true"), "{error}");
}
