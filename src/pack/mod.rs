//! Packs: one layer, decompressed, hashed and compressed into squashfs blocks once, reused by every image that has it.
//!
//! ```text
//!   ┌──→ sha256 ←─┐                                  (per layer: three threads)
//! read → inflate ─┴→ tar → blocks ─┐
//!                     │            ├→ compression pool → .dat, in order
//!                     └ entries ───┴→ .idx
//! ```
//! A pack says nothing of other layers: what is hidden by what is decided by the merge. Everything that a layer holds is
//! in its pack, hidden or not, because a hard link of an upper layer may need it.

pub mod blocks;
pub mod cache;
mod hash;
pub mod index;
pub mod layer;
pub mod path;
pub mod pool;
pub mod sniff;
pub mod stream;
pub mod tar;

/// Raised with every change of the bytes that a layer or an image becomes.
pub const FORMAT: u32 = 3;

/// How hard zstd tries unless somebody says otherwise.
pub const LEVEL: i32 = 3;
