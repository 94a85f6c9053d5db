//! Where images live, shared by the nodes of a cluster and safe on file systems without flock.
//!
//! ```text
//! STORE/
//!   images/ab/<manifest-digest>.sqsh   0444, never changed after its rename into place
//!   images/ab/<manifest-digest>.json   the record, renamed last: an image without one is not there
//!   images/ab/<manifest-digest>.used   empty; its time is when the image was last started
//!   refs/<registry>/<repo>/<tag>.json  tag → digest per platform, when, by whom; `@<hex>.json` for a digest
//!   refs/%files/<hex>.json             the same for references that are paths
//!   packs/<diff-id>-<params>.{dat,idx} converted layers; may live elsewhere, bounded, least recently used go first
//!   pins/<job>.json                    digests in use by a queued or running job
//!   tmp/<hex>.<random>/                everything is written here, fsynced, renamed
//!   tmp/<hex>.lock                     who converts a digest (`image/lock.rs`); losers wait, then find the image
//! ```
//! Content is hostile until checked: links are not followed, reads are bounded, a record must name the digest of its
//! file. An image that is for named users only has an access list and mode 0440. Absent: any database. The directories are
//! the truth, and `rm -rf` of one file of a pair is survived.

mod access;
mod files;
pub mod gc;
mod incoming;
mod list;
pub mod pins;
mod place;
mod refs;
mod remove;
pub mod space;
mod time;
pub mod verify;

pub use access::{Readers, is_private};
pub use files::{advise, explain};
pub use incoming::{Begin, Incoming, abandon};
pub use list::{Damaged, Listed, Listing};
pub use place::Place;
pub use refs::{Entry, Target};
pub use remove::jobs_named;
pub use time::{now_text, seconds_of, text_of};

use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::platform_text;
use crate::image::reference::Reference;
use crate::image::source;
use crate::record::{ImageRecord, MAX_BYTES, Platform};
use std::path::{Path, PathBuf};

/// The user's store and the site's before it.
#[derive(Clone, Debug)]
pub struct Store {
    place: Place,
}

/// One image that is there, whole as far as sizes tell.
#[derive(Clone, Debug)]
pub struct Stored {
    pub digest: Digest,
    /// The squashfs file.
    pub path: PathBuf,
    /// Where the squashfs starts in it: 0 in a store, elsewhere in a SIF that is used where it lies.
    pub offset: u64,
    pub record: ImageRecord,
    /// The store it is in.
    pub root: PathBuf,
    /// Whether that store is one of the site's.
    pub read_only: bool,
}

impl Store {
    /// Opens without touching anything: directories are made by the first write.
    pub fn open(place: Place) -> Store {
        Store { place }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn root(&self) -> &Path {
        &self.place.root
    }

    pub fn temporary(&self) -> PathBuf {
        self.place.root.join("tmp")
    }

    /// All stores in the order in which images are looked up: the site's share the page cache of everybody.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        let site = self.place.read_only.iter().map(PathBuf::as_path);
        site.chain([self.root()])
    }

    /// All stores in the order in which names are looked up: what the user pulled or tagged hides the site's.
    fn name_roots(&self) -> impl Iterator<Item = &Path> {
        let site = self.place.read_only.iter().map(PathBuf::as_path);
        std::iter::once(self.root()).chain(site)
    }

    /// Makes the directories that every write needs.
    pub fn prepare(&self) -> Result<()> {
        let mode = self.place.sharing.directory_mode();
        files::make_directory(self.root(), mode)?;
        for name in ["images", "refs", "tmp"] {
            files::make_directory(&self.root().join(name), mode)?;
        }
        Ok(())
    }

    pub fn image_path(&self, digest: &Digest) -> PathBuf {
        self.root().join(relative(digest, "sqsh"))
    }

    pub fn record_path(&self, digest: &Digest) -> PathBuf {
        self.root().join(relative(digest, "json"))
    }

