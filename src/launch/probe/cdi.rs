//! The node's CDI documents.

use super::{MAX_DATABASE, read};
use crate::elf::Elf;
use crate::error::{Context, Error, Result};
use crate::launch::cdi::document::{self, Mount};
use crate::launch::cdi::{Devices, Edits};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Documents of one directory beyond which it is something else.
const MAX_DOCUMENTS: usize = 256;

/// All documents in these directories; a later directory counts more.
pub fn devices(directories: &[String]) -> Devices {
    let mut found = Devices {
        directories: directories.to_vec(),
        ..Devices::default()
    };
    for (rank, directory) in directories.iter().enumerate() {
        for path in documents(Path::new(directory)) {
            let file = path.display().to_string();
            let read =
                value(&path).and_then(|value| document::read(&value, &file, &mut found.notes));
            match read {
                Ok(mut document) => {
                    document.directory = rank;
                    look(&mut document.common);
                    document.devices.values_mut().for_each(look);
                    found.specifications.push(document);
                }
                Err(error) => {
                    found
                        .notes
                        .push(format!("{}: {}", error.what(), error.causes().join(": ")))
                }
            }
        }
    }
    found
}

fn documents(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            matches!(ending, Some("json" | "yaml" | "yml"))
        })
        .take(MAX_DOCUMENTS)
        .collect();
    paths.sort();
    paths
}

fn value(path: &Path) -> Result<Value> {
    let bytes = read(path, MAX_DATABASE).or_say(|| format!("cannot read `{}`", path.display()))?;
    let what = || format!("cannot read the CDI document `{}`", path.display());
    match path.extension().is_some_and(|ending| ending == "json") {
        true => serde_json::from_slice(&bytes).or_say(what),
        false => {
            let text = std::str::from_utf8(&bytes).or_say(what)?;
            yaml(text).map_err(|cause| Error::new(what()).cause(cause))
        }
    }
}

/// What the document cannot tell: whether its files are there, and the names that its libraries have for themselves.
fn look(edits: &mut Edits) {
    for mount in &mut edits.mounts {
        mount.there = mount.host.exists();
        mount.soname = soname(mount);
    }
}

fn soname(mount: &Mount) -> Option<String> {
    let name = mount.container.file_name()?.to_str()?;
    if !mount.there || !name.contains(".so") {
        return None;
    }
    Elf::read(&std::fs::File::open(&mount.host).ok()?)?.soname
}

#[cfg(feature = "cli")]
fn yaml(text: &str) -> std::result::Result<Value, String> {
    super::yaml::parse(text)
}

#[cfg(not(feature = "cli"))]
fn yaml(_: &str) -> std::result::Result<Value, String> {
    Err("YAML is read by the program `carrack` only".into())
}
