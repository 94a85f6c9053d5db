//! The `.idx` file of a pack: what its layer says, entry by entry, and where the content is in the `.dat` file.
//!
//! ```text
//! MAGIC | zstd(entries in tar order) | zstd(tables) | footer (fixed size, ends with BLAKE3 of all before it)
//! entry   kind · path as (bytes shared with the one before, rest) · mode uid gid mtime · xattrs · hints · kind's own
//! tables  notes · runs · block sizes · block hashes · fragments
//! ```
//! Numbers are LEB128. Entries are written while the layer is read, so that packing needs no memory for them. A file
//! that does not parse is a cache miss, never a failure: every count and length is checked before it is believed.

use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::entry::{
    Attributes, Content, Entry, Kind, MAX_ENTRIES, MAX_METADATA, MAX_PATH, MAX_TARGET,
};
use crate::pack::blocks::{Blocks, Fragment, MAX_BLOCKS, Run, stored};
use crate::pack::path;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 8] = b"carrack1";
const FOOTER: usize = 8 + 8 * 8 + 32 + 32;
/// Tables of a layer at all its limits stay below this.
const MAX_TABLES: u64 = 512 << 20;
/// Strings that tell software; a handful per layer in practice.
const MAX_HINTS: u64 = 64;
const MAX_HINT: usize = 256;

/// What a layer was, beside its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub diff_id: Digest,
    pub entries: u64,
    /// Sum of path, target and xattr bytes.
    pub metadata: u64,
    /// Counts of what was dropped or odd.
    pub notes: BTreeMap<String, u64>,
}

/// Writes an index while its layer is read.
pub struct Writer {
    out: zstd::stream::write::Encoder<'static, Hashing>,
    last: Vec<u8>,
    line: Vec<u8>,
    pub entries: u64,
    pub metadata: u64,
    raw: u64,
}

