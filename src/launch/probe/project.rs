//! What the mounts of a profile depend on: the user as the user database has him, his project, and where links lead.

use super::account;
use crate::error::{Context, Error, Result};
use crate::launch::contract::{Filler, Project, Words, projects};
use crate::launch::facts::HostFacts;
use crate::launch::mounts::MountSpec;
use crate::launch::profile::Profile;
use crate::launch::request::{Home, Request};
use rustix::fs::{Access, AtFlags, CWD, FileType};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Adds what this profile asks for, and nothing for one that asks for nothing.
pub fn look(facts: &mut HostFacts, request: &Request, profile: &Profile) -> Result<()> {
    if profile.has_words() || profile.is_restricted() {
        let words = words(facts);
        facts.account_home = Some(words.home.clone());
        facts.words = Some(words);
    }
    if profile.project_data.is_some() {
        facts.project = Some(find(facts, request, profile)?);
    }
    if profile.is_restricted() {
        real_paths(facts, request, profile);
    }
    Ok(())
}

/// Names of the caller's groups, the primary one first.
pub fn group_names(facts: &HostFacts) -> Vec<String> {
    let mut numbers = vec![facts.gid];
    numbers.extend(facts.groups.iter().copied().filter(|gid| *gid != facts.gid));
    let names = account(facts.uid, &numbers).groups;
    let name = |gid: &u32| names.iter().find(|(known, _)| known == gid);
    numbers
        .iter()
        .filter_map(name)
        .map(|(_, name)| name.clone())
        .collect()
}

/// The name of a start outside of any job, by which its directories are told apart and swept (`carrack gc`).
fn alone_name(node: &str, seconds: u64, pid: u32) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() {
        true => c,
        false => '-',
    };
    let node: String = node.chars().take(64).map(plain).collect();
    format!("local-{node}-{seconds}-{pid}")
}

/// Whether a name is that of a start on this node whose process has ended.
pub fn has_ended(name: &str) -> bool {
    let mut fields = name.rsplitn(3, '-');
    let (Some(pid), Some(seconds)) = (fields.next(), fields.next()) else {
        return false;
    };
    let (Ok(pid), Ok(seconds)) = (pid.parse::<u32>(), seconds.parse::<u64>()) else {
        return false;
    };
    name == alone_name(&super::node_name(), seconds, pid)
        && !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Who runs, and for which job.
pub fn words(facts: &HostFacts) -> Words {
    let account = account(facts.uid, &[facts.gid]);
    let variable = |name: &str| {
        let value = facts.variable(name)?.to_str()?;
        (!value.is_empty()).then(|| value.to_string())
    };
    let home = match account.home.is_empty() {
        // A number without an account has what its environment says.
        true => facts.directory_variable("HOME").unwrap_or_default(),
        false => PathBuf::from(&account.home),
    };
    let group = account.groups.first().map(|(_, name)| name.clone());
    let alone = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs());
        alone_name(&super::node_name(), seconds, std::process::id())
    };
    Words {
        user: match account.name.is_empty() {
            true => facts.uid.to_string(),
            false => account.name,
        },
        group: group.unwrap_or_else(|| facts.gid.to_string()),
        home,
        job: variable("SLURM_JOB_ID")
            .or_else(|| variable("CARRACK_JOB"))
            .unwrap_or_else(alone),
        step: variable("SLURM_STEP_ID").unwrap_or_else(|| "0".into()),
    }
}

/// The project that the user works for: the one that was named, the one that the home's own link leads to, or the first
/// of the user's whose data is there.
fn find(facts: &HostFacts, request: &Request, profile: &Profile) -> Result<Project> {
    let candidates = projects(&group_names(facts), &profile.project_prefixes);
    let data = |name: &str| -> Result<PathBuf> {
        let Some(MountSpec::Bind { from, .. }) = &profile.project_data else {
            return Err(Error::usage("`project_data` needs a directory"));
        };
        let facts = HostFacts {
            project: Some(Project {
                name: name.into(),
                data: PathBuf::new(),
            }),
            ..facts.clone()
        };
        let filler = Filler {
            facts: &facts,
            dataset: None,
            scratch: None,
        };
        Ok(filler.fill(from.to_str().unwrap_or_default())?.into())
    };
    let list = || match candidates.is_empty() {
        true => "your groups name no project".to_string(),
        false => format!("your groups name: {}", candidates.join(", ")),
    };
    if let Some(name) = &request.project {
        if !candidates.contains(name) {
            return Err(Error::usage(format!("the project `{name}` is not yours")).cause(list()));
        }
        return checked(name, data(name)?, profile);
    }
    let home = facts.words.as_ref().map(|words| words.home.clone());
    if let (Some(home), Some(choice)) = (home, &profile.project_override)
        && let own = home.join(choice)
        && own.symlink_metadata().is_ok()
    {
        return chosen(&own, &home, &candidates, &data, profile)
            .map_err(|error| error.cause(list()));
    }
    for name in &candidates {
        let path = data(name)?;
        if path.symlink_metadata().is_ok() {
            return checked(name, path, profile);
        }
    }
    let example = data("PROJECT")?;
    Err(Error::usage("no project of yours was found")
        .cause(list())
        .cause(format!(
            "a project's data would be at `{}`",
            example.display()
        ))
        .hint("the site can add you to the project's group"))
}

