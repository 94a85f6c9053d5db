//! A directory that is a root file system, streamed as a tar made on the fly.
//!
//! The stream is canonical: names sorted, numeric ids, times in whole seconds, nothing followed, hard links as links to
//! the first name. Equal trees give equal bytes, so the stream's digest can stand in for a manifest's. Sockets are left
//! out, as tar does. What lies on a pseudo file system (`/proc`, `/sys`) is an empty directory.

use super::{Descriptor, Resolved, Source, hash, rootfs};
use crate::error::{Context, Error, Result};
use crate::record::Platform;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A whiteout's prefix: such a name would delete another one.
const WHITEOUT: &[u8] = b".wh.";
/// proc, sysfs, devpts, cgroup, cgroup2, mqueue, debugfs, tracefs, securityfs, bpf: not part of any image.
const PSEUDO: [u64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x0027_e0eb,
    0x6367_7270,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];

pub struct Directory {
    path: PathBuf,
}

impl Directory {
    pub fn open(path: &Path) -> Result<Directory> {
        let metadata =
            std::fs::metadata(path).or_say(|| format!("cannot read `{}`", path.display()))?;
        if !metadata.is_dir() {
            return Err(Error::new(format!(
                "`{}` is not a directory",
                path.display()
            )));
        }
        Ok(Directory {
            path: path.to_path_buf(),
        })
    }
}

impl Source for Directory {
    fn resolve(&self, platform: &Platform) -> Result<Resolved> {
        let (digest, size) = hash::of_reader(TreeTar::new(&self.path)?).map_err(|error| {
            error
                .while_doing(format!(
                    "cannot read the directory `{}`",
                    self.path.display()
                ))
                .hint("every file in it must be readable by you")
        })?;
        let layer = Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".to_string(),
            digest,
            size,
        };
        Ok(rootfs::one_layer(layer, true, platform))
    }

    fn blob(&self, _layer: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(TreeTar::new(&self.path)?))
    }
}

/// The tar of a tree, made as it is read.
struct TreeTar {
    root: PathBuf,
    device: u64,
    /// Names still to visit, relative to the root; per directory in reverse order.
    pending: Vec<Vec<PathBuf>>,
    /// First name of every file with several.
    seen: HashMap<(u64, u64), PathBuf>,
    /// Bytes ready to be given.
    ready: io::Cursor<Vec<u8>>,
    /// The file whose content comes next, and how much of it.
    content: Option<(File, u64, PathBuf)>,
    padding: u64,
    finished: bool,
}

impl TreeTar {
    fn new(root: &Path) -> Result<TreeTar> {
        let metadata =
            std::fs::metadata(root).or_say(|| format!("cannot read `{}`", root.display()))?;
        Ok(TreeTar {
            root: root.to_path_buf(),
            device: metadata.dev(),
            pending: vec![vec![PathBuf::new()]],
            seen: HashMap::new(),
            ready: io::Cursor::default(),
            content: None,
            padding: 0,
            finished: false,
        })
    }

    /// Prepares the next entry, or the end of the archive.
    fn advance(&mut self) -> io::Result<()> {
        while let Some(names) = self.pending.last_mut() {
            let Some(name) = names.pop() else {
                self.pending.pop();
                continue;
            };
            return self.entry(name);
        }
        self.finished = true;
        self.ready = io::Cursor::new(vec![0; 1024]);
        Ok(())
    }

    fn entry(&mut self, name: PathBuf) -> io::Result<()> {
        let path = match name.as_os_str().is_empty() {
            true => self.root.clone(),
            false => self.root.join(&name),
        };
        let at = |error: io::Error| at_path(&path, error);
        let metadata = match name.as_os_str().is_empty() {
            // The root itself may be named through a link.
            true => std::fs::metadata(&path),
            false => std::fs::symlink_metadata(&path),
        }
        .map_err(at)?;
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        if name
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(WHITEOUT))
        {
            return Err(at(io::Error::other(
                "names that start with `.wh.` mean deletions in images and cannot be kept",
            )));
        }
        let mut entry = Entry::new(&name, &metadata);
        if kind.is_dir() {
            entry.kind = tar::EntryType::Directory;
            if metadata.dev() == self.device || !is_pseudo(&path).map_err(at)? {
                let names = children(&path, &name).map_err(at)?;
                self.pending.push(names);
            }
        } else if metadata.nlink() > 1
            && let Some(first) = self.seen.get(&(metadata.dev(), metadata.ino()))
        {
            entry.kind = tar::EntryType::Link;
            entry.target = first.as_os_str().as_bytes().to_vec();
        } else {
            if metadata.nlink() > 1 {
                self.seen
                    .insert((metadata.dev(), metadata.ino()), name.clone());
            }
            if kind.is_symlink() {
                entry.kind = tar::EntryType::Symlink;
                entry.target = std::fs::read_link(&path)
                    .map_err(at)?
                    .into_os_string()
                    .into_vec();
            } else if kind.is_file() {
                let file = std::fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
                    .open(&path)
                    .map_err(at)?;
                entry.size = metadata.len();
                self.padding = entry.size.wrapping_neg() % 512;
                self.content = Some((file, entry.size, path.clone()));
            } else if kind.is_fifo() {
                entry.kind = tar::EntryType::Fifo;
            } else {
                entry.kind = match kind.is_block_device() {
                    true => tar::EntryType::Block,
                    false => tar::EntryType::Char,
                };
                entry.device = Some(metadata.rdev());
            }
        }
        if matches!(
            entry.kind,
            tar::EntryType::Directory | tar::EntryType::Regular
        ) {
            entry.attributes = attributes(&path).map_err(at)?;
        }
        self.ready = io::Cursor::new(entry.encode());
        Ok(())
    }
}

