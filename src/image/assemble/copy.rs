//! The ranges of a plan → the file, the cheapest way that works.

use crate::error::{Context, Error, Result};
use crate::image::assemble::CANNOT_WRITE;
use crate::image::assemble::Plan;
use crate::image::assemble::Range;
use crate::image::assemble::direct::Direct;
use crate::sys::clone_range::clone_range;
use crate::sys::thread;
use crate::sys::write_back::start_write_back;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Sender, channel};

const PAGE: u64 = 4096;
/// The disk works on what was copied while more is copied, so that the sync at the end is short.
const WRITE_BACK: u64 = 16 << 20;
/// Less may as well stay in memory, where it will be read from soon.
const DIRECT_FROM: u64 = 16 << 20;

/// Copies a plan's ranges from the one with number `done` on.
pub fn copy(plan: &Plan, done: usize, output: &File) -> Result<()> {
    std::thread::scope(|scope| {
        let (to_disk, copied) = channel();
        // Without this thread the sync at the end takes longer.
        let _ = thread::start(scope, "write-back", move || {
            for (start, length) in copied {
                start_write_back(output, start, length);
            }
        });
        let ranges = plan.ranges().get(done..).unwrap_or_default();
        let mut copier = Copier {
            clone: true,
            in_kernel: true,
            written_back: ranges.first().map_or(0, |first| first.to),
            to_disk,
        };
        let mut direct = None;
        for range in ranges {
            let Some(file) = plan.file(range) else {
                continue;
            };
            let Range {
                from, length, to, ..
            } = *range;
            if copier.clone {
                if copier.share(file, from, output, to, length)? {
                    continue;
                }
                if !copier.clone && plan.end - to >= DIRECT_FROM {
                    direct = Direct::start(scope, output);
                }
            }
            match &mut direct {
                Some(direct) => direct.copy(file, from, to, length)?,
                None => copier.move_bytes(file, from, output, to, length)?,
            }
        }
        direct.map_or(Ok(()), Direct::finish)
    })
}

/// Copies ranges the cheapest way that works between these two file systems.
struct Copier {
    clone: bool,
    in_kernel: bool,
    /// How far the disk was asked to take what was copied.
    written_back: u64,
    /// Asking costs time too, a quarter of what copying does.
    to_disk: Sender<(u64, u64)>,
}

impl Copier {
    /// Whether the two files share the range now, but for what is less than a page at its ends.
    fn share(&mut self, from: &File, at: u64, to: &File, to_at: u64, length: u64) -> Result<bool> {
        let head = (PAGE - at % PAGE) % PAGE;
        let middle = length.saturating_sub(head) / PAGE * PAGE;
        if at % PAGE != to_at % PAGE || middle == 0 {
            return Ok(false);
        }
        if clone_range(from, at + head, middle, to, to_at + head).is_err() {
            self.clone = false;
            return Ok(false);
        }
        let done = head + middle;
        self.move_bytes(from, at, to, to_at, head)?;
        self.move_bytes(from, at + done, to, to_at + done, length - done)?;
        Ok(true)
    }

    fn move_bytes(
        &mut self,
        from: &File,
        mut at: u64,
        to: &File,
        mut to_at: u64,
        mut left: u64,
    ) -> Result<()> {
        while self.in_kernel && left > 0 {
            let step = left.min(WRITE_BACK) as usize;
            match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), step) {
                // The offsets were moved by the call.
                Ok(count) if count > 0 => {
                    left -= count as u64;
                    self.write_back(to_at);
                }
                Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) | Ok(_) | Err(_) => {
                    // What the kernel cannot do here, or why it failed, the plain way will tell.
                    self.in_kernel = false;
                }
            }
        }
        let mut buffer = vec![0; left.min(1 << 20) as usize];
        while left > 0 {
            let take = left.min(buffer.len() as u64) as usize;
            let part = buffer.get_mut(..take).unwrap_or_default();
            from.read_exact_at(part, at)
                .map_err(|error| Error::new("cannot read a pack").source(error))?;
            to.write_all_at(part, to_at).or_say(|| CANNOT_WRITE)?;
            at += take as u64;
            to_at += take as u64;
            left -= take as u64;
            self.write_back(to_at);
        }
        Ok(())
    }

    /// Ranges are copied in ascending order, so everything below `end` is there.
    fn write_back(&mut self, end: u64) {
        let waiting = end.saturating_sub(self.written_back);
        if waiting >= WRITE_BACK {
            let _ = self.to_disk.send((self.written_back, waiting));
            self.written_back = end;
        }
    }
}
