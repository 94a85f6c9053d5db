//! `[pull]`: who may bring images in, and from where.

use serde::{Deserialize, Serialize};

/// Rules for `pull` and `import`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pull {
    /// Whether a job may pull on its compute node when the image is missing.
    pub compute_nodes: bool,
    /// Users who may import a ready squashfs or SIF file; empty: everybody.
    pub import_users: Vec<String>,
}
