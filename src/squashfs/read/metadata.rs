//! Metadata blocks, and a cursor that reads across them.
//!
//! A block says where the next one is only by its own stored size, and that is never zero: a cursor only moves forward,
//! so no chain of blocks is endless.

use super::cache::Block;
use super::{Image, Tool, Work};
use crate::error::Result;
use crate::squashfs::format::{METADATA_SIZE, METADATA_UNCOMPRESSED};
use std::sync::Arc;

const HEADER: usize = 2;

/// A place in a table: where its metadata block is stored, and how far into the uncompressed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub block: u64,
    pub offset: usize,
}

/// The block that was read last.
#[derive(Default)]
pub(super) struct Held(Option<(u64, Arc<Block>)>);

impl Held {
    pub(super) fn get(&mut self, image: &Image, position: u64) -> Result<Arc<Block>> {
        match &self.0 {
            Some((at, block)) if *at == position => Ok(Arc::clone(block)),
            _ => {
                let block = image.metadata_block(position)?;
                self.0 = Some((position, Arc::clone(&block)));
                Ok(block)
            }
        }
    }
}

/// Copies as much as both have.
pub(super) fn copy(to: &mut [u8], from: &[u8]) -> usize {
    let count = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..count), from.get(..count)) {
        to.copy_from_slice(from);
    }
    count
}

impl Image {
    /// The metadata block stored at an absolute position.
    pub(super) fn metadata_block(&self, position: u64) -> Result<Arc<Block>> {
        self.metadata.get(
            (position, 0),
            || self.tell(Work::Storage),
            |buffer| self.make_metadata(position, buffer),
        )
    }

    fn make_metadata(&self, position: u64, mut buffer: Vec<u8>) -> Result<Block> {
        let broken = || self.damaged(format!("the metadata block at {position} is broken"));
        // One read gets header and block in all cases but at the end of the image.
        let left = self.superblock.bytes_used.saturating_sub(position);
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(HEADER + METADATA_SIZE);
        self.with_tool(
            |Tool {
                 stored,
                 decompressor,
             }| {
                stored.resize(stored.len().max(most), 0);
                let stored = stored.get_mut(..most).ok_or_else(broken)?;
                self.stored(position, stored)?;
                let (header, rest) = stored.split_first_chunk::<HEADER>().ok_or_else(broken)?;
                let header = u16::from_le_bytes(*header);
                let size = usize::from(header & !METADATA_UNCOMPRESSED);
                let rest = rest
                    .get(..size)
                    .filter(|r| !r.is_empty())
                    .ok_or_else(broken)?;
                buffer.resize(METADATA_SIZE, 0);
                let length = if header & METADATA_UNCOMPRESSED != 0 {
                    buffer
                        .get_mut(..size)
                        .ok_or_else(broken)?
                        .copy_from_slice(rest);
                    size
                } else {
                    decompressor
                        .decompress(rest, &mut buffer)
                        .ok_or_else(broken)?
                };
                let next = position.saturating_add((HEADER + size) as u64);
                Ok(Block::new(buffer, length, next))
            },
        )
    }

    /// Fills `into` from the cursor on and moves it behind.
    pub(super) fn metadata_read(&self, cursor: &mut Cursor, into: &mut [u8]) -> Result<()> {
        self.metadata_read_held(&mut Held::default(), cursor, into)
    }

    /// The same for many small reads in a row, which then rarely ask the cache.
    pub(super) fn metadata_read_held(
        &self,
        held: &mut Held,
        cursor: &mut Cursor,
        into: &mut [u8],
    ) -> Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            let block = held.get(self, cursor.block)?;
            let from = block.bytes().get(cursor.offset..).unwrap_or_default();
            let rest = into.get_mut(filled..).unwrap_or_default();
            let count = copy(rest, from);
            filled += count;
            self.advance(cursor, &block, count)?;
        }
        Ok(())
    }

    /// Moves a cursor inside `block` by `count` bytes, to the next block when this one is used up.
    pub(super) fn advance(&self, cursor: &mut Cursor, block: &Block, count: usize) -> Result<()> {
        cursor.offset = cursor.offset.saturating_add(count);
        if cursor.offset < block.bytes().len() {
            return Ok(());
        }
        // Only full blocks are followed by another one of the same table.
        if cursor.offset > block.bytes().len() {
            return Err(self.damaged(format!(
                "an offset lies outside of the metadata block at {}",
                cursor.block
            )));
        }
        *cursor = Cursor {
            block: block.next,
            offset: 0,
        };
        Ok(())
    }

    /// Moves a cursor by any number of bytes without looking at them.
    pub(super) fn metadata_skip(&self, cursor: &mut Cursor, count: u64) -> Result<()> {
        let mut left =
            usize::try_from(count).map_err(|_| self.damaged("a table is longer than memory"))?;
        while left > 0 {
            let block = self.metadata_block(cursor.block)?;
            let here = block.bytes().len().saturating_sub(cursor.offset);
            let step = here.min(left);
            left -= step;
            self.advance(cursor, &block, step)?;
        }
        Ok(())
    }
}
