//! The loader's cache, `/etc/ld.so.cache`: which libraries it knows, by name. Read of the host, to find the driver; of the
//! image, to put the host's libraries in front. Bytes in, bytes out: no `ldconfig` is run, least of all the image's.
//!
//! Format: glibc's `dl-cache.h`, "glibc-ld.so.cache1.1", alone or behind the older "ld.so-1.7.0" table; every glibc since
//! 2.2 reads it alone, which is how it is written here. Entries of `glibc-hwcaps` directories are kept.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const LITTLE_ENDIAN: u8 = 2;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
/// The section that names the `glibc-hwcaps` directories.
const HWCAPS: usize = 1;
/// An entry's capabilities with this bit are an index into that section.
const BY_INDEX: u64 = 1 << 62;
/// More than any distribution has; beyond it the file is broken.
const MAX_ENTRIES: usize = 200_000;
const MAX_HWCAPS: usize = 1024;

/// One library.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    flags: u32,
    name: String,
    path: String,
    capabilities: u64,
    /// Of the `glibc-hwcaps` directory, if it lies in one.
    directory: Option<String>,
}

/// Names and paths of the libraries of this machine's own kind, in the cache's order.
pub fn libraries(cache: &[u8]) -> Vec<(String, PathBuf)> {
    let entries = read(cache).unwrap_or_default().into_iter();
    let ours = entries.filter(|entry| of_this_machine(entry.flags) && entry.path.starts_with('/'));
    ours.map(|entry| (entry.name, PathBuf::from(entry.path)))
        .collect()
}

/// The cache of an image (empty if it has none) with these libraries before all others of their names.
pub fn with_libraries(image: &[u8], paths: &[&Path]) -> Vec<u8> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut entries: Vec<Entry> = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if taken.insert(name.to_string()) {
            entries.push(Entry {
                flags: flags_of_this_machine(),
                name: name.into_owned(),
                path: path.display().to_string(),
                capabilities: 0,
                directory: None,
            });
        }
    }
    let images = read(image).unwrap_or_default().into_iter();
    entries.extend(
        images.filter(|entry| !of_this_machine(entry.flags) || !taken.contains(&entry.name)),
    );
    // The loader halves its way through the table: highest name first.
    entries.sort_by(|a, b| by_name(b.name.as_bytes(), a.name.as_bytes()));
    write(&entries)
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let directories: BTreeSet<&str> = entries
        .iter()
        .filter_map(|entry| entry.directory.as_deref())
        .collect();
    let directories: Vec<&str> = directories.into_iter().collect();
    let mut strings = Vec::new();
    let start = HEADER + entries.len() * ENTRY;
    let mut put = |text: &str| {
        let at = start + strings.len();
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        u32::try_from(at).unwrap_or_default()
    };
    let mut table = Vec::with_capacity(entries.len() * ENTRY);
    for entry in entries {
        let place = entry.directory.as_deref().and_then(|directory| {
            let place = directories.iter().position(|known| *known == directory)?;
            u32::try_from(place).ok()
        });
        let capabilities = match place {
            Some(place) => entry.capabilities & !0xffff_ffff | u64::from(place),
            None => entry.capabilities,
        };
        for field in [entry.flags, put(&entry.name), put(&entry.path), 0] {
            table.extend_from_slice(&field.to_le_bytes());
        }
        table.extend_from_slice(&capabilities.to_le_bytes());
    }
    let names: Vec<u32> = directories.iter().map(|directory| put(directory)).collect();
    let word = |value: usize| u32::try_from(value).unwrap_or_default().to_le_bytes();
    let extension = (start + strings.len()).next_multiple_of(4);
    let mut bytes = NEW_MAGIC.to_vec();
    bytes.extend_from_slice(&word(entries.len()));
    bytes.extend_from_slice(&word(strings.len()));
    bytes.extend_from_slice(&[LITTLE_ENDIAN, 0, 0, 0]);
    bytes.extend_from_slice(&word(if names.is_empty() { 0 } else { extension }));
    bytes.resize(HEADER, 0);
    bytes.extend(table);
    bytes.extend(strings);
    if !names.is_empty() {
        bytes.resize(extension, 0);
        bytes.extend_from_slice(&EXTENSION_MAGIC.to_le_bytes());
        for value in [1, HWCAPS, 0, extension + 24, names.len() * 4] {
            bytes.extend_from_slice(&word(value));
        }
        bytes.extend(names.iter().flat_map(|at| at.to_le_bytes()));
    }
    bytes
}

