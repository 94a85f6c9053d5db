//! What can be known before the queue: whether the job would fail for a reason that is visible from the login node.
//!
//! Each finding names the line of the job file. Deliberately absent: anything that only a compute node can tell.

pub mod contract;
mod inputs;
mod inside;
mod program;
pub mod software;

use super::assemble::{Assembled, CheckedStep, Options, is_unknown};
use super::queue;
use crate::elf::Version;
use crate::image::store::Stored;
use crate::launch::mounts::MountSpec;
use crate::launch::request::{EnvRule, Gpu, NetworkChoice, Tmp};
use crate::record::{Contents, ImageRecord};
use carrack_slurm::job::{Job, Run, Setting, StepLauncher};
use inside::Inside;
use program::command;
use software::{Case, Nodes, Told};
use std::collections::BTreeMap;
use std::path::Path;

/// Something that a person should know before the job waits for hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub weight: Weight,
    /// In the job file; 0 when no line is to blame.
    pub line: usize,
    pub what: String,
    pub hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Perhaps meant so.
    Note,
    /// The job would fail, or each rank would run alone.
    Problem,
}

impl Weight {
    pub fn word(self) -> &'static str {
        match self {
            Weight::Note => "note",
            Weight::Problem => "problem",
        }
    }
}

fn problem(line: usize, what: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding {
        weight: Weight::Problem,
        line,
        what: what.into(),
        hint: hint.into(),
    }
}

fn note(line: usize, what: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding {
        weight: Weight::Note,
        ..problem(line, what, hint)
    }
}

/// What Slurm says of this cluster; empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    pub mpi_types: Vec<String>,
    pub mpi_default: Option<String>,
    pub architectures: Vec<String>,
    pub nodes: Nodes,
}

impl Cluster {
    /// `constraint` is the job's, `driver` what the site says of its GPU nodes.
    pub fn ask(
        partition: Option<&str>,
        constraint: Option<&str>,
        driver: Option<Version>,
    ) -> Cluster {
        let features = match constraint {
            Some(words) => words
                .split(|c: char| !c.is_ascii_alphanumeric() && !"_.-".contains(c))
                .map(str::to_string)
                .collect(),
            None => queue::features(partition).unwrap_or_default(),
        };
        Cluster {
            nodes: Nodes::of(driver, &features),
            mpi_types: queue::mpi_types().unwrap_or_default(),
            mpi_default: queue::mpi_default(),
            architectures: queue::architectures(partition).unwrap_or_default(),
        }
    }
}

/// Where Slurm says nothing: that nobody takes the silence for its consent.
pub fn not_asked() -> Option<Finding> {
    let why = match queue::is_there() {
        true if queue::answers() => return None,
        true => "Slurm does not answer",
        false => "there is no Slurm on this machine",
    };
    Some(note(
        0,
        format!("the cluster was not asked: {why}"),
        "its partitions, nodes and MPI types are looked at where `sinfo` works",
    ))
}

/// All findings, in the order of the file.
pub fn all(assembled: &Assembled, cluster: &Cluster, here: &Path) -> Vec<Finding> {
    let mut found = inputs::missing(&assembled.job, here);
    for step in &assembled.steps {
        if let Some((image, options)) = &step.container {
            mounts(options, here, &mut found);
            if let Some(stored) = &image.stored {
                let program = match &step.step.command {
                    Run::Words(words) => words.first().map(String::as_str),
                    _ => None,
                };
                let inside = Inside::look(stored, program);
                let record = &stored.record;
                found.extend(pair(&assembled.job, step, record, inside, options, cluster));
            }
            command(step, image, options, here, &mut found);
        }
        if let Some(setting) = step
            .step
            .options
            .iter()
            .find(|setting| setting.name == "mpi")
        {
            found.extend(known_mpi(setting, cluster));
        }
    }
    found.sort_by_key(|finding| finding.line);
    found.dedup();
    found
}

/// One step's image beside the cluster.
fn pair(
    job: &Job,
    step: &CheckedStep,
    record: &ImageRecord,
    inside: Inside,
    options: &Options,
    cluster: &Cluster,
) -> Vec<Finding> {
    let mut found = Vec::new();
    architecture(record, cluster, step.step.line, &mut found);
    found.extend(mpi(job, step, &record.contents, cluster));
    found.extend(gpus(job, step, &record.contents));
    let case = case(job, step, record, inside, options, cluster);
    let told = software::findings(&case).into_iter();
    found.extend(told.map(|told| told.at(step.step.line)));
    found
}

