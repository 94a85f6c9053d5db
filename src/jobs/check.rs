//! What can be known before the queue: whether the job would fail for a reason that is visible from the login node.
//!
//! Each finding names the line of the job file. Deliberately absent: anything that only a compute node can tell.

use super::assemble::{Assembled, CheckedStep, Options, Pinned};
use super::queue;
use crate::image::store::verify;
use crate::launch::mounts::MountSpec;
use crate::launch::request::{Entrypoint, EnvRule};
use crate::record::{Contents, ImageRecord};
use crate::squashfs::read::{Content, Image, Inode};
use carrack_slurm::job::{Job, Run, Setting, StepLauncher};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

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
}

impl Cluster {
    pub fn ask(job: &Job) -> Cluster {
        let partition = job
            .option("partition")
            .and_then(|setting| setting.value.clone());
        Cluster {
            mpi_types: queue::mpi_types().unwrap_or_default(),
            mpi_default: queue::mpi_default(),
            architectures: queue::architectures(partition.as_deref()).unwrap_or_default(),
        }
    }
}

/// All findings, in the order of the file.
pub fn all(assembled: &Assembled, cluster: &Cluster, here: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    for step in &assembled.steps {
        if let Some((image, options)) = &step.container {
            mounts(options, here, &mut found);
            if let Some(stored) = &image.stored {
                architecture(&stored.record, cluster, step.step.line, &mut found);
                found.extend(mpi(&assembled.job, step, &stored.record.contents, cluster));
                found.extend(gpus(&assembled.job, step, &stored.record.contents));
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

fn mounts(options: &Options, here: &Path, found: &mut Vec<Finding>) {
    for (mount, line) in options.request.mounts.iter().zip(&options.mount_lines) {
        if let MountSpec::Bind { from, .. } = mount
            && !here.join(from).exists()
            // A stand-in for a variable that only the job has.
            && !from.starts_with("/x")
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

fn gpus(job: &Job, step: &CheckedStep, contents: &Contents) -> Option<Finding> {
    let asks = |setting: &&Setting| {
        setting.name.starts_with("gpus")
            || (setting.name == "gres"
                && setting
                    .value
                    .as_ref()
                    .is_some_and(|value| value.contains("gpu")))
    };
    let asked = job
        .options
        .iter()
        .chain(job.components.iter().flatten())
        .chain(&step.step.options)
        .find(asks);
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
            "`gpus-per-node = 1` under `[job]` asks for one per node",
        )),
        _ => None,
    }
}

/// Whether a file can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Good,
    NotExecutable,
    Missing,
    /// It is on a part of the tree that only the node knows.
    Unknown,
}

fn command(
    step: &CheckedStep,
    image: &Pinned,
    options: &Options,
    here: &Path,
    found: &mut Vec<Finding>,
) {
    let Some(stored) = &image.stored else { return };
    let program = match &step.step.command {
        Run::Words(words) => words.first().cloned().unwrap_or_default(),
        Run::Shell(_) => "sh".to_string(),
        Run::Image => {
            if stored.record.config.entrypoint.is_empty() && stored.record.config.cmd.is_empty() {
                found.push(problem(
                    step.step.line,
                    format!(
                        "step `{}` has no command, and the image has no default one",
                        step.step.name
                    ),
                    "write `command = [\"./program\"]`",
                ));
            }
            return;
        }
    };
    if matches!(
        options.request.entrypoint,
        Some(Entrypoint::Image | Entrypoint::Replace(_))
    ) {
        return;
    }
    let Ok(tree) = verify::open(stored) else {
        return;
    };
    let view = View {
        image: &tree,
        options,
        here,
        path: search_path(&stored.record, options),
    };
    let finding = match view.find(&program) {
        Program::Good | Program::Unknown => return,
        Program::NotExecutable => problem(
            step.step.line,
            format!("`{program}` of step `{}` is not executable", step.step.name),
            "set its execute permission",
        ),
        Program::Missing if program.contains('/') => problem(
            step.step.line,
            format!(
                "`{program}` of step `{}` does not exist inside the image",
                step.step.name
            ),
            "if it is on a directory that is not mounted yet, add it to `mounts`; if an earlier step makes it, use `--force`",
        ),
        Program::Missing => problem(
            step.step.line,
            format!(
                "`{program}` of step `{}` is not in the image's PATH",
                step.step.name
            ),
            format!("looked in {}", view.path.join(":")),
        ),
    };
    found.push(finding);
}

fn search_path(record: &ImageRecord, options: &Options) -> Vec<String> {
    const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let set = options
        .request
        .environment
        .iter()
        .rev()
        .find_map(|rule| match rule {
            EnvRule::Set(name, value) if name == "PATH" => value.to_str().map(str::to_string),
            _ => None,
        });
    let images = || {
        record
            .config
            .env
            .iter()
            .find_map(|pair| pair.strip_prefix("PATH=").map(str::to_string))
    };
    let path = set.or_else(images).unwrap_or_else(|| USUAL.to_string());
    path.split(':')
        .filter(|part| part.starts_with('/'))
        .map(str::to_string)
        .collect()
}

/// The tree that a step will see, as far as it is known here: the image with the host's directories over it.
struct View<'a> {
    image: &'a Image,
    options: &'a Options,
    here: &'a Path,
    path: Vec<String>,
}

impl View<'_> {
    fn find(&self, program: &str) -> Program {
        if program.contains('/') {
            let start = match &self.options.request.workdir {
                Some(directory) => directory.as_path().to_path_buf(),
                None => self.here.to_path_buf(),
            };
            return self.look(&start.join(program));
        }
        let mut best = Program::Missing;
        for directory in &self.path {
            match self.look(&Path::new(directory).join(program)) {
                Program::Missing => {}
                Program::NotExecutable => best = Program::NotExecutable,
                good => return good,
            }
        }
        best
    }

    /// A path inside: from the host where something of the host is mounted, else from the image.
    fn look(&self, path: &Path) -> Program {
        let path = normal(path);
        let mounts = self.options.request.mounts.iter().rev();
        for mount in mounts {
            let Some(target) = mount.target() else {
                continue;
            };
            if let Ok(rest) = path.strip_prefix(target.as_path()) {
                return match mount {
                    MountSpec::Bind { from, .. } if from.starts_with("/x") => Program::Unknown,
                    MountSpec::Bind { from, .. } => on_host(&self.here.join(from).join(rest)),
                    MountSpec::Tmpfs { .. } => Program::Missing,
                    MountSpec::Omit { .. } => continue,
                };
            }
        }
        // The default mounts of the usual profile: home, the current directory, /tmp; others are the node's own.
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let shared = [Some(self.here.to_path_buf()), home];
        if shared
            .iter()
            .flatten()
            .any(|shared| path.starts_with(shared))
        {
            return on_host(&path);
        }
        if ["/tmp", "/dev", "/proc", "/sys"]
            .iter()
            .any(|own| path.starts_with(own))
        {
            return Program::Unknown;
        }
        in_image(self.image, &path)
    }
}

