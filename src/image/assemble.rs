//! A merged tree and its packs → the squashfs file: copies what the tree refers to, then writes the tables.
//!
//! Blocks stay as they are in the packs; only their positions change. Ranges that stand together in a pack are copied
//! together. A long range keeps its place within a 4096-byte page, so that a file system that can share blocks between
//! files does not copy at all.

use crate::error::{Context, Error, Result};
use crate::image::tree::{self, Tree};
use crate::pack::blocks::{Run, stored};
use crate::pack::cache::Pack;
use crate::squashfs::format::FragmentEntry;
use crate::squashfs::integrity::BlockHash;
use crate::squashfs::write::{self, Body, DATA_START, Inode, Written};
use crate::sys::clone_range::clone_range;
use crate::sys::write_back::start_write_back;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

const PAGE: u64 = 4096;
/// Ranges from this length on keep their place in the page. Costs under 1 % at worst.
const ALIGNED_FROM: u64 = 512 << 10;
/// The disk works on what was copied while more is copied, so that the sync at the end is short.
const WRITE_BACK: u64 = 16 << 20;
const CANNOT_WRITE: &str = "cannot write the image";

/// What the record needs to know.
pub struct Assembled {
    pub written: Written,
    pub hashes: u64,
    pub content_bytes: u64,
}

/// Writes the image. `packs` has one pack for each layer, lowest first; the same pack may stand there twice.
pub fn assemble(
    tree: &Tree,
    packs: &[Arc<Pack>],
    output: &File,
    options: &write::Options,
) -> Result<Assembled> {
    let plan = Plan::make(tree, packs)?;
    // Where everything goes is known: metadata need not wait until the content is there.
    let (copied, written) = std::thread::scope(|scope| {
        let copy = scope.spawn(|| plan.copy(output));
        let written = write::write(
            output,
            plan.end,
            &Source { tree, plan: &plan },
            &plan.fragments,
            &plan.hashes,
            options,
        );
        let panicked = |_| Err(Error::new("a thread of the conversion panicked"));
        (copy.join().unwrap_or_else(panicked), written)
    });
    copied?;
    Ok(Assembled {
        written: written?,
        hashes: plan.hashes.len() as u64,
        content_bytes: plan.content_bytes,
    })
}

/// A stretch of one pack and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    pack: usize,
    from: u64,
    length: u64,
    to: u64,
}

/// Where everything goes.
struct Plan<'a> {
    packs: Vec<&'a Pack>,
    /// Layer → index in `packs`.
    pack_of: Vec<usize>,
    /// Ascending by pack and source position.
    ranges: Vec<Range>,
    /// Runs whose equal stands in another pack: (pack, first) → that one.
    twins: HashMap<(usize, u32), (usize, Run)>,
    fragments: Vec<FragmentEntry>,
    /// (pack, fragment) → fragment of the image.
    fragment_of: HashMap<(usize, u32), u32>,
    hashes: Vec<BlockHash>,
    content_bytes: u64,
    end: u64,
}

