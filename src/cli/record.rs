//! `carrack record`: the provenance of runs. Scripts write it; people and programs read it.

mod site;

use super::{Common, output};
use crate::error::{Error, Result};
use crate::image::manifest::platform_text;
use crate::image::pull::host_platform;
use crate::image::store::text_of;
use crate::jobs::journal::{Journal, Submission};
use crate::jobs::queue::Phase;
use crate::jobs::run_record::{self, Image, Input, RunRecord};
use crate::jobs::signature::{AT_ONCE, Ending, Sign, recognise};
use crate::jobs::{crate_export, queue};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

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

/// What the scripts call. They say nothing to people but what the end of a job is known to mean: the log is where it is
/// looked for.
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
        /// Where results are copied to
        #[arg(long)]
        output: Vec<String>,
        /// Where results are until they are copied
        #[arg(long, default_value = "")]
        kept: String,
        /// The number and the name of a job that Slurm does not know
        #[arg(long, num_args = 2, allow_hyphen_values = true)]
        local: Vec<String>,
        #[arg(long, default_value = "")]
        profile: String,
        #[arg(long, default_value = "")]
        project: String,
        #[arg(long)]
        dataset: Vec<String>,
        /// A port's value and where it came from, as JSON
        #[arg(long)]
        staged: Vec<String>,
    },
    /// List the site's records, newest last, each checked
    List {
        /// The site's directory [default: `records.directory`]
        directory: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a record, as `carrack record JOB` does
    Show {
        job: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a record of the site: whole, and written by the user whose job it is
    Verify {
        #[arg(required = true)]
        files: Vec<PathBuf>,
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
            output,
            kept,
            local,
            profile,
            project,
            dataset,
            staged,
        }) => {
            let mut record = start(&args.common, image.as_deref(), script.as_deref(), input);
            record.outputs.clone_from(output);
            record.kept.clone_from(kept);
            record.profile.clone_from(profile);
            record.project.clone_from(project);
            record.datasets.clone_from(dataset);
            let staged = staged.iter();
            let known = staged.filter_map(|text| serde_json::from_str::<Input>(text).ok());
            record.inputs.extend(known.map(|then| then.now()));
            if let [id, name] = local.as_slice() {
                record.job.id.clone_from(id);
                // Not that of a job of Slurm's in which it runs.
                record.job.array = id.contains('_').then(|| id.clone());
                record.job.name.clone_from(name);
            }
            record.write(file).map_err(|error| {
                error.hint(
                    "the job goes on without a record: is there room, and may you write there?",
                )
            })?;
            site::tell(&args.common, "start", &record);
        }
        Some(Verb::List { directory, json }) => {
            site::list(&args.common, directory.as_deref(), *json)?;
        }
        Some(Verb::Show { job, json }) => {
            return show(Some(job), *json, None);
        }
        Some(Verb::Verify { files }) => site::verify(files)?,
        // Why there is none was told when the job started.
        Some(Verb::Step { file, .. } | Verb::Finish { file, .. }) if !file.exists() => {}
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
        Some(Verb::Finish { file, code, kept }) => {
            let record = finish(file, *code, kept)?;
            if let Some(sign) = sign(&record, *code) {
                eprintln!("carrack: {}: {}", sign.what, sign.hint);
            }
            site::tell(&args.common, "end", &record);
        }
        None => return show(args.job.as_ref(), args.json, args.ro_crate.as_deref()),
    }
    Ok(ExitCode::SUCCESS)
}

