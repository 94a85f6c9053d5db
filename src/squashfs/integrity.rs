//! What stands behind the file system, and the root that pins an image.
//!
//! ```text
//! 0                 bytes_used      hashes_offset (multiple of 4096)
//! | squashfs proper | zero padding | block 0 | block 1 | … | page 0 | page 1 | …  (32 bytes each)
//! ```
//! Every data and fragment block that an inode can reach has one entry in the table of blocks, ascending by start, so that
//! a reader checks a block between its read and its decompression and never reads more than it serves. Behind it stands the
//! BLAKE3 of each page of the metadata (from the first table to `bytes_used`) and then of each page of the table of blocks.
//! The *root* is BLAKE3 over the superblock, how many of the pages are metadata (64 bits, little-endian), and the hashes of
//! all pages: it pins all that a reader can see, and a start reads some kilobytes to check it, whatever the image's size;
//! a page is held to its hash when something of it is needed. Tools that read squashfs stop at `bytes_used` and see none of this.

use super::format::Superblock;

/// One block: where it starts, its stored size, and 160 bits of the BLAKE3 of its stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockHash {
    pub start: u64,
    pub size: u32,
    pub hash: [u8; 20],
}

impl BlockHash {
    pub const SIZE: usize = 32;

    pub fn of(start: u64, stored: &[u8]) -> BlockHash {
        BlockHash {
            start,
            size: stored.len() as u32,
            hash: short_hash(stored),
        }
    }

    /// Whether these stored bytes are the ones that were written.
    pub fn matches(&self, stored: &[u8]) -> bool {
        stored.len() == self.size as usize && short_hash(stored) == self.hash
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.start.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.hash);
    }

    pub fn parse(bytes: &[u8]) -> Option<BlockHash> {
        Some(BlockHash {
            start: u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
            size: u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?),
            hash: bytes.get(12..32)?.try_into().ok()?,
        })
    }
}

/// The first 160 bits of BLAKE3.
pub fn short_hash(bytes: &[u8]) -> [u8; 20] {
    let mut short = [0; 20];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..20]);
    short
}

/// Where the table starts in a file whose squashfs ends at `bytes_used`.
pub fn hashes_offset(bytes_used: u64) -> u64 {
    bytes_used.next_multiple_of(4096)
}

/// Where the metadata that the root pins starts: at the first table (ours: the inode table).
pub fn metadata_start(superblock: &Superblock) -> u64 {
    [
        superblock.inode_table,
        superblock.directory_table,
        superblock.fragment_table,
        superblock.export_table,
        superblock.id_table,
        superblock.xattr_table,
    ]
    .into_iter()
    .fold(superblock.inode_table, u64::min)
}

/// Bytes of metadata, or of the table of blocks, that are checked together. Entries of the table do not straddle pages.
pub const PAGE: usize = 16 << 10;
/// Bytes of a page's hash.
pub const PAGE_HASH: usize = 32;

/// How many pages so many bytes are.
pub fn pages(length: u64) -> u64 {
    length.div_ceil(PAGE as u64)
}

/// Hashes the pages of what passes.
#[derive(Default)]
pub struct Pages {
    hashes: Vec<u8>,
    hasher: blake3::Hasher,
    filled: usize,
}

impl Pages {
    pub fn of(bytes: &[u8]) -> Vec<u8> {
        let mut pages = Pages::default();
        pages.update(bytes);
        pages.finish()
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PAGE - self.filled));
            self.hasher.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == PAGE {
                self.end_page();
            }
        }
    }

    /// [`PAGE_HASH`] bytes for each page; the last one may be short.
    pub fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.end_page();
        }
        self.hashes
    }

    fn end_page(&mut self) {
        self.hashes.extend(self.hasher.finalize().as_bytes());
        self.hasher.reset();
        self.filled = 0;
    }
}

/// The root of an image as the record states it, from the hashes of its pages.
pub fn root(superblock: &[u8], metadata: &[u8], table: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(superblock)
        .update(&((metadata.len() / PAGE_HASH) as u64).to_le_bytes())
        .update(metadata)
        .update(table);
    format!("{PAGED}{}", hasher.finalize().to_hex())
}

/// How such a root begins.
pub const PAGED: &str = "blake3-pages:";

/// The root of an image without hashes of pages, as the first engines made them: from hashes of the whole metadata and the
/// whole table.
pub fn whole_root(superblock: &[u8], metadata: blake3::Hash, table: blake3::Hash) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(superblock)
        .update(metadata.as_bytes())
        .update(table.as_bytes());
    format!("blake3:{}", hasher.finalize().to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_do_not_depend_on_how_the_bytes_come() {
        let bytes: Vec<u8> = (0..PAGE * 2 + 5).map(|n| (n % 251) as u8).collect();
        let expected: Vec<u8> = bytes
            .chunks(PAGE)
            .flat_map(|page| *blake3::hash(page).as_bytes())
            .collect();
        for step in [1, 7, PAGE - 1, PAGE, PAGE + 1, bytes.len()] {
            let mut pages = Pages::default();
            bytes.chunks(step).for_each(|part| pages.update(part));
            assert_eq!(pages.finish(), expected, "{step}");
        }
        assert_eq!(
            pages(bytes.len() as u64) as usize * PAGE_HASH,
            expected.len()
        );
        assert!(Pages::of(&[]).is_empty());
    }
}
