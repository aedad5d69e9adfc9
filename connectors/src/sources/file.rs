//! Rows from files: once, or as a file grows.
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tracing::{info, warn};

use crate::decoded::Decoded;
use crate::durations;
use crate::error::{ConfigError, ReadError};
use crate::format::{Decoder, Encoding, FormatConfig, FormatKind, latin1};
use crate::formats::parquet::{ParquetFile, ParquetRows};
use crate::sources::{Read, Reader, Setting};

/// Rows in one batch.
const BATCH_ROWS: usize = 8192;
/// Bytes read from a file at once.
const CHUNK_BYTES: usize = 512 * 1024;

/// Reads CSV, JSON lines, a JSON array or Parquet from files, `.gz` and `.zst`
/// as they are.
///
/// After a restart the files are read from their start again, and the rows that were logged are passed over: so a
/// followed file must only grow.
///
/// ```toml
/// [connector]
/// type = "file"
/// path = "data/readings.csv.gz"
/// speed = 60
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// A file, or a list of files that are read one after another; relative to
    /// the deployment's folder.
    pub path: Paths,
    /// Whether to wait for more at the file's end. One plain file only; when it
    /// is cut or replaced, the new one is read from its start. Default: false.
    #[serde(default)]
    pub follow: bool,
    /// How often a followed file is looked at. Default: "250 ms".
    #[serde(default = "poll", deserialize_with = "durations::duration")]
    pub poll: Duration,
    /// Replays rows at the pace of their times, so many times as fast: 1 is the
    /// pace they were recorded at, 60 an hour in a minute. Default: none, all at
    /// once. Under the event clock it has no effect.
    pub speed: Option<f64>,
}

fn poll() -> Duration {
    Duration::from_millis(250)
}

/// One path or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a path, or a list of paths")]
pub enum Paths {
    /// One.
    One(PathBuf),
    /// Several, in their order.
    Several(Vec<PathBuf>),
}

impl Paths {
    /// The paths, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        match self {
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Several(paths) => paths,
        }
        .iter()
        .map(PathBuf::as_path)
    }
}

impl FileConfig {
    pub(crate) fn check(&self, setting: &Setting<'_>) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        if let Err(problem) = self.reader(setting) {
            problems.push(problem);
        }
        for path in self.paths(setting) {
            // A followed file may come later; any other must be there.
            if !self.follow && !path.is_file() {
                problems.push(
                    ConfigError::new(format!("file \"{}\" is not there", path.display()))
                        .with_hint("Paths are relative to the deployment's folder."),
                );
            }
        }
        problems
    }

    fn paths(&self, setting: &Setting<'_>) -> Vec<PathBuf> {
        self.path.iter().map(|path| setting.directory.join(path)).collect()
    }

    pub(crate) fn reader(&self, setting: &Setting<'_>) -> Result<FileReader, ConfigError> {
        let paths = self.paths(setting);
        if paths.is_empty() {
            return Err(ConfigError::new("path lists no files"));
        }
        if let Some(speed) = self.speed
            && !(speed.is_finite() && speed > 0.0)
        {
            return Err(ConfigError::new(format!("speed = {speed} is not a pace"))
                .with_hint("Use a number above 0, such as 1 or 60."));
        }
        if self.follow {
            let followable = |path: &PathBuf| {
                Compression::of(path) == Compression::None
                    && !matches!(setting.format.kind_of(path), Ok(FormatKind::Parquet))
            };
            if paths.len() > 1 || !paths.iter().all(followable) {
                return Err(
                    ConfigError::new("follow = true needs one plain file of CSV or JSON lines")
                        .with_hint("Compressed files, Parquet and lists of files are read once."),
                );
            }
        }
        let mut files = VecDeque::new();
        for path in paths {
            let kind = setting.format.kind_of(&path)?;
            let mut format = FormatConfig {
                kind: Some(kind),
                ..setting.format.clone()
            };
            if kind == FormatKind::Csv && path.to_string_lossy().to_lowercase().contains(".tsv") {
                format.delimiter.get_or_insert('\t');
            }
            files.push_back(match kind {
                FormatKind::Parquet => {
                    let rows = ParquetRows::new(&format, setting.columns, setting.time_zone)?;
                    Next::Parquet(path, Box::new(rows))
                }
                _ => {
                    let latin1 = format.encoding == Some(Encoding::Latin1);
                    let decoder = Decoder::new(&format, setting.columns, setting.time_zone)?;
                    Next::Text(path, Box::new(decoder), latin1)
                }
            });
        }
        Ok(FileReader {
            files,
            follow: self.follow,
            poll: self.poll,
            current: None,
        })
    }
}

