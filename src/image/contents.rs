//! What software an image holds, told by its file names and by the words that packing kept of a few libraries.
//!
//! Only files that are visible after the merge count. Nothing is executed or resolved by a linker: the answers are what a
//! launcher needs to choose between PMIx and PMI-2, to warn before an ABI clash and to know which shell there is.

use crate::error::Result;
use crate::image::tree::{Body, Tree};
use crate::pack::sniff::Sniffer;
use crate::record::{Contents, Libc, Library};
use crate::squashfs::read::{Image, Inode, Type};

/// Links followed before giving up, as the kernel does.
const MAX_LINKS: usize = 40;
const SHELLS: [&str; 5] = [
    "/bin/sh",
    "/bin/bash",
    "/bin/dash",
    "/bin/busybox",
    "/busybox/sh",
];

/// Looks at visible files only.
pub fn find(tree: &Tree) -> Contents {
    let mut found = Found::default();
    for (name, inode, node) in tree.names() {
        if found.wants(name)
            && tree
                .inode(inode)
                .is_some_and(|inode| matches!(inode.body, Body::File { .. }))
        {
            found.library(&tree.path(node), tree.hints(inode));
        }
    }
    found.finish(&|path| is_program(tree, path))
}

/// The same for a squashfs of another tool. Its names are walked once; of the few libraries that tell versions, the
/// content is read.
pub fn find_in(image: &Image) -> Result<Contents> {
    let mut found = Found::default();
    image.walk(|path, inode| {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if found.wants(name) && inode.kind == Type::File {
            let mut hints = Vec::new();
            if let Some(mut sniffer) = Sniffer::for_path(path) {
                image.read_all(inode, &mut |bytes| {
                    sniffer.feed(bytes);
                    Ok(())
                })?;
                hints = sniffer.found;
            }
            found.library(path.strip_prefix(b"/").unwrap_or(path), &hints);
        }
        Ok(())
    })?;
    Ok(found.finish(&|path| is_program_of(image, path).unwrap_or(false)))
}

/// What was seen so far.
#[derive(Default)]
struct Found {
    contents: Contents,
    libcs: Vec<Libc>,
    plugins: Plugins,
}

impl Found {
    /// Notes a name; whether a file of this name may be a library that tells something.
    fn wants(&mut self, name: &[u8]) -> bool {
        let Ok(name) = std::str::from_utf8(name) else {
            return false;
        };
        self.plugins.see(name);
        is_candidate(name)
    }

    fn library(&mut self, path: &[u8], hints: &[String]) {
        let path = format!("/{}", String::from_utf8_lossy(path));
        let name = path.rsplit('/').next().unwrap_or_default();
        self.libcs.extend(libc(name, &path, hints));
        self.contents.mpi.extend(mpi(name, &path, hints));
        self.contents.pmi.extend(pmi(name, &path, hints));
        self.contents.gpu.extend(gpu(name, &path));
    }

    fn finish(self, is_program: &dyn Fn(&str) -> bool) -> Contents {
        let Found {
            mut contents,
            mut libcs,
            plugins,
        } = self;
        contents.shell = SHELLS
            .iter()
            .find(|path| is_program(path))
            .map(|path| path.to_string());
        // Compatibility trees hold other libcs; that of the system has the shortest path.
        libcs.sort_by_key(|libc| (libc.path.len(), libc.path.clone()));
        contents.libc = libcs.into_iter().next();
        for library in &mut contents.mpi {
            plugins.complete(library);
        }
        for list in [&mut contents.mpi, &mut contents.pmi, &mut contents.gpu] {
            list.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
            list.dedup();
        }
        contents
    }
}

fn is_candidate(name: &str) -> bool {
    name.starts_with("lib") || name.starts_with("ld-musl-")
}

/// `libNAME.so.1.2.3` → (`1.2.3`); `None` when it is not that library.
fn suffix<'a>(name: &'a str, library: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(library)?.strip_prefix(".so")?;
    if rest.is_empty() {
        return Some("");
    }
    let numbers = rest.strip_prefix('.')?;
    numbers
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
        .then_some(numbers)
}

/// `libNAME.so.MAJOR`.
fn soname(library: &str, numbers: &str) -> String {
    match numbers.split('.').next() {
        Some(major) if !major.is_empty() => format!("{library}.so.{major}"),
        _ => format!("{library}.so"),
    }
}

/// The first hint that is a version alone, without its `v`.
fn bare_version(hints: &[String]) -> Option<String> {
    hints
        .iter()
        .map(|hint| hint.strip_prefix('v').unwrap_or(hint))
        .find(|hint| {
            hint.bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_digit())
        })
        .map(str::to_string)
}

