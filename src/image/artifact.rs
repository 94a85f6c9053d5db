//! Artifacts: files in a registry that are no image (models, data sets, results), in the form that ORAS gave them.
//!
//! A manifest lists blobs, each with its file's name in the title annotation. The names are a stranger's: they stay below
//! the directory that was asked for, go through no link, and replace nothing unless the user says so. Everything is
//! fetched and checked beside its place first, so a broken artifact leaves nothing.

use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, MAX_LAYERS};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

pub const TITLE: &str = "org.opencontainers.image.title";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What the kind is called when nobody names it.
pub const UNKNOWN: &str = "application/vnd.unknown.artifact.v1";
pub const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const UNPACK: &str = "io.deis.oras.content.unpack";
const MAX_TITLE: usize = 1024;

/// What a manifest promises.
#[derive(Debug, PartialEq)]
pub struct Artifact {
    pub kind: String,
    pub files: Vec<Part>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Relative, checked by [`check_title`].
    pub title: String,
    pub blob: Descriptor,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    artifact_type: String,
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    manifests: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads a manifest as one of an artifact.
pub fn parse(bytes: &[u8]) -> Result<Artifact> {
    let wrong = || Error::new("this is not an artifact with files");
    let document: Document =
        serde_json::from_slice(bytes).or_say(|| "cannot read the artifact's manifest")?;
    if document.manifests.is_some() {
        return Err(wrong()
            .cause("it is an index of several manifests")
            .hint("name one of them by its digest; images are for `carrack pull`"));
    }
    let layers = document.layers.unwrap_or_default();
    if layers.len() > MAX_LAYERS {
        return Err(wrong().cause(format!(
            "it has {} blobs (the limit is {MAX_LAYERS})",
            layers.len()
        )));
    }
    let kind = match document.artifact_type {
        kind if kind.is_empty() => document.config.map(|config| config.media_type),
        kind => Some(kind),
    };
    let mut found = Artifact {
        kind: kind.unwrap_or_default(),
        files: Vec::new(),
        warnings: Vec::new(),
    };
    for layer in layers {
        let Some(title) = layer.annotations.get(TITLE) else {
            let warning = format!("the blob `{}` has no name and is left out", layer.digest);
            found.warnings.push(warning);
            continue;
        };
        check_title(title)?;
        if layer.annotations.get(UNPACK).map(String::as_str) == Some("true") {
            let warning = format!("`{title}` is an archive of a directory; it is not unpacked");
            found.warnings.push(warning);
        }
        let digest = layer.digest.parse::<Digest>();
        found.files.push(Part {
            blob: Descriptor {
                media_type: layer.media_type,
                digest: digest.map_err(|e| e.while_doing(format!("cannot fetch `{title}`")))?,
                size: layer.size,
            },
            title: title.clone(),
        });
    }
    if found.files.is_empty() {
        return Err(wrong()
            .cause("none of its blobs has a file's name")
            .hint("images are for `carrack pull`"));
    }
    check_together(&found.files)?;
    Ok(found)
}

/// A plain path below the directory, or the reason why not.
fn check_title(title: &str) -> Result<()> {
    let why = if title.is_empty() {
        "it is empty"
    } else if title.len() > MAX_TITLE {
        "it is too long"
    } else if title.starts_with('/') {
        "it is absolute"
    } else if title.chars().any(char::is_control) {
        "it has control characters"
    } else if title
        .split('/')
        .any(|part| matches!(part, "" | "." | "..") || part.len() > 255)
    {
        "it is not a plain path"
    } else {
        return Ok(());
    };
    Err(Error::new(format!("a file of the artifact is called `{title}`")).cause(why))
}

fn check_together(files: &[Part]) -> Result<()> {
    let twice = |title: &str, why: &str| {
        Err(Error::new(format!("a file of the artifact is called `{title}`")).cause(why))
    };
    let mut names = BTreeSet::new();
    for file in files {
        if !names.insert(file.title.as_str()) {
            return twice(&file.title, "another one too");
        }
    }
    for file in files {
        for (at, _) in file.title.match_indices('/') {
            let above = file.title.get(..at).unwrap_or_default();
            if names.contains(above) {
                return twice(above, "another one would be below it");
            }
        }
    }
    Ok(())
}

/// Where files are put.
pub struct Destination {
    directory: PathBuf,
    root: OwnedFd,
    /// Replace files that are there.
    pub force: bool,
}

impl Destination {
    /// The directory is made when there is none.
    pub fn open(directory: &Path, force: bool) -> Result<Destination> {
        let cannot = || format!("cannot write into `{}`", directory.display());
        std::fs::create_dir_all(directory).or_say(cannot)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty()).or_say(cannot)?;
        Ok(Destination {
            directory: directory.to_path_buf(),
            root,
            force,
        })
    }

