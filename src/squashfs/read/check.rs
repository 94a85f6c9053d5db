//! Are these the bytes that were written? At start for the metadata, at each read for blocks, on request for everything.
//!
//! Metadata that was checked is kept in memory in its stored form when it is small, so that what was checked is also
//! what is served.

use super::{Content, Image};
use crate::error::{Context, Error, Result};
use crate::record;
use crate::squashfs::format::{DATA_SIZE_MASK, SUPERBLOCK_SIZE};
use crate::squashfs::integrity::{BlockHash, hashes_offset, metadata_start, root};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;

/// Stored metadata up to this size is kept; 50 000 files need about 1 MiB.
const HELD_MAX: u64 = 4 << 20;

/// What a check leaves behind.
pub(super) struct Checked {
    hashes: Vec<BlockHash>,
    held_from: u64,
    held: Vec<u8>,
}

impl Checked {
    /// Stored metadata that is in memory.
    pub(super) fn held(&self, position: u64, length: usize) -> Option<&[u8]> {
        let from = usize::try_from(position.checked_sub(self.held_from)?).ok()?;
        self.held.get(from..from.checked_add(length)?)
    }
}

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
        let what = || {
            format!(
                "the image `{}` is not the one that its record describes",
                self.name
            )
        };
        let differs = |cause: String| {
            Err(Error::new(what())
                .cause(cause)
                .hint("pull or import the image again; `carrack verify` finds the damaged part"))
        };
        if expected.bytes_used != self.superblock.bytes_used {
            return differs(format!(
                "it has {} bytes, not {}",
                self.superblock.bytes_used, expected.bytes_used
            ));
        }
        let length = expected.hashes_count.checked_mul(BlockHash::SIZE as u64);
        let Some(length) = length.filter(|length| {
            expected
                .hashes_offset
                .checked_add(*length)
                .and_then(|end| end.checked_add(self.offset))
                .is_some_and(|end| end <= self.file_length)
        }) else {
            return differs("its table of block hashes is cut off".into());
        };

        let mut superblock = [0; SUPERBLOCK_SIZE];
        self.stored(0, &mut superblock)?;
        let (metadata, held) = self.metadata_hash()?;
        let mut table = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.file
            .read_exact_at(
                &mut table,
                self.offset.saturating_add(expected.hashes_offset),
            )
            .or_say(what)?;
        let found = root(&superblock, metadata, blake3::hash(&table));
        if found != expected.root {
            return differs(format!("its root is {found}, not {}", expected.root));
        }
        let hashes: Vec<BlockHash> = table
            .chunks_exact(BlockHash::SIZE)
            .filter_map(BlockHash::parse)
            .collect();
        if !hashes.is_sorted_by_key(|hash| hash.start) {
            return differs("its table of block hashes is not in order".into());
        }
        let checked = Checked {
            hashes,
            held_from: metadata_start(&self.superblock),
            held,
        };
        // A second check of the same image finds the same.
        let _ = self.integrity.set(checked);
        Ok(())
    }

    /// Whether blocks are checked when they are read.
    pub fn is_checked(&self) -> bool {
        self.integrity.get().is_some()
    }

    /// BLAKE3 of the stored metadata, and the bytes themselves when they are few.
    fn metadata_hash(&self) -> Result<(blake3::Hash, Vec<u8>)> {
        let start = metadata_start(&self.superblock);
        let length = self.superblock.bytes_used.saturating_sub(start);
        let mut held = Vec::new();
        if length <= HELD_MAX {
            held.resize(length as usize, 0);
            self.stored(start, &mut held)?;
            return Ok((blake3::hash(&held), held));
        }
        let mut hasher = blake3::Hasher::new();
        let mut part = vec![0; 1 << 20];
        let mut at = start;
        while at < self.superblock.bytes_used {
            let left = self.superblock.bytes_used - at;
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
            let part = part.get_mut(..size).unwrap_or_default();
            self.stored(at, part)?;
            hasher.update(part);
            at += size as u64;
        }
        Ok((hasher.finalize(), held))
    }

    /// Compares stored bytes with their hash, once `check` has said that there are hashes.
    pub(super) fn check_block(&self, start: u64, stored: &[u8]) -> Result<()> {
        let Some(checked) = self.integrity.get() else {
            return Ok(());
        };
        let first = checked.hashes.partition_point(|hash| hash.start < start);
        let matches = checked
            .hashes
            .get(first..)
            .unwrap_or_default()
            .iter()
            .take_while(|hash| hash.start == start)
            .any(|hash| hash.matches(stored));
        if matches {
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
    let (metadata, _) = image.metadata_hash()?;
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
