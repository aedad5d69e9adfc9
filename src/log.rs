//! What survives: every tick is written down before anything of it is told, and now and then all that is retained.
//!
//! A `record` is what came in at one tick, or what was told of one; `codec` gives it bytes with a checksum. The
//! `store` keeps records in one file and commits some of them together, on the thread of the `writer`; the `outbox`
//! beside them is what sinks have still to deliver. A `checkpoint` is all that is retained as of one tick, in files of
//! `blocks`; once the store names it, the records before go. The `mark` says how far the log was safe. A `backup` is a
//! copy of log and checkpoint.
//!
//! Nothing here knows what a row means: what is written is handed back as it was.

mod backup;
mod blocks;
mod checkpoint;
mod codec;
mod error;
mod mark;
mod outbox;
mod record;
mod store;
mod writer;

pub use backup::Whole;
pub use checkpoint::{
    Checkpoint, FileRef, Keep, KeepSource, KeepView, Manifest, Part, Rows, SourceManifest, Stretch, ViewManifest,
};
pub use error::LogError;
pub use outbox::{Conflated, Conflation};
pub use record::{Entry, Outgoing, Record, TickRecord, Told, Transition};
pub use store::{FORMAT, Identity, LogStore};
pub use writer::{Durability, LogEvent, LogWriter, Named, OutboxDoor};
