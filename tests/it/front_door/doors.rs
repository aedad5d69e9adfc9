//! The other doors: what there is, whether it is well, the figures, the page.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::shop::shop;
use crate::program::Program;

#[test]
fn views_tell_what_there_is() {
    let dir = shop();
    let program = Program::start(dir.path());
    assert_eq!(program.get("/healthz").status, 200);
    assert_eq!(program.get("/readyz").status, 200);
    let views = program.get("/views").json();
    let list = views["views"].as_array().expect("a list");
    let of = |name: &str| {
        list.iter()
            .find(|view| view["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {views}"))
    };
    assert_eq!(
        (&of("orders")["kind"], &of("orders")["key"]),
        (&json!("source"), &json!(null))
    );
    assert_eq!(
        (&of("popular")["kind"], &of("popular")["priority"]),
        (&json!("alert"), &json!("high"))
    );
    assert_eq!(of("totals")["key"], json!(["product"]), "a group by implies a key");
    assert_eq!(
        of("products")["columns"][1],
        json!({"name": "price", "type": "decimal(12,2)", "nullable": true})
    );
    assert!(
        of("busy")["sql"]
            .as_str()
            .is_some_and(|sql| sql.starts_with("SELECT product"))
    );
    assert_eq!(of("busy")["inputs"], json!(["totals"]));
    assert_eq!(list.len(), 17);
    program.ingest("visits", r#"{"page":"/","seconds":1,"at":"2026-03-01T10:00:00Z"}"#);
    assert_eq!(program.number("SELECT rows FROM sangam.views WHERE name = 'recent'"), 1);

    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/sql", 405),
        ("DELETE", "/views", 405),
        ("GET", "/ws", 426),
    ] {
        let reply = program.request(method, path, &[], b"");
        assert_eq!(reply.refusal().0, status, "{method} {path}: {}", reply.text());
        assert!(reply.json()["error"]["hint"].is_string(), "no hint: {}", reply.text());
    }
    let page = program.get("/");
    assert_eq!(page.status, 200);
    assert!(
        page.headers["content-type"]
            .to_str()
            .is_ok_and(|kind| kind.starts_with("text/html"))
    );
    assert!(
        page.text().contains("/ws") && page.text().contains("<script"),
        "the page shows nothing live"
    );
    assert!(!page.text().contains("https://"), "the page fetches from elsewhere");
    program.stop();
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let dir = shop();
    let program = Program::start(dir.path());
    let mut live = program.live();
    live.subscribe("recent");
    let rows = r#"{"page":"/","seconds":1,"at":"2026-03-01T10:00:00Z"}"#;
    program.ingest("visits", format!("{rows}\n{rows}\nbroken\n"));
    let late = program.ingest("visits", r#"{"page":"/","seconds":1,"at":"2026-03-01T09:00:00Z"}"#);
    assert_eq!(late["late"], 1);
    program.ingest(
        "orders",
        r#"{"id":1,"quantity":0,"cents":5,"at":"2026-03-01T10:00:00Z"}"#,
    );
    let reply = program.ingest("visits", rows);
    live.reach(reply["tick"].as_u64().expect("a tick"));
    assert_eq!(program.query("SELECT nothing", "*/*").status, 400);
    for path in ["/secret-7", "/ingest/unknown-7"] {
        assert!(program.get(path).status >= 400);
    }
    let mut text = String::new();
    program.until("every figure is there", || {
        text = program.get("/metrics").text().to_owned();
        text.contains("sangam_source_rows_total{source=\"visits\",outcome=\"accepted\"} 3")
    });
    let samples = exposition(&text);
    let value = |series: &str| *samples.get(series).unwrap_or_else(|| panic!("no {series} in\n{text}"));
    for (series, expected) in [
        ("sangam_source_rows_total{source=\"visits\",outcome=\"late\"}", 1.0),
        ("sangam_source_rows_total{source=\"visits\",outcome=\"rejected\"}", 1.0),
        ("sangam_relation_rows{relation=\"visits\"}", 3.0),
        ("sangam_relation_rows{relation=\"recent\"}", 1.0),
        ("sangam_view_failing_rows{view=\"unit\"}", 1.0),
        ("sangam_subscribers{relation=\"recent\"}", 1.0),
        ("sangam_websockets", 1.0),
        ("sangam_http_requests_total{path=\"/sql\",status=\"400\"}", 1.0),
        ("sangam_http_requests_total{path=\"unknown\",status=\"404\"}", 1.0),
    ] {
        assert_eq!(value(series), expected, "{series}");
    }
    assert!(value("sangam_ticks_total") >= 3.0);
    assert!(value("sangam_tick_duration_seconds_count") >= 3.0);
    assert!(value("sangam_delivery_latency_seconds_count{relation=\"recent\"}") >= 1.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    for start in [
        "sangam_view_rows_in_total{view=\"recent\"",
        "sangam_operator_state_bytes{view=\"recent\",operator=",
    ] {
        assert!(
            samples.keys().any(|series| series.starts_with(start)),
            "no {start} in\n{text}"
        );
    }
    assert!(
        !text.contains("secret-7") && !text.contains("unknown-7"),
        "paths as sent grow the metrics without bound"
    );
    program.stop();
}

/// Reads the text format of Prometheus; panics where it breaks the format.
fn exposition(text: &str) -> BTreeMap<String, f64> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut closed: BTreeSet<&str> = BTreeSet::new();
    let mut family = "";
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next().expect("a word"), words.next().expect("a name"));
            assert!(words.next().is_some_and(|rest| !rest.is_empty()), "{line}");
            if name != family {
                assert!(closed.insert(name), "{name} comes in two places");
                family = name;
            }
            if kind == "TYPE" {
                let kind = line.rsplit(' ').next().expect("a type");
                assert!(matches!(kind, "counter" | "gauge" | "histogram" | "summary"), "{line}");
                assert!(types.insert(name, kind).is_none(), "{name} has two types");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number in {line}"));
        let name = series.split('{').next().expect("a name");
        assert!(
            name.chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'),
            "{line}"
        );
        let of = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .filter(|of| types.contains_key(of));
        assert!(types.contains_key(of.unwrap_or(name)), "{name} has no type");
        assert_eq!(of.unwrap_or(name), family, "{name} stands among others");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            labelled(labels);
        }
        assert!(
            samples.insert(series.to_owned(), value).is_none(),
            "{series} comes twice"
        );
    }
    buckets_rise(&samples);
    samples
}

