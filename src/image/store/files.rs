//! Files of a store as they must be handled: read without following links or trusting sizes, written whole or not at all.

use crate::error::{Error, Result};
use crate::image::lock;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Opens a regular file below `root`; no link on the way is followed. `None` when it is not there.
pub fn open(root: &Path, relative: &Path) -> Result<Option<File>> {
    Ok(open_sized(root, relative)?.map(|(file, _)| file))
}

/// The same, and how many bytes the file has.
pub fn open_sized(root: &Path, relative: &Path) -> Result<Option<(File, u64)>> {
    let failed = |error: io::Error| {
        explain(
            format!("cannot read `{}`", root.join(relative).display()),
            error,
        )
    };
    let file = match open_beneath(root, relative) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP | Errno::XDEV) => {
            return Err(failed(Errno::LOOP.into())
                .hint("a store holds plain files; links in it are not followed"));
        }
        Err(error) => return Err(failed(error.into())),
    };
    let kind = file.metadata().map_err(failed)?;
    if !kind.is_file() {
        return Err(
            Error::new(format!("cannot read `{}`", root.join(relative).display()))
                .cause("it is not a regular file"),
        );
    }
    Ok(Some((file, kind.len())))
}

thread_local! {
    /// Directories of stores that were opened while a [`KeptRoots`] lives.
    static ROOTS: RefCell<Option<HashMap<PathBuf, Rc<OwnedFd>>>> = const { RefCell::new(None) };
}

/// As long as it lives, this thread opens the directory of each store once: a shared file system is asked for every name.
pub struct KeptRoots(());

pub fn keep_roots() -> KeptRoots {
    ROOTS.with_borrow_mut(|roots| *roots = Some(HashMap::new()));
    KeptRoots(())
}

impl Drop for KeptRoots {
    fn drop(&mut self) {
        ROOTS.with_borrow_mut(|roots| *roots = None);
    }
}

fn open_root(root: &Path, flags: OFlags) -> Result<Rc<OwnedFd>, Errno> {
    let kept = ROOTS.with_borrow(|roots| roots.as_ref()?.get(root).cloned());
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let opened = Rc::new(rustix::fs::open(root, flags, Mode::empty())?);
    ROOTS.with_borrow_mut(|roots| {
        if let Some(roots) = roots {
            roots.insert(root.to_path_buf(), Rc::clone(&opened));
        }
    });
    Ok(opened)
}

fn open_beneath(root: &Path, relative: &Path) -> Result<File, Errno> {
    // NONBLOCK: a FIFO in a hostile store must not hang us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open_root(root, directory)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&*root, relative, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => {}
        done => return done.map(File::from),
    }
    // Before Linux 5.6, or where a filter forbids it: step by step.
    let mut at = root;
    let mut names = relative.components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else {
            return Err(Errno::XDEV);
        };
        if names.peek().is_none() {
            return rustix::fs::openat(&*at, name, flags, Mode::empty()).map(File::from);
        }
        let next = rustix::fs::openat(&*at, name, directory | OFlags::NOFOLLOW, Mode::empty())?;
        at = Rc::new(next);
    }
    Err(Errno::NOENT)
}

/// The content of a file below `root`, at most `limit` bytes. `None` when it is not there.
pub fn read(root: &Path, relative: &Path, limit: usize) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(root, relative)? else {
        return Ok(None);
    };
    let path = || format!("cannot read `{}`", root.join(relative).display());
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| explain(path(), error))?;
    if bytes.len() > limit {
        return Err(Error::new(path()).cause(format!("more than {limit} bytes")));
    }
    Ok(Some(bytes))
}

/// How the names of these files begin; the process that writes follows.
pub(super) const SMALL: &str = "file-";

/// Writes `bytes` to `target` through a file in `temporary`: others see the old content or the new one.
pub fn replace(temporary: &Path, target: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(&format!("{SMALL}{}-", lock::mark()))
            .tempfile_in(temporary)?;
        file.write_all(bytes)?;
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(target).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| explain(format!("cannot write `{}`", target.display()), error))?;
    sync_parent(target);
    Ok(())
}

