//! Reads the host's `/etc/ld.so.cache`: which libraries the host's loader knows, by name. Bytes in, names out.
//!
//! Format: glibc's `dl-cache.h`, "glibc-ld.so.cache1.1", alone or behind the older "ld.so-1.7.0" table.

use std::path::PathBuf;

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
/// More than any distribution has; beyond it the file is broken.
const MAX_ENTRIES: usize = 200_000;

/// Names and paths of the libraries of this machine's own kind, in the cache's order.
pub fn libraries(cache: &[u8]) -> Vec<(String, PathBuf)> {
    read(cache).unwrap_or_default()
}

fn read(cache: &[u8]) -> Option<Vec<(String, PathBuf)>> {
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
    let mut found = Vec::new();
    for index in 0..count {
        let at = HEADER + index * ENTRY;
        let flags = number(cache, at)?;
        if !of_this_machine(flags) {
            continue;
        }
        let name = text(cache, number(cache, at + 4)?)?;
        let path = text(cache, number(cache, at + 8)?)?;
        if path.starts_with('/') {
            found.push((name, PathBuf::from(path)));
        }
    }
    Some(found)
}

/// The second byte of the flags says for which kind of processor a library is.
fn of_this_machine(flags: usize) -> bool {
    match std::env::consts::ARCH {
        "x86_64" => flags & 0xff00 == 0x0300,
        "aarch64" => flags & 0xff00 == 0x0a00,
        _ => true,
    }
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
}
