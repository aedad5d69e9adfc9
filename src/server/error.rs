//! How the server says no: one JSON shape for every refusal.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An answer that is not the one asked for: `{"error":{"code","message","hint"}}`.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    /// A word for programs.
    pub(super) code: &'static str,
    /// What was attempted and why it did not go, for people.
    pub(super) message: String,
    /// What to do instead, in full sentences.
    pub(super) hint: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            code,
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn busy(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// An unknown name, with the nearest known one or all of them.
    pub(super) fn unknown<'a>(
        code: &'static str,
        kind: &str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let error = Self::not_found(code, format!("there is no {kind} \"{name}\""));
        if let Some(near) = nearest(name, &known) {
            return error.hint(format!("Did you mean \"{near}\"?"));
        }
        if known.is_empty() {
            return error.hint(format!("This deployment has no {kind}."));
        }
        error.hint(format!("Known: {}.", known.join(", ")))
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": {"code": self.code, "message": self.message, "hint": self.hint}});
        let mut response = json_response(self.status, body.to_string());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Answers with a JSON body.
pub(super) fn json_response(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// Returns the known name that is few slips of the finger away.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let slips_max = (name.chars().count() / 3).max(1);
    known
        .iter()
        .map(|&candidate| (slips(name, candidate), candidate))
        .filter(|(slips, _)| *slips <= slips_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Counts the letters to insert, drop or replace, upper and lower case being equal.
fn slips(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, &candidate) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != candidate);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_guessed_within_a_few_slips() {
        let known = ["readings", "stations", "weather"];
        assert_eq!(nearest("reading", &known), Some("readings"));
        assert_eq!(nearest("Staions", &known), Some("stations"));
        assert_eq!(nearest("orders", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    #[test]
    fn an_unknown_name_lists_what_is_known() {
        let error = ApiError::unknown("unknown_source", "source", "xyz", ["readings", "weather"]);
        assert_eq!(error.status, StatusCode::NOT_FOUND);
        assert_eq!(error.hint.unwrap(), "Known: readings, weather.");
    }
}
