//! The site's own copies of what ran: one file per event in a directory where everybody may add and nobody may change.
//!
//! The directory is the site's, with the sticky bit and without the right to list it (mode 1733): the kernel says by the
//! file's owner who wrote it, and keeps users from removing or replacing what others wrote. A record is therefore
//! believed about its owner's jobs only. What this cannot do: keep a user from changing what he himself wrote while he
//! owns the file; a site that must prevent that lets its epilog copy the files away (`slurm/site/epilog`).

use super::run_record::{LARGEST, RunRecord};
use crate::error::{Context, Error, Result};
use crate::image::store::now_text;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub schema: u32,
    /// `start` or `end`.
    pub event: String,
    pub written: String,
    pub record: RunRecord,
    /// `sha256:…` over the record's JSON.
    pub checksum: String,
}

/// Adds a copy; never touches one that is there.
pub fn add(directory: &Path, event: &str, record: &RunRecord) -> Result<PathBuf> {
    let failed = || {
        format!(
            "cannot add to the site's records in `{}`",
            directory.display()
        )
    };
    let place = std::fs::metadata(directory).or_say(failed)?;
    let mine = rustix::process::geteuid().as_raw();
    if place.uid() == mine && mine != 0 {
        return Err(Error::new(failed()).cause("the directory is your own"));
    }
    write(directory, event, record)
}

fn write(directory: &Path, event: &str, record: &RunRecord) -> Result<PathBuf> {
    let failed = || {
        format!(
            "cannot add to the site's records in `{}`",
            directory.display()
        )
    };
    let entry = Entry {
        schema: 1,
        event: event.to_string(),
        written: now_text(),
        checksum: checksum(record),
        record: record.clone(),
    };
    let mut text = serde_json::to_vec(&entry).or_say(failed)?;
    text.push(b'\n');
    let moment = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let job = match record.job.id.is_empty() {
        true => "local",
        false => &record.job.id,
    };
    let name = format!(
        "{}-{event}-{}.json",
        carrack_slurm::script::file_name(job),
        moment.as_nanos()
    );
    let path = directory.join(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o440)
        .open(&path)
        .or_say(failed)?;
    file.write_all(&text).or_say(failed)?;
    file.sync_all().or_say(failed)?;
    Ok(path)
}

fn checksum(record: &RunRecord) -> String {
    let text = serde_json::to_vec(record).unwrap_or_default();
    let digest = Sha256::digest(&text);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Reads an entry and checks that it is whole and that its owner is the user it speaks of.
pub fn read(path: &Path) -> Result<Entry> {
    let failed = || format!("cannot believe `{}`", path.display());
    let file = std::fs::File::open(path).or_say(failed)?;
    let owner = file.metadata().or_say(failed)?.uid();
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).or_say(failed)?;
    let entry: Entry = serde_json::from_slice(&text).or_say(failed)?;
    if entry.checksum != checksum(&entry.record) {
        return Err(Error::new(failed()).cause("its text is not as it was written (checksum)"));
    }
    if owner != entry.record.job.uid && owner != 0 {
        return Err(Error::new(failed()).cause(format!(
            "user {owner} wrote it, about a job of user {}",
            entry.record.job.uid
        )));
    }
    Ok(entry)
}

/// All entries of a directory by name; those that cannot be believed with the reason.
pub fn list(directory: &Path) -> Result<Vec<(PathBuf, Result<Entry>)>> {
    let entries = std::fs::read_dir(directory)
        .or_say(|| format!("cannot list the records in `{}`", directory.display()))
        .map_err(|error| error.hint("only the site's administrators may"))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    Ok(paths
        .into_iter()
        .map(|path| {
            let entry = read(&path);
            (path, entry)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RunRecord {
        let mut record = RunRecord {
            schema: 1,
            ..RunRecord::default()
        };
        record.job.id = "17".into();
        record.job.uid = rustix::process::geteuid().as_raw();
        record
    }

    #[test]
    fn what_was_changed_or_is_not_ones_own_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), "start", &record()).unwrap();
        assert_eq!(read(&path).unwrap().record, record());
        let text = std::fs::read_to_string(&path).unwrap();
        let forged = dir.path().join("forged.json");
        std::fs::write(&forged, text.replace("\"17\"", "\"18\"")).unwrap();
        assert!(
            read(&forged)
                .unwrap_err()
                .to_string()
                .contains("(checksum)")
        );
        let mut of_another = record();
        of_another.job.uid = 4_000_000;
        let path = write(dir.path(), "end", &of_another).unwrap();
        let owner = rustix::process::geteuid().as_raw();
        assert_eq!(
            read(&path).is_err(),
            owner != 0,
            "about a job of user 4000000"
        );
        assert_eq!(list(dir.path()).unwrap().len(), 3);
        // Every event is a file of its own: nothing is written twice.
        let first = write(dir.path(), "start", &record()).unwrap();
        assert_ne!(first, write(dir.path(), "start", &record()).unwrap());
    }
}
