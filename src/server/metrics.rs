//! Every metric by name: what it counts, in which unit, under which labels.
//!
//! Names follow Prometheus: base units, counters end in `_total`. The engine and
//! the doors record through the functions here, so that no name is spelled twice.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinHandle;

use dataflows::OperatorStats;
use dataflows::plan::{Operator, Plan};

use super::Server;
use crate::config::ViewKind;
use crate::engine::{Engine, RelationKind};

/// Rows that arrived at a source; labels `source`, `outcome` = accepted, late, rejected.
pub const SOURCE_ROWS: &str = "sangam_source_rows_total";
/// Updates a view has read from other relations; label `view`.
pub const VIEW_ROWS_IN: &str = "sangam_view_rows_in_total";
/// Updates a view has sent on; label `view`.
pub const VIEW_ROWS_OUT: &str = "sangam_view_rows_out_total";
/// Rows now in a source, view or alert; label `relation`.
pub const RELATION_ROWS: &str = "sangam_relation_rows";
/// Rows now absent from a view because an expression fails on them; label `view`.
pub const VIEW_ERRORS: &str = "sangam_view_failing_rows";
/// Whether a view has failed (1) because its key was violated; label `view`.
pub const VIEW_FAILED: &str = "sangam_view_failed";
/// Updates an operator has read; labels `view`, `operator`.
pub const OPERATOR_ROWS_IN: &str = "sangam_operator_rows_in_total";
/// Updates an operator has sent on; labels `view`, `operator`.
pub const OPERATOR_ROWS_OUT: &str = "sangam_operator_rows_out_total";
/// Rows or groups an operator keeps; labels `view`, `operator`.
pub const OPERATOR_STATE_ROWS: &str = "sangam_operator_state_rows";
/// Memory an operator's state holds; labels `view`, `operator`.
pub const OPERATOR_STATE_BYTES: &str = "sangam_operator_state_bytes";
/// Alerts now standing; labels `alert`, `priority`.
pub const ALERTS_STANDING: &str = "sangam_alerts_standing";
/// Ticks that wait to be delivered, net changes of many among them; label `sink`.
pub const SINK_WAITING: &str = "sangam_sink_waiting_ticks";
/// Ticks that gave way to a later one, because too many waited; label `sink`.
pub const SINK_CONFLATED: &str = "sangam_sink_conflated_ticks_total";
/// Ticks completed.
pub const TICKS: &str = "sangam_ticks_total";
/// From the cut of a tick until every view has its answer.
pub const TICK_DURATION: &str = "sangam_tick_duration_seconds";
/// From a row's arrival until a WebSocket has taken the change it made; label `relation`.
pub const DELIVERY_LATENCY: &str = "sangam_delivery_latency_seconds";
/// Open WebSockets.
pub const SOCKETS: &str = "sangam_websockets";
/// Subscriptions of open WebSockets; label `relation`.
pub const SUBSCRIBERS: &str = "sangam_subscribers";
/// Frames written to WebSockets.
pub const FRAMES: &str = "sangam_websocket_frames_total";
/// Bytes of frames written to WebSockets.
pub const FRAME_BYTES: &str = "sangam_websocket_sent_bytes_total";
/// Subscribers sent a fresh snapshot because they had fallen too far behind; label `relation`.
pub const RESNAPSHOTS: &str = "sangam_resnapshots_total";
/// HTTP requests answered; labels `path`, `status`.
pub const REQUESTS: &str = "sangam_http_requests_total";
/// From a query's arrival until its result stands; label `outcome` = ok, error.
pub const QUERY_DURATION: &str = "sangam_query_duration_seconds";
/// Memory of the process that is in use, by the name all of Prometheus' clients give it.
pub const RESIDENT_BYTES: &str = "process_resident_memory_bytes";

