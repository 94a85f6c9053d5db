//! Starting the way of written bytes to the disk, so that a later sync finds little left to do.

use std::os::fd::{AsFd, AsRawFd};

/// Asks for `length` bytes from `offset` on to be written to the disk, and does not wait for it. Nothing is promised: a
/// file system that cannot do it leaves everything to the sync that follows.
pub fn start_write_back(file: impl AsFd, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: takes three numbers and a descriptor that is open until the call returns; touches no memory of ours.
    let _ = unsafe {
        libc::sync_file_range(
            file.as_fd().as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
}
