//! Where the tasks of a step find each other on a node: one small file for each capsule, in a directory of the user's own.
//!
//! ```text
//! /dev/shm/carrack-UID/            0700, ours, not a link; `carrack-UID.1` … if another user sits on the name; else in /tmp
//!     JOB.SCOPE.HASH.NODE          empty while a capsule is being made, then its description; also the lock (flock)
//!     JOB.SCOPE.answer-….NODE      what one task of the step looked up for all
//! ```
//! Whoever holds the exclusive lock makes the capsule; the others wait for a shared lock, which the kernel gives them when
//! the maker has finished or died. The socket of the broker is abstract and named in the file, so a step that is killed
//! leaves at most this file, which the next launch sweeps. Deliberately absent: any waiting by the clock.

use super::scope::{is_answer, prefix_of};
use crate::sys::{Errno, Result as SysResult, socket};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use std::ffi::OsString;
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// File systems in memory or at least on this node, best first.
const BASES: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];
/// How many names another user would have to occupy in each of them.
const NAMES: u32 = 8;
/// The first line of a description.
const MAGIC: &str = "carrack capsule 1";
const MAX_DESCRIPTION: usize = 8192;
/// The end of a whole answer.
const ANSWER: &[u8] = b"\0carrack answer 1\n";

/// The user's directory, proven to be a directory that only the user can enter.
pub struct Rendezvous {
    directory: OwnedFd,
    path: String,
}

impl Rendezvous {
    /// Finds the directory or makes it.
    pub fn open() -> SysResult<Rendezvous> {
        let uid = rustix::process::geteuid().as_raw();
        for _ in 0..4 {
            if let Some(found) = BASES.iter().find_map(|base| find(base, uid).ok().flatten()) {
                return Ok(found);
            }
            // After making one it is looked for like any other, so that all tasks agree on the same.
            let made = BASES.iter().map(|base| make(base, uid)).find(Result::is_ok);
            if made.is_none() {
                return Err(Errno::ACCESS);
            }
        }
        Err(Errno::ACCESS)
    }

    /// One that exists; for those who only look.
    pub fn existing() -> Option<Rendezvous> {
        let uid = rustix::process::geteuid().as_raw();
        BASES.iter().find_map(|base| find(base, uid).ok().flatten())
    }

    pub fn from_parts(directory: OwnedFd, path: String) -> Rendezvous {
        Rendezvous { directory, path }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn entry(&self, name: &str, flags: OFlags) -> SysResult<OwnedFd> {
        let fd = rustix::fs::openat(
            &self.directory,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::RUSR | Mode::WUSR,
        )?;
        let stat = rustix::fs::fstat(&fd)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if regular && stat.st_uid == rustix::process::geteuid().as_raw() {
            Ok(fd)
        } else {
            Err(Errno::ACCESS)
        }
    }

    /// The description of a capsule, if one has been written.
    pub fn read(&self, name: &str) -> Option<Description> {
        let fd = self.entry(name, OFlags::RDONLY).ok()?;
        Description::parse(&read_all(&fd).ok()?)
    }

    /// Writes the description of a capsule that is complete. The caller holds the lock, or acts for the one who does.
    pub fn write(&self, name: &str, description: &Description) -> SysResult<()> {
        let fd = self.entry(name, OFlags::RDWR)?;
        rustix::fs::ftruncate(&fd, 0)?;
        let text = description.to_string();
        let written = rustix::io::pwrite(&fd, text.as_bytes(), 0)?;
        if written == text.len() {
            Ok(())
        } else {
            Err(Errno::NOSPC)
        }
    }

    /// The lock of a capsule. `None`: somebody else has it and `wait` is false.
    pub fn lock(&self, name: &str, kind: Lock, wait: bool) -> SysResult<Option<OwnedFd>> {
        let operation = match (kind, wait) {
            (Lock::Making, true) => FlockOperation::LockExclusive,
            (Lock::Making, false) => FlockOperation::NonBlockingLockExclusive,
            (Lock::Waiting, true) => FlockOperation::LockShared,
            (Lock::Waiting, false) => FlockOperation::NonBlockingLockShared,
        };
        loop {
            let fd = self.entry(name, OFlags::RDWR | OFlags::CREATE)?;
            match rustix::fs::flock(&fd, operation) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno),
            }
            // The file may have been swept while we waited; a lock on a file without a name locks nobody out.
            let ours = rustix::fs::fstat(&fd)?;
            match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Some(fd));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Removes an entry that nobody uses: its lock is free and no broker answers.
    pub fn sweep(&self, name: &str) {
        let Ok(Some(lock)) = self.lock(name, Lock::Making, false) else {
            return;
        };
        if self.connect(name).is_none() {
            self.remove(name);
        }
        drop(lock);
    }

