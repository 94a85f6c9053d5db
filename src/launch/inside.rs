//! A path inside the capsule, in normal form.
//!
//! Holding an [`InsidePath`] proves that the text is absolute and has no `.`, `..`, empty or NUL-bearing component. It does
//! not prove that the path exists or that none of its components is a symbolic link: the image decides that, and only a
//! lookup confined to the new root may answer.

use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The kernel's limit for one path; longer ones could not be looked up anyway.
const MAX_BYTES: usize = 4095;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InsidePath(PathBuf);

impl InsidePath {
    /// Normalises an absolute path: `/a//b/./c/` is `/a/b/c`. `..` is refused, because what it means depends on links.
    pub fn new(path: impl AsRef<Path>) -> Result<InsidePath> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        let refuse = |why: &str| {
            Err(Error::usage(format!(
                "cannot use `{}` as a path inside the image",
                path.display()
            ))
            .cause(why))
        };
        if bytes.first() != Some(&b'/') {
            return refuse("it does not start with `/`");
        }
        if bytes.contains(&0) {
            return refuse("it contains a NUL byte");
        }
        if bytes.len() > MAX_BYTES {
            return refuse("it is longer than 4095 bytes");
        }
        let mut normal = Vec::with_capacity(bytes.len());
        for component in bytes.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return refuse("it contains `..`"),
                name => {
                    normal.push(b'/');
                    normal.extend_from_slice(name);
                }
            }
        }
        if normal.is_empty() {
            normal.push(b'/');
        }
        Ok(InsidePath(PathBuf::from(std::ffi::OsString::from_vec(
            normal,
        ))))
    }

    /// A path written in this source; anything else goes through [`InsidePath::new`].
    pub fn fixed(path: &'static str) -> InsidePath {
        debug_assert!(InsidePath::new(path).is_ok_and(|p| p.as_os_str() == OsStr::new(path)));
        InsidePath(PathBuf::from(path))
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }

    pub fn as_os_str(&self) -> &OsStr {
        self.0.as_os_str()
    }

    pub fn is_root(&self) -> bool {
        self.0.as_os_str().len() == 1
    }

    /// The path without its leading `/`, for lookups relative to a descriptor of the root; `.` for the root itself.
    pub fn relative(&self) -> &Path {
        match self.0.strip_prefix("/") {
            Ok(rest) if !rest.as_os_str().is_empty() => rest,
            _ => Path::new("."),
        }
    }

    /// Whether `self` is `other` or below it, by whole components (`/scratch2` is not below `/scratch`).
    pub fn is_within(&self, other: &InsidePath) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl fmt::Display for InsidePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.display(), out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_form() {
        for (input, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/a", "/a"),
            ("/a//b/./c/", "/a/b/c"),
            ("/a b", "/a b"),
            ("/...", "/..."),
        ] {
            assert_eq!(InsidePath::new(input).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn refused() {
        let long = format!("/{}", "x".repeat(5000));
        for input in ["", "a", "./a", "/..", "/a/../b", "/a\0b", &long] {
            let error = InsidePath::new(input).unwrap_err();
            assert_eq!(error.kind(), crate::error::Exit::Usage, "{input}");
        }
    }

    #[test]
    fn within_is_by_component() {
        let inside = |text: &str| InsidePath::new(text).unwrap();
        assert!(inside("/scratch/a").is_within(&inside("/scratch")));
        assert!(inside("/scratch").is_within(&inside("/scratch")));
        assert!(inside("/scratch").is_within(&inside("/")));
        assert!(!inside("/scratch2").is_within(&inside("/scratch")));
        assert_eq!(inside("/").relative(), Path::new("."));
        assert_eq!(inside("/a/b").relative(), Path::new("a/b"));
    }
}
