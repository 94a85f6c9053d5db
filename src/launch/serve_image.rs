//! The image as the broker sees it: opened before the capsule exists, served once there is a device.
//!
//! Without the `squashfs` feature (the plugin, which starts the program instead of serving) nothing can be opened.

use crate::error::Result;
use crate::record;
use std::fs::File;
use std::os::fd::OwnedFd;

/// How an image is served.
#[cfg_attr(
    not(feature = "squashfs"),
    expect(dead_code, reason = "there is nothing to serve with")
)]
pub struct Serving {
    /// Shown for everything, as the inside numbers them.
    pub owner: (u32, u32),
    pub threads: usize,
    /// The calling thread is bound to the maker's processor, for the start.
    pub bound: bool,
    /// Gets what is to be said of a broken image.
    pub log: File,
}

#[cfg(feature = "squashfs")]
mod with_squashfs {
    use super::*;
    use crate::launch::fuse;
    use crate::squashfs::read;
    use std::sync::Arc;

    pub struct Image {
        image: Arc<read::Image>,
        hot: Arc<fuse::Hot>,
    }

    /// What is done beside the serving: everything that can be made ready.
    pub struct Preparation {
        image: Arc<read::Image>,
        hot: Arc<fuse::Hot>,
    }

    impl Image {
        /// Opens the image, if it is the one that its record describes.
        pub fn open(
            file: File,
            offset: u64,
            name: &str,
            check: Option<&record::Squashfs>,
        ) -> Result<(Image, Preparation)> {
            let options = read::Options {
                name: name.to_string(),
                offset,
                ..Default::default()
            };
            let image = Arc::new(read::Image::open(file, options)?);
            if let Some(expected) = check {
                image.check(expected)?;
            }
            let hot = Arc::new(fuse::Hot::new());
            let preparation = Preparation {
                image: Arc::clone(&image),
                hot: Arc::clone(&hot),
            };
            Ok((Image { image, hot }, preparation))
        }

        /// Returns when the device is unmounted.
        pub fn serve(self, device: OwnedFd, serving: Serving) {
            // The process ends with it. To give back the memory before would only take time, in which the last process
            // of the capsule cannot end.
            std::mem::forget(Arc::clone(&self.image));
            let options = fuse::ServeOptions {
                owner: Some(serving.owner),
                threads: serving.threads,
                log: serving.log.try_clone().ok(),
                hot: Some(self.hot),
                bound: serving.bound,
                ..Default::default()
            };
            if let Err(error) = fuse::serve(device, self.image, options) {
                use std::io::Write;
                let _ = write!(&serving.log, "{error}");
            }
        }
    }

    impl Preparation {
        /// Returns when there is nothing more to make ready.
        pub fn go_on(self) {
            self.hot.prepare(&self.image);
            self.hot.hand_over(&self.image);
        }
    }
}

#[cfg(feature = "squashfs")]
pub use with_squashfs::{Image, Preparation};

#[cfg(not(feature = "squashfs"))]
pub struct Image;

#[cfg(not(feature = "squashfs"))]
pub struct Preparation;

#[cfg(not(feature = "squashfs"))]
impl Image {
    pub fn open(
        _: File,
        _: u64,
        _: &str,
        _: Option<&record::Squashfs>,
    ) -> Result<(Image, Preparation)> {
        Err(crate::error::Error::new(
            "this build of carrack cannot read images",
        ))
    }

    pub fn serve(self, _: OwnedFd, _: Serving) {}
}

#[cfg(not(feature = "squashfs"))]
impl Preparation {
    pub fn go_on(self) {}
}
