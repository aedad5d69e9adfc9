//! Which topics a source takes, and which of their levels fill columns: `stations/{station}/readings`.

use serde::Deserialize;

use crate::column::Column;
use crate::error::ConfigError;

/// One pattern of topics or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a topic, or a list of topics")]
pub enum TopicPatterns {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl TopicPatterns {
    /// The patterns, as they are written.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            TopicPatterns::One(topic) => std::slice::from_ref(topic),
            TopicPatterns::Several(topics) => topics,
        }
        .iter()
        .map(String::as_str)
    }
}

/// The patterns of one source.
#[derive(Debug, Clone)]
pub(crate) struct Patterns {
    patterns: Vec<Pattern>,
    /// The columns that levels fill, as places among the declared ones.
    columns: Vec<usize>,
}

/// TopicPatterns alike: levels that are fixed, of any text, or the value of a column.
#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// What precedes it for the broker: `$share/{group}/`.
    share: String,
    levels: Vec<Level>,
    /// Whether any further levels may follow.
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Fixed(String),
    Any,
    /// Which of the columns it fills.
    Column(usize),
}

impl Patterns {
    /// Reads the patterns; names between braces are columns.
    pub(crate) fn new(topics: &TopicPatterns, columns: &[Column]) -> Result<Patterns, ConfigError> {
        let mut read = Patterns {
            patterns: Vec::new(),
            columns: Vec::new(),
        };
        for text in topics.iter() {
            let pattern = read.pattern(text, columns)?;
            if let Some(other) = read.patterns.iter().find(|other| other.overlaps(&pattern)) {
                return Err(
                    ConfigError::new(format!("topics \"{}\" and \"{text}\" overlap", other.text))
                        .with_hint("A message of both would come twice. Declare patterns no topic of which is alike."),
                );
            }
            read.patterns.push(pattern);
        }
        if read.patterns.is_empty() {
            return Err(ConfigError::new("topic lists no topics"));
        }
        for (place, &column) in read.columns.iter().enumerate() {
            let without = read.patterns.iter().find(|pattern| !pattern.fills(place));
            if let (Some(pattern), false) = (without, columns[column].field.is_nullable()) {
                return Err(ConfigError::new(format!(
                    "topic \"{}\" has no level for the column \"{}\"",
                    pattern.text,
                    columns[column].field.name()
                ))
                .with_hint("Name the column in every topic of the list, or declare it without \"not null\"."));
            }
        }
        Ok(read)
    }

    fn pattern(&mut self, text: &str, columns: &[Column]) -> Result<Pattern, ConfigError> {
        let wrong = |why: &str| {
            ConfigError::new(format!("topic \"{text}\" {why}")).with_hint(
                "Write levels between slashes: a name, + for any one level, {column} for one that fills a column, \
                 and # at the end for all that follow.",
            )
        };
        let (share, rest) = match text.strip_prefix("$share/") {
            Some(shared) => match shared.split_once('/') {
                Some((group, rest)) if !group.is_empty() && !rest.is_empty() => (format!("$share/{group}/"), rest),
                _ => return Err(wrong("names no group and topic after $share")),
            },
            None => (String::new(), text),
        };
        if rest.is_empty() || rest.contains('\0') || text.len() > usize::from(u16::MAX) {
            return Err(wrong("is none"));
        }
        let mut pattern = Pattern {
            text: text.to_owned(),
            share,
            levels: Vec::new(),
            open: false,
        };
        for level in rest.split('/') {
            if pattern.open {
                return Err(wrong("goes on after #"));
            }
            match level {
                "#" => pattern.open = true,
                "+" => pattern.levels.push(Level::Any),
                _ => match level.strip_prefix('{').and_then(|level| level.strip_suffix('}')) {
                    Some(name) => {
                        let column = columns
                            .iter()
                            .position(|column| column.field.name() == name)
                            .ok_or_else(|| {
                                ConfigError::new(format!(
                                    "topic \"{text}\" names the column \"{name}\", which is not declared"
                                ))
                                .with_hint("Declare it in columns, or write + for a level that fills none.")
                            })?;
                        let place = self.place(column);
                        if pattern.fills(place) {
                            return Err(wrong(&format!("names the column \"{name}\" twice")));
                        }
                        pattern.levels.push(Level::Column(place));
                    }
                    None if level.contains(['+', '#', '{', '}']) => {
                        return Err(wrong(&format!(
                            "has \"{level}\" in it, where a wildcard is no whole level"
                        )));
                    }
                    None => pattern.levels.push(Level::Fixed(level.to_owned())),
                },
            }
        }
        Ok(pattern)
    }

    fn place(&mut self, column: usize) -> usize {
        match self.columns.iter().position(|known| *known == column) {
            Some(place) => place,
            None => {
                self.columns.push(column);
                self.columns.len() - 1
            }
        }
    }

    /// The columns that levels fill, as places among the declared ones.
    pub(crate) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// What to subscribe to.
    pub(crate) fn filters(&self) -> Vec<String> {
        self.patterns.iter().map(Pattern::filter).collect()
    }

    /// Whether a pattern is shared among the members of a group.
    pub(crate) fn shared(&self) -> bool {
        self.patterns.iter().any(|pattern| !pattern.share.is_empty())
    }

