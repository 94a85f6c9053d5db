//! Finds and reads the settings files.

use super::trusted::{self, MAX_BYTES, Owner};
use super::{File, Given, Origin, Projects, Settings, Sources, lay};
use crate::error::{Context, Error, Result};
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Variables that set a key.
const VARIABLES: &[(&str, &str)] = &[
    ("CARRACK_STORE", "store.path"),
    ("CARRACK_CACHE", "store.cache"),
    ("CARRACK_THREADS", "conversion.threads"),
];

/// Reads the settings in force; `options` are those of the command line. `projects` names the user's, and is asked only
/// where the site gives projects a file of their own.
pub fn load(options: Vec<Given>, projects: &dyn Fn(&Projects) -> Vec<String>) -> Result<Settings> {
    let mut sources = Sources::default();
    for file in site_files() {
        let Some(text) = trusted::read(&file.path, file.owner)? else {
            continue;
        };
        // What is not root's is its owner's own word where the machine has spoken.
        match sources.site.is_empty() || file.owner == Owner::Root || is_roots(&file.path) {
            true => sources.site.push(text),
            false => sources.user.push(text),
        }
    }
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
        sources.user.extend(found);
    }
    sources
        .project
        .extend(project_file(&sources.site, projects)?);
    // An option hides its variable, also one that the site would refuse.
    let hidden = |key: &str| options.iter().any(|option| option.key == key);
    sources.given = from_variables(&hidden, &|name| std::env::var_os(name))?;
    sources.given.extend(options);
    let mut settings = lay(&sources)?;
    read_keys(&mut settings)?;
    Ok(settings)
}

/// What the variables set, but for the keys that are hidden.
fn from_variables(
    hidden: &dyn Fn(&str) -> bool,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<Given>> {
    let mut given = Vec::new();
    for (name, key) in VARIABLES {
        if !hidden(key)
            && let Some(value) = text_of(name, variable(name))?
            && !value.is_empty()
        {
            given.push(Given {
                key,
                value,
                origin: Origin::Variable(name),
            });
        }
    }
    Ok(given)
}

/// A variable's value. What cannot be read is refused: without it images would go elsewhere, unasked.
fn text_of(name: &str, value: Option<OsString>) -> Result<Option<String>> {
    let value = value.map(OsString::into_string).transpose();
    value.map_err(|_| Error::usage(format!("the value of `${name}` is not UTF-8")))
}

/// Puts the texts of keys in place of their files, which must be as trustworthy as the setting that names them.
fn read_keys(settings: &mut Settings) -> Result<()> {
    let owner = owner_of(settings.origin("trust.keys"));
    for key in &mut settings.config.trust.keys {
        if key.starts_with('/') {
            let file = trusted::read(Path::new(key), owner)?;
            let missing = || Error::usage(format!("cannot find the key `{key}` of `trust.keys`"));
            *key = file.ok_or_else(missing)?.text;
        }
    }
    Ok(())
}

/// Who may have written what a setting names: the same who may have written the setting.
pub fn owner_of(origin: &Origin) -> Owner {
    let Origin::SiteFile { path, .. } = origin else {
        return Owner::RootOr(rustix::process::geteuid().as_raw());
    };
    let mut files = site_files().into_iter();
    files
        .find(|file| file.path == Path::new(path))
        .map_or(Owner::Root, |file| file.owner)
}

fn is_roots(path: &Path) -> bool {
    trusted::read(path, Owner::Root).is_ok()
}

/// The file of the project that `$CARRACK_PROJECT` names, or of the user's first one that has such a file.
fn project_file(
    site: &[File],
    projects: &dyn Fn(&Projects) -> Vec<String>,
) -> Result<Option<File>> {
    let settings = lay(&Sources {
        site: site.to_vec(),
        ..Sources::default()
    })?
    .config
    .projects;
    let Some(pattern) = &settings.settings else {
        return Ok(None);
    };
    let name = "CARRACK_PROJECT";
    let wanted = text_of(name, std::env::var_os(name))?;
    for project in projects(&settings) {
        if wanted.as_ref().is_some_and(|wanted| *wanted != project) {
            continue;
        }
        if let Some(file) = read(Path::new(&pattern.replace("{project}", &project)))? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn is_denied(error: &Error) -> bool {
    let kind = error.downcast_ref().map(std::io::Error::kind);
    kind == Some(ErrorKind::PermissionDenied)
}

/// A file that decides for others, and who may have written it.
pub struct SiteFile {
    pub path: PathBuf,
    pub owner: Owner,
}

/// The site's files: the machine's, then the one of this installation. Whoever owns the program could change it anyway, so
/// an installation's file may be the same user's; once the machine has one, it counts no more than a user's own.
pub fn site_files() -> Vec<SiteFile> {
    let mut files = vec![SiteFile {
        path: PathBuf::from("/etc/carrack/carrack.toml"),
        owner: Owner::Root,
    }];
    let Ok(binary) = std::env::current_exe() else {
        return files;
    };
    let prefix = binary.parent().and_then(Path::parent);
    let owner = match rustix::fs::stat(&binary) {
        Ok(stat) => Owner::RootOr(stat.st_uid),
        Err(_) => Owner::Root,
    };
    files.extend(prefix.map(|prefix| SiteFile {
        path: prefix.join("etc/carrack.toml"),
        owner,
    }));
    files
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn variables_set_keys_or_are_refused() {
        let set = |name: &str| match name {
            "CARRACK_STORE" => Some(OsString::from_vec(b"/s/\xff".to_vec())),
            "CARRACK_CACHE" => Some("".into()),
            "CARRACK_THREADS" => Some("3".into()),
            _ => None,
        };
        let told = from_variables(&|_| false, &set).unwrap_err();
        assert_eq!(told.what(), "the value of `$CARRACK_STORE` is not UTF-8");
        // `--store` was given.
        let given = from_variables(&|key| key == "store.path", &set).unwrap();
        let given: Vec<(&str, &str)> = given.iter().map(|one| (one.key, &*one.value)).collect();
        assert_eq!(given, [("conversion.threads", "3")]);
    }
}
