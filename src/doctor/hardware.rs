//! `doctor --gpu` and `--mpi`: a node's GPUs, driver, CDI documents, MPI, fabric and processors, one line each. Pure: what
//! `probes` saw in, findings out.

use super::Finding;
use crate::elf::Version;
use crate::launch::cuda;
use crate::launch::driver::{class, version, version_of};
use crate::launch::facts::{HostFacts, Vendor};
use crate::launch::mpi::{Family, HostMpi, abi};
use std::path::PathBuf;

/// GPUs, the driver and the documents.
pub fn gpu(facts: &HostFacts, has_uvm: bool) -> Vec<Finding> {
    const SUBJECT: &str = "gpu";
    let mut found = Vec::new();
    if facts.gpus.is_empty() {
        found.push(Finding::ok(SUBJECT, "no GPUs on this node"));
    }
    for gpu in &facts.gpus {
        let text = format!("{:?} {} ({})", gpu.vendor, gpu.index, gpu.path.display());
        found.push(match gpu.allowed {
            true => Finding::ok(SUBJECT, text),
            false => Finding::ok(SUBJECT, format!("{text}: of another job, not shown inside")),
        });
    }
    let nvidia = facts.gpus.iter().any(|gpu| gpu.vendor == Vendor::Nvidia);
    if nvidia {
        found.extend(driver(facts));
        if !has_uvm {
            found.push(
                Finding::fail(
                    "gpu-modules",
                    "/dev/nvidia-uvm is missing: no CUDA program can start",
                )
                .cause("the module `nvidia-uvm` is not loaded; only root can do that")
                .remedy("as root: `nvidia-modprobe -u -c=0` at boot, or start nvidia-persistenced"),
            );
        }
    }
    if !facts.refused_parts.is_empty() {
        let count = facts.refused_parts.len();
        found.push(Finding::ok(
            "gpu-parts",
            format!("{count} MIG parts or IMEX channels are of other jobs"),
        ));
    }
    found.extend(documents(facts));
    found
}

fn driver(facts: &HostFacts) -> Vec<Finding> {
    const SUBJECT: &str = "gpu-driver";
    let libraries = &facts.driver.libraries;
    let cuda_library = libraries
        .iter()
        .find(|library| library.soname == "libcuda.so.1");
    let Some(library) = cuda_library else {
        return vec![
            Finding::warn(SUBJECT, "libcuda.so.1 is not in the host's loader cache")
                .cause(
                    "NVIDIA's user-space driver is not installed, or `ldconfig` was not run since",
                )
                .remedy("as root: install it (libcuda, libnvidia-ml) and run `ldconfig`"),
        ];
    };
    let mut found = Vec::new();
    let kernel = Version::parse(&facts.driver.kernel);
    let fits = |library: &&crate::launch::facts::DriverLibrary| version_of(&library.path) == kernel;
    let same = libraries
        .iter()
        .filter(|one| one.soname == library.soname)
        .any(|one| fits(&one));
    match (&kernel, version_of(&library.path)) {
        (Some(kernel), Some(own)) if !same => found.push(
            Finding::fail(
                SUBJECT,
                format!("the kernel module is {kernel}, libcuda is {own}"),
            )
            .cause("the driver was updated and the module was not loaded again")
            .remedy("reboot the node, or unload and load the modules"),
        ),
        _ => {
            let driver = version(&facts.driver);
            let release = driver.as_ref().and_then(cuda::release_of);
            let number =
                |version: Option<Version>| version.map_or("unknown".into(), |one| one.to_string());
            let count = libraries
                .iter()
                .filter(|one| class(&one.soname).is_some())
                .count();
            found.push(Finding::ok(
                SUBJECT,
                format!(
                    "NVIDIA {}, CUDA up to {}, {count} libraries",
                    number(driver),
                    number(release)
                ),
            ));
        }
    }
    found
}

fn documents(facts: &HostFacts) -> Vec<Finding> {
    const SUBJECT: &str = "cdi";
    let mut found = Vec::new();
    let names = facts.cdi.names();
    if !names.is_empty() {
        found.push(Finding::ok(
            SUBJECT,
            format!("devices: {}", names.join(", ")),
        ));
    }
    for document in &facts.cdi.specifications {
        let all = document.devices.values().chain([&document.common]);
        let stale = all
            .flat_map(|edits| &edits.mounts)
            .find(|mount| !mount.there && !mount.tmpfs);
        if let Some(mount) = stale {
            found.push(
                Finding::warn(
                    SUBJECT,
                    format!(
                        "`{}` names `{}`, which is not there",
                        document.file,
                        mount.host.display()
                    ),
                )
                .cause("it is older than the driver")
                .remedy(format!(
                    "as root: `nvidia-ctk cdi generate --output={}`",
                    document.file
                )),
            );
        }
    }
    found.extend(
        facts
            .cdi
            .notes
            .iter()
            .map(|note| Finding::warn(SUBJECT, note)),
    );
    found
}

/// What ranks on this node meet.
#[derive(Clone, Debug, Default)]
pub struct Fabric {
    pub nodes: Vec<PathBuf>,
    /// In bytes; none is unlimited.
    pub locked_memory: Option<u64>,
    pub shared_memory: Option<u64>,
    /// `/proc/cpuinfo`.
    pub processors: String,
    pub mpi_default: Option<String>,
}

