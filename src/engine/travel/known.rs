//! From when on a replay shows what was shown: ticks are known since some tick, and what came before must have left.

use std::collections::BTreeMap;

use dataflows::Tick;

use super::super::replay::Needed;
use super::super::tape::Known;
use super::time;
use crate::config::{Deployment, Source};

/// From when on all is known that something reads, and what keeps it from being known before.
#[derive(Debug, Default)]
pub(in crate::engine) struct WholeFrom {
    pub(in crate::engine) tick: Tick,
    pub(in crate::engine) why: String,
}

/// Returns from when on a replay shows what a deployment showed that ran since its beginning.
///
/// Rows that came before those that are known must have left by then: those of sources by `retain`, those of closed
/// buckets by `keep`.
pub(in crate::engine) fn whole_from(
    deployment: &Deployment,
    needed: &Needed,
    since: &BTreeMap<String, Known>,
) -> WholeFrom {
    let mut whole = WholeFrom::default();
    let mut oldest: BTreeMap<&str, Tick> = BTreeMap::new();
    for source in deployment
        .sources
        .iter()
        .filter(|source| needed.sources.contains(&source.name))
    {
        let name = source.name.as_str();
        let Some(Known { since, whole: is_whole }) = since.get(name).copied() else {
            return never(format!("the rows of source \"{name}\" are not kept"));
        };
        oldest.insert(name, since);
        if since == 0 {
            continue;
        }
        if is_whole {
            if since > whole.tick {
                let why = format!("what came for source \"{name}\" is known since {}", time(since));
                whole = WholeFrom { tick: since, why };
            }
            continue;
        }
        let Some(left) = left_after_us(source) else {
            let why = format!(
                "of source \"{name}\", whose rows stay for ever, those before {} are known no more",
                time(since)
            );
            return never(why);
        };
        let tick = since.saturating_add(left);
        if tick > whole.tick {
            let why = format!(
                "of source \"{name}\" rows are known since {}, and they stay for a while",
                time(since)
            );
            whole = WholeFrom { tick, why };
        }
    }
    let views = deployment
        .views
        .iter()
        .filter(|view| needed.views.contains(&view.view.name));
    for (view, closing) in views.filter_map(|view| Some((&view.view.name, view.view.closing.as_ref()?))) {
        let read = closing.sources.iter().chain(&closing.unheld);
        let since = read
            .filter_map(|source| oldest.get(source.as_str()))
            .max()
            .copied()
            .unwrap_or(0);
        if since == 0 {
            continue;
        }
        let Some(keep_us) = closing.keep_us else {
            let why = format!(
                "view \"{view}\" has closed rows of before {}, which stay for ever",
                time(since)
            );
            return never(why);
        };
        let kept = keep_us
            .saturating_add(closing.size_us)
            .saturating_add(closing.lateness_us);
        let tick = since.saturating_add(u64::try_from(kept).unwrap_or(0));
        if tick > whole.tick {
            let why = format!("view \"{view}\" keeps closed rows of before {}", time(since));
            whole = WholeFrom { tick, why };
        }
    }
    whole
}

fn never(why: String) -> WholeFrom {
    WholeFrom { tick: Tick::MAX, why }
}

/// Returns after how long a row of a source has left, in microseconds; none where it stays.
fn left_after_us(source: &Source) -> Option<u64> {
    // Rows leave in segments of a thirty-second of `retain`.
    let retain_us = u64::try_from(source.retain_us?).unwrap_or(0);
    Some(retain_us.saturating_add(retain_us / 32).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config;

    const HOUR: Tick = 3_600_000_000;
    const SINCE: Tick = 1_772_359_200_000_000;

    fn deployment(dir: &Path) -> Deployment {
        let columns = "columns = { station = \"text not null\", at = \"timestamp not null\" }\n";
        let time = "time = { column = \"at\", lateness = \"10 minutes\" }\n";
        let http = "[connector]\ntype = \"http\"\n";
        let hourly = "SELECT station, date_bin(INTERVAL '1 hour', at) AS hour, count(*) AS n FROM readings \
                      GROUP BY station, hour";
        for (path, text) in [
            (
                "sources/readings.toml",
                format!("{columns}{time}retain = \"2 hours\"\n{http}"),
            ),
            ("sources/stations.toml", format!("{columns}key = [\"station\"]\n{http}")),
            (
                "views/named.sql",
                "SELECT r.at FROM readings r JOIN stations s ON s.station = r.station".to_owned(),
            ),
            (
                "views/recent.sql",
                "SELECT station, count(*) AS n FROM readings GROUP BY station".to_owned(),
            ),
            ("views/kept.sql", format!("--! keep = \"2 days\"\n{hourly}")),
            ("views/closed.sql", format!("--! emit = \"on close\"\n{hourly}")),
        ] {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        config::load(dir).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    #[test]
    fn answers_begin_where_nothing_before_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let deployment = deployment(dir.path());
        let whole = |relation: &str, since: &[(&str, Tick)]| {
            let needed = Needed::of(&deployment, Some(&BTreeSet::from([relation.to_owned()])));
            let known = |since: Tick| Known {
                since,
                whole: since == 0,
            };
            let since = since
                .iter()
                .map(|(name, tick)| ((*name).to_owned(), known(*tick)))
                .collect();
            whole_from(&deployment, &needed, &since)
        };
        let all = [("readings", 0), ("stations", 0)];
        for relation in ["readings", "stations", "named", "recent", "kept", "closed"] {
            assert_eq!(whole(relation, &all).tick, 0, "{relation}");
        }
        let some = [("readings", SINCE), ("stations", 0)];
        let left = SINCE + 2 * HOUR + HOUR / 16 + 1;
        assert_eq!(whole("readings", &some).tick, left);
        assert_eq!(whole("named", &some).tick, left);
        assert_eq!(
            whole("stations", &some).tick,
            0,
            "it reads nothing of which anything is missing"
        );
        assert_eq!(whole("kept", &some).tick, SINCE + 49 * HOUR + HOUR / 6);
        assert_eq!(whole("closed", &some).tick, Tick::MAX);
        let stations = whole("named", &[("readings", 0), ("stations", SINCE)]);
        assert_eq!(stations.tick, Tick::MAX);
        assert_eq!(
            stations.why,
            "of source \"stations\", whose rows stay for ever, those before 2026-03-01T10:00:00Z are known no more"
        );
        let begun = Known {
            since: SINCE,
            whole: true,
        };
        let known = BTreeMap::from([("readings".to_owned(), begun), ("stations".to_owned(), begun)]);
        let needed = Needed::of(&deployment, Some(&BTreeSet::from(["named".to_owned()])));
        assert_eq!(whole_from(&deployment, &needed, &known).tick, SINCE);
        let none = whole("recent", &[("stations", 0)]);
        assert_eq!(
            (none.tick, none.why.as_str()),
            (Tick::MAX, "the rows of source \"readings\" are not kept")
        );
    }
}
