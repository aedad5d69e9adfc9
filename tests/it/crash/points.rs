//! Where a kill is to fall, and where it fell.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_pcg::Pcg64;

use super::gate::Trap;

/// What the program was doing when it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It was on its way to be ready.
    Recovery,
    /// It wrote, named or removed a checkpoint.
    Checkpoint,
    /// Its log was written and not synced yet: nobody may have heard.
    BeforeSync,
    /// Its log was synced, and nobody had heard yet.
    AfterSync,
    /// It wrote history.
    History,
    /// It put small files of history together.
    Compaction,
    /// Anything else, with rows on their way.
    Load,
}

/// Into each of these a kill must fall, or nothing was tested.
pub(super) const REQUIRED: &[Phase] = &[
    Phase::Recovery,
    Phase::Checkpoint,
    Phase::BeforeSync,
    Phase::AfterSync,
    Phase::History,
    Phase::Compaction,
];

/// How a round ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Killed from outside, so long after it was started, whether it is ready or not.
    StartedFor(u64),
    /// Killed from outside, so long after the load began.
    LoadedFor(u64),
    /// It dies by itself at a call, counted from its start.
    StartingAt(String),
    /// It dies by itself at a call, counted from the beginning of the load.
    LoadingAt(String),
    /// Killed from outside, while a request to the bucket of its history is held.
    Requesting(Trap),
    /// Its bucket goes away under load until it says so, and comes back; killed once it writes there again.
    Deserted,
    /// Its bucket goes away under load, and it is killed before it is back.
    Stranded,
}

impl Plan {
    /// Returns what every campaign plays whatever its seed, the last first: one of each kind.
    pub(super) fn first() -> Vec<Plan> {
        let at = |point: &str| Plan::LoadingAt(point.to_owned());
        vec![
            Plan::StartingAt("any::9:before".to_owned()),
            at("any:history:40:after"),
            at("any:merged:1:half"),
            at("sync:history:2:before"),
            at("rename:checkpoint:1:before"),
            at("any:checkpoint:12:after"),
            at("sync:checkpoint:2:half"),
            Plan::StartedFor(60),
            at("sync:log.redb:30:half"),
            at("sync:log.redb:20:after"),
            at("sync:log.redb:10:before"),
            Plan::LoadedFor(900),
        ]
    }

    /// Draws one; `start_ms` and `start_calls` say how long a start takes, as far as is known.
    pub(super) fn draw(random: &mut Pcg64, start_ms: u64, start_calls: u64) -> Plan {
        let when = *["before", "half", "after"].choose(random).expect("some");
        match random.random_range(0..100) {
            0..8 => Plan::StartedFor(random.random_range(1..=start_ms)),
            8..18 => {
                let n = random.random_range(1..=start_calls.max(1));
                Plan::StartingAt(format!("any::{n}:{when}"))
            }
            18..30 => Plan::LoadedFor(random.random_range(20..900)),
            30..36 => {
                let call = *["any", "write", "sync", "rename"].choose(random).expect("some");
                Plan::LoadingAt(format!("{call}:history:{}:{when}", random.random_range(1..=60)))
            }
            36..42 => Plan::LoadingAt(format!("any:merged:{}:{when}", random.random_range(1..=6))),
            42..58 => Plan::LoadingAt(format!("sync:log.redb:{}:{when}", random.random_range(1..80))),
            58..70 => Plan::LoadingAt(format!("write:log.redb:{}:{when}", random.random_range(1..300))),
            70..92 => {
                let (call, most) = *[
                    ("any", 40),
                    ("write", 10),
                    ("sync", 10),
                    ("rename", 4),
                    ("unlink", 4),
                    ("open", 8),
                ]
                .choose(random)
                .expect("some");
                Plan::LoadingAt(format!("{call}:checkpoint:{}:{when}", random.random_range(1..=most)))
            }
            _ => Plan::LoadingAt(format!("any::{}:{when}", random.random_range(1..600))),
        }
    }

    /// Returns the point at which it dies by itself, and whether that is counted from its start.
    pub(super) fn point(&self) -> Option<(&str, bool)> {
        match self {
            Plan::StartingAt(point) => Some((point, true)),
            Plan::LoadingAt(point) => Some((point, false)),
            _ => None,
        }
    }
}

/// Reads where it died from the calls it made.
pub(super) fn phase(calls: &str, was_ready: bool) -> Phase {
    if !was_ready {
        return Phase::Recovery;
    }
    // Calls that had begun and not ended, by thread.
    let mut open: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in calls.lines() {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let [what, thread, call, detail, path] = words[..] else {
            continue;
        };
        match what {
            "B" => drop(open.insert(thread, (call, path))),
            "E" => drop(open.remove(thread)),
            "K" if (call, detail) == ("sync", "after") && path.contains("log.redb") => return Phase::AfterSync,
            _ => {}
        }
    }
    let anywhere = |word: &str| open.values().any(|(_, path)| path.contains(word));
    match () {
        () if anywhere("merged") => Phase::Compaction,
        () if anywhere("history") => Phase::History,
        () if anywhere("checkpoint") => Phase::Checkpoint,
        () if anywhere("log.redb") => Phase::BeforeSync,
        () => Phase::Load,
    }
}
