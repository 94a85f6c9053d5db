//! Code lengths → decoding tables (RFC 1951, 3.2.2).
//!
//! A table is indexed by the next bits of the stream, first bit lowest. Codes longer than the index have a table of their
//! own behind it, to which the entry of their first bits points. An entry has everything that its symbol needs:
//!
//! ```text
//! literal    1 · byte << 16 · bits of the code
//! length,    base << 16 · bits of the code << 8 · bits of the code and the extra bits
//! distance
//! otherwise  SPECIAL · SUBTABLE: its start << 16, its index bits << 8 · END: the block's end · neither: no code
//! ```

pub const LITERAL: u32 = 1 << 31;
pub const SPECIAL: u32 = 1 << 15;
pub const SUBTABLE: u32 = 1 << 14;
pub const END: u32 = 1 << 13;

/// No code has more bits.
const MOST_BITS: usize = 15;
/// Symbols of the largest alphabet.
pub const MOST_SYMBOLS: usize = 288;

/// Index bits of the three tables. More bits mean fewer second looks, and more of the core's nearest cache.
pub const LITERAL_BITS: u32 = 11;
pub const DISTANCE_BITS: u32 = 8;
pub const PRECODE_BITS: u32 = 7;
/// Powers of two, so that an index can be masked; complete codes need 2342 and 402.
pub const LITERAL_SIZE: usize = 4096;
pub const DISTANCE_SIZE: usize = 512;
pub const PRECODE_SIZE: usize = 1 << PRECODE_BITS;

/// What each symbol means, without the bits of its code.
pub const LITERALS: [u32; MOST_SYMBOLS] = literals();
pub const DISTANCES: [u32; 32] = distances();
pub const PRECODES: [u32; 19] = precodes();

const fn literals() -> [u32; MOST_SYMBOLS] {
    // Symbols 286 and 287 have codes in the fixed block and no meaning.
    let mut symbols = [SPECIAL; MOST_SYMBOLS];
    let mut symbol = 0;
    while symbol < 256 {
        symbols[symbol] = LITERAL | (symbol as u32) << 16;
        symbol += 1;
    }
    symbols[256] = SPECIAL | END;
    let mut base = 3;
    let mut at = 0;
    while at < 28 {
        let extra = if at < 4 { 0 } else { (at - 4) / 4 };
        symbols[257 + at] = base << 16 | extra as u32;
        base += 1 << extra;
        at += 1;
    }
    symbols[285] = 258 << 16;
    symbols
}

const fn distances() -> [u32; 32] {
    let mut symbols = [SPECIAL; 32];
    let mut base = 1;
    let mut at = 0;
    while at < 30 {
        let extra = if at < 2 { 0 } else { (at - 2) / 2 };
        symbols[at] = base << 16 | extra as u32;
        base += 1 << extra;
        at += 1;
    }
    symbols
}

const fn precodes() -> [u32; 19] {
    let mut symbols = [0; 19];
    let mut at = 0;
    while at < 19 {
        symbols[at] = (at as u32) << 16;
        at += 1;
    }
    symbols
}

/// A symbol with the bits of its code.
fn entry(symbol: u32, bits: u32) -> u32 {
    match symbol & (LITERAL | SPECIAL) {
        0 => symbol + bits + (bits << 8),
        _ => symbol | bits,
    }
}

/// The code after this one, of the same length; the first bit of a code is the lowest.
fn next(code: usize, bits: u32) -> usize {
    match code ^ ((1 << bits) - 1) {
        0 => code,
        zeros => {
            let carry = 1 << zeros.ilog2();
            code & (carry - 1) | carry
        }
    }
}

/// Fills a table of `index_bits`; says whether the lengths make a code. Codes of more than one symbol have to be complete.
/// With `lone`, one symbol may have a code of one bit, and none need have one: blocks without a match look like that.
pub fn build(
    table: &mut [u32],
    index_bits: u32,
    lengths: &[u8],
    symbols: &[u32],
    lone: bool,
) -> bool {
    let mut counts = [0_usize; MOST_BITS + 1];
    for &length in lengths {
        counts[usize::from(length) & MOST_BITS] += 1;
    }
    counts[0] = 0;
    let mut starts = [0; MOST_BITS + 2];
    let mut free: isize = 1;
    for bits in 1..=MOST_BITS {
        starts[bits + 1] = starts[bits] + counts[bits];
        free = 2 * free - counts[bits] as isize;
        if free < 0 {
            return false;
        }
    }
    let longest = counts.iter().rposition(|&count| count > 0).unwrap_or(0) as u32;
    // By length of the code, then by symbol.
    let mut sorted = [0_u16; MOST_SYMBOLS];
    for (symbol, &length) in lengths
        .iter()
        .enumerate()
        .filter(|(_, length)| **length > 0)
    {
        let place = &mut starts[usize::from(length) & MOST_BITS];
        sorted[*place] = symbol as u16;
        *place += 1;
    }
    let mut meanings = sorted
        .iter()
        .map(|&symbol| symbols.get(usize::from(symbol)).copied().unwrap_or(SPECIAL));
    let mut meaning = || meanings.next().unwrap_or(SPECIAL);
    let size = 1 << index_bits;
    if free > 0 {
        if !lone || longest > 1 {
            return false;
        }
        table[..size].fill(SPECIAL);
        if longest == 1 {
            let only = entry(meaning(), 1);
            table[..size]
                .iter_mut()
                .step_by(2)
                .for_each(|place| *place = only);
        }
        return true;
    }
    // Each step doubles what is filled: a code of fewer bits stands wherever the bits behind it differ.
    let mut code = 0;
    table[..2].fill(SPECIAL);
    for bits in 1..=index_bits {
        for _ in 0..counts[bits as usize] {
            table[code] = entry(meaning(), bits);
            code = next(code, bits);
        }
        if bits < index_bits {
            table.copy_within(..1 << bits, 1 << bits);
        }
    }
    let mut end = size;
    let mut first_bits = usize::MAX;
    let mut start = 0;
    for bits in index_bits + 1..=longest {
        for left in (1..=counts[bits as usize]).rev() {
            if code & (size - 1) != first_bits {
                first_bits = code & (size - 1);
                start = end;
                let subtable_bits = room(&counts, left, bits, index_bits, longest);
                end += 1 << subtable_bits;
                table[first_bits] =
                    SPECIAL | SUBTABLE | (start as u32) << 16 | subtable_bits << 8 | index_bits;
            }
            let bits_here = bits - index_bits;
            let Some(subtable) = table.get_mut(start..end) else {
                return false;
            };
            let places = subtable.iter_mut().skip(code >> index_bits);
            let filled = entry(meaning(), bits_here);
            places
                .step_by(1 << bits_here)
                .for_each(|place| *place = filled);
            code = next(code, bits);
        }
    }
    true
}

/// Index bits of a subtable whose first code has `bits`, with `left` more of that length to come.
fn room(counts: &[usize], left: usize, bits: u32, index_bits: u32, longest: u32) -> u32 {
    let mut index = bits - index_bits;
    let mut free = (1 << index) - left as isize;
    while free > 0 && index_bits + index < longest {
        index += 1;
        free = 2 * free - counts[(index_bits + index) as usize] as isize;
    }
    index
}
