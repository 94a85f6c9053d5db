//! Are these the bytes that were written? At start for the metadata, at each read for blocks, on request for everything.
//!
//! Metadata that was checked is kept in memory in its stored form when it is small, so that what was checked is also
//! what is served.

use super::{Content, Image};
use crate::error::{Context, Error, Result};
use crate::record;
use crate::squashfs::format::{DATA_SIZE_MASK, SUPERBLOCK_SIZE};
use crate::squashfs::integrity::{BlockHash, hashes_offset, metadata_start, root};
use crate::sys::memory;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Stored metadata up to this size is kept; 50 000 files need about 1 MiB.
const HELD_MAX: u64 = 4 << 20;
/// What is read and hashed at a time.
const PART: usize = 128 << 10;

/// Stored metadata in memory, from where it is served.
pub(super) struct Held {
    from: u64,
    bytes: Vec<u8>,
}

impl Held {
    pub(super) fn get(&self, position: u64, length: usize) -> Option<&[u8]> {
        let from = usize::try_from(position.checked_sub(self.from)?).ok()?;
        self.bytes.get(from..from.checked_add(length)?)
    }
}

impl Early {
    /// `None` when nothing is early any more.
    fn list(&self) -> MutexGuard<'_, Option<Given>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a check leaves behind: the table of block hashes as it is stored.
pub(super) struct Checked(Vec<u8>);

impl Checked {
    /// The hashes of what begins at `start`.
    fn of(&self, start: u64) -> impl Iterator<Item = BlockHash> {
        let count = self.0.len() / BlockHash::SIZE;
        let (mut first, mut end) = (0, count);
        while first < end {
            let middle = first.midpoint(end);
            match self.entry(middle) {
                Some(hash) if hash.start < start => first = middle + 1,
                _ => end = middle,
            }
        }
        (first..count)
            .map_while(|index| self.entry(index))
            .take_while(move |hash| hash.start == start)
    }

    fn entry(&self, index: usize) -> Option<BlockHash> {
        let at = index.checked_mul(BlockHash::SIZE)?;
        BlockHash::parse(self.0.get(at..at.checked_add(BlockHash::SIZE)?)?)
    }

    fn is_in_order(&self) -> bool {
        let starts = self.0.chunks_exact(BlockHash::SIZE);
        starts
            .filter_map(|entry| entry.first_chunk())
            .map(|start| u64::from_le_bytes(*start))
            .is_sorted()
    }
}

/// A check that has begun.
pub struct Unchecked {
    expected: record::Squashfs,
    /// Of metadata that is too large to be held.
    metadata: Option<blake3::Hash>,
}

/// Metadata that was given out between the beginning of a check and the moment when all of it was held.
#[derive(Default)]
pub(super) struct Early(Mutex<Option<Given>>);

/// Positions and bytes.
type Given = Vec<(u64, Vec<u8>)>;

/// A broken block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub start: u64,
    /// Stored bytes.
    pub size: u32,
    pub cause: String,
    /// Absolute paths of the files that need it.
    pub files: Vec<Vec<u8>>,
}

/// What must be appended to a squashfs file, and what its record must say, so that its bytes can be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integrity {
    pub hashes: Vec<BlockHash>,
    /// All fields set.
    pub squashfs: record::Squashfs,
}

impl Integrity {
    /// The table as it is stored at `hashes_offset`; what lies between `bytes_used` and there is zero.
    pub fn table(&self) -> Vec<u8> {
        encode(&self.hashes)
    }
}

fn encode(hashes: &[BlockHash]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hashes.len().saturating_mul(BlockHash::SIZE));
    for hash in hashes {
        hash.encode(&mut bytes);
    }
    bytes
}

impl Image {
    /// Verifies superblock, metadata and the table of block hashes against the record, and from then on every block
    /// before it is decompressed. A record without a root is an error.
    pub fn check(&self, expected: &record::Squashfs) -> Result<()> {
        self.finish_check(self.begin_check(expected)?)
    }

    /// From now on content waits for the end of the check, which somebody must bring about. Metadata does not: what is
    /// read of it meanwhile is compared with what was checked in the end.
    pub fn begin_check(&self, expected: &record::Squashfs) -> Result<Unchecked> {
        if expected.bytes_used != self.superblock.bytes_used {
            return Err(self.differs(format!(
                "it has {} bytes, not {}",
                self.superblock.bytes_used, expected.bytes_used
            )));
        }
        *self.early.list() = Some(Vec::new());
        self.awaits_check.store(true, Ordering::Release);
        let metadata = match self.metadata_length() <= HELD_MAX {
            true => None,
            false => Some(self.hash_large_metadata()?),
        };
        Ok(Unchecked {
            expected: expected.clone(),
            metadata,
        })
    }

    pub fn finish_check(&self, unchecked: Unchecked) -> Result<()> {
        let (answer, checked) = match self.compare(&unchecked) {
            Ok(checked) => (Ok(()), Some(checked)),
            Err(error) => (Err(error), None),
        };
        // A second check of the same image finds the same.
        let _ = self.integrity.set(checked);
        answer
    }

