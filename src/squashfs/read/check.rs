//! Are these the bytes that were written? For metadata when it is first needed, at each read for blocks, on request for
//! everything.
//!
//! A check at the start compares the hashes of all pages with the root in the record, some kilobytes. From then on
//! metadata and the table of blocks are read page by page, each held to its hash, and served from memory, so that what was
//! checked is also what is served. Of images with much metadata only the first pages stay in memory; the others are
//! checked each time they are read.

use super::{Content, Image};
use crate::error::{Context, Error, Result};
use crate::record;
use crate::squashfs::format::DATA_SIZE_MASK;
use crate::squashfs::integrity::{
    BlockHash, PAGE, PAGE_HASH, PAGED, Pages, hashes_offset, metadata_start, pages, root,
    whole_root,
};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

#[cfg(test)]
mod tests;

/// As many pages stay in memory: 4 MiB, the metadata of 100 000 files.
const HELD: usize = 256;

/// What a check leaves behind.
pub(super) struct Checked {
    metadata: Region,
    table: Region,
    /// Of all pages, those of the metadata first.
    hashes: Vec<u8>,
    held: Vec<OnceLock<Box<[u8]>>>,
    /// Where the first block of each of the table's pages starts.
    firsts: Vec<OnceLock<u64>>,
}

/// A range of the squashfs file that is read by pages.
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    length: u64,
    first_page: u64,
}

impl Region {
    fn pages(self) -> u64 {
        pages(self.length)
    }
}

impl Checked {
    fn new(metadata: (u64, u64), table: (u64, u64), hashes: Vec<u8>) -> Checked {
        let region = |(start, length), first_page| Region {
            start,
            length,
            first_page,
        };
        let metadata = region(metadata, 0);
        let table = region(table, metadata.pages());
        let held = (hashes.len() / PAGE_HASH).min(HELD);
        Checked {
            metadata,
            table,
            hashes,
            held: (0..held).map(|_| OnceLock::new()).collect(),
            firsts: (0..table.pages()).map(|_| OnceLock::new()).collect(),
        }
    }

    fn hash(&self, page: u64) -> Option<&[u8]> {
        let at = usize::try_from(page).ok()?.checked_mul(PAGE_HASH)?;
        self.hashes.get(at..at.checked_add(PAGE_HASH)?)
    }

