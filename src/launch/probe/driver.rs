//! NVIDIA's user-space driver as it lies on this node.

use super::{MAX_DATABASE, read};
use crate::launch::driver::{FILES, PROGRAMS, class};
use crate::launch::facts::{Driver, DriverLibrary};
use crate::launch::library_cache;
use std::path::{Path, PathBuf};

/// Where libraries lie that the loader's cache does not name: systems without one, and drivers that are put beside it.
const DIRECTORIES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/run/opengl-driver/lib",
    "/usr/lib/wsl/lib",
];
const PROGRAM_DIRECTORIES: [&str; 5] = [
    "/usr/bin",
    "/usr/local/bin",
    "/opt/bin",
    "/usr/local/nvidia/bin",
    "/run/opengl-driver/bin",
];

/// The driver, as the host's own loader would find it.
pub fn driver() -> Driver {
    let cache = read(Path::new("/etc/ld.so.cache"), MAX_DATABASE).unwrap_or_default();
    let mut names = library_cache::libraries(&cache);
    names.retain(|(name, _)| class(name).is_some());
    if !names.iter().any(|(name, _)| name == "libcuda.so.1") {
        names.extend(in_directories());
    }
    let mut libraries: Vec<DriverLibrary> = Vec::new();
    for (soname, path) in names {
        let Ok(path) = path.canonicalize() else {
            continue;
        };
        let library = DriverLibrary { soname, path };
        // `libcuda.so` beside `libcuda.so.1` is the same file; its link is made anyway.
        if library.soname.contains(".so.") && !libraries.contains(&library) {
            libraries.push(library);
        }
    }
    libraries.sort();
    let there = |path: &PathBuf| path.exists();
    let programs = PROGRAMS.iter().filter_map(|(class, name)| {
        let places = PROGRAM_DIRECTORIES.iter();
        let found = places
            .map(|place| Path::new(place).join(name))
            .find(there)?;
        Some((*class, found))
    });
    let pipes = std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").map(PathBuf::from);
    let sockets = [
        "/run/nvidia-persistenced/socket".into(),
        "/run/nvidia-fabricmanager/socket".into(),
        pipes.unwrap_or("/tmp/nvidia-mps".into()),
    ];
    Driver {
        kernel: kernel(),
        libraries,
        programs: programs.collect(),
        sockets: sockets.into_iter().filter(there).collect(),
        files: FILES.iter().map(PathBuf::from).filter(there).collect(),
    }
}

/// The version of the kernel's part: the first word with a number and a dot in
/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  …`.
fn kernel() -> String {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let words = text.lines().next().unwrap_or_default().split_whitespace();
    let is_version = |word: &&str| {
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        word.contains('.') && word.chars().all(digits)
    };
    let mut versions = words.filter(is_version);
    versions.next().unwrap_or_default().to_string()
}

fn in_directories() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for directory in DIRECTORIES {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && class(&name).is_some()
            {
                found.push((name, entry.path()));
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    // Directories have no order of their own.
    found.sort();
    found
}
