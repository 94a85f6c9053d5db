//! Environment files (EDF): the keys of a `[container]` table in a file of their own, with files below them.
//!
//! Reading files is the caller's: [`load`] asks for texts by name. Deliberately absent: what the keys mean, and the
//! search for a name in directories (see [`place`]). Keys that nobody knows are accepted here, as the format demands.

use crate::document::{self, Mistake, Pair, Result, Value};

/// How deep `base_environment` may go; deeper is a circle.
const DEEPEST: usize = 10;

/// A file and all files below it as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// All keys but `base_environment` and `annotations`, with variables expanded.
    pub pairs: Vec<Pair>,
    /// Flattened with dots: `com.hooks.cxi.enabled` = `true`.
    pub annotations: Vec<(String, String)>,
}

/// Where an environment is, by the word that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    File(&'a str),
    /// `NAME.toml` in one of the directories of the search path.
    Named(&'a str),
}

pub fn place(word: &str) -> Place<'_> {
    if word.starts_with(['.', '/']) || word.ends_with(".toml") {
        Place::File(word)
    } else {
        Place::Named(word)
    }
}

/// The directories for names: `EDF_PATH`, else `~/.edf`; then the site's.
pub fn search_path(edf_path: Option<&str>, home: Option<&str>, site: &str) -> Vec<String> {
    let own = match (edf_path.filter(|path| !path.is_empty()), home) {
        (Some(path), _) => path.to_string(),
        (None, Some(home)) => format!("{home}/.edf"),
        (None, None) => String::new(),
    };
    let absolute = |dir: &&str| dir.starts_with('/');
    own.split(':')
        .chain(site.split(':'))
        .filter(absolute)
        .map(str::to_string)
        .collect()
}