    /// A directory beside the places, for what is not checked yet.
    pub fn staging(&self) -> Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix(".carrack-artifact-")
            .tempdir_in(&self.directory)
            .or_say(|| format!("cannot write into `{}`", self.directory.display()))
    }

    /// Refuses what cannot be put there, before anything is fetched.
    pub fn check(&self, files: &[Part]) -> Result<()> {
        for file in files {
            let (above, name) = split(&file.title);
            match self.above(above, false) {
                Ok(Some(above)) => self.check_free(&above, name, &file.title)?,
                Ok(None) => {}
                Err(error) => return Err(self.in_the_way(&file.title, error)),
            }
        }
        Ok(())
    }

    fn in_the_way(&self, title: &str, error: Errno) -> Error {
        let path = self.directory.join(title);
        let error_is_link = matches!(error, Errno::NOTDIR | Errno::LOOP);
        let told = Error::new(format!("cannot put a file at `{}`", path.display()));
        match error_is_link {
            true => told.cause("a link or something else that is no directory is in the way"),
            false => told.source(error),
        }
    }

    fn check_free(&self, above: &OwnedFd, name: &str, title: &str) -> Result<()> {
        let there = match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(self.in_the_way(title, error)),
            Ok(there) => FileType::from_raw_mode(there.st_mode),
        };
        let path = self.directory.join(title);
        let told = Error::new(format!("cannot put a file at `{}`", path.display()));
        match there {
            FileType::RegularFile if self.force => Ok(()),
            FileType::RegularFile => Err(told
                .cause("there is one already")
                .hint("`--force` replaces it")),
            _ => Err(told.cause("a link, a directory or a device is in the way")),
        }
    }

    /// The directory that a file goes into, reached step by step and through no link; `None` when there is none yet.
    fn above(&self, parts: &str, make: bool) -> Result<Option<OwnedFd>, Errno> {
        let open = |at: &OwnedFd, name: &str| {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
            rustix::fs::openat(at, name, flags, Mode::empty())
        };
        let mut here = open(&self.root, ".")?;
        for name in parts.split('/').filter(|name| !name.is_empty()) {
            here = match open(&here, name) {
                Err(Errno::NOENT) if make => {
                    match rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => open(&here, name)?,
                        Err(error) => return Err(error),
                    }
                }
                Err(Errno::NOENT) => return Ok(None),
                opened => opened?,
            };
        }
        Ok(Some(here))
    }

    /// Gives a checked file its name.
    pub fn place(&self, staged: &Path, title: &str) -> Result<PathBuf> {
        let (above, name) = split(title);
        let wrong = |error| self.in_the_way(title, error);
        let Some(above) = self.above(above, true).map_err(wrong)? else {
            return Err(wrong(Errno::NOENT));
        };
        self.check_free(&above, name, title)?;
        let here = rustix::fs::CWD;
        let placed = match self.force {
            true => rustix::fs::renameat(here, staged, &above, name),
            false => {
                let only_new = RenameFlags::NOREPLACE;
                match rustix::fs::renameat_with(here, staged, &above, name, only_new) {
                    // Not every shared file system can; a second name is as exclusive.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        rustix::fs::linkat(here, staged, &above, name, AtFlags::empty())
                    }
                    renamed => renamed,
                }
            }
        };
        placed.map_err(wrong)?;
        Ok(self.directory.join(title))
    }
}

fn split(title: &str) -> (&str, &str) {
    title.rsplit_once('/').unwrap_or(("", title))
}

/// Writes a blob into a file. Size and digest must be the promised ones.
pub fn stage(mut blob: impl Read, part: &Part, path: &Path) -> Result<()> {
    let what = || format!("cannot fetch `{}`", part.title);
    let mut file = File::create_new(path).or_say(what)?;
    let (digest, size) = hash(&mut blob, |bytes| file.write_all(bytes)).or_say(what)?;
    let wanted = &part.blob;
    if (digest, size) != (wanted.digest, wanted.size) {
        return Err(Error::new(what()).cause(format!(
            "the registry sent {size} bytes with the digest `{digest}`; the manifest says {} and `{}`",
            wanted.size, wanted.digest
        )));
    }
    file.sync_all().or_say(what)
}

fn hash(
    from: &mut impl Read,
    mut also: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<(Digest, u64)> {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0u64;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(hasher.finalize().into()), size)),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        hasher.update(bytes);
        also(bytes)?;
        size = size.saturating_add(count as u64);
    }
}

/// A file to be pushed.
#[derive(Debug)]
pub struct Outgoing {
    pub path: PathBuf,
    pub part: Part,
}

