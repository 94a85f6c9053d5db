//! Reads a squashfs image on demand, from any number of threads.
//!
//! Every method takes `&self` and reads with `pread`, never through a mapping: an image that is truncated or replaced
//! under a running job gives an error, not SIGBUS. Images are hostile: each number is checked against what it points
//! into before anything is allocated or followed, and no input panics. Tables are read when they are first needed,
//! because opening an image is on the path of every launch. Absent: writing, the export table, images of squashfs
//! before 4.0, and `lzma`.

pub mod cache;
mod check;
mod data;
mod directory;
mod follow;
mod inode;
mod metadata;
mod walk;
mod xattr;

#[cfg(test)]
pub(crate) mod tests;

pub use check::{Damage, Integrity, integrity_of, verify_all};
pub use data::Piece;
pub use directory::{Entry, Position};
pub use follow::Found;
pub use inode::{Content, FileContent, Inode, Type};
pub use metadata::Cursor;
pub use walk::escaped;

use super::decompress::Decompressor;
use super::format::{
    Compressor, FragmentEntry, MAX_BLOCK_SIZE, METADATA_SIZE, NONE32, NONE64, SUPERBLOCK_SIZE,
    Superblock,
};
use crate::error::{Context, Error, Result};
use cache::Cache;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

pub use super::format::InodeReference;

/// How to read an image. The defaults suit a server beside a job: about 16 MiB at most.
#[derive(Clone, Debug)]
pub struct Options {
    /// How messages call the image; usually its path.
    pub name: String,
    /// Where the squashfs starts in the file (a SIF holds it as a partition).
    pub offset: u64,
    /// Bytes kept of inodes and directories.
    pub metadata_cache: usize,
    /// Bytes kept of file content. Eight blocks are always kept.
    pub data_cache: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            name: "squashfs".into(),
            offset: 0,
            metadata_cache: 4 << 20,
            data_cache: 12 << 20,
        }
    }
}

impl Options {
    pub fn named(name: impl Into<String>) -> Options {
        Options {
            name: name.into(),
            ..Options::default()
        }
    }
}

/// An open image.
pub struct Image {
    file: File,
    /// Bytes of the whole file.
    file_length: u64,
    name: String,
    offset: u64,
    superblock: Superblock,
    superblock_bytes: [u8; SUPERBLOCK_SIZE],
    compressor: Compressor,
    metadata: Cache,
    data: Cache,
    tools: Mutex<Vec<Tool>>,
    ids: OnceLock<Vec<u32>>,
    fragments: OnceLock<Vec<u64>>,
    xattrs: OnceLock<xattr::Table>,
    lists: data::Lists,
    resume: directory::Resume,
    /// `None` after a check that failed.
    checked: OnceLock<Option<check::Checked>>,
    before_work: OnceLock<Box<dyn Fn(Work) + Send + Sync>>,
    /// How often more is still read than asked for.
    times_ahead: AtomicU32,
}

/// Bytes. Without, an import of numpy from a disk takes a tenth longer; with four times as much, no less.
const READ_AHEAD: NonZeroU64 = NonZeroU64::new(512 << 10).unwrap();
/// An import of numpy does it 162 times.
const TIMES_AHEAD: u32 = 1024;

/// What a thread is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Wait for the storage that holds the image, or for another thread that may.
    Storage,
    /// Decompress a block.
    Computing,
}

/// What one thread needs to make one block.
struct Tool {
    stored: Vec<u8>,
    decompressor: Decompressor,
}

