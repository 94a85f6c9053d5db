//! The commands. Each file is an `Args` struct, whose doc comments are the help, and one `run`.
//!
//! A new command is one line in the table below and one file. Nothing is read, opened or connected before the verb is
//! known: `carrack exec` runs once per task. Only this floor prints.

mod aids;
pub mod artifact;
pub mod attach;
pub mod cancel;
pub mod check;
mod check_image;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod exec;
pub mod export;
pub mod fetch_input;
mod fronts;
pub mod gc;
mod gef;
mod hooks;
pub mod images;
pub mod import;
pub mod inspect;
pub mod interrupt;
pub mod launching;
pub mod login;
pub mod logout;
pub mod logs;
mod looked_up;
pub mod man;
pub mod options;
pub mod output;
pub mod outputs;
mod policy;
pub mod progress;
pub mod ps;
pub mod pull;
pub mod record;
pub mod rerun;
pub mod rm;
pub mod run;
mod save_capsule;
pub mod script;
pub mod search;
pub mod shell;
mod staging;
pub mod starting;
pub mod submit;
pub mod table;
pub mod tag;
pub mod tags;
pub mod verify;
pub mod wait;

use crate::error::{Error, Result};
use crate::handover;
use crate::launch::probe;
use clap::{Args as _, CommandFactory, FromArgMatches};
use launching::LaunchArgs;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

pub use options::{Common, LaunchCommon};

/// The commands by group: module name, then what the user types. The order is the order of `carrack --help`.
macro_rules! commands {
    ($($group:literal { $($variant:ident $module:ident),* $(,)? })*) => {
        #[derive(clap::Subcommand)]
        enum Command {
            $($($variant($module::Args),)*)*
        }

        impl Command {
            fn run(self, outer: &Common) -> Result<ExitCode> {
                match self {
                    $($(Command::$variant(mut args) => {
                        args.common.inherit(outer);
                        args.common.start_log();
                        $module::run(args)
                    })*)*
                }
            }
        }

        /// The arguments of one command, and of no other.
        fn arguments_of(name: &str) -> Option<clap::Command> {
            $($(if name == stringify!($module) {
                return Some($module::Args::augment_args(clap::Command::new(stringify!($module))));
            })*)*
            None
        }

        /// Heading and commands of each group.
        const GROUPS: &[(&str, &[&str])] = &[$(($group, &[$(stringify!($module)),*])),*];
    };
}

commands! {
    "Images" {
        Pull pull, Images images, Inspect inspect, Tag tag, Rm rm, Gc gc, Verify verify, Import import, Export export,
    }
    "Registries" { Search search, Tags tags, Artifact artifact, Login login, Logout logout }
    "Inside an image" { Run run, Exec exec, Shell shell, Attach attach, SaveCapsule save_capsule, CheckImage check_image, FetchInput fetch_input }
    "Slurm jobs" {
        Submit submit, Script script, Check check, Ps ps, Logs logs, Wait wait, Cancel cancel, Record record,
        Outputs outputs, Rerun rerun,
    }
    "This installation" { Doctor doctor, Config config, Completions completions, Man man }
}

/// Carry container images to Slurm jobs: pull once, run everywhere, without root
///
/// An image is pulled from a registry (or a file) into one squashfs file on the shared file system; job steps run inside
/// it as the user who submitted them.
#[derive(clap::Parser)]
#[command(
    name = "carrack",
    version,
    max_term_width = 110,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// The whole command line as clap sees it; `--help` lists the commands by group.
pub fn definition() -> clap::Command {
    let command = Cli::command();
    let mut list = String::new();
    for (group, names) in GROUPS {
        let lines: Vec<String> = names
            .iter()
            .filter_map(|name| command.find_subcommand(name))
            .filter(|sub| !sub.is_hide_set())
            .map(|sub| {
                let about = sub.get_about().map(ToString::to_string);
                format!("  {:<12}{}\n", sub.get_name(), about.unwrap_or_default())
            })
            .collect();
        if !lines.is_empty() {
            list.push_str(&format!("{group}:\n{}\n", lines.concat()));
        }
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}Options:\n{{options}}\n\n\
         `carrack COMMAND --help` explains a command. Exit codes: 0 done, 2 wrong usage, 125 carrack failed,\n\
         126 not executable, 127 not found in the image, otherwise the command's own.\n"
    ))
}