pub fn mpi(fabric: &Fabric, host: &HostMpi) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, path) in &host.found {
        let family = match abi(name, path, "").map(|abi| abi.family) {
            Some(Family::Mpich) => "MPICH's interface",
            Some(Family::OpenMpi) => "Open MPI",
            None => continue,
        };
        found.push(Finding::ok(
            "host-mpi",
            format!("{family}: {} (`--mpi-inject host`)", path.display()),
        ));
    }
    if host.found.is_empty() {
        found.push(Finding::ok(
            "host-mpi",
            "no MPI of the host in sight; `module load` may bring one",
        ));
    }
    let names: Vec<String> = fabric
        .nodes
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    found.push(match names.is_empty() {
        true => Finding::ok("fabric", "no fast network and no XPMEM on this node"),
        false => Finding::ok("fabric", names.join(", ")),
    });
    let verbs = names.iter().any(|name| name.contains("infiniband"));
    if let (true, Some(limit)) = (verbs, fabric.locked_memory) {
        found.push(
            Finding::warn("locked-memory", format!("only {limit} bytes of memory may be locked"))
                .cause("InfiniBand registers memory by locking it; programs fail or get slow")
                .remedy("as root: `LimitMEMLOCK=infinity` in slurmd's unit, and PropagateResourceLimitsExcept=MEMLOCK"),
        );
    }
    if let Some(size) = fabric.shared_memory.filter(|size| *size < 1 << 30) {
        found.push(
            Finding::warn("shared-memory", format!("/dev/shm has {} MiB", size >> 20))
                .cause("ranks of one node talk through it; NCCL and MPI fail with bus errors when it is full")
                .remedy("as root: `mount -o remount,size=50% /dev/shm`"),
        );
    }
    if let Some(level) = level(&fabric.processors) {
        found.push(Finding::ok("processor", format!("x86-64-v{level}")));
    }
    if fabric.mpi_default.as_deref() == Some("none") {
        found.push(
            Finding::ok(
                "mpi-default",
                "srun starts ranks with `--mpi` only; MpiDefault is none",
            )
            .remedy("users write `mpi = \"pmix\"`; or set MpiDefault=pmix in slurm.conf"),
        );
    }
    found
}

/// The x86-64 level of the first processor, by the flags that each level added.
pub fn level(processors: &str) -> Option<u8> {
    let line = processors.lines().find(|line| line.starts_with("flags"))?;
    let flags: Vec<&str> = line.split_once(':')?.1.split_whitespace().collect();
    const ADDED: [&str; 3] = [
        "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
        "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
        "avx512f avx512bw avx512cd avx512dq avx512vl",
    ];
    let has = |words: &&&str| words.split(' ').all(|word| flags.contains(&word));
    let levels = ADDED.iter().take_while(|words| has(words)).count();
    u8::try_from(levels + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::launch::facts::{Driver, DriverLibrary, GpuNode};

    fn texts(found: &[Finding]) -> String {
        found.iter().map(|finding| format!("{finding}\n")).collect()
    }

    fn node(kernel: &str, file: &str) -> HostFacts {
        HostFacts {
            gpus: vec![GpuNode {
                vendor: Vendor::Nvidia,
                path: "/dev/nvidia0".into(),
                also: Vec::new(),
                index: 0,
                allowed: true,
            }],
            driver: Driver {
                kernel: kernel.into(),
                libraries: vec![DriverLibrary {
                    soname: "libcuda.so.1".into(),
                    path: format!("/usr/lib/{file}").into(),
                }],
                ..Driver::default()
            },
            ..HostFacts::plain()
        }
    }

    #[test]
    fn gpus_and_drivers() {
        for (facts, uvm, level, part) in [
            (HostFacts::plain(), false, Level::Ok, "no GPUs"),
            (
                node("550.54.15", "libcuda.so.550.54.15"),
                true,
                Level::Ok,
                "NVIDIA 550.54.15, CUDA up to 12.4, 1 libraries",
            ),
            (
                node("550.54.15", "libcuda.so.535.1"),
                true,
                Level::Fail,
                "kernel module is 550.54.15, libcuda is 535.1",
            ),
            (
                node("550.54.15", "libcuda.so.550.54.15"),
                false,
                Level::Fail,
                "nvidia-modprobe",
            ),
            (
                HostFacts {
                    driver: Driver::default(),
                    ..node("", "")
                },
                true,
                Level::Warn,
                "run `ldconfig`",
            ),
        ] {
            let found = gpu(&facts, uvm);
            let text = texts(&found);
            assert!(text.contains(part), "{text}");
            assert_eq!(
                found.iter().map(|one| one.level).max(),
                Some(level),
                "{text}"
            );
        }
    }

    #[test]
    fn what_ranks_meet() {
        let fabric = Fabric {
            nodes: vec!["/dev/infiniband".into()],
            locked_memory: Some(65536),
            shared_memory: Some(64 << 20),
            processors:
                "processor: 0\nflags\t\t: fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx\n"
                    .into(),
            mpi_default: Some("none".into()),
        };
        let host = HostMpi {
            found: vec![("libmpi.so.40".into(), "/usr/lib/libmpi.so.40.30.4".into())],
            ..HostMpi::default()
        };
        let text = texts(&mpi(&fabric, &host));
        for part in [
            "Open MPI: /usr/lib",
            "MEMLOCK",
            "64 MiB",
            "x86-64-v2",
            "MpiDefault",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = texts(&mpi(&Fabric::default(), &HostMpi::default()));
        assert!(!text.contains("warn"), "{text}");
    }

    #[test]
    fn levels_by_flags() {
        let v3 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";
        for (flags, expected) in [("fpu", 1), (v3, 3), (&format!("{v3} avx512f"), 3)] {
            assert_eq!(level(&format!("flags : {flags}\n")), Some(expected));
        }
        assert_eq!(level("Features : fp asimd\n"), None);
    }
}