/// An image alone: what of it does not fit this cluster, whatever the job.
pub fn image(stored: &Stored, cluster: &Cluster) -> Vec<Finding> {
    let mut found = Vec::new();
    let record = &stored.record;
    let contents = &record.contents;
    architecture(record, cluster, 0, &mut found);
    let speaks = |kind: &&String| {
        let family = kind.split('_').next().unwrap_or_default();
        let mut words = contents.mpi.iter().flat_map(|mpi| &mpi.speaks);
        words.any(|word| word == family)
    };
    let mpi = cluster.mpi_types.iter().find(speaks);
    if mpi.is_none() && !contents.mpi.is_empty() && !cluster.mpi_types.is_empty() {
        let names: Vec<&str> = contents.mpi.iter().map(|mpi| mpi.name.as_str()).collect();
        found.push(problem(
            0,
            format!(
                "no `--mpi` of this cluster starts ranks of {}",
                names.join(", ")
            ),
            format!(
                "srun knows {}; within one node `mpirun` of the image works",
                cluster.mpi_types.join(", ")
            ),
        ));
    }
    let inside = Inside::look(stored, None);
    let case = Case {
        contents: contents.clone(),
        environment: pairs(&record.config.env).collect(),
        level: inside.level,
        pmix_security: inside.pmix_security,
        tasks: 2,
        nodes: 2,
        mpi: mpi.cloned(),
        asks_for_gpus: !contents.gpu.is_empty(),
        nodes_are: cluster.nodes.clone(),
        ..Case::default()
    };
    let told = software::findings(&case).into_iter();
    found.extend(told.map(|told| told.at(0)));
    found
}

impl Told {
    fn at(self, line: usize) -> Finding {
        Finding {
            weight: self.weight,
            line,
            what: self.what,
            hint: self.hint,
        }
    }
}

fn pairs(environment: &[String]) -> impl Iterator<Item = (String, String)> {
    let pairs = environment.iter().filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.into(), value.into()))
}

/// One step as the rules about software see it.
fn case(
    job: &Job,
    step: &CheckedStep,
    record: &ImageRecord,
    inside: Inside,
    options: &Options,
    cluster: &Cluster,
) -> Case {
    let request = &options.request;
    let mut environment: BTreeMap<String, String> = pairs(&record.config.env).collect();
    for rule in &request.environment {
        match rule {
            EnvRule::Set(name, value) => {
                let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
                environment.insert(name.into_owned(), value.into_owned());
            }
            EnvRule::Unset(name) => {
                environment.remove(name);
            }
            _ => {}
        }
    }
    let own = step.step.options.iter().find(|one| one.name == "mpi");
    let explicit = own.and_then(|setting| setting.value.clone());
    let no_ranks = explicit.as_deref() == Some("none");
    let by_default = || cluster.mpi_default.clone().unwrap_or_else(|| "none".into());
    let by_srun = step.step.launcher == StepLauncher::Srun;
    let nodes = number(&step.step.options, "nodes").or_else(|| number(&job.options, "nodes"));
    Case {
        contents: record.contents.clone(),
        environment,
        level: inside.level,
        pmix_security: inside.pmix_security,
        tasks: tasks(job, step),
        nodes: nodes.unwrap_or(1),
        no_ranks,
        mpi: by_srun.then(|| explicit.unwrap_or_else(by_default)),
        asks_for_gpus: asks_for_gpus(job, step).is_some(),
        hides_gpus: request.gpu == Some(Gpu::None),
        without_network: request.network == Some(NetworkChoice::None),
        private_tmp: request.tmp == Some(Tmp::Private),
        nodes_are: cluster.nodes.clone(),
    }
}

fn mounts(options: &Options, here: &Path, found: &mut Vec<Finding>) {
    for (mount, line) in options.request.mounts.iter().zip(&options.mount_lines) {
        if let MountSpec::Bind { from, .. } = mount
            && !here.join(from).exists()
            && !is_unknown(from)
        {
            found.push(problem(
                *line,
                format!(
                    "`{}`, which is to be mounted, does not exist here",
                    from.display()
                ),
                "if only the compute nodes have it, submit with `--force`",
            ));
        }
    }
}

