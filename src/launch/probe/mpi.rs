//! The host's MPI with everything that it needs, as the host's loader would find it.

use super::{MAX_DATABASE, read};
use crate::elf::Elf;
use crate::launch::bundle::Injection;
use crate::launch::facts::HostFacts;
use crate::launch::library_cache;
use crate::launch::mpi::{ALIASES, HostLibrary, HostMpi, abi};
use crate::record::Contents;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// Libraries that come with the C library and the compiler: the image's own serve everybody in it.
const IMAGES: &[&str] = &[
    "ld-linux",
    "libc.so",
    "libm.so",
    "libpthread.so",
    "libdl.so",
    "librt.so",
    "libresolv.so",
    "libutil.so",
    "libnsl.so",
    "libanl.so",
    "libmvec.so",
    "linux-vdso",
    "libgcc_s.so",
    "libstdc++.so",
    "libgfortran.so",
    "libquadmath.so",
    "libgomp.so",
];
/// Directories of plugins by the library that opens them, and whether they are searched beside it.
const PLUGINS: &[(&str, &str, bool)] = &[
    ("libucs.so", "ucx", true),
    ("libfabric.so", "libfabric", true),
    ("libopen-pal.so", "openmpi", false),
    ("libopen-pal.so", "openmpi3", false),
    ("libpmix.so", "pmix", false),
    ("libpmix.so", "pmix2", false),
    ("libibverbs.so", "libibverbs", false),
];
const USUAL: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// More than any MPI brings.
const MAX_LIBRARIES: usize = 512;

struct Search {
    directories: Vec<PathBuf>,
    cache: BTreeMap<String, PathBuf>,
}

impl Search {
    fn find(&self, name: &str, own: &[PathBuf]) -> Option<PathBuf> {
        let there = |directory: &PathBuf| Some(directory.join(name)).filter(|path| path.is_file());
        own.iter()
            .chain(&self.directories)
            .find_map(there)
            .or_else(|| self.cache.get(name).cloned())
            .or_else(|| {
                USUAL
                    .iter()
                    .map(PathBuf::from)
                    .find_map(|directory| there(&directory))
            })
            .and_then(|path| path.canonicalize().ok())
    }
}

/// Looks for MPI libraries; for one that fits the image, for all that it needs.
pub fn host_mpi(contents: &Contents, injection: &Injection, facts: &HostFacts) -> HostMpi {
    let own = facts
        .variable("LD_LIBRARY_PATH")
        .filter(|_| injection.callers_path)
        .and_then(|value| value.to_str());
    let own = own
        .unwrap_or_default()
        .split(':')
        .filter(|path| path.starts_with('/'));
    let cache = read(Path::new("/etc/ld.so.cache"), MAX_DATABASE).unwrap_or_default();
    let mut known = BTreeMap::new();
    for (name, path) in library_cache::libraries(&cache) {
        known.entry(name).or_insert(path);
    }
    let search = Search {
        directories: injection
            .directories
            .iter()
            .cloned()
            .chain(own.map(PathBuf::from))
            .collect(),
        cache: known,
    };
    let mut host = HostMpi::default();
    let names = [
        "libmpi.so.12",
        "libmpich.so.12",
        "libmpi_cray.so.12",
        "libmpi.so.40",
        "libmpi.so.20",
        "libmpi.so.1",
        "libmpi.so.13",
    ];
    for name in names {
        if let Some(path) = search.find(name, &[]) {
            host.found.push((name.to_string(), path));
        }
    }
    let wanted = contents
        .mpi
        .iter()
        .find_map(|mpi| abi(&mpi.soname, Path::new(&mpi.path), &mpi.version));
    let fits = |(name, path): &&(String, PathBuf)| {
        wanted.is_some_and(|wanted| abi(name, path, "").is_some_and(|host| wanted.fits(&host)))
    };
    let Some((name, path)) = host.found.iter().find(fits).cloned() else {
        return host;
    };
    // The companions for other languages lie beside it, or the image's own stay.
    let folder = path
        .parent()
        .map(Path::to_path_buf)
        .into_iter()
        .collect::<Vec<_>>();
    let mut queue: VecDeque<(String, PathBuf)> = [(name, path.clone())].into();
    for names in ALIASES
        .iter()
        .filter(|names| !names.iter().any(|one| path.ends_with(one)))
        .skip(1)
    {
        let companion = names.iter().find_map(|name| {
            let path = folder.first()?.join(name);
            Some((name.to_string(), path.canonicalize().ok()?))
        });
        queue.extend(companion);
    }
    closure(&search, queue, &mut host);
    host.nodes = fabric_nodes();
    host
}

