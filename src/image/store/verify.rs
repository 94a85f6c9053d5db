//! `verify`: reads every byte of an image that a job could see and holds it to the record.

use super::{Stored, files};
use crate::error::{Context, Error, Result};
use crate::squashfs::format::SUPERBLOCK_SIZE;
use crate::squashfs::integrity::{BlockHash, metadata_start};
use crate::squashfs::read::{self, Image};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub use crate::squashfs::read::Damage;

/// Opens a stored image and holds its metadata to the record; blocks are held to it as they are read.
pub fn open_checked(stored: &Stored) -> Result<Image> {
    let image = open(stored)?;
    image.check(&stored.record.squashfs)?;
    Ok(image)
}

/// Opens a stored image; nothing but its superblock is looked at.
pub fn open(stored: &Stored) -> Result<Image> {
    let options = read::Options {
        offset: stored.offset,
        ..read::Options::named(stored.path.display().to_string())
    };
    Image::open(file(stored)?, options)
}

/// The squashfs file itself. Links in the store are not followed.
pub fn file(stored: &Stored) -> Result<File> {
    let relative = stored
        .path
        .strip_prefix(&stored.root)
        .unwrap_or(Path::new(""));
    files::open(&stored.root, relative)?
        .ok_or_else(|| Error::new(format!("cannot find `{}`", stored.path.display())))
}

/// The first broken block, if any. Broken metadata is an error.
pub fn verify(stored: &Stored, threads: usize) -> Result<Option<Damage>> {
    let image = open_checked(stored)?;
    if let Some(damage) = read::verify_all(&image, threads)? {
        return Ok(Some(damage));
    }
    // Other tools put what they like between blocks; our own conversion leaves zeros there.
    match stored.record.layers.is_empty() {
        true => Ok(None),
        false => stray_byte(stored, metadata_start(image.superblock())),
    }
}

/// A byte that is not zero where nothing was written. No reader sees it, but the file is not what it was.
fn stray_byte(stored: &Stored, metadata: u64) -> Result<Option<Damage>> {
    let file = file(stored)?;
    let what = || format!("cannot read `{}`", stored.path.display());
    let squashfs = &stored.record.squashfs;
    let length = squashfs.hashes_count.saturating_mul(BlockHash::SIZE as u64);
    // The table was checked against the root, so its length is that of the file.
    let mut table = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut table, squashfs.hashes_offset)
        .or_say(what)?;
    let blocks = table
        .chunks_exact(BlockHash::SIZE)
        .filter_map(BlockHash::parse);
    let mut written: Vec<(u64, u64)> = blocks
        .map(|block| {
            (
                block.start,
                block.start.saturating_add(u64::from(block.size)),
            )
        })
        .collect();
    written.push((0, SUPERBLOCK_SIZE as u64));
    written.push((metadata, squashfs.bytes_used));
    written.push((squashfs.hashes_offset, squashfs.size));
    written.sort_unstable();
    let mut end = 0;
    let mut buffer = vec![0; 1 << 16];
    for (start, next) in written {
        while end < start {
            let count = usize::try_from(start - end)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let part = buffer.get_mut(..count).unwrap_or_default();
            file.read_exact_at(part, end).or_say(what)?;
            if let Some(at) = part.iter().position(|byte| *byte != 0) {
                return Ok(Some(Damage {
                    start: end.saturating_add(at as u64),
                    size: 1,
                    cause: "a byte between blocks is not zero; no file of the image uses it".into(),
                    files: Vec::new(),
                }));
            }
            end = end.saturating_add(count as u64);
        }
        end = end.max(next);
    }
    Ok(None)
}
