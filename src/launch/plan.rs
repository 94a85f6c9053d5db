//! Turns a request into ordered steps. Touches nothing: no file is opened here, so every rule about mounts, identity and
//! environment can be tested from a table.
//!
//! Whatever decides about the capsule (steps, identity, network) must come out equal for all tasks of a step, because its
//! hash is how they find each other; what differs between tasks is kept to the command, the environment and `task_steps`.

use super::bundle;
use super::default_mounts::{home, mounts};
use super::devices::{self, Devices};
use super::environment::{Sources, merge};
use super::facts::HostFacts;
use super::identity::{self, Resolved};
use super::inside::InsidePath;
use super::layout::Layout;
use super::mounts::ordered;
use super::mpi;
use super::ports;
use super::profile::Profile;
use super::request::{Entrypoint, EnvRule, Mode, NetworkChoice, Request, RootAccess};
use super::sharing;
use super::step::{Access, Image, Network, Plan, StartDirectory, Step, User};
use crate::config::{Config, Require};
use crate::error::{Error, Exit, Result};
use crate::record::ImageRecord;
use carrack_slurm::step::{Pmi, Step as SlurmStep};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The image that was found for a request. An image made elsewhere has an empty record.
#[derive(Clone, Debug)]
pub struct Found {
    pub image: Image,
    pub record: ImageRecord,
    /// As the user named it.
    pub reference: String,
}

/// Decides everything that a start needs.
pub fn plan(found: &Found, request: &Request, config: &Config, facts: &HostFacts) -> Result<Plan> {
    let mut profile = Profile::choose(config, request)?;
    profile.check(config, request)?;
    check_image(found, config)?;
    let injection = bundle::apply(&mut profile, config, request)?;
    let slurm = SlurmStep::read(|name| Some(facts.variable(name)?.to_str()?.to_string()));
    let record = &found.record;
    let choice = request.id.as_ref().unwrap_or(&profile.id);
    let Resolved {
        identity,
        image_home,
    } = identity::resolve(choice, facts, record)?;
    let network = network(request, &profile, slurm.as_ref())?;
    let dev = request.dev.unwrap_or(profile.dev);
    let home = home(request, &profile, facts)?;
    let mut mounts = mounts(request, &profile, facts, home.as_ref())?;
    mounts.extend(ports::mounts(
        request,
        &profile,
        facts,
        &record.config.labels,
    )?);
    let mounts = ordered(mounts);
    let mut added = devices::devices(
        &devices::Asked {
            gpu: request.gpu.unwrap_or(profile.gpu),
            dev,
            devices: &request.devices,
            variable: &|name| asked_variable(name, request, record, facts),
            contents: &record.contents,
        },
        facts,
        slurm.as_ref(),
    )?;
    if injection.wanted {
        mpi::inject(&record.contents, &facts.mpi, dev, &mut added)?;
    }
    let Devices {
        steps: device_steps,
        task_steps,
        additions,
        fixed: mut fixed_environment,
        libraries,
        warnings: device_warnings,
    } = added;
    let home_inside = match (&home, &image_home) {
        (Some(home), _) => home.at.as_path().to_path_buf(),
        (None, Some(home)) => PathBuf::from(home),
        (None, None) => facts
            .directory_variable("HOME")
            .unwrap_or_else(|| "/".into()),
    };
    // Where neither the directory nor the home of the host is shown, nobody looks for them inside.
    let start_home = match (&home, &image_home) {
        (None, None) if !profile.cwd => Path::new("/"),
        _ => &home_inside,
    };
    let user = User {
        identity,
        groups: facts.groups.clone(),
        home: home_inside.clone(),
        shell: record
            .contents
            .shell
            .clone()
            .unwrap_or_else(|| "/bin/sh".into()),
    };
    let mut layout = Layout::default();
    layout.steps.push(Step::Image(found.image.clone()));
    layout
        .steps
        .extend(overlay(request, &profile, &found.image)?);
    layout.system(dev);
    for mount in &mounts {
        layout.place(mount);
    }
    layout.files(user);
    layout.devices(device_steps);
    layout.libraries(&libraries, record.contents.libc.as_ref());
    let steps = layout.finish();

    let image_sets_home = record
        .config
        .env
        .iter()
        .any(|entry| entry.starts_with("HOME="));
    if home.is_some() || (image_home.is_some() && !image_sets_home) {
        fixed_environment.push(("HOME".into(), home_inside.clone().into()));
    }
    let (first, last) = profile.variables();
    let all_additions = [&additions, first].concat();
    let environment = merge(&Sources {
        facts,
        inherit: request.inherit.unwrap_or(profile.inherit),
        image: &record.config.env,
        additions: &all_additions,
        rules: &request.environment,
        last,
        fixed: &fixed_environment,
    })?;
    let argv = argv(request, found)?;
    let hash = Plan::hash_of(&steps, identity, network);
    let shared = sharing::sharing(request.name.as_deref(), facts, slurm.as_ref());
    Ok(Plan {
        shut: !profile.interactive,
        key: shared.key(facts.uid, hash),
        tasks_on_node: shared.tasks_on_node,
        identity,
        network,
        steps,
        task_steps,
        keep_fds: keep_fds(&environment, &argv),
        environment,
        hold: request.hold,
        directory: directory(request, &profile, record, facts, start_home),
        argv,
        warnings: [
            warnings(request, &profile, facts),
            mpi::alone(&record.contents, slurm.as_ref(), facts)
                .into_iter()
                .collect(),
            device_warnings,
        ]
        .concat(),
    })
}

