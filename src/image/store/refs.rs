//! Reference → digest: one small file per tag, with one entry per platform.

use super::Store;
use super::files;
use crate::error::{Context, Result};
use crate::image::digest::Digest;
use crate::image::manifest::platform_text;
use crate::image::reference::{Name, Reference};
use crate::record::Platform;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MAX_BYTES: usize = 1 << 20;
/// Deeper trees are not ours: a repository has at most 255 characters.
const MAX_DEPTH: usize = 130;

/// What a reference names, per platform (`linux/amd64`, `linux/arm/v7`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// The reference in normal form.
    pub reference: String,
    pub images: BTreeMap<String, Entry>,
}

/// One image behind a reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Of the platform's manifest: the image's name in the store.
    pub digest: Digest,
    /// What the tag itself named: the index or manifest that the registry answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Digest>,
    /// When it was pulled (RFC 3339) and by whom.
    #[serde(default)]
    pub when: String,
    #[serde(default)]
    pub by: String,
}

impl Target {
    /// The entry for a platform; an image without variant serves when only one fits.
    pub fn choose(&self, platform: &Platform) -> Option<&Entry> {
        let exact = self.images.get(&platform_text(platform));
        exact.or_else(|| {
            let base = format!("{}/{}", platform.os, platform.architecture);
            let fits = |text: &str| {
                text == base
                    || text
                        .strip_prefix(&base)
                        .is_some_and(|rest| rest.starts_with('/'))
            };
            let mut found = self.images.iter().filter(|(text, _)| fits(text));
            found
                .next()
                .map(|(_, entry)| entry)
                .filter(|_| found.next().is_none())
        })
    }
}

/// Where a reference's file is below the store. A digest alone has a name that no tag can have.
pub fn path_of(reference: &Reference) -> PathBuf {
    let Some(name) = reference.name() else {
        // Paths may be long and hold any byte; the text inside the file tells which one it is.
        let hex = Digest::of(reference.to_string().as_bytes()).hex();
        return Path::new("refs/%files").join(format!("{hex}.json"));
    };
    let mut path = Path::new("refs").join(escape(&name.registry));
    for component in name.repository.split('/') {
        let mut component = escape(component);
        // A repository `a/b.json` must not be the tag `b` of the repository `a`.
        if let Some(stem) = component.strip_suffix(".json") {
            component = format!("{stem}%2ejson");
        }
        path.push(component);
    }
    path.join(format!("{}.json", file_stem(name)))
}

fn file_stem(name: &Name) -> String {
    match (&name.digest, &name.tag) {
        (Some(digest), _) => format!("@{}", digest.hex()),
        (None, Some(tag)) => escape(tag),
        (None, None) => "latest".into(),
    }
}

/// One path component that is no other: letters, digits and `._:+-` stay, a leading dot does not.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for (index, byte) in text.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b':');
        if plain || (byte == b'.' && index > 0) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    if out.is_empty() { "%".into() } else { out }
}

