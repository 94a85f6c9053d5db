//! Walks a plan: into the capsule, this task's own restrictions, the directory, no privileges, and the command. Decides
//! nothing, and returns only when something failed. From here to the exec the process has one thread.

pub mod command;
pub mod hints;

use super::capsule::{self, Entered, Host, Refused};
use super::inside::InsidePath;
use super::root::{self, Fault};
use super::step::{Plan, StartDirectory, Step};
use crate::error::{Error, Result};
use crate::sys::{Errno, fd, process};
use std::convert::Infallible;

/// What is said on the way; the caller prints it, or not.
pub trait Listener {
    /// Called once, before the command replaces this program: how the process came into the capsule.
    fn entered(&self, _how: Entered) {}
    fn warn(&self, _text: &str) {}
}

/// Becomes the plan's command. Returns only on failure.
pub fn execute(plan: &Plan, host: &Host<'_>, listener: &dyn Listener) -> Error {
    match run(plan, host, listener) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn run(plan: &Plan, host: &Host<'_>, listener: &dyn Listener) -> Result<Infallible> {
    let entered = capsule::enter(plan, host).map_err(|refused| match refused {
        Refused::Step(number, fault) => failed_step(plan, &plan.steps, number, &fault),
        Refused::Whole(error) => error.while_doing(statement(plan)),
    })?;
    root::restrict_task(&plan.task_steps)
        .map_err(|(number, fault)| failed_step(plan, &plan.task_steps, number, &fault))?;
    let directory = start_in(&plan.directory)?;
    listener.entered(entered);
    if let Some(text) = directory {
        listener.warn(&text);
    }
    finish(plan)
}

/// Enters a running capsule and becomes the plan's command there. The plan's steps are those of the capsule.
pub fn attach(running: &capsule::Running, plan: &Plan, listener: &dyn Listener) -> Error {
    let run = || -> Result<Infallible> {
        capsule::attach(running)?;
        root::restrict_task(&plan.task_steps)
            .map_err(|(number, fault)| failed_step(plan, &plan.task_steps, number, &fault))?;
        if let Some(text) = start_in(&plan.directory)? {
            listener.warn(&text);
        }
        finish(plan)
    };
    match run() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Gives up every privilege and executes the command.
fn finish(plan: &Plan) -> Result<Infallible> {
    let what = "cannot give up privileges";
    process::no_new_privileges()
        .and_then(|()| process::drop_capabilities())
        .map_err(|errno| Error::new(what).source(errno))?;
    fd::seal(&plan.keep_fds)
        .map_err(|errno| Error::new("cannot close inherited files").source(errno))?;
    process::restore_sigpipe();
    command::become_command(&plan.argv, &plan.environment)
}

/// Goes to the first directory that can be entered; says so when it is not the one that was meant.
fn start_in(start: &StartDirectory) -> Result<Option<String>> {
    let mut refused: Option<(&InsidePath, Errno)> = None;
    for candidate in &start.candidates {
        match rustix::process::chdir(candidate.as_path()) {
            Ok(()) => {
                return Ok(refused.map(|(meant, errno)| {
                    format!("starting in `{candidate}`: cannot enter `{meant}` ({errno})")
                }));
            }
            Err(errno) if start.required => return Err(no_directory(candidate, errno)),
            Err(errno) => {
                refused.get_or_insert((candidate, errno));
            }
        }
    }
    match refused {
        Some((meant, errno)) => Err(no_directory(meant, errno)),
        // A plan without any: the root, where the exchange of roots has left us.
        None => Ok(None),
    }
}

fn no_directory(path: &InsidePath, errno: Errno) -> Error {
    Error::new(format!("cannot start in `{path}` inside the image"))
        .source(errno)
        .hint("the directory must exist in the image or be bound into it; choose another with `--workdir`")
}

fn statement(plan: &Plan) -> String {
    let node = capsule::scope::node(|name| std::env::var(name).ok());
    match plan.image() {
        Some(super::step::Image::Squashfs { name, .. }) => {
            format!("cannot start `{name}` on node {node}")
        }
        Some(super::step::Image::Directory { path }) => {
            format!("cannot start `{}` on node {node}", path.display())
        }
        None => format!("cannot start on node {node}"),
    }
}

/// The one place where a step's own text meets its failure.
fn failed_step(plan: &Plan, steps: &[Step], number: usize, fault: &Fault) -> Error {
    let mut error = Error::new(statement(plan));
    if let Some(step) = steps.get(number) {
        error = error.cause(format!("step {} of {}: {step}", number + 1, steps.len()));
        error = error.cause(hints::cause(step, fault));
        match hints::hint_for(step, fault) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    } else {
        error.cause(fault.errno)
    }
}
