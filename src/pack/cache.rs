//! The directory of packs: found by key, published whole, shared by processes and nodes.
//!
//! ```text
//! <diff_id hex>-<parameters>.dat     stored blocks
//! <diff_id hex>-<parameters>.idx     written last: a pack exists when this does; its mtime is its last use
//! <diff_id hex>-<parameters>.lock    somebody packs it now
//! .partial-<process>-*               being written; removed when that process is gone, or when old
//! ```
//! Removing a pack at any time costs work, never correctness: users of a pack hold it open.

use crate::error::{Context, Result};
use crate::image::digest::Digest;
use crate::image::lock::{self, Lock, Owner};
use crate::pack::FORMAT;
use crate::pack::index::Index;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What processes of other hosts left is removed after this long without a write.
const ABANDONED: Duration = Duration::from_secs(6 * 3600);

/// Packs in one directory. Many processes on many nodes may use it at once.
#[derive(Clone, Debug)]
pub struct PackCache {
    directory: PathBuf,
}

/// How the names of packs begin that are being written.
pub const PARTIAL: &str = ".partial-";

/// What a pack's bytes depend on beside its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub block_size: u32,
    pub level: i32,
    pub hot_raw: bool,
}

impl Parameters {
    /// Part of file names: format, compressor with its version, block size, level.
    fn text(&self) -> String {
        format!(
            "v{FORMAT}-zstd{}-{}k-l{}{}",
            zstd::zstd_safe::version_number(),
            self.block_size >> 10,
            self.level,
            if self.hot_raw { "-hot2" } else { "" }
        )
    }
}

/// A pack that is ready to be used, held open.
pub struct Pack {
    pub index: Index,
    pub dat: File,
}

/// Two files being written, removed unless published.
pub struct Building {
    dat: PathBuf,
    idx: PathBuf,
}

impl PackCache {
    /// Makes the directory if needed, and removes what killed processes left.
    pub fn open(directory: impl Into<PathBuf>) -> Result<PackCache> {
        let directory = directory.into();
        std::fs::create_dir_all(&directory)
            .or_say(|| format!("cannot make the pack cache `{}`", directory.display()))?;
        let cache = PackCache { directory };
        cache.sweep();
        Ok(cache)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn sweep(&self) {
        lock::sweep(&self.directory);
        let Ok(entries) = std::fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with(PARTIAL) {
                continue;
            }
            if lock::is_abandoned(&name, PARTIAL) {
                let _ = std::fs::remove_file(entry.path());
                continue;
            }
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|time| SystemTime::now().duration_since(time).ok());
            if age.is_some_and(|age| age > ABANDONED) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, diff_id: &Digest, parameters: &Parameters, extension: &str) -> PathBuf {
        self.directory.join(format!(
            "{}-{}.{extension}",
            diff_id.hex(),
            parameters.text()
        ))
    }

    /// The pack of this layer, if it is here and whole. A broken one is as good as none: it will be written again.
    pub fn find(&self, diff_id: &Digest, parameters: &Parameters) -> Option<Pack> {
        let idx = File::open(self.path(diff_id, parameters, "idx")).ok()?;
        let dat = File::open(self.path(diff_id, parameters, "dat")).ok()?;
        let used = idx.try_clone().ok()?;
        let index = Index::open(idx, parameters.block_size).ok()?;
        if index.summary.diff_id != *diff_id || dat.metadata().ok()?.len() != index.blocks.length {
            return None;
        }
        // Fails for other people's packs, which they look after themselves.
        let _ = used.set_modified(SystemTime::now());
        Some(Pack { index, dat })
    }

    /// Waits until nobody else packs this layer; `None` when the pack appeared meanwhile.
    pub fn lock(
        &self,
        diff_id: &Digest,
        parameters: &Parameters,
        waiting: &mut dyn FnMut(&Owner) -> bool,
    ) -> Result<Option<Lock>> {
        Lock::acquire(&self.path(diff_id, parameters, "lock"), waiting)
    }

    /// Two new empty files in the cache's directory.
    pub fn build(&self) -> Result<(Building, File, File)> {
        let create = |extension: &str| -> Result<(PathBuf, File)> {
            let name = tempfile::Builder::new()
                .prefix(&format!("{PARTIAL}{}-", lock::mark()))
                .suffix(extension)
                .rand_bytes(12)
                .make_in(&self.directory, |path| {
                    // Not private as temporary files usually are: the umask decides who may share packs.
                    OpenOptions::new()
                        .read(true)
                        .write(true)
                        .create_new(true)
                        .open(path)
                })
                .or_say(|| {
                    format!(
                        "cannot write into the pack cache `{}`",
                        self.directory.display()
                    )
                })?;
            let (file, path) = name.into_parts();
            let path = path.keep().or_say(|| {
                format!(
                    "cannot write into the pack cache `{}`",
                    self.directory.display()
                )
            })?;
            Ok((path, file))
        };
        let (dat, dat_file) = create(".dat")?;
        let mut building = Building {
            dat,
            idx: PathBuf::new(),
        };
        let (idx, idx_file) = create(".idx")?;
        building.idx = idx;
        Ok((building, dat_file, idx_file))
    }

    /// Gives a finished pack its name.
    pub fn publish(
        &self,
        building: Building,
        files: (&File, &File),
        diff_id: &Digest,
        parameters: &Parameters,
    ) -> Result<()> {
        let (dat, idx) = files;
        let rename = |from: &Path, extension: &str| {
            std::fs::rename(from, self.path(diff_id, parameters, extension))
        };
        dat.sync_data()
            .and_then(|()| idx.sync_data())
            .and_then(|()| rename(&building.dat, "dat"))
            .and_then(|()| rename(&building.idx, "idx"))
            .and_then(|()| File::open(&self.directory)?.sync_all())
            .or_say(|| format!("cannot publish a pack in `{}`", self.directory.display()))
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // After publishing these names are gone already.
        let _ = std::fs::remove_file(&self.dat);
        let _ = std::fs::remove_file(&self.idx);
    }
}
