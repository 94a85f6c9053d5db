//! `carrack logout`: forgets the credentials for a registry.

use super::{Common, login, output};
use crate::error::Result;
use crate::image::credentials;
use crate::image::pull::source_settings;
use crate::image::reference::registry_name;
use std::process::ExitCode;

/// Log out from a registry
///
/// Removes what is kept for it in docker's and podman's files and by their credential helpers.
#[derive(clap::Args)]
pub struct Args {
    /// The registry, as in image names [default: the site's, else Docker Hub]
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
    /// Only tell where credentials are kept
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let config = args.common.settings()?.config;
    let host = registry_name(
        args.registry
            .as_deref()
            .unwrap_or(&config.registries.default),
    )?;
    let places = source_settings(&config, std::env::temp_dir())?.credentials;
    let (kept, verb) = match args.dry_run {
        true => (credentials::kept(&host, &places)?, "are kept"),
        false => (credentials::remove(&host, &places)?, "are no longer kept"),
    };
    if let Some(missing) = credentials::missing_helper(&host, &places) {
        tracing::warn!("{missing}; what it keeps was not looked at");
    }
    if args.common.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for kept in &kept {
        text.push_str(&format!(
            "the credentials for {host} {verb} {}\n",
            login::place(kept)
        ));
    }
    if kept.is_empty() {
        text = format!("nobody is logged in to {host}\n");
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
