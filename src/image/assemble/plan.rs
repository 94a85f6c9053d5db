//! Which stretches of which packs an image consists of, and where they go.
//!
//! The topmost layer's content comes first, so that the plan of the upper layers alone is the beginning of the whole.

use crate::error::{Context, Result};
use crate::image::tree::{self, Tree};
use crate::pack::blocks::{Run, stored};
use crate::pack::cache::Pack;
use crate::squashfs::format::FragmentEntry;
use crate::squashfs::integrity::BlockHash;
use crate::squashfs::write::DATA_START;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::Arc;

const PAGE: u64 = 4096;
/// Ranges from this length on keep their place in the page, so that a file system that can share blocks between files
/// does not copy at all. Costs under 1 % at worst.
const ALIGNED_FROM: u64 = 512 << 10;

/// A stretch of one pack and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub pack: usize,
    pub from: u64,
    pub length: u64,
    pub to: u64,
}

/// Where everything goes.
pub struct Plan<'a> {
    /// Topmost layer first.
    packs: Vec<&'a Pack>,
    /// The lowest layer that there is a pack for.
    first: usize,
    /// Layer from there on → index in `packs`.
    pack_of: Vec<usize>,
    /// Ascending by pack and source position.
    ranges: Vec<Range>,
    /// Runs whose equal stands in another pack: (pack, first) → that one.
    twins: HashMap<(usize, u32), (usize, Run)>,
    pub fragments: Vec<FragmentEntry>,
    /// (pack, fragment) → fragment of the image.
    fragment_of: HashMap<(usize, u32), u32>,
    pub hashes: Vec<BlockHash>,
    pub content_bytes: u64,
    /// Where the content ends.
    pub end: u64,
}