/// Hashes what it writes.
struct Hashing {
    file: File,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    length: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 64 << 10 {
            self.file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

fn encoder(out: Hashing) -> std::io::Result<zstd::stream::write::Encoder<'static, Hashing>> {
    let mut encoder = zstd::stream::write::Encoder::new(out, 3)?;
    // Keeps the encoder's own tables small; entries repeat themselves at short distance.
    encoder.window_log(17)?;
    Ok(encoder)
}

const CANNOT_WRITE: &str = "cannot write the pack's index";

impl Writer {
    pub fn new(file: File) -> Result<Writer> {
        let mut out = Hashing {
            file,
            buffer: Vec::new(),
            hasher: blake3::Hasher::new(),
            length: 0,
        };
        out.write_all(MAGIC).or_say(|| CANNOT_WRITE)?;
        Ok(Writer {
            out: encoder(out).or_say(|| CANNOT_WRITE)?,
            last: Vec::new(),
            line: Vec::new(),
            entries: 0,
            metadata: 0,
            raw: 0,
        })
    }

    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Error::new("the layer has too many entries")
                .cause(format!("the limit is {MAX_ENTRIES}")));
        }
        self.metadata += entry_bytes(entry);
        if self.metadata > MAX_METADATA {
            return Err(Error::new("the layer has too much metadata").cause(format!(
                "paths, targets and extended attributes are limited to {MAX_METADATA} bytes"
            )));
        }
        self.line.clear();
        encode(entry, &self.last, &mut self.line);
        self.last.clone_from(&entry.path);
        self.raw += self.line.len() as u64;
        self.out.write_all(&self.line).or_say(|| CANNOT_WRITE)
    }

    /// Completes the file.
    pub fn finish(
        self,
        diff_id: Digest,
        notes: BTreeMap<String, u64>,
        blocks: &Blocks,
    ) -> Result<(File, Summary)> {
        let mut out = self.out.finish().or_say(|| CANNOT_WRITE)?;
        let entries_end = out.length;
        let mut tables = Vec::new();
        put(&mut tables, notes.len() as u64);
        for (name, count) in &notes {
            put_bytes(&mut tables, name.as_bytes());
            put(&mut tables, *count);
        }
        put(&mut tables, blocks.runs.len() as u64);
        for run in &blocks.runs {
            put(&mut tables, run.start);
            for word in [run.first, run.count, run.first_hash] {
                put(&mut tables, word.into());
            }
        }
        put(&mut tables, blocks.sizes.len() as u64);
        for size in &blocks.sizes {
            tables.extend(size.to_le_bytes());
        }
        put(&mut tables, blocks.hashes.len() as u64);
        for hash in &blocks.hashes {
            tables.extend(hash);
        }
        put(&mut tables, blocks.fragments.len() as u64);
        for fragment in &blocks.fragments {
            put(&mut tables, fragment.start);
            tables.extend(fragment.size.to_le_bytes());
            tables.extend(fragment.hash);
        }
        let mut inner = encoder(out).or_say(|| CANNOT_WRITE)?;
        inner.write_all(&tables).or_say(|| CANNOT_WRITE)?;
        out = inner.finish().or_say(|| CANNOT_WRITE)?;
        let mut footer = MAGIC.to_vec();
        for word in [
            entries_end,
            out.length,
            self.entries,
            self.metadata,
            self.raw,
            tables.len() as u64,
            blocks.length,
            0,
        ] {
            footer.extend(word.to_le_bytes());
        }
        footer.extend(diff_id.as_bytes());
        out.write_all(&footer).or_say(|| CANNOT_WRITE)?;
        let hash = out.hasher.finalize();
        out.write_all(hash.as_bytes())
            .and_then(|()| out.flush())
            .or_say(|| CANNOT_WRITE)?;
        let summary = Summary {
            diff_id,
            entries: self.entries,
            metadata: self.metadata,
            notes,
        };
        Ok((out.file, summary))
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
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

/// An index that was opened: summary and tables in memory, entries read from the file when asked.
pub struct Index {
    pub summary: Summary,
    pub blocks: Blocks,
    pub block_size: u32,
    file: File,
    entries_end: u64,
    raw: u64,
}

impl Index {
    /// Opens an index; any error means that it is not one.
    pub fn open(file: File, block_size: u32) -> Result<Index> {
        let broken = || Error::new("the pack's index is broken");
        let length = file
            .metadata()
            .or_say(|| "cannot read the pack's index")?
            .len();
        let body = length
            .checked_sub(FOOTER as u64)
            .filter(|body| *body >= MAGIC.len() as u64)
            .ok_or_else(broken)?;
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, body)
            .or_say(|| "cannot read the pack's index")?;
        let (signed, hash) = footer.split_at(FOOTER - 32);
        let mut at = signed.strip_prefix(MAGIC).ok_or_else(broken)?;
        let mut word = || -> Option<u64> {
            let (word, rest) = at.split_first_chunk::<8>()?;
            at = rest;
            Some(u64::from_le_bytes(*word))
        };
        let mut next = || word().ok_or_else(broken);
        let (entries_end, tables_end, entries, metadata, raw, tables_raw, dat, _) = (
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
        );
        let diff_id: [u8; 32] = at.try_into().map_err(|_| broken())?;
        if entries_end < MAGIC.len() as u64
            || tables_end != body
            || entries_end > tables_end
            || entries > MAX_ENTRIES
            || metadata > MAX_METADATA
            || tables_raw > MAX_TABLES
        {
            return Err(broken());
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        let mut position = 0;
        while position < body {
            let take = (body - position).min(buffer.len() as u64) as usize;
            let part = buffer.get_mut(..take).ok_or_else(broken)?;
            file.read_exact_at(part, position)
                .or_say(|| "cannot read the pack's index")?;
            hasher.update(part);
            position += take as u64;
        }
        hasher.update(signed);
        if hasher.finalize().as_bytes().as_slice() != hash {
            return Err(broken());
        }
        let mut tables = Vec::new();
        section(&file, entries_end, tables_end)?
            .take(tables_raw + 1)
            .read_to_end(&mut tables)
            .or_say(|| "cannot read the pack's index")?;
        if tables.len() as u64 != tables_raw {
            return Err(broken());
        }
        let (notes, blocks) = parse_tables(&tables, dat, block_size).ok_or_else(broken)?;
        Ok(Index {
            summary: Summary {
                diff_id: Digest::from_bytes(diff_id),
                entries,
                metadata,
                notes,
            },
            blocks,
            block_size,
            file,
            entries_end,
            raw,
        })
    }

    /// The entries in tar order.
    pub fn entries(&self) -> Result<Entries<'_>> {
        let input = section(&self.file, MAGIC.len() as u64, self.entries_end)?;
        Ok(Entries {
            index: self,
            input: BufReader::with_capacity(64 << 10, Box::new(input.take(self.raw))),
            last: Vec::new(),
            left: self.summary.entries,
            metadata: 0,
        })
    }
}

/// A part of a file, inflated.
fn section(file: &File, start: u64, end: u64) -> Result<impl Read> {
    let reader = BufReader::with_capacity(
        64 << 10,
        Part {
            file: file.try_clone().or_say(|| "cannot read the pack's index")?,
            at: start,
            end,
        },
    );
    let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)
        .or_say(|| "cannot read the pack's index")?
        .single_frame();
    decoder
        .window_log_max(20)
        .or_say(|| "cannot read the pack's index")?;
    Ok(decoder)
}

