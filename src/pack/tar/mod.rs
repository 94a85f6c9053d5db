//! Reads a tar stream: what each member says of itself, then its content piece by piece.
//!
//! Own code because layers need what generic readers lack: sparse files of all GNU formats, tolerance for malformed PAX
//! records, names as bytes and limits on everything. Nothing is ever written to a file system from here.
//!
//! A member's size is what PAX states, then what the header states; members that have no content by their type have
//! none whatever their size field says (as in Go's reader, which built and checked most layers there are).

mod header;
mod pax;

use crate::error::{Error, Result};
use crate::image::entry::{Xattrs, display};
use header::{BLOCK, Header};
pub use pax::Pax;
use std::io::{BufRead, ErrorKind};

/// Bytes of one PAX header or long name. Go stops at 1 MiB.
const MAX_EXTENSION: u64 = 4 << 20;
/// Pieces of one sparse file.
const MAX_PIECES: usize = 1 << 20;

/// The type of a member, as far as a layer may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    File,
    HardLink,
    Symlink,
    Device,
    Directory,
    Fifo,
    /// Something that no layer should have: content is skipped.
    Unknown(u8),
}

/// One member's header, extensions applied.
#[derive(Clone, Debug)]
pub struct Member {
    pub kind: Type,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// Of the content as a program reads it, holes included.
    pub size: u64,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub xattrs: Xattrs,
    pub dropped_xattrs: u64,
}

/// Takes a member's content in order.
pub trait Sink {
    fn data(&mut self, bytes: &[u8]) -> Result<()>;
    fn hole(&mut self, length: u64) -> Result<()>;
}

/// Skips what it gets.
struct Skip;

