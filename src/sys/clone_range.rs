//! Sharing a range of one file with another, where the file system can.

use crate::sys::Result;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// Makes `length` bytes of `to` the same blocks on disk as those of `from`. Both offsets and, except at the end of
/// `from`, the length must be multiples of the file system's block size.
pub fn clone_range(
    from: impl AsFd,
    from_offset: u64,
    length: u64,
    to: impl AsFd,
    to_offset: u64,
) -> Result<()> {
    let range = libc::file_clone_range {
        src_fd: from.as_fd().as_raw_fd().into(),
        src_offset: from_offset,
        src_length: length,
        dest_offset: to_offset,
    };
    // SAFETY: the kernel reads one `file_clone_range` from the pointer, which lives until the call returns.
    let answer = unsafe { libc::ioctl(to.as_fd().as_raw_fd(), libc::FICLONERANGE, &range) };
    if answer == 0 {
        Ok(())
    } else {
        Err(Errno::from_raw_os_error(
            std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        ))
    }
}