/// Reads a range of a file without moving its cursor.
struct Part {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = out.len().min(left);
        let read = self.file.read_at(&mut out[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads entries one by one; see [`Index::entries`].
pub struct Entries<'a> {
    index: &'a Index,
    input: BufReader<Box<dyn Read + 'a>>,
    last: Vec<u8>,
    left: u64,
    metadata: u64,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.read();
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

impl Entries<'_> {
    fn read(&mut self) -> Result<Entry> {
        let broken = || Error::new("the pack's index is broken");
        let entry = decode(&mut self.input, &self.last).ok_or_else(broken)?;
        self.metadata += entry_bytes(&entry);
        if self.metadata > self.index.summary.metadata || !self.fits(&entry) {
            return Err(broken());
        }
        self.last.clone_from(&entry.path);
        Ok(entry)
    }

    /// Whether paths are normal and content is where the tables say.
    fn fits(&self, entry: &Entry) -> bool {
        let normal = |path: &[u8]| path::normalise(path).is_ok_and(|normal| normal == path);
        let blocks = &self.index.blocks;
        normal(&entry.path)
            && match &entry.kind {
                Kind::HardLink(target) => normal(target),
                Kind::Symlink(target) => path::target(&entry.path, target).is_ok(),
                Kind::File(content) => {
                    let block = u64::from(self.index.block_size);
                    let run_fits = |index: u32| {
                        blocks
                            .runs
                            .get(index as usize)
                            .is_some_and(|run| u64::from(run.count) == content.size.div_ceil(block))
                    };
                    let tail_fits = |(fragment, offset): (u32, u32)| {
                        (fragment as usize) < blocks.fragments.len()
                            && content.size < block
                            && u64::from(offset) + content.size <= block
                    };
                    match (content.run, content.tail) {
                        (None, None) => content.size == 0,
                        (Some(run), None) => content.size > 0 && run_fits(run),
                        (None, Some(tail)) => content.size > 0 && tail_fits(tail),
                        (Some(_), Some(_)) => false,
                    }
                }
                _ => true,
            }
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn get(input: &mut impl Read) -> Option<u64> {
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

fn get_u32(input: &mut impl Read) -> Option<u32> {
    u32::try_from(get(input)?).ok()
}

fn get_bytes(input: &mut impl Read, most: usize) -> Option<Vec<u8>> {
    let length = usize::try_from(get(input)?)
        .ok()
        .filter(|length| *length <= most)?;
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn encode(entry: &Entry, last: &[u8], out: &mut Vec<u8>) {
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

fn decode(input: &mut impl BufRead, last: &[u8]) -> Option<Entry> {
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

/// The tables, checked against each other, the `.dat` file's length and the block size.
fn parse_tables(
    mut bytes: &[u8],
    length: u64,
    block_size: u32,
) -> Option<(BTreeMap<String, u64>, Blocks)> {
    let input = &mut bytes;
    let mut notes = BTreeMap::new();
    for _ in 0..get(input)? {
        let name = String::from_utf8(get_bytes(input, 100)?).ok()?;
        notes.insert(name, get(input)?);
    }
    let mut blocks = Blocks {
        length,
        ..Blocks::default()
    };
    for _ in 0..get(input)? {
        blocks.runs.push(Run {
            start: get(input)?,
            first: get_u32(input)?,
            count: get_u32(input)?,
            first_hash: get_u32(input)?,
        });
    }
    let count = get(input).filter(|count| *count <= MAX_BLOCKS)? as usize;
    let (sizes, rest) = input.split_at_checked(count * 4)?;
    blocks.sizes = sizes
        .chunks_exact(4)
        .filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)))
        .collect();
    *input = rest;
    let count = get(input).filter(|count| *count <= MAX_BLOCKS)? as usize;
    let (hashes, rest) = input.split_at_checked(count * 20)?;
    blocks.hashes = hashes
        .chunks_exact(20)
        .filter_map(|hash| hash.try_into().ok())
        .collect();
    *input = rest;
    for _ in 0..get(input)? {
        let start = get(input)?;
        let (size, rest) = input.split_first_chunk::<4>()?;
        let (hash, rest) = rest.split_first_chunk::<20>()?;
        blocks.fragments.push(Fragment {
            start,
            size: u32::from_le_bytes(*size),
            hash: *hash,
        });
        *input = rest;
    }
    let size_fits = |size: u32| size >> 25 == 0 && stored(size) <= block_size.into();
    let all_fit = input.is_empty()
        && blocks.sizes.iter().all(|&size| size_fits(size))
        && blocks.fragments.iter().all(|fragment| {
            size_fits(fragment.size)
                && fragment
                    .start
                    .checked_add(stored(fragment.size))
                    .is_some_and(|end| end <= length)
        })
        && runs_fit(&blocks);
    all_fit.then_some((notes, blocks))
}

/// Whether the runs divide the block list among themselves, in order, or repeat one that did.
fn runs_fit(blocks: &Blocks) -> bool {
    let (mut first, mut first_hash) = (0usize, 0usize);
    let mut fresh: Vec<Run> = Vec::new();
    for &run in &blocks.runs {
        if run.first as usize != first {
            match fresh.binary_search_by_key(&run.first, |known| known.first) {
                Ok(at) if fresh.get(at) == Some(&run) => continue,
                _ => return false,
            }
        }
        let sizes = blocks.sizes_of(run);
        let bytes: u64 = sizes.iter().map(|&size| stored(size)).sum();
        if run.count == 0
            || sizes.len() != run.count as usize
            || run.first_hash as usize != first_hash
            || run
                .start
                .checked_add(bytes)
                .is_none_or(|end| end > blocks.length)
        {
            return false;
        }
        first += sizes.len();
        first_hash += sizes.iter().filter(|&&size| size != 0).count();
        fresh.push(run);
    }
    first == blocks.sizes.len() && first_hash == blocks.hashes.len()
}

#[cfg(test)]
mod tests;
