//! The commands. Each file is an `Args` struct, whose doc comments are the help, and one `run`.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::process::ExitCode;

/// Parses the command line and runs the command.
pub fn run(_args: impl IntoIterator<Item = OsString>) -> Result<ExitCode> {
    Err(Error::usage("no command yet"))
}
