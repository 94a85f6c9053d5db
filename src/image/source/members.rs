//! Random access to the members of a tar file: an index of names made by reading its headers only.
//!
//! Used for archives of images, whose members are documents and layers. Names and link targets are looked up, never
//! used as paths on this machine. A compressed archive is inflated once into an unnamed temporary file.

use super::settings::SourceSettings;
use crate::error::{Context, Error, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Far more than any image has; a tar with more is no archive of an image.
const MAX_MEMBERS: usize = 100_000;
/// Longest PAX header or GNU name that is read.
const MAX_EXTENSION: u64 = 1 << 20;
/// Links to links to …
const MAX_LINKS: usize = 8;
const BLOCK: u64 = 512;

pub struct Members {
    path: PathBuf,
    file: Arc<File>,
    by_name: HashMap<String, Member>,
}

enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

/// A part of a file, read from its own position.
pub struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Section {
    pub fn new(file: Arc<File>, offset: u64, size: u64) -> Section {
        Section {
            file,
            position: offset,
            end: offset.saturating_add(size),
        }
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.position);
        let want = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let (buffer, _) = buffer.split_at_mut(want);
        let got = self.file.read_at(buffer, self.position)?;
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position = self.position.saturating_add(got as u64);
        Ok(got)
    }
}

impl Members {
    pub fn open(path: &Path, settings: &SourceSettings) -> Result<Members> {
        let what = || format!("cannot read the archive `{}`", path.display());
        let file = open_regular(path)?;
        let file = match compression(&file).or_say(what)? {
            Compression::None => file,
            kind => inflate(file, kind, path, settings)?,
        };
        let by_name = index(&file).map_err(|error| error.while_doing(what()))?;
        Ok(Members {
            path: path.to_path_buf(),
            file: Arc::new(file),
            by_name,
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The size and the bytes of a regular member; links inside the archive are followed.
    pub fn get(&self, name: &str) -> Result<(u64, Section)> {
        let mut current = clean(name);
        for _ in 0..MAX_LINKS {
            match self.by_name.get(&current) {
                Some(Member::File { offset, size }) => {
                    return Ok((*size, Section::new(self.file.clone(), *offset, *size)));
                }
                Some(Member::Link(target)) => current = target.clone(),
                None => break,
            }
        }
        Err(Error::new(format!(
            "`{name}` is missing in the archive `{}`",
            self.path.display()
        )))
    }

    /// Reads a member that should be small.
    pub fn read(&self, name: &str, limit: usize) -> Result<Vec<u8>> {
        let what = || format!("cannot read `{name}` in `{}`", self.path.display());
        let (size, mut section) = self.get(name)?;
        if size > limit as u64 {
            return Err(
                Error::new(what()).cause(format!("it has {size} bytes (the limit is {limit})"))
            );
        }
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).or_say(what)?;
        Ok(bytes)
    }
}

/// Opens a file that is nothing else: a FIFO would hang, a device never end.
pub fn open_regular(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let what = || format!("cannot open `{}`", path.display());
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .or_say(what)?;
    let metadata = file.metadata().or_say(what)?;
    if metadata.is_dir() {
        return Err(Error::new(what()).cause("it is a directory").hint(
            "a directory that is a root file system is named `dir:DIR`, an OCI layout `oci:DIR`",
        ));
    }
    if !metadata.is_file() {
        return Err(Error::new(what()).cause("it is not a regular file"));
    }
    Ok(file)
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    /// Known by its magic but not read.
    Other(&'static str),
}

impl Compression {
    /// Tells by the first bytes.
    pub fn of(magic: &[u8]) -> Compression {
        let starts = |prefix: &[u8]| magic.starts_with(prefix);
        if starts(&[0x1f, 0x8b]) {
            Compression::Gzip
        } else if starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Compression::Zstd
        } else if starts(b"BZh") {
            Compression::Other("bzip2")
        } else if starts(&[0xfd, b'7', b'z', b'X', b'Z']) {
            Compression::Other("xz")
        } else {
            Compression::None
        }
    }
}

pub fn compression(file: &File) -> io::Result<Compression> {
    let mut magic = [0; 6];
    let got = file.read_at(&mut magic, 0)?;
    Ok(Compression::of(magic.get(..got).unwrap_or_default()))
}

/// A reader of what is inside a compressed file.
pub fn inflated<'a>(
    file: impl Read + Send + 'a,
    compression: Compression,
) -> Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Compression::Zstd => Box::new(
            zstd::stream::read::Decoder::new(file).or_say(|| "cannot start to decompress")?,
        ),
        Compression::Other(name) => {
            return Err(
                Error::new(format!("the compression `{name}` is not supported"))
                    .hint("decompress it, or compress it with gzip or zstd"),
            );
        }
    })
}

