//! How long rows of a source stay: in its relation, and in history.

use connectors::ConnectorConfig;
use serde::de::{Deserialize, Deserializer};

use super::super::duration::{Span, readable};
use super::{Check, SourceFile};

/// How long what came in is kept in history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepInput {
    /// Without an end.
    Forever,
    /// For so many microseconds of ticks.
    For(i64),
}

impl KeepInput {
    /// Returns how long, in microseconds; none without an end.
    pub fn us(self) -> Option<i64> {
        match self {
            KeepInput::Forever => None,
            KeepInput::For(us) => Some(us),
        }
    }
}

impl<'de> Deserialize<'de> for KeepInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim() == "forever" {
            return Ok(KeepInput::Forever);
        }
        let text = serde::de::value::StringDeserializer::<D::Error>::new(text);
        Span::deserialize(text).map(|span| KeepInput::For(span.us))
    }
}

impl Check<'_, '_> {
    /// What came in can be forgotten only once nothing of it is retained any more.
    pub(super) fn keep(&mut self, file: &SourceFile) {
        let Some(keep) = file.keep else { return };
        if file.snapshot {
            self.refuse(
                &["keep"],
                "`keep` stands beside `snapshot`",
                "A snapshot is as a whole what there is, and its rows alone do not tell what was before: leave `keep` out.",
            );
        }
        match (keep, file.retain) {
            (KeepInput::For(_), None) => self.refuse(
                &["keep"],
                "`keep` has an end, and rows of the source have none",
                "Without `retain` a row that came long ago may still be there, so all must be known: write keep = \"forever\", \
                 or bound the source by `retain`.",
            ),
            (KeepInput::For(us), Some(retain)) if us < retain.us => self.refuse(
                &["keep"],
                format!("`keep` ({}) is shorter than `retain` ({})", readable(us), readable(retain.us)),
                "Keep what came in at least as long as it is retained.",
            ),
            _ => {}
        }
    }

    pub(super) fn retain(&mut self, file: &SourceFile) {
        let Some(retain) = file.retain else { return };
        if retain.us == 0 {
            self.refuse(&["retain"], "`retain` is zero", "Leave it out to keep rows for ever.");
        }
        if let Some(lateness) = file.time.as_ref().and_then(|time| time.lateness)
            && lateness > retain
        {
            self.refuse(
                &["retain"],
                format!(
                    "`retain` ({}) is shorter than `lateness` ({})",
                    readable(retain.us),
                    readable(lateness.us)
                ),
                "Rows would be accepted only to expire at once: retain at least as long as rows may be late.",
            );
        }
    }

    pub(super) fn snapshot(&mut self, file: &SourceFile) {
        if !file.snapshot {
            return;
        }
        let beside = [
            (
                file.retractions,
                &["retractions"] as &[&str],
                "what a snapshot no longer holds is taken back anyway",
            ),
            (
                file.version.is_some(),
                &["version"],
                "the newest snapshot is what there is",
            ),
            (
                file.retain.is_some(),
                &["retain"],
                "a row stays as long as snapshots hold it",
            ),
            (
                file.arrival.is_some(),
                &["arrival"],
                "a row that stays would be another each time",
            ),
            (
                file.time.as_ref().is_some_and(|time| time.lateness.is_some()),
                &["time", "lateness"],
                "rows of a snapshot are there, however old they are",
            ),
        ];
        for (set, path, reason) in beside {
            if set {
                let what = format!("`{}` stands beside `snapshot`", path.join("."));
                self.refuse(path, what, format!("Leave it out: {reason}."));
            }
        }
        match &file.connector {
            Some(ConnectorConfig::File(config)) if config.follow || config.speed.is_some() => self.refuse(
                &["snapshot"],
                "a snapshot of a file that is followed, or replayed at a pace",
                "Files are snapshots as a whole: leave `follow` and `speed` out.",
            ),
            Some(ConnectorConfig::Simulate(_) | ConnectorConfig::Nexmark(_)) => self.refuse(
                &["snapshot"],
                "a snapshot of a source that makes its rows up",
                "Snapshots come by connectors of type \"http\" and \"file\".",
            ),
            Some(ConnectorConfig::Kafka(_)) => self.refuse(
                &["snapshot"],
                "a snapshot of a topic, which never ends",
                "For a topic that keeps the newest message of each key, use envelope = \"upsert\".",
            ),
            Some(ConnectorConfig::Mqtt(_) | ConnectorConfig::MqttListener(_)) => self.refuse(
                &["snapshot"],
                "a snapshot of messages, which never end",
                "Snapshots come by connectors of type \"http\" and \"file\".",
            ),
            _ => {}
        }
    }
}
