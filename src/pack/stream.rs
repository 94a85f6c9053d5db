//! A layer's bytes on their way to the tar reader: read and inflated, hashed before and after.
//!
//! Reading and both hashes have threads of their own, so that inflating and parsing are all that is serial. Buffers are
//! shared with the hashing thread and used again; a layer holds a few of them whatever its size.

use crate::error::{Error, Result};
use crate::pack::hash::Hashed;
use crate::pack::tar::Carried;
use carrack_inflate::{HISTORY, Inflate};
use std::collections::VecDeque;
use std::io::{BufRead, ErrorKind, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

/// A millisecond of inflating. Each one that is handed on wakes a thread, which takes a core from another one and finds
/// its cache filled by that: with a quarter of it, everything takes three percent longer.
const BUFFER: usize = 1 << 20;
/// One buffer of each layer together: memory is bounded, and where many are read at once there are more cores.
const BUFFERS_OF_ALL: usize = 3 << 20;
/// Buffers that may wait in one channel.
pub const WAITING: usize = 2;
/// zstd's own limit for what it decodes unasked; bigger windows take that much memory.
const MAX_WINDOW_LOG: u32 = 27;

/// The size of a layer's buffers when so many layers are read at once.
pub fn buffer_size(layers: usize) -> usize {
    let share = BUFFERS_OF_ALL / layers.max(1);
    share.clamp(BUFFER / 4, BUFFER)
}

/// A filled buffer and what of it counts.
#[derive(Clone)]
pub struct Piece {
    buffer: Arc<Vec<u8>>,
    from: usize,
    to: usize,
}

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.from..self.to).unwrap_or_default()
    }
}

/// Hands out buffers, and takes back those that nobody else holds any more.
struct Ring {
    buffers: VecDeque<Arc<Vec<u8>>>,
    size: usize,
}

impl Ring {
    fn new(size: usize) -> Ring {
        Ring {
            buffers: VecDeque::new(),
            size,
        }
    }

    fn take(&mut self) -> Arc<Vec<u8>> {
        if let Some(mut oldest) = self.buffers.pop_front() {
            if Arc::get_mut(&mut oldest).is_some() {
                return oldest;
            }
            if self.buffers.len() < WAITING + 2 {
                self.buffers.push_front(oldest);
            }
        }
        Arc::new(vec![0; self.size])
    }

