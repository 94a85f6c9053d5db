//! The words of `carrack submit`: sbatch's options, srun's, the launcher's and a few of its own, in any order.
//!
//! Short letters are sbatch's, because people know them by heart; the launcher's options go by their long names. Where
//! both have one (`--network`, `--profile`, `--tmp`) it is the launcher's. Deliberately absent: what any of them does.

use crate::config::nearest;
use crate::error::{Error, Result};
use crate::launch::options::{OPTIONS, OptionSpec, Shape};
use carrack_slurm::job::Setting;
use carrack_slurm::options::{self, Arity, Command, Known, Unknown};
use carrack_slurm::values;
use std::path::PathBuf;

/// What was asked for, sorted by whom it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Prepare everything, submit nothing.
    pub dry_run: bool,
    /// Go on in spite of what the checks found.
    pub force: bool,
    /// Run here, without Slurm.
    pub local: bool,
    pub json: bool,
    pub quiet: bool,
    pub verbose: bool,
    /// Ask the registry whether a tag has moved, even if the image is in the store.
    pub refresh: bool,
    pub store: Option<PathBuf>,
    pub sbatch: Vec<Setting>,
    pub srun: Vec<Setting>,
    /// The launcher's, by the flag's name; the value is as a flag would have it.
    pub container: Vec<(String, String)>,
    pub files: Vec<PathBuf>,
    pub image: Option<String>,
    pub command: Vec<String>,
}

/// The verbs' own flags, without values.
const OWN: &[&str] = &[
    "dry-run", "force", "local", "json", "quiet", "verbose", "refresh",
];

impl Words {
    pub fn parse(words: &[String]) -> Result<Words> {
        let mut found = Words::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                found.command.extend(rest.by_ref().cloned());
            } else if let Some(long) = word.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_string())),
                    None => (long, None),
                };
                let mut next = || rest.next().cloned();
                found.long(name, value, &mut next)?;
            } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
                let mut next = || rest.next().cloned();
                found.short(short, &mut next)?;
            } else if is_job_file(word) {
                found.files.push(PathBuf::from(word));
            } else {
                found.image = Some(word.clone());
                // As with docker: after the image every word is the command's.
                let mut command: Vec<String> = rest.by_ref().cloned().collect();
                if command.first().is_some_and(|first| first == "--") {
                    command.remove(0);
                }
                found.command.extend(command);
            }
        }
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> Result<()> {
        let usage = "usage: `carrack submit job.toml`, or `carrack submit -N 2 IMAGE -- ./program argument`";
        let swallowed = self
            .sbatch
            .iter()
            .find(|setting| setting.value.as_deref().is_some_and(is_job_file));
        match (self.files.is_empty(), &self.image) {
            (true, None) if swallowed.is_some() => {
                let setting = swallowed.map(Setting::argument).unwrap_or_default();
                Err(Error::usage(format!("the job file was taken as `{setting}`"))
                    .hint("short options are sbatch's here: `-q` is its `--qos`, `-v` needs `--verbose`"))
            }
            (true, None) => {
                Err(Error::usage("neither a job file nor an image was named").hint(usage))
            }
            (false, Some(image)) => Err(Error::usage(format!(
                "both a job file and the image `{image}` were named"
            ))
            .hint(usage)),
            (false, None) if !self.command.is_empty() => {
                Err(Error::usage("a job file has its own commands; none can follow it").hint(usage))
            }
            _ => Ok(()),
        }
    }

    fn long(
        &mut self,
        name: &str,
        value: Option<String>,
        next: &mut dyn FnMut() -> Option<String>,
    ) -> Result<()> {
        let missing = || Error::usage(format!("`--{name}` needs a value"));
        if OWN.contains(&name) {
            if value.is_some() {
                return Err(Error::usage(format!("`--{name}` takes no value")));
            }
            self.own(name);
            return Ok(());
        }
        if name == "store" {
            self.store = Some(PathBuf::from(value.or_else(next).ok_or_else(missing)?));
            return Ok(());
        }
        // sbatch's `--input` and `--output` are files; a port of an image has a value behind its name.
        let ports = matches!(name, "input" | "output");
        let value = match ports && value.is_none() {
            true => Some(next().ok_or_else(missing)?),
            false => value,
        };
        let file = ports && !value.as_deref().is_some_and(|value| value.contains('='));
        if let Some((option, off)) = launcher(name).filter(|_| !file) {
            // sbatch's `--tmp` is a size, the launcher's a word.
            let sizes = name == "tmp"
                && value
                    .as_deref()
                    .is_some_and(|size| size.starts_with(|c: char| c.is_ascii_digit()));
            if !sizes {
                let value = match (option.shape, value) {
                    (_, Some(value)) => value,
                    (Shape::Value(_), None) if !off => next().ok_or_else(missing)?,
                    _ => "true".to_string(),
                };
                self.container.push((name.to_string(), value));
                return Ok(());
            }
        }
        self.slurms(name, value, next)
    }

    /// An option of sbatch or srun.
    fn slurms(
        &mut self,
        name: &str,
        value: Option<String>,
        next: &mut dyn FnMut() -> Option<String>,
    ) -> Result<()> {
        match options::find(name, Command::Sbatch) {
            Ok(known) => {
                let setting = setting(known, value, next)?;
                self.sbatch.push(setting);
                Ok(())
            }
            Err(Unknown::Other(_)) => {
                let known = options::find(name, Command::Srun).map_err(|_| unknown(name))?;
                let setting = setting(known, value, next)?;
                self.srun.push(setting);
                Ok(())
            }
            Err(Unknown::Refused(why)) => {
                Err(Error::usage(format!("`--{name}` cannot be used here")).hint(why))
            }
            Err(Unknown::Nearest(_)) => Err(unknown(name)),
        }
    }

    fn short(&mut self, short: &str, next: &mut dyn FnMut() -> Option<String>) -> Result<()> {
        let mut letters = short.chars();
        let letter = letters.next().unwrap_or_default();
        let attached = letters.as_str();
        let Some(known) = options::find_short(letter) else {
            return Err(Error::usage(format!("unknown option `-{letter}`"))
                .hint("short options are sbatch's; the container's go by their long names"));
        };
        let value = (!attached.is_empty())
            .then(|| attached.strip_prefix('=').unwrap_or(attached).to_string());
        let setting = setting(known, value, next)?;
        if let Some(meant) = setting
            .value
            .as_deref()
            .and_then(|value| meant(letter, value))
        {
            return Err(
                Error::usage(format!("`-{letter}` is sbatch's `--{}` here", known.name))
                    .hint(meant)
                    .hint(format!("`{}` if sbatch's is meant", setting.argument())),
            );
        }
        self.sbatch.push(setting);
        Ok(())
    }

    fn own(&mut self, name: &str) {
        match name {
            "dry-run" => self.dry_run = true,
            "force" => self.force = true,
            "local" => self.local = true,
            "json" => self.json = true,
            "quiet" => self.quiet = true,
            "verbose" => self.verbose = true,
            _ => self.refresh = true,
        }
    }
}

