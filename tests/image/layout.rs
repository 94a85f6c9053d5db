//! OCI layouts on disk, right by default; a hostile test changes what it wants before it is written.

use super::tar;
use super::text::{Compression, Image};
use serde_json::{Value, json};
use sha2::Digest;
use std::io::Write;
use std::path::Path;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

pub fn sha256(bytes: &[u8]) -> String {
    let digest = sha2::Sha256::digest(bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What the registry world calls this machine.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The parts of one image before they are written.
#[derive(Clone)]
pub struct Layout {
    /// The stored bytes of each layer, and their media type.
    pub layers: Vec<(Vec<u8>, String)>,
    pub config: Value,
}

impl Layout {
    pub fn of(image: &Image) -> Layout {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &image.layers {
            let mut bytes = tar::archive(&layer.entries, !layer.no_end);
            bytes.truncate(bytes.len() - layer.cut);
            diff_ids.push(sha256(&bytes));
            let suffix = match layer.compression {
                Compression::Plain => "",
                Compression::Gzip | Compression::GzipMembers => "+gzip",
                Compression::Zstd => "+zstd",
            };
            let kind = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
            layers.push((compress(&bytes, layer.compression), kind));
        }
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "2001-09-09T01:46:40Z",
            "config": { "Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Layout { layers, config }
    }

    /// The image that this text describes.
    pub fn of_text(text: &str) -> Layout {
        Layout::of(&super::text::parse(text))
    }

    /// The manifest as it should be, not yet written.
    pub fn manifest(&self) -> Value {
        let config = self.config.to_string();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(bytes, kind)| descriptor(kind, bytes))
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config.as_bytes()),
            "layers": layers,
        })
    }

    pub fn write(&self, directory: &Path) {
        self.write_with(directory, |_| {});
    }

    /// Writes the layout with a manifest that was changed.
    pub fn write_with(&self, directory: &Path, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest();
        change(&mut manifest);
        let manifest = manifest.to_string();
        for (bytes, _) in &self.layers {
            put(directory, bytes);
        }
        put(directory, self.config.to_string().as_bytes());
        put(directory, manifest.as_bytes());
        let mut top = descriptor(MANIFEST, manifest.as_bytes());
        top["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        write_index(
            directory,
            &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [top] }),
        );
    }
}

pub fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": sha256(bytes), "size": bytes.len() })
}

/// Writes a blob under its digest, and gives that.
pub fn put(directory: &Path, bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    let path = directory.join("blobs").join(digest.replace(':', "/"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    digest
}

pub fn write_index(directory: &Path, index: &Value) {
    std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    std::fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

pub fn compress(bytes: &[u8], how: Compression) -> Vec<u8> {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    match how {
        Compression::Plain => bytes.to_vec(),
        Compression::Gzip => gzip(bytes),
        Compression::GzipMembers => {
            let (one, other) = bytes.split_at(bytes.len() / 2);
            [gzip(one), gzip(other)].concat()
        }
        Compression::Zstd => zstd::encode_all(bytes, 3).unwrap(),
    }
}
