//! What is in the stores.

use super::{Store, Stored, access, explain, relative};
use crate::error::Error;
use crate::image::digest::Digest;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Every image of every store, and what could not be read.
#[derive(Debug, Default)]
pub struct Listing {
    pub images: Vec<Listed>,
    pub damaged: Vec<Damaged>,
    /// Directories that could not be listed: what is in them is not known.
    pub unreadable: Vec<Error>,
}

/// One image with its names.
#[derive(Debug)]
pub struct Listed {
    pub stored: Stored,
    /// References that name it, sorted.
    pub references: Vec<String>,
    /// When it came into the store.
    pub added: SystemTime,
    /// When it was last started, or came.
    pub used: SystemTime,
}

/// An image that is there but wrong.
#[derive(Debug)]
pub struct Damaged {
    pub digest: Digest,
    pub root: PathBuf,
    pub error: Error,
}

impl Store {
    /// Lists the site's stores and the user's.
    pub fn list(&self) -> Listing {
        let mut listing = Listing::default();
        for root in self.roots() {
            self.list_one(root, &mut listing);
        }
        listing
    }

    /// Lists the user's store only.
    pub fn list_own(&self) -> Listing {
        let mut listing = Listing::default();
        self.list_one(self.root(), &mut listing);
        listing
    }

    fn list_one(&self, root: &Path, listing: &mut Listing) {
        let targets = self.references_of(root);
        let (digests, unreadable) = look_through(root);
        listing.unreadable.extend(unreadable);
        for digest in digests {
            match self.get_from(root, &digest) {
                Ok(Some(stored)) => {
                    let names = targets.iter().filter(|target| {
                        target.images.values().any(|entry| entry.digest == digest)
                    });
                    let time = |suffix: &str| {
                        let path = root.join(relative(&digest, suffix));
                        path.symlink_metadata()
                            .and_then(|meta| meta.modified())
                            .ok()
                    };
                    let added = time("json").unwrap_or(SystemTime::UNIX_EPOCH);
                    listing.images.push(Listed {
                        references: names.map(|target| target.reference.clone()).collect(),
                        added,
                        used: time("used").map_or(added, |used| used.max(added)),
                        stored,
                    });
                }
                Ok(None) => {}
                // Somebody else's, for others: to this user it is not there.
                Err(error) if access::is_private(&error) => {}
                Err(error) => listing.damaged.push(Damaged {
                    digest,
                    root: root.to_path_buf(),
                    error,
                }),
            }
        }
    }
}

/// The digests that have a record, sorted. Names that are none are passed over.
pub fn digests_in(root: &Path) -> Vec<Digest> {
    look_through(root).0
}

/// The same, and the directories that could not be listed. A store that is not there yet is empty.
fn look_through(root: &Path) -> (Vec<Digest>, Vec<Error>) {
    let mut unreadable = Vec::new();
    let mut entries = |path: PathBuf| match read_all(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            unreadable.push(explain(format!("cannot list `{}`", path.display()), error));
            Vec::new()
        }
    };
    let mut shards = entries(root.join("images"));
    shards.retain(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found: Vec<Digest> = shards
        .iter()
        .flat_map(|shard| entries(shard.path()))
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let digest: Digest = format!("sha256:{}", name.strip_suffix(".json")?)
                .parse()
                .ok()?;
            // A record in another's directory would never be found by its digest.
            (root.join(relative(&digest, "json")) == entry.path()).then_some(digest)
        })
        .collect();
    found.sort();
    (found, unreadable)
}

fn read_all(directory: &Path) -> std::io::Result<Vec<std::fs::DirEntry>> {
    std::fs::read_dir(directory)?.collect()
}
