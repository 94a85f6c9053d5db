//! The image as the broker sees it: opened before the capsule exists, served once there is a device.
//!
//! Without the `squashfs` feature (the plugin, which starts the program instead of serving) nothing can be opened.

use crate::error::Result;
use crate::record;
use std::fs::File;
use std::os::fd::OwnedFd;

#[cfg(feature = "squashfs")]
pub struct Image(std::sync::Arc<crate::squashfs::read::Image>);

#[cfg(feature = "squashfs")]
impl Image {
    pub fn open(
        file: File,
        offset: u64,
        name: &str,
        check: Option<&record::Squashfs>,
    ) -> Result<Image> {
        let options = crate::squashfs::read::Options {
            name: name.to_string(),
            offset,
            ..Default::default()
        };
        let image = crate::squashfs::read::Image::open(file, options)?;
        if let Some(expected) = check {
            image.check(expected)?;
        }
        Ok(Image(std::sync::Arc::new(image)))
    }

    /// Returns when the device is unmounted.
    pub fn serve(self, device: OwnedFd, owner: (u32, u32), log: File) {
        let options = super::fuse::ServeOptions {
            owner: Some(owner),
            log: log.try_clone().ok(),
            ..Default::default()
        };
        if let Err(error) = super::fuse::serve(device, self.0, options) {
            use std::io::Write;
            let _ = write!(&log, "{error}");
        }
    }
}

#[cfg(not(feature = "squashfs"))]
pub struct Image;

#[cfg(not(feature = "squashfs"))]
impl Image {
    pub fn open(_: File, _: u64, _: &str, _: Option<&record::Squashfs>) -> Result<Image> {
        Err(crate::error::Error::new(
            "this build of carrack cannot read images",
        ))
    }

    pub fn serve(self, _: OwnedFd, _: (u32, u32), _: File) {}
}
