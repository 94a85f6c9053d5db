//! `carrack man`: manual pages from the same definition as `--help`, for packages.

use super::{Common, output};
use crate::error::{Context, Error, Result};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write manual pages
#[derive(clap::Args)]
#[command(hide = true)]
pub struct Args {
    /// Write one page per command into DIR [default: print the page of `carrack`]
    directory: Option<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let definition = super::definition();
    let Some(directory) = args.directory else {
        output::print_bytes(&page(&definition)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    if !directory.is_dir() {
        return Err(Error::usage(format!(
            "`{}` is not a directory",
            directory.display()
        )));
    }
    for command in definition
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
    {
        let name: &'static str = format!("carrack-{}", command.get_name()).leak();
        let file = directory.join(format!("{name}.1"));
        std::fs::write(&file, page(&command.clone().name(name))?)
            .or_say(|| format!("cannot write `{}`", file.display()))?;
    }
    let file = directory.join("carrack.1");
    std::fs::write(&file, page(&definition)?)
        .or_say(|| format!("cannot write `{}`", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .or_say(|| "cannot form a manual page")?;
    Ok(text)
}
