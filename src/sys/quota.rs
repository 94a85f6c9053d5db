//! What a quota leaves, asked of the kernel.
//!
//! Only the call that names the file system by an open file, of Linux 5.14, is used: the older one wants the block device.
//! File systems whose quota lives on servers (Lustre, GPFS, NFS) do not answer it.

use crate::sys::Result;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    User(u32),
    Group(u32),
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub limit: u64,
    pub used: u64,
}

impl Quota {
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The limit on bytes that holds for the file system of `file`; `None` when there is none.
pub fn bytes(file: impl AsFd, whose: Whose) -> Result<Option<Quota>> {
    let (kind, id) = match whose {
        Whose::User(id) => (0, id),
        Whose::Group(id) => (1, id),
    };
    let mut answer = libc::dqblk {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: 0,
    };
    // SAFETY: the kernel writes one `dqblk`, whose layout libc takes from it, to the pointer, which lives until the call
    // returns; the other arguments are numbers.
    let code = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_fd().as_raw_fd(),
            libc::QCMD(libc::Q_GETQUOTA, kind),
            id,
            &raw mut answer,
        )
    };
    if code != 0 {
        return Err(Errno::from_raw_os_error(
            std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        ));
    }
    let known = libc::QIF_BLIMITS | libc::QIF_SPACE;
    let limit = match (answer.dqb_bhardlimit, answer.dqb_bsoftlimit) {
        (0, soft) => soft,
        (hard, _) => hard,
    };
    if answer.dqb_valid & known != known || limit == 0 {
        return Ok(None);
    }
    Ok(Some(Quota {
        // Limits count in blocks of 1024 bytes, whatever the file system's are.
        limit: limit.saturating_mul(1024),
        used: answer.dqb_curspace,
    }))
}