impl<'a> Plan<'a> {
    fn make(tree: &Tree, packs: &'a [Arc<Pack>]) -> Result<Plan<'a>> {
        let mut plan = Plan {
            packs: Vec::new(),
            pack_of: Vec::new(),
            ranges: Vec::new(),
            twins: HashMap::new(),
            fragments: Vec::new(),
            fragment_of: HashMap::new(),
            hashes: Vec::new(),
            content_bytes: 0,
            end: DATA_START,
        };
        for pack in packs {
            let known = plan
                .packs
                .iter()
                .position(|known| std::ptr::eq(*known, &**pack));
            plan.pack_of.push(known.unwrap_or_else(|| {
                plan.packs.push(pack);
                plan.packs.len() - 1
            }));
        }
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
        let index = *self.pack_of.get(layer)?;
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

    fn copy(&self, output: &File) -> Result<()> {
        std::thread::scope(|scope| {
            let (to_disk, copied) = channel();
            scope.spawn(move || {
                for (start, length) in copied {
                    start_write_back(output, start, length);
                }
            });
            let mut copier = Copier {
                clone: true,
                in_kernel: true,
                written_back: 0,
                to_disk,
            };
            for range in &self.ranges {
                let Some(pack) = self.packs.get(range.pack) else {
                    continue;
                };
                copier.copy(&pack.dat, range.from, output, range.to, range.length)?;
            }
            Ok(())
        })
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

/// Copies ranges the cheapest way that works between these two file systems.
struct Copier {
    clone: bool,
    in_kernel: bool,
    /// How far the disk was asked to take what was copied.
    written_back: u64,
    /// Asking costs time too, a quarter of what copying does.
    to_disk: Sender<(u64, u64)>,
}

impl Copier {
    fn copy(&mut self, from: &File, at: u64, to: &File, to_at: u64, length: u64) -> Result<()> {
        let head = (PAGE - at % PAGE) % PAGE;
        let middle = length.saturating_sub(head) / PAGE * PAGE;
        if self.clone && at % PAGE == to_at % PAGE && middle > 0 {
            match clone_range(from, at + head, middle, to, to_at + head) {
                Ok(()) => {
                    self.move_bytes(from, at, to, to_at, head)?;
                    let done = head + middle;
                    return self.move_bytes(from, at + done, to, to_at + done, length - done);
                }
                Err(_) => self.clone = false,
            }
        }
        self.move_bytes(from, at, to, to_at, length)
    }

    fn move_bytes(
        &mut self,
        from: &File,
        mut at: u64,
        to: &File,
        mut to_at: u64,
        mut left: u64,
    ) -> Result<()> {
        while self.in_kernel && left > 0 {
            let step = left.min(WRITE_BACK) as usize;
            match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), step) {
                // The offsets were moved by the call.
                Ok(count) if count > 0 => {
                    left -= count as u64;
                    self.write_back(to_at);
                }
                Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) | Ok(_) | Err(_) => {
                    // What the kernel cannot do here, or why it failed, the plain way will tell.
                    self.in_kernel = false;
                }
            }
        }
        let mut buffer = vec![0; left.min(1 << 20) as usize];
        while left > 0 {
            let take = left.min(buffer.len() as u64) as usize;
            let part = buffer.get_mut(..take).unwrap_or_default();
            from.read_exact_at(part, at)
                .map_err(|error| Error::new("cannot read a pack").source(error))?;
            to.write_all_at(part, to_at).or_say(|| CANNOT_WRITE)?;
            at += take as u64;
            to_at += take as u64;
            left -= take as u64;
            self.write_back(to_at);
        }
        Ok(())
    }

    /// Ranges are copied in ascending order, so everything below `end` is there.
    fn write_back(&mut self, end: u64) {
        let waiting = end.saturating_sub(self.written_back);
        if waiting >= WRITE_BACK {
            let _ = self.to_disk.send((self.written_back, waiting));
            self.written_back = end;
        }
    }
}

/// The tree as the writer wants it.
struct Source<'a> {
    tree: &'a Tree,
    plan: &'a Plan<'a>,
}

impl write::Tree for Source<'_> {
    fn inodes(&self) -> u32 {
        self.tree.inodes()
    }

    fn inode(&self, number: u32) -> Option<Inode<'_>> {
        let inode = self.tree.inode(number)?;
        let body = match inode.body {
            tree::Body::Directory { parent } => Body::Directory { parent },
            tree::Body::Symlink(target) => Body::Symlink(target),
            tree::Body::Fifo => Body::Fifo,
            tree::Body::File { layer, content } => {
                let (mut start, mut blocks) = (0, &[][..]);
                let mut tail = None;
                // Empty files need no pack; those added as mount points have none.
                if let Some(run) = content.run {
                    let (index, pack) = self.plan.pack(layer)?;
                    let run = *pack.index.blocks.runs.get(run as usize)?;
                    let key = (index, run.first);
                    let (index, run) = self.plan.twins.get(&key).copied().unwrap_or((index, run));
                    blocks = self.plan.packs.get(index)?.index.blocks.sizes_of(run);
                    if blocks.iter().any(|&size| size != 0) {
                        start = self.plan.destination(index, run.start).ok()?;
                    }
                } else if let Some((fragment, offset)) = content.tail {
                    let (index, _) = self.plan.pack(layer)?;
                    tail = Some((*self.plan.fragment_of.get(&(index, fragment))?, offset));
                }
                Body::File {
                    size: content.size,
                    start,
                    blocks,
                    tail,
                }
            }
        };
        Some(Inode {
            mode: inode.attributes.mode,
            uid: inode.attributes.uid,
            gid: inode.attributes.gid,
            mtime: inode.attributes.mtime,
            links: inode.links,
            xattrs: inode.xattrs,
            body,
        })
    }

    fn entries(&self, directory: u32) -> Box<dyn Iterator<Item = (&[u8], u32)> + '_> {
        Box::new(self.tree.entries(directory))
    }

    fn xattrs(&self) -> &[Vec<(Vec<u8>, Vec<u8>)>] {
        self.tree.xattrs()
    }
}
