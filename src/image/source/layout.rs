//! An OCI layout: `index.json` and `blobs/`, in a directory or in a tar.

use super::members::{self, Members};
use super::resolve;
use super::settings::SourceSettings;
use super::{Descriptor, Resolved, Source};
use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{self, Document, Index};
use crate::record::Platform;
use std::io::Read;
use std::path::{Path, PathBuf};

pub struct Layout {
    place: Place,
    tag: Option<String>,
}

enum Place {
    Directory(PathBuf),
    Archive(Members),
}

impl Layout {
    pub fn directory(path: &Path, tag: Option<String>) -> Result<Layout> {
        if !path.join("index.json").exists() {
            let error = Error::new(format!("`{}` is not an OCI layout", path.display()));
            return Err(match path.exists() {
                true => error
                    .cause("it has no `index.json`")
                    .hint("a directory that is a root file system is named `dir:DIR`"),
                false => error.cause("it does not exist"),
            });
        }
        Ok(Layout {
            place: Place::Directory(path.to_path_buf()),
            tag,
        })
    }

    pub fn archive(path: &Path, tag: Option<String>, settings: &SourceSettings) -> Result<Layout> {
        Layout::members(Members::open(path, settings)?, path, tag)
    }

    pub fn members(members: Members, path: &Path, tag: Option<String>) -> Result<Layout> {
        if !members.has("index.json") {
            return Err(Error::new(format!(
                "`{}` is not an archive of an OCI layout",
                path.display()
            ))
            .cause("it has no `index.json`")
            .hint("what `docker save` writes is named `docker-archive:FILE`, a root file system `tar:FILE`"));
        }
        Ok(Layout {
            place: Place::Archive(members),
            tag,
        })
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        match &self.place {
            Place::Archive(members) => members.read(name, manifest::MAX_BYTES),
            Place::Directory(path) => {
                let what = || format!("cannot read `{}`", path.join(name).display());
                let mut bytes = Vec::new();
                open_inside(path, name)?
                    .take(manifest::MAX_BYTES as u64 + 1)
                    .read_to_end(&mut bytes)
                    .or_say(what)?;
                if bytes.len() > manifest::MAX_BYTES {
                    return Err(Error::new(what()).cause("it is too long for a document"));
                }
                Ok(bytes)
            }
        }
    }

    /// The entries that the tag leaves, or a reason why that is none or not one name.
    fn chosen(&self) -> Result<Index> {
        let bytes = self.document("index.json")?;
        let index = match manifest::parse(&bytes, None)
            .map_err(|error| error.while_doing("cannot read the layout's `index.json`"))?
        {
            Document::Index(index) => index,
            Document::Manifest(_) => {
                return Err(Error::new("the layout's `index.json` is not an index"));
            }
        };
        let entries: Vec<_> = index
            .tagged(self.tag.as_deref())
            .into_iter()
            .cloned()
            .collect();
        let names = |index: &Index| {
            let mut names: Vec<String> = index
                .tagged(None)
                .iter()
                .filter_map(|entry| entry.name().map(|name| format!("`{name}`")))
                .collect();
            names.sort();
            names.dedup();
            names
        };
        if entries.is_empty() {
            let error = match &self.tag {
                Some(tag) => Error::new(format!("the layout has no image named `{tag}`")),
                None => Error::new("the layout has no image"),
            };
            return Err(match names(&index).as_slice() {
                [] => error,
                names => error.hint(format!("it has {}", names.join(", "))),
            });
        }
        let left = Index { entries };
        let names = names(&left);
        if names.len() > 1 && self.tag.is_none() {
            return Err(Error::new("the layout has several images")
                .cause(names.join(", "))
                .hint("name one after the path, as in `oci:DIR:NAME`"));
        }
        Ok(left)
    }
}

impl Source for Layout {
    fn resolve(&self, platform: &Platform) -> Result<Resolved> {
        let index = self.chosen()?;
        let fetch = |descriptor: &Descriptor| self.document(&blob_name(descriptor.digest));
        // One entry is the image's own manifest or index; several are told apart by platform.
        if let [entry] = index.entries.as_slice() {
            let bytes = resolve::checked(&entry.descriptor, &fetch)?;
            let document = manifest::parse(&bytes, Some(&entry.descriptor.media_type))?;
            return resolve::resolve(entry.descriptor.digest, document, platform, &fetch);
        }
        let first = index.choose(platform)?.first().map(|e| e.descriptor.digest);
        let digest = first.or_say(|| "the layout has no image")?;
        resolve::resolve(digest, Document::Index(index), platform, &fetch)
    }

    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let name = blob_name(layer.digest);
        Ok(match &self.place {
            Place::Archive(members) => Box::new(members.get(&name)?.1),
            Place::Directory(path) => Box::new(open_inside(path, &name)?),
        })
    }
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Opens a file of the layout; a symbolic link may not lead out of it.
fn open_inside(directory: &Path, name: &str) -> Result<std::fs::File> {
    let path = directory.join(name);
    let what = || format!("cannot open `{}`", path.display());
    let root = directory.canonicalize().or_say(what)?;
    let real = path.canonicalize().or_say(what)?;
    if !real.starts_with(&root) {
        return Err(Error::new(what()).cause(format!(
            "it is a link to `{}`, outside of the layout",
            real.display()
        )));
    }
    members::open_regular(&real)
}
