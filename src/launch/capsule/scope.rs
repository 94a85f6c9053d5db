//! Which job step this process belongs to: its place among the tasks on the node, and the process that outlives them all.

use super::super::step::Key;
use crate::sys::process;

/// The place of this task among those of the step on this node, from the first of these that is set: `mpirun`'s children
/// inherit the variables of the one Slurm task that started them.
const PLACES: [&str; 4] = [
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
    "PMI_LOCAL_RANK",
];

/// Looked up through `variable`, so that a table can stand for the environment.
pub fn place(variable: impl Fn(&str) -> Option<String>) -> Option<u32> {
    PLACES.iter().find_map(|name| variable(name)?.parse().ok())
}

/// The number of this step, at whose end Slurm kills all that began in it. A batch script's capsule lives as long as the job.
pub fn step(variable: impl Fn(&str) -> Option<String>) -> Option<u32> {
    let number = variable("SLURM_STEP_ID")?.parse().ok()?;
    // Above are the batch script, the extern step and their like.
    (variable("SLURM_JOB_ID").is_some() && number < FIRST_SPECIAL_STEP).then_some(number)
}

const FIRST_SPECIAL_STEP: u32 = 0xffff_fff0;

/// The name of this node for Slurm, which may run several of them on one machine.
pub fn node(variable: impl Fn(&str) -> Option<String>) -> String {
    variable("SLURMD_NODENAME")
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| {
            let names = rustix::system::uname();
            names.nodename().to_string_lossy().into_owned()
        })
}

/// The name of the rendezvous of a capsule on this node.
pub fn entry_name(key: &Key, node: &str) -> String {
    format!("{}.{}", key.file_name(), plain(node))
}

/// The name of a file beside it that holds what one task found out for all.
pub fn answer_name(job: &str, scope: &str, question: &str, node: &str) -> String {
    let key = Key {
        job: job.into(),
        scope: scope.into(),
        uid: 0,
        hash: format!("{ANSWER}{}", plain(question)),
    };
    entry_name(&key, node)
}

const ANSWER: &str = "answer-";

/// Whether an entry is no capsule but something that was found out.
pub fn is_answer(entry: &str) -> bool {
    let hash = entry.splitn(3, '.').nth(2);
    hash.is_some_and(|hash| hash.starts_with(ANSWER))
}

/// What the names of one step have in common.
pub fn prefix_of(entry: &str) -> String {
    entry
        .splitn(3, '.')
        .take(2)
        .fold(String::new(), |all, word| all + word + ".")
}

fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(64)
        .collect()
}

/// The process whose end is the end of the step: the nearest `slurmstepd` above us. A parent that cannot be looked at
/// belongs to somebody else (`/proc` may hide those), which above a task is Slurm. Without Slurm it is our parent.
pub fn guardian() -> Option<u32> {
    let parent = rustix::process::getppid()
        .and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok())
        .filter(|pid| *pid > 1)?;
    let mut pid = parent;
    for _ in 0..256 {
        let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else {
            return process::exists(pid).then_some(pid);
        };
        let Some((name, above)) = parse_stat(&stat) else {
            break;
        };
        if name == b"slurmstepd" {
            return Some(pid);
        }
        if above <= 1 {
            break;
        }
        pid = above;
    }
    Some(parent)
}

/// Name and parent from `/proc/PID/stat`; the name may hold anything, also parentheses.
fn parse_stat(stat: &[u8]) -> Option<(&[u8], u32)> {
    let open = stat.iter().position(|b| *b == b'(')?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let name = stat.get(open + 1..close)?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((name, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_stat_may_be_hostile() {
        for (stat, expected) in [
            ("7 (slurmstepd) S 1 7 7", Some((&b"slurmstepd"[..], 1))),
            ("7 (a) S 9) S 12 7", Some((&b"a) S 9"[..], 12))),
            ("7 () S 3 7", Some((&b""[..], 3))),
            ("7 (x", None),
            ("", None),
        ] {
            assert_eq!(parse_stat(stat.as_bytes()), expected, "{stat}");
        }
    }

    #[test]
    fn numbered_steps_end_by_themselves() {
        for (job, number, expected) in [
            (Some("7"), Some("3"), Some(3)),
            (Some("7"), Some("4294967291"), None),
            (Some("7"), Some("x"), None),
            (Some("7"), None, None),
            (None, Some("3"), None),
        ] {
            let variable = |name: &str| match name {
                "SLURM_JOB_ID" => job.map(str::to_string),
                _ => number.map(str::to_string),
            };
            assert_eq!(step(variable), expected, "{job:?} {number:?}");
        }
    }

    #[test]
    fn names_of_one_step_begin_alike() {
        let key = Key {
            job: "7".into(),
            scope: "0-1".into(),
            uid: 1,
            hash: "ab".into(),
        };
        let entry = entry_name(&key, "n1.site.eu");
        assert_eq!(entry, "7.0-1.ab.n1_site_eu");
        assert_eq!(prefix_of(&entry), "7.0-1.");
        let answer = answer_name("7", "0-1", "a/b", "n1");
        assert_eq!(answer, "7.0-1.answer-a_b.n1");
        assert_eq!(prefix_of(&answer), prefix_of(&entry));
    }

    #[test]
    fn the_inner_launcher_wins() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| value.to_string())
            }
        };
        assert_eq!(place(with(&[])), None);
        assert_eq!(place(with(&[("SLURM_LOCALID", "3")])), Some(3));
        assert_eq!(place(with(&[("SLURM_LOCALID", "x")])), None);
        let both = [("SLURM_LOCALID", "0"), ("OMPI_COMM_WORLD_LOCAL_RANK", "5")];
        assert_eq!(place(with(Box::leak(Box::new(both)))), Some(5));
    }
}
