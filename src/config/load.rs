//! Finds and reads the settings files.

use super::{File, Given, Origin, Settings, merge};
use crate::error::{Context, Error, Result};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A settings file is some kilobytes.
const MAX_BYTES: u64 = 1 << 20;

/// Variables that set a key.
const VARIABLES: &[(&str, &str)] = &[
    ("CARRACK_STORE", "store.path"),
    ("CARRACK_CACHE", "store.cache"),
    ("CARRACK_THREADS", "conversion.threads"),
];

/// Reads the settings in force; `options` are those of the command line.
pub fn load(options: Vec<Given>) -> Result<Settings> {
    let mut site = Vec::new();
    for path in site_files() {
        site.extend(read(&path)?);
    }
    let mut user = Vec::new();
    if let Some(path) = user_file() {
        let named = std::env::var_os("CARRACK_CONFIG").is_some();
        let found = match read(&path) {
            // A home that cannot be entered here has no settings for us. One that the user names is another matter.
            Err(error) if !named && is_denied(&error) => None,
            other => other?,
        };
        if found.is_none() && named {
            return Err(Error::usage(format!("cannot find `{}`", path.display()))
                .cause("`$CARRACK_CONFIG` names it"));
        }
        user.extend(found);
    }
    let variables = VARIABLES.iter().filter_map(|(name, key)| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some(Given {
            key,
            value,
            origin: Origin::Variable(name),
        })
    });
    let options_set = |key: &str| options.iter().any(|option| option.key == key);
    // An option hides its variable, also one that the site would refuse.
    let given: Vec<Given> = variables.filter(|one| !options_set(one.key)).collect();
    merge(&site, &user, &[given, options].concat())
}

fn is_denied(error: &Error) -> bool {
    let kind = error.downcast_ref().map(std::io::Error::kind);
    kind == Some(ErrorKind::PermissionDenied)
}

/// The site's files: the machine's, then the one of this installation.
pub fn site_files() -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("/etc/carrack/carrack.toml")];
    let binary = std::env::current_exe().ok();
    let prefix = binary
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::parent);
    paths.extend(prefix.map(|prefix| prefix.join("etc/carrack.toml")));
    paths
}

/// The user's file, whether it exists or not.
pub fn user_file() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("CARRACK_CONFIG").or_else(|| {
        let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
        Some(base.join("carrack/carrack.toml"))
    })
}

/// The file's text; `None` when there is no such file.
pub fn read(path: &Path) -> Result<Option<File>> {
    let failed = || format!("cannot read the settings in `{}`", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::new(failed()).source(error)),
    };
    let mut text = String::new();
    file.take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .or_say(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::new(failed()).cause(format!("more than {MAX_BYTES} bytes")));
    }
    Ok(Some(File {
        path: path.display().to_string(),
        text,
    }))
}
