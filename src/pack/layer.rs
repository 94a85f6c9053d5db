//! One layer → one pack: cuts the content into blocks and tails, writes the index as the layer passes.

use crate::error::{Error, Result, cannot_start};
use crate::image::digest::Digest;
use crate::image::entry::{Attributes, Content, Entry, Kind, display};
use crate::pack::blocks::PackFile;
use crate::pack::hash::hash;
use crate::pack::index::{self, Summary};
use crate::pack::path::{self, Name};
use crate::pack::pool::{Event, Ordered, Turn, stopped};
use crate::pack::sniff::{self, Sniffer};
use crate::pack::stream::{self, Raw, Stored};
use crate::pack::tar::{Archive, Member, Sink, Type};
use crate::sys::thread;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

/// Tails remembered for deduplication; beyond that, older ones are forgotten, in the same order everywhere.
const REMEMBERED: usize = 1 << 18;
/// No file can be larger: the block lists of bigger ones would not fit into memory.
const MAX_FILE: u64 = 1 << 40;

/// What is known of a layer before it is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    pub digest: Option<Digest>,
    pub size: Option<u64>,
    pub diff_id: Option<Digest>,
}

/// Reads a layer and writes its pack into two empty files. Any mismatch with what is expected is an error.
pub fn pack(
    input: &mut (dyn Read + Send),
    expected: Expected,
    files: (File, File),
    turn: &Turn,
    hot_raw: bool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(File, File, Summary)> {
    let (dat, idx) = files;
    let ordered = Arc::new(Ordered::new(PackFile::new(dat)));
    let (stored_to, stored_from) = sync_channel(stream::WAITING);
    let (hash_to, hash_from) = sync_channel(2 * stream::WAITING);
    let raw_to = hash_to.clone();
    let buffer_size = stream::buffer_size(turn.pool.layers());
    let (cut, stored, digests) = std::thread::scope(|scope| {
        let reader = thread::start(scope, "read", move || {
            let progress = |bytes| progress(bytes);
            let to = (&stored_to, &hash_to);
            stream::read_stored(input, to, buffer_size, expected.size, &progress)
        });
        let reader = reader.map_err(cannot_start)?;
        let hasher = thread::start(scope, "hash", move || hash(&hash_from));
        let hasher = hasher.map_err(cannot_start)?;
        let cut = Raw::new(Stored::new(stored_from), raw_to, buffer_size).and_then(|raw| {
            let cutter = Cutter::new(turn, Arc::clone(&ordered), hot_raw);
            cut_layer(raw, index::Writer::new(idx)?, cutter)
        });
        let panicked = || Error::new("a thread of the conversion panicked");
        Ok::<_, Error>((
            cut,
            reader.join().unwrap_or_else(|_| Err(panicked())),
            hasher.join().map_err(|_| panicked()),
        ))
    })?;
    // The reading side's error explains the other ones, which saw an early end.
    let stored = stored?;
    let digests = digests?;
    // Nor does the cutting side know why writing failed.
    if let Some(error) = ordered.take_error() {
        return Err(error);
    }
    // A wrong or short blob usually does not inflate either; say what is the cause.
    if let Some(size) = stored
        && cut.is_err()
    {
        check_stored(&expected, digests.stored, size)?;
    }
    let (writer, mut notes, tickets) = cut?;
    check_stored(&expected, digests.stored, stored.ok_or_else(stopped)?)?;
    let diff_id = digests.raw;
    if expected.diff_id.is_some_and(|stated| stated != diff_id) {
        return Err(mismatch("diff id", expected.diff_id, diff_id));
    }
    let (dat, blocks) = ordered.finish(tickets, turn.pool)?.finish()?;
    notes.retain(|_, count| *count > 0);
    let (idx, summary) = writer.finish(diff_id, notes, &blocks)?;
    Ok((dat, idx, summary))
}

fn check_stored(expected: &Expected, digest: Digest, size: u64) -> Result<()> {
    if let Some(stated) = expected.size.filter(|&stated| stated != size) {
        return Err(Error::new("the layer is truncated")
            .cause(format!("{stated} bytes were stated, {size} came")));
    }
    match expected.digest {
        Some(stated) if stated != digest => Err(mismatch("digest", Some(stated), digest)),
        _ => Ok(()),
    }
}

fn mismatch(what: &str, stated: Option<Digest>, found: Digest) -> Error {
    let stated = stated.map(|digest| digest.to_string()).unwrap_or_default();
    Error::new(format!("the layer's {what} does not match"))
        .cause(format!("stated `{stated}`, found `{found}`"))
        .hint("the source gave other bytes than it announced; pull again, or ask who runs it")
}

type Notes = BTreeMap<String, u64>;

fn cut_layer(
    raw: Raw,
    mut writer: index::Writer,
    mut cutter: Cutter,
) -> Result<(index::Writer, Notes, u64)> {
    let mut notes = Notes::new();
    let mut note = |name: &str, count: u64| *notes.entry(name.to_string()).or_default() += count;
    let mut archive = Archive::new(raw);
    while let Some(member) = archive.next_member()? {
        if cutter.turn.pool.is_stopped() || cutter.ordered.has_failed() {
            return Err(stopped());
        }
        note("xattrs", member.dropped_xattrs);
        let is_directory = member.kind == Type::Directory;
        let (path, kind) = match path::read(&member.path, is_directory)? {
            Name::Ignored => {
                note("ignored-whiteouts", 1);
                continue;
            }
            Name::Whiteout(path) => (path, Kind::Whiteout),
            Name::Opaque(path) => (path, Kind::Opaque),
            Name::Plain(path) => {
                let Some(kind) = plain(&path, &member)? else {
                    note("unknown-types", 1);
                    continue;
                };
                (path, kind)
            }
        };
        let mut entry = Entry {
            path,
            kind,
            attributes: Attributes {
                mode: member.mode,
                uid: member.uid,
                gid: member.gid,
                // squashfs counts from 1970 to 2106.
                mtime: u32::try_from(member.mtime.max(0)).unwrap_or(u32::MAX),
            },
            xattrs: member.xattrs,
            hints: Vec::new(),
        };
        if let Kind::File(content) = &mut entry.kind {
            cutter.begin(&entry.path, member.size)?;
            archive.content(&mut cutter)?;
            *content = cutter.end(member.size)?;
            entry.hints = cutter.hints();
        }
        writer.add(&entry)?;
    }
    note("malformed-pax", archive.malformed);
    cutter.flush_fragment()?;
    let mut raw = archive.into_inner();
    if let Err(error) = raw.drain() {
        return Err(match error.downcast::<crate::pack::tar::Carried>() {
            Ok(carried) => carried.0,
            Err(error) => Error::new("cannot read the layer").source(error),
        });
    }
    Ok((writer, notes, cutter.tickets))
}

/// What a member with an ordinary name is; `None` for types that no layer should have.
fn plain(path: &[u8], member: &Member) -> Result<Option<Kind>> {
    let kind = match member.kind {
        Type::Directory => Kind::Directory,
        Type::File => Kind::File(Content::default()),
        Type::HardLink => Kind::HardLink(path::normalise(&member.link)?),
        Type::Symlink => {
            path::target(path, &member.link)?;
            Kind::Symlink(member.link.clone())
        }
        Type::Fifo => Kind::Fifo,
        Type::Device => Kind::Device,
        Type::Unknown(_) => return Ok(None),
    };
    if path.is_empty() && kind != Kind::Directory {
        return Err(Error::new(format!(
            "the layer's entry `{}` is refused",
            display(&member.path)
        ))
        .cause("it would replace the image's root by something that is not a directory"));
    }
    Ok(Some(kind))
}

/// Cuts content into blocks and collects tails.
struct Cutter<'a> {
    turn: &'a Turn<'a>,
    ordered: Arc<Ordered>,
    hot_raw: bool,
    tickets: u64,
    /// The block being filled.
    block: Option<Vec<u8>>,
    /// Blocks of zeros before it that the pack was not told yet.
    holes: u64,
    /// Bytes of the current file that are stored uncompressed from here on.
    raw: u64,
    sniffer: Option<Sniffer>,
    fragment: Option<Vec<u8>>,
    fragments: u32,
    runs: u32,
    tails: HashMap<[u8; 16], (u32, u32)>,
}