/// Takes `.` and `..` out without looking at links: good enough to say under which mount a path lies.
fn normal(path: &Path) -> PathBuf {
    let mut found = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                found.pop();
            }
            Component::Normal(name) => found.push(name),
            _ => {}
        }
    }
    found
}

fn on_host(path: &Path) -> Program {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
            Program::Good
        }
        Ok(_) => Program::NotExecutable,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Program::Missing,
        Err(_) => Program::Unknown,
    }
}

/// Follows links inside the image, as the kernel would with the image as root.
fn in_image(image: &Image, path: &Path) -> Program {
    // The kernel's own limit.
    let mut links = 40;
    let mut pending: Vec<Vec<u8>> = names(path.as_os_str().as_bytes());
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut inode = None;
    while let Some(name) = pending.pop() {
        if name == b".." {
            done.pop();
            continue;
        }
        done.push(name);
        let at: Vec<u8> = done
            .iter()
            .flat_map(|name| [b"/", name.as_slice()].concat())
            .collect();
        let Ok(Some(found)) = image.find(&at) else {
            return Program::Missing;
        };
        if let Some(target) = link(image, &found) {
            links -= 1;
            if links == 0 {
                return Program::Missing;
            }
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
                // What the host puts there is not the image's to tell.
                let target = Path::new(OsStr::from_bytes(&target));
                if ["/home", "/tmp", "/dev", "/proc", "/sys"]
                    .iter()
                    .any(|own| target.starts_with(own))
                {
                    return Program::Unknown;
                }
            }
            pending.extend(names(&target));
            continue;
        }
        inode = Some(found);
    }
    match inode {
        Some(inode) if matches!(inode.content, Content::File(_)) && inode.mode & 0o111 != 0 => {
            Program::Good
        }
        Some(_) => Program::NotExecutable,
        None => Program::Missing,
    }
}

fn link(image: &Image, inode: &Inode) -> Option<Vec<u8>> {
    matches!(inode.content, Content::Symlink { .. })
        .then(|| image.read_link(inode).ok())
        .flatten()
}

/// The names of a path, the first one last.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    names.map(<[u8]>::to_vec).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Library;
    use carrack_slurm::job::Job;

    fn job(text: &str) -> Job {
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

    #[test]
    fn paths_without_dots() {
        assert_eq!(normal(Path::new("/a/../b/./c")), Path::new("/b/c"));
        assert_eq!(normal(Path::new("/../../a")), Path::new("/a"));
    }
}
