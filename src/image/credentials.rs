//! Where passwords and tokens for registries are kept: docker's and podman's files, and their helpers.

use crate::image::source::Secret;
use std::path::PathBuf;

/// Where to look, in this order.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// `CARRACK_USERNAME` with `CARRACK_PASSWORD` or `CARRACK_PASSWORD_FILE`: for batch systems.
    pub fixed: Option<(String, Secret)>,
    /// Likewise, but the password is in this file.
    pub fixed_file: Option<(String, PathBuf)>,
    /// podman's files, first found first.
    pub auth_files: Vec<PathBuf>,
    /// docker's `config.json`; what `carrack login` writes.
    pub docker_config: Option<PathBuf>,
}

impl Places {
    pub fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Places {
        let path = |name: &str| get(name).map(PathBuf::from);
        let user = get("CARRACK_USERNAME");
        Places {
            fixed: user.clone().zip(get("CARRACK_PASSWORD").map(Secret::new)),
            fixed_file: user.zip(path("CARRACK_PASSWORD_FILE")),
            auth_files: [
                path("REGISTRY_AUTH_FILE"),
                path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
                path("HOME").map(|home| home.join(".config/containers/auth.json")),
            ]
            .into_iter()
            .flatten()
            .collect(),
            docker_config: path("DOCKER_CONFIG")
                .map(|dir| dir.join("config.json"))
                .or_else(|| path("HOME").map(|home| home.join(".docker/config.json"))),
        }
    }
}
