//! The digest of something that is too long to hold.

use crate::error::{Context, Result};
use crate::image::digest::Digest;
use sha2::Digest as _;
use std::io::{ErrorKind, Read};

/// Reads to the end; gives the digest and the number of bytes.
pub fn of_reader(mut reader: impl Read) -> Result<(Digest, u64)> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    let mut total = 0u64;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(hasher.finalize().into()), total)),
            Ok(got) => {
                hasher.update(buffer.get(..got).unwrap_or_default());
                total = total.saturating_add(got as u64);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).or_say(|| "cannot read"),
        }
    }
}
