//! A squashfs that somebody made already: a file of its own, or the system partition of a Singularity/Apptainer file.
//!
//! Only the place of the squashfs is found and its first bytes are looked at; reading and checking it is the reader's
//! business. Encrypted, ext3 and OCI-SIF files are refused by name.

use super::members::open_regular;
use super::{Descriptor, Resolved, Source};
use crate::error::{Context, Error, Result};
use crate::image::manifest;
use crate::record::Platform;
use crate::squashfs::format::{SUPERBLOCK_SIZE, Superblock};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub struct SquashfsFile {
    path: PathBuf,
    offset: u64,
    /// Bytes that the squashfs may have.
    room: u64,
    /// As the SIF says.
    architecture: Option<&'static str>,
}

impl SquashfsFile {
    pub fn open(path: &Path) -> Result<SquashfsFile> {
        let file = open_regular(path)?;
        let room = file.metadata().or_say(|| reading(path))?.len();
        let image = SquashfsFile {
            path: path.to_path_buf(),
            offset: 0,
            room,
            architecture: None,
        };
        image.superblock(&file)?;
        Ok(image)
    }

    pub fn open_sif(path: &Path) -> Result<SquashfsFile> {
        let file = open_regular(path)?;
        let length = file.metadata().or_say(|| reading(path))?.len();
        let partition =
            partition(&file, length).map_err(|error| error.while_doing(reading(path)))?;
        let image = SquashfsFile {
            path: path.to_path_buf(),
            offset: partition.offset,
            room: partition.size,
            architecture: partition.architecture,
        };
        image.superblock(&file)?;
        Ok(image)
    }

    /// Checks that there is a squashfs; gives its length.
    fn superblock(&self, file: &File) -> Result<u64> {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        let superblock = match file.read_exact_at(&mut bytes, self.offset) {
            Ok(()) => Superblock::parse(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(Error::new(reading(&self.path)).source(error)),
        };
        let superblock = superblock.or_say(|| {
            format!(
                "`{}` holds no squashfs 4.0 file system",
                self.path.display()
            )
        })?;
        if superblock.bytes_used > self.room {
            return Err(
                Error::new(format!("`{}` is cut off", self.path.display())).cause(format!(
                    "the squashfs in it has {} bytes, the file has room for {}",
                    superblock.bytes_used, self.room
                )),
            );
        }
        Ok(self.room)
    }
}

fn reading(path: &Path) -> String {
    format!("cannot read `{}`", path.display())
}

impl Source for SquashfsFile {
    fn resolve(&self, platform: &Platform) -> Result<Resolved> {
        // Again, for the file may have changed since.
        let length = self.superblock(&open_regular(&self.path)?)?;
        let mut found = platform.clone();
        if let Some(architecture) = self.architecture {
            let stated = manifest::normal_platform("linux", architecture, "");
            manifest::check_platform(&stated, platform)?;
            found = stated;
        }
        Ok(Resolved::Squashfs {
            path: self.path.clone(),
            offset: self.offset,
            length,
            platform: found,
        })
    }

    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Err(Error::new(format!(
            "`{}` has no layer `{}`",
            self.path.display(),
            layer.digest
        )))
    }
}

#[derive(Debug)]
struct Partition {
    offset: u64,
    size: u64,
    architecture: Option<&'static str>,
}

const SIF_MAGIC: &[u8] = b"SIF_MAGIC\0";
const SIF_HEADER: usize = 128;
const SIF_DESCRIPTOR: usize = 585;
/// Real files have a handful.
const SIF_MAX_DESCRIPTORS: u64 = 1024;
const DATA_PARTITION: u32 = 0x4004;
const DATA_OCI_ROOT_INDEX: u32 = 0x400a;
const PARTITION_SYSTEM: u32 = 1;
const PARTITION_PRIMARY_SYSTEM: u32 = 2;
/// What Singularity 2 put in front of a squashfs.
const SINGULARITY_2: &[u8] = b"#!/usr/bin/env run-singularity\n";

/// Whether it is a SIF, or a Singularity 2 file.
pub fn is_sif(start: &[u8]) -> bool {
    start.get(32..42) == Some(SIF_MAGIC) || start.starts_with(SINGULARITY_2)
}

