//! gzip (RFC 1952) of deflate (RFC 1951), inflated into buffers that others go on reading.
//!
//! Inflating a layer is what cannot be divided among cores, so it decides how fast a large layer can be converted. Two
//! things make this faster than a general library: output goes to where the tar reader and the hash take it from, with
//! the 32 KiB that matches may refer to in front of it, so that no window is kept beside it; and the decoder asks about
//! the ends of its buffers once for every match instead of once for every byte.
//!
//! Everything but the choice of processor instructions is safe code: layers are other people's bytes. Whatever is wrong
//! with them is an error of kind `InvalidData` or `UnexpectedEof`. Deliberately absent: compressing, zlib's container,
//! and going on after garbage.

// What comes from outside ends in an error, never in a panic. Test code is free to insist.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

mod decode;
mod huffman;

use decode::{Bits, decode};
use huffman::*;
use std::io::{self, BufRead, ErrorKind};

/// How far back a match may refer. [`Inflate::fill`] wants that much room in front of its output.
pub const HISTORY: usize = 32 << 10;

/// Bits of the bit buffer that can be used at once.
const MOST_BITS: u32 = 56;

/// The order in which a block has the lengths of its precode (RFC 1951, 3.2.7).
const PRECODE_ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault(&'static str);

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, fault.0)
    }
}

/// The codes of a block.
struct Tables {
    literals: [u32; LITERAL_SIZE],
    distances: [u32; DISTANCE_SIZE],
    /// They are those that blocks without codes of their own have. Such a block can be as short as two bytes.
    fixed: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A member, or the end.
    Member,
    Block,
    /// So many bytes of a stored block are left.
    Stored(usize),
    Codes,
    /// Of a match, so many bytes are left, from so far back.
    Match(usize, usize),
    Trailer,
    Ended,
}

/// Inflates one gzip member after the other.
pub struct Inflate<R> {
    input: R,
    bits: u64,
    count: u32,
    state: State,
    /// The current block is the member's last one.
    last: bool,
    /// Something was read.
    begun: bool,
    /// Bytes of the current member.
    made: u64,
    checksum: crc32fast::Hasher,
    tables: Box<Tables>,
    /// The end of what was made last.
    history: Box<[u8; HISTORY]>,
}

impl<R: BufRead> Inflate<R> {
    pub fn new(input: R) -> Inflate<R> {
        Inflate {
            input,
            bits: 0,
            count: 0,
            state: State::Member,
            last: false,
            begun: false,
            made: 0,
            checksum: crc32fast::Hasher::new(),
            tables: Box::new(Tables {
                literals: [SPECIAL; LITERAL_SIZE],
                distances: [SPECIAL; DISTANCE_SIZE],
                fixed: false,
            }),
            history: Box::new([0; HISTORY]),
        }
    }

