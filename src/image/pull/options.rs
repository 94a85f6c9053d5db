//! What a pull is asked for and what it says it did.

use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, normal_platform};
use crate::image::reference::Reference;
use crate::image::store::{Readers, Stored};
use crate::record::Platform;

/// What a pull may do.
#[derive(Clone, Debug)]
pub struct Options {
    pub platform: Platform,
    /// Only find out what would be done.
    pub dry_run: bool,
    /// What to call the image; `pull` calls it what it was asked for.
    pub name: Name,
    /// Who besides the owner may read it; nothing: as the store's directory says.
    pub readers: Option<Readers>,
}

/// What an image is called in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Name {
    /// The reference itself.
    #[default]
    Reference,
    /// This name.
    Given(Reference),
    /// The names that an archive gives it; without any, the reference.
    Inside,
}

/// What a pull did.
#[derive(Debug)]
pub struct Pulled {
    pub digest: Digest,
    /// Absent after a dry run that found nothing in the store.
    pub stored: Option<Stored>,
    pub how: How,
    /// The layers' stored bytes; none for a file that was taken as it is.
    pub layers: Vec<Descriptor>,
    /// What the converter met on the way.
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The reference names what it named before; nothing was written.
    Unchanged,
    /// The image was there under another name, or another process converted it meanwhile.
    Present,
    /// Converted from its layers.
    Converted,
    /// A squashfs that was taken as it is.
    Copied,
}

impl Options {
    pub fn for_host() -> Options {
        Options {
            platform: host_platform(),
            dry_run: false,
            name: Name::Reference,
            readers: None,
        }
    }
}

/// The machine this runs on.
pub fn host_platform() -> Platform {
    normal_platform("linux", std::env::consts::ARCH, "")
}

/// `os/architecture[/variant]`, or the architecture alone.
pub fn parse_platform(text: &str) -> Result<Platform> {
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    match parts.as_slice() {
        parts if !parts.iter().all(plain) => {}
        [architecture] => return Ok(normal_platform("linux", architecture, "")),
        [os, architecture] => return Ok(normal_platform(os, architecture, "")),
        [os, architecture, variant] => return Ok(normal_platform(os, architecture, variant)),
        _ => {}
    }
    Err(Error::usage(format!("`{text}` is not a platform"))
        .hint("for example `linux/amd64`, `linux/arm/v7` or `arm64`"))
}
