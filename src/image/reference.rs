//! What the user types to name an image.
//!
//! Parsing looks at the text only: whether a file exists, which kind of archive it is, or whether a registry answers is
//! for the source to find out. [`Reference`]'s text form parses back to the same value, so it can be stored, printed
//! into scripts and read again.

use crate::error::{Error, Result};
use crate::image::digest::Digest;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The registry of a name that has none.
pub const DOCKER_HUB: &str = "docker.io";

const MAX_BYTES: usize = 4096;
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Suffixes by which a bare word is a file and not a name in a registry.
const SQUASHFS_SUFFIXES: [&str; 3] = [".sqsh", ".sqfs", ".squashfs"];
const SIF_SUFFIXES: [&str; 2] = [".sif", ".simg"];
const TAR_SUFFIXES: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".oci"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// An image in a registry.
    Registry(Name),
    /// `oci:DIR[:TAG]`: an OCI layout on disk.
    Layout { path: PathBuf, tag: Option<String> },
    /// `oci-archive:FILE[:TAG]`: an OCI layout in a tar.
    OciArchive { path: PathBuf, tag: Option<String> },
    /// `docker-archive:FILE[:NAME:TAG]`: what `docker save` writes.
    DockerArchive { path: PathBuf, tag: Option<String> },
    /// `dir:DIR`: a directory that is a root file system.
    Directory(PathBuf),
    /// `tar:FILE`: a tar of a root file system, plain, gzip or zstd.
    RootfsTar(PathBuf),
    /// A squashfs file.
    Squashfs(PathBuf),
    /// A Singularity/Apptainer image file.
    Sif(PathBuf),
    /// A path whose content tells what it is.
    File(PathBuf),
}

/// `registry/repository[:tag][@digest]`; at least one of tag and digest is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// `host` or `host:port`, lower case; Docker Hub is always `docker.io`.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// Decides alone what is pulled when both are there.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Like `from_str`, for a site whose bare names belong to another registry than Docker Hub.
    pub fn parse(text: &str, default_registry: &str) -> Result<Reference> {
        check_text(text)?;
        if text.starts_with("sha256:") {
            return Err(refuse(text)
                .cause("a digest alone does not tell where the image is")
                .hint(format!("write its name in front: `NAME@{text}`")));
        }
        if let Some(rest) = text.strip_prefix("docker://") {
            return Ok(Reference::Registry(parse_name(
                text,
                rest,
                default_registry,
            )?));
        }
        if !is_path(text)
            && let Some((scheme, rest)) = text.split_once(':')
            && let Some(reference) = with_scheme(text, scheme, rest)?
        {
            return Ok(reference);
        }
        let path = || PathBuf::from(text);
        if ends_with(text, &SQUASHFS_SUFFIXES) {
            return Ok(Reference::Squashfs(path()));
        }
        if ends_with(text, &SIF_SUFFIXES) {
            return Ok(Reference::Sif(path()));
        }
        if is_path(text) || ends_with(text, &TAR_SUFFIXES) {
            return Ok(Reference::File(path()));
        }
        Ok(Reference::Registry(parse_name(
            text,
            text,
            default_registry,
        )?))
    }

    /// The file or directory that it names, if any.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Reference::Registry(_) => None,
            Reference::Layout { path, .. }
            | Reference::OciArchive { path, .. }
            | Reference::DockerArchive { path, .. }
            | Reference::Directory(path)
            | Reference::RootfsTar(path)
            | Reference::Squashfs(path)
            | Reference::Sif(path)
            | Reference::File(path) => Some(path),
        }
    }

    /// The same reference with its path, if any, made absolute and without `.` in it.
    pub fn absolute(mut self, directory: &Path) -> Reference {
        match &mut self {
            Reference::Registry(_) => {}
            Reference::Layout { path, .. }
            | Reference::OciArchive { path, .. }
            | Reference::DockerArchive { path, .. }
            | Reference::Directory(path)
            | Reference::RootfsTar(path)
            | Reference::Squashfs(path)
            | Reference::Sif(path)
            | Reference::File(path) => *path = directory.join(&*path).components().collect(),
        }
        self
    }

    pub fn name(&self) -> Option<&Name> {
        match self {
            Reference::Registry(name) => Some(name),
            _ => None,
        }
    }
}