    /// Fills `buffer` behind its first [`HISTORY`] bytes, which are the decoder's own; says how many bytes there are. Fewer
    /// than there is room for only at the end of the input. After an error, what comes next means nothing.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((before, _)) = buffer.split_first_chunk_mut::<HISTORY>() else {
            return Ok(0);
        };
        *before = *self.history;
        let mut at = HISTORY;
        // Where the current member's bytes begin, of those that are in the buffer.
        let mut member = HISTORY - self.made.min(HISTORY as u64) as usize;
        let mut summed = HISTORY;
        loop {
            match self.state {
                State::Ended => break,
                State::Member => {
                    self.state = match self.member()? {
                        true => State::Block,
                        false => State::Ended,
                    };
                    member = at;
                }
                State::Block if self.last => self.state = State::Trailer,
                State::Block => self.state = self.block()?,
                State::Trailer => {
                    self.sum(&buffer[summed..at]);
                    summed = at;
                    self.trailer()?;
                    self.state = State::Member;
                }
                State::Stored(0) => self.state = State::Block,
                // From here on there is output to make.
                _ if at == buffer.len() => break,
                State::Stored(left) => {
                    let count = self.stored(left, &mut buffer[at..])?;
                    at += count;
                    self.state = State::Stored(left - count);
                }
                State::Codes => self.state = self.codes(buffer, &mut at, member)?,
                State::Match(length, distance) => {
                    self.state = repeat(buffer, &mut at, length, distance);
                }
            }
        }
        self.sum(&buffer[summed..at]);
        if let Some(last) = buffer[..at].last_chunk() {
            *self.history = *last;
        }
        Ok(at - HISTORY)
    }

    fn sum(&mut self, bytes: &[u8]) {
        self.checksum.update(bytes);
        self.made += bytes.len() as u64;
    }

    /// As many bits as there is room for, or all that are left.
    fn top_up(&mut self) -> io::Result<()> {
        while self.count <= MOST_BITS {
            let Some(&byte) = unread(&mut self.input)?.first() else {
                break;
            };
            self.bits |= u64::from(byte) << self.count;
            self.count += 8;
            self.input.consume(1);
        }
        Ok(())
    }

    /// The next bits as a number; not more than a bit buffer has.
    fn take(&mut self, count: u32) -> io::Result<u32> {
        if self.count < count {
            self.top_up()?;
        }
        let left = self.count.checked_sub(count);
        self.count = left.ok_or(ErrorKind::UnexpectedEof)?;
        let value = self.bits & ((1 << count) - 1);
        self.bits >>= count;
        Ok(value as u32)
    }

    /// Whole bytes follow.
    fn align(&mut self) -> io::Result<()> {
        self.take(self.count % 8).map(|_| ())
    }

    fn take_u32(&mut self) -> io::Result<u32> {
        Ok(self.take(16)? | self.take(16)? << 16)
    }

    /// A member's header; `false` at the end of the input.
    fn member(&mut self) -> io::Result<bool> {
        self.top_up()?;
        if self.begun && self.count == 0 {
            return Ok(false);
        }
        self.begun = true;
        self.made = 0;
        self.last = false;
        let mut header = crc32fast::Hasher::new();
        let mut byte = |from: &mut Inflate<R>| -> io::Result<u8> {
            let byte = from.take(8)? as u8;
            header.update(&[byte]);
            Ok(byte)
        };
        let magic = [byte(self)?, byte(self)?, byte(self)?];
        if magic != [0x1f, 0x8b, 8] {
            return Err(Fault("no gzip header where one should be").into());
        }
        let flags = byte(self)?;
        if flags & 0xe0 != 0 {
            return Err(Fault("a gzip header with reserved flags").into());
        }
        // Time, level and operating system.
        for _ in 0..6 {
            byte(self)?;
        }
        let [sum, extra, name, comment] = [2, 4, 8, 16].map(|flag| flags & flag != 0);
        if extra {
            let length = u16::from_le_bytes([byte(self)?, byte(self)?]);
            for _ in 0..length {
                byte(self)?;
            }
        }
        for _ in 0..u32::from(name) + u32::from(comment) {
            while byte(self)? != 0 {}
        }
        if sum && self.take(16)? != header.finalize() & 0xffff {
            return Err(Fault("a gzip header with a wrong checksum").into());
        }
        Ok(true)
    }

    fn trailer(&mut self) -> io::Result<()> {
        self.align()?;
        let stated = (self.take_u32()?, self.take_u32()?);
        let checksum = std::mem::take(&mut self.checksum).finalize();
        // The length is stated modulo 2^32.
        if stated != (checksum, self.made as u32) {
            return Err(Fault("a gzip member whose checksum or length is wrong").into());
        }
        Ok(())
    }

    /// A block's header.
    fn block(&mut self) -> io::Result<State> {
        self.last = self.take(1)? == 1;
        match self.take(2)? {
            0 => {
                self.align()?;
                let length = self.take(16)?;
                if self.take(16)? != length ^ 0xffff {
                    return Err(Fault("invalid length of a stored block").into());
                }
                return Ok(State::Stored(length as usize));
            }
            1 => self.fixed(),
            2 => self.dynamic()?,
            _ => return Err(Fault("invalid type of a block").into()),
        }
        Ok(State::Codes)
    }

    fn fixed(&mut self) {
        if self.tables.fixed {
            return;
        }
        let mut lengths = [8; MOST_SYMBOLS];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        self.build(&lengths, &[5; 32]);
        self.tables.fixed = true;
    }

    /// Whether both sets of lengths make codes.
    fn build(&mut self, literals: &[u8], distances: &[u8]) -> [bool; 2] {
        let tables = &mut *self.tables;
        tables.fixed = false;
        let literals = build(
            &mut tables.literals,
            LITERAL_BITS,
            literals,
            &LITERALS,
            true,
        );
        let table = &mut tables.distances;
        let distances = build(table, DISTANCE_BITS, distances, &DISTANCES, true);
        [literals, distances]
    }

    fn dynamic(&mut self) -> io::Result<()> {
        let literals = self.take(5)? as usize + 257;
        let distances = self.take(5)? as usize + 1;
        let precodes = self.take(4)? as usize + 4;
        if literals > 286 || distances > 30 {
            return Err(Fault("too many length or distance codes").into());
        }
        let mut of_precode = [0; 19];
        for &symbol in PRECODE_ORDER.iter().take(precodes) {
            of_precode[symbol] = self.take(3)? as u8;
        }
        let mut table = [SPECIAL; PRECODE_SIZE];
        if !build(&mut table, PRECODE_BITS, &of_precode, &PRECODES, false) {
            return Err(Fault("invalid code of code lengths").into());
        }
        let mut lengths = [0; 286 + 30];
        let lengths = &mut lengths[..literals + distances];
        let mut at = 0;
        while at < lengths.len() {
            self.top_up()?;
            let entry = table[self.bits as usize % PRECODE_SIZE];
            self.take(entry & 0xff)?;
            let (value, times) = match entry >> 16 {
                16 => (
                    at.checked_sub(1).map(|before| lengths[before]),
                    3 + self.take(2)?,
                ),
                17 => (Some(0), 3 + self.take(3)?),
                18 => (Some(0), 11 + self.take(7)?),
                length => (Some(length as u8), 1),
            };
            let run = lengths.get_mut(at..at + times as usize);
            let (Some(value), Some(run)) = (value, run) else {
                return Err(Fault("invalid repetition of a code length").into());
            };
            run.fill(value);
            at += times as usize;
        }
        let (literals, distances) = lengths.split_at(literals);
        if literals[256] == 0 {
            return Err(Fault("a block without a code for its end").into());
        }
        match self.build(literals, distances) {
            [true, true] => Ok(()),
            [false, _] => Err(Fault("invalid code of literals and lengths").into()),
            [_, false] => Err(Fault("invalid code of distances").into()),
        }
    }

    /// Bytes of a stored block; at least one.
    fn stored(&mut self, left: usize, out: &mut [u8]) -> io::Result<usize> {
        if self.count > 0 {
            out[0] = self.take(8)? as u8;
            return Ok(1);
        }
        let data = unread(&mut self.input)?;
        let count = data.len().min(left).min(out.len());
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        out[..count].copy_from_slice(&data[..count]);
        self.input.consume(count);
        Ok(count)
    }

    /// Symbols of a block, until it ends or the buffer is full.
    fn codes(&mut self, out: &mut [u8], at: &mut usize, member: usize) -> io::Result<State> {
        while *at < out.len() {
            let data = unread(&mut self.input)?;
            let before = data.len();
            let mut bits = Bits {
                data,
                bits: self.bits,
                count: self.count,
            };
            let reach = *at - member;
            let ended = decode_here(&mut bits, &self.tables, out, at, reach);
            let taken = before - bits.data.len();
            (self.bits, self.count) = (bits.bits, bits.count);
            self.input.consume(taken);
            if ended? {
                return Ok(State::Block);
            }
            // Near the end of the input's buffer, or of ours.
            let entry = self.symbol(LITERAL_BITS, |tables| &tables.literals)?;
            if entry & LITERAL != 0 {
                let Some(place) = out.get_mut(*at) else {
                    break;
                };
                *place = (entry >> 16) as u8;
                *at += 1;
                continue;
            }
            match entry & (SPECIAL | END) {
                0 => {}
                SPECIAL => return Err(Fault("invalid literal or length code").into()),
                _ => return Ok(State::Block),
            }
            let length = self.value(entry)?;
            let entry = self.symbol(DISTANCE_BITS, |tables| &tables.distances)?;
            if entry & SPECIAL != 0 {
                return Err(Fault("invalid distance code").into());
            }
            let distance = self.value(entry)?;
            if distance > *at - member {
                return Err(Fault("invalid distance, too far back").into());
            }
            if let State::Match(length, distance) = repeat(out, at, length, distance) {
                return Ok(State::Match(length, distance));
            }
        }
        Ok(State::Codes)
    }

    /// The entry of the next code, whose bits are taken.
    fn symbol(&mut self, index_bits: u32, table: fn(&Tables) -> &[u32]) -> io::Result<u32> {
        self.top_up()?;
        let table = table(&self.tables);
        let look = |at: usize| table.get(at).copied().unwrap_or(SPECIAL);
        let mut entry = look(self.bits as usize & ((1 << index_bits) - 1));
        let mut bits = 0;
        if entry & SPECIAL != 0 && entry & SUBTABLE != 0 {
            let second = (self.bits >> index_bits) as usize & ((1 << (entry >> 8 & 15)) - 1);
            entry = look((entry >> 16) as usize + second);
            bits = index_bits;
        }
        bits += match entry & (LITERAL | SPECIAL) {
            0 => entry >> 8 & 31,
            _ => entry & 0xff,
        };
        self.take(bits)?;
        Ok(entry)
    }

    /// What the extra bits behind a code add to its base.
    fn value(&mut self, entry: u32) -> io::Result<usize> {
        let extra = (entry & 0xff) - (entry >> 8 & 31);
        Ok((entry >> 16) as usize + self.take(extra)? as usize)
    }
}

