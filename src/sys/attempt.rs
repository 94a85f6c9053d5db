//! Which newer system calls this kernel has, learnt by calling them.

use super::{Errno, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Calls with a fallback, and what some kernels refuse although they know the call. The names are those of
/// `CARRACK_PRETEND_MISSING`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    Openat2,
    OpenTree,
    MoveMount,
    MountSetattr,
    CloseRange,
    PidfdOpen,
    Listmount,
    /// `mount` of an overlay in a user namespace.
    Overlay,
}

const NAMES: [(&str, Call); 8] = [
    ("openat2", Call::Openat2),
    ("open_tree", Call::OpenTree),
    ("move_mount", Call::MoveMount),
    ("mount_setattr", Call::MountSetattr),
    ("close_range", Call::CloseRange),
    ("pidfd_open", Call::PidfdOpen),
    ("listmount", Call::Listmount),
    ("overlay", Call::Overlay),
];

static MISSING: AtomicU32 = AtomicU32::new(0);
static PRETENDED: OnceLock<u32> = OnceLock::new();

/// Reads `CARRACK_PRETEND_MISSING`. Called once at the start; later changes of the environment have no effect.
fn pretended() -> u32 {
    *PRETENDED
        .get_or_init(|| std::env::var("CARRACK_PRETEND_MISSING").map_or(0, |text| named(&text)))
}

fn named(text: &str) -> u32 {
    let bit = |name: &str| match name.trim() {
        "all" => u32::MAX,
        name => NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, call)| 1 << *call as u32),
    };
    text.split(',').map(bit).fold(0, |all, one| all | one)
}

/// Whether the call is worth trying.
pub fn have(call: Call) -> bool {
    (pretended() | MISSING.load(Ordering::Relaxed)) & (1 << call as u32) == 0
}

/// Makes the call; `None` means that the fallback is to be used.
///
/// ENOSYS is remembered. EPERM is what seccomp filters of the container tools of old answer to calls that they do not
/// know, but it is also what the kernel says to a call that it knows: the fallback then says the same, or works.
pub fn attempt<T>(call: Call, run: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
    if !have(call) {
        return None;
    }
    match run() {
        Err(Errno::NOSYS) => {
            MISSING.fetch_or(1 << call as u32, Ordering::Relaxed);
            None
        }
        Err(Errno::PERM) => None,
        answer => Some(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits() {
        for (text, bits) in [
            ("", 0),
            ("nonsense", 0),
            ("openat2", 1 << Call::Openat2 as u32),
            (
                "openat2, close_range",
                (1 << Call::Openat2 as u32) | (1 << Call::CloseRange as u32),
            ),
            ("all", u32::MAX),
        ] {
            assert_eq!(named(text), bits, "{text}");
        }
    }

    #[test]
    fn a_refused_call_leaves_the_choice_to_the_fallback() {
        assert!(attempt(Call::PidfdOpen, || Err::<(), _>(Errno::PERM)).is_none());
        if have(Call::PidfdOpen) {
            assert_eq!(
                attempt(Call::PidfdOpen, || Err::<(), _>(Errno::SRCH)),
                Some(Err(Errno::SRCH))
            );
        }
    }
}