    /// The image of a digest, from the site's stores or the user's.
    pub fn get(&self, digest: &Digest) -> Result<Option<Stored>> {
        // One bad copy, which only the site can repair, does not hide a good one.
        let mut failed = None;
        for root in self.roots() {
            match self.get_from(root, digest) {
                Ok(Some(stored)) => return Ok(Some(stored)),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    fn get_from(&self, root: &Path, digest: &Digest) -> Result<Option<Stored>> {
        let bytes = files::read(root, &relative(digest, "json"), MAX_BYTES).map_err(|error| {
            access::private(error, root, &relative(digest, "json"), &digest.short())
        })?;
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        let image = relative(digest, "sqsh");
        let path = root.join(&image);
        let damaged = |why: String| {
            Error::new(format!(
                "image `{}` in `{}` is damaged",
                digest.short(),
                root.display()
            ))
            .cause(why)
            .hint(format!(
                "`carrack rm --force {}`, then pull it again",
                digest.short()
            ))
        };
        let record =
            ImageRecord::parse(&bytes).map_err(|error| damaged(error.what().to_string()))?;
        if record.manifest_digest != digest.to_string() {
            return Err(damaged(format!(
                "its record is of `{}`",
                record.manifest_digest
            )));
        }
        let Some((_, size)) = files::open_sized(root, &image)? else {
            // Half removed, or another process is between its two renames of a removal.
            return Ok(None);
        };
        if size != record.squashfs.size {
            return Err(damaged(format!(
                "`{}` has {size} bytes, not {}",
                path.display(),
                record.squashfs.size
            )));
        }
        Ok(Some(Stored {
            digest: *digest,
            path,
            offset: 0,
            record,
            root: root.to_path_buf(),
            read_only: root != self.root(),
        }))
    }

    /// The image that a reference names here, for a platform. Nothing is asked elsewhere.
    pub fn find(&self, reference: &Reference, platform: &Platform) -> Result<Option<Stored>> {
        if let Some(digest) = reference.name().and_then(|name| name.digest)
            && let Some(stored) = self.get(&digest)?
        {
            return Ok(Some(stored));
        }
        // The user's own name for it first: they pulled or tagged it themselves.
        for root in self.name_roots() {
            if let Some(target) = refs::read_from(root, reference)?
                && let Some(entry) = target.choose(platform)
                && let Some(stored) = self.get(&entry.digest)?
            {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// What a person names on the command line: a reference, a digest, or the first [`DIGITS`] or more of one.
    pub fn find_named(
        &self,
        text: &str,
        default_registry: &str,
        platform: &Platform,
    ) -> Result<Stored> {
        self.look_up(
            text,
            default_registry,
            platform,
            &|reference| match reference {
                Some(_) => {
                    format!("`carrack pull {text}` brings it, `carrack images` lists what is there")
                }
                None => self.how_to_bring(text),
            },
        )
    }

    /// The same for who wants to be rid of it, and is not told how to bring it.
    pub fn find_to_remove(
        &self,
        text: &str,
        default_registry: &str,
        platform: &Platform,
    ) -> Result<Stored> {
        let hint = |_: Option<&Reference>| "`carrack images` lists what is there".to_string();
        self.look_up(text, default_registry, platform, &hint)
    }

    /// Without an image it fails with the hint for what the text may be.
    fn look_up(
        &self,
        text: &str,
        default_registry: &str,
        platform: &Platform,
        hint: &dyn Fn(Option<&Reference>) -> String,
    ) -> Result<Stored> {
        let _kept = files::keep_roots();
        if let Ok(digest) = text.parse::<Digest>()
            && let Some(stored) = self.get(&digest)?
        {
            return Ok(stored);
        }
        let reference = named(text, default_registry)?;
        if let Some(reference) = &reference
            && let Some(stored) = self.find(reference, platform)?
        {
            return Ok(stored);
        }
        if let Some(stored) = self.find_by_prefix(text)? {
            return Ok(stored);
        }
        // A path that leads nowhere is a mistake in the path, not an image to be pulled.
        if let Some(reference) = &reference
            && let Some(path) = reference.path()
        {
            source::check_exists(path, reference)?;
        }
        let few = self.too_few_digits(text);
        if let (None, Some(few)) = (&reference, &few) {
            return Err(Error::usage(format!("`{text}` is too short for a digest"))
                .cause(few)
                .hint("`carrack images` lists what is there"));
        }
        let missing = self
            .missing(text, reference.as_ref(), platform)
            .hint(hint(reference.as_ref()));
        Err(match few {
            Some(few) => missing.hint(few),
            None => missing,
        })
    }

    /// What to say of a text that may begin a digest but has not digits enough to name one.
    pub fn too_few_digits(&self, text: &str) -> Option<String> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if !is_hex(digits) || !(1..DIGITS).contains(&digits.len()) {
            return None;
        }
        let rule = format!("an image is named by {DIGITS} digits of its digest or more");
        let mut all = self.roots().flat_map(list::digests_in);
        Some(match all.find(|digest| digest.hex().starts_with(digits)) {
            Some(digest) => format!("{rule}: `{digits}` begins `{}`", digest.short()),
            None => format!("{rule}; `{digits}` has {}", digits.len()),
        })
    }

    fn missing(&self, text: &str, reference: Option<&Reference>, platform: &Platform) -> Error {
        let shown = reference.map_or_else(|| text.to_string(), ToString::to_string);
        let platform = platform_text(platform);
        let error =
            Error::new(format!("no image `{shown}` for {platform} in the store")).cause(format!(
                "looked in {}",
                self.roots()
                    .map(|root| format!("`{}`", root.display()))
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        match reference.and_then(|reference| self.called_alike(reference)) {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None => error,
        }
    }

    /// A digest alone cannot be pulled: what it was pulled as can.
    fn how_to_bring(&self, text: &str) -> String {
        let known = text.parse::<Digest>().ok().and_then(|digest| {
            let pinned = || {
                let mut pins = self.pins().into_iter();
                pins.find_map(|(mut pin, _)| pin.images.remove(text))
            };
            let name = self.names_of(&digest).into_iter().next().or_else(pinned)?;
            Some((digest, name.parse::<Reference>().ok()?))
        });
        match known {
            Some((digest, Reference::Registry(name))) => {
                format!("`carrack pull {}` brings it again", name.pinned(digest))
            }
            Some((_, reference)) => {
                format!("`carrack pull {reference}` brings it again, if that has not changed")
            }
            None => "`carrack pull` brings it by the name that it had, which a job script tells in its line `# Image:`; \
                     `carrack images` lists what is there"
                .to_string(),
        }
    }

    /// A reference in the stores whose repository ends as this one does: people leave registry and group out.
    fn called_alike(&self, reference: &Reference) -> Option<String> {
        fn last(repository: &str) -> Option<&str> {
            repository.rsplit('/').next()
        }
        let wanted = reference.name()?;
        let mut found: Vec<Reference> = Vec::new();
        for root in self.name_roots() {
            let targets = self.references_of(root).into_iter();
            found.extend(targets.filter_map(|target| target.reference.parse().ok()));
        }
        found.retain(|other| {
            let name = other.name();
            name.is_some_and(|name| last(&name.repository) == last(&wanted.repository))
        });
        let same_tag = |other: &&Reference| other.name().map(|name| &name.tag) == Some(&wanted.tag);
        let best = found.iter().find(same_tag).or(found.first())?;
        Some(best.to_string())
    }

    fn find_by_prefix(&self, text: &str) -> Result<Option<Stored>> {
        let found = self.roots().flat_map(list::digests_in).collect();
        match one_digest(text, found)? {
            Some(digest) => self.get(&digest),
            None => Ok(None),
        }
    }

    /// The digest in the user's store that begins so, be the image damaged or not.
    pub fn own_digest(&self, text: &str) -> Result<Option<Digest>> {
        one_digest(text, list::digests_in(self.root()))
    }

    /// Notes that an image is being started; at most once a day, so that thousands of tasks do not write.
    pub fn touch(&self, stored: &Stored) {
        if stored.read_only {
            return;
        }
        let stamp = self.root().join(relative(&stored.digest, "used"));
        let fresh =
            |time: std::time::SystemTime| time.elapsed().is_ok_and(|age| age.as_secs() < 86_400);
        let recent = stamp
            .symlink_metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(fresh);
        if !recent {
            // Only gc reads it; a store that cannot be written here is no reason to stop.
            let _ = std::fs::File::create(&stamp);
        }
    }
}

/// As many digits of a digest name an image; fewer are as likely a word.
const DIGITS: usize = 6;

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The digest that begins with what a person typed: [`DIGITS`] or more.
fn one_digest(text: &str, mut all: Vec<Digest>) -> Result<Option<Digest>> {
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    if !is_hex(prefix) || !(DIGITS..=64).contains(&prefix.len()) {
        return Ok(None);
    }
    all.retain(|digest| digest.hex().starts_with(prefix));
    all.sort();
    all.dedup();
    match all.as_slice() {
        [] => Ok(None),
        [digest] => Ok(Some(*digest)),
        several => {
            let error = Error::usage(format!("`{text}` names {} images", several.len()));
            Err(several.iter().map(Digest::hex).fold(error, Error::cause))
        }
    }
}

/// What the text names as a reference; `None` for what can only be digits of a digest.
pub fn named(text: &str, default_registry: &str) -> Result<Option<Reference>> {
    if text.starts_with("sha256:") {
        return Ok(None);
    }
    let reference = Reference::parse(text, default_registry)?;
    match std::env::current_dir() {
        Ok(directory) => Ok(Some(reference.absolute(&directory))),
        Err(_) => Ok(Some(reference)),
    }
}

/// The user, for people who read references and pins.
pub fn who() -> String {
    let uid = rustix::process::getuid().as_raw();
    match std::env::var("LOGNAME").or_else(|_| std::env::var("USER")) {
        Ok(name) if !name.is_empty() => format!("{name} ({uid})"),
        _ => uid.to_string(),
    }
}

/// `images/ab/<hex>.<suffix>`.
fn relative(digest: &Digest, suffix: &str) -> PathBuf {
    let hex = digest.hex();
    let shard: String = hex.chars().take(2).collect();
    Path::new("images")
        .join(shard)
        .join(format!("{hex}.{suffix}"))
}

#[cfg(test)]
mod tests;
