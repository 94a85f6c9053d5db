//! Every stream is inflated in pieces of several sizes, and by zlib as well: both find the same bytes, or both refuse.

use super::*;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::sync::LazyLock;

/// Gives its bytes in pieces of one length.
struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
    length: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let end = (self.at / self.length + 1) * self.length;
        Ok(&self.bytes[self.at..end.min(self.bytes.len())])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

fn inflated(bytes: &[u8], length: usize, room: usize) -> io::Result<Vec<u8>> {
    let mut inflate = Inflate::new(Pieces {
        bytes,
        at: 0,
        length,
    });
    let mut all = Vec::new();
    // What stood in a buffer before must not matter.
    let mut buffer = vec![0xa5; HISTORY + room];
    loop {
        let count = inflate.fill(&mut buffer)?;
        all.extend_from_slice(&buffer[HISTORY..HISTORY + count]);
        if count < room {
            assert_eq!(inflate.fill(&mut buffer)?, 0);
            return Ok(all);
        }
        buffer.fill(0x5a);
    }
}

/// Lengths of input pieces and of output.
const SIZES: [(usize, usize); 6] = [
    (1 << 20, 256 << 10),
    (1 << 20, 1000),
    (4096, 40_000),
    (61, 258),
    (7, 3),
    (1, 1),
];

/// What all sizes and zlib agree on.
#[track_caller]
fn agreed(stream: &[u8]) -> Option<Vec<u8>> {
    let mut theirs = Vec::new();
    let theirs = flate2::bufread::MultiGzDecoder::new(stream)
        .read_to_end(&mut theirs)
        .map(|_| theirs);
    // Small pieces are slow.
    let long = stream.len() > 3000 || theirs.as_ref().is_ok_and(|all| all.len() > 3000);
    let sizes = if long { &SIZES[..3] } else { &SIZES[..] };
    for &(length, room) in sizes {
        match (inflated(stream, length, room), &theirs) {
            (Ok(ours), Ok(theirs)) => {
                assert!(ours == *theirs, "{} and {}", ours.len(), theirs.len());
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!(
                "{length} {room}: {:?} and {:?}",
                ours.map(|all| all.len()),
                theirs.as_ref().map(Vec::len)
            ),
        }
    }
    theirs.ok()
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Names and contents that ask for different things.
static CONTENTS: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let noise = noise(300_000, 7);
    let words: Vec<u8> = noise
        .iter()
        .flat_map(|byte| format!("{} ", byte % 61).into_bytes())
        .collect();
    // Counts that grow like Fibonacci's make the longest codes.
    let mut rare = Vec::new();
    let (mut one, mut other) = (1_usize, 1_usize);
    for byte in 0..24_u8 {
        rare.extend(std::iter::repeat_n(byte, one));
        (one, other) = (other, one + other);
    }
    let mut mixed = Vec::new();
    for (at, &byte) in noise.iter().take(100_000).enumerate() {
        mixed.push(rare[usize::from(byte) * 97 % rare.len()]);
        if byte < 8 {
            let from = mixed.len().saturating_sub(1 + at % 17);
            mixed.extend_from_within(from..);
        }
    }
    // As far back as a match may refer.
    let far = [&noise[..HISTORY], &noise[..HISTORY], &noise[1..HISTORY]].concat();
    vec![
        ("nothing", Vec::new()),
        ("a byte", b"a".to_vec()),
        ("zeros", vec![0; 1_000_000]),
        ("noise", noise),
        ("words", words),
        ("rare symbols", rare),
        ("mixed", mixed),
        ("far", far),
    ]
});

#[test]
fn what_was_compressed_comes_back() {
    for (name, content) in CONTENTS.iter() {
        for level in [0, 1, 3, 6, 9] {
            let found = agreed(&gzip(content, level));
            assert!(found.as_ref() == Some(content), "{name} at level {level}");
        }
    }
}

