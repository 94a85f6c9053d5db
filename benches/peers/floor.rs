//! The work that no converter can avoid, done once by libraries with nothing around it.
//!
//! The libraries are the fastest ones there are for a stream; where carrack has something faster (it inflates gzip by
//! itself), the measure stays what it was.
//!
//! Every core does all of it at the same time, because that is how a conversion runs: cores that share caches and power
//! are slower together than one alone. What counts is time on a core, not time that passes, so that a machine with other
//! work on it does not raise the floor.

use sha2::Digest;
use std::io::Read;
use std::time::Instant;

/// CPU seconds of one thread.
#[derive(Default)]
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

    pub fn or_less(self, other: Floor) -> Floor {
        match other.cpu() < self.cpu() {
            true => other,
            false => self,
        }
    }
}

/// Inflates each blob, hashes it as stored and inflated, and compresses what came out in blocks of 128 KiB.
pub fn measure(blobs: &[std::path::PathBuf], cores: usize) -> Floor {
    let mut floor = Floor::default();
    for blob in blobs {
        let stored = std::fs::read(blob).expect("a layer");
        let each: Vec<Floor> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cores)
                .map(|_| scope.spawn(|| measure_blob(&stored)))
                .collect();
            let ends = threads.into_iter().map(|thread| thread.join());
            ends.map(|end| end.expect("a thread")).collect()
        });
        let mean = |part: fn(&Floor) -> f64| each.iter().map(part).sum::<f64>() / cores as f64;
        floor.inflate += mean(|one| one.inflate);
        floor.hash += mean(|one| one.hash);
        floor.compress += mean(|one| one.compress);
        floor.stored += stored.len() as u64;
        floor.raw += each[0].raw;
    }
    floor
}

/// Seconds that this thread had a core, where the kernel tells.
fn on_core(start: Instant) -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split(' ').next().and_then(|word| word.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed().as_secs_f64(), |count: f64| count / 1e9)
}

fn measure_blob(stored: &[u8]) -> Floor {
    let mut floor = Floor::default();
    let beginning = Instant::now();
    let mut last = on_core(beginning);
    let mut lap = || {
        let now = on_core(beginning);
        now - std::mem::replace(&mut last, now)
    };
    std::hint::black_box(sha2::Sha256::digest(stored));
    floor.hash += lap();
    let mut inflate = flate2::bufread::MultiGzDecoder::new(stored);
    let mut compressor = zstd::bulk::Compressor::new(3).expect("zstd");
    let mut hasher = sha2::Sha256::new();
    let mut raw = vec![0; 1 << 20];
    let mut out = vec![0; zstd::zstd_safe::compress_bound(128 << 10)];
    loop {
        lap();
        let mut filled = 0;
        while filled < raw.len() {
            match inflate.read(&mut raw[filled..]).expect("gzip") {
                0 => break,
                count => filled += count,
            }
        }
        floor.inflate += lap();
        if filled == 0 {
            break;
        }
        floor.raw += filled as u64;
        hasher.update(&raw[..filled]);
        floor.hash += lap();
        for block in raw[..filled].chunks(128 << 10) {
            std::hint::black_box(
                compressor
                    .compress_to_buffer(block, &mut out)
                    .expect("zstd"),
            );
        }
        floor.compress += lap();
    }
    std::hint::black_box(hasher.finalize());
    floor
}
