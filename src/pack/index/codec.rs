//! Numbers, bytes and entries as an index holds them. Reading checks every length before it is believed.

use crate::image::entry::{Attributes, Content, Entry, Kind, MAX_METADATA, MAX_PATH, MAX_TARGET};
use std::io::{BufRead, Read};

/// Strings that tell software; a handful per layer in practice.
const MAX_HINTS: u64 = 64;
const MAX_HINT: usize = 256;

/// What an entry counts towards the limit on metadata.
pub fn entry_bytes(entry: &Entry) -> u64 {
    let target = match &entry.kind {
        Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
        _ => 0,
    };
    let xattrs: usize = entry
        .xattrs
        .iter()
        .map(|(k, v)| k.len() + v.len() + 16)
        .sum();
    (entry.path.len() + target + xattrs) as u64
}

pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn get(input: &mut impl Read) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte).ok()?;
        let bits = u64::from(byte[0] & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte[0] & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub fn get_u32(input: &mut impl Read) -> Option<u32> {
    u32::try_from(get(input)?).ok()
}

pub fn get_bytes(input: &mut impl Read, most: usize) -> Option<Vec<u8>> {
    let length = usize::try_from(get(input)?)
        .ok()
        .filter(|length| *length <= most)?;
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

pub fn encode(entry: &Entry, last: &[u8], out: &mut Vec<u8>) {
    let kind = match &entry.kind {
        Kind::Directory => 0,
        Kind::File(_) => 1,
        Kind::Symlink(_) => 2,
        Kind::Fifo => 3,
        Kind::Device => 4,
        Kind::HardLink(_) => 5,
        Kind::Whiteout => 6,
        Kind::Opaque => 7,
    };
    out.push(kind);
    let shared = entry
        .path
        .iter()
        .zip(last)
        .take_while(|(a, b)| a == b)
        .count();
    put(out, shared as u64);
    put_bytes(out, entry.path.get(shared..).unwrap_or_default());
    if matches!(entry.kind, Kind::Whiteout | Kind::Opaque) {
        return;
    }
    let Attributes {
        mode,
        uid,
        gid,
        mtime,
    } = entry.attributes;
    for word in [mode.into(), uid, gid, mtime] {
        put(out, word.into());
    }
    put(out, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
    put(out, entry.hints.len() as u64);
    for hint in &entry.hints {
        put_bytes(out, hint.as_bytes());
    }
    match &entry.kind {
        Kind::Symlink(target) | Kind::HardLink(target) => put_bytes(out, target),
        Kind::File(content) => {
            put(out, content.size);
            match (content.run, content.tail) {
                (Some(run), _) => {
                    put(out, 1);
                    put(out, run.into());
                }
                (None, Some((fragment, offset))) => {
                    put(out, 2);
                    put(out, fragment.into());
                    put(out, offset.into());
                }
                (None, None) => put(out, 0),
            }
        }
        _ => {}
    }
}

pub fn decode(input: &mut impl BufRead, last: &[u8]) -> Option<Entry> {
    let mut kind = [0];
    input.read_exact(&mut kind).ok()?;
    let shared = usize::try_from(get(input)?).ok()?;
    let mut path = last.get(..shared)?.to_vec();
    path.extend(get_bytes(input, MAX_PATH)?);
    if path.len() > MAX_PATH {
        return None;
    }
    let mut entry = Entry {
        path,
        kind: match kind[0] {
            6 => Kind::Whiteout,
            7 => Kind::Opaque,
            _ => Kind::Directory,
        },
        attributes: Attributes::default(),
        xattrs: Vec::new(),
        hints: Vec::new(),
    };
    if entry.kind != Kind::Directory {
        return Some(entry);
    }
    entry.attributes = Attributes {
        mode: u16::try_from(get(input)?)
            .ok()
            .filter(|mode| *mode <= 0o7777)?,
        uid: get_u32(input)?,
        gid: get_u32(input)?,
        mtime: get_u32(input)?,
    };
    for _ in 0..get(input)? {
        let name = get_bytes(input, 255)?;
        entry.xattrs.push((name, get_bytes(input, 65_536)?));
        if entry_bytes(&entry) > MAX_METADATA {
            return None;
        }
    }
    for _ in 0..Some(get(input)?).filter(|count| *count <= MAX_HINTS)? {
        let hint = get_bytes(input, MAX_HINT)?;
        entry.hints.push(String::from_utf8(hint).ok()?);
    }
    entry.kind = match kind[0] {
        0 => Kind::Directory,
        1 => {
            let size = get(input)?;
            let (run, tail) = match get(input)? {
                0 => (None, None),
                1 => (Some(get_u32(input)?), None),
                2 => (None, Some((get_u32(input)?, get_u32(input)?))),
                _ => return None,
            };
            Kind::File(Content { size, run, tail })
        }
        2 => Kind::Symlink(get_bytes(input, MAX_TARGET)?),
        3 => Kind::Fifo,
        4 => Kind::Device,
        5 => Kind::HardLink(get_bytes(input, MAX_PATH)?),
        _ => return None,
    };
    Some(entry)
}
