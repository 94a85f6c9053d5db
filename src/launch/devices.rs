//! `/dev`, GPUs and the driver files that go with them.
//!
//! The default `/dev` is the host's without the GPUs that were not given: those that the device cgroup refuses or, where
//! Slurm does not limit devices (`ConstrainDevices=no`), those that its variables do not name. Only in the second case are
//! the selection variables counted anew, exactly as Slurm does it when it limits devices. A node whose GPUs were all given,
//! or that has none, costs nothing: its `/dev` is bound as it is.
//!
//! All tasks of a step share one capsule, so whatever differs between tasks (GPUs bound per task) goes into the task's own
//! steps and never into the capsule's: a capsule made from one task's view would hide the others' GPUs.

use super::environment::Addition;
use super::facts::{GpuNode, HostFacts, Vendor};
use super::inside::InsidePath;
use super::request::{Dev, Gpu};
use super::step::{Access, Missing, Step, Target};
use crate::error::{Error, Result};
use carrack_slurm::step::{Part, Step as SlurmStep};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where driver files of the host appear; in the capsule's own `/run`.
const GPU_DIRECTORY: &str = "/run/carrack/gpu";

/// Variables that select GPUs by number.
const SELECTORS: [&str; 5] = [
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
];

/// What devices add to a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// For the capsule, after `/dev` and `/run`.
    pub steps: Vec<Step>,
    /// For this task alone.
    pub task_steps: Vec<Step>,
    pub additions: Vec<Addition>,
    /// Selection variables counted anew.
    pub fixed: Vec<(OsString, OsString)>,
}

/// The steps that make `/dev`.
pub fn dev(kind: Dev) -> Vec<Step> {
    let place = |path: &'static str| InsidePath::fixed(path);
    let bind = |path: &'static str, target| Step::Bind {
        from: PathBuf::from(path),
        to: place(path),
        access: Access::ReadWrite,
        missing: if target == Target::Ready {
            Missing::Fail
        } else {
            Missing::Skip
        },
        target,
    };
    if kind == Dev::Full {
        return vec![bind("/dev", Target::Ready)];
    }
    let mut steps = vec![Step::Tmpfs {
        at: place("/dev"),
        size: None,
        // A sticky, world-writable directory would make `echo > /dev/null` fail (fs.protected_regular).
        mode: 0o755,
        target: Target::Ready,
    }];
    // The terminal of the job lives in the host's devpts, memory of other ranks in the host's shm.
    for path in [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/hugepages",
    ] {
        steps.push(bind(path, Target::Make));
    }
    for (at, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        steps.push(Step::Link {
            at: place(at),
            to: to.into(),
        });
    }
    steps
}

/// What the request's GPUs and devices need.
pub fn devices(
    gpu: Gpu,
    kind: Dev,
    wanted: &[String],
    facts: &HostFacts,
    slurm: Option<&SlurmStep>,
) -> Result<Devices> {
    let mut result = Devices::default();
    let given = given(gpu, facts, slurm);
    let per_task = gpu != Gpu::None && bound_per_task(slurm);
    let left_out = left_out(gpu, &given, wanted, facts);
    let shown = match per_task {
        true => !facts.gpus.is_empty(),
        false => facts.gpus.iter().any(|node| kept(node, gpu, &given, facts)),
    };
    if kind == Dev::Minimal && shown {
        let nodes = facts.gpus.iter().flat_map(GpuNode::paths);
        let neighbours = companions(facts).into_iter().map(Path::new);
        let paths = nodes
            .chain(neighbours)
            .filter(|path| per_task || !left_out.iter().any(|out| out.as_path() == *path));
        result.steps.extend(paths.map(show));
    }
    if let Given::Numbers(numbers) = &given
        && managed(facts).any(|node| !numbers.contains(&node.index))
    {
        result.fixed = renumbered(facts, numbers);
    }
    // A minimal /dev has only what was put there.
    if !left_out.is_empty() && (kind == Dev::Full || per_task) {
        let steps = match per_task {
            true => &mut result.task_steps,
            false => &mut result.steps,
        };
        steps.push(Step::LeaveOut(left_out));
    }
    if shown {
        driver(facts, &mut result);
    }
    for name in wanted {
        device(name, kind, facts, &mut result)?;
    }
    Ok(result)
}

/// Which GPUs this task was given.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Given {
    /// Nothing to cut down: the cgroup decides, or nobody does.
    AsTheyAre,
    /// These numbers of the node's count; none if empty.
    Numbers(Vec<u32>),
}