/// Upper edges of the latency histograms: the aim is 2 ms at the median, 10 ms at the 99th.
const LATENCY_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// The recorder's end that renders.
pub(super) struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Makes the recorder the process' own, the first time.
    pub(super) fn install() -> anyhow::Result<Self> {
        static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*installed {
            return Ok(Metrics { handle: handle.clone() });
        }
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_SECONDS)
            .context("could not set the buckets of the histograms")?
            .install_recorder()
            .context("could not set up the metrics")?;
        describe();
        *installed = Some(handle.clone());
        Ok(Metrics { handle })
    }

    /// Folds samples into the histograms every few seconds: unfolded they would pile up
    /// while nobody scrapes.
    pub(super) fn upkeep(&self) -> JoinHandle<()> {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                handle.run_upkeep();
            }
        })
    }
}

/// Says once what each metric means.
fn describe() {
    describe_counter!(SOURCE_ROWS, "Rows that arrived at a source, by what became of them.");
    describe_counter!(VIEW_ROWS_IN, "Updates a view has read from other relations.");
    describe_counter!(VIEW_ROWS_OUT, "Updates a view has sent on.");
    describe_gauge!(RELATION_ROWS, "Rows now in a source, view or alert.");
    describe_gauge!(
        VIEW_ERRORS,
        "Rows now absent from a view because an expression fails on them."
    );
    describe_gauge!(VIEW_FAILED, "Whether a view has failed (1): two rows of one key.");
    describe_counter!(OPERATOR_ROWS_IN, "Updates an operator has read.");
    describe_counter!(OPERATOR_ROWS_OUT, "Updates an operator has sent on.");
    describe_gauge!(OPERATOR_STATE_ROWS, "Rows or groups an operator keeps.");
    describe_gauge!(OPERATOR_STATE_BYTES, Unit::Bytes, "Memory an operator's state holds.");
    describe_gauge!(ALERTS_STANDING, "Alerts now standing.");
    describe_gauge!(
        SINK_WAITING,
        "Ticks that wait to be delivered, net changes of many among them."
    );
    describe_counter!(
        SINK_CONFLATED,
        "Ticks that gave way to a later one, because too many waited."
    );
    describe_counter!(TICKS, "Ticks completed.");
    describe_histogram!(
        TICK_DURATION,
        Unit::Seconds,
        "From the cut of a tick until every view has its answer."
    );
    describe_histogram!(
        DELIVERY_LATENCY,
        Unit::Seconds,
        "From a row's arrival until a WebSocket has taken the change it made."
    );
    describe_gauge!(SOCKETS, "Open WebSockets.");
    describe_gauge!(SUBSCRIBERS, "Subscriptions of open WebSockets.");
    describe_counter!(FRAMES, "Frames written to WebSockets.");
    describe_counter!(FRAME_BYTES, Unit::Bytes, "Bytes of frames written to WebSockets.");
    describe_counter!(
        RESNAPSHOTS,
        "Fresh snapshots sent to subscribers that had fallen too far behind."
    );
    describe_counter!(REQUESTS, "HTTP requests answered.");
    describe_histogram!(
        QUERY_DURATION,
        Unit::Seconds,
        "From a query's arrival until its result stands."
    );
    describe_gauge!(RESIDENT_BYTES, Unit::Bytes, "Memory of the process that is in use.");
}

/// Counts one answered request.
pub(super) fn request(path: &str, status: StatusCode) {
    counter!(REQUESTS, "path" => path.to_owned(), "status" => status.as_str().to_owned()).increment(1);
}

/// Records how long a query took.
pub(super) fn query(duration: Duration, ok: bool) {
    histogram!(QUERY_DURATION, "outcome" => if ok { "ok" } else { "error" }).record(duration);
}

pub(super) async fn scrape(State(server): State<Arc<Server>>) -> impl IntoResponse {
    // Of a recorder of its own: what was dropped since the last scrape is in it no more.
    let sampled = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&sampled, || {
        describe();
        sample(&server.engine);
    });
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        server.metrics.handle.render() + &sampled.handle().render(),
    )
}

