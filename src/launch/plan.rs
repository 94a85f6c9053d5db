//! Turns a request into ordered steps. Touches nothing: no file is opened here, so every rule about mounts, identity and
//! environment can be tested from a table.
//!
//! Whatever decides about the capsule (steps, identity, network) must come out equal for all tasks of a step, because its
//! hash is how they find each other; what differs between tasks is kept to the command, the environment and `task_steps`.

use super::devices::{self, Devices};
use super::environment::{Sources, merge};
use super::facts::HostFacts;
use super::identity::{self, Resolved};
use super::inside::InsidePath;
use super::mounts::{MountSpec, Placed, What, ordered};
use super::profile::Profile;
use super::request::{Dev, Entrypoint, Home, Mode, NetworkChoice, Request, RootAccess, Tmp};
use super::sharing;
use super::step::{
    Access, Content, Image, Like, Missing, MountPoint, Network, Plan, StartDirectory, Step, Target,
    User,
};
use crate::config::Config;
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

/// Directories that belong to the image: a caller who stands in one does not want the host's over it.
const OF_THE_IMAGE: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root",
    "/run", "/sbin", "/sys", "/usr", "/var",
];

/// Decides everything that a start needs.
pub fn plan(found: &Found, request: &Request, config: &Config, facts: &HostFacts) -> Result<Plan> {
    let profile = Profile::choose(config, request)?;
    profile.check(config, request)?;
    check_image(found, config)?;
    let slurm = SlurmStep::read(|name| Some(facts.variable(name)?.to_str()?.to_string()));
    let record = &found.record;
    let choice = request.id.as_ref().unwrap_or(&profile.id);
    let Resolved {
        identity,
        image_home,
    } = identity::resolve(choice, facts, record)?;
    let network = network(request, &profile, slurm.as_ref())?;
    let dev = request.dev.unwrap_or(profile.dev);
    let home = home(request, &profile, facts);
    let mounts = mounts(request, &profile, facts, home.as_ref())?;
    let Devices {
        steps: device_steps,
        task_steps,
        additions,
        fixed: mut fixed_environment,
    } = devices::devices(
        request.gpu.unwrap_or(profile.gpu),
        dev,
        &request.devices,
        facts,
        slurm.as_ref(),
    )?;
    let home_inside = match (&home, &image_home) {
        (Some(home), _) => home.at.as_path().to_path_buf(),
        (None, Some(home)) => PathBuf::from(home),
        (None, None) => facts
            .directory_variable("HOME")
            .unwrap_or_else(|| "/".into()),
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
    if let RootAccess::Writable { size } = request.root.unwrap_or(profile.root) {
        layout.steps.push(Step::Overlay { size });
    }
    layout.system(dev);
    for mount in &mounts {
        layout.place(mount);
    }
    layout.files(user);
    layout.devices(device_steps);
    let steps = layout.finish();

    let image_sets_home = record
        .config
        .env
        .iter()
        .any(|entry| entry.starts_with("HOME="));
    if home.is_some() || (image_home.is_some() && !image_sets_home) {
        fixed_environment.push(("HOME".into(), home_inside.clone().into()));
    }
    let all_additions = [additions, profile.additions.clone()].concat();
    let environment = merge(&Sources {
        facts,
        inherit: request.inherit.unwrap_or(profile.inherit),
        image: &record.config.env,
        additions: &all_additions,
        rules: &request.environment,
        fixed: &fixed_environment,
    })?;
    let argv = argv(request, found)?;
    let hash = Plan::hash_of(&steps, identity, network);
    let shared = sharing::sharing(request.name.as_deref(), facts, slurm.as_ref());
    Ok(Plan {
        key: shared.key(facts.uid, hash),
        tasks_on_node: shared.tasks_on_node,
        identity,
        network,
        steps,
        task_steps,
        keep_fds: keep_fds(&environment, &argv),
        environment,
        directory: directory(request, &profile, record, facts, &home_inside),
        argv,
        warnings: request.notices.clone(),
    })
}

fn check_image(found: &Found, config: &Config) -> Result<()> {
    let allowed = &config.launch.images;
    let name = &found.record.reference;
    // By whole components: `host/approved` does not allow `host/approved-not`.
    let within = |prefix: &String| {
        let rest = name.strip_prefix(prefix.as_str());
        rest.is_some_and(|rest| {
            rest.is_empty() || prefix.ends_with('/') || rest.starts_with(['/', ':', '@'])
        })
    };
    if allowed.is_empty() || (!name.is_empty() && allowed.iter().any(within)) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "the image `{}` is not allowed here",
        found.reference
    ))
    .cause(format!("the site allows: {}", allowed.join(", ")))
    .hint("`carrack config show launch` prints the site's rules"))
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

