//! `[registries]`: which registries may be asked, and how each is reached.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where manifests and layers come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registries {
    /// The registry of names that name none.
    pub default: String,
    /// Registries, or `registry/path` prefixes, that may be used; empty: any.
    pub allow: Vec<String>,
    /// Registries (`host` or `host:port`) spoken to in plain http.
    pub insecure: Vec<String>,
    /// Registries to try before the named one: `"docker.io" = ["mirror.site:5000"]`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Prefixes to replace before anything is asked: `"gitlab.site/x" = "gitlab.site:5050/x"`.
    pub rewrites: BTreeMap<String, String>,
    /// A file or directory of CA certificates (PEM) per registry, in addition to the system's.
    pub certificates: BTreeMap<String, String>,
}

impl Default for Registries {
    fn default() -> Self {
        Registries {
            default: "docker.io".into(),
            allow: Vec::new(),
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            certificates: BTreeMap::new(),
        }
    }
}
