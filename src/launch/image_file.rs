//! Reads a small file of an image before the image is mounted: links are followed inside the image only.

use super::step::Image;
use crate::error::{Context, Result};
use crate::sys::resolve::{Last, in_root};
use rustix::fs::{Mode, OFlags};
use std::io::Read;

/// The bytes of a regular file; empty when the image has none there.
pub fn read(image: &Image, path: &str, limit: usize) -> Result<Vec<u8>> {
    match image {
        Image::Directory { path: root } => {
            Ok(from_directory(root, path, limit).unwrap_or_default())
        }
        Image::Squashfs {
            path: file,
            offset,
            name,
            ..
        } => {
            let file = std::fs::File::open(file)
                .or_say(|| format!("cannot open the image `{}`", file.display()))?;
            Ok(from_squashfs(file, *offset, name, path, limit)?.unwrap_or_default())
        }
    }
}

fn from_directory(root: &std::path::Path, path: &str, limit: usize) -> Option<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty()).ok()?;
    let found = in_root(&root, path, Last::Follow).ok()?;
    // A name for the descriptor: it was opened without leave to read.
    let file = std::fs::File::open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&found)
    ))
    .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(feature = "squashfs")]
fn from_squashfs(
    file: std::fs::File,
    offset: u64,
    name: &str,
    path: &str,
    limit: usize,
) -> Result<Option<Vec<u8>>> {
    use crate::squashfs::read::{self, Content};

    let options = read::Options {
        offset,
        ..read::Options::named(name)
    };
    let image = read::Image::open(file, options)?;
    let Some(found) = image.follow(path.as_bytes())? else {
        return Ok(None);
    };
    let inode = found.inode;
    let Content::File(file) = &inode.content else {
        return Ok(None);
    };
    let mut bytes = vec![0; usize::try_from(file.size).unwrap_or(limit).min(limit)];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match image.read_at(&inode, done as u64, rest)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(Some(bytes))
}

#[cfg(not(feature = "squashfs"))]
fn from_squashfs(_: std::fs::File, _: u64, _: &str, _: &str, _: usize) -> Result<Option<Vec<u8>>> {
    Ok(None)
}
