//! An object store to read cold files from, each block compared with its checksum.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::ColdFile;

/// What its manifest says a file is made of.
#[derive(Clone, Debug)]
struct Blocks {
    bytes: u64,
    block_bytes: u64,
    checksums: Arc<[u32]>,
}

/// A cold file is not what was written.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(
        "history file \"{path}\" is damaged: bytes {from} to {to} are not what was written; restore the file from a \
         backup, or run `sangam verify` to find all that are damaged"
    )]
    Damaged { path: Path, from: u64, to: u64 },
    #[error(
        "history file \"{path}\" is missing; restore it from a backup, or run `sangam verify` to find all that are \
         missing"
    )]
    Missing { path: Path },
    #[error("history file \"{path}\" is in no manifest, so it is not read")]
    Unknown { path: Path },
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        Error::Generic {
            store: "history",
            source: Box::new(unfit),
        }
    }
}

/// Reads the files of one manifest; whole blocks, so that every byte handed on was checked.
#[derive(Debug)]
pub(super) struct Verified {
    store: Arc<dyn ObjectStore>,
    files: HashMap<Path, Blocks>,
}

impl Verified {
    pub(super) fn new(store: Arc<dyn ObjectStore>, files: &[ColdFile]) -> Self {
        let files = files.iter().map(|file| {
            let blocks = Blocks {
                bytes: file.bytes,
                block_bytes: file.block_bytes.max(1),
                checksums: file.blocks.clone().into(),
            };
            (Path::from(file.path.as_str()), blocks)
        });
        Verified {
            files: files.collect(),
            store,
        }
    }

    fn refuse<T>(&self, operation: &str) -> Result<T> {
        Err(Error::NotImplemented {
            operation: operation.to_owned(),
            implementer: self.to_string(),
        })
    }
}

impl Blocks {
    /// Returns the bytes asked for, as far as there are any.
    fn range(&self, asked: Option<&GetRange>) -> Range<u64> {
        let range = match asked {
            None => 0..self.bytes,
            Some(GetRange::Bounded(range)) => range.clone(),
            Some(GetRange::Offset(from)) => *from..self.bytes,
            Some(GetRange::Suffix(length)) => self.bytes.saturating_sub(*length)..self.bytes,
        };
        range.start.min(self.bytes)..range.end.min(self.bytes)
    }

    /// Widens a range to whole blocks.
    fn whole(&self, range: &Range<u64>) -> Range<u64> {
        let start = range.start / self.block_bytes * self.block_bytes;
        let end = range.end.div_ceil(self.block_bytes) * self.block_bytes;
        start..end.min(self.bytes)
    }

    /// Compares whole blocks with their checksums, and returns the first that differs.
    fn damaged(&self, from: u64, bytes: &[u8]) -> Option<Range<u64>> {
        let first = (from / self.block_bytes) as usize;
        for (index, block) in bytes.chunks(self.block_bytes as usize).enumerate() {
            if self.checksums.get(first + index) != Some(&crc32fast::hash(block)) {
                let start = from + index as u64 * self.block_bytes;
                return Some(start..start + block.len() as u64);
            }
        }
        None
    }
}

#[async_trait]
impl ObjectStore for Verified {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(blocks) = self.files.get(location) else {
            return Err(Unfit::Unknown { path: location.clone() }.into());
        };
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: blocks.bytes,
            e_tag: None,
            version: None,
        };
        let range = blocks.range(options.range.as_ref());
        let whole = blocks.whole(&range);
        let got = if options.head || range.is_empty() {
            Vec::new()
        } else {
            let read = self.store.get_range(location, whole.clone()).await;
            let bytes = read.map_err(|error| match error {
                Error::NotFound { .. } => Unfit::Missing { path: location.clone() }.into(),
                other => other,
            })?;
            let end = whole.start + bytes.len() as u64;
            let damaged = match blocks.damaged(whole.start, &bytes) {
                // It was cut short.
                None if end < whole.end => Some(end..whole.end),
                damaged => damaged,
            };
            if let Some(Range { start: from, end: to }) = damaged {
                let path = location.clone();
                return Err(Unfit::Damaged { path, from, to }.into());
            }
            let within = (range.start - whole.start) as usize..(range.end - whole.start) as usize;
            vec![Ok(bytes.slice(within))]
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter(got).boxed()),
            meta,
            range,
            attributes: object_store::Attributes::default(),
        })
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.refuse("put")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.refuse("put_multipart")
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::iter([self.refuse("delete")]).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter([self.refuse("list")]).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        self.refuse("list")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        self.refuse("copy")
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files of {}", self.files.len(), self.store)
    }
}