/// What the input has in memory; nothing at its end.
fn unread(input: &mut impl BufRead) -> io::Result<&[u8]> {
    while let Err(error) = input.fill_buf() {
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
    input.fill_buf()
}

/// Makes as much of a match as there is room for.
fn repeat(out: &mut [u8], at: &mut usize, length: usize, distance: usize) -> State {
    let now = length.min(out.len() - *at);
    for to in *at..*at + now {
        out[to] = out[to - distance];
    }
    *at += now;
    match length - now {
        0 => State::Codes,
        left => State::Match(left, distance),
    }
}

/// [`decode`], with instructions of this processor. Shifts by a number of bits that is only known then are what it does
/// most; those of BMI2 take a third of the time.
#[cfg(target_arch = "x86_64")]
fn decode_here(
    input: &mut Bits,
    tables: &Tables,
    out: &mut [u8],
    at: &mut usize,
    reach: usize,
) -> Result<bool, Fault> {
    #[target_feature(enable = "bmi1,bmi2")]
    fn with_bmi2(
        input: &mut Bits,
        tables: &Tables,
        out: &mut [u8],
        at: &mut usize,
        reach: usize,
    ) -> Result<bool, Fault> {
        decode(input, tables, out, at, reach)
    }
    if std::is_x86_feature_detected!("bmi1") && std::is_x86_feature_detected!("bmi2") {
        // SAFETY: the processor has what the function was compiled for.
        #[allow(unsafe_code)]
        return unsafe { with_bmi2(input, tables, out, at, reach) };
    }
    decode(input, tables, out, at, reach)
}

#[cfg(not(target_arch = "x86_64"))]
use decode as decode_here;

#[cfg(test)]
mod tests;
