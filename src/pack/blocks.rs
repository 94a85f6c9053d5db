//! The `.dat` file of a pack: stored blocks back to back, in order, each run of a file once.
//!
//! A run is the block list of one file. When it is complete and an equal one exists, the writer goes back to where it
//! started: the file will point at the older copy.

use crate::error::{Context, Error, Result};
use crate::pack::pool::Event;
use crate::squashfs::format::DATA_SIZE_MASK;
use crate::sys::write_back::start_write_back;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

const BUFFER: usize = 512 << 10;
/// Written bytes that may wait before the disk is asked to take them. It works while the layer is still being read, so
/// that the sync at the end is short.
const WRITE_BACK: u64 = 8 << 20;
/// Runs remembered for deduplication; beyond that, older ones are forgotten, in the same order everywhere.
const REMEMBERED: usize = 1 << 18;
/// Blocks of one layer: a tebibyte at the default block size, holes included.
pub const MAX_BLOCKS: u64 = 8 << 20;

/// The blocks of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Where its first stored block is in the pack; 0 when it is all holes.
    pub start: u64,
    /// Its first entry in [`Blocks::sizes`], and how many.
    pub first: u32,
    pub count: u32,
    /// Its first entry in [`Blocks::hashes`], which has none for holes.
    pub first_hash: u32,
}

/// One block of tails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub start: u64,
    /// As in squashfs: stored size with the bit that says uncompressed.
    pub size: u32,
    pub hash: [u8; 20],
}

/// What is in a `.dat` file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    pub length: u64,
    pub runs: Vec<Run>,
    /// As in squashfs; 0 is a hole.
    pub sizes: Vec<u32>,
    pub hashes: Vec<[u8; 20]>,
    pub fragments: Vec<Fragment>,
}

impl Blocks {
    /// The sizes of a run's blocks.
    pub fn sizes_of(&self, run: Run) -> &[u32] {
        let first = run.first as usize;
        self.sizes
            .get(first..first.saturating_add(run.count as usize))
            .unwrap_or_default()
    }
}

/// Writes a `.dat` file.
pub struct PackFile {
    file: File,
    /// Bytes that are not in the file yet, and where they belong.
    buffer: Vec<u8>,
    buffer_at: u64,
    /// How far the disk was asked to take what is written.
    written_back: u64,
    blocks: Blocks,
    current: Run,
    run_position: u64,
    known: HashMap<[u8; 16], u32>,
}

impl PackFile {
    pub fn new(file: File) -> PackFile {
        PackFile {
            file,
            buffer: Vec::with_capacity(BUFFER),
            buffer_at: 0,
            written_back: 0,
            blocks: Blocks::default(),
            current: Run::default(),
            run_position: 0,
            known: HashMap::new(),
        }
    }

    fn position(&self) -> u64 {
        self.buffer_at + self.buffer.len() as u64
    }

