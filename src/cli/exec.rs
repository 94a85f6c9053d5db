//! `carrack exec`.

use super::LaunchCommon;
use super::launching::LaunchArgs;
use super::starting::{pin, start};
use crate::error::Result;
use crate::launch::request::Mode;
use std::process::ExitCode;

/// Start a command inside an image
///
/// Works on a login node, in a batch script (`srun carrack exec IMAGE ./app`) and without Slurm. The tasks of one step
/// share one capsule on a node. A script may begin with `#!/usr/bin/env -S carrack exec IMAGE --`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    launch: LaunchArgs,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// Only check the request and bring its image; print the image's digest. For the SPANK plugin.
    #[arg(long, hide = true)]
    pin: bool,
    #[command(flatten)]
    pub common: LaunchCommon,
}

pub fn run(args: Args) -> Result<ExitCode> {
    if args.pin {
        return pin(&args.launch, &args.common);
    }
    start(Mode::Exec, &args.launch, &args.common, args.dry_run)
}