impl<'a> Plan<'a> {
    /// `packs` has one pack for each layer from `first` on, lowest first; the same pack may stand there twice.
    pub fn make(tree: &Tree, first: usize, packs: &'a [Arc<Pack>]) -> Result<Plan<'a>> {
        let mut plan = Plan {
            packs: Vec::new(),
            first,
            pack_of: Vec::new(),
            ranges: Vec::new(),
            twins: HashMap::new(),
            fragments: Vec::new(),
            fragment_of: HashMap::new(),
            hashes: Vec::new(),
            content_bytes: 0,
            end: DATA_START,
        };
        for pack in packs.iter().rev() {
            let known = plan
                .packs
                .iter()
                .position(|known| std::ptr::eq(*known, &**pack));
            plan.pack_of.push(known.unwrap_or_else(|| {
                plan.packs.push(pack);
                plan.packs.len() - 1
            }));
        }
        plan.pack_of.reverse();
        let mut runs: BTreeSet<(usize, u32)> = BTreeSet::new();
        let mut run_at: HashMap<(usize, u32), Run> = HashMap::new();
        let mut fragments: BTreeSet<(usize, u32)> = BTreeSet::new();
        for number in 0..tree.inodes() {
            let Some(tree::Body::File { layer, content }) =
                tree.inode(number).map(|inode| inode.body)
            else {
                continue;
            };
            plan.content_bytes = plan.content_bytes.saturating_add(content.size);
            let Some((index, pack)) = plan.pack(layer) else {
                continue;
            };
            if let Some(run) = content
                .run
                .and_then(|run| pack.index.blocks.runs.get(run as usize))
            {
                runs.insert((index, run.first));
                run_at.insert((index, run.first), *run);
            }
            if let Some((fragment, _)) = content.tail {
                fragments.insert((index, fragment));
            }
        }
        let mut pieces: Vec<(usize, u64, u64)> = Vec::new();
        let mut first_of: HashMap<blake3::Hash, (usize, Run)> = HashMap::new();
        for key in runs {
            let (index, _) = key;
            let (Some(&run), Some(pack)) = (run_at.get(&key), plan.packs.get(index)) else {
                continue;
            };
            let sizes = pack.index.blocks.sizes_of(run);
            let length = sizes.iter().map(|&size| stored(size)).sum();
            if length == 0 {
                continue;
            }
            match first_of.entry(identity(pack, run)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    plan.twins.insert(key, *first.get());
                }
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert((index, run));
                    pieces.push((index, run.start, length));
                }
            }
        }
        for &(index, fragment) in &fragments {
            let entry = plan.fragment(index, fragment)?;
            pieces.push((index, entry.start, stored(entry.size)));
        }
        pieces.sort_unstable();
        plan.place(&pieces);
        for (index, run) in first_of.into_values() {
            plan.add_hashes(index, run)?;
        }
        for (index, fragment) in fragments {
            let entry = plan.fragment(index, fragment)?;
            let start = plan.destination(index, entry.start)?;
            plan.fragment_of
                .insert((index, fragment), plan.fragments.len() as u32);
            plan.fragments.push(FragmentEntry {
                start,
                size: entry.size,
            });
            plan.hashes.push(BlockHash {
                start,
                size: stored(entry.size) as u32,
                hash: entry.hash,
            });
        }
        plan.hashes.sort_unstable_by_key(|hash| hash.start);
        Ok(plan)
    }

    fn pack(&self, layer: usize) -> Option<(usize, &'a Pack)> {
        let index = *self.pack_of.get(layer.checked_sub(self.first)?)?;
        Some((index, self.packs.get(index)?))
    }

    fn fragment(&self, pack: usize, fragment: u32) -> Result<crate::pack::blocks::Fragment> {
        self.packs
            .get(pack)
            .and_then(|pack| pack.index.blocks.fragments.get(fragment as usize))
            .copied()
            .or_say(|| "a pack has no fragment of this number")
    }

    /// Joins neighbours and gives every range its place in the output.
    fn place(&mut self, pieces: &[(usize, u64, u64)]) {
        for &(pack, from, length) in pieces {
            match self.ranges.last_mut() {
                Some(last) if last.pack == pack && last.from + last.length == from => {
                    last.length += length;
                }
                _ => self.ranges.push(Range {
                    pack,
                    from,
                    length,
                    to: 0,
                }),
            }
        }
        for range in &mut self.ranges {
            if range.length >= ALIGNED_FROM {
                self.end += (range.from % PAGE + PAGE - self.end % PAGE) % PAGE;
            }
            range.to = self.end;
            self.end += range.length;
        }
    }

    /// Where a byte of a pack stands in the output.
    fn destination(&self, pack: usize, from: u64) -> Result<u64> {
        let after = self
            .ranges
            .partition_point(|range| (range.pack, range.from) <= (pack, from));
        after
            .checked_sub(1)
            .and_then(|at| self.ranges.get(at))
            .filter(|range| range.pack == pack && from - range.from < range.length)
            .map(|range| range.to + (from - range.from))
            .or_say(|| "a pack's content is not where its index says")
    }

    fn add_hashes(&mut self, index: usize, run: Run) -> Result<()> {
        let mut start = self.destination(index, run.start)?;
        let Some(pack) = self.packs.get(index) else {
            return Ok(());
        };
        let blocks = &pack.index.blocks;
        let sizes = blocks.sizes_of(run).iter().filter(|&&size| size != 0);
        let hashes = blocks
            .hashes
            .get(run.first_hash as usize..)
            .unwrap_or_default();
        for (&size, &hash) in sizes.zip(hashes) {
            let size = stored(size);
            self.hashes.push(BlockHash {
                start,
                size: size as u32,
                hash,
            });
            start += size;
        }
        Ok(())
    }

    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The file of a range's pack.
    pub fn file(&self, range: &Range) -> Option<&'a File> {
        self.packs.get(range.pack).map(|pack| &pack.dat)
    }

    /// Where the blocks of a layer's run are in the output, and their sizes.
    pub fn blocks(&self, layer: usize, run: u32) -> Option<(u64, &'a [u32])> {
        let (index, pack) = self.pack(layer)?;
        let run = *pack.index.blocks.runs.get(run as usize)?;
        let key = (index, run.first);
        let (index, run) = self.twins.get(&key).copied().unwrap_or((index, run));
        let blocks = self.packs.get(index)?.index.blocks.sizes_of(run);
        let start = match blocks.iter().any(|&size| size != 0) {
            true => self.destination(index, run.start).ok()?,
            false => 0,
        };
        Some((start, blocks))
    }

    /// The image's number of a layer's fragment.
    pub fn fragment_number(&self, layer: usize, fragment: u32) -> Option<u32> {
        let (index, _) = self.pack(layer)?;
        self.fragment_of.get(&(index, fragment)).copied()
    }
}

/// What makes two runs of different packs the same bytes.
fn identity(pack: &Pack, run: Run) -> blake3::Hash {
    let blocks = &pack.index.blocks;
    let mut hasher = blake3::Hasher::new();
    let mut data = 0;
    for size in blocks.sizes_of(run) {
        hasher.update(&size.to_le_bytes());
        data += usize::from(*size != 0);
    }
    let hashes = blocks
        .hashes
        .get(run.first_hash as usize..)
        .unwrap_or_default();
    for hash in hashes.iter().take(data) {
        hasher.update(hash);
    }
    hasher.finalize()
}
