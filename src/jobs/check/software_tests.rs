use super::super::{Cluster, Inside, Options, known_mpi, pair};
use super::*;
use crate::jobs::assemble::CheckedStep;
use crate::launch::options::apply;
use crate::launch::request::Origin;
use crate::record::{ImageRecord, Libc, Library};
use carrack_slurm::job::Job;

const OPEN_MPI: &str = "openmpi 4.1.4 pmix";
const MPICH: &str = "mpich 4.0.2 pmi2,pmi1";

/// One job, one image, one cluster.
struct Row {
    what: &'static str,
    job: &'static str,
    step: &'static str,
    /// Container options, as flags.
    options: &'static [(&'static str, &'static str)],
    /// `name version speaks`.
    libraries: &'static [&'static str],
    env: &'static [&'static str],
    libc: &'static str,
    level: u8,
    psec: &'static [&'static str],
    driver: &'static str,
    features: &'static [&'static str],
    architecture: &'static str,
    /// Part of the finding, and of its advice.
    expected: Option<(&'static str, &'static str)>,
}

const PLAIN: Row = Row {
    what: "",
    job: "",
    step: "",
    options: &[],
    libraries: &[],
    env: &[],
    libc: "glibc",
    level: 0,
    psec: &[],
    driver: "",
    features: &[],
    architecture: "amd64",
    expected: None,
};

fn judge(row: &Row) -> Vec<(String, String)> {
    let text = format!(
        "[job]\n{}\n[container]\nimage='a'\n[[step]]\ncommand=['x']\n{}\n",
        row.job, row.step
    );
    let job = Job::parse(&text).expect("it parses");
    let step = CheckedStep {
        step: job.steps[0].clone(),
        container: None,
    };
    let mut record = ImageRecord::default();
    record.platform.architecture = row.architecture.into();
    record.config.env = row.env.iter().map(|pair| pair.to_string()).collect();
    record.contents.libc = Some(Libc {
        kind: row.libc.into(),
        ..Libc::default()
    });
    for line in row.libraries {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default().to_string();
        let library = Library {
            name: word(),
            version: word(),
            speaks: word()
                .split(',')
                .filter(|one| !one.is_empty())
                .map(str::to_string)
                .collect(),
            path: "/usr/lib/libpmi2.so".into(),
            ..Library::default()
        };
        match library.name.as_str() {
            "pmix" | "pmi2" => record.contents.pmi.push(library),
            "cuda" | "cuda-compat" | "rocm" => record.contents.gpu.push(library),
            _ => record.contents.mpi.push(library),
        }
    }
    let mut options = Options::default();
    let pairs = row
        .options
        .iter()
        .map(|(name, value)| (*name, value.into()));
    apply(&mut options.request, &Origin::Flag, pairs).unwrap();
    let features: Vec<String> = row.features.iter().map(|word| word.to_string()).collect();
    let cluster = Cluster {
        mpi_types: ["none", "pmi2", "pmix", "pmix_v4"]
            .map(str::to_string)
            .to_vec(),
        mpi_default: Some("none".into()),
        architectures: vec!["x86_64".into()],
        nodes: Nodes::of(Version::parse(row.driver), &features),
    };
    let inside = Inside {
        level: row.level,
        pmix_security: row.psec.iter().map(|word| word.to_string()).collect(),
    };
    let mut found = pair(&job, &step, &record, inside, &options, &cluster);
    let settings = step.step.options.iter();
    found.extend(
        settings
            .filter(|one| one.name == "mpi")
            .filter_map(|one| known_mpi(one, &cluster)),
    );
    found
        .into_iter()
        .map(|finding| (finding.what, finding.hint))
        .collect()
}

const GPUS: &str = "gpus-per-node=1";
const PMIX: &str = "ntasks=4\nmpi='pmix'";