/// Finds the root file system's partition in a SIF.
fn partition(file: &File, length: u64) -> Result<Partition> {
    let mut header = [0; SIF_HEADER];
    file.read_exact_at(&mut header, 0)
        .or_say(|| "it is too short for a Singularity image")?;
    if header.get(32..42) != Some(SIF_MAGIC) {
        if header.starts_with(b"hsqs") {
            return Ok(Partition {
                offset: 0,
                size: length,
                architecture: None,
            });
        }
        if header.starts_with(SINGULARITY_2) {
            let offset = SINGULARITY_2.len() as u64;
            return Ok(Partition {
                offset,
                size: length.saturating_sub(offset),
                architecture: None,
            });
        }
        return Err(Error::new("it is not a Singularity image (SIF)"));
    }
    let count = u64_at(&header, 88).or_say(|| "its header is broken")?;
    let table = u64_at(&header, 96).or_say(|| "its header is broken")?;
    if count > SIF_MAX_DESCRIPTORS {
        return Err(Error::new("its header is broken").cause(format!("{count} descriptors")));
    }
    let mut refused = None;
    let mut second = None;
    for index in 0..count {
        let mut bytes = [0; SIF_DESCRIPTOR];
        let at = table.saturating_add(index.saturating_mul(SIF_DESCRIPTOR as u64));
        file.read_exact_at(&mut bytes, at)
            .or_say(|| "its table of parts is cut off")?;
        let used = bytes.get(4).is_some_and(|used| *used != 0);
        match u32_at(&bytes, 0) {
            Some(DATA_PARTITION) if used => {}
            Some(DATA_OCI_ROOT_INDEX) if used => {
                refused = Some("an OCI image inside a SIF (OCI-SIF)");
                continue;
            }
            _ => continue,
        }
        let kind = u32_at(&bytes, 205);
        if !matches!(kind, Some(PARTITION_SYSTEM | PARTITION_PRIMARY_SYSTEM)) {
            continue;
        }
        match u32_at(&bytes, 201) {
            Some(1) => {}
            Some(2) => refused = Some("an ext3 file system"),
            Some(5) => refused = Some("an encrypted file system"),
            _ => refused = Some("no squashfs"),
        }
        if u32_at(&bytes, 201) != Some(1) {
            continue;
        }
        let part = u64_at(&bytes, 17).zip(u64_at(&bytes, 25));
        let (offset, size) = part
            .filter(|(offset, size)| offset.checked_add(*size).is_some_and(|end| end <= length))
            .or_say(|| "its system partition is cut off")?;
        let found = Partition {
            offset,
            size,
            architecture: architecture(bytes.get(209..212).unwrap_or_default()),
        };
        if kind == Some(PARTITION_PRIMARY_SYSTEM) {
            return Ok(found);
        }
        second = Some(found);
    }
    second.ok_or_else(|| {
        let error = Error::new("it has no squashfs system partition");
        match refused {
            Some(what) => error
                .cause(format!("it has {what}"))
                .hint("build it again with a current apptainer, without encryption"),
            None => error,
        }
    })
}

