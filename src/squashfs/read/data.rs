//! File content: from an offset in a file to blocks, fragments and holes.

use super::cache::Block;
use super::inode::{Content, FileContent, Inode};
use super::metadata::{Cursor, Held, copy};
use super::{Image, InodeReference, Tool, Work};
use crate::error::Result;
use crate::squashfs::format::{DATA_SIZE_MASK, DATA_UNCOMPRESSED};
use crate::sys::memory;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Files with more blocks get marks into their block list (64 MiB at 128 KiB).
const MARK_EVERY: u64 = 512;
/// Files whose marks are kept.
const MARKED_FILES: usize = 32;

/// A part of a file, still in the cache's memory.
#[derive(Clone, Debug)]
pub enum Piece {
    Bytes {
        block: Arc<Block>,
        from: usize,
        to: usize,
    },
    /// So many zeros.
    Hole(usize),
}

impl Piece {
    pub fn len(&self) -> usize {
        match self {
            Piece::Bytes { from, to, .. } => to.saturating_sub(*from),
            Piece::Hole(length) => *length,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; `None` for a hole.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Piece::Bytes { block, from, to } => block.bytes().get(*from..*to),
            Piece::Hole(_) => None,
        }
    }
}

/// One block as an inode lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredBlock {
    pub start: u64,
    /// Stored size with its flag; 0 is a hole.
    pub word: u32,
    /// Uncompressed length.
    pub length: usize,
}

/// Every [`MARK_EVERY`] blocks: where the list goes on and where the block is stored.
type Marks = Arc<Vec<(Cursor, u64)>>;

/// Marks of the big files that were read last, so that a random read sums up few sizes.
#[derive(Default)]
pub(super) struct Lists(Mutex<VecDeque<(InodeReference, Marks)>>);

impl Image {
    /// Reads from a file; fewer bytes than asked for only at its end.
    pub fn read_at(&self, inode: &Inode, offset: u64, into: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        self.read_pieces(inode, offset, into.len(), |piece| {
            let rest = into.get_mut(filled..).unwrap_or_default();
            filled += match piece.bytes() {
                Some(bytes) => copy(rest, bytes),
                None => {
                    let zeros = rest.len().min(piece.len());
                    rest.get_mut(..zeros).unwrap_or_default().fill(0);
                    zeros
                }
            };
        })?;
        Ok(filled)
    }

    /// Hands out the parts of a range of a file in order, without copying them.
    pub fn read_pieces(
        &self,
        inode: &Inode,
        offset: u64,
        length: usize,
        mut take: impl FnMut(Piece),
    ) -> Result<()> {
        let Content::File(file) = &inode.content else {
            return Err(self.damaged(format!("inode {} is not a file", inode.number)));
        };
        let end = file.size.min(offset.saturating_add(length as u64));
        let block_size = u64::from(self.superblock.block_size);
        let mut at = offset;
        let mut list = None;
        while at < end {
            let index = at / block_size;
            let within = (at % block_size) as usize;
            let here = (block_size - at % block_size).min(end - at) as usize;
            let block = if index < file.blocks {
                let mut steps = match list.take() {
                    Some(steps) => steps,
                    None => self.block_list(inode, file, index)?,
                };
                let stored = self.next_block(file, &mut steps)?;
                list = Some(steps);
                if stored.word == 0 {
                    take(Piece::Hole(here));
                    at += here as u64;
                    continue;
                }
                let block = self.data_block(stored.start, stored.word)?;
                if block.bytes().len() != stored.length {
                    return Err(self.damaged(format!(
                        "the block at {} of file {} has a wrong length",
                        stored.start, inode.number
                    )));
                }
                (block, within)
            } else {
                let (fragment, inner) = file.fragment.ok_or_else(|| self.short_file(inode))?;
                let entry = self.fragment(fragment)?;
                let block = self.data_block(entry.start, entry.size)?;
                (block, within.saturating_add(inner as usize))
            };
            let (block, from) = block;
            let to = from.saturating_add(here);
            if to > block.bytes().len() {
                return Err(self.short_file(inode));
            }
            take(Piece::Bytes { block, from, to });
            at += here as u64;
        }
        Ok(())
    }

    fn short_file(&self, inode: &Inode) -> crate::error::Error {
        self.damaged(format!("file {} is shorter than its size", inode.number))
    }

