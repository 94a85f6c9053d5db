//! The file system of an image as a tar stream: ustar headers, PAX records for what does not fit.
//!
//! Names are bytes and are written as they are. The second and later names of a file become hard links to the first in
//! order. Holes are written as zeros.

use crate::error::{Context, Error, Result};
use crate::image::progress::Progress;
use crate::squashfs::read::{Content, Image, Inode, InodeReference, Type};
use std::collections::HashMap;
use std::io::Write;

const BLOCK: usize = 512;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub entries: u64,
    /// Bytes of the output before compression.
    pub bytes: u64,
    /// Left out.
    pub sockets: u64,
}

/// Writes the whole tar, end marker included.
pub fn write(image: &Image, out: &mut dyn Write, progress: &dyn Progress) -> Result<Exported> {
    let mut exported = Exported::default();
    let mut first_names: HashMap<InodeReference, Vec<u8>> = HashMap::new();
    progress.phase("exporting");
    image.walk(|path, inode| {
        if inode.kind == Type::Socket {
            exported.sockets += 1;
            return Ok(());
        }
        let name = name_of(path, inode);
        let mut entry = Entry::new(image, &name, inode)?;
        if inode.links > 1 && !inode.is_directory() {
            if let Some(first) = first_names.get(&inode.reference) {
                entry.flag = b'1';
                entry.size = 0;
                entry.link = first.clone();
                entry.xattrs.clear();
            } else {
                first_names.insert(inode.reference, name.clone());
            }
        }
        let header = entry.encode();
        out.write_all(&header).or_say(cannot_write)?;
        let mut bytes = header.len() as u64;
        if entry.size > 0 {
            image.read_all(inode, &mut |part| {
                bytes += part.len() as u64;
                progress.advance(0, part.len() as u64);
                out.write_all(part).or_say(cannot_write)
            })?;
            let padding = bytes.next_multiple_of(BLOCK as u64) - bytes;
            let zeros = [0; BLOCK];
            out.write_all(zeros.get(..padding as usize).unwrap_or_default())
                .or_say(cannot_write)?;
            bytes += padding;
        }
        exported.entries += 1;
        exported.bytes += bytes;
        Ok(())
    })?;
    out.write_all(&[0; 2 * BLOCK]).or_say(cannot_write)?;
    exported.bytes += 2 * BLOCK as u64;
    if exported.sockets > 0 {
        progress.note(&format!(
            "{} sockets were left out: a tar cannot hold them",
            exported.sockets
        ));
    }
    Ok(exported)
}

fn cannot_write() -> String {
    "cannot write the tar".into()
}

/// `/etc` as `etc/`, `/` as `./`.
fn name_of(path: &[u8], inode: &Inode) -> Vec<u8> {
    let mut name = path.strip_prefix(b"/").unwrap_or(path).to_vec();
    if name.is_empty() {
        name.push(b'.');
    }
    if inode.is_directory() {
        name.push(b'/');
    }
    name
}

