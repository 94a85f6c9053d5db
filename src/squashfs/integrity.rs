//! The table of block hashes behind the file system, and the root that pins an image.
//!
//! ```text
//! 0                 bytes_used      hashes_offset (multiple of 4096)
//! | squashfs proper | zero padding | entry 0 | entry 1 | …  (32 bytes each, ascending by start)
//! ```
//! Every data and fragment block that an inode can reach has one entry, so that a reader checks a block between its
//! read and its decompression and never reads more than it serves. Tools that read squashfs stop at `bytes_used` and
//! never see the table. The *root* is BLAKE3 over the superblock, BLAKE3 of the metadata (from the first table to
//! `bytes_used`) and BLAKE3 of the hash table: it pins all that a reader can see, and costs under a millisecond to check
//! at start, where a digest of the whole file would read all of it.

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

/// The root of an image as the record states it: `blake3:…`.
pub fn root(superblock: &[u8], metadata: blake3::Hash, table: blake3::Hash) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(superblock)
        .update(metadata.as_bytes())
        .update(table.as_bytes());
    format!("blake3:{}", hasher.finalize().to_hex())
}