/// The word with a digit that follows `after` in a hint.
fn version_after(hints: &[String], after: &str) -> Option<String> {
    hints.iter().find_map(|hint| {
        let rest = hint.get(hint.find(after)? + after.len()..)?;
        let word: String = rest
            .trim_start_matches([' ', ':', '\t', 'v'])
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
            .collect();
        let word = word.trim_end_matches('.');
        word.starts_with(|c: char| c.is_ascii_digit())
            .then(|| word.to_string())
    })
}

fn has(hints: &[String], text: &str) -> bool {
    hints.iter().any(|hint| hint.contains(text))
}

fn libc(name: &str, path: &str, hints: &[String]) -> Option<Libc> {
    let kind = if has(hints, "GNU C Library") {
        "glibc"
    } else if has(hints, "musl libc") || name.starts_with("ld-musl-") {
        "musl"
    } else {
        return None;
    };
    let version = match kind {
        "glibc" => version_after(hints, "release version"),
        _ => bare_version(hints),
    };
    Some(Libc {
        kind: kind.to_string(),
        version: version.unwrap_or_default(),
        path: path.to_string(),
    })
}

fn mpi(name: &str, path: &str, hints: &[String]) -> Option<Library> {
    let (library, numbers) = ["libmpi", "libmpich", "libmpi_cray"]
        .iter()
        .find_map(|library| Some((*library, suffix(name, library)?)))?;
    let major = numbers.split('.').next().unwrap_or_default();
    let is_open = library == "libmpi" && (major == "1" || major == "20" || major == "40");
    let (kind, version) = if has(hints, "Open MPI v") || (is_open && !has(hints, "MPICH Version")) {
        let stated = version_after(hints, "Open MPI v").or_else(|| bare_version(hints));
        ("openmpi", stated.or_else(|| open_mpi_release(numbers)))
    } else if has(hints, "Intel(R) MPI Library") {
        ("intel-mpi", version_after(hints, "Intel(R) MPI Library"))
    } else if library == "libmpi_cray" || has(hints, "CRAY MPICH version") {
        ("cray-mpich", version_after(hints, "CRAY MPICH version"))
    } else if has(hints, "MVAPICH") {
        ("mvapich", bare_version(hints))
    } else if library == "libmpich" || major == "12" || has(hints, "MPICH Version") {
        ("mpich", bare_version(hints))
    } else {
        return None;
    };
    let mut speaks: Vec<String> = match kind {
        // What else it speaks, its plugins tell.
        "openmpi" => Vec::new(),
        _ => vec!["pmi2".into(), "pmi1".into()],
    };
    if kind != "openmpi" && has(hints, "libpmix.so") {
        speaks.insert(0, "pmix".into());
    }
    Some(Library {
        name: kind.to_string(),
        version: version.unwrap_or_default(),
        soname: soname(library, numbers),
        path: path.to_string(),
        speaks,
    })
}

/// The release that a library's number stands for: Open MPI counts its interface by tens per minor release.
fn open_mpi_release(numbers: &str) -> Option<String> {
    let mut parts = numbers.split('.');
    let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next()?);
    let release = match (major, minor) {
        ("40", "0") => "3.0",
        ("40", "10") => "3.1",
        ("40", "20") => "4.0",
        ("40", "30") => "4.1",
        ("40", "40") => "5.0",
        _ => return None,
    };
    Some(format!("{release}.{patch}"))
}

fn pmi(name: &str, path: &str, hints: &[String]) -> Option<Library> {
    let (kind, library, numbers) = [("pmix", "libpmix"), ("pmi2", "libpmi2"), ("pmi1", "libpmi")]
        .into_iter()
        .find_map(|(kind, library)| Some((kind, library, suffix(name, library)?)))?;
    let version = match kind {
        "pmix" => version_after(hints, "PMIx ").or_else(|| bare_version(hints)),
        _ => None,
    };
    Some(Library {
        name: kind.to_string(),
        version: version.unwrap_or_default(),
        soname: soname(library, numbers),
        path: path.to_string(),
        speaks: vec![kind.to_string()],
    })
}

fn gpu(name: &str, path: &str) -> Option<Library> {
    let (kind, library, numbers) = [
        ("cuda", "libcudart"),
        ("cuda-compat", "libcuda"),
        ("rocm", "libamdhip64"),
        ("level-zero", "libze_loader"),
    ]
    .into_iter()
    .find_map(|(kind, library)| Some((kind, library, suffix(name, library)?)))?;
    // A link-time stub says nothing of what is installed.
    if numbers.is_empty() || path.contains("/stubs/") {
        return None;
    }
    let version = match kind {
        "rocm" => rocm_release(numbers).unwrap_or_else(|| numbers.to_string()),
        _ => numbers.to_string(),
    };
    Some(Library {
        name: kind.to_string(),
        version,
        soname: soname(library, numbers),
        path: path.to_string(),
        speaks: Vec::new(),
    })
}