impl Image {
    /// Checks the superblock; everything else is read when it is needed.
    pub fn open(file: File, options: Options) -> Result<Image> {
        let what = || format!("cannot open the image `{}`", options.name);
        let mut bytes = [0; SUPERBLOCK_SIZE];
        file.read_exact_at(&mut bytes, options.offset)
            .or_say(what)?;
        let superblock = Superblock::parse(&bytes)
            .or_say(what)
            .map_err(|error| error.cause("it is not a squashfs 4.0 image"))?;
        let file_length = file.metadata().or_say(what)?.len();
        let length = file_length.saturating_sub(options.offset);
        let supported = Compressor::from_id(superblock.compressor);
        let Some((compressor, first)) =
            supported.and_then(|c| Decompressor::new(c).map(|decompressor| (c, decompressor)))
        else {
            let name = supported.map_or("unknown", Compressor::name);
            return Err(Error::new(what())
                .cause(format!(
                    "its compressor ({}, {name}) is not supported",
                    superblock.compressor
                ))
                .hint("convert it again, for example with `mksquashfs -comp zstd`"));
        };
        let wrong = |cause: String| Err(Error::new(what()).cause(cause));
        if !(4096..=MAX_BLOCK_SIZE).contains(&superblock.block_size) {
            return wrong(format!(
                "its block size {} is out of range",
                superblock.block_size
            ));
        }
        if superblock.bytes_used > length {
            return wrong(format!(
                "it is truncated: {} bytes should be there, {length} are",
                superblock.bytes_used
            ));
        }
        let end = superblock.bytes_used;
        if superblock.inode_table >= superblock.directory_table
            || superblock.inode_table < SUPERBLOCK_SIZE as u64
            || superblock.directory_table > end
            || superblock.id_table >= end
        {
            return wrong("its tables lie outside of it".into());
        }
        let block_size = superblock.block_size as usize;
        Ok(Image {
            metadata: Cache::new(options.metadata_cache.max(8 * METADATA_SIZE)),
            data: Cache::new(options.data_cache.max(8 * block_size)),
            tools: Mutex::new(vec![Tool {
                stored: Vec::new(),
                decompressor: first,
            }]),
            ids: OnceLock::new(),
            fragments: OnceLock::new(),
            xattrs: OnceLock::new(),
            lists: data::Lists::default(),
            resume: directory::Resume::default(),
            checked: OnceLock::new(),
            before_work: OnceLock::new(),
            times_ahead: AtomicU32::new(TIMES_AHEAD),
            file,
            file_length,
            name: options.name,
            offset: options.offset,
            superblock,
            superblock_bytes: bytes,
            compressor,
        })
    }

    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub fn compressor(&self) -> Compressor {
        self.compressor
    }

    /// How messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The root directory.
    pub fn root(&self) -> InodeReference {
        self.superblock.root_inode
    }

    /// Sets what a thread calls before work that others need not wait for: a server lets another thread listen meanwhile.
    /// Only the first call has an effect.
    pub fn before_work(&self, tell: Box<dyn Fn(Work) + Send + Sync>) {
        let _ = self.before_work.set(tell);
    }

    fn tell(&self, work: Work) {
        if let Some(tell) = self.before_work.get() {
            tell(work);
        }
    }

    /// Bytes in the caches now.
    pub fn cached_bytes(&self) -> usize {
        self.metadata.bytes().saturating_add(self.data.bytes())
    }

    /// An error that says which image is broken.
    fn damaged(&self, cause: impl std::fmt::Display) -> Error {
        Error::new(format!("the image `{}` is damaged", self.name)).cause(cause)
    }