impl Name {
    /// What the registry's API calls this version: the digest if there is one, else the tag.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_string(),
        }
    }

    /// The same image pinned to a digest.
    pub fn pinned(&self, digest: Digest) -> Name {
        Name {
            digest: Some(digest),
            ..self.clone()
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        Reference::parse(text, DOCKER_HUB)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tagged = |out: &mut fmt::Formatter<'_>, scheme, path: &Path, tag: &Option<String>| {
            write!(out, "{scheme}:{}", path.display())?;
            match tag {
                Some(tag) => write!(out, ":{tag}"),
                None => Ok(()),
            }
        };
        match self {
            Reference::Registry(name) => write!(out, "docker://{name}"),
            Reference::Layout { path, tag } => tagged(out, "oci", path, tag),
            Reference::OciArchive { path, tag } => tagged(out, "oci-archive", path, tag),
            Reference::DockerArchive { path, tag } => tagged(out, "docker-archive", path, tag),
            Reference::Directory(path) => write!(out, "dir:{}", path.display()),
            Reference::RootfsTar(path) => write!(out, "tar:{}", path.display()),
            Reference::Squashfs(path) if !bare(path, &SQUASHFS_SUFFIXES) => {
                write!(out, "squashfs:{}", path.display())
            }
            Reference::Sif(path) if !bare(path, &SIF_SUFFIXES) => {
                write!(out, "sif:{}", path.display())
            }
            Reference::Squashfs(path) | Reference::Sif(path) | Reference::File(path) => {
                write!(out, "{}", path.display())
            }
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A host that would read as part of the repository (`node7`, with no dot or port) needs the other separator.
        let separator = if is_registry(&self.registry) {
            '/'
        } else {
            '#'
        };
        write!(out, "{}{separator}{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

/// A registry alone, in normal form: what `login` takes. Docker Hub's further names and a scheme in front are understood.
pub fn registry_name(text: &str) -> Result<String> {
    check_text(text)?;
    let bare = ["https://", "http://", "docker://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text)
        .trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").unwrap_or(bare);
    // What stands before an `@` may be a password.
    if let Some((_, host)) = bare.rsplit_once('@') {
        return Err(
            Error::usage(format!("`{host}` is named without a user before it"))
                .hint(format!("write `carrack login {host}`")),
        );
    }
    check_registry(text, bare).map_err(|error| {
        let causes = error.causes().join(", ");
        let error = Error::usage(format!("`{text}` is not a registry")).cause(causes);
        match bare.split_once('/') {
            Some((host, _)) if check_registry(host, host).is_ok() => error.hint(format!(
                "it is the name of an image; the registry is `{host}`"
            )),
            _ => error,
        }
    })?;
    Ok(normal_registry(bare))
}

/// Lower case; Docker Hub by its one name.
fn normal_registry(registry: &str) -> String {
    let registry = registry.to_ascii_lowercase();
    match registry.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => {
            DOCKER_HUB.to_string()
        }
        _ => registry,
    }
}

fn check_text(text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::usage("an empty text is not an image reference"));
    }
    if text.len() > MAX_BYTES {
        return Err(Error::usage(format!(
            "an image reference of {} bytes is too long (the limit is {MAX_BYTES})",
            text.len()
        )));
    }
    if let Some(character) = text.chars().find(|c| c.is_control()) {
        return Err(refuse(text).cause(format!(
            "it has the control character `{}`",
            character.escape_default()
        )));
    }
    Ok(())
}

/// The forms `scheme:rest`. `None` when the word before the colon is no scheme of ours but, say, a host.
fn with_scheme(text: &str, scheme: &str, rest: &str) -> Result<Option<Reference>> {
    let path = || -> Result<PathBuf> {
        if rest.is_empty() {
            return Err(refuse(text).cause(format!("there is no path after `{scheme}:`")));
        }
        Ok(PathBuf::from(rest))
    };
    // The first colon ends the path, as in skopeo: paths with colons need another name.
    let tagged = || -> Result<(PathBuf, Option<String>)> {
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(refuse(text).cause(format!("there is no path after `{scheme}:`")));
        }
        if tag.is_some_and(|tag| tag.is_empty() || tag.len() > MAX_NAME) {
            return Err(refuse(text).cause("the name after the path is empty or too long"));
        }
        Ok((PathBuf::from(path), tag.map(str::to_string)))
    };
    let reference = match scheme {
        "oci" => tagged().map(|(path, tag)| Reference::Layout { path, tag })?,
        "oci-archive" => tagged().map(|(path, tag)| Reference::OciArchive { path, tag })?,
        "docker-archive" => tagged().map(|(path, tag)| Reference::DockerArchive { path, tag })?,
        "dir" => Reference::Directory(path()?),
        "tar" => Reference::RootfsTar(path()?),
        "squashfs" => Reference::Squashfs(path()?),
        "sif" => Reference::Sif(path()?),
        "docker" => {
            return Err(
                refuse(text).hint(format!("write `docker://{}`", rest.trim_start_matches('/')))
            );
        }
        "docker-daemon" | "dockerd" | "podman" | "containers-storage" => {
            return Err(refuse(text)
                .cause("carrack does not talk to container daemons or their stores")
                .hint("write the image to a file with `docker save` or `podman save`, then use `docker-archive:FILE`"));
        }
        "http" | "https" => {
            without_credentials(rest.trim_start_matches('/'))?;
            return Err(refuse(text)
                .cause("a registry is named without `http`")
                .hint(format!("write `docker://{}`", rest.trim_start_matches('/'))));
        }
        "library" | "shub" | "oras" if rest.starts_with("//") => {
            return Err(refuse(text)
                .cause(format!("`{scheme}://` sources are not supported"))
                .hint("pull it to a `.sif` file with its own tool and use that file"));
        }
        _ if rest.starts_with("//") => {
            return Err(refuse(text)
                .cause(format!("`{scheme}://` is not a known source"))
                .hint("known are docker://, oci:, oci-archive:, docker-archive:, dir:, tar:, squashfs:, sif: and paths"));
        }
        _ => return Ok(None),
    };
    Ok(Some(reference))
}

