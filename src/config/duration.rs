//! Spans of time as operators write them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A positive span of time, written as "30 seconds" or "2 days".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// Microseconds, the unit of ticks.
    pub(crate) us: i64,
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanVisitor)
    }
}

struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a span of time such as \"30 seconds\" or \"2 days\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
        let duration = humantime::parse_duration(text.trim()).map_err(|error| {
            E::custom(format!(
                "\"{text}\" is not a span of time such as \"30 seconds\" or \"2 days\" ({error})"
            ))
        })?;
        if duration.subsec_nanos() % 1_000 != 0 {
            return Err(E::custom(format!("\"{text}\" is finer than a microsecond")));
        }
        let us = i64::try_from(duration.as_micros())
            .map_err(|_| E::custom(format!("\"{text}\" is longer than 290,000 years")))?;
        Ok(Span { us })
    }
}

/// Writes microseconds as an operator would: "2h 30m".
pub(crate) fn readable(us: i64) -> String {
    let duration = std::time::Duration::from_micros(us.unsigned_abs());
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Span, String> {
        let text = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text);
        Span::deserialize(text).map_err(|error| error.to_string())
    }

    #[test]
    fn spans_are_read_to_the_microsecond() {
        assert_eq!(parse("30 seconds").unwrap().us, 30_000_000);
        assert_eq!(parse("1h 30m").unwrap().us, 5_400_000_000);
        assert_eq!(parse("2 days").unwrap().us, 172_800_000_000);
        assert_eq!(readable(5_400_000_000), "1h 30m");
    }

    #[test]
    fn other_texts_say_what_is_expected() {
        for text in ["", "30", "soon", "5 parsecs", "10 nanos", "-3 days"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
