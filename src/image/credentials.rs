//! Passwords and tokens for registries, where docker and podman keep them too.
//!
//! Read: docker's `config.json` and podman's `auth.json`, and the credential helpers that they name. Written: one of
//! these files, keeping everything else in it, or the helper that it names. Nothing is kept anywhere else.

mod helper;

use crate::error::{Context, Error, Result};
use crate::image::reference::DOCKER_HUB;
use crate::image::source::Secret;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Docker Hub's name in these files, for historical reasons.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const MAX_FILE: u64 = 4 << 20;
/// The user name that marks an identity token.
const TOKEN_USER: &str = "<token>";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What proves who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Password {
        user: String,
        password: Secret,
    },
    /// An OAuth2 refresh token that stands in for the password.
    Identity(Secret),
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// From the environment; comes before all files.
    pub fixed: Option<Fixed>,
    /// First found first.
    pub files: Vec<PathBuf>,
    /// The one of them that `login` writes.
    pub own: Option<PathBuf>,
}

/// `CARRACK_USERNAME` with `CARRACK_PASSWORD` or `CARRACK_PASSWORD_FILE`, for batch systems.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// `CARRACK_REGISTRY`, or the registry of the image that is pulled; a mirror gets nothing.
    pub registry: Option<String>,
    pub user: String,
    pub password: FixedPassword,
}

#[derive(Clone, Debug)]
pub enum FixedPassword {
    Here(Secret),
    File(PathBuf),
}

impl Places {
    pub fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Places {
        let path = |name: &str| get(name).map(PathBuf::from);
        let password = get("CARRACK_PASSWORD")
            .map(|text| FixedPassword::Here(Secret::new(text)))
            .or_else(|| path("CARRACK_PASSWORD_FILE").map(FixedPassword::File));
        let fixed = get("CARRACK_USERNAME")
            .zip(password)
            .map(|(user, password)| Fixed {
                registry: get("CARRACK_REGISTRY"),
                user,
                password,
            });
        let explicit = path("REGISTRY_AUTH_FILE");
        let docker = path("DOCKER_CONFIG")
            .or_else(|| path("HOME").map(|home| home.join(".docker")))
            .map(|directory| directory.join("config.json"));
        let podman = [
            path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
            path("HOME").map(|home| home.join(".config/containers/auth.json")),
        ];
        Places {
            fixed,
            own: explicit.clone().or_else(|| docker.clone()),
            // What `carrack login` wrote counts before what podman left behind.
            files: [explicit, docker]
                .into_iter()
                .chain(podman)
                .flatten()
                .collect(),
        }
    }
}

/// The credentials for a repository in a registry, if there are any.
pub fn find(registry: &str, repository: &str, places: &Places) -> Result<Option<Credential>> {
    if let Some(fixed) = &places.fixed
        && fixed
            .registry
            .as_deref()
            .is_none_or(|only| normal(only).0 == registry)
    {
        let password = match &fixed.password {
            FixedPassword::Here(password) => password.clone(),
            FixedPassword::File(path) => {
                let text =
                    Secret::new(std::fs::read_to_string(path).or_say(|| {
                        format!("cannot read the password file `{}`", path.display())
                    })?);
                Secret::new(text.reveal().trim_end_matches(['\r', '\n']))
            }
        };
        let user = fixed.user.clone();
        return Ok(Some(Credential::Password { user, password }));
    }
    for path in &places.files {
        let Some(file) = read(path)? else { continue };
        let found = find_in(&file, registry, repository)
            .map_err(|error| error.while_doing(format!("cannot use `{}`", path.display())))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn find_in(
    file: &Map<String, Value>,
    registry: &str,
    repository: &str,
) -> Result<Option<Credential>> {
    if let Some(name) = helper_for(file, registry) {
        return helper::get(name, key(registry));
    }
    if let Some(name) = store_of(file) {
        // A file that came from another machine may name a helper that is not here; it need not stop a public pull. When
        // the registry refuses, `missing_helper` tells.
        if helper::exists(name)
            && let Some(found) = helper::get(name, key(registry))?
        {
            return Ok(Some(found));
        }
    }
    let auths = file.get("auths").and_then(Value::as_object);
    let best = auths
        .into_iter()
        .flatten()
        .filter_map(|(name, entry)| {
            let (host, path) = normal(name);
            let fits = host == registry
                && (path.is_empty()
                    || repository == path
                    || repository
                        .strip_prefix(&path)
                        .is_some_and(|rest| rest.starts_with('/')));
            fits.then_some((path.len(), entry))
        })
        .max_by_key(|(length, _)| *length);
    match best {
        Some((_, entry)) => decode(entry),
        None => Ok(None),
    }
}

/// The helper that holds for a registry by one of the files and is not installed here, in words. What it keeps cannot be
/// had, which nobody would guess from a registry's refusal.
pub fn missing_helper(registry: &str, places: &Places) -> Option<String> {
    let missing = |path: &PathBuf| {
        let file = read(path).ok()??;
        let name = helper_for(&file, registry).or_else(|| store_of(&file))?;
        (!helper::exists(name)).then(|| not_installed(path, name))
    };
    places.files.iter().find_map(missing)
}

fn not_installed(path: &Path, name: &str) -> String {
    format!(
        "`{}` names the credential helper `docker-credential-{name}`, which is not in PATH",
        path.display()
    )
}

/// The helper for all registries that have none of their own.
fn store_of(file: &Map<String, Value>) -> Option<&str> {
    let name = file.get("credsStore")?.as_str()?;
    Some(name).filter(|name| !name.is_empty())
}

fn helper_for<'a>(file: &'a Map<String, Value>, registry: &str) -> Option<&'a str> {
    let helpers = file.get("credHelpers")?.as_object()?;
    let (_, name) = helpers
        .iter()
        .find(|(host, _)| normal(host).0 == registry)?;
    name.as_str().filter(|name| !name.is_empty())
}

