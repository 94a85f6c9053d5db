//! Looks a path up as if a directory were the root: no symbolic link, `..` or trick of an image leads out of it.
//!
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` where the kernel has it (5.6), else a walk of our own that opens one
//! component at a time with `O_NOFOLLOW` and follows links by hand. Deliberately absent: creating anything on the way.

use super::attempt::{Call, attempt};
use super::{Errno, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What the kernel allows in one lookup.
const MAX_LINKS: u32 = 40;
/// `openat2` answers EAGAIN when something was renamed while it followed `..`; a rename loop must not hold us for ever.
const MAX_RACES: u32 = 128;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Whether a symbolic link at the very end is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Follow,
    Keep,
}

/// An `O_PATH` descriptor of `path` inside `root`. The path may be absolute or relative, both start at `root`.
pub fn in_root(root: impl AsFd, path: impl AsRef<Path>, last: Last) -> Result<OwnedFd> {
    let (root, path) = (root.as_fd(), path.as_ref());
    match attempt(Call::Openat2, || by_openat2(root, path, last)) {
        Some(answer) => answer,
        None => by_walking(root, path, last),
    }
}

fn flags(last: Last) -> OFlags {
    let follow = match last {
        Last::Follow => OFlags::empty(),
        Last::Keep => OFlags::NOFOLLOW,
    };
    OFlags::PATH | OFlags::CLOEXEC | follow
}

fn by_openat2(root: BorrowedFd<'_>, path: &Path, last: Last) -> Result<OwnedFd> {
    let mut races = 0;
    loop {
        let answer = rustix::fs::openat2(
            root,
            path,
            flags(last),
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        match answer {
            Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

fn by_walking(root: BorrowedFd<'_>, path: &Path, last: Last) -> Result<OwnedFd> {
    if path.as_os_str().is_empty() {
        return Err(Errno::NOENT);
    }
    let mut ahead = VecDeque::new();
    push_front(&mut ahead, path.as_os_str());
    // Where we are, from the root down; empty means the root itself.
    let mut trail: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        match name.as_bytes() {
            b"" => trail.clear(),
            b"." => {
                // A file followed by `/.` or `/` is not a file.
                if let Some(here) = trail.last() {
                    directory(here.as_fd())?;
                }
            }
            b".." => {
                if let Some(here) = trail.pop() {
                    directory(here.as_fd())?;
                }
            }
            _ => {
                let here = trail.last().map_or(root, |fd| fd.as_fd());
                let next = rustix::fs::openat(
                    here,
                    name.as_os_str(),
                    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let link = super::fd::kind(&next)? == FileType::Symlink;
                if !link || (last == Last::Keep && ahead.is_empty()) {
                    trail.push(next);
                    continue;
                }
                links += 1;
                // A link of procfs may lead anywhere without its text saying so.
                if links > MAX_LINKS || rustix::fs::fstatfs(&next)?.f_type == PROC_SUPER_MAGIC {
                    return Err(Errno::LOOP);
                }
                let text = rustix::fs::readlinkat(&next, "", Vec::new())?;
                push_front(&mut ahead, OsStr::from_bytes(text.to_bytes()));
            }
        }
    }
    match trail.pop() {
        Some(found) => Ok(found),
        None => rustix::fs::openat(root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
    }
}

/// Puts the components before what is still ahead; a leading empty one stands for the root.
fn push_front(ahead: &mut VecDeque<OsString>, path: &OsStr) {
    let bytes = path.as_bytes();
    let mut components: Vec<OsString> = bytes
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty())
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect();
    if bytes.first() == Some(&b'/') {
        components.insert(0, OsString::new());
    }
    if bytes.last() == Some(&b'/') && components.last().is_some_and(|c| !c.is_empty()) {
        components.push(".".into());
    }
    for component in components.into_iter().rev() {
        ahead.push_front(component);
    }
}

fn directory(fd: BorrowedFd<'_>) -> Result<()> {
    match super::fd::kind(fd)? {
        FileType::Directory => Ok(()),
        _ => Err(Errno::NOTDIR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Both ways must agree on every row; the inode of the expected path is compared.
    #[test]
    fn nothing_leads_out() {
        let scene = tempfile::tempdir().unwrap();
        let root = scene.path().join("root");
        std::fs::create_dir_all(root.join("etc/deep")).unwrap();
        std::fs::create_dir(scene.path().join("secret")).unwrap();
        std::fs::write(root.join("etc/passwd"), "x").unwrap();
        for (link, to) in [
            ("up", "../../../secret"),
            ("absolute", "/etc/passwd"),
            ("host", "/../../secret"),
            ("chain", "absolute"),
            ("loop", "loop"),
            ("into", "etc/./deep/../deep"),
            ("slash", "etc/passwd/"),
            ("dangling", "/nowhere"),
        ] {
            symlink(to, root.join(link)).unwrap();
        }
        let fd = rustix::fs::open(&root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        use Last::{Follow, Keep};
        for (path, last, expected) in [
            ("etc/passwd", Follow, Ok("etc/passwd")),
            ("/etc/passwd", Follow, Ok("etc/passwd")),
            ("/", Follow, Ok("")),
            (".", Follow, Ok("")),
            ("..", Follow, Ok("")),
            ("../../etc", Follow, Ok("etc")),
            ("absolute", Follow, Ok("etc/passwd")),
            ("chain", Follow, Ok("etc/passwd")),
            ("chain", Keep, Ok("chain")),
            ("into", Follow, Ok("etc/deep")),
            ("into/..", Follow, Ok("etc")),
            ("etc/deep/../..//etc/./passwd", Follow, Ok("etc/passwd")),
            ("up", Follow, Err(Errno::NOENT)),
            ("host", Follow, Err(Errno::NOENT)),
            ("host", Keep, Ok("host")),
            ("dangling", Follow, Err(Errno::NOENT)),
            ("loop", Follow, Err(Errno::LOOP)),
            ("etc/passwd/x", Follow, Err(Errno::NOTDIR)),
            ("etc/passwd/..", Follow, Err(Errno::NOTDIR)),
            ("slash", Follow, Err(Errno::NOTDIR)),
            ("etc/passwd/", Follow, Err(Errno::NOTDIR)),
            ("nope/passwd", Follow, Err(Errno::NOENT)),
            ("", Follow, Err(Errno::NOENT)),
        ] {
            let inode = |fd: OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
            let expected = expected.map(|path| {
                use std::os::unix::fs::MetadataExt;
                std::fs::symlink_metadata(root.join(path)).unwrap().ino()
            });
            let walked = by_walking(fd.as_fd(), Path::new(path), last).map(inode);
            assert_eq!(walked, expected, "walking {path:?}");
            match by_openat2(fd.as_fd(), Path::new(path), last) {
                Err(Errno::NOSYS | Errno::PERM) => {}
                opened => assert_eq!(opened.map(inode), expected, "openat2 {path:?}"),
            }
        }
    }

    #[test]
    fn magic_links_of_procfs_are_refused_both_ways() {
        let fd = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for path in ["self/root/etc", "self/cwd", "thread-self/fd/0"] {
            let walked = by_walking(fd.as_fd(), Path::new(path), Last::Follow);
            assert_eq!(walked.map(drop), Err(Errno::LOOP), "{path}");
            let opened = in_root(&fd, path, Last::Follow);
            assert_eq!(opened.map(drop), Err(Errno::LOOP), "{path}");
        }
    }
}
