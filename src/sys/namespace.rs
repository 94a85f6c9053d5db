//! User, mount and network namespaces: made, mapped, named by descriptors, entered.

use super::fd::last_errno;
use super::{Errno, Result};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    User,
    Mount,
    Network,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Kind::User => "user",
            Kind::Mount => "mnt",
            Kind::Network => "net",
        }
    }
}

/// Moves this process into new namespaces of these kinds. The process must have one thread.
pub fn unshare(kinds: &[Kind]) -> Result<()> {
    let mut flags = UnshareFlags::empty();
    for kind in kinds {
        flags |= match kind {
            Kind::User => UnshareFlags::NEWUSER,
            Kind::Mount => UnshareFlags::NEWNS,
            Kind::Network => UnshareFlags::NEWNET,
        };
    }
    // SAFETY: only CLONE_FILES could make descriptors of other threads invalid, and it is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Which of the three files of the id maps refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRefused {
    pub file: &'static str,
    pub errno: Errno,
}

/// Maps one user and one group id of the outside to the inside and gives up `setgroups`, which a user without privileges
/// must do. Supplementary groups keep giving access; only their names are lost.
pub fn map_ids(uid: (u32, u32), gid: (u32, u32)) -> std::result::Result<(), MapRefused> {
    // A program file that its user may execute but not read makes the process non-dumpable, and its /proc files root's.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
    let write = |file: &'static str, text: String| {
        let refused = |errno| MapRefused { file, errno };
        let fd = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(refused)?;
        match rustix::io::write(&fd, text.as_bytes()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(refused(errno)),
        }
    };
    match write("/proc/self/setgroups", "deny".into()) {
        // Kernels before 3.19 have no such file and need no such word.
        Err(refused) if refused.errno == Errno::NOENT => {}
        other => other?,
    }
    let (outside, inside) = uid;
    write("/proc/self/uid_map", format!("{inside} {outside} 1\n"))?;
    let (outside, inside) = gid;
    write("/proc/self/gid_map", format!("{inside} {outside} 1\n"))
}

/// A descriptor of a namespace of this process (`pid` = `None`) or another one. Holding it keeps the namespace alive.
pub fn open(pid: Option<u32>, kind: Kind) -> Result<OwnedFd> {
    let path = match pid {
        None => format!("/proc/self/ns/{}", kind.file()),
        Some(pid) => format!("/proc/{pid}/ns/{}", kind.file()),
    };
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Two descriptors of one namespace have equal identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(u64, u64);

pub fn identity(fd: impl AsFd) -> Result<Identity> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(Identity(stat.st_dev, stat.st_ino))
}

/// The namespace of a process by its identity, without opening it.
pub fn identity_of(pid: u32, kind: Kind) -> Result<Identity> {
    let stat = rustix::fs::stat(format!("/proc/{pid}/ns/{}", kind.file()))?;
    Ok(Identity(stat.st_dev, stat.st_ino))
}

/// Enters a namespace. The process must have one thread; a user namespace comes first and gives the right to the others.
pub fn enter(fd: impl AsFd, kind: Kind) -> Result<()> {
    let kind = match kind {
        Kind::User => LinkNameSpaceType::User,
        Kind::Mount => LinkNameSpaceType::Mount,
        Kind::Network => LinkNameSpaceType::Network,
    };
    rustix::thread::move_into_link_name_space(fd.as_fd(), Some(kind))
}

/// Brings up `lo`, which a new network namespace has but keeps down.
pub fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .or_else(|_| {
        rustix::net::socket_with(
            AddressFamily::INET6,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
    })?;
    // SAFETY: an all-zero ifreq is valid: a C struct of bytes and a union of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives here until the call returns.
    let answer = unsafe {
        // The C libraries disagree about the number's type.
        let number = libc::SIOCSIFFLAGS as libc::Ioctl;
        libc::ioctl(socket.as_raw_fd(), number, &request)
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}