/// As the loader compares names: digits as numbers, and a digit is more than anything else.
fn by_name(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let number = |text: &mut &[u8]| {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = text.split_at(digits);
        *text = rest;
        number.iter().fold(0u64, |sum, digit| {
            sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
        })
    };
    loop {
        let (first, second) = (a.first().copied(), b.first().copied());
        let is_digit = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_digit());
        match (is_digit(first), is_digit(second)) {
            (true, true) => match number(&mut a).cmp(&number(&mut b)) {
                Ordering::Equal => {}
                other => return other,
            },
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if first != second || first.is_none() => return first.cmp(&second),
            (false, false) => {
                a = a.get(1..).unwrap_or_default();
                b = b.get(1..).unwrap_or_default();
            }
        }
    }
}

fn read(cache: &[u8]) -> Option<Vec<Entry>> {
    let cache = match cache.strip_prefix(OLD_MAGIC) {
        // The newer table follows, aligned to 8 bytes.
        Some(_) => {
            let old = OLD_ENTRY
                .checked_mul(number(cache, 12)?)?
                .checked_add(OLD_HEADER)?;
            cache.get(old.checked_next_multiple_of(8)?..)?
        }
        None => cache,
    };
    cache.strip_prefix(NEW_MAGIC)?;
    let count = number(cache, 20)?;
    if count > MAX_ENTRIES {
        return None;
    }
    let directories = hwcaps(cache).unwrap_or_default();
    let mut found = Vec::new();
    for index in 0..count {
        let at = HEADER + index * ENTRY;
        let low = number(cache, at + 16)? as u64;
        let capabilities = low | (number(cache, at + 20)? as u64) << 32;
        let directory = if capabilities & BY_INDEX != 0 {
            match directories.get(usize::try_from(low).ok()?) {
                Some(directory) => Some(directory.clone()),
                // Nobody knows for which processors this one is.
                None => continue,
            }
        } else {
            None
        };
        found.push(Entry {
            flags: u32::try_from(number(cache, at)?).ok()?,
            name: text(cache, number(cache, at + 4)?)?,
            path: text(cache, number(cache, at + 8)?)?,
            capabilities,
            directory,
        });
    }
    Some(found)
}

/// Names of the `glibc-hwcaps` directories, by the index that entries use.
fn hwcaps(cache: &[u8]) -> Option<Vec<String>> {
    let at = number(cache, 32).filter(|at| *at != 0)?;
    if number(cache, at)? != EXTENSION_MAGIC as usize {
        return None;
    }
    let sections = number(cache, at.checked_add(4)?)?.min(16);
    let section = (0..sections)
        .map(|index| at + 8 + index * 16)
        .find(|section| number(cache, *section) == Some(HWCAPS))?;
    let (start, size) = (number(cache, section + 8)?, number(cache, section + 12)?);
    (0..(size / 4).min(MAX_HWCAPS))
        .map(|index| text(cache, number(cache, start.checked_add(index * 4)?)?))
        .collect()
}

/// The second byte of the flags says for which kind of processor a library is.
fn of_this_machine(flags: u32) -> bool {
    match flags_of_this_machine() {
        0 => true,
        ours => flags & 0xff00 == ours & 0xff00,
    }
}

/// For libraries of glibc 2 (3) and this machine's usual calling convention.
fn flags_of_this_machine() -> u32 {
    match std::env::consts::ARCH {
        "x86_64" => 0x0303,
        "aarch64" => 0x0a03,
        "powerpc64" => 0x0503,
        "riscv64" => 0x1003,
        _ => 0,
    }
}

/// The search path of musl's loader (`/etc/ld-musl-ARCH.path`) with `directory` first. Without a file it has its own.
pub fn musl_path(image: &[u8], directory: &Path) -> Vec<u8> {
    let own = match image.iter().all(u8::is_ascii_whitespace) {
        true => b"/lib:/usr/local/lib:/usr/lib\n",
        false => image,
    };
    [directory.display().to_string().as_bytes(), b"\n", own].concat()
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?) as usize)
}

