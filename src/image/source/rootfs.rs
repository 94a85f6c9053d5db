//! A tar of a root file system: one layer without a manifest.
//!
//! The file's digest stands in for the manifest's. What such a tar does not know (environment, entry point) stays empty.

use super::members::{Compression, compression, header_at, inflated, open_regular};
use super::{Descriptor, Resolved, Source, hash};
use crate::error::{Context, Error, Result};
use crate::image::manifest::Config;
use crate::record::Platform;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

pub struct RootfsTar {
    path: PathBuf,
    compression: Compression,
}

impl RootfsTar {
    pub fn open(path: &Path) -> Result<RootfsTar> {
        let what = || format!("cannot read `{}`", path.display());
        let file = open_regular(path)?;
        let compression = compression(&file).or_say(what)?;
        first_header(&file, compression).map_err(|error| error.while_doing(what()))?;
        Ok(RootfsTar {
            path: path.to_path_buf(),
            compression,
        })
    }
}

/// The first header, which tells whether this is a tar at all; `None` for an empty archive.
fn first_header(file: &File, kind: Compression) -> Result<Option<tar::Header>> {
    if kind == Compression::None {
        let length = file.metadata().or_say(|| "cannot read its length")?.len();
        return header_at(file, 0, length);
    }
    // In memory: 512 bytes are no reason to need a place for temporary files.
    let start = memfd_create("start", MemfdFlags::CLOEXEC);
    let mut start = File::from(start.or_say(|| "cannot decompress it")?);
    let mut reader = inflated(file, kind)?.take(512);
    let length = std::io::copy(&mut reader, &mut start).or_say(|| "cannot decompress it")?;
    header_at(&start, 0, length)
}

impl Source for RootfsTar {
    fn resolve(&self, platform: &Platform) -> Result<Resolved> {
        let (digest, size) = hash::of_reader(open_regular(&self.path)?)
            .map_err(|error| error.while_doing(format!("cannot read `{}`", self.path.display())))?;
        Ok(one_layer(
            Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar".to_string(),
                digest,
                size,
            },
            self.compression == Compression::None,
            platform,
        ))
    }

    fn blob(&self, _layer: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(open_regular(&self.path)?))
    }
}

/// An image that is nothing but one layer; a `plain` one has its own digest as diff id.
pub fn one_layer(layer: Descriptor, plain: bool, platform: &Platform) -> Resolved {
    let diff_ids = match plain {
        true => vec![layer.digest],
        false => Vec::new(),
    };
    Resolved::Layers {
        reference_digest: layer.digest,
        manifest_digest: layer.digest,
        config_digest: None,
        config: Config {
            platform: platform.clone(),
            diff_ids: diff_ids.clone(),
            ..Config::default()
        },
        layers: vec![layer],
        diff_ids,
    }
}

/// What a tar file holds, as its first entries tell.
#[derive(Debug, PartialEq)]
pub enum Kind {
    /// Of `docker save` or an OCI layout.
    Archive,
    Rootfs,
}

/// Looks at the first name that says something.
pub fn kind(path: &Path) -> Result<Kind> {
    let what = || format!("cannot read `{}`", path.display());
    let file = open_regular(path)?;
    let kind = compression(&file).or_say(what)?;
    first_header(&file, kind).map_err(|error| {
        error.while_doing(what()).hint(
            "known are squashfs, SIF and tar files; tar files may be compressed with gzip or zstd",
        )
    })?;
    (&file).rewind().or_say(what)?;
    let reader = inflated(file, kind)?;
    let mut archive = tar::Archive::new(reader);
    let entries = archive.entries().or_say(what)?;
    for entry in entries.take(64) {
        let entry = entry.or_say(what)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let first = name
            .split('/')
            .find(|part| !matches!(*part, "" | "."))
            .unwrap_or_default();
        if first.is_empty() {
            continue;
        }
        let stem = first.split('.').next().unwrap_or_default();
        let hex = stem.len() == 64 && stem.bytes().all(|c| c.is_ascii_hexdigit());
        let known = [
            "blobs",
            "oci-layout",
            "index.json",
            "manifest.json",
            "repositories",
        ];
        return Ok(match hex || known.contains(&first) {
            true => Kind::Archive,
            false => Kind::Rootfs,
        });
    }
    Err(Error::new(what()).cause("the archive is empty"))
}
