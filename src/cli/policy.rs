//! What a site says of people, places and jobs, asked by the fronts: who may pull and run, and what a job may ask for.
//!
//! The rules of profiles are `launch/profile.rs`'s; here they are put to a job that is about to be made, so that what the
//! node would refuse fails at the desk.

use crate::cli::launching::set_variables;
use crate::config::{Access, Config, Require, Settings};
use crate::error::{Error, Result};
use crate::jobs::assemble::{Assembled, Contract};
use crate::launch::contract::Words;
use crate::launch::options::apply;
use crate::launch::probe;
use crate::launch::profile::Profile;
use crate::launch::request::{Mode, Origin, Request};
use carrack_slurm::job::{ImageOn, Run, Setting};
use std::ffi::OsString;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Pull,
    Run,
}

/// Refuses users, groups and hosts that the site did not let in (`[access]`).
pub fn may(deed: Deed, access: &Access) -> Result<()> {
    let (verb, users, groups) = match deed {
        Deed::Pull => ("pull", &access.pull_users, &access.pull_groups),
        Deed::Run => ("run", &access.run_users, &access.run_groups),
    };
    let node = probe::node_name();
    let here = |pattern: &String| matches(pattern, &node);
    if !access.hosts.is_empty() && !access.hosts.iter().any(here) {
        return Err(
            refused(&format!("nothing may be done on {node}")).cause(format!(
                "the site allows: {} (`access.hosts`)",
                access.hosts.join(", ")
            )),
        );
    }
    if users.is_empty() && groups.is_empty() {
        return Ok(());
    }
    let caller = probe::caller();
    let Words { user, .. } = probe::words(&caller);
    let in_group = || {
        let own = probe::group_names(&caller);
        groups.iter().any(|group| own.contains(group))
    };
    if users.contains(&user) || (!groups.is_empty() && in_group()) {
        return Ok(());
    }
    Err(
        refused(&format!("`{user}` may not {verb} images here")).cause(format!(
            "the site names those who may (`access.{verb}_users`, `access.{verb}_groups`)"
        )),
    )
}

fn refused(what: &str) -> Error {
    Error::usage(what).hint("ask the site's administrators")
}

/// A name against a name in which `*` is any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(head) else {
        return false;
    };
    let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    starts
        .filter_map(|at| rest.get(at..))
        .any(|rest| matches(tail, rest))
}

/// Refuses profiles with a mistake, with the file and line that has it: what is not understood protects nothing.
pub fn check_profiles(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    for name in config.profile.keys() {
        let Err(error) = Profile::named(config, name) else {
            continue;
        };
        let prefix = format!("profile.{name}.");
        let told = error.to_string();
        let mut places = settings
            .origins
            .iter()
            .filter_map(|(key, origin)| Some((key.strip_prefix(&prefix)?, origin)));
        let first = places.clone().next();
        let named = places.find(|(key, _)| told.contains(&format!("`{key}`")));
        return Err(match named.or(first) {
            Some((key, origin)) => {
                error.cause(format!("`{prefix}{key}` is set in `{}`", origin.place()))
            }
            None => error,
        });
    }
    Ok(())
}

/// Puts the site's rules to a job: every step's options, the profile's defaults and limits.
pub fn check_job(assembled: &mut Assembled, config: &Config) -> Result<()> {
    may(Deed::Run, &config.access)?;
    check_place(assembled, config)?;
    let mut cleans_up = false;
    let mut contract = Contract::default();
    let mut defaults: Option<Profile> = None;
    for step in &assembled.steps {
        let Some((_, options)) = &step.container else {
            continue;
        };
        let mut request = options.request.clone();
        (request.mode, request.command) = match &step.step.command {
            Run::Image => (Mode::Run, Vec::new()),
            Run::Words(words) => (Mode::Exec, words.iter().map(OsString::from).collect()),
            Run::Shell(line) => (Mode::Exec, vec![line.into()]),
        };
        // The job will have this environment too, unless sbatch is told otherwise.
        let mut with_variables = variables()?;
        let profile = Profile::choose(config, &profile_of(&request, &with_variables))?;
        with_variables.mode = request.mode;
        with_variables.command.clone_from(&request.command);
        for request in [&request, &with_variables] {
            profile.check(config, request)?;
        }
        // Projects and datasets are looked for now, because the queue may be long.
        let mut facts = probe::caller();
        probe::look(&mut facts, &request, &profile)?;
        let made = crate::launch::contract::mounts(&request, &profile, &facts)?;
        datasets(&made, &request)?;
        cleans_up |= profile.scratch.is_some();
        if contract.profile.is_empty() {
            contract.profile.clone_from(&profile.name);
        }
        if let Some(project) = facts.project {
            contract.project = project.name;
        }
        for id in &request.datasets {
            if !contract.datasets.contains(id) {
                contract.datasets.push(id.clone());
            }
        }
        defaults.get_or_insert(profile);
    }
    if let Some(profile) = defaults {
        job_options(assembled, &profile)?;
    }
    assembled.script.cleans_up = cleans_up;
    // The default needs no mention.
    let asked = contract.profile != Config::default().launch.profile;
    let mut words = Vec::new();
    if asked && !contract.profile.is_empty() {
        words.push(format!("--profile={}", contract.profile));
    }
    if !contract.project.is_empty() {
        words.push(format!("--project={}", contract.project));
    }
    words.extend(contract.datasets.iter().map(|id| format!("--dataset={id}")));
    assembled.script.contract = words;
    assembled.contract = contract;
    Ok(())
}

