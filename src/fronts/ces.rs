//! The Container Execution Service of a safe haven: `ces-pull`, `ces-run`, `ces-gpu-run`, in their old and new forms.

use super::docker::{Rules, Translated};
use super::{Flag, Takes, Word, docker, lines_of_words, option, read};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

const FLAGS: &[Flag] = &[
    flag("cores", 'c', Takes::Value),
    flag("memory", 'm', Takes::Value),
    flag("name", 'n', Takes::Value),
    flag("gpu", ' ', Takes::Nothing),
    flag("env-file", ' ', Takes::Value),
    flag("opt-file", ' ', Takes::Value),
    flag("arg-file", ' ', Takes::Value),
    flag("dry-run", ' ', Takes::Nothing),
    flag("no-slurm", ' ', Takes::Nothing),
    flag("verbose", 'v', Takes::Nothing),
    flag("version", ' ', Takes::Nothing),
    flag("help", 'h', Takes::Nothing),
];

const fn flag(long: &'static str, short: char, takes: Takes) -> Flag {
    Flag { long, short, takes }
}

pub const RUN_HELP: &str = "Usage: ces-run [podman|apptainer|docker] [OPTIONS] IMAGE

Runs an image as a Slurm job under the rules of the safe haven, and waits for its end.

Options:
  -c, --cores N         Processors [default: the site's]
  -m, --memory N        Memory in GB [default: the site's, else 4]
  -n, --name NAME       Name of the job
      --gpu             With a GPU
      --env-file FILE   Variables, one NAME=VALUE per line
      --opt-file FILE   Options of `docker run`, one or more per line
      --arg-file FILE   Arguments of the image's command, one or more per line
      --dry-run         Print the job script, run nothing
      --no-slurm        Run on this machine, under the same rules
  -v, --verbose         Say more
      --version         Print the version
  -h, --help            Print this
";

pub const PULL_HELP: &str = "Usage: ces-pull [podman|apptainer|docker] USER TOKEN IMAGE

Brings an image into the store. `\"\" \"\"` as user and token: a public image.
Better: `carrack login ghcr.io -u USER --password-stdin` once, then `carrack pull IMAGE`.
";

/// What `ces-run` was told, before its files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub image: String,
    cores: Option<String>,
    memory: Option<String>,
    name: Option<String>,
    gpu: bool,
    pub env_file: Option<PathBuf>,
    pub opt_file: Option<PathBuf>,
    pub arg_file: Option<PathBuf>,
    pub dry_run: bool,
    no_slurm: bool,
    verbose: bool,
}

/// A word for the program itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<T> {
    Help,
    Version,
    This(T),
}

/// What the files of a command line say; process substitutions are read as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Variables that are read now because their file will not be there later, else its absolute path.
    pub environment: Environment,
    pub options: String,
    pub arguments: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Environment {
    #[default]
    None,
    Text(String),
    File(PathBuf),
}

/// The runtimes that CES offers. All are one here.
const RUNTIMES: &[&str] = &["podman", "apptainer", "docker"];

/// Takes the runtime's name away, if there is one.
fn without_runtime(mut plain: Vec<String>, needed: usize) -> Result<Vec<String>> {
    if plain.len() <= needed {
        return Ok(plain);
    }
    let first = plain.remove(0);
    match first.as_str() {
        "k8s" => Err(Error::usage("the runtime `k8s` is not offered")
            .cause("images run as Slurm jobs here; leave the runtime out")),
        known if RUNTIMES.contains(&known) => Ok(plain),
        other => Err(Error::usage(format!("there is no runtime `{other}`"))
            .hint("`podman`, `apptainer` and `docker` are accepted and mean the same here")),
    }
}

