//! Directory listings: in order, from any position, and by name.
//!
//! A listing is a list of runs; each run names the metadata block of its inodes once. Names are sorted, which lookup
//! relies on as the kernel does, and big directories carry an index of their metadata blocks.

use super::inode::{Content, Inode, Type};
use super::metadata::{Cursor, Held};
use super::{Image, InodeReference};
use crate::error::Result;
use crate::squashfs::format::{
    DIRECTORY_RUN, DirectoryEntry, DirectoryHeader, METADATA_SIZE, NAME_MAX,
};
use std::sync::{Mutex, PoisonError};

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub inode: InodeReference,
    pub number: u32,
    pub kind: Type,
    /// Where the listing goes on behind this entry.
    pub next: Position,
}

/// A place in a listing that survives between two calls: which run, and how many of its entries are done.
/// 0 is the start. At most 2^41.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position(pub u64);

const DONE_BITS: u32 = 9;

impl Position {
    fn new(run: u32, done: u32) -> Position {
        Position(u64::from(run) << DONE_BITS | u64::from(done))
    }
    fn run(self) -> Option<u32> {
        u32::try_from(self.0 >> DONE_BITS).ok()
    }
    fn done(self) -> u32 {
        (self.0 & ((1 << DONE_BITS) - 1)) as u32
    }
}

/// Reading state inside a listing.
#[derive(Clone, Copy)]
struct Walk {
    cursor: Cursor,
    /// Bytes of the listing before the cursor.
    passed: u32,
    size: u32,
    /// Offset of the current run in the listing, and its header.
    run: u32,
    start: u32,
    number: u32,
    count: u32,
    done: u32,
}

/// Where the last readers of directories stopped, so that the next call of the same reader does not search.
#[derive(Default)]
pub(super) struct Resume(Mutex<[Option<(InodeReference, Position, Walk)>; 16]>);

impl Resume {
    fn slot(directory: InodeReference, position: Position) -> usize {
        let mixed = (directory.0 ^ position.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 60) as usize
    }

    fn find(&self, directory: InodeReference, position: Position) -> Option<Walk> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, at, walk) = slots.get(Resume::slot(directory, position))?.as_ref()?;
        (*of == directory && *at == position).then_some(*walk)
    }

    fn keep(&self, directory: InodeReference, position: Position, walk: Walk) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(Resume::slot(directory, position)) {
            *slot = Some((directory, position, walk));
        }
    }
}

impl Image {
    /// Calls `each` for the entries from a position on, until it returns false. `.` and `..` are not among them.
    pub fn read_dir(
        &self,
        directory: &Inode,
        from: Position,
        mut each: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<()> {
        let mut walk = match self.resume.find(directory.reference, from) {
            Some(walk) => walk,
            None => self.walk_from(directory, from)?,
        };
        let mut name = [0; NAME_MAX + 1];
        let mut held = Held::default();
        loop {
            let before = walk;
            let Some(entry) = self.next_entry(directory, &mut walk, &mut held, &mut name)? else {
                return Ok(());
            };
            if !each(entry) {
                // The entry was not taken: the next call starts with it.
                let at = Position::new(before.run, before.done);
                self.resume.keep(directory.reference, at, before);
                return Ok(());
            }
        }
    }

    /// The inode of a name.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<InodeReference>> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Ok(None);
        }
        let mut walk = self.walk_start(directory)?;
        self.index_skip(directory, &mut walk, |_, first| first <= name)?;
        let mut buffer = [0; NAME_MAX + 1];
        let mut held = Held::default();
        while let Some(entry) = self.next_entry(directory, &mut walk, &mut held, &mut buffer)? {
            match entry.name.cmp(name) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(entry.inode)),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    fn walk_start(&self, directory: &Inode) -> Result<Walk> {
        let Content::Directory { listing, size, .. } = directory.content else {
            return Err(self.damaged(format!("inode {} is not a directory", directory.number)));
        };
        if listing.offset > METADATA_SIZE {
            return Err(self.bad_listing(directory));
        }
        Ok(Walk {
            cursor: listing,
            passed: 0,
            size,
            run: 0,
            start: 0,
            number: 0,
            count: 0,
            done: 0,
        })
    }