/// What users lose days with, told before the queue, each with what to write.
#[test]
fn known_bad_pairs() {
    let rows = [
        Row {
            what: "Open MPI without an interface",
            step: "ntasks=4",
            libraries: &[OPEN_MPI],
            expected: Some(("each would run alone", "`mpi = \"pmix\"`")),
            ..PLAIN
        },
        Row {
            what: "Open MPI with PMI-2",
            step: "ntasks=4\nmpi='pmi2'",
            libraries: &[OPEN_MPI],
            expected: Some(("does not speak", "`mpi = \"pmix\"`")),
            ..PLAIN
        },
        Row {
            what: "MPICH with PMIx",
            step: PMIX,
            libraries: &[MPICH],
            expected: Some((
                "mpich 4.0.2 in the image does not speak",
                "`mpi = \"pmi2\"`",
            )),
            ..PLAIN
        },
        Row {
            what: "an interface that srun lacks",
            step: "ntasks=4\nmpi='cray_shasta'",
            expected: Some(("knows no `--mpi=cray_shasta`", "pmix_v4")),
            ..PLAIN
        },
        Row {
            what: "Intel MPI without its library",
            step: "ntasks=4\nmpi='pmi2'",
            libraries: &["intel-mpi 2021.9 pmi2,pmi1", "pmi2  pmi2"],
            expected: Some(("`I_MPI_PMI_LIBRARY`", "\"/usr/lib/libpmi2.so\"")),
            ..PLAIN
        },
        Row {
            what: "PMIx 1.1",
            step: PMIX,
            libraries: &[OPEN_MPI, "pmix 1.1.5 pmix"],
            expected: Some(("PMIx 1.1.5 cannot talk", "PMIx 2 or newer")),
            ..PLAIN
        },
        Row {
            what: "PMIx without munge",
            step: PMIX,
            libraries: &[OPEN_MPI, "pmix 4.2.2 pmix"],
            psec: &["native"],
            expected: Some(("`munge`", "PMIX_MCA_psec = \"native\"")),
            ..PLAIN
        },
        Row {
            what: "no network, two nodes",
            job: "nodes=2",
            options: &[("network", "none")],
            expected: Some(("the step has 2 nodes", "leave `network` out")),
            ..PLAIN
        },
        Row {
            what: "no network, PMIx",
            step: PMIX,
            libraries: &[OPEN_MPI],
            options: &[("network", "none")],
            expected: Some(("PMIx's server", "`mpi = \"pmi2\"`")),
            ..PLAIN
        },
        Row {
            what: "another architecture",
            architecture: "arm64",
            expected: Some(("for aarch64", "--platform")),
            ..PLAIN
        },
        Row {
            what: "a distribution for newer processors",
            level: 3,
            features: &["ivybridge", "ib"],
            expected: Some((
                "x86-64-v3, the nodes (ivybridge) are x86-64-v2",
                "`constraint`",
            )),
            ..PLAIN
        },
        Row {
            what: "some nodes are too old",
            level: 3,
            features: &["IvyBridge", "zen4"],
            expected: Some(("some of the nodes (IvyBridge)", "`constraint = \"zen4\"`")),
            ..PLAIN
        },
        Row {
            what: "CUDA 12 on an old driver",
            job: GPUS,
            libraries: &["cuda 12.4.127"],
            driver: "470.82.01",
            expected: Some(("CUDA 12.4.127 needs driver 525", "CUDA 11.4 or older")),
            ..PLAIN
        },
        Row {
            what: "the image demands a newer CUDA",
            job: GPUS,
            libraries: &["cuda 12.4.127"],
            driver: "535.104",
            env: &["NVIDIA_REQUIRE_CUDA=cuda>=12.4"],
            expected: Some(("demands `cuda>=12.4`", "driver 550")),
            ..PLAIN
        },
        Row {
            what: "musl and CUDA",
            job: GPUS,
            libraries: &["cuda 12.4.127"],
            libc: "musl",
            expected: Some(("needs glibc", "Debian")),
            ..PLAIN
        },
        Row {
            what: "parts of the driver without CUDA",
            job: GPUS,
            libraries: &["cuda 12.4.127"],
            env: &["NVIDIA_DRIVER_CAPABILITIES=utility"],
            expected: Some(("leaves libcuda out", "compute,utility")),
            ..PLAIN
        },
        Row {
            what: "GPUs asked for and hidden",
            job: GPUS,
            libraries: &["cuda 12.4.127"],
            options: &[("gpu", "none")],
            expected: Some(("hides them", "leave `gpu` out")),
            ..PLAIN
        },
        Row {
            what: "CUDA and no GPU",
            libraries: &["cuda 12.4.127"],
            expected: Some(("asks for no GPU", "`gpus-per-node = 1`")),
            ..PLAIN
        },
        Row {
            what: "GPUs and no software",
            job: GPUS,
            expected: Some(("neither CUDA nor ROCm", "brings its own")),
            ..PLAIN
        },
        Row {
            what: "direct copies switched off",
            step: PMIX,
            libraries: &[OPEN_MPI],
            options: &[("env", "OMPI_MCA_btl_vader_single_copy_mechanism=none")],
            expected: Some((
                "switches off direct copies",
                "`OMPI_MCA_btl_vader_single_copy_mechanism = \"\"`",
            )),
            ..PLAIN
        },
        Row {
            what: "UCX without copies",
            step: "ntasks=2\nmpi='pmi2'",
            libraries: &[MPICH],
            env: &["UCX_TLS=tcp,posix,self"],
            expected: Some(("`UCX_TLS`", "remove it")),
            ..PLAIN
        },
        Row {
            what: "mpirun and a private /tmp",
            job: "ntasks=4",
            step: "launcher='none'",
            libraries: &[OPEN_MPI],
            options: &[("tmp", "private")],
            expected: Some(("in the host's /tmp", "leave `tmp` out")),
            ..PLAIN
        },
    ];
    assert!(rows.len() >= 15);
    for row in &rows {
        let found = judge(row);
        let (what, hint) = row.expected.unwrap();
        assert_eq!(found.len(), 1, "{}: {found:?}", row.what);
        assert!(
            found[0].0.contains(what) && found[0].1.contains(hint),
            "{}: {found:?}",
            row.what
        );
    }
}

