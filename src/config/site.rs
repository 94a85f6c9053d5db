//! Sections that only a site decides: who may pull and run, whose signatures count, hooks, records, projects, flavors.
//!
//! Once a site file says anything in one of them, nobody else can say more there (see `layers.rs`).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `[access]`: who may use carrack, and where. Empty lists allow everybody and every host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    pub pull_users: Vec<String>,
    pub pull_groups: Vec<String>,
    pub run_users: Vec<String>,
    pub run_groups: Vec<String>,
    /// Host names or globs (`login*`) where anything may be pulled or run.
    pub hosts: Vec<String>,
}

/// `[trust]`: which images count as what they say they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trust {
    pub require: Require,
    /// Public keys in PEM: the text itself, or the path of a file that nobody but root can change.
    pub keys: Vec<String>,
    /// Manifest digests that may run whatever their name and signature.
    pub digests: Vec<String>,
}

/// What an image needs before it may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Require {
    #[default]
    Nothing,
    /// A detached signature over the manifest digest by one of `keys`.
    CosignKey,
}

/// `[hooks]`: programs of the site, asked as the user. Absolute paths of files that nobody but root can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// Before a job is submitted.
    pub submit: Option<String>,
    /// Before something is started inside an image; once per job and node.
    pub start: Option<String>,
    /// When a job has ended.
    pub end: Option<String>,
    /// Seconds that one may take; then the answer is no.
    pub timeout: u64,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks {
            submit: None,
            start: None,
            end: None,
            timeout: 30,
        }
    }
}

/// `[records]`: where the site keeps what ran, besides the job's own directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Records {
    /// A directory like `/tmp` (mode 1733 or 3733): everybody may add, nobody sees or changes what others added.
    pub directory: Option<String>,
}

/// `[projects]`: how the groups of a user become projects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Projects {
    /// `eidf` makes the group `eidf-p01` a membership of the project `p01`. Empty: any word before a dash.
    pub prefixes: Vec<String>,
    /// A directory or link in the home that says which project's data is meant, where it exists.
    #[serde(rename = "override")]
    pub own_choice: Option<String>,
    /// `ro` or `rw` by project; others as the profile's `project_data` says.
    pub access: BTreeMap<String, DataAccess>,
    /// A settings file of each project, read between the site's and the user's: `/work/{project}/.carrack.toml`.
    pub settings: Option<String>,
}

/// How a project's data is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataAccess {
    #[serde(rename = "ro")]
    ReadOnly,
    #[serde(rename = "rw")]
    ReadWrite,
}

/// `[flavor.NAME]`: resources under a name, for those who do not want to know sbatch's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flavor {
    pub description: String,
    /// The one for those who name none.
    #[serde(rename = "default")]
    pub is_default: bool,
    /// sbatch options by their long names: `partition`, `cpus-per-task`, `mem`, `gres`, `time`, `qos`, …
    pub options: BTreeMap<String, String>,
}
