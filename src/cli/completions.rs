//! `carrack completions`: for a shell's start-up file or a package.

use super::{Common, output};
use crate::error::Result;
use std::process::ExitCode;

/// Print completions for a shell
///
/// bash: `carrack completions bash > ~/.local/share/bash-completion/completions/carrack`
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::definition(), "carrack", &mut text);
    output::print_bytes(&text)?;
    Ok(ExitCode::SUCCESS)
}
