//! Decoders made once and used again: building one costs more than decoding a small body.

use std::sync::Mutex;

use axum::http::StatusCode;
use connectors::{Column, Decoded, Decoder, FormatConfig, FormatKind};

use crate::config::Source;
use crate::server::error::ApiError;

/// Decoders kept for each source and format.
const IDLE_MAX: usize = 8;

/// The decoders of one source.
pub(super) struct Decoders {
    columns: Vec<Column>,
    time_zone: String,
    declared: Option<FormatKind>,
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
        Decoders {
            columns: source.columns.clone(),
            time_zone: time_zone.to_owned(),
            declared: source.format.kind.filter(|kind| *kind != FormatKind::Parquet),
            json: pool(FormatKind::Json),
            csv: pool(FormatKind::Csv),
        }
    }

    /// Returns the format the source declares, if it does and a body can have it.
    pub(super) fn declared(&self) -> Option<FormatKind> {
        self.declared
    }

    /// Decodes a whole body.
    pub(super) fn decode(&self, kind: FormatKind, body: &[u8]) -> Result<Decoded, ApiError> {
        let pool = if kind == FormatKind::Csv { &self.csv } else { &self.json };
        let idle = pool.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder::new(&pool.format, &self.columns, &self.time_zone)
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
