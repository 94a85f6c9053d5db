//! Slurm's commands, asked as a person would, and what they say about a job.
//!
//! squeue knows what waits and runs, scontrol also what ended a while ago, sacct all of it where the site keeps accounts.
//! Deliberately absent: libslurm. Its ABI changes with each release; these commands and their output do not.

use super::accounts;
use crate::config::nearest;
use crate::error::{Context, Error, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What became of a job, in five words that programs can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Phase {
    Waiting,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

impl Phase {
    /// The phase of a job in one of Slurm's states; flags such as `CANCELLED by 1000` may follow the word.
    pub fn of(state: &str) -> Phase {
        match state.split([' ', '+']).next().unwrap_or_default() {
            "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED"
            | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => Phase::Waiting,
            "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "RESIZING" | "SIGNALING"
            | "STAGE_OUT" => Phase::Running,
            "COMPLETED" => Phase::Succeeded,
            "FAILED" | "TIMEOUT" | "CANCELLED" | "OUT_OF_MEMORY" | "NODE_FAIL" | "BOOT_FAIL"
            | "DEADLINE" | "PREEMPTED" | "REVOKED" | "LAUNCH_FAILED" => Phase::Failed,
            _ => Phase::Unknown,
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// A job as Slurm knows it now.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// `123` or `123_4`.
    pub id: String,
    /// Slurm's word: `RUNNING`, `NODE_FAIL`, …
    pub state: String,
    /// Why it waits or ended, in Slurm's words; empty if there is no reason.
    pub reason: String,
    pub nodes: String,
    /// As Slurm prints times, in the local zone; empty if there is none yet.
    pub start: String,
    pub end: String,
    pub exit_code: Option<i32>,
    /// The signal that ended it; 0 for none.
    pub signal: i32,
    pub output: Option<String>,
    pub partition: String,
    /// The code is only what accounts make of it.
    #[serde(skip)]
    pub from_accounts: bool,
}

impl Status {
    pub fn phase(&self) -> Phase {
        Phase::of(&self.state)
    }

    /// What `wait` ends with: the job's own code, 128+N for a signal, never 0 for a job that did not end well.
    pub fn code(&self) -> u8 {
        let code = match (self.exit_code, self.signal) {
            (Some(code), 0) => code,
            (_, signal) => 128 + signal,
        };
        match (self.phase(), u8::try_from(code & 0xff).unwrap_or(1)) {
            (Phase::Succeeded, code) => code,
            (_, 0) => 1,
            (_, code) => code,
        }
    }
}

/// Whether this machine can talk to a Slurm at all.
pub fn is_there() -> bool {
    which::which("sbatch").is_ok()
}

/// Whether one of the cluster's controllers answers.
pub fn answers() -> bool {
    ask("scontrol", &["ping"]).is_ok()
}

/// Runs one of Slurm's commands and gives its output; a failure carries Slurm's own words.
pub fn ask<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let output = run(program, arguments)?;
    if !output.status.success() {
        return Err(refused(program, &output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same without judging the exit status.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<Output> {
    let output = Command::new(program)
        .args(arguments)
        // Formats of a user's own would change the output that is read here.
        .env_remove("SQUEUE_FORMAT")
        .env_remove("SQUEUE_FORMAT2")
        .env_remove("SQUEUE_STATES")
        .env_remove("SACCT_FORMAT")
        .env_remove("SLURM_TIME_FORMAT")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output();
    started(program, output)
}

fn started(program: &str, output: std::io::Result<Output>) -> Result<Output> {
    output
        .or_say(|| format!("cannot run `{program}`"))
        .map_err(|error| {
            error.hint("on a machine without Slurm, `carrack submit --local` runs the job here")
        })
}

/// Slurm's last words, without its program names.
fn refused(program: &str, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    let mut error = Error::new(format!("`{program}` refused"));
    let mut told = false;
    for line in said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(6)
    {
        let line = line.strip_prefix(&format!("{program}: ")).unwrap_or(line);
        error = error.cause(line.strip_prefix("error: ").unwrap_or(line));
        told = true;
    }
    if !told {
        error = error.cause(format!("it ended with {}", output.status));
    }
    if said.contains("Unable to contact slurm controller") {
        error = error.hint(
            "Slurm's controller does not answer; try again, or ask whether the cluster is down",
        );
    }
    if let Some((_, wrong)) = said.split_once("invalid partition specified: ") {
        let wrong = wrong.split_whitespace().next().unwrap_or_default();
        let text = ask("sinfo", &["--noheader", "--format=%R"]).unwrap_or_default();
        let known: Vec<&str> = text.split_whitespace().collect();
        error = match nearest(wrong, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => error,
            None => error.hint(format!("the partitions here are {}", known.join(", "))),
        };
    }
    error
}

/// What Slurm knows of a job; none when it has forgotten it.
pub fn status(id: &str) -> Result<Option<Status>> {
    check_id(id)?;
    let output = run("scontrol", &["--oneliner", "show", "job", id])?;
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        let found: Vec<Status> = text.lines().filter_map(parse_scontrol).collect();
        if let Some(status) = summary(found) {
            return Ok(Some(status));
        }
    } else if !String::from_utf8_lossy(&output.stderr).contains("Invalid job id") {
        return Err(refused("scontrol", &output));
    }
    // Forgotten by the controller: accounts remember, where there are any.
    Ok(summary(accounts::of(&[id])?))
}

/// Whether a job that is being ended has used up its time; else somebody cancelled it. While a job is completing, Slurm
/// says only that.
pub fn is_out_of_time(id: &str) -> bool {
    let text = check_id(id).and_then(|()| ask("scontrol", &["--oneliner", "show", "job", id]));
    text.is_ok_and(|text| text.lines().any(used_up))
}

fn used_up(line: &str) -> bool {
    let own = line
        .find(" UserId=")
        .and_then(|at| line.get(at..))
        .unwrap_or(line);
    let seconds = |key: &str| {
        own.split(' ')
            .find_map(|word| word.strip_prefix(key))
            .and_then(duration)
    };
    // Slurm looks at the clock every half minute or so, never early.
    seconds("RunTime=")
        .zip(seconds("TimeLimit="))
        .is_some_and(|(run, limit)| run >= limit)
}

/// `[D-]HH:MM:SS` in seconds.
fn duration(text: &str) -> Option<u64> {
    let (days, clock) = text.split_once('-').unwrap_or(("0", text));
    let clock: Vec<u64> = clock
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock.as_slice() else {
        return None;
    };
    let days: u64 = days.parse().ok()?;
    days.checked_mul(86_400)?
        .checked_add(hours.checked_mul(3_600)?)?
        .checked_add(minutes.checked_mul(60)?)?
        .checked_add(*seconds)
}

/// States of all jobs of this user that the controller still knows, from one question.
pub fn states() -> Result<Vec<Status>> {
    let text = ask(
        "squeue",
        &[
            "--noheader",
            "--me",
            "--states=all",
            "--format=%i|%T|%r|%S|%e|%P|%N",
        ],
    )?;
    Ok(text.lines().filter_map(parse_squeue).collect())
}

/// The nodes that a job runs on, each by its name.
pub fn nodes(id: &str) -> Result<Vec<String>> {
    check_id(id)?;
    let jobs = format!("--jobs={id}");
    let lists = ask(
        "squeue",
        &["--noheader", &jobs, "--states=RUNNING", "--format=%N"],
    )?;
    let list = lists.split_whitespace().collect::<Vec<_>>().join(",");
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let names = ask("scontrol", &["show", "hostnames", &list])?;
    Ok(names.split_whitespace().map(str::to_string).collect())
}

/// Jobs have numbers, jobs of an array two; nothing else may become an argument.
pub fn check_id(id: &str) -> Result<()> {
    let plain = |part: &str| {
        !part.is_empty() && part.len() <= 10 && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let good = match id.split_once('_') {
        Some((job, task)) => plain(job) && plain(task),
        None => plain(id),
    };
    if good {
        Ok(())
    } else {
        Err(Error::usage(format!("`{id}` is no job number")))
    }
}

fn parse_squeue(line: &str) -> Option<Status> {
    let mut fields = line.splitn(7, '|').map(|field| field.trim().to_string());
    let mut next = || fields.next();
    Some(Status {
        id: next()?,
        state: next()?,
        reason: next().filter(|reason| reason != "None").unwrap_or_default(),
        start: time(&next()?),
        end: time(&next()?),
        partition: next()?,
        nodes: next()?,
        ..Status::default()
    })
}

/// `JobId=1 JobName=a b JobState=RUNNING …`. Names may hold anything, so keys that matter are found after the first line's
/// user-chosen ones, by their last occurrence of ` Key=`.
fn parse_scontrol(line: &str) -> Option<Status> {
    // A job's name comes second and may imitate any key; what follows ` UserId=` is Slurm's own again.
    let own = line
        .find(" UserId=")
        .and_then(|at| line.get(at..))
        .unwrap_or(line);
    let field = |key: &str| -> Option<&str> {
        let at = own.find(&format!(" {key}="))?;
        own.get(at + key.len() + 2..)?.split(' ').next()
    };
    let first = |key: &str| -> Option<&str> {
        let rest = line.get(line.find(key)? + key.len()..)?;
        rest.split(' ').next()
    };
    let (exit_code, signal) = field("ExitCode").map(codes).unwrap_or_default();
    let array = |key: &str| -> Option<&str> { first(&format!(" {key}=")) };
    let id = match (array("ArrayJobId"), array("ArrayTaskId")) {
        (Some(job), Some(task)) => format!("{job}_{task}"),
        _ => first("JobId=")?.to_string(),
    };
    // The path ends the line's part before the next key and may hold spaces.
    let output = own
        .find(" StdOut=")
        .and_then(|at| own.get(at + " StdOut=".len()..));
    let output = output.map(|rest| {
        rest.split(" Power=")
            .next()
            .unwrap_or(rest)
            .trim()
            .to_string()
    });
    Some(Status {
        from_accounts: false,
        id,
        state: field("JobState")?.to_string(),
        reason: field("Reason")
            .filter(|reason| *reason != "None")
            .unwrap_or_default()
            .to_string(),
        nodes: field("NodeList")
            .filter(|nodes| *nodes != "(null)")
            .unwrap_or_default()
            .to_string(),
        start: field("StartTime").map(time).unwrap_or_default(),
        end: field("EndTime").map(time).unwrap_or_default(),
        partition: field("Partition").unwrap_or_default().to_string(),
        exit_code,
        signal,
        output,
    })
}

pub(super) fn codes(text: &str) -> (Option<i32>, i32) {
    let (code, signal) = text.split_once(':').unwrap_or((text, "0"));
    (code.parse().ok(), signal.parse().unwrap_or(0))
}

pub(super) fn time(text: &str) -> String {
    match text {
        "Unknown" | "N/A" | "None" | "(null)" => String::new(),
        time => time.to_string(),
    }
}

/// Several lines are the jobs of one array: it runs while one runs, and failed when one failed.
pub fn summary(mut found: Vec<Status>) -> Option<Status> {
    let worst = found
        .iter()
        .enumerate()
        .max_by_key(|(_, status)| match status.phase() {
            Phase::Running => 4,
            Phase::Waiting => 3,
            Phase::Failed => 2,
            Phase::Unknown => 1,
            Phase::Succeeded => 0,
        });
    let index = worst.map(|(index, _)| index)?;
    Some(found.swap_remove(index))
}

/// Hands a script to sbatch and gives the job's number.
pub fn submit(script: &Path, arguments: &[String], directory: &Path) -> Result<String> {
    let output = Command::new("sbatch")
        .arg("--parsable")
        .args(arguments)
        .arg(script)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output();
    let output = started("sbatch", output)?;
    if !output.status.success() {
        return Err(refused("sbatch", &output));
    }
    // `123` or `123;cluster`, perhaps after lines of a site's submit plugin.
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default().trim();
    let id = last.split(';').next().unwrap_or_default();
    check_id(id).map_err(|_| Error::new(format!("sbatch gave no job number but `{last}`")))?;
    Ok(id.to_string())
}

/// Asks sbatch whether it would take the script, without queueing anything.
pub fn would_take(script: &Path, arguments: &[String], directory: &Path) -> Result<()> {
    let output = Command::new("sbatch")
        .arg("--test-only")
        .args(arguments)
        .arg(script)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output();
    let output = started("sbatch", output)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(refused("sbatch", &output))
    }
}

/// The MPI types that `srun --mpi=` knows here.
pub fn mpi_types() -> Result<Vec<String>> {
    let output = run("srun", &["--mpi=list"])?;
    let text = [output.stdout, output.stderr].concat();
    Ok(parse_mpi_types(&String::from_utf8_lossy(&text)))
}

fn parse_mpi_types(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix("srun: ").unwrap_or(line).trim();
        if let Some((_, versions)) = line.split_once("versions available:") {
            found.extend(versions.split(',').map(|word| word.trim().to_string()));
        } else if !line.is_empty() && !line.contains(' ') {
            found.push(line.to_string());
        }
    }
    found
}

/// The type that srun takes without `--mpi`.
pub fn mpi_default() -> Option<String> {
    if let Ok(set) = std::env::var("SLURM_MPI_TYPE") {
        return Some(set);
    }
    let text = ask("scontrol", &["show", "config"]).ok()?;
    let line = text.lines().find(|line| line.starts_with("MpiDefault"))?;
    Some(line.split_once('=')?.1.trim().to_string())
}

/// The architectures of a partition's nodes, as `uname -m` says it; of all nodes without a partition.
pub fn architectures(partition: Option<&str>) -> Result<Vec<String>> {
    let text = ask("scontrol", &["--oneliner", "show", "node"])?;
    Ok(parse_architectures(&text, partition))
}

/// What the site calls its nodes by (`Features=`), of a partition or of all.
pub fn features(partition: Option<&str>) -> Result<Vec<String>> {
    let text = ask("scontrol", &["--oneliner", "show", "node"])?;
    let fields = of_nodes(&text, partition, "AvailableFeatures=");
    let mut words: Vec<String> = fields
        .iter()
        .flat_map(|field| field.split(','))
        .map(str::to_string)
        .collect();
    words.sort();
    words.dedup();
    Ok(words)
}

fn parse_architectures(text: &str, partition: Option<&str>) -> Vec<String> {
    of_nodes(text, partition, "Arch=")
}

/// The different values of one field.
fn of_nodes(text: &str, partition: Option<&str>, key: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        let field = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key));
        let partitions = field("Partitions=").unwrap_or_default();
        if partition.is_none_or(|wanted| {
            wanted
                .split(',')
                .any(|one| partitions.split(',').any(|known| known == one))
        }) && let Some(value) = field(key)
            && !found.iter().any(|known| known == value)
        {
            found.push(value.to_string());
        }
    }
    found
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
