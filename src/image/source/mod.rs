//! Where images come from: one trait, one file per kind of place.
//!
//! A source hands out bytes and says what digest and size they should have. It checks documents (manifests, configs)
//! itself; blobs are checked by the conversion while they stream through it. Nothing here decompresses a layer or knows
//! the store.

pub mod directory;
mod docker_archive;
mod hash;
mod layout;
mod members;
pub mod registry;
mod resolve;
mod rootfs;
pub mod settings;
mod squashfs;

pub use crate::image::manifest::Descriptor;
pub use settings::{Secret, SourceSettings};

use crate::config::nearest;
use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::Config;
use crate::image::reference::Reference;
use crate::image::signature::Signature;
use crate::record::Platform;
use directory::Directory;
use docker_archive::DockerArchive;
use layout::Layout;
use members::Members;
use registry::Registry;
use rootfs::RootfsTar;
use squashfs::SquashfsFile;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A place that one image comes from. Safe to use from several threads.
pub trait Source: Send + Sync {
    /// Finds the image for a platform.
    fn resolve(&self, platform: &Platform) -> Result<Resolved>;

    /// Opens the stored bytes of one layer from the start. They are not verified here.
    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + Send>>;

    /// Signatures over a manifest; a source that is no registry has none.
    fn signatures(&self, _digest: &Digest) -> Result<Vec<Signature>> {
        Ok(Vec::new())
    }

    /// The bytes of a manifest or an index.
    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        Err(Error::new(format!("there is no manifest `{digest}` here")))
    }

    /// What the reference points at now, asked as cheaply as the source can; `None` when only `resolve` can tell. Equal
    /// to an earlier `reference_digest` means that nothing changed.
    fn current(&self) -> Result<Option<Digest>> {
        Ok(None)
    }

    /// Names that the source itself gives the image, as `docker save` writes them into its archive.
    fn names(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[derive(Clone, Debug, PartialEq)]
// One value per pull: its size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum Resolved {
    /// To be converted.
    Layers {
        /// What the reference itself points at: an index's digest, or the manifest's.
        reference_digest: Digest,
        manifest_digest: Digest,
        config_digest: Option<Digest>,
        config: Config,
        /// Lowest first.
        layers: Vec<Descriptor>,
        /// As long as `layers`, or empty when unknown before reading.
        diff_ids: Vec<Digest>,
    },
    /// A squashfs that exists, whole or inside another file.
    Squashfs {
        path: PathBuf,
        offset: u64,
        /// Bytes from `offset` to the end of the squashfs.
        length: u64,
        /// As the file around it says; else what was asked for.
        platform: Platform,
    },
}

/// Makes ready to read; connects to nothing yet.
pub fn open(reference: &Reference, settings: &SourceSettings) -> Result<Box<dyn Source>> {
    if let Some(path) = reference.path() {
        check_exists(path, reference)?;
    }
    Ok(match reference {
        Reference::Registry(name) => Box::new(Registry::open(name, settings)?),
        Reference::Layout { path, tag } => Box::new(Layout::directory(path, tag.clone())?),
        Reference::OciArchive { path, tag } => {
            Box::new(Layout::archive(path, tag.clone(), settings)?)
        }
        Reference::DockerArchive { path, tag } => {
            Box::new(DockerArchive::open(path, tag.clone(), settings)?)
        }
        Reference::Directory(path) => Box::new(Directory::open(path)?),
        Reference::RootfsTar(path) => Box::new(RootfsTar::open(path)?),
        Reference::Squashfs(path) => Box::new(SquashfsFile::open(path)?),
        Reference::Sif(path) => Box::new(SquashfsFile::open_sif(path)?),
        Reference::File(path) => return open_unknown(path, settings),
    })
}

/// Looks inside to tell what a path is.
fn open_unknown(path: &Path, settings: &SourceSettings) -> Result<Box<dyn Source>> {
    if path.is_dir() {
        return Ok(match path.join("oci-layout").exists() {
            true => Box::new(Layout::directory(path, None)?),
            false => Box::new(Directory::open(path)?),
        });
    }
    let mut start = [0; 64];
    let got = members::open_regular(path)?
        .read(&mut start)
        .or_say(|| format!("cannot read `{}`", path.display()))?;
    let start = start.get(..got).unwrap_or_default();
    if start.starts_with(b"hsqs") {
        return Ok(Box::new(SquashfsFile::open(path)?));
    }
    if squashfs::is_sif(start) {
        return Ok(Box::new(SquashfsFile::open_sif(path)?));
    }
    if rootfs::kind(path)? == rootfs::Kind::Rootfs {
        return Ok(Box::new(RootfsTar::open(path)?));
    }
    // Newer `docker save` writes both forms in one archive; the layout's digests are the registry's.
    let members = Members::open(path, settings)?;
    if members.has("oci-layout") && members.has("index.json") {
        return Ok(Box::new(Layout::members(members, path, None)?));
    }
    Ok(Box::new(DockerArchive::members(members, path, None)?))
}

/// A missing file is told as such, never as an image that a registry lacks.
pub fn check_exists(path: &Path, reference: &Reference) -> Result<()> {
    let error = match std::fs::metadata(path) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let shown = path.display();
    if error.kind() != std::io::ErrorKind::NotFound {
        return Err(Error::new(format!("cannot open `{shown}`")).source(error));
    }
    let mut missing = Error::usage(format!("there is no file `{shown}`"));
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            let names: Vec<String> = entries
                .take(1000)
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect();
            let wrong = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(near) = nearest(&wrong, names.iter().map(String::as_str)) {
                missing = missing.hint(format!(
                    "did you mean `{}`?",
                    directory.join(near).display()
                ));
            }
        }
        Err(_) => missing = missing.cause(format!("`{}` cannot be listed", directory.display())),
    }
    if path.starts_with("~") {
        missing = missing.hint("`~` is only understood by shells; write the whole path");
    }
    if matches!(
        reference,
        Reference::Squashfs(_) | Reference::Sif(_) | Reference::File(_)
    ) && !path.is_absolute()
        && !path.starts_with("~")
        && !path.starts_with(".")
    {
        missing = missing.hint(format!(
            "an image in a registry is named `docker://{shown}`"
        ));
    }
    Err(missing)
}

#[cfg(test)]
mod tests;
