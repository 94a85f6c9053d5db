//! What was submitted from here: one directory per job with the script and a note, on the shared home.
//!
//! ```text
//! $XDG_STATE_HOME/carrack/jobs/   (else ~/.local/state/carrack/jobs/)
//!   20261121-091503-wrf-fire-1a2b/script.sh
//!   20261121-091503-wrf-fire-1a2b/job.json
//! ```
//! A directory's name is its own, so two submits at once never meet. Deliberately absent: states, which only Slurm knows.

use super::files;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A note is a few hundred bytes.
const LARGEST: u64 = 1 << 20;

/// One submitted job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Submission {
    pub schema: u32,
    /// Slurm's number; `local-…` for a job that ran without Slurm.
    pub id: String,
    pub name: String,
    pub cluster: String,
    /// RFC 3339.
    pub submitted: String,
    pub script: PathBuf,
    /// Where the job runs.
    pub directory: PathBuf,
    /// The log's path, with sbatch's patterns.
    pub output: String,
    /// The run record's path, with the same patterns; empty if the script writes none.
    pub record: String,
    pub job_file: Option<PathBuf>,
    /// As the user wrote it, and the digest that it had.
    pub image: Option<String>,
    pub digest: Option<String>,
    pub array: bool,
    /// What `--array` says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tasks: String,
    /// The code of a job that ran here, when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u8>,
    /// Numbers of the jobs that it waits for.
    pub after: Vec<String>,
}

impl Submission {
    /// Whether it ran on the machine that it was submitted on, without Slurm.
    pub fn is_local(&self) -> bool {
        self.id.starts_with("local-")
    }

    /// The log, for the whole job or one job of the array.
    pub fn output_path(&self, task: Option<&str>) -> PathBuf {
        self.directory.join(expand(&self.output, self, task))
    }

    pub fn record_path(&self, task: Option<&str>) -> Option<PathBuf> {
        (!self.record.is_empty()).then(|| self.directory.join(expand(&self.record, self, task)))
    }

    /// The tasks of an array that have begun a record, in their order.
    pub fn begun_tasks(&self) -> Vec<u32> {
        // No path has a NUL: what stands in its place is the task.
        let pattern = self.record_path(Some("\0")).filter(|_| self.array);
        let Some((directory, name)) = pattern.as_deref().and_then(|path| {
            let name = path.file_name()?.to_str()?;
            path.parent().zip(name.split_once('\0'))
        }) else {
            return Vec::new();
        };
        let task = |entry: std::fs::DirEntry| -> Option<u32> {
            let file = entry.file_name();
            let task = file.to_str()?.strip_prefix(name.0)?.strip_suffix(name.1)?;
            task.parse().ok()
        };
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        let mut found: Vec<u32> = entries.flatten().filter_map(task).collect();
        found.sort_unstable();
        found
    }

    /// What to say when a word names an array where one of its tasks is meant.
    pub fn is_an_array(&self, word: &str) -> Error {
        let tasks = self.begun_tasks();
        let names: Vec<String> = tasks.iter().map(|t| format!("{}_{t}", self.id)).collect();
        let shown = match names.as_slice() {
            [] => format!("{}_TASK", self.id),
            [first, _, .., last] => format!("{first} … {last}"),
            few => few.join(", "),
        };
        Error::usage(format!("job `{word}` is an array"))
            .cause("each of its tasks has a log and a record of its own")
            .hint(format!("name one of its tasks: {shown}"))
    }

    /// Its place among those of one second: the number that Slurm gave it.
    fn number(&self) -> u64 {
        self.id.parse().unwrap_or(0)
    }
}

/// sbatch's patterns in a file name.
fn expand(pattern: &str, job: &Submission, task: Option<&str>) -> String {
    let mut text = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        // A number pads what follows; none of ours has one, people's may.
        let mut pattern = rest.next();
        let mut width = 0;
        while let Some(digit) = pattern.and_then(|c| c.to_digit(10)) {
            width = (width * 10 + digit as usize).min(10);
            pattern = rest.next();
        }
        match pattern {
            Some('%') => text.push('%'),
            Some('j' | 'A') => text.push_str(&format!("{:0>width$}", job.id)),
            Some('a') => match (task, width) {
                (Some(task), _) => text.push_str(&format!("{task:0>width$}")),
                // Each task has its own.
                (None, 0) if job.array => text.push_str("%a"),
                (None, _) if job.array => text.push_str(&format!("%{width}a")),
                (None, _) => text.push_str(&format!("{:0>width$}", "0")),
            },
            Some('x') => text.push_str(&job.name),
            Some('u') => text.push_str(&std::env::var("USER").unwrap_or_default()),
            Some('n' | 't') => text.push('0'),
            Some(other) => text.extend(['%', other]),
            None => text.push('%'),
        }
    }
    text
}

