//! `carrack logs`: what a job wrote.

use super::ps::{current, not_ours};
use super::{Common, output};
use crate::error::{Context, Error, Result};
use crate::jobs::journal::Journal;
use crate::jobs::run_record::RunRecord;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Print what a job wrote to its log
#[derive(clap::Args)]
pub struct Args {
    /// Job number, or name (the newest of that name); `123_4` is one job of an array
    job: String,
    /// Go on until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Print where the log is, not its text
    #[arg(long)]
    path: bool,
    #[command(flatten)]
    pub common: Common,
}

/// Between two looks at a log that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Every so many looks Slurm is asked whether the job has ended: its controller serves everybody.
const ASK_EVERY: u32 = 10;

pub fn run(args: Args) -> Result<ExitCode> {
    let (submission, task) = Journal::open()?
        .find(&args.job)
        .ok_or_else(|| not_ours(&args.job))?;
    if submission.output.is_empty() {
        return Err(Error::usage(format!("job `{}` has no log", args.job))
            .cause("it ran without Slurm and wrote to the terminal"));
    }
    let status = current(&submission, task.as_deref())?;
    let told = status
        .as_ref()
        .and_then(|status| status.output.clone())
        .map(PathBuf::from);
    if told.is_none() && task.is_none() && submission.array {
        return Err(submission.is_an_array(&args.job));
    }
    let path = told.unwrap_or_else(|| submission.output_path(task.as_deref()));
    if args.path {
        output::print(&format!("{}\n", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut offset = 0;
    let mut over = status.is_none_or(|status| status.phase().is_over());
    let mut looks = 0;
    let record = submission.record_path(task.as_deref());
    loop {
        // What was written before the end was seen is still to be shown, hence this order.
        let was_over = over;
        match more(&path, &mut offset) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound && args.follow && !was_over => {}
            Err(error) if error.kind() == ErrorKind::NotFound && was_over => {
                return Err(Error::new(format!("job `{}` wrote no log", args.job))
                    .cause(format!("`{}` does not exist", path.display()))
                    .hint(format!(
                        "it has ended, perhaps before it began: `carrack ps {}`",
                        args.job
                    )));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::new(format!("job `{}` has no log yet", args.job))
                    .cause(format!("`{}` does not exist", path.display()))
                    .hint(format!(
                        "`carrack ps {}` says what it waits for; `-f` follows it",
                        args.job
                    )));
            }
            Err(error) => {
                return Err(error).or_say(|| format!("cannot read the log `{}`", path.display()));
            }
        }
        if !args.follow || was_over {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK_EVERY);
        looks += 1;
        // The job's own record knows its end first, and nobody has to be asked.
        if record.as_deref().is_some_and(has_ended) {
            over = true;
        } else if looks % ASK_EVERY == 0 {
            over = current(&submission, task.as_deref())?
                .is_none_or(|status| status.phase().is_over());
        }
    }
}

fn has_ended(record: &Path) -> bool {
    RunRecord::read(record).is_ok_and(|record| !record.end.is_empty())
}

/// Prints what was added; a log that became shorter was begun anew.
fn more(path: &Path, offset: &mut u64) -> std::io::Result<()> {
    use std::io::Seek;
    let mut file = std::fs::File::open(path)?;
    if file.metadata()?.len() < *offset {
        *offset = 0;
    }
    file.seek(std::io::SeekFrom::Start(*offset))?;
    let mut bytes = vec![0; 64 << 10];
    loop {
        let length = file.read(&mut bytes)?;
        let Some(read) = bytes.get(..length).filter(|read| !read.is_empty()) else {
            return Ok(());
        };
        *offset += length as u64;
        if output::print_bytes(read).is_err() {
            return Err(std::io::Error::other("standard output is closed"));
        }
    }
}
