//! A lock that works where flock does not: a file made with `O_EXCL` that its owner keeps alive.
//!
//! ```text
//! PATH    host boot-id pid-namespace pid start-time nonce      who owns it
//!         12                                                   heartbeat, rewritten every few seconds
//! ```
//! An owner that is dead on this host (same boot, same pid namespace, no such process) is taken over at once. Any other
//! is stale when its file has not changed for [`STALE`] of the waiter's own clock: clocks of nodes are never compared.
//! Takeover moves the stale file away before judging it once more, so two takers cannot both believe in one file. What
//! remains is a window in which a stopped owner wakes up beside its successor: everything done under such a lock must
//! therefore be harmless when done twice (write beside, rename, equal bytes).

use crate::error::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often an owner shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How long a lock file of another node may stay unchanged before it is taken over.
pub const STALE: Duration = Duration::from_secs(30);
/// How often a waiter looks.
const POLL: Duration = Duration::from_millis(100);
/// A lock file is one short text; more is not ours.
const MAX_BYTES: u64 = 1024;

/// A held lock; dropping it releases.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    owner: String,
    stop: Arc<(Mutex<bool>, Condvar)>,
    heart: Option<JoinHandle<()>>,
}

/// Who holds a lock, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub host: String,
    pub pid: u32,
}

impl Lock {
    /// Takes the lock unless a living owner has it.
    pub fn try_acquire(path: &Path) -> Result<Option<Lock>> {
        loop {
            if let Some(lock) = Lock::create(path)? {
                return Ok(Some(lock));
            }
            let Some(text) = read(path)? else { continue };
            if !dead_here(&text) {
                return Ok(None);
            }
            move_away(path, &text)?;
        }
    }

    /// Waits for the lock. `keep_waiting` is asked about ten times a second with the owner, so that the caller can tell
    /// its user, or stop when the thing it waits for has appeared; `None` when it said no.
    pub fn acquire(
        path: &Path,
        keep_waiting: &mut dyn FnMut(&Owner) -> bool,
    ) -> Result<Option<Lock>> {
        Lock::acquire_within(path, STALE, keep_waiting)
    }

    fn acquire_within(
        path: &Path,
        stale: Duration,
        keep_waiting: &mut dyn FnMut(&Owner) -> bool,
    ) -> Result<Option<Lock>> {
        let mut seen: Option<(String, Instant)> = None;
        loop {
            if let Some(lock) = Lock::try_acquire(path)? {
                return Ok(Some(lock));
            }
            let Some(text) = read(path)? else { continue };
            let since = match &seen {
                Some((last, since)) if *last == text => *since,
                _ => {
                    let now = Instant::now();
                    seen = Some((text.clone(), now));
                    now
                }
            };
            if since.elapsed() >= stale {
                move_away(path, &text)?;
                continue;
            }
            if !keep_waiting(&owner_of(&text)) {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Who holds `path` now, if anybody living does as far as this host can tell.
    pub fn holder(path: &Path) -> Result<Option<Owner>> {
        Ok(read(path)?
            .filter(|text| !dead_here(text))
            .map(|text| owner_of(&text)))
    }

    fn create(path: &Path) -> Result<Option<Lock>> {
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => {
                return Err(error).or_say(|| format!("cannot make the lock `{}`", path.display()));
            }
        };
        let owner = whoami();
        let written = file
            .write_all_at(format!("{owner}\n0\n").as_bytes(), 0)
            .and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _ = std::fs::remove_file(path);
            return Err(error).or_say(|| format!("cannot write the lock `{}`", path.display()));
        }
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let heart = std::thread::Builder::new()
            .name("lock".into())
            .spawn({
                let (stop, owner) = (Arc::clone(&stop), owner.clone());
                move || beat(&file, &owner, &stop)
            })
            .ok();
        Ok(Some(Lock {
            path: path.to_path_buf(),
            owner,
            stop,
            heart,
        }))
    }

    /// Whether the file is still ours; an owner that was stopped for long may have lost it.
    pub fn is_held(&self) -> bool {
        matches!(read(&self.path), Ok(Some(text)) if text.lines().next() == Some(&self.owner))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let (stopped, wake) = &*self.stop;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
        if let Some(heart) = self.heart.take() {
            let _ = heart.join();
        }
        if self.is_held() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn beat(file: &File, owner: &str, stop: &(Mutex<bool>, Condvar)) {
    let (stopped, wake) = stop;
    let mut count = 0u64;
    let mut guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
    while !*guard {
        let (next, timeout) = wake
            .wait_timeout(guard, HEARTBEAT)
            .unwrap_or_else(PoisonError::into_inner);
        guard = next;
        if timeout.timed_out() && !*guard {
            count += 1;
            // A failed heartbeat (full disk, lost server) only makes the lock look stale; the work itself will fail too.
            let _ = file.write_all_at(format!("{owner}\n{count}\n").as_bytes(), 0);
            let _ = file.sync_data();
        }
    }
}

/// The file's text; `None` when it is gone. Opening it anew makes NFS fetch current content.
fn read(path: &Path) -> Result<Option<String>> {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)) {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        // ESTALE: another node removed it between lookup and read.
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || error.kind() == ErrorKind::StaleNetworkFileHandle =>
        {
            Ok(None)
        }
        Err(error) => Err(error).or_say(|| format!("cannot read the lock `{}`", path.display())),
    }
}

/// Removes a stale lock file, unless somebody else put a new one there meanwhile.
fn move_away(path: &Path, stale: &str) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".stale-{}", nonce()));
    let aside = PathBuf::from(aside);
    match std::fs::rename(path, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error)
                .or_say(|| format!("cannot take over the stale lock `{}`", path.display()));
        }
    }
    if read(&aside)?.is_some_and(|text| text != stale) {
        // A successor's lock: give it back unless yet another one is there.
        let _ = std::fs::hard_link(&aside, path);
    }
    let _ = std::fs::remove_file(&aside);
    Ok(())
}

