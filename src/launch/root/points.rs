//! Mount points that an image lacks.
//!
//! In a writable root they are made. A read-only image gets, in place of the nearest directory that exists, a *mirror*: a
//! tmpfs with that directory's entries bound back and the new ones beside them. Lookups elsewhere stay as fast as before,
//! which an overlay over the whole image would not allow. Where there are many entries to bind, as in `/etc`, an overlay
//! over that one directory does the same with a single mount.

use super::{Done, Fault, Like, Place, mode_of};
use crate::sys::mount::{self, Attributes};
use crate::sys::resolve::{Last, in_root};
use crate::sys::{Errno, fd, remount};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Entries of a directory up to which binding each back is cheaper than an overlay.
const FEW: usize = 12;
const MAX_LINKS: u32 = 40;

/// Paths below a directory, and what is to be there.
type Missing = Vec<(PathBuf, Like)>;

pub(super) struct Mirrors {
    root: OwnedFd,
    writable: bool,
    /// By the nearest directory that exists, in normal form without links.
    missing: BTreeMap<PathBuf, Missing>,
    /// Mirrored directories.
    made: Vec<PathBuf>,
    /// Directories that will be mounted on: what the image has there need not be shown.
    covered: BTreeSet<PathBuf>,
    /// The root itself is a mirror, at another place of the stage.
    moved: bool,
    /// Directories of the stage that were used.
    parts: u32,
}

impl Mirrors {
    pub fn new(root: BorrowedFd<'_>, writable: bool) -> Done<Mirrors> {
        Ok(Mirrors {
            root: root.try_clone_to_owned().map_err(|_| Errno::MFILE)?,
            writable,
            missing: BTreeMap::new(),
            made: Vec::new(),
            covered: BTreeSet::new(),
            moved: false,
            parts: 0,
        })
    }

    /// Sees to it that something will be at `path`, at the latest after [`Mirrors::finish`].
    pub fn add(&mut self, path: &Path, like: &Like) -> Done {
        if *like == Like::Directory {
            self.covered.insert(path.to_path_buf());
        }
        // Nearly always it is there, and one look is enough.
        if in_root(&self.root, path, Last::Follow).is_ok() {
            return Ok(());
        }
        let Some((parent, rest)) = nearest(self.root.as_fd(), path)? else {
            return Ok(());
        };
        if self.writable {
            return make(self.root.as_fd(), &parent.join(rest), like, 0o755);
        }
        let wanted = self.missing.entry(parent).or_default();
        wanted.push((rest, like.clone()));
        Ok(())
    }

    /// Makes what was missing, and closes it against changes. The new root, if there is one.
    pub fn finish(mut self) -> Done<Option<OwnedFd>> {
        // A directory comes before those below it: what lies over these must not be covered again.
        for (directory, wanted) in std::mem::take(&mut self.missing) {
            self.complete(&directory, &wanted)?;
        }
        for made in &self.made {
            mount::close_one(self.root.as_fd(), made)?;
        }
        Ok(self.moved.then_some(self.root))
    }

    fn complete(&mut self, directory: &Path, wanted: &Missing) -> Done {
        let old = in_root(&self.root, directory, Last::Follow)?;
        let is_root = directory == Path::new("/");
        let listed = match directories_in(&old)? > FEW {
            true => None,
            false => Some(entries(&old)?),
        };
        let many = listed.as_ref().is_none_or(|entries| entries.len() > FEW);
        // Not every file system may lie below an overlay, and old kernels allow none here.
        if !is_root && many && !has_mounts_below(&old) && self.lay_over(directory, &old, wanted)? {
            return Ok(());
        }
        let entries = listed.map_or_else(|| entries(&old), Ok)?;
        // A directory of the stage, because a file system of its own would cost as much as ten binds.
        let part = mount::place(self.part()?)?;
        let new = if is_root {
            let stage = mount::place("/")?;
            mount::bind_as_it_is(
                &part,
                &mount::Target::find(stage.as_fd(), Path::new("root"))?,
            )?;
            let root = mount::place("/root")?;
            self.moved = true;
            self.root = root.try_clone().map_err(|_| Errno::MFILE)?;
            root
        } else {
            let at = mount::Target::find(self.root.as_fd(), directory)?;
            mount::bind_as_it_is(&part, &at)?;
            in_root(&self.root, directory, Last::Follow)?
        };
        for name in entries {
            let path = directory.join(OsStr::from_bytes(name.as_bytes()));
            let shown = match self.covered.contains(&path) {
                true => Shown::Covered,
                false => Shown::AsItIs,
            };
            bind_back(&old, &new, &name, shown).map_err(|fault| fault.at(path.display()))?;
        }
        make_all(self.root.as_fd(), directory, directory, wanted)?;
        // A search through the directory must be allowed as before; the owner is the same person anyway.
        rustix::fs::chmodat(&new, ".", mode_of(&old)? | Mode::RWXU, AtFlags::empty())?;
        self.made.push(directory.to_path_buf());
        Ok(())
    }

