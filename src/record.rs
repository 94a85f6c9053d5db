//! The record: what is known of one image, written once beside it, read by every launch.
//!
//! It is the contract between the image half (which ends by writing one) and the launch half (which starts by reading
//! one). Unknown fields are ignored, so that an older carrack reads a newer record of the same schema. A record is
//! hostile until checked: [`ImageRecord::parse`] bounds its size and checks every digest it carries. Its last line is a
//! hash of the text before it: a byte that flipped on a disk is found by every reader. It is no signature.

use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Raised when an older reader would misunderstand a record.
pub const SCHEMA: u32 = 1;
/// Records are some kilobytes; labels may be long, a megabyte is hostile or broken.
pub const MAX_BYTES: usize = 4 << 20;

/// One image: where it came from, how to start it, what is inside, and how to check its bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageRecord {
    pub schema: u32,
    /// What the user asked for, in normal form.
    pub reference: String,
    /// What it was made from, where that is not what it is called: a file or a directory that was given a name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// `sha256:…` of the platform's manifest. For sources without one (a directory, a bare squashfs): of the content.
    pub manifest_digest: String,
    /// `sha256:…` of the config document; empty for sources without one.
    pub config_digest: String,
    pub platform: Platform,
    /// When the image was built, as its config says (RFC 3339).
    pub created: String,
    pub layers: Vec<Layer>,
    pub config: ImageConfig,
    /// `history[].created_by` of the config, oldest first.
    pub history: Vec<String>,
    pub squashfs: Squashfs,
    pub contents: Contents,
    /// What the conversion left out or met, by kind: `devices`, `xattrs`, `malformed-pax`, …
    pub notes: BTreeMap<String, u64>,
    pub tool: Tool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Layer {
    pub digest: String,
    pub diff_id: String,
    pub media_type: String,
    /// Bytes as transferred.
    pub size: u64,
}

/// The parts of the OCI config that decide how a process starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `NAME=value`, in the image's order.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub workdir: String,
    pub user: String,
    pub labels: BTreeMap<String, String>,
    pub volumes: Vec<String>,
    pub exposed_ports: Vec<String>,
    pub stop_signal: String,
}

/// The file and how to check it; see `squashfs/integrity.rs` for the layout behind the squashfs proper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Squashfs {
    /// Bytes of the whole file, with everything that stands behind the squashfs proper.
    pub size: u64,
    /// Bytes of the squashfs proper.
    pub bytes_used: u64,
    pub compressor: String,
    pub block_size: u32,
    pub inodes: u32,
    /// Sum of regular file sizes.
    pub content_bytes: u64,
    /// Where the table of block hashes starts, and how many entries it has; 0 entries means there is none.
    pub hashes_offset: u64,
    pub hashes_count: u64,
    /// `blake3-pages:…` pins every byte that a reader can see.
    pub root: String,
}

