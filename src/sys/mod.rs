//! Every unsafe line of this crate: system calls as verbs on owned file descriptors.
//!
//! Each verb that wants a newer kernel tries the new call first and knows the old way; which one is in use is decided by
//! the answer of the kernel, never by its version. `CARRACK_PRETEND_MISSING=openat2,mount_setattr,…` forces the old ways.
//! Deliberately absent: policy, messages for users, retries.

pub mod attempt;
pub mod clone_range;
pub mod exec;
pub mod fd;
pub mod heap;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod quota;
pub mod remount;
pub mod resolve;
#[cfg(feature = "image")]
pub mod sha256;
pub mod socket;
pub mod thread;
pub mod write_back;

/// What a verb answers: the kernel's word, unexplained.
pub type Result<T> = rustix::io::Result<T>;
pub use rustix::io::Errno;
