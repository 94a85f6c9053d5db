//! What `run` and `exec` call to fetch an input: they are to enter a capsule and cannot start the network's threads.

use super::{LaunchCommon, output, staging};
use crate::error::Result;
use crate::image::pull::source_settings;
use std::process::ExitCode;

/// Fetch an address or a PID for a port (called by carrack itself)
#[derive(clap::Args)]
#[command(hide = true)]
pub struct Args {
    value: String,
    #[command(flatten)]
    pub common: LaunchCommon,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let settings = args.common.common().settings()?;
    let sources = source_settings(&settings.config, std::env::temp_dir())?;
    output::print_json(&staging::fetched(&args.value, &sources)?)?;
    Ok(ExitCode::SUCCESS)
}