/// What the user's own link leads to: a project of his, or something in his home.
fn chosen(
    own: &Path,
    home: &Path,
    candidates: &[String],
    data: &dyn Fn(&str) -> Result<PathBuf>,
    profile: &Profile,
) -> Result<Project> {
    let real = own
        .canonicalize()
        .or_say(|| format!("cannot follow `{}`", own.display()))?;
    for name in candidates {
        let of_project = data(name)?.canonicalize();
        if of_project.is_ok_and(|path| real.starts_with(path)) {
            return checked(name, real, profile);
        }
    }
    if home.canonicalize().is_ok_and(|home| real.starts_with(home)) {
        return checked("home", real, profile);
    }
    Err(Error::usage(format!(
        "`{}` leads to `{}`, which belongs to no project of yours",
        own.display(),
        real.display()
    )))
}

fn checked(name: &str, path: PathBuf, profile: &Profile) -> Result<Project> {
    let shown = path.display();
    let stat = rustix::fs::lstat(&path)
        .or_say(|| format!("cannot find the data of the project `{name}`: `{shown}`"))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink && stat.st_uid != 0 {
        return Err(Error::usage(format!(
            "cannot use `{shown}` as the data of the project `{name}`"
        ))
        .cause(format!("it is a link that user {} made", stat.st_uid)));
    }
    let may = |access: Access| rustix::fs::accessat(CWD, &path, access, AtFlags::empty()).is_ok();
    if !may(Access::READ_OK | Access::EXEC_OK) {
        return Err(
            Error::usage(format!("cannot read the data of the project `{name}`"))
                .cause(format!("you have no rights to read `{shown}`")),
        );
    }
    if profile.project_is_writable(name) && !may(Access::WRITE_OK) {
        return Err(
            Error::usage(format!("cannot write the data of the project `{name}`")).cause(format!(
                "you have no rights to write `{shown}`, which the site gives for writing"
            )),
        );
    }
    Ok(Project {
        name: name.to_string(),
        data: path,
    })
}

/// Where everything that a user could steer really is.
fn real_paths(facts: &mut HostFacts, request: &Request, profile: &Profile) {
    let mut paths: Vec<PathBuf> = Vec::new();
    for spec in &request.mounts {
        if let MountSpec::Bind { from, .. } = spec {
            paths.push(facts.absolute(from));
        }
    }
    if let Some(Home::MountFrom(from)) = &request.home {
        paths.push(facts.absolute(from));
    }
    paths.extend(
        ["HOME", "TMPDIR", "PMIX_SERVER_TMPDIR"]
            .iter()
            .filter_map(|name| facts.directory_variable(name)),
    );
    paths.extend(facts.cwd.clone());
    paths.extend(facts.account_home.clone());
    paths.extend(profile.allowed_paths(facts));
    for path in paths {
        if let Some(real) = real(&path) {
            facts.real_paths.insert(path, real);
        }
    }
    // Slurm makes it below its own spool directory, which is root's.
    facts.pmix_is_slurms = facts
        .directory_variable("PMIX_SERVER_TMPDIR")
        .is_some_and(|path| {
            let parent = path
                .parent()
                .and_then(|parent| rustix::fs::lstat(parent).ok());
            let roots = parent.is_some_and(|stat| stat.st_uid == 0 && stat.st_mode & 0o1022 == 0);
            roots && facts.real_paths.get(&path) == Some(&path)
        });
}

/// Where a path leads; what does not exist yet would be made below the last directory that does.
fn real(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|above| {
        let real = above.canonicalize().ok()?;
        let rest = path.strip_prefix(above).ok()?;
        Some(match rest.as_os_str().is_empty() {
            true => real,
            false => real.join(rest),
        })
    })
}
