//! The image's software beside the cluster's: the pairs that are known not to work, each with what to write instead.
//!
//! Pure. What cannot be known from a login node is asked nothing about: silence means "nothing known against it".

use super::Weight;
use crate::elf::Version;
use crate::launch::cuda;
use crate::record::Contents;
use std::collections::BTreeMap;

/// One start of an image's program.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub contents: Contents,
    /// What the program will see of the image's and the job's variables.
    pub environment: BTreeMap<String, String>,
    /// The x86-64 level that the image's C library or program needs; 0 if not known.
    pub level: u8,
    /// Security components of the image's PMIx, `native`, `munge`, …; empty if it has none in files.
    pub pmix_security: Vec<String>,
    pub tasks: u64,
    pub nodes: u64,
    /// The interface that srun offers the ranks; absent when something else starts them.
    pub mpi: Option<String>,
    /// `mpi = "none"` was written: its tasks are no ranks.
    pub no_ranks: bool,
    pub asks_for_gpus: bool,
    pub hides_gpus: bool,
    pub without_network: bool,
    pub private_tmp: bool,
    pub nodes_are: Nodes,
}

/// What is known of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// The oldest NVIDIA driver.
    pub driver: Option<Version>,
    /// The lowest and the highest x86-64 level, each with the feature that told it.
    pub levels: Option<[(u8, String); 2]>,
}