impl Read for TreeTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let got = self.ready.read(buffer)?;
            if got > 0 {
                return Ok(got);
            }
            if let Some((file, left, path)) = &mut self.content {
                if *left > 0 {
                    let want = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    let (part, _) = buffer.split_at_mut(want);
                    let got = file.read(part).map_err(|error| at_path(path, error))?;
                    if got == 0 {
                        return Err(at_path(
                            path,
                            io::Error::other("it became shorter while it was read"),
                        ));
                    }
                    *left = left.saturating_sub(got as u64);
                    return Ok(got);
                }
                self.content = None;
                let padding = std::mem::take(&mut self.padding);
                self.ready = io::Cursor::new(vec![0; usize::try_from(padding).unwrap_or_default()]);
                continue;
            }
            if self.finished {
                return Ok(0);
            }
            self.advance()?;
        }
    }
}

fn at_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

/// The names in a directory, relative to the root, last first.
fn children(path: &Path, name: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names: Vec<OsString> = std::fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names.into_iter().map(|child| name.join(child)).collect())
}

fn is_pseudo(path: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(path)?.f_type as u64;
    Ok(PSEUDO.contains(&(kind & 0xffff_ffff)))
}

/// The `user.*` attributes, sorted. File systems without attributes have none.
fn attributes(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use rustix::io::Errno;
    let none = |error: Errno| matches!(error, Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM);
    let mut list = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut list) {
        Ok(length) => length,
        Err(error) if none(error) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in list
        .get(..length)
        .unwrap_or_default()
        .split(|byte| *byte == 0)
    {
        if !name.starts_with(b"user.") {
            continue;
        }
        let mut value = vec![0; 1 << 16];
        let got = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value)?;
        value.truncate(got);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

/// One tar header with what it needs in front of it.
struct Entry {
    name: Vec<u8>,
    target: Vec<u8>,
    kind: tar::EntryType,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: i64,
    size: u64,
    device: Option<u64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    fn new(name: &Path, metadata: &Metadata) -> Entry {
        let mut name = match name.as_os_str().is_empty() {
            true => b"./".to_vec(),
            false => name.as_os_str().as_bytes().to_vec(),
        };
        if metadata.is_dir() && !name.ends_with(b"/") {
            name.push(b'/');
        }
        Entry {
            name,
            target: Vec::new(),
            kind: tar::EntryType::Regular,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid().into(),
            gid: metadata.gid().into(),
            mtime: metadata.mtime(),
            size: 0,
            device: None,
            attributes: Vec::new(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        /// Largest number in the 8- and 12-byte octal fields.
        const SMALL: u64 = 0o777_7777;
        const LARGE: u64 = 0o777_7777_7777;
        let mut header = tar::Header::new_ustar();
        let mut records = Vec::new();
        let mut long = |key: &str, value: &[u8]| record(&mut records, key.as_bytes(), value);
        if self.name.len() > 100 {
            long("path", &self.name);
        }
        if self.target.len() > 100 {
            long("linkpath", &self.target);
        }
        let mut number = |key: &str, value: u64, limit: u64| {
            if value > limit {
                long(key, value.to_string().as_bytes());
                return 0;
            }
            value
        };
        header.set_uid(number("uid", self.uid, SMALL));
        header.set_gid(number("gid", self.gid, SMALL));
        header.set_size(number("size", self.size, LARGE));
        match u64::try_from(self.mtime) {
            Ok(mtime) if mtime <= LARGE => header.set_mtime(mtime),
            _ => {
                long("mtime", self.mtime.to_string().as_bytes());
                header.set_mtime(0);
            }
        }
        for (name, value) in &self.attributes {
            let key = [b"SCHILY.xattr.", name.as_slice()].concat();
            record(&mut records, &key, value);
        }
        header.set_mode(self.mode);
        header.set_entry_type(self.kind);
        fill(header.as_old_mut().name.as_mut_slice(), &self.name);
        fill(header.as_old_mut().linkname.as_mut_slice(), &self.target);
        if let (Some(device), Some(ustar)) = (self.device, header.as_ustar_mut()) {
            ustar.set_device_major(rustix::fs::major(device));
            ustar.set_device_minor(rustix::fs::minor(device));
        }
        header.set_cksum();
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let mut extension = tar::Header::new_ustar();
            fill(extension.as_old_mut().name.as_mut_slice(), b"pax");
            extension.set_entry_type(tar::EntryType::XHeader);
            extension.set_mode(0o644);
            extension.set_uid(0);
            extension.set_gid(0);
            extension.set_mtime(0);
            extension.set_size(records.len() as u64);
            extension.set_cksum();
            bytes.extend_from_slice(extension.as_bytes());
            let length = records.len().div_ceil(512).saturating_mul(512);
            records.resize(length, 0);
            bytes.append(&mut records);
        }
        bytes.extend_from_slice(header.as_bytes());
        bytes
    }
}

/// As much of a name as the field takes; longer ones stand in the PAX header.
fn fill(field: &mut [u8], value: &[u8]) {
    for (to, from) in field.iter_mut().zip(value) {
        *to = *from;
    }
}

/// `LENGTH key=value\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len().saturating_add(value.len()).saturating_add(3);
    let mut length = rest.saturating_add(1);
    while rest.saturating_add(length.to_string().len()) != length {
        length = rest.saturating_add(length.to_string().len());
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}