/// Reads the words of `ces-run` (with `gpu`: of `ces-gpu-run`).
pub fn run(words: &[String], gpu: bool) -> Result<Asked<Run>> {
    let mut run = Run {
        gpu,
        ..Run::default()
    };
    let mut plain = Vec::new();
    for word in read(words, FLAGS, false)? {
        let (name, value) = match word {
            Word::Flag(name, value) => (name, value),
            Word::Plain(word) => {
                plain.push(word);
                continue;
            }
            Word::Rest(rest) => {
                plain.extend(rest);
                continue;
            }
        };
        let path = || value.as_ref().map(PathBuf::from);
        match name {
            "help" => return Ok(Asked::Help),
            "version" => return Ok(Asked::Version),
            "gpu" => run.gpu = true,
            "dry-run" => run.dry_run = true,
            "no-slurm" => run.no_slurm = true,
            "verbose" => run.verbose = true,
            "env-file" => run.env_file = path(),
            "opt-file" => run.opt_file = path(),
            "arg-file" => run.arg_file = path(),
            "cores" => run.cores = Some(whole("--cores", value)?),
            "memory" => run.memory = Some(whole("--memory", value)?),
            _ => run.name = value,
        }
    }
    let mut plain = without_runtime(plain, 1)?.into_iter();
    match (plain.next(), plain.next()) {
        (Some(image), None) if !image.is_empty() => run.image = image,
        (Some(_), Some(more)) => {
            return Err(
                Error::usage(format!("`{more}` is one word too many after the image"))
                    .hint("arguments of the image's command go into a file: `--arg-file FILE`"),
            );
        }
        _ => {
            return Err(Error::usage("no image was named")
                .hint("for example `ces-run ghcr.io/NAMESPACE/NAME:TAG`"));
        }
    }
    Ok(Asked::This(run))
}

fn whole(name: &str, value: Option<String>) -> Result<String> {
    let value = value.unwrap_or_default();
    match value.parse::<u32>() {
        Ok(number) if number > 0 => Ok(number.to_string()),
        _ => Err(Error::usage(format!(
            "`{name}` takes a whole number, not `{value}`"
        ))),
    }
}

impl Run {
    /// The words of `carrack submit`, and what is to be told.
    pub fn submit(
        &self,
        files: &Files,
        profile: &str,
        here: &Path,
        rules: Rules,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let in_file = |path: &Option<PathBuf>| {
            let path = path.clone().unwrap_or_default();
            move |error: Error| {
                error.while_doing(format!("cannot use the file `{}`", path.display()))
            }
        };
        let Translated {
            job,
            container,
            notices,
        } = docker::options(&files.options, here, rules).map_err(in_file(&self.opt_file))?;
        let arguments = lines_of_words(&files.arguments).map_err(in_file(&self.arg_file))?;
        let mut words = vec![option("profile", profile)];
        words.extend(job);
        let mut add = |name: &str, value: &Option<String>, unit: &str| {
            words.extend(
                value
                    .iter()
                    .map(|value| option(name, &format!("{value}{unit}"))),
            );
        };
        add("cpus-per-task", &self.cores, "");
        add("mem", &self.memory, "G");
        add("job-name", &self.name, "");
        if self.gpu {
            words.extend([option("gres", "gpu:1"), option("gpu", "auto")]);
        }
        match &files.environment {
            Environment::None => {}
            Environment::File(path) => words.push(option("env-file", &path.display().to_string())),
            Environment::Text(text) => words.extend(
                text.lines()
                    .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
                    .map(|line| option("env", line)),
            ),
        }
        let replaced = container
            .iter()
            .any(|word| word.starts_with("--entrypoint="));
        words.extend(container);
        // Arguments belong to the image's entrypoint, as docker has it.
        if !arguments.is_empty() && !replaced {
            words.push("--entrypoint".to_string());
        }
        for (on, word) in [
            (self.no_slurm, "--local"),
            (self.dry_run, "--dry-run"),
            (self.verbose, "--verbose"),
        ] {
            words.extend(on.then(|| word.to_string()));
        }
        words.push(self.image.clone());
        if !arguments.is_empty() {
            words.push("--".to_string());
            words.extend(arguments);
        }
        Ok((words, notices))
    }
}

/// What `ces-pull` was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    pub user: String,
    pub token: String,
    pub image: String,
}