impl Sink for Skip {
    fn data(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn hole(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}

pub struct Archive<R> {
    input: R,
    global: Pax,
    /// Content of the current member that was not read yet, padding included.
    remaining: u64,
    padding: u64,
    pieces: Option<Vec<(u64, u64)>>,
    size: u64,
    path: Vec<u8>,
    /// PAX headers with malformed records so far.
    pub malformed: u64,
}

impl<R: BufRead> Archive<R> {
    pub fn new(input: R) -> Archive<R> {
        Archive {
            input,
            global: Pax::default(),
            remaining: 0,
            padding: 0,
            pieces: None,
            size: 0,
            path: Vec::new(),
            malformed: 0,
        }
    }

    /// The stream behind the archive, for what follows its end.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next member; `None` at the end mark or the end of the stream.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        self.skip_rest()?;
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                if extended {
                    return Err(truncated("an extended header is followed by nothing"));
                }
                return Ok(None);
            }
            let Some(header) = self.header(&block)? else {
                let mut second = [0; BLOCK];
                if self.block(&mut second)? && self.header(&second)?.is_some() {
                    return Err(Error::new("the layer's tar stream is malformed")
                        .cause("a single block of zeros stands before more members"));
                }
                return Ok(None);
            };
            let size = self.field(header.size(), &header)?;
            match header.kind() {
                b'x' => {
                    let bytes = self.extension(size, &header)?;
                    pax.parse(&bytes);
                    extended = true;
                }
                b'g' => {
                    let bytes = self.extension(size, &header)?;
                    self.global.parse(&bytes);
                    // A global path or size would rename or resize every member: no writer means that.
                    self.global.path = None;
                    self.global.link_path = None;
                    self.global.size = None;
                    self.global.sparse = pax::Sparse::default();
                    self.malformed += u64::from(std::mem::take(&mut self.global.malformed));
                    if !extended {
                        pax = self.global.clone();
                    }
                }
                b'L' => {
                    long_name = Some(cut(self.extension(size, &header)?));
                    extended = true;
                }
                b'K' => {
                    long_link = Some(cut(self.extension(size, &header)?));
                    extended = true;
                }
                _ => {
                    self.malformed += u64::from(pax.malformed);
                    return self
                        .member(&header, size, pax, long_name, long_link)
                        .map(Some);
                }
            }
        }
    }

    fn member(
        &mut self,
        header: &Header,
        stated: u64,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member> {
        let sparse = std::mem::take(&mut pax.sparse);
        let path = sparse
            .name
            .clone()
            .or(pax.path)
            .or(long_name)
            .unwrap_or_else(|| header.name());
        self.path.clone_from(&path);
        let kind = match header.kind() {
            // Before ustar, a directory was a file whose name ends with a slash.
            b'0' | 0 if path.last() == Some(&b'/') => Type::Directory,
            b'0' | 0 | b'7' | b'S' => Type::File,
            b'1' => Type::HardLink,
            b'2' => Type::Symlink,
            b'3' | b'4' => Type::Device,
            b'5' => Type::Directory,
            b'6' => Type::Fifo,
            other => Type::Unknown(other),
        };
        let stored = match kind {
            Type::File | Type::Unknown(_) => pax.size.unwrap_or(stated),
            _ => 0,
        };
        self.remaining = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        self.pieces = None;
        self.size = stored;
        if kind == Type::File {
            self.read_sparse_map(header, &sparse)?;
        }
        Ok(Member {
            kind,
            link: pax
                .link_path
                .or(long_link)
                .unwrap_or_else(|| header.link_name().to_vec()),
            size: self.size,
            mode: self.field(header.mode(), header)?,
            uid: match pax.uid {
                Some(uid) => uid,
                None => self.field(header.uid(), header)?,
            },
            gid: match pax.gid {
                Some(gid) => gid,
                None => self.field(header.gid(), header)?,
            },
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => self.field(header.mtime(), header)?,
            },
            xattrs: pax.xattrs,
            dropped_xattrs: pax.dropped_xattrs,
            path,
        })
    }

    fn read_sparse_map(&mut self, header: &Header, sparse: &pax::Sparse) -> Result<()> {
        if header.kind() == b'S' {
            let (real, mut pieces, mut more) = self.field(header.gnu_sparse(), header)?;
            while more {
                let mut block = [0; BLOCK];
                if !self.block(&mut block)? {
                    return Err(truncated("it ends inside a sparse map"));
                }
                let (further, again) = header::gnu_sparse_extension(&block)
                    .map_err(|why| self.bad(why, &self.path))?;
                pieces.extend(further);
                more = again;
                self.check_pieces(pieces.len())?;
            }
            self.pieces = Some(pieces);
            self.size = real;
        } else if sparse.major == Some(1) {
            self.pieces = Some(self.sparse_map_in_content()?);
            self.size = sparse
                .real_size
                .ok_or_else(|| self.bad("a sparse file does not say its size", &self.path))?;
        } else if sparse.has_map {
            self.pieces = Some(sparse.map.clone());
            self.size = sparse
                .real_size
                .ok_or_else(|| self.bad("a sparse file does not say its size", &self.path))?;
        }
        let Some(pieces) = &self.pieces else {
            return Ok(());
        };
        let mut end = 0u64;
        let mut sum = 0u64;
        for &(offset, length) in pieces {
            let next = offset.checked_add(length);
            match next {
                Some(next) if offset >= end && next <= self.size => end = next,
                _ => return Err(self.bad("its sparse map is out of order or range", &self.path)),
            }
            sum += length;
        }
        if sum != self.remaining {
            return Err(self.bad("its sparse map does not match its content", &self.path));
        }
        Ok(())
    }

    /// PAX 1.0 keeps the map as lines of decimal numbers before the content, padded to a block.
    fn sparse_map_in_content(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1usize;
        let mut digits = Vec::new();
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            if self.remaining < BLOCK as u64 || !self.block(&mut block)? {
                return Err(self.bad("its sparse map is cut off", &self.path));
            }
            self.remaining -= BLOCK as u64;
            for &byte in &block {
                if numbers.len() == wanted {
                    break;
                }
                match byte {
                    b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                    b'\n' if !digits.is_empty() => {
                        let value = std::str::from_utf8(&digits)
                            .ok()
                            .and_then(|d| d.parse().ok());
                        numbers.push(value.ok_or_else(|| {
                            self.bad("its sparse map is not made of numbers", &self.path)
                        })?);
                        digits.clear();
                        if numbers.len() == 1 {
                            let count = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
                            self.check_pieces(count)?;
                            wanted = 1 + 2 * count;
                        }
                    }
                    _ => return Err(self.bad("its sparse map is not made of numbers", &self.path)),
                }
            }
        }
        Ok(numbers
            .get(1..)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect())
    }

    fn check_pieces(&self, count: usize) -> Result<()> {
        if count > MAX_PIECES {
            return Err(self
                .bad("its sparse map has too many pieces", &self.path)
                .cause(format!("the limit is {MAX_PIECES}")));
        }
        Ok(())
    }

    /// Hands the current member's content to `sink`.
    pub fn content(&mut self, sink: &mut dyn Sink) -> Result<()> {
        match self.pieces.take() {
            None => self.pour(self.remaining, sink)?,
            Some(pieces) => {
                let mut at = 0;
                for (offset, length) in pieces {
                    if offset > at {
                        sink.hole(offset - at)?;
                    }
                    self.pour(length, sink)?;
                    at = offset + length;
                }
                if self.size > at {
                    sink.hole(self.size - at)?;
                }
            }
        }
        Ok(())
    }

    fn pour(&mut self, mut length: u64, sink: &mut dyn Sink) -> Result<()> {
        while length > 0 {
            let bytes = fill(&mut self.input)?;
            if bytes.is_empty() {
                return Err(truncated(&format!(
                    "it ends inside `{}`",
                    display(&self.path)
                )));
            }
            let take = bytes
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            sink.data(&bytes[..take])?;
            self.input.consume(take);
            length -= take as u64;
            self.remaining -= take as u64;
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<()> {
        self.pour(self.remaining, &mut Skip)?;
        // The padding of the last member may be missing in sloppy archives; a header after it may not.
        let mut left = std::mem::take(&mut self.padding) as usize;
        while left > 0 {
            let have = fill(&mut self.input)?.len();
            if have == 0 {
                break;
            }
            let take = have.min(left);
            self.input.consume(take);
            left -= take;
        }
        Ok(())
    }

    fn extension(&mut self, size: u64, header: &Header) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(self
                .bad("its extended header is too long", &header.name())
                .cause(format!("{size} bytes; the limit is {MAX_EXTENSION}")));
        }
        let padded = size.next_multiple_of(BLOCK as u64) as usize;
        let mut bytes = Vec::new();
        while bytes.len() < padded {
            let have = fill(&mut self.input)?;
            if have.is_empty() {
                return Err(truncated("it ends inside an extended header"));
            }
            let take = have.len().min(padded - bytes.len());
            bytes.extend_from_slice(&have[..take]);
            self.input.consume(take);
        }
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// Reads a whole block; false at the end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            let have = fill(&mut self.input)?;
            if have.is_empty() {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(truncated("it ends inside a header"));
            }
            let take = have.len().min(BLOCK - filled);
            block[filled..filled + take].copy_from_slice(&have[..take]);
            self.input.consume(take);
            filled += take;
        }
        Ok(true)
    }

    fn header<'b>(&self, block: &'b [u8; BLOCK]) -> Result<Option<Header<'b>>> {
        Header::parse(block).map_err(|why| {
            let error = Error::new("the layer is not a tar stream")
                .cause(format!("a header is wrong: {why}"));
            if self.path.is_empty() {
                error
            } else {
                error.cause(format!("after `{}`", display(&self.path)))
            }
        })
    }

    fn field<T>(&self, value: Result<T, header::Malformed>, header: &Header) -> Result<T> {
        value.map_err(|why| self.bad(why, &header.name()))
    }

    fn bad(&self, why: &str, name: &[u8]) -> Error {
        Error::new(format!("the tar member `{}` is malformed", display(name))).cause(why)
    }
}

/// A name that ends at its first NUL.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn truncated(where_: &str) -> Error {
    Error::new("the layer's tar stream is truncated").cause(where_)
}

fn fill<R: BufRead>(input: &mut R) -> Result<&[u8]> {
    // A second call after success returns the same bytes; the borrow checker needs it this way.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(from_io(error)),
        }
    }
    input.fill_buf().map_err(from_io)
}

/// Errors of our own streams travel inside `io::Error`.
fn from_io(error: std::io::Error) -> Error {
    match error.downcast::<Carried>() {
        Ok(carried) => carried.0,
        Err(error) => Error::new("cannot read the layer").source(error),
    }
}

/// An [`Error`] on its way through `std::io`.
#[derive(Debug)]
pub struct Carried(pub Error);

impl std::fmt::Display for Carried {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.0.what())
    }
}

impl std::error::Error for Carried {}