    /// A new directory of the stage.
    fn part(&mut self) -> Done<String> {
        self.parts += 1;
        let part = format!("/parts/points{}", self.parts);
        rustix::fs::mkdir(&part, Mode::RWXU)?;
        Ok(part)
    }

    /// Lays a small directory with only the new entries over `directory`. False when the kernel refuses to.
    fn lay_over(&mut self, directory: &Path, old: &OwnedFd, wanted: &Missing) -> Done<bool> {
        let skeleton = self.part()?;
        let new = mount::place(&skeleton)?;
        make_all(new.as_fd(), Path::new("/"), directory, wanted)?;
        rustix::fs::chmod(&skeleton, mode_of(old)? | Mode::RWXU)?;
        let lower = fd::path_of(old);
        Ok(mount::overlay(&lower, "carrack", &[&skeleton, &lower], None).is_ok())
    }
}

/// Makes what is wanted below `at`; `shown` is how the user knows that place.
fn make_all(root: BorrowedFd<'_>, at: &Path, shown: &Path, wanted: &Missing) -> Done {
    for (rest, like) in wanted {
        make(root, &at.join(rest), like, 0o755).map_err(|fault| match fault.at {
            None => Fault {
                place: Place::Target,
                ..fault
            }
            .at(shown.join(rest).display()),
            Some(_) => fault,
        })?;
    }
    Ok(())
}

/// Whether something is mounted below a directory, which an overlay would not show. What cannot be found out is a yes.
fn has_mounts_below(directory: &OwnedFd) -> bool {
    // Usually the whole mount has none, and the kernel says so at once.
    if mount::has_children(directory) == Some(false) {
        return false;
    }
    let path = std::fs::read_link(fd::path_of(directory));
    let mounts = remount::table();
    let (Ok(path), Ok(mounts)) = (path, mounts) else {
        return true;
    };
    // The file writes blanks and the like as octal numbers; such a path is not worth the trouble.
    let path = path.as_os_str().as_bytes();
    let plain = |b: &u8| b.is_ascii_graphic() && *b != b'\\';
    !path.iter().all(plain)
        || mounts.split(|b| *b == b'\n').any(|line| {
            let at = line.split(|b| *b == b' ').nth(4).unwrap_or_default();
            at.strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(b"/"))
        })
}

/// At least so many directories are in this one; most file systems tell without a listing, the others say none.
fn directories_in(directory: &OwnedFd) -> Done<usize> {
    let links = rustix::fs::fstat(directory)?.st_nlink;
    Ok(links.saturating_sub(2) as usize)
}

pub(super) fn entries(directory: &OwnedFd) -> Done<Vec<CString>> {
    let listing = rustix::fs::openat(directory, ".", LISTING, Mode::empty())?;
    let mut room = [MaybeUninit::uninit(); ENTRIES_AT_ONCE];
    let mut listing = RawDir::new(&listing, &mut room);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

const LISTING: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// Nearly always few are bound back.
const ENTRIES_AT_ONCE: usize = 2 << 10;
const LISTED_AT_ONCE: usize = 16 << 10;

/// Lists the beginning of a directory, so that a server says in one answer what it would be asked for name by name.
pub(super) fn list(directory: &str) {
    if let Ok(listing) = rustix::fs::openat(CWD, directory, LISTING, Mode::empty()) {
        let mut room = Vec::with_capacity(LISTED_AT_ONCE);
        let _ = RawDir::new(&listing, room.spare_capacity_mut()).next();
    }
}

/// What becomes of an entry that is shown in another directory.
#[derive(Clone, Copy)]
pub(super) enum Shown {
    /// Bound with the restrictions that its mount has.
    AsItIs,
    Restricted(Attributes),
    /// A directory is only made, because something else will be mounted there.
    Covered,
}

/// Shows the entry of `old` at the same name in `new`.
pub(super) fn bind_back(old: &OwnedFd, new: &OwnedFd, name: &CString, shown: Shown) -> Done {
    let source = rustix::fs::openat(
        old,
        name.as_c_str(),
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let kind = fd::kind(&source)?;
    let directory = kind == FileType::Directory;
    match kind {
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
    let find = || mount::Target::find(new.as_fd(), path);
    match shown {
        Shown::Covered if directory => Ok(()),
        Shown::Covered | Shown::AsItIs => Ok(mount::bind_as_it_is(source, &find()?)?),
        Shown::Restricted(attributes) => Ok(mount::bind(source, &find()?, attributes)?),
    }
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
