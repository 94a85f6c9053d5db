//! The provenance of one run: one JSON file in the job's directory, begun when the job starts, completed when it ends.
//!
//! The script writes it through `carrack record`; whatever a killed script could not say is filled in later from what
//! Slurm knows. Values of variables are not kept, only names: records are made to be passed on. Deliberately absent: a
//! daemon that watches jobs.

use super::files;
use super::queue::{self, Phase};
use crate::error::Result;
use crate::image::store::now_text;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

pub const SCHEMA: u32 = 1;
/// Some kilobytes per step.
pub const LARGEST: u64 = 64 << 20;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRecord {
    pub schema: u32,
    pub job: Job,
    pub image: Option<Image>,
    /// Under which rules it ran, and for what data; empty where the site has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub profile: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<String>,
    pub script: Script,
    /// What was there to read when the job started.
    pub inputs: Vec<Input>,
    pub steps: Vec<Step>,
    /// GPUs by node, as indices on it.
    pub gpus: BTreeMap<String, String>,
    pub versions: BTreeMap<String, String>,
    /// RFC 3339.
    pub start: String,
    /// Empty while the job runs, or when it was killed before it could say.
    pub end: String,
    pub exit_code: Option<i32>,
    /// `RUNNING`, `COMPLETED`, `FAILED`, or Slurm's word for another end.
    pub state: String,
    /// Results that could not be copied home stay in this directory of the nodes. Until the end is known they are all there.
    pub kept: String,
    /// Where stages copy results to, as the script names them.
    pub outputs: Vec<String>,
    /// Where the job ran and left what it wrote.
    pub output_directory: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    pub id: String,
    pub name: String,
    pub array: Option<String>,
    pub user: String,
    pub uid: u32,
    pub gid: u32,
    pub account: String,
    pub partition: String,
    pub cluster: String,
    pub nodes: Vec<String>,
    pub tasks: String,
    pub restarts: u32,
    /// What the user noted with the job (`--comment`).
    pub comment: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    pub reference: String,
    pub manifest_digest: String,
    pub config_digest: String,
    /// The root of the image: pins its content.
    pub squashfs: String,
    pub path: String,
    pub platform: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Script {
    pub sha256: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Input {
    pub path: String,
    pub files: u64,
    pub bytes: u64,
    /// The newest change below it, seconds since 1970.
    pub newest: u64,
    /// The port of a service that it was given to, and what was typed there: a path, an address or an identifier.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Of what was fetched or written for the job; what lies where it always lay is not read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}

impl Input {
    /// What is there now, under the same names.
    pub fn now(&self) -> Input {
        Input {
            port: self.port.clone(),
            source: self.source.clone(),
            sha256: self.sha256.clone(),
            ..input(Path::new(&self.path))
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    pub name: String,
    /// As it was started; values of variables are left out.
    pub argv: Vec<String>,
    pub image: Option<String>,
    pub mounts: Vec<Mount>,
    /// Names of the variables that were set.
    pub environment: Vec<String>,
    pub start: String,
    pub end: String,
    pub exit_code: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub spec: String,
    pub read_only: bool,
}

impl RunRecord {
    pub fn read(path: &Path) -> Result<RunRecord> {
        files::read_json(path, LARGEST)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_json(path, self)
    }

    /// Begins a record from what the batch script's environment says.
    pub fn begin(variable: &dyn Fn(&str) -> Option<String>) -> RunRecord {
        let text = |name: &str| variable(name).unwrap_or_default();
        let number = |name: &str| text(name).parse().unwrap_or(0);
        RunRecord {
            schema: SCHEMA,
            job: Job {
                id: text("SLURM_JOB_ID"),
                name: text("SLURM_JOB_NAME"),
                array: variable("SLURM_ARRAY_JOB_ID")
                    .zip(variable("SLURM_ARRAY_TASK_ID"))
                    .map(|(job, task)| format!("{job}_{task}")),
                user: variable("SLURM_JOB_USER")
                    .or_else(|| variable("USER"))
                    .unwrap_or_default(),
                uid: nix::unistd::getuid().as_raw(),
                gid: nix::unistd::getgid().as_raw(),
                account: text("SLURM_JOB_ACCOUNT"),
                partition: text("SLURM_JOB_PARTITION"),
                cluster: text("SLURM_CLUSTER_NAME"),
                nodes: Vec::new(),
                tasks: text("SLURM_NTASKS"),
                restarts: number("SLURM_RESTART_COUNT"),
                comment: String::new(),
            },
            start: now_text(),
            state: "RUNNING".to_string(),
            ..RunRecord::default()
        }
    }

    /// What the batch script itself says of the job.
    pub fn add_script(&mut self, text: &[u8]) {
        self.script.sha256 = hex(&Sha256::digest(text));
        let text = String::from_utf8_lossy(text);
        let mut options = text
            .lines()
            .filter_map(|line| line.strip_prefix("#SBATCH --"));
        if let Some(comment) = options.find_map(|option| option.strip_prefix("comment=")) {
            self.job.comment = carrack_slurm::quote::of_sbatch(comment);
        }
    }

    /// Ends a record; what Slurm knows of the job's state is better than what a code can tell.
    pub fn finish(&mut self, code: i32, kept: &str, slurms: Option<&str>) {
        self.end = now_text();
        self.exit_code = Some(code);
        self.kept = kept.to_string();
        let slurms = slurms.filter(|state| Phase::of(state) == Phase::Failed);
        self.state = slurms
            .unwrap_or(if code == 0 { "COMPLETED" } else { "FAILED" })
            .to_string();
    }

    /// Fills in the end of a job whose script was killed before it could say; true if there was something to fill in.
    pub fn complete(&mut self) -> bool {
        // A script that was ended from outside could only guess by whom.
        let guessed = self.exit_code.is_some_and(|code| code > 128);
        if (!self.end.is_empty() && !guessed) || self.job.id.is_empty() {
            return false;
        }
        let id = self.job.array.as_deref().unwrap_or(&self.job.id);
        let Ok(Some(status)) = queue::status(id) else {
            return false;
        };
        if !status.phase().is_over() {
            return false;
        }
        if self.end.is_empty() {
            self.exit_code = Some(i32::from(status.code()));
            self.end = status.end;
        } else if self.state == status.state {
            return false;
        }
        self.state = status.state;
        true
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A step from the words that started it.
pub fn step(name: &str, words: &[String], start: u64, code: i32) -> Step {
    let mut step = Step {
        name: name.to_string(),
        start: crate::image::store::text_of(
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(start),
        ),
        end: now_text(),
        exit_code: code,
        ..Step::default()
    };
    let launcher = words
        .windows(2)
        .position(|pair| pair[0] == "carrack" && matches!(pair[1].as_str(), "exec" | "run"))
        .map(|at| at + 2);
    let before = launcher.map_or(0, |at| at);
    let separator = words
        .iter()
        .skip(before)
        .position(|word| word == "--")
        .map(|at| at + before);
    let command = launcher.map(|_| separator.unwrap_or(words.len()));
    let mut index = 0;
    while let Some(word) = words.get(index) {
        let inside = launcher.is_some_and(|at| index >= at) && command.is_some_and(|at| index < at);
        let next = words.get(index + 1);
        match (inside, word.as_str(), next) {
            (true, "--bind" | "--mount", Some(spec)) => {
                step.mounts.push(Mount {
                    read_only: spec
                        .split([':', ',', '+'])
                        .skip(1)
                        .any(|flag| flag == "ro" || flag == "readonly"),
                    spec: spec.clone(),
                });
                step.argv.extend([word.clone(), spec.clone()]);
                index += 2;
            }
            (true, "--env", Some(rule)) => {
                let shown = step.environment_name(rule);
                step.argv.extend([word.clone(), shown]);
                index += 2;
            }
            // `env A=b srun …` stands before the launcher's own words.
            (false, rule, _)
                if words.first().is_some_and(|first| first == "env")
                    && rule.contains('=')
                    && index < before
                    && !rule.starts_with('-') =>
            {
                let name = step.environment_name(rule);
                step.argv.push(name);
                index += 1;
            }
            _ => {
                step.argv.push(word.clone());
                index += 1;
            }
        }
    }
    step.image = command
        .and_then(|at| words.get(at.checked_sub(1)?))
        .cloned();
    step
}

impl Step {
    /// Notes the name of a variable that is set, and gives the rule without its value.
    fn environment_name(&mut self, rule: &str) -> String {
        match rule.split_once('=') {
            Some((name, _)) => {
                self.environment.push(name.to_string());
                format!("{name}=…")
            }
            None => {
                self.environment.push(rule.to_string());
                rule.to_string()
            }
        }
    }
}

/// What is there at a path, without reading it: enough to say later whether it changed.
pub fn input(path: &Path) -> Input {
    let mut found = Input {
        path: path.display().to_string(),
        ..Input::default()
    };
    let mut pending = vec![path.to_path_buf()];
    // A directory with more entries than this is described by its first ones.
    let mut budget = 100_000;
    while let Some(next) = pending.pop() {
        budget -= 1;
        let first = next == path;
        let metadata = if first {
            std::fs::metadata(&next)
        } else {
            std::fs::symlink_metadata(&next)
        };
        let (Ok(metadata), true) = (metadata, budget > 0) else {
            continue;
        };
        if metadata.is_dir() {
            let mut inside: Vec<_> = std::fs::read_dir(&next)
                .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                .unwrap_or_default();
            inside.sort();
            pending.extend(inside);
        } else {
            use std::os::unix::fs::MetadataExt;
            found.files += 1;
            found.bytes += metadata.len();
            found.newest = found
                .newest
                .max(u64::try_from(metadata.mtime()).unwrap_or(0));
        }
    }
    found
}

/// `Nodes=n[1-2] CPU_IDs=0 Mem=100 GRES=gpu:1(IDX:0)` of `scontrol --details` → node list and its GPUs.
pub fn gpus(details: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in details.split(" Nodes=").skip(1) {
        let nodes = part.split(' ').next().unwrap_or_default();
        let Some(gres) = part.split(' ').find_map(|word| word.strip_prefix("GRES=")) else {
            continue;
        };
        if let Some(indices) = gres
            .split("gpu")
            .nth(1)
            .and_then(|rest| rest.split("IDX:").nth(1))
        {
            found.insert(
                nodes.to_string(),
                indices.split(')').next().unwrap_or_default().to_string(),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_string).collect()
    }

    #[test]
    fn a_step_keeps_names_but_no_values() {
        let step = step(
            "wrf",
            &words(
                "env SECRET=1 srun --mpi=pmix carrack exec --bind /a:/b:ro --bind /c --env TOKEN=2 --env PASS docker://x@sha256:1 -- ./wrf --env KEEP=3",
            ),
            0,
            3,
        );
        assert_eq!(
            step.argv.join(" "),
            "env SECRET=… srun --mpi=pmix carrack exec --bind /a:/b:ro --bind /c --env TOKEN=… --env PASS docker://x@sha256:1 -- ./wrf --env KEEP=3"
        );
        assert_eq!(step.environment, ["SECRET", "TOKEN", "PASS"]);
        assert_eq!(step.image.as_deref(), Some("docker://x@sha256:1"));
        assert_eq!(
            step.mounts
                .iter()
                .map(|mount| (mount.spec.as_str(), mount.read_only))
                .collect::<Vec<_>>(),
            [("/a:/b:ro", true), ("/c", false)]
        );
        assert_eq!(
            (step.start.as_str(), step.exit_code),
            ("1970-01-01T00:00:00Z", 3)
        );
    }

    #[test]
    fn a_step_on_the_bare_node_has_no_image() {
        let step = step("tidy", &words("srun rm -f --bind x"), 0, 0);
        assert_eq!((step.image, step.mounts.len()), (None, 0));
        assert_eq!(step.argv.join(" "), "srun rm -f --bind x");
    }

    #[test]
    fn the_end_is_slurms_word_when_slurm_ended_it() {
        let rows = [
            (0, None, "COMPLETED"),
            (0, Some("RUNNING"), "COMPLETED"),
            (9, Some("COMPLETING"), "FAILED"),
            (143, Some("TIMEOUT"), "TIMEOUT"),
            (143, Some("CANCELLED"), "CANCELLED"),
        ];
        for (code, slurms, state) in rows {
            let mut record = RunRecord::default();
            record.finish(code, "", slurms);
            assert_eq!(
                (record.state.as_str(), record.exit_code),
                (state, Some(code))
            );
        }
    }

    #[test]
    fn gpus_of_nodes() {
        let details = "JobId=1 TRES=x  Nodes=n1 CPU_IDs=0-1 Mem=200 GRES=gpu:2(IDX:0-1) Nodes=n2 CPU_IDs=0 Mem=100 GRES=gpu:a100:1(IDX:1) Nodes=n3 CPU_IDs=0 Mem=1 GRES=";
        let found = gpus(details);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("n1", "0-1"), ("n2", "1")].map(|(n, g)| (n.to_string(), g.to_string()))
        );
    }

    #[test]
    fn inputs_are_described_without_reading_them() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("sub")).expect("made");
        std::fs::write(dir.path().join("sub/a"), "12345").expect("written");
        std::fs::write(dir.path().join("b"), "1").expect("written");
        let found = input(dir.path());
        assert_eq!((found.files, found.bytes), (2, 6));
        assert!(found.newest > 0);
        assert_eq!(input(Path::new("/no/such/file")).files, 0);
    }
}