/// A file still to be opened.
enum Next {
    Text(PathBuf, Box<Decoder>, bool),
    Parquet(PathBuf, Box<ParquetRows>),
}

/// Reads the files of one source, one after another.
pub(crate) struct FileReader {
    files: VecDeque<Next>,
    follow: bool,
    poll: Duration,
    current: Option<Current>,
}

enum Current {
    Text(Box<TextFile>),
    Parquet(ParquetFile),
}

impl Reader for FileReader {
    fn read(&mut self, _now_us: i64) -> Result<Read, ReadError> {
        loop {
            match &mut self.current {
                None => match self.files.pop_front() {
                    None => return Ok(Read::End),
                    Some(next) => match self.open(next)? {
                        Some(current) => self.current = Some(current),
                        None => return Ok(Read::Wait(self.poll)),
                    },
                },
                Some(Current::Text(file)) => match file.read(self.follow) {
                    Ok(Some(decoded)) => return Ok(Read::Rows(decoded.into())),
                    Ok(None) if self.follow => return Ok(Read::Wait(self.poll)),
                    Ok(None) => self.current = None,
                    Err(error) => {
                        self.current = None;
                        return Err(error);
                    }
                },
                Some(Current::Parquet(file)) => match file.read() {
                    Ok(Some(decoded)) => return Ok(Read::Rows(decoded.into())),
                    Ok(None) => self.current = None,
                    Err(error) => {
                        self.current = None;
                        return Err(error);
                    }
                },
            }
        }
    }
}