/// Parses a command line whose first word is a command with that command's own arguments: to define all of them costs a
/// good part of a launch. `None`: something is wrong with it, or is asked for, that only the whole [`definition`] can say.
fn parse_one(args: &[OsString]) -> Option<Cli> {
    let name = args.get(1)?.to_str()?;
    let command =
        Common::augment_args(clap::Command::new("carrack")).subcommand(arguments_of(name)?);
    let matches = command.try_get_matches_from(args).ok()?;
    Cli::from_arg_matches(&matches).ok()
}

/// A launch in a form that needs no parser, as nearly every task of a job is.
fn parse_plain(args: &[OsString]) -> Option<Command> {
    let (verb, arguments) = args.get(1..)?.split_first()?;
    let verb = verb.to_str()?;
    match verb {
        "run" => LaunchArgs::plain(verb, arguments).map(|launch| Command::Run(launch.into())),
        "exec" => {
            let (aids, arguments) = aids::Aids::plain(arguments);
            LaunchArgs::plain(verb, arguments)
                .map(|launch| Command::Exec(exec::Args::with(launch, aids)))
        }
        _ => None,
    }
}

/// `carrack help pull` as `carrack pull --help`. clap's own command of that name would list itself among ours.
fn asked_for_help(mut args: Vec<OsString>) -> Vec<OsString> {
    let mut asked = false;
    while args.get(1).is_some_and(|word| word == "help") {
        args.remove(1);
        asked = true;
    }
    args.extend(asked.then(|| "--help".into()));
    args
}

/// Parses the command line and runs the command.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(name) = fronts::called(&args) {
        return fronts::run(name, &args);
    }
    let guarded = |word: &OsString| handover::is_guarded(word.as_bytes());
    if args.get(1).is_some_and(guarded) {
        return Err(Error::new(format!(
            "the carrack plugin is not loaded on node {}, so nothing is executed there",
            probe::node_name()
        ))
        .hint("this step asked for a container; `plugstack.conf` of that node has no carrack"));
    }
    if let Some(command) = parse_plain(&args) {
        return command.run(&Common::default());
    }
    let args = launching::mark_dashes(asked_for_help(args));
    if let Some(cli) = parse_one(&args) {
        return cli.command.run(&cli.common);
    }
    let parsed = definition()
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => cli.command.run(&cli.common),
        Err(error) if error.use_stderr() => Err(usage(&error.render().to_string())),
        Err(help) => {
            output::print(&help.render().to_string())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Turns clap's text into our form: what is wrong, and hints with the nearest name and the usage.
fn usage(text: &str) -> Error {
    let text = text.replace('\'', "`");
    let Some(text) = text.strip_prefix("error: ") else {
        // No command was given: clap's text is the help itself.
        return Error::usage("no command was given").hint("`carrack --help` lists the commands");
    };
    let mut lines = text.lines();
    let what = lines.next().unwrap_or_default().trim_end_matches(':');
    let mut error = Error::usage(what);
    for line in lines.map(str::trim) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            error = error.hint(tip);
        } else if let Some(form) = line.strip_prefix("Usage: ") {
            error = error.hint(format!("usage: {form}"));
        } else if !line.is_empty() && !line.starts_with("For more information") {
            error = error.cause(line);
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(arguments: &[&str]) -> String {
        let arguments = std::iter::once("carrack").chain(arguments.iter().copied());
        run(arguments.map(OsString::from)).unwrap_err().to_string()
    }

    #[test]
    fn definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn every_command_is_in_a_group() {
        let grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let shown = |command: &&clap::Command| !command.is_hide_set();
        for command in definition().get_subcommands().filter(shown) {
            assert!(
                grouped.contains(&command.get_name()),
                "{}",
                command.get_name()
            );
        }
    }

    #[test]
    fn mistakes_are_told_with_the_nearest_name() {
        let text = fails(&["completoins", "bash"]);
        assert!(
            text.starts_with("error: unrecognized subcommand `completoins`\n"),
            "{text}"
        );
        assert!(
            text.contains("hint:  a similar subcommand exists: `completions`"),
            "{text}"
        );
        assert!(fails(&[]).contains("no command was given"));
    }
}
