//! Mounts: made, placed on descriptors, restricted, and the root exchanged. Old kernels: `mount(2)` on `/proc/self/fd`.

use super::attempt::{Call, attempt};
use super::fd::{last_errno, path_of};
use super::resolve::{Last, in_root};
use super::{Errno, Result, remount};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Restrictions of one mount. The kernel never lets a user take one away that the host set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub read_only: bool,
    pub no_suid: bool,
    pub no_devices: bool,
    pub no_exec: bool,
}

impl Attributes {
    /// For everything that comes from the outside and is not `/dev`.
    pub const SAFE: Attributes = Attributes {
        read_only: false,
        no_suid: true,
        no_devices: true,
        no_exec: false,
    };

    fn bits(self) -> u64 {
        let mut bits = 0;
        for (wanted, bit) in [
            (self.read_only, libc::MOUNT_ATTR_RDONLY),
            (self.no_suid, libc::MOUNT_ATTR_NOSUID),
            (self.no_devices, libc::MOUNT_ATTR_NODEV),
            (self.no_exec, libc::MOUNT_ATTR_NOEXEC),
        ] {
            if wanted {
                bits |= bit;
            }
        }
        bits
    }

    pub(super) fn flags(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NOSUID, self.no_suid);
        flags.set(MountFlags::NODEV, self.no_devices);
        flags.set(MountFlags::NOEXEC, self.no_exec);
        flags
    }
}

/// A place inside a root that a mount can be put on. Holding one proves that it was there and inside when looked up; the
/// mount goes to what was found, whatever the name leads to later.
pub struct Target<'a> {
    root: BorrowedFd<'a>,
    path: &'a Path,
    fd: OwnedFd,
}

impl<'a> Target<'a> {
    pub fn find(root: BorrowedFd<'a>, path: &'a Path) -> Result<Target<'a>> {
        let fd = in_root(root, path, Last::Follow)?;
        Ok(Target { root, path, fd })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The same place again: now the root of what was mounted there.
    pub(super) fn again(&self) -> Result<OwnedFd> {
        in_root(self.root, self.path, Last::Follow)
    }
}

/// Mounts of the host keep arriving (automounts), ours never go back.
pub fn receive_only() -> Result<()> {
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
}

/// An empty file system in memory. `size` in bytes; without one the kernel takes half of the memory.
pub fn tmpfs(at: impl AsFd, size: Option<u64>, mode: u32, attributes: Attributes) -> Result<()> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    new("tmpfs", "tmpfs", &path_of(&at), attributes, &options)
}

/// Mounts a FUSE file system whose server will read from `device`, owned by these ids as seen inside.
pub fn fuse(device: impl AsFd, at: &str, uid: u32, gid: u32, source: &str) -> Result<()> {
    // `allow_other` means: everybody in this user namespace. Without it a task with another group would be shut out.
    let options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},allow_other,default_permissions",
        device.as_fd().as_raw_fd()
    );
    let read_only = Attributes {
        read_only: true,
        ..Attributes::SAFE
    };
    match new("fuse.carrack", source, at, read_only, &options) {
        // A source with odd bytes or a kernel that dislikes the subtype: the name is only decoration.
        Err(Errno::INVAL | Errno::NODEV) => new("fuse", "carrack", at, read_only, &options),
        other => other,
    }
}

/// Lays directories over each other, topmost first. `upper` is a pair of directories on one tmpfs: changes, and work space.
/// Directories are named by paths without `:`, `,` or `\`.
/// `source` is what `df` shows.
pub fn overlay(at: &str, source: &str, lower: &[&str], upper: Option<(&str, &str)>) -> Result<()> {
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some((changes, work)) = upper {
        options.push_str(&format!(",upperdir={changes},workdir={work}"));
    }
    // Numbers of inodes as in the lower directory: with bits added to them, `stat` fails in 32-bit programs. The price is
    // that files are on another device than their directories, which of the usual tools only `du -x` minds.
    options.push_str(",xino=off");
    // Without `userxattr` the mount works and removing a directory of the image later fails with EIO.
    options.push_str(",userxattr");
    let attributes = Attributes {
        read_only: upper.is_none(),
        ..Attributes::SAFE
    };
    new("overlay", source, at, attributes, &options)
}

fn new(kind: &str, source: &str, at: &str, attributes: Attributes, options: &str) -> Result<()> {
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(source, at, kind, attributes.flags(), options.as_c_str())
}

/// Shows `source` (an `O_PATH` descriptor of this mount namespace) and all mounts below it at `target`.
pub fn bind(source: impl AsFd, target: &Target<'_>, attributes: Attributes) -> Result<()> {
    bind_and(source.as_fd(), target, Some(attributes))
}

/// The same with the restrictions that each of the mounts has where it is.
pub fn bind_as_it_is(source: impl AsFd, target: &Target<'_>) -> Result<()> {
    bind_and(source.as_fd(), target, None)
}

