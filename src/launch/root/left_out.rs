//! A directory of the host without some of its entries.
//!
//! The kernel can cover a name but not take it away, and programs count GPUs by listing `/dev`. So a tmpfs goes over the
//! directory and everything else is bound back. That costs a few microseconds for each entry; devices that the user may not
//! open anyway (disks, consoles: most of a node's `/dev`) are not worth them.

use super::super::inside::InsidePath;
use super::points::{Shown, bind_back, entries};
use super::{Done, Fault, Place, mode_of};
use crate::sys::mount::{self, Attributes};
use crate::sys::resolve::{Last, in_root};
use crate::sys::{Errno, fd};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// As `/dev` itself is bound.
const DEVICES: Attributes = Attributes {
    no_devices: false,
    ..Attributes::SAFE
};

pub(super) fn leave_out(root: BorrowedFd<'_>, paths: &[InsidePath]) -> Done {
    let mut directories: BTreeMap<&Path, Vec<&OsStr>> = BTreeMap::new();
    for path in paths.iter().map(InsidePath::as_path) {
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
            directories.entry(directory).or_default().push(name);
        }
    }
    // A directory comes before those below it.
    for (directory, names) in directories {
        without(root, directory, &names)?;
    }
    Ok(())
}

fn without(root: BorrowedFd<'_>, directory: &Path, names: &[&OsStr]) -> Done {
    let old = match in_root(root, directory, Last::Follow) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        answer => answer.map_err(|errno| Fault::new(errno, Place::Target))?,
    };
    if fd::kind(&old)? != FileType::Directory {
        return Ok(());
    }
    let entries = entries(&old)?;
    let unwanted = |name: &CStr| names.contains(&OsStr::from_bytes(name.to_bytes()));
    if !entries.iter().any(|name| unwanted(name)) {
        return Ok(());
    }
    // Sticky and world-writable would make `echo > /dev/null` fail (fs.protected_regular).
    let mode = mode_of(&old)?.as_raw_mode() & 0o755;
    mount::tmpfs(&old, None, mode | 0o700, Attributes::SAFE)?;
    let new = in_root(root, directory, Last::Follow)?;
    for name in entries.iter().filter(|name| !unwanted(name)) {
        if out_of_reach(&old, name) {
            continue;
        }
        match bind_back(&old, &new, name, Shown::Restricted(DEVICES)) {
            // Unplugged meanwhile.
            Err(Fault {
                errno: Errno::NOENT,
                ..
            }) => {}
            Err(fault) => {
                let path = directory.join(OsStr::from_bytes(name.as_bytes()));
                return Err(fault.at(path.display()));
            }
            Ok(()) => {}
        }
    }
    Ok(mount::close_one(root, directory)?)
}

/// A device that this user may neither read nor write.
fn out_of_reach(directory: &OwnedFd, name: &CStr) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let kind = rustix::fs::openat(directory, name, flags, Mode::empty()).and_then(fd::kind);
    if !matches!(kind, Ok(FileType::CharacterDevice | FileType::BlockDevice)) {
        return false;
    }
    let refused = |access| rustix::fs::accessat(directory, name, access, AtFlags::empty()).is_err();
    refused(Access::READ_OK) && refused(Access::WRITE_OK)
}