    fn walk_from(&self, directory: &Inode, from: Position) -> Result<Walk> {
        let mut walk = self.walk_start(directory)?;
        let run = from.run().ok_or_else(|| self.bad_listing(directory))?;
        self.index_skip(directory, &mut walk, |passed, _| passed <= run)?;
        let left = run.saturating_sub(walk.passed);
        self.metadata_skip(&mut walk.cursor, left.min(walk.size).into())?;
        walk.passed = walk.passed.saturating_add(left);
        let mut name = [0; NAME_MAX + 1];
        let mut held = Held::default();
        for _ in 0..from.done() {
            let entry = self.next_entry(directory, &mut walk, &mut held, &mut name)?;
            if entry.is_none() {
                break;
            }
        }
        Ok(walk)
    }

    /// Jumps to the last metadata block of the listing that the directory's index offers and `wanted` accepts.
    fn index_skip(
        &self,
        directory: &Inode,
        walk: &mut Walk,
        wanted: impl Fn(u32, &[u8]) -> bool,
    ) -> Result<()> {
        let Content::Directory {
            listing,
            index_count,
            index,
            ..
        } = directory.content
        else {
            return Ok(());
        };
        let mut cursor = index;
        let mut held = Held::default();
        let mut buffer = [0; NAME_MAX + 1];
        for _ in 0..index_count {
            let mut words = [0; 12];
            self.metadata_read_held(&mut held, &mut cursor, &mut words)?;
            let [a, b, c, d, e, f, g, h, i, j, k, l] = words;
            let passed = u32::from_le_bytes([a, b, c, d]);
            let start = u32::from_le_bytes([e, f, g, h]);
            let length = u32::from_le_bytes([i, j, k, l]) as usize;
            let name = buffer
                .get_mut(..length.saturating_add(1))
                .ok_or_else(|| self.bad_listing(directory))?;
            self.metadata_read_held(&mut held, &mut cursor, name)?;
            if passed > walk.size || !wanted(passed, name) {
                break;
            }
            // A metadata block starts where the listing's own offset and the bytes passed fill whole blocks.
            let offset = (listing.offset + passed as usize) % METADATA_SIZE;
            walk.passed = passed;
            walk.run = passed;
            walk.cursor = Cursor {
                block: self.superblock.directory_table.saturating_add(start.into()),
                offset,
            };
        }
        Ok(())
    }

    fn next_entry<'a>(
        &self,
        directory: &Inode,
        walk: &mut Walk,
        held: &mut Held,
        buffer: &'a mut [u8; NAME_MAX + 1],
    ) -> Result<Option<Entry<'a>>> {
        let bad = || self.bad_listing(directory);
        if walk.done >= walk.count {
            if walk.passed >= walk.size {
                return Ok(None);
            }
            let mut bytes = [0; DirectoryHeader::SIZE];
            let run = walk.passed;
            self.listing_read(directory, walk, held, &mut bytes)?;
            let header = DirectoryHeader::parse(&bytes).ok_or_else(bad)?;
            if header.count as usize > DIRECTORY_RUN {
                return Err(bad());
            }
            walk.run = run;
            walk.start = header.start;
            walk.number = header.inode_number;
            walk.count = header.count;
            walk.done = 0;
        }
        let mut fixed = [0; 8];
        self.listing_read(directory, walk, held, &mut fixed)?;
        let [a, b, c, d, e, f, g, h] = fixed;
        let length = usize::from(u16::from_le_bytes([g, h])) + 1;
        let head = DirectoryEntry {
            offset: u16::from_le_bytes([a, b]),
            number_delta: i16::from_le_bytes([c, d]),
            kind: u16::from_le_bytes([e, f]),
            name: &[],
        };
        if length > NAME_MAX {
            return Err(bad());
        }
        let name = buffer.get_mut(..length).ok_or_else(bad)?;
        self.listing_read(directory, walk, held, name)?;
        let name: &[u8] = name;
        if matches!(name, b"." | b"..") || name.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(bad());
        }
        walk.done += 1;
        Ok(Some(Entry {
            name,
            inode: InodeReference::new(walk.start.into(), head.offset),
            number: walk.number.wrapping_add_signed(head.number_delta.into()),
            kind: Type::from_kind(head.kind).ok_or_else(bad)?,
            next: Position::new(walk.run, walk.done),
        }))
    }

    fn listing_read(
        &self,
        directory: &Inode,
        walk: &mut Walk,
        held: &mut Held,
        into: &mut [u8],
    ) -> Result<()> {
        let after = walk.passed.saturating_add(into.len() as u32);
        if after > walk.size {
            return Err(self.bad_listing(directory));
        }
        self.metadata_read_held(held, &mut walk.cursor, into)?;
        walk.passed = after;
        Ok(())
    }

    fn bad_listing(&self, directory: &Inode) -> crate::error::Error {
        self.damaged(format!(
            "the listing of directory {} is broken",
            directory.number
        ))
    }
}
