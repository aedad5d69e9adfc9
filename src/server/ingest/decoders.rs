//! Decoders made once and used again: building one costs more than decoding a small body.

use std::sync::Mutex;

use arrow::datatypes::SchemaRef;
use axum::http::StatusCode;
use connectors::{Column, Decoded, Decoder, FormatConfig};

use crate::config::Source;
use crate::server::error::ApiError;

/// Decoders kept for each source and shape.
const IDLE_MAX: usize = 8;

/// How the rows of a body are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// NDJSON or one JSON array.
    Json,
    /// CSV with a header line.
    Csv,
}

/// The decoders of one source.
pub(super) struct Decoders {
    columns: Vec<Column>,
    time_zone: String,
    declared: Option<Shape>,
    json: Pool,
    csv: Pool,
}

struct Pool {
    format: FormatConfig,
    idle: Mutex<Vec<Decoder>>,
}

impl Shape {
    /// Tells JSON from CSV by the first character.
    pub(super) fn detect(body: &[u8]) -> Self {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{' | b'[') | None => Shape::Json,
            Some(_) => Shape::Csv,
        }
    }
}

impl Decoders {
    pub(super) fn new(source: &Source, time_zone: &str) -> Self {
        let declared = match &source.format {
            FormatConfig::Json(_) => None,
            FormatConfig::Csv(_) => Some(Shape::Csv),
            FormatConfig::Parquet(_) => None,
        };
        // The declared options hold for bodies of the declared shape; the other shape is plain.
        let pool = |shape: Shape, plain: FormatConfig| Pool {
            format: if declared == Some(shape) { source.format.clone() } else { plain },
            idle: Mutex::new(Vec::new()),
        };
        Decoders {
            columns: source.columns.clone(),
            time_zone: time_zone.to_owned(),
            declared,
            json: pool(Shape::Json, FormatConfig::json()),
            csv: pool(Shape::Csv, FormatConfig::csv()),
        }
    }

    /// Returns the declared shape, where it leaves no doubt.
    pub(super) fn declared(&self) -> Option<Shape> {
        self.declared
    }

    /// Decodes a whole body.
    pub(super) fn decode(&self, shape: Shape, body: &[u8]) -> Result<Decoded, ApiError> {
        let pool = match shape {
            Shape::Json => &self.json,
            Shape::Csv => &self.csv,
        };
        let idle = pool.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder::new(&pool.format, &self.columns, &self.time_zone).map_err(|error| {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "no_decoder", error.to_string())
            })?,
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
