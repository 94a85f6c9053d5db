//! How a job ended and what it wrote last → what that is known to mean, in the words of the checks before the queue.
//!
//! Pure. One line for the most telling sign; silence when nothing is known.

use super::check::software::{FOR_GPUS, NEWER_NODES, NO_SECURITY, PSEC};
use std::time::Duration;

/// The end of a job, as its script knows it.
pub struct Ending<'a> {
    pub code: i32,
    /// Sooner than any work takes.
    pub at_once: bool,
    /// How many tasks the job was given.
    pub tasks: u64,
    /// Whether Slurm gave it GPUs.
    pub has_gpus: bool,
    /// The last that it wrote.
    pub tail: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    pub what: String,
    pub hint: String,
}

/// A job that ended sooner did not begin its work.
pub const AT_ONCE: Duration = Duration::from_secs(10);

/// Words of programs, in any case, and what they mean.
type Known = (&'static [&'static str], &'static str, &'static str);

/// The first that is found counts: causes before what follows from them.
const FAILURES: &[Known] = &[
    (
        &[
            "was not built with slurm's pmi support",
            "ompi was not built with slurm",
        ],
        "the image's Open MPI was started by srun with an interface that it does not speak",
        "write the `mpi` of the step that `carrack check` names, e.g. `mpi = \"pmix\"`",
    ),
    (
        &["usable \"srun\" command in its path"],
        "`mpirun` inside the image cannot start ranks on other nodes: there is no srun",
        "name the program itself, with `mpi = \"pmix\"`, or write `launcher = \"mpirun\"` for the nodes' own",
    ),
    (
        &["mca_psec_munge", "pmix_psec_base_select", "psec: munge"],
        NO_SECURITY,
        PSEC,
    ),
    (
        &[
            "cuda driver version is insufficient",
            "cuda_error_system_driver_mismatch",
            "unsupported display driver / cuda driver combination",
            "the nvidia driver on your system is too old",
        ],
        "the nodes' NVIDIA driver is too old for the image's CUDA",
        "choose nodes with a newer driver, or an image built for an older CUDA; `carrack doctor --gpu` on the node names its driver",
    ),
    (
        &["read -1, expected", "cma_read", "process_vm_readv failed"],
        "ranks of a node could not read each other's memory",
        "start all ranks of a node in one step; `carrack doctor --mpi` on the node says whether direct copies are allowed",
    ),
    (
        &["exec format error"],
        "the image or the program is for another processor architecture than the node's",
        "pull it with `--platform`, or choose another partition",
    ),
    (
        &["illegal instruction"],
        "the program is built for newer processors than the node's",
        NEWER_NODES,
    ),
];

/// Programs that see no GPU.
const NO_GPU: &[&str] = &[
    "no cuda-capable device is detected",
    "no cuda gpus are available",
    "no devices found",
    "no devices were found",
    "no hip gpus are available",
    "hiperrornodevice",
    "libcuda.so.1: cannot open shared object",
    "found no nvidia driver on your system",
];

/// What is known of such an end.
pub fn recognise(ending: &Ending<'_>) -> Option<Sign> {
    // Ranks that are alone end well, too.
    if let Some(sign) = alone(ending) {
        return Some(sign);
    }
    if ending.code == 0 {
        return None;
    }
    let tail = ending.tail.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| tail.contains(word));
    if let Some((_, what, hint)) = FAILURES.iter().find(|(words, ..)| has(words)) {
        return sign(*what, *hint);
    }
    if has(NO_GPU) {
        return match ending.has_gpus {
            false => sign(
                "the program wants a GPU, but the job asks for no GPU",
                FOR_GPUS,
            ),
            true => sign(
                "the program saw no GPU, although the job has some",
                "leave `gpu = \"none\"` out; `carrack doctor --gpu` in a step says what its node shows",
            ),
        };
    }
    if let Some(version) = newer_c_library(ending.tail) {
        return sign(
            format!("a library or program needs glibc {version}, which is newer than the image's"),
            format!(
                "use an image with glibc {version} or newer, or leave `mpi_inject` and mounts of the host's libraries out"
            ),
        );
    }
    // By its code alone: nobody wrote it down.
    if ending.code == 128 + 4 {
        let known = FAILURES.iter().find(|(_, _, hint)| *hint == NEWER_NODES)?;
        return sign(known.1, known.2);
    }
    if ending.at_once && tail.trim().is_empty() {
        return sign(
            format!(
                "the job ended within {} s with code {} and wrote nothing",
                AT_ONCE.as_secs(),
                ending.code
            ),
            "`carrack check` on its job file names what does not fit; `carrack doctor` in a step looks at the node",
        );
    }
    None
}

fn sign(what: impl Into<String>, hint: impl Into<String>) -> Option<Sign> {
    Some(Sign {
        what: what.into(),
        hint: hint.into(),
    })
}