/// The home directory's mount, if it is to be shown.
fn home(request: &Request, profile: &Profile, facts: &HostFacts) -> Option<Placed> {
    let at = facts.directory_variable("HOME")?;
    let (from, missing) = match &request.home {
        Some(Home::Hide) => return None,
        Some(Home::MountFrom(from)) => (absolute(from, facts), Missing::Fail),
        Some(Home::Mount) => (at.clone(), Missing::Skip),
        None if profile.home => (at.clone(), Missing::Skip),
        None => return None,
    };
    // A home with `..` or beyond the kernel's limits is no place to mount.
    Some(Placed {
        at: InsidePath::new(&at).ok()?,
        what: What::Bind {
            from,
            access: Access::ReadWrite,
            missing,
        },
    })
}

fn absolute(path: &Path, facts: &HostFacts) -> PathBuf {
    match &facts.cwd {
        Some(cwd) if path.is_relative() => cwd.join(path.strip_prefix("./").unwrap_or(path)),
        _ => path.to_path_buf(),
    }
}

fn same_place(path: &Path) -> Option<Placed> {
    Some(Placed {
        at: InsidePath::new(path).ok()?,
        what: What::Bind {
            from: path.to_path_buf(),
            access: Access::ReadWrite,
            missing: Missing::Skip,
        },
    })
}

/// All mounts that a person or a site could name, in order.
fn mounts(
    request: &Request,
    profile: &Profile,
    facts: &HostFacts,
    home: Option<&Placed>,
) -> Result<Vec<Placed>> {
    let mut all: Vec<Placed> = Vec::new();
    match request.tmp.unwrap_or(profile.tmp) {
        Tmp::Host => {
            all.extend(
                ["/tmp", "/var/tmp"]
                    .iter()
                    .filter_map(|path| same_place(Path::new(path))),
            );
            // A job's own directory for temporary files, where the site has one.
            let own = facts.directory_variable("TMPDIR");
            all.extend(
                own.filter(|path| !shown(&all, path))
                    .and_then(|path| same_place(&path)),
            );
        }
        Tmp::Private => all.extend(["/tmp", "/var/tmp"].map(|path| Placed {
            at: InsidePath::fixed(path),
            what: What::Tmpfs {
                size: None,
                mode: 0o1777,
            },
        })),
    }
    all.extend(home.cloned());
    for spec in &profile.binds {
        // A site's list fits all its nodes: what one of them lacks is left out there.
        add(&mut all, spec, facts, true)?;
    }
    if profile.cwd
        && let Some(cwd) = facts.cwd.as_ref().filter(|cwd| may_show(cwd, facts))
        && !shown(&all, cwd)
    {
        all.extend(same_place(cwd));
    }
    // The server's files of the process manager, at their own path.
    if let Some(path) = facts.directory_variable("PMIX_SERVER_TMPDIR")
        && !shown(&all, &path)
    {
        all.extend(same_place(&path));
    }
    for spec in &request.mounts {
        check_bind(spec, profile, facts)?;
        add(&mut all, spec, facts, false)?;
    }
    Ok(ordered(all))
}

/// Whether the caller's directory may be laid over the image's: not over system directories, and not if that would show a
/// home that is to be hidden.
fn may_show(cwd: &Path, facts: &HostFacts) -> bool {
    let of_image = OF_THE_IMAGE.iter().any(|path| cwd.starts_with(path));
    let holds_home = facts
        .directory_variable("HOME")
        .is_some_and(|home| home.starts_with(cwd));
    cwd.is_absolute() && cwd.parent().is_some() && !of_image && !holds_home
}

