//! The binary under another system's name: reads the files that such a command line names, and does what it becomes.
//!
//! The translations are `fronts/`'s. What they make goes through `carrack`'s own commands, so that every rule of the site
//! is asked there and nowhere else.

mod ces;
mod jobman;
mod shifter;

use super::Common;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fronts::NAMES;
use crate::launch::profile::Profile;
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

/// A file of options has a few lines.
const LARGEST: u64 = 1 << 20;

/// The foreign name that this process was started under.
pub fn called(arguments: &[OsString]) -> Option<&'static str> {
    let name = Path::new(arguments.first()?).file_name()?;
    NAMES.iter().find(|known| name == **known).copied()
}

/// Runs a foreign command line.
pub fn run(name: &str, arguments: &[OsString]) -> Result<ExitCode> {
    let mut words = Vec::new();
    for word in arguments.iter().skip(1) {
        words.push(
            word.to_str()
                .map(str::to_string)
                .ok_or_else(|| Error::usage(format!("`{}` is not valid UTF-8", word.display())))?,
        );
    }
    match name {
        "ces-pull" => ces::pull(&words),
        "ces-run" | "ces-pm-run" => ces::run(&words, false),
        "ces-gpu-run" => ces::run(&words, true),
        "shifter" => shifter::run(&words),
        "shifterimg" => shifter::images(&words),
        _ => jobman::run(&words),
    }
}

/// The words of one of our own commands.
fn carrack<S: AsRef<str>>(words: &[S]) -> Result<ExitCode> {
    let words = words.iter().map(|word| OsString::from(word.as_ref()));
    super::run(std::iter::once(OsString::from("carrack")).chain(words))
}

/// The rules for people of a system: the profile in force where it is one of that system's, else the built-in one.
fn profile_of(config: &Config, contract: &str) -> Result<Profile> {
    let asked = std::env::var("CARRACK_PROFILE").unwrap_or_default();
    let asked = match asked.as_str() {
        "" => &config.launch.profile,
        asked => asked,
    };
    let profile = Profile::named(config, asked)?;
    match profile.follows(contract) {
        true => Ok(profile),
        false => Profile::named(config, contract),
    }
}

/// The text of a file that a person named; process substitutions (`<(echo …)`) are files, too.
fn text_of(path: &Path) -> Result<String> {
    let unread = |error| Error::unread("the file", path, error);
    let file = std::fs::File::open(path).map_err(unread)?;
    let mut text = String::new();
    let read = file
        .take(LARGEST + 1)
        .read_to_string(&mut text)
        .map_err(unread)?;
    if read as u64 > LARGEST {
        let what = format!("cannot read the file `{}`", path.display());
        return Err(Error::usage(what).cause("it has more than 1 MiB"));
    }
    Ok(text)
}

/// Submits, follows the log and ends with the job's code. Ctrl-C takes the job along.
fn wait_for(words: Vec<String>) -> Result<ExitCode> {
    use super::submit::{Done, once};
    let mut words = crate::jobs::words::Words::parse(&words)?;
    // What is printed is what the job prints.
    words.json = !words.dry_run;
    words.local |= !crate::jobs::queue::is_there();
    let job = match once(&words)? {
        Done::Submitted(job) => *job,
        Done::Ran(_, code) => return Ok(ExitCode::from(code)),
        Done::Dry => return Ok(ExitCode::SUCCESS),
    };
    eprintln!("job {} {} was submitted", job.id, job.name);
    let id = job.id.clone();
    super::interrupt::before_ending(move || {
        let _ = crate::jobs::queue::run("scancel", &[id]);
    });
    if let Err(error) = carrack(&["logs", "--follow", &job.id]) {
        // A job that never started has no log; how it ended is told below.
        tracing::info!("{}", error.what());
    }
    carrack(&["wait", &job.id])
}

/// The usual start of a front: the log, the settings, and whether this person may run anything.
fn begin(verbose: bool) -> Result<(Common, crate::config::Settings)> {
    let common = Common {
        verbose: u8::from(verbose),
        ..Common::default()
    };
    common.start_log();
    let settings = common.settings()?;
    Ok((common, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (word, expected) in [
            ("/usr/bin/ces-run", Some("ces-run")),
            ("shifter", Some("shifter")),
            ("./shifterimg", Some("shifterimg")),
            ("carrack", None),
            ("ces-runs", None),
            ("", None),
        ] {
            assert_eq!(called(&[OsString::from(word)]), expected, "{word}");
        }
        assert_eq!(called(&[]), None);
    }
}
