//! Content → the image's file, past the page cache.
//!
//! An image is written once and read by others, mostly on other nodes and a small part of it. Pages for all of it are
//! what costs most in writing it, and more so on a virtual machine that has given its free memory back to its host. What
//! was copied this way is on the disk already when the image is synced.

use crate::error::{Context, Error, Result};
use crate::image::assemble::CANNOT_WRITE;
use crate::sys::thread;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// What every disk can take: memory, place and length of a write are multiples of it.
const UNIT: usize = 4096;
/// One write. From one mebibyte on, larger ones are not faster.
const CHUNK: usize = 2 << 20;
/// One is filled while another one is written.
const CHUNKS: usize = 2;

/// File systems of this machine's own disks. Elsewhere the kernel may copy between two files without moving a byte over
/// the network, and a write that waits for a server costs more than pages do.
const LOCAL: [i128; 2] = [0xef53, 0x5846_5342];

/// A second way into `output`, where there is one.
fn open(output: &File) -> Option<File> {
    let kind = rustix::fs::fstatfs(output).ok()?.f_type;
    if !LOCAL.contains(&i128::from(kind)) {
        return None;
    }
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", output.as_raw_fd()))
        .ok()
}

/// A piece of the output, in memory that a disk can read.
struct Chunk {
    bytes: Vec<u8>,
    /// The first byte of `bytes` that is aligned.
    first: usize,
    /// Where in the output that byte belongs; a multiple of the unit.
    at: u64,
    /// What counts, from `first` on.
    from: usize,
    to: usize,
}

impl Chunk {
    fn new() -> Chunk {
        let bytes = vec![0; CHUNK + UNIT];
        Chunk {
            first: bytes.as_ptr().align_offset(UNIT).min(UNIT),
            bytes,
            at: 0,
            from: 0,
            to: 0,
        }
    }

    fn part(&self, from: usize, to: usize) -> &[u8] {
        self.bytes
            .get(self.first + from..self.first + to)
            .unwrap_or_default()
    }

    /// The output goes on at `position`.
    fn begin(&mut self, position: u64) {
        self.from = (position % UNIT as u64) as usize;
        self.to = self.from;
        self.at = position - self.from as u64;
    }

    fn position(&self) -> u64 {
        self.at + self.to as u64
    }

    fn space(&mut self) -> &mut [u8] {
        self.bytes
            .get_mut(self.first + self.to..self.first + CHUNK)
            .unwrap_or_default()
    }
}

/// Takes stretches in ascending order and writes them on a thread of its own.
pub struct Direct<'scope> {
    chunk: Option<Chunk>,
    to: SyncSender<Chunk>,
    free: Receiver<Chunk>,
    writer: ScopedJoinHandle<'scope, Result<()>>,
}

impl<'scope> Direct<'scope> {
    /// `None` where it is not possible, or would gain nothing.
    pub fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        output: &'env File,
    ) -> Option<Direct<'scope>> {
        Direct::start_with(scope, output, open(output)?)
    }

    fn start_with<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        output: &'env File,
        direct: File,
    ) -> Option<Direct<'scope>> {
        let (to, from) = sync_channel(CHUNKS);
        let (give_back, free) = channel();
        for _ in 1..CHUNKS {
            let _ = give_back.send(Chunk::new());
        }
        let work = move || write(output, direct, &from, &give_back);
        Some(Direct {
            chunk: None,
            to,
            free,
            writer: thread::start(scope, "direct", work).ok()?,
        })
    }

    pub fn copy(&mut self, from: &File, mut at: u64, to_at: u64, mut left: u64) -> Result<()> {
        let mut chunk = self.chunk.take().unwrap_or_else(|| {
            let mut chunk = Chunk::new();
            chunk.begin(to_at);
            chunk
        });
        // Between two stretches a few bytes stay empty.
        let mut empty = to_at.saturating_sub(chunk.position());
        while empty + left > 0 {
            let space = chunk.space();
            let take = (space.len() as u64).min(if empty > 0 { empty } else { left }) as usize;
            let space = space.get_mut(..take).unwrap_or_default();
            if empty > 0 {
                space.fill(0);
                empty -= take as u64;
            } else {
                from.read_exact_at(space, at)
                    .map_err(|error| Error::new("cannot read a pack").source(error))?;
                at += take as u64;
                left -= take as u64;
            }
            chunk.to += take;
            if chunk.to == CHUNK {
                let end = chunk.position();
                // Fails when the writer has: `finish` says why.
                let (Ok(()), Ok(next)) = (self.to.send(chunk), self.free.recv()) else {
                    return Ok(());
                };
                chunk = next;
                chunk.begin(end);
            }
        }
        self.chunk = Some(chunk);
        Ok(())
    }

    /// Waits until everything is written.
    pub fn finish(self) -> Result<()> {
        if let Some(chunk) = self.chunk {
            let _ = self.to.send(chunk);
        }
        drop(self.to);
        let panicked = |_| Err(Error::new("a thread of the conversion panicked"));
        self.writer.join().unwrap_or_else(panicked)
    }
}

