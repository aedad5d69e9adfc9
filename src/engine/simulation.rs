//! The shipped coordinator under a clock, a storage and sources of our own: a seed decides in which order things
//! happen, when another deployment is to take the place of the one that runs, when the power goes, and how much of
//! what was not synced is left then.
//!
//! `life` is one run of it, `deployments` says what runs and what it must answer by the rows of the `ledger`; `world`
//! does things to it and compares: every view, whenever somebody looks, at the tick it is told at.
//!
//! After each crash, with the deployment that ran or the one that was to run, a new coordinator begins with what the
//! storage has. What was acknowledged must be there, what was not at most once after its reader has sent it again;
//! views must be those of the rows up to the position the reader goes on from, a follower must be able to go on from
//! its tick, and alerts must be told once.

mod deployments;
mod disk;
mod ledger;
mod life;
mod world;

use super::plants::{self, Plant};
use disk::Bug;
use world::World;

/// Steps of one seed.
const STEPS: usize = 300;

/// Seeds that are played. `SANGAM_SIMULATION_SEEDS` plays others.
const SEEDS: u64 = 100;

/// Seeds within which a planted bug must be found.
const FOUND_WITHIN: u64 = 10_000;

/// Plays a seed; says what was wrong.
fn play(seed: u64, bug: Bug, plant: Plant) -> Result<world::Seen, String> {
    plants::plant(plant);
    let outcome = std::panic::catch_unwind(|| World::new(seed, bug).play(STEPS));
    outcome.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        Err(said
            .or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()))
            .unwrap_or_default())
    })
}

#[test]
fn no_order_of_things_loses_or_doubles_anything() {
    let seeds = std::env::var("SANGAM_SIMULATION_SEEDS").ok();
    let seeds = match seeds.as_deref().map(|text| text.split_once("..")) {
        Some(Some((from, to))) => from.parse().expect("a seed")..to.parse().expect("a seed"),
        Some(None) => 0..seeds.expect("a text").parse().expect("a count of seeds"),
        None => 0..SEEDS,
    };
    let mut all = world::Seen::default();
    for seed in seeds {
        match play(seed, Bug::None, Plant::None) {
            Ok(seen) => all.add(seen),
            Err(wrong) => panic!(
                "seed {seed}: {wrong} (play it alone with SANGAM_SIMULATION_SEEDS={seed}..{})",
                seed + 1
            ),
        }
    }
    println!("{all:?}");
    assert!(all.is_everything(), "some things never happened: {all:?}");
}

#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::AcknowledgedBeforeSync,
        Bug::OffsetsApart,
        Bug::NamedBeforeComplete,
        Bug::ToldBeforeSync,
    ] {
        is_found(bug, Plant::None);
    }
}

#[test]
fn bugs_planted_in_what_is_shipped_are_found() {
    for plant in [
        Plant::RepliedWhenTaken,
        Plant::AlertsToldUnwritten,
        Plant::AlertsTakenForTheSame,
        Plant::SavedUnfinished,
        Plant::ReadBetweenTicks,
        Plant::NobodyWoken,
        Plant::TimerUnknown,
        Plant::NewcomersMissATick,
        Plant::NewcomersBehind,
        Plant::NewcomersAhead,
    ] {
        is_found(Bug::None, plant);
    }
}

fn is_found(bug: Bug, plant: Plant) {
    let found = (0..FOUND_WITHIN).find_map(|seed| play(seed, bug, plant).err().map(|wrong| (seed, wrong)));
    plants::plant(Plant::None);
    let what = format!("{bug:?} in the storage, {plant:?} in the engine");
    let (seed, wrong) = found.unwrap_or_else(|| panic!("{what}: not found within {FOUND_WITHIN} seeds"));
    println!("{what}: seed {seed}: {wrong}");
}
