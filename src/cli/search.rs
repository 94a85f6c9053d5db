//! `carrack search`: what images a registry has, where it tells.

use super::table::table;
use super::{Common, output};
use crate::error::{Error, Result};
use crate::image::pull::source_settings;
use crate::image::reference::{DOCKER_HUB, Reference};
use crate::image::source::SourceSettings;
use crate::image::source::registry::catalog;
use crate::image::source::registry::failure::Failure;
use crate::image::source::registry::harbor::{Harbor, Repository};
use serde_json::json;
use std::process::ExitCode;

/// List the images that a registry has
///
/// It asks the registry for its catalogue, or a Harbor for the projects that you may see. The large public registries do
/// not tell.
#[derive(clap::Args)]
#[command(alias = "catalog")]
pub struct Args {
    /// HOST or HOST:PORT; of a Harbor also HOST/PROJECT
    registry: String,
    /// Only images whose name contains TEXT
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Show tags and descriptions, too (of a Harbor)
    #[arg(short, long)]
    long: bool,
    /// List the projects of a Harbor instead
    #[arg(long, conflicts_with_all = ["long", "filter"])]
    projects: bool,
    /// Speak plain http to the registry
    #[arg(long)]
    insecure: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let settings = args.common.settings()?;
    let (registry, project) = place(&args.registry)?;
    settings.may_be_insecure(args.insecure)?;
    let mut sources = source_settings(&settings.config, std::env::temp_dir())?;
    if args.insecure {
        sources.insecure.push(registry.clone());
    }
    if args.projects {
        let projects = Harbor::open(&registry, &sources)?.projects()?;
        if args.json {
            output::print_json(&projects)?;
        } else {
            let names: Vec<String> = projects.into_iter().map(|one| one.name).collect();
            output::print_names(&names, false)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |name: &str| {
        args.filter
            .as_deref()
            .is_none_or(|text| name.contains(text))
    };
    if args.long {
        let harbor = Harbor::open(&registry, &sources)?;
        let mut found = repositories(&harbor, project.as_deref())?;
        found.retain(|(project, one)| wanted(&format!("{project}/{}", one.name)));
        print_long(&harbor, &registry, &found, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut names = match &project {
        Some(_) => of_harbor(&registry, project.as_deref(), &sources)?,
        None => catalog(&registry, &sources)
            // A Harbor shows its catalogue to administrators only, and each user what is his by another way.
            .or_else(|told| match told.downcast_ref() {
                Some(Failure::Unauthorized { .. } | Failure::Forbidden { .. }) => {
                    of_harbor(&registry, None, &sources).map_err(|_| told)
                }
                _ => Err(told),
            })
            .map_err(|error| match registry.as_str() {
                DOCKER_HUB => {
                    error.hint("Docker Hub has no catalogue; search on https://hub.docker.com")
                }
                _ => error,
            })?,
    };
    names.retain(|name| wanted(name));
    // What is printed is what `carrack pull` and `carrack tags` take.
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("{registry}/{name}"))
        .collect();
    output::print_names(&names, args.json)?;
    if names.is_empty() && !args.json && !args.common.quiet {
        tracing::warn!("`{}` shows no such image", args.registry);
    }
    Ok(ExitCode::SUCCESS)
}

fn of_harbor(
    registry: &str,
    project: Option<&str>,
    sources: &SourceSettings,
) -> Result<Vec<String>> {
    let found = repositories(&Harbor::open(registry, sources)?, project)?;
    let name = |(project, one): (String, Repository)| format!("{project}/{}", one.name);
    Ok(found.into_iter().map(name).collect())
}

/// Each with its project.
fn repositories(harbor: &Harbor, project: Option<&str>) -> Result<Vec<(String, Repository)>> {
    let projects = match project {
        Some(project) => vec![project.to_string()],
        None => harbor.projects()?.into_iter().map(|one| one.name).collect(),
    };
    let mut found = Vec::new();
    for project in projects {
        let all = harbor.repositories(&project)?.into_iter();
        found.extend(all.map(|one| (project.clone(), one)));
    }
    Ok(found)
}

fn print_long(
    harbor: &Harbor,
    registry: &str,
    found: &[(String, Repository)],
    json: bool,
) -> Result<()> {
    let mut rows = vec![["NAME", "TAGS", "DESCRIPTION"].map(String::from).to_vec()];
    let mut documents = Vec::new();
    for (project, one) in found {
        let artifacts = harbor.artifacts(project, &one.name)?;
        let name = format!("{registry}/{project}/{}", one.name);
        let tags: Vec<&str> = artifacts
            .iter()
            .flat_map(|artifact| &artifact.tags)
            .map(String::as_str)
            .collect();
        let first = one.description.lines().find(|line| !line.trim().is_empty());
        rows.push(vec![
            name.clone(),
            tags.join(", "),
            first.unwrap_or_default().to_string(),
        ]);
        documents
            .push(json!({ "name": name, "description": one.description, "artifacts": artifacts }));
    }
    match json {
        true => output::print_json(&documents),
        false => output::print(&table(&rows)),
    }
}

/// `HOST` or `HOST/PROJECT`.
fn place(text: &str) -> Result<(String, Option<String>)> {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    match bare.trim_end_matches('/').split_once('/') {
        // Without a dot or a port it is a name on Docker Hub, as in references.
        Some((registry, project)) if registry.contains(['.', ':']) || registry == "localhost" => {
            Ok((host(registry)?, Some(project.to_string())))
        }
        Some(_) => Err(
            Error::usage(format!("`{text}` is not the name of a registry"))
                .hint("for example `carrack search registry.site:5000 blast`"),
        ),
        None => Ok((host(text)?, None)),
    }
}

/// The registry in what a person typed: the scheme and a slash at the end are no part of it.
fn host(text: &str) -> Result<String> {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let bare = bare.trim_end_matches('/');
    let wrong = || {
        Error::usage(format!("`{text}` is not the name of a registry"))
            .hint("for example `carrack search registry.site:5000 blast`")
    };
    if bare.contains('/') {
        return Err(wrong());
    }
    // The rules for hosts are those of references.
    let reference = Reference::parse(&format!("docker://{bare}/x"), bare).map_err(|_| wrong())?;
    match reference.name() {
        Some(name) if name.registry.eq_ignore_ascii_case(bare) => Ok(name.registry.clone()),
        _ if !bare.is_empty() && bare != "." => Ok(bare.to_ascii_lowercase()),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn hosts() {
        for (text, want) in [
            ("localhost:5000", Some("localhost:5000")),
            ("https://Registry.Site/", Some("registry.site")),
            ("docker.io", Some("docker.io")),
            ("site/app", None),
            ("", None),
            ("a b", None),
            ("../x", None),
        ] {
            assert_eq!(host(text).ok().as_deref(), want, "{text}");
        }
    }
}
