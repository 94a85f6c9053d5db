//! Layers → one squashfs: packs them in parallel, merges their indexes, assembles the file.
//!
//! The output's bytes depend on the layers' content and the options only: not on threads, cache, compression of the
//! layers or order of arrival. Absent on purpose: where images live (the store gives an output path and publishes it).

use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::progress::Progress;
pub use crate::pack::cache::PackCache;
use crate::record;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Opens the stored bytes of a layer from the start; may be called again after a failure.
pub type OpenLayer = Box<dyn Fn() -> Result<Box<dyn Read + Send>> + Send + Sync>;

/// One layer to convert, lowest first in a list of them.
pub struct LayerInput {
    /// Of the stored bytes; verified when given.
    pub digest: Option<Digest>,
    /// Of the stored bytes; verified when given.
    pub size: Option<u64>,
    /// Of the inflated bytes; verified when given, and what finds the pack without opening the layer.
    pub diff_id: Option<Digest>,
    /// For messages only: the bytes themselves tell gzip, zstd and plain apart.
    pub media_type: String,
    pub open: OpenLayer,
}

/// How to convert. Everything but `threads` and `keep_packs` changes the output.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compression threads; layers are read by threads of their own.
    pub threads: usize,
    pub level: i32,
    pub block_size: u32,
    /// The superblock's time.
    pub source_date: u32,
    /// Keep packs for the next image that has the layer.
    pub keep_packs: bool,
    /// Store blocks of the loader, libc and shell uncompressed: they are what every process start reads.
    pub raw_hot_files: bool,
    /// Empty directories that are added where the image has nothing of that name, so that a launcher can mount there.
    pub mount_points: Vec<String>,
    /// Empty files added likewise, where their directory exists.
    pub mount_files: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let list = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        Options {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            level: 3,
            block_size: 128 << 10,
            source_date: 0,
            keep_packs: true,
            raw_hot_files: true,
            mount_points: list(&[
                "/proc", "/sys", "/dev", "/tmp", "/run", "/mnt", "/home", "/scratch", "/work",
                "/data", "/etc", "/var/tmp",
            ]),
            mount_files: list(&[
                "/etc/hosts",
                "/etc/resolv.conf",
                "/etc/passwd",
                "/etc/group",
                "/etc/localtime",
            ]),
        }
    }
}

/// What the record needs to know of the finished file.
#[derive(Debug)]
pub struct Converted {
    pub squashfs: record::Squashfs,
    pub contents: record::Contents,
    /// What was left out or added, by kind: `devices`, `sockets`, `xattrs`, `malformed-pax`, `mount-points`, …
    pub notes: BTreeMap<String, u64>,
    pub diff_ids: Vec<Digest>,
    pub warnings: Vec<String>,
}

/// Converts `layers` (lowest first) into the squashfs `output`, a file that exists and is empty or does not exist.
pub fn convert(
    _layers: &[LayerInput],
    _packs: &PackCache,
    _output: &Path,
    _options: &Options,
    _progress: &dyn Progress,
) -> Result<Converted> {
    Err(Error::new("cannot convert: not built yet"))
}
