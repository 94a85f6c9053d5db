//! One directory's listing: runs of entries behind headers, and the index that lets the kernel skip to a name.
//!
//! A run ends when its entries' inodes change their metadata block, when a number is too far from the first one's, after
//! 256 entries, and at the end of the listing's own metadata block. The last rule is what an index needs: each of its
//! entries points at a header at the start of a metadata block, or right behind the entry that straddles into it.

use crate::error::{Error, Result};
use crate::squashfs::format::{
    DIRECTORY_RUN, DIRECTORY_SIZE_BIAS, DirectoryEntry, DirectoryHeader, DirectoryIndex,
    InodeReference, NAME_MAX, kind,
};
use crate::squashfs::write::metadata::Metadata;
use crate::squashfs::write::{Body, Tree};

/// What a directory inode needs to know of its listing.
pub struct Listing {
    pub start: u32,
    pub offset: u16,
    pub size: u32,
    pub index: Vec<u8>,
    pub index_count: u16,
}

/// Bytes of an entry without its name.
const ENTRY_SIZE: usize = 8;

struct Run {
    bytes: Vec<u8>,
    count: u32,
    block: u64,
    number: u32,
    first_name: Vec<u8>,
}

pub fn write(
    tree: &dyn Tree,
    directory: u32,
    references: &[u64],
    out: &mut Metadata,
    stored: &mut Vec<u8>,
) -> Result<Listing> {
    let too_large =
        || Error::new("cannot write the image").cause("the directories are too large for squashfs");
    let begin = out.reference();
    let mut listing = Listing {
        start: u32::try_from(begin.block()).map_err(|_| too_large())?,
        offset: begin.offset() as u16,
        size: 0,
        index: Vec::new(),
        index_count: 0,
    };
    let mut length = 0u64;
    let mut last_block = begin.block();
    let mut run = Run::new();
    let mut flush = |run: &mut Run, out: &mut Metadata| -> Result<()> {
        if run.count == 0 {
            return Ok(());
        }
        let at = out.reference();
        if at.block() != last_block {
            last_block = at.block();
            DirectoryIndex {
                index: u32::try_from(length).map_err(|_| too_large())?,
                start: u32::try_from(at.block()).map_err(|_| too_large())?,
                name: &run.first_name,
            }
            .encode(&mut listing.index);
            listing.index_count = listing.index_count.checked_add(1).ok_or_else(too_large)?;
        }
        let mut header = Vec::with_capacity(DirectoryHeader::SIZE);
        DirectoryHeader {
            count: run.count,
            start: u32::try_from(run.block).map_err(|_| too_large())?,
            inode_number: run.number,
        }
        .encode(&mut header);
        let mut sink = |bytes: &[u8]| {
            stored.extend_from_slice(bytes);
            Ok(())
        };
        out.push(&header, &mut sink)?;
        out.push(&run.bytes, &mut sink)?;
        length += (header.len() + run.bytes.len()) as u64;
        *run = Run::new();
        Ok(())
    };
    for (name, child) in tree.entries(directory) {
        let reference = references.get(child as usize).copied().map(InodeReference);
        let (Some(reference), Some(inode)) = (reference, tree.inode(child)) else {
            return Err(
                Error::new("cannot write the image").cause("a directory lists an unknown inode")
            );
        };
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Error::new("cannot write the image")
                .cause("a name has a length that squashfs does not know"));
        }
        let number = child + 1;
        let delta = i16::try_from(i64::from(number) - i64::from(run.number));
        let size = DirectoryHeader::SIZE + run.bytes.len() + ENTRY_SIZE + name.len();
        if run.count > 0
            && (run.block != reference.block()
                || delta.is_err()
                || run.count as usize == DIRECTORY_RUN
                || size > out.room())
        {
            flush(&mut run, out)?;
        }
        if run.count == 0 {
            run.block = reference.block();
            run.number = number;
            run.first_name = name.to_vec();
        }
        DirectoryEntry {
            offset: reference.offset() as u16,
            number_delta: i16::try_from(i64::from(number) - i64::from(run.number)).unwrap_or(0),
            kind: match inode.body {
                Body::Directory { .. } => kind::DIRECTORY,
                Body::File { .. } => kind::FILE,
                Body::Symlink(_) => kind::SYMLINK,
                Body::Fifo => kind::FIFO,
            },
            name,
        }
        .encode(&mut run.bytes);
        run.count += 1;
    }
    flush(&mut run, out)?;
    listing.size = u32::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(DIRECTORY_SIZE_BIAS))
        .ok_or_else(too_large)?;
    Ok(listing)
}

impl Run {
    fn new() -> Run {
        Run {
            bytes: Vec::new(),
            count: 0,
            block: 0,
            number: 0,
            first_name: Vec::new(),
        }
    }
}