/// One entry of `auths`. An empty one is docker's sign that a helper has it.
fn decode(entry: &Value) -> Result<Option<Credential>> {
    let text = |name: &str| {
        let text = entry.get(name).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    };
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::Identity(Secret::new(token))));
    }
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Ok(Some(password_or_token(user, password)));
    }
    let Some(auth) = text("auth") else {
        return Ok(None);
    };
    // The cause would show a part of the secret.
    let broken = || Error::new("an `auth` entry is not base64 of `user:password`");
    let bytes = BASE64.decode(auth.trim()).map_err(|_| broken())?;
    let pair = Secret::new(String::from_utf8(bytes).map_err(|_| broken())?);
    let (user, password) = pair.reveal().split_once(':').ok_or_else(broken)?;
    Ok(Some(password_or_token(
        user,
        password.trim_end_matches('\0'),
    )))
}

fn password_or_token(user: &str, password: &str) -> Credential {
    match user {
        TOKEN_USER => Credential::Identity(Secret::new(password)),
        user => Credential::Password {
            user: user.to_string(),
            password: Secret::new(password),
        },
    }
}

/// The name of a registry in these files.
fn key(registry: &str) -> &str {
    match registry {
        DOCKER_HUB => DOCKER_HUB_KEY,
        other => other,
    }
}

/// Keys come as `host`, `https://host/v1/` or, from podman, `host/path`: the host and the path.
fn normal(name: &str) -> (String, String) {
    let bare = name
        .strip_prefix("https://")
        .or_else(|| name.strip_prefix("http://"))
        .unwrap_or(name);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => {
            DOCKER_HUB.to_string()
        }
        other => other.to_string(),
    };
    let path = match path.trim_end_matches('/') {
        "v1" | "v2" => "",
        path => path,
    };
    (host, path.to_string())
}

/// The file's object; `None` when there is no file.
fn read(path: &Path) -> Result<Option<Map<String, Value>>> {
    use std::io::Read;
    let what = || format!("cannot read the credentials in `{}`", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).or_say(what),
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).or_say(what)?;
    let text = Secret::new(text);
    if text.reveal().trim().is_empty() {
        return Ok(Some(Map::new()));
    }
    match serde_json::from_str(text.reveal()) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(Error::new(what()).cause("it is not a JSON object")),
        // The parser's own message can quote the text; the place is enough.
        Err(error) => Err(Error::new(what()).cause(format!(
            "no valid JSON at line {}, column {}",
            error.line(),
            error.column()
        ))),
    }
}

/// Where a secret went.
#[derive(Debug, PartialEq)]
pub enum Kept {
    File(PathBuf),
    Helper(String),
}

