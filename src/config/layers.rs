//! Lays the sources over one another, key by key, and remembers where each value came from.

use super::{Config, PROFILES, mistake, nearest};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use toml::de::{DeTable, DeValue};

/// The text of one file.
#[derive(Clone, Debug)]
pub struct File {
    pub path: String,
    pub text: String,
}

/// A value given by a variable or an option.
#[derive(Clone, Debug)]
pub struct Given {
    /// Dotted key, e.g. `store.path`.
    pub key: &'static str,
    pub value: String,
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    SiteFile { path: String, line: usize },
    ProjectFile { path: String, line: usize },
    UserFile { path: String, line: usize },
    Variable(&'static str),
    Option(&'static str),
}

/// The settings in force and where each came from.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Config,
    /// By dotted key; what is absent has its default.
    pub origins: BTreeMap<String, Origin>,
    /// What was given in the user's file but is fixed by the site.
    pub warnings: Vec<String>,
}

impl File {
    /// The line, from 1, of a byte of the text.
    pub fn line_at(&self, byte: usize) -> usize {
        let before = self.text.as_bytes().iter().take(byte);
        before.filter(|b| **b == b'\n').count() + 1
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => out.write_str("default"),
            Origin::SiteFile { path, line } => write!(out, "site file {path}:{line}"),
            Origin::ProjectFile { path, line } => write!(out, "project file {path}:{line}"),
            Origin::UserFile { path, line } => write!(out, "user file {path}:{line}"),
            Origin::Variable(name) => write!(out, "variable {name}"),
            Origin::Option(name) => write!(out, "option {name}"),
        }
    }
}

impl Origin {
    /// File and line, or what else it is.
    pub fn place(&self) -> String {
        match self {
            Origin::SiteFile { path, line }
            | Origin::ProjectFile { path, line }
            | Origin::UserFile { path, line } => format!("{path}:{line}"),
            other => other.to_string(),
        }
    }
}

impl Settings {
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Refuses `--insecure` where the site fixes which registries may be spoken to so.
    pub fn may_be_insecure(&self, wanted: bool) -> Result<()> {
        let mut fixed = self.config.fixed.iter();
        if wanted && fixed.any(|key| covers(key, "registries.insecure")) {
            return Err(Error::usage("`--insecure` cannot be used here")
                .cause("the site fixes `registries.insecure`"));
        }
        Ok(())
    }

    /// Every key with its value as JSON, in order.
    pub fn flat(&self) -> Vec<(String, serde_json::Value)> {
        let mut out = Vec::new();
        if let Ok(value) = serde_json::to_value(&self.config) {
            flatten(String::new(), value, &mut out);
        }
        out
    }
}

fn flatten(key: String, value: serde_json::Value, out: &mut Vec<(String, serde_json::Value)>) {
    match value {
        serde_json::Value::Object(fields) if key.is_empty() || !fields.is_empty() => {
            for (name, value) in fields {
                flatten(join(&key, &name), value, out);
            }
        }
        value => out.push((key, value)),
    }
}

/// A dotted key; names that TOML would quote are quoted.
fn join(key: &str, name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let name = if bare {
        name.to_string()
    } else {
        format!("{name:?}")
    };
    if key.is_empty() {
        name
    } else {
        format!("{key}.{name}")
    }
}

/// Everything that is laid over the defaults, lowest first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub site: Vec<File>,
    /// Of the project that the user works for.
    pub project: Vec<File>,
    pub user: Vec<File>,
    pub given: Vec<Given>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Site,
    Project,
    User,
}

/// Sections in which nobody says anything once the site has.
const OF_THE_SITE: &[&str] = &["access", "trust", "hooks", "records", "projects", "flavor"];

/// Lays site files, then users' files, then variables and options over the defaults.
pub fn merge(site: &[File], user: &[File], given: &[Given]) -> Result<Settings> {
    lay(&Sources {
        site: site.to_vec(),
        user: user.to_vec(),
        given: given.to_vec(),
        ..Sources::default()
    })
}

/// The same with all sources.
pub fn lay(sources: &Sources) -> Result<Settings> {
    let mut merged = Merged::default();
    for file in &sources.site {
        merged.lay(file, Layer::Site)?;
    }
    merged.check_fixed()?;
    let site = merged.config()?;
    merged.profiles_are_the_sites = !site.launch.choose_profile;
    for file in &sources.project {
        merged.lay(file, Layer::Project)?;
    }
    if site.user_file {
        for file in &sources.user {
            merged.lay(file, Layer::User)?;
        }
    }
    for one in &sources.given {
        merged.give(one)?;
    }
    Ok(Settings {
        config: merged.config()?,
        origins: merged.origins,
        warnings: merged.warnings,
    })
}

#[derive(Default)]
struct Merged {
    table: toml::Table,
    origins: BTreeMap<String, Origin>,
    /// Fixed keys, and the file and line that fix them.
    fixed: Vec<(String, String)>,
    /// Only site files may describe profiles.
    profiles_are_the_sites: bool,
    warnings: Vec<String>,
}

