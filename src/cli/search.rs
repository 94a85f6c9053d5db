//! `carrack search`: what images a registry has, where it tells.

use super::{Common, output};
use crate::error::{Error, Result};
use crate::image::pull::source_settings;
use crate::image::reference::{DOCKER_HUB, Reference};
use crate::image::source::registry::catalog;
use std::process::ExitCode;

/// List the images that a registry has
///
/// It asks the registry for its catalogue. Small and private registries have one; the large public ones do not tell.
#[derive(clap::Args)]
#[command(alias = "catalog")]
pub struct Args {
    /// HOST or HOST:PORT
    registry: String,
    /// Only images whose name contains TEXT
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
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
    let registry = host(&args.registry)?;
    settings.may_be_insecure(args.insecure)?;
    let mut sources = source_settings(&settings.config, std::env::temp_dir())?;
    if args.insecure {
        sources.insecure.push(registry.clone());
    }
    let mut names = catalog(&registry, &sources).map_err(|error| match registry.as_str() {
        DOCKER_HUB => error.hint("Docker Hub has no catalogue; search on https://hub.docker.com"),
        _ => error,
    })?;
    if let Some(filter) = &args.filter {
        names.retain(|name| name.contains(filter.as_str()));
    }
    // What is printed is what `carrack pull` and `carrack tags` take.
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("{registry}/{name}"))
        .collect();
    output::print_names(&names, args.json)?;
    if names.is_empty() && !args.json && !args.common.quiet {
        tracing::warn!("`{registry}` shows no such image");
    }
    Ok(ExitCode::SUCCESS)
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