/// Several tasks, each of which says that it is the only rank.
fn alone(ending: &Ending<'_>) -> Option<Sign> {
    let ranks = ending.tail.lines().filter_map(rank_of);
    let (mut single, mut others) = (0_u64, 0_u64);
    for (rank, size) in ranks {
        match (rank, size) {
            (0, 1) => single += 1,
            _ => others += 1,
        }
    }
    if ending.tasks < 2 || single < ending.tasks || others > 0 {
        return None;
    }
    sign(
        format!(
            "{} tasks each ran as rank 0 of 1: the image's MPI does not speak what srun offered",
            ending.tasks
        ),
        "write the `mpi` of the step that `carrack check` names, e.g. `mpi = \"pmix\"`, and the program without `mpirun`",
    )
}

/// `rank 0 of 4`, `processor 0/1`, `process 0 out of 1`: as programs greet.
fn rank_of(line: &str) -> Option<(u64, u64)> {
    let line = line.to_ascii_lowercase();
    let mut words = line
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .peekable();
    while let Some(word) = words.next() {
        if !matches!(word, "rank" | "process" | "processor" | "task" | "proc") {
            continue;
        }
        let Some(rank) = words.peek().and_then(|word| word.parse().ok()) else {
            continue;
        };
        words.next();
        while words
            .next_if(|word| matches!(*word, "of" | "out"))
            .is_some()
        {}
        if let Some(size) = words.peek().and_then(|word| word.parse().ok()) {
            return Some((rank, size));
        }
    }
    None
}

/// The version in the loader's complaint: version `GLIBC_2.38' not found.
fn newer_c_library(tail: &str) -> Option<&str> {
    let line = tail
        .lines()
        .find(|line| line.contains("version `GLIBC_") && line.contains("not found"))?;
    let rest = line.split("`GLIBC_").nth(1)?;
    let version = rest.split('\'').next()?;
    let plain = |c: char| c.is_ascii_digit() || c == '.';
    (!version.is_empty() && version.chars().all(plain)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_what_they_mean() {
        let ranks = |count: usize, line: &str| format!("{line}\n").repeat(count);
        let rows: &[(i32, u64, bool, &str, &str)] = &[
            (
                0,
                4,
                false,
                &ranks(4, "rank 0 of 1 on n1: right"),
                "4 tasks each ran",
            ),
            (
                0,
                4,
                false,
                &ranks(
                    4,
                    "Hello world from processor n1, rank 0 out of 1 processors",
                ),
                "mpi = \"pmix\"",
            ),
            (
                1,
                2,
                false,
                &ranks(2, "Process 0/1: bad grid"),
                "2 tasks each ran",
            ),
            (0, 4, false, &ranks(3, "rank 0 of 1"), ""),
            (0, 1, false, &ranks(1, "rank 0 of 1"), ""),
            (0, 2, false, "rank 0 of 2\nrank 1 of 2\n", ""),
            (0, 2, false, "rank 0 of 1\nrank 0 of 1\nrank 1 of 2\n", ""),
            (0, 2, false, &ranks(2, "rank 0 of 16"), ""),
            (
                1,
                1,
                true,
                "CUDA error: CUDA driver version is insufficient for CUDA runtime version",
                "too old for the image's CUDA",
            ),
            (1, 1, false, "No devices found", "`gpus-per-node = 1`"),
            (
                1,
                1,
                true,
                "RuntimeError: No CUDA GPUs are available",
                "although the job has some",
            ),
            (0, 1, false, "No devices found, using the processor", ""),
            (
                127,
                1,
                false,
                "a.out: error while loading shared libraries: libcuda.so.1: cannot open shared object file",
                "asks for no GPU",
            ),
            (
                1,
                2,
                false,
                "The application appears to have been direct launched using \"srun\",\nbut OMPI was not built with SLURM's PMI support",
                "does not speak",
            ),
            (
                1,
                2,
                false,
                "A requested component was not found\n  Component: mca_psec_munge",
                "PMIX_MCA_psec",
            ),
            (
                1,
                1,
                false,
                "x: /lib/libc.so.6: version `GLIBC_2.38' not found (required by x)",
                "glibc 2.38 or newer",
            ),
            (
                1,
                4,
                false,
                "The SLURM process starter for OpenMPI was unable to locate a\nusable \"srun\" command in its path.",
                "launcher = \"mpirun\"",
            ),
            (132, 1, false, "", "newer processors"),
            (
                1,
                1,
                false,
                "bash: line 1: Illegal instruction (core dumped)",
                "newer processors",
            ),
            (126, 1, false, "x: Exec format error", "--platform"),
            (
                1,
                2,
                false,
                "Read -1, expected 4096, errno = 1",
                "each other's memory",
            ),
            (1, 1, false, " \n", "wrote nothing"),
            (1, 1, false, "segmentation fault in my own code", ""),
            (0, 1, false, "", ""),
        ];
        for (code, tasks, has_gpus, tail, part) in rows {
            let ending = Ending {
                code: *code,
                at_once: true,
                tasks: *tasks,
                has_gpus: *has_gpus,
                tail,
            };
            let told = recognise(&ending).map(|sign| format!("{}; {}", sign.what, sign.hint));
            let told = told.unwrap_or_default();
            assert_eq!(told.is_empty(), part.is_empty(), "{tail}: {told}");
            assert!(told.contains(part), "{tail}: {told}");
        }
        let late = Ending {
            code: 1,
            at_once: false,
            tasks: 1,
            has_gpus: false,
            tail: "",
        };
        assert_eq!(recognise(&late), None);
    }
}
