//! An image on its way in: one converter per digest across nodes, a place to write, and the moment it becomes visible.

use super::{Store, Stored, files};
use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::lock::{self, Lock, Owner};
use crate::pack::cache;
use crate::record::ImageRecord;
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The right to convert one digest, and a directory for it. Dropping it removes whatever was not published.
#[derive(Debug)]
pub struct Incoming<'a> {
    store: &'a Store,
    digest: Digest,
    directory: tempfile::TempDir,
    /// Of image and record, once they are visible.
    mode: u32,
    /// Dropped last: the directory is gone before the next converter starts.
    _lock: Lock,
}

/// What a signal must clean up: directories and lock files of conversions that run.
static RUNNING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes all unpublished work of this process, which is about to end.
pub fn abandon() {
    let running = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
    for path in running {
        remove(&path);
    }
}

/// What came of asking for the right to convert.
#[derive(Debug)]
pub enum Begin<'a> {
    /// Another process finished it meanwhile.
    Ready(Box<Stored>),
    Convert(Incoming<'a>),
}

impl Store {
    /// Waits for the right to convert `digest`, or for another process to have done it. `waiting` hears who has it.
    pub fn begin(&self, digest: &Digest, waiting: &mut dyn FnMut(&Owner)) -> Result<Begin<'_>> {
        self.prepare()?;
        let mut told = false;
        let mut appeared = None;
        let lock = Lock::acquire(&self.lock_of(digest), &mut |owner| {
            if !told {
                waiting(owner);
                told = true;
            }
            // Nobody needs the lock to use what another process has published.
            appeared = self.get(digest).ok().flatten();
            appeared.is_none()
        })?;
        if let Some(stored) = appeared {
            return Ok(Begin::Ready(Box::new(stored)));
        }
        let Some(lock) = lock else {
            return Err(Error::new(format!(
                "cannot wait for the conversion of `{digest}`"
            )));
        };
        // A damaged one is replaced.
        if let Some(stored) = self.get(digest).ok().flatten() {
            return Ok(Begin::Ready(Box::new(stored)));
        }
        self.clear_work_of(digest);
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}.", digest.hex()))
            .tempdir_in(self.temporary())
            .map_err(|error| {
                files::explain(
                    format!("cannot write in `{}`", self.temporary().display()),
                    error,
                )
            })?;
        RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend([directory.path().to_path_buf(), self.lock_of(digest)]);
        Ok(Begin::Convert(Incoming {
            store: self,
            digest: *digest,
            directory,
            mode: 0o444,
            _lock: lock,
        }))
    }

    fn lock_of(&self, digest: &Digest) -> PathBuf {
        self.temporary().join(format!("{}.lock", digest.hex()))
    }

    /// Removes the work of converters of `digest` that are gone; only under its lock.
    fn clear_work_of(&self, digest: &Digest) {
        for path in self.work() {
            if work_digest(&path) == Some(*digest) {
                remove(&path);
            }
        }
    }

    /// Removes what processes that died left in `tmp/` and among the packs, and tells how many bytes that were; every
    /// command that writes calls it.
    pub fn clean(&self) -> u64 {
        let mut freed = 0u64;
        for path in self.abandoned() {
            let lock = work_digest(&path).map(|digest| Lock::try_acquire(&self.lock_of(&digest)));
            // A lock that can be had tells that nobody works on it.
            if matches!(lock, None | Some(Ok(Some(_)))) {
                let bytes = bytes_of(&path);
                remove(&path);
                freed = freed.saturating_add(bytes.saturating_sub(bytes_of(&path)));
            }
        }
        lock::sweep(&self.temporary());
        freed.saturating_add(cache::sweep(&self.place().packs))
    }

    /// How many bytes [`Store::clean`] would free.
    pub fn leftovers(&self) -> u64 {
        let packs = cache::leftovers(&self.place().packs);
        let sizes = self.abandoned().into_iter().map(|path| bytes_of(&path));
        sizes
            .chain(packs.into_iter().map(|(_, bytes)| bytes))
            .fold(0, u64::saturating_add)
    }

    /// What nobody works on in `tmp/`, as far as can be told without taking a lock.
    fn abandoned(&self) -> Vec<PathBuf> {
        let mut work = self.work();
        work.retain(|path| match work_digest(path) {
            Some(digest) => matches!(Lock::holder(&self.lock_of(&digest)), Ok(None)),
            None => is_old(path) || is_abandoned(path),
        });
        work
    }

    fn work(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.temporary()).into_iter().flatten();
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_none_or(|end| end != "lock"))
            .collect()
    }
}