/// What the user, the image or the caller says in a variable, in this order.
fn asked_variable(
    wanted: &str,
    request: &Request,
    record: &ImageRecord,
    facts: &HostFacts,
) -> Option<String> {
    let rules = request.environment.iter().rev();
    let asked = rules.filter_map(|rule| match rule {
        EnvRule::Set(name, value) if name == wanted => value.to_str().map(str::to_string),
        _ => None,
    });
    let image = record.config.env.iter();
    let image = image.filter_map(|entry| entry.strip_prefix(wanted)?.strip_prefix('='));
    let caller = facts.variable(wanted).and_then(|value| value.to_str());
    let mut all = asked.chain(image.chain(caller).map(str::to_string));
    all.next()
}

/// What lies over the image.
fn overlay(request: &Request, profile: &Profile, image: &Image) -> Result<Option<Step>> {
    let access = request.root.unwrap_or(profile.root);
    Ok(match (&request.kept, access) {
        (None, RootAccess::ReadOnly) => match image {
            Image::Squashfs { .. } => Some(Step::ImageOverlay),
            Image::Directory { .. } => None,
        },
        (None, RootAccess::Writable { size }) => Some(Step::Overlay { size }),
        (Some(at), access) => Some(Step::KeptOverlay {
            at: at.clone(),
            access: match access {
                RootAccess::ReadOnly => Access::ReadOnly,
                RootAccess::Writable { size: None } => Access::ReadWrite,
                RootAccess::Writable { size: Some(_) } => {
                    return Err(
                        Error::usage("cannot limit the size of a root that has a name")
                            .cause("it is kept in a directory of the node until the job ends")
                            .hint("leave out the size or the name"),
                    );
                }
            },
        }),
    })
}

fn check_image(found: &Found, config: &Config) -> Result<()> {
    let (allowed, digests) = (&config.launch.images, &config.trust.digests);
    // Beside signatures, named digests are exceptions and no list of all that may run.
    let by_name = digests.is_empty() || config.trust.require != Require::Nothing;
    if allowed.is_empty() && by_name {
        return Ok(());
    }
    let record = &found.record;
    let refused = Error::usage(format!(
        "the image `{}` is not allowed here",
        found.reference
    ))
    .hint("`carrack config show launch` prints the site's rules");
    // The record beside a file says what its writer wanted.
    let word = &found.reference;
    if word.starts_with(['/', '.']) || !matches!(found.image, Image::Squashfs { .. }) {
        return Err(refused.cause(format!(
            "a file could be anything; the site allows: {} (`launch.images`)",
            [allowed.as_slice(), digests].concat().join(", ")
        )));
    }
    let name = match record.source.is_empty() {
        true => &record.reference,
        false => &record.source,
    };
    // By whole components: `host/approved` does not allow `host/approved-not`.
    let within = |prefix: &String| {
        let rest = name.strip_prefix(prefix.as_str());
        rest.is_some_and(|rest| {
            rest.is_empty() || prefix.ends_with('/') || rest.starts_with(['/', ':', '@'])
        })
    };
    let named = !name.is_empty() && allowed.iter().any(within);
    let by_digest = !record.manifest_digest.is_empty() && digests.contains(&record.manifest_digest);
    if named || by_digest {
        return Ok(());
    }
    let origin = match record.source.is_empty() {
        true => String::new(),
        false => format!("it was made from `{name}`; "),
    };
    Err(refused.cause(format!(
        "{origin}the site allows: {} (`launch.images`, `trust.digests`)",
        [allowed.as_slice(), digests].concat().join(", ")
    )))
}

fn network(request: &Request, profile: &Profile, slurm: Option<&SlurmStep>) -> Result<Network> {
    if request.network.unwrap_or(profile.network) == NetworkChoice::Host {
        return Ok(Network::Host);
    }
    let Some(slurm) = slurm else {
        return Ok(Network::None);
    };
    let refuse = |why: String| {
        Err(Error::usage("cannot run without a network")
            .cause(why)
            .hint("use `--network host`, or one node and no MPI"))
    };
    if slurm.nodes > 1 {
        return refuse(format!(
            "the step has {} nodes, which could not reach each other",
            slurm.nodes
        ));
    }
    if slurm.pmi == Pmi::Pmix && slurm.tasks > 1 {
        return refuse(
            "the tasks were started with PMIx, whose server is reached over the network".into(),
        );
    }
    Ok(Network::None)
}

