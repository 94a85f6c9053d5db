//! `/dev`, GPUs and the driver files that go with them.
//!
//! The default `/dev` is the host's without the GPUs that were not given: those that the device cgroup refuses or, where
//! Slurm does not limit devices (`ConstrainDevices=no`), those that its variables do not name. Only in the second case are
//! the selection variables counted anew, exactly as Slurm does it when it limits devices. A node whose GPUs were all given,
//! or that has none, costs nothing: its `/dev` is bound as it is.
//!
//! All tasks of a step share one capsule, so whatever differs between tasks (GPUs bound per task) goes into the task's own
//! steps and never into the capsule's: a capsule made from one task's view would hide the others' GPUs.

use super::cdi::Edits;
use super::cdi::apply::{Context, apply};
use super::cuda;
use super::driver;
use super::environment::Addition;
use super::facts::{GpuNode, HostFacts, Vendor};
use super::inside::InsidePath;
use super::request::{Dev, Gpu};
use super::step::{Access, Missing, Step, Target};
use crate::error::Result;
use crate::record::Contents;
use carrack_slurm::step::{Part, Step as SlurmStep};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The class of devices whose documents describe NVIDIA's driver.
const NVIDIA: &str = "nvidia.com/gpu";

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
    /// Libraries of the host that the image's loader shall find.
    pub libraries: Vec<InsidePath>,
    pub warnings: Vec<String>,
}

/// What is asked for, by the request and by the image.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub gpu: Gpu,
    pub dev: Dev,
    /// Device nodes and CDI names.
    pub devices: &'a [String],
    /// What the image or the user says in a variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub contents: &'a Contents,
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
pub fn devices(asked: &Asked<'_>, facts: &HostFacts, slurm: Option<&SlurmStep>) -> Result<Devices> {
    let &Asked { gpu, dev: kind, .. } = asked;
    let mut result = Devices::default();
    let given = given(gpu, facts, slurm);
    let mut named = asked.devices.to_vec();
    if gpu == Gpu::None {
        named.extend(nodes_of(asked.devices, facts)?);
    }
    let per_task = gpu != Gpu::None && bound_per_task(slurm);
    let left_out = left_out(gpu, &given, &named, facts);
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
    // A minimal /dev has only what was put there, and directories as a whole.
    let parts = !facts.refused_parts.is_empty();
    if !left_out.is_empty() && (kind == Dev::Full || per_task || (shown && parts)) {
        let steps = match per_task {
            true => &mut result.task_steps,
            false => &mut result.steps,
        };
        steps.push(Step::LeaveOut(left_out));
    }
    let mut version = None;
    let by_name = asked.devices.iter().any(|name| name.starts_with(NVIDIA));
    if shown && !by_name {
        version = match described(facts) {
            Some(edits) => cdi(&edits, NVIDIA, asked, facts, &mut result)?,
            None => {
                let classes =
                    driver::classes((asked.variable)("NVIDIA_DRIVER_CAPABILITIES").as_deref());
                driver::show(&facts.driver, &classes, &mut result);
                driver::version(&facts.driver)
            }
        };
    }
    for name in asked.devices {
        if name.starts_with('/') {
            node(name, kind, &mut result)?;
            continue;
        }
        let edits = facts.cdi.find(name)?;
        let refused = |node: &&GpuNode| gpu != Gpu::None && !kept(node, gpu, &given, facts);
        let of_device = |node: &&GpuNode| edits.nodes.iter().any(|own| own.host == node.path);
        for node in facts.gpus.iter().filter(of_device).filter(refused) {
            result.warnings.push(format!(
                "`{name}` is {}, which was not given to this step and cannot be opened",
                node.path.display()
            ));
        }
        version = cdi(&edits, name, asked, facts, &mut result)?.or(version);
    }
    driver::compatibility(asked.contents, version.as_ref(), &mut result);
    if let Some(driver) = &version
        && let Some(found) = cuda::mismatch(driver, asked.contents, asked.variable)
    {
        result
            .warnings
            .push(format!("{}; {}", found.what, found.hint));
    }
    Ok(result)
}

/// NVIDIA's driver as the site's documents describe it, if they do and what they name is there.
pub fn described(facts: &HostFacts) -> Option<Edits> {
    let edits = facts.cdi.common(NVIDIA)?;
    let is_cuda = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("libcuda.so"))
    };
    let whole = edits.mounts.iter().all(|mount| mount.there);
    let brings = edits.mounts.iter().any(|mount| is_cuda(&mount.container));
    (whole && brings).then_some(edits)
}

fn cdi(
    edits: &Edits,
    name: &str,
    asked: &Asked<'_>,
    facts: &HostFacts,
    result: &mut Devices,
) -> Result<Option<crate::elf::Version>> {
    let context = Context {
        name,
        dev: asked.dev,
        groups: &facts.groups,
        is_gpu: &|path| asked.gpu != Gpu::None && facts.gpus.iter().any(|gpu| gpu.path == path),
    };
    let told = apply(edits, &context, result)?;
    // Documents of older toolkits have no hook that tells it.
    let of_library = |edits: &Edits| {
        let mounts = edits.mounts.iter();
        mounts
            .filter_map(|mount| driver::version_of(&mount.container))
            .max()
    };
    Ok(told.or_else(|| of_library(edits)))
}

/// The device nodes of CDI devices, for those who want these and no other GPUs.
fn nodes_of(devices: &[String], facts: &HostFacts) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for name in devices.iter().filter(|name| !name.starts_with('/')) {
        let edits = facts.cdi.find(name)?;
        let nodes = edits.nodes.iter();
        paths.extend(nodes.map(|node| node.host.display().to_string()));
    }
    Ok(paths)
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
fn left_out(gpu: Gpu, given: &Given, named: &[String], facts: &HostFacts) -> Vec<InsidePath> {
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
    if !none_of(Vendor::Nvidia) {
        paths.extend(facts.refused_parts.iter().map(PathBuf::as_path));
    }
    paths.retain(|path| !named.iter().any(|name| Path::new(name) == *path));
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

/// One device node by its path.
fn node(name: &str, kind: Dev, result: &mut Devices) -> Result<()> {
    // A complete /dev has it already.
    if kind == Dev::Minimal {
        result.steps.push(Step::Bind {
            from: name.into(),
            to: InsidePath::new(name)?,
            access: Access::ReadWrite,
            missing: Missing::Fail,
            target: Target::Make,
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
