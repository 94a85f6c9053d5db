//! Where images come from: one trait, one file per kind of place.
//!
//! A source hands out bytes and says what digest and size they should have. It checks documents (manifests, configs)
//! itself; blobs are checked by the conversion while they stream through it. Nothing here decompresses a layer or knows
//! the store.

#[allow(dead_code)] // The next file in this folder calls it.
mod resolve;
pub mod settings;

pub use crate::image::manifest::Descriptor;
pub use settings::{Secret, SourceSettings};

use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::Config;
use crate::image::reference::Reference;
use crate::record::Platform;
use std::io::Read;
use std::path::PathBuf;

/// A place that one image comes from. Safe to use from several threads.
pub trait Source: Send + Sync {
    /// Finds the image for a platform.
    fn resolve(&self, platform: &Platform) -> Result<Resolved>;

    /// Opens the stored bytes of one layer from the start. They are not verified here.
    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + Send>>;

    /// What the reference points at now, asked as cheaply as the source can; `None` when only `resolve` can tell. Equal
    /// to an earlier `reference_digest` means that nothing changed.
    fn current(&self) -> Result<Option<Digest>> {
        Ok(None)
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
    let _ = settings;
    Err(Error::new(format!("cannot open `{reference}`")).cause("this kind of source is not ready"))
}
