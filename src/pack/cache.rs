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
use std::fs::{File, Metadata, OpenOptions};
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

/// What pulls that were killed left half written, with its bytes.
pub fn leftovers(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let left = entries.filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(PARTIAL) {
            return None;
        }
        let metadata = entry.metadata().ok()?;
        // A slow layer's index is not written for hours: age says something only of processes that cannot be seen.
        let is_left = match lock::writer_lives(&name, PARTIAL) {
            Some(lives) => !lives,
            None => is_old(&metadata),
        };
        is_left.then(|| (entry.path(), metadata.len()))
    });
    left.collect()
}

fn is_old(metadata: &Metadata) -> bool {
    let modified = metadata.modified().ok();
    let age = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
    age.is_some_and(|age| age > ABANDONED)
}

/// Removes what killed pulls left, locks too; tells how many bytes of it are gone.
pub fn sweep(directory: &Path) -> u64 {
    lock::sweep(directory);
    let removed = leftovers(directory)
        .into_iter()
        // What another user left is theirs to remove.
        .filter(|(path, _)| std::fs::remove_file(path).is_ok());
    removed.map(|(_, bytes)| bytes).sum()
}

impl PackCache {
    /// Makes the directory if needed, and removes what killed processes left.
    pub fn open(directory: impl Into<PathBuf>) -> Result<PackCache> {
        let directory = directory.into();
        std::fs::create_dir_all(&directory)
            .or_say(|| format!("cannot make the pack cache `{}`", directory.display()))?;
        sweep(&directory);
        Ok(PackCache { directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_killed_pulls_left_is_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path();
        let write = |name: &str, hours: u64| {
            let path = directory.join(name);
            std::fs::write(&path, [0; 10]).unwrap();
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let age = Duration::from_secs(hours * 3600);
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let own = lock::mark();
        let (pid, rest) = own.split_once('-').unwrap();
        let (_, place) = rest.split_once('-').unwrap();
        let rows = [
            // The pid was used again: whoever wrote this is gone.
            (format!(".partial-{pid}-1-{place}-a.dat"), 0, false),
            (format!(".partial-{pid}-1-{place}-b.idx"), 0, false),
            (format!(".partial-{own}-c.dat"), 0, true),
            (format!(".partial-{own}-d.idx"), 9, true),
            (format!(".partial-{pid}-1-elsewhere-e.dat"), 1, true),
            (format!(".partial-{pid}-1-elsewhere-f.dat"), 9, false),
            ("a-v2.dat".to_string(), 9, true),
        ];
        for (name, hours, _) in &rows {
            write(name, *hours);
        }
        assert_eq!(leftovers(directory).len(), 3);
        assert_eq!(sweep(directory), 30);
        for (name, _, stays) in &rows {
            assert_eq!(directory.join(name).exists(), *stays, "{name}");
        }
        assert_eq!(sweep(directory), 0);
    }
}