/// The command, as docker composes it.
fn argv(request: &Request, found: &Found) -> Result<Vec<OsString>> {
    let words = |list: &[String]| -> Vec<OsString> {
        let empty = list.iter().all(String::is_empty);
        if empty {
            Vec::new()
        } else {
            list.iter().map(OsString::from).collect()
        }
    };
    let config = &found.record.config;
    let default = match request.mode {
        Mode::Run => Entrypoint::Image,
        Mode::Exec | Mode::Shell => Entrypoint::None,
    };
    let (mut argv, replaced) = match request.entrypoint.as_ref().unwrap_or(&default) {
        Entrypoint::Image => (words(&config.entrypoint), false),
        Entrypoint::None => (Vec::new(), false),
        Entrypoint::Replace(command) => (vec![command.clone()], true),
    };
    if request.mode == Mode::Shell {
        argv.extend(shell(found)?);
    }
    // A new entrypoint does not get the arguments that were meant for the old one.
    if request.mode == Mode::Run && request.command.is_empty() && !replaced {
        argv.extend(words(&config.cmd));
    }
    argv.extend(request.command.iter().cloned());
    if argv.first().is_none_or(|word| word.is_empty()) {
        let error = Error::usage(format!("no command to start in `{}`", found.reference));
        return Err(match request.mode {
            Mode::Run => error
                .cause("the image has neither ENTRYPOINT nor CMD")
                .hint("name one: `carrack exec IMAGE COMMAND`"),
            _ => error.hint("write it after the image; `carrack run` starts the image's own, `carrack shell` a shell"),
        });
    }
    Ok(argv)
}

/// bash where the image has it, else its POSIX shell.
fn shell(found: &Found) -> Result<Vec<OsString>> {
    let record = &found.record;
    let known = !record.manifest_digest.is_empty();
    let shell = match &record.contents.shell {
        Some(shell) => shell.as_str(),
        None if known => {
            return Err(
                Error::new(format!("the image `{}` has no shell", found.reference))
                    .exit(Exit::NotFound)
                    .hint("`carrack exec IMAGE COMMAND` starts a program without one"),
            );
        }
        None => "/bin/sh",
    };
    let script =
        "if command -v bash >/dev/null 2>&1; then exec bash \"$@\"; else exec \"$0\" \"$@\"; fi";
    Ok([shell, "-c", script, shell].map(OsString::from).to_vec())
}

fn directory(
    request: &Request,
    profile: &Profile,
    record: &ImageRecord,
    facts: &HostFacts,
    home: &Path,
) -> StartDirectory {
    if let Some(workdir) = &request.workdir {
        return StartDirectory {
            candidates: vec![workdir.clone()],
            required: true,
        };
    }
    let mut candidates = Vec::new();
    let cwd = facts.cwd.as_ref().filter(|_| profile.cwd);
    candidates.extend(cwd.and_then(|cwd| InsidePath::new(cwd).ok()));
    // docker makes a relative WORKDIR absolute; one below /proc could lead out of the root.
    let workdir = &record.config.workdir;
    if !workdir.is_empty() {
        let workdir = InsidePath::new(Path::new("/").join(workdir)).ok();
        candidates.extend(workdir.filter(|path| !path.as_path().starts_with("/proc")));
    }
    candidates.extend(InsidePath::new(home).ok());
    candidates.push(InsidePath::fixed("/"));
    let mut seen: Vec<InsidePath> = Vec::new();
    candidates.retain(|candidate| {
        let new = !seen.contains(candidate);
        seen.push(candidate.clone());
        new
    });
    StartDirectory {
        candidates,
        required: false,
    }
}

fn warnings(request: &Request, profile: &Profile, facts: &HostFacts) -> Vec<String> {
    let mut warnings = request.notices.clone();
    if facts.cwd.is_none() && profile.cwd && request.workdir.is_none() {
        warnings.push("the current directory is gone or out of reach; starting elsewhere".into());
    }
    warnings
}

/// Descriptors that the process was promised: its process manager's, and those that the command line names (`<(…)`).
fn keep_fds(environment: &[(OsString, OsString)], argv: &[OsString]) -> Vec<i32> {
    let number = |text: &OsStr| text.to_str()?.parse::<i32>().ok();
    let manager = environment
        .iter()
        .filter(|(name, _)| name == "PMI_FD")
        .filter_map(|(_, value)| number(value));
    let named = argv.iter().filter_map(|word| {
        let bytes = word.as_bytes();
        let rest = [&b"/dev/fd/"[..], b"/proc/self/fd/"]
            .iter()
            .find_map(|prefix| bytes.strip_prefix(*prefix))?;
        number(OsStr::from_bytes(rest))
    });
    let mut fds: Vec<i32> = manager.chain(named).filter(|fd| *fd > 2).collect();
    fds.sort_unstable();
    fds.dedup();
    fds
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
