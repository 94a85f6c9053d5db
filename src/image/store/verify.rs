//! `verify`: reads every byte of an image that a job could see and holds it to the record.

use super::{Stored, files};
use crate::error::{Error, Result};
use crate::squashfs::read::{self, Image};
use std::path::Path;

pub use crate::squashfs::read::Damage;

/// Opens a stored image and holds its metadata to the record; blocks are held to it as they are read.
pub fn open_checked(stored: &Stored) -> Result<Image> {
    let image = open(stored)?;
    image.check(&stored.record.squashfs)?;
    Ok(image)
}

/// Opens a stored image.
pub fn open(stored: &Stored) -> Result<Image> {
    let relative = stored
        .path
        .strip_prefix(&stored.root)
        .unwrap_or(Path::new(""));
    let file = files::open(&stored.root, relative)?
        .ok_or_else(|| Error::new(format!("cannot find `{}`", stored.path.display())))?;
    Image::open(
        file,
        read::Options::named(stored.path.display().to_string()),
    )
}

/// The first broken block, if any. Broken metadata is an error.
pub fn verify(stored: &Stored, threads: usize) -> Result<Option<Damage>> {
    read::verify_all(&open_checked(stored)?, threads)
}