fn given(gpu: Gpu, facts: &HostFacts, slurm: Option<&SlurmStep>) -> Given {
    let slurm = match (gpu, slurm) {
        (Gpu::None, _) => return Given::Numbers(Vec::new()),
        (Gpu::All, _) | (_, None) => return Given::AsTheyAre,
        // A shell of salloc may be on a login node, whose GPUs are nobody's business.
        (Gpu::Auto, Some(slurm)) if slurm.part == Part::Allocation => return Given::AsTheyAre,
        (Gpu::Auto, Some(slurm)) => slurm,
    };
    if managed(facts).any(|node| !node.allowed) {
        return Given::AsTheyAre;
    }
    let numbers = match slurm.part {
        Part::Step(_) => &slurm.gpus.step,
        _ => &slurm.gpus.job,
    };
    let known = |number: &u32| managed(facts).any(|node| node.index == *number);
    match numbers {
        // Parts of a GPU (MIG) are counted otherwise than device nodes.
        Some(numbers) if !numbers.iter().all(known) => Given::AsTheyAre,
        Some(numbers) => Given::Numbers(numbers.clone()),
        // `--gpu-bind=none` sets no list, only how many there are.
        None if slurm.gpus.on_node.is_some_and(|count| count > 0) => Given::AsTheyAre,
        None => Given::Numbers(Vec::new()),
    }
}

/// Whether a process may see this GPU.
fn kept(node: &GpuNode, gpu: Gpu, given: &Given, facts: &HostFacts) -> bool {
    let by_number = |numbers: &[u32]| {
        let counted = managed(facts).any(|other| other == node);
        !counted || numbers.contains(&node.index)
    };
    match (gpu, given) {
        (Gpu::None, _) => false,
        (Gpu::All, _) | (Gpu::Auto, Given::AsTheyAre) => node.allowed,
        (Gpu::Auto, Given::Numbers(numbers)) => node.allowed && by_number(numbers),
    }
}

/// Device nodes that are not to be seen: GPUs of others, and if none is left, what only GPUs need. What the user named
/// stays.
fn left_out(gpu: Gpu, given: &Given, wanted: &[String], facts: &HostFacts) -> Vec<InsidePath> {
    let (seen, others): (Vec<&GpuNode>, Vec<&GpuNode>) = facts
        .gpus
        .iter()
        .partition(|node| kept(node, gpu, given, facts));
    let none_of = |vendor| !seen.iter().any(|node| node.vendor == vendor);
    let mut paths: Vec<&Path> = others.iter().flat_map(|node| node.paths()).collect();
    for vendor in [Vendor::Nvidia, Vendor::Amd] {
        if others.iter().any(|node| node.vendor == vendor) && none_of(vendor) {
            paths.extend(neighbours(vendor).iter().map(Path::new));
        }
    }
    paths.retain(|path| !wanted.iter().any(|name| Path::new(name) == *path));
    paths
        .into_iter()
        .filter_map(|path| InsidePath::new(path).ok())
        .collect()
}

fn bound_per_task(slurm: Option<&SlurmStep>) -> bool {
    slurm.is_some_and(|step| {
        let bind = step.gpus.bind.as_deref();
        bind.is_some_and(|bind| !bind.contains("none"))
    })
}

/// The GPUs that Slurm counts: of one vendor. A graphics chip of the mainboard beside them is not selected by number.
fn managed(facts: &HostFacts) -> impl Iterator<Item = &GpuNode> {
    let vendor = facts.gpus.iter().map(|node| node.vendor).min();
    facts
        .gpus
        .iter()
        .filter(move |node| Some(node.vendor) == vendor)
}

/// Selection variables as Slurm would write them if only the given GPUs could be opened.
fn renumbered(facts: &HostFacts, given: &[u32]) -> Vec<(OsString, OsString)> {
    let mut sorted: Vec<u32> = managed(facts)
        .map(|node| node.index)
        .filter(|index| given.contains(index))
        .collect();
    sorted.sort_unstable();
    let count = |text: &str| -> Option<String> {
        let places: Option<Vec<String>> = text
            .split(',')
            .map(|number| {
                let number: u32 = number.trim().parse().ok()?;
                let place = sorted.iter().position(|index| *index == number)?;
                Some(place.to_string())
            })
            .collect();
        places.map(|places| places.join(","))
    };
    SELECTORS
        .iter()
        .filter_map(|name| {
            // UUIDs, MIG names and numbers that the user chose otherwise stay as they are.
            let value = count(facts.variable(name)?.to_str()?)?;
            Some((OsString::from(name), OsString::from(value)))
        })
        .collect()
}

