//! Takes a ready squashfs into the store, or describes it where it lies.
//!
//! The file may be an image of another tool, the partition of a SIF, or one of ours with its record beside it
//! (`x.sqsh.json` or `x.json`), which keeps its digest. Its bytes are then held to that record; that the digest is the
//! registry's is the word of whoever gave the pair.

use crate::error::{Context, Error, Result};
use crate::image::contents;
use crate::image::digest::Digest;
use crate::image::progress::Progress;
use crate::image::pull::tool;
use crate::image::reference::Reference;
use crate::image::store::{self, Stored, explain};
use crate::record::{Contents, ImageRecord, MAX_BYTES, Platform, SCHEMA, Squashfs};
use crate::squashfs::read::{self, Image, integrity_of, verify_all};
use sha2::Digest as _;
use std::fs::{File as Handle, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where a squashfs is.
#[derive(Clone, Debug)]
pub struct File {
    pub path: PathBuf,
    pub offset: u64,
    pub length: u64,
    pub platform: Platform,
}

/// What a file is called in a store.
#[derive(Clone, Debug)]
pub struct Known {
    pub digest: Digest,
    /// The record beside it.
    record: Option<ImageRecord>,
}

impl Known {
    /// The name that its record gives the image; a path on another machine is none.
    pub fn name(&self) -> Option<Reference> {
        let reference: Reference = self.record.as_ref()?.reference.parse().ok()?;
        reference.name().is_some().then_some(reference)
    }
}

/// Finds the file's digest: its record's, else that of its content, which reads all of it.
pub fn identify(file: &File, progress: &dyn Progress) -> Result<Known> {
    if let Some(record) = record_beside(file)? {
        return Ok(Known {
            digest: record.manifest_digest.parse()?,
            record: Some(record),
        });
    }
    let name = file.path.display().to_string();
    progress.layer(0, Some(file.length), &name);
    let mut input = open_at(file)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = input
            .read(&mut buffer)
            .or_say(|| format!("cannot read `{name}`"))?;
        if count == 0 {
            break;
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        progress.advance(0, count as u64);
    }
    progress.layer_done(0, "hashed");
    Ok(Known {
        digest: Digest::from_bytes(hasher.finalize().into()),
        record: None,
    })
}

/// Copies the file to `output`, appends what makes its bytes checkable, and says what it is.
pub fn copy(
    file: &File,
    known: Known,
    output: &Path,
    reference: &Reference,
) -> Result<ImageRecord> {
    let failed = |error| explain(format!("cannot copy `{}`", file.path.display()), error);
    let mut input = open_at(file)?;
    let mut out = OpenOptions::new()
        .read(true)
        .write(true)
        .truncate(true)
        .create(true)
        .open(output)
        .map_err(failed)?;
    // The kernel shares the blocks or copies them without passing through here, where it can.
    std::io::copy(&mut input, &mut out).map_err(failed)?;
    let image = open_image(out.try_clone().map_err(failed)?, file, 0)?;
    if let Some(record) = known.record {
        image.check(&record.squashfs)?;
        if let Some(damage) = verify_all(&image, 4)? {
            return Err(Error::new(format!("`{}` is damaged", file.path.display()))
                .cause(format!("the block at {}: {}", damage.start, damage.cause)));
        }
        return Ok(record);
    }
    let integrity = integrity_of(&image)?;
    // What lies between the squashfs and the table is zero, whatever the other tool padded with.
    out.set_len(integrity.squashfs.bytes_used).map_err(failed)?;
    out.write_all_at(&integrity.stored(), integrity.squashfs.hashes_offset)
        .map_err(failed)?;
    out.set_len(integrity.squashfs.size).map_err(failed)?;
    let mut record = describe(
        file,
        known.digest.to_string(),
        reference,
        integrity.squashfs,
    );
    record.contents = contents::find_in(&image)?;
    Ok(record)
}

/// What software a file that lies outside of the store holds. Reads every name: a launcher does without.
pub fn software(stored: &Stored) -> Result<Contents> {
    contents::find_in(&store::verify::open(stored)?)
}

/// Describes a file where it lies. Without a record beside it nothing can be checked: there is no root.
pub fn in_place(file: &File, reference: &Reference) -> Result<Stored> {
    let record = match record_beside(file)? {
        Some(record) => record,
        None => {
            let image = open_image(open(&file.path)?, file, file.offset)?;
            let superblock = image.superblock();
            let squashfs = Squashfs {
                size: file.length,
                bytes_used: superblock.bytes_used,
                compressor: image.compressor().name().into(),
                block_size: superblock.block_size,
                inodes: superblock.inodes,
                ..Default::default()
            };
            describe(file, String::new(), reference, squashfs)
        }
    };
    // Nobody looks it up by this: it only has to differ from that of another file.
    let digest = record
        .manifest_digest
        .parse()
        .unwrap_or_else(|_| Digest::of(file.path.as_os_str().as_encoded_bytes()));
    Ok(Stored {
        digest,
        path: file.path.clone(),
        offset: file.offset,
        record,
        root: file
            .path
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default(),
        read_only: true,
    })
}

fn describe(
    file: &File,
    manifest_digest: String,
    reference: &Reference,
    squashfs: Squashfs,
) -> ImageRecord {
    ImageRecord {
        schema: SCHEMA,
        reference: reference.to_string(),
        manifest_digest,
        platform: file.platform.clone(),
        squashfs,
        tool: tool(),
        ..Default::default()
    }
}

/// The record beside one of our own files. One that is not of this file is passed over.
fn record_beside(file: &File) -> Result<Option<ImageRecord>> {
    if file.offset != 0 {
        return Ok(None);
    }
    let mut appended = file.path.clone().into_os_string();
    appended.push(".json");
    for path in [PathBuf::from(appended), file.path.with_extension("json")] {
        let Ok(handle) = Handle::open(&path) else {
            continue;
        };
        let mut bytes = Vec::new();
        handle
            .take(MAX_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .or_say(|| format!("cannot read `{}`", path.display()))?;
        let size = file.path.metadata().map_or(0, |meta| meta.len());
        if let Ok(record) = ImageRecord::parse(&bytes)
            && record.squashfs.size == size
        {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

fn open(path: &Path) -> Result<Handle> {
    Handle::open(path).map_err(|error| explain(format!("cannot read `{}`", path.display()), error))
}

fn open_at(file: &File) -> Result<std::io::Take<Handle>> {
    let mut input = open(&file.path)?;
    let length = match record_beside(file)? {
        // Ours holds more than the squashfs proper.
        Some(record) => record.squashfs.size,
        None => file.length,
    };
    input
        .seek(SeekFrom::Start(file.offset))
        .or_say(|| format!("cannot read `{}`", file.path.display()))?;
    Ok(input.take(length))
}

fn open_image(handle: Handle, file: &File, offset: u64) -> Result<Image> {
    let options = read::Options {
        offset,
        ..read::Options::named(file.path.display().to_string())
    };
    Image::open(handle, options)
}