    fn compare(&self, unchecked: &Unchecked) -> Result<Checked> {
        let expected = &unchecked.expected;
        let length = expected.hashes_count.checked_mul(BlockHash::SIZE as u64);
        let Some(length) = length.filter(|length| {
            expected
                .hashes_offset
                .checked_add(*length)
                .and_then(|end| end.checked_add(self.offset))
                .is_some_and(|end| end <= self.file_length)
        }) else {
            return Err(self.differs("its table of block hashes is cut off".into()));
        };
        let mut superblock = [0; SUPERBLOCK_SIZE];
        self.stored(0, &mut superblock)?;
        let metadata = match unchecked.metadata {
            Some(hash) => hash,
            None => self.hold_metadata()?,
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (table, of_table) = self.read_and_hash(expected.hashes_offset, length)?;
        let found = root(&superblock, metadata, of_table);
        let checked = Checked(table);
        if found != expected.root {
            return Err(self.differs(format!("its root is {found}, not {}", expected.root)));
        }
        if !checked.is_in_order() {
            return Err(self.differs("its table of block hashes is not in order".into()));
        }
        Ok(checked)
    }

    fn not_as_described(&self) -> String {
        let name = &self.name;
        format!("the image `{name}` is not the one that its record describes")
    }

    fn differs(&self, cause: String) -> Error {
        Error::new(self.not_as_described())
            .cause(cause)
            .hint("pull or import the image again; `carrack verify` finds the damaged part")
    }

    /// Whether blocks are checked when they are read.
    pub fn is_checked(&self) -> bool {
        self.integrity.get().is_some_and(Option::is_some)
    }

    fn metadata_length(&self) -> u64 {
        let start = metadata_start(&self.superblock);
        self.superblock.bytes_used.saturating_sub(start)
    }

    /// Takes the stored metadata into memory; its hash.
    fn hold_metadata(&self) -> Result<blake3::Hash> {
        let from = metadata_start(&self.superblock);
        let hash = match self.held.get() {
            Some(held) => blake3::hash(&held.bytes),
            None => {
                let (bytes, hash) = self.read_and_hash(from, self.metadata_length() as usize)?;
                let _ = self.held.set(Held { from, bytes });
                hash
            }
        };
        for (position, bytes) in self.early.list().take().unwrap_or_default() {
            self.compare_early(position, &bytes)?;
        }
        Ok(hash)
    }

    /// Stored bytes and their hash. Each part is hashed while the processor still has it; and the process's memory is not
    /// held against other threads for long.
    fn read_and_hash(&self, position: u64, length: usize) -> Result<(Vec<u8>, blake3::Hash)> {
        let mut bytes = vec![0; length];
        let mut hasher = blake3::Hasher::new();
        let mut at = self.offset.saturating_add(position);
        for part in bytes.chunks_mut(PART) {
            memory::get_pages(part);
            self.file
                .read_exact_at(part, at)
                .or_say(|| self.not_as_described())?;
            hasher.update(part);
            at = at.saturating_add(part.len() as u64);
        }
        Ok((bytes, hasher.finalize()))
    }

    fn hash_large_metadata(&self) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut part = vec![0; PART];
        let mut at = metadata_start(&self.superblock);
        while at < self.superblock.bytes_used {
            let left = self.superblock.bytes_used - at;
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
            let part = part.get_mut(..size).unwrap_or_default();
            self.file
                .read_exact_at(part, self.offset.saturating_add(at))
                .or_say(|| self.not_as_described())?;
            hasher.update(part);
            at += size as u64;
        }
        *self.early.list() = None;
        Ok(hasher.finalize())
    }

    /// Called for stored bytes that were read from the file.
    pub(super) fn note_early(&self, position: u64, bytes: &[u8]) -> Result<()> {
        if !self.awaits_check.load(Ordering::Acquire) || position < metadata_start(&self.superblock)
        {
            return Ok(());
        }
        if let Some(list) = self.early.list().as_mut() {
            list.push((position, bytes.to_vec()));
            return Ok(());
        }
        self.compare_early(position, bytes)
    }

    fn compare_early(&self, position: u64, bytes: &[u8]) -> Result<()> {
        match self
            .held
            .get()
            .and_then(|held| held.get(position, bytes.len()))
        {
            Some(held) if held != bytes => {
                Err(self.differs("it was changed while it was being checked".into()))
            }
            _ => Ok(()),
        }
    }

    /// Compares stored bytes with their hash, if the image has hashes: waits for a check that has begun.
    pub(super) fn check_block(&self, start: u64, stored: &[u8]) -> Result<()> {
        if !self.awaits_check.load(Ordering::Acquire) {
            return Ok(());
        }
        let checked = self.integrity.wait().as_ref();
        let checked = checked.ok_or_else(|| Error::new(self.not_as_described()))?;
        if checked.of(start).any(|hash| hash.matches(stored)) {
            return Ok(());
        }
        Err(self.damaged(format!(
            "the block at {start} ({} bytes) is not what was written",
            stored.len()
        )))
    }

