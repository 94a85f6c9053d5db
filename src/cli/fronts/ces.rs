//! `ces-pull`, `ces-run` and `ces-gpu-run`.

use super::{begin, profile_of, text_of, wait_for};
use crate::cli::output;
use crate::error::{Context, Result};
use crate::fronts::ces::{self, Asked, Environment, Files};
use crate::fronts::docker::Rules;
use crate::image::reference::Reference;
use crate::launch::request::NetworkChoice;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

pub fn run(words: &[String], gpu: bool) -> Result<ExitCode> {
    let asked = match ces::run(words, gpu)? {
        Asked::Help => return said(ces::RUN_HELP),
        Asked::Version => return version(),
        Asked::This(asked) => asked,
    };
    let (_, settings) = begin(false)?;
    let profile = profile_of(&settings.config, "ces")?;
    let here = std::env::current_dir().or_say(|| "cannot tell the current directory")?;
    let read = |path: &Option<PathBuf>| match path {
        Some(path) => text_of(path),
        None => Ok(String::new()),
    };
    let files = Files {
        environment: match &asked.env_file {
            None => Environment::None,
            // Secrets stay in their file as long as the file will be there when the job starts.
            Some(path)
                if path.is_file() && !path.starts_with("/dev") && !path.starts_with("/proc") =>
            {
                Environment::File(here.join(path))
            }
            Some(path) => Environment::Text(text_of(path)?),
        },
        options: read(&asked.opt_file)?,
        arguments: read(&asked.arg_file)?,
    };
    let rules = Rules {
        no_network: profile.network == NetworkChoice::None,
        not_interactive: !profile.interactive,
    };
    let (words, notices) = asked.submit(&files, &profile.name, &here, rules)?;
    for notice in notices {
        eprintln!("note: {}", crate::error::printable(&notice));
    }
    eprintln!("Running: carrack submit {}", shown(&words));
    wait_for(words)
}

/// As a person would type it, without the values of variables.
fn shown(words: &[String]) -> String {
    let hidden = |word: &String| match word.strip_prefix("--env=") {
        Some(pair) => match pair.split_once('=') {
            Some((name, _)) => format!("--env={name}=…"),
            None => word.clone(),
        },
        None => word.clone(),
    };
    let words: Vec<String> = words
        .iter()
        .map(|word| carrack_slurm::quote::word(&hidden(word)))
        .collect();
    crate::error::printable(&words.join(" "))
}

pub fn pull(words: &[String]) -> Result<ExitCode> {
    let asked = match ces::pull(words)? {
        Asked::Help => return said(ces::PULL_HELP),
        Asked::Version => return version(),
        Asked::This(asked) => asked,
    };
    let (_, settings) = begin(false)?;
    let reference = Reference::parse(&asked.image, &settings.config.registries.default)?;
    let program = std::env::current_exe().or_say(|| "cannot find the carrack program")?;
    // In place of this process, so that the token is no longer among the arguments that everybody can see.
    let mut command = Command::new(program);
    command
        .arg0("carrack")
        .arg("pull")
        .arg("--")
        .arg(&asked.image);
    if !asked.token.is_empty() {
        eprintln!(
            "warning: a token on the command line can be seen by every user of this machine, and shells keep it\n  \
             hint:  use one with `read:packages` only; better: `carrack login {} -u {} --password-stdin` once, then `carrack pull`",
            reference.name().map_or("REGISTRY", |name| &name.registry),
            crate::error::printable(&asked.user)
        );
        command
            .env("CARRACK_USERNAME", &asked.user)
            .env("CARRACK_PASSWORD", &asked.token)
            .env_remove("CARRACK_PASSWORD_FILE");
        if let Some(name) = reference.name() {
            command.env("CARRACK_REGISTRY", &name.registry);
        }
    }
    Err(command.exec()).or_say(|| "cannot start carrack")
}

fn said(text: &str) -> Result<ExitCode> {
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn version() -> Result<ExitCode> {
    said(&format!("carrack {}\n", env!("CARGO_PKG_VERSION")))
}
