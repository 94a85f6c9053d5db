//! The whole tree in order, and as text.

use super::inode::{Content, Inode, Type};
use super::{Image, InodeReference, Position};
use crate::error::{Error, Result};
use crate::squashfs::format::METADATA_SIZE;
use std::collections::HashSet;
use std::fmt::Write;

/// Deeper trees are hostile: the path alone would fill memory.
const DEPTH_MAX: usize = 1 << 17;

struct Level {
    directory: Inode,
    position: Position,
    /// Length of the path of the directory.
    path: usize,
}

impl Image {
    /// Calls `each` for the root (`/`) and everything below, parents first, names in order.
    ///
    /// A directory that is reached twice is an error: it could be a loop, or a tree that is exponentially larger than
    /// the image.
    pub fn walk(&self, mut each: impl FnMut(&[u8], &Inode) -> Result<()>) -> Result<()> {
        let root = self.inode(self.root())?;
        if !root.is_directory() {
            return Err(self.damaged("its root is not a directory"));
        }
        each(b"/", &root)?;
        let mut listing_bytes = self.directory_bytes();
        let mut seen: HashSet<InodeReference> = HashSet::from([root.reference]);
        let mut path = Vec::new();
        let mut levels = Vec::new();
        let mut enter = |directory: &Inode| {
            // Listings do not overlap; together they cannot be longer than their table.
            listing_bytes = listing_bytes.checked_sub(directory.size())?;
            Some(())
        };
        enter(&root).ok_or_else(|| self.damaged("its directories overlap"))?;
        levels.push(Level {
            directory: root,
            position: Position::default(),
            path: 0,
        });
        // Names of one batch; a level's listing is taken in parts so that a deep tree needs little memory.
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path);
            let mut next = None;
            self.read_dir(&level.directory, level.position, |entry| {
                if next.is_some() {
                    return false;
                }
                path.push(b'/');
                path.extend_from_slice(entry.name);
                next = Some((entry.inode, entry.kind, entry.next));
                true
            })?;
            let Some((reference, kind, position)) = next else {
                levels.pop();
                continue;
            };
            level.position = position;
            let inode = self.inode(reference)?;
            if inode.kind != kind {
                return Err(self.damaged(format!(
                    "a directory and inode {} disagree on its type",
                    inode.number
                )));
            }
            each(&path, &inode)?;
            if inode.is_directory() {
                if !seen.insert(reference) || enter(&inode).is_none() || levels.len() >= DEPTH_MAX {
                    return Err(self.damaged(format!(
                        "directory {} is reached twice or overlaps another",
                        inode.number
                    )));
                }
                levels.push(Level {
                    directory: inode,
                    position: Position::default(),
                    path: path.len(),
                });
            }
        }
        Ok(())
    }

    /// An upper bound of the bytes of all listings.
    fn directory_bytes(&self) -> u64 {
        let (mut position, mut blocks) = (self.superblock.directory_table, 0u64);
        let mut header = [0; 2];
        let end = [
            self.superblock.fragment_table,
            self.superblock.id_table,
            self.superblock.export_table,
            self.superblock.xattr_table,
        ]
        .into_iter()
        .filter(|table| *table > self.superblock.directory_table)
        .min()
        .unwrap_or(self.superblock.bytes_used);
        while position < end && self.stored(position, &mut header).is_ok() {
            blocks += 1;
            let size = u16::from_le_bytes(header) & 0x7fff;
            position = position.saturating_add(2 + u64::from(size));
        }
        blocks.saturating_mul(METADATA_SIZE as u64)
    }

    /// The whole tree as text, one line per entry; see [`line`]. `hash` adds the BLAKE3 of file contents.
    pub fn dump(&self, hash: bool) -> Result<String> {
        let mut text = String::new();
        self.walk(|path, inode| {
            text.push_str(&self.line(path, inode, hash)?);
            text.push('\n');
            Ok(())
        })?;
        Ok(text)
    }

    /// One entry as text: `type mode uid:gid size mtime links path`, then `-> target`, `MAJOR,MINOR`, `name=value`
    /// of xattrs in order of names, and `blake3:…`, where they apply. Bytes that are not printable, spaces and
    /// backslashes are `\xNN`.
    pub fn line(&self, path: &[u8], inode: &Inode, hash: bool) -> Result<String> {
        let size = match inode.kind {
            Type::File | Type::Symlink => inode.size(),
            _ => 0,
        };
        let mut text = format!(
            "{} {:04o} {}:{} {size} {} {} {}",
            inode.kind.letter(),
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime,
            inode.links,
            escaped(path)
        );
        match &inode.content {
            Content::Symlink { .. } => {
                text.push_str(" -> ");
                text.push_str(&escaped(&self.read_link(inode)?));
            }
            Content::Device { major, minor } => {
                let _ = write!(text, " {major},{minor}");
            }
            _ => {}
        }
        let mut xattrs = self.xattrs(inode)?;
        xattrs.sort();
        for (name, value) in xattrs {
            let _ = write!(text, " {}={}", escaped(&name), escaped(&value));
        }
        if hash && inode.kind == Type::File {
            let _ = write!(text, " blake3:{}", self.content_hash(inode)?.to_hex());
        }
        Ok(text)
    }

    /// BLAKE3 of a file's content.
    pub fn content_hash(&self, inode: &Inode) -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        self.read_all(inode, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        Ok(hasher.finalize())
    }

    /// The whole content of a file in order, in parts.
    pub fn read_all(&self, inode: &Inode, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let size = inode.size();
        let step = 1 << 20;
        let mut at = 0u64;
        while at < size {
            let mut failed: Option<Error> = None;
            self.read_pieces(inode, at, step, |piece| {
                if failed.is_some() {
                    return;
                }
                let done = match piece.bytes() {
                    Some(bytes) => take(bytes),
                    None => {
                        let mut left = piece.len();
                        let mut done = Ok(());
                        while left > 0 && done.is_ok() {
                            let part = ZEROS.get(..left.min(ZEROS.len())).unwrap_or_default();
                            done = take(part);
                            left -= part.len();
                        }
                        done
                    }
                };
                failed = done.err();
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            at = at.saturating_add(step as u64);
        }
        Ok(())
    }

    /// The inode at an absolute path, symlinks not followed.
    pub fn find(&self, path: &[u8]) -> Result<Option<Inode>> {
        let mut inode = self.inode(self.root())?;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            if !inode.is_directory() {
                return Ok(None);
            }
            match self.lookup(&inode, name)? {
                Some(reference) => inode = self.inode(reference)?,
                None => return Ok(None),
            }
        }
        Ok(Some(inode))
    }
}

/// Names are bytes: what is not plain ASCII becomes `\xNN`.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'\\' {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}
