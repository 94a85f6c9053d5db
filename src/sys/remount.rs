//! Restricting a bind on kernels without `mount_setattr` (before 5.12): one remount for each mount of the tree, repeating
//! the restrictions that the host set, because leaving one out is refused.

use super::fd::path_of;
use super::mount::{Attributes, Target, place};
use super::{Errno, Result};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountFlags;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

pub(super) fn restrict(target: &Target<'_>, attributes: Attributes) -> Result<()> {
    let top = target.again()?;
    one(&top, attributes)?;
    let table = table()?;
    for path in below(&table, mount_id(&top)?) {
        // Covered mounts cannot be reached, neither by us nor by the command.
        let answer = place(&path).and_then(|fd| one(&fd, attributes));
        match answer {
            Ok(()) => {}
            // `nosuid` and `nodev` are second belts below a user namespace with no_new_privs; `ro` was asked for.
            Err(_) if !attributes.read_only => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

pub(super) fn one(fd: impl AsFd, attributes: Attributes) -> Result<()> {
    let now = rustix::fs::fstatvfs(&fd)?.f_flag;
    let mut flags = attributes.flags() | MountFlags::BIND;
    for (set, flag) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if now.contains(set) {
            flags |= flag;
        }
    }
    rustix::mount::mount_remount(path_of(&fd), flags, "")
}

/// The mounts of this process as the kernel lists them.
pub fn table() -> Result<Vec<u8>> {
    read("/proc/self/mountinfo")
}

fn read(path: &str) -> Result<Vec<u8>> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16384];
    loop {
        match rustix::io::read(&fd, &mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn mount_id(fd: impl AsFd) -> Result<u64> {
    let text = read(&format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or(Errno::NOSYS)
}

/// Where the mounts below mount `id` are, from the text of `mountinfo`.
fn below(table: &[u8], id: u64) -> Vec<PathBuf> {
    let mut mounts = Vec::new();
    for line in table.split(|b| *b == b'\n') {
        let mut words = line.split(|b| *b == b' ');
        let mut number =
            || -> Option<u64> { std::str::from_utf8(words.next()?).ok()?.parse().ok() };
        let (Some(own), Some(parent)) = (number(), number()) else {
            continue;
        };
        if let Some(at) = words.nth(2) {
            mounts.push((own, parent, plain(at)));
        }
    }
    let mut inside = vec![id];
    let mut found = Vec::new();
    // A child may be listed before its parent.
    loop {
        let before = inside.len();
        for (own, parent, at) in &mounts {
            if inside.contains(parent) && !inside.contains(own) {
                inside.push(*own);
                found.push(at.clone());
            }
        }
        if inside.len() == before {
            return found;
        }
    }
}

/// Undoes the `\040` of mountinfo.
fn plain(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (*first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            (byte, _) => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_one_are_found_in_any_order() {
        let table = b"\
            30 1 0:1 / / rw - ext4 /dev/a rw\n\
            44 43 0:4 / /work/a\\040b/c rw - tmpfs t rw\n\
            43 42 0:3 / /work/a\\040b rw shared:3 - tmpfs t rw\n\
            42 30 0:2 / /work rw - nfs s:/w rw\n\
            50 30 0:5 / /worker rw - tmpfs t rw\n\
            broken\n";
        let mut found = below(table, 42);
        found.sort();
        assert_eq!(
            found,
            [PathBuf::from("/work/a b"), PathBuf::from("/work/a b/c")]
        );
        assert!(below(table, 99).is_empty());
    }

    #[test]
    fn escapes_of_mountinfo() {
        for (text, expected) in [
            ("/a", "/a"),
            ("/a\\040b", "/a b"),
            ("/a\\134040", "/a\\040"),
            ("/a\\", "/a\\"),
            ("/a\\9", "/a\\9"),
        ] {
            assert_eq!(plain(text.as_bytes()), PathBuf::from(expected), "{text}");
        }
    }

    #[test]
    fn the_mount_of_a_descriptor_has_a_number() {
        let fd = place("/proc").unwrap();
        let id = mount_id(&fd).unwrap();
        let table = String::from_utf8(read("/proc/self/mountinfo").unwrap()).unwrap();
        assert!(
            table
                .lines()
                .any(|line| line.starts_with(&format!("{id} ")))
        );
    }
}