/// The launcher's option that a letter of sbatch's was taken for: `carrack exec` has `-e NAME=VALUE` and `-w DIR`, where
/// sbatch has a file for errors and a list of nodes.
fn meant(letter: char, value: &str) -> Option<String> {
    let is_name = |name: &str| {
        !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
    };
    match (letter, value.split_once('=')) {
        ('e', Some((name, _))) if is_name(name) => Some(format!("a variable is `--env {value}`")),
        ('w', _) if value.contains('/') => Some(format!("a directory is `--workdir {value}`")),
        _ => None,
    }
}

fn is_job_file(word: &str) -> bool {
    word.ends_with(".toml") || word.ends_with(".json")
}

/// The launcher's option of this flag, and whether it is the flag that says the opposite.
fn launcher(name: &str) -> Option<(&'static OptionSpec, bool)> {
    let taken = |option: &&OptionSpec| option.name != "image";
    OPTIONS.iter().filter(taken).find_map(|option| {
        if option.name == name {
            Some((option, false))
        } else if option.off == Some(name) {
            Some((option, true))
        } else {
            None
        }
    })
}

fn setting(
    known: &'static Known,
    value: Option<String>,
    next: &mut dyn FnMut() -> Option<String>,
) -> Result<Setting> {
    let value = match (known.arity, value) {
        (Arity::Flag, Some(value)) => {
            return Err(Error::usage(format!(
                "`--{}` takes no value, but `{value}` was given",
                known.name
            )));
        }
        (Arity::Flag | Arity::Optional, value) => value,
        (Arity::Value, Some(value)) => Some(value),
        (Arity::Value, None) => {
            Some(next().ok_or_else(|| Error::usage(format!("`--{}` needs a value", known.name)))?)
        }
    };
    if value
        .as_ref()
        .is_some_and(|value| value.contains(['\n', '\r']))
    {
        return Err(Error::usage(format!(
            "`--{}` has a line break, which no #SBATCH line can hold",
            known.name
        )));
    }
    // A job file that was swallowed is told as such.
    if let Some(value) = value.as_ref().filter(|value| !is_job_file(value))
        && let Some(form) = values::mistaken(known.name, value)
    {
        return Err(Error::usage(format!(
            "`--{}` is {}, not `{value}`",
            known.name, form.what
        ))
        .hint(form.hint));
    }
    Ok(Setting {
        name: known.name,
        value,
        line: 0,
    })
}

