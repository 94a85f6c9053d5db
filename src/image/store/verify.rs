//! `verify`: reads every byte of an image that a job could see and holds it to the record.

use super::{Stored, files};
use crate::error::{Error, Result};
use crate::squashfs::read::{self, Image};
use std::fs::File;
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
    read::verify_all(&open_checked(stored)?, threads)
}