/// Whether a host directory is already seen at its own path.
fn shown(mounts: &[Placed], path: &Path) -> bool {
    mounts.iter().any(|mount| match &mount.what {
        What::Bind { from, .. } => from == mount.at.as_path() && path.starts_with(from),
        What::Tmpfs { .. } => false,
    })
}

/// Old names of places that distributions moved: a mount there would be hidden by one at the real place.
fn modern(path: InsidePath) -> InsidePath {
    let moved = |old: &str, new: &str| {
        let rest = path.as_path().strip_prefix(old).ok()?;
        InsidePath::new(Path::new(new).join(rest)).ok()
    };
    moved("/var/run", "/run")
        .or_else(|| moved("/var/lock", "/run/lock"))
        .unwrap_or(path)
}

fn add(all: &mut Vec<Placed>, spec: &MountSpec, facts: &HostFacts, site: bool) -> Result<()> {
    match spec {
        MountSpec::Bind {
            from,
            to,
            access,
            missing,
        } => {
            let from = absolute(from, facts);
            let at = match to {
                Some(to) => to.clone(),
                None => InsidePath::new(&from)?,
            };
            all.push(Placed {
                at: modern(at),
                what: What::Bind {
                    from,
                    access: *access,
                    missing: match missing {
                        Missing::Fail if site => Missing::Skip,
                        other => *other,
                    },
                },
            });
        }
        MountSpec::Tmpfs { at, size, mode } => all.push(Placed {
            at: modern(at.clone()),
            what: What::Tmpfs {
                size: *size,
                mode: *mode,
            },
        }),
        MountSpec::Omit { at } => all.retain(|mount| mount.at != *at),
    }
    Ok(())
}

/// A user's mount: where it may land, and whether the site allows its source.
fn check_bind(spec: &MountSpec, profile: &Profile, facts: &HostFacts) -> Result<()> {
    let from = match spec {
        MountSpec::Bind { from, .. } => Some(absolute(from, facts)),
        _ => None,
    };
    let target = match (spec.target(), &from) {
        (Some(target), _) => target.clone(),
        (None, Some(from)) => InsidePath::new(from)?,
        (None, None) => return Ok(()),
    };
    let over = |path: &str| target.as_path() == Path::new(path);
    if target.is_root() || over("/dev") || over("/sys") || target.as_path().starts_with("/proc") {
        return Err(Error::usage(format!("cannot mount on `{target}`"))
            .cause("a capsule needs what is there")
            .hint("choose another target: `SRC:DST`"));
    }
    let Some(from) = from else { return Ok(()) };
    if profile.user_bind_paths.is_empty() {
        return Ok(());
    }
    let real = facts.real_paths.get(&from).unwrap_or(&from);
    let inside = InsidePath::new(real).ok();
    let allowed = inside.is_some_and(|path| {
        let mut paths = profile.user_bind_paths.iter();
        paths.any(|allowed| path.is_within(allowed))
    });
    if allowed {
        return Ok(());
    }
    let list: Vec<String> = profile
        .user_bind_paths
        .iter()
        .map(ToString::to_string)
        .collect();
    Err(
        Error::usage(format!("mounting `{}` is not allowed here", from.display()))
            .cause(format!("the site allows mounts from: {}", list.join(", "))),
    )
}

/// Steps in the making, with what lies where.
#[derive(Default)]
struct Layout {
    steps: Vec<Step>,
    points: Vec<MountPoint>,
    later: Vec<Step>,
    /// What covers the image so far: a target below a tmpfs is made there, one below a bind is the host's.
    covers: Vec<(InsidePath, bool)>,
}

impl Layout {
    /// What a missing target means at this place, and a mount point if the image has to have it.
    fn target(&mut self, at: &InsidePath, like: Like) -> Target {
        let covering = self
            .covers
            .iter()
            .rev()
            .filter(|(above, _)| at.is_within(above));
        // The deepest mount above decides.
        match covering.max_by_key(|(above, _)| above.as_path().components().count()) {
            Some((_, true)) => Target::Make,
            Some((_, false)) => Target::Ready,
            None => {
                self.points.push(MountPoint {
                    at: at.clone(),
                    like,
                });
                Target::Ready
            }
        }
    }