fn unknown(name: &str) -> Error {
    let launchers = OPTIONS
        .iter()
        .flat_map(|option| [Some(option.name), option.off])
        .flatten();
    let slurms = options::OPTIONS.iter().map(|option| option.name);
    let error = Error::usage(format!("unknown option `--{name}`"));
    match nearest(name, launchers.chain(slurms).chain(OWN.iter().copied())) {
        // An option of `carrack exec` that is none here.
        Some("image") => error.hint("the image stands before its command: `IMAGE -- COMMAND`"),
        Some(near) => error.hint(format!("did you mean `--{near}`?")),
        None => error.hint("options of sbatch, srun and `carrack exec` are known here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Words> {
        let words: Vec<String> = text.split(' ').map(str::to_string).collect();
        Words::parse(&words)
    }

    fn arguments(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(Setting::argument).collect()
    }

    #[test]
    fn options_of_all_four_kinds() {
        let words = parse(
            "-N 2 --ntasks-per-node=2 -t30 --exclusive --mpi pmix --bind /a:/b --no-home --writable --dry-run --tmp=20G \
             alpine:3 -- ./app -x --bind y",
        )
        .expect("they parse");
        assert_eq!(
            arguments(&words.sbatch),
            [
                "--nodes=2",
                "--ntasks-per-node=2",
                "--time=30",
                "--exclusive",
                "--tmp=20G"
            ]
        );
        assert_eq!(arguments(&words.srun), ["--mpi=pmix"]);
        let container: Vec<(&str, &str)> = words
            .container
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            container,
            [("bind", "/a:/b"), ("no-home", "true"), ("writable", "true")]
        );
        assert!(words.dry_run && !words.force);
        assert_eq!(words.image.as_deref(), Some("alpine:3"));
        assert_eq!(words.command, ["./app", "-x", "--bind", "y"]);
    }

    #[test]
    fn letters_of_sbatch_keep_their_meaning() {
        let words = parse("-e err-%j.txt -w node[1-2] -e /logs/a=b.txt --error=A=b alpine");
        assert_eq!(
            arguments(&words.expect("they parse").sbatch),
            [
                "--error=err-%j.txt",
                "--nodelist=node[1-2]",
                "--error=/logs/a=b.txt",
                "--error=A=b"
            ]
        );
        let error = parse("-e A=b alpine").expect_err("a variable");
        assert_eq!(
            error.hints(),
            [
                "a variable is `--env A=b`",
                "`--error=A=b` if sbatch's is meant"
            ]
        );
    }

    #[test]
    fn files_of_the_job_and_ports_of_the_image() {
        let words = parse("--output log.txt --input 0=/data --output=copy=/out -o x img").unwrap();
        assert_eq!(arguments(&words.sbatch), ["--output=log.txt", "--output=x"]);
        let ports: Vec<&str> = words
            .container
            .iter()
            .map(|(_, port)| port.as_str())
            .collect();
        assert_eq!(ports, ["0=/data", "copy=/out"]);
    }

    #[test]
    fn a_job_file_with_changes() {
        let words = parse("prepare.toml -A proj wrf.toml --force").expect("they parse");
        assert_eq!(
            words.files,
            [PathBuf::from("prepare.toml"), PathBuf::from("wrf.toml")]
        );
        assert_eq!(arguments(&words.sbatch), ["--account=proj"]);
        assert!(words.force);
    }

    #[test]
    fn mistakes() {
        let rows = [
            ("-N 2", "neither a job file nor an image was named"),
            ("-q wrf.toml", "the job file was taken as `--qos=wrf.toml`"),
            ("--ndoes=2 alpine", "unknown option `--ndoes`"),
            ("--wrap=x alpine", "`--wrap` cannot be used here"),
            (
                "alpine.toml -- ls",
                "a job file has its own commands; none can follow it",
            ),
            ("-% alpine", "unknown option `-%`"),
            (
                "--hold=1 alpine",
                "`--hold` takes no value, but `1` was given",
            ),
            ("--nodes", "`--nodes` needs a value"),
            ("-e A=b alpine", "`-e` is sbatch's `--error` here"),
            ("-eA_1= alpine", "`-e` is sbatch's `--error` here"),
            ("-w /scratch alpine", "`-w` is sbatch's `--nodelist` here"),
            ("--dry-run=yes alpine", "`--dry-run` takes no value"),
            ("-N two alpine", "`--nodes` is a number of nodes, not `two`"),
            (
                "-n wrf.toml",
                "the job file was taken as `--ntasks=wrf.toml`",
            ),
        ];
        for (text, what) in rows {
            let error = parse(text).expect_err(text);
            assert_eq!(error.what(), what, "{text}");
        }
        let hints = parse("--image=alpine -- ls")
            .expect_err("no option")
            .hints()
            .to_vec();
        assert_eq!(
            hints,
            ["the image stands before its command: `IMAGE -- COMMAND`"]
        );
    }
}
