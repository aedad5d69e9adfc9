//! The property test: whatever the deployment and whatever happens, at every
//! tick every view is what DataFusion answers over the rows that are there.
//!
//! `sources` and `views` (with `aggregates`, `ranked`, `recursions`, `own` and `expressions`) make a `deployment` up, `values`
//! its rows and `traffic` what is sent when; `closing` knows what views have finished. `ledger` keeps the test's own books
//! of what each source must hold, `failing` predicts the rows on which
//! expressions fail, `bag` compares, and `case` plays it all through; `changes` lets views come and go meanwhile.
//!
//! `SANGAM_ORACLE_CASES` says how many cases to run and `SANGAM_ORACLE_SEED`
//! from which seed on, `SANGAM_ORACLE_FAULT` which planted bug alone to look for; a case that fails says its own. `shrink` makes it smaller before it is told, for
//! `SANGAM_ORACLE_SHRINK` seconds at most (120), and prints what is left as SQL and rows.
mod aggregates;
pub(crate) mod bag;
mod case;
mod changes;
pub(crate) mod closing;
mod deployment;
mod dice;
mod expressions;
mod failing;
mod ledger;
mod nested;
mod own;
mod ranked;
mod recursions;
mod shrink;
mod sources;
mod traffic;
mod values;
mod views;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataflows::faults::{Fault, plant};

use case::{Settings, Tally, run};

const CASES: u64 = 1_000;

/// Ticks of every fourth case, and of one that a planted bug is looked for in.
const TICKS: usize = 50;

/// Ticks of the others: what few ticks can show is better looked for in many views.
const TICKS_SHORT: usize = 12;

/// Cases within which a planted bug must be found, of those that have what it is planted in.
const CASES_FAULTY: usize = 80;

/// The bugs that are planted, and what each is planted in.
const FAULTS: [(Fault, &str); 21] = [
    (Fault::LostRetraction, "get"),
    (Fault::DoubledRow, "get"),
    (Fault::StaleMinimum, "min"),
    (Fault::EarlyTick, "get"),
    (Fault::MissedExpiry, "temporal"),
    (Fault::StalePresence, "join"),
    (Fault::ForgottenValue, "aggregate"),
    (Fault::StaleWindow, "window"),
    (Fault::StaleReach, "recursion"),
    (Fault::StaleMedian, "median"),
    (Fault::StaleTruth, "bool_and"),
    (Fault::LostGroupingSet, "union"),
    (Fault::ForgottenReader, "get"),
    (Fault::ForgottenAlternative, "temporal any"),
    (Fault::ShortList, "unnest"),
    (Fault::ForgottenTwin, "consolidate"),
    (Fault::StaleTable, "table function"),
    (Fault::LostState, "ewma"),
    (Fault::ReopenedBucket, "close"),
    (Fault::MissedPair, "join by time"),
    (Fault::StayingGroup, "leaving groups"),
];

/// One test, because planting a bug plants it for the whole process.
#[test]
fn views_are_right_at_every_tick() {
    let cases = number("SANGAM_ORACLE_CASES").unwrap_or(CASES);
    let first = number("SANGAM_ORACLE_SEED").unwrap_or(1);
    if let Ok(name) = std::env::var("SANGAM_ORACLE_FAULT") {
        let _planted = crate::HONEST.blocking_write();
        let named = FAULTS.iter().find(|(fault, _)| format!("{fault:?}") == name);
        let (fault, kind) = named.unwrap_or_else(|| panic!("there is no planted bug {name}"));
        return is_found(*fault, kind, first);
    }
    let started = Instant::now();
    let (tally, spread) = all(first, cases);
    println!(
        "{cases} cases of {TICKS_SHORT} or {TICKS} ticks in {:.0?}: {tally:#?}",
        started.elapsed()
    );
    if cases >= 100 {
        is_meaningful(&tally, &spread);
        let _planted = crate::HONEST.blocking_write();
        for (fault, kind) in FAULTS {
            is_found(fault, kind, first);
        }
        is_made_small(first);
        println!("all in {:.0?}", started.elapsed());
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs cases on two threads; panics with the story of the first that fails.
fn all(first: u64, cases: u64) -> (Tally, Vec<u64>) {
    let next = AtomicU64::new(first);
    let failed = Mutex::new(None::<String>);
    let total = Mutex::new((Tally::default(), vec![0u64; 2]));
    let settings = |seed: u64| Settings {
        ticks: if seed.is_multiple_of(4) { TICKS } else { TICKS_SHORT },
        patience: Duration::from_secs(60),
        shrinks: Some(Duration::from_secs(number("SANGAM_ORACLE_SHRINK").unwrap_or(120))),
        needs: None,
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + cases || failed.lock().expect("no panic under it").is_some() {
                        return;
                    }
                    let started = Instant::now();
                    let result = one(seed, settings(seed));
                    if started.elapsed() > Duration::from_secs(10) {
                        println!("case {seed} took {:.0?}", started.elapsed());
                    }
                    match result {
                        Ok(tally) => {
                            let (total, spread) = &mut *total.lock().expect("no panic under it");
                            if tally.by_worker.len() == 2 {
                                spread
                                    .iter_mut()
                                    .zip(&tally.by_worker)
                                    .for_each(|(sum, rows)| *sum += rows);
                            }
                            total.add(tally);
                        }
                        Err(story) => {
                            failed.lock().expect("no panic under it").get_or_insert(story);
                        }
                    }
                }
            });
        }
    });
    if let Some(story) = failed.into_inner().expect("no panic under it") {
        panic!("{story}");
    }
    total.into_inner().expect("no panic under it")
}

