//! `carrack outputs`: what a job left behind.

use super::record::find;
use super::{Common, output};
use crate::config::{Config, PROFILES};
use crate::error::{Context, Error, Result};
use crate::jobs::outputs::{self, Entry};
use crate::jobs::run_record::RunRecord;
use crate::launch::contract::{self, Words};
use crate::launch::ports;
use crate::launch::probe;
use crate::launch::profile::Profile;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// List what a job left behind, or print one of its files
///
/// These are its log, what its stages brought home, and the files of its directory that changed while it ran; for a job
/// under rules that give each job a directory for its outputs (`ces`, `gef`), what is in that.
#[derive(clap::Args)]
pub struct Args {
    /// The job's number or name, or a record's file
    job: String,
    /// A directory to list, or a file to print; from the job's directory
    path: Option<PathBuf>,
    /// Print JSON, in the words of GEF's volumes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let found = find(&args.job)?;
    let mut record = RunRecord::read(&found.path)?;
    let mut log = found.log.as_deref();
    let config = args.common.settings()?.config;
    if let Some(own) = own_directory(&config, &record.job.id) {
        // Everything in it is the job's, whenever it was written.
        (record.start, record.end) = (String::new(), String::new());
        record.output_directory = own.display().to_string();
        record.outputs.clear();
        log = None;
    }
    let mut list = outputs::of(&record, log);
    if let Some(path) = &args.path {
        let root = Path::new(&record.output_directory);
        let wanted = root.join(path.strip_prefix(".").unwrap_or(path));
        let chosen = below(list, &wanted, root).ok_or_else(|| {
            Error::usage(format!(
                "`{}` is no output of job `{}`",
                path.display(),
                args.job
            ))
            .hint(format!("`carrack outputs {}` lists them", args.job))
        })?;
        if !chosen.is_folder && !args.json {
            let say = || format!("cannot read `{}`", wanted.display());
            let mut file = std::fs::File::open(&wanted).or_say(say)?;
            std::io::copy(&mut file, &mut std::io::stdout().lock()).or_say(say)?;
            return Ok(ExitCode::SUCCESS);
        }
        list = match chosen.is_folder {
            true => chosen.folder_tree,
            false => vec![chosen],
        };
    }
    if args.json {
        output::print_json(&json!({ "volumeID": args.job, "volumeContent": list }))?;
    } else {
        let mut text = String::new();
        lines(&list, &mut text);
        output::print(&crate::error::printable(&text))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The directory that a profile made for the outputs of this job, if it is there.
fn own_directory(config: &Config, id: &str) -> Option<PathBuf> {
    let mut facts = probe::caller();
    let words = probe::words(&facts);
    facts.words = Some(Words {
        job: id.to_string(),
        ..words
    });
    let own = config.profile.keys().map(String::as_str);
    let names = std::iter::once(config.launch.profile.as_str())
        .chain(own)
        .chain(PROFILES);
    let mut places = names
        .filter_map(|name| contract::outputs_directory(&Profile::named(config, name).ok()?, &facts))
        .chain(ports::outputs_of(&facts).ok());
    places.find(|path| path.is_dir())
}

fn below(list: Vec<Entry>, wanted: &Path, root: &Path) -> Option<Entry> {
    list.into_iter().find_map(|entry| {
        if root.join(&entry.path) == wanted {
            return Some(entry);
        }
        below(entry.folder_tree, wanted, root)
    })
}

fn lines(list: &[Entry], text: &mut String) {
    for entry in list {
        if entry.is_folder {
            lines(&entry.folder_tree, text);
        } else {
            text.push_str(&format!(
                "{:>12}  {}  {}\n",
                entry.size,
                entry.modified,
                entry.path.display()
            ));
        }
    }
}