/// Refuses `user:password@host/image`, in words that do not have the password.
fn without_credentials(name: &str) -> Result<()> {
    let mut parts = name.split('@');
    let before = parts.next().unwrap_or_default();
    // Passwords may hold anything, a digest holds neither of these.
    let is_image = |part: &&str| part.contains(['/', '#']) && !part.starts_with("sha256:");
    let Some(image) = parts.rfind(is_image) else {
        return Ok(());
    };
    // `user@registry#image` is a form of its own.
    if image.contains('#') && !before.contains(':') {
        return Ok(());
    }
    let host = image.split(['/', '#']).next().unwrap_or_default();
    Err(Error::usage(format!(
        "`{image}` is named without a user and a password before it"
    ))
    .hint(format!(
        "`carrack login {host}` asks for them and keeps them"
    )))
}

fn parse_name(text: &str, rest: &str, default_registry: &str) -> Result<Name> {
    without_credentials(rest)?;
    let (name, digest) = match rest.split_once('@') {
        // `user@registry#image`: the user decides nothing, credentials are found by host.
        Some((_, after)) if after.contains('#') => match after.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (after, None),
        },
        Some((name, digest)) => (name, Some(digest)),
        None => (rest, None),
    };
    let digest = digest
        .map(|digest| digest.parse::<Digest>())
        .transpose()
        .map_err(|error| {
            let mut refused = refuse(text).cause(error.what());
            for cause in error.causes() {
                refused = refused.cause(cause);
            }
            refused
        })?;
    let (registry, path) = match name.split_once('#') {
        Some((registry, path)) => (Some(registry), path),
        None => match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (Some(first), path),
            _ => (None, name),
        },
    };
    let (repository, tag) = match path.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (path, None),
    };
    let registry = registry.unwrap_or(default_registry);
    check_registry(text, registry)?;
    let registry = normal_registry(registry);
    let repository =
        if registry == DOCKER_HUB && !repository.contains('/') && !repository.is_empty() {
            format!("library/{repository}")
        } else {
            repository.to_string()
        };
    // With what was put in front: the limit is the registry's.
    check_repository(text, &repository)?;
    if let Some(tag) = tag {
        check_tag(text, tag)?;
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_string()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_string()),
    };
    Ok(Name {
        registry,
        repository,
        tag,
        digest,
    })
}

