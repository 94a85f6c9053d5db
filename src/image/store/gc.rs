//! What to remove, decided over a listing; then removed. The decision is a value: `--dry-run` prints it.

use super::{Store, files};
use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::pack::cache::PARTIAL;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What may go.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Images not used for so long.
    pub older_than: Option<Duration>,
    /// Images that no reference names.
    pub unnamed: bool,
    /// Bytes that the packs may take.
    pub packs_limit: u64,
}

/// What is there.
#[derive(Debug, Default)]
pub struct Inventory {
    pub images: Vec<Image>,
    pub packs: Vec<Pack>,
    /// Digest → jobs that need it.
    pub pinned: BTreeMap<Digest, Vec<String>>,
    /// Bytes that processes left which are gone.
    pub leftovers: u64,
    /// Directories that could not be listed.
    pub unreadable: Vec<Error>,
}

#[derive(Clone, Debug)]
pub struct Image {
    pub digest: Digest,
    pub bytes: u64,
    pub references: Vec<String>,
    pub used: SystemTime,
}

/// One converted layer: its files have one stem.
#[derive(Clone, Debug)]
pub struct Pack {
    pub stem: String,
    pub bytes: u64,
    pub used: SystemTime,
}

/// What the rules decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub images: Vec<Gone>,
    pub packs: Vec<Gone>,
    /// Images that the rules name but a job needs.
    pub kept: Vec<(Digest, Vec<String>)>,
    /// Bytes of leftovers, which go whatever the rules.
    pub leftovers: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Digest of an image, stem of a pack.
    pub name: String,
    pub references: Vec<String>,
    pub bytes: u64,
    pub why: String,
}

impl Decision {
    pub fn bytes(&self) -> u64 {
        self.images
            .iter()
            .chain(&self.packs)
            .fold(self.leftovers, |sum, gone| sum.saturating_add(gone.bytes))
    }
}

/// Applies the rules. Packs go least recently used first until the rest fits.
pub fn decide(inventory: &Inventory, rules: &Rules, now: SystemTime) -> Decision {
    let mut decision = Decision {
        leftovers: inventory.leftovers,
        ..Decision::default()
    };
    for image in &inventory.images {
        let idle = now.duration_since(image.used).unwrap_or_default();
        let old = rules.older_than.is_some_and(|limit| idle >= limit);
        let unnamed = rules.unnamed && image.references.is_empty();
        let why = match (old, unnamed) {
            (true, _) => format!("not used for {}", days(idle)),
            (false, true) => "no reference names it".to_string(),
            (false, false) => continue,
        };
        if let Some(jobs) = inventory.pinned.get(&image.digest) {
            decision.kept.push((image.digest, jobs.clone()));
            continue;
        }
        decision.images.push(Gone {
            name: image.digest.to_string(),
            references: image.references.clone(),
            bytes: image.bytes,
            why,
        });
    }
    let mut packs: Vec<&Pack> = inventory.packs.iter().collect();
    packs.sort_by(|a, b| (a.used, &a.stem).cmp(&(b.used, &b.stem)));
    let mut total = packs
        .iter()
        .fold(0u64, |sum, pack| sum.saturating_add(pack.bytes));
    for pack in packs {
        if total <= rules.packs_limit {
            break;
        }
        total = total.saturating_sub(pack.bytes);
        decision.packs.push(Gone {
            name: pack.stem.clone(),
            references: Vec::new(),
            bytes: pack.bytes,
            why: "the cache is over its size".into(),
        });
    }
    decision
}

fn days(age: Duration) -> String {
    match age.as_secs() / 86_400 {
        0 => "less than a day".into(),
        1 => "1 day".into(),
        days => format!("{days} days"),
    }
}

impl Store {
    /// What the user's store holds.
    pub fn inventory(&self) -> Inventory {
        let listing = self.list_own();
        let images = listing.images.into_iter().map(|listed| Image {
            digest: listed.stored.digest,
            bytes: listed.stored.record.squashfs.size,
            references: listed.references,
            used: listed.used,
        });
        Inventory {
            images: images.collect(),
            packs: packs_in(&self.place().packs),
            pinned: self.pinned(),
            leftovers: self.leftovers(),
            unreadable: listing.unreadable,
        }
    }

    /// Removes what was decided. Pins are looked at again for each image.
    pub fn sweep(&self, decision: &Decision) -> Result<u64> {
        let mut freed = 0u64;
        for gone in &decision.images {
            let digest: Digest = gone.name.parse()?;
            self.remove_references_to(&digest)?;
            freed = freed.saturating_add(self.remove(&digest, false)?);
        }
        for gone in &decision.packs {
            freed = freed.saturating_add(remove_pack(&self.place().packs, &gone.name)?);
        }
        Ok(freed)
    }

    /// Keeps the packs within their size, after a pull. Trouble there is no reason for the pull to fail.
    pub fn trim_packs(&self) {
        let inventory = Inventory {
            packs: packs_in(&self.place().packs),
            ..Default::default()
        };
        let rules = Rules {
            packs_limit: self.place().packs_limit,
            ..Default::default()
        };
        let decision = decide(&inventory, &rules, SystemTime::now());
        for gone in &decision.packs {
            let _ = remove_pack(&self.place().packs, &gone.name);
        }
    }
}

