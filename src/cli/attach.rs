//! `carrack attach`: into a capsule that runs on this node, or through srun into one of a job elsewhere.

use super::LaunchCommon;
use super::policy::{Deed, may};
use super::starting::{Voice, find};
use crate::error::{Error, Result};
use crate::jobs::journal::Journal;
use crate::jobs::queue;
use crate::launch::capsule::{Running, running};
use crate::launch::devices::{Asked, devices};
use crate::launch::environment::{Sources, merge};
use crate::launch::execute;
use crate::launch::inside::InsidePath;
use crate::launch::probe;
use crate::launch::profile::Profile;
use crate::launch::request::{Inherit, Request};
use crate::launch::step::{Identity, Network, Plan, StartDirectory, Step};
use carrack_slurm::step::Step as SlurmStep;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Enter a capsule of yours that runs on this node, or in a job of yours: a shell, or a command
#[derive(clap::Args)]
pub struct Args {
    /// JOB[.STEP][@NODE], what `--list` shows, or a capsule's name; needed only if there are several
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
            .map(|one| format!("{}\n", describe(one, &all)))
            .collect();
        super::output::print(&crate::error::printable(&lines))?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = args.common.common().settings()?;
    let request = Request::default();
    let profile = Profile::choose(&settings.config, &request)?;
    may(Deed::Run, &settings.config.access)?;
    if !profile.interactive {
        return Err(profile.nobody_enters());
    }
    if let Some(which) = args.which.as_deref()
        && let Some(place) = Place::of(which, &all)
    {
        if let Some(node) = &place.node
            // Without an answer srun has its own words.
            && let Ok(nodes) = queue::nodes(&place.job)
        {
            is_of_job(&place.job, node, &nodes)?;
        }
        return Err(place.through_srun(&args.command));
    }
    let chosen = choose(all, args.which.as_deref())?;
    // It may run under another profile than the one that is asked for now.
    if chosen.description.shut {
        return Err(Error::usage("nobody may enter a running image here")
            .cause("the profile that it was started with says so (`interactive`)"));
    }
    // The image's own variables, where the store still has the image. By its file: the name may have moved on.
    let file = chosen.description.file.to_string_lossy();
    let record = find(&file, &settings, &args.common, true)
        .map(|found| found.record)
        .unwrap_or_default();
    let mut facts = probe::caller();
    facts.gpus = probe::gpus();
    let slurm = SlurmStep::read(|name| Some(facts.variable(name)?.to_str()?.to_string()));
    // As for any other task of the step: only GPUs that this process was given.
    let asked = Asked {
        gpu: profile.gpu,
        dev: profile.dev,
        devices: &[],
        variable: &|_| None,
        contents: &record.contents,
    };
    let devices = devices(&asked, &facts, slurm.as_ref())?;
    let restrictions = [devices.steps, devices.task_steps].concat();
    let left_out = |step: &Step| matches!(step, Step::LeaveOut(_));
    let environment = merge(&Sources {
        facts: &facts,
        inherit: Inherit::Pass,
        image: &record.config.env,
        additions: &profile.additions,
        rules: &[],
        last: &[],
        fixed: &devices.fixed,
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
        hold: false,
        steps: Vec::new(),
        task_steps: restrictions.into_iter().filter(left_out).collect(),
        environment,
        directory: StartDirectory {
            candidates: cwd.into_iter().chain([InsidePath::fixed("/")]).collect(),
            required: false,
        },
        argv,
        keep_fds: Vec::new(),
        warnings: Vec::new(),
        shut: false,
    };
    Err(execute::attach(&chosen, &plan, &Voice::of(&args.common)))
}

/// What names this capsule and no other of them.
fn id(one: &Running, all: &[Running]) -> String {
    let step = one.scope.split('-').next().unwrap_or_default();
    let name = format!("{}.{step}", one.job);
    let same = |other: &&Running| other.job == one.job && other.scope == one.scope;
    match all.iter().filter(same).count() {
        0 | 1 => name,
        _ => format!("{name}.{}", one.hash.get(..6).unwrap_or(&one.hash)),
    }
}

fn describe(one: &Running, all: &[Running]) -> String {
    format!("{}  {}", id(one, all), one.description.image)
}

/// A capsule on another node.
struct Place {
    job: String,
    /// `JOB` or `JOB.STEP`, as `attach` there understands it.
    capsule: String,
    node: Option<String>,
}

impl Place {
    /// What the word says, unless it names a capsule of this node or no job of ours.
    fn of(word: &str, here: &[Running]) -> Option<Place> {
        let (name, node) = match word.split_once('@') {
            Some((name, node)) => (name, Some(node.to_string())),
            None => (word, None),
        };
        let (job, step) = match name.split_once('.') {
            Some((job, step)) => (job, Some(step)),
            None => (name, None),
        };
        let job = match queue::check_id(job) {
            Ok(()) => job.to_string(),
            Err(_) => Journal::open().ok()?.find(job)?.0.id,
        };
        let here = node.is_none() && here.iter().any(|one| one.job == job);
        (!here && queue::is_there() && queue::check_id(&job).is_ok()).then(|| Place {
            capsule: step.map_or(job.clone(), |step| format!("{job}.{step}")),
            job,
            node,
        })
    }