    /// Removes what steps that were killed have left; not what begins with `own`, nor what tasks of a living capsule may
    /// still read.
    pub fn sweep_others(&self, own: &str) {
        let names = self.names();
        let lives = |prefix: &str| {
            let mut capsules = names.iter().filter(|name| !is_answer(name));
            capsules.any(|name| name.starts_with(prefix) && self.connect(name).is_some())
        };
        for name in names.iter().filter(|name| !name.starts_with(own)) {
            if !(is_answer(name) && lives(&prefix_of(name))) {
                self.sweep(name);
            }
        }
    }

    /// Removes what nobody uses of the names that begin with `prefix`, once no capsule of them lives.
    pub fn sweep_step(&self, prefix: &str) {
        let names: Vec<String> = self.names();
        let of_step = || names.iter().filter(|name| name.starts_with(prefix));
        if of_step().all(|name| self.connect(name).is_none()) {
            of_step().for_each(|name| self.sweep(name));
        }
    }

    /// What was written whole by [`Rendezvous::write_answer`].
    pub fn read_answer(&self, name: &str) -> Option<Vec<u8>> {
        let fd = self.entry(name, OFlags::RDONLY).ok()?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut bytes).ok()?;
        let length = bytes.len().checked_sub(ANSWER.len())?;
        bytes.ends_with(ANSWER).then(|| {
            bytes.truncate(length);
            bytes
        })
    }

    /// The caller holds the lock.
    pub fn write_answer(&self, name: &str, answer: &[u8]) -> SysResult<()> {
        let mut rest = [answer, ANSWER].concat();
        let fd = self.entry(name, OFlags::WRONLY)?;
        rustix::fs::ftruncate(&fd, 0)?;
        while !rest.is_empty() {
            let count = rustix::io::write(&fd, &rest)?;
            rest.drain(..count.min(rest.len()));
        }
        Ok(())
    }

    pub fn remove(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }

    /// The names of all entries.
    pub fn names(&self) -> Vec<String> {
        let listing = rustix::fs::openat(
            &self.directory,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let Ok(entries) = listing.and_then(rustix::fs::Dir::new) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_string()))
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    /// A connection to the broker of a capsule, and its description. `None` when there is no capsule, or not any more.
    pub fn connect(&self, name: &str) -> Option<(OwnedFd, Description)> {
        let description = self.read(name)?;
        let connection = socket::connect(&description.socket).ok()?;
        // The name is free for everybody once the broker is gone.
        let (_, uid) = socket::peer(&connection).ok()?;
        (uid == rustix::process::geteuid().as_raw()).then_some((connection, description))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// For the one who makes the capsule.
    Making,
    /// For those who wait until it is made.
    Waiting,
}

fn name_of(uid: u32, number: u32) -> String {
    match number {
        0 => format!("carrack-{uid}"),
        number => format!("carrack-{uid}.{number}"),
    }
}

