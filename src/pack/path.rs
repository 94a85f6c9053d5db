//! Member names → paths relative to the image's root, and the whiteouts hidden in them.

use crate::error::{Error, Result};
use crate::image::entry::{MAX_DEPTH, MAX_NAME, MAX_PATH, MAX_TARGET, Path, display};

/// What a member's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    Plain(Path),
    /// Hides this path of the layers below.
    Whiteout(Path),
    /// Hides what the layers below have in this directory.
    Opaque(Path),
    /// `.wh..wh.*`: bookkeeping of old union file systems.
    Ignored,
}

/// Normalises: no leading `/`, no `.`, and `..` takes back one component but never leaves the root.
pub fn normalise(name: &[u8]) -> Result<Path> {
    if name.len() > MAX_PATH {
        return Err(limit(name, "its path is too long", MAX_PATH, "bytes"));
    }
    if name.contains(&0) {
        return Err(Error::new(format!(
            "the layer has an impossible name: `{}`",
            display(name)
        ))
        .cause("there is a NUL byte in it"));
    }
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0;
    for component in name.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                let parent = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                path.truncate(parent);
                depth = if path.is_empty() { 0 } else { depth - 1 };
            }
            _ => {
                if component.len() > MAX_NAME {
                    return Err(limit(
                        name,
                        &format!("`{}` is too long a name", display(component)),
                        MAX_NAME,
                        "bytes",
                    ));
                }
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(limit(
                        name,
                        "its path is too deep",
                        MAX_DEPTH,
                        "directories",
                    ));
                }
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Ok(path)
}

/// Reads a member's name; `is_directory` members are never whiteouts.
pub fn read(name: &[u8], is_directory: bool) -> Result<Name> {
    let path = normalise(name)?;
    if is_directory {
        return Ok(Name::Plain(path));
    }
    let at = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    let (parent, base) = path.split_at(at);
    let Some(hidden) = base.strip_prefix(b".wh.") else {
        return Ok(Name::Plain(path));
    };
    Ok(match hidden {
        b".wh..opq" => Name::Opaque(parent.strip_suffix(b"/").unwrap_or(parent).to_vec()),
        _ if hidden.starts_with(b".wh.") => Name::Ignored,
        // These would act on the directory or its parent, which only a crafted layer asks for.
        b"" | b"." | b".." => Name::Ignored,
        _ => Name::Whiteout([parent, hidden].concat()),
    })
}

/// Checks a symlink's target; it is kept as it is and resolved inside the image's root at run time.
pub fn target(name: &[u8], target: &[u8]) -> Result<()> {
    let why = match target {
        b"" => "its target is empty",
        _ if target.contains(&0) => "there is a NUL byte in its target",
        _ if target.len() > MAX_TARGET => {
            return Err(limit(name, "its target is too long", MAX_TARGET, "bytes"));
        }
        _ => return Ok(()),
    };
    Err(Error::new(format!(
        "the layer has an impossible symlink: `{}`",
        display(name)
    ))
    .cause(why))
}

/// An error that names a limit.
pub fn limit(name: &[u8], what: &str, limit: usize, unit: &str) -> Error {
    Error::new(format!("the layer's entry `{}` is refused", display(name)))
        .cause(format!("{what}; the limit is {limit} {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (name, path) in [
            ("a/b", "a/b"),
            ("/a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("a/./b/.", "a/b"),
            (".", ""),
            ("./", ""),
            ("/", ""),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../../b", "b"),
            ("a/b/../c", "a/c"),
            ("a/..", ""),
            ("a\nb/ c", "a\nb/ c"),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(
                normalise(name.as_bytes()).unwrap(),
                path.as_bytes(),
                "{name}"
            );
        }
        assert_eq!(normalise(b"\xff/\x01").unwrap(), b"\xff/\x01");
    }

    #[test]
    fn limits_are_named() {
        let name = vec![b'x'; 256];
        let error = normalise(&name).unwrap_err().to_string();
        assert!(error.contains("255 bytes"), "{error}");
        assert!(normalise(&name[..255]).is_ok());
        let deep = "a/".repeat(MAX_DEPTH + 1);
        let error = normalise(deep.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("1024 directories"), "{error}");
        assert!(normalise("a/".repeat(MAX_DEPTH).as_bytes()).is_ok());
        // Going up makes room again.
        assert!(normalise("a/../".repeat(MAX_DEPTH + 1).as_bytes()).is_ok());
        assert!(normalise("a/".repeat(100_000).as_bytes()).is_err());
        assert!(normalise(b"a\0b").is_err());
    }

    #[test]
    fn whiteouts() {
        let plain = |path: &str| Name::Plain(path.into());
        let hides = |path: &str| Name::Whiteout(path.into());
        for (name, directory, read_as) in [
            ("a/.wh.b", false, hides("a/b")),
            (".wh.b", false, hides("b")),
            ("a/.wh..b", false, hides("a/.b")),
            ("a/.wh.b", true, plain("a/.wh.b")),
            (".wh.a/b", false, plain(".wh.a/b")),
            ("a/.wh..wh..opq", false, Name::Opaque("a".into())),
            (".wh..wh..opq", false, Name::Opaque("".into())),
            ("a/.wh..wh.plnk", false, Name::Ignored),
            ("a/.wh.", false, Name::Ignored),
            ("a/.wh..", false, Name::Ignored),
            ("a/.wh...", false, Name::Ignored),
            ("../.wh.b", false, hides("b")),
            ("a/.whb", false, plain("a/.whb")),
        ] {
            assert_eq!(read(name.as_bytes(), directory).unwrap(), read_as, "{name}");
        }
    }

    #[test]
    fn targets() {
        assert!(target(b"l", b"../../..").is_ok());
        assert!(target(b"l", &[b'a'; MAX_TARGET]).is_ok());
        for bad in [&b""[..], b"a\0b", &[b'a'; MAX_TARGET + 1]] {
            assert!(target(b"l", bad).is_err());
        }
    }
}