/// Whether a `final` entry is this key or a section that it is in.
pub fn covers(fixed: &str, key: &str) -> bool {
    key.strip_prefix(fixed)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Merged {
    fn config(&self) -> Result<Config> {
        // Where nobody has set anything, as on a laptop, a launch need not read it out of a table.
        if self.table.is_empty() {
            return Ok(Config::default());
        }
        // Each layer was checked on its own, so this fails only on a mistake of ours.
        self.table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| {
                Error::usage("cannot combine the settings").cause(error.message())
            })
    }

    fn lay(&mut self, file: &File, layer: Layer) -> Result<()> {
        let origin = |line| match layer {
            Layer::Site => Origin::SiteFile {
                path: file.path.clone(),
                line,
            },
            Layer::Project => Origin::ProjectFile {
                path: file.path.clone(),
                line,
            },
            Layer::User => Origin::UserFile {
                path: file.path.clone(),
                line,
            },
        };
        let parsed: Config = toml::from_str(&file.text).map_err(|error| mistake(file, &error))?;
        let spans = DeTable::parse(&file.text).map_err(|error| mistake(file, &error))?;
        let values: toml::Table =
            toml::from_str(&file.text).map_err(|error| mistake(file, &error))?;
        let mut lines = BTreeMap::new();
        lines_of(file, String::new(), spans.get_ref(), &mut lines);
        let mut leaves = Vec::new();
        leaves_of(String::new(), &[], values, &mut leaves);
        // Within one file the order of keys means nothing: `final` counts for those that come after it, in other files.
        let before = self.fixed.clone();
        for (key, path, value) in &leaves {
            let line = lines.get(key).copied().unwrap_or(1);
            if value.as_table().is_some() && get(&self.table, path).is_some() {
                continue;
            }
            if layer != Layer::Site && matches!(key.as_str(), "final" | "user_file") {
                self.warnings.push(format!(
                    "`{key}` in `{}:{line}` has no effect: only a site file can set it",
                    file.path
                ));
                continue;
            }
            if get(&self.table, path) != Some(value)
                && let Some((rule, by)) = self.forbidden(&before, key, layer)
            {
                if layer != Layer::Site {
                    return Err(Error::usage(format!(
                        "cannot set `{key}` in `{}:{line}`",
                        file.path
                    ))
                    .cause(format!("{rule} in `{by}`"))
                    .hint(
                        "remove the line; `carrack config show --origin` prints what is in force",
                    ));
                }
                self.warnings.push(format!(
                    "`{key}` in `{}:{line}` has no effect: {rule} in `{by}`",
                    file.path
                ));
                continue;
            }
            if key == "final" {
                // Fixed keys add up: a later site file cannot set one free.
                let place = format!("{}:{line}", file.path);
                let names = parsed.fixed.iter();
                self.fixed
                    .extend(names.map(|name| (name.clone(), place.clone())));
                let all = self
                    .fixed
                    .iter()
                    .map(|(name, _)| toml::Value::String(name.clone()));
                self.table
                    .insert(key.clone(), toml::Value::Array(all.collect()));
            } else {
                put(&mut self.table, path, value.clone());
            }
            self.origins.insert(key.clone(), origin(line));
        }
        if layer != Layer::Site {
            self.check_derived(&leaves, &lines, file)?;
        }
        Ok(())
    }

    /// The rule that keeps a layer from changing a key, and where it stands.
    fn forbidden(
        &self,
        fixed: &[(String, String)],
        key: &str,
        layer: Layer,
    ) -> Option<(String, String)> {
        if let Some((name, by)) = fixed.iter().find(|(name, _)| covers(name, key)) {
            return Some((format!("`{name}` is final"), by.clone()));
        }
        if layer == Layer::Site {
            return None;
        }
        let section = key.split('.').next().unwrap_or_default();
        if OF_THE_SITE.contains(&section)
            && let Some((set, origin)) = self.origins.iter().find(|(set, origin)| {
                covers(section, set) && matches!(origin, Origin::SiteFile { .. })
            })
        {
            return Some((
                format!("the site decides on `{section}` (`{set}`)"),
                origin.place(),
            ));
        }
        let of_profiles = covers("profile", key)
            || matches!(
                key,
                "launch.profile" | "launch.choose_profile" | "launch.profiles"
            );
        (self.profiles_are_the_sites && of_profiles).then(|| {
            let origin = self.origins.get("launch.choose_profile");
            (
                "`launch.choose_profile` is false".to_string(),
                origin.map(Origin::place).unwrap_or_default(),
            )
        })
    }

    /// A profile that a user bases on another one does not set that one's final keys free.
    fn check_derived(
        &self,
        leaves: &[Leaf],
        lines: &BTreeMap<String, usize>,
        file: &File,
    ) -> Result<()> {
        let config = self.config()?;
        for (key, path, _) in leaves {
            let [section, name, rule, ..] = path.as_slice() else {
                continue;
            };
            let mut base = config
                .profile
                .get(name)
                .and_then(|rules| rules.base.clone());
            // A circle is told when the profile is used.
            for _ in 0..config.profile.len() + 1 {
                let Some(of) = base.filter(|_| section == "profile") else {
                    break;
                };
                let inherited = format!("profile.{of}.{rule}");
                if let Some((fixed, by)) = self
                    .fixed
                    .iter()
                    .find(|(fixed, _)| covers(fixed, &inherited))
                {
                    let line = lines.get(key).copied().unwrap_or(1);
                    return Err(Error::usage(format!(
                        "cannot set `{key}` in `{}:{line}`",
                        file.path
                    ))
                    .cause(format!(
                        "`{name}` is based on `{of}`, and `{fixed}` is final in `{by}`"
                    )));
                }
                base = config.profile.get(&of).and_then(|rules| rules.base.clone());
            }
        }
        Ok(())
    }

    /// A misspelt `final` would fix nothing.
    fn check_fixed(&self) -> Result<()> {
        let config = self.config()?;
        for (name, by) in &self.fixed {
            let wrong = Error::usage(format!("`final` in `{by}` names `{name}`"));
            let mut parts = name.split('.');
            let profile = (parts.next() == Some("profile"))
                .then(|| parts.next())
                .flatten()
                .map(|profile| profile.trim_matches('"'));
            if let Some(profile) = profile
                && !PROFILES.contains(&profile)
                && !config.profile.contains_key(profile)
            {
                let known = config.profile.keys().map(String::as_str).chain(PROFILES);
                let error = wrong.cause(format!("there is no profile `{profile}`"));
                return Err(match nearest(profile, known) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                });
            }
            // A value of the wrong kind is told as such only where the key exists.
            let text = format!("{name} = nan");
            let message = match (DeTable::parse(&text), toml::from_str::<Config>(&text)) {
                (Err(_), _) => "unknown field".to_string(),
                (Ok(_), Err(error)) => error.message().to_string(),
                (Ok(_), Ok(_)) => String::new(),
            };
            if message.starts_with("unknown field") {
                let mut names = message.split('`').skip(1).step_by(2);
                let misspelt = names.next().unwrap_or(name).to_string();
                let error = wrong.cause("which is no setting");
                return Err(match nearest(&misspelt, names) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                });
            }
        }
        Ok(())
    }

    fn give(&mut self, one: &Given) -> Result<()> {
        let path: Vec<String> = one.key.split('.').map(String::from).collect();
        if let Some((fixed, by)) = self.fixed.iter().find(|(fixed, _)| covers(fixed, one.key))
            && get(&self.table, &path).and_then(|value| value.as_str()) != Some(one.value.as_str())
        {
            return Err(
                Error::usage(format!("cannot set `{}` by {}", one.key, one.origin))
                    .cause(format!("`{fixed}` is final in `{by}`")),
            );
        }
        let before = self.table.clone();
        let number = one.value.parse().map(toml::Value::Integer);
        let text = toml::Value::String(one.value.clone());
        put(&mut self.table, &path, text);
        if self.config().is_err() {
            self.table = before;
            put(
                &mut self.table,
                &path,
                number.unwrap_or_else(|_| toml::Value::String(one.value.clone())),
            );
            self.config().map_err(|error| {
                let what = format!(
                    "cannot set `{}` to `{}` by {}",
                    one.key, one.value, one.origin
                );
                error.causes().iter().fold(Error::usage(what), Error::cause)
            })?;
        }
        self.origins.insert(one.key.to_string(), one.origin.clone());
        Ok(())
    }
}

