//! The directories that profiles make for one job: gone when it ends, also when nobody was left to remove them.
//!
//! Usable in an epilog: started by root, it becomes the job's user first, so that no link in a user's directory can lead
//! root anywhere.

use crate::cli::{Common, output};
use crate::config::PROFILES;
use crate::error::{Context, Error, Result};
use crate::launch::contract::{is_plain, scratch_directory};
use crate::launch::facts::HostFacts;
use crate::launch::probe;
use crate::launch::profile::Profile;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

pub fn remove(job: &str, common: &Common, dry_run: bool) -> Result<ExitCode> {
    if !is_plain(job) {
        return Err(Error::usage(format!("`{job}` is no job")));
    }
    let settings = common.settings()?;
    let config = &settings.config;
    if rustix::process::geteuid().is_root() {
        become_user()?;
    }
    let mut facts = probe::caller();
    let mut words = probe::words(&facts);
    words.job = job.to_string();
    facts.words = Some(words);
    let mut failed = None;
    let mut gone = Vec::new();
    for name in PROFILES
        .iter()
        .copied()
        .chain(config.profile.keys().map(String::as_str))
    {
        // A profile with a mistake has made nothing.
        let Ok(profile) = Profile::named(config, name) else {
            continue;
        };
        let Ok(Some(path)) = scratch_directory(&profile, &facts) else {
            continue;
        };
        if gone.contains(&path) || !is_ours(&path, &facts) {
            continue;
        }
        if !dry_run && let Err(error) = remove_tree(&path) {
            failed = Some(error);
            continue;
        }
        if !common.quiet {
            let verb = if dry_run { "would remove" } else { "removed" };
            output::print(&format!("{verb} {}\n", path.display()))?;
        }
        gone.push(path);
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn is_ours(path: &Path, facts: &HostFacts) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == facts.uid)
}

/// Gives up root for the user that Slurm names in an epilog. Root's own jobs stay root's.
fn become_user() -> Result<()> {
    let named = std::env::var("SLURM_JOB_UID").ok();
    let Some(uid) = named.and_then(|uid| uid.parse::<u32>().ok()) else {
        return Ok(());
    };
    let line = probe::getent("passwd", &[uid]);
    let gid = line
        .split(':')
        .nth(3)
        .and_then(|gid| gid.parse::<u32>().ok())
        .or_say(|| format!("cannot find the account of user {uid}"))?;
    let failed = || format!("cannot become user {uid}");
    setgroups(&[Gid::from_raw(gid)]).or_say(failed)?;
    setgid(Gid::from_raw(gid)).or_say(failed)?;
    setuid(Uid::from_raw(uid)).or_say(failed)
}

/// Removes a directory, also if something below it was made read-only. Links are never followed.
fn remove_tree(path: &Path) -> Result<()> {
    if std::fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    open_up(path);
    std::fs::remove_dir_all(path).or_say(|| format!("cannot remove `{}`", path.display()))
}

fn open_up(directory: &Path) {
    let _ = std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
