//! From the document that a reference points at down to one manifest and its config.

use super::Resolved;
use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{self, Descriptor, Document, Manifest};
use crate::record::Platform;

/// Reads a small document whole. Length and digest are checked here, not there.
pub type Fetch<'a> = &'a dyn Fn(&Descriptor) -> Result<Vec<u8>>;

/// Follows a manifest or an index that is already at hand.
pub fn resolve(
    reference_digest: Digest,
    document: Document,
    platform: &Platform,
    fetch: Fetch<'_>,
) -> Result<Resolved> {
    let walk = Walk {
        reference_digest,
        platform,
        fetch,
    };
    walk.descend(reference_digest, document, true, 0)
}

struct Walk<'a> {
    reference_digest: Digest,
    platform: &'a Platform,
    fetch: Fetch<'a>,
}

impl Walk<'_> {
    /// `open` when no index has told the platform of this document yet.
    fn descend(
        &self,
        digest: Digest,
        document: Document,
        open: bool,
        depth: usize,
    ) -> Result<Resolved> {
        let index = match document {
            Document::Manifest(manifest) => return self.image(digest, manifest, open),
            Document::Index(index) => index,
        };
        if depth >= manifest::MAX_DEPTH {
            return Err(
                Error::new("cannot find the image in its index").cause(format!(
                    "indexes are nested more than {} deep",
                    manifest::MAX_DEPTH
                )),
            );
        }
        let mut last = None;
        for entry in index.choose(self.platform)? {
            let bytes = checked(&entry.descriptor, self.fetch)?;
            let document =
                manifest::parse(&bytes, Some(&entry.descriptor.media_type)).map_err(|error| {
                    error.while_doing(format!("cannot use `{}`", entry.descriptor.digest))
                })?;
            let open = entry.platform.is_none();
            match self.descend(entry.descriptor.digest, document, open, depth + 1) {
                Ok(resolved) => return Ok(resolved),
                // Another index may hold the platform; an image that was chosen is final.
                Err(error) if entry.is_index() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new("cannot find the image in its index")))
    }

    fn image(&self, manifest_digest: Digest, manifest: Manifest, open: bool) -> Result<Resolved> {
        let bytes = checked(&manifest.config, self.fetch)?;
        let mut config = manifest::parse_config(&bytes, manifest.layers.len())?;
        if open {
            manifest::check_platform(&config.platform, self.platform)?;
        }
        if config.platform.os.is_empty() || config.platform.architecture.is_empty() {
            config.platform = self.platform.clone();
        }
        Ok(Resolved::Layers {
            reference_digest: self.reference_digest,
            manifest_digest,
            config_digest: Some(manifest.config.digest),
            diff_ids: config.diff_ids.clone(),
            config,
            layers: manifest.layers,
        })
    }
}

/// Fetches a document and holds it to its descriptor.
pub fn checked(descriptor: &Descriptor, fetch: Fetch<'_>) -> Result<Vec<u8>> {
    let name = descriptor.digest;
    if descriptor.size > manifest::MAX_BYTES as u64 {
        return Err(Error::new(format!("cannot read `{name}`")).cause(format!(
            "{} bytes are too many for a document of type `{}` (the limit is {})",
            descriptor.size,
            descriptor.media_type,
            manifest::MAX_BYTES
        )));
    }
    let bytes = fetch(descriptor)?;
    if bytes.len() as u64 != descriptor.size {
        return Err(Error::new(format!("cannot trust `{name}`")).cause(format!(
            "it has {} bytes, its descriptor says {}",
            bytes.len(),
            descriptor.size
        )));
    }
    let found = Digest::of(&bytes);
    if found != name {
        return Err(Error::new(format!("cannot trust `{name}`"))
            .cause(format!("its content has the digest `{found}`")));
    }
    Ok(bytes)
}