impl Nodes {
    pub fn of(driver: Option<Version>, features: &[String]) -> Nodes {
        let known = features
            .iter()
            .filter_map(|word| Some((level_of(word)?, word.clone())));
        let (lowest, highest) = (known.clone().min(), known.max());
        Nodes {
            driver,
            levels: lowest
                .zip(highest)
                .map(|(lowest, highest)| [lowest, highest]),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub weight: Weight,
    pub what: String,
    pub hint: String,
}

/// What is said before the queue and again when it happened.
pub const NEWER_NODES: &str =
    "choose newer nodes (`partition`, `constraint`), or an image of an older distribution";
pub const NO_SECURITY: &str = "the image's PMIx lacks the security component `munge`, which Slurm offers first: each rank complains of it";
pub const PSEC: &str = "write `PMIX_MCA_psec = \"native\"` under [container.env]";
pub const FOR_GPUS: &str = "`gpus-per-node = 1` under `[job]` asks for one per node";

type Rule = fn(&Case) -> Option<Told>;

/// In the order in which they are told.
const RULES: &[Rule] = &[
    processor,
    intel_mpi,
    old_pmix,
    pmix_security,
    network,
    session_directory,
    single_copy,
    driver,
    c_library_of_the_driver,
    driver_parts,
    hidden_gpus,
];

/// All that is known against it.
pub fn findings(case: &Case) -> Vec<Told> {
    RULES.iter().filter_map(|rule| rule(case)).collect()
}

fn problem(what: impl Into<String>, hint: impl Into<String>) -> Option<Told> {
    Some(Told {
        weight: Weight::Problem,
        what: what.into(),
        hint: hint.into(),
    })
}

fn note(what: impl Into<String>, hint: impl Into<String>) -> Option<Told> {
    let told = problem(what, hint)?;
    Some(Told {
        weight: Weight::Note,
        ..told
    })
}

impl Case {
    fn has_mpi(&self, name: &str) -> bool {
        self.contents.mpi.iter().any(|mpi| mpi.name == name)
    }

    fn is_pmix(&self) -> bool {
        let mpi = self.mpi.as_deref().unwrap_or_default();
        mpi.starts_with("pmix") && self.tasks > 1
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    fn has_cuda(&self) -> bool {
        let mut libraries = self.contents.gpu.iter();
        libraries.any(|library| library.name == "cuda")
    }
}

fn processor(case: &Case) -> Option<Told> {
    let [(lowest, old), (highest, new)] = case.nodes_are.levels.as_ref()?;
    let built = format!("the image is built for x86-64-v{}", case.level);
    if case.level > *highest {
        return problem(
            format!("{built}, the nodes ({new}) are x86-64-v{highest}"),
            NEWER_NODES,
        );
    }
    if case.level > *lowest {
        return note(
            format!("{built}, and some of the nodes ({old}) are x86-64-v{lowest}"),
            format!("`constraint = \"{new}\"` keeps the job off the older ones"),
        );
    }
    None
}

fn intel_mpi(case: &Case) -> Option<Told> {
    let ranks = case.mpi.is_some() && !case.no_ranks && case.tasks > 1;
    if !ranks || !case.has_mpi("intel-mpi") || case.variable("I_MPI_PMI_LIBRARY").is_some() {
        return None;
    }
    let library = case.contents.pmi.iter().find(|pmi| pmi.name == "pmi2");
    let path = library.map_or("/path/to/libpmi2.so", |library| library.path.as_str());
    problem(
        "Intel MPI asks srun for its rank only through the library in `I_MPI_PMI_LIBRARY`, which is not set: each rank would run alone",
        format!("write `I_MPI_PMI_LIBRARY = \"{path}\"` under [container.env]"),
    )
}

fn old_pmix(case: &Case) -> Option<Told> {
    if !case.is_pmix() {
        return None;
    }
    let pmix = case.contents.pmi.iter().filter(|pmi| pmi.name == "pmix");
    let version = pmix.filter_map(|pmi| Version::parse(&pmi.version)).max()?;
    if version >= Version(vec![1, 2]) {
        return None;
    }
    problem(
        format!("the image's PMIx {version} cannot talk to Slurm's"),
        "rebuild the image with PMIx 2 or newer; within one node `mpirun` of the image works",
    )
}

fn pmix_security(case: &Case) -> Option<Told> {
    let knows = |name: &str| case.pmix_security.iter().any(|known| known == name);
    if !case.is_pmix()
        || case.pmix_security.is_empty()
        || knows("munge")
        || case.variable("PMIX_MCA_psec").is_some()
    {
        return None;
    }
    note(NO_SECURITY, PSEC)
}

fn network(case: &Case) -> Option<Told> {
    if !case.without_network {
        return None;
    }
    if case.nodes > 1 {
        return problem(
            format!(
                "`network = \"none\"`, but the step has {} nodes, which could not reach each other",
                case.nodes
            ),
            "leave `network` out, or use one node",
        );
    }
    if case.is_pmix() {
        return problem(
            "`network = \"none\"`, but PMIx's server is reached over the network",
            "leave `network` out, or write `mpi = \"pmi2\"` if the image's MPI speaks it",
        );
    }
    None
}

fn session_directory(case: &Case) -> Option<Told> {
    // Without srun, a host's mpirun starts the ranks; its daemons meet them in /tmp.
    if case.mpi.is_some() || !case.private_tmp || !case.has_mpi("openmpi") || case.tasks < 2 {
        return None;
    }
    note(
        "`tmp = \"private\"`, but a host's `mpirun` meets its ranks in the host's /tmp",
        "leave `tmp` out, or start the step with srun",
    )
}

fn single_copy(case: &Case) -> Option<Told> {
    const SWITCHES: &[(&str, &str)] = &[
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
        ("OMPI_MCA_btl_sm_single_copy_mechanism", "none"),
        ("MPIR_CVAR_CH4_CMA_ENABLE", "0"),
        ("MV2_SMP_USE_CMA", "0"),
    ];
    let off = SWITCHES
        .iter()
        .find(|(name, value)| case.variable(name) == Some(*value));
    let lists = case.variable("UCX_TLS").is_some_and(|list| {
        let has = |names: &[&str]| list.split(',').any(|word| names.contains(&word));
        has(&["posix", "sysv"]) && !has(&["cma", "sm", "shm", "all"])
    });
    let name = match off {
        Some((name, _)) => *name,
        None if lists => "UCX_TLS",
        None => return None,
    };
    if case.tasks < 2 {
        return None;
    }
    note(
        format!(
            "`{name}` switches off direct copies between ranks of a node, which work here: large messages get slower"
        ),
        format!("remove it: write `{name} = \"\"` under [container.env]"),
    )
}

fn driver(case: &Case) -> Option<Told> {
    if !case.asks_for_gpus {
        return None;
    }
    let variable = |name: &str| case.variable(name).map(str::to_string);
    let driver = case.nodes_are.driver.as_ref()?;
    let found = cuda::mismatch(driver, &case.contents, &variable)?;
    problem(found.what, found.hint)
}

fn c_library_of_the_driver(case: &Case) -> Option<Told> {
    let libc = case.contents.libc.as_ref();
    let musl = libc.is_some_and(|libc| libc.kind == "musl");
    let nvidia = case.has_cuda() || case.variable("NVIDIA_REQUIRE_CUDA").is_some();
    if !musl || !nvidia || !case.asks_for_gpus {
        return None;
    }
    problem(
        "NVIDIA's driver needs glibc, and the image has musl: CUDA programs will not find a GPU",
        "build the image on a distribution with glibc (Debian, Ubuntu, Rocky)",
    )
}

fn driver_parts(case: &Case) -> Option<Told> {
    let words = case.variable("NVIDIA_DRIVER_CAPABILITIES")?;
    let mut list = words.split(',').map(str::trim);
    let compute = words.is_empty() || list.any(|word| matches!(word, "compute" | "all"));
    if compute || !case.has_cuda() || !case.asks_for_gpus {
        return None;
    }
    problem(
        format!(
            "`NVIDIA_DRIVER_CAPABILITIES={words}` leaves libcuda out, which CUDA programs need"
        ),
        "write `NVIDIA_DRIVER_CAPABILITIES = \"compute,utility\"` under [container.env]",
    )
}

fn hidden_gpus(case: &Case) -> Option<Told> {
    if !case.asks_for_gpus || !case.hides_gpus {
        return None;
    }
    note(
        "the job asks for GPUs, and `gpu = \"none\"` hides them from the image",
        "leave `gpu` out, or ask for no GPUs",
    )
}

/// The x86-64 level that a node's feature word stands for.
pub fn level_of(feature: &str) -> Option<u8> {
    const WORDS: [&str; 4] = [
        "core2 k10 x86-64-v1",
        "nehalem westmere sandybridge ivybridge bulldozer x86-64-v2",
        "haswell broadwell naples rome milan zen zen1 zen2 zen3 x86-64-v3",
        "skylake skx cascadelake clx cooperlake icelake icx sapphirerapids spr emeraldrapids graniterapids genoa bergamo \
         turin zen4 zen5 x86-64-v4",
    ];
    let plain: String = feature
        .to_ascii_lowercase()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect();
    let place = WORDS
        .iter()
        .position(|names| names.split(' ').any(|name| name == plain))?;
    u8::try_from(place + 1).ok()
}

#[cfg(test)]
#[path = "software_tests.rs"]
mod tests;
