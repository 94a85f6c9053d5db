//! `carrack exec`.

use super::LaunchCommon;
use super::aids::Aids;
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
    #[command(flatten)]
    aids: Aids,
    #[command(flatten)]
    pub common: LaunchCommon,
}

impl From<LaunchArgs> for Args {
    fn from(launch: LaunchArgs) -> Args {
        Args {
            launch,
            dry_run: false,
            aids: Aids::default(),
            common: LaunchCommon::default(),
        }
    }
}

impl Args {
    pub fn with(launch: LaunchArgs, aids: Aids) -> Args {
        Args {
            aids,
            ..Args::from(launch)
        }
    }
}

pub fn run(args: Args) -> Result<ExitCode> {
    if args.aids.pin {
        return pin(&args.launch, &args.common, &args.aids);
    }
    start(
        Mode::Exec,
        &args.launch,
        &args.common,
        &args.aids,
        args.dry_run,
    )
}
