//! The image half: a reference becomes one squashfs file and its record in the store.

pub mod convert;
pub mod digest;
pub mod lock;
pub mod progress;
