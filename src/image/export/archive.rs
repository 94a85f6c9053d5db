//! OCI archives and layouts, and docker archives, with one layer.

use super::{Compression, Exported, Options, tar};
use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::progress::Progress;
use crate::record::ImageRecord;
use crate::squashfs::read::Image;
use serde_json::{Value, json};
use sha2::Digest as _;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

impl Compression {
    fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// The layer as it was written.
struct Layer {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    exported: Exported,
}

/// Passes bytes on, counting and hashing them.
struct Hashing<W> {
    inner: W,
    hasher: sha2::Sha256,
    count: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Hashing<W> {
        Hashing {
            inner,
            hasher: sha2::Sha256::new(),
            count: 0,
        }
    }

    fn finish(self) -> (W, Digest, u64) {
        let digest = Digest::from_bytes(self.hasher.finalize().into());
        (self.inner, digest, self.count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn write_layer(
    image: &Image,
    out: &mut File,
    compression: Compression,
    progress: &dyn Progress,
) -> Result<Layer> {
    let what = || "cannot write the layer";
    let stored = Hashing::new(BufWriter::with_capacity(1 << 18, out));
    let (exported, diff_id, stored) = match compression {
        Compression::None => {
            let (exported, diff_id, stored) = write_plain(image, stored, progress)?;
            (exported, diff_id, stored)
        }
        Compression::Gzip => {
            let encoder = flate2::GzBuilder::new().write(stored, flate2::Compression::new(6));
            let (exported, diff_id, encoder) = write_plain(image, encoder, progress)?;
            (exported, diff_id, encoder.finish().or_say(what)?)
        }
        Compression::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(stored, 3).or_say(what)?;
            let (exported, diff_id, encoder) = write_plain(image, encoder, progress)?;
            (exported, diff_id, encoder.finish().or_say(what)?)
        }
    };
    let (mut buffer, digest, size) = stored.finish();
    buffer.flush().or_say(what)?;
    Ok(Layer {
        digest,
        size,
        diff_id,
        exported,
    })
}

fn write_plain<W: Write>(
    image: &Image,
    out: W,
    progress: &dyn Progress,
) -> Result<(Exported, Digest, W)> {
    // Small headers would make small writes.
    let mut out = BufWriter::with_capacity(1 << 17, Hashing::new(out));
    let exported = tar::write(image, &mut out, progress)?;
    let hashing = out
        .into_inner()
        .map_err(|error| Error::new("cannot write the layer").source(error.into_error()))?;
    let (out, diff_id, _) = hashing.finish();
    Ok((exported, diff_id, out))
}

/// The config document: how to start it, as the record has it, and the one layer.
fn config(record: &ImageRecord, diff_id: &Digest) -> Value {
    let set = |names: &[String]| -> Value {
        names
            .iter()
            .map(|name| (name.clone(), json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let start = &record.config;
    let mut inner = serde_json::Map::new();
    let mut add = |key: &str, value: Value, empty: bool| {
        if !empty {
            inner.insert(key.into(), value);
        }
    };
    add("Env", json!(start.env), start.env.is_empty());
    add(
        "Entrypoint",
        json!(start.entrypoint),
        start.entrypoint.is_empty(),
    );
    add("Cmd", json!(start.cmd), start.cmd.is_empty());
    add("WorkingDir", json!(start.workdir), start.workdir.is_empty());
    add("User", json!(start.user), start.user.is_empty());
    add("Labels", json!(start.labels), start.labels.is_empty());
    add("Volumes", set(&start.volumes), start.volumes.is_empty());
    add(
        "ExposedPorts",
        set(&start.exposed_ports),
        start.exposed_ports.is_empty(),
    );
    add(
        "StopSignal",
        json!(start.stop_signal),
        start.stop_signal.is_empty(),
    );
    let mut history: Vec<Value> = record
        .history
        .iter()
        .map(|line| json!({"created_by": line, "empty_layer": true}))
        .collect();
    history.push(json!({"created_by": "carrack export", "comment": "all layers as one"}));
    let or = |text: &str, other: &str| if text.is_empty() { other } else { text }.to_string();
    let mut document = json!({
        "os": or(&record.platform.os, "linux"),
        "architecture": or(&record.platform.architecture, "amd64"),
        "config": inner,
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": history,
    });
    if let Some(fields) = document.as_object_mut() {
        for (key, value) in [
            ("variant", &record.platform.variant),
            ("created", &record.created),
        ] {
            if !value.is_empty() {
                fields.insert(key.into(), json!(value));
            }
        }
    }
    document
}

/// Config, manifest and index of an OCI image, as bytes.
struct Documents {
    config: Vec<u8>,
    manifest: Vec<u8>,
    index: Vec<u8>,
}

fn documents(record: &ImageRecord, layer: &Layer, options: &Options) -> Documents {
    let config = config(record, &layer.diff_id).to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG,
            "digest": Digest::of(&config).to_string(),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": options.compression.media_type(),
            "digest": layer.digest.to_string(),
            "size": layer.size,
        }],
    })
    .to_string()
    .into_bytes();
    let mut entry = json!({
        "mediaType": MANIFEST,
        "digest": Digest::of(&manifest).to_string(),
        "size": manifest.len(),
    });
    if let Some(fields) = entry.as_object_mut().filter(|_| !options.name.is_empty()) {
        fields.insert(
            "annotations".into(),
            json!({"org.opencontainers.image.ref.name": options.name}),
        );
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
        .to_string()
        .into_bytes();
    Documents {
        config,
        manifest,
        index,
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A tar of an OCI layout.
pub fn oci(
    image: &Image,
    record: &ImageRecord,
    out: &mut File,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Exported> {
    // skopeo gives directories that it must make itself to root, which it may not when a plain user reads the archive.
    for directory in ["blobs/", "blobs/sha256/"] {
        out.write_all(&tar::directory_header(directory))
            .or_say(|| "cannot write the archive")?;
    }
    let layer = layer_in_front(image, out, options.compression, progress, |layer| {
        blob_name(&layer.digest)
    })?;
    let documents = documents(record, &layer, options);
    member(
        out,
        &blob_name(&Digest::of(&documents.config)),
        &documents.config,
    )?;
    member(
        out,
        &blob_name(&Digest::of(&documents.manifest)),
        &documents.manifest,
    )?;
    member(out, "index.json", &documents.index)?;
    member(out, "oci-layout", LAYOUT.as_bytes())?;
    end(out)?;
    Ok(layer.exported)
}

/// What `docker load` reads.
pub fn docker(
    image: &Image,
    record: &ImageRecord,
    out: &mut File,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Exported> {
    // Layers of docker archives are plain.
    let name = |layer: &Layer| format!("{}.tar", layer.diff_id.hex());
    let layer = layer_in_front(image, out, Compression::None, progress, name)?;
    let config = config(record, &layer.diff_id).to_string().into_bytes();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let tags: Vec<&str> = [options.name.as_str()]
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": tags,
        "Layers": [name(&layer)],
    }]);
    member(out, &config_name, &config)?;
    member(out, "manifest.json", manifest.to_string().as_bytes())?;
    end(out)?;
    Ok(layer.exported)
}

/// A directory in the OCI layout.
pub fn layout(
    image: &Image,
    record: &ImageRecord,
    directory: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Exported> {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(directory).or_say(|| "cannot make the directory")?;
    if std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::new("the directory is not empty").hint(
            "name a directory that does not exist; an OCI layout is not merged into another",
        ));
    }
    std::fs::create_dir_all(&blobs).or_say(|| "cannot make the directory")?;
    let write = |name: &str, bytes: &[u8]| {
        super::beside(&directory.join(name), |out| {
            out.write_all(bytes)
                .or_say(|| format!("cannot write `{name}`"))
        })
    };
    // Its name is known when it is complete.
    let unnamed = blobs.join("layer");
    let layer = super::beside(&unnamed, |out| {
        write_layer(image, out, options.compression, progress)
    })?;
    std::fs::rename(&unnamed, blobs.join(layer.digest.hex()))
        .or_say(|| "cannot give the layer its name")?;
    let documents = documents(record, &layer, options);
    write(
        &blob_name(&Digest::of(&documents.config)),
        &documents.config,
    )?;
    write(
        &blob_name(&Digest::of(&documents.manifest)),
        &documents.manifest,
    )?;
    write("oci-layout", LAYOUT.as_bytes())?;
    // Last: a layout without an index is not one.
    write("index.json", &documents.index)?;
    Ok(layer.exported)
}

/// Writes the layer behind room for its header, then the header, and leaves the file at the end.
fn layer_in_front(
    image: &Image,
    out: &mut File,
    compression: Compression,
    progress: &dyn Progress,
    name: impl FnOnce(&Layer) -> String,
) -> Result<Layer> {
    let what = || "cannot write the archive";
    let start = out.stream_position().or_say(what)?;
    out.seek(SeekFrom::Start(start + 512)).or_say(what)?;
    let layer = write_layer(image, out, compression, progress)?;
    out.seek(SeekFrom::Start(start)).or_say(what)?;
    out.write_all(&tar::file_header(&name(&layer), layer.size))
        .or_say(what)?;
    out.seek(SeekFrom::End(0)).or_say(what)?;
    pad(out, layer.size)?;
    Ok(layer)
}

fn member(out: &mut File, name: &str, bytes: &[u8]) -> Result<()> {
    let what = || "cannot write the archive";
    out.write_all(&tar::file_header(name, bytes.len() as u64))
        .or_say(what)?;
    out.write_all(bytes).or_say(what)?;
    pad(out, bytes.len() as u64)
}

fn pad(out: &mut File, size: u64) -> Result<()> {
    let zeros = [0; 512];
    let missing = (size.next_multiple_of(512) - size) as usize;
    out.write_all(zeros.get(..missing).unwrap_or_default())
        .or_say(|| "cannot write the archive")
}

fn end(out: &mut File) -> Result<()> {
    out.write_all(&[0; 1024])
        .or_say(|| "cannot write the archive")
}