    /// Becomes srun; returns only if that fails.
    fn through_srun(&self, command: &[OsString]) -> Error {
        let mut srun = Command::new("srun");
        srun.args(["--quiet", "--overlap", "--mem=0", "--nodes=1", "--ntasks=1"])
            .arg(format!("--jobid={}", self.job));
        if let Some(node) = &self.node {
            srun.arg(format!("--nodelist={node}"));
        }
        if std::io::stdin().is_terminal() {
            srun.arg("--pty");
        }
        let program = std::env::current_exe().unwrap_or_else(|_| "carrack".into());
        srun.arg(program).args(["attach", &self.capsule]);
        if !command.is_empty() {
            srun.arg("--").args(command);
        }
        let error = srun.exec();
        Error::new(format!("cannot enter job {}", self.job))
            .cause("cannot run `srun`")
            .source(error)
    }
}

/// srun would say only that the configuration is not available. A job that runs nowhere is left to it.
fn is_of_job(job: &str, node: &str, nodes: &[String]) -> Result<()> {
    let (Some(first), false) = (nodes.first(), nodes.iter().any(|known| known == node)) else {
        return Ok(());
    };
    Err(
        Error::new(format!("job {job} does not run on node `{node}`"))
            .cause(format!("it runs on {}", nodes.join(", ")))
            .hint(format!("`carrack attach {job}@{first}`")),
    )
}

fn choose(all: Vec<Running>, which: Option<&str>) -> Result<Running> {
    let wanted = |one: &&Running| {
        let Some(which) = which else { return true };
        let step = one.scope.split('-').next().unwrap_or_default();
        one.job == which
            || format!("{}.{step}", one.job) == which
            || id(one, &all) == which
            || one.scope.strip_prefix("name=") == Some(which)
    };
    let list: Vec<String> = all.iter().map(|one| describe(one, &all)).collect();
    let fitting: Vec<&Running> = all.iter().filter(wanted).collect();
    match fitting.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let what = match which {
                Some(which) => format!("no capsule `{which}` of yours runs on this node"),
                None => "no capsule of yours runs on this node".into(),
            };
            let error = Error::new(what);
            Err(match all.as_slice() {
                [] => error
                    .cause("only what tasks of a step share, or what was started with `--name`, can be entered")
                    .hint("for a job on another node: `carrack attach JOB@NODE`, where Slurm is"),
                [one] => error
                    .cause(format!("there is: {}", list.join(", ")))
                    .hint(format!(
                        "a command comes after the capsule: `carrack attach {} COMMAND`",
                        id(one, &all)
                    )),
                _ => error.cause(format!("there are: {}", list.join(", "))),
            })
        }
        [one, ..] => Err(Error::usage("several capsules of yours run on this node")
            .cause(list.join(", "))
            .hint(format!("name one: `carrack attach {}`", id(one, &all)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_the_jobs_is_told() {
        let nodes = ["n1", "n2"].map(str::to_string);
        assert!(is_of_job("18", "n2", &nodes).is_ok());
        assert!(is_of_job("18", "n9", &[]).is_ok());
        assert_eq!(
            is_of_job("18", "n9", &nodes).unwrap_err().to_string(),
            "error: job 18 does not run on node `n9`\n  cause: it runs on n1, n2\n  hint:  `carrack attach 18@n1`\n"
        );
    }
}
