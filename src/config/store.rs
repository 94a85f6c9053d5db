//! `[store]`: where images live and who may read them.

use super::Size;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where images are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Directory of the user's store; `~` and `$NAME` are expanded. Unset: `$SCRATCH/.carrack`, else
    /// `~/.local/share/carrack`.
    pub path: Option<String>,
    /// Directory of converted layers; may be node-local. Unset: `packs` in the store.
    pub cache: Option<String>,
    /// Largest size of the cache; least recently used layers go first.
    pub cache_size: Size,
    /// Stores of the site, searched before the user's and never written.
    pub read_only: Vec<String>,
    pub sharing: Sharing,
    /// `lfs setstripe -c` for new images where the store is on Lustre: 0 leaves it to the file system, -1 is all.
    pub stripe_count: i32,
}

/// Who may read a new store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Only its owner.
    #[default]
    Private,
    /// The group of the store's directory too.
    Group,
    /// Everybody on the machine.
    Public,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            path: None,
            cache: None,
            cache_size: Size(50 << 30),
            read_only: Vec::new(),
            sharing: Sharing::Private,
            stripe_count: 0,
        }
    }
}

impl Sharing {
    /// The mode of the store's directories.
    pub fn directory_mode(self) -> u32 {
        match self {
            Sharing::Private => 0o700,
            Sharing::Group => 0o750,
            Sharing::Public => 0o755,
        }
    }
}

/// Replaces a leading `~` and every `$NAME` or `${NAME}`. An unset variable is an error: a path must not shrink to
/// another one.
pub fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let value = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| {
                Error::new(format!("cannot expand `{text}`")).cause(format!("`${name}` is not set"))
            })
    };
    let mut out = String::new();
    let mut rest = text;
    if let Some(after) = text
        .strip_prefix('~')
        .filter(|after| after.is_empty() || after.starts_with('/'))
    {
        out.push_str(&value("HOME")?);
        rest = after;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, after) = match after
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'))
        {
            Some(braced) => braced,
            None => {
                let end = after
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .unwrap_or(after.len());
                after.split_at(end)
            }
        };
        if name.is_empty() {
            return Err(Error::new(format!("cannot expand `{text}`")).cause("`$` without a name"));
        }
        out.push_str(&value(name)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_expand_like_a_shell_but_never_shrink() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/alice".to_string()),
            "USER" => Some("alice".to_string()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, want) in [
            ("/a/b", Some("/a/b")),
            ("~/x", Some("/home/alice/x")),
            ("~", Some("/home/alice")),
            ("~bob/x", Some("~bob/x")),
            ("/s/$USER/c", Some("/s/alice/c")),
            ("/s/${USER}x", Some("/s/alicex")),
            ("$HOME", Some("/home/alice")),
            ("/s/$EMPTY/c", None),
            ("/s/$NOPE", None),
            ("/s/$", None),
            ("/s/${USER", None),
        ] {
            assert_eq!(expand(text, &variable).ok().as_deref(), want, "{text}");
        }
    }
}
