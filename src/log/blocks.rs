//! Files of blocks, each with a checksum, written once and read to the end.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::error::LogError;

/// The first bytes of a file of blocks; the last of them is the version.
const MAGIC: [u8; 8] = *b"SANGBLK\x01";

/// Stands for a length where the file ends.
const END: u32 = u32::MAX;

/// The longest block; longer ones are no blocks of ours.
const BLOCK_BYTES_MAX: u32 = 1 << 30;

/// Writes a file of blocks under a name of its own, and gives it its name once it is whole.
pub(super) struct BlockWriter {
    path: PathBuf,
    written: PathBuf,
    file: BufWriter<File>,
    blocks: u32,
    bytes: u64,
}

impl BlockWriter {
    pub(super) fn create(path: &Path) -> Result<Self, LogError> {
        let written = path.with_extension("tmp");
        let file = File::create(&written).map_err(|error| LogError::io("create", &written, error))?;
        let mut writer = BlockWriter {
            path: path.to_owned(),
            written,
            file: BufWriter::with_capacity(1 << 18, file),
            blocks: 0,
            bytes: 0,
        };
        writer.put(&MAGIC)?;
        Ok(writer)
    }

    /// Adds a block.
    pub(super) fn write(&mut self, block: &[u8]) -> Result<(), LogError> {
        let length = u32::try_from(block.len())
            .ok()
            .filter(|length| *length <= BLOCK_BYTES_MAX);
        let Some(length) = length else {
            let error = std::io::Error::other("a block of more than 1 GiB");
            return Err(LogError::io("write", &self.written, error));
        };
        self.put(&length.to_le_bytes())?;
        self.put(&crc32fast::hash(block).to_le_bytes())?;
        self.put(block)?;
        self.blocks += 1;
        Ok(())
    }

    /// Ends the file and gives it its name; returns its length. The folder is still to be synced.
    pub(super) fn finish(mut self) -> Result<u64, LogError> {
        let blocks = self.blocks.to_le_bytes();
        self.put(&END.to_le_bytes())?;
        self.put(&blocks)?;
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|error| LogError::io("sync", &self.written, error))?;
        std::fs::rename(&self.written, &self.path).map_err(|error| LogError::io("rename", &self.written, error))?;
        Ok(self.bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.bytes += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|error| LogError::io("write", &self.written, error))
    }
}

/// Reads a file of blocks.
pub(super) struct BlockReader {
    path: PathBuf,
    file: BufReader<File>,
    blocks: u32,
}

impl BlockReader {
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => LogError::damaged(path, "the file is missing"),
            _ => LogError::io("open", path, error),
        })?;
        let mut reader = BlockReader {
            path: path.to_owned(),
            file: BufReader::with_capacity(1 << 18, file),
            blocks: 0,
        };
        let mut magic = [0; MAGIC.len()];
        reader.take(&mut magic)?;
        if magic != MAGIC {
            return Err(LogError::damaged(
                path,
                "it does not begin as a file of blocks of this version",
            ));
        }
        Ok(reader)
    }

    /// Returns the next block; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        let length = self.number()?;
        let checksum = self.number()?;
        if length == END {
            return match checksum == self.blocks {
                true => Ok(None),
                false => Err(LogError::damaged(
                    &self.path,
                    format!("it has {} blocks of {checksum}", self.blocks),
                )),
            };
        }
        let place = self.blocks;
        if length > BLOCK_BYTES_MAX {
            return Err(LogError::damaged(
                &self.path,
                format!("block {place} has an impossible length"),
            ));
        }
        let mut block = vec![0; length as usize];
        self.take(&mut block)?;
        if crc32fast::hash(&block) != checksum {
            return Err(LogError::damaged(
                &self.path,
                format!("the checksum of block {place} does not match"),
            ));
        }
        self.blocks += 1;
        Ok(Some(block))
    }

    fn number(&mut self) -> Result<u32, LogError> {
        let mut four = [0; 4];
        self.take(&mut four)?;
        Ok(u32::from_le_bytes(four))
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), LogError> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => LogError::damaged(&self.path, "it is cut off"),
            _ => LogError::io("read", &self.path, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.blocks");
        let mut writer = BlockWriter::create(&path).unwrap();
        writer.write(b"one").unwrap();
        writer.write(b"").unwrap();
        writer.write(&[7; 100]).unwrap();
        let bytes = writer.finish().unwrap();
        let read = || {
            let mut reader = BlockReader::open(&path)?;
            let mut blocks = Vec::new();
            while let Some(block) = reader.next()? {
                blocks.push(block);
            }
            Ok::<_, LogError>(blocks)
        };
        assert_eq!(read().unwrap(), [b"one".to_vec(), Vec::new(), vec![7; 100]]);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len() as u64, bytes);
        for at in 0..whole.len() {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            std::fs::write(&path, &torn).unwrap();
            assert!(matches!(read(), Err(LogError::Damaged { .. })), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(read(), Err(LogError::Damaged { .. })), "cut at {at}");
        }
    }
}