struct Entry {
    name: Vec<u8>,
    flag: u8,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u32,
    link: Vec<u8>,
    device: (u32, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    fn new(image: &Image, name: &[u8], inode: &Inode) -> Result<Entry> {
        let mut xattrs = image.xattrs(inode)?;
        xattrs.sort();
        Ok(Entry {
            name: name.to_vec(),
            flag: match inode.kind {
                Type::File => b'0',
                Type::Symlink => b'2',
                Type::CharacterDevice => b'3',
                Type::BlockDevice => b'4',
                Type::Directory => b'5',
                Type::Fifo => b'6',
                Type::Socket => return Err(Error::new("a tar cannot hold a socket")),
            },
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: match inode.kind {
                Type::File => inode.size(),
                _ => 0,
            },
            mtime: inode.mtime,
            link: match inode.kind {
                Type::Symlink => image.read_link(inode)?,
                _ => Vec::new(),
            },
            device: match inode.content {
                Content::Device { major, minor } => (major, minor),
                _ => (0, 0),
            },
            xattrs,
        })
    }

    /// The header, after the PAX records that it needs.
    fn encode(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let split = split(&self.name);
        if split.is_none() {
            record(&mut records, b"path", &self.name);
        }
        if self.link.len() > 100 {
            record(&mut records, b"linkpath", &self.link);
        }
        for (key, value, digits) in [
            (&b"size"[..], self.size, 11),
            (b"uid", self.uid.into(), 7),
            (b"gid", self.gid.into(), 7),
        ] {
            if value >= 1 << (3 * digits) {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let carrier = Entry {
                name: b"PaxHeaders/entry".to_vec(),
                flag: b'x',
                mode: 0o644,
                uid: 0,
                gid: 0,
                size: records.len() as u64,
                mtime: self.mtime,
                link: Vec::new(),
                device: (0, 0),
                xattrs: Vec::new(),
            };
            bytes.extend(carrier.header(split_short(&carrier.name)));
            bytes.extend(&records);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.extend(self.header(split.unwrap_or(split_short(&self.name))));
        bytes
    }

    /// One header block; what does not fit is cut, a PAX record says it in full.
    fn header(&self, (prefix, name): (&[u8], &[u8])) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, room: usize, bytes: &[u8]| {
            for (to, byte) in block.iter_mut().skip(at).take(room).zip(bytes) {
                *to = *byte;
            }
        };
        put(0, 100, name);
        put(100, 8, &octal(self.mode.into(), 7));
        put(108, 8, &octal(self.uid.into(), 7));
        put(116, 8, &octal(self.gid.into(), 7));
        put(124, 12, &octal(self.size, 11));
        put(136, 12, &octal(self.mtime.into(), 11));
        put(148, 8, b"        ");
        put(156, 1, &[self.flag]);
        put(157, 100, &self.link);
        put(257, 8, b"ustar\x0000");
        put(329, 8, &octal(self.device.0.into(), 7));
        put(337, 8, &octal(self.device.1.into(), 7));
        put(345, 155, prefix);
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        for (to, byte) in block.iter_mut().skip(148).zip(octal(sum, 6)) {
            *to = byte;
        }
        if let Some(byte) = block.get_mut(154) {
            *byte = 0;
        }
        block
    }
}

/// Prefix and name for a ustar header; `None` when the whole does not fit.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // A `/` with at most 155 bytes before and 1 to 100 behind it; not the one at the end.
    let least = name.len().checked_sub(101)?;
    name.iter()
        .enumerate()
        .take(name.len() - 1)
        .find(|(at, byte)| **byte == b'/' && *at >= least && *at <= 155 && *at > 0)
        .and_then(|(at, _)| Some((name.get(..at)?, name.get(at + 1..)?)))
}

fn split_short(name: &[u8]) -> (&[u8], &[u8]) {
    (b"", name.get(..100).unwrap_or(name))
}

/// `digits` octal digits; the lowest ones when the number has more.
fn octal(value: u64, digits: usize) -> Vec<u8> {
    (0..digits)
        .rev()
        .map(|digit| b'0' + (value >> (3 * digit).min(63) & 7) as u8)
        .collect()
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The header of a directory in an archive.
pub fn directory_header(name: &str) -> [u8; BLOCK] {
    let entry = Entry {
        name: name.as_bytes().to_vec(),
        flag: b'5',
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: 0,
        link: Vec::new(),
        device: (0, 0),
        xattrs: Vec::new(),
    };
    entry.header(split_short(&entry.name))
}

/// The header of a regular file in an archive, for any size (GNU's binary form above 8 GiB).
pub fn file_header(name: &str, size: u64) -> [u8; BLOCK] {
    let entry = Entry {
        name: name.as_bytes().to_vec(),
        flag: b'0',
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        mtime: 0,
        link: Vec::new(),
        device: (0, 0),
        xattrs: Vec::new(),
    };
    let mut block = entry.header(split_short(&entry.name));
    if size >= 1 << 33 {
        let mut binary = [0; 12];
        for (to, byte) in binary.iter_mut().skip(4).zip(size.to_be_bytes()) {
            *to = byte;
        }
        binary[0] = 0x80;
        for (to, byte) in block.iter_mut().skip(124).zip(binary) {
            *to = byte;
        }
        for to in block.iter_mut().skip(148).take(8) {
            *to = b' ';
        }
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        for (to, byte) in block.iter_mut().skip(148).zip(octal(sum, 6)) {
            *to = byte;
        }
        if let Some(byte) = block.get_mut(154) {
            *byte = 0;
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        for value in [
            0, 1, 4, 5, 88, 89, 90, 91, 92, 93, 988, 989, 990, 991, 992, 1000,
        ] {
            let mut out = Vec::new();
            record(&mut out, b"key", &vec![b'x'; value]);
            let text = String::from_utf8(out).unwrap();
            let (length, rest) = text.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), text.len());
            assert_eq!(rest, format!("key={}\n", "x".repeat(value)));
        }
    }

    #[test]
    fn names_are_split_where_ustar_can() {
        let long = |a: usize, b: usize| [vec![b'a'; a], vec![b'b'; b]].join(&b'/');
        for (name, fits) in [
            (long(50, 49), true),
            (long(120, 100), true),
            (long(155, 100), true),
            (long(156, 100), false),
            (long(100, 101), false),
            (vec![b'c'; 101], false),
        ] {
            match split(&name) {
                Some((prefix, rest)) => {
                    assert!(fits);
                    assert!(rest.len() <= 100 && prefix.len() <= 155 && !rest.is_empty());
                    if !prefix.is_empty() {
                        assert_eq!([prefix, rest].join(&b'/'), name);
                    }
                }
                None => assert!(!fits, "{} bytes", name.len()),
            }
        }
    }
}