/// A dotted key, the same as path components, and the value.
type Leaf = (String, Vec<String>, toml::Value);

fn leaves_of(key: String, path: &[String], table: toml::Table, out: &mut Vec<Leaf>) {
    for (name, value) in table {
        let key = join(&key, &name);
        let mut path = path.to_vec();
        path.push(name);
        match value {
            // `[profile.mine]` alone is a profile too.
            toml::Value::Table(inner) if !inner.is_empty() => leaves_of(key, &path, inner, out),
            value => out.push((key, path, value)),
        }
    }
}

fn get<'a>(table: &'a toml::Table, path: &[String]) -> Option<&'a toml::Value> {
    match path {
        [] => None,
        [name] => table.get(name),
        [name, rest @ ..] => get(table.get(name)?.as_table()?, rest),
    }
}

fn put(table: &mut toml::Table, path: &[String], value: toml::Value) {
    match path {
        [] => {}
        [name] => {
            table.insert(name.clone(), value);
        }
        [name, rest @ ..] => {
            let inner = table
                .entry(name.clone())
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if !inner.is_table() {
                *inner = toml::Value::Table(toml::Table::new());
            }
            if let Some(inner) = inner.as_table_mut() {
                put(inner, rest, value);
            }
        }
    }
}

fn lines_of(file: &File, key: String, table: &DeTable<'_>, out: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = join(&key, name.get_ref());
        out.insert(key.clone(), file.line_at(name.span().start));
        if let DeValue::Table(inner) = value.get_ref() {
            lines_of(file, key, inner, out);
        }
    }
}

#[cfg(test)]
mod tests;
