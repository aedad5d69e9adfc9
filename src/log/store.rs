//! The file that holds the log: records by number, the schemas of their rows, and what is known by name.
//!
//! One transaction of the store is one write: all of it is there after a crash, or none.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use dataflows::Tick;
use redb::{Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Manifest};
use super::codec::{self, Compress, Encoder};
use super::error::LogError;
use super::mark::Mark;
use super::record::{Record, Schemas, Told};

/// The version of the data folder's format: 2 since there is history beside it. Folders of version 1 become such when
/// they are opened.
pub const FORMAT: u32 = 2;

/// The oldest version that is read.
const FORMAT_MIN: u32 = 1;

/// The store's file in the data folder.
pub(super) const FILE: &str = "log.redb";

/// Memory for pages of the store; what is written is mostly never read again.
const CACHE_BYTES: usize = 32 << 20;

pub(super) const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
pub(super) const SCHEMAS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("schemas");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const OUTBOX: TableDefinition<'_, (&str, Tick), &[u8]> = TableDefinition::new("outbox");

/// What a data folder is, from its beginning on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The version of its format.
    pub format: u32,
    /// A number that no other data folder shares.
    pub incarnation: u64,
    /// When the deployment first started, in microseconds since 1970.
    pub started_us: i64,
}

/// An open data folder.
pub struct LogStore {
    path: PathBuf,
    database: Database,
    identity: Identity,
    mark: Mark,
    /// The newest record that was written.
    newest: AtomicU64,
}

/// What is written at once.
#[derive(Default)]
pub(super) struct Write {
    /// Records with their numbers.
    pub(super) records: Vec<(u64, Vec<u8>)>,
    /// Schemas that are new.
    pub(super) schemas: Vec<(u64, Vec<u8>)>,
    /// What is known by name from now on.
    pub(super) meta: Vec<(Cow<'static, str>, Vec<u8>)>,
    /// Records of smaller numbers go.
    pub(super) forget_below: Option<u64>,
    /// What sinks are to deliver: sink, tick, a record's bytes.
    pub(super) outgoing: Vec<(Arc<str>, Tick, Vec<u8>)>,
    /// Up to which tick sinks have delivered.
    pub(super) delivered: Vec<(Arc<str>, Tick)>,
    /// What gives way to less in the outboxes.
    pub(super) replaced: Vec<Replaced>,
}

/// Ticks of a sink's outbox, from the first to the last, that give way to one entry at the last, or to none.
pub(super) struct Replaced {
    pub(super) sink: Arc<str>,
    pub(super) ticks: RangeInclusive<Tick>,
    pub(super) bytes: Option<Vec<u8>>,
}

impl LogStore {
    /// Opens the data folder, or makes one.
    ///
    /// # Errors
    /// When another program has it open, it is of an unknown format, or damaged, or cannot be written.
    pub fn open(dir: &Path) -> Result<LogStore, LogError> {
        make_folder(dir)?;
        let path = dir.join(FILE);
        if !path.exists() {
            create(dir, &path)?;
        }
        // A damaged page may meet an assertion in the store rather than an error.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| open(&path)));
        let database = match opened {
            Ok(database) => database?,
            Err(_) => return Err(LogError::damaged(&path, "its pages do not fit together")),
        };
        let mark = Mark::open(dir)?;
        // Whoever made the file may have died before its name was safe.
        sync_folder(dir)?;
        let mut store = LogStore {
            path,
            database,
            identity: Identity {
                format: FORMAT,
                incarnation: 0,
                started_us: 0,
            },
            mark,
            newest: AtomicU64::new(0),
        };
        match store.meta::<Identity>("identity")? {
            Some(identity) if !(FORMAT_MIN..=FORMAT).contains(&identity.format) => {
                return Err(LogError::Format {
                    path: dir.to_owned(),
                    found: identity.format,
                    known: FORMAT,
                });
            }
            Some(identity) if identity.format == FORMAT => store.identity = identity,
            Some(identity) => store.identify(Identity {
                format: FORMAT,
                ..identity
            })?,
            None => store.begin()?,
        }
        let newest = store.last()?;
        if let Some(safe) = store.mark.read()?.filter(|safe| *safe > newest) {
            let what = format!("it held records up to {safe}, and now they end at {newest}");
            return Err(LogError::damaged(&store.path, what));
        }
        store.newest = AtomicU64::new(newest);
        Ok(store)
    }