/// Makes a rename in the directory of `path` survive a crash. Some file systems cannot: then it is theirs to order.
pub fn sync_parent(path: &Path) {
    if let Some(parent) = path.parent()
        && let Ok(directory) = File::open(parent)
    {
        let _ = directory.sync_all();
    }
}

/// Makes a directory and its parents with `mode` for those that are new.
pub fn make_directory(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| match error.kind() {
            // What is in the way says more than that something is.
            io::ErrorKind::AlreadyExists if !path.is_dir() => Errno::NOTDIR.into(),
            _ => error,
        })
        .map_err(|error| {
            explain(
                format!("cannot make the directory `{}`", path.display()),
                error,
            )
        })?;
    // The mode that was asked for, not what the umask left of it: a shared store stays shared.
    let _ = std::fs::set_permissions(path, Permissions::from_mode(mode));
    Ok(())
}

/// An I/O error with what a person can do about it.
pub fn explain(what: impl Into<String>, error: io::Error) -> Error {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let error = Error::new(what).source(error);
    match errno.and_then(hint) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Adds the hint to an error of another module whose cause was one of the system's.
pub fn advise(error: Error) -> Error {
    let number = |cause: &String| {
        let (_, rest) = cause.rsplit_once("(os error ")?;
        rest.split(')').next()?.parse().ok()
    };
    let errno = error
        .causes()
        .iter()
        .find_map(number)
        .map(Errno::from_raw_os_error);
    match errno.and_then(hint) {
        Some(hint) if error.hints().is_empty() => error.hint(hint),
        _ => error,
    }
}

fn hint(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::NOSPC => Some(
            "the file system is full (or out of inodes): `carrack gc` frees space, `CARRACK_STORE` and `CARRACK_CACHE` choose other places",
        ),
        Errno::DQUOT => Some(
            "your quota is used up: `carrack gc` frees space, `CARRACK_STORE` and `CARRACK_CACHE` choose other places",
        ),
        Errno::ROFS => Some(
            "the file system is read-only here: pull where it is writable (a login node), or set `CARRACK_STORE`",
        ),
        Errno::ACCESS | Errno::PERM => {
            Some("no permission: `CARRACK_STORE` (or `--store`) chooses a store of your own")
        }
        Errno::STALE => Some("the file server lost the file: try again"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_odd_files_are_not_read() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        std::fs::write(root.path().join("d/plain"), "hello").unwrap();
        symlink(outside.path(), root.path().join("out")).unwrap();
        symlink("plain", root.path().join("d/link")).unwrap();
        let read = |name: &str| read(root.path(), Path::new(name), 5);
        assert_eq!(read("d/plain").unwrap().unwrap(), b"hello");
        assert!(read("d/none").unwrap().is_none());
        assert!(read("none/none").unwrap().is_none());
        for name in ["out/secret", "d/link", "d", "../x"] {
            assert!(read(name).is_err(), "{name}");
        }
        std::fs::write(root.path().join("d/plain"), "hello!").unwrap();
        assert!(
            read("d/plain")
                .unwrap_err()
                .to_string()
                .contains("more than 5 bytes")
        );
    }

    #[test]
    fn replaced_files_have_content_and_mode() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a");
        replace(root.path(), &target, b"1", 0o444).unwrap();
        replace(root.path(), &target, b"2", 0o444).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"2");
        assert_eq!(
            target.metadata().unwrap().permissions().mode() & 0o777,
            0o444
        );
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_that_people_meet_have_hints() {
        for (errno, want) in [
            (Errno::NOSPC, "gc"),
            (Errno::DQUOT, "quota"),
            (Errno::ROFS, "login node"),
            (Errno::ACCESS, "CARRACK_STORE"),
        ] {
            let told = explain("cannot write `x`", errno.into());
            assert!(
                told.hints().iter().any(|hint| hint.contains(want)),
                "{told}"
            );
            let other = advise(Error::new("cannot convert").source(io::Error::from(errno)));
            assert_eq!(other.hints(), told.hints());
        }
    }
}