/// `6.1.60101` → `6.1.1`.
fn rocm_release(numbers: &str) -> Option<String> {
    let packed: u32 = numbers.split('.').nth(2)?.parse().ok()?;
    (packed >= 10_000).then(|| {
        let (major, minor, patch) = (packed / 10_000, packed / 100 % 100, packed % 100);
        format!("{major}.{minor}.{patch}")
    })
}

/// Open MPI's plugins for launchers other than PMIx.
#[derive(Default)]
struct Plugins {
    pmi1: bool,
    pmi2: bool,
    old: bool,
}

impl Plugins {
    fn see(&mut self, name: &str) {
        match name {
            "mca_pmix_s1.so" => self.pmi1 = true,
            "mca_pmix_s2.so" => self.pmi2 = true,
            // Open MPI 1.x had one plugin for both.
            "mca_ess_pmi.so" => self.old = true,
            _ => {}
        }
    }

    fn complete(&self, library: &mut Library) {
        if library.name != "openmpi" {
            return;
        }
        let old = library.soname == "libmpi.so.1";
        let list = [
            ("pmix", !old),
            ("pmi2", self.pmi2 || (old && self.old)),
            ("pmi1", self.pmi1 || (old && self.old)),
        ];
        library.speaks = list
            .into_iter()
            .filter(|(_, speaks)| *speaks)
            .map(|(name, _)| name.to_string())
            .collect();
    }
}

/// One thing on the way to a program.
enum Step<Place> {
    Directory(Place),
    Link(Vec<u8>),
    Program,
    Other,
}

/// Whether a path is an executable file, links followed inside the image. `enter` looks a name up.
fn leads_to_program<Place: Clone>(
    path: &str,
    root: Place,
    enter: impl Fn(&Place, &[u8]) -> Result<Step<Place>>,
) -> Result<bool> {
    let mut names: Vec<Vec<u8>> = split(path.as_bytes());
    let mut above: Vec<Place> = Vec::new();
    let mut at = root.clone();
    let mut links = 0;
    while let Some(name) = names.pop() {
        if name == b".." {
            at = above.pop().unwrap_or_else(|| root.clone());
            continue;
        }
        match enter(&at, &name)? {
            Step::Directory(place) => above.push(std::mem::replace(&mut at, place)),
            Step::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(false);
                }
                if target.first() == Some(&b'/') {
                    at = root.clone();
                    above.clear();
                }
                names.extend(split(&target));
            }
            Step::Program => return Ok(names.is_empty()),
            Step::Other => return Ok(false),
        }
    }
    Ok(false)
}

fn is_program(tree: &Tree, path: &str) -> bool {
    let enter = |at: &u32, name: &[u8]| {
        let entry = tree.entries(*at).find(|(known, _)| *known == name);
        let inode = entry.and_then(|(_, child)| Some((child, tree.inode(child)?)));
        Ok(match inode {
            Some((child, inode)) => match &inode.body {
                Body::Directory { .. } => Step::Directory(child),
                Body::Symlink(target) => Step::Link(target.to_vec()),
                Body::File { .. } if inode.attributes.mode & 0o111 != 0 => Step::Program,
                _ => Step::Other,
            },
            None => Step::Other,
        })
    };
    leads_to_program(path, 0, enter).unwrap_or(false)
}

fn is_program_of(image: &Image, path: &str) -> Result<bool> {
    let enter = |at: &Inode, name: &[u8]| {
        let Some(reference) = image.lookup(at, name)? else {
            return Ok(Step::Other);
        };
        let inode = image.inode(reference)?;
        Ok(match inode.kind {
            Type::Directory => Step::Directory(inode),
            Type::Symlink => Step::Link(image.read_link(&inode)?),
            Type::File if inode.mode & 0o111 != 0 => Step::Program,
            _ => Step::Other,
        })
    };
    leads_to_program(path, image.inode(image.root())?, enter)
}

