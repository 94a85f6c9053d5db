//! `[pull]`: who may bring images in, and from where.

use serde::{Deserialize, Serialize};

/// Rules for `pull` and `import`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pull {
    /// Whether compute nodes may pull. `false` in a file forbids `carrack pull` in jobs; where nothing is said, a job whose
    /// image is missing does not pull it by itself.
    pub compute_nodes: bool,
    /// Users who may import a ready squashfs or SIF file; empty: everybody.
    pub import_users: Vec<String>,
}
