//! `carrack config`: which settings are in force, and where each came from.

use super::{Common, output, policy};
use crate::config::{self, File, Origin, Settings, load};
use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show or check the settings
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print every setting in force
    Show(Show),
    /// Check a settings file before it is installed
    Check {
        /// The file [default: those in force]
        file: Option<PathBuf>,
    },
    /// Print the files that are read, in order; later ones win
    Path,
}

#[derive(clap::Args, Default)]
struct Show {
    /// Only keys that begin so, e.g. `store`
    prefix: Option<String>,
    /// Say where each value came from
    #[arg(long)]
    origin: bool,
    /// Print JSON: one object per key with value and origin
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    match args.action.unwrap_or(Action::Show(Show::default())) {
        Action::Show(show) => print_settings(&args.common.settings()?, &show)?,
        Action::Check { file } => check(file, &args.common)?,
        Action::Path => {
            let site = load::site_files().into_iter().map(|file| file.path);
            let files = site.chain(load::user_file());
            let lines = files.map(|file| {
                let state = if file.exists() { "" } else { "  (not there)" };
                format!("{}{state}\n", file.display())
            });
            output::print(&lines.collect::<String>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_settings(settings: &Settings, show: &Show) -> Result<()> {
    let wanted = |key: &str| {
        show.prefix
            .as_deref()
            .is_none_or(|prefix| key.starts_with(prefix))
    };
    let rows: Vec<_> = settings
        .flat()
        .into_iter()
        .filter(|(key, _)| wanted(key))
        .collect();
    if rows.is_empty()
        && let Some(prefix) = &show.prefix
    {
        let flat = settings.flat();
        let near = config::nearest(prefix, flat.iter().map(|(key, _)| key.as_str()));
        let error = Error::usage(format!("no setting begins with `{prefix}`"));
        return Err(match near {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None => error.hint("`carrack config show` lists them"),
        });
    }
    if show.json {
        let values = rows.into_iter().map(|(key, value)| {
            let origin = settings.origin(&key).to_string();
            (key, serde_json::json!({ "value": value, "origin": origin }))
        });
        return output::print_json(&values.collect::<serde_json::Map<_, _>>());
    }
    let mut text = String::new();
    for (key, value) in rows {
        let value = if value.is_null() {
            "(unset)".to_string()
        } else {
            value.to_string()
        };
        let line = format!("{key} = {value}");
        match settings.origin(&key) {
            _ if !show.origin => text.push_str(&format!("{line}\n")),
            Origin::Default => text.push_str(&format!("{line:<50} # default\n")),
            origin => text.push_str(&format!("{line:<50} # {origin}\n")),
        }
    }
    output::print(&text)
}

fn check(file: Option<PathBuf>, common: &Common) -> Result<()> {
    let Some(path) = file else {
        let settings = common.settings()?;
        let site = load::site_files().into_iter().map(|file| file.path);
        let files = site.chain(load::user_file());
        let found = files.filter(|file| file.exists()).count();
        return output::print(&format!(
            "{found} files read, {} settings differ from the defaults\n",
            settings.origins.len()
        ));
    };
    let missing = || Error::unread("the settings in", &path, ErrorKind::NotFound.into());
    let text = load::read(&path)?.ok_or_else(missing)?;
    let settings = config::merge(std::slice::from_ref::<File>(&text), &[], &[])?;
    policy::check_profiles(&settings)?;
    output::print(&format!(
        "{}: {} settings, no mistake\n",
        text.path,
        settings.origins.len()
    ))
}
