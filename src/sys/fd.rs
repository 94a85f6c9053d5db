//! Descriptors: paths to them, hygiene before an exec, and what survives a fork without one.

use super::attempt::{Call, attempt};
use super::{Errno, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A path that names what the descriptor names, for calls that take only paths. Needs `/proc`.
pub fn path_of(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Opens again what an `O_PATH` descriptor names.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(path_of(&fd), flags | OFlags::CLOEXEC, Mode::empty())
}

/// The kind of object behind the descriptor.
pub fn kind(fd: impl AsFd) -> Result<FileType> {
    rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode))
}

/// A copy of a descriptor that this program got by its number; `None` where there is none.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the call takes a number, which may be that of no descriptor, and touches no memory.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: the call made this descriptor, which belongs to nobody else.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Marks every descriptor above 2 to be closed by the exec, except `keep`. A directory is never kept: it would be a way
/// back to the host's files.
pub fn seal(keep: &[RawFd]) -> Result<()> {
    let mut kept: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut from = 3;
    for fd in kept {
        let directory = stat_raw(fd).is_some_and(|kind| kind == FileType::Directory);
        if directory {
            continue;
        }
        if from < fd {
            seal_range(from, fd - 1)?;
        }
        from = fd.saturating_add(1);
    }
    seal_range(from, RawFd::MAX)
}

fn stat_raw(fd: RawFd) -> Option<FileType> {
    let stat = rustix::fs::statat(
        rustix::fs::CWD,
        format!("/proc/self/fd/{fd}"),
        AtFlags::empty(),
    );
    stat.ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

fn seal_range(first: RawFd, last: RawFd) -> Result<()> {
    let answer = attempt(Call::CloseRange, || {
        close_range(first, last, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint)
    });
    if let Some(answer) = answer {
        return answer;
    }
    for fd in open_descriptors() {
        if (first..=last).contains(&fd) {
            // SAFETY: the call changes one flag of a descriptor number of this process and touches no memory. The worst
            // case, a number that was closed meanwhile, is EBADF.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> Result<()> {
    // SAFETY: plain integers in; with the CLOEXEC flag nothing is closed now, without it the caller promises that nobody
    // uses the numbers any more (see `close_all_but`).
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// The descriptors that are open now, from `/proc`; all that there could be where an image has put something else there.
fn open_descriptors() -> Vec<RawFd> {
    listed().unwrap_or_else(|_| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let limit = limit.and_then(|limit| RawFd::try_from(limit).ok());
        (3..limit.unwrap_or(RawFd::MAX).min(1 << 20)).collect()
    })
}

fn listed() -> Result<Vec<RawFd>> {
    let directory = rustix::fs::open(
        "/proc/self/fd",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        if let Some(fd) = entry.file_name().to_str().ok().and_then(|n| n.parse().ok()) {
            found.push(fd);
        }
    }
    // A true list has the descriptor that it is read through.
    let own = directory.as_raw_fd();
    if !found.contains(&own) {
        return Err(Errno::NOENT);
    }
    found.retain(|fd| *fd != own);
    Ok(found)
}

/// In a child that will never return to its parent's code: renumbers `keep` from 3 on, in order, points 0, 1 and 2 at
/// `/dev/null`, and closes everything else that the fork copied. The returned descriptors own the new numbers.
///
/// # Safety
/// No value that owns a descriptor may be used or dropped afterwards, except the returned ones. Hence only for a forked
/// child that ends by `_exit`.
pub(super) unsafe fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>> {
    let top = 3 + RawFd::try_from(keep.len()).map_err(|_| Errno::INVAL)?;
    // Out of the way first: a source may sit on a number that is a destination.
    let mut lifted = Vec::with_capacity(keep.len());
    for fd in keep {
        lifted.push(rustix::io::fcntl_dupfd_cloexec(fd, top)?);
    }
    let null = {
        let low = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::fcntl_dupfd_cloexec(&low, top)?
    };
    for number in 0..3 {
        // SAFETY: dup3 of an open descriptor onto a standard one; nothing in this child owns 0..=2 exclusively.
        unsafe { libc::dup2(null.as_raw_fd(), number) };
    }
    let mut kept = Vec::with_capacity(keep.len());
    for (fd, number) in lifted.iter().zip(3..) {
        // SAFETY: whatever the number meant to the parent's copied values, the caller promises not to use it any more.
        if unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
            return Err(last_errno());
        }
        // SAFETY: the number was just made by dup3 and belongs to nobody else.
        kept.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    std::mem::forget(lifted);
    std::mem::forget(null);
    if attempt(Call::CloseRange, || close_range(top, RawFd::MAX, 0)).is_none() {
        for fd in open_descriptors() {
            if fd >= top {
                // SAFETY: as promised by the caller, nobody uses these numbers any more.
                unsafe { libc::close(fd) };
            }
        }
    }
    Ok(kept)
}

/// What the last failed libc call said.
pub(super) fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::INVAL, Errno::from_raw_os_error)
}