    pub fn take(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Stored {
                bytes,
                size,
                hash,
                fragment: true,
            } => {
                self.blocks.fragments.push(Fragment {
                    start: self.position(),
                    size: *size,
                    hash: *hash,
                });
                self.write(bytes)?;
                // A fragment stands between runs.
                self.run_position = self.position();
            }
            Event::Stored {
                bytes, size, hash, ..
            } => {
                self.blocks.sizes.push(*size);
                self.blocks.hashes.push(*hash);
                self.write(bytes)?;
            }
            Event::Holes(count) => {
                let length = self.blocks.sizes.len().saturating_add(*count as usize);
                self.blocks.sizes.resize(length, 0);
            }
            Event::EndOfRun => self.end_run()?,
        }
        Ok(())
    }

    fn end_run(&mut self) -> Result<()> {
        let first = self.current.first as usize;
        let sizes = self.blocks.sizes.get(first..).unwrap_or_default();
        let hashes = self
            .blocks
            .hashes
            .get(self.current.first_hash as usize..)
            .unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        for size in sizes {
            hasher.update(&size.to_le_bytes());
        }
        for hash in hashes {
            hasher.update(hash);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let known = self
            .known
            .get(&key)
            .and_then(|&index| self.blocks.runs.get(index as usize))
            .copied();
        let run = match known {
            Some(known) => {
                self.blocks.sizes.truncate(first);
                self.blocks
                    .hashes
                    .truncate(self.current.first_hash as usize);
                self.rewind(self.run_position);
                known
            }
            None => {
                if self.known.len() >= REMEMBERED {
                    self.known.clear();
                }
                self.known.insert(key, self.blocks.runs.len() as u32);
                Run {
                    start: if hashes.is_empty() {
                        0
                    } else {
                        self.run_position
                    },
                    count: sizes.len() as u32,
                    ..self.current
                }
            }
        };
        self.blocks.runs.push(run);
        if self.blocks.sizes.len() as u64 > MAX_BLOCKS {
            return Err(Error::new("the layer has too much content")
                .cause(format!("the limit is {MAX_BLOCKS} blocks")));
        }
        self.current = Run {
            first: self.blocks.sizes.len() as u32,
            first_hash: self.blocks.hashes.len() as u32,
            ..Run::default()
        };
        self.run_position = self.position();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file
            .write_all_at(&self.buffer, self.buffer_at)
            .or_say(|| "cannot write the pack")?;
        self.buffer_at = self.position();
        self.buffer.clear();
        if let Some(waiting) = self.buffer_at.checked_sub(self.written_back)
            && waiting >= WRITE_BACK
        {
            start_write_back(&self.file, self.written_back, waiting);
            self.written_back = self.buffer_at;
        }
        Ok(())
    }

    fn rewind(&mut self, position: u64) {
        match position.checked_sub(self.buffer_at) {
            Some(kept) => self.buffer.truncate(kept as usize),
            None => {
                self.buffer.clear();
                self.buffer_at = position;
            }
        }
    }

    /// Writes what is left; the file ends where its last block does.
    pub fn finish(mut self) -> Result<(File, Blocks)> {
        self.flush()?;
        self.blocks.length = self.buffer_at;
        self.file
            .set_len(self.buffer_at)
            .or_say(|| "cannot write the pack")?;
        Ok((self.file, self.blocks))
    }
}

/// Stored bytes of a block or fragment with this size word.
pub fn stored(size: u32) -> u64 {
    u64::from(size & DATA_SIZE_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::squashfs::format::DATA_UNCOMPRESSED;

    fn block(number: u32) -> Event {
        // No multiple of anything.
        let length = 100_001 + number % 7;
        let bytes: Vec<u8> = (0..length)
            .map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(number) >> 24) as u8)
            .collect();
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        Event::Stored {
            bytes,
            size: length | DATA_UNCOMPRESSED,
            hash,
            fragment: false,
        }
    }

    #[test]
    fn a_long_file_that_comes_again_is_written_once_and_what_follows_stays_whole() {
        let file = tempfile::tempfile().unwrap();
        let mut pack = PackFile::new(file.try_clone().unwrap());
        let mut expected = Vec::new();
        // Far beyond what may stay in memory; the third is the first again.
        for (blocks, new) in [
            (0..250, true),
            (250..251, true),
            (0..250, false),
            (300..333, true),
        ] {
            for number in blocks {
                let event = block(number);
                pack.take(&event).unwrap();
                if let (Event::Stored { bytes, .. }, true) = (event, new) {
                    expected.extend(bytes);
                }
            }
            pack.take(&Event::EndOfRun).unwrap();
        }
        let (file, blocks) = pack.finish().unwrap();
        assert_eq!(blocks.length, expected.len() as u64);
        assert_eq!(file.metadata().unwrap().len(), blocks.length);
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        let [first, second, again, last] = blocks.runs[..] else {
            panic!("{:?}", blocks.runs)
        };
        assert_eq!(again, first);
        assert!(first.start < second.start && second.start < last.start);
    }
}
