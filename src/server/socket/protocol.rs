//! The words of `/ws`: what clients may say, and the frames they get.

use axum::extract::ws::Message;
use dataflows::Tick;
use dataflows::json;
use serde::Deserialize;

use crate::server::error::ApiError;
use crate::server::limits::ID_BYTES_MAX;

/// A message from a client.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Asks for a relation: as it is, then every change.
    Subscribe {
        /// The client's own name for the subscription; every frame carries it.
        id: String,
        /// A view, an alert or a source.
        view: String,
        /// A boolean SQL expression over the relation's columns.
        #[serde(rename = "where")]
        filter: Option<String>,
        /// The columns to send, all if absent.
        columns: Option<Vec<String>>,
        /// The token of the last progress frame, to go on from there.
        resume: Option<String>,
    },
    /// Ends a subscription. Nothing answers it: no frame of that id follows.
    Unsubscribe {
        /// The subscription's name.
        id: String,
    },
}

impl Request {
    /// Reads a message; on failure also tells the id it was about, if it has one.
    pub(super) fn parse(text: &str) -> Result<Self, (Option<String>, ApiError)> {
        let request: Request = serde_json::from_str(text).map_err(|error| {
            let value: Option<serde_json::Value> = serde_json::from_str(text).ok();
            let id = value.and_then(|value| Some(value.get("id")?.as_str()?.to_owned()));
            let error = ApiError::bad_request("bad_request", format!("could not read the message: {error}")).hint(
                "Send {\"type\":\"subscribe\",\"id\":…,\"view\":…} with where, columns and resume as you need them, \
                 or {\"type\":\"unsubscribe\",\"id\":…}.",
            );
            (id, error)
        })?;
        let (Request::Subscribe { id, .. } | Request::Unsubscribe { id }) = &request;
        if id.len() > ID_BYTES_MAX {
            let error = ApiError::bad_request("bad_request", format!("the id is longer than {ID_BYTES_MAX} bytes"));
            return Err((None, error));
        }
        Ok(request)
    }
}

/// Writes the frames of one subscription.
#[derive(Debug)]
pub(super) struct Frames {
    /// The id as JSON.
    id: Vec<u8>,
}

impl Frames {
    pub(super) fn new(id: &str) -> Self {
        let mut encoded = Vec::new();
        json::string(id, &mut encoded);
        Frames { id: encoded }
    }

    /// Part of a snapshot; `rows` are objects separated by commas.
    pub(super) fn snapshot(&self, tick: Tick, rows: &[u8], more: bool, errors: u64) -> Message {
        let mut out = self.start("snapshot", tick, rows.len() + 48);
        out.extend_from_slice(b",\"rows\":[");
        out.extend_from_slice(rows);
        out.extend_from_slice(if more { b"],\"more\":true" } else { b"],\"more\":false" });
        if !more {
            out.extend_from_slice(format!(",\"errors\":{errors}").as_bytes());
        }
        finish(out)
    }

    /// Changes; `body` is what equal subscriptions share: the lists with their names.
    pub(super) fn changes(&self, tick: Tick, body: &[u8]) -> Message {
        let mut out = self.start("changes", tick, body.len() + 2);
        out.push(b',');
        out.extend_from_slice(body);
        finish(out)
    }

    /// Everything up to `tick` has been sent; `resume` goes on from there.
    pub(super) fn progress(&self, tick: Tick, resume: &str, errors: u64) -> Message {
        let mut out = self.start("progress", tick, resume.len() + 48);
        out.extend_from_slice(format!(",\"resume\":\"{resume}\",\"errors\":{errors}").as_bytes());
        finish(out)
    }

    /// A refusal about this subscription.
    pub(super) fn error(&self, error: &ApiError) -> Message {
        error_frame(Some(&self.id), error)
    }

    fn start(&self, kind: &str, tick: Tick, more: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.id.len() + more);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"id\":");
        out.extend_from_slice(&self.id);
        out.extend_from_slice(format!(",\"tick\":{tick}").as_bytes());
        out
    }
}

/// A refusal about no subscription in particular.
pub(super) fn refusal(error: &ApiError) -> Message {
    error_frame(None, error)
}

fn error_frame(id: Option<&[u8]>, error: &ApiError) -> Message {
    let mut out = b"{\"type\":\"error\",\"id\":".to_vec();
    out.extend_from_slice(id.unwrap_or(b"null"));
    out.extend_from_slice(b",\"code\":");
    json::string(error.code, &mut out);
    out.extend_from_slice(b",\"message\":");
    json::string(&error.message, &mut out);
    out.extend_from_slice(b",\"hint\":");
    match &error.hint {
        Some(hint) => json::string(hint, &mut out),
        None => out.extend_from_slice(b"null"),
    }
    finish(out)
}

fn finish(mut out: Vec<u8>) -> Message {
    out.push(b'}');
    // Every part is text of our own or was encoded from text.
    Message::text(String::from_utf8(out).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_or_refused_with_their_id() {
        let request =
            Request::parse(r#"{"type":"subscribe","id":"r","view":"risk","where":"score > 50","columns":null}"#);
        match request.unwrap() {
            Request::Subscribe {
                id,
                view,
                filter,
                columns,
                resume,
            } => {
                assert_eq!(
                    (id.as_str(), view.as_str(), filter.as_deref()),
                    ("r", "risk", Some("score > 50"))
                );
                assert_eq!((columns, resume), (None, None));
            }
            other => panic!("{other:?}"),
        }
        let (id, error) = Request::parse(r#"{"type":"subscribe","id":"r","vew":"risk"}"#).unwrap_err();
        assert_eq!((id.as_deref(), error.code), (Some("r"), "bad_request"));
        let (id, _) = Request::parse("nonsense").unwrap_err();
        assert_eq!(id, None);
        let (id, _) = Request::parse(r#"{"type":"dance","id":"r"}"#).unwrap_err();
        assert_eq!(id.as_deref(), Some("r"));
    }

    #[test]
    fn frames_are_json() {
        let frames = Frames::new("a\"b");
        let parsed =
            |message: Message| -> serde_json::Value { serde_json::from_str(message.to_text().unwrap()).unwrap() };
        assert_eq!(
            parsed(frames.snapshot(7, br#"{"x":1},{"x":2}"#, false, 3)),
            serde_json::json!({"type":"snapshot","id":"a\"b","tick":7,"rows":[{"x":1},{"x":2}],"more":false,"errors":3})
        );
        assert_eq!(
            parsed(frames.changes(8, br#""upsert":[{"x":1}],"delete":[]"#)),
            serde_json::json!({"type":"changes","id":"a\"b","tick":8,"upsert":[{"x":1}],"delete":[]})
        );
        assert_eq!(
            parsed(frames.progress(9, "00ff", 0)),
            serde_json::json!({"type":"progress","id":"a\"b","tick":9,"resume":"00ff","errors":0})
        );
        let error = ApiError::bad_request("bad_where", "no \"such\" column");
        assert_eq!(
            parsed(frames.error(&error)),
            serde_json::json!({"type":"error","id":"a\"b","code":"bad_where","message":"no \"such\" column","hint":null})
        );
        assert_eq!(parsed(refusal(&error))["id"], serde_json::Value::Null);
    }
}
