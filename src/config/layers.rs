//! Lays the sources over one another, key by key, and remembers where each value came from.

use super::{Config, mistake};
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
            Origin::UserFile { path, line } => write!(out, "user file {path}:{line}"),
            Origin::Variable(name) => write!(out, "variable {name}"),
            Origin::Option(name) => write!(out, "option {name}"),
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
        if wanted && fixed.any(|key| key == "registries.insecure" || key == "registries") {
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

/// Lays site files, then users' files, then variables and options over the defaults.
pub fn merge(site: &[File], user: &[File], given: &[Given]) -> Result<Settings> {
    let mut merged = Merged::default();
    for file in site {
        merged.lay(file, |path, line| Origin::SiteFile { path, line })?;
    }
    if merged.config()?.user_file {
        for file in user {
            merged.lay(file, |path, line| Origin::UserFile { path, line })?;
        }
    }
    for one in given {
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
    /// Fixed keys, and the file that fixes them.
    fixed: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Merged {
    fn config(&self) -> Result<Config> {
        // Each layer was checked on its own, so this fails only on a mistake of ours.
        self.table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| {
                Error::usage("cannot combine the settings").cause(error.message())
            })
    }

    fn lay(&mut self, file: &File, origin: impl Fn(String, usize) -> Origin) -> Result<()> {
        let parsed: Config = toml::from_str(&file.text).map_err(|error| mistake(file, &error))?;
        let spans = DeTable::parse(&file.text).map_err(|error| mistake(file, &error))?;
        let values: toml::Table =
            toml::from_str(&file.text).map_err(|error| mistake(file, &error))?;
        let mut lines = BTreeMap::new();
        lines_of(file, String::new(), spans.get_ref(), &mut lines);
        let fixed = self.fixed.clone();
        let by = |key: &str| {
            let holds = |fixed: &str| {
                key == fixed
                    || key
                        .strip_prefix(fixed)
                        .is_some_and(|rest| rest.starts_with('.'))
            };
            fixed
                .iter()
                .find(|(fixed, _)| holds(fixed))
                .map(|(_, file)| file.clone())
        };
        let is_user = matches!(origin(String::new(), 0), Origin::UserFile { .. });
        let mut leaves = Vec::new();
        leaves_of(String::new(), &[], values, &mut leaves);
        for (key, path, value) in leaves {
            let line = lines.get(&key).copied().unwrap_or(1);
            if is_user && (key == "final" || key == "user_file") {
                self.warnings.push(format!(
                    "`{key}` in `{}:{line}` has no effect: only a site file can set it",
                    file.path
                ));
            } else if let Some(by) = by(&key) {
                self.warnings.push(format!(
                    "`{key}` in `{}:{line}` has no effect: `{by}` fixes it",
                    file.path
                ));
            } else if key == "final" {
                // Fixed keys add up: a later site file cannot set one free.
                for name in &parsed.fixed {
                    self.fixed.push((name.clone(), file.path.clone()));
                }
                let all = self
                    .fixed
                    .iter()
                    .map(|(name, _)| toml::Value::String(name.clone()));
                self.table
                    .insert(key.clone(), toml::Value::Array(all.collect()));
                self.origins.insert(key, origin(file.path.clone(), line));
            } else {
                put(&mut self.table, &path, value);
                self.origins.insert(key, origin(file.path.clone(), line));
            }
        }
        Ok(())
    }

    fn give(&mut self, one: &Given) -> Result<()> {
        let section = one.key.split('.').next().unwrap_or_default();
        if let Some((_, file)) = self
            .fixed
            .iter()
            .find(|(fixed, _)| fixed == one.key || fixed == section)
        {
            return Err(
                Error::usage(format!("cannot set `{}` by {}", one.key, one.origin))
                    .cause(format!("the site fixes it in `{file}`")),
            );
        }
        let path: Vec<String> = one.key.split('.').map(String::from).collect();
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
            toml::Value::Table(inner) => leaves_of(key, &path, inner, out),
            value => out.push((key, path, value)),
        }
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
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.into(),
            text: text.into(),
        }
    }

    const SITE: &str = "final = [\"registries.allow\", \"conversion\"]\n[registries]\nallow = [\"ghcr.io\"]\n\
        rewrites = { \"git.site/x\" = \"git.site:5050/x\" }\n[store]\npath = \"/scratch/$USER/c\"\n";

    #[test]
    fn later_sources_win_and_are_remembered() {
        let user = "[store]\nread_only = [\"/sw/images\"]\n[registries]\nrewrites.\"a\" = \"b\"\n";
        let given = Given {
            key: "store.path",
            value: "/mine".into(),
            origin: Origin::Variable("CARRACK_STORE"),
        };
        let settings = merge(
            &[file("/etc/c.toml", SITE)],
            &[file("~/c.toml", user)],
            &[given],
        )
        .unwrap();
        assert_eq!(settings.config.store.path.as_deref(), Some("/mine"));
        assert_eq!(settings.config.registries.rewrites.len(), 2);
        for (key, want) in [
            ("store.path", "variable CARRACK_STORE"),
            ("store.read_only", "user file ~/c.toml:2"),
            ("registries.allow", "site file /etc/c.toml:3"),
            (
                "registries.rewrites.\"git.site/x\"",
                "site file /etc/c.toml:4",
            ),
            ("registries.rewrites.a", "user file ~/c.toml:4"),
            ("conversion.level", "default"),
        ] {
            assert_eq!(settings.origin(key).to_string(), want, "{key}");
        }
        assert_eq!(settings.warnings, [""; 0]);
    }

    #[test]
    fn fixed_keys_keep_the_sites_value() {
        let user = "final = []\n[registries]\nallow = []\n[conversion]\nlevel = 19\n";
        let settings = merge(&[file("/etc/c.toml", SITE)], &[file("~/c.toml", user)], &[]).unwrap();
        assert_eq!(settings.config.registries.allow, ["ghcr.io"]);
        assert_eq!(settings.config.conversion.level, 3);
        assert_eq!(settings.warnings.len(), 3, "{:?}", settings.warnings);
        assert!(settings.warnings.iter().any(|text| {
            text.contains(
                "`conversion.level` in `~/c.toml:5` has no effect: `/etc/c.toml` fixes it",
            )
        }));
        // A second site file cannot set a key free either.
        let second = file("/opt/c.toml", "final = []\n[conversion]\nlevel = 9\n");
        let settings = merge(&[file("/etc/c.toml", SITE), second], &[], &[]).unwrap();
        assert_eq!(settings.config.conversion.level, 3);
        let given = Given {
            key: "conversion.level",
            value: "5".into(),
            origin: Origin::Option("--level"),
        };
        let told = merge(&[file("/etc/c.toml", SITE)], &[], &[given])
            .unwrap_err()
            .to_string();
        assert!(
            told.contains("cannot set `conversion.level` by option --level")
                && told.contains("/etc/c.toml"),
            "{told}"
        );
    }

    #[test]
    fn users_file_can_be_switched_off() {
        let settings = merge(
            &[file("s", "user_file = false")],
            &[file("u", "nonsense = 1")],
            &[],
        )
        .unwrap();
        assert!(!settings.config.user_file);
    }

    #[test]
    fn numbers_may_come_from_variables() {
        let given = |value: &str| Given {
            key: "conversion.threads",
            value: value.into(),
            origin: Origin::Variable("CARRACK_THREADS"),
        };
        assert_eq!(
            merge(&[], &[], &[given("2")])
                .unwrap()
                .config
                .conversion
                .threads,
            2
        );
        let told = merge(&[], &[], &[given("two")]).unwrap_err().to_string();
        assert!(
            told.contains("cannot set `conversion.threads` to `two` by variable CARRACK_THREADS"),
            "{told}"
        );
    }

    #[test]
    fn flat_lists_every_key_once() {
        let flat = merge(&[], &[], &[]).unwrap().flat();
        let keys: Vec<&str> = flat.iter().map(|(key, _)| key.as_str()).collect();
        for key in [
            "final",
            "store.path",
            "registries.default",
            "conversion.level",
            "pull.compute_nodes",
        ] {
            assert!(keys.contains(&key), "{keys:?}");
        }
    }
}
