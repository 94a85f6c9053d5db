//! Literals and matches (RFC 1951, 3.2.3), as long as there is plenty of input and room for output.
//!
//! Nine tenths of inflating happen here. Nothing is asked about the ends of the buffers but once for each match or three
//! literals; what comes near an end is left to the caller, who takes one symbol at a time.

use crate::huffman::*;
use crate::{Fault, Tables};

/// One round takes no more bytes than this: three times what the bit buffer can hold.
const INPUT: usize = 32;
/// One round makes no more bytes than this: three literals and a match of 258 bytes, which is copied in steps of 32.
const OUTPUT: usize = 320;
const LITERAL_MASK: u64 = (1 << LITERAL_BITS) - 1;
const DISTANCE_MASK: u64 = (1 << DISTANCE_BITS) - 1;

/// Unread input: whole bytes, and before them bits that were taken out of it already.
pub struct Bits<'a> {
    pub data: &'a [u8],
    pub bits: u64,
    /// Of `bits`, this many count; those above may be the next ones of `data`, or 0.
    pub count: u32,
}

impl Bits<'_> {
    /// At least 56 bits, where eight bytes are left.
    #[inline(always)]
    fn refill(&mut self) {
        if let Some(word) = self.data.first_chunk() {
            self.bits |= u64::from_le_bytes(*word) << (self.count & 63);
            // Whole bytes only are taken; what `bits` has of the next one will be read again, as the same bits.
            self.data = &self.data[7 - (self.count >> 3 & 7) as usize..];
            self.count |= 56;
        }
    }

    /// Takes the bits that an entry says. Of `count`, which wraps, the low six bits are right.
    #[inline(always)]
    fn take(&mut self, entry: u32) {
        self.bits >>= entry & 63;
        self.count = self.count.wrapping_sub(entry);
    }

    /// Takes a code with its extra bits: the base of its entry and what they add.
    #[inline(always)]
    fn value(&mut self, entry: u32) -> usize {
        let extra = (self.bits & ((1 << (entry & 63)) - 1)) >> (entry >> 8 & 31);
        self.take(entry);
        (entry >> 16) as usize + extra as usize
    }

    #[inline(always)]
    fn literal_or_length(&self, tables: &Tables) -> u32 {
        tables.literals[(self.bits & LITERAL_MASK) as usize]
    }

    /// Where in its subtable the entry of a long code is.
    #[inline(always)]
    fn second(&self, entry: u32) -> usize {
        (entry >> 16) as usize + (self.bits & ((1 << (entry >> 8 & 15)) - 1)) as usize
    }
}

/// Decodes into `out` from `at` on, where `reach` bytes before `at` may be referred to. Says whether the block ended.
///
/// Always inlined, so that a caller for newer processors has its own.
#[inline(always)]
pub fn decode(
    input: &mut Bits,
    tables: &Tables,
    out: &mut [u8],
    at: &mut usize,
    reach: usize,
) -> Result<bool, Fault> {
    let mut bits = Bits { ..*input };
    let mut to = *at;
    let first = to - reach;
    let mut ended = Ok(false);
    bits.refill();
    let mut entry = bits.literal_or_length(tables);
    // The entry in hand is looked up and not taken.
    while bits.data.len() >= INPUT && out.len() - to >= OUTPUT {
        if entry & LITERAL != 0 {
            let Some(three) = out[to..].first_chunk_mut::<3>() else {
                break;
            };
            bits.take(entry);
            three[0] = (entry >> 16) as u8;
            to += 1;
            entry = bits.literal_or_length(tables);
            if entry & LITERAL != 0 {
                bits.take(entry);
                three[1] = (entry >> 16) as u8;
                to += 1;
                entry = bits.literal_or_length(tables);
                if entry & LITERAL != 0 {
                    bits.take(entry);
                    three[2] = (entry >> 16) as u8;
                    to += 1;
                    bits.refill();
                    entry = bits.literal_or_length(tables);
                    continue;
                }
            }
        }
        if entry & SPECIAL != 0 {
            if entry & SUBTABLE != 0 {
                bits.take(LITERAL_BITS);
                entry = tables.literals[bits.second(entry) & (LITERAL_SIZE - 1)];
                if entry & LITERAL != 0 {
                    bits.take(entry);
                    out[to] = (entry >> 16) as u8;
                    to += 1;
                    bits.refill();
                    entry = bits.literal_or_length(tables);
                    continue;
                }
            }
            if entry & SPECIAL != 0 {
                bits.take(entry);
                ended = match entry & END {
                    0 => Err(Fault("invalid literal or length code")),
                    _ => Ok(true),
                };
                break;
            }
        }
        let length = bits.value(entry);
        // Looked up before there are more bits: these are enough, and the look takes time.
        let mut entry_of_distance = tables.distances[(bits.bits & DISTANCE_MASK) as usize];
        bits.refill();
        if entry_of_distance & SPECIAL != 0 {
            if entry_of_distance & SUBTABLE != 0 {
                bits.take(DISTANCE_BITS);
                entry_of_distance =
                    tables.distances[bits.second(entry_of_distance) & (DISTANCE_SIZE - 1)];
            }
            if entry_of_distance & SPECIAL != 0 {
                ended = Err(Fault("invalid distance code"));
                break;
            }
        }
        let distance = bits.value(entry_of_distance);
        if distance > to - first {
            ended = Err(Fault("invalid distance, too far back"));
            break;
        }
        bits.refill();
        entry = bits.literal_or_length(tables);
        copy(out, to - distance, to, length);
        to += length;
    }
    bits.count &= 63;
    bits.bits &= (1 << bits.count) - 1;
    *input = bits;
    *at = to;
    ended
}

#[inline(always)]
fn step<const SIZE: usize>(out: &mut [u8], from: usize, to: usize) {
    if let Some(&chunk) = out[from..].first_chunk::<SIZE>()
        && let Some(place) = out[to..].first_chunk_mut::<SIZE>()
    {
        *place = chunk;
    }
}

/// Repeats what stands at `from` at `to`, in steps that may go beyond the end: whatever stands there is not valid yet.
#[inline(always)]
fn copy(out: &mut [u8], mut from: usize, mut to: usize, length: usize) {
    let distance = to - from;
    let end = to + length;
    if distance >= 16 {
        // Most matches are shorter than two steps; a loop would be guessed wrong too often.
        step::<16>(out, from, to);
        step::<16>(out, from + 16, to + 16);
        while to + 32 < end {
            step::<16>(out, from + 32, to + 32);
            from += 16;
            to += 16;
        }
    } else if distance == 1 {
        let byte = out[from];
        out[to..end].fill(byte);
    } else {
        // Each step has `distance` bytes right, or eight.
        let stride = distance.min(8);
        while to < end {
            step::<8>(out, from, to);
            from += stride;
            to += stride;
        }
    }
}