#[test]
fn members_follow_each_other_and_do_not_refer_to_each_other() {
    let (one, other) = (gzip(b"one, and ", 6), gzip(&[b'o'; 70_000], 6));
    let all = [&one[..], &gzip(b"", 6), &other].concat();
    let found = agreed(&all).unwrap();
    assert!(found.starts_with(b"one, and ooo") && found.len() == 9 + 70_000);
    // A match in the second member that begins in the first: a literal, then length 3 from 2 back.
    let reaching = member(&[
        (1, 1),
        (1, 2),
        (0b1000_1001, 8),
        (0x40, 7),
        (0x10, 5),
        (0, 7),
    ]);
    assert_eq!(agreed(&[one, reaching].concat()), None);
}

#[test]
fn blocks_of_all_kinds_follow_each_other() {
    // Short ones have the fixed codes, long ones their own, and what cannot be compressed is stored.
    let kinds = [
        &b"a word "[..],
        &CONTENTS[4].1[..20_000],
        &CONTENTS[3].1[..3000],
    ];
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    let mut content = Vec::new();
    for at in [0, 0, 1, 0, 2, 0, 0, 2, 1, 1, 0] {
        encoder.write_all(kinds[at]).unwrap();
        encoder.flush().unwrap();
        content.extend_from_slice(kinds[at]);
    }
    assert_eq!(agreed(&encoder.finish().unwrap()), Some(content));
}

#[test]
fn a_header_may_have_everything() {
    let full = GzBuilder::new()
        .extra(noise(70, 3))
        .filename("a name")
        .comment("and a comment")
        .mtime(1 << 30);
    let mut encoder = full.write(Vec::new(), Compression::new(6));
    encoder.write_all(b"content").unwrap();
    let mut stream = encoder.finish().unwrap();
    assert_eq!(agreed(&stream).as_deref(), Some(&b"content"[..]));
    // With a checksum of itself.
    let end = 10 + 2 + 70 + "a name".len() + 1 + "and a comment".len() + 1;
    stream[3] |= 2;
    let sum = crc32fast::hash(&stream[..end]) as u16;
    stream.splice(end..end, sum.to_le_bytes());
    assert_eq!(agreed(&stream).as_deref(), Some(&b"content"[..]));
    stream[end] ^= 1;
    assert_eq!(agreed(&stream), None);
}

#[test]
fn what_is_cut_short_or_goes_on_is_refused() {
    let content = b"a few words, a few more words, and a few words again".repeat(9);
    let stream = gzip(&content, 6);
    for end in 0..stream.len() {
        assert_eq!(agreed(&stream[..end]), None, "{end} of {}", stream.len());
    }
    for garbage in [&b"\0"[..], b"\x1f", b"\x1f\x8b", b"garbage behind it"] {
        assert_eq!(agreed(&[&stream, garbage].concat()), None, "{garbage:?}");
    }
}

#[test]
fn a_flipped_bit_changes_nothing_or_is_found() {
    let content = &CONTENTS[6].1[..400];
    let stream = gzip(content, 6);
    let mut harmless = 0;
    for bit in 0..stream.len() * 8 {
        let mut broken = stream.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        if let Some(found) = agreed(&broken) {
            assert!(found == content, "bit {bit}");
            harmless += 1;
        }
    }
    // The flag for text, time, level and system; then bits that nobody reads, and matches with an equal.
    assert!((49..70).contains(&harmless), "{harmless}");
}

/// A member with a body of (value, bits), lowest bit first.
fn member(body: &[(u32, u32)]) -> Vec<u8> {
    let mut stream = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let bits = body
        .iter()
        .flat_map(|&(value, count)| (0..count).map(move |at| (value >> at & 1) as u8));
    let bits: Vec<u8> = bits.collect();
    for byte in bits.chunks(8) {
        stream.push(byte.iter().rev().fold(0, |all, bit| all << 1 | bit));
    }
    // More than enough for whatever the body still wants.
    stream.extend([0; 64]);
    stream
}

