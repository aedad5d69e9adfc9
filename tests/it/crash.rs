//! Killed and cut off from power, again and again: what was acknowledged is there, once.
//!
//! `powercut.c` is preloaded into the program: a disk whose power can be cut (`disk`), on which calls fail and
//! processes die at exact points (`points`); `layer` tests that this disk can be believed. `deployment` is what runs,
//! `load` posts to it without pause, `follow` and `alerts` take down what it tells, `books` knows what is right, and
//! `rounds` kills it and compares; where history is in a bucket, a `gate` stands before that. `disasters` are the single
//! ones: no space left, syncs that fail, bytes that are not what they were.
//!
//! `SANGAM_CRASH_KILLS` says how many kills each campaign has (24), `SANGAM_CRASH_SEED` draws other points (1).
mod alerts;
mod books;
mod deployment;
mod disasters;
mod disk;
mod follow;
mod gate;
mod layer;
mod load;
mod points;
mod rounds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use deployment::Clock;
use disk::Cut;
use gate::{At, Gate, Trap};
use points::{Plan, REQUIRED};
use rounds::Campaign;

use crate::history::bucket::Server;

const KILLS: usize = 24;

#[test]
fn nothing_is_lost_or_doubled_by_the_machines_clock() {
    campaign(Clock::Wall);
}

#[test]
fn nothing_is_lost_or_doubled_by_the_clock_of_the_rows() {
    campaign(Clock::Event);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn campaign(clock: Clock) {
    let seed = number("SANGAM_CRASH_SEED").unwrap_or(1);
    let kills = number("SANGAM_CRASH_KILLS").map_or(KILLS, |kills| kills as usize);
    println!("{kills} kills under the {clock:?} clock, SANGAM_CRASH_SEED={seed}");
    let started = Instant::now();
    let mut campaign = Campaign::new(seed, clock);
    campaign.play(kills);
    let tally = &campaign.tally;
    println!("{:.0?}: {tally:#?}", started.elapsed());
    for phase in REQUIRED {
        assert!(
            tally.phases.contains_key(phase),
            "no kill fell into {phase:?}: {:?}",
            tally.phases
        );
    }
    assert!(
        tally.cuts * 4 > kills,
        "only {} of {kills} with a power cut",
        tally.cuts
    );
    assert!(tally.lost.pages > 0, "no power cut took anything");
    assert!(
        tally.missed.len() * 2 < kills,
        "these points never came: {:#?}",
        tally.missed
    );
    let (asked, resumed) = tally.resumed;
    assert!(
        resumed * 4 > asked,
        "only {resumed} of {asked} subscriptions went on by their token"
    );
    assert!(
        tally.posts > kills * 10 && tally.transitions > kills && tally.retries > 0 && tally.rows > tally.checks * 50,
        "too little happened"
    );
    let (audited, passed_over) = tally.audited;
    assert!(
        audited > 0 && passed_over > 0,
        "audits compared {audited} rows, and passed over {passed_over}"
    );
    let slowest = tally.start_ms.iter().max();
    assert!(slowest < Some(&20_000), "a start of so few rows took {slowest:?} ms");
}

/// The same with history in a bucket, whose server goes away now and then, with kills wherever a file is on its way there.
#[test]
fn history_in_a_bucket_is_neither_lost_nor_doubled() {
    let Some(server) = Server::start() else { return };
    server.make_bucket("sangam");
    let gate = Gate::before(&server.address);
    let seed = number("SANGAM_CRASH_SEED").unwrap_or(1);
    println!("history in a bucket, SANGAM_CRASH_SEED={seed}");
    let started = Instant::now();
    let mut campaign = Campaign::with(seed, Clock::Event, Some(("s3://sangam/crash", gate.clone())));
    let endpoint = format!("http://{}", gate.address);
    for (name, value) in [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ] {
        campaign.variables.push((name.to_owned(), value.to_owned()));
    }
    let at = |method, word, others, at| {
        Plan::Requesting(Trap {
            method,
            word,
            others,
            at,
        })
    };
    for (plan, cut) in [
        (at("PUT", "/finished/", 1, At::Before), None),
        (at("PUT", "/readings/", 2, At::Half), None),
        (at("PUT", "/running/", 1, At::After), Some(Cut::Clean)),
        (at("PUT", "merged", 0, At::Half), None),
        (at("PUT", "merged", 0, At::After), Some(Cut::Clean)),
        (Plan::Deserted, None),
        (at("POST", "delete", 0, At::Before), None),
        (Plan::Stranded, None),
    ] {
        campaign.round(&plan, cut);
    }
    // Nobody could read what is there.
    let mut program = campaign.spawn(None);
    let refused = program.ready().expect_err("it started without its history");
    let said = program.said();
    assert!(!refused.success() && said.contains("s3://sangam/crash"), "{said}");
    gate.open();
    campaign.round(&Plan::LoadedFor(300), None);
    campaign.end();
    let verified = campaign.verify();
    assert!(verified.contains("rows of history"), "{verified}");
    let tally = &campaign.tally;
    println!("{:.0?}: {tally:#?}\n{verified}", started.elapsed());
    assert_eq!(tally.missed, [""; 0], "these points never came");
    let (audited, passed_over) = tally.audited;
    assert!(
        audited > 0 && passed_over > 0,
        "audits compared {audited} rows, and passed over {passed_over}"
    );
}

/// An engine that acknowledges before its log is safe: what its syncs do is nothing.
#[test]
fn rows_acknowledged_before_they_are_safe_are_found_missing() {
    let mut campaign = Campaign::new(1, Clock::Event);
    campaign
        .variables
        .push(("POWERCUT_IGNORE".to_owned(), "log.redb".to_owned()));
    let found = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..4 {
            campaign.round(&Plan::LoadedFor(300), Some(Cut::Clean));
        }
    }));
    let story = found.expect_err("nobody noticed that acknowledged rows are gone");
    let story = story.downcast_ref::<String>().expect("what was found");
    println!("it is told by: {}", story.lines().next().unwrap_or_default());
}
