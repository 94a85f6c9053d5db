//! Layers → one squashfs: packs them in parallel, merges their indexes, assembles the file.
//!
//! The output's bytes depend on the layers' content and the options only: not on threads, cache, compression of the
//! layers or order of arrival. Absent on purpose: where images live (the store gives an output path and publishes it).

mod ahead;
mod packing;
mod publishing;

use crate::error::{Context, Error, Result, cannot_start};
use crate::image::assemble::{Begun, Plan, assemble};
use crate::image::digest::Digest;
use crate::image::entry::{Content, Kind};
use crate::image::progress::Progress;
use crate::image::{contents, tree};
use crate::pack;
use crate::pack::cache::Pack;
pub use crate::pack::cache::PackCache;
use crate::record;
use crate::squashfs::format::MAX_BLOCK_SIZE;
use crate::squashfs::write;
use crate::sys::{heap, thread};
use ahead::{Ahead, EndOnDrop, Merging};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

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

/// How to convert. Everything but `threads`, `keep_packs` and `copy_ahead` changes the output.
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
    /// So many bytes of complete upper layers are copied while lower ones are packed.
    pub copy_ahead: u64,
    /// Store the first blocks of the loader, libc and shell uncompressed: they are what every process start reads.
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
            // More would buy little and take memory and a login node's patience.
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(16)),
            level: pack::LEVEL,
            block_size: 128 << 10,
            source_date: 0,
            keep_packs: true,
            // Less is not worth one more merge.
            copy_ahead: 32 << 20,
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
    layers: &[LayerInput],
    packs: &PackCache,
    output: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Converted> {
    options.check()?;
    heap::keep_little();
    let publisher = publishing::Publisher::start(packs.clone())?;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(output)
        .or_say(|| format!("cannot write the image `{}`", output.display()))?;
    let ahead = Ahead::new(layers.len(), options.copy_ahead)?;
    let (packs, merged, assembled) = std::thread::scope(|scope| {
        let _end = EndOnDrop(&ahead);
        let copying = thread::start(scope, "copy", || ahead.copy(&file)).map_err(cannot_start)?;
        let packs = packing::pack_all(layers, packs, &publisher, options, progress, &ahead)?;
        progress.phase("merging layers");
        let (ranges, merging) = ahead.end()?;
        let begun = Begun { ranges, copying };
        let merged = finish_merge(layers, &packs, merging, options)?;
        progress.phase("writing the image");
        let assembled = Plan::make(&merged.tree, 0, &packs)
            .and_then(|plan| {
                let options = write::Options {
                    block_size: options.block_size,
                    level: options.level,
                    mkfs_time: options.source_date,
                };
                assemble(&merged.tree, &plan, begun, &file, &options)
            })
            .map_err(|error| error.while_doing(format!("cannot write `{}`", output.display())))?;
        Ok::<_, Error>((packs, merged, assembled))
    })?;
    publisher.finish()?;
    let written = assembled.written;
    Ok(Converted {
        squashfs: record::Squashfs {
            size: written.size,
            bytes_used: written.bytes_used,
            compressor: "zstd".to_string(),
            block_size: options.block_size,
            inodes: written.inodes,
            content_bytes: assembled.content_bytes,
            hashes_offset: written.hashes_offset,
            hashes_count: assembled.hashes,
            root: written.root,
        },
        contents: contents::find(&merged.tree),
        notes: merged.notes,
        diff_ids: packs
            .iter()
            .map(|pack| pack.index.summary.diff_id)
            .collect(),
        warnings: merged.warnings,
    })
}

/// The image's tree, and what is to say of it.
struct Merged {
    tree: tree::Tree,
    notes: BTreeMap<String, u64>,
    warnings: Vec<String>,
}

fn finish_merge(
    layers: &[LayerInput],
    packs: &[Arc<Pack>],
    merging: Merging,
    options: &Options,
) -> Result<Merged> {
    let mut notes: BTreeMap<String, u64> = BTreeMap::new();
    let mut warnings = Vec::new();
    for (index, pack) in packs.iter().enumerate() {
        for (name, count) in &pack.index.summary.notes {
            *notes.entry(name.clone()).or_default() += count;
            if name == "malformed-pax" {
                warnings.push(format!(
                    "layer {} of {} has {count} malformed PAX headers; what could be read of them counts",
                    index + 1,
                    layers.len()
                ));
            }
        }
    }
    let mut builder = merging
        .finish(packs)
        .map_err(|(index, error)| error.while_doing(packing::failed(layers, index)))?;
    for (name, added) in add_mount_points(&mut builder, options)? {
        notes.insert(name.to_string(), added);
    }
    let tree = builder.finish()?;
    notes.insert("devices".to_string(), tree.devices);
    notes.retain(|_, count| *count > 0);
    Ok(Merged {
        tree,
        notes,
        warnings,
    })
}

/// Adds what a launcher mounts on; says how many directories and files were missing.
fn add_mount_points(
    builder: &mut tree::Builder,
    options: &Options,
) -> Result<[(&'static str, u64); 2]> {
    // Nothing of the image is hidden, because only free places are taken.
    let (mut directories, mut files) = (0, 0);
    for path in &options.mount_points {
        // Scratch directories are everybody's, as in every distribution.
        let mode = if path.ends_with("/tmp") {
            0o1777
        } else {
            0o755
        };
        let path = pack::path::normalise(path.as_bytes())?;
        directories += u64::from(builder.add_missing(&path, Kind::Directory, mode)?);
    }
    for path in &options.mount_files {
        let path = pack::path::normalise(path.as_bytes())?;
        let kind = Kind::File(Content::default());
        files += u64::from(builder.add_missing(&path, kind, 0o644)?);
    }
    Ok([("mount-points", directories), ("mount-files", files)])
}

impl Options {
    fn check(&self) -> Result<()> {
        if !self.block_size.is_power_of_two() || !(4096..=MAX_BLOCK_SIZE).contains(&self.block_size)
        {
            return Err(Error::usage(format!(
                "the block size {} is not possible",
                self.block_size
            ))
            .cause("squashfs has blocks of 4 KiB to 1 MiB, powers of two"));
        }
        if !(1..=22).contains(&self.level) {
            return Err(
                Error::usage(format!("the level {} is not possible", self.level))
                    .cause("zstd has levels from 1 to 22"),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