impl Incoming<'_> {
    /// Where the converter writes; it exists and is empty, striped if the site wants that.
    pub fn output(&self) -> Result<PathBuf> {
        let path = self.directory.path().join("image.sqsh");
        if !path.exists() {
            stripe(&path, self.store.place().stripe_count);
            File::create(&path).map_err(|error| {
                files::explain(format!("cannot write `{}`", path.display()), error)
            })?;
        }
        Ok(path)
    }

    /// A directory for whatever else the work needs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Lets nobody else read it, from the first moment on.
    pub fn keep_private(&mut self) {
        self.mode = 0o400;
    }

    /// Makes the image visible. The record is the last rename: an image without a record is not there.
    pub fn publish(self, record: &ImageRecord) -> Result<Stored> {
        let output = self.output()?;
        let image = self.store.image_path(&self.digest);
        let failed = |error| files::explain(format!("cannot publish `{}`", image.display()), error);
        let file = File::open(&output).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if size != record.squashfs.size {
            return Err(
                Error::new(format!("cannot publish `{}`", self.digest)).cause(format!(
                    "the converter wrote {size} bytes and says {}",
                    record.squashfs.size
                )),
            );
        }
        file.set_permissions(Permissions::from_mode(self.mode))
            .map_err(failed)?;
        file.sync_all().map_err(failed)?;
        if let Some(parent) = image.parent() {
            files::make_directory(parent, self.store.place().sharing.directory_mode())?;
        }
        std::fs::rename(&output, &image).map_err(failed)?;
        files::sync_parent(&image);
        let path = self.store.record_path(&self.digest);
        files::replace(
            self.directory.path(),
            &path,
            record.to_json().as_bytes(),
            self.mode,
        )?;
        self.store.get(&self.digest)?.ok_or_else(|| {
            Error::new(format!(
                "cannot find `{}` right after publishing it",
                self.digest
            ))
        })
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        let ours = [
            self.directory.path().to_path_buf(),
            self.store.lock_of(&self.digest),
        ];
        RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path| !ours.contains(path));
    }
}

/// `tmp/<hex>.<random>` of a conversion.
fn work_digest(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    format!("sha256:{}", name.split_once('.')?.0).parse().ok()
}

fn remove(path: &Path) {
    // What cannot be removed now (another user's, a busy server) is tried again by the next command.
    let _ = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        _ => std::fs::remove_file(path),
    };
}

fn bytes_of(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries
                .map(|entry| bytes_of(&entry.path()))
                .fold(0, u64::saturating_add)
        }
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}

fn is_abandoned(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| lock::is_abandoned(name, files::SMALL))
}

/// Small files live for milliseconds; an hour leaves room for clocks that differ.
fn is_old(path: &Path) -> bool {
    let modified = path
        .symlink_metadata()
        .and_then(|meta| meta.modified())
        .ok();
    let age = modified.and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > 3600)
}

/// Spreads a large file over Lustre's servers before it is there; elsewhere nothing happens.
fn stripe(path: &Path, count: i32) {
    let directory = path.parent().unwrap_or(path);
    let Ok(file_system) = rustix::fs::statfs(directory) else {
        return;
    };
    let command = stripe_command(i128::from(file_system.f_type), count, path);
    if let Some([program, arguments @ ..]) = command.as_ref().map(|words| words.as_slice()) {
        // Striping only makes it faster: without `lfs` the default layout serves.
        let _ = std::process::Command::new(program)
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
    }
}

/// The command that makes a file with its layout: one that is already there cannot be given another.
fn stripe_command(file_system: i128, count: i32, path: &Path) -> Option<[OsString; 5]> {
    const LUSTRE: i128 = 0x0bd0_0bd0;
    (file_system == LUSTRE && count != 0).then(|| {
        let count = count.to_string();
        let words = ["lfs", "setstripe", "-c", &count].map(OsString::from);
        let [program, verb, option, count] = words;
        [program, verb, option, count, path.into()]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lustre_gets_stripes() {
        const EXT4: i128 = 0xef53;
        const LUSTRE: i128 = 0x0bd0_0bd0;
        let path = Path::new("/lustre/a b/image.sqsh");
        for (file_system, count, expected) in [
            (LUSTRE, 4, Some("4")),
            (LUSTRE, -1, Some("-1")),
            (LUSTRE, 0, None),
            (EXT4, 4, None),
        ] {
            let expected = expected.map(|count| {
                ["lfs", "setstripe", "-c", count, "/lustre/a b/image.sqsh"].map(OsString::from)
            });
            assert_eq!(stripe_command(file_system, count, path), expected);
        }
    }
}
