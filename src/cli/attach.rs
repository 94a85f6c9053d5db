//! `carrack attach`: into a capsule that runs on this node.

use super::LaunchCommon;
use super::starting::{Voice, find};
use crate::error::{Error, Result};
use crate::launch::capsule::{Running, running};
use crate::launch::environment::{Sources, merge};
use crate::launch::execute;
use crate::launch::inside::InsidePath;
use crate::launch::probe;
use crate::launch::profile::Profile;
use crate::launch::request::{Inherit, Request};
use crate::launch::step::{Identity, Network, Plan, StartDirectory};
use std::ffi::OsString;
use std::process::ExitCode;

/// Enter a capsule of yours that runs on this node: a shell, or a command
///
/// For a job on another node: `srun --overlap --jobid=JOB --pty carrack attach JOB`.
#[derive(clap::Args)]
pub struct Args {
    /// Job, JOB.STEP or capsule name; needed only if there are several
    which: Option<String>,
    /// What to start [default: a shell]
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Only list the capsules
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    pub common: LaunchCommon,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let all = running();
    if args.list {
        let lines: String = all
            .iter()
            .map(|one| format!("{}\n", describe(one)))
            .collect();
        super::output::print(&crate::error::printable(&lines))?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = args.common.common().settings()?;
    let request = Request::default();
    let profile = Profile::choose(&settings.config, &request)?;
    if !profile.interactive {
        return Err(
            Error::usage("nobody may enter a running image here").cause(format!(
                "the profile `{}` says so (`interactive`)",
                profile.name
            )),
        );
    }
    let chosen = choose(all, args.which.as_deref())?;
    // The image's own variables, where the store still knows the image.
    let record = find(&chosen.description.image, &settings, &args.common, true)
        .map(|found| found.record)
        .unwrap_or_default();
    let facts = probe::caller();
    let environment = merge(&Sources {
        facts: &facts,
        inherit: Inherit::Pass,
        image: &record.config.env,
        additions: &profile.additions,
        rules: &[],
        fixed: &[],
    })?;
    let mut argv = args.command;
    if argv.is_empty() {
        argv.push(
            record
                .contents
                .shell
                .unwrap_or_else(|| "/bin/sh".into())
                .into(),
        );
    }
    let cwd = facts.cwd.as_ref().and_then(|cwd| InsidePath::new(cwd).ok());
    let plan = Plan {
        key: None,
        tasks_on_node: None,
        identity: Identity {
            outside_uid: facts.uid,
            outside_gid: facts.gid,
            inside_uid: facts.uid,
            inside_gid: facts.gid,
        },
        network: Network::Host,
        steps: Vec::new(),
        task_steps: Vec::new(),
        environment,
        directory: StartDirectory {
            candidates: cwd.into_iter().chain([InsidePath::fixed("/")]).collect(),
            required: false,
        },
        argv,
        keep_fds: Vec::new(),
        warnings: Vec::new(),
    };
    Err(execute::attach(&chosen, &plan, &Voice::of(&args.common)))
}

fn describe(one: &Running) -> String {
    format!("{}.{}  {}", one.job, one.scope, one.description.image)
}

fn choose(all: Vec<Running>, which: Option<&str>) -> Result<Running> {
    let wanted = |one: &Running| {
        let Some(which) = which else { return true };
        let step = one.scope.split('-').next().unwrap_or_default();
        one.job == which
            || format!("{}.{step}", one.job) == which
            || one.scope.strip_prefix("name=") == Some(which)
    };
    let list: Vec<String> = all.iter().map(describe).collect();
    let mut fitting = all.into_iter().filter(wanted);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            let error = Error::new("no such capsule of yours runs on this node");
            Err(match list.is_empty() {
                true => error.hint(
                    "only capsules that tasks share can be entered; for a job elsewhere: `srun --overlap --jobid=JOB --pty carrack attach`",
                ),
                false => error.cause(format!("there are: {}", list.join(", "))),
            })
        }
        (Some(_), Some(_)) => Err(Error::usage("several capsules of yours run on this node")
            .cause(list.join(", "))
            .hint("name one: `carrack attach JOB.STEP`")),
    }
}
