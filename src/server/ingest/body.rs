//! Receives a body within its limit.

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::server::error::ApiError;
use crate::server::limits::{BODY_BYTES_DISCARDED_MAX, BODY_PATIENCE};

/// Reads the whole body, at most `bytes_max` of it.
///
/// `memory` has a permit for each KiB that all bodies together may hold; the
/// permit returned is to be kept until the body is let go.
pub(super) async fn read<'a>(
    request: Request,
    bytes_max: usize,
    memory: &'a Semaphore,
) -> Result<(Bytes, SemaphorePermit<'a>), ApiError> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let waits = request.headers().contains_key(header::EXPECT);
    let mut stream = request.into_body().into_data_stream();
    if announced.is_some_and(|announced| announced > bytes_max) {
        // Who asks first has sent nothing yet and reads our answer at once.
        if !waits {
            discard(&mut stream).await;
        }
        return Err(too_large(bytes_max));
    }
    // Memory is taken as bytes arrive: announcing a body costs the others nothing.
    let mut permit = memory.try_acquire_many(0).map_err(|_| crowded())?;
    let mut body = BytesMut::new();
    let mut first: Option<Bytes> = None;
    while let Some(part) = next(&mut stream).await? {
        let length = first.as_ref().map_or(body.len(), Bytes::len) + part.len();
        if length > bytes_max {
            drop((first, body, permit));
            discard(&mut stream).await;
            return Err(too_large(bytes_max));
        }
        let wanted = length.div_ceil(1024).saturating_sub(permit.num_permits());
        permit.merge(memory.try_acquire_many(wanted as u32).map_err(|_| crowded())?);
        // A small body comes in one part, which is then taken as it is.
        match first.take() {
            None if body.is_empty() => first = Some(part),
            None => body.extend_from_slice(&part),
            Some(earlier) => {
                body.reserve(announced.unwrap_or(length));
                body.extend_from_slice(&earlier);
                body.extend_from_slice(&part);
            }
        }
    }
    Ok((first.unwrap_or_else(|| body.freeze()), permit))
}

async fn next(stream: &mut BodyDataStream) -> Result<Option<Bytes>, ApiError> {
    match timeout(BODY_PATIENCE, stream.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(part))) => Ok(Some(part)),
        Ok(Some(Err(error))) => Err(
            ApiError::bad_request("truncated_body", format!("the body broke off: {error}"))
                .hint("Nothing of it was taken. Send it again."),
        ),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow_body",
            format!("no part of the body came for {} seconds", BODY_PATIENCE.as_secs()),
        )
        .hint("Nothing of it was taken. Send it again.")),
    }
}

/// Reads on without keeping anything: a client that is still sending when the
/// connection closes sees a broken pipe instead of the answer.
async fn discard(stream: &mut BodyDataStream) {
    let mut discarded = 0;
    while discarded < BODY_BYTES_DISCARDED_MAX
        && let Ok(Some(part)) = next(stream).await
    {
        discarded += part.len();
    }
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("the body is larger than {bytes_max} bytes"),
    )
    .hint("Nothing of it was taken. Send smaller bodies, or raise body_bytes_max in deployment.toml.")
}

fn crowded() -> ApiError {
    ApiError::busy("too_many_bodies", "too many bodies are being received at this moment")
        .hint("Nothing of this one was taken. Send it again in a moment.")
}

/// Reads a text body of at most `bytes_max`.
pub(in crate::server) async fn text(body: Body, bytes_max: usize) -> Result<String, ApiError> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(part) = next(&mut stream).await? {
        if bytes.len() + part.len() > bytes_max {
            discard(&mut stream).await;
            return Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "query_too_large",
                format!("the query is larger than {bytes_max} bytes"),
            ));
        }
        bytes.extend_from_slice(&part);
    }
    String::from_utf8(bytes).map_err(|error| {
        ApiError::bad_request("not_utf8", format!("the query is not UTF-8: {error}"))
            .hint("Send the query's text as it is, as the body.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reply(parts: &[&'static str], bytes_max: usize, kib: usize) -> Result<Bytes, StatusCode> {
        let parts: Vec<Result<Bytes, std::io::Error>> = parts
            .iter()
            .map(|part| Ok(Bytes::from_static(part.as_bytes())))
            .collect();
        let request = Request::new(Body::from_stream(futures_util::stream::iter(parts)));
        let memory = Semaphore::new(kib);
        read(request, bytes_max, &memory)
            .await
            .map(|(body, _)| body)
            .map_err(|error| error.status)
    }

    #[tokio::test]
    async fn parts_add_up_within_the_limit() {
        assert_eq!(reply(&["ab", "cd", "e"], 5, 1).await.unwrap(), "abcde");
        assert_eq!(reply(&["abcde"], 5, 1).await.unwrap(), "abcde");
        assert_eq!(reply(&[], 5, 1).await.unwrap(), "");
        assert_eq!(
            reply(&["abc", "def"], 5, 1).await.unwrap_err(),
            StatusCode::PAYLOAD_TOO_LARGE
        );
        assert_eq!(
            reply(&["abc"], 5, 0).await.unwrap_err(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}