fn owner_of(text: &str) -> Owner {
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    Owner {
        host: words.next().unwrap_or("unknown").to_string(),
        pid: words
            .nth(2)
            .and_then(|pid| pid.parse().ok())
            .unwrap_or_default(),
    }
}

/// Whether the owner ran on this host, in this pid namespace, and is gone.
fn dead_here(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let [host, boot, namespace, pid, start, _nonce] = words[..] else {
        return false;
    };
    if host != this_host() {
        return false;
    }
    if boot != boot_id() {
        // The same host rebooted: nothing from before lives. Diskless nodes may share a name, never a boot id, so
        // this is decided by the heartbeat instead.
        return false;
    }
    namespace == pid_namespace()
        && pid
            .parse()
            .is_ok_and(|pid: u32| start_time(pid).as_deref() != Some(start))
}

/// For the name of a file that only this process writes: tells others on this host later that the writer is gone.
pub fn mark() -> String {
    let pid = std::process::id();
    let start = start_time(pid).unwrap_or_default();
    format!("{pid}-{start}-{}", this_place())
}

/// Whether what follows `prefix` in a file's name is the [`mark`] of a process that ran here and is gone.
pub fn is_abandoned(name: &str, prefix: &str) -> bool {
    writer_lives(name, prefix) == Some(false)
}

/// Whether the process whose [`mark`] follows `prefix` lives; `None` for one elsewhere, of which this host cannot tell.
pub fn writer_lives(name: &str, prefix: &str) -> Option<bool> {
    let mut words = name.strip_prefix(prefix)?.split('-');
    let (pid, start, place) = (words.next()?, words.next()?, words.next()?);
    let pid: u32 = pid.parse().ok()?;
    (place == this_place()).then(|| start_time(pid).as_deref() == Some(start))
}

/// Removes the lock files of a directory whose owners ran here and are gone.
pub fn sweep(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && path.extension().is_some_and(|end| end == "lock") {
            // Taking it over and letting it go removes it; nobody's lock is missed by trying.
            drop(Lock::try_acquire(&path));
        }
    }
}

/// Host, boot and pid namespace in one short word.
fn this_place() -> String {
    let place = format!("{} {} {}", this_host(), boot_id(), pid_namespace());
    let mut hex = blake3::hash(place.as_bytes()).to_hex().to_string();
    hex.truncate(12);
    hex
}

fn whoami() -> String {
    let pid = std::process::id();
    format!(
        "{} {} {} {pid} {} {}",
        this_host(),
        boot_id(),
        pid_namespace(),
        start_time(pid).unwrap_or_default(),
        nonce()
    )
}

/// One word, whatever the system says.
fn word(text: &str) -> String {
    let word: String = text
        .trim()
        .chars()
        .filter(|c| !c.is_whitespace() && !c.is_control())
        .collect();
    if word.is_empty() { "-".into() } else { word }
}