impl<'a> Cutter<'a> {
    fn new(turn: &'a Turn<'a>, ordered: Arc<Ordered>, hot_raw: bool) -> Cutter<'a> {
        Cutter {
            turn,
            ordered,
            hot_raw,
            tickets: 0,
            block: None,
            holes: 0,
            raw: 0,
            sniffer: None,
            fragment: None,
            fragments: 0,
            runs: 0,
            tails: HashMap::new(),
        }
    }

    fn begin(&mut self, path: &[u8], size: u64) -> Result<()> {
        if size > MAX_FILE {
            return Err(path::limit(
                path,
                "the file is too large",
                MAX_FILE as usize,
                "bytes",
            ));
        }
        self.raw = if self.hot_raw {
            sniff::hot_length(path)
        } else {
            0
        };
        self.sniffer = Sniffer::for_path(path);
        Ok(())
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets - 1
    }

    /// The block is complete or the file is.
    fn flush_block(&mut self) {
        let Some(block) = self.block.take() else {
            return;
        };
        let raw = self.raw > 0;
        self.raw = self.raw.saturating_sub(block.len() as u64);
        if is_zero(&block) {
            self.holes += 1;
            self.block = Some(cleared(block));
            return;
        }
        self.flush_holes();
        let ticket = self.ticket();
        self.turn.submit(&self.ordered, ticket, block, raw, false);
    }

    fn flush_holes(&mut self) {
        if self.holes > 0 {
            let event = Event::Holes(std::mem::take(&mut self.holes));
            let ticket = self.ticket();
            self.ordered.post(ticket, event, self.turn.pool);
        }
    }

    fn end(&mut self, size: u64) -> Result<Content> {
        let mut content = Content {
            size,
            ..Content::default()
        };
        if size == 0 {
            return Ok(content);
        }
        if size < self.turn.pool.block_size() as u64 && self.raw == 0 {
            let tail = self.block.take().unwrap_or_default();
            content.tail = Some(self.add_tail(&tail)?);
            self.block = Some(cleared(tail));
            return Ok(content);
        }
        if self.block.as_ref().is_some_and(|block| !block.is_empty()) {
            self.flush_block();
        }
        self.flush_holes();
        let ticket = self.ticket();
        self.ordered.post(ticket, Event::EndOfRun, self.turn.pool);
        content.run = Some(self.runs);
        self.runs += 1;
        Ok(content)
    }

    fn add_tail(&mut self, tail: &[u8]) -> Result<(u32, u32)> {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(tail).as_bytes()[..16]);
        if let Some(&known) = self.tails.get(&key) {
            return Ok(known);
        }
        let used = self.fragment.as_ref().map_or(0, Vec::len);
        if used + tail.len() > self.turn.pool.block_size() {
            self.flush_fragment()?;
        }
        if self.fragment.is_none() {
            self.fragment = Some(self.turn.take_buffer()?);
        }
        let fragment = self.fragment.get_or_insert_default();
        let place = (self.fragments, fragment.len() as u32);
        fragment.extend_from_slice(tail);
        if self.tails.len() >= REMEMBERED {
            self.tails.clear();
        }
        self.tails.insert(key, place);
        Ok(place)
    }

    fn flush_fragment(&mut self) -> Result<()> {
        if let Some(fragment) = self.fragment.take() {
            let ticket = self.ticket();
            self.fragments += 1;
            self.turn
                .submit(&self.ordered, ticket, fragment, false, true);
        }
        Ok(())
    }

    fn hints(&mut self) -> Vec<String> {
        self.sniffer
            .take()
            .map(|sniffer| sniffer.found)
            .unwrap_or_default()
    }

    fn current(&mut self) -> Result<&mut Vec<u8>> {
        if self.block.is_none() {
            self.block = Some(self.turn.take_buffer()?);
        }
        Ok(self.block.get_or_insert_default())
    }
}