    fn system(&mut self, dev: Dev) {
        for (index, mut step) in devices::dev(dev).into_iter().enumerate() {
            if index == 0 {
                let at = InsidePath::fixed("/dev");
                let ready = self.target(&at, Like::Directory);
                if let Step::Bind { target, .. } | Step::Tmpfs { target, .. } = &mut step {
                    *target = ready;
                }
                self.covers.push((at, dev == Dev::Minimal));
            }
            self.later.push(step);
        }
        for path in ["/proc", "/sys"] {
            let at = InsidePath::fixed(path);
            let target = self.target(&at, Like::Directory);
            self.later.push(Step::Bind {
                from: path.into(),
                to: at.clone(),
                access: Access::ReadWrite,
                missing: Missing::Fail,
                target,
            });
            self.covers.push((at, false));
        }
    }

    fn place(&mut self, mount: &Placed) {
        let at = mount.at.clone();
        match &mount.what {
            What::Bind {
                from,
                access,
                missing,
            } => {
                let like = match missing {
                    Missing::MakeDirectory => Like::Directory,
                    _ => Like::Source(from.clone()),
                };
                let target = self.target(&at, like);
                self.later.push(Step::Bind {
                    from: from.clone(),
                    to: at.clone(),
                    access: *access,
                    missing: *missing,
                    target,
                });
                self.covers.push((at, false));
            }
            What::Tmpfs { size, mode } => {
                let target = self.target(&at, Like::Directory);
                self.later.push(Step::Tmpfs {
                    at: at.clone(),
                    size: *size,
                    mode: *mode,
                    target,
                });
                self.covers.push((at, true));
            }
        }
    }

    /// Names, users and the clock's zone, unless somebody mounted there.
    fn files(&mut self, user: User) {
        let free = |layout: &Layout, at: &InsidePath| {
            !layout.covers.iter().any(|(above, _)| at.is_within(above))
        };
        for (path, content) in [
            ("/etc/passwd", Content::Passwd(user.clone())),
            ("/etc/group", Content::Group(user)),
        ] {
            let at = InsidePath::fixed(path);
            if free(self, &at) {
                let target = self.target(&at, Like::File);
                self.later.push(Step::File {
                    at,
                    content,
                    target,
                });
            }
        }
        for (path, needed) in [
            ("/etc/hosts", true),
            ("/etc/resolv.conf", true),
            ("/etc/localtime", false),
        ] {
            let at = InsidePath::fixed(path);
            if free(self, &at) {
                let target = match needed {
                    true => self.target(&at, Like::Source(path.into())),
                    false => Target::IfThere,
                };
                self.later.push(Step::Bind {
                    from: path.into(),
                    to: at,
                    access: Access::ReadOnly,
                    missing: Missing::Skip,
                    target,
                });
            }
        }
    }

    fn devices(&mut self, steps: Vec<Step>) {
        let directory = InsidePath::fixed("/run/carrack");
        let uses_directory = steps.iter().any(|step| match step {
            Step::Bind { to, .. } => to.is_within(&directory),
            _ => false,
        });
        if uses_directory {
            self.place(&Placed {
                at: directory,
                what: What::Tmpfs {
                    size: None,
                    mode: 0o755,
                },
            });
        }
        for mut step in steps {
            if let Step::Bind {
                from, to, target, ..
            } = &mut step
            {
                *target = self.target(&to.clone(), Like::Source(from.clone()));
            }
            self.later.push(step);
        }
    }

    fn finish(mut self) -> Vec<Step> {
        let mut seen: Vec<InsidePath> = Vec::new();
        self.points.retain(|point| {
            let new = !seen.contains(&point.at);
            seen.push(point.at.clone());
            new
        });
        if !self.points.is_empty() {
            self.steps.push(Step::MountPoints(self.points));
        }
        self.steps.extend(self.later);
        self.steps.push(Step::EnterRoot);
        self.steps
    }
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
            _ => error.hint("write it after the image; `carrack run` starts the image's own"),
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
