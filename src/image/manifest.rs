//! Manifests, indexes and configs as registries and layouts serve them, read with suspicion.
//!
//! Everything here is pure: bytes in, values or a reason out. A document that could be read as two kinds, whose stated
//! kind differs from its content, or that is not an image at all is refused by name. Schema 1 manifests, foreign
//! (non-distributable) and encrypted layers are deliberately not supported.

use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::record::{ImageConfig, Platform};
use oci_client::manifest as oci;
use serde::Deserialize;
use std::collections::BTreeMap;

/// No real manifest, index or config comes near; registries refuse larger ones too.
pub const MAX_BYTES: usize = 4 << 20;
/// Docker stops at 127; some build tools go further.
pub const MAX_LAYERS: usize = 2048;
/// An index may name indexes; more steps than this are a loop or a joke.
pub const MAX_DEPTH: usize = 4;

const ANNOTATION_NAME: &str = "org.opencontainers.image.ref.name";
const ANNOTATION_FULL_NAME: &str = "io.containerd.image.name";
const ANNOTATION_TYPE: &str = "vnd.docker.reference.type";

/// What to ask a registry for.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// What one document says of another or of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// One image for one platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Several images, or indexes, to choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub descriptor: Descriptor,
    pub platform: Option<Platform>,
    pub annotations: BTreeMap<String, String>,
}

/// The parts of the config document that carrack keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub config: ImageConfig,
    pub history: Vec<String>,
    pub created: String,
    pub platform: Platform,
    pub diff_ids: Vec<Digest>,
}

/// Reads a manifest or an index. `stated` is the media type given by whoever served it, if any.
pub fn parse(bytes: &[u8], stated: Option<&str>) -> Result<Document> {
    /// Just enough of a document to tell what it claims to be.
    #[derive(Deserialize)]
    struct Probe {
        #[serde(rename = "schemaVersion")]
        schema: Option<u64>,
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
        #[serde(rename = "fsLayers")]
        fs_layers: Option<serde::de::IgnoredAny>,
    }

    check_size(bytes.len(), "manifest")?;
    let probe: Probe = serde_json::from_slice(bytes).or_say(|| "cannot read the manifest")?;
    let says = |kind: Kind, by: &str| {
        Error::new("cannot read the manifest").cause(format!("it is {} by {by}", kind.noun()))
    };
    let schema1 = stated.and_then(kind_of) == Some(Kind::Schema1)
        || probe.media_type.as_deref().and_then(kind_of) == Some(Kind::Schema1);
    if schema1 || probe.schema == Some(1) || probe.fs_layers.is_some() {
        return Err(Error::new("cannot use the manifest")
            .cause("it has schema 1, a format that registries gave up in 2017")
            .hint("pull and push the image once with a current tool, for example `skopeo copy --format oci SOURCE DESTINATION`"));
    }
    if probe.schema.is_some_and(|schema| schema != 2) {
        return Err(Error::new("cannot read the manifest").cause("its `schemaVersion` is not 2"));
    }
    let kind = match (
        probe.manifests.is_some(),
        probe.layers.is_some() || probe.config.is_some(),
    ) {
        (true, false) => Kind::Index,
        (false, true) => Kind::Manifest,
        (true, true) => {
            return Err(Error::new("cannot read the manifest").cause(
                "it has both `manifests` and `layers`, so its digest could stand for two images",
            ));
        }
        (false, false) => {
            return Err(Error::new("cannot read the manifest")
                .cause("it has neither `layers` nor `manifests`"));
        }
    };
    for (media_type, by) in [
        (probe.media_type.as_deref(), "its own `mediaType`"),
        (stated, "the media type that it was served with"),
    ] {
        if let Some(other) = media_type.and_then(kind_of)
            && other != kind
        {
            return Err(
                says(other, by).cause(format!("but its content is that of {}", kind.noun()))
            );
        }
    }
    match kind {
        Kind::Index => parse_index(bytes).map(Document::Index),
        _ => parse_manifest(bytes).map(Document::Manifest),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Manifest,
    Index,
    Schema1,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Kind::Manifest => "a manifest",
            Kind::Index => "an index",
            Kind::Schema1 => "a schema 1 manifest",
        }
    }
}

