//! How slurmstepd tells what serves a step that the last task has ended. Process: slurmstepd and its children that become
//! tasks; identity: root, the user; may fail: then the step ends as it would without, only later.
//!
//! Slurm kills what is left of a step and looks whether it is gone; if it is not quite, it looks again a second later. So
//! the process beside the capsule has to be gone before. It inherits one end of a socket from the task that started it, is
//! told here, and is waited for until it has closed that end.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;

/// slurmstepd's end, and that of the tasks.
static ENDS: Mutex<Option<(OwnedFd, OwnedFd)>> = Mutex::new(None);

/// Longer than it ever takes; Slurm itself would wait for a second.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};

/// Before the tasks are forked.
pub fn open() {
    let ends = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    );
    if let (Ok(mut place), Ok(ends)) = (ENDS.lock(), ends) {
        *place = Some(ends);
    }
}

/// In a task: the number of the end that the next program inherits.
pub fn inherited() -> Option<i32> {
    let ends = ENDS.lock().ok()?;
    let (_, theirs) = ends.as_ref()?;
    rustix::io::fcntl_setfd(theirs, FdFlags::empty()).ok()?;
    Some(theirs.as_raw_fd())
}

/// After the last task.
pub fn tell() {
    let ends = ENDS.lock().ok().and_then(|mut ends| ends.take());
    let Some((ours, theirs)) = ends else { return };
    drop(theirs);
    // Nobody listens any more: there is nothing to wait for.
    if rustix::net::send(&ours, b"E", SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok() {
        // The end of the other end is told whatever one asks for.
        let _ = rustix::event::poll(
            &mut [PollFd::new(&ours, PollFlags::empty())],
            Some(&PATIENCE),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_once_and_waited_for() {
        // Without a container nothing happens.
        tell();
        assert_eq!(inherited(), None);
        open();
        let number = inherited().unwrap();
        // What a task's program would have of it.
        let theirs = {
            let ends = ENDS.lock().unwrap();
            ends.as_ref().unwrap().1.try_clone().unwrap()
        };
        assert!(number > 2);
        let listener = std::thread::spawn(move || {
            let mut byte = [0];
            let (_, count) =
                rustix::net::recv(&theirs, &mut byte, rustix::net::RecvFlags::PEEK).unwrap();
            assert_eq!((count, &byte), (1, b"E"));
        });
        tell();
        listener.join().unwrap();
        assert_eq!(inherited(), None);
    }
}