fn labelled(labels: &str) {
    let mut rest = labels
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or_else(|| panic!("{labels}"));
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(
            name.chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_'),
            "{labels}"
        );
        let mut escaped = false;
        let end = value.char_indices().find(|(_, letter)| {
            let ends = *letter == '"' && !escaped;
            escaped = *letter == '\\' && !escaped;
            ends
        });
        let (end, _) = end.unwrap_or_else(|| panic!("an open label in {labels}"));
        rest = value[end + 1..].trim_start_matches(',');
    }
}

/// In a histogram, buckets count what is below their edge, and the last has all.
fn buckets_rise(samples: &BTreeMap<String, f64>) {
    let mut histograms: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, count) in samples {
        let Some((before, edge)) = series.split_once("le=\"") else {
            continue;
        };
        let (edge, after) = edge.split_once('"').expect("a label ends");
        let edge = if edge == "+Inf" {
            f64::INFINITY
        } else {
            edge.parse().expect("an edge")
        };
        let labels = format!("{before}{after}")
            .replace("_bucket", "_count")
            .replace(",}", "}")
            .replace("{}", "");
        histograms.entry(labels).or_default().push((edge, *count));
    }
    assert!(!histograms.is_empty(), "no histogram");
    for (name, mut buckets) in histograms {
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        assert!(
            buckets.is_sorted_by(|left, right| left.1 <= right.1),
            "{name}: {buckets:?}"
        );
        let (edge, count) = buckets.last().expect("a bucket");
        assert!(
            edge.is_infinite() && samples.get(&name) == Some(count),
            "{name}: {buckets:?}"
        );
    }
}