/// Keeps credentials for a registry, in the file or by the helper that it names.
pub fn save(
    registry: &str,
    user: &str,
    secret: &Secret,
    is_identity: bool,
    places: &Places,
) -> Result<Kept> {
    let path = own(places)?;
    let mut file = read(path)?.unwrap_or_default();
    let helper = helper_for(&file, registry).or_else(|| store_of(&file));
    let helper = helper.map(str::to_string);
    // Who names a helper does not want the password in a plain file.
    if let Some(name) = helper.as_deref().filter(|name| !helper::exists(name)) {
        return Err(Error::new(format!("cannot keep the login for `{registry}`"))
            .cause(not_installed(path, name))
            .hint("install it, or take `credsStore` and `credHelpers` out of the file to keep passwords in it; `REGISTRY_AUTH_FILE` names another file"));
    }
    let key = key(registry);
    let mut entry = Map::new();
    match &helper {
        Some(name) => {
            let user = match is_identity {
                true => TOKEN_USER,
                false => user,
            };
            helper::store(name, key, user, secret)?;
        }
        None => {
            let password = match is_identity {
                true => "",
                false => secret.reveal(),
            };
            let pair = Secret::new(format!("{user}:{password}"));
            entry.insert("auth".into(), BASE64.encode(pair.reveal()).into());
            if is_identity {
                entry.insert("identitytoken".into(), secret.reveal().into());
            }
        }
    }
    let auths = auths(&mut file, path)?;
    auths.retain(|name, _| !is_for(name, registry));
    auths.insert(key.to_string(), Value::Object(entry));
    write(path, file)?;
    Ok(match helper {
        Some(name) => Kept::Helper(name),
        None => Kept::File(path.to_path_buf()),
    })
}

/// Forgets a registry in all places; gives those that had it.
pub fn remove(registry: &str, places: &Places) -> Result<Vec<Kept>> {
    let gone = kept(registry, places)?;
    for place in &gone {
        match place {
            Kept::Helper(name) => helper::erase(name, key(registry))?,
            Kept::File(path) => {
                let mut file = read(path)?.unwrap_or_default();
                auths(&mut file, path)?.retain(|name, _| !is_for(name, registry));
                write(path, file)?;
            }
        }
    }
    Ok(gone)
}

/// The places that have something for a registry.
pub fn kept(registry: &str, places: &Places) -> Result<Vec<Kept>> {
    let mut found = Vec::new();
    for path in &places.files {
        let Some(file) = read(path)? else { continue };
        if let Some(name) = helper_for(&file, registry).or_else(|| store_of(&file))
            && helper::exists(name)
            && helper::get(name, key(registry))?.is_some()
        {
            found.push(Kept::Helper(name.to_string()));
        }
        let auths = file.get("auths").and_then(Value::as_object);
        if auths
            .into_iter()
            .flatten()
            .any(|(name, _)| is_for(name, registry))
        {
            found.push(Kept::File(path.clone()));
        }
    }
    Ok(found)
}

/// Whether a key stands for the whole registry.
fn is_for(name: &str, registry: &str) -> bool {
    let (host, path) = normal(name);
    host == registry && path.is_empty()
}

fn own(places: &Places) -> Result<&Path> {
    places.own.as_deref().ok_or_else(|| {
        Error::new("there is no place for credentials")
            .cause("neither HOME nor DOCKER_CONFIG nor REGISTRY_AUTH_FILE is set")
    })
}

fn auths<'a>(file: &'a mut Map<String, Value>, path: &Path) -> Result<&'a mut Map<String, Value>> {
    let auths = file
        .entry("auths")
        .or_insert_with(|| Value::Object(Map::new()));
    auths.as_object_mut().ok_or_else(|| {
        Error::new(format!("cannot change `{}`", path.display()))
            .cause("`auths` in it is not an object")
    })
}

/// Beside, then renamed; readable by the owner only. A link is followed, so that it stays one.
fn write(path: &Path, file: Map<String, Value>) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let what = || format!("cannot write `{}`", path.display());
    let path = match path.canonicalize() {
        Ok(real) => real,
        Err(_) => path.to_path_buf(),
    };
    let directory = path.parent().or_say(what)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .or_say(what)?;
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(&file, &mut serializer).or_say(what)?;
    text.push(b'\n');
    // A fresh temporary file is readable by its owner only.
    let mut beside = tempfile::NamedTempFile::new_in(directory).or_say(what)?;
    let written = beside.write_all(&text);
    zeroize::Zeroize::zeroize(&mut text);
    written.or_say(what)?;
    beside.as_file().sync_all().or_say(what)?;
    beside
        .persist(&path)
        .map_err(|error| error.error)
        .or_say(what)?;
    Ok(())
}

#[cfg(test)]
mod tests;