fn write(
    output: &File,
    direct: File,
    from: &Receiver<Chunk>,
    give_back: &Sender<Chunk>,
) -> Result<()> {
    let mut direct = Some(direct);
    for chunk in from {
        // Units that this stretch shares with what comes before or after it go the plain way.
        let first = chunk.from.next_multiple_of(UNIT).min(chunk.to);
        let last = (chunk.to / UNIT * UNIT).max(first);
        let plain = |from: usize, to: usize| {
            output
                .write_all_at(chunk.part(from, to), chunk.at + from as u64)
                .or_say(|| CANNOT_WRITE)
        };
        plain(chunk.from, first)?;
        let middle = (chunk.part(first, last), chunk.at + first as u64);
        let done = direct
            .as_ref()
            .is_some_and(|file| file.write_all_at(middle.0, middle.1).is_ok());
        if !done {
            // What cannot be done here, or why it failed, the plain way will tell.
            direct = None;
            plain(first, last)?;
        }
        plain(last, chunk.to)?;
        let _ = give_back.send(chunk);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stretches of a source: from, to, length.
    const STRETCHES: [(u64, u64, u64); 5] = [
        (17, 96, 5_000_000),
        (5_000_100, 5_000_096, 3),
        // Room that is left for alignment.
        (5_000_200, 5_003_000, CHUNK as u64),
        (7_200_000, 7_100_152, 40_000),
        (100, 7_140_152, 9),
    ];

    fn source() -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..8_000_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (file, bytes)
    }

    fn copied(output: &File, direct: impl FnOnce() -> File) {
        let (file, bytes) = source();
        output.write_all_at(&[1; 96], 0).unwrap();
        std::thread::scope(|scope| {
            let mut direct = Direct::start_with(scope, output, direct()).unwrap();
            for (from, to, length) in STRETCHES {
                direct.copy(&file, from, to, length).unwrap();
            }
            direct.finish().unwrap();
        });
        let mut expected = vec![1; 96];
        for (from, to, length) in STRETCHES {
            expected.resize(to as usize, 0);
            expected.extend_from_slice(&bytes[from as usize..(from + length) as usize]);
        }
        let mut found = vec![0; expected.len()];
        output.read_exact_at(&mut found, 0).unwrap();
        assert!(found == expected);
        assert_eq!(output.metadata().unwrap().len(), expected.len() as u64);
    }

    #[test]
    fn what_is_written_past_the_page_cache_is_there() {
        let output = tempfile::tempfile().unwrap();
        // Not every file system has this, memory for one; the other test does without.
        if let Some(direct) = open(&output) {
            copied(&output, || direct);
        }
    }

    #[test]
    fn what_cannot_be_written_past_the_page_cache_goes_the_plain_way() {
        let output = tempfile::tempfile().unwrap();
        // Nothing can be written through this one.
        copied(&output, || File::open("/dev/null").unwrap());
    }

    #[test]
    fn why_nothing_can_be_written_is_told() {
        let (file, _) = source();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        std::thread::scope(|scope| {
            let mut direct = Direct::start_with(scope, &full, full.try_clone().unwrap()).unwrap();
            direct.copy(&file, 0, 0, 7_900_000).unwrap();
            let told = direct.finish().unwrap_err();
            assert_eq!(told.what(), CANNOT_WRITE);
            assert!(format!("{told:?}").contains("28"), "{told:?}");
        });
    }
}