#[test]
fn what_is_wrong_is_named() {
    let dynamic = |rest: &[(u32, u32)]| [&[(1, 1), (2, 2)], rest].concat();
    // Lengths of the precode: 16, 17, 18, 0, 8, 7, …
    let repeating = [(0, 5), (0, 5), (0, 4), (1, 3), (0, 3), (1, 3), (0, 3)];
    let with = |rest: &[(u32, u32)]| dynamic(&[&repeating, rest].concat());
    for (body, fault) in [
        (vec![(1, 1), (3, 2)], "invalid type of a block"),
        (
            vec![(1, 1), (0, 2), (0, 5), (1, 16), (0, 16)],
            "invalid length of a stored block",
        ),
        (
            vec![(1, 1), (1, 2), (0b0110_0011, 8)],
            "invalid literal or length code",
        ),
        (
            vec![(1, 1), (1, 2), (0x40, 7), (0b01111, 5)],
            "invalid distance code",
        ),
        (
            vec![(1, 1), (1, 2), (0x40, 7), (0, 5)],
            "invalid distance, too far back",
        ),
        (
            dynamic(&[(30, 5), (0, 5), (0, 4)]),
            "too many length or distance codes",
        ),
        (
            dynamic(&[(0, 5), (30, 5), (0, 4)]),
            "too many length or distance codes",
        ),
        (
            dynamic(&[(0, 5), (0, 5), (0, 4), (1, 3), (1, 3), (1, 3), (0, 3)]),
            "invalid code of code lengths",
        ),
        (
            dynamic(&[(0, 5), (0, 5), (0, 4), (2, 3), (1, 3), (0, 3), (0, 3)]),
            "invalid code of code lengths",
        ),
        (with(&[(0, 1)]), "invalid repetition of a code length"),
        (
            with(&[(1, 1), (127, 7), (1, 1), (127, 7)]),
            "invalid repetition of a code length",
        ),
        (
            with(&[(1, 1), (127, 7), (1, 1), (109, 7)]),
            "a block without a code for its end",
        ),
    ] {
        let stream = member(&body);
        assert_eq!(agreed(&stream), None);
        let told = inflated(&stream, 1 << 20, 1 << 20).unwrap_err();
        assert_eq!(
            (told.kind(), told.to_string()),
            (ErrorKind::InvalidData, fault.into())
        );
    }
    let told = inflated(b"PK\x03\x04 and so on", 100, 100).unwrap_err();
    assert_eq!(told.to_string(), "no gzip header where one should be");
    let told = inflated(&gzip(b"a word", 6)[..20], 100, 100).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::UnexpectedEof);
}

/// Input that is interrupted now and then, and fails once.
struct Failing(u32);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl BufRead for Failing {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0 += 1;
        match self.0 {
            1..4 => Err(ErrorKind::Interrupted.into()),
            _ => Err(ErrorKind::ConnectionReset.into()),
        }
    }

    fn consume(&mut self, _: usize) {}
}

#[test]
fn an_error_of_the_input_is_told_and_an_interruption_is_not() {
    let told = Inflate::new(Failing(0)).fill(&mut vec![0; HISTORY + 9]);
    assert_eq!(told.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

proptest! {
    #[test]
    fn any_bytes_give_what_zlib_says(
        pieces in prop::collection::vec((0_usize..8, 0_usize..5000, 1_usize..3000), 0..12),
        level in 0_u32..=9,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut content = Vec::new();
        for (which, from, length) in pieces {
            let source = &CONTENTS[which].1;
            let from = from.min(source.len());
            content.extend_from_slice(&source[from..(from + length).min(source.len())]);
        }
        let mut stream = gzip(&content, level);
        let whole = damage.is_empty();
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let found = agreed(&stream);
        prop_assert!(!whole || found == Some(content));
    }

    /// Blocks of codes from random lengths: few are valid, and none may do harm.
    #[test]
    fn any_header_of_a_block_gives_what_zlib_says(
        counts in (0_u32..32, 0_u32..32, 0_u32..16),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut body = vec![(1, 1), (2, 2), (counts.0, 5), (counts.1, 5), (counts.2, 4)];
        body.extend(rest.iter().map(|&byte| (u32::from(byte), 8)));
        agreed(&member(&body));
    }
}