    /// Gives a new folder its identity.
    fn begin(&mut self) -> Result<(), LogError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let started_us = now.map_or(0, |since| since.as_micros() as i64);
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), started_us);
        self.identify(Identity {
            format: FORMAT,
            incarnation: random,
            started_us,
        })
    }

    fn identify(&mut self, identity: Identity) -> Result<(), LogError> {
        self.identity = identity;
        let bytes = json(&self.identity);
        self.write(
            Write {
                meta: vec![("identity".into(), bytes)],
                ..Write::default()
            },
            true,
        )
    }

    /// Returns what the folder is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the name by which its history knows it.
    pub fn owner(&self) -> String {
        format!("{:016x}", self.identity.incarnation)
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what is known by a name.
    ///
    /// # Errors
    /// When the file cannot be read, or does not hold what was written.
    pub fn meta<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, LogError> {
        let fault = |error: redb::Error| LogError::redb("read", &self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let table = transaction.open_table(META).map_err(|error| fault(error.into()))?;
        let Some(value) = table.get(name).map_err(|error| fault(error.into()))? else {
            return Ok(None);
        };
        let value = checked(value.value());
        value
            .map(Some)
            .map_err(|what| LogError::damaged(&self.path, format!("its entry \"{name}\": {what}")))
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Returns the number of the first record and that of the last, if there are any, and their bytes in all.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn extent(&self) -> Result<Option<(u64, u64, u64)>, LogError> {
        let fault = |error: redb::Error| LogError::redb("read", &self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| fault(error.into()))?;
        let (mut ends, mut bytes) = (None::<(u64, u64)>, 0);
        for entry in table.range::<u64>(..).map_err(|error| fault(error.into()))? {
            let (number, value) = entry.map_err(|error| fault(error.into()))?;
            let number = number.value();
            ends = Some((ends.map_or(number, |(first, _)| first), number));
            bytes += value.value().len() as u64;
        }
        Ok(ends.map(|(first, last)| (first, last, bytes)))
    }

    fn each<E: From<LogError>>(
        &self,
        (from, below): (u64, u64),
        is_wanted: impl Fn(&[u8]) -> bool,
        mut take: impl FnMut(u64, Record, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let fault = |error: redb::Error| LogError::redb("read", &self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| fault(error.into()))?;
        let mut schemas = StoredSchemas::open(&transaction).map_err(&fault)?;
        let entries = table.range(from..below).map_err(|error| fault(error.into()))?;
        for (expected, entry) in (from..).zip(entries) {
            let (number, value) = entry.map_err(|error| fault(error.into()))?;
            let number = number.value();
            if number != expected {
                let what = format!("record {expected} is missing, the next is {number}");
                return Err(LogError::damaged(&self.path, what).into());
            }
            let bytes = value.value();
            if !is_wanted(bytes) {
                continue;
            }
            let record = Record::decode(bytes, &mut schemas)
                .map_err(|what| LogError::damaged(&self.path, format!("record {number}: {what}")))?;
            take(number, record, bytes.len())?;
        }
        Ok(())
    }

    /// Hands every record from number `from` on that says what was told.
    ///
    /// # Errors
    /// When the file cannot be read, or a record is damaged.
    pub fn replay_told(&self, from: u64, mut take: impl FnMut(Told)) -> Result<(), LogError> {
        self.each(
            (from, u64::MAX),
            Record::is_told,
            |_, record, _| -> Result<(), LogError> {
                if let Record::Told(told) = record {
                    take(told);
                }
                Ok(())
            },
        )
    }

    /// Hands every record from number `from` on, in their order, with its number and its bytes' length.
    ///
    /// # Errors
    /// When the file cannot be read, a record is damaged, or one is missing; and whatever `take` fails with.
    pub fn replay<E: From<LogError>>(
        &self,
        from: u64,
        take: impl FnMut(u64, Record, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each((from, u64::MAX), |_| true, take)
    }

    /// Hands every record from number `from` on that says what came in, and before number `below`.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub fn replay_some<E: From<LogError>>(
        &self,
        from: u64,
        below: u64,
        mut take: impl FnMut(u64, Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let is_wanted = |bytes: &[u8]| !Record::is_told(bytes);
        self.each((from, below), is_wanted, |number, record, _| take(number, record))
    }

    /// Writes all of it in one transaction; with `sync` it survives a power cut once this returns.
    pub(super) fn write(&self, write: Write, sync: bool) -> Result<(), LogError> {
        let numbers = write.records.iter().map(|(number, _)| *number);
        let newest = numbers.max().unwrap_or(0);
        self.transact(write, sync)
            .map_err(|error| LogError::redb("write", &self.path, error))?;
        let newest = newest.max(self.newest.fetch_max(newest, Ordering::Relaxed));
        match sync {
            true => self.mark.write(newest),
            false => Ok(()),
        }
    }

    /// Returns the number of the oldest record, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn first(&self) -> Result<Option<u64>, LogError> {
        let fault = |error: redb::Error| LogError::redb("read", &self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| fault(error.into()))?;
        let first = table.first().map_err(|error| fault(error.into()))?;
        Ok(first.map(|(number, _)| number.value()))
    }

    /// Returns the number of the newest record; 0 before the first.
    fn last(&self) -> Result<u64, LogError> {
        let fault = |error: redb::Error| LogError::redb("read", &self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let table = transaction.open_table(RECORDS).map_err(|error| fault(error.into()))?;
        let last = table.last().map_err(|error| fault(error.into()))?;
        if let Some((number, _)) = last {
            return Ok(number.value());
        }
        let manifest = self.meta::<Manifest>("checkpoint")?;
        Ok(manifest.map_or(0, |manifest| manifest.log_from.saturating_sub(1)))
    }

    fn transact(&self, write: Write, sync: bool) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        let durability = match sync {
            true => redb::Durability::Immediate,
            false => redb::Durability::None,
        };
        transaction.set_durability(durability)?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            for (number, bytes) in &write.records {
                records.insert(number, bytes.as_slice())?;
            }
            if let Some(first) = write.forget_below {
                records.retain_in(..first, |_, _| false)?;
            }
            let mut schemas = transaction.open_table(SCHEMAS)?;
            for (number, bytes) in &write.schemas {
                schemas.insert(number, bytes.as_slice())?;
            }
            let mut meta = transaction.open_table(META)?;
            for (name, bytes) in write.meta {
                let mut bytes = bytes;
                bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
                meta.insert(&*name, bytes.as_slice())?;
            }
            let mut outbox = transaction.open_table(OUTBOX)?;
            for (sink, tick, bytes) in &write.outgoing {
                outbox.insert((&**sink, *tick), bytes.as_slice())?;
            }
            for Replaced { sink, ticks, bytes } in &write.replaced {
                let (first, last) = (*ticks.start(), *ticks.end());
                outbox.retain_in((&**sink, first)..=(&**sink, last), |_, _| false)?;
                if let Some(bytes) = bytes {
                    outbox.insert((&**sink, last), bytes.as_slice())?;
                }
            }
            for (sink, tick) in &write.delivered {
                outbox.retain_in((&**sink, 0)..=(&**sink, *tick), |_, _| false)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Reads a value that stands before its checksum.
pub(super) fn checked<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (bytes, checksum) = bytes.split_last_chunk::<4>().ok_or("it is cut off")?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*checksum) {
        return Err("its checksum does not match".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read: {error}"))
}

/// Makes the file under another name first: half of one is none.
fn create(dir: &Path, path: &Path) -> Result<(), LogError> {
    if checkpoint::exists(dir) || Mark::exists(dir) {
        return Err(LogError::damaged(
            path,
            "the file is missing, and others that go with it are not",
        ));
    }
    let made = path.with_extension("new");
    match std::fs::remove_file(&made) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(LogError::io("remove", &made, error)),
        _ => {}
    }
    let created = Builder::new().create(&made);
    drop(created.map_err(|error| LogError::redb("create", &made, error))?);
    std::fs::rename(&made, path).map_err(|error| LogError::io("rename", &made, error))?;
    sync_folder(dir)
}

/// Opens the file; what a crash left half done is undone.
fn open(path: &Path) -> Result<Database, LogError> {
    let fault = |error: redb::DatabaseError| LogError::redb("open", path, error);
    let repaired = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&repaired);
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder.set_repair_callback(move |_| seen.store(true, std::sync::atomic::Ordering::Relaxed));
    let mut database = builder.open(path).map_err(fault)?;
    // After a crash every page was looked at already.
    if !repaired.load(std::sync::atomic::Ordering::Relaxed) && !database.check_integrity().map_err(fault)? {
        return Err(LogError::damaged(path, "the checksums of its pages do not match"));
    }
    // Tables that nothing was written to yet are there, too.
    let made = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(SCHEMAS)?;
        transaction.open_table(META)?;
        transaction.open_table(OUTBOX)?;
        transaction.commit()?;
        Ok(())
    };
    made().map_err(|error| LogError::redb("write", path, error))?;
    Ok(database)
}

/// Makes a folder whose name survives a power cut, also where an earlier start made it and got no further.
pub(super) fn make_folder(dir: &Path) -> Result<(), LogError> {
    let fault = |error| LogError::io("make the folder", dir, error);
    let dir = std::path::absolute(dir).map_err(fault)?;
    let mut named = vec![dir.as_path()];
    named.extend(dir.ancestors().skip(1).take_while(|above| !above.is_dir()));
    std::fs::create_dir_all(&dir).map_err(fault)?;
    named.into_iter().filter_map(Path::parent).try_for_each(sync_folder)
}

/// Makes sure that a folder's names survive a power cut.
pub(super) fn sync_folder(dir: &Path) -> Result<(), LogError> {
    let synced = std::fs::File::open(dir).and_then(|folder| folder.sync_all());
    synced.map_err(|error| LogError::io("sync the folder", dir, error))
}

/// Schemas, each read when a record first names it.
pub(super) struct StoredSchemas {
    known: HashMap<u64, SchemaRef>,
    table: ReadOnlyTable<u64, &'static [u8]>,
}

impl StoredSchemas {
    /// Finds them as a transaction sees them.
    pub(super) fn open(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(StoredSchemas {
            known: HashMap::new(),
            table: transaction.open_table(SCHEMAS)?,
        })
    }
}

impl Schemas for StoredSchemas {
    fn number(&mut self, _: &SchemaRef) -> Result<u64, String> {
        Err("schemas are numbered by the writer".to_owned())
    }

    fn schema(&mut self, number: u64) -> Result<SchemaRef, String> {
        if let Some(schema) = self.known.get(&number) {
            return Ok(Arc::clone(schema));
        }
        let found = self.table.get(number).map_err(|error| error.to_string())?;
        let found = found.ok_or_else(|| format!("schema {number} is missing"))?;
        let schema = codec::schema(found.value()).map_err(|error| error.to_string())?;
        self.known.insert(number, Arc::clone(&schema));
        Ok(schema)
    }
}

/// Gives records bytes; schemas it has not seen come along.
pub(super) struct Batcher {
    encoder: Encoder,
    schemas: NumberedSchemas,
}

impl Batcher {
    pub(super) fn new() -> Self {
        Batcher {
            encoder: Encoder::new(Compress::Texts),
            schemas: NumberedSchemas::default(),
        }
    }

    /// Gives a record bytes.
    pub(super) fn encode(&mut self, record: &Record) -> Result<Vec<u8>, String> {
        record.encode(&mut self.encoder, &mut self.schemas)
    }

    /// Returns the schemas seen for the first time since the last call.
    pub(super) fn fresh_schemas(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.schemas.fresh)
    }
}

/// Schemas that are numbered when a record first has them.
#[derive(Default)]
struct NumberedSchemas {
    known: Vec<(SchemaRef, u64)>,
    fresh: Vec<(u64, Vec<u8>)>,
}

impl Schemas for NumberedSchemas {
    fn number(&mut self, schema: &SchemaRef) -> Result<u64, String> {
        let known = self
            .known
            .iter()
            .find(|(known, _)| Arc::ptr_eq(known, schema) || known == schema);
        if let Some((_, number)) = known {
            return Ok(*number);
        }
        let bytes = codec::schema_bytes(schema).map_err(|error| error.to_string())?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let number = hasher.finish();
        self.known.push((Arc::clone(schema), number));
        self.fresh.push((number, bytes));
        Ok(number)
    }

    fn schema(&mut self, number: u64) -> Result<SchemaRef, String> {
        Err(format!("schema {number} is not read here"))
    }
}

/// Gives a value bytes.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with texts as keys become JSON")
}