/// Reads an environment. `text` gives a file's text by the word that names it; `variable` the caller's variables.
pub fn load<E: From<Mistake>>(
    word: &str,
    text: &mut dyn FnMut(&str) -> std::result::Result<String, E>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> std::result::Result<Environment, E> {
    load_below(word, text, variable, 0)
}

fn load_below<E: From<Mistake>>(
    word: &str,
    text: &mut dyn FnMut(&str) -> std::result::Result<String, E>,
    variable: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> std::result::Result<Environment, E> {
    if depth >= DEEPEST {
        return Err(Mistake::new(
            0,
            format!("environment `{word}` is more than {DEEPEST} files deep"),
        )
        .hint("look for a circle of `base_environment`")
        .into());
    }
    let pairs = document::parse(&text(word)?)?;
    let mut merged = Environment::default();
    for pair in pairs.iter().filter(|pair| pair.name == "base_environment") {
        for base in pair.texts()?.iter().filter(|base| !base.is_empty()) {
            merged.put(load_below(base, text, variable, depth + 1)?);
        }
    }
    let mut own = Environment::default();
    for pair in pairs {
        match pair.name.as_str() {
            "base_environment" => {}
            "annotations" => flatten_annotations("", pair.table()?, &mut own.annotations),
            _ => own.pairs.push(Pair {
                value: expand_value(&pair.value, pair.line, variable)?,
                ..pair
            }),
        }
    }
    merged.put(own);
    Ok(merged)
}

impl Environment {
    /// Puts another one on top: lists grow, tables merge by key, all else is replaced.
    fn put(&mut self, above: Environment) {
        for pair in above.pairs {
            put(&mut self.pairs, pair);
        }
        for (name, value) in above.annotations {
            self.annotations.retain(|(known, _)| *known != name);
            self.annotations.push((name, value));
        }
    }
}

/// One table on top of another: lists grow, tables merge by key, all else is replaced.
pub fn merge(below: &[Pair], above: &[Pair]) -> Vec<Pair> {
    let mut merged = below.to_vec();
    for pair in above {
        put(&mut merged, pair.clone());
    }
    merged
}

fn put(pairs: &mut Vec<Pair>, above: Pair) {
    let Some(below) = pairs.iter_mut().find(|pair| pair.name == above.name) else {
        pairs.push(above);
        return;
    };
    match (&mut below.value, above.value) {
        (Value::List(below), Value::List(above)) => {
            for value in above {
                if !below.contains(&value) {
                    below.push(value);
                }
            }
        }
        (Value::Table(below), Value::Table(above)) => {
            for pair in above {
                put(below, pair);
            }
        }
        (below, above) => *below = above,
    }
}

fn flatten_annotations(prefix: &str, pairs: &[Pair], into: &mut Vec<(String, String)>) {
    for pair in pairs {
        let name = if prefix.is_empty() {
            pair.name.clone()
        } else {
            format!("{prefix}.{}", pair.name)
        };
        match &pair.value {
            Value::Table(inner) => flatten_annotations(&name, inner, into),
            Value::List(values) => {
                let texts: Vec<String> = values.iter().filter_map(Value::scalar).collect();
                into.push((name, texts.join(",")));
            }
            value => into.push((name, value.scalar().unwrap_or_default())),
        }
    }
}

fn expand_value(
    value: &Value,
    line: usize,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Value> {
    Ok(match value {
        Value::Text(text) => Value::Text(expand(text, line, variable)?),
        Value::List(values) => Value::List(
            values
                .iter()
                .map(|value| expand_value(value, line, variable))
                .collect::<Result<_>>()?,
        ),
        Value::Table(pairs) => Value::Table(
            pairs
                .iter()
                .map(|pair| {
                    Ok(Pair {
                        name: pair.name.clone(),
                        value: expand_value(&pair.value, pair.line, variable)?,
                        line: pair.line,
                    })
                })
                .collect::<Result<_>>()?,
        ),
        Value::Flag(_) | Value::Number(_) => value.clone(),
    })
}

/// Replaces `${NAME}` and `${NAME:-default}`; `$$` is a dollar and so is any other. An unknown variable is a mistake.
pub fn expand(
    text: &str,
    line: usize,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, reference) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = reference.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((inner, after)) = reference
            .strip_prefix("${")
            .and_then(|inner| inner.split_once('}'))
        {
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            let value = variable(name).filter(|value| default.is_none() || !value.is_empty());
            match (value, default) {
                (Some(value), _) => out.push_str(&value),
                (None, Some(default)) => out.push_str(default),
                (None, None) => {
                    return Err(Mistake::new(line, format!("`${{{name}}}` is not set"))
                        .hint(format!("set it before submitting, or write `${{{name}:-}}` if it may be missing")));
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = reference.get(1..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The keys of a `[container]` table or an EDF as single options: lists one by one, variables as `env` and `unset_env`.
///
/// A list that is empty gives nothing.
pub fn options(pairs: &[Pair]) -> Result<Vec<(String, String, usize)>> {
    let mut found = Vec::new();
    for pair in pairs {
        match (&pair.value, pair.name.as_str()) {
            (_, "annotations") => {}
            (Value::Table(variables), "env") => {
                for variable in variables {
                    let value = variable.text()?;
                    found.push(if value.is_empty() {
                        (
                            "unset_env".to_string(),
                            variable.name.clone(),
                            variable.line,
                        )
                    } else {
                        (
                            "env".to_string(),
                            format!("{}={value}", variable.name),
                            variable.line,
                        )
                    });
                }
            }
            (Value::List(_), _) => {
                found.extend(
                    pair.texts()?
                        .into_iter()
                        .map(|text| (pair.name.clone(), text, pair.line)),
                );
            }
            _ => found.push((pair.name.clone(), pair.text()?, pair.line)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Environment> {
        load(
            files[0].0,
            &mut |word| {
                let found = files.iter().find(|(name, _)| *name == word);
                found
                    .map(|(_, text)| text.to_string())
                    .ok_or_else(|| Mistake::new(0, format!("no `{word}`")))
            },
            &|name| match name {
                "SCRATCH" => Some("/scratch/alice".to_string()),
                "EMPTY" => Some(String::new()),
                _ => None,
            },
        )
    }

    fn flat(environment: &Environment) -> Vec<(String, String)> {
        let options = options(&environment.pairs).expect("options");
        options
            .into_iter()
            .map(|(name, value, _)| (name, value))
            .collect()
    }

    #[test]
    fn files_below_are_merged_in_order() {
        let environment = read(&[
            (
                "top",
                "base_environment = ['cuda', 'site']\nimage = 'ngc#top'\nmounts = ['/a:/a', '${SCRATCH}:/s:ro+rbind']\n\
                 [env]\nA = '1'\nGONE = ''\n[annotations.com.hooks]\ncxi.enabled = true\n",
            ),
            ("cuda", "image = 'cuda'\nworkdir = '/w'\nmounts = ['/c']\n[env]\nA = '0'\nB = '2'\n[annotations]\ncom.hooks.cxi.enabled = 'false'\nx = 3\n"),
            ("site", "mounts = ['/a:/a']\nwritable = false\n"),
        ])
        .expect("it loads");
        let expected = [
            ("image", "ngc#top"),
            ("workdir", "/w"),
            ("mounts", "/c"),
            ("mounts", "/a:/a"),
            ("mounts", "/scratch/alice:/s:ro+rbind"),
            ("env", "A=1"),
            ("env", "B=2"),
            ("unset_env", "GONE"),
            ("writable", "false"),
        ];
        assert_eq!(
            flat(&environment),
            expected.map(|(name, value)| (name.to_string(), value.to_string()))
        );
        assert_eq!(
            environment.annotations,
            [("x", "3"), ("com.hooks.cxi.enabled", "true")]
                .map(|(name, value)| (name.to_string(), value.to_string()))
        );
    }

    #[test]
    fn variables() {
        let variable = |name: &str| (name == "A").then(|| "a".to_string());
        let rows = [
            ("${A}/$$A/$A/$", Ok("a/$A/$A/$")),
            ("${B:-}x${B:-d}${A:-d}", Ok("xda")),
            ("${B}", Err("line 3: `${B}` is not set")),
            ("${", Ok("${")),
            ("$(rm)", Ok("$(rm)")),
        ];
        for (text, expected) in rows {
            let found = expand(text, 3, &variable);
            assert_eq!(
                found.as_deref().map_err(ToString::to_string),
                expected.map_err(str::to_string),
                "{text}"
            );
        }
    }

    #[test]
    fn circles_and_missing_files_are_told() {
        let circle = read(&[("a", "base_environment = 'a'")]).expect_err("a circle");
        assert_eq!(circle.what, "environment `a` is more than 10 files deep");
        assert_eq!(
            read(&[("a", "base_environment = 'b'")])
                .expect_err("missing")
                .what,
            "no `b`"
        );
        assert!(read(&[("a", "image = 'x'\nother_key = [1]\n")]).is_ok());
    }

    #[test]
    fn names_and_files() {
        let rows = [
            ("./x", Place::File("./x")),
            ("/x/y", Place::File("/x/y")),
            ("x.toml", Place::File("x.toml")),
            ("ngc-25", Place::Named("ngc-25")),
        ];
        for (word, expected) in rows {
            assert_eq!(place(word), expected);
        }
        assert_eq!(
            search_path(None, Some("/h"), "/etc/edf:rel"),
            ["/h/.edf", "/etc/edf"]
        );
        assert_eq!(
            search_path(Some("/a:/b"), Some("/h"), "/etc/edf"),
            ["/a", "/b", "/etc/edf"]
        );
    }
}
