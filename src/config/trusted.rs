//! Reads files that decide for others: nobody but their owner may have written them.
//!
//! Every directory on the way counts, because who may rename one may put another in its place. Links are refused: what
//! they lead to is somebody's choice. In a user namespace "root" may be anybody, so there only ids that the namespace does
//! not map count as root's. What this cannot see: a file system that was mounted over the real one in a namespace of the
//! user's own.

use super::File;
use crate::error::{Context, Error, Result};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

/// A settings file is some kilobytes, a key or a hook not much more.
pub const MAX_BYTES: u64 = 1 << 20;
/// What the kernel shows for ids that a namespace does not map.
const UNMAPPED: u32 = 65_534;

/// Whose files count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Root,
    /// Root, or this user.
    RootOr(u32),
}

impl Owner {
    fn allows(self, uid: u32) -> bool {
        is_root(uid) || matches!(self, Owner::RootOr(other) if other == uid)
    }

    fn name(self) -> String {
        match self {
            Owner::Root => "root".into(),
            Owner::RootOr(uid) => format!("root or user {uid}"),
        }
    }
}

/// Whether a file's owner is the machine's root.
fn is_root(uid: u32) -> bool {
    match uid {
        0 | UNMAPPED => {
            let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
            (uid == 0) == initial
        }
        _ => false,
    }
}

/// The file's text; `None` when it does not exist. Any doubt about who wrote it is an error.
pub fn read(path: &Path, owner: Owner) -> Result<Option<File>> {
    let failed = || format!("cannot trust `{}`", path.display());
    match std::fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::new(failed()).source(error)),
        Ok(_) => {}
    }
    check_directories(path, owner).map_err(|error| error.while_doing(failed()))?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP) => {
            return Err(link(path).while_doing(failed()));
        }
        opened => opened.or_say(failed)?,
    };
    let stat = rustix::fs::fstat(&opened).or_say(failed)?;
    check(path, &stat, owner, FileType::RegularFile)
        .map_err(|error| error.while_doing(failed()))?;
    let mut text = String::new();
    std::fs::File::from(opened)
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .or_say(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::new(failed()).cause(format!("more than {MAX_BYTES} bytes")));
    }
    Ok(Some(File {
        path: path.display().to_string(),
        text,
    }))
}

/// Refuses a program that somebody else than its owner could have written.
pub fn program(path: &Path, owner: Owner) -> Result<()> {
    let failed = || format!("cannot trust `{}`", path.display());
    check_directories(path, owner).map_err(|error| error.while_doing(failed()))?;
    let stat = rustix::fs::lstat(path).or_say(failed)?;
    check(path, &stat, owner, FileType::RegularFile).map_err(|error| error.while_doing(failed()))
}

fn check_directories(path: &Path, owner: Owner) -> Result<()> {
    let mut at = PathBuf::new();
    let parent = path.parent().unwrap_or(Path::new("/"));
    for component in parent.components() {
        match component {
            Component::RootDir | Component::Normal(_) => at.push(component),
            _ => {
                return Err(Error::new(format!(
                    "`{}` is no plain absolute path",
                    path.display()
                )));
            }
        }
        let stat =
            rustix::fs::lstat(&at).or_say(|| format!("cannot look at `{}`", at.display()))?;
        check(&at, &stat, owner, FileType::Directory)?;
    }
    Ok(())
}

fn check(path: &Path, stat: &Stat, owner: Owner, wanted: FileType) -> Result<()> {
    let shown = path.display();
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        return Err(link(path));
    }
    if kind != wanted {
        return Err(Error::new(match wanted {
            FileType::Directory => format!("`{shown}` is no directory"),
            _ => format!("`{shown}` is no plain file"),
        }));
    }
    if !owner.allows(stat.st_uid) {
        return Err(Error::new(format!(
            "`{shown}` belongs to user {}, not to {}",
            stat.st_uid,
            owner.name()
        ))
        .hint(format!("as root: `chown root:root {shown}`")));
    }
    // In a sticky directory nobody else can rename or remove what is the owner's.
    let sticky = kind == FileType::Directory && stat.st_mode & 0o1000 != 0;
    if stat.st_mode & 0o022 != 0 && !sticky {
        return Err(Error::new(format!(
            "others than the owner can write `{shown}` (mode {:04o})",
            stat.st_mode & 0o7777
        ))
        .hint(format!("`chmod go-w {shown}`")));
    }
    Ok(())
}

fn link(path: &Path) -> Error {
    Error::new(format!("`{}` is a symbolic link", path.display()))
        .hint("put the file itself there; a link could be led elsewhere")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn told(path: &Path) -> String {
        let me = Owner::RootOr(rustix::process::geteuid().as_raw());
        match read(path, me) {
            Ok(Some(_)) => "read".into(),
            Ok(None) => "none".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn whoever_could_have_written_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        create_dir(at("etc")).unwrap();
        set_permissions(at("etc"), Permissions::from_mode(0o755)).unwrap();
        write(at("etc/c.toml"), "x").unwrap();
        set_permissions(at("etc/c.toml"), Permissions::from_mode(0o644)).unwrap();
        symlink(at("etc"), at("link")).unwrap();
        symlink(at("etc/c.toml"), at("etc/link.toml")).unwrap();
        assert_eq!(told(&at("etc/c.toml")), "read");
        assert_eq!(told(&at("etc/none.toml")), "none");
        assert_eq!(told(&at("none/c.toml")), "none");
        assert!(told(&at("link/c.toml")).contains("link` is a symbolic link"));
        assert!(told(&at("etc/link.toml")).contains("is a symbolic link"));
        assert!(told(&at("etc")).contains("is no plain file"));
        for (name, mode, part) in [
            ("etc/c.toml", 0o664, "others than the owner can write"),
            ("etc/c.toml", 0o646, "(mode 0646)"),
            ("etc/c.toml", 0o644, "read"),
            ("etc", 0o775, "can write `"),
            ("etc", 0o1777, "read"),
            ("etc", 0o755, "read"),
        ] {
            set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
            let told = told(&at("etc/c.toml"));
            assert!(told.contains(part), "{name} {mode:o}: {told}");
        }
    }

    #[test]
    fn other_owners() {
        let stat = |path: &str| rustix::fs::lstat(path).unwrap();
        let etc = stat("/etc");
        let dir = FileType::Directory;
        assert!(check(Path::new("/etc"), &etc, Owner::Root, dir).is_ok());
        let mut other = etc;
        other.st_uid = 4321;
        let told = check(Path::new("/etc"), &other, Owner::RootOr(7), dir).unwrap_err();
        assert!(
            told.to_string()
                .contains("belongs to user 4321, not to root or user 7")
        );
        assert!(check(Path::new("/etc"), &other, Owner::RootOr(4321), dir).is_ok());
    }
}
