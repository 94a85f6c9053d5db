//! The two digests of a layer, of its bytes as stored and as inflated, made side by side.

use crate::image::digest::Digest;
use crate::pack::stream::{Piece, WAITING};
use crate::sys::sha256::{Block, compress_both};
use std::collections::VecDeque;
use std::sync::mpsc::Receiver;

/// What the hashing thread gets.
pub enum Hashed {
    Stored(Piece),
    Raw(Piece),
}

pub struct Digests {
    pub stored: Digest,
    pub raw: Digest,
}

/// Hashes until nobody sends any more.
pub fn hash(from: &Receiver<Hashed>) -> Digests {
    let (mut stored, mut raw) = (Sha256::new(), Sha256::new());
    // There is less of what is stored, and it comes first: it waits for raw bytes that go with it.
    let mut waiting = VecDeque::new();
    for piece in from {
        match piece {
            Hashed::Stored(piece) => {
                waiting.push_back(piece);
                // Those that nothing comes out of may be many.
                if waiting.len() > WAITING
                    && let Some(oldest) = waiting.pop_front()
                {
                    update_both((&mut stored, oldest.bytes()), (&mut raw, &[]));
                }
            }
            Hashed::Raw(piece) => {
                let with = waiting.pop_front();
                let with = with.as_ref().map(Piece::bytes).unwrap_or_default();
                update_both((&mut stored, with), (&mut raw, piece.bytes()));
            }
        }
    }
    for piece in waiting {
        update_both((&mut stored, piece.bytes()), (&mut raw, &[]));
    }
    Digests {
        stored: stored.finish(),
        raw: raw.finish(),
    }
}

/// A SHA-256 that is not finished (FIPS 180-4, 6.2).
struct Sha256 {
    state: [u32; 8],
    /// The beginning of the next block, as many bytes of it as `length` has beyond whole blocks.
    begun: Block,
    length: u64,
}

impl Sha256 {
    fn new() -> Sha256 {
        Sha256 {
            state: [
                0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
                0x5be0cd19,
            ],
            begun: [0; 64],
            length: 0,
        }
    }

    /// Takes bytes up to the next whole block, and the ones behind the last whole block; gives what is between.
    fn align<'a>(&mut self, bytes: &'a [u8]) -> &'a [Block] {
        let begun = (self.length % 64) as usize;
        self.length += bytes.len() as u64;
        let (head, rest) = match begun {
            0 => (&[][..], bytes),
            _ => bytes.split_at(bytes.len().min(64 - begun)),
        };
        self.begun[begun..begun + head.len()].copy_from_slice(head);
        if begun + head.len() == 64 {
            compress_both((&mut self.state, &[self.begun]), (&mut [0; 8], &[]));
        }
        let (blocks, tail) = rest.as_chunks();
        if !tail.is_empty() {
            self.begun[..tail.len()].copy_from_slice(tail);
        }
        blocks
    }

    fn finish(mut self) -> Digest {
        let bits = self.length.wrapping_mul(8);
        // One bit, zeros, and the length behind them at the end of a block.
        let mut padding = vec![0; 64 + 56];
        padding[0] = 0x80;
        padding.truncate(1 + (64 + 55 - (self.length % 64) as usize) % 64);
        padding.extend(bits.to_be_bytes());
        let blocks = self.align(&padding);
        compress_both((&mut self.state, blocks), (&mut [0; 8], &[]));
        let mut bytes = [0; 32];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.state) {
            *to = word.to_be_bytes();
        }
        Digest::from_bytes(bytes)
    }
}

/// Goes on with two.
fn update_both(one: (&mut Sha256, &[u8]), other: (&mut Sha256, &[u8])) {
    let (blocks, others) = (one.0.align(one.1), other.0.align(other.1));
    compress_both((&mut one.0.state, blocks), (&mut other.0.state, others));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(length: usize, seed: u32) -> Vec<u8> {
        (0..length as u32)
            .map(|at| (at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect()
    }

    proptest! {
        #[test]
        fn two_streams_have_the_digests_of_each(
            parts in prop::collection::vec((0..700_usize, 0..700_usize), 0..12),
        ) {
            let (mut one, mut other) = (Sha256::new(), Sha256::new());
            let (mut all, mut all_others) = (Vec::new(), Vec::new());
            for (part, (length, length_of_other)) in parts.into_iter().enumerate() {
                let (new, new_others) = (bytes(length, part as u32), bytes(length_of_other, 77));
                update_both((&mut one, &new), (&mut other, &new_others));
                all.extend(new);
                all_others.extend(new_others);
            }
            prop_assert_eq!(one.finish(), Digest::of(&all));
            prop_assert_eq!(other.finish(), Digest::of(&all_others));
        }
    }

    #[test]
    fn every_end_of_a_block() {
        for length in 0..200 {
            let bytes = bytes(length, 3);
            let mut hash = Sha256::new();
            update_both((&mut hash, &bytes), (&mut Sha256::new(), &[1; 100]));
            assert_eq!(hash.finish(), Digest::of(&bytes), "{length} bytes");
        }
    }
}