fn architecture(code: &[u8]) -> Option<&'static str> {
    Some(match code.get(..2)? {
        b"01" => "386",
        b"02" => "amd64",
        b"03" => "arm",
        b"04" => "arm64",
        b"05" => "ppc64",
        b"06" => "ppc64le",
        b"11" => "s390x",
        b"12" => "riscv64",
        _ => return None,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The format's numbers are signed; a negative one is as good as none.
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let number = i64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
    u64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::squashfs::format::InodeReference;
    use std::io::Write;

    fn squashfs(bytes_used: u64, length: usize) -> Vec<u8> {
        let superblock = Superblock {
            inodes: 1,
            mkfs_time: 0,
            block_size: 1 << 17,
            fragments: 0,
            compressor: 6,
            flags: 0,
            ids: 1,
            root_inode: InodeReference::new(0, 0),
            bytes_used,
            id_table: 0,
            xattr_table: 0,
            inode_table: 0,
            directory_table: 0,
            fragment_table: 0,
            export_table: 0,
        };
        let mut bytes = superblock.encode().to_vec();
        bytes.resize(length, 0);
        bytes
    }

    fn sif(parts: &[(u32, u32, u32, &[u8; 2])], content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; SIF_HEADER];
        bytes[32..42].copy_from_slice(SIF_MAGIC);
        bytes[88..96].copy_from_slice(&(parts.len() as i64).to_le_bytes());
        bytes[96..104].copy_from_slice(&(SIF_HEADER as i64).to_le_bytes());
        let data = SIF_HEADER + parts.len() * SIF_DESCRIPTOR;
        for (data_type, file_system, kind, code) in parts {
            let mut part = vec![0; SIF_DESCRIPTOR];
            part[0..4].copy_from_slice(&data_type.to_le_bytes());
            part[4] = 1;
            part[17..25].copy_from_slice(&(data as i64).to_le_bytes());
            part[25..33].copy_from_slice(&(content.len() as i64).to_le_bytes());
            part[201..205].copy_from_slice(&file_system.to_le_bytes());
            part[205..209].copy_from_slice(&kind.to_le_bytes());
            part[209..211].copy_from_slice(*code);
            bytes.extend(part);
        }
        bytes.extend(content);
        bytes
    }

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn linux(architecture: &str) -> Platform {
        manifest::normal_platform("linux", architecture, "")
    }

    #[test]
    fn plain_files() {
        let file = file_of(&squashfs(4096, 5000));
        let resolved = SquashfsFile::open(file.path())
            .unwrap()
            .resolve(&linux("amd64"))
            .unwrap();
        let Resolved::Squashfs {
            offset,
            length,
            platform,
            ..
        } = resolved
        else {
            panic!("{resolved:?}");
        };
        assert_eq!((offset, length, platform), (0, 5000, linux("amd64")));
        let rows = [
            (squashfs(6000, 5000), "cut off"),
            (vec![0; 5000], "no squashfs"),
            (b"hsqs".to_vec(), "no squashfs"),
            (Vec::new(), "no squashfs"),
        ];
        for (bytes, says) in rows {
            let error = SquashfsFile::open(file_of(&bytes).path())
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn sif_partitions() {
        let content = squashfs(4096, 4096);
        let text = (0x4001, 0, 0, b"00");
        let primary = (DATA_PARTITION, 1, PARTITION_PRIMARY_SYSTEM, b"02");
        let system = (DATA_PARTITION, 1, PARTITION_SYSTEM, b"02");
        let overlay = (DATA_PARTITION, 1, 4, b"02");
        for parts in [&[text, primary][..], &[system], &[overlay, system, primary]] {
            let file = file_of(&sif(parts, &content));
            let image = SquashfsFile::open_sif(file.path()).unwrap();
            let offset = (SIF_HEADER + parts.len() * SIF_DESCRIPTOR) as u64;
            let resolved = image.resolve(&linux("amd64")).unwrap();
            let Resolved::Squashfs {
                offset: found,
                length,
                ..
            } = resolved
            else {
                panic!("{resolved:?}");
            };
            assert_eq!((found, length), (offset, 4096));
            assert!(image.resolve(&linux("arm64")).is_err());
        }
        let broken = {
            let mut bytes = sif(&[primary], &content);
            bytes[SIF_HEADER + 25..SIF_HEADER + 33].copy_from_slice(&i64::MAX.to_le_bytes());
            bytes
        };
        let rows = [
            (sif(&[text], &content), "no squashfs system partition"),
            (sif(&[overlay], &content), "no squashfs system partition"),
            (sif(&[(DATA_PARTITION, 5, 2, b"02")], &content), "encrypted"),
            (sif(&[(DATA_PARTITION, 2, 2, b"02")], &content), "ext3"),
            (
                sif(&[(DATA_OCI_ROOT_INDEX, 0, 0, b"00")], &content),
                "OCI-SIF",
            ),
            (sif(&[primary], b"not squashfs"), "no squashfs"),
            (sif(&[primary], &content)[..400].to_vec(), "cut off"),
            (broken, "cut off"),
            (vec![0; 200], "not a Singularity image"),
            (Vec::new(), "too short"),
        ];
        for (bytes, says) in rows {
            let error = SquashfsFile::open_sif(file_of(&bytes).path())
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn singularity_2_files() {
        let bytes = [SINGULARITY_2, &squashfs(4096, 4096)].concat();
        let image = SquashfsFile::open_sif(file_of(&bytes).path()).unwrap();
        assert_eq!((image.offset, image.room), (31, 4096));
    }
}
