//! `carrack wait`: until a job ends; its code becomes ours.

use super::Common;
use super::output;
use super::ps::{current, not_ours};
use crate::error::{Error, Result};
use crate::jobs::journal::Journal;
use crate::jobs::run_record::RunRecord;
use std::process::ExitCode;
use std::time::Duration;

/// Wait until jobs end, and end with the first code that is not 0
#[derive(clap::Args)]
pub struct Args {
    /// Job numbers or names
    #[arg(required = true)]
    jobs: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

/// The first questions come fast, for short jobs; the controller serves everybody, so later ones come slowly.
const FIRST: Duration = Duration::from_millis(300);
const SLOWEST: Duration = Duration::from_secs(15);
/// How often Slurm may not know a job in a row before it is taken for lost.
const LOST_AFTER: u32 = 5;

#[derive(serde::Serialize)]
struct Ended {
    id: String,
    name: String,
    state: String,
    exit_code: u8,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let journal = Journal::open()?;
    let mut ended = Vec::new();
    for word in &args.jobs {
        let (submission, task) = journal.find(word).ok_or_else(|| not_ours(word))?;
        let mut pause = FIRST;
        let mut unknown = 0;
        let status = loop {
            match current(&submission, task.as_deref()) {
                Ok(Some(status)) if status.phase().is_over() => break status,
                Ok(Some(_)) => unknown = 0,
                Ok(None) => unknown += 1,
                // A controller that restarts answers again soon.
                Err(error) if unknown < LOST_AFTER => {
                    unknown += 1;
                    tracing::warn!("{}", error.what());
                }
                Err(error) => return Err(error),
            }
            if unknown > LOST_AFTER {
                return Err(
                    Error::new(format!("Slurm does not know job `{word}` any more"))
                        .cause("it has left no record either")
                        .hint(format!("`carrack logs {word}` shows what it wrote")),
                );
            }
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(SLOWEST);
        };
        // The script of a job that was killed could not complete its record.
        let mut kept = String::new();
        if let Some(path) = submission.record_path(task.as_deref())
            && let Ok(mut record) = RunRecord::read(&path)
        {
            if record.complete() {
                let _ = record.write(&path);
            }
            if !record.kept.is_empty() {
                kept = format!("{} on {}", record.kept, record.job.nodes.join(" "));
            }
        }
        ended.push(Ended {
            id: submission.id.clone(),
            name: submission.name.clone(),
            state: status.state.clone(),
            exit_code: status.code(),
        });
        if !args.json && !args.common.quiet && status.code() != 0 {
            eprintln!(
                "job {} {} ended: {}",
                submission.id, submission.name, status.state
            );
            if !kept.is_empty() {
                eprintln!("what it could not copy home stays in {kept}");
            }
        }
    }
    if args.json {
        output::print_json(&ended)?;
    }
    let code = ended
        .iter()
        .map(|job| job.exit_code)
        .find(|code| *code != 0)
        .unwrap_or(0);
    Ok(ExitCode::from(code))
}
