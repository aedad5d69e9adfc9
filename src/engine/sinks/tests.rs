//! Sinks by hand: ticks come, attempts fail in every way, what waits is merged, the program dies; and whatever order
//! these come in, the other side ends with what the view holds.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use connectors::{Delivery, Sink, SinkError, SinkSetting};
use dataflows::{Tick, Updates};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::conflating::{Conflating, choose, net_by_key};
use super::{SinkState, Sinks};
use crate::config::{SinkDef, WhenFull};
use crate::engine::plants::{self, Plant};
use crate::log::{Durability, LogStore, LogWriter, OutboxDoor, Outgoing, Record, Told};

/// Keys of the view: few, so that each comes and goes often.
const KEYS: i64 = 12;

/// Ticks that may wait.
const WAITING_TICKS_MAX: usize = 8;

/// What happens in one world.
const STEPS: usize = 160;

/// Worlds for each promise.
const SEEDS: u64 = 6;

fn schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![field("key"), field("value")]))
}

fn batch(rows: &[(i64, i64, i64)]) -> (RecordBatch, Vec<i64>) {
    let keys = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let values = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let rows_of = RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(values)]).unwrap();
    (rows_of, rows.iter().map(|row| row.2).collect())
}

fn triples(rows: &RecordBatch, diffs: &[i64]) -> Vec<(i64, i64, i64)> {
    let column = |place: usize| rows.column(place).as_primitive::<Int64Type>().values();
    let rows = column(0).iter().zip(column(1)).zip(diffs);
    rows.map(|((key, value), diff)| (*key, *value, *diff)).collect()
}

/// What the view holds, by the test's own books.
#[derive(Clone, Debug, Default, PartialEq)]
struct Ledger(BTreeMap<i64, i64>);

impl Ledger {
    /// Lets some keys come, change and go; returns what changed.
    fn change(&mut self, random: &mut Pcg64Mcg) -> Vec<(i64, i64, i64)> {
        let mut rows = Vec::new();
        let first = random.random_range(0..KEYS);
        for key in first..first + random.random_range(1..4) {
            let old = self.0.get(&key).copied();
            let new = random.random_bool(0.6).then(|| random.random_range(0..4));
            if old == new {
                continue;
            }
            rows.extend(new.map(|new| (key, new, 1)));
            rows.extend(old.map(|old| (key, old, -1)));
            match new {
                Some(new) => self.0.insert(key, new),
                None => self.0.remove(&key),
            };
        }
        rows
    }

    /// Returns what leads from one state to another.
    fn to(&self, after: &Ledger) -> Vec<(i64, i64, i64)> {
        let gone = self.0.iter().filter(|(key, value)| after.0.get(key) != Some(value));
        let come = after.0.iter().filter(|(key, value)| self.0.get(key) != Some(value));
        let mut rows: Vec<(i64, i64, i64)> = gone.map(|(key, value)| (*key, *value, -1)).collect();
        rows.extend(come.map(|(key, value)| (*key, *value, 1)));
        rows.sort_unstable();
        rows
    }
}

#[test]
fn a_net_change_leads_from_the_state_before_to_the_one_after() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut ledger = Ledger::default();
        for _ in 0..random.random_range(0..20) {
            ledger.change(&mut random);
        }
        let before = ledger.clone();
        let ticks: Vec<Updates> = (0..random.random_range(1..40))
            .map(|_| {
                let (rows, diffs) = batch(&ledger.change(&mut random));
                Updates::new(rows, diffs)
            })
            .collect();
        let whole = net_by_key(&ticks, &[0]);
        let told = |change: &Option<(RecordBatch, Vec<i64>)>| {
            let mut rows = change.as_ref().map_or(Vec::new(), |(rows, diffs)| triples(rows, diffs));
            rows.sort_unstable();
            rows
        };
        assert_eq!(told(&whole), before.to(&ledger));
        // In two steps as in one.
        let (some, others) = ticks.split_at(random.random_range(0..=ticks.len()));
        let mut again: Vec<Updates> = Vec::new();
        again.extend(net_by_key(some, &[0]).map(|(rows, diffs)| Updates::new(rows, diffs)));
        again.extend(others.iter().cloned());
        assert_eq!(told(&net_by_key(&again, &[0])), before.to(&ledger));
    }
}

