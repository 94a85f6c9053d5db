//! `carrack shell`.

use super::LaunchCommon;
use super::aids::Aids;
use super::launching::LaunchArgs;
use super::starting::start;
use crate::error::Result;
use crate::launch::request::Mode;
use std::process::ExitCode;

/// Start a shell inside an image: bash if it has one, else sh
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    launch: LaunchArgs,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub common: LaunchCommon,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let aids = Aids::default();
    start(Mode::Shell, &args.launch, &args.common, &aids, args.dry_run)
}
