//! Mount points that an image lacks.
//!
//! In a writable root they are made. A read-only image gets, in place of the nearest directory that exists, a *mirror*: a
//! tmpfs with that directory's entries bound back and the new one beside them. Lookups elsewhere stay as fast as before,
//! which an overlay over the whole image would not allow. A directory with very many entries gets an overlay of its own.

use super::{Done, Fault, Like, Place, mode_of};
use crate::sys::mount::{self, Attributes};
use crate::sys::resolve::{Last, in_root};
use crate::sys::{Errno, fd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Entries of a directory up to which binding each back is cheaper than an overlay.
const MAX_MIRRORED: usize = 256;
const MAX_LINKS: u32 = 40;

pub(super) struct Mirrors {
    root: OwnedFd,
    writable: bool,
    /// Mirrored directories, in normal form without links, and how they are mounted.
    made: Vec<PathBuf>,
    /// The root itself is a mirror, at another place of the stage.
    moved: bool,
    skeletons: u32,
}

impl Mirrors {
    pub fn new(root: BorrowedFd<'_>, writable: bool) -> Done<Mirrors> {
        Ok(Mirrors {
            root: root.try_clone_to_owned().map_err(|_| Errno::MFILE)?,
            writable,
            made: Vec::new(),
            moved: false,
            skeletons: 0,
        })
    }

    /// Makes sure that something is at `path`.
    pub fn add(&mut self, path: &Path, like: &Like) -> Done {
        let (parent, rest) = match nearest(self.root.as_fd(), path)? {
            None => return Ok(()),
            Some(found) => found,
        };
        let inside = |made: &PathBuf| parent.starts_with(made) && !self.covered(&parent, made);
        if self.writable || self.made.iter().any(inside) {
            return make(self.root.as_fd(), &parent.join(rest), like, 0o755);
        }
        self.mirror(&parent, &rest, like)
    }

    /// Whether `path` is not in the tmpfs of the mirror `made` but in an entry of it that was bound back.
    fn covered(&self, path: &Path, made: &Path) -> bool {
        let device = |path: &Path| {
            in_root(&self.root, path, Last::Follow)
                .and_then(rustix::fs::fstat)
                .map(|stat| stat.st_dev)
        };
        device(path).is_err() || device(path) != device(made)
    }

    fn mirror(&mut self, directory: &Path, rest: &Path, like: &Like) -> Done {
        let old = in_root(&self.root, directory, Last::Follow)?;
        let entries = entries(&old)?;
        if entries.len() > MAX_MIRRORED && directory != Path::new("/") {
            return self.lay_over(directory, &old, rest, like);
        }
        let new = if directory == Path::new("/") {
            mount::tmpfs(mount::place("/root")?, None, 0o755, Attributes::SAFE)?;
            let root = mount::place("/root")?;
            self.moved = true;
            self.root = root.try_clone().map_err(|_| Errno::MFILE)?;
            root
        } else {
            mount::tmpfs(&old, None, 0o755, Attributes::SAFE)?;
            in_root(&self.root, directory, Last::Follow)?
        };
        for name in entries {
            bind_back(&old, &new, &name, Attributes::SAFE).map_err(|fault| {
                fault.at(directory.join(OsStr::from_bytes(name.as_bytes())).display())
            })?;
        }
        make(self.root.as_fd(), &directory.join(rest), like, 0o755)?;
        // A search through the directory must be allowed as before; the owner is the same person anyway.
        rustix::fs::chmodat(&new, ".", mode_of(&old)? | Mode::RWXU, AtFlags::empty())?;
        self.made.push(directory.to_path_buf());
        Ok(())
    }

    /// Lays a small directory with only the new entry over `directory`.
    fn lay_over(&mut self, directory: &Path, old: &OwnedFd, rest: &Path, like: &Like) -> Done {
        self.skeletons += 1;
        let skeleton = format!("/parts/over{}", self.skeletons);
        rustix::fs::mkdir(&skeleton, Mode::RWXU)?;
        make(mount::place(&skeleton)?.as_fd(), rest, like, 0o755)?;
        rustix::fs::chmod(&skeleton, mode_of(old)? | Mode::RWXU)?;
        let lower = fd::path_of(old);
        mount::overlay(&fd::path_of(old), &[&skeleton, &lower], None)
            .map_err(|errno| Fault::from(errno).at(directory.display()))
    }

    /// Closes the mirrors against changes. The new root, if there is one.
    pub fn finish(self) -> Done<Option<OwnedFd>> {
        for made in &self.made {
            mount::close_one(self.root.as_fd(), made)?;
        }
        Ok(self.moved.then_some(self.root))
    }
}

pub(super) fn entries(directory: &OwnedFd) -> Done<Vec<CString>> {
    let listing = rustix::fs::openat(
        directory,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(listing)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Shows the entry of `old` at the same name in `new`.
pub(super) fn bind_back(
    old: &OwnedFd,
    new: &OwnedFd,
    name: &CString,
    attributes: Attributes,
) -> Done {
    let source = rustix::fs::openat(
        old,
        name.as_c_str(),
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match fd::kind(&source)? {
        FileType::Symlink => {
            let text = rustix::fs::readlinkat(&source, "", Vec::new())?;
            return Ok(rustix::fs::symlinkat(text, new, name.as_c_str())?);
        }
        FileType::Directory => {
            rustix::fs::mkdirat(new, name.as_c_str(), Mode::from_raw_mode(0o755))?;
        }
        _ => empty_file(new.as_fd(), OsStr::from_bytes(name.as_bytes()))?,
    }
    let path = Path::new(OsStr::from_bytes(name.as_bytes()));
    let target = mount::Target::find(new.as_fd(), path)?;
    Ok(mount::bind(source, &target, attributes)?)
}

fn empty_file(parent: BorrowedFd<'_>, name: &OsStr) -> Done {
    rustix::fs::openat(
        parent,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o644),
    )?;
    Ok(())
}

/// Where `path` ends inside `root`: the last directory that exists, without links, and what is missing below it. `None`
/// when all of it exists. A link to nowhere is followed: what it names is what is missing.
fn nearest(root: BorrowedFd<'_>, path: &Path) -> Done<Option<(PathBuf, PathBuf)>> {
    let mut here = PathBuf::from("/");
    let mut ahead: Vec<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        let found = match in_root(root, &next, Last::Keep) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                let mut rest = PathBuf::from(name);
                rest.extend(ahead.into_iter().rev());
                return Ok(Some((here, rest)));
            }
            Err(errno) => return Err(Fault::new(errno, Place::Target)),
        };
        match fd::kind(&found)? {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Fault::new(Errno::LOOP, Place::Target).at(next.display()));
                }
                let text = rustix::fs::readlinkat(&found, "", Vec::new())?;
                let text = Path::new(OsStr::from_bytes(text.to_bytes()));
                if text.is_absolute() {
                    here = PathBuf::from("/");
                }
                ahead.extend(names(text));
            }
            FileType::Directory => here = next,
            _ if ahead.is_empty() => {}
            _ => return Err(Fault::new(Errno::NOTDIR, Place::Target).at(next.display())),
        }
    }
    Ok(None)
}

