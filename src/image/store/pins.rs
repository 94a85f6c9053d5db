//! Pins: digests that a queued or running job needs. `rm` and `gc` leave them alone until the job is gone.

use super::{Store, files};
use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const MAX_BYTES: usize = 1 << 20;
/// A job is pinned before or just after `sbatch` answers: until then Slurm may not know it.
const GRACE: Duration = Duration::from_secs(300);

/// What one job needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pin {
    /// As Slurm prints it, `123` or `123_4`; other words name pins that only a person removes.
    pub job: String,
    /// Digest → reference.
    pub images: BTreeMap<String, String>,
    pub when: String,
    pub by: String,
}

impl Store {
    /// Keeps `digest` for a job; a job may pin several.
    pub fn pin(&self, job: &str, digest: &Digest, reference: &str) -> Result<()> {
        let relative = path_of(job)?;
        self.prepare()?;
        files::make_directory(
            &self.root().join("pins"),
            self.place().sharing.directory_mode(),
        )?;
        let mut pin = read(self.root(), &relative)
            .ok()
            .flatten()
            .unwrap_or_default();
        pin.job = job.to_string();
        pin.images.insert(digest.to_string(), reference.to_string());
        pin.when = super::now_text();
        pin.by = super::who();
        let mut text = serde_json::to_string_pretty(&pin).or_say(|| "cannot form a pin")?;
        text.push('\n');
        files::replace(
            &self.temporary(),
            &self.root().join(relative),
            text.as_bytes(),
            0o644,
        )
    }

    /// Lets go of everything that a job pinned; without a pin nothing happens.
    pub fn unpin(&self, job: &str) -> Result<()> {
        let path = self.root().join(path_of(job)?);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(files::explain(
                format!("cannot remove the pin of job `{job}`"),
                error,
            )),
            _ => Ok(()),
        }
    }

    /// All pins, with the age of each.
    pub fn pins(&self) -> Vec<(Pin, Duration)> {
        let entries = std::fs::read_dir(self.root().join("pins"))
            .into_iter()
            .flatten()
            .flatten();
        let mut found: Vec<(Pin, Duration)> = entries
            .filter_map(|entry| {
                let relative = Path::new("pins").join(entry.file_name());
                let pin = read(self.root(), &relative).ok().flatten()?;
                // A file under another job's name could not be unpinned.
                let named = path_of(&pin.job).is_ok_and(|path| path == relative);
                let modified = entry.metadata().and_then(|meta| meta.modified()).ok()?;
                let age = SystemTime::now()
                    .duration_since(modified)
                    .unwrap_or_default();
                named.then_some((pin, age))
            })
            .collect();
        found.sort_by(|a, b| a.0.job.cmp(&b.0.job));
        found
    }

    /// Digest → jobs that need it. Pins of jobs that Slurm no longer knows are removed on the way.
    pub fn pinned(&self) -> BTreeMap<Digest, Vec<String>> {
        let mut pinned: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let pins = self.pins();
        let asked: Vec<&str> = pins
            .iter()
            .filter(|(pin, age)| is_job(&pin.job) && *age > GRACE)
            .map(|(pin, _)| pin.job.as_str())
            .collect();
        let gone = gone(&asked);
        for (pin, _) in &pins {
            if gone.contains(pin.job.as_str()) {
                let _ = self.unpin(&pin.job);
                continue;
            }
            for digest in pin.images.keys().filter_map(|text| text.parse().ok()) {
                pinned.entry(digest).or_default().push(pin.job.clone());
            }
        }
        pinned
    }
}

/// `pins/<job>.json`; only plain names.
fn path_of(job: &str) -> Result<PathBuf> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+');
    if job.is_empty() || job.len() > 64 || !job.bytes().all(plain) {
        return Err(Error::usage(format!("`{job}` is not a job id")));
    }
    Ok(Path::new("pins").join(format!("{job}.json")))
}

fn read(root: &Path, relative: &Path) -> Result<Option<Pin>> {
    let Some(bytes) = files::read(root, relative, MAX_BYTES)? else {
        return Ok(None);
    };
    let pin = serde_json::from_slice(&bytes)
        .or_say(|| format!("cannot read the pin `{}`", relative.display()))?;
    Ok(Some(pin))
}

/// `123`, `123_4`, `123+1`.
fn is_job(job: &str) -> bool {
    job.bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'_' | b'+'))
        && job.starts_with(|c: char| c.is_ascii_digit())
}

/// The jobs that Slurm says are over. Without an answer every job counts as there.
fn gone<'a>(jobs: &[&'a str]) -> BTreeSet<&'a str> {
    if jobs.is_empty() {
        return BTreeSet::new();
    }
    let base = |job: &str| job.split(['_', '+']).next().unwrap_or_default().to_string();
    let ids: BTreeSet<String> = jobs.iter().map(|job| base(job)).collect();
    let list = ids.into_iter().collect::<Vec<_>>().join(",");
    let answer = Command::new("squeue")
        .args(["--noheader", "--format=%F", &format!("--jobs={list}")])
        .stdin(Stdio::null())
        .output();
    let Ok(answer) = answer else {
        return BTreeSet::new();
    };
    // With one job that is over, squeue fails and says so; with several it prints the others.
    let unknown = String::from_utf8_lossy(&answer.stderr).contains("Invalid job id");
    if !answer.status.success() && !unknown {
        return BTreeSet::new();
    }
    let text = String::from_utf8_lossy(&answer.stdout);
    let alive: BTreeSet<&str> = text.split_whitespace().collect();
    jobs.iter()
        .copied()
        .filter(|job| !alive.contains(base(job).as_str()))
        .collect()
}