/// When a job was submitted. A directory's name tells the second and then ends by chance, so within one the file system's
/// clock tells when the note was written; where that counts in seconds too, Slurm's numbers grow.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    second: String,
    noted: SystemTime,
    number: u64,
}

/// All submissions of this user, newest first.
pub struct Journal {
    root: PathBuf,
}

impl Journal {
    /// The user's own, from the environment.
    pub fn open() -> Result<Journal> {
        let set = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let state = match (set("CARRACK_STATE"), set("XDG_STATE_HOME"), set("HOME")) {
            (Some(state), _, _) => state,
            (None, Some(state), _) => state.join("carrack"),
            (None, None, Some(home)) => home.join(".local/state/carrack"),
            (None, None, None) => {
                return Err(Error::new("cannot tell where to note submitted jobs")
                    .cause("neither `$HOME` nor `$XDG_STATE_HOME` is set")
                    .hint("set `CARRACK_STATE` to a directory on the shared file system"));
            }
        };
        Ok(Journal::at(state.join("jobs")))
    }

    pub fn at(root: impl Into<PathBuf>) -> Journal {
        Journal { root: root.into() }
    }

    /// Makes a directory for a new job and puts the script there.
    pub fn begin(&self, name: &str, script: &str) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.root).or_say(|| {
            format!(
                "cannot make the directory `{}` for submitted jobs",
                self.root.display()
            )
        })?;
        let stamp: String = crate::image::store::now_text()
            .chars()
            .filter(char::is_ascii_digit)
            .take(14)
            .collect();
        let directory = tempfile::Builder::new()
            .prefix(&format!(
                "{stamp}-{}-",
                carrack_slurm::script::file_name(name)
            ))
            .rand_bytes(4)
            .tempdir_in(&self.root)
            .or_say(|| format!("cannot make a directory in `{}`", self.root.display()))?;
        let path = directory.path().join("script.sh");
        files::write(&path, script.as_bytes(), 0o755)?;
        let _ = directory.keep();
        Ok(path)
    }

    /// Notes what became of it, beside the script.
    pub fn note(&self, submission: &Submission) -> Result<()> {
        let Some(directory) = submission.script.parent() else {
            return Ok(());
        };
        files::write_json(&directory.join("job.json"), submission)
    }

    /// Forgets a job that was never submitted.
    pub fn forget(&self, script: &Path) {
        if let Some(directory) = script
            .parent()
            .filter(|directory| directory.parent() == Some(&self.root))
        {
            let _ = std::fs::remove_dir_all(directory);
        }
    }

    pub fn all(&self) -> Vec<Submission> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten();
        let mut found: Vec<(Moment, Submission)> = entries
            .flatten()
            .filter_map(|entry| {
                let note = entry.path().join("job.json");
                let submission: Submission = files::read_json(&note, LARGEST).ok()?;
                let moment = Moment {
                    second: entry
                        .file_name()
                        .to_string_lossy()
                        .split('-')
                        .next()?
                        .into(),
                    noted: std::fs::metadata(&note).ok()?.modified().ok()?,
                    number: submission.number(),
                };
                (!submission.id.is_empty()).then_some((moment, submission))
            })
            .collect();
        found.sort_by(|(one, _), (other, _)| other.cmp(one));
        found
            .into_iter()
            .map(|(_, submission)| submission)
            .collect()
    }

    /// The job that a person means by a number, a number with a task of an array, or a name (the newest of that name).
    pub fn find(&self, word: &str) -> Option<(Submission, Option<String>)> {
        let all = self.all();
        let (id, task) = match word.split_once('_') {
            Some((id, task))
                if super::queue::check_id(word.strip_prefix("local-").unwrap_or(word)).is_ok() =>
            {
                (id, Some(task.to_string()))
            }
            _ => (word, None),
        };
        let by_id = all.iter().find(|submission| submission.id == id);
        let found = by_id.map(|submission| (submission, task));
        let found = found.or_else(|| {
            all.iter()
                .find(|submission| submission.name == word)
                .map(|found| (found, None))
        });
        found.map(|(submission, task)| (submission.clone(), task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submission(id: &str, name: &str) -> Submission {
        Submission {
            id: id.to_string(),
            name: name.to_string(),
            directory: PathBuf::from("/scratch/alice"),
            output: "50%%-%A_%3a.out".to_string(),
            ..Submission::default()
        }
    }

    #[test]
    fn found_by_number_and_by_name_the_newest_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::at(dir.path().join("jobs"));
        assert!(journal.all().is_empty());
        for (id, name) in [("11", "wrf"), ("12", "other"), ("13", "wrf")] {
            let script = journal.begin(name, "#!/bin/bash\n").expect("begun");
            // Names of one second sort by chance.
            let later = script.parent().expect("a parent").with_file_name(id);
            std::fs::rename(script.parent().expect("a parent"), &later).expect("renamed");
            let noted = Submission {
                script: later.join("script.sh"),
                ..submission(id, name)
            };
            journal.note(&noted).expect("noted");
        }
        let find = |word: &str| journal.find(word).map(|(found, task)| (found.id, task));
        assert_eq!(find("wrf"), Some(("13".to_string(), None)));
        assert_eq!(find("11"), Some(("11".to_string(), None)));
        assert_eq!(
            find("12_4"),
            Some(("12".to_string(), Some("4".to_string())))
        );
        assert_eq!(find("nothing"), None);
    }

    #[test]
    fn of_those_of_one_second_the_last_is_the_newest() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::at(dir.path());
        let rows = [
            ("20261121091503-wrf-zzzz", "9", 20),
            ("20261121091503-wrf-bbbb", "local-77", 30),
            ("20261121091503-wrf-yyyy", "99", 40),
            // A file system that counts in seconds leaves it to the numbers.
            ("20261121091503-wrf-aaaa", "100", 40),
            ("20261121091502-wrf-cccc", "101", 50),
        ];
        for (name, id, nanoseconds) in rows {
            let directory = dir.path().join(name);
            std::fs::create_dir(&directory).expect("made");
            let noted = Submission {
                script: directory.join("script.sh"),
                ..submission(id, "wrf")
            };
            journal.note(&noted).expect("noted");
            let file = std::fs::File::options()
                .append(true)
                .open(directory.join("job.json"));
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::new(7, nanoseconds);
            file.and_then(|file| file.set_modified(time)).expect("set");
        }
        let ids: Vec<String> = journal.all().into_iter().map(|job| job.id).collect();
        assert_eq!(ids, ["100", "99", "local-77", "9", "101"]);
        assert_eq!(journal.find("wrf").expect("found").0.id, "100");
    }

    #[test]
    fn an_array_is_known_by_its_tasks() {
        let dir = tempfile::tempdir().expect("a directory");
        let array = |directory: &Path| Submission {
            array: true,
            directory: directory.to_path_buf(),
            record: "wrf-%A_%a.json".to_string(),
            output: "wrf-%A_%3a.out".to_string(),
            ..submission("18", "wrf")
        };
        let job = array(dir.path());
        let shown = || job.is_an_array("wrf").hints().join("; ");
        assert_eq!(shown(), "name one of its tasks: 18_TASK");
        for (task, expected) in [("10", "18_10"), ("2", "18_2, 18_10"), ("9", "18_2 … 18_10")] {
            for name in [format!("wrf-18_{task}.json"), format!("wrf-18_{task}.out")] {
                std::fs::write(dir.path().join(name), "").expect("written");
            }
            let expected = format!("name one of its tasks: {expected}");
            assert_eq!(shown(), expected);
        }
        assert_eq!(job.begun_tasks(), [2, 9, 10]);
        let path = array(Path::new("/w")).output_path(None);
        assert_eq!(path, Path::new("/w/wrf-18_%3a.out"));
        assert!(submission("18", "wrf").begun_tasks().is_empty());
    }

    #[test]
    fn a_job_that_was_not_submitted_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::at(dir.path());
        let script = journal.begin("a/b", "x").expect("begun");
        assert!(script.is_file());
        journal.forget(&script);
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("a directory").count(),
            0
        );
    }

    #[test]
    fn patterns_of_sbatch() {
        let job = submission("7", "wrf");
        assert_eq!(
            job.output_path(Some("4")),
            Path::new("/scratch/alice/50%-7_004.out")
        );
        assert_eq!(expand("%x-%5j-%q%", &job, None), "wrf-00007-%q%");
    }
}