impl Sink for Cutter<'_> {
    fn data(&mut self, mut bytes: &[u8]) -> Result<()> {
        if let Some(sniffer) = &mut self.sniffer {
            sniffer.feed(bytes);
        }
        let size = self.turn.pool.block_size();
        while !bytes.is_empty() {
            let block = self.current()?;
            let (now, later) = bytes.split_at(bytes.len().min(size - block.len()));
            block.extend_from_slice(now);
            bytes = later;
            if block.len() == size {
                self.flush_block();
            }
        }
        Ok(())
    }

    fn hole(&mut self, mut length: u64) -> Result<()> {
        let size = self.turn.pool.block_size();
        while length > 0 {
            let block = self.current()?;
            if block.is_empty() && length >= size as u64 {
                self.holes += length / size as u64;
                length %= size as u64;
                continue;
            }
            let now = length.min((size - block.len()) as u64);
            block.resize(block.len() + now as usize, 0);
            length -= now;
            if block.len() == size {
                self.flush_block();
            }
        }
        Ok(())
    }
}

impl Drop for Cutter<'_> {
    fn drop(&mut self) {
        for buffer in [self.block.take(), self.fragment.take()]
            .into_iter()
            .flatten()
        {
            self.turn.pool.give_buffer(buffer);
        }
    }
}

fn cleared(mut block: Vec<u8>) -> Vec<u8> {
    block.clear();
    block
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most blocks differ in their first bytes.
    bytes
        .chunks(1024)
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