    /// The block list from block `index` on.
    pub(super) fn block_list(
        &self,
        inode: &Inode,
        file: &FileContent,
        index: u64,
    ) -> Result<BlockList> {
        let mut list = BlockList {
            cursor: file.list,
            start: file.start,
            index: 0,
            held: Held::default(),
        };
        if index >= MARK_EVERY {
            let marks = self.marks(inode, file)?;
            let mark = usize::try_from(index / MARK_EVERY)
                .ok()
                .and_then(|n| marks.get(n.wrapping_sub(1)));
            let (cursor, start) = mark.ok_or_else(|| self.short_file(inode))?;
            list.cursor = *cursor;
            list.start = *start;
            list.index = index - index % MARK_EVERY;
        }
        while list.index < index {
            self.next_block(file, &mut list)?;
        }
        Ok(list)
    }

    pub(super) fn next_block(
        &self,
        file: &FileContent,
        list: &mut BlockList,
    ) -> Result<StoredBlock> {
        let mut word = [0; 4];
        self.metadata_read_held(&mut list.held, &mut list.cursor, &mut word)?;
        let word = u32::from_le_bytes(word);
        let block_size = u64::from(self.superblock.block_size);
        let before = list.index.saturating_mul(block_size);
        let stored = StoredBlock {
            start: list.start,
            word,
            length: file.size.saturating_sub(before).min(block_size) as usize,
        };
        list.start = list.start.saturating_add((word & DATA_SIZE_MASK).into());
        list.index += 1;
        Ok(stored)
    }

    fn marks(&self, inode: &Inode, file: &FileContent) -> Result<Marks> {
        let kept = || self.lists.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, marks)) = kept().iter().find(|(of, _)| *of == inode.reference) {
            return Ok(Arc::clone(marks));
        }
        // Grows with the list that is really there, not with the size that the inode claims.
        let mut marks = Vec::new();
        let mut list = self.block_list(inode, file, 0)?;
        while list.index < file.blocks {
            self.next_block(file, &mut list)?;
            if list.index.is_multiple_of(MARK_EVERY) {
                marks.push((list.cursor, list.start));
            }
        }
        let marks = Arc::new(marks);
        let mut kept = kept();
        if kept.len() >= MARKED_FILES {
            kept.pop_front();
        }
        kept.push_back((inode.reference, Arc::clone(&marks)));
        Ok(marks)
    }

    /// A data or fragment block.
    pub(super) fn data_block(&self, start: u64, word: u32) -> Result<Arc<Block>> {
        self.data.get(
            (start, word),
            || self.tell(Work::Storage),
            |buffer| self.make_data(start, word, buffer),
        )
    }

    fn make_data(&self, start: u64, word: u32, mut buffer: Vec<u8>) -> Result<Block> {
        let broken = |why: &str| self.damaged(format!("the block at {start} {why}"));
        let size = (word & DATA_SIZE_MASK) as usize;
        let block_size = self.superblock.block_size as usize;
        if size == 0 || size > block_size || word & !(DATA_SIZE_MASK | DATA_UNCOMPRESSED) != 0 {
            return Err(broken("has an impossible size"));
        }
        let raw = word & DATA_UNCOMPRESSED != 0;
        let room = if raw { size } else { block_size };
        if buffer.len() < room {
            buffer = vec![0; room];
            memory::get_pages(&mut buffer);
        }
        if raw {
            let into = buffer.get_mut(..size).unwrap_or_default();
            self.stored(start, into)?;
            self.check_block(start, into)?;
            return Ok(Block::new(buffer, size, 0));
        }
        self.with_tool(
            |Tool {
                 stored,
                 decompressor,
             }| {
                // Room for any block, so that it is allocated once.
                if stored.len() < block_size {
                    *stored = vec![0; block_size];
                }
                let stored = stored.get_mut(..size).unwrap_or_default();
                self.stored(start, stored)?;
                self.tell(Work::Computing);
                self.check_block(start, stored)?;
                let length = decompressor
                    .decompress(stored, buffer.get_mut(..block_size).unwrap_or_default())
                    .ok_or_else(|| broken("cannot be decompressed"))?;
                Ok(Block::new(buffer, length, 0))
            },
        )
    }
}

/// A place in the block list of one file.
pub(super) struct BlockList {
    cursor: Cursor,
    start: u64,
    pub index: u64,
    held: Held,
}
