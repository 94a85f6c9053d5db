//! `carrack ps`: the jobs that were submitted from here, and what Slurm says of them.

use super::{Common, output};
use crate::error::{Error, Result, printable};
use crate::jobs::journal::{Journal, Submission};
use crate::jobs::queue::{self, Phase, Status};
use crate::jobs::run_record::RunRecord;
use std::process::ExitCode;

/// List jobs submitted by carrack
///
/// Without names: those that wait or run, and those that ended within Slurm's memory.
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
    // One question for all; without an answer (no Slurm here) the records still tell.
    // Who only ran jobs here may have Slurm's commands and no cluster behind them.
    let known = if queue::is_there() {
        queue::states().or_else(
            |refused| match journal.all().iter().all(Submission::is_local) {
                true => Ok(Vec::new()),
                false => Err(refused),
            },
        )?
    } else {
        Vec::new()
    };
    let mut rows = Vec::new();
    if args.jobs.is_empty() {
        for submission in journal.all() {
            let listed: Vec<&Status> = known
                .iter()
                .filter(|status| belongs(&submission, &status.id))
                .collect();
            if !listed.is_empty() {
                rows.extend(
                    listed
                        .into_iter()
                        .map(|status| row(&submission, Some(status.clone()))),
                );
            } else if args.all {
                rows.push(row(&submission, forgotten(&submission, None)));
            }
        }
    }
    for word in &args.jobs {
        let (submission, task) = journal.find(word).ok_or_else(|| not_ours(word))?;
        let status = current(&submission, task.as_deref())?;
        rows.push(row(&submission, status));
    }
    if args.json {
        output::print_json(&rows)?;
    } else {
        output::print(&table(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
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
    Ok(known.or_else(|| forgotten(submission, task)))
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

/// A job that Slurm has forgotten has ended; how, its record says.
fn forgotten(submission: &Submission, task: Option<&str>) -> Option<Status> {
    let record = RunRecord::read(&submission.record_path(task)?).ok()?;
    Some(Status {
        id: record.job.id.clone(),
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
