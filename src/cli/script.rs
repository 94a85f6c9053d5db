//! `carrack script`: the sbatch script of a job file, for reading, changing and submitting by hand.

use super::submit::{Desk, report};
use super::{Common, output};
use crate::error::{Error, Result};
use crate::jobs::words::Words;
use std::process::ExitCode;

/// Print the sbatch script of a job file or a command
#[derive(clap::Args)]
pub struct Args {
    /// A job file, or options and an image: `-N 2 --mpi=pmix IMAGE -- ./program`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "JOB.toml | OPTIONS IMAGE -- COMMAND"
    )]
    words: Vec<String>,
    #[command(flatten)]
    pub common: LongCommon,
}

/// The usual options without their letters, which are sbatch's here.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LongCommon {
    #[arg(skip)]
    pub common: Common,
}

impl LongCommon {
    pub fn inherit(&mut self, outer: &Common) {
        self.common.inherit(outer);
    }

    pub fn start_log(&self) {
        self.common.start_log();
    }
}

pub fn run(args: Args) -> Result<ExitCode> {
    let words = Words::parse(&args.words)?;
    let desk = Desk::open(&words, args.common.common)?;
    if words.files.len() > 1 {
        return Err(Error::usage("one script is printed at a time"));
    }
    let assembled = desk.assemble(
        words.files.first().map(|file| file.as_path()),
        &words,
        Vec::new(),
    )?;
    report(&assembled, &desk.check(&assembled), false);
    output::print(&assembled.script.render())?;
    Ok(ExitCode::SUCCESS)
}