/// Follows what each library needs, and what its plugins need.
fn closure(search: &Search, mut queue: VecDeque<(String, PathBuf)>, host: &mut HostMpi) {
    let mut seen: BTreeSet<String> = queue.iter().map(|(name, _)| name.clone()).collect();
    while let Some((name, path)) = queue.pop_front() {
        let elf = needs(search, &path, &mut seen, &mut queue, host);
        let real = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        for (library, plugins, beside) in PLUGINS {
            let folder = path.parent().unwrap_or(Path::new("/")).join(plugins);
            if !real.starts_with(library) || !folder.is_dir() {
                continue;
            }
            match beside {
                true => host.beside.push((plugins.to_string(), folder.clone())),
                false => host.fixed.push(folder.clone()),
            }
            for plugin in files(&folder, 3) {
                needs(search, &plugin, &mut seen, &mut queue, host);
            }
        }
        if real.starts_with("libibverbs.so") && Path::new("/etc/libibverbs.d").is_dir() {
            host.fixed.push("/etc/libibverbs.d".into());
        }
        host.libraries.push(HostLibrary {
            name,
            path,
            glibc: elf.and_then(|elf| elf.floor("GLIBC")),
        });
        if host.libraries.len() >= MAX_LIBRARIES {
            return;
        }
    }
}

fn needs(
    search: &Search,
    path: &Path,
    seen: &mut BTreeSet<String>,
    queue: &mut VecDeque<(String, PathBuf)>,
    host: &mut HostMpi,
) -> Option<Elf> {
    let elf = Elf::read(&std::fs::File::open(path).ok()?)?;
    let origin = path
        .parent()
        .unwrap_or(Path::new("/"))
        .display()
        .to_string();
    let own: Vec<PathBuf> = elf
        .search
        .iter()
        .map(|path| {
            path.replace("$ORIGIN", &origin)
                .replace("${ORIGIN}", &origin)
                .into()
        })
        .collect();
    for name in &elf.needed {
        let images = IMAGES.iter().any(|prefix| name.starts_with(prefix));
        if images || !seen.insert(name.clone()) {
            continue;
        }
        match search.find(name, &own) {
            Some(found) => queue.push_back((name.clone(), found)),
            None => {
                let user = path.file_name().unwrap_or_default().to_string_lossy();
                host.missing.push((name.clone(), user.into_owned()));
            }
        }
    }
    Some(elf)
}

/// Shared objects below a directory.
fn files(directory: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if depth > 0 && path.is_dir() {
            found.extend(files(&path, depth - 1));
        } else if path.extension().is_some_and(|ending| ending == "so") {
            found.push(path);
        }
    }
    found
}

/// Device nodes of fast networks and of direct copies between processes.
pub fn fabric_nodes() -> Vec<PathBuf> {
    let fixed = ["/dev/infiniband", "/dev/xpmem", "/dev/knem"].map(PathBuf::from);
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let fabric = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("cxi") || name.starts_with("hfi1")
    });
    let mut nodes: Vec<PathBuf> = fixed
        .into_iter()
        .filter(|path| path.exists())
        .chain(fabric)
        .collect();
    nodes.sort();
    nodes
}