/// `None` for media types that say nothing, such as `application/json`.
fn kind_of(media_type: &str) -> Option<Kind> {
    let bare = media_type.split(';').next().unwrap_or_default().trim();
    match bare {
        oci::OCI_IMAGE_MEDIA_TYPE | oci::IMAGE_MANIFEST_MEDIA_TYPE => Some(Kind::Manifest),
        oci::OCI_IMAGE_INDEX_MEDIA_TYPE | oci::IMAGE_MANIFEST_LIST_MEDIA_TYPE => Some(Kind::Index),
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Some(Kind::Schema1),
        _ => None,
    }
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest> {
    let manifest: oci::OciImageManifest =
        serde_json::from_slice(bytes).or_say(|| "cannot read the manifest")?;
    let config = descriptor(
        &manifest.config.media_type,
        &manifest.config.digest,
        manifest.config.size,
    )
    .map_err(|error| error.while_doing("cannot read the manifest's config"))?;
    match config.media_type.as_str() {
        oci::IMAGE_CONFIG_MEDIA_TYPE | oci::IMAGE_DOCKER_CONFIG_MEDIA_TYPE => {}
        other => {
            let kind = manifest.artifact_type.as_deref().unwrap_or(other);
            return Err(Error::new("this is not a container image")
                .cause(format!("it is an artifact of type `{kind}`"))
                .hint("`carrack artifact pull` fetches the files of an artifact"));
        }
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Error::new("cannot use the manifest").cause(format!(
            "it has {} layers (the limit is {MAX_LAYERS})",
            manifest.layers.len()
        )));
    }
    let layers = manifest
        .layers
        .iter()
        .enumerate()
        .map(|(index, layer)| {
            let read = || {
                check_layer_type(&layer.media_type)?;
                descriptor(&layer.media_type, &layer.digest, layer.size)
            };
            read().map_err(|error| {
                error.while_doing(format!(
                    "cannot use layer {} of {}, `{}`",
                    index + 1,
                    manifest.layers.len(),
                    layer.digest
                ))
            })
        })
        .collect::<Result<_>>()?;
    Ok(Manifest { config, layers })
}

/// Which compression it has is found from the bytes; here only what can never work is refused.
fn check_layer_type(media_type: &str) -> Result<()> {
    let bare = media_type.split(';').next().unwrap_or_default().trim();
    if bare.contains("encrypted") {
        return Err(Error::new("the layer is encrypted")
            .cause(format!("media type `{bare}`"))
            .hint("decrypt the image first, for example with `skopeo copy --decryption-key`"));
    }
    if bare.contains("foreign") || bare.contains("nondistributable") {
        return Err(
            Error::new("the layer is not kept in the registry (a foreign layer)")
                .cause(format!("media type `{bare}`"))
                .hint("such layers belong to Windows images, which cannot run here"),
        );
    }
    let tar = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/x-tar",
        "application/tar",
    ];
    let compression = tar
        .iter()
        .find_map(|tar| bare.strip_prefix(tar))
        .map(|rest| rest.trim_start_matches(['+', '.']));
    match compression {
        Some("" | "gzip" | "zstd") => Ok(()),
        Some(other) => Err(Error::new(format!(
            "the layer's compression `{other}` is not supported"
        ))
        .cause(format!("media type `{bare}`"))),
        None => Err(Error::new("the layer is not a file system layer")
            .cause(format!("media type `{bare}`"))),
    }
}

