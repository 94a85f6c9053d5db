//! The `.idx` file of a pack: what its layer says, entry by entry, and where the content is in the `.dat` file.
//!
//! ```text
//! MAGIC | zstd(entries in tar order) | zstd(tables) | footer (fixed size, ends with BLAKE3 of all before it)
//! entry   kind · path as (bytes shared with the one before, rest) · mode uid gid mtime · xattrs · hints · kind's own
//! tables  notes · runs · block sizes · block hashes · fragments
//! ```
//! Numbers are LEB128. Entries are written while the layer is read, so that packing needs no memory for them. A file
//! that does not parse is a cache miss, never a failure: every count and length is checked before it is believed.

mod codec;
mod tables;

use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::entry::{Entry, Kind, MAX_ENTRIES, MAX_METADATA};
use crate::pack::blocks::Blocks;
use crate::pack::path;
use codec::{decode, encode, entry_bytes};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 8] = b"carrack1";
const FOOTER: usize = 8 + 8 * 8 + 32 + 32;
/// Tables of a layer at all its limits stay below this.
const MAX_TABLES: u64 = 512 << 20;

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
        let tables = tables::encode(&notes, blocks);
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
        let (notes, blocks) = tables::parse(&tables, dat, block_size).ok_or_else(broken)?;
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

#[cfg(test)]
mod tests;
