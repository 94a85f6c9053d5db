//! Serves an image to the kernel over FUSE, straight on the kernel's protocol.
//!
//! The kernel asks as little as it can be brought to: opens are answered "not implemented", which makes it open files
//! and directories by itself from then on; names, attributes, listings, symlinks and pages never expire, because an
//! image never changes. Node ids are places in the image, so that the server keeps no state about what the kernel knows.
//! Absent: mounting (the capsule's work), writing, locks, splice (nothing to splice: data is decompressed).

mod answer;
mod hot;
mod protocol;
mod serve;

#[cfg(test)]
mod tests;

pub use hot::Hot;
pub use serve::{ServeOptions, serve};