#[test]
fn large_ticks_are_merged_when_as_much_has_come_after_them() {
    let sizes = |bytes: &[usize]| -> Vec<(Tick, usize)> { (1..).zip(bytes.iter().copied()).collect() };
    let mega = 1 << 20;
    assert_eq!(choose(&[]), None);
    assert_eq!(choose(&sizes(&[10])), None);
    assert_eq!(choose(&sizes(&[10, 10])), Some(1..=2));
    assert_eq!(choose(&sizes(&[mega, 10])), None);
    assert_eq!(choose(&sizes(&[mega, 10, 10])), Some(2..=3));
    assert_eq!(choose(&sizes(&[mega, mega / 2, mega / 2])), Some(1..=3));
    assert_eq!(choose(&sizes(&[10, 100 * mega, 10, 10])), Some(1..=2));
    assert_eq!(choose(&sizes(&[10 * mega, 5 * mega, 10 * mega, 10])), Some(1..=2));
}

/// How the other side remembers what it was told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Promise {
    /// Rows by key: what is told again changes nothing.
    AtLeastOnce,
    /// Rows by key and the newest tick, in one write.
    ExactlyOnce,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Taken,
    Refused,
    /// Some of it is taken, where that can be.
    Half,
    /// All of it is taken, and nobody hears.
    Unheard,
}

/// The other side.
struct Other {
    promise: Promise,
    rows: Ledger,
    newest: Option<Tick>,
    fate: Fate,
    store: PathBuf,
    told: usize,
}

impl Other {
    /// Takes what is told of one key.
    fn take(&mut self, key: i64, rows: &[(i64, i64)]) {
        let came = rows.iter().find(|(_, diff)| *diff > 0);
        if self.promise == Promise::ExactlyOnce {
            // Told once, and in order, each change goes on from where the last has led.
            let goes = rows.iter().find(|(_, diff)| *diff < 0).map(|(value, _)| *value);
            assert_eq!(self.rows.0.get(&key).copied(), goes, "what key {key} was before");
        }
        match came {
            Some((value, _)) => self.rows.0.insert(key, *value),
            None => self.rows.0.remove(&key),
        };
        self.told += 1;
    }
}

impl Sink for Other {
    fn delivered(&mut self) -> Result<Option<u64>, SinkError> {
        match self.fate {
            Fate::Refused => Err(SinkError::Retry("it is down".to_owned())),
            _ => Ok(self.newest),
        }
    }

    fn deliver(&mut self, deliveries: &[Delivery]) -> Result<(), SinkError> {
        // What is found if the program dies in this attempt.
        std::fs::copy(&self.store, self.store.with_extension("copy")).unwrap();
        let keys: Vec<(i64, Vec<(i64, i64)>)> = deliveries
            .iter()
            .filter(|delivery| self.newest.is_none_or(|newest| delivery.tick > newest))
            .flat_map(|delivery| {
                let mut keys: HashMap<i64, Vec<(i64, i64)>> = HashMap::new();
                for (key, value, diff) in triples(&delivery.rows, &delivery.diffs) {
                    keys.entry(key).or_default().push((value, diff));
                }
                keys
            })
            .collect();
        let some = match (self.fate, self.promise) {
            (Fate::Taken | Fate::Unheard, _) => keys.len(),
            (Fate::Half, Promise::AtLeastOnce) => keys.len() / 2,
            _ => 0,
        };
        keys[..some].iter().for_each(|(key, rows)| self.take(*key, rows));
        if self.promise == Promise::ExactlyOnce && matches!(self.fate, Fate::Taken | Fate::Unheard) {
            self.newest = self.newest.max(deliveries.last().map(|delivery| delivery.tick));
        }
        match self.fate {
            Fate::Taken => Ok(()),
            _ => Err(SinkError::Retry("it is down".to_owned())),
        }
    }
}