fn base_fd(base: &str) -> SysResult<OwnedFd> {
    rustix::fs::open(
        base,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The last of our directories in `base`: a name that was another user's may become free later, the higher one stays ours.
fn find(base: &str, uid: u32) -> SysResult<Option<Rendezvous>> {
    let base_fd = base_fd(base)?;
    for number in (0..NAMES).rev() {
        let name = name_of(uid, number);
        let opened = rustix::fs::openat(
            &base_fd,
            &name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let Ok(directory) = opened else { continue };
        let stat = rustix::fs::fstat(&directory)?;
        if stat.st_uid != uid {
            continue;
        }
        if stat.st_mode & 0o777 != 0o700 {
            rustix::fs::fchmod(&directory, Mode::RWXU)?;
        }
        let path = format!("{base}/{name}");
        return Ok(Some(Rendezvous { directory, path }));
    }
    Ok(None)
}

fn make(base: &str, uid: u32) -> SysResult<()> {
    let base_fd = base_fd(base)?;
    for number in 0..NAMES {
        match rustix::fs::mkdirat(&base_fd, name_of(uid, number), Mode::RWXU) {
            Err(Errno::EXIST) => {
                // Another task of ours was faster, or another user sits on the name.
                if find(base, uid)?.is_some() {
                    return Ok(());
                }
            }
            answer => return answer,
        }
    }
    Err(Errno::EXIST)
}

fn read_all(fd: &OwnedFd) -> SysResult<Vec<u8>> {
    let mut bytes = vec![0; MAX_DESCRIPTION];
    let count = rustix::io::pread(fd, &mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// What a joiner, and `carrack ps`, must know of a capsule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The abstract name of the broker's socket.
    pub socket: Vec<u8>,
    /// The broker's process.
    pub broker: u32,
    /// What the user calls the image.
    pub image: String,
    /// Where it lies: a name may mean another image by now.
    pub file: PathBuf,
    /// Whether only the tasks of its step may come in.
    pub shut: bool,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The step of Slurm's at whose end the broker is killed; none where nothing but its last process ends a capsule.
    pub step: Option<u32>,
}

impl Description {
    /// Only a text with its last line is complete.
    pub fn parse(bytes: &[u8]) -> Option<Description> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_suffix("\nend\n")?.lines();
        if lines.next() != Some(MAGIC) {
            return None;
        }
        let (mut socket, mut broker, mut image, mut file, mut made) =
            (None, None, None, None, None);
        let (mut shut, mut step) = (false, None);
        for line in lines {
            match line.split_once(' ')? {
                ("socket", hex) => socket = unhex(hex),
                ("broker", pid) => broker = pid.parse().ok(),
                ("image", hex) => image = unhex(hex).and_then(|b| String::from_utf8(b).ok()),
                ("file", hex) => file = unhex(hex).map(|b| PathBuf::from(OsString::from_vec(b))),
                ("shut", word) => shut = word == "yes",
                ("made", seconds) => made = seconds.parse().ok(),
                ("step", number) => step = number.parse().ok(),
                _ => {}
            }
        }
        Some(Description {
            socket: socket.filter(|name| !name.is_empty())?,
            broker: broker?,
            image: image?,
            file: file?,
            shut,
            made: made?,
            step,
        })
    }
}

impl std::fmt::Display for Description {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{MAGIC}")?;
        writeln!(out, "socket {}", hex(&self.socket))?;
        writeln!(out, "broker {}", self.broker)?;
        writeln!(out, "image {}", hex(self.image.as_bytes()))?;
        writeln!(out, "file {}", hex(self.file.as_os_str().as_bytes()))?;
        writeln!(out, "shut {}", if self.shut { "yes" } else { "no" })?;
        writeln!(out, "made {}", self.made)?;
        if let Some(step) = self.step {
            writeln!(out, "step {step}")?;
        }
        writeln!(out, "end")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        Description {
            socket: b"\x00ab\xff".to_vec(),
            broker: 42,
            image: "docker://a/b:1\nend\n".into(),
            file: "/store/a b.sqsh".into(),
            shut: true,
            made: 1_763_700_000,
            step: Some(3),
        }
    }

    #[test]
    fn a_description_is_read_back_and_never_half() {
        let text = description().to_string();
        assert_eq!(Description::parse(text.as_bytes()), Some(description()));
        for end in 0..text.len() {
            assert_eq!(
                Description::parse(&text.as_bytes()[..end]),
                None,
                "{end} bytes"
            );
        }
    }

    fn scene() -> (tempfile::TempDir, String) {
        let scene = tempfile::tempdir().unwrap();
        let base = scene.path().to_str().unwrap().to_string();
        (scene, base)
    }

    #[test]
    fn the_directory_is_ours_and_closed_or_not_used() {
        let (_scene, base) = scene();
        let uid = rustix::process::geteuid().as_raw();
        assert!(find(&base, uid).unwrap().is_none());
        // Things that are not our directory: a link, a file.
        std::os::unix::fs::symlink("/", format!("{base}/carrack-{uid}")).unwrap();
        std::fs::write(format!("{base}/carrack-{uid}.1"), "").unwrap();
        assert!(find(&base, uid).unwrap().is_none());
        make(&base, uid).unwrap();
        let found = find(&base, uid).unwrap().unwrap();
        assert_eq!(found.path, format!("{base}/carrack-{uid}.2"));
        // A name that becomes free does not divide the tasks.
        std::fs::remove_file(format!("{base}/carrack-{uid}")).unwrap();
        std::fs::create_dir(format!("{base}/carrack-{uid}")).unwrap();
        assert_eq!(find(&base, uid).unwrap().unwrap().path, found.path);
        // An open directory of ours is closed again.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&found.path, PermissionsExt::from_mode(0o777)).unwrap();
        find(&base, uid).unwrap().unwrap();
        let mode = std::fs::metadata(&found.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn every_name_taken_is_an_error_at_once() {
        let (_scene, base) = scene();
        let uid = rustix::process::geteuid().as_raw();
        for number in 0..NAMES {
            std::fs::write(format!("{base}/{}", name_of(uid, number)), "").unwrap();
        }
        assert_eq!(make(&base, uid), Err(Errno::EXIST));
    }

    #[test]
    fn one_makes_and_the_others_wait() {
        let (_scene, base) = scene();
        let uid = rustix::process::geteuid().as_raw();
        make(&base, uid).unwrap();
        let here = find(&base, uid).unwrap().unwrap();
        let making = here.lock("a", Lock::Making, false).unwrap();
        assert!(making.is_some());
        assert!(here.lock("a", Lock::Making, false).unwrap().is_none());
        assert!(here.lock("a", Lock::Waiting, false).unwrap().is_none());
        assert!(here.lock("b", Lock::Making, false).unwrap().is_some());
        drop(making);
        let waiting = here.lock("a", Lock::Waiting, false).unwrap();
        assert!(here.lock("a", Lock::Waiting, true).unwrap().is_some());
        drop(waiting);
        assert!(here.lock("a", Lock::Making, true).unwrap().is_some());
    }

    #[test]
    fn only_dead_entries_are_swept() {
        let (_scene, base) = scene();
        let uid = rustix::process::geteuid().as_raw();
        make(&base, uid).unwrap();
        let here = find(&base, uid).unwrap().unwrap();
        let (listener, socket) = socket::listen().unwrap();
        let living = Description {
            socket,
            ..description()
        };
        for name in ["living", "dead", "busy", "own"] {
            drop(here.lock(name, Lock::Making, true).unwrap());
        }
        here.write("living", &living).unwrap();
        here.write("dead", &description()).unwrap();
        let busy = here.lock("busy", Lock::Making, true).unwrap();
        here.write_answer("own", b"yes").unwrap();
        here.sweep_others("own");
        assert_eq!(here.names(), ["busy", "living", "own"]);
        assert_eq!(here.read_answer("own").unwrap(), b"yes");
        assert_eq!(here.read_answer("living"), None);
        here.sweep_step("l");
        assert!(here.names().contains(&"living".to_string()));
        here.sweep_step("o");
        assert_eq!(here.names(), ["busy", "living"]);
        assert_eq!(here.connect("living").unwrap().1, living);
        drop((listener, busy));
        here.sweep_others("x");
        assert!(here.names().is_empty());
    }

    #[test]
    fn what_was_found_out_stays_as_long_as_its_capsule() {
        let (_scene, base) = scene();
        let uid = rustix::process::geteuid().as_raw();
        make(&base, uid).unwrap();
        let here = find(&base, uid).unwrap().unwrap();
        let (listener, socket) = socket::listen().unwrap();
        let living = Description {
            socket,
            ..description()
        };
        let (capsule, answer, other) = ("7.0-0.ab.n1", "7.0-0.answer-x.n1", "8.0-0.answer-x.n1");
        for name in [capsule, answer, other] {
            drop(here.lock(name, Lock::Making, true).unwrap());
        }
        here.write(capsule, &living).unwrap();
        // Another step of the user starts: this one's late tasks must still find the answer.
        here.sweep_others("9.");
        assert_eq!(here.names(), [capsule, answer]);
        // Nor is it swept while a task that read it has not yet entered.
        let reader = here.lock(answer, Lock::Waiting, false).unwrap();
        drop(listener);
        here.sweep_others("9.");
        assert_eq!(here.names(), [answer]);
        drop(reader);
        here.sweep_others("9.");
        assert!(here.names().is_empty());
    }
}
