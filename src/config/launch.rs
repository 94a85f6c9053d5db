//! `[launch]` and `[profile.NAME]`: how processes are started inside images.
//!
//! A profile is a named set of rules. The built-in ones (`hpc`, `ces`, `eucaim`, `gef`) can be changed key by key and new
//! ones can be based on them. Values have the form that the options of the same name take; they are read where they are
//! used, in `launch/profile.rs`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The profiles that are always there.
pub const PROFILES: [&str; 5] = ["hpc", "ces", "ces-open", "eucaim", "gef"];

/// Which rules apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Launch {
    /// The profile for those who name none.
    pub profile: String,
    /// Whether users may name another one. `false` also keeps their files from changing any profile.
    pub choose_profile: bool,
    /// The profiles that users may name; empty: all.
    pub profiles: Vec<String>,
    /// Images that may be started, as beginnings of references (`registry.site.eu/approved/`); empty: all.
    pub images: Vec<String>,
    /// Directories searched for environment files (EDF) after the user's own.
    pub environment_path: Vec<String>,
    /// Directories of CDI documents; a later one counts more.
    pub cdi_directories: Vec<String>,
    /// The oldest NVIDIA driver of the GPU nodes, e.g. `550.54.15`, for checks on the login node; empty: not known.
    pub gpu_driver: String,
}

impl Default for Launch {
    fn default() -> Self {
        Launch {
            profile: "hpc".into(),
            choose_profile: true,
            profiles: Vec::new(),
            images: Vec::new(),
            environment_path: vec!["/etc/edf".into()],
            cdi_directories: vec!["/etc/cdi".into(), "/run/cdi".into()],
            gpu_driver: String::new(),
        }
    }
}

/// The rules of one profile; what is unset is as in `base`, in the end as in `hpc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// The profile that this one refines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Mounts that every process gets, `SRC[:DST[:FLAGS]]`; left out where the source does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binds: Option<Vec<String>>,
    /// Whether users may mount more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_binds: Option<bool>,
    /// Host directories that users may mount from; empty: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_bind_paths: Option<Vec<String>>,
    /// Show the home directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<bool>,
    /// Show the directory that the process was started from, and start there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<bool>,
    /// `host` or `private`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp: Option<String>,
    /// `true`, `false` or a size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable: Option<String>,
    /// `keep`, `root`, `image` or `UID[:GID]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `host` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// `auto`, `none` or `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// `full` or `minimal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// `host` or `none`; unset: as the bundles say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpi_inject: Option<String>,
    /// Bundles that everybody gets, before those that are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundles: Option<Vec<String>>,
    /// Pass the caller's environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<bool>,
    /// Whether a person may enter: `shell`, `attach`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interactive: Option<bool>,
    /// Variables to set, remove (names or globs), and lists to extend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_unset: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_prepend: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_append: Option<BTreeMap<String, String>>,
    /// The project's data, as a mount with `{project}`: `/safe_data/{project}:/safe_data:ro`. Where it is set, somebody
    /// without a project cannot run anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_data: Option<String>,
    /// What `--dataset ID` mounts, with `{dataset}`: `/data/{dataset}:/datasets/{dataset}:ro`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datasets: Option<String>,
    /// A directory made for each job and kept: `{home}/outputs_{job}:/safe_outputs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<String>,
    /// A directory made for each job and removed when it ends: `{home}/scratch_{job}:/scratch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<String>,
    /// What may be started: `any` command, `arguments` for the image's entrypoint, or `image`: only what it does by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// sbatch options of jobs that do not give them, by their long names: `mem = "4G"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<BTreeMap<String, String>>,
    /// The longest time limit of a job, as sbatch writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_time: Option<String>,
    /// Keys of this profile that options cannot change: `["network", "home"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked: Option<Vec<String>>,
    /// Options that users of this profile may not give, by their long names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
}
