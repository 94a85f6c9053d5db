//! `jobman`: the settings file, and its verbs through ours.

use super::{begin, carrack, profile_of, text_of};
use crate::cli::ps::{current, states};
use crate::cli::table::table;
use crate::cli::{output, submit};
use crate::config::{self, Config};
use crate::error::{Error, Result, printable};
use crate::fronts::jobman::{self, Settings, Submit, Verb};
use crate::image::pull::source_settings;
use crate::image::source::registry::harbor::Harbor;
use crate::jobs::journal::{Journal, Submission};
use crate::jobs::queue::{self, Phase};
use crate::jobs::words::Words;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub fn run(words: &[String]) -> Result<ExitCode> {
    let (verb, file) = jobman::parse(words)?;
    let version = format!("jobman (carrack {})\n", env!("CARGO_PKG_VERSION"));
    match verb {
        Verb::Help => return said(&format!("{version}{}", jobman::HELP)),
        Verb::Version => return said(&version),
        _ => {}
    }
    let (common, found) = begin(false)?;
    let config = &found.config;
    let settings = settings(file.as_deref())?;
    match verb {
        Verb::Submit(asked) => hand_in(&asked, config, &settings),
        Verb::List => list(),
        Verb::Details { job } => carrack(&["ps", "--json", &job]),
        Verb::Logs { job } => logs(&job),
        Verb::Delete { job } => delete(job),
        Verb::Flavors => flavors(config, &settings),
        Verb::Queue => waiting(config, &settings),
        Verb::Images => {
            let mut rows = vec![["NAME", "TAGS"].map(String::from).to_vec()];
            rows.extend(match harbor(&found, &settings)? {
                Some((harbor, project)) => of_harbor(&harbor, &project)?,
                None => images(&common.store_of(&found)?, &settings)?,
            });
            said(&table(&rows))
        }
        Verb::ImageDetails { image } => match harbor(&found, &settings)? {
            Some((harbor, project)) => {
                let last = image.rfind('/').map_or(0, |at| at + 1);
                let tag = image.get(last..).and_then(|name| name.find(':'));
                let name = tag.and_then(|tag| image.get(..last + tag));
                let name = name.unwrap_or(&image);
                let described = harbor.repository(&project, name)?.description;
                said(&format!("{}\n", printable(described.trim_end())))
            }
            None => carrack(&["inspect", &settings.image(Some(&image))?]),
        },
        Verb::Help | Verb::Version => Ok(ExitCode::SUCCESS),
    }
}

fn said(text: &str) -> Result<ExitCode> {
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// The file that was named, else the user's own over what is built in.
fn settings(file: Option<&str>) -> Result<Settings> {
    let own = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".jobman/settings.json"));
    let path = match file {
        Some(file) => Some(PathBuf::from(file)),
        None => own().filter(|path| path.exists()),
    };
    let Some(path) = path else {
        return Settings::read(None, false);
    };
    let settings = Settings::read(Some(&text_of(&path)?), file.is_some())
        .map_err(|error| error.while_doing(format!("cannot use `{}`", path.display())))?;
    for key in settings.ignored() {
        tracing::info!("`job.{key}` of `{}` means nothing here", path.display());
    }
    Ok(settings)
}