fn parse_index(bytes: &[u8]) -> Result<Index> {
    let index: oci::OciImageIndex =
        serde_json::from_slice(bytes).or_say(|| "cannot read the index")?;
    let entries = index
        .manifests
        .into_iter()
        .map(|entry| {
            Ok(Entry {
                descriptor: descriptor(&entry.media_type, &entry.digest, entry.size)
                    .map_err(|error| error.while_doing("cannot read the index"))?,
                platform: entry.platform.map(|platform| {
                    normal_platform(
                        &platform.os.to_string(),
                        &platform.architecture.to_string(),
                        platform.variant.as_deref().unwrap_or_default(),
                    )
                }),
                annotations: entry.annotations.unwrap_or_default(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Index { entries })
}

fn descriptor(media_type: &str, digest: &str, size: i64) -> Result<Descriptor> {
    Ok(Descriptor {
        media_type: media_type.to_string(),
        digest: digest.parse()?,
        size: u64::try_from(size).or_say(|| format!("the size of `{digest}` is negative"))?,
    })
}

fn check_size(bytes: usize, what: &str) -> Result<()> {
    if bytes > MAX_BYTES {
        return Err(Error::new(format!("cannot read the {what}"))
            .cause(format!("it has {bytes} bytes (the limit is {MAX_BYTES})")));
    }
    Ok(())
}

/// Reads a config document and checks that it fits its manifest.
pub fn parse_config(bytes: &[u8], layers: usize) -> Result<Config> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Document {
        architecture: Option<String>,
        os: Option<String>,
        variant: Option<String>,
        created: Option<String>,
        config: Option<Inner>,
        rootfs: Option<Rootfs>,
        history: Option<Vec<History>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Inner {
        env: Option<Vec<String>>,
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        working_dir: Option<String>,
        user: Option<String>,
        labels: Option<BTreeMap<String, Option<String>>>,
        volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
        exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
        stop_signal: Option<String>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Rootfs {
        diff_ids: Option<Vec<String>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct History {
        created_by: Option<String>,
    }

    check_size(bytes.len(), "image config")?;
    let what = "cannot read the image config";
    let document: Document = serde_json::from_slice(bytes).or_say(|| what)?;
    let inner = document.config.unwrap_or_default();
    let diff_ids = document
        .rootfs
        .and_then(|rootfs| rootfs.diff_ids)
        .unwrap_or_default()
        .iter()
        .map(|text| text.parse())
        .collect::<Result<Vec<Digest>>>()
        .map_err(|error| error.while_doing(what))?;
    if diff_ids.len() != layers {
        return Err(Error::new(what).cause(format!(
            "it lists {} layers, the manifest has {layers}",
            diff_ids.len()
        )));
    }
    Ok(Config {
        config: ImageConfig {
            env: inner.env.unwrap_or_default(),
            entrypoint: inner.entrypoint.unwrap_or_default(),
            cmd: inner.cmd.unwrap_or_default(),
            workdir: inner.working_dir.unwrap_or_default(),
            user: inner.user.unwrap_or_default(),
            labels: inner
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (name, value.unwrap_or_default()))
                .collect(),
            volumes: inner.volumes.unwrap_or_default().into_keys().collect(),
            exposed_ports: inner
                .exposed_ports
                .unwrap_or_default()
                .into_keys()
                .collect(),
            stop_signal: inner.stop_signal.unwrap_or_default(),
        },
        history: document
            .history
            .unwrap_or_default()
            .into_iter()
            .map(|entry| entry.created_by.unwrap_or_default())
            .collect(),
        created: document.created.unwrap_or_default(),
        platform: normal_platform(
            document.os.as_deref().unwrap_or_default(),
            document.architecture.as_deref().unwrap_or_default(),
            document.variant.as_deref().unwrap_or_default(),
        ),
        diff_ids,
    })
}

/// Refuses an image for another machine, unless its config leaves the machine open.
pub fn check_platform(found: &Platform, wanted: &Platform) -> Result<()> {
    let open = found.os.is_empty() || found.architecture.is_empty();
    if open || rank(found, wanted).is_some() {
        return Ok(());
    }
    Err(Error::new(format!(
        "the image is for {}, not for {}",
        platform_text(found),
        platform_text(wanted)
    ))
    .hint(format!(
        "to get it anyway, for another machine, use `--platform {}`",
        platform_text(found)
    )))
}

impl Index {
    /// The entries to try for a platform, best first: fitting manifests, then indexes that may hold one.
    pub fn choose(&self, wanted: &Platform) -> Result<Vec<&Entry>> {
        let wanted = &normal_platform(&wanted.os, &wanted.architecture, &wanted.variant);
        let images = || self.entries.iter().filter(|entry| !entry.is_attestation());
        let mut fitting: Vec<(usize, &Entry)> = images()
            .filter(|entry| !entry.is_index())
            .filter_map(|entry| Some((rank(entry.platform.as_ref()?, wanted)?, entry)))
            .collect();
        // Stable: of equals, the first entry wins.
        fitting.sort_by_key(|(rank, _)| *rank);
        let mut chosen: Vec<&Entry> = fitting
            .into_iter()
            .take(1)
            .map(|(_, entry)| entry)
            .collect();
        chosen.extend(images().filter(|entry| {
            entry.is_index()
                && entry
                    .platform
                    .as_ref()
                    .is_none_or(|platform| rank(platform, wanted).is_some())
        }));
        // Layouts that hold one image often do not say for which platform; its config does.
        let mut open = images().filter(|entry| !entry.is_index() && entry.platform.is_none());
        if chosen.is_empty()
            && let (Some(only), None) = (open.next(), open.next())
        {
            chosen.push(only);
        }
        if chosen.is_empty() {
            return Err(self.nothing_for(wanted));
        }
        Ok(chosen)
    }

    fn nothing_for(&self, wanted: &Platform) -> Error {
        let mut have: Vec<String> = self
            .entries
            .iter()
            .filter(|entry| !entry.is_attestation())
            .map(|entry| match &entry.platform {
                Some(platform) => platform_text(platform),
                None => "an unnamed platform".to_string(),
            })
            .collect();
        have.dedup();
        let error = Error::new(format!(
            "the image has no version for {}",
            platform_text(wanted)
        ));
        if have.is_empty() {
            return error.cause("its index is empty");
        }
        error
            .cause(format!("it has: {}", have.join(", ")))
            .hint("another platform is chosen with `--platform OS/ARCHITECTURE`")
    }

    /// The entries of a layout that carry this tag; all of them without a tag.
    pub fn tagged(&self, tag: Option<&str>) -> Vec<&Entry> {
        self.entries
            .iter()
            .filter(|entry| !entry.is_attestation())
            .filter(|entry| tag.is_none_or(|tag| entry.has_name(tag)))
            .collect()
    }
}

impl Entry {
    /// The name that a layout gives it.
    pub fn name(&self) -> Option<&str> {
        self.annotations.get(ANNOTATION_NAME).map(String::as_str)
    }

    fn has_name(&self, tag: &str) -> bool {
        self.name() == Some(tag)
            || self
                .annotations
                .get(ANNOTATION_FULL_NAME)
                .is_some_and(|name| name == tag)
            || self.descriptor.digest.to_string() == tag
    }

    pub fn is_index(&self) -> bool {
        kind_of(&self.descriptor.media_type) == Some(Kind::Index)
    }

    /// Build tools list proofs beside the images, under a platform that does not exist.
    fn is_attestation(&self) -> bool {
        self.annotations
            .get(ANNOTATION_TYPE)
            .is_some_and(|kind| kind == "attestation-manifest")
            || self
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "unknown" || p.architecture == "unknown")
    }
}

/// One spelling per machine: `x86_64` is `amd64`, `arm64/v8` is `arm64`, 32-bit arm without a variant is `v7`.
pub fn normal_platform(os: &str, architecture: &str, variant: &str) -> Platform {
    let architecture = match architecture.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" => "amd64".to_string(),
        "aarch64" => "arm64".to_string(),
        "armhf" | "armv7l" => "arm".to_string(),
        "i386" | "i686" => "386".to_string(),
        "powerpc64le" => "ppc64le".to_string(),
        other => other.to_string(),
    };
    let variant = match (architecture.as_str(), variant) {
        ("arm64", "v8" | "8") | ("amd64", "v1") => "",
        ("arm", "") => "v7",
        (_, variant) => variant,
    };
    Platform {
        os: os.to_ascii_lowercase(),
        variant: variant.to_string(),
        architecture,
    }
}

/// `os/architecture[/variant]`, as `--platform` takes it.
pub fn platform_text(platform: &Platform) -> String {
    let mut text = format!("{}/{}", platform.os, platform.architecture);
    if !platform.variant.is_empty() {
        text.push('/');
        text.push_str(&platform.variant);
    }
    text
}

/// How far below the wanted machine this one is: 0 the same, 1 one variant older …; `None`: it cannot run there.
fn rank(found: &Platform, wanted: &Platform) -> Option<usize> {
    let found = normal_platform(&found.os, &found.architecture, &found.variant);
    let wanted = normal_platform(&wanted.os, &wanted.architecture, &wanted.variant);
    if found.os != wanted.os || found.architecture != wanted.architecture {
        return None;
    }
    if found.variant == wanted.variant {
        return Some(0);
    }
    let level = |platform: &Platform| -> Option<usize> {
        match (platform.architecture.as_str(), platform.variant.as_str()) {
            ("amd64", "") => Some(1),
            ("arm64", "") => Some(8),
            (_, variant) => variant.strip_prefix('v')?.parse().ok(),
        }
    };
    level(&wanted)?.checked_sub(level(&found)?)
}

#[cfg(test)]
mod tests;
