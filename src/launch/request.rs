//! What the user asked for. Nothing here has been looked up: whether a path exists is a question for facts and planner.
//!
//! A request is filled by [`options::apply`](super::options::apply) alone, whichever door the words came through. `None`
//! means that nobody said anything, so that the site and the image may.

use super::inside::InsidePath;
use super::mounts::MountSpec;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub mode: Mode,
    /// A reference, digest prefix, squashfs file or directory.
    pub image: Option<String>,
    pub command: Vec<OsString>,
    /// In the order given, lowest door first.
    pub mounts: Vec<MountSpec>,
    pub workdir: Option<InsidePath>,
    /// In the order given: a later rule sees what an earlier one did.
    pub environment: Vec<EnvRule>,
    pub inherit: Option<Inherit>,
    pub home: Option<Home>,
    pub tmp: Option<Tmp>,
    pub entrypoint: Option<Entrypoint>,
    pub root: Option<RootAccess>,
    pub id: Option<IdChoice>,
    pub gpu: Option<Gpu>,
    /// Device nodes or CDI names that the user wants inside.
    pub devices: Vec<String>,
    /// Whether the host's MPI takes the place of the image's.
    pub mpi_inject: Option<bool>,
    /// The site's bundles, by name.
    pub bundles: Vec<String>,
    pub network: Option<NetworkChoice>,
    pub name: Option<String>,
    pub dev: Option<Dev>,
    /// Somebody wants to sit in front of it.
    pub interactive: bool,
    pub profile: Option<String>,
    /// The project whose data is meant; one of the user's own.
    pub project: Option<String>,
    /// Ids of datasets to show, where the profile has them.
    pub datasets: Vec<String>,
    /// Where srun's `--container-save` wants the root at the end of the step; only the plugin can do it.
    pub save: Option<PathBuf>,
    /// The plugin will ask for the root when the last task has ended.
    pub hold: bool,
    /// The host's directory in which what is written under [`Request::name`] is kept for later steps of the job.
    pub kept: Option<PathBuf>,
    /// Values of an image's input ports, by number or name (`ports.rs`).
    pub inputs: Vec<(String, String)>,
    /// Directories for its output ports.
    pub outputs: Vec<(String, String)>,
    /// EDF files or names, loaded by the front before it applies the other doors.
    pub environments: Vec<String>,
    /// Which options were set, and by which door last: for policy and messages.
    pub set_by: BTreeMap<&'static str, Origin>,
    /// Words that were understood but change nothing here, each said once.
    pub notices: Vec<String>,
}

/// Which verb asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The image's entrypoint with the arguments, or with its CMD.
    Run,
    /// This command.
    #[default]
    Exec,
    /// A shell of the image.
    Shell,
}

/// Where an option came from, lowest precedence first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A job file or EDF, by the name to show.
    File(String),
    /// `CARRACK_*`.
    Variable,
    /// An option of srun, sbatch or salloc.
    Slurm,
    /// The command line.
    Flag,
}

impl Origin {
    /// The option's name as the user wrote it there.
    pub fn spell(&self, option: &super::options::OptionSpec) -> String {
        match self {
            Origin::File(file) => format!("`{}` in {file}", option.key),
            Origin::Variable => format!("${}", option.variable),
            Origin::Slurm => match option.slurm.first() {
                Some(name) => format!("--{name}"),
                None => format!("--{}", option.name),
            },
            Origin::Flag => format!("--{}", option.name),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(file) => out.write_str(file),
            Origin::Variable => out.write_str("a CARRACK_* variable"),
            Origin::Slurm => out.write_str("an srun option"),
            Origin::Flag => out.write_str("the command line"),
        }
    }
}

/// One change to the environment of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvRule {
    Set(OsString, OsString),
    /// The caller's value wins, even over the image's; absent there means absent inside.
    Pass(OsString),
    /// Removes all names that match.
    Unset(String),
    /// `NAME=value` lines as docker reads them.
    File(PathBuf),
    /// NUL-separated `NAME=value`, as in `/proc/PID/environ`.
    File0(PathBuf),
}

/// Whether the caller's environment comes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherit {
    Pass,
    /// Only what process managers and Slurm need.
    Clean,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    Mount,
    /// This host directory is the home.
    MountFrom(PathBuf),
    Hide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tmp {
    Host,
    /// An empty one per capsule.
    Private,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrypoint {
    Image,
    None,
    /// Replaces the image's, and with it the image's CMD (docker).
    Replace(OsString),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootAccess {
    ReadOnly,
    Writable { size: Option<u64> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdChoice {
    Keep,
    Root,
    /// The image's USER.
    Image,
    Number {
        uid: u32,
        gid: Option<u32>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpu {
    /// Those that the allocation gives; outside Slurm all.
    Auto,
    None,
    /// Whatever the node shows, without cutting it down.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkChoice {
    Host,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dev {
    Full,
    Minimal,
}
