//! Durations as people write them: "10 seconds", "2 days".
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// Reads a duration; with `#[serde(deserialize_with)]`.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text).map_err(|_| {
        de::Error::custom(format!(
            "\"{text}\" is not a duration; write it like \"10 seconds\" or \"2 days\""
        ))
    })?;
    // An i64 of microseconds must hold it and leave room to add.
    if duration > Duration::from_secs(366 * 86_400 * 1000) {
        return Err(de::Error::custom(format!("\"{text}\" is longer than 1000 years")));
    }
    Ok(duration)
}

/// Reads a duration that may be absent.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// A duration in microseconds.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