/// A program's part of the world: it ends, and another begins.
struct Program {
    sinks: Sinks,
    state: Arc<SinkState>,
    store: Arc<LogStore>,
    // The writer ends once all doors to it are closed.
    conflating: Conflating,
    outbox: OutboxDoor,
    writer: LogWriter,
    after: Option<Tick>,
    is_honest: bool,
}

impl Program {
    fn start(data: &Path, is_honest: bool) -> Program {
        let connector = "type = \"kafka\"\nbrokers = \"127.0.0.1:1\"\ntopic = \"t\"";
        let definition = SinkDef {
            name: "out".to_owned(),
            from: "latest".to_owned(),
            waiting_ticks_max: WAITING_TICKS_MAX,
            when_full: WhenFull::Conflate,
            connector: toml::from_str(connector).unwrap(),
            setting: SinkSetting {
                name: "out".to_owned(),
                deployment: "d".to_owned(),
                schema: schema(),
                key: Some(vec![0]),
            },
        };
        let (sinks, delivering) = Sinks::new(&[definition]);
        let state = Arc::clone(&delivering.sinks[0].state);
        let store = Arc::new(LogStore::open(data).unwrap());
        state.find(&store).unwrap();
        let next = store.extent().unwrap().map_or(1, |(_, last, _)| last + 1);
        let (events, _) = crossbeam_channel::unbounded();
        let writer = LogWriter::start(Arc::clone(&store), next, Durability::Sync, events).unwrap();
        let outbox = writer.outbox("out".into());
        let conflating = Conflating::new(Arc::clone(&state), Arc::clone(&store), outbox.clone());
        Program {
            sinks,
            state,
            store,
            conflating,
            outbox,
            writer,
            after: None,
            is_honest,
        }
    }

    fn tell(&mut self, tick: Tick, rows: &[(i64, i64, i64)]) {
        let (rows, diffs) = batch(rows);
        self.sinks.add("out");
        self.writer.append(Record::Told(Told {
            tick,
            transitions: Vec::new(),
            outgoing: vec![Outgoing {
                sink: "out".into(),
                rows,
                diffs,
            }],
        }));
        self.writer.settle();
    }

    fn deliver(&mut self, other: &mut Other) -> Result<bool, SinkError> {
        let told = self.state.deliver(other, &self.store, &self.outbox, &mut self.after);
        self.writer.settle();
        told
    }

    /// Merges as its thread does; then as much waits as may, and what is counted is there.
    fn merge(&mut self) {
        while self.state.has_much() && self.conflating.merge().unwrap() {}
        if !self.is_honest {
            // A planted bug is to be found by what the other side is told.
            return;
        }
        let length = |ticks| self.store.outbox_length("out", ticks).unwrap().0;
        let status = &self.sinks.status()[0];
        let through = self.state.tried().through;
        let (tried, untried) = (length(0..=through), length(through + 1..=Tick::MAX));
        assert_eq!(status.waiting, tried + untried);
        assert_eq!(self.state.untried.load(std::sync::atomic::Ordering::Relaxed), untried);
        assert!(
            untried < WAITING_TICKS_MAX,
            "{untried} ticks wait that were never tried, and {tried} that were"
        );
        assert!(!self.sinks.is_full());
        let all = self
            .store
            .outbox("out", 0..=Tick::MAX, (usize::MAX, usize::MAX))
            .unwrap();
        for (tick, outgoing) in all {
            // A key says at most which row goes and which comes.
            assert!(
                outgoing.diffs.len() as i64 <= 2 * (KEYS + 4),
                "tick {tick}: {outgoing:?}"
            );
        }
    }
}

/// What happened in a world.
#[derive(Debug, Default)]
struct Seen {
    ticks: u64,
    told: usize,
    conflated: u64,
    crashes: usize,
    lost: usize,
}

