//! What `docker save` writes: `manifest.json`, a config and layers, in a tar.
//!
//! Such an archive has no manifest digest; the config's digest (docker's image id) stands in for it.

use super::members::{Compression, Members, Section};
use super::settings::SourceSettings;
use super::{Descriptor, Resolved, Source};
use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest;
use crate::record::Platform;
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

pub struct DockerArchive {
    members: Members,
    name: Option<String>,
    /// Where `resolve` found each layer; several may be one member.
    layers: Mutex<HashMap<Digest, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl DockerArchive {
    pub fn open(
        path: &Path,
        name: Option<String>,
        settings: &SourceSettings,
    ) -> Result<DockerArchive> {
        DockerArchive::members(Members::open(path, settings)?, path, name)
    }

    pub fn members(members: Members, path: &Path, name: Option<String>) -> Result<DockerArchive> {
        if !members.has("manifest.json") {
            let error = Error::new(format!("`{}` is not an archive of docker", path.display()))
                .cause("it has no `manifest.json`");
            return Err(match members.has("repositories") {
                true => error.hint(
                    "it was written by a docker before 1.10; save it again with a current one",
                ),
                false => error.hint(
                    "an OCI layout is named `oci-archive:FILE`, a root file system `tar:FILE`",
                ),
            });
        }
        Ok(DockerArchive {
            members,
            name,
            layers: Mutex::default(),
        })
    }

    fn chosen(&self) -> Result<Image> {
        let bytes = self.members.read("manifest.json", manifest::MAX_BYTES)?;
        let mut images: Vec<Image> = serde_json::from_slice(&bytes)
            .or_say(|| "cannot read the archive's `manifest.json`")?;
        let names = images
            .iter()
            .flat_map(|image| image.repo_tags.iter().flatten())
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        if let Some(name) = &self.name {
            let wanted = full_name(name);
            images.retain(|image| {
                let mut tags = image.repo_tags.iter().flatten();
                tags.any(|tag| full_name(tag) == wanted)
            });
            if images.is_empty() {
                return Err(
                    Error::new(format!("the archive has no image named `{name}`"))
                        .hint(format!("it has {names}")),
                );
            }
        }
        if images.len() > 1 {
            return Err(Error::new("the archive has several images")
                .cause(names)
                .hint("name one after the path, as in `docker-archive:FILE:NAME:TAG`"));
        }
        images.pop().or_say(|| "the archive has no image")
    }
}

/// `alpine` and `docker.io/library/alpine:latest` are one name.
fn full_name(name: &str) -> String {
    match format!("docker://{name}").parse::<crate::image::reference::Reference>() {
        Ok(reference) => reference.to_string(),
        Err(_) => name.to_string(),
    }
}

impl Source for DockerArchive {
    fn resolve(&self, platform: &Platform) -> Result<Resolved> {
        let image = self.chosen()?;
        let bytes = self.members.read(&image.config, manifest::MAX_BYTES)?;
        let config_digest = Digest::of(&bytes);
        // The name usually is the digest; then it had better be true.
        let stem = image.config.rsplit('/').next().unwrap_or_default();
        let stated = format!("sha256:{}", stem.trim_end_matches(".json"));
        if let Ok(stated) = stated.parse::<Digest>()
            && stated != config_digest
        {
            return Err(Error::new(format!("cannot trust `{}`", image.config))
                .cause(format!("its content has the digest `{config_digest}`")));
        }
        let files = image.layers.unwrap_or_default();
        let mut config = manifest::parse_config(&bytes, files.len())?;
        manifest::check_platform(&config.platform, platform)?;
        if config.platform.os.is_empty() || config.platform.architecture.is_empty() {
            config.platform = platform.clone();
        }
        let mut layers = Vec::with_capacity(files.len());
        let mut found = HashMap::new();
        for (name, diff_id) in files.into_iter().zip(&config.diff_ids) {
            let (size, section) = self.members.get(&name)?;
            let layer = describe(size, section, *diff_id)
                .map_err(|error| error.while_doing(format!("cannot read the layer `{name}`")))?;
            found.insert(layer.digest, name);
            layers.push(layer);
        }
        if let Ok(mut layers) = self.layers.lock() {
            layers.extend(found);
        }
        Ok(Resolved::Layers {
            reference_digest: config_digest,
            manifest_digest: config_digest,
            config_digest: Some(config_digest),
            diff_ids: config.diff_ids.clone(),
            config,
            layers,
        })
    }

    fn names(&self) -> Result<Vec<String>> {
        Ok(self.chosen()?.repo_tags.unwrap_or_default())
    }

    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let name = self
            .layers
            .lock()
            .ok()
            .and_then(|layers| layers.get(&layer.digest).cloned())
            .or_say(|| format!("the archive has no layer `{}`", layer.digest))?;
        Ok(Box::new(self.members.get(&name)?.1))
    }
}

/// A plain layer has its diff id as digest; a compressed one (newer dockers) must be read to know.
fn describe(size: u64, mut section: Section, diff_id: Digest) -> Result<Descriptor> {
    let mut magic = [0; 6];
    let mut got = 0;
    while let Some(rest) = magic.get_mut(got..)
        && !rest.is_empty()
        && (got as u64) < size
    {
        got += section.read(rest).or_say(|| "cannot read its start")?;
    }
    let digest = match Compression::of(magic.get(..got).unwrap_or_default()) {
        Compression::None => diff_id,
        _ => super::hash::of_reader(magic.get(..got).unwrap_or_default().chain(section))?.0,
    };
    Ok(Descriptor {
        media_type: "application/vnd.docker.image.rootfs.diff.tar".to_string(),
        digest,
        size,
    })
}
