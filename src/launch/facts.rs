//! What the node and the caller are, as a value. `probe` fills it; a test writes `HostFacts { uid: 7, ..HostFacts::plain() }`.
//!
//! Facts choose and explain. The executor trusts none of them: it opens by descriptor and finds out itself. Deliberately
//! few: each one is looked up by every task of every step, so nothing here reads a shared file system unless the request
//! needs it.

use super::contract::{Project, Words};
use super::driver::Class;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// As inherited; the first of equal names counts.
    pub environment: Vec<(OsString, OsString)>,
    /// The caller's directory; `None` if it cannot be named (deleted, unreachable).
    pub cwd: Option<PathBuf>,
    /// The parent's process id: ranks that one MPI launcher started on this node have it in common.
    pub parent: u32,
    /// GPU device nodes below `/dev`, by vendor and number.
    pub gpus: Vec<GpuNode>,
    /// Nodes of GPU parts (MIG) and of memory channels between nodes (IMEX) that the device cgroup refuses.
    pub refused_parts: Vec<PathBuf>,
    /// NVIDIA's user-space driver on this node; looked up only where there are such GPUs.
    pub driver: Driver,
    /// CDI documents, looked up only when asked for or where there are NVIDIA's GPUs.
    pub cdi: super::cdi::Devices,
    /// The host's MPI, looked up only where it shall be put in.
    pub mpi: super::mpi::HostMpi,
    /// Contents of the files that the request names.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// What bind sources really are, looked up only where the site limits them.
    pub real_paths: BTreeMap<PathBuf, PathBuf>,
    /// Who runs and for what, looked up only where the profile's mounts say it.
    pub words: Option<Words>,
    pub project: Option<Project>,
    /// The home that the user database gives, looked up only where the site limits mounts.
    pub account_home: Option<PathBuf>,
    /// Whether `$PMIX_SERVER_TMPDIR` lies where only root makes directories.
    pub pmix_is_slurms: bool,
    /// The image's own user files, looked up only where the request needs them.
    pub image_users: Option<ImageUsers>,
}

/// One GPU as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuNode {
    pub vendor: Vendor,
    pub path: PathBuf,
    /// Other nodes of the same GPU (for a display), seen and unseen with it.
    pub also: Vec<PathBuf>,
    /// The number in the vendor's own count, which is how Slurm's `File=` lines usually name it.
    pub index: u32,
    /// False when the device cgroup refuses it (EPERM): it belongs to another job or task.
    pub allowed: bool,
}

impl GpuNode {
    /// All device nodes of this GPU.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.path)
            .chain(&self.also)
            .map(PathBuf::as_path)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vendor {
    Nvidia,
    Amd,
    Intel,
}

/// Files that belong to the host's kernel driver and must come from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// The version of the kernel's part; empty when it does not tell.
    pub kernel: String,
    pub libraries: Vec<DriverLibrary>,
    pub programs: Vec<(Class, PathBuf)>,
    /// Sockets and directories of the driver's daemons.
    pub sockets: Vec<PathBuf>,
    /// Descriptions for graphics loaders.
    pub files: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverLibrary {
    /// The name that programs ask for, `libcuda.so.1`.
    pub soname: String,
    /// The file itself, links followed: `…/libcuda.so.550.54.15`.
    pub path: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUsers {
    pub passwd: Vec<u8>,
    pub group: Vec<u8>,
}

impl HostFacts {
    /// A plain user on a machine with nothing special.
    pub fn plain() -> HostFacts {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        HostFacts {
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            environment: vec![
                pair("HOME", "/home/alice"),
                pair("PATH", "/usr/bin:/bin"),
                pair("USER", "alice"),
            ],
            cwd: Some("/home/alice/run".into()),
            parent: 4242,
            ..HostFacts::default()
        }
    }

    /// The same one in step 0 of job 17, with what a profile may ask for filled in.
    #[cfg(test)]
    pub fn in_a_job() -> HostFacts {
        HostFacts {
            words: Some(Words {
                user: "alice".into(),
                group: "staff".into(),
                home: "/home/alice".into(),
                job: "17".into(),
                step: "0".into(),
            }),
            ..HostFacts::plain()
        }
    }

    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// A path as the caller means it.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        match &self.cwd {
            Some(cwd) if path.is_relative() => cwd.join(path.strip_prefix("./").unwrap_or(path)),
            _ => path.to_path_buf(),
        }
    }

    /// Where it really is, as far as that was looked up.
    pub fn real<'a>(&'a self, path: &'a Path) -> &'a Path {
        self.real_paths.get(path).map_or(path, PathBuf::as_path)
    }

    /// A variable that holds an absolute path other than `/`.
    pub fn directory_variable(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.variable(name)?);
        (path.is_absolute() && path.parent().is_some()).then_some(path)
    }
}
