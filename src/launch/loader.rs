//! Where nearly every command of an image begins: its loader and its C library.

/// Where programs name their loader, by their ABI: glibc's, musl's.
pub const LOADERS: &[&str] = if cfg!(target_arch = "x86_64") {
    &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"]
} else if cfg!(target_arch = "aarch64") {
    &["/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1"]
} else {
    &[]
};

/// glibc's name of the C library; musl's is the loader itself.
pub const LIBC: &str = "libc.so.6";

/// Names by which a loader finds the C library: Debian's and its descendants', everybody else's.
pub const LIBC_PATHS: &[&str] = if cfg!(target_arch = "x86_64") {
    &["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"]
} else if cfg!(target_arch = "aarch64") {
    &["/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6"]
} else {
    &[]
};
