//! `carrack record`: the provenance of runs. Scripts write it; people and programs read it.

use super::{Common, output};
use crate::error::{Error, Result};
use crate::image::manifest::platform_text;
use crate::image::pull::host_platform;
use crate::jobs::journal::Journal;
use crate::jobs::queue::Phase;
use crate::jobs::run_record::{self, Image, RunRecord, Script};
use crate::jobs::{crate_export, queue};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Show what is known of a finished or running job: image, steps, nodes, exit codes
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// The job's number or name, or a record's file
    job: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the record, the script and the log as a Workflow Run RO-Crate into DIR
    #[arg(long, value_name = "DIR")]
    ro_crate: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    pub common: Common,
}

/// What the scripts call. They say nothing to people, because a job's log is not the place.
#[derive(clap::Subcommand)]
enum Verb {
    /// Begin a record (called by job scripts)
    #[command(hide = true)]
    Start {
        file: PathBuf,
        #[arg(long)]
        image: Option<String>,
        #[arg(long)]
        script: Option<PathBuf>,
        #[arg(long)]
        input: Vec<PathBuf>,
    },
    /// Add a step (called by job scripts)
    #[command(hide = true)]
    Step {
        file: PathBuf,
        #[arg(long, allow_hyphen_values = true)]
        name: String,
        #[arg(long)]
        start: u64,
        #[arg(long)]
        code: i32,
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Complete a record (called by job scripts)
    #[command(hide = true)]
    Finish {
        file: PathBuf,
        #[arg(long)]
        code: i32,
        #[arg(long, default_value = "")]
        kept: String,
    },
}

pub fn run(args: Args) -> Result<ExitCode> {
    match &args.verb {
        Some(Verb::Start {
            file,
            image,
            script,
            input,
        }) => start(
            &args.common,
            file,
            image.as_deref(),
            script.as_deref(),
            input,
        )?,
        Some(Verb::Step {
            file,
            name,
            start,
            code,
            words,
        }) => {
            let mut record = RunRecord::read(file)?;
            record
                .steps
                .push(run_record::step(name, words, *start, *code));
            record.write(file)?;
        }
        Some(Verb::Finish { file, code, kept }) => finish(file, *code, kept)?,
        None => return show(&args),
    }
    Ok(ExitCode::SUCCESS)
}

fn start(
    common: &Common,
    file: &Path,
    image: Option<&str>,
    script: Option<&Path>,
    inputs: &[PathBuf],
) -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    let mut record = RunRecord::begin(&variable);
    record.image = image.map(|image| describe(common, image));
    if let Some(text) = script.and_then(|script| std::fs::read(script).ok()) {
        record.script = Script {
            sha256: hex(&Sha256::digest(&text)),
        };
    }
    record.inputs = inputs.iter().map(|path| run_record::input(path)).collect();
    record.output_directory = std::env::current_dir()
        .map(|directory| directory.display().to_string())
        .unwrap_or_default();
    record
        .versions
        .insert("carrack".to_string(), env!("CARGO_PKG_VERSION").to_string());
    if let Ok(kernel) = nix::sys::utsname::uname() {
        record.versions.insert(
            "kernel".to_string(),
            kernel.release().to_string_lossy().into_owned(),
        );
        record.job.nodes = vec![kernel.nodename().to_string_lossy().into_owned()];
    }
    if !record.job.id.is_empty() {
        ask_slurm(&mut record, &variable);
    }
    record.write(file)
}

/// What only Slurm's commands tell; a node without them has a shorter record.
fn ask_slurm(record: &mut RunRecord, variable: &dyn Fn(&str) -> Option<String>) {
    if let Ok(version) = queue::ask("scontrol", &["--version"]) {
        record
            .versions
            .insert("slurm".to_string(), version.trim().to_string());
    }
    if let Some(list) = variable("SLURM_JOB_NODELIST")
        && let Ok(names) = queue::ask("scontrol", &["show", "hostnames", &list])
    {
        record.job.nodes = names.lines().map(str::to_string).collect();
    }
    if let Ok(details) = queue::ask(
        "scontrol",
        &["--details", "--oneliner", "show", "job", &record.job.id],
    ) {
        record.gpus = run_record::gpus(&details);
    }
}