/// Software found while converting; each list empty when nothing was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contents {
    pub libc: Option<Libc>,
    pub mpi: Vec<Library>,
    /// libpmix, libpmi, libpmi2.
    pub pmi: Vec<Library>,
    /// CUDA and ROCm runtimes.
    pub gpu: Vec<Library>,
    /// Absolute path of a POSIX shell in the image.
    pub shell: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Libc {
    /// `glibc` or `musl`.
    pub kind: String,
    pub version: String,
    pub path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Library {
    /// `openmpi`, `mpich`, `intel-mpi`, `pmix`, `pmi1`, `pmi2`, `cuda`, `rocm`, …
    pub name: String,
    /// Upstream version as far as file names and contents tell; may be empty.
    pub version: String,
    /// SONAME or file name, e.g. `libmpi.so.40`.
    pub soname: String,
    pub path: String,
    /// Launch interfaces that it can speak: `pmix`, `pmi2`, `pmi1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub speaks: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tool {
    pub version: String,
    /// Format of packs and writer; equal formats give equal bytes.
    pub engine: String,
}

impl ImageRecord {
    // The plugin, which lacks the hash, reads no records.
    #[cfg(feature = "squashfs")]
    /// Reads and checks a record.
    pub fn parse(bytes: &[u8]) -> Result<ImageRecord> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::new(format!(
                "cannot read the image record: {} bytes, more than {MAX_BYTES}",
                bytes.len()
            )));
        }
        // What is no record at all is told as such; the checksum comes before anything is believed.
        let record = ImageRecord::parse_unsealed(bytes);
        if !is_sealed(bytes) {
            let altered =
                Error::new("cannot read the image record: its text is not as it was written")
                    .cause("the checksum in its last line does not fit")
                    .hint("a byte was changed on the disk or by hand; pull the image again");
            return Err(record.err().unwrap_or(altered));
        }
        record
    }

    /// The same for a text that was not written by [`ImageRecord::to_json`].
    pub fn parse_unsealed(bytes: &[u8]) -> Result<ImageRecord> {
        let record: ImageRecord =
            serde_json::from_slice(bytes).or_say(|| "cannot read the image record")?;
        if record.schema != SCHEMA {
            return Err(Error::new(format!(
                "cannot read the image record: schema {} is not {SCHEMA}",
                record.schema
            ))
            .hint("the store was written by another carrack; pull the image again with this one"));
        }
        for (name, digest) in [
            ("manifest_digest", &record.manifest_digest),
            ("squashfs.root", &record.squashfs.root),
        ] {
            if !is_digest(digest) {
                return Err(Error::new(format!(
                    "cannot read the image record: `{name}` is not a digest"
                ))
                .cause(digest));
            }
        }
        Ok(record)
    }

    #[cfg(feature = "squashfs")]
    /// The text written beside the image: stable order, two-space indent, its checksum, final newline.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let body = text.strip_suffix("\n}").unwrap_or_default();
        let hash = blake3::hash(body.as_bytes());
        format!("{body}{SEAL}{}\"\n}}\n", hash.to_hex())
    }
}

#[cfg(feature = "squashfs")]
/// What stands between the text and its hash.
const SEAL: &str = ",\n  \"checksum\": \"blake3:";

#[cfg(feature = "squashfs")]
/// Whether the text ends in the hash of what stands before it.
fn is_sealed(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_suffix(b"\"\n}\n") else {
        return false;
    };
    let Some((rest, hex)) = rest.split_last_chunk::<64>() else {
        return false;
    };
    rest.strip_suffix(SEAL.as_bytes())
        .is_some_and(|body| blake3::hash(body).to_hex().as_bytes() == hex)
}

/// `algorithm:64 lower-case hex digits`.
pub fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    matches!(algorithm, "sha256" | "blake3" | "blake3-pages")
        && hex.len() == 64
        && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ImageRecord {
        ImageRecord {
            schema: SCHEMA,
            manifest_digest: format!("sha256:{}", "a".repeat(64)),
            squashfs: Squashfs {
                root: format!("blake3:{}", "b".repeat(64)),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn text_and_back() {
        let record = sample();
        assert_eq!(
            ImageRecord::parse(record.to_json().as_bytes()).unwrap(),
            record
        );
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let text = sample().to_json().into_bytes();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap();
        for at in 0..text.len() {
            for bit in [1, 0x20] {
                let mut flipped = text.clone();
                flipped[at] ^= bit;
                assert!(ImageRecord::parse(&flipped).is_err(), "byte {at}");
            }
        }
        let unsealed = serde_json::to_vec_pretty(&sample()).unwrap();
        assert!(ImageRecord::parse_unsealed(&unsealed).is_ok());
        let error = ImageRecord::parse(&unsealed).unwrap_err().to_string();
        assert!(error.contains("not as it was written"), "{error}");
    }

    #[test]
    fn broken_records_are_refused() {
        let other_schema = ImageRecord {
            schema: 9,
            ..sample()
        }
        .to_json();
        let no_digest = ImageRecord {
            manifest_digest: "sha256:../../x".into(),
            ..sample()
        }
        .to_json();
        for text in ["", "{", "[]", &other_schema, &no_digest] {
            assert!(ImageRecord::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
