//! `submit --local`: the script runs on this machine, without Slurm.

use crate::error::{Context, Result};
use crate::jobs::array;
use crate::jobs::assemble::Assembled;
use crate::jobs::journal::{Journal, Submission};
use crate::sys::process::{HeldInterrupts, hold_interrupts};
use std::process::{Child, Command};

/// Tells what is otherwise here than with Slurm.
pub fn warn(assembled: &Assembled) {
    for step in &assembled.steps {
        let mut settings = step.step.options.iter().chain(&assembled.job.options);
        let several = settings.find(|setting| {
            matches!(setting.name, "ntasks" | "ntasks-per-node" | "nodes")
                && setting.value.as_deref() != Some("1")
        });
        if let Some(setting) = several {
            tracing::warn!(
                "step `{}` runs as one task here; `{}` is for Slurm",
                step.step.name,
                setting.name
            );
        }
    }
    if assembled.script.array {
        tracing::warn!("the tasks of the array run one after the other here");
    }
}

/// Runs a script on this machine, for an array once for each task; the job is noted under the number that the script gives
/// itself. Ctrl-C is for the script, which brings results home before it ends.
pub fn run(journal: &Journal, mut submission: Submission) -> Result<(Submission, u8)> {
    // What it says goes to the terminal.
    submission.output = String::new();
    let interrupts = hold_interrupts();
    let (noted, code) = if submission.array {
        run_tasks(journal, &mut submission, &interrupts)?
    } else {
        let child = start_here(&submission, &[])?;
        submission.id = format!("local-{}", child.id());
        (journal.note(&submission), wait_here(child)?)
    };
    submission.ended = Some(code);
    noted.and_then(|()| journal.note(&submission))?;
    Ok((submission, code))
}

/// As for Slurm, a task that fails ends none of the others; the first code that is not 0 is the array's.
fn run_tasks(
    journal: &Journal,
    submission: &mut Submission,
    interrupts: &HeldInterrupts,
) -> Result<(Result<()>, u8)> {
    let tasks = array::tasks(&submission.tasks)?;
    let number = std::process::id();
    submission.id = format!("local-{number}");
    let noted = journal.note(submission);
    let mut code = 0;
    for task in &tasks {
        let variables = array::variables(number, *task, &tasks);
        let of_task = wait_here(start_here(submission, &variables)?)?;
        code = if code == 0 { of_task } else { code };
        if interrupts.came() {
            break;
        }
    }
    Ok((noted, code))
}

fn start_here(submission: &Submission, variables: &[(&str, String)]) -> Result<Child> {
    Command::new("bash")
        .arg(&submission.script)
        .current_dir(&submission.directory)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .spawn()
        .or_say(|| "cannot run bash")
}

fn wait_here(mut child: Child) -> Result<u8> {
    use std::os::unix::process::ExitStatusExt;
    let status = child.wait().or_say(|| "cannot wait for bash")?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code & 0xff).unwrap_or(1))
}
