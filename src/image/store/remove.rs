//! `rm`: takes a name or an image away, never one that a job needs.

use super::{Store, Stored, files, relative};
use crate::error::{Error, Result};
use crate::image::digest::Digest;

impl Store {
    /// Removes an image from the user's store. One that a job pins only with `force`.
    pub fn remove(&self, digest: &Digest, force: bool) -> Result<u64> {
        if !force && let Some(jobs) = self.pinned().get(digest) {
            return Err(in_use(digest, jobs));
        }
        let mut freed = 0;
        // The record first: without it the image is not there, and nobody starts what is half gone.
        for suffix in ["json", "sqsh", "used"] {
            let path = self.root().join(relative(digest, suffix));
            if let Ok(meta) = path.symlink_metadata() {
                std::fs::remove_file(&path).map_err(|error| {
                    files::explain(format!("cannot remove `{}`", path.display()), error)
                })?;
                freed += meta.len();
            }
        }
        Ok(freed)
    }

    /// Removes every reference to a digest; their names are given back.
    pub fn remove_references_to(&self, digest: &Digest) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for target in self.references_of(self.root()) {
            if target.images.values().all(|entry| entry.digest != *digest) {
                continue;
            }
            let reference = target.reference.parse()?;
            removed.push(target.reference.clone());
            if target.images.values().all(|entry| entry.digest == *digest) {
                self.remove_reference(&reference)?;
            } else {
                self.forget_digest(&reference, digest)?;
            }
        }
        Ok(removed)
    }

    /// References, other than `except`, that name the image.
    pub fn references_to(&self, stored: &Stored, except: &str) -> Vec<String> {
        let targets = self.references_of(&stored.root).into_iter();
        targets
            .filter(|target| target.reference != except)
            .filter(|target| {
                target
                    .images
                    .values()
                    .any(|entry| entry.digest == stored.digest)
            })
            .map(|target| target.reference)
            .collect()
    }
}

fn in_use(digest: &Digest, jobs: &[String]) -> Error {
    let (word, list) = (
        if jobs.len() == 1 { "job" } else { "jobs" },
        jobs.join(", "),
    );
    Error::new(format!("cannot remove `{}`: in use", digest.short()))
        .cause(format!("{word} {list} will run it or is running it"))
        .hint("wait for the job, `scancel` it, or use `--force`")
}
