//! Bugs that the simulation plants in what is shipped, to see that it finds them. Outside of tests there are none.

/// A bug of a kind that engines really have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plant {
    #[cfg(test)]
    None,
    /// Rows are acknowledged when they are taken, not when the log has them.
    RepliedWhenTaken,
    /// Alerts are told before the record of it can be lost no more.
    AlertsToldUnwritten,
    /// After a start, alerts are taken to be those that ran before.
    AlertsTakenForTheSame,
    /// A checkpoint is taken while ticks are unfinished.
    SavedUnfinished,
    /// A relation is read at a tick that was never cut.
    ReadBetweenTicks,
    /// What is told once it can be lost no more wakes nobody who waits for it.
    NobodyWoken,
    /// A timer is forgotten that falls due while its dataflow has not answered.
    TimerUnknown,
    /// New dataflows are thought to be filled with newer rows than they are: a tick passes them by.
    NewcomersMissATick,
    /// New dataflows take their places before they have caught up.
    NewcomersBehind,
    /// New dataflows take their places while others have ticks that nobody may see yet.
    NewcomersAhead,
    /// Ticks that wait for a sink give way to their net change although they were tried.
    MergedAfterTried,
    /// Of rows that are gone after some ticks, their net change says nothing.
    MergedWithoutWhatGoes,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Plant> = const { std::cell::Cell::new(Plant::None) };
}

/// Plants a bug in what this thread does, or removes it ([`Plant::None`]).
#[cfg(test)]
pub(super) fn plant(plant: Plant) {
    PLANTED.set(plant);
}

/// Tells whether a bug is planted.
#[cfg(test)]
pub(super) fn is_planted(plant: Plant) -> bool {
    PLANTED.get() == plant
}

/// Tells whether a bug is planted: never, outside of tests.
#[cfg(not(test))]
pub(super) const fn is_planted(_plant: Plant) -> bool {
    false
}
