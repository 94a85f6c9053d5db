//! The work that no converter can avoid, done once by the same libraries with nothing around it.

use sha2::Digest;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

/// CPU seconds of one thread.
pub struct Floor {
    pub inflate: f64,
    pub hash: f64,
    pub compress: f64,
    /// Bytes of the layers as stored, and inflated.
    pub stored: u64,
    pub raw: u64,
}

impl Floor {
    pub fn cpu(&self) -> f64 {
        self.inflate + self.hash + self.compress
    }
}

/// Inflates each blob, hashes it as stored and inflated, and compresses what came out in blocks of 128 KiB.
pub fn measure(blobs: &[std::path::PathBuf]) -> Floor {
    let mut floor = Floor {
        inflate: 0.0,
        hash: 0.0,
        compress: 0.0,
        stored: 0,
        raw: 0,
    };
    for blob in blobs {
        measure_blob(blob, &mut floor);
    }
    floor
}

fn measure_blob(blob: &Path, floor: &mut Floor) {
    let stored = std::fs::read(blob).expect("a layer");
    floor.stored += stored.len() as u64;
    let start = Instant::now();
    std::hint::black_box(sha2::Sha256::digest(&stored));
    floor.hash += start.elapsed().as_secs_f64();
    let mut inflate = flate2::bufread::MultiGzDecoder::new(&stored[..]);
    let mut compressor = zstd::bulk::Compressor::new(3).expect("zstd");
    let mut hasher = sha2::Sha256::new();
    let mut raw = vec![0; 1 << 20];
    let mut out = vec![0; zstd::zstd_safe::compress_bound(128 << 10)];
    loop {
        let start = Instant::now();
        let mut filled = 0;
        while filled < raw.len() {
            match inflate.read(&mut raw[filled..]).expect("gzip") {
                0 => break,
                count => filled += count,
            }
        }
        floor.inflate += start.elapsed().as_secs_f64();
        if filled == 0 {
            break;
        }
        floor.raw += filled as u64;
        let start = Instant::now();
        hasher.update(&raw[..filled]);
        floor.hash += start.elapsed().as_secs_f64();
        let start = Instant::now();
        for block in raw[..filled].chunks(128 << 10) {
            std::hint::black_box(
                compressor
                    .compress_to_buffer(block, &mut out)
                    .expect("zstd"),
            );
        }
        floor.compress += start.elapsed().as_secs_f64();
    }
    std::hint::black_box(hasher.finalize());
}