    fn give(&mut self, buffer: &Arc<Vec<u8>>) {
        self.buffers.push_back(Arc::clone(buffer));
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads the stored bytes, for the inflating side and the hash; says how many there were. `None`: nobody listens any
/// more.
pub fn read_stored(
    input: &mut dyn Read,
    (to, hash): (&SyncSender<Piece>, &SyncSender<Hashed>),
    buffer_size: usize,
    size: Option<u64>,
    progress: &dyn Fn(u64),
) -> Result<Option<u64>> {
    let mut ring = Ring::new(buffer_size);
    let mut total = 0u64;
    loop {
        let mut buffer = ring.take();
        let Some(space) = Arc::get_mut(&mut buffer) else {
            continue;
        };
        let filled = fill(input, space).map_err(|error| match error.downcast::<Carried>() {
            Ok(carried) => carried.0,
            Err(error) => Error::new("cannot read the layer's bytes").source(error),
        })?;
        if filled == 0 {
            return Ok(Some(total));
        }
        total += filled as u64;
        if let Some(size) = size.filter(|&size| total > size) {
            return Err(Error::new("the layer is longer than stated")
                .cause(format!("{size} bytes were stated, more came")));
        }
        ring.give(&buffer);
        let piece = Piece {
            buffer,
            from: 0,
            to: filled,
        };
        if to.send(piece.clone()).is_err() || hash.send(Hashed::Stored(piece)).is_err() {
            return Ok(None);
        }
        progress(filled as u64);
    }
}

/// The stored bytes on the inflating side.
pub struct Stored {
    from: Receiver<Piece>,
    current: Option<Piece>,
}

impl Stored {
    pub fn new(from: Receiver<Piece>) -> Stored {
        Stored {
            from,
            current: None,
        }
    }
}

impl BufRead for Stored {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if is_used_up(&self.current) {
            // A sender that is gone means the end, or an error that its own side reports.
            self.current = self.from.recv().ok();
        }
        Ok(self.current.as_ref().map(Piece::bytes).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        consume(&mut self.current, count);
    }
}

fn is_used_up(piece: &Option<Piece>) -> bool {
    piece.as_ref().is_none_or(|piece| piece.from >= piece.to)
}

fn consume(piece: &mut Option<Piece>, count: usize) {
    if let Some(piece) = piece {
        piece.from += count;
    }
}

impl Read for Stored {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let have = self.fill_buf()?;
        let count = have.len().min(out.len());
        out[..count].copy_from_slice(&have[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// How a layer is compressed, told from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Plain,
    Gzip,
    Zstd,
}

/// Tells by the magic number; media types lie.
pub fn sniff(start: &[u8]) -> Result<Coding> {
    let unsupported = |name: &str| {
        Err(Error::new(format!(
            "the layer is compressed with {name}, which is not supported"
        ))
        .hint("layers may be plain, gzip or zstd; push the image again with one of them"))
    };
    match start {
        [0x1f, 0x8b, ..] => Ok(Coding::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Coding::Zstd),
        // A skippable frame may stand first.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Coding::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => unsupported("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => unsupported("bzip2"),
        _ => Ok(Coding::Plain),
    }
}

enum Decoder {
    Plain(Stored),
    Gzip(Inflate<Stored>),
    Zstd(zstd::stream::read::Decoder<'static, Stored>),
}

impl Decoder {
    /// Fills a buffer behind its first [`HISTORY`] bytes; less than all of it at the end only.
    fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let space = buffer.get_mut(HISTORY..).unwrap_or_default();
        match self {
            Decoder::Gzip(inflate) => inflate.fill(buffer),
            Decoder::Plain(stored) => fill(stored, space),
            Decoder::Zstd(decoder) => fill(decoder, space),
        }
    }
}

/// The inflated bytes, sent to the hashing thread as they are produced.
pub struct Raw {
    decoder: Decoder,
    coding: Coding,
    ring: Ring,
    current: Option<Piece>,
    to: Option<SyncSender<Hashed>>,
    pub total: u64,
}

impl Raw {
    pub fn new(mut stored: Stored, to: SyncSender<Hashed>, buffer_size: usize) -> Result<Raw> {
        let start = stored.fill_buf().unwrap_or_default();
        let coding = sniff(start)?;
        let decoder = match coding {
            Coding::Plain => Decoder::Plain(stored),
            Coding::Gzip => Decoder::Gzip(Inflate::new(stored)),
            Coding::Zstd => {
                let fail = |error| Error::new("cannot start zstd").source(error);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(fail)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(fail)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Raw {
            decoder,
            coding,
            ring: Ring::new(HISTORY + buffer_size),
            current: None,
            to: Some(to),
            total: 0,
        })
    }

    /// Reads what follows the archive, so that both digests cover the whole layer.
    pub fn drain(&mut self) -> std::io::Result<()> {
        loop {
            let rest = self.fill_buf()?.len();
            if rest == 0 {
                return Ok(());
            }
            self.consume(rest);
        }
    }
}

impl Read for Raw {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let have = self.fill_buf()?;
        let count = have.len().min(out.len());
        out[..count].copy_from_slice(&have[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Raw {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        while is_used_up(&self.current) {
            self.current = None;
            let mut buffer = self.ring.take();
            let Some(space) = Arc::get_mut(&mut buffer) else {
                continue;
            };
            let filled = self.decoder.fill(space).map_err(|error| {
                let what = match self.coding {
                    Coding::Plain => "cannot read the layer",
                    Coding::Gzip => "the layer is not valid gzip",
                    Coding::Zstd => "the layer is not valid zstd",
                };
                std::io::Error::other(Carried(Error::new(what).source(error)))
            })?;
            if filled == 0 {
                return Ok(&[]);
            }
            self.total += filled as u64;
            self.ring.give(&buffer);
            let piece = Piece {
                buffer,
                from: HISTORY,
                to: HISTORY + filled,
            };
            if let Some(to) = &self.to
                && to.send(Hashed::Raw(piece.clone())).is_err()
            {
                self.to = None;
            }
            self.current = Some(piece);
        }
        Ok(self.current.as_ref().map(Piece::bytes).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        consume(&mut self.current, count);
    }
}