#[test]
fn good_pairs_are_silent() {
    let rows = [
        Row {
            what: "Open MPI with PMIx",
            step: PMIX,
            libraries: &[OPEN_MPI, "pmix 4.2.2 pmix"],
            psec: &["munge", "native"],
            ..PLAIN
        },
        Row {
            what: "PMIx of a version",
            step: "ntasks=4\nmpi='pmix_v4'",
            libraries: &[OPEN_MPI],
            ..PLAIN
        },
        Row {
            what: "PMIx told to use native",
            step: PMIX,
            libraries: &[OPEN_MPI, "pmix 4.2.2 pmix"],
            psec: &["native"],
            env: &["PMIX_MCA_psec=native"],
            ..PLAIN
        },
        Row {
            what: "MPICH with PMI-2",
            step: "ntasks=4\nmpi='pmi2'",
            libraries: &[MPICH],
            ..PLAIN
        },
        Row {
            what: "Intel MPI with its library",
            step: "ntasks=4\nmpi='pmi2'",
            libraries: &["intel-mpi 2021.9 pmi2"],
            env: &["I_MPI_PMI_LIBRARY=/usr/lib/libpmi2.so"],
            ..PLAIN
        },
        Row {
            what: "one task of an MPI image",
            libraries: &[OPEN_MPI],
            ..PLAIN
        },
        Row {
            what: "tasks that are no ranks",
            step: "ntasks=4\nmpi='none'",
            libraries: &["intel-mpi 2021.9 pmi2"],
            ..PLAIN
        },
        Row {
            what: "CUDA with a new driver",
            job: GPUS,
            libraries: &["cuda 12.4.127"],
            driver: "550.54.15",
            env: &[
                "NVIDIA_REQUIRE_CUDA=cuda>=12.4",
                "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            ],
            ..PLAIN
        },
        Row {
            what: "CUDA with compatibility libraries",
            job: GPUS,
            libraries: &["cuda 12.4.127", "cuda-compat 550.54.15"],
            driver: "470.82",
            ..PLAIN
        },
        Row {
            what: "CUDA, driver not known",
            job: GPUS,
            libraries: &["cuda 13.0"],
            ..PLAIN
        },
        Row {
            what: "ROCm with GPUs",
            job: "gres='gpu:1'",
            libraries: &["rocm 6.1.1"],
            driver: "470.82",
            ..PLAIN
        },
        Row {
            what: "new processors",
            level: 3,
            features: &["zen3", "skylake"],
            ..PLAIN
        },
        Row {
            what: "processors that nobody names",
            level: 4,
            features: &["bigmem"],
            ..PLAIN
        },
        Row {
            what: "no network on one node",
            options: &[("network", "none")],
            step: "ntasks=2\nmpi='pmi2'",
            libraries: &[MPICH],
            ..PLAIN
        },
        Row {
            what: "UCX with copies",
            step: "ntasks=2\nmpi='pmi2'",
            libraries: &[MPICH],
            env: &["UCX_TLS=tcp,sm,self"],
            ..PLAIN
        },
    ];
    assert!(rows.len() >= 10);
    for row in &rows {
        let found = judge(row);
        assert!(found.is_empty(), "{}: {found:?}", row.what);
    }
}