/// Reads `FILE` or `FILE:MEDIA/TYPE`.
pub fn outgoing(text: &str) -> Result<Outgoing> {
    let whole = Path::new(text);
    let typed = text.rsplit_once(':').filter(|(file, kind)| {
        !whole.exists() && !file.is_empty() && kind.contains('/') && is_media_type(kind)
    });
    let (path, kind) = match typed {
        Some((file, kind)) => (Path::new(file), kind),
        None => (whole, "application/octet-stream"),
    };
    let what = || format!("cannot push `{}`", path.display());
    let metadata = std::fs::metadata(path).or_say(what)?;
    if !metadata.is_file() {
        let error = Error::usage(what()).cause("only files can be pushed");
        return Err(match metadata.is_dir() {
            true => error.hint("make an archive of the directory first, for example with `tar`"),
            false => error,
        });
    }
    let title = title_of(path);
    check_title(&title).map_err(|error| error.while_doing(what()))?;
    let mut file = File::open(path).or_say(what)?;
    let (digest, size) = hash(&mut file, |_| Ok(())).or_say(what)?;
    let blob = Descriptor {
        media_type: kind.to_string(),
        digest,
        size,
    };
    Ok(Outgoing {
        path: path.to_path_buf(),
        part: Part { title, blob },
    })
}

/// The path as it was given where that is a plain one, else the file's own name.
fn title_of(path: &Path) -> String {
    let mut plain = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name.to_string_lossy()),
            Component::CurDir => {}
            _ => {
                let name = path.file_name().unwrap_or_default();
                return name.to_string_lossy().into_owned();
            }
        }
    }
    plain.join("/")
}

/// `TYPE/SUBTYPE` with the letters that such names have.
pub fn is_media_type(text: &str) -> bool {
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.len() <= 127
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
    };
    text.split_once('/')
        .is_some_and(|(kind, sub)| plain(kind) && plain(sub))
}

/// The manifest over pushed files. The same files give the same bytes.
pub fn manifest(kind: &str, files: &[Outgoing]) -> Result<Vec<u8>> {
    let mut titles: Vec<Part> = Vec::new();
    titles.extend(files.iter().map(|file| file.part.clone()));
    check_together(&titles)?;
    let layers: Vec<serde_json::Value> = titles
        .iter()
        .map(|part| {
            serde_json::json!({
                "mediaType": part.blob.media_type,
                "digest": part.blob.digest,
                "size": part.blob.size,
                "annotations": { TITLE: part.title },
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": { "mediaType": EMPTY_TYPE, "digest": Digest::of(EMPTY), "size": EMPTY.len(), "data": "e30=" },
        "layers": layers,
    });
    serde_json::to_vec(&manifest).or_say(|| "cannot form the manifest")
}

/// The config of every artifact.
pub fn empty() -> Descriptor {
    Descriptor {
        media_type: EMPTY_TYPE.into(),
        digest: Digest::of(EMPTY),
        size: EMPTY.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(titles: &[&str]) -> Result<Artifact> {
        let layers: Vec<_> = titles
            .iter()
            .map(|title| {
                serde_json::json!({ "mediaType": "a/b", "digest": Digest::of(b""), "size": 0, "annotations": { TITLE: title } })
            })
            .collect();
        let document = serde_json::json!({ "artifactType": "x/y", "layers": layers });
        parse(document.to_string().as_bytes())
    }

    #[test]
    fn names_stay_below() {
        let long = "a".repeat(256);
        for (titles, why) in [
            (&["a", "b/c", ".d/..e"][..], ""),
            (&[""], "empty"),
            (&["/x"], "absolute"),
            (&["../x"], "plain path"),
            (&["a/../x"], "plain path"),
            (&["a//x"], "plain path"),
            (&["a/"], "plain path"),
            (&["./a"], "plain path"),
            (&[".."], "plain path"),
            (&["a\nb"], "control"),
            (&["a\0"], "control"),
            (&[&long], "plain path"),
            (&["a", "a"], "another one too"),
            (&["a/b/c", "a"], "below it"),
            (&["a/b/c", "a/b"], "below it"),
            (&[], "none of its blobs"),
        ] {
            match of(titles) {
                Ok(found) => {
                    assert!(why.is_empty(), "{titles:?}");
                    assert_eq!(found.files.len(), titles.len());
                }
                Err(error) => assert!(
                    !why.is_empty() && error.to_string().contains(why),
                    "{titles:?}: {error}"
                ),
            }
        }
    }

    #[test]
    fn titles_of_pushed_files() {
        for (path, title) in [
            ("./a.zip", "a.zip"),
            ("d/./a.zip", "d/a.zip"),
            ("/tmp/a.zip", "a.zip"),
            ("../a.zip", "a.zip"),
        ] {
            assert_eq!(title_of(Path::new(path)), title);
        }
    }

    #[test]
    fn media_types() {
        for (text, good) in [
            ("application/zip", true),
            ("application/vnd.x.y+json", true),
            ("zip", false),
            ("a/b/c", false),
            ("a/ b", false),
            ("/b", false),
        ] {
            assert_eq!(is_media_type(text), good, "{text}");
        }
    }
}
