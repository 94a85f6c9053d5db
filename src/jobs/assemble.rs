//! A job file or a command line, and the images it names → the script's value and what the checks look at.
//!
//! Container options are validated here through the launcher's own table, so that a typing mistake fails at the desk.
//! Deliberately absent: the registry and the store, which the caller asks through one function.

mod options;

use options::read_options;
pub use options::{Options, here, is_unknown};

use super::environment;
use super::words::Words;
use crate::error::{Error, Result};
use crate::image::store::Stored;
use carrack_slurm::document::{Mistake, Pair};
use carrack_slurm::edf;
use carrack_slurm::job::{
    Container, Direction, ImageOn, Job, Run, Setting, Step, StepContainer, StepLauncher,
};
use carrack_slurm::script::{InContainer, RunsOn, Script, ScriptStep, file_name};
use carrack_slurm::time_limit::minutes;
use std::path::{Path, PathBuf};

/// An image as the script names it.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// With its digest, or the absolute path of a file that stays where it is.
    pub text: String,
    /// As the user wrote it.
    pub reference: String,
    /// What the store knows of it; absent when the image was not brought in.
    pub stored: Option<Stored>,
}

/// What a step will run, for the checks.
#[derive(Clone, Debug)]
pub struct CheckedStep {
    pub step: Step,
    /// Absent on the bare node.
    pub container: Option<(Pinned, Options)>,
}

/// Under which rules, and for what data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contract {
    pub profile: String,
    pub project: String,
    pub datasets: Vec<String>,
}

/// A job that is ready to be written.
#[derive(Clone, Debug)]
pub struct Assembled {
    pub job: Job,
    pub script: Script,
    pub steps: Vec<CheckedStep>,
    pub images: Vec<Pinned>,
    pub contract: Contract,
    /// The job file's name in messages.
    pub label: String,
}

/// Where the job's text comes from.
pub enum Source<'a> {
    File { path: &'a Path, text: &'a str },
    Words,
}

impl Source<'_> {
    pub fn label(&self) -> String {
        match self {
            Source::File { path, .. } => path.display().to_string(),
            Source::Words => "the command line".to_string(),
        }
    }
}

pub fn assemble(
    source: &Source<'_>,
    words: &Words,
    resolve: &mut dyn FnMut(&str) -> Result<Pinned>,
) -> Result<Assembled> {
    let label = source.label();
    let mut job = match source {
        Source::File { text, .. } => {
            Job::parse(text).map_err(|mistake| environment::explain(&label, mistake))?
        }
        Source::Words => from_words(words),
    };
    for setting in &words.sbatch {
        job.options.retain(|known| known.name != setting.name);
        job.options.push(setting.clone());
    }
    if let (Source::File { .. }, Some(setting)) = (source, words.srun.first()) {
        return Err(
            Error::usage(format!("`--{}` is an option of srun", setting.name))
                .hint("write it under `[[step]]` of the job file"),
        );
    }
    let array = job.option("array").is_some();
    let name = name(&mut job, source, words);
    if job.option("output").is_none() {
        job.options.push(Setting {
            name: "output",
            value: Some(format!("{}.out", Script::output_stem(&name, array))),
            line: 0,
        });
    }
    if let Some(signal) = warning_signal(&job) {
        job.options.push(signal);
    }

    let empty = Container::default();
    let base = job.container.as_ref().unwrap_or(&empty);
    let whole = read_options(&base.pairs, &words.container, &label)?;
    let mut images: Vec<(String, Pinned)> = Vec::new();
    let mut pin = |image: &Option<(String, usize)>, line: usize| -> Result<Pinned> {
        let Some((image, line)) = image.as_ref().map(|(image, line)| (image.as_str(), *line))
        else {
            let mistake = Mistake::new(line, "`[container]` has no `image`");
            return Err(environment::explain(&label, mistake));
        };
        if let Some((_, known)) = images.iter().find(|(known, _)| known == image) {
            return Ok(known.clone());
        }
        let pinned = resolve(image).map_err(|error| {
            let place = if line > 0 {
                format!("{label}:{line}")
            } else {
                label.clone()
            };
            error.while_doing(format!("cannot use the image `{image}` of `{place}`"))
        })?;
        images.push((image.to_string(), pinned.clone()));
        Ok(pinned)
    };

    let mut steps = Vec::new();
    let mut checked = Vec::new();
    let mut main_image = None;
    for step in steps_of(&job) {
        let container = match &step.container {
            StepContainer::None => None,
            StepContainer::Same => {
                let pinned = pin(&whole.image, base.line)?;
                main_image.get_or_insert_with(|| pinned.clone());
                Some((pinned, whole.clone(), InContainer::Same))
            }
            StepContainer::Changed(changed) => {
                let pairs = edf::merge(&base.pairs, &changed.pairs);
                let own = read_options(&pairs, &words.container, &label)?;
                let pinned = pin(&own.image, changed.line)?;
                let own_in = InContainer::Own {
                    image: Some(pinned.text.clone()),
                    options: own.flags.clone(),
                };
                Some((pinned, own, own_in))
            }
        };
        steps.push(ScriptStep {
            name: step.name.clone(),
            command: step.command.clone(),
            launcher: step.launcher,
            options: step.options.clone(),
            environment: step.environment.clone(),
            container: container
                .as_ref()
                .map_or(InContainer::No, |(_, _, inside)| inside.clone()),
        });
        checked.push(CheckedStep {
            container: container.map(|(pinned, options, _)| (pinned, options)),
            step,
        });
    }
    let images: Vec<Pinned> = images.into_iter().map(|(_, pinned)| pinned).collect();
    let stored = main_image
        .as_ref()
        .and_then(|image: &Pinned| image.stored.clone());
    let script = Script {
        made_by: made_by(source),
        notes: images
            .iter()
            .map(|image| format!("Image: {}", image.reference))
            .collect(),
        options: job.options.clone(),
        components: job.components.clone(),
        program_dir: program_directory(),
        image: main_image.map(|image| image.text),
        image_file: match job.image_on {
            ImageOn::Shared => None,
            ImageOn::Node => stored.and_then(|stored| image_file(&stored)),
        },
        image_on: job.image_on,
        environment: job.environment.clone(),
        container: whole.flags,
        cleans_up: false,
        contract: Vec::new(),
        stages: job.stages.clone(),
        steps,
        array,
        runs_on: if words.local {
            RunsOn::Here
        } else {
            RunsOn::Slurm
        },
        name,
    };
    Ok(Assembled {
        job,
        script,
        steps: checked,
        images,
        contract: Contract::default(),
        label,
    })
}