fn inflate(
    file: File,
    compression: Compression,
    path: &Path,
    settings: &SourceSettings,
) -> Result<File> {
    let what = || format!("cannot decompress `{}`", path.display());
    let mut reader = inflated(file, compression).map_err(|error| error.while_doing(what()))?;
    let directory = &settings.temporary;
    let out = tempfile::tempfile_in(directory)
        .or_say(|| format!("cannot make a temporary file in `{}`", directory.display()))?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        // Two loops in one so that a full disk is not taken for a broken archive.
        let got = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::new(what()).source(error)),
        };
        let bytes = buffer.get(..got).unwrap_or_default();
        (&out).write_all(bytes).map_err(|error| {
            Error::new(what())
                .cause(format!("cannot write to `{}`", directory.display()))
                .source(error)
                .hint("name a directory with more room in `TMPDIR`, or decompress the archive yourself")
        })?;
    }
    (&out).rewind().or_say(what)?;
    Ok(out)
}

/// Reads the headers from first to last; of equal names the last counts, as for tar.
fn index(file: &File) -> Result<HashMap<String, Member>> {
    let length = file.metadata().or_say(|| "cannot read its length")?.len();
    let mut by_name = HashMap::new();
    let mut position = 0;
    let mut next = Extension::default();
    while let Some(header) = header_at(file, position, length)? {
        let data = position.saturating_add(BLOCK);
        let stated = header
            .entry_size()
            .or_say(|| "a header has no valid size")?;
        let kind = header.entry_type();
        let extension =
            kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink();
        let size = match next.size {
            Some(size) if !extension => size,
            _ => stated,
        };
        let end = data
            .checked_add(size)
            .filter(|end| *end <= length)
            .or_say(|| "it is cut off")?;
        if extension {
            next.read(file, kind, data, size)?;
        } else {
            let extension = std::mem::take(&mut next);
            let raw = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let name = clean(&extension.name.unwrap_or_else(|| raw(&header.path_bytes())));
            let target = extension
                .link
                .or_else(|| header.link_name_bytes().map(|bytes| raw(&bytes)))
                .unwrap_or_default();
            let member = if kind.is_file() || kind.is_contiguous() {
                Some(Member::File { offset: data, size })
            } else if kind.is_symlink() {
                Some(Member::Link(relative_to(&name, &target)))
            } else if kind.is_hard_link() {
                Some(Member::Link(clean(&target)))
            } else {
                None
            };
            if let Some(member) = member {
                by_name.insert(name, member);
            }
            if by_name.len() > MAX_MEMBERS {
                return Err(
                    Error::new("it has too many members to be an archive of an image")
                        .hint("a root file system is named `tar:FILE`"),
                );
            }
        }
        position = end.div_ceil(BLOCK).saturating_mul(BLOCK);
    }
    Ok(by_name)
}

/// The header at a position; `None` at the end of the archive.
pub fn header_at(file: &File, position: u64, length: u64) -> Result<Option<tar::Header>> {
    if position >= length {
        return Ok(None);
    }
    let mut header = tar::Header::new_old();
    file.read_exact_at(header.as_mut_bytes(), position)
        .or_say(|| "it is cut off")?;
    if header.as_bytes().iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum = header
        .as_bytes()
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum::<u32>();
    match header.cksum() {
        Ok(stated) if stated == sum => Ok(Some(header)),
        _ => Err(Error::new("it is not a tar archive").cause(format!(
            "the header at byte {position} has a wrong checksum"
        ))),
    }
}

