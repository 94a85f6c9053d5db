//! Where nearly every command of an image begins: its loader and its C library.

/// The names of one architecture.
pub struct Names {
    /// Where programs name their loader, by their ABI: glibc's, musl's.
    pub loaders: &'static [&'static str],
    /// By which a loader finds glibc's C library: Debian's and its descendants', everybody else's.
    pub libc: &'static [&'static str],
}

pub const HERE: Names = if cfg!(target_arch = "x86_64") {
    Names {
        loaders: &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"],
        libc: &["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"],
    }
} else if cfg!(target_arch = "aarch64") {
    Names {
        loaders: &["/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1"],
        libc: &["/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6"],
    }
} else {
    Names {
        loaders: &[],
        libc: &[],
    }
};
