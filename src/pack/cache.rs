//! The directory of packs: found by key, published whole, shared by processes and nodes.

use crate::error::{Context, Result};
use std::path::{Path, PathBuf};

/// Packs in one directory. Many processes on many nodes may use it at once.
#[derive(Clone, Debug)]
pub struct PackCache {
    directory: PathBuf,
}

impl PackCache {
    /// Makes the directory if needed.
    pub fn open(directory: impl Into<PathBuf>) -> Result<PackCache> {
        let directory = directory.into();
        std::fs::create_dir_all(&directory)
            .or_say(|| format!("cannot make the pack cache `{}`", directory.display()))?;
        Ok(PackCache { directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }
}