impl Store {
    /// Which of these layers have a pack, by index; an estimate, for the parameters are not looked at.
    pub fn cached_layers(&self, diff_ids: &[Digest]) -> BTreeSet<usize> {
        let packs = packs_in(&self.place().packs);
        let is_cached =
            |digest: &Digest| packs.iter().any(|pack| pack.stem.contains(&digest.hex()));
        let cached = diff_ids
            .iter()
            .enumerate()
            .filter(|(_, digest)| is_cached(digest));
        cached.map(|(index, _)| index).collect()
    }

    /// Notes that the packs of these layers were used: not every file system keeps access times.
    pub fn touch_packs(&self, diff_ids: &[Digest]) {
        for pack in packs_in(&self.place().packs) {
            if diff_ids
                .iter()
                .any(|digest| pack.stem.contains(&digest.hex()))
            {
                let index = self.place().packs.join(format!("{}.idx", pack.stem));
                // Only the order of eviction depends on it.
                let _ = std::fs::File::open(index)
                    .and_then(|file| file.set_modified(SystemTime::now()));
            }
        }
    }
}

/// The packs of a directory. What a pull is writing now is none yet.
fn packs_in(directory: &Path) -> Vec<Pack> {
    let mut packs: BTreeMap<String, Pack> = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((stem, "dat" | "idx")) = name.to_str().and_then(|name| name.rsplit_once('.'))
        else {
            continue;
        };
        if stem.starts_with(PARTIAL) {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_file() {
            continue;
        }
        let times = [meta.accessed().ok(), meta.modified().ok()];
        let used = times
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let pack = packs.entry(stem.to_string()).or_insert_with(|| Pack {
            stem: stem.to_string(),
            bytes: 0,
            used,
        });
        pack.bytes = pack.bytes.saturating_add(meta.len());
        pack.used = pack.used.max(used);
    }
    packs.into_values().collect()
}

fn remove_pack(directory: &Path, stem: &str) -> Result<u64> {
    let mut freed = 0;
    // The index first: data without an index is not a pack.
    for suffix in ["idx", "dat"] {
        let path: PathBuf = directory.join(format!("{stem}.{suffix}"));
        let bytes = path.symlink_metadata().map_or(0, |meta| meta.len());
        match std::fs::remove_file(&path) {
            Ok(()) => freed += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(files::explain(
                    format!("cannot remove `{}`", path.display()),
                    error,
                ));
            }
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn digest(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64))
            .parse()
            .unwrap()
    }

    fn at(day: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(day * DAY)
    }

    fn inventory() -> Inventory {
        let image = |digit, names: &[&str], day| Image {
            digest: digest(digit),
            bytes: 100,
            references: names.iter().map(|name| name.to_string()).collect(),
            used: at(day),
        };
        let pack = |stem: &str, bytes, day| Pack {
            stem: stem.into(),
            bytes,
            used: at(day),
        };
        Inventory {
            images: vec![
                image('a', &["x:1"], 10),
                image('b', &[], 95),
                image('c', &["y:1"], 10),
                image('d', &[], 10),
            ],
            packs: vec![
                pack("new", 40, 99),
                pack("old", 30, 1),
                pack("middle", 50, 50),
            ],
            pinned: BTreeMap::from([(digest('c'), vec!["77".to_string()])]),
            leftovers: 7,
            unreadable: Vec::new(),
        }
    }

    #[test]
    fn rules() {
        let month = Some(Duration::from_secs(30 * DAY));
        for (older_than, unnamed, packs_limit, images, packs, kept) in [
            (None, false, 1000, "", "", ""),
            (month, false, 1000, "ad", "", "c"),
            (None, true, 1000, "bd", "", ""),
            (month, true, 1000, "abd", "", "c"),
            (None, false, 120, "", "", ""),
            (None, false, 119, "", "old", ""),
            (None, false, 89, "", "old middle", ""),
            (None, false, 0, "", "old middle new", ""),
        ] {
            let rules = Rules {
                older_than,
                unnamed,
                packs_limit,
            };
            let decision = decide(&inventory(), &rules, at(100));
            let digits: String = decision
                .images
                .iter()
                .filter_map(|gone| gone.name.chars().last())
                .collect();
            let stems: Vec<&str> = decision
                .packs
                .iter()
                .map(|gone| gone.name.as_str())
                .collect();
            let held: String = decision
                .kept
                .iter()
                .filter_map(|(digest, _)| digest.hex().chars().next())
                .collect();
            assert_eq!(
                (digits.as_str(), stems.join(" ").as_str(), held.as_str()),
                (images, packs, kept),
                "{rules:?}"
            );
            let gone = decision.images.iter().chain(&decision.packs);
            let bytes: u64 = gone.map(|gone| gone.bytes).sum();
            assert_eq!(decision.bytes(), bytes + 7, "leftovers go by no rule");
        }
    }

    #[test]
    fn packs_are_pairs_and_work_in_progress_is_not_listed() {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("a-1.dat", 10),
            ("a-1.idx", 2),
            ("b-1.dat", 5),
            (".tmp123", 7),
            (".partial-1-2-here-x.dat", 7),
            (".partial-1-2-here-x.idx", 7),
            ("c.lock", 1),
        ] {
            std::fs::write(directory.path().join(name), vec![0; bytes]).unwrap();
        }
        let packs = packs_in(directory.path());
        let sizes: Vec<(&str, u64)> = packs
            .iter()
            .map(|pack| (pack.stem.as_str(), pack.bytes))
            .collect();
        assert_eq!(sizes, [("a-1", 12), ("b-1", 5)]);
        assert_eq!(remove_pack(directory.path(), "a-1").unwrap(), 12);
        assert_eq!(remove_pack(directory.path(), "a-1").unwrap(), 0);
    }
}
