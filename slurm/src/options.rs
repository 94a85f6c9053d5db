//! The options of sbatch and srun by their long names, for Slurm 22.05 to 25.x.
//!
//! A job file may use any of them; a name that is not here is refused with the nearest one. Deliberately absent: what the
//! values mean; the form of those that every job has is in `values`. sbatch is asked about the rest before the job is
//! queued.

use crate::nearest::nearest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// `--hold`
    Flag,
    /// `--nodes=2`
    Value,
    /// `--exclusive` or `--exclusive=user`
    Optional,
}

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub name: &'static str,
    pub short: Option<char>,
    pub arity: Arity,
    pub sbatch: bool,
    pub srun: bool,
}

const fn row(name: &'static str, short: char, arity: Arity, sbatch: bool, srun: bool) -> Known {
    let short = if short == ' ' { None } else { Some(short) };
    Known {
        name,
        short,
        arity,
        sbatch,
        srun,
    }
}

use Arity::{Flag as F, Optional as O, Value as V};

/// Sorted by name; `wait` means two things. The columns: name, short form, arity, known to sbatch, known to srun.
#[rustfmt::skip]
pub static OPTIONS: &[Known] = &[
    row("accel-bind", ' ', V, false, true),
    row("account", 'A', V, true, true),
    row("acctg-freq", ' ', V, true, true),
    row("array", 'a', V, true, false),
    row("batch", ' ', V, true, false),
    row("bb", ' ', V, true, true),
    row("bbf", ' ', V, true, true),
    row("bcast", ' ', O, false, true),
    row("bcast-exclude", ' ', V, false, true),
    row("begin", 'b', V, true, true),
    row("chdir", 'D', V, true, true),
    row("cluster-constraint", ' ', V, true, true),
    row("clusters", 'M', V, true, true),
    row("comment", ' ', V, true, true),
    row("compress", ' ', O, false, true),
    row("consolidate-segments", ' ', F, true, true),
    row("constraint", 'C', V, true, true),
    row("contiguous", ' ', F, true, true),
    row("core-spec", 'S', V, true, true),
    row("cores-per-socket", ' ', V, true, true),
    row("cpu-bind", ' ', V, false, true),
    row("cpu-freq", ' ', V, true, true),
    row("cpus-per-gpu", ' ', V, true, true),
    row("cpus-per-task", 'c', V, true, true),
    row("deadline", ' ', V, true, true),
    row("delay-boot", ' ', V, true, true),
    row("dependency", 'd', V, true, true),
    row("disable-status", 'X', F, false, true),
    row("distribution", 'm', V, true, true),
    row("epilog", ' ', V, false, true),
    row("error", 'e', V, true, true),
    row("exact", ' ', F, false, true),
    row("exclude", 'x', V, true, true),
    row("exclusive", ' ', O, true, true),
    row("export", ' ', V, true, true),
    row("export-file", ' ', V, true, false),
    row("external", ' ', F, true, false),
    row("extra", ' ', V, true, true),
    row("extra-node-info", 'B', V, true, true),
    row("get-user-env", ' ', O, true, false),
    row("gid", ' ', V, true, true),
    row("gpu-bind", ' ', V, true, true),
    row("gpu-freq", ' ', V, true, true),
    row("gpus", 'G', V, true, true),
    row("gpus-per-node", ' ', V, true, true),
    row("gpus-per-socket", ' ', V, true, true),
    row("gpus-per-task", ' ', V, true, true),
    row("gres", ' ', V, true, true),
    row("gres-flags", ' ', V, true, true),
    row("het-group", ' ', V, false, true),
    row("hint", ' ', V, true, true),
    row("hold", 'H', F, true, true),
    row("ignore-pbs", ' ', F, true, false),
    row("immediate", 'I', O, false, true),
    row("input", 'i', V, true, true),
    row("job-name", 'J', V, true, true),
    row("kill-on-bad-exit", 'K', O, false, true),
    row("kill-on-invalid-dep", ' ', V, true, false),
    row("label", 'l', F, false, true),
    row("licenses", 'L', V, true, true),
    row("mail-type", ' ', V, true, true),
    row("mail-user", ' ', V, true, true),
    row("mcs-label", ' ', V, true, true),
    row("mem", ' ', V, true, true),
    row("mem-bind", ' ', V, true, true),
    row("mem-per-cpu", ' ', V, true, true),
    row("mem-per-gpu", ' ', V, true, true),
    row("mincpus", ' ', V, true, true),
    row("mpi", ' ', V, false, true),
    row("multi-prog", ' ', F, false, true),
    row("network", ' ', V, true, true),
    row("nice", ' ', O, true, true),
    row("no-kill", 'k', O, true, true),
    row("no-requeue", ' ', F, true, false),
    row("nodefile", 'F', V, true, true),
    row("nodelist", 'w', V, true, true),
    row("nodes", 'N', V, true, true),
    row("ntasks", 'n', V, true, true),
    row("ntasks-per-core", ' ', V, true, true),
    row("ntasks-per-gpu", ' ', V, true, true),
    row("ntasks-per-node", ' ', V, true, true),
    row("ntasks-per-socket", ' ', V, true, true),
    row("ntasks-per-tres", ' ', V, true, true),
    row("oom-kill-step", ' ', O, true, true),
    row("open-mode", ' ', V, true, true),
    row("output", 'o', V, true, true),
    row("overcommit", 'O', F, true, true),
    row("overlap", ' ', F, false, true),
    row("oversubscribe", 's', F, true, true),
    row("partition", 'p', V, true, true),
    row("power", ' ', V, true, true),
    row("prefer", ' ', V, true, true),
    row("preserve-env", 'E', F, false, true),
    row("priority", ' ', V, true, true),
    row("profile", ' ', V, true, true),
    row("prolog", ' ', V, false, true),
    row("propagate", ' ', O, true, true),
    row("qos", 'q', V, true, true),
    row("quit-on-interrupt", ' ', F, false, true),
    row("reboot", ' ', F, true, true),
    row("relative", 'r', V, false, true),
    row("requeue", ' ', F, true, false),
    row("reservation", ' ', V, true, true),
    row("resv-ports", ' ', O, true, true),
    row("segment", ' ', V, true, true),
    row("send-libs", ' ', O, false, true),
    row("signal", ' ', V, true, true),
    row("slurmd-debug", ' ', V, false, true),
    row("sockets-per-node", ' ', V, true, true),
    row("spread-job", ' ', F, true, true),
    row("spread-segments", ' ', F, true, true),
    row("stepmgr", ' ', F, true, true),
    row("switches", ' ', V, true, true),
    row("task-epilog", ' ', V, false, true),
    row("task-prolog", ' ', V, false, true),
    row("thread-spec", ' ', V, true, true),
    row("threads", 'T', V, false, true),
    row("threads-per-core", ' ', V, true, true),
    row("time", 't', V, true, true),
    row("time-min", ' ', V, true, true),
    row("tmp", ' ', V, true, true),
    row("tree-width", ' ', V, false, true),
    row("treewidth", ' ', V, false, true),
    row("tres-bind", ' ', V, true, true),
    row("tres-per-job", ' ', V, true, true),
    row("tres-per-task", ' ', V, true, true),
    row("uid", ' ', V, true, true),
    row("unbuffered", 'u', F, false, true),
    row("use-min-nodes", ' ', F, true, true),
    row("wait", 'W', F, true, false),
    row("wait", 'W', V, false, true),
    row("wait-all-nodes", ' ', V, true, false),
    row("wait-for-children", ' ', F, false, true),
    row("wckey", ' ', V, true, true),
];

