//! Is there room? Asked before a conversion, so that it does not end after minutes with a full disk.

use crate::config::Size;
use crate::error::{Error, Result};
use crate::sys::quota::{self, Quota, Whose};
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
    let mut systems: Vec<(u64, Room, Vec<&Need>)> = Vec::new();
    for need in needs.iter().filter(|need| need.bytes > 0) {
        // A file system that does not tell is not a reason to stop.
        let Some((device, room)) = room_at(&need.directory) else {
            continue;
        };
        match systems.iter_mut().find(|(known, ..)| *known == device) {
            Some((.., list)) => list.push(need),
            None => systems.push((device, room, vec![need])),
        }
    }
    for (_, room, list) in systems {
        let total = list
            .iter()
            .fold(0u64, |sum, need| sum.saturating_add(need.bytes));
        if total > room.bytes() {
            return Err(too_small(&room, total, &list));
        }
    }
    Ok(())
}

fn too_small(room: &Room, total: u64, list: &[&Need]) -> Error {
    let have = match room.quota.filter(|quota| quota.left() < room.free) {
        Some(quota) => format!(
            "{} left of a quota of {}",
            Size(quota.left()),
            Size(quota.limit)
        ),
        None => format!("{} free", Size(room.free)),
    };
    let mut error = Error::new(format!(
        "not enough space: about {} needed, {have}",
        Size(total)
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

/// What there is for this user where a directory is.
struct Room {
    /// Of the file system.
    free: u64,
    /// The tightest one, as far as the kernel knows of quotas.
    quota: Option<Quota>,
}

impl Room {
    fn bytes(&self) -> u64 {
        let left = self.quota.map_or(u64::MAX, |quota| quota.left());
        self.free.min(left)
    }
}

/// Device and room of the nearest directory that exists.
fn room_at(directory: &Path) -> Option<(u64, Room)> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let device = existing.metadata().ok()?.dev();
    let free = free(existing)?;
    let quota = quota(existing);
    Some((device, Room { free, quota }))
}

/// Free bytes for this user where `path` is.
pub fn free(path: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(path).ok()?;
    // Some network file systems answer with zeros.
    (system.f_blocks > 0).then(|| system.f_bavail.saturating_mul(system.f_frsize))
}

/// The tightest quota of the user and the groups that files below `path` may count for. Lustre, GPFS and NFS keep theirs
/// to themselves: there only a failed write tells.
pub fn quota(path: &Path) -> Option<Quota> {
    let directory = std::fs::File::open(path).ok()?;
    let mut whose = vec![
        Whose::User(rustix::process::geteuid().as_raw()),
        Whose::Group(rustix::process::getegid().as_raw()),
    ];
    // A directory with this bit hands its group down.
    let meta = directory.metadata().ok()?;
    if meta.mode() & 0o2000 != 0 {
        whose.push(Whose::Group(meta.gid()));
    }
    let known = whose
        .into_iter()
        .filter_map(|whose| quota::bytes(&directory, whose).ok()?);
    known.min_by_key(Quota::left)
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
