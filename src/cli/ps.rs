//! `carrack ps`: the jobs that were submitted from here, and what Slurm says of them.

use super::{Common, output};
use crate::error::{Error, Result, printable};
use crate::image::store::text_of;
use crate::jobs::accounts;
use crate::jobs::gef;
use crate::jobs::journal::{Journal, Submission};
use crate::jobs::queue::{self, Phase, Status};
use crate::jobs::run_record::RunRecord;
use serde_json::{Value, json};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How much of a log is shown in the JSON.
const CONSOLE: u64 = 64 << 10;

/// List jobs submitted by carrack
///
/// Without names: those that wait or run, those that ended within Slurm's memory, and those of the last day.
#[derive(clap::Args)]
#[command(alias = "jobs")]
pub struct Args {
    /// Job numbers or names
    jobs: Vec<String>,
    /// List all that were ever submitted from here
    #[arg(short, long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print JSON in GEF's field names: jobs with their tasks and volumes
    #[arg(long)]
    gef: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(serde::Serialize)]
struct Row {
    #[serde(flatten)]
    submission: Submission,
    phase: Phase,
    state: String,
    reason: String,
    nodes: String,
    start: String,
    end: String,
    exit_code: Option<i32>,
    /// Absolute, patterns replaced.
    log: String,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let journal = Journal::open()?;
    let known = states(&journal)?;
    let mut rows = Vec::new();
    if args.jobs.is_empty() {
        let since = (!args.all).then(|| text_of(SystemTime::now() - DAY));
        rows = listed(&journal.all(), &known, since.as_deref())?;
    }
    for word in &args.jobs {
        let (submission, task) = journal.find(word).ok_or_else(|| not_ours(word))?;
        let status = current(&submission, task.as_deref())?;
        rows.push(row(&submission, status));
    }
    if args.gef {
        let jobs: Vec<Value> = rows.iter().map(in_words_of_gef).collect();
        let one = args.jobs.len() == 1 && jobs.len() == 1;
        output::print_json(&match jobs.first().filter(|_| one) {
            Some(job) => json!({ "Job": job }),
            None => json!({ "Jobs": jobs }),
        })?;
    } else if args.json {
        output::print_json(&rows)?;
    } else {
        output::print(&table(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Rows of the jobs that Slurm knows, and of those it has forgotten that were submitted or ended later than this.
fn listed(jobs: &[Submission], known: &[Status], since: Option<&str>) -> Result<Vec<Row>> {
    let mut told: Vec<(&Submission, Vec<Status>)> = Vec::new();
    let mut unclear = Vec::new();
    for job in jobs {
        let of_job = known.iter().filter(|status| belongs(job, &status.id));
        let mut found: Vec<Status> = of_job.cloned().collect();
        if found.is_empty() {
            let own = left_behind(job);
            let ends = own.iter().map(|status| status.end.as_str());
            let end = ends.max().unwrap_or_default();
            // Texts of times are in their order.
            if since.is_some_and(|since| job.submitted.as_str() < since && end < since) {
                continue;
            }
            // A script that was ended from outside could not say how, or only guess.
            let clear = |status: &Status| {
                status.phase().is_over() && status.exit_code.is_some_and(|code| code <= 128)
            };
            // Tasks of an array that never began left nothing.
            let clear = !job.array && !own.is_empty() && own.iter().all(clear);
            if !clear && !job.is_local() && queue::check_id(&job.id).is_ok() {
                unclear.push(job.id.as_str());
            }
            found.extend(own);
        }
        told.push((job, found));
    }
    let accounts = match queue::is_there() {
        true => accounts::of(&unclear)?,
        false => Vec::new(),
    };
    let mut rows = Vec::new();
    for (job, found) in told {
        let of_job = accounts.iter().filter(|status| belongs(job, &status.id));
        let mut better: Vec<Status> = of_job
            .cloned()
            .map(|status| own_code(job, status))
            .collect();
        if better.is_empty() {
            better = found;
        }
        match better.is_empty() {
            true => rows.push(row(job, None)),
            false => rows.extend(better.into_iter().map(|status| row(job, Some(status)))),
        }
    }
    Ok(rows)
}

/// The job's own record knows the code of a job that failed better than accounts do.
fn own_code(job: &Submission, mut status: Status) -> Status {
    let task = status.id.split_once('_').map(|(_, task)| task.to_string());
    if status.from_accounts
        && status.phase() == Phase::Failed
        && let Some(own) = forgotten(job, task.as_deref())
        && own.phase().is_over()
        && own.exit_code.is_some_and(|code| code != 0)
    {
        (status.exit_code, status.signal) = (own.exit_code, 0);
    }
    status
}

/// What Slurm says of all jobs, in one question; without an answer (no Slurm here) the records still tell.
pub fn states(journal: &Journal) -> Result<Vec<Status>> {
    if !queue::is_there() {
        return Ok(Vec::new());
    }
    // Who only ran jobs here may have Slurm's commands and no cluster behind them.
    queue::states().or_else(
        |refused| match journal.all().iter().all(Submission::is_local) {
            true => Ok(Vec::new()),
            false => Err(refused),
        },
    )
}

/// What to say when a word names no job of ours.
pub fn not_ours(word: &str) -> Error {
    Error::usage(format!("no job `{word}` was submitted from here"))
        .hint("`carrack ps --all` lists them")
}

/// `123`, `123_4` and `123_[5-9]` are jobs of the submission 123.
fn belongs(submission: &Submission, id: &str) -> bool {
    id.split('_').next() == Some(submission.id.as_str())
}

/// What became of a job: from Slurm, else from its own record.
pub fn current(submission: &Submission, task: Option<&str>) -> Result<Option<Status>> {
    let id = match task {
        Some(task) => format!("{}_{task}", submission.id),
        None => submission.id.clone(),
    };
    let known = if queue::is_there() && queue::check_id(&id).is_ok() {
        queue::status(&id)?
    } else {
        None
    };
    Ok(known
        .map(|status| own_code(submission, status))
        .or_else(|| forgotten(submission, task)))
}

/// What another job waits for must have ended well where no queue looks after that.
pub fn ended_well(job: &Submission, text: &str, place: &str) -> Result<()> {
    let status = current(job, None)?.unwrap_or_default();
    if status.phase().is_over() && status.code() == 0 {
        return Ok(());
    }
    let state = match status.state.as_str() {
        "" => "left no record of its end".to_string(),
        state => format!("is {state}"),
    };
    Err(
        Error::new(format!("`{place}` waits for `{text}`, which {state}"))
            .cause(format!("that is job {}", job.id))
            .hint("run it again first; `--force` does not ask how it ended"),
    )
}

/// A job that Slurm has forgotten has ended; how, its record says, or for one that ran here the journal.
fn forgotten(submission: &Submission, task: Option<&str>) -> Option<Status> {
    if submission.array && task.is_none() {
        let found = queue::summary(left_behind(submission))?;
        // Between two tasks, nothing runs here.
        let begun = submission.is_local() && submission.ended.is_none();
        return Some(found).filter(|found| !begun || !found.phase().is_over());
    }
    by_record(submission, task).or_else(|| by_journal(submission))
}

/// One status for a job, or one for each task of an array that has begun.
fn left_behind(submission: &Submission) -> Vec<Status> {
    let mut found: Vec<Status> = match submission.array {
        true => {
            let tasks = submission.begun_tasks().into_iter();
            tasks
                .filter_map(|task| by_record(submission, Some(&task.to_string())))
                .collect()
        }
        false => by_record(submission, None).into_iter().collect(),
    };
    if found.is_empty() {
        found.extend(by_journal(submission));
    }
    found
}

/// What is known of a job that could not write its record.
fn by_journal(submission: &Submission) -> Option<Status> {
    let code = submission.ended?;
    let state = if code == 0 { "COMPLETED" } else { "FAILED" };
    Some(Status {
        id: submission.id.clone(),
        state: state.to_string(),
        exit_code: Some(i32::from(code)),
        ..Status::default()
    })
}

fn by_record(submission: &Submission, task: Option<&str>) -> Option<Status> {
    let record = RunRecord::read(&submission.record_path(task)?).ok()?;
    let task = record.job.array.as_ref().filter(|_| submission.array);
    Some(Status {
        id: task.unwrap_or(&record.job.id).clone(),
        state: record.state.clone(),
        nodes: record.job.nodes.join(","),
        start: record.start.clone(),
        end: record.end.clone(),
        exit_code: record.exit_code,
        ..Status::default()
    })
}

fn row(submission: &Submission, status: Option<Status>) -> Row {
    let status = status.unwrap_or_default();
    let task = status.id.split_once('_').map(|(_, task)| task.to_string());
    let log = status.output.clone().unwrap_or_else(|| {
        submission
            .output_path(task.as_deref())
            .display()
            .to_string()
    });
    let mut submission = submission.clone();
    if task.is_some() {
        submission.id.clone_from(&status.id);
    }
    Row {
        submission,
        phase: status.phase(),
        state: if status.state.is_empty() {
            "UNKNOWN".to_string()
        } else {
            status.state
        },
        reason: status.reason,
        nodes: status.nodes,
        start: status.start,
        end: status.end,
        exit_code: status.exit_code,
        log,
    }
}

/// The record and the end of the log, which both may be missing.
fn in_words_of_gef(row: &Row) -> Value {
    let (id, task) = match row.submission.id.split_once('_') {
        Some((id, task)) => (id, Some(task)),
        None => (row.submission.id.as_str(), None),
    };
    let whole = Submission {
        id: id.to_string(),
        ..row.submission.clone()
    };
    let path = whole.record_path(task);
    let mut record = path.and_then(|path| RunRecord::read(&path).ok());
    if let Some(record) = &mut record {
        record.complete();
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    gef::job(&gef::Known {
        submission: &row.submission,
        status: &Status {
            state: row.state.clone(),
            exit_code: row.exit_code,
            ..Status::default()
        },
        record: record.as_ref(),
        console: &console(Path::new(&row.log)),
        now: now.map_or(0, |since| since.as_secs()),
    })
}

/// The last of what a job wrote.
fn console(log: &Path) -> String {
    let Ok(mut file) = std::fs::File::open(log) else {
        return String::new();
    };
    let is_plain = file.metadata().is_ok_and(|found| found.is_file());
    let size = file.metadata().map_or(0, |found| found.len());
    let mut end = Vec::new();
    if is_plain
        && file
            .seek(SeekFrom::Start(size.saturating_sub(CONSOLE)))
            .is_ok()
    {
        let _ = file.take(CONSOLE).read_to_end(&mut end);
    }
    String::from_utf8_lossy(&end).into_owned()
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![["JOB", "NAME", "STATE", "NODES", "IMAGE"].map(str::to_string)];
    for row in rows {
        let state = match row.reason.as_str() {
            "" => row.state.clone(),
            reason => format!("{} ({reason})", row.state),
        };
        let image = row.submission.image.as_deref().unwrap_or("-");
        let image = image.split('@').next().unwrap_or(image).to_string();
        lines.push([
            row.submission.id.clone(),
            row.submission.name.clone(),
            state,
            row.nodes.clone(),
            image,
        ]);
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line.get(column).map_or(0, |cell| cell.chars().count()))
            .max()
    };
    let widths: Vec<usize> = (0..5).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    printable(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_names_the_jobs_of_the_last_day_are_listed() {
        let job = |id: &str, submitted: &str| Submission {
            id: id.to_string(),
            submitted: submitted.to_string(),
            ..Submission::default()
        };
        let jobs = [
            job("local-3", "2026-11-21T10:00:00Z"),
            job("local-2", "2026-11-20T10:00:00Z"),
            job("7", "2026-11-01T10:00:00Z"),
        ];
        // Slurm's answer brings an old one that still runs.
        let known = [Status {
            id: "7".to_string(),
            state: "RUNNING".to_string(),
            ..Status::default()
        }];
        let listed = |since| -> Vec<String> {
            let rows = listed(&jobs, &known, since).expect("rows");
            rows.into_iter().map(|row| row.submission.id).collect()
        };
        assert_eq!(listed(Some("2026-11-20T12:00:00Z")), ["local-3", "7"]);
        assert_eq!(listed(None), ["local-3", "local-2", "7"]);
    }

    #[test]
    fn an_array_that_ran_here_is_known_by_its_tasks() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut job = Submission {
            id: "local-7".to_string(),
            directory: dir.path().to_path_buf(),
            record: "many-%A_%a.json".to_string(),
            array: true,
            ..Submission::default()
        };
        for (task, code) in [("1", 0), ("2", 3)] {
            let mut record = RunRecord::default();
            record.job.id = format!("local-7_{task}");
            record.job.array = Some(record.job.id.clone());
            record.finish(code, "", None);
            let path = job.record_path(Some(task)).expect("a path");
            record.write(&path).expect("written");
        }
        // The third one may be still to come.
        assert_eq!(forgotten(&job, None), None);
        job.ended = Some(3);
        let status = forgotten(&job, None).expect("a status");
        assert_eq!((status.id.as_str(), status.code()), ("local-7_2", 3));
        let status = forgotten(&job, Some("1")).expect("a status");
        assert_eq!((status.state.as_str(), status.code()), ("COMPLETED", 0));
        let rows = listed(&[job], &[], None).expect("rows");
        let ids: Vec<String> = rows.into_iter().map(|row| row.submission.id).collect();
        assert_eq!(ids, ["local-7_1", "local-7_2"]);
    }

    #[test]
    fn what_ran_here_without_a_record_is_known_by_the_journal() {
        let job = |ended| Submission {
            id: "local-7".to_string(),
            directory: "/nowhere".into(),
            record: "one-%j.json".to_string(),
            ended,
            ..Submission::default()
        };
        let state = |ended| forgotten(&job(ended), None).map(|status| status.state);
        assert_eq!(state(Some(0)).as_deref(), Some("COMPLETED"));
        assert_eq!(state(Some(2)).as_deref(), Some("FAILED"));
        assert_eq!(state(None), None);
    }

    #[test]
    fn jobs_of_an_array_are_rows_of_their_own() {
        let submission = Submission {
            id: "12".to_string(),
            name: "many".to_string(),
            output: "many-%A_%a.out".to_string(),
            directory: "/w".into(),
            image: Some("docker://a/b:v1@sha256:1".to_string()),
            ..Submission::default()
        };
        for (id, ours) in [
            ("12", true),
            ("12_3", true),
            ("12_[4-9]", true),
            ("123", false),
            ("1", false),
        ] {
            assert_eq!(belongs(&submission, id), ours, "{id}");
        }
        let status = Status {
            id: "12_3".to_string(),
            state: "PENDING".to_string(),
            reason: "Resources".to_string(),
            ..Status::default()
        };
        let row = row(&submission, Some(status));
        assert_eq!(
            (row.log.as_str(), row.phase),
            ("/w/many-12_3.out", Phase::Waiting)
        );
        assert_eq!(
            table(&[row]),
            "JOB   NAME  STATE                NODES  IMAGE\n12_3  many  PENDING (Resources)         docker://a/b:v1\n"
        );
    }
}