fn this_host() -> String {
    word(&rustix::system::uname().nodename().to_string_lossy())
}

fn boot_id() -> String {
    word(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

fn pid_namespace() -> String {
    word(
        &std::fs::read_link("/proc/self/ns/pid")
            .map(|link| link.to_string_lossy().into_owned())
            .unwrap_or_default(),
    )
}

/// When the process started, in ticks since boot: tells a reused pid from the old one.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may contain blanks and parentheses; fields are counted after the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_string)
}

fn nonce() -> String {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_wait(_: &Owner) -> bool {
        false
    }

    #[test]
    fn one_at_a_time_and_released_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = Lock::try_acquire(&path).unwrap().unwrap();
        assert!(first.is_held());
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        assert!(Lock::acquire(&path, &mut no_wait).unwrap().is_none());
        assert_eq!(
            Lock::holder(&path).unwrap().unwrap().pid,
            std::process::id()
        );
        drop(first);
        assert!(!path.exists());
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_dead_owner_on_this_host_is_taken_over_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        // Our own pid with another start time: the pid was reused.
        let text = format!(
            "{} {} {} {} 1 x\n7\n",
            this_host(),
            boot_id(),
            pid_namespace(),
            std::process::id()
        );
        std::fs::write(&path, text).unwrap();
        assert!(Lock::holder(&path).unwrap().is_none());
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn an_owner_elsewhere_is_stale_only_when_silent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        std::fs::write(&path, "node7 boot pid:[1] 42 1 x\n0\n").unwrap();
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        let mut asked = None;
        let mut beats = 0;
        let waited = Lock::acquire_within(&path, Duration::from_millis(250), &mut |owner| {
            asked = Some(owner.clone());
            beats += 1;
            if beats < 5 {
                std::fs::write(&path, format!("node7 boot pid:[1] 42 1 x\n{beats}\n")).unwrap();
            }
            true
        })
        .unwrap();
        assert!(waited.is_some());
        assert!(beats >= 5, "a beating lock was taken over");
        let owner = Owner {
            host: "node7".into(),
            pid: 42,
        };
        assert_eq!(asked, Some(owner));
    }

    #[test]
    fn names_tell_whether_their_writer_is_gone() {
        let own = mark();
        let (pid, rest) = own.split_once('-').unwrap();
        let (_, place) = rest.split_once('-').unwrap();
        for (name, gone) in [
            (format!("file-{own}-x"), false),
            // The pid was used again.
            (format!("file-{pid}-1-{place}-x"), true),
            (format!("file-{pid}-1-elsewhere-x"), false),
            (format!("other-{pid}-1-{place}-x"), false),
            ("file-x".into(), false),
            ("file-".into(), false),
        ] {
            assert_eq!(is_abandoned(&name, "file-"), gone, "{name}");
        }
        assert_eq!(writer_lives(&format!("file-{own}-x"), "file-"), Some(true));
        let elsewhere = format!("file-{pid}-1-elsewhere-x");
        assert_eq!(writer_lives(&elsewhere, "file-"), None);
    }

    #[test]
    fn only_locks_of_the_dead_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let _held = Lock::try_acquire(&path("held.lock")).unwrap().unwrap();
        std::fs::write(path("elsewhere.lock"), "node7 boot pid:[1] 42 1 x\n0\n").unwrap();
        let (host, boot, namespace) = (this_host(), boot_id(), pid_namespace());
        let pid = std::process::id();
        let dead = format!("{host} {boot} {namespace} {pid} 1 x\n0\n");
        std::fs::write(path("dead.lock"), dead).unwrap();
        sweep(dir.path());
        for (name, there) in [("held", true), ("elsewhere", true), ("dead", false)] {
            assert_eq!(path(&format!("{name}.lock")).exists(), there, "{name}");
        }
    }

    #[test]
    fn a_file_that_is_no_lock_is_waited_out_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        for text in ["", "\n", "garbage", &"x ".repeat(5000)] {
            std::fs::write(&path, text).unwrap();
            assert!(Lock::try_acquire(&path).unwrap().is_none());
            let lock = Lock::acquire_within(&path, Duration::ZERO, &mut |_| true).unwrap();
            assert!(lock.is_some_and(|lock| lock.is_held()));
        }
    }
}