/// Reads the words of `ces-pull`.
pub fn pull(words: &[String]) -> Result<Asked<Pull>> {
    let flags: Vec<Flag> = FLAGS
        .iter()
        .filter(|flag| matches!(flag.long, "help" | "version" | "verbose"))
        .copied()
        .collect();
    let mut plain = Vec::new();
    for word in read(words, &flags, false)? {
        match word {
            Word::Flag("help", _) => return Ok(Asked::Help),
            Word::Flag("version", _) => return Ok(Asked::Version),
            Word::Flag(..) => {}
            Word::Plain(word) => plain.push(word),
            Word::Rest(rest) => plain.extend(rest),
        }
    }
    let plain = without_runtime(plain, 3)?;
    let [user, token, image] = plain.as_slice() else {
        return Err(Error::usage(format!(
            "user, token and image are needed, not {} words",
            plain.len()
        ))
        .hint("`ces-pull USER TOKEN ghcr.io/NAMESPACE/NAME:TAG`; `\"\" \"\"` for a public image"));
    };
    if user.is_empty() != token.is_empty() {
        return Err(Error::usage("user and token go together")
            .hint("give both, or `\"\" \"\"` for a public image"));
    }
    if image.is_empty() || image.starts_with('-') {
        return Err(Error::usage("no image was named"));
    }
    Ok(Asked::This(Pull {
        user: user.clone(),
        token: token.clone(),
        image: image.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        lines_of_words(line).unwrap()
    }

    fn files() -> Files {
        Files {
            environment: Environment::File("/here/vars".into()),
            options: "-e A=1\n".into(),
            arguments: "-d 10\n-n 'A B'\n".into(),
        }
    }

    fn shown(line: &str, files: &Files) -> String {
        let gpu = line.starts_with("ces-gpu-run");
        match run(&words(line)[1..], gpu) {
            Ok(Asked::This(run)) => {
                match run.submit(files, "ces", Path::new("/here"), Rules::default()) {
                    Ok((words, _)) => words.join(" "),
                    Err(error) => error.what().to_string(),
                }
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.what().to_string(),
        }
    }

    #[test]
    fn lines_of_ces() {
        let none = Files::default();
        for (line, expected) in [
            ("ces-run ghcr.io/n/a:1", "--profile=ces ghcr.io/n/a:1"),
            (
                "ces-gpu-run ghcr.io/n/a:1",
                "--profile=ces --gres=gpu:1 --gpu=auto ghcr.io/n/a:1",
            ),
            (
                "ces-run podman ghcr.io/n/a:1",
                "--profile=ces ghcr.io/n/a:1",
            ),
            (
                "ces-run apptainer -c 4 -m 8 -n job ghcr.io/n/a:1",
                "--profile=ces --cpus-per-task=4 --mem=8G --job-name=job ghcr.io/n/a:1",
            ),
            (
                "ces-run ghcr.io/n/a:1 --gpu --cores=2 --memory=16 --dry-run -v",
                "--profile=ces --cpus-per-task=2 --mem=16G --gres=gpu:1 --gpu=auto --dry-run --verbose ghcr.io/n/a:1",
            ),
            ("ces-run --version", "Version"),
            ("ces-run -h", "Help"),
            ("ces-run", "no image was named"),
            (
                "ces-run k8s ghcr.io/n/a:1",
                "the runtime `k8s` is not offered",
            ),
            ("ces-run lxc ghcr.io/n/a:1", "there is no runtime `lxc`"),
            (
                "ces-run podman a b",
                "`b` is one word too many after the image",
            ),
            ("ces-run -c x a", "`--cores` takes a whole number, not `x`"),
            ("ces-run -m 0 a", "`--memory` takes a whole number, not `0`"),
            ("ces-run --profile=hpc a", "unknown option `--profile`"),
            ("ces-run --bind=/etc a", "unknown option `--bind`"),
        ] {
            assert_eq!(shown(line, &none), expected, "{line}");
        }
    }

    #[test]
    fn files_of_ces() {
        assert_eq!(
            shown("ces-run a", &files()),
            "--profile=ces --env-file=/here/vars --env=A=1 --entrypoint a -- -d 10 -n A B"
        );
        let own = Files {
            environment: Environment::Text("# x\nA=b c\n\nD\n".into()),
            options: "--entrypoint sh".into(),
            arguments: "-c 'echo $A'".into(),
        };
        assert_eq!(
            shown("ces-run a", &own),
            "--profile=ces --env=A=b c --env=D --entrypoint=sh a -- -c echo $A"
        );
        let wrong = Files {
            options: "--pirvileged".into(),
            ..Files::default()
        };
        assert_eq!(
            shown("ces-run --opt-file o a", &wrong),
            "cannot use the file `o`"
        );
    }

    #[test]
    fn pulls() {
        for (line, expected) in [
            ("me tok ghcr.io/n/a:1", "me tok ghcr.io/n/a:1"),
            ("podman me tok ghcr.io/n/a:1", "me tok ghcr.io/n/a:1"),
            ("'' '' ghcr.io/n/a:1", "  ghcr.io/n/a:1"),
            (
                "ghcr.io/n/a:1",
                "user, token and image are needed, not 1 words",
            ),
            ("me '' a", "user and token go together"),
            ("k8s me tok a", "the runtime `k8s` is not offered"),
        ] {
            let shown = match pull(&words(line)) {
                Ok(Asked::This(pull)) => format!("{} {} {}", pull.user, pull.token, pull.image),
                Ok(other) => format!("{other:?}"),
                Err(error) => error.what().to_string(),
            };
            assert_eq!(shown, expected, "{line}");
        }
    }
}
