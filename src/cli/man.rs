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
    let definition = built();
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
        let file = directory.join(format!("carrack-{}.1", command.get_name()));
        std::fs::write(&file, page(command)?)
            .or_say(|| format!("cannot write `{}`", file.display()))?;
    }
    let file = directory.join("carrack.1");
    std::fs::write(&file, page(&definition)?)
        .or_say(|| format!("cannot write `{}`", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Building tells each command its whole name.
fn built() -> clap::Command {
    let mut definition = super::definition();
    definition.build();
    definition
}

fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    // As `--help` has it: the list of all options follows anyway.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_string();
    clap_mangen::Man::new(command.clone().override_usage(usage))
        .source(concat!("carrack ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)
        .or_say(|| "cannot form a manual page")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_the_command_as_it_is_typed() {
        for (name, expected) in [
            ("gc", "\\fBcarrack gc\\fR [OPTIONS]\n"),
            ("tag", "\\fBcarrack tag\\fR [OPTIONS] <IMAGE> <NAME>\n"),
        ] {
            let definition = built();
            let command = definition.find_subcommand(name).expect("a command");
            let text = page(command).expect("a page");
            let text = String::from_utf8_lossy(&text).into_owned();
            let (_, synopsis) = text.split_once(".SH SYNOPSIS\n").expect("a synopsis");
            assert!(synopsis.starts_with(expected), "{synopsis}");
            assert!(text.contains(&format!(".TH carrack-{name} 1")), "{text}");
        }
    }
}