/// What a PAX header or a GNU long name says of the entry after it.
#[derive(Default)]
struct Extension {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Extension {
    fn read(&mut self, file: &File, kind: tar::EntryType, offset: u64, size: u64) -> Result<()> {
        if size > MAX_EXTENSION {
            return Err(Error::new("a header extension is too long")
                .cause(format!("{size} bytes (the limit is {MAX_EXTENSION})")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        file.read_exact_at(&mut bytes, offset)
            .or_say(|| "it is cut off")?;
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0);
            String::from_utf8_lossy(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default())
                .into_owned()
        };
        if kind.is_gnu_longname() {
            self.name = Some(text(&bytes));
        } else if kind.is_gnu_longlink() {
            self.link = Some(text(&bytes));
        } else {
            for record in tar::PaxExtensions::new(&bytes).flatten() {
                match record.key_bytes() {
                    b"path" => self.name = Some(text(record.value_bytes())),
                    b"linkpath" => self.link = Some(text(record.value_bytes())),
                    b"size" => self.size = record.value().ok().and_then(|v| v.parse().ok()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// `./a//b/../c` → `a/c`. Text only: the result is a key of the index.
fn clean(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn relative_to(link: &str, target: &str) -> String {
    if target.starts_with('/') {
        return clean(target);
    }
    let directory = link.rsplit_once('/').map_or("", |(directory, _)| directory);
    clean(&format!("{directory}/{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<&mut Vec<u8>>)) -> tempfile::NamedTempFile {
        let mut bytes = Vec::new();
        let mut builder = tar::Builder::new(&mut bytes);
        build(&mut builder);
        builder.finish().unwrap();
        drop(builder);
        file_of(&bytes)
    }

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn add(builder: &mut tar::Builder<&mut Vec<u8>>, name: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, data).unwrap();
    }

    fn link(builder: &mut tar::Builder<&mut Vec<u8>>, hard: bool, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(match hard {
            true => tar::EntryType::Link,
            false => tar::EntryType::Symlink,
        });
        header.set_size(0);
        builder.append_link(&mut header, name, target).unwrap();
    }

    fn open(file: &tempfile::NamedTempFile) -> Result<Members> {
        Members::open(file.path(), &SourceSettings::default())
    }

    #[test]
    fn members_links_and_long_names() {
        let long = format!("{}/x", "d".repeat(150));
        let file = archive(|builder| {
            add(builder, "a", b"first");
            add(builder, "a", b"second");
            add(builder, &long, b"long");
            link(builder, false, "one/layer.tar", "../a");
            link(builder, true, "hard", "./a");
            link(builder, false, "loop", "loop");
            link(builder, false, "out", "../../../etc/passwd");
        });
        let members = open(&file).unwrap();
        assert_eq!(members.read("a", 100).unwrap(), b"second");
        assert_eq!(members.read("./a", 100).unwrap(), b"second");
        assert_eq!(members.read(&long, 100).unwrap(), b"long");
        assert_eq!(members.read("one/layer.tar", 100).unwrap(), b"second");
        assert_eq!(members.read("hard", 100).unwrap(), b"second");
        for missing in ["loop", "out", "etc/passwd", ""] {
            assert!(members.read(missing, 100).is_err(), "{missing}");
        }
        let error = members.read("a", 3).unwrap_err().to_string();
        assert!(error.contains("limit is 3"), "{error}");
    }

    #[test]
    fn compressed_archives() {
        let plain = archive(|builder| add(builder, "a", b"data"));
        let bytes = std::fs::read(plain.path()).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        let zstd = zstd::encode_all(&bytes[..], 1).unwrap();
        for packed in [gzip.finish().unwrap(), zstd] {
            let members = open(&file_of(&packed)).unwrap();
            assert_eq!(members.read("a", 100).unwrap(), b"data");
            let cut = file_of(&packed[..packed.len() / 2]);
            assert!(open(&cut).is_err());
        }
        assert!(open(&file_of(b"BZh91AY")).is_err());
    }

    #[test]
    fn broken_archives() {
        let file = archive(|builder| add(builder, "a", &[7; 2000]));
        let bytes = std::fs::read(file.path()).unwrap();
        let mut flipped = bytes.clone();
        flipped[0] ^= 1;
        let rows = [
            (&bytes[..1000], "cut off"),
            (&bytes[..100], "cut off"),
            (&flipped[..], "wrong checksum"),
        ];
        for (bytes, says) in rows {
            let error = open(&file_of(bytes)).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = open_regular(Path::new("/dev/null"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn pax_sizes_cannot_overflow() {
        let mut bytes = Vec::new();
        let mut builder = tar::Builder::new(&mut bytes);
        builder
            .append_pax_extensions([("size", b"18446744073709551615".as_slice())])
            .unwrap();
        add(&mut builder, "a", b"x");
        builder.finish().unwrap();
        drop(builder);
        let error = open(&file_of(&bytes)).err().unwrap().to_string();
        assert!(error.contains("cut off"), "{error}");
    }
}