/// A copy on a node's disk is a file that the user could have written. Where the site says which images may run, the
/// node would refuse it after the queue.
fn check_place(assembled: &Assembled, config: &Config) -> Result<()> {
    let rules = [
        (!config.launch.images.is_empty(), "launch.images"),
        (!config.trust.digests.is_empty(), "trust.digests"),
        (config.trust.require != Require::Nothing, "trust.require"),
    ];
    match rules.iter().find(|(set, _)| *set) {
        Some((_, rule)) if assembled.script.image_on == ImageOn::Node => Err(Error::usage(
            "`image-on = \"node\"` is not allowed here",
        )
        .cause(format!(
            "the site says which images may run (`{rule}`), and a copy on a node's disk could be anything"
        ))
        .hint("leave it out: the shared image is used")),
        _ => Ok(()),
    }
}

fn profile_of(request: &Request, variables: &Request) -> Request {
    Request {
        profile: request
            .profile
            .clone()
            .or_else(|| variables.profile.clone()),
        ..Request::default()
    }
}

fn variables() -> Result<Request> {
    let mut request = Request::default();
    let set = set_variables(&probe::caller().environment);
    apply(&mut request, &Origin::Variable, set)?;
    Ok(request)
}

fn datasets(made: &[crate::launch::mounts::Placed], request: &Request) -> Result<()> {
    use crate::launch::mounts::What;
    use crate::launch::step::Missing;
    for mount in made {
        if let What::Bind {
            from,
            missing: Missing::Fail,
            ..
        } = &mount.what
            && !from.exists()
            && let Some(id) = request.datasets.iter().find(|id| from.ends_with(id))
        {
            return Err(
                Error::usage(format!("cannot use the dataset `{id}`")).cause(format!(
                    "there is no `{}`, or you may not see it",
                    from.display()
                )),
            );
        }
    }
    Ok(())
}

/// Fills in the profile's sbatch options and holds the time limit to the profile's.
fn job_options(assembled: &mut Assembled, profile: &Profile) -> Result<()> {
    let name = &profile.name;
    for (option, value) in &profile.job {
        let known = carrack_slurm::options::find(option, carrack_slurm::options::Command::Sbatch)
            .map_err(|_| {
            Error::usage(format!("`{option}` is no option of sbatch"))
                .cause(format!("the profile `{name}` names it in `job`"))
        })?;
        let has = |name: &str| assembled.script.options.iter().any(|own| own.name == name);
        // The three ways to say how much memory exclude one another.
        let said = match known.name {
            "mem" => has("mem") || has("mem-per-cpu") || has("mem-per-gpu"),
            name => has(name),
        };
        if !said {
            let setting = Setting {
                name: known.name,
                value: Some(value.clone()),
                line: 0,
            };
            assembled.script.options.push(setting.clone());
            assembled.job.options.push(setting);
        }
    }
    let Some(longest) = &profile.max_time else {
        return Ok(());
    };
    let Some(limit) = carrack_slurm::time_limit::minutes(longest) else {
        return Err(Error::usage(format!("`{longest}` is no time limit"))
            .cause(format!("the profile `{name}` says so in `max_time`")));
    };
    let asked = assembled
        .job
        .option("time")
        .and_then(|setting| setting.value.clone());
    let Some(asked) = asked else {
        let setting = Setting {
            name: "time",
            value: Some(longest.clone()),
            line: 0,
        };
        assembled.script.options.push(setting.clone());
        assembled.job.options.push(setting);
        return Ok(());
    };
    match carrack_slurm::time_limit::minutes(&asked) {
        Some(minutes) if minutes <= limit => Ok(()),
        _ => Err(
            refused(&format!("the time limit `{asked}` is not allowed here")).cause(format!(
                "the profile `{name}` allows {longest} (`max_time`)"
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_by_glob() {
        for (pattern, name, expected) in [
            ("login1", "login1", true),
            ("login1", "login10", false),
            ("login*", "login10", true),
            ("*", "x", true),
            ("l*n*", "login10", true),
            ("l*n", "login10", false),
            ("*.site", "n1.site", true),
            ("*.site", "n1.site.evil", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