/// The components of a path, last first.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::entry::{Attributes, Content, Entry, Kind};
    use crate::image::tree::Builder;

    fn tree(entries: &[(&str, &str, &[&str])]) -> Tree {
        let mut builder = Builder::new(1).unwrap();
        builder.layer();
        for (path, target, hints) in entries {
            builder
                .add(&Entry {
                    path: path.as_bytes().to_vec(),
                    kind: if target.is_empty() {
                        Kind::File(Content::default())
                    } else {
                        Kind::Symlink(target.as_bytes().to_vec())
                    },
                    attributes: Attributes {
                        mode: 0o755,
                        ..Attributes::default()
                    },
                    xattrs: Vec::new(),
                    hints: hints.iter().map(|hint| hint.to_string()).collect(),
                })
                .unwrap();
        }
        builder.finish().unwrap()
    }

    /// Name, version, SONAME and protocols of what one library is taken for.
    fn told(path: &str, hints: &[&str]) -> String {
        let contents = find(&tree(&[(path, "", hints)]));
        let all = [contents.mpi, contents.pmi, contents.gpu].concat();
        let line = |library: &Library| {
            let speaks = library.speaks.join(",");
            format!(
                "{} {} {} {speaks}",
                library.name, library.version, library.soname
            )
        };
        all.iter()
            .map(line)
            .collect::<Vec<_>>()
            .join("; ")
            .trim_end()
            .to_string()
    }

    #[test]
    fn libraries() {
        for (path, hints, library) in [
            (
                "usr/lib/libmpi.so.40.30.4",
                &["Open MPI v%d.%d.%d", "v4.1.4"][..],
                "openmpi 4.1.4 libmpi.so.40 pmix",
            ),
            (
                "opt/libmpi.so.40.20.3",
                &[],
                "openmpi 4.0.3 libmpi.so.40 pmix",
            ),
            ("opt/libmpi.so.1.12.0", &[], "openmpi  libmpi.so.1"),
            (
                "usr/lib/libmpich.so.12.2.2",
                &["MPICH Version:", "4.0.2"],
                "mpich 4.0.2 libmpich.so.12 pmi2,pmi1",
            ),
            (
                "opt/libmpi.so.12.0.0",
                &["Intel(R) MPI Library 2021.9 for Linux* OS"],
                "intel-mpi 2021.9 libmpi.so.12 pmi2,pmi1",
            ),
            (
                "opt/libmpi.so.12",
                &["MPICH Version:", "4.2.0", "libpmix.so.2"],
                "mpich 4.2.0 libmpi.so.12 pmix,pmi2,pmi1",
            ),
            (
                "usr/lib/libpmix.so.2.6.2",
                &["OpenPMIx 4.2.2rc2 (PMIx Standard: 4.2, Stable ABI: 0.0"],
                "pmix 4.2.2rc2 libpmix.so.2 pmix",
            ),
            ("usr/lib/libpmi2.so.0.0.0", &[], "pmi2  libpmi2.so.0 pmi2"),
            ("usr/lib/libpmi.so.0.0.0", &[], "pmi1  libpmi.so.0 pmi1"),
            (
                "usr/local/cuda/lib64/libcudart.so.12.4.127",
                &[],
                "cuda 12.4.127 libcudart.so.12",
            ),
            ("usr/local/cuda/lib64/stubs/libcuda.so.1", &[], ""),
            (
                "opt/rocm/lib/libamdhip64.so.6.1.60101",
                &[],
                "rocm 6.1.1 libamdhip64.so.6",
            ),
            ("usr/lib/libmpi_cxx.so.40", &[], ""),
            ("usr/lib/libmpi.so.40.x", &[], ""),
        ] {
            assert_eq!(told(path, hints), library, "{path}");
        }
    }

    #[test]
    fn the_system_libc_has_the_shortest_path() {
        let glibc = "GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.";
        let contents = find(&tree(&[
            (
                "opt/other/lib/libc.so.6",
                "",
                &["GNU C Library stable release version 2.17, by"],
            ),
            ("usr/lib/libc.so.6", "", &[glibc]),
        ]));
        let libc = contents.libc.unwrap();
        assert_eq!(
            (
                libc.kind.as_str(),
                libc.version.as_str(),
                libc.path.as_str()
            ),
            ("glibc", "2.36", "/usr/lib/libc.so.6")
        );
        let musl = find(&tree(&[(
            "lib/ld-musl-x86_64.so.1",
            "",
            &["musl libc (x86_64)", "1.2.4"],
        )]));
        let libc = musl.libc.unwrap();
        assert_eq!(
            (libc.kind.as_str(), libc.version.as_str()),
            ("musl", "1.2.4")
        );
    }

    #[test]
    fn shells_are_found_through_links() {
        for (entries, shell) in [
            (
                &[
                    ("bin", "usr/bin"),
                    ("usr/bin/sh", "dash"),
                    ("usr/bin/dash", ""),
                ][..],
                Some("/bin/sh"),
            ),
            (
                &[("bin/sh", "/bin/busybox"), ("bin/busybox", "")],
                Some("/bin/sh"),
            ),
            (
                &[("bin/sh", "../../../usr/sh"), ("usr/sh", "")],
                Some("/bin/sh"),
            ),
            (
                &[("bin/sh", "sh"), ("bin/busybox", "")],
                Some("/bin/busybox"),
            ),
            (&[("bin/sh", "missing")], None),
            (&[("bin", "")], None),
        ] {
            let entries: Vec<_> = entries
                .iter()
                .map(|&(path, target)| (path, target, &[][..]))
                .collect();
            assert_eq!(find(&tree(&entries)).shell.as_deref(), shell, "{entries:?}");
        }
    }
}
