//! `[bundle.NAME]`: what a site's fabric or software needs in every image, described once and asked for by name.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One bundle; users take it with `--bundle NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bundle {
    /// For people who look for it.
    pub help: String,
    /// Mounts, `SRC[:DST[:FLAGS]]`; left out where the source does not exist.
    pub binds: Vec<String>,
    /// Variables to set, and lists to extend.
    pub env: BTreeMap<String, String>,
    pub env_prepend: BTreeMap<String, String>,
    pub env_append: BTreeMap<String, String>,
    /// Names of bundles that cannot be taken together with this one.
    pub conflicts: Vec<String>,
    /// `host`: the host's MPI takes the place of the image's.
    pub mpi_inject: String,
    /// Directories of the host's MPI and fabric libraries, searched before the loader's own.
    pub libraries: Vec<String>,
}