fn show(path: &Path) -> Step {
    Step::Bind {
        from: path.to_path_buf(),
        to: InsidePath::new(path).unwrap_or_else(|_| InsidePath::fixed("/dev/null")),
        access: Access::ReadWrite,
        missing: Missing::Skip,
        target: Target::Make,
    }
}

/// Nodes that a vendor's libraries open beside the GPUs themselves.
fn neighbours(vendor: Vendor) -> &'static [&'static str] {
    match vendor {
        Vendor::Nvidia => &[
            "/dev/nvidiactl",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
            "/dev/nvidia-modeset",
            "/dev/nvidia-caps",
            "/dev/nvidia-caps-imex-channels",
            "/dev/gdrdrv",
        ],
        Vendor::Amd => &["/dev/kfd"],
        Vendor::Intel => &[],
    }
}

fn companions(facts: &HostFacts) -> Vec<&'static str> {
    let has = |vendor| facts.gpus.iter().any(|node| node.vendor == vendor);
    [Vendor::Nvidia, Vendor::Amd, Vendor::Intel]
        .into_iter()
        .filter(|vendor| has(*vendor))
        .flat_map(neighbours)
        .copied()
        .collect()
}

/// Puts the host's driver files into one directory and in front of the image's own, which may be older than the kernel's.
fn driver(facts: &HostFacts, result: &mut Devices) {
    let driver = &facts.driver;
    let file = |from: &Path, folder: &str| -> Option<Step> {
        let name = from.file_name()?;
        let to = InsidePath::new(Path::new(GPU_DIRECTORY).join(folder).join(name)).ok()?;
        Some(Step::Bind {
            from: from.to_path_buf(),
            to,
            access: Access::ReadOnly,
            missing: Missing::Skip,
            target: Target::Make,
        })
    };
    result
        .steps
        .extend(driver.libraries.iter().filter_map(|path| file(path, "lib")));
    for path in &driver.libraries {
        // Programs that load `libcuda.so` without a number.
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if let Some(stem) = name.strip_suffix(".so.1")
            && let Ok(at) = InsidePath::new(format!("{GPU_DIRECTORY}/lib/{stem}.so"))
        {
            result.steps.push(Step::Link {
                at,
                to: name.into(),
            });
        }
    }
    result
        .steps
        .extend(driver.programs.iter().filter_map(|path| file(path, "bin")));
    for path in &driver.sockets {
        if let Ok(to) = InsidePath::new(path) {
            result.steps.push(Step::Bind {
                from: path.clone(),
                to,
                access: Access::ReadWrite,
                missing: Missing::Skip,
                target: Target::Make,
            });
        }
    }
    if !driver.libraries.is_empty() {
        let directory = format!("{GPU_DIRECTORY}/lib");
        result.additions.push(Addition::Prepend(
            "LD_LIBRARY_PATH".into(),
            directory.into(),
        ));
    }
    if !driver.programs.is_empty() {
        let directory = format!("{GPU_DIRECTORY}/bin");
        result
            .additions
            .push(Addition::Append("PATH".into(), directory.into()));
    }
}

/// One `--device`.
fn device(name: &str, kind: Dev, facts: &HostFacts, result: &mut Devices) -> Result<()> {
    if name.starts_with('/') {
        // A complete /dev has it already.
        if kind == Dev::Minimal {
            let at = InsidePath::new(name)?;
            result.steps.push(Step::Bind {
                from: name.into(),
                to: at,
                access: Access::ReadWrite,
                missing: Missing::Fail,
                target: Target::Make,
            });
        }
        return Ok(());
    }
    let Some(edits) = facts.cdi.get(name) else {
        return Err(Error::new(format!("cannot find the device `{name}`"))
            .cause("no CDI specification in /etc/cdi or /var/run/cdi names it")
            .hint("`carrack doctor` lists the devices of this node"));
    };
    for entry in &edits.environment {
        if let Some((name, value)) = entry.split_once('=') {
            result
                .additions
                .push(Addition::Set(name.into(), value.into()));
        }
    }
    if kind == Dev::Minimal {
        result
            .steps
            .extend(edits.devices.iter().map(|path| show(path)));
    }
    for (from, to) in &edits.mounts {
        result.steps.push(Step::Bind {
            from: from.clone(),
            to: InsidePath::new(to)?,
            access: Access::ReadOnly,
            missing: Missing::Skip,
            target: Target::Ready,
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