/// A job of one step from the command line alone.
fn from_words(words: &Words) -> Job {
    let program = words
        .command
        .first()
        .and_then(|program| Path::new(program).file_name());
    Job {
        container: Some(Container {
            pairs: words
                .image
                .iter()
                .map(|image| Pair {
                    name: "image".to_string(),
                    value: carrack_slurm::document::Value::Text(image.replace('$', "$$")),
                    line: 0,
                })
                .collect(),
            line: 0,
        }),
        steps: vec![Step {
            name: program.map_or("run".to_string(), |name| file_name(&name.to_string_lossy())),
            command: if words.command.is_empty() {
                Run::Image
            } else {
                Run::Words(words.command.clone())
            },
            launcher: StepLauncher::Srun,
            container: StepContainer::Same,
            options: words.srun.clone(),
            environment: Vec::new(),
            line: 0,
        }],
        ..Job::default()
    }
}

/// An image without steps runs what it runs by default.
fn steps_of(job: &Job) -> Vec<Step> {
    if !job.steps.is_empty() {
        return job.steps.clone();
    }
    vec![Step {
        name: "run".to_string(),
        command: Run::Image,
        launcher: StepLauncher::Srun,
        container: StepContainer::Same,
        options: Vec::new(),
        environment: Vec::new(),
        line: job.container.as_ref().map_or(0, |container| container.line),
    }]
}

/// The job's name; one that nobody gave is made different each time, so that `logs NAME` finds one job.
fn name(job: &mut Job, source: &Source<'_>, words: &Words) -> String {
    if let Some(name) = job
        .option("job-name")
        .and_then(|setting| setting.value.clone())
    {
        return name;
    }
    let stem = match source {
        Source::File { path, .. } => path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned()),
        Source::Words => words.image.as_deref().map(|image| {
            let last = image.rsplit('/').next().unwrap_or(image);
            last.split([':', '@', '#'])
                .next()
                .unwrap_or(last)
                .to_string()
        }),
    };
    let stem = file_name(&stem.unwrap_or_default());
    let moment = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mixed = moment.as_nanos() ^ u128::from(std::process::id()).rotate_left(17);
    let name = format!("{stem}-{:05x}", mixed % 0x10_0000);
    job.options.insert(
        0,
        Setting {
            name: "job-name",
            value: Some(name.clone()),
            line: 0,
        },
    );
    name
}

fn made_by(source: &Source<'_>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match source {
        Source::File { path, .. } => {
            let file = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            format!("carrack {version} from {}", file.unwrap_or_default())
        }
        Source::Words => format!("carrack {version}"),
    }
}

/// Results must be brought home before the time is over, and Slurm's usual half minute may be too short for that.
fn warning_signal(job: &Job) -> Option<Setting> {
    let brings_home = job
        .stages
        .iter()
        .any(|stage| stage.direction == Direction::Out);
    let limit = job
        .option("time")
        .and_then(|setting| minutes(setting.value.as_deref()?));
    // Slurm may send it a minute early; a short job should not lose most of its time.
    if !brings_home || job.option("signal").is_some() || limit.is_some_and(|limit| limit < 20) {
        return None;
    }
    Some(Setting {
        name: "signal",
        value: Some("B:TERM@120".to_string()),
        line: 0,
    })
}

/// Where `carrack` is, unless every machine looks there anyway.
fn program_directory() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let directory = program.parent()?.to_str()?.to_string();
    let usual = ["/usr/bin", "/bin", "/usr/local/bin"];
    (!usual.contains(&directory.as_str())).then_some(directory)
}

/// The image's file and its hash, for copies on the nodes.
fn image_file(stored: &Stored) -> Option<(String, String)> {
    use sha2::Digest;
    let mut file = std::fs::File::open(&stored.path).ok()?;
    let mut hash = sha2::Sha256::new();
    std::io::copy(&mut file, &mut HashWriter(&mut hash)).ok()?;
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some((stored.path.to_str()?.to_string(), hex))
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        use sha2::Digest;
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Assembled {
    /// The path of the record, with sbatch's patterns.
    pub fn record_pattern(&self) -> String {
        format!(
            "{}.json",
            Script::output_stem(&self.script.name, self.script.array)
        )
    }

    pub fn output_pattern(&self) -> String {
        self.job
            .option("output")
            .and_then(|setting| setting.value.clone())
            .unwrap_or_default()
    }

    /// What `--array` says; empty for one job.
    pub fn array(&self) -> String {
        let setting = self.job.option("array");
        setting
            .and_then(|setting| setting.value.clone())
            .unwrap_or_default()
    }

    /// Where the job runs.
    pub fn directory(&self, here: &Path) -> PathBuf {
        match self
            .job
            .option("chdir")
            .and_then(|setting| setting.value.as_deref())
        {
            Some(directory) => here.join(directory),
            None => here.to_path_buf(),
        }
    }
}

#[cfg(test)]
mod tests;
