//! The forms a query's answer takes, chosen by the Accept header.

use std::convert::Infallible;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dataflows::Tick;
use dataflows::json::RowEncoder;
use futures_util::stream;

use super::csv;
use crate::server::error::ApiError;

/// Rows encoded at a time: the text of a large result never stands in memory as a whole.
const CHUNK_ROWS: usize = 4096;

/// How rows are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// An array of objects.
    Json,
    /// A header line and a line a row.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

const FORMATS: &[(&str, Format)] = &[
    ("application/json", Format::Json),
    ("text/csv", Format::Csv),
    ("application/vnd.apache.arrow.stream", Format::Arrow),
];

impl Format {
    /// Chooses what the client likes best; JSON when it does not say.
    pub(super) fn negotiate(headers: &HeaderMap) -> Result<Self, ApiError> {
        let accepted: Vec<&str> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let accepted = accepted.join(",");
        if accepted.trim().is_empty() {
            return Ok(Format::Json);
        }
        FORMATS
            .iter()
            .map(|(name, format)| (liking(&accepted, name), *format))
            .filter(|(liking, _)| *liking > 0)
            // The first of equals: JSON before CSV before Arrow.
            .rev()
            .max_by_key(|(liking, _)| *liking)
            .map(|(_, format)| format)
            .ok_or_else(|| {
                let names: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
                ApiError::new(
                    StatusCode::NOT_ACCEPTABLE,
                    "not_acceptable",
                    format!("cannot answer as {accepted}"),
                )
                .hint(format!("Accept one of: {}.", names.join(", ")))
            })
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    pub(super) fn response(self, tick: Tick, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Response {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let chunks = self.chunks(schema, batches);
        let body = if rows <= CHUNK_ROWS {
            let mut whole = Vec::new();
            for chunk in chunks {
                whole.extend_from_slice(&chunk);
            }
            Body::from(whole)
        } else {
            Body::from_stream(stream::iter(chunks.map(Ok::<Bytes, Infallible>)))
        };
        let headers = [
            (header::CONTENT_TYPE, self.content_type().to_owned()),
            (HeaderName::from_static("x-sangam-tick"), tick.to_string()),
        ];
        (headers, body).into_response()
    }

    fn chunks(self, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Box<dyn Iterator<Item = Bytes> + Send> {
        let slices = batches.into_iter().flat_map(|batch| {
            (0..batch.num_rows())
                .step_by(CHUNK_ROWS)
                .map(|start| batch.slice(start, CHUNK_ROWS.min(batch.num_rows() - start)))
                .collect::<Vec<_>>()
        });
        match self {
            Format::Json => {
                let encoder = RowEncoder::new(schema);
                let mut separator = b'[';
                let rows = slices.map(move |slice| {
                    let mut out = vec![std::mem::replace(&mut separator, b',')];
                    encoder.objects(&slice, &mut out);
                    Some(out)
                });
                // The opening bracket is still owed when there were no rows.
                let mut any = false;
                Box::new(rows.chain([None]).map(move |chunk| match chunk {
                    Some(chunk) => {
                        any = true;
                        chunk.into()
                    }
                    None if any => Bytes::from_static(b"]\n"),
                    None => Bytes::from_static(b"[]\n"),
                }))
            }
            Format::Csv => {
                let encoder = RowEncoder::new(schema);
                let header = csv::header(schema);
                Box::new(
                    [header.into()]
                        .into_iter()
                        .chain(slices.map(move |slice| csv::lines(&encoder, &slice).into())),
                )
            }
            Format::Arrow => {
                let Ok(mut writer) = StreamWriter::try_new(Vec::new(), schema) else {
                    return Box::new(std::iter::empty());
                };
                Box::new(slices.map(Some).chain([None]).map(move |slice| {
                    // Writing into memory fails only for a schema that is not its batches'.
                    let written = match slice {
                        Some(slice) => writer.write(&slice),
                        None => writer.finish(),
                    };
                    if let Err(error) = written {
                        tracing::error!(%error, "could not encode a result as arrow");
                    }
                    std::mem::take(writer.get_mut()).into()
                }))
            }
        }
    }
}

/// Returns how much an Accept header likes a media type, in thousandths.
fn liking(accepted: &str, name: &str) -> u32 {
    let kind = name.split('/').next().unwrap_or_default();
    accepted
        .split(',')
        .filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let range = parts.next()?.to_ascii_lowercase();
            let exactness = match range.as_str() {
                range if range == name => 3,
                "*/*" => 1,
                range if range.strip_suffix("/*") == Some(kind) => 2,
                _ => return None,
            };
            let quality = parts
                .find_map(|parameter| parameter.strip_prefix("q=")?.trim().parse::<f64>().ok())
                .unwrap_or(1.0)
                .clamp(0.0, 1.0);
            Some((exactness, (quality * 1000.0) as u32))
        })
        // The most exact range decides, also when it says no.
        .max_by_key(|(exactness, _)| *exactness)
        .map_or(0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::ipc::reader::StreamReader;

    use super::*;

    fn chosen(accept: &'static str) -> Option<Format> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        Format::negotiate(&headers).ok()
    }

    #[test]
    fn the_client_chooses() {
        assert_eq!(Format::negotiate(&HeaderMap::new()).unwrap(), Format::Json);
        assert_eq!(chosen("*/*"), Some(Format::Json));
        assert_eq!(chosen("text/csv"), Some(Format::Csv));
        assert_eq!(chosen("text/*;q=0.5, application/json;q=0.1"), Some(Format::Csv));
        assert_eq!(
            chosen("application/vnd.apache.arrow.stream, */*;q=0.1"),
            Some(Format::Arrow)
        );
        assert_eq!(chosen("text/html,application/xhtml+xml,*/*;q=0.8"), Some(Format::Json));
        assert_eq!(chosen("application/json;q=0, */*"), Some(Format::Csv));
        assert_eq!(chosen("image/png"), None);
    }

    fn batch(count: i64) -> RecordBatch {
        let names: StringArray = (0..count).map(|n| Some(format!("n,{n}"))).collect();
        RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from_iter_values(0..count)) as _),
            ("name", Arc::new(names) as _),
        ])
        .unwrap()
    }

    fn text(format: Format, batch: &RecordBatch) -> Vec<u8> {
        format
            .chunks(&batch.schema(), vec![batch.clone()])
            .fold(Vec::new(), |mut all, chunk| {
                all.extend_from_slice(&chunk);
                all
            })
    }

    #[test]
    fn results_are_whole_in_every_form() {
        assert_eq!(text(Format::Json, &batch(0)), b"[]\n");
        assert_eq!(
            text(Format::Json, &batch(2)),
            b"[{\"n\":0,\"name\":\"n,0\"},{\"n\":1,\"name\":\"n,1\"}]\n"
        );
        assert_eq!(text(Format::Csv, &batch(0)), b"n,name\n");
        assert_eq!(text(Format::Csv, &batch(1)), b"n,name\n0,\"n,0\"\n");
        for count in [0, 1, CHUNK_ROWS as i64 * 2 + 1] {
            let batch = batch(count);
            let parsed: Vec<serde_json::Value> = serde_json::from_slice(&text(Format::Json, &batch)).unwrap();
            assert_eq!(parsed.len(), count as usize);
            let arrow = text(Format::Arrow, &batch);
            let reader = StreamReader::try_new(arrow.as_slice(), None).unwrap();
            let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
            assert_eq!(rows, count as usize);
        }
    }
}