/// The image from the store, as far as it is known there.
fn describe(common: &Common, reference: &str) -> Image {
    let mut image = Image {
        reference: reference.to_string(),
        ..Image::default()
    };
    let found = common.settings().and_then(|settings| {
        let store = common.store_of(&settings)?;
        store.find_named(
            reference,
            &settings.config.registries.default,
            &host_platform(),
        )
    });
    if let Ok(stored) = found {
        if !stored.record.reference.is_empty() {
            image.reference.clone_from(&stored.record.reference);
        }
        image.manifest_digest = stored.digest.to_string();
        image.config_digest = stored.record.config_digest.clone();
        image.squashfs = stored.record.squashfs.root.clone();
        image.path = stored.path.display().to_string();
        image.platform = platform_text(&stored.record.platform);
        image.labels = stored.record.config.labels.clone();
    }
    image
}

fn finish(file: &Path, code: i32, kept: &str) -> Result<()> {
    let mut record = RunRecord::read(file)?;
    let id = record
        .job
        .array
        .clone()
        .unwrap_or_else(|| record.job.id.clone());
    // Only a job that was ended from outside has a state that its code does not tell.
    let state = (code > 128 && queue::check_id(&id).is_ok()).then(|| match queue::status(&id) {
        Ok(Some(status)) if status.phase() == Phase::Failed => status.state,
        _ if queue::is_out_of_time(&id) => "TIMEOUT".to_string(),
        _ => "CANCELLED".to_string(),
    });
    record.finish(code, kept, state.as_deref());
    record.write(file)
}

fn show(args: &Args) -> Result<ExitCode> {
    let Some(word) = &args.job else {
        return Err(
            Error::usage("no job was named").hint("usage: carrack record JOB|FILE [--json]")
        );
    };
    let (path, script) = find(word)?;
    let mut record = RunRecord::read(&path)?;
    if record.complete() {
        // Others may look at a record that they cannot write.
        let _ = record.write(&path);
    }
    if let Some(directory) = &args.ro_crate {
        crate_export::export(&record, &path, script.as_deref(), directory)?;
        output::print(&format!(
            "{}\n",
            directory.join(crate_export::METADATA).display()
        ))?;
    } else if args.json {
        output::print_json(&record)?;
    } else {
        output::print(&text(&record, &path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A record's file and the script, by number, name or path.
fn find(word: &str) -> Result<(PathBuf, Option<PathBuf>)> {
    let path = PathBuf::from(word);
    if path.is_file() {
        return Ok((path, None));
    }
    let (submission, task) = Journal::open()?.find(word).ok_or_else(|| {
        Error::usage(format!("no job `{word}` was submitted from here"))
            .hint("`carrack ps --all` lists them; a record's file can be named as well")
    })?;
    let path = submission
        .record_path(task.as_deref())
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(format!("job `{word}` has no record yet"))
                .cause("a record is begun when the job starts")
                .hint(format!("`carrack ps {word}` says what it waits for"))
        })?;
    Ok((path, Some(submission.script)))
}

fn text(record: &RunRecord, path: &Path) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:<10}{}", crate::error::printable(value));
        }
    };
    line("job", &format!("{} {}", record.job.id, record.job.name));
    line("state", &record.state);
    line(
        "code",
        &record
            .exit_code
            .map(|code| code.to_string())
            .unwrap_or_default(),
    );
    line("start", &record.start);
    line("end", &record.end);
    line("nodes", &record.job.nodes.join(" "));
    for (node, gpus) in &record.gpus {
        line("gpus", &format!("{node}: {gpus}"));
    }
    if let Some(image) = &record.image {
        line("image", &image.reference);
        line("digest", &image.manifest_digest);
    }
    for step in &record.steps {
        line(
            "step",
            &format!(
                "{} ended with {}: {}",
                step.name,
                step.exit_code,
                step.argv.join(" ")
            ),
        );
    }
    line("kept", &record.kept);
    line("directory", &record.output_directory);
    line("record", &path.display().to_string());
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
