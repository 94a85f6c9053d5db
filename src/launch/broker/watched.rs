//! Processes whose end the broker waits for: by a descriptor, or by looking.

use crate::sys::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;

/// A process whose end matters.
pub(super) struct Watched {
    pub pid: u32,
    /// Readable when it has ended; none where the kernel has no such descriptors.
    pub end: Option<OwnedFd>,
    pub ended: bool,
}

impl Watched {
    pub fn new(pid: u32) -> Watched {
        match process::watch(pid) {
            // Until its parent asks for it, one that has ended looks as if it was still inside.
            Ok(end) => Watched {
                pid,
                ended: end.as_ref().is_some_and(has_ended),
                end,
            },
            Err(_) => Watched {
                pid,
                end: None,
                ended: true,
            },
        }
    }

    /// Without a descriptor: looks.
    pub fn look(&mut self) {
        if self.end.is_none() && !process::exists(self.pid) {
            self.ended = true;
        }
    }
}

fn has_ended(end: &OwnedFd) -> bool {
    let mut end = [PollFd::new(end, PollFlags::IN)];
    poll(&mut end, Some(&Timespec::default())) == Ok(1)
}