fn one(seed: u64, settings: Settings) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of our own");
    runtime.block_on(run(seed, settings))
}

/// Fails where the cases were too easy to mean anything.
fn is_meaningful(tally: &Tally, spread: &[u64]) {
    let percent = |part: usize, whole: usize| 100 * part / whole.max(1);
    assert!(spread.iter().all(|rows| *rows > 0), "rows missed a worker: {spread:?}");
    // Few keys, and groups without any, make for uneven shares; but all share.
    let (least, most) = (spread.iter().min(), spread.iter().max());
    assert!(
        most < least.map(|rows| 6 * rows).as_ref(),
        "one worker has the work: {spread:?}"
    );
    for name in aggregates::WRITTEN.iter().chain(&["mode", "ewma", "table function"]) {
        assert!(tally.kinds.contains_key(*name), "no view has {name}");
    }
    for (fault, kind) in FAULTS {
        assert!(
            tally.kinds.contains_key(kind),
            "no view has {kind}, where {fault:?} is planted"
        );
    }
    assert!(tally.closed > 0, "nothing is ever closed");
    assert!(
        tally.audited > 0 && tally.passed_over > 0,
        "audits compared {} rows of views that close, and passed over {}",
        tally.audited,
        tally.passed_over
    );
    let filled = percent(tally.pairs_filled, tally.pairs);
    // What `EXCEPT` and `NOT IN` leave is often nothing.
    assert!(filled >= 55, "only {filled} % of views at ticks have rows");
    let busy = percent(tally.operators_busy, tally.operators);
    assert!(busy >= 60, "only {busy} % of operators have anything to do");
    let refused = percent(tally.refused.len(), tally.refused.len() + tally.views);
    let some: Vec<&String> = tally.refused.iter().take(10).collect();
    assert!(
        refused <= 20,
        "{refused} % of the views made up are refused, such as {some:#?}"
    );
    let retracted = percent(tally.retracted, tally.retracted + tally.inserted);
    assert!(retracted >= 30, "only {retracted} % of what is sent are retractions");
    assert!(
        tally.late > 0 && tally.rejected > 0 && tally.failing_rows > 0 && tally.plain > 0 && tally.emptied > 0,
        "{tally:?}"
    );
}

/// Plants a bug and demands that the check finds it.
fn is_found(fault: Fault, kind: &'static str, first: u64) {
    let settings = Settings {
        ticks: TICKS,
        patience: Duration::from_secs(10),
        shrinks: None,
        needs: Some(kind),
    };
    plant(fault);
    let (mut seed, mut played, mut found) = (first, 0, None);
    while found.is_none() && played < CASES_FAULTY {
        let result = one(seed, settings);
        played += usize::from(result.as_ref().map_or(1, |tally| tally.views) > 0);
        found = result.err();
        seed += 1;
    }
    plant(Fault::None);
    let story = found.unwrap_or_else(|| panic!("the planted bug {fault:?} was not found in {played} cases"));
    println!(
        "{fault:?} was found in case {}, number {played} of those with {kind}: {}",
        seed - 1,
        story.lines().take(3).collect::<Vec<_>>().join(" ")
    );
}

/// A failure is told by a few rows and views.
fn is_made_small(first: u64) {
    let settings = Settings {
        ticks: TICKS,
        patience: Duration::from_secs(10),
        shrinks: Some(Duration::from_secs(60)),
        needs: Some("min"),
    };
    plant(Fault::StaleMinimum);
    let story = (first..first + CASES_FAULTY as u64).find_map(|seed| one(seed, settings).err());
    plant(Fault::None);
    let story = story.expect("this bug is found");
    let (_, small) = story.split_once("Made small:").expect("a case that was made small");
    println!("{small}");
    let views = small.matches("CREATE VIEW").count();
    let rows = small.matches("\n    (").count();
    assert!(
        views <= 2 && rows <= 8,
        "{views} views and {rows} rows are left:\n{small}"
    );
}