fn hand_in(asked: &Submit, config: &Config, settings: &Settings) -> Result<ExitCode> {
    let known = jobman::flavors(&config.flavor, settings)?;
    // A file of resources by its path, as jobman takes it.
    let text = match asked.flavor.as_deref().map(Path::new) {
        Some(path) if path.is_file() => Some(text_of(path)?),
        _ => asked.flavor.clone(),
    };
    let options = jobman::flavor(text.as_deref(), &known)?;
    let profile = profile_of(config, "eucaim")?;
    let variable = |name: &str| std::env::var(name).ok();
    let moment = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mixed = moment.as_nanos() ^ u128::from(std::process::id()).rotate_left(40);
    let unique = format!("{:016x}", mixed as u64);
    let words = jobman::submit(asked, &profile.name, settings, &options, &variable, &unique)?;
    let mut words = Words::parse(&words)?;
    words.json = !words.dry_run;
    if let submit::Done::Submitted(job) = submit::once(&words)? {
        let user = crate::launch::probe::words(&crate::launch::probe::caller()).user;
        output::print(&format!(
            "Job named '{}' created successfully by user '{user}'\n",
            job.name
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "Waiting",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Unknown => "Unknown",
    }
}

/// jobman's states: why a job waits, where that is no fault of the queue.
fn state(status: Option<&queue::Status>) -> String {
    let Some(status) = status else {
        return word(Phase::Unknown).to_string();
    };
    let fine = [
        "",
        "None",
        "Priority",
        "Resources",
        "Dependency",
        "BeginTime",
    ];
    match status.phase() {
        Phase::Waiting if !fine.contains(&status.reason.as_str()) => "Waiting - error".to_string(),
        phase => word(phase).to_string(),
    }
}

fn list() -> Result<ExitCode> {
    let journal = Journal::open()?;
    let known = states(&journal)?;
    let mut jobs: Vec<Submission> = journal.all();
    jobs.sort_by(|a, b| b.submitted.cmp(&a.submitted));
    let mut rows = vec![["NAME", "STATUS", "LAUNCH DATE"].map(String::from).to_vec()];
    for job in jobs {
        let told = known.iter().find(|status| status.id == job.id).cloned();
        let status = match told {
            Some(status) => Some(status),
            None => current(&job, None)?,
        };
        rows.push(vec![
            job.name.clone(),
            state(status.as_ref()),
            job.submitted.clone(),
        ]);
    }
    said(&table(&rows))
}

fn logs(name: &str) -> Result<ExitCode> {
    let (job, task) = Journal::open()?
        .find(name)
        .ok_or_else(|| crate::cli::ps::not_ours(name))?;
    match std::fs::metadata(job.output_path(task.as_deref())) {
        Ok(meta) if meta.len() > 0 => carrack(&["logs", name]),
        Ok(_) => said("<Empty Log>\n"),
        Err(_)
            if current(&job, task.as_deref())?.is_some_and(|status| !status.phase().is_over()) =>
        {
            said("<Empty Log>\n")
        }
        Err(_) => carrack(&["logs", name]),
    }
}

fn delete(name: Option<String>) -> Result<ExitCode> {
    if let Some(name) = name {
        return carrack(&["cancel", &name]);
    }
    let mut words = vec!["cancel".to_string()];
    for job in Journal::open()?.all() {
        let status = current(&job, None)?;
        if status.is_some_and(|status| !status.phase().is_over()) {
            words.push(job.id);
        }
    }
    match words.len() {
        1 => Ok(ExitCode::SUCCESS),
        _ => carrack(&words),
    }
}

fn flavors(config: &Config, settings: &Settings) -> Result<ExitCode> {
    let head = ["NAME", "CPU", "MEMORY", "GPU", "TIME", "DESCRIPTION"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (name, flavor) in jobman::flavors(&config.flavor, settings)? {
        rows.push(jobman::shown(&name, &flavor));
    }
    said(&table(&rows))
}

/// Jobs by flavor, which here are jobs by partition: that is what a flavor's jobs queue for.
fn waiting(config: &Config, settings: &Settings) -> Result<ExitCode> {
    if !queue::is_there() {
        return Err(Error::new("there is no Slurm on this machine"));
    }
    let lines = queue::ask("squeue", &["--noheader", "--format=%P|%u|%t"])?;
    let user = crate::launch::probe::words(&crate::launch::probe::caller()).user;
    let head = [
        "FLAVOR",
        "PARTITION",
        "JOBS",
        "YOURS",
        "WAITING",
        "CPU",
        "MEMORY",
        "GPU",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (name, flavor) in jobman::flavors(&config.flavor, settings)? {
        let partition = flavor.options.get("partition").cloned().unwrap_or_default();
        let count = |wanted: &dyn Fn(&str, &str) -> bool| {
            let fields = lines.lines().filter_map(|line| {
                let mut fields = line.split('|');
                Some((fields.next()?, fields.next()?, fields.next()?))
            });
            let inside = fields.filter(|(place, ..)| partition.is_empty() || *place == partition);
            inside
                .filter(|(_, who, state)| wanted(who, state))
                .count()
                .to_string()
        };
        let resources = jobman::shown(&name, &flavor);
        let mut row = vec![
            name,
            match partition.as_str() {
                "" => "(default)".to_string(),
                partition => partition.to_string(),
            },
            count(&|_, _| true),
            count(&|who, _| who == user),
            count(&|_, state| state == "PD"),
        ];
        row.extend(resources.into_iter().skip(1).take(3));
        rows.push(row);
    }
    said(&printable(&table(&rows)))
}

/// The registry's own interface and the project there, where the settings name both.
fn harbor(found: &config::Settings, settings: &Settings) -> Result<Option<(Harbor, String)>> {
    let (url, project) = settings.harbor()?;
    if url.is_empty() || project.is_empty() {
        return Ok(None);
    }
    let registry = url.split_once("://").map_or(&*url, |(_, rest)| rest);
    let registry = registry.trim_end_matches('/').to_ascii_lowercase();
    let sources = source_settings(&found.config, std::env::temp_dir())?;
    Ok(Some((Harbor::open(&registry, &sources)?, project)))
}

fn of_harbor(harbor: &Harbor, project: &str) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for repository in harbor.repositories(project)? {
        let artifacts = harbor.artifacts(project, &repository.name)?;
        let tags: Vec<String> = artifacts.into_iter().flat_map(|one| one.tags).collect();
        rows.push(vec![repository.name, tags.join(", ")]);
    }
    Ok(rows)
}

/// Names below the prefix with their tags.
fn images(store: &crate::image::store::Store, settings: &Settings) -> Result<Vec<Vec<String>>> {
    let prefix = settings.image(Some("x"))?;
    let prefix = prefix.strip_suffix('x').unwrap_or_default();
    let mut found: std::collections::BTreeMap<String, Vec<String>> = Default::default();
    for listed in store.list().images {
        for name in &listed.references {
            let name = name.strip_prefix("docker://").unwrap_or(name);
            let Some(short) = name.strip_prefix(prefix) else {
                continue;
            };
            let last = short.rfind('/').map_or(0, |at| at + 1);
            let at = short.get(last..).and_then(|part| part.find(':'));
            let (image, tag) = match at {
                Some(at) => (short.get(..last + at), short.get(last + at + 1..)),
                None => (Some(short), None),
            };
            let tags = found
                .entry(image.unwrap_or_default().to_string())
                .or_default();
            tags.extend(tag.map(str::to_string));
        }
    }
    let row = |(name, tags): (String, Vec<String>)| vec![name, tags.join(", ")];
    Ok(found.into_iter().map(row).collect())
}
