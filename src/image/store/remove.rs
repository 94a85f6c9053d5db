//! `rm`: takes a name or an image away, never one that a job needs.

use super::{Store, Stored, Target, files, relative};
use crate::error::{Error, Result};
use crate::image::digest::Digest;

impl Store {
    /// Removes an image from the user's store. One that a job pins only with `force`.
    pub fn remove(&self, digest: &Digest, force: bool) -> Result<u64> {
        if !force {
            self.refuse_pinned(digest)?;
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

    /// The references in an image's store that name it.
    pub fn references_to(&self, stored: &Stored) -> Vec<String> {
        names(self.references_of(&stored.root), &stored.digest)
    }

    /// The references in the user's store that name a digest, whether the image is there or not.
    pub fn names_of(&self, digest: &Digest) -> Vec<String> {
        names(self.references_of(self.root()), digest)
    }

    /// Fails when a job needs the image.
    pub fn refuse_pinned(&self, digest: &Digest) -> Result<()> {
        match self.pinned().get(digest) {
            Some(jobs) => Err(in_use(digest, jobs)),
            None => Ok(()),
        }
    }
}

fn names(targets: Vec<Target>, digest: &Digest) -> Vec<String> {
    let names = targets
        .into_iter()
        .filter(|target| target.images.values().any(|entry| entry.digest == *digest));
    names.map(|target| target.reference).collect()
}

fn in_use(digest: &Digest, jobs: &[String]) -> Error {
    let (will, them) = match jobs {
        [_] => ("will run it or is running it", "it"),
        _ => ("will run it or are running it", "them"),
    };
    let jobs = jobs_named(jobs);
    Error::new(format!("cannot remove `{}`: in use", digest.short()))
        .cause(format!("{jobs} {will}"))
        .hint(format!(
            "wait for the end of {jobs}, `carrack cancel` {them}, or use `--force`"
        ))
}

/// `job 10`, `jobs 10 and 12`, `jobs 10, 12 and 16`.
pub fn jobs_named(jobs: &[String]) -> String {
    match jobs {
        [job] => format!("job {job}"),
        [before @ .., last] if !before.is_empty() => {
            format!("jobs {} and {last}", before.join(", "))
        }
        _ => "jobs".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_as_people_do() {
        for (jobs, cause) in [
            (&["10"][..], "job 10 will run it or is running it"),
            (
                &["10", "12"],
                "jobs 10 and 12 will run it or are running it",
            ),
            (
                &["10", "12", "16"],
                "jobs 10, 12 and 16 will run it or are running it",
            ),
        ] {
            let jobs: Vec<String> = jobs.iter().map(|job| job.to_string()).collect();
            let digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
            let told = in_use(&digest, &jobs);
            assert_eq!(told.causes(), [cause]);
            assert!(told.hints().join("\n").contains("`carrack cancel`"));
        }
    }
}
