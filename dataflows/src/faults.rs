//! Bugs to be planted by tests: a check is worth something only if it finds them.
//!
//! The switch is process-wide, off, and read once a batch.

use std::sync::atomic::{AtomicU8, Ordering};

/// A bug of a kind that engines really have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// No bug.
    None = 0,
    /// An aggregate passes over one retraction of a batch.
    LostRetraction,
    /// The exchange sends the first row of a batch twice.
    DoubledRow,
    /// `min` keeps a value that was taken back.
    StaleMinimum,
    /// An operator does not wait for its frontier.
    EarlyTick,
    /// A temporal filter forgets to let a row go.
    MissedExpiry,
    /// A join does not tell a row again once its key got its first partner, or lost its last.
    StalePresence,
    /// A temporal filter reads only the first of its alternatives.
    ForgottenAlternative,
    /// `unnest` passes over the last element of a batch.
    ShortList,
    /// `DISTINCT` in an aggregate forgets a value although another row still has it.
    ForgottenValue,
    /// A window does not take back the last of the rows it tells anew.
    StaleWindow,
    /// A recursion keeps what followed from a row that was taken back.
    StaleReach,
    /// `median` keeps a value that was taken back.
    StaleMedian,
    /// `bool_and` and its kin keep a value that was taken back.
    StaleTruth,
    /// A union, such as that of grouping sets, leaves its last input out.
    LostGroupingSet,
    /// What several dataflows read is handed to all of them but the last.
    ForgottenReader,
    /// A table function does not take back the last of the rows it tells anew.
    StaleTable,
    /// A window function that continues from the row before starts afresh.
    LostState,
    /// A closed bucket still takes changes.
    ReopenedBucket,
    /// A join by time passes over the last pair of a batch.
    MissedPair,
    /// One of the groups whose time is over stays.
    StayingGroup,
    /// Of rows that are equal one is told, and the others are forgotten.
    ForgottenTwin,
}

static PLANTED: AtomicU8 = AtomicU8::new(Fault::None as u8);

/// Plants a bug in every operator of this process, or removes it ([`Fault::None`]).
#[doc(hidden)]
pub fn plant(fault: Fault) {
    PLANTED.store(fault as u8, Ordering::SeqCst);
}

pub(crate) fn active(fault: Fault) -> bool {
    PLANTED.load(Ordering::Relaxed) == fault as u8
}
