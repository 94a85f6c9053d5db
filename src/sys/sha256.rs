//! SHA-256 of two streams at once (FIPS 180-4).
//!
//! Each round waits for the one before it, so that one stream keeps the processor's unit for SHA half idle. A second
//! stream fills the gaps: 2.95 instead of 2.05 GB/s on a Zen 5.

use sha2::block_api::compress256;

pub type Block = [u8; 64];

/// One of two streams: its state, and blocks to take into it.
pub type Lane<'a> = (&'a mut [u32; 8], &'a [Block]);

/// Takes the blocks of both.
pub fn compress_both(one: Lane, other: Lane) {
    let common = one.1.len().min(other.1.len());
    let (ones, rest) = one.1.split_at(common);
    let (others, rest_of_other) = other.1.split_at(common);
    side_by_side((&mut *one.0, ones), (&mut *other.0, others));
    compress256(one.0, rest);
    compress256(other.0, rest_of_other);
}

#[cfg(target_arch = "x86_64")]
fn side_by_side(one: Lane, other: Lane) {
    if is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1")
    {
        // SAFETY: the processor has what it was compiled for.
        return unsafe { x86::side_by_side(one, other) };
    }
    compress256(one.0, one.1);
    compress256(other.0, other.1);
}

#[cfg(not(target_arch = "x86_64"))]
fn side_by_side(one: Lane, other: Lane) {
    compress256(one.0, one.1);
    compress256(other.0, other.1);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, Lane};
    use std::arch::x86_64::*;

    /// FIPS 180-4, 4.2.2.
    const K: [[u32; 4]; 16] = [
        [0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5],
        [0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5],
        [0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3],
        [0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174],
        [0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc],
        [0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da],
        [0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7],
        [0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967],
        [0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13],
        [0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85],
        [0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3],
        [0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070],
        [0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5],
        [0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3],
        [0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208],
        [0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2],
    ];

    /// A state as the instructions want it: words a, b, e, f and words c, d, g, h, the first one highest.
    #[derive(Clone, Copy)]
    struct State {
        abef: __m128i,
        cdgh: __m128i,
    }

    #[target_feature(enable = "sse2")]
    fn four(words: [u32; 4]) -> __m128i {
        let [a, b, c, d] = words.map(|word| word as i32);
        _mm_set_epi32(d, c, b, a)
    }

    impl State {
        #[target_feature(enable = "sse2")]
        fn load(&[a, b, c, d, e, f, g, h]: &[u32; 8]) -> State {
            State {
                abef: four([f, e, b, a]),
                cdgh: four([h, g, d, c]),
            }
        }

        #[target_feature(enable = "sse4.1")]
        fn store(self, to: &mut [u32; 8]) {
            let words = |four| {
                let [low, high] = [_mm_extract_epi64::<0>(four), _mm_extract_epi64::<1>(four)];
                [
                    low as u32,
                    (low >> 32) as u32,
                    high as u32,
                    (high >> 32) as u32,
                ]
            };
            let [f, e, b, a] = words(self.abef);
            let [h, g, d, c] = words(self.cdgh);
            *to = [a, b, c, d, e, f, g, h];
        }

        /// Four rounds, with four words of the schedule that have their constants.
        #[inline]
        #[target_feature(enable = "sha,sse2")]
        fn rounds(&mut self, words: __m128i) {
            self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, words);
            let words = _mm_shuffle_epi32::<0x0e>(words);
            self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, words);
        }

        #[inline]
        #[target_feature(enable = "sse2")]
        fn add(&mut self, before: State) {
            self.abef = _mm_add_epi32(self.abef, before.abef);
            self.cdgh = _mm_add_epi32(self.cdgh, before.cdgh);
        }
    }

    /// A block's sixteen words, of which each group of four makes place for a later one.
    struct Schedule([__m128i; 4]);

    impl Schedule {
        #[inline]
        #[target_feature(enable = "ssse3")]
        fn load(block: &Block) -> Schedule {
            // Words are big-endian.
            let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
            let (groups, _) = block.as_chunks::<16>();
            let group = |at: usize| {
                let bytes = u128::from_le_bytes(groups[at]);
                _mm_shuffle_epi8(_mm_set_epi64x((bytes >> 64) as i64, bytes as i64), order)
            };
            Schedule([group(0), group(1), group(2), group(3)])
        }

        /// The words of group `at` of sixteen, with their constants.
        #[inline]
        #[target_feature(enable = "sha,sse2,ssse3")]
        fn words(&mut self, at: usize) -> __m128i {
            let group = |number: usize| number % 4;
            let words = &mut self.0;
            if at >= 4 {
                let [first, second, third, last] =
                    [at, at + 1, at + 2, at + 3].map(|number| words[group(number)]);
                let sum = _mm_add_epi32(
                    _mm_sha256msg1_epu32(first, second),
                    _mm_alignr_epi8::<4>(last, third),
                );
                words[group(at)] = _mm_sha256msg2_epu32(sum, last);
            }
            _mm_add_epi32(words[group(at)], four(K[at]))
        }
    }

    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    pub fn side_by_side(one: Lane, other: Lane) {
        let (mut left, mut right) = (State::load(one.0), State::load(other.0));
        for (one, other) in one.1.iter().zip(other.1) {
            let before = (left, right);
            let (mut words, mut others) = (Schedule::load(one), Schedule::load(other));
            for at in 0..16 {
                left.rounds(words.words(at));
                right.rounds(others.words(at));
            }
            left.add(before.0);
            right.add(before.1);
        }
        left.store(one.0);
        right.store(other.0);
    }
}