    /// Whether metadata is at this position.
    pub(super) fn is_metadata(&self, position: u64) -> bool {
        position >= self.metadata.start
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
    /// Hashes of all pages.
    pub pages: Vec<u8>,
    /// All fields set.
    pub squashfs: record::Squashfs,
}

impl Integrity {
    /// What is stored at `hashes_offset`; what lies between `bytes_used` and there is zero.
    pub fn stored(&self) -> Vec<u8> {
        let mut bytes = encode(&self.hashes);
        bytes.extend(&self.pages);
        bytes
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
    /// Compares superblock and the hashes of all pages with the record. From then on metadata is checked when it is first
    /// read, and every block before it is decompressed. A record without a root is an error.
    pub fn check(&self, expected: &record::Squashfs) -> Result<()> {
        let compared = self.compare(expected);
        let (answer, checked) = match compared {
            Ok(checked) => (Ok(()), Some(checked)),
            Err(error) => (Err(error), None),
        };
        // A second check of the same image finds the same.
        let _ = self.checked.set(checked);
        answer
    }

    fn compare(&self, expected: &record::Squashfs) -> Result<Checked> {
        let bytes_used = self.superblock.bytes_used;
        if expected.bytes_used != bytes_used {
            return Err(self.differs(format!(
                "it has {bytes_used} bytes, not {}",
                expected.bytes_used
            )));
        }
        let metadata = (metadata_start(&self.superblock), self.metadata_length());
        let length = expected.hashes_count.checked_mul(BlockHash::SIZE as u64);
        let Some(length) = length.filter(|length| self.has(expected.hashes_offset, *length)) else {
            return Err(self.differs("its table of block hashes is cut off".into()));
        };
        let table = (expected.hashes_offset, length);
        let (hashes, found) = match expected.root.starts_with(PAGED) {
            true => self.root_of_pages(metadata, table)?,
            false => self.root_of_whole(metadata, table)?,
        };
        if found != expected.root {
            return Err(self.differs(format!("its root is {found}, not {}", expected.root)));
        }
        Ok(Checked::new(metadata, table, hashes))
    }

    /// Whether the file has so many bytes there.
    fn has(&self, position: u64, length: u64) -> bool {
        let end = position.checked_add(length);
        end.and_then(|end| end.checked_add(self.offset))
            .is_some_and(|end| end <= self.file_length)
    }

    fn root_of_pages(&self, metadata: (u64, u64), table: (u64, u64)) -> Result<(Vec<u8>, String)> {
        let of_metadata = pages(metadata.1).saturating_mul(PAGE_HASH as u64);
        let length = of_metadata.saturating_add(pages(table.1).saturating_mul(PAGE_HASH as u64));
        let at = table.0.saturating_add(table.1);
        if !self.has(at, length) {
            return Err(self.differs("its hashes of pages are cut off".into()));
        }
        let mut hashes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file
            .read_exact_at(&mut hashes, self.offset.saturating_add(at))
            .or_say(|| self.not_as_described())?;
        let of_metadata = usize::try_from(of_metadata).unwrap_or_default();
        let (of_metadata, of_table) = hashes.split_at(of_metadata.min(hashes.len()));
        let found = root(&self.superblock_bytes, of_metadata, of_table);
        Ok((hashes, found))
    }

    /// For an image of the first engines: reads all that its root is made of.
    fn root_of_whole(&self, metadata: (u64, u64), table: (u64, u64)) -> Result<(Vec<u8>, String)> {
        let (mut hashes, of_metadata) = self.hash_all(metadata)?;
        let (of_pages, of_table) = self.hash_all(table)?;
        hashes.extend(of_pages);
        let found = whole_root(&self.superblock_bytes, of_metadata, of_table);
        Ok((hashes, found))
    }

    /// The hashes of a range's pages, and that of all of it.
    fn hash_all(&self, (start, length): (u64, u64)) -> Result<(Vec<u8>, blake3::Hash)> {
        let (mut of_pages, mut of_all) = (Pages::default(), blake3::Hasher::new());
        let mut buffer = vec![0; PAGE];
        let mut done = 0;
        while done < length {
            let size = (length - done).min(PAGE as u64) as usize;
            let part = buffer.get_mut(..size).unwrap_or_default();
            let at = self.offset.saturating_add(start).saturating_add(done);
            self.file
                .read_exact_at(part, at)
                .or_say(|| self.not_as_described())?;
            of_pages.update(part);
            of_all.update(part);
            done += size as u64;
        }
        Ok((of_pages.finish(), of_all.finalize()))
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
        self.checked.get().is_some_and(Option::is_some)
    }

    /// What a check has left; an error after one that failed.
    pub(super) fn checked(&self) -> Result<Option<&Checked>> {
        match self.checked.get() {
            Some(None) => Err(Error::new(self.not_as_described())),
            Some(Some(checked)) => Ok(Some(checked)),
            None => Ok(None),
        }
    }

    fn metadata_length(&self) -> u64 {
        let start = metadata_start(&self.superblock);
        self.superblock.bytes_used.saturating_sub(start)
    }

    /// Stored metadata, from pages that are what was written. All of it lies before `bytes_used`.
    pub(super) fn checked_metadata(
        &self,
        checked: &Checked,
        position: u64,
        into: &mut [u8],
    ) -> Result<()> {
        let mut at = position.saturating_sub(checked.metadata.start);
        let mut rest = into;
        while !rest.is_empty() {
            let skip = (at % PAGE as u64) as usize;
            let copied = self.page(checked, checked.metadata, at / PAGE as u64, |page| {
                let from = page.get(skip..).unwrap_or_default();
                let count = from.len().min(rest.len());
                let parts = rest.get_mut(..count).zip(from.get(..count));
                parts
                    .into_iter()
                    .for_each(|(to, from)| to.copy_from_slice(from));
                count
            })?;
            if copied == 0 {
                return Err(self.damaged(format!("its metadata ends before {position}")));
            }
            rest = rest.get_mut(copied..).unwrap_or_default();
            at += copied as u64;
        }
        Ok(())
    }

    /// One page of a region, which is what was written.
    fn page<T>(
        &self,
        checked: &Checked,
        region: Region,
        number: u64,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let index = region.first_page.saturating_add(number);
        let place = usize::try_from(index)
            .ok()
            .and_then(|at| checked.held.get(at));
        if let Some(page) = place.and_then(OnceLock::get) {
            return Ok(take(page));
        }
        let start = number.saturating_mul(PAGE as u64);
        let size = region.length.saturating_sub(start).min(PAGE as u64) as usize;
        let at = region.start.saturating_add(start);
        let mut page = vec![0; size];
        self.read_file(at, &mut page)?;
        if checked.hash(index) != Some(blake3::hash(&page).as_bytes()) {
            return Err(self.damaged(format!(
                "the {size} bytes of metadata at {at} are not what was written"
            )));
        }
        match place {
            Some(place) => Ok(take(place.get_or_init(|| page.into_boxed_slice()))),
            None => Ok(take(&page)),
        }
    }

    /// Compares stored bytes with their hash, if the image was checked.
    pub(super) fn check_block(&self, start: u64, stored: &[u8]) -> Result<()> {
        let Some(checked) = self.checked()? else {
            return Ok(());
        };
        if self.is_written(checked, start, stored)? {
            return Ok(());
        }
        Err(self.damaged(format!(
            "the block at {start} ({} bytes) is not what was written",
            stored.len()
        )))
    }

    /// Whether the table has these bytes at `start`. There may be several blocks that start there.
    fn is_written(&self, checked: &Checked, start: u64, stored: &[u8]) -> Result<bool> {
        let (mut first, mut end) = (0, checked.table.pages());
        while first < end {
            let middle = first.midpoint(end);
            match self.first_of(checked, middle)? < start {
                true => first = middle + 1,
                false => end = middle,
            }
        }
        // Those that start at `start` may begin in the page before.
        for number in first.saturating_sub(1)..checked.table.pages() {
            let found = self.page(checked, checked.table, number, |page| {
                let (entries, _) = page.as_chunks::<{ BlockHash::SIZE }>();
                let from = entries.partition_point(|entry| start_of(entry) < start);
                let from = entries.get(from..).unwrap_or_default();
                let same = from.iter().take_while(|entry| start_of(entry) == start);
                let mut hashes = same.filter_map(|entry| BlockHash::parse(entry));
                if hashes.any(|hash| hash.matches(stored)) {
                    return Some(true);
                }
                // Nothing that comes later starts so early.
                let later = entries.last().is_some_and(|entry| start_of(entry) > start);
                later.then_some(false)
            })?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Ok(false)
    }

    fn first_of(&self, checked: &Checked, number: u64) -> Result<u64> {
        let place = usize::try_from(number)
            .ok()
            .and_then(|at| checked.firsts.get(at));
        if let Some(first) = place.and_then(OnceLock::get) {
            return Ok(*first);
        }
        let first = self.page(checked, checked.table, number, |page| {
            page.first_chunk().map_or(u64::MAX, start_of)
        })?;
        if let Some(place) = place {
            let _ = place.set(first);
        }
        Ok(first)
    }

    /// Holds every page to its hash, also those that no reader has asked for.
    fn check_pages(&self, checked: &Checked) -> Result<()> {
        for region in [checked.metadata, checked.table] {
            for number in 0..region.pages() {
                self.page(checked, region, number, |_| ())?;
            }
        }
        Ok(())
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

/// Where the block of an entry starts.
fn start_of(entry: &[u8; BlockHash::SIZE]) -> u64 {
    let start = entry.first_chunk().copied();
    start.map_or(u64::MAX, u64::from_le_bytes)
}

/// Reads every block of an image on several threads and reports the first one, by position, that is broken: one that
/// differs from its hash after [`Image::check`], else one that cannot be decompressed. Broken metadata is an error.
pub fn verify_all(image: &Image, threads: usize) -> Result<Option<Damage>> {
    if let Some(checked) = image.checked()? {
        image.check_pages(checked)?;
    }
    let blocks: Vec<(u64, u32)> = image.blocks()?.into_iter().collect();
    let verify = |start, word| verify_block(image, start, word);
    let Some((start, word, error)) = first_broken(&blocks, threads, &verify)? else {
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

/// The first of these blocks, which are in order, that does not pass. Each thread has a share of them.
fn first_broken(
    blocks: &[(u64, u32)],
    threads: usize,
    verify: &(dyn Fn(u64, u32) -> Result<()> + Sync),
) -> Result<Option<(u64, u32, Error)>> {
    let share = blocks.len().div_ceil(threads.clamp(1, 64)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = blocks
            .chunks(share)
            .map(|share| {
                scope.spawn(move || {
                    share.iter().find_map(|(start, word)| {
                        let failed = verify(*start, *word).err();
                        failed.map(|error| (*start, *word, error))
                    })
                })
            })
            .collect();
        // What a thread that panicked has not looked at may be broken.
        let panicked = |_| Error::new("a thread that verifies the image panicked");
        // All are joined before one is judged: the scope panics for those that are not.
        let joined: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        joined.into_iter().try_fold(None, |first, found| {
            let found = found.map_err(panicked)?;
            Ok(first.or(found))
        })
    })
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
    let metadata = (metadata_start(&image.superblock), image.metadata_length());
    let (of_metadata, _) = image.hash_all(metadata)?;
    let offset = hashes_offset(image.superblock.bytes_used);
    let table = encode(&hashes);
    let of_table = Pages::of(&table);
    let root = root(&image.superblock_bytes, &of_metadata, &of_table);
    let pages = [of_metadata, of_table].concat();
    let behind = table.len().saturating_add(pages.len()) as u64;
    Ok(Integrity {
        squashfs: record::Squashfs {
            size: offset.saturating_add(behind),
            bytes_used: image.superblock.bytes_used,
            compressor: image.compressor.name().to_string(),
            block_size: image.superblock.block_size,
            inodes: image.superblock.inodes,
            content_bytes,
            hashes_offset: offset,
            hashes_count: hashes.len() as u64,
            root,
        },
        hashes,
        pages,
    })
}