/// The components in reverse order, ready to be popped.
fn names(path: &Path) -> Vec<OsString> {
    let plain = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<OsString> = plain.collect();
    names.reverse();
    names
}

/// Makes `path` and its parents inside `root`, where new files are allowed.
pub(super) fn make(root: BorrowedFd<'_>, path: &Path, like: &Like, mode: u32) -> Done {
    let missing = Path::new("/").join(path);
    let Some((mut here, rest)) = nearest(root, &missing)? else {
        return Ok(());
    };
    let count = rest.components().count();
    for (number, name) in rest.iter().enumerate() {
        let parent = in_root(root, &here, Last::Follow)?;
        let last = number + 1 == count;
        match like {
            Like::File if last => empty_file(parent.as_fd(), name)?,
            _ => {
                let mode = if last { mode } else { 0o755 };
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode))?;
                // The umask is the user's and says nothing about a directory of the plan.
                rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            }
        }
        here.push(name);
    }
    Ok(())
}

/// The directory that holds `path`, and the last name.
pub(super) fn parent<'p>(root: BorrowedFd<'_>, path: &'p Path) -> Done<(OwnedFd, &'p OsStr)> {
    let name = path.file_name().ok_or(Errno::EXIST)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let target = |errno| Fault::new(errno, Place::Target);
    Ok((in_root(root, parent, Last::Follow).map_err(target)?, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_nearest_directory_of_a_missing_path() {
        let scene = tempfile::tempdir().unwrap();
        let root = scene.path();
        std::fs::create_dir_all(root.join("etc/site")).unwrap();
        std::fs::create_dir(root.join("run")).unwrap();
        std::fs::write(root.join("etc/hosts"), "").unwrap();
        for (link, to) in [
            ("etc/resolv.conf", "../run/systemd/resolv.conf"),
            ("mnt", "../../../tmp/x"),
            ("var", "/run"),
            ("loop", "loop"),
        ] {
            symlink(to, root.join(link)).unwrap();
        }
        let fd = mount::place(root).unwrap();
        for (path, expected) in [
            ("/etc", Ok(None)),
            ("/etc/hosts", Ok(None)),
            ("/scratch", Ok(Some(("/", "scratch")))),
            ("/a/b/c", Ok(Some(("/", "a/b/c")))),
            ("/etc/site/x", Ok(Some(("/etc/site", "x")))),
            ("/var/munge", Ok(Some(("/run", "munge")))),
            (
                "/etc/resolv.conf",
                Ok(Some(("/run", "systemd/resolv.conf"))),
            ),
            ("/mnt/data", Ok(Some(("/", "tmp/x/data")))),
            ("/etc/hosts/x", Err(Errno::NOTDIR)),
            ("/loop/x", Err(Errno::LOOP)),
        ] {
            let expected =
                expected.map(|found| found.map(|(a, b)| (PathBuf::from(a), PathBuf::from(b))));
            let found = nearest(fd.as_fd(), Path::new(path)).map_err(|fault| fault.errno);
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn parents_are_made_inside_only() {
        let scene = tempfile::tempdir().unwrap();
        let root = scene.path().join("root");
        std::fs::create_dir(&root).unwrap();
        symlink("../../outside", root.join("out")).unwrap();
        let fd = mount::place(&root).unwrap();
        make(fd.as_fd(), Path::new("/out/a/b"), &Like::File, 0o755).unwrap();
        assert!(root.join("outside/a/b").is_file());
        assert!(!scene.path().join("outside").exists());
        make(fd.as_fd(), Path::new("/out/a/b"), &Like::File, 0o755).unwrap();
        make(fd.as_fd(), Path::new("/d/e"), &Like::Directory, 0o700).unwrap();
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &str| {
            std::fs::metadata(root.join(path))
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!((mode("d") & 0o777, mode("d/e") & 0o777), (0o755, 0o700));
    }
}