impl FileReader {
    fn open(&mut self, next: Next) -> Result<Option<Current>, ReadError> {
        match next {
            Next::Parquet(path, rows) => ParquetFile::open(path, *rows).map(|file| Some(Current::Parquet(file))),
            Next::Text(path, decoder, latin1) => {
                if self.follow && !path.exists() {
                    self.files.push_front(Next::Text(path, decoder, latin1));
                    return Ok(None);
                }
                TextFile::open(path, *decoder, latin1).map(|file| Some(Current::Text(Box::new(file))))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(path: &Path) -> Compression {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(extension) if extension.eq_ignore_ascii_case("gz") => Compression::Gzip,
            Some(extension) if extension.eq_ignore_ascii_case("zst") => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// Opens a file, plain or compressed.
pub(crate) fn open_bytes(path: &Path) -> Result<Box<dyn io::Read + Send>, ReadError> {
    let failed = |source| ReadError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    Ok(match Compression::of(path) {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(file).map_err(failed)?),
    })
}

/// A file of text that is being read.
struct TextFile {
    path: PathBuf,
    bytes: Box<dyn io::Read + Send>,
    identity: Option<Identity>,
    /// Bytes read from the file so far.
    position: u64,
    decoder: Decoder,
    latin1: bool,
    /// Read but not decoded; `start..` of it.
    buffer: Vec<u8>,
    start: usize,
    /// Half a character of Latin-1 text beside UTF-8, to be completed.
    half: Vec<u8>,
    ended: bool,
    /// What went wrong after the bytes in the buffer.
    failed: Option<ReadError>,
}

impl TextFile {
    fn open(path: PathBuf, decoder: Decoder, latin1: bool) -> Result<TextFile, ReadError> {
        let bytes = open_bytes(&path)?;
        let identity = Identity::of(&path);
        Ok(TextFile {
            path,
            bytes,
            identity,
            position: 0,
            decoder,
            latin1,
            buffer: Vec::new(),
            start: 0,
            half: Vec::new(),
            ended: false,
            failed: None,
        })
    }

    /// The next rows, or none at the end.
    fn read(&mut self, follow: bool) -> Result<Option<Decoded>, ReadError> {
        loop {
            // A followed file is never known to be at its last row.
            let last = self.ended && !follow;
            if self.start < self.buffer.len() || last {
                let (taken, decoded) = self.decoder.decode_some(&self.buffer[self.start..], last, BATCH_ROWS);
                self.start += taken;
                if !decoded.is_empty() {
                    return Ok(Some(decoded));
                }
                if last && (taken == 0 || self.start >= self.buffer.len()) {
                    return Ok(None);
                }
            }
            if self.ended && !follow {
                continue;
            }
            if self.fill(follow)? {
                continue;
            }
            if !follow {
                self.ended = true;
                continue;
            }
            if !self.renewed()? {
                return Ok(None);
            }
            // What stood in the old file after its last line end is a row cut off.
            let tail = self.buffer.split_off(self.start);
            self.buffer.clear();
            self.start = 0;
            let (_, decoded) = self.decoder.decode_some(&tail, true, usize::MAX);
            self.decoder.restart();
            if !decoded.is_empty() {
                return Ok(Some(decoded));
            }
        }
    }

    /// Reads on into the buffer; false at the file's end.
    fn fill(&mut self, follow: bool) -> Result<bool, ReadError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let mut raw = std::mem::take(if self.latin1 { &mut self.half } else { &mut self.buffer });
        let before = raw.len();
        let result = (&mut self.bytes).take(CHUNK_BYTES as u64).read_to_end(&mut raw);
        let mut more = raw.len() > before;
        self.position += (raw.len() - before) as u64;
        if !self.latin1 {
            self.buffer = raw;
        } else if more || follow {
            self.half = raw.split_off(raw.len() - half_character(&raw));
            self.buffer.extend_from_slice(&latin1(&raw));
        } else {
            more = !raw.is_empty();
            self.buffer.extend_from_slice(&latin1(&raw));
        }
        match result {
            Ok(_) => Ok(more),
            Err(source) => {
                let error = ReadError::Read {
                    path: self.path.clone(),
                    source,
                };
                // What came before the damage is good.
                if !more {
                    return Err(error);
                }
                self.failed = Some(error);
                Ok(true)
            }
        }
    }

    /// Whether the followed file was cut or replaced; it is then open anew.
    fn renewed(&mut self) -> Result<bool, ReadError> {
        let now = Identity::of(&self.path);
        let Some(found) = now else { return Ok(false) };
        let replaced = self.identity.is_some_and(|identity| identity != found);
        let length = fs::metadata(&self.path)
            .map(|metadata| metadata.len())
            .unwrap_or(self.position);
        if !replaced && length >= self.position {
            return Ok(false);
        }
        if replaced {
            info!(path = %self.path.display(), "file was replaced, reading the new one");
        } else {
            warn!(path = %self.path.display(), "file was cut, reading it from its start");
        }
        self.bytes = open_bytes(&self.path)?;
        self.identity = Some(found);
        self.position = 0;
        self.half.clear();
        Ok(true)
    }
}

/// How many bytes at the end of `bytes` begin a UTF-8 character that may go on.
fn half_character(bytes: &[u8]) -> usize {
    for length in 1..=bytes.len().min(3) {
        let tail = &bytes[bytes.len() - length..];
        match tail[0] {
            0x80..0xc0 => {}
            0xc0.. if std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none()) => {
                return length;
            }
            _ => break,
        }
    }
    0
}

/// Tells whether a path still names the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> Option<Identity> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path).ok()?;
        Some(Identity(metadata.dev(), metadata.ino()))
    }

    #[cfg(not(unix))]
    fn of(path: &Path) -> Option<Identity> {
        // Without an identity only a cut file is noticed.
        fs::metadata(path).ok().map(|_| Identity(0, 0))
    }
}

#[cfg(test)]
mod tests;
