//! `carrack run`.

use super::LaunchCommon;
use super::aids::Aids;
use super::launching::LaunchArgs;
use super::starting::start;
use crate::error::Result;
use crate::launch::request::Mode;
use std::process::ExitCode;

/// Start what an image is made for: its entrypoint with your arguments
///
/// ENTRYPOINT, CMD, USER and WORKDIR mean what docker means by them, except that the current directory is kept where it
/// exists inside, and that you stay who you are unless `--id` says otherwise.
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

impl From<LaunchArgs> for Args {
    fn from(launch: LaunchArgs) -> Args {
        Args {
            launch,
            dry_run: false,
            common: LaunchCommon::default(),
        }
    }
}

pub fn run(args: Args) -> Result<ExitCode> {
    let aids = Aids::default();
    start(Mode::Run, &args.launch, &args.common, &aids, args.dry_run)
}