fn bind_and(
    source: BorrowedFd<'_>,
    target: &Target<'_>,
    attributes: Option<Attributes>,
) -> Result<()> {
    let tree = attempt(Call::OpenTree, || {
        rustix::mount::open_tree(
            source,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE
                | OpenTreeFlags::AT_EMPTY_PATH,
        )
    });
    let Some(tree) = tree else {
        return bind_by_path(source, target, attributes);
    };
    let tree = tree?;
    let whole = libc::AT_RECURSIVE;
    let left = match attributes {
        None => None,
        Some(wanted) => match attempt(Call::MountSetattr, || restrict(&tree, wanted, whole)) {
            Some(answer) => answer.map(|()| None)?,
            None => Some(wanted),
        },
    };
    let placed = attempt(Call::MoveMount, || {
        rustix::mount::move_mount(
            &tree,
            "",
            target.fd(),
            "",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        )
    });
    match placed {
        Some(answer) => answer?,
        None => return bind_by_path(source, target, attributes),
    }
    left.map_or(Ok(()), |wanted| remount::restrict(target, wanted))
}

fn bind_by_path(
    source: BorrowedFd<'_>,
    target: &Target<'_>,
    attributes: Option<Attributes>,
) -> Result<()> {
    rustix::mount::mount_bind_recursive(path_of(&source), path_of(&target.fd()))?;
    attributes.map_or(Ok(()), |wanted| remount::restrict(target, wanted))
}

/// Makes the one mount at `path` read-only; mounts on it stay as they are.
pub fn close_one(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let mounted = in_root(root, path, Last::Follow)?;
    let attributes = Attributes {
        read_only: true,
        ..Attributes::default()
    };
    match attempt(Call::MountSetattr, || restrict(&mounted, attributes, 0)) {
        Some(answer) => answer,
        None => remount::one(&mounted, attributes),
    }
}

fn restrict(tree: impl AsFd, attributes: Attributes, depth: libc::c_int) -> Result<()> {
    let wanted = libc::mount_attr {
        attr_set: attributes.bits(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a NUL-terminated empty string and the struct lives here with the size that is passed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | depth,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// Whether something is mounted on the mount that this lies on; `None` on kernels that do not tell (before 6.8).
pub fn has_children(at: impl AsFd) -> Option<bool> {
    /// `struct mnt_id_req` in its first version.
    #[repr(C)]
    struct Request {
        size: u32,
        spare: u32,
        mount: u64,
        after: u64,
    }
    const SYS_LISTMOUNT: libc::c_long = 458;
    const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let stat = rustix::fs::statx(at, "", AtFlags::EMPTY_PATH, UNIQUE).ok()?;
    (stat.stx_mask & UNIQUE.bits() != 0).then_some(())?;
    let request = Request {
        size: size_of::<Request>() as u32,
        spare: 0,
        mount: stat.stx_mnt_id,
        after: 0,
    };
    let listed = attempt(Call::Listmount, || {
        let mut first = 0_u64;
        // SAFETY: the request has the size that it says, and there is room for as many numbers as are asked for.
        let count =
            unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, &raw mut first, 1, 0) };
        if count < 0 {
            Err(last_errno())
        } else {
            Ok(count)
        }
    });
    Some(listed?.ok()? > 0)
}

/// How the root directory was exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// The old root is at `old` below the new one.
    Pivoted,
    /// The old root lies unreachable under the new one: the host runs from its initial ram disk, which cannot be moved.
    Covered,
}

/// Makes the mount at `new` the root directory, the old one visible at `new`/`old`, and goes there.
pub fn exchange_root(new: impl AsFd, old: &str) -> Result<Exchange> {
    rustix::process::fchdir(new)?;
    match rustix::process::pivot_root(".", old) {
        Ok(()) => {
            rustix::process::chdir("/")?;
            Ok(Exchange::Pivoted)
        }
        Err(Errno::INVAL) => cover_root().map(|()| Exchange::Covered),
        Err(errno) => Err(errno),
    }
}

/// Makes the mount at `new` the root directory and lets go of everything else.
pub fn enter_root(new: impl AsFd) -> Result<()> {
    rustix::process::fchdir(new)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => {
            // Both roots are at `.` now, the old one on top.
            rustix::mount::unmount(".", UnmountFlags::DETACH)?;
            rustix::process::chdir("/")
        }
        Err(Errno::INVAL) => cover_root(),
        Err(errno) => Err(errno),
    }
}

/// From the mount that is the current directory: moved over `/`, as `switch_root` does.
fn cover_root() -> Result<()> {
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

/// An `O_PATH` descriptor in the current mount namespace; a link at the end is followed.
pub fn place(path: impl AsRef<Path>) -> Result<OwnedFd> {
    rustix::fs::openat(
        CWD,
        path.as_ref(),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// A copy of the mount at `path` without what is mounted below, which lives as long as the descriptor.
pub fn alone(path: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, path, flags)
}

/// Lets an automount happen: walks into the path without opening what is there.
pub fn wake_automount(path: &Path) -> Result<()> {
    match place(path.join(".")) {
        Err(Errno::NOTDIR) => Ok(()),
        answer => answer.map(drop),
    }
}