/// Options of sbatch or srun that have no place in a job file, and why.
static REFUSED: &[(&str, &str)] = &[
    ("bcast", "the image is broadcast with `image-on = \"node\"`"),
    ("container", "the image is named in `[container]`"),
    ("container-id", "the image is named in `[container]`"),
    ("help", "it only prints"),
    ("jobid", "steps belong to this job"),
    ("parsable", "carrack prints the job's number itself"),
    (
        "pty",
        "a job has no terminal; use `carrack shell` or `srun --pty`",
    ),
    ("quiet", "use `carrack submit -q`"),
    ("test-only", "use `carrack submit --dry-run`"),
    ("usage", "it only prints"),
    ("verbose", "use `carrack submit -v`"),
    ("version", "it only prints"),
    ("wrap", "commands go into `[[step]]`"),
];

/// Which command an option is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Sbatch,
    Srun,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Command::Sbatch => "sbatch",
            Command::Srun => "srun",
        }
    }

    fn takes(self, option: &Known) -> bool {
        match self {
            Command::Sbatch => option.sbatch,
            Command::Srun => option.srun,
        }
    }
}

/// Why a name is no option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It exists, but not in a job file.
    Refused(&'static str),
    /// It belongs to the other command.
    Other(Command),
    /// No such option; perhaps this one was meant.
    Nearest(Option<&'static str>),
}

/// Finds an option by its long name, written with `-` or `_`, in any case of letters.
pub fn find(name: &str, command: Command) -> Result<&'static Known, Unknown> {
    let name = name.replace('_', "-").to_ascii_lowercase();
    let name = match name.as_str() {
        // srun and sbatch have this one under two names.
        "share" => "oversubscribe",
        "workdir" if command == Command::Sbatch => "chdir",
        "name" => "job-name",
        other => other,
    };
    let mut named = OPTIONS.iter().filter(|option| option.name == name);
    if let Some(option) = named.clone().find(|option| command.takes(option)) {
        return Ok(option);
    }
    if named.next().is_some() {
        return Err(Unknown::Other(match command {
            Command::Sbatch => Command::Srun,
            Command::Srun => Command::Sbatch,
        }));
    }
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(Unknown::Refused(why));
    }
    let known = OPTIONS.iter().filter(|option| command.takes(option));
    Err(Unknown::Nearest(nearest(
        name,
        known.map(|option| option.name),
    )))
}