    /// Stored bytes at a position of the squashfs, all of `into` or an error.
    fn stored(&self, position: u64, into: &mut [u8]) -> Result<()> {
        let end = position.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.superblock.bytes_used) {
            return Err(self.damaged(format!("a table or block at {position} lies outside of it")));
        }
        match self.checked()? {
            Some(checked) if checked.is_metadata(position) => {
                self.checked_metadata(checked, position, into)
            }
            _ => self.read_file(position, into),
        }
    }

    fn read_file(&self, position: u64, into: &mut [u8]) -> Result<()> {
        let position_in_file = self.offset.saturating_add(position);
        if self.before_work.get().is_some() {
            // Bytes that this node has in memory come at once; for others the storage may take its time.
            let mut whole = [std::io::IoSliceMut::new(into)];
            let flags = rustix::io::ReadWriteFlags::NOWAIT;
            let read = rustix::io::preadv2(&self.file, &mut whole, position_in_file, flags);
            if read == Ok(into.len()) {
                return Ok(());
            }
            self.tell(Work::Storage);
            self.read_ahead(position_in_file);
        }
        self.file.read_exact_at(into, position_in_file).or_say(|| {
            format!(
                "cannot read {} bytes at {position} of the image `{}`",
                into.len(),
                self.name
            )
        })
    }

    /// Asks the storage for what stands behind a place as well, without waiting: the files of a directory stand in a row,
    /// and who reads one at its start reads the others next. Only a number of times, because what a program reads later
    /// may be anywhere.
    fn read_ahead(&self, position_in_file: u64) {
        let relaxed = Ordering::Relaxed;
        let times = &self.times_ahead;
        if times
            .fetch_update(relaxed, relaxed, |times| times.checked_sub(1))
            .is_ok()
        {
            // Only advice: a file system that does not take it has read less.
            let _ = rustix::fs::fadvise(
                &self.file,
                position_in_file,
                Some(READ_AHEAD),
                rustix::fs::Advice::WillNeed,
            );
        }
    }

    /// Runs `work` with a decoder that no other thread uses meanwhile.
    fn with_tool<T>(&self, work: impl FnOnce(&mut Tool) -> Result<T>) -> Result<T> {
        let pool = || self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = pool().pop();
        let mut tool = match idle {
            Some(tool) => tool,
            None => Tool {
                stored: Vec::new(),
                decompressor: Decompressor::new(self.compressor)
                    .or_say(|| "cannot make a decoder: out of memory")?,
            },
        };
        let done = work(&mut tool);
        pool().push(tool);
        done
    }

    /// The user or group id behind an index of an inode.
    fn id(&self, index: u16) -> Result<u32> {
        let ids = match self.ids.get() {
            Some(ids) => ids,
            None => {
                let count = usize::from(self.superblock.ids);
                let bytes = self.table(self.superblock.id_table, count.saturating_mul(4))?;
                let read = bytes
                    .chunks_exact(4)
                    .map(|c| c.try_into().map_or(0, u32::from_le_bytes))
                    .collect();
                self.ids.get_or_init(|| read)
            }
        };
        ids.get(usize::from(index))
            .copied()
            .ok_or_else(|| self.damaged(format!("there is no id with index {index}")))
    }

    /// A whole table stored as metadata blocks behind a list of their positions.
    fn table(&self, list: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (index, start) in self.positions(list, length)?.into_iter().enumerate() {
            let block = self.metadata_block(start)?;
            let done = index.saturating_mul(METADATA_SIZE);
            let wanted = length.saturating_sub(done).min(METADATA_SIZE);
            let part = block.bytes().get(..wanted);
            bytes.extend_from_slice(part.ok_or_else(|| self.damaged("a table is too short"))?);
        }
        Ok(bytes)
    }

    /// The positions of the metadata blocks that hold `length` bytes of a table.
    fn positions(&self, list: u64, length: usize) -> Result<Vec<u64>> {
        let bytes = length.div_ceil(METADATA_SIZE).saturating_mul(8);
        // Bounded by the file before it is allocated.
        if list
            .checked_add(bytes as u64)
            .is_none_or(|end| end > self.superblock.bytes_used)
        {
            return Err(self.damaged("a table is longer than the image"));
        }
        let mut words = vec![0; bytes];
        self.stored(list, &mut words)?;
        Ok(words
            .chunks_exact(8)
            .map(|c| c.try_into().map_or(0, u64::from_le_bytes))
            .collect())
    }

    fn fragment(&self, index: u32) -> Result<FragmentEntry> {
        let missing = || self.damaged(format!("there is no fragment {index}"));
        if index >= self.superblock.fragments
            || index == NONE32
            || self.superblock.fragment_table == NONE64
        {
            return Err(missing());
        }
        let positions = match self.fragments.get() {
            Some(positions) => positions,
            None => {
                let length =
                    u64::from(self.superblock.fragments).saturating_mul(FragmentEntry::SIZE as u64);
                let length = usize::try_from(length).map_err(|_| missing())?;
                let read = self.positions(self.superblock.fragment_table, length)?;
                self.fragments.get_or_init(|| read)
            }
        };
        let at = (index as usize).saturating_mul(FragmentEntry::SIZE);
        let start = positions.get(at / METADATA_SIZE).ok_or_else(missing)?;
        let block = self.metadata_block(*start)?;
        block
            .bytes()
            .get(at % METADATA_SIZE..)
            .and_then(FragmentEntry::parse)
            .ok_or_else(missing)
    }
}
