//! The tables behind inodes and directories: anything of fixed-size entries, ids, extended attributes.

use crate::error::{Error, Result};
use crate::squashfs::format::{NONE32, NONE64, xattr_prefix};
use crate::squashfs::write::metadata::Metadata;
use crate::squashfs::write::{Output, Tree};
use std::collections::HashMap;

/// Writes entries as metadata blocks, then the positions of those blocks; returns where the positions start.
pub fn indexed(out: &mut Output, entries: &[u8], level: i32) -> Result<u64> {
    let blocks = blocks(out, entries, level)?;
    positions(out, &blocks)
}

/// The same for one number per inode, without a second copy of them all.
pub fn indexed_words(out: &mut Output, words: &[u64], level: i32) -> Result<u64> {
    let mut starts = Vec::new();
    for part in words.chunks(crate::squashfs::format::METADATA_SIZE * 8) {
        let bytes: Vec<u8> = part.iter().flat_map(|word| word.to_le_bytes()).collect();
        starts.extend(blocks(out, &bytes, level)?);
    }
    positions(out, &starts)
}

fn positions(out: &mut Output, blocks: &[u64]) -> Result<u64> {
    let start = out.position;
    for block in blocks {
        out.put(&block.to_le_bytes())?;
    }
    Ok(start)
}

/// Writes bytes as metadata blocks and returns where each starts.
fn blocks(out: &mut Output, bytes: &[u8], level: i32) -> Result<Vec<u64>> {
    let mut metadata = Metadata::new(level)?;
    let mut starts = Vec::new();
    for block in bytes.chunks(crate::squashfs::format::METADATA_SIZE) {
        starts.push(out.position);
        metadata.push(block, &mut |stored| out.put(stored))?;
        metadata.finish(&mut |stored| out.put(stored))?;
    }
    Ok(starts)
}

/// Users and groups, numbered as they come.
#[derive(Default)]
pub struct Ids {
    order: Vec<u32>,
    known: HashMap<u32, u16>,
}

impl Ids {
    pub fn index(&mut self, id: u32) -> Result<u16> {
        if let Some(&index) = self.known.get(&id) {
            return Ok(index);
        }
        let index = u16::try_from(self.order.len())
            .ok()
            .filter(|&index| index < u16::MAX)
            .ok_or_else(|| {
                Error::new("the image has files of too many users and groups")
                    .cause("the limit of squashfs is 65535 different ids")
            })?;
        self.order.push(id);
        self.known.insert(id, index);
        Ok(index)
    }

    pub fn count(&self) -> u16 {
        self.order.len() as u16
    }

    pub fn encode(&self) -> Vec<u8> {
        self.order.iter().flat_map(|id| id.to_le_bytes()).collect()
    }
}

/// Extended attributes: every set once.
pub struct Xattrs {
    /// Set of the tree → index in the table.
    index: HashMap<u32, u32>,
    /// Names and values of all sets.
    pairs: Vec<u8>,
    /// Where each set starts in `pairs`, its number of attributes, and its size.
    sets: Vec<(usize, u32, u32)>,
}

impl Xattrs {
    /// Encodes the sets that inodes use, in the order of the first that does.
    pub fn build(tree: &dyn Tree) -> Result<Xattrs> {
        let mut all = Xattrs {
            index: HashMap::new(),
            pairs: Vec::new(),
            sets: Vec::new(),
        };
        if tree.xattrs().is_empty() {
            return Ok(all);
        }
        for number in 0..tree.inodes() {
            let set = tree.inode(number).and_then(|inode| inode.xattrs);
            let Some(set) = set.filter(|set| !all.index.contains_key(set)) else {
                continue;
            };
            let Some(attributes) = tree.xattrs().get(set as usize) else {
                continue;
            };
            let start = all.pairs.len();
            // The size that the kernel reports for listing: prefixes and final zeros included.
            let mut size = 0;
            for (name, value) in attributes {
                all.pairs.extend(xattr_prefix::USER.to_le_bytes());
                all.pairs.extend((name.len() as u16).to_le_bytes());
                all.pairs.extend_from_slice(name);
                all.pairs.extend((value.len() as u32).to_le_bytes());
                all.pairs.extend_from_slice(value);
                size += ("user.".len() + name.len() + 1) as u32;
            }
            all.index.insert(set, all.sets.len() as u32);
            all.sets.push((start, attributes.len() as u32, size));
        }
        Ok(all)
    }

    pub fn index(&self, set: Option<u32>) -> u32 {
        set.and_then(|set| self.index.get(&set).copied())
            .unwrap_or(NONE32)
    }

    /// Returns where the table starts; [`NONE64`] when there are no attributes.
    pub fn write(&self, out: &mut Output, level: i32) -> Result<u64> {
        if self.sets.is_empty() {
            return Ok(NONE64);
        }
        let pairs_start = out.position;
        let starts = blocks(out, &self.pairs, level)?;
        let mut entries = Vec::new();
        for &(start, count, size) in &self.sets {
            let block = starts
                .get(start / crate::squashfs::format::METADATA_SIZE)
                .map_or(0, |block| block - pairs_start);
            let offset = (start % crate::squashfs::format::METADATA_SIZE) as u64;
            entries.extend((block << 16 | offset).to_le_bytes());
            entries.extend(count.to_le_bytes());
            entries.extend(size.to_le_bytes());
        }
        let positions = blocks(out, &entries, level)?;
        let table = out.position;
        out.put(&pairs_start.to_le_bytes())?;
        out.put(&(self.sets.len() as u32).to_le_bytes())?;
        out.put(&0u32.to_le_bytes())?;
        for position in positions {
            out.put(&position.to_le_bytes())?;
        }
        Ok(table)
    }
}