fn start(
    common: &Common,
    image: Option<&str>,
    script: Option<&Path>,
    inputs: &[PathBuf],
) -> RunRecord {
    let variable = |name: &str| std::env::var(name).ok();
    let mut record = RunRecord::begin(&variable);
    record.image = image.map(|image| describe(common, image));
    if let Some(text) = script.and_then(|script| std::fs::read(script).ok()) {
        record.add_script(&text);
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
    record
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

/// How much of a log's end is read.
const TAIL: u64 = 64 << 10;

/// What the job wrote last is known to mean something. The script's messages go to the log, where it is a file.
fn sign(record: &RunRecord, code: i32) -> Option<Sign> {
    use std::io::{Read, Seek, SeekFrom};
    let path = "/proc/self/fd/2";
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut log = std::fs::File::open(path).ok()?;
    let size = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(size.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    log.take(TAIL).read_to_end(&mut tail).ok()?;
    recognise(&Ending {
        code,
        // Texts of times are in their order.
        at_once: record.start >= text_of(SystemTime::now() - AT_ONCE),
        tasks: record.job.tasks.parse().unwrap_or(1),
        has_gpus: !record.gpus.is_empty(),
        tail: &String::from_utf8_lossy(&tail),
    })
}

fn finish(file: &Path, code: i32, kept: &str) -> Result<RunRecord> {
    let mut record = RunRecord::read(file)?;
    let id = record
        .job
        .array
        .clone()
        .unwrap_or_else(|| record.job.id.clone());
    // Only a job that was ended from outside has a state that its code does not tell.
    let asked = (code > 128 && queue::check_id(&id).is_ok()).then(|| queue::status(&id));
    let state = match asked {
        None => None,
        Some(Ok(Some(status))) if status.phase() == Phase::Failed => Some(status.state),
        // Nobody ends it: the code is that of one of its steps.
        Some(Ok(Some(status))) if status.state != "COMPLETING" => None,
        Some(_) if queue::is_out_of_time(&id) => Some("TIMEOUT".to_string()),
        Some(_) => Some("CANCELLED".to_string()),
    };
    record.finish(code, kept, state.as_deref());
    record.write(file)?;
    Ok(record)
}

fn show(job: Option<&String>, json: bool, ro_crate: Option<&Path>) -> Result<ExitCode> {
    let Some(word) = job else {
        return Err(
            Error::usage("no job was named").hint("usage: carrack record JOB|FILE [--json]")
        );
    };
    let Found { path, script, .. } = find(word)?;
    let mut record = RunRecord::read(&path)?;
    if record.complete() {
        // Others may look at a record that they cannot write.
        let _ = record.write(&path);
    }
    if let Some(directory) = ro_crate {
        crate_export::export(&record, &path, script.as_deref(), directory)?;
        output::print(&format!(
            "{}\n",
            directory.join(crate_export::METADATA).display()
        ))?;
    } else if json {
        output::print_json(&record)?;
    } else {
        output::print(&text(&record, &path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A run as it was submitted from here, or its record alone.
pub struct Found {
    pub path: PathBuf,
    pub script: Option<PathBuf>,
    pub log: Option<PathBuf>,
    pub submission: Option<Submission>,
}

/// By number, name or the record's path.
pub fn find(word: &str) -> Result<Found> {
    let path = PathBuf::from(word);
    if path.is_file() {
        let here = std::path::absolute(&path).unwrap_or_default();
        let all = Journal::open()
            .map(|journal| journal.all())
            .unwrap_or_default();
        let ours = all
            .into_iter()
            .find(|job| job.record_path(None).as_ref() == Some(&here));
        return Ok(Found {
            path,
            script: ours.as_ref().map(|job| job.script.clone()),
            log: ours.as_ref().and_then(|job| log_of(job, None)),
            submission: ours,
        });
    }
    let (submission, task) = Journal::open()?.find(word).ok_or_else(|| {
        Error::usage(format!("no job `{word}` was submitted from here"))
            .hint("`carrack ps --all` lists them; a record's file can be named as well")
    })?;
    let path = submission
        .record_path(task.as_deref())
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            if task.is_none() && !submission.begun_tasks().is_empty() {
                return submission.is_an_array(word);
            }
            if submission.ended.is_some() {
                return Error::new(format!("job `{word}` has no record"))
                    .cause("it could not be written where the job ran, or was removed since");
            }
            Error::new(format!("job `{word}` has no record yet"))
                .cause("a record is begun when the job starts")
                .hint(format!("`carrack ps {word}` says what it waits for"))
        })?;
    Ok(Found {
        path,
        script: Some(submission.script.clone()),
        log: log_of(&submission, task.as_deref()),
        submission: Some(submission),
    })
}

/// A job that ran without Slurm wrote to the terminal.
fn log_of(job: &Submission, task: Option<&str>) -> Option<PathBuf> {
    (!job.output.is_empty()).then(|| job.output_path(task))
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
    line("profile", &record.profile);
    line("project", &record.project);
    line("datasets", &record.datasets.join(" "));
    for input in &record.inputs {
        let of = match input.source.as_str() {
            "" => String::new(),
            source => format!(" from {source}"),
        };
        let line_of = format!("{} {}{of}, {} bytes", input.port, input.path, input.bytes);
        line("input", line_of.trim_start());
    }
    line("kept", &record.kept);
    line("directory", &record.output_directory);
    line("record", &path.display().to_string());
    out
}