fn architecture(record: &ImageRecord, cluster: &Cluster, line: usize, found: &mut Vec<Finding>) {
    let image = match record.platform.architecture.as_str() {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    if !image.is_empty()
        && !cluster.architectures.is_empty()
        && !cluster.architectures.iter().any(|known| known == image)
    {
        found.push(problem(
            line,
            format!(
                "the image is for {image}, the partition's nodes are {}",
                cluster.architectures.join(", ")
            ),
            "pull it with `--platform`, or choose another partition",
        ));
    }
}

fn known_mpi(setting: &Setting, cluster: &Cluster) -> Option<Finding> {
    let wanted = setting.value.as_deref()?;
    if cluster.mpi_types.is_empty() || cluster.mpi_types.iter().any(|known| known == wanted) {
        return None;
    }
    Some(problem(
        setting.line,
        format!("this cluster's srun knows no `--mpi={wanted}`"),
        format!("it knows {}", cluster.mpi_types.join(", ")),
    ))
}

/// The launch interface and the image's MPI must speak the same language, or each rank runs alone.
fn mpi(job: &Job, step: &CheckedStep, contents: &Contents, cluster: &Cluster) -> Option<Finding> {
    if step.step.launcher != StepLauncher::Srun || contents.mpi.is_empty() || tasks(job, step) < 2 {
        return None;
    }
    let setting = step
        .step
        .options
        .iter()
        .find(|setting| setting.name == "mpi");
    let explicit = setting.and_then(|setting| setting.value.clone());
    if explicit.as_deref() == Some("none") {
        return None;
    }
    let chosen = explicit
        .or_else(|| cluster.mpi_default.clone())
        .unwrap_or_else(|| "none".to_string());
    let family = chosen.split('_').next().unwrap_or_default();
    let mut speaks: Vec<&str> = contents
        .mpi
        .iter()
        .flat_map(|mpi| &mpi.speaks)
        .map(String::as_str)
        .collect();
    speaks.sort();
    speaks.dedup();
    if speaks.is_empty() || speaks.contains(&family) {
        return None;
    }
    let mpis: Vec<String> = contents
        .mpi
        .iter()
        .map(|mpi| format!("{} {}", mpi.name, mpi.version).trim().to_string())
        .collect();
    let works = speaks
        .iter()
        .find(|word| cluster.mpi_types.iter().any(|known| known == *word));
    // A line for a shell is more often one of many tasks on their own than a rank.
    let told = match (&step.step.command, setting) {
        (Run::Shell(_), None) => note,
        _ => problem,
    };
    Some(told(
        setting.map_or(step.step.line, |setting| setting.line),
        format!(
            "step `{}` starts {} tasks with `mpi = \"{chosen}\"`, which {} in the image does not speak: each would run alone",
            step.step.name,
            tasks(job, step),
            mpis.join(", ")
        ),
        match works {
            Some(word) if setting.is_none() => {
                format!("write `mpi = \"{word}\"`, or `mpi = \"none\"` if its tasks are no ranks")
            }
            Some(word) => format!("write `mpi = \"{word}\"`"),
            None => format!(
                "it speaks {}, this cluster offers {}",
                speaks.join(", "),
                cluster.mpi_types.join(", ")
            ),
        },
    ))
}

/// How many tasks a step starts, as far as the options say.
fn tasks(job: &Job, step: &CheckedStep) -> u64 {
    let own = |name: &str| number(&step.step.options, name);
    let jobs = |name: &str| number(&job.options, name);
    if let Some(tasks) = own("ntasks") {
        return tasks;
    }
    let nodes = own("nodes").or_else(|| jobs("nodes")).unwrap_or(1);
    match own("ntasks-per-node") {
        Some(tasks) => tasks.saturating_mul(nodes),
        None => jobs("ntasks")
            .unwrap_or_else(|| jobs("ntasks-per-node").unwrap_or(1).saturating_mul(nodes)),
    }
}

fn number(settings: &[Setting], name: &str) -> Option<u64> {
    let setting = settings.iter().find(|setting| setting.name == name)?;
    // `2-4` nodes are at least two.
    setting.value.as_deref()?.split('-').next()?.parse().ok()
}

/// The option that asks for GPUs, if one does.
fn asks_for_gpus<'a>(job: &'a Job, step: &'a CheckedStep) -> Option<&'a Setting> {
    let asks = |setting: &&Setting| {
        let value = setting.value.as_ref();
        setting.name.starts_with("gpus")
            || (setting.name == "gres" && value.is_some_and(|value| value.contains("gpu")))
    };
    job.options
        .iter()
        .chain(job.components.iter().flatten())
        .chain(&step.step.options)
        .find(asks)
}

fn gpus(job: &Job, step: &CheckedStep, contents: &Contents) -> Option<Finding> {
    let asked = asks_for_gpus(job, step);
    match (asked, contents.gpu.first()) {
        (Some(setting), None) => Some(note(
            setting.line,
            format!(
                "step `{}` gets GPUs, but its image has neither CUDA nor ROCm",
                step.step.name
            ),
            "fine if the program brings its own",
        )),
        (None, Some(library)) => Some(note(
            step.step.line,
            format!(
                "the image of step `{}` has {} {}, but the job asks for no GPU",
                step.step.name, library.name, library.version
            ),
            software::FOR_GPUS,
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Library;
    use carrack_slurm::job::Job;

    pub(super) fn job(text: &str) -> Job {
        Job::parse(text).expect("it parses")
    }

    fn checked(job: &Job) -> CheckedStep {
        CheckedStep {
            step: job.steps[0].clone(),
            container: None,
        }
    }

    fn contents(speaks: &[&str], gpu: bool) -> Contents {
        let library = |name: &str| Library {
            name: name.to_string(),
            speaks: speaks.iter().map(|word| word.to_string()).collect(),
            ..Library::default()
        };
        Contents {
            mpi: vec![library("openmpi")],
            gpu: if gpu { vec![library("cuda")] } else { vec![] },
            ..Contents::default()
        }
    }

    #[test]
    fn the_wrong_pair_of_mpi_and_launcher_is_told_with_the_right_one() {
        let cluster = Cluster {
            mpi_types: ["pmix", "pmi2", "none"].map(str::to_string).to_vec(),
            mpi_default: Some("none".to_string()),
            ..Cluster::default()
        };
        let unset = Some("write `mpi = \"pmix\"`, or `mpi = \"none\"` if its tasks are no ranks");
        let rows = [
            ("ntasks=4\nmpi='pmix'", None),
            ("ntasks=4\nmpi='pmix_v4'", None),
            ("ntasks=4\nmpi='pmi2'", Some("write `mpi = \"pmix\"`")),
            ("ntasks=4", unset),
            ("ntasks=4\nmpi='none'", None),
            ("ntasks=1", None),
            ("nodes=2", unset),
            ("launcher='none'", None),
        ];
        for (step, hint) in rows {
            let job = job(&format!(
                "[container]\nimage='a'\n[[step]]\ncommand=['x']\n{step}\n"
            ));
            let found = mpi(&job, &checked(&job), &contents(&["pmix"], false), &cluster);
            assert_eq!(found.map(|finding| finding.hint).as_deref(), hint, "{step}");
        }
    }

    #[test]
    fn tasks_come_from_the_step_or_the_job() {
        let rows = [
            ("", "", 1),
            ("nodes=3\nntasks-per-node=2", "", 6),
            ("nodes=3\nntasks-per-node=2", "ntasks=1", 1),
            ("nodes='2-4'", "ntasks-per-node=5", 10),
            ("ntasks=8", "", 8),
        ];
        for (options, step, expected) in rows {
            let job = job(&format!(
                "[job]\n{options}\n[container]\nimage='a'\n[[step]]\ncommand=['x']\n{step}\n"
            ));
            assert_eq!(tasks(&job, &checked(&job)), expected, "{options} {step}");
        }
    }

    #[test]
    fn gpus_without_software_and_software_without_gpus() {
        let rows = [
            ("gpus-per-node=1", true, None),
            ("gpus-per-node=1", false, Some(2)),
            ("gres='gpu:1'", false, Some(2)),
            ("nodes=1", true, Some(6)),
            ("nodes=1", false, None),
        ];
        for (option, software, line) in rows {
            let job = job(&format!(
                "[job]\n{option}\n[container]\nimage='a'\n[[step]]\ncommand=['x']\n"
            ));
            let found = gpus(&job, &checked(&job), &contents(&[], software));
            assert_eq!(
                found.map(|finding| finding.line),
                line,
                "{option} {software}"
            );
        }
    }

    #[test]
    fn an_mpi_type_that_the_cluster_lacks() {
        let cluster = Cluster {
            mpi_types: vec!["none".to_string()],
            ..Cluster::default()
        };
        let setting = Setting {
            name: "mpi",
            value: Some("pmix".to_string()),
            line: 4,
        };
        assert_eq!(
            known_mpi(&setting, &cluster).map(|finding| finding.line),
            Some(4)
        );
        assert_eq!(known_mpi(&setting, &Cluster::default()), None);
    }
}