    /// Whether the source takes this topic.
    pub(crate) fn take(&self, topic: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(topic, |_, _| {}))
    }

    /// Finds the values of the columns in a topic, in their order; says whether the topic is taken at all.
    pub(crate) fn values<'t>(&self, topic: &'t str, values: &mut Vec<Option<&'t str>>) -> bool {
        self.patterns.iter().any(|pattern| {
            values.clear();
            values.resize(self.columns.len(), None);
            pattern.matches(topic, |place, level| values[place] = Some(level))
        })
    }
}

impl Pattern {
    fn fills(&self, place: usize) -> bool {
        self.levels.contains(&Level::Column(place))
    }

    fn filter(&self) -> String {
        let levels = self.levels.iter().map(|level| match level {
            Level::Fixed(text) => text.as_str(),
            Level::Any | Level::Column(_) => "+",
        });
        let levels: Vec<&str> = levels.chain(self.open.then_some("#")).collect();
        format!("{}{}", self.share, levels.join("/"))
    }

    /// Whether the topic is one of these; tells the levels that fill columns, of others perhaps some.
    fn matches<'t>(&self, topic: &'t str, mut found: impl FnMut(usize, &'t str)) -> bool {
        // What begins with a dollar is the broker's own: wildcards pass over it.
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Fixed(_))) {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in &self.levels {
            let Some(level) = levels.next() else { return false };
            match wanted {
                Level::Fixed(text) if text != level => return false,
                Level::Fixed(_) | Level::Any => {}
                Level::Column(place) => found(*place, level),
            }
        }
        self.open || levels.next().is_none()
    }

    /// Whether some topic is both of these and of those.
    fn overlaps(&self, other: &Pattern) -> bool {
        let both = self.levels.len().min(other.levels.len());
        let alike = self.levels.iter().zip(&other.levels).all(|pair| match pair {
            (Level::Fixed(one), Level::Fixed(other)) => one == other,
            _ => true,
        });
        let longer = if self.levels.len() > both { other } else { self };
        alike && (self.levels.len() == other.levels.len() || longer.open)
    }
}

/// Whether a topic may be published to.
pub(crate) fn valid(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#', '\0'])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn columns() -> Vec<Column> {
        ["station", "sensor", "at"]
            .map(|name| Column::new(Arc::new(Field::new(name, DataType::Utf8, name == "sensor"))))
            .to_vec()
    }

    fn patterns(topics: &[&str]) -> Result<Patterns, String> {
        let topics = TopicPatterns::Several(topics.iter().map(|topic| (*topic).to_owned()).collect());
        Patterns::new(&topics, &columns()).map_err(|error| error.what)
    }

    #[test]
    fn levels_fill_columns() {
        let patterns = patterns(&["s/{station}/{sensor}/x", "t/{station}/#"]).unwrap();
        assert_eq!(patterns.columns(), [0, 1]);
        assert_eq!(patterns.filters(), ["s/+/+/x", "t/+/#"]);
        let mut values = Vec::new();
        assert!(patterns.values("s/K1/ä/x", &mut values));
        assert_eq!(values, [Some("K1"), Some("ä")]);
        assert!(patterns.values("t/K2", &mut values));
        assert_eq!(values, [Some("K2"), None]);
        assert!(patterns.values("t//a/b", &mut values));
        assert_eq!(values, [Some(""), None]);
        for other in ["s/K1/ä", "s/K1/ä/x/y", "t", "u/K1", "", "$t/K1"] {
            assert!(!patterns.take(other), "{other}");
        }
    }

    #[test]
    fn wildcards_pass_over_the_brokers_own() {
        let all = patterns(&["#"]).unwrap();
        assert!(all.take("a/b") && all.take("ä") && !all.take("$SYS/uptime"));
        assert!(!patterns(&["+/uptime"]).unwrap().take("$SYS/uptime"));
        assert!(patterns(&["$SYS/#"]).unwrap().take("$SYS/uptime"));
    }

    #[test]
    fn a_shared_subscription_matches_what_follows_its_group() {
        let shared = patterns(&["$share/g/s/{station}"]).unwrap();
        assert_eq!(shared.filters(), ["$share/g/s/+"]);
        assert!(shared.shared() && shared.take("s/K1") && !shared.take("g/s/K1"));
    }

    #[test]
    fn what_cannot_work_is_said() {
        let wrong = [
            (
                &["a/{nothing}"][..],
                "names the column \"nothing\", which is not declared",
            ),
            (&["a/b+"], "has \"b+\" in it, where a wildcard is no whole level"),
            (&["a/#/b"], "goes on after #"),
            (&["{station}/{station}"], "names the column \"station\" twice"),
            (&["$share/g"], "names no group and topic after $share"),
            (&[""], "is none"),
            (&[], "topic lists no topics"),
            (&["a/+", "a/b"], "topics \"a/+\" and \"a/b\" overlap"),
            (&["a/#", "a/b/c"], "overlap"),
            (&["a", "a/#"], "overlap"),
            (
                &["a/{station}", "b/+"],
                "topic \"b/+\" has no level for the column \"station\"",
            ),
        ];
        for (topics, why) in wrong {
            let error = patterns(topics).unwrap_err();
            assert!(error.contains(why), "{topics:?}: {error}");
        }
        assert!(patterns(&["a/+", "a/b/c", "b/#"]).is_ok());
        assert!(patterns(&["a/{sensor}", "b/+"]).is_ok());
    }
}