impl Store {
    /// What a reference names in the first store that knows it.
    pub fn target(&self, reference: &Reference) -> Result<Option<Target>> {
        for root in self.name_roots() {
            if let Some(target) = read_from(root, reference)? {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// What a reference names in the user's store.
    pub fn own_target(&self, reference: &Reference) -> Result<Option<Target>> {
        read_from(self.root(), reference)
    }

    /// Points a reference at an image, keeping what it names for other platforms.
    pub fn set_reference(
        &self,
        reference: &Reference,
        platform: &Platform,
        entry: Entry,
    ) -> Result<()> {
        self.prepare()?;
        let relative = path_of(reference);
        // A broken file is replaced, not mourned.
        let mut target = read_target(self.root(), &relative)
            .ok()
            .flatten()
            .unwrap_or_default();
        target.reference = reference.to_string();
        target.images.insert(platform_text(platform), entry);
        self.write_target(&relative, &target)
    }

    fn write_target(&self, relative: &Path, target: &Target) -> Result<()> {
        let path = self.root().join(relative);
        let mut text = serde_json::to_string_pretty(target).or_say(|| "cannot form a reference")?;
        text.push('\n');
        let mode = self.place().sharing.directory_mode();
        let write = || {
            if let Some(parent) = path.parent() {
                files::make_directory(parent, mode)?;
            }
            files::replace(&self.temporary(), &path, text.as_bytes(), 0o644)
        };
        // Another process may remove the directory, empty a moment ago, between the two.
        write().or_else(|_| write())
    }

    /// Takes one image out of a reference that names others for other platforms.
    pub(super) fn forget_digest(&self, reference: &Reference, digest: &Digest) -> Result<()> {
        let relative = path_of(reference);
        if let Some(mut target) = read_target(self.root(), &relative)? {
            target.images.retain(|_, entry| entry.digest != *digest);
            self.write_target(&relative, &target)?;
        }
        Ok(())
    }

    /// Removes a reference; `false` when there was none.
    pub fn remove_reference(&self, reference: &Reference) -> Result<bool> {
        let path = self.root().join(path_of(reference));
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(files::explain(
                    format!("cannot remove the reference `{reference}`"),
                    error,
                ));
            }
        }
        // Empty directories of the repository go too; the first that is not empty ends it.
        let refs = self.root().join("refs");
        let repository = path
            .ancestors()
            .skip(1)
            .take_while(|directory| *directory != refs);
        for directory in repository {
            if std::fs::remove_dir(directory).is_err() {
                break;
            }
        }
        Ok(true)
    }

    /// Every reference of one store, sorted. Files that are not references are passed over.
    pub fn references_of(&self, root: &Path) -> Vec<Target> {
        let mut found = Vec::new();
        walk(root, Path::new("refs"), 0, &mut found);
        found.sort_by(|a, b| a.reference.cmp(&b.reference));
        found
    }
}

/// What a reference names in the store at `root`.
pub fn read_from(root: &Path, reference: &Reference) -> Result<Option<Target>> {
    let target = read_target(root, &path_of(reference))?;
    Ok(target.filter(|target| target.reference == reference.to_string()))
}

fn read_target(root: &Path, relative: &Path) -> Result<Option<Target>> {
    let Some(bytes) = files::read(root, relative, MAX_BYTES)? else {
        return Ok(None);
    };
    let target = serde_json::from_slice(&bytes).or_say(|| {
        format!(
            "cannot read the reference `{}`",
            root.join(relative).display()
        )
    });
    target
        .map(Some)
        .map_err(|error| error.hint("the file is damaged: pull or tag the image again"))
}

fn walk(root: &Path, relative: &Path, depth: usize, found: &mut Vec<Target>) {
    if depth > MAX_DEPTH {
        return;
    }
    let Ok(entries) = std::fs::read_dir(root.join(relative)) else {
        return;
    };
    for entry in entries.flatten() {
        let path = relative.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(root, &path, depth + 1, found),
            Ok(kind) if kind.is_file() => {
                if let Ok(Some(target)) = read_target(root, &path)
                    && let Ok(reference) = target.reference.parse::<Reference>()
                    && path_of(&reference) == path
                {
                    found.push(target);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_paths_of_their_own() {
        let digest = "a".repeat(64);
        for (text, want) in [
            (
                "alpine",
                "refs/docker.io/library/alpine/latest.json".to_string(),
            ),
            ("host:5000/a/b:v1", "refs/host:5000/a/b/v1.json".into()),
            (
                "host:5000/a/b.json:v1",
                "refs/host:5000/a/b%2ejson/v1.json".into(),
            ),
            (
                &format!("site.eu/a:v1@sha256:{digest}"),
                format!("refs/site.eu/a/@{digest}.json"),
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(path_of(&reference), Path::new(&want), "{text}");
        }
        let file: Reference = "oci:/a/../b:x".parse().unwrap();
        assert!(path_of(&file).starts_with("refs/%files"));
    }

    #[test]
    fn components_cannot_leave_the_store() {
        for text in [
            "",
            ".",
            "..",
            "a/b",
            ".hidden",
            "a\0b",
            "[::1]:5000",
            "\u{e9}",
        ] {
            let escaped = escape(text);
            let path = Path::new(&escaped);
            assert_eq!(path.components().count(), 1, "{text:?}");
            assert!(
                !escaped.starts_with('.') && !escaped.contains('\0'),
                "{text:?}"
            );
        }
    }

    #[test]
    fn platforms_choose_exactly_then_by_family() {
        let entry = |digit: &str| Entry {
            digest: format!("sha256:{}", digit.repeat(64)).parse().unwrap(),
            remote: None,
            when: String::new(),
            by: String::new(),
        };
        let platform = |architecture: &str, variant: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        };
        let mut target = Target::default();
        target.images.insert("linux/arm/v6".into(), entry("6"));
        target.images.insert("linux/arm/v7".into(), entry("7"));
        target.images.insert("linux/arm64/v8".into(), entry("8"));
        let chosen = |architecture: &str, variant: &str| {
            let chosen = target.choose(&platform(architecture, variant));
            chosen.map(|entry| entry.digest.short())
        };
        assert_eq!(chosen("arm", "v7").unwrap(), "7".repeat(12));
        assert_eq!(chosen("arm64", "").unwrap(), "8".repeat(12));
        assert_eq!(chosen("arm", ""), None);
        assert_eq!(chosen("amd64", ""), None);
    }
}