fn text(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    String::from_utf8(rest.get(..end)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(u32, &str, &str)], old: bool) -> Vec<u8> {
        let mut table = Vec::new();
        let mut strings = Vec::new();
        let start = HEADER + entries.len() * ENTRY;
        for (flags, name, path) in entries {
            let mut put = |text: &str| {
                let at = start + strings.len();
                strings.extend_from_slice(text.as_bytes());
                strings.push(0);
                at as u32
            };
            let (name, path) = (put(name), put(path));
            for field in [*flags, name, path, 0, 0, 0] {
                table.extend_from_slice(&field.to_le_bytes());
            }
        }
        let mut new = NEW_MAGIC.to_vec();
        new.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        new.resize(HEADER, 0);
        new.extend(table);
        new.extend(strings);
        if !old {
            return new;
        }
        let mut bytes = OLD_MAGIC.to_vec();
        bytes.push(0);
        bytes.extend_from_slice(&1u32.to_le_bytes());
        bytes.resize(OLD_HEADER + OLD_ENTRY, 0);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(new);
        bytes
    }

    #[test]
    fn both_forms_and_only_our_machine() {
        let ours = if cfg!(target_arch = "aarch64") {
            0x0a03
        } else {
            0x0303
        };
        let entries = [
            (ours, "libcuda.so.1", "/usr/lib/libcuda.so.1"),
            (0x0003, "libcuda.so.1", "/usr/lib32/libcuda.so.1"),
            (ours, "libx.so", "relative"),
        ];
        for old in [false, true] {
            let found = libraries(&cache(&entries, old));
            assert_eq!(
                found,
                [(
                    "libcuda.so.1".to_string(),
                    PathBuf::from("/usr/lib/libcuda.so.1")
                )]
            );
        }
    }

    #[test]
    fn broken_caches_have_no_libraries() {
        let whole = cache(&[(0x0303, "a", "/a"), (0x0a03, "a", "/a")], true);
        for end in 0..whole.len() - 1 {
            // Must not panic; a cut table is either recognised or names what is still there.
            let _ = libraries(&whole[..end]);
        }
        let mut many = NEW_MAGIC.to_vec();
        many.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(libraries(&many).is_empty());
        assert!(libraries(b"").is_empty());
    }

    #[test]
    fn names_are_ordered_as_the_loader_does() {
        for (less, more) in [
            ("liba.so.9", "liba.so.10"),
            ("liba", "liba.so"),
            ("libb.so.1", "libb2.so"),
            ("a", "b"),
        ] {
            assert_eq!(by_name(less.as_bytes(), more.as_bytes()), Ordering::Less);
            assert_eq!(by_name(more.as_bytes(), less.as_bytes()), Ordering::Greater);
        }
        assert_eq!(by_name(b"lib01.so", b"lib1.so"), Ordering::Equal);
    }

    #[test]
    fn the_hosts_libraries_come_first_and_the_images_stay() {
        let ours = flags_of_this_machine();
        let names = ["/run/x/libcuda.so.1", "/run/x/libnvidia-ml.so.1"].map(Path::new);
        let image = cache(
            &[
                (ours, "libz.so.1", "/lib/libz.so.1"),
                (ours, "libcuda.so.1", "/usr/lib/libcuda.so.1"),
                (0x0003, "libcuda.so.1", "/usr/lib32/libcuda.so.1"),
            ],
            true,
        );
        let written = with_libraries(&image, &names);
        let found = read(&written).unwrap();
        let shown: Vec<(&str, &str)> = found
            .iter()
            .map(|entry| (entry.name.as_str(), entry.path.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("libz.so.1", "/lib/libz.so.1"),
                ("libnvidia-ml.so.1", "/run/x/libnvidia-ml.so.1"),
                ("libcuda.so.1", "/run/x/libcuda.so.1"),
                ("libcuda.so.1", "/usr/lib32/libcuda.so.1"),
            ]
        );
        // Broken or missing caches of an image are replaced.
        for broken in [&b""[..], b"nonsense", &image[..20]] {
            let alone = with_libraries(broken, &names);
            assert_eq!(libraries(&alone).len(), 2);
        }
    }

    #[test]
    fn processors_own_directories_are_kept() {
        let entry = |name: &str, directory: Option<&str>| Entry {
            flags: flags_of_this_machine(),
            name: name.into(),
            path: format!("/lib/{name}"),
            capabilities: directory.map_or(0, |_| BY_INDEX | 3 << 32),
            directory: directory.map(str::to_string),
        };
        let entries = [
            entry("libb.so", Some("x86-64-v4")),
            entry("liba.so", Some("x86-64-v3")),
            entry("liba.so", None),
        ];
        let written = write(&entries);
        assert_eq!(
            read(&written).unwrap()[1].directory.as_deref(),
            Some("x86-64-v3")
        );
        // The index is that of the sorted names, the level of the processor is untouched.
        assert_eq!(
            read(&written).unwrap()[0].capabilities,
            BY_INDEX | 3 << 32 | 1
        );
        for end in 0..written.len() {
            let _ = read(&written[..end]);
        }
    }

    #[test]
    fn musl_searches_the_directory_first() {
        let with = |own: &[u8]| String::from_utf8(musl_path(own, Path::new("/run/x"))).unwrap();
        assert_eq!(with(b""), "/run/x\n/lib:/usr/local/lib:/usr/lib\n");
        assert_eq!(with(b"/opt/lib\n"), "/run/x\n/opt/lib\n");
    }
}
