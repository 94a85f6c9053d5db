//! How slurmstepd tells what serves a step that the last task has ended. Process: slurmstepd and its children that become
//! tasks; identity: root, the user; may fail: then the step ends as it would without, only later.
//!
//! Slurm kills what is left of a step and looks whether it is gone; if it is not quite, it looks again a second later. So
//! the process beside the capsule has to be gone before. It inherits one end of a socket from the task that started it, says
//! a word by which it is known, is told here, and is waited for. A process closes what it has before it is gone, and may
//! have to unmount in between: hence its number.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use rustix::process::PidfdFlags;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// slurmstepd's end, and that of the tasks.
static ENDS: Mutex<Option<(OwnedFd, OwnedFd)>> = Mutex::new(None);

/// Longer than it ever takes; Slurm itself would wait for a second.
const PATIENCE: Duration = Duration::from_millis(500);

/// There is one for each image that a step's tasks are in.
const MAX_SENDERS: usize = 16;

/// Before the tasks are forked.
pub fn open() {
    let ends = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    );
    if let (Ok(mut place), Ok(ends)) = (ENDS.lock(), ends) {
        // What comes through it has the sender's number on it, written by the kernel.
        let _ = rustix::net::sockopt::set_socket_passcred(&ends.0, true);
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
    let known = senders(&ours);
    let told = rustix::net::send(&ours, b"E", SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok();
    // Nobody listens any more, and whoever did is gone: there is nothing to wait for.
    let mut ends: Vec<PollFd<'_>> = known
        .iter()
        .map(|process| PollFd::new(process, PollFlags::IN))
        .collect();
    if told {
        // The end of the other end is told whatever one asks for.
        ends.push(PollFd::new(&ours, PollFlags::empty()));
    }
    wait_for(ends);
}

/// Those who have said a word and are not quite gone.
fn senders(socket: &OwnedFd) -> Vec<OwnedFd> {
    std::iter::from_fn(|| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let words = &mut [std::io::IoSliceMut::new(&mut byte)];
        let got = rustix::net::recvmsg(socket, words, &mut control, RecvFlags::DONTWAIT).ok()?;
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        (got.bytes > 0).then_some(sender)
    })
    .take(MAX_SENDERS)
    .filter_map(|sender| rustix::process::pidfd_open(sender?, PidfdFlags::empty()).ok())
    .collect()
}

/// Until each of them has ended, or patience has.
fn wait_for(mut ends: Vec<PollFd<'_>>) {
    let until = Instant::now() + PATIENCE;
    while !ends.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else {
            return;
        };
        match rustix::event::poll(&mut ends, Some(&left)) {
            Ok(0) => return,
            Ok(_) => ends.retain(|end| end.revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
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
        // Whoever has said a word is waited for, also when it has closed its end before.
        open();
        let theirs = {
            let ends = ENDS.lock().unwrap();
            ends.as_ref().unwrap().1.try_clone().unwrap()
        };
        let mut process = std::process::Command::new("sh")
            .args(["-c", "printf x >&0; head -c1; exec <&-; sleep 0.2"])
            .stdin(std::process::Stdio::from(theirs))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while senders_wait() == 0 {
            std::thread::yield_now();
        }
        tell();
        assert!(process.try_wait().unwrap().is_some());
    }

    /// Bytes of the first word that nobody has received yet.
    fn senders_wait() -> usize {
        let ends = ENDS.lock().unwrap();
        let (ours, _) = ends.as_ref().unwrap();
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        rustix::net::recv(ours, &mut [0; 1], flags).map_or(0, |(_, count)| count)
    }
}