/// Copies what the engine counts for itself. It costs the engine nothing between scrapes.
fn sample(engine: &Engine) {
    for source in engine.sources() {
        for (outcome, rows) in [
            ("accepted", source.accepted),
            ("late", source.late),
            ("rejected", source.rejected),
        ] {
            counter!(SOURCE_ROWS, "source" => source.source.clone(), "outcome" => outcome).absolute(rows);
        }
    }
    for relation in engine.relations() {
        let name = &relation.name;
        gauge!(RELATION_ROWS, "relation" => name.clone()).set(engine.rows(name) as f64);
        if relation.kind != RelationKind::Source {
            gauge!(VIEW_ERRORS, "view" => name.clone()).set(engine.errors(name) as f64);
            gauge!(VIEW_FAILED, "view" => name.clone()).set(f64::from(engine.failed(name).is_some()));
        }
    }
    for definition in &engine.deployment().views {
        let view = &definition.view.name;
        if let ViewKind::Alert { priority } = definition.kind {
            gauge!(ALERTS_STANDING, "alert" => view.clone(), "priority" => priority.as_str())
                .set(engine.standing(view) as f64);
        }
    }
    for sink in engine.sinks() {
        gauge!(SINK_WAITING, "sink" => sink.sink.clone()).set(sink.waiting as f64);
        counter!(SINK_CONFLATED, "sink" => sink.sink).absolute(sink.conflated);
    }
    let operators = engine.operators();
    for (view, plan) in &engine.plans() {
        let own: Vec<&OperatorStats> = operators
            .iter()
            .filter(|operator| operator.view == *view)
            .map(|operator| &operator.stats)
            .collect();
        for stats in &own {
            let labels = [("view", view.clone()), ("operator", stats.name.clone())];
            counter!(OPERATOR_ROWS_IN, &labels).absolute(stats.rows_in);
            counter!(OPERATOR_ROWS_OUT, &labels).absolute(stats.rows_out);
            gauge!(OPERATOR_STATE_ROWS, &labels).set(stats.state_rows as f64);
            gauge!(OPERATOR_STATE_BYTES, &labels).set(stats.state_bytes as f64);
        }
        let rows_in = own
            .iter()
            .filter(|stats| reads(plan, &own, &stats.name))
            .map(|stats| stats.rows_in);
        counter!(VIEW_ROWS_IN, "view" => view.clone()).absolute(rows_in.sum());
        // The last operator hands the view's updates over.
        counter!(VIEW_ROWS_OUT, "view" => view.clone()).absolute(own.last().map_or(0, |last| last.rows_in));
    }
    if let Some(bytes) = resident_bytes() {
        gauge!(RESIDENT_BYTES).set(bytes);
    }
}

/// Tells whether an operator, known by its node's number and kind, reads another relation.
fn reads(plan: &Plan, own: &[&OperatorStats], operator: &str) -> bool {
    let Some(node) = number(operator).and_then(|node| plan.nodes.get(node)) else {
        return false;
    };
    let mut below = node.inputs.clone();
    while let Some(input) = below.pop() {
        match &plan.nodes[input].operator {
            Operator::Get { .. } => return true,
            // A node without counts of its own is part of the operator above it.
            _ if own.iter().all(|stats| number(&stats.name) != Some(input)) => {
                below.extend(&plan.nodes[input].inputs);
            }
            _ => {}
        }
    }
    false
}

/// Returns the number of the node that an operator is named by.
fn number(operator: &str) -> Option<usize> {
    operator.split(' ').next()?.parse().ok()
}

/// Reads the resident memory where the system tells it (Linux).
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            counter!(SOURCE_ROWS, "source" => "readings", "outcome" => "accepted").increment(3);
            request("/sql", StatusCode::OK);
        });
        let text = handle.render();
        assert!(
            text.contains("# HELP sangam_source_rows_total Rows that arrived"),
            "{text}"
        );
        assert!(
            text.contains("sangam_source_rows_total{source=\"readings\",outcome=\"accepted\"} 3"),
            "{text}"
        );
        for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
            let mut words = line.split(' ').skip(2);
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        }
    }
}
