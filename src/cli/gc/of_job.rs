//! The directories that profiles make for one job: gone when it ends, also when nobody was left to remove them.
//!
//! Usable in an epilog: started by root, it becomes the job's user first, so that no link in a user's directory can lead
//! root anywhere.

use crate::cli::{Common, output};
use crate::config::{Config, PROFILES};
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
    if rustix::process::geteuid().is_root() {
        become_user()?;
    }
    let facts = facts_of(job);
    let mut failed = None;
    let mut gone = Vec::new();
    for profile in profiles(&settings.config) {
        let Ok(Some(path)) = scratch_directory(&profile, &facts) else {
            continue;
        };
        if gone.contains(&path) || !is_ours(&path, &facts) {
            continue;
        }
        match remove_one(&path, common, dry_run) {
            Ok(()) => gone.push(path),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Removes what starts outside of any job left when they were killed: nobody else comes by afterwards.
pub fn sweep(common: &Common, dry_run: bool) -> Result<()> {
    // Stands for a job's name in a path; no name looks like it.
    const MARK: &str = "@@";
    let settings = common.settings()?;
    let marked = facts_of(MARK);
    let mut seen = Vec::new();
    for profile in profiles(&settings.config) {
        let Ok(Some(place)) = scratch_directory(&profile, &marked) else {
            continue;
        };
        let is_marked = |part: &&Path| {
            let name = part.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.contains(MARK))
        };
        // The outermost directory that has the job's name.
        let Some(marked_part) = place.ancestors().filter(is_marked).last() else {
            continue;
        };
        let name = marked_part.file_name().and_then(|name| name.to_str());
        let (Some(above), Some((before, behind))) = (
            marked_part.parent(),
            name.and_then(|name| name.split_once(MARK)),
        ) else {
            continue;
        };
        for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
            let entry = entry.file_name();
            let job = entry.to_str().and_then(|name| {
                let name = name.strip_prefix(before)?;
                name.strip_suffix(behind)
            });
            let Some(job) = job.filter(|job| is_plain(job) && probe::has_ended(job)) else {
                continue;
            };
            let facts = facts_of(job);
            let Ok(Some(path)) = scratch_directory(&profile, &facts) else {
                continue;
            };
            if !seen.contains(&path) && is_ours(&path, &facts) {
                remove_one(&path, common, dry_run)?;
                seen.push(path);
            }
        }
    }
    Ok(())
}

fn facts_of(job: &str) -> HostFacts {
    let mut facts = probe::caller();
    let mut words = probe::words(&facts);
    words.job = job.to_string();
    facts.words = Some(words);
    facts
}

/// Those without a mistake: one with a mistake has made nothing.
fn profiles(config: &Config) -> Vec<Profile> {
    let own = config.profile.keys().map(String::as_str);
    let names = PROFILES.iter().copied().chain(own);
    names
        .filter_map(|name| Profile::named(config, name).ok())
        .collect()
}

fn remove_one(path: &Path, common: &Common, dry_run: bool) -> Result<()> {
    if !dry_run {
        remove_tree(path)?;
    }
    if !common.quiet {
        let verb = if dry_run { "would remove" } else { "removed" };
        output::print(&format!("{verb} {}\n", path.display()))?;
    }
    Ok(())
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
