//! Is there room? Asked before a conversion, so that it does not end after minutes with a full disk.

use crate::config::Size;
use crate::error::{Error, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes that will be written below one directory, and the setting that moves it.
#[derive(Clone, Debug)]
pub struct Need {
    pub directory: PathBuf,
    pub bytes: u64,
    pub what: &'static str,
    pub setting: &'static str,
}

/// What a conversion writes, from its layers' stored sizes: images and packs take about what the gzip layers did.
pub fn estimate(layers: impl IntoIterator<Item = (u64, bool)>) -> u64 {
    // Plain layers are compressed on the way; three to one is usual, two to one is safe.
    let sizes = layers
        .into_iter()
        .map(|(size, plain)| if plain { size / 2 } else { size });
    sizes.fold(0u64, u64::saturating_add)
}

/// Fails when a file system has less free than the needs that fall on it.
pub fn check(needs: &[Need]) -> Result<()> {
    let mut systems: Vec<(u64, u64, Vec<&Need>)> = Vec::new();
    for need in needs.iter().filter(|need| need.bytes > 0) {
        // A file system that does not tell is not a reason to stop.
        let Some((device, free)) = free_at(&need.directory) else {
            continue;
        };
        match systems.iter_mut().find(|(known, ..)| *known == device) {
            Some((.., list)) => list.push(need),
            None => systems.push((device, free, vec![need])),
        }
    }
    for (_, free, list) in systems {
        let total = list
            .iter()
            .fold(0u64, |sum, need| sum.saturating_add(need.bytes));
        if total > free {
            return Err(too_small(free, total, &list));
        }
    }
    Ok(())
}

fn too_small(free: u64, total: u64, list: &[&Need]) -> Error {
    let mut error = Error::new(format!(
        "not enough space: about {} needed, {} free",
        Size(total),
        Size(free)
    ));
    for need in list {
        error = error.cause(format!(
            "{} in `{}`: about {}",
            need.what,
            need.directory.display(),
            Size(need.bytes)
        ));
    }
    for need in list {
        error = error.hint(format!(
            "{} chooses another place for {}",
            need.setting, need.what
        ));
    }
    error.hint("`carrack gc` frees space")
}

/// Device and free bytes for this user, of the nearest directory that exists.
fn free_at(directory: &Path) -> Option<(u64, u64)> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let device = existing.metadata().ok()?.dev();
    Some((device, free(existing)?))
}

/// Free bytes for this user where `path` is.
pub fn free(path: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(path).ok()?;
    // Some network file systems answer with zeros.
    (system.f_blocks > 0).then(|| system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates() {
        assert_eq!(estimate([(100, false), (100, true)]), 150);
        assert_eq!(estimate([(u64::MAX, false), (100, false)]), u64::MAX);
        assert_eq!(estimate([]), 0);
    }

    #[test]
    fn needs_on_one_file_system_add_up() {
        let directory = tempfile::tempdir().unwrap();
        let free = free(directory.path()).unwrap();
        let need = |name: &str, bytes| Need {
            directory: directory.path().join(name),
            bytes,
            what: "the image",
            setting: "`CARRACK_STORE`",
        };
        assert!(check(&[need("a", 1), need("b/c", 1)]).is_ok());
        let share = free / 2 + free / 4;
        let told = check(&[need("a", share), need("b", share)])
            .unwrap_err()
            .to_string();
        for part in ["needed", "free", "`CARRACK_STORE`", "carrack gc"] {
            assert!(told.contains(part), "{told}");
        }
    }
}
