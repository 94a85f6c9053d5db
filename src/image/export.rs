//! An image out of the store again: as a rootfs tar, an OCI archive or layout, a docker archive, or its squashfs file.
//!
//! Everything streams: the file system goes from squashfs blocks to the output without a tree on disk, and archives are
//! written in one pass (the layer's name, which is its digest, is put in front of it afterwards). Equal images give equal
//! bytes. Images become one layer: what the layers once were is not in a squashfs file. Absent: pushing to a registry,
//! SIF, and sockets, which no tar can hold.

mod archive;
mod tar;

use crate::error::{Context, Error, Result};
use crate::image::progress::Progress;
use crate::record::ImageRecord;
use crate::squashfs::read::Image;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use tempfile::NamedTempFile;

pub use tar::Exported;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file system alone, as one uncompressed tar.
    Tar,
    OciArchive,
    /// A directory in the OCI layout; it must not exist, or be empty.
    OciLayout,
    DockerArchive,
    /// The squashfs file, with the record beside it as `NAME.json`.
    Squashfs,
}

impl Format {
    /// By the prefix of an output (`oci-archive:…`, `oci:…`, `docker-archive:…`), else by the name's ending. The second
    /// part is the path without prefix.
    pub fn of(output: &str) -> Option<(Format, &str)> {
        let prefixes = [
            ("oci-archive:", Format::OciArchive),
            ("docker-archive:", Format::DockerArchive),
            ("oci:", Format::OciLayout),
            ("tar:", Format::Tar),
            ("squashfs:", Format::Squashfs),
        ];
        for (prefix, format) in prefixes {
            if let Some(path) = output.strip_prefix(prefix) {
                return Some((format, path));
            }
        }
        let endings = [
            (".sqsh", Format::Squashfs),
            (".sqfs", Format::Squashfs),
            (".squashfs", Format::Squashfs),
            (".tar", Format::Tar),
        ];
        endings
            .iter()
            .find(|(ending, _)| output.ends_with(ending))
            .map(|(_, format)| (*format, output))
    }
}

/// How the one layer of an archive is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    None,
    /// What every tool reads.
    #[default]
    Gzip,
    /// Faster and smaller; for tools of the last years.
    Zstd,
}

/// How to export.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub compression: Compression,
    /// `name:tag` in an archive, or the tag alone; empty for none.
    pub name: String,
}

/// Writes an image to `output`, which appears when it is complete.
pub fn export(
    image: &Image,
    file: &File,
    record: &ImageRecord,
    format: Format,
    output: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Exported> {
    let what = || format!("cannot export `{}` to `{}`", image.name(), output.display());
    let done = match format {
        Format::Tar => beside(output, |out| {
            let mut out = BufWriter::with_capacity(1 << 18, out);
            let exported = tar::write(image, &mut out, progress)?;
            out.flush().or_say(|| "cannot write the tar")?;
            Ok(exported)
        }),
        Format::OciArchive => beside(output, |out| {
            archive::oci(image, record, out, options, progress)
        }),
        Format::DockerArchive => beside(output, |out| {
            archive::docker(image, record, out, options, progress)
        }),
        Format::OciLayout => archive::layout(image, record, output, options, progress),
        Format::Squashfs => squashfs(file, record, output),
    };
    done.map_err(|error| error.while_doing(what()))
}

/// Writes the rootfs tar to any stream.
pub fn export_tar(image: &Image, out: &mut dyn Write, progress: &dyn Progress) -> Result<Exported> {
    let mut out = BufWriter::with_capacity(1 << 18, out);
    let exported = tar::write(image, &mut out, progress)?;
    out.flush().or_say(|| "cannot write the tar")?;
    Ok(exported)
}

/// Makes a file under a temporary name in the same directory and renames it when it is complete.
fn beside<T>(output: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    use std::os::unix::fs::PermissionsExt;
    let directory = output
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut temporary: NamedTempFile = tempfile::Builder::new()
        .prefix(".carrack-export-")
        // Less the umask, as any new file.
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .or_say(|| format!("cannot make a file in `{}`", directory.display()))?;
    let done = write(temporary.as_file_mut())?;
    temporary
        .as_file()
        .sync_all()
        .or_say(|| "cannot write it to disk")?;
    temporary
        .persist(output)
        .map_err(|error| Error::new("cannot give it its name").source(error.error))?;
    Ok(done)
}

fn squashfs(file: &File, record: &ImageRecord, output: &Path) -> Result<Exported> {
    let mut name = output.as_os_str().to_os_string();
    name.push(".json");
    let bytes = beside(output, |out| {
        use std::io::{Seek, SeekFrom};
        // Its own position: the caller's file may be in use.
        let mut from = File::open(format!("/proc/self/fd/{}", {
            use std::os::fd::AsRawFd;
            file.as_raw_fd()
        }))
        .or_say(|| "cannot read it")?;
        from.seek(SeekFrom::Start(0)).or_say(|| "cannot read it")?;
        std::io::copy(&mut from, out).or_say(|| "cannot copy it")
    })?;
    beside(Path::new(&name), |out| {
        out.write_all(record.to_json().as_bytes())
            .or_say(|| "cannot write the record")
    })?;
    Ok(Exported {
        entries: 0,
        bytes,
        sockets: 0,
    })
}

#[cfg(test)]
mod tests;
