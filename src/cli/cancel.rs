//! `carrack cancel`: ends jobs, by number or name.

use super::Common;
use super::ps::{current, not_ours};
use crate::error::Result;
use crate::jobs::journal::Journal;
use crate::jobs::queue;
use std::process::ExitCode;

/// Cancel jobs; their scripts still bring results home
#[derive(clap::Args)]
#[command(alias = "kill")]
pub struct Args {
    /// Job numbers or names
    #[arg(required = true)]
    jobs: Vec<String>,
    /// Only say which jobs would be cancelled
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let journal = Journal::open()?;
    let mut ids = Vec::new();
    for word in &args.jobs {
        let (submission, task) = journal.find(word).ok_or_else(|| not_ours(word))?;
        if current(&submission, task.as_deref())?.is_some_and(|status| status.phase().is_over()) {
            eprintln!(
                "job {} {} has ended already",
                submission.id, submission.name
            );
            continue;
        }
        let id = match task {
            Some(task) => format!("{}_{task}", submission.id),
            None => submission.id.clone(),
        };
        queue::check_id(&id)?;
        ids.push((id, submission.name));
    }
    for (id, name) in &ids {
        if args.dry_run {
            eprintln!("would cancel job {id} {name}");
        } else {
            queue::ask("scancel", &[id])?;
            if !args.common.quiet {
                eprintln!("cancelled job {id} {name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
