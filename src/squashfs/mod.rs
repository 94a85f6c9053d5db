//! Squashfs 4.0, written and read by our own code: reproducible, with hard links and byte names, without unpacking.
//!
//! `format` is bytes only, `integrity` the table of block hashes behind the file system, `write` turns a merged tree
//! into inode and directory tables, `read` serves an image on demand. Nothing here knows OCI or Slurm.

pub mod decompress;
pub mod format;
pub mod integrity;
pub mod read;
pub mod write;
