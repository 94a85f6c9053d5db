//! Packs: one layer, decompressed, hashed and compressed into squashfs blocks once, reused by every image that has it.

pub mod cache;
