//! `carrack rerun`: the run of a record once more, or what has changed since.

use super::Common;
use super::record::find;
use super::submit::Desk;
use crate::error::{Context, Error, Result, printable};
use crate::image::store::Stored;
use crate::jobs::journal::{Journal, Submission};
use crate::jobs::run_record::{RunRecord, hex};
use crate::jobs::words::Words;
use carrack_slurm::script::Script;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Submit a job again as its record says: same script, same image, same inputs
///
/// What differs is named, and then nothing is submitted unless `--force` says so. The job runs in the directory of the
/// first one and writes there.
#[derive(clap::Args)]
pub struct Args {
    /// The job's number or name, or a record's file (with its `script.sh` beside it, as `record --ro-crate` writes them)
    record: String,
    /// Submit although something differs
    #[arg(short, long)]
    force: bool,
    /// Only say what differs
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let found = find(&args.record)?;
    let record = RunRecord::read(&found.path)?;
    let beside = found.path.with_file_name("script.sh");
    let script = [found.script, Some(beside)]
        .into_iter()
        .flatten()
        .find(|script| script.is_file())
        .ok_or_else(|| {
            Error::new("the script of this run is not here")
                .cause("a record holds its hash, not its text")
                .hint("rerun it where it was submitted, or put it beside the record as `script.sh`")
        })?;
    let text = std::fs::read_to_string(&script)
        .or_say(|| format!("cannot read the script `{}`", script.display()))?;
    let local = record.job.id.starts_with("local-");
    let words = Words {
        quiet: args.common.quiet,
        local,
        ..Words::default()
    };
    let desk = Desk::open(&words, args.common.clone())?;
    let (differences, image) = differences(&record, &text, &desk);
    for difference in &differences {
        eprintln!("differs: {}", printable(difference));
    }
    if args.dry_run {
        return Ok(ExitCode::from(u8::from(!differences.is_empty())));
    }
    if !differences.is_empty() && !args.force {
        return Err(
            Error::new("this would not be the same run; nothing was submitted")
                .hint("`--force` submits it nevertheless"),
        );
    }
    let first = Submission {
        name: record.job.name.clone(),
        directory: PathBuf::from(&record.output_directory),
        job_file: None,
        after: Vec::new(),
        ..found.submission.unwrap_or_else(|| Submission {
            schema: 1,
            cluster: record.job.cluster.clone(),
            output: format!("{}.out", Script::output_stem(&record.job.name, false)),
            record: format!("{}.json", Script::output_stem(&record.job.name, false)),
            ..Submission::default()
        })
    };
    desk.again(&Journal::open()?, first, &text, image.as_ref())
}

/// What is not as it was, one sentence each.
fn differences(record: &RunRecord, script: &str, desk: &Desk) -> (Vec<String>, Option<Stored>) {
    let mut found = Vec::new();
    let mut known = None;
    if hex(&Sha256::digest(script.as_bytes())) != record.script.sha256 {
        found.push("the script was changed after that run".to_string());
    }
    if !Path::new(&record.output_directory).is_dir() {
        found.push(format!(
            "the directory `{}` is gone",
            record.output_directory
        ));
    }
    if let Some(image) = &record.image {
        match desk.known(image) {
            Ok(stored) => {
                if stored.record.squashfs.root != image.squashfs {
                    found.push(format!(
                        "the image has the same digest, but its file was converted differently ({} then, {} now)",
                        image.squashfs, stored.record.squashfs.root
                    ));
                }
                known = Some(stored);
            }
            Err(error) => found.push(format!(
                "the image `{}` ({}) cannot be had any more: {error}",
                image.reference, image.manifest_digest
            )),
        }
    }
    for then in &record.inputs {
        let now = then.now();
        if now != *then {
            found.push(format!(
                "the input `{}` had {} files and {} bytes, newest of {}; now {} files and {} bytes, newest of {}",
                then.path, then.files, then.bytes, then.newest, now.files, now.bytes, now.newest
            ));
        }
    }
    (found, known)
}
