//! Decoders made once and used again: building one costs more than decoding a small body.

use std::sync::Mutex;

use axum::http::StatusCode;
use connectors::{Column, Decoded, Decoder, FormatConfig, FormatKind};

use crate::config::Source;
use crate::engine::Operation;
use crate::server::error::ApiError;

/// Decoders kept for each source and format.
const IDLE_MAX: usize = 8;

/// The decoders of one source.
pub(super) struct Decoders {
    time_zone: String,
    declared: Option<FormatKind>,
    /// For rows that come in, or are taken back whole.
    whole: Pools,
    /// For deletions by key: rows need have no other columns.
    keys: Option<Pools>,
}

struct Pools {
    columns: Vec<Column>,
    json: Pool,
    csv: Pool,
}

struct Pool {
    format: FormatConfig,
    idle: Mutex<Vec<Decoder>>,
}

/// Tells JSON from CSV by the first character.
pub(super) fn detect(body: &[u8]) -> FormatKind {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[') | None => FormatKind::Json,
        Some(_) => FormatKind::Csv,
    }
}

impl Decoders {
    pub(super) fn new(source: &Source, time_zone: &str) -> Self {
        let pool = |kind| Pool {
            format: source.format.with_kind(kind),
            idle: Mutex::new(Vec::new()),
        };
        let pools = |columns| Pools {
            columns,
            json: pool(FormatKind::Json),
            csv: pool(FormatKind::Csv),
        };
        let keys = source.key.as_ref().map(|key| {
            let columns = key.iter().map(|&column| source.columns[column].clone());
            pools(columns.collect())
        });
        Decoders {
            time_zone: time_zone.to_owned(),
            declared: source.format.kind.filter(|kind| *kind != FormatKind::Parquet),
            whole: pools(source.columns.clone()),
            keys,
        }
    }

    /// Returns the format the source declares, if it does and a body can have it.
    pub(super) fn declared(&self) -> Option<FormatKind> {
        self.declared
    }

    /// Decodes a whole body.
    pub(super) fn decode(&self, kind: FormatKind, operation: Operation, body: &[u8]) -> Result<Decoded, ApiError> {
        let pools = match (&self.keys, operation) {
            (Some(keys), Operation::Delete) => keys,
            _ => &self.whole,
        };
        let pool = if kind == FormatKind::Csv {
            &pools.csv
        } else {
            &pools.json
        };
        let idle = pool.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder::new(&pool.format, &pools.columns, &self.time_zone)
                .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "no_decoder", error.to_string()))?,
        };
        let decoded = decoder.decode(body);
        if let Ok(mut idle) = pool.idle.lock()
            && idle.len() < IDLE_MAX
        {
            idle.push(decoder);
        }
        Ok(decoded)
    }
}