/// Finds an option of sbatch by its letter.
pub fn find_short(letter: char) -> Option<&'static Known> {
    OPTIONS
        .iter()
        .find(|option| option.sbatch && option.short == Some(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_letters_are_unique_and_sorted() {
        assert!(OPTIONS.is_sorted_by(|a, b| (a.name, a.srun) < (b.name, b.srun)));
        for command in [Command::Sbatch, Command::Srun] {
            let mut letters: Vec<char> = OPTIONS
                .iter()
                .filter(|option| command.takes(option))
                .filter_map(|option| option.short)
                .collect();
            letters.sort();
            let all = letters.len();
            letters.dedup();
            assert_eq!(letters.len(), all, "{command:?}");
        }
    }

    #[test]
    fn found_by_any_spelling() {
        for name in ["ntasks-per-node", "ntasks_per_node", "NTASKS-per_Node"] {
            assert_eq!(
                find(name, Command::Sbatch).map(|option| option.name),
                Ok("ntasks-per-node")
            );
        }
        assert_eq!(
            find("name", Command::Sbatch).map(|option| option.name),
            Ok("job-name")
        );
    }

    #[test]
    fn unknown_names_say_what_to_do() {
        assert_eq!(
            find("ntask", Command::Sbatch),
            Err(Unknown::Nearest(Some("ntasks")))
        );
        assert_eq!(
            find("walltime", Command::Sbatch),
            Err(Unknown::Nearest(None))
        );
        assert_eq!(
            find("mpi", Command::Sbatch),
            Err(Unknown::Other(Command::Srun))
        );
        assert_eq!(
            find("array", Command::Srun),
            Err(Unknown::Other(Command::Sbatch))
        );
        assert!(matches!(
            find("wrap", Command::Sbatch),
            Err(Unknown::Refused(_))
        ));
    }
}