/// Lets a world happen; panics where the other side ends otherwise than the view.
fn play(seed: u64, promise: Promise, plant: Plant) -> Seen {
    plants::plant(plant);
    let is_honest = plant == Plant::None;
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let data = tempfile::tempdir().unwrap();
    let store = data.path().join("log.redb");
    let mut program = Program::start(data.path(), is_honest);
    let mut ledger = Ledger::default();
    let mut other = Other {
        promise,
        rows: Ledger::default(),
        newest: None,
        fate: Fate::Taken,
        store: store.clone(),
        told: 0,
    };
    let mut seen = Seen::default();
    let mut is_up = true;
    for _ in 0..STEPS {
        if random.random_bool(0.04) {
            is_up = !is_up;
        }
        match random.random_range(0..20) {
            0..12 => {
                let rows = ledger.change(&mut random);
                if !rows.is_empty() {
                    seen.ticks += 1;
                    program.tell(seen.ticks, &rows);
                    // Its thread may be late.
                    if random.random_bool(0.9) {
                        program.merge();
                    }
                }
            }
            12..18 => {
                let fates = [Fate::Refused, Fate::Half, Fate::Unheard];
                other.fate = match is_up {
                    true => Fate::Taken,
                    false => fates[random.random_range(0..3)],
                };
                let told = program.deliver(&mut other);
                assert!(told.is_ok() || !is_up);
            }
            18 => program.merge(),
            _ => {
                seen.crashes += 1;
                let dies_telling = random.random_bool(0.5);
                let mut told = false;
                if dies_telling {
                    other.fate = [Fate::Taken, Fate::Half, Fate::Unheard][random.random_range(0..3)];
                    let _ = std::fs::remove_file(store.with_extension("copy"));
                    let _ = program.deliver(&mut other);
                    told = store.with_extension("copy").exists();
                }
                drop(program);
                if told {
                    // Whatever was written since the attempt began is gone.
                    seen.lost += 1;
                    std::fs::copy(store.with_extension("copy"), &store).unwrap();
                }
                program = Program::start(data.path(), is_honest);
            }
        }
    }
    other.fate = Fate::Taken;
    while program.deliver(&mut other).unwrap() {}
    assert_eq!(other.rows, ledger, "what the other side ends with");
    assert_eq!(program.store.outbox_length("out", 0..=Tick::MAX).unwrap().0, 0);
    seen.conflated = program.sinks.status()[0].conflated;
    seen.told = other.told;
    seen
}

#[test]
fn the_other_side_ends_with_what_the_view_holds() {
    for promise in [Promise::AtLeastOnce, Promise::ExactlyOnce] {
        let (mut conflated, mut lost) = (0, 0);
        for seed in 0..SEEDS {
            let seen = play(seed, promise, Plant::None);
            println!("{promise:?}, seed {seed}: {seen:?}");
            conflated += seen.conflated;
            lost += seen.lost;
        }
        assert!(conflated > 100 && lost > 5, "too little happened");
    }
}

#[test]
fn bugs_planted_in_merging_are_found() {
    let cases = [
        (Plant::MergedAfterTried, Promise::AtLeastOnce),
        (Plant::MergedAfterTried, Promise::ExactlyOnce),
        (Plant::MergedWithoutWhatGoes, Promise::AtLeastOnce),
        (Plant::MergedWithoutWhatGoes, Promise::ExactlyOnce),
    ];
    for (plant, promise) in cases {
        let found = (0..64).find_map(|seed| {
            let wrong = catch_unwind(AssertUnwindSafe(|| play(seed, promise, plant))).err()?;
            Some((seed, wrong.downcast_ref::<String>().cloned().unwrap_or_default()))
        });
        plants::plant(Plant::None);
        let (seed, wrong) = found.unwrap_or_else(|| panic!("{plant:?} was not found"));
        println!("{plant:?}, {promise:?}: seed {seed}: {wrong}");
        assert!(
            wrong.contains("ends with") || wrong.contains("was before"),
            "{plant:?}: {wrong}"
        );
    }
}
