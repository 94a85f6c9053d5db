//! gzip members of any body: what zlib finds in them, or refuses, is what our inflate finds, or refuses.
//!
//! Input: sizes of the pieces of input and output (a byte each), whether the rest is a whole stream or a body that gets a
//! header (one byte, as a trailer that fits is nothing that chance finds), then that.
#![no_main]

use carrack_inflate::{HISTORY, Inflate};
use flate2::{Decompress, FlushDecompress, Status};
use libfuzzer_sys::fuzz_target;
use std::io::{BufReader, ErrorKind, Read};

const MOST: usize = 1 << 20;

fn ours(stream: &[u8], piece: usize, room: usize) -> std::io::Result<Vec<u8>> {
    let mut inflate = Inflate::new(BufReader::with_capacity(piece, stream));
    let mut buffer = vec![0xa5; HISTORY + room];
    let mut all = Vec::new();
    while all.len() <= MOST {
        let count = inflate.fill(&mut buffer)?;
        all.extend_from_slice(&buffer[HISTORY..HISTORY + count]);
        if count < room {
            break;
        }
    }
    Ok(all)
}

/// What a body is, and how long.
fn theirs(body: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut all = Vec::with_capacity(MOST);
    let mut inflate = Decompress::new(false);
    match inflate.decompress_vec(body, &mut all, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => Some((all, inflate.total_in() as usize)),
        _ => None,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some(([piece, room, whole], body)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let piece = usize::from(*piece) * usize::from(*piece) + 1;
    let room = (usize::from(*room) * usize::from(*room)).max(1);
    if whole % 4 == 0 {
        let mut all = Vec::new();
        let mut decoder = flate2::bufread::MultiGzDecoder::new(body).take(MOST as u64);
        let theirs = decoder.read_to_end(&mut all);
        if all.len() < MOST {
            match (ours(body, piece, room), theirs) {
                (Ok(ours), Ok(_)) => assert!(ours == all),
                (Err(_), Err(_)) => {}
                (ours, theirs) => panic!("{:?} {theirs:?}", ours.map(|all| all.len())),
            }
        }
        return;
    }
    let mut stream = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    match theirs(body) {
        Some((all, length)) => {
            stream.extend_from_slice(&body[..length]);
            let mut sum = flate2::Crc::new();
            sum.update(&all);
            stream.extend(sum.sum().to_le_bytes());
            stream.extend((all.len() as u32).to_le_bytes());
            match ours(&stream, piece, room) {
                Ok(ours) => assert!(ours == all),
                Err(error) => panic!("{error} where zlib finds {} bytes", all.len()),
            }
        }
        None => {
            stream.extend_from_slice(body);
            match ours(&stream, piece, room) {
                // More than was asked of zlib.
                Ok(ours) => assert!(ours.len() > MOST),
                Err(error) => assert!(matches!(
                    error.kind(),
                    ErrorKind::InvalidData | ErrorKind::UnexpectedEof
                )),
            }
        }
    }
});