/// docker's rule: the first component is a host when it could not be a repository's.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':', '['])
        || first.bytes().any(|c| c.is_ascii_uppercase())
}

fn check_registry(text: &str, registry: &str) -> Result<()> {
    let bad = |why: String| Err(refuse(text).cause(format!("the registry `{registry}` {why}")));
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, after)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return bad("is not an IPv6 address".into());
                }
                match after.strip_prefix(':') {
                    Some(port) => (None, Some(port)),
                    None if after.is_empty() => (None, None),
                    None => return bad("has text after the address".into()),
                }
            }
            None => return bad("has no closing `]`".into()),
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(host) = host {
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        };
        if host.len() > 253 || !host.split('.').all(label) {
            return bad("is not a host name".into());
        }
    }
    if let Some(port) = port {
        let digits = port.bytes().all(|c| c.is_ascii_digit());
        if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return bad("has no valid port after `:`".into());
        }
    }
    Ok(())
}

fn check_repository(text: &str, repository: &str) -> Result<()> {
    if repository.is_empty() {
        return Err(refuse(text).cause("there is no image name"));
    }
    if repository.len() > MAX_NAME {
        return Err(refuse(text).cause(format!(
            "the image name has {} characters (the limit is {MAX_NAME})",
            repository.len()
        )));
    }
    let lower = repository.to_ascii_lowercase();
    if lower != repository && lower.split('/').all(is_component) {
        let typed = repository
            .strip_prefix("library/")
            .filter(|_| !text.contains(repository))
            .unwrap_or(repository);
        let meant = text.replacen(typed, &typed.to_ascii_lowercase(), 1);
        let error = refuse(text).cause("image names are lower case");
        return Err(match meant.parse::<Reference>() {
            Ok(_) => error.hint(format!("did you mean `{meant}`?")),
            Err(_) => error,
        });
    }
    if let Some(bad) = repository
        .split('/')
        .find(|component| !is_component(component))
    {
        return Err(refuse(text).cause(format!(
            "`{bad}` is not a part of an image name (lower-case letters and digits, separated by `.`, `_`, `__` or `-`)"
        )));
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut rest = component;
    loop {
        let after = rest.trim_start_matches(word);
        if after.len() == rest.len() {
            return false;
        }
        if after.is_empty() {
            return true;
        }
        let next = after.trim_start_matches(['.', '_', '-']);
        let separator = after.strip_suffix(next).unwrap_or_default();
        let fine = matches!(separator, "." | "_" | "__") || separator.bytes().all(|c| c == b'-');
        if separator.is_empty() || !fine {
            return false;
        }
        rest = next;
    }
}

fn check_tag(text: &str, tag: &str) -> Result<()> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let fine = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-');
    if fine {
        return Ok(());
    }
    Err(refuse(text).cause(format!(
        "`{tag}` is not a tag (at most {MAX_TAG} letters, digits, `_`, `.` and `-`)"
    )))
}

fn refuse(text: &str) -> Error {
    Error::usage(format!("`{text}` is not an image reference"))
}

fn is_path(text: &str) -> bool {
    text.starts_with(['/', '~'])
        || text == "."
        || text == ".."
        || text.starts_with("./")
        || text.starts_with("../")
}

fn ends_with(text: &str, suffixes: &[&str]) -> bool {
    suffixes
        .iter()
        .any(|suffix| text.len() > suffix.len() && text.to_ascii_lowercase().ends_with(suffix))
}

/// Whether the bare path parses back to the kind that these suffixes stand for.
fn bare(path: &Path, suffixes: &[&str]) -> bool {
    let text = path.to_string_lossy();
    ends_with(&text, suffixes) && (is_path(&text) || !text.contains(':'))
}

#[cfg(test)]
mod tests;
