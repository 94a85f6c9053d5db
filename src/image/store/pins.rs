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
/// A job is pinned before or just after `sbatch` answers: a job that Slurm does not know may be known soon.
const GRACE: Duration = Duration::from_secs(300);
/// Slurm's words for jobs that are over; any other is of one that may run.
const ENDED: &[&str] = &[
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
];

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

    /// Digest → jobs that need it. Pins of jobs that are over are removed on the way.
    pub fn pinned(&self) -> BTreeMap<Digest, Vec<String>> {
        let mut pinned: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let pins = self.pins();
        let asked = pins.iter().filter(|(pin, _)| is_job(&pin.job));
        let known = ask(asked.map(|(pin, _)| pin.job.as_str()));
        for (pin, age) in &pins {
            let is_over = |known| is_job(&pin.job) && is_over(&pin.job, *age, known);
            if known.as_ref().is_some_and(is_over) {
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

/// The number of `123_4` and of `123+1`.
fn number(job: &str) -> &str {
    job.split(['_', '+']).next().unwrap_or_default()
}

/// Job number → whether it, or any job of its array, is still there. Nothing without an answer of Slurm.
type Known = BTreeMap<String, bool>;

/// What Slurm knows of these jobs, also of those that have ended.
fn ask<'a>(jobs: impl Iterator<Item = &'a str>) -> Option<Known> {
    let numbers: BTreeSet<&str> = jobs.map(number).collect();
    if numbers.is_empty() {
        return None;
    }
    let list = numbers.into_iter().collect::<Vec<_>>().join(",");
    let answer = Command::new("squeue")
        .args(["--noheader", "--states=all", "--format=%F %T"])
        .arg(format!("--jobs={list}"))
        .stdin(Stdio::null())
        .output()
        .ok()?;
    // With one job that it has forgotten, squeue fails and says so; with several it prints the others.
    let forgotten = String::from_utf8_lossy(&answer.stderr).contains("Invalid job id");
    (answer.status.success() || forgotten).then(|| parse(&String::from_utf8_lossy(&answer.stdout)))
}

fn parse(answer: &str) -> Known {
    let mut known = Known::new();
    for line in answer.lines() {
        let mut words = line.split_whitespace();
        if let (Some(number), Some(state)) = (words.next(), words.next()) {
            *known.entry(number.to_string()).or_default() |= !ENDED.contains(&state);
        }
    }
    known
}

/// Whether nobody will start an image for the job any more.
fn is_over(job: &str, age: Duration, known: &Known) -> bool {
    match known.get(number(job)) {
        Some(is_there) => !is_there,
        None => age > GRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_over_when_slurm_says_so_or_has_forgotten_them() {
        let known = parse(
            "10 RUNNING\n11 COMPLETED\n12 PENDING\n12 COMPLETED\n13 CANCELLED\n13 FAILED\n14 COMPLETING\n\
             15 OUT_OF_MEMORY\n16 A_NEW_WORD\n\n17\n",
        );
        for (job, young, old) in [
            ("10", false, false),
            ("11", true, true),
            // Some tasks of the array have still to run.
            ("12_1", false, false),
            ("13_1", true, true),
            ("14", false, false),
            ("15+1", true, true),
            ("16", false, false),
            // Not in the queue: not yet, or no longer.
            ("17", false, true),
            ("18", false, true),
        ] {
            assert_eq!(is_over(job, GRACE / 2, &known), young, "{job}, young");
            assert_eq!(is_over(job, GRACE * 2, &known), old, "{job}, old");
        }
    }
}
