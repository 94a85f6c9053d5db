//! From arguments to a process inside an image: what `run`, `exec` and `shell` have in common.
//!
//! The order matters: a request that the site refuses is refused before the image is looked for, and everything that may
//! start threads (a pull) happens in another process, because a capsule can only be entered by a process with one.

use super::aids::{Aids, remember};
use super::policy::{Deed, may};
use super::staging::{Fetch, Staged};
use super::{LaunchCommon, hooks, looked_up, output, staging};
use crate::cli::launching::LaunchArgs;
use crate::config::{Require, Settings, nearest};
use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::pull::{host_platform, in_place, source_settings};
use crate::image::reference::Reference;
use crate::image::signature;
use crate::image::store::{Store, Stored, is_private, named};
use crate::launch::bundle;
use crate::launch::capsule::{Entered, Host};
use crate::launch::execute::{Listener, execute};
use crate::launch::facts::HostFacts;
use crate::launch::plan::{Found, plan};
use crate::launch::probe;
use crate::launch::profile::Profile;
use crate::launch::request::{Mode, Request};
use crate::launch::step::{Check, Image, Plan};
use crate::record::ImageRecord;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Starts, or with `dry_run` prints what would be done.
pub fn start(
    mode: Mode,
    launch: &LaunchArgs,
    common: &LaunchCommon,
    aids: &Aids,
    dry_run: bool,
) -> Result<ExitCode> {
    let plan = prepare(mode, launch, common, aids, dry_run)?;
    if dry_run {
        output::print(&plan.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let voice = Voice::of(common);
    for warning in &plan.warnings {
        voice.warn(warning);
    }
    if common.verbose > 0 && voice.first {
        eprint!("{plan}");
    }
    let (uid, mut groups) = (plan.identity.outside_uid, vec![plan.identity.outside_gid]);
    groups.extend(
        rustix::process::getgroups()
            .into_iter()
            .flatten()
            .map(|gid| gid.as_raw()),
    );
    let host = Host {
        account: &|| probe::account(uid, &groups),
        step_end: aids.step_end,
    };
    Err(execute(&plan, &host, &voice))
}

/// Checks a request as the nodes will, and fixes its image: brings it into the store if need be, prints its digest.
///
/// An image that is a file has none, and may exist on the nodes only.
pub fn pin(launch: &LaunchArgs, common: &LaunchCommon, aids: &Aids) -> Result<ExitCode> {
    let (request, settings, _) = checked(Mode::Exec, launch, common, aids, &probe::caller())?;
    // A root that a step before made has its image.
    if request.image.is_none() && request.name.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    let name = image_of(&request)?;
    if !is_path(name) {
        let found = find(name, &settings, common, false)?;
        output::print(&format!("{}\n", found.record.manifest_digest))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was asked for, allowed by the site.
fn checked(
    mode: Mode,
    launch: &LaunchArgs,
    common: &LaunchCommon,
    aids: &Aids,
    caller: &HostFacts,
) -> Result<(Request, Settings, Profile)> {
    let mut request = launch.request(mode, caller)?;
    aids.apply(&mut request)?;
    let settings = common.common().settings()?;
    let profile = Profile::choose(&settings.config, &request)?;
    profile.check(&settings.config, &request)?;
    may(Deed::Run, &settings.config.access)?;
    Ok((request, settings, profile))
}

fn image_of(request: &Request) -> Result<&str> {
    request.image.as_deref().ok_or_else(|| {
        Error::usage("no image was named")
            .hint("write it first: `carrack exec IMAGE COMMAND`, or set CARRACK_IMAGE and begin with `--`")
    })
}

/// A path is looked at before names are: `./image` is never in a registry.
fn is_path(name: &str) -> bool {
    name.starts_with(['/', '.']) || name.starts_with("dir:")
}

fn prepare(
    mode: Mode,
    launch: &LaunchArgs,
    common: &LaunchCommon,
    aids: &Aids,
    dry_run: bool,
) -> Result<Plan> {
    let caller = probe::caller();
    let (mut request, settings, profile) =
        checked(mode, launch, common, aids, &caller).map_err(on_this_node)?;
    let config = &settings.config;
    // A terminal makes a shell of any command.
    if !profile.interactive && !dry_run && std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(profile
            .nobody_enters()
            .cause("standard input is a terminal"));
    }
    let name = image_of(&request)?;
    let directory = std::env::current_dir().unwrap_or_default();
    // Without a home there may be no store, and an image that is a file needs none.
    let store = common.common().store_of(&settings);
    let root = store
        .as_ref()
        .map(|store| store.root())
        .unwrap_or(Path::new(""));
    let place = [root, &directory].map(|path| path.as_os_str().as_bytes());
    let find = || find(name, &settings, common, dry_run);
    let mut found = match dry_run {
        true => find(),
        false => looked_up::once(name, request.name.as_deref(), &place, &caller, find),
    }
    .map_err(on_this_node)?;
    if let Some(path) = &aids.mounted {
        found.image = Image::Directory { path: path.clone() };
    }
    if let Some(kept) = &request.kept {
        remember(kept, name)?;
    }
    if !request.inputs.is_empty() {
        let fetch = |value: &str| fetch_elsewhere(value, &settings);
        let fetch = match dry_run {
            true => Fetch::Never,
            false => Fetch::Elsewhere(&fetch),
        };
        let staged = staging::values(&found.record.config.labels, &request.inputs, &fetch)?;
        request.inputs = staging::pairs(staged);
    }
    let mut facts = probe::facts(caller, &request, &profile, config)?;
    probe::image_users(&mut facts, &request, &profile, &found.image)?;
    let injection = bundle::apply(&mut profile.clone(), config, &request)?;
    if injection.wanted {
        facts.mpi = probe::host_mpi(&found.record.contents, &injection, &facts);
    }
    let plan = plan(&found, &request, config, &facts).map_err(on_this_node)?;
    if !dry_run {
        let project = facts.project.as_ref().map(|project| project.name.as_str());
        hooks::start(&settings, &request, &profile, &found, project)?;
    }
    Ok(plan)
}

/// In a step of many nodes it matters which one lacks the image, or has other rules.
fn on_this_node(error: Error) -> Error {
    match std::env::var_os("SLURM_STEP_ID") {
        Some(_) => error.cause(format!("on node {}", probe::node_name())),
        None => error,
    }
}

/// The image that a word names: in the store, a file or a directory where it lies, or pulled now where that is allowed.
pub fn find(
    name: &str,
    settings: &Settings,
    common: &LaunchCommon,
    dry_run: bool,
) -> Result<Found> {
    let found = look_for(name, settings, common, dry_run)?;
    let trust = &settings.config.trust;
    if trust.require == Require::Nothing {
        return Ok(found);
    }
    // Also what a user pulled before the site asked for signatures, or put into his store himself.
    let unsigned = || {
        Error::usage(format!("the image `{name}` carries no signature"))
            .cause("the site requires one (`trust.require`)")
            .hint("pull the image from its registry")
    };
    match &found.image {
        Image::Squashfs { path, .. } if !is_path(name) => {
            let digest = found.record.manifest_digest.parse::<Digest>();
            let digest = digest.map_err(|_| unsigned())?;
            signature::check_stored(trust, path, &digest)?;
            Ok(found)
        }
        _ => Err(unsigned()),
    }
}

fn look_for(
    name: &str,
    settings: &Settings,
    common: &LaunchCommon,
    dry_run: bool,
) -> Result<Found> {
    let default = &settings.config.registries.default;
    let path = Path::new(name.strip_prefix("dir:").unwrap_or(name));
    if is_path(name) && path.is_dir() {
        let path = std::path::absolute(path).or_say(|| format!("cannot find `{name}`"))?;
        return Ok(Found {
            image: Image::Directory { path },
            record: ImageRecord::default(),
            reference: name.to_string(),
        });
    }
    let reference = named(name, default)?;
    if let Some(
        reference @ (Reference::Squashfs(path) | Reference::Sif(path) | Reference::File(path)),
    ) = &reference
        && path.exists()
    {
        if is_program(path) {
            return Err(
                Error::usage(format!("`{name}` is a program, not an image")).hint(format!(
                    "the image comes first: `carrack exec IMAGE {name}`"
                )),
            );
        }
        let temporary = std::env::temp_dir();
        let stored = in_place(reference, &source_settings(&settings.config, temporary)?)?;
        return Ok(found(stored, name));
    }
    let store = common.common().store_of(settings)?;
    match store.find_named(name, default, &host_platform()) {
        Ok(stored) => {
            // A job's image is pinned by its script: a step need not write to the shared file system.
            if !dry_run && std::env::var_os("SLURM_STEP_ID").is_none() {
                store.touch(&stored);
            }
            Ok(found(stored, name))
        }
        // There, but for others: to bring a copy of one's own is for its user to decide.
        Err(private) if is_private(&private) => Err(private),
        Err(missing) => match reference {
            // A file that is not there is in no registry either.
            Some(reference) if reference.path().is_some_and(|path| !path.exists()) => {
                let shown = reference.path().unwrap_or(path).display();
                Err(Error::new(format!("cannot find the image `{shown}`"))
                    .cause("there is no such file, and the store has no image of that name")
                    .hint("`carrack images` lists the store; a name of a registry is written without a path"))
            }
            Some(reference) if !dry_run => {
                let pulled = pull(&reference, settings, common, missing);
                pulled.map_err(|error| {
                    let known =
                        similar(name, &store).map(|known| format!("the store has `{known}`"));
                    let hints = known.into_iter().chain(store.too_few_digits(name));
                    hints.fold(error, Error::hint)
                })?;
                let stored = store.find_named(name, default, &host_platform())?;
                Ok(found(stored, name))
            }
            _ => Err(missing),
        },
    }
}

fn found(stored: Stored, name: &str) -> Found {
    let check = (!stored.record.squashfs.root.is_empty()
        && stored.record.squashfs.hashes_count > 0)
        .then(|| Check(stored.record.squashfs.clone()));
    Found {
        image: Image::Squashfs {
            path: stored.path,
            offset: stored.offset,
            check,
            name: name.to_string(),
        },
        record: stored.record,
        reference: name.to_string(),
    }
}

/// A name in the store that this one may have been meant to be, as short as a person writes it.
fn similar(name: &str, store: &Store) -> Option<String> {
    let listing = store.list();
    let names: Vec<&str> = listing
        .images
        .iter()
        .flat_map(|image| &image.references)
        .map(|name| name.strip_suffix(":latest").unwrap_or(name))
        .map(|name| name.strip_prefix("docker://").unwrap_or(name))
        .map(|name| name.strip_prefix("docker.io/").unwrap_or(name))
        .map(|name| name.strip_prefix("library/").unwrap_or(name))
        .collect();
    nearest(name, names.iter().copied()).map(str::to_string)
}

/// A program where the image belongs: the image was forgotten.
fn is_program(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && &start == b"\x7fELF"
}

/// Fetches an input in a process of its own, where the site lets this machine do so.
fn fetch_elsewhere(value: &str, settings: &Settings) -> Result<Staged> {
    let what = || format!("cannot fetch `{value}`");
    if std::env::var_os("SLURMD_NODENAME").is_some() && !settings.config.pull.compute_nodes {
        return Err(Error::usage(what())
            .cause("on compute nodes nothing is fetched (`pull.compute_nodes`)")
            .hint("`carrack submit` fetches it on the login node"));
    }
    let program = std::env::current_exe().or_say(|| "cannot find the carrack program")?;
    let output = Command::new(program)
        .args(["fetch-input", "--", value])
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit())
        .output()
        .or_say(what)?;
    if !output.status.success() {
        return Err(Error::new(what()).cause("why, is said above"));
    }
    serde_json::from_slice(&output.stdout).or_say(what)
}

/// Pulls in a process of its own, where the site allows it.
fn pull(
    reference: &Reference,
    settings: &Settings,
    common: &LaunchCommon,
    missing: Error,
) -> Result<()> {
    let in_job = std::env::var_os("SLURMD_NODENAME").is_some();
    if in_job && !settings.config.pull.compute_nodes {
        let node = probe::node_name();
        return Err(missing
            .cause(format!(
                "node {node} is a compute node, where nothing is pulled (`pull.compute_nodes`)"
            ))
            .hint(format!(
                "run `carrack pull {reference}` on a login node, then submit again"
            )));
    }
    let program = std::env::current_exe().or_say(|| "cannot find the carrack program")?;
    let mut command = Command::new(program);
    command.arg("pull").arg(reference.to_string());
    if let Some(store) = &common.store {
        command.arg("--store").arg(store);
    }
    // Standard output belongs to the command that will be started.
    let quiet = common.quiet || !std::io::IsTerminal::is_terminal(&std::io::stderr());
    if quiet {
        command.arg("--quiet");
    }
    command
        .stdout(std::process::Stdio::null())
        .stdin(std::process::Stdio::null());
    let status = command
        .status()
        .or_say(|| format!("cannot pull `{reference}`"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("cannot start `{reference}`"))
        .cause("it is not in the store, and pulling it failed (see above)"))
}

/// Says things once per step: by its first task.
pub struct Voice {
    first: bool,
    quiet: bool,
    verbose: bool,
}

impl Voice {
    pub fn of(common: &LaunchCommon) -> Voice {
        Voice {
            first: is_first(),
            quiet: common.quiet,
            verbose: common.verbose > 0,
        }
    }
}

/// Whether this is the first task of its step, or alone.
fn is_first() -> bool {
    [
        "OMPI_COMM_WORLD_RANK",
        "PMIX_RANK",
        "SLURM_PROCID",
        "PMI_RANK",
    ]
    .iter()
    .find_map(|name| std::env::var(name).ok())
    .is_none_or(|rank| rank == "0")
}

impl Listener for Voice {
    fn entered(&self, how: Entered) {
        if self.verbose {
            let word = match how {
                Entered::Made => "made",
                Entered::Joined => "joined",
            };
            eprintln!("carrack: {word} the capsule");
        }
    }

    fn warn(&self, text: &str) {
        if self.first && !self.quiet {
            eprintln!("carrack: warning: {}", crate::error::printable(text));
        }
    }
}