    /// Every stored block that a file needs: position and size word, in order.
    fn blocks(&self) -> Result<BTreeSet<(u64, u32)>> {
        let mut found = BTreeSet::new();
        self.walk(|_, inode| {
            self.each_block(inode, |start, word| {
                found.insert((start, word));
                Ok(())
            })
        })?;
        Ok(found)
    }

    fn each_block(
        &self,
        inode: &super::Inode,
        mut each: impl FnMut(u64, u32) -> Result<()>,
    ) -> Result<()> {
        let Content::File(file) = &inode.content else {
            return Ok(());
        };
        let mut list = self.block_list(inode, file, 0)?;
        while list.index < file.blocks {
            let block = self.next_block(file, &mut list)?;
            if block.word != 0 {
                let size = u64::from(block.word & DATA_SIZE_MASK);
                if block.start.saturating_add(size) > self.superblock.bytes_used {
                    return Err(self.damaged(format!("file {} lies outside of it", inode.number)));
                }
                each(block.start, block.word)?;
            }
        }
        if let Some((index, _)) = file.fragment {
            let entry = self.fragment(index)?;
            each(entry.start, entry.size)?;
        }
        Ok(())
    }

    /// One block as it is stored.
    fn stored_block(&self, start: u64, word: u32) -> Result<Vec<u8>> {
        let size = word & DATA_SIZE_MASK;
        if size == 0 || size > self.superblock.block_size {
            return Err(self.damaged(format!("the block at {start} has an impossible size")));
        }
        let mut stored = vec![0; size as usize];
        self.stored(start, &mut stored)?;
        Ok(stored)
    }
}

/// Reads every block of an image on several threads and reports the first one, by position, that is broken: one that
/// differs from its hash after [`Image::check`], else one that cannot be decompressed. Broken metadata is an error.
pub fn verify_all(image: &Image, threads: usize) -> Result<Option<Damage>> {
    let blocks: Vec<(u64, u32)> = image.blocks()?.into_iter().collect();
    let threads = threads.clamp(1, 64);
    let share = blocks.len().div_ceil(threads).max(1);
    let first = std::thread::scope(|scope| {
        let workers: Vec<_> = blocks
            .chunks(share)
            .map(|share| {
                scope.spawn(move || {
                    share.iter().find_map(|(start, word)| {
                        verify_block(image, *start, *word)
                            .err()
                            .map(|error| (*start, *word, error))
                    })
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok().flatten())
            .min_by_key(|(start, word, _)| (*start, *word))
    });
    let Some((start, word, error)) = first else {
        return Ok(None);
    };
    let mut files = Vec::new();
    image.walk(|path, inode| {
        let mut uses = false;
        image.each_block(inode, |s, w| {
            uses |= (s, w) == (start, word);
            Ok(())
        })?;
        if uses {
            files.push(path.to_vec());
        }
        Ok(())
    })?;
    Ok(Some(Damage {
        start,
        size: word & DATA_SIZE_MASK,
        cause: error
            .causes()
            .last()
            .map_or(error.what(), String::as_str)
            .to_string(),
        files,
    }))
}

fn verify_block(image: &Image, start: u64, word: u32) -> Result<()> {
    if image.is_checked() {
        // Equal bytes decompress as they did when they were written.
        return image.check_block(start, &image.stored_block(start, word)?);
    }
    image.data_block(start, word).map(drop)
}

/// The block hashes and the record's fields for an image that somebody else wrote. Reads the whole image once.
pub fn integrity_of(image: &Image) -> Result<Integrity> {
    let mut hashes = Vec::new();
    for (start, word) in image.blocks()? {
        hashes.push(BlockHash::of(start, &image.stored_block(start, word)?));
    }
    hashes.dedup();
    let mut content_bytes = 0u64;
    let mut counted = std::collections::HashSet::new();
    image.walk(|_, inode| {
        if let Content::File(file) = &inode.content
            && (inode.links < 2 || counted.insert(inode.reference))
        {
            content_bytes = content_bytes.saturating_add(file.size);
        }
        Ok(())
    })?;
    let mut superblock = [0; SUPERBLOCK_SIZE];
    image.stored(0, &mut superblock)?;
    let metadata = match image.metadata_length() <= HELD_MAX {
        true => image.hold_metadata()?,
        false => image.hash_large_metadata()?,
    };
    let offset = hashes_offset(image.superblock.bytes_used);
    let table = encode(&hashes);
    Ok(Integrity {
        squashfs: record::Squashfs {
            size: offset.saturating_add(table.len() as u64),
            bytes_used: image.superblock.bytes_used,
            compressor: image.compressor.name().to_string(),
            block_size: image.superblock.block_size,
            inodes: image.superblock.inodes,
            content_bytes,
            hashes_offset: offset,
            hashes_count: hashes.len() as u64,
            root: root(&superblock, metadata, blake3::hash(&table)),
        },
        hashes,
    })
}
