//! The image half: a reference becomes one squashfs file and its record in the store.

pub mod adopt;
pub mod artifact;
pub mod assemble;
pub mod contents;
pub mod convert;
pub mod credentials;
pub mod digest;
pub mod entry;
pub mod export;
#[doc(hidden)]
#[allow(clippy::expect_used, reason = "only tests read these texts")]
pub mod fixture;
pub mod lock;
pub mod manifest;
pub mod progress;
pub mod pull;
pub mod reference;
pub mod save;
pub mod signature;
pub mod source;
pub mod store;
pub mod tree;
