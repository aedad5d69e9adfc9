//! Kafka, against a real broker (`broker`): a reader or a sink as the engine uses it.
mod broker;
mod changes;
mod groups;
mod reading;
mod security;
mod sink;
mod source;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::broker::Broker;
use crate::reading::Source;

/// The broker that tests share, unless they kill theirs.
fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(Broker::start)
}

/// A broker that one test at a time may kill; it runs when it is handed out.
fn mortal_broker() -> MutexGuard<'static, Broker> {
    static BROKER: OnceLock<Mutex<Broker>> = OnceLock::new();
    let broker = BROKER.get_or_init(|| Mutex::new(Broker::start()));
    let mut broker = broker.lock().unwrap_or_else(PoisonError::into_inner);
    if !broker.is_running() {
        broker.restart();
    }
    broker
}

/// A name that no other test uses.
fn fresh(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A source of rows `{"n": …}` from a topic; `options` are further lines of its connector.
fn numbers(broker: &Broker, topic: &str, options: &str) -> Source {
    let connector = format!(
        "type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"\n{options}",
        broker.address()
    );
    Source::new(&connector, "", &["n bigint!"])
}

/// Rows with these numbers.
fn rows_of(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("{{\"n\":{n}}}")).collect()
}
