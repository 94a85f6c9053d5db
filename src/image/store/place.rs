//! Where the store is. Pure: the environment comes in as a function.

use crate::config::{self, Origin, Sharing, expand};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// The directories and habits of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub root: PathBuf,
    /// Converted layers; may be outside the root.
    pub packs: PathBuf,
    /// Searched before the root, never written.
    pub read_only: Vec<PathBuf>,
    pub sharing: Sharing,
    pub stripe_count: i32,
    /// Bytes that the packs may take.
    pub packs_limit: u64,
}

impl Place {
    /// The store at `root` with default habits.
    pub fn at(root: impl Into<PathBuf>) -> Place {
        let root = root.into();
        let defaults = config::Store::default();
        Place {
            packs: root.join("packs"),
            root,
            read_only: Vec::new(),
            sharing: defaults.sharing,
            stripe_count: defaults.stripe_count,
            packs_limit: defaults.cache_size.0,
        }
    }

    /// The store that the settings choose; without a setting `$SCRATCH/.carrack`, else `~/.local/share/carrack`.
    pub fn choose(
        settings: &config::Settings,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Place> {
        let absolute = |key, path: &str| absolute(key, path, settings.origin(key), variable);
        let settings = &settings.config.store;
        let set = |name: &str| variable(name).filter(|value| value.starts_with('/'));
        let root = match &settings.path {
            Some(path) => absolute("store.path", path)?,
            None => match (set("SCRATCH"), set("XDG_DATA_HOME"), set("HOME")) {
                (Some(scratch), _, _) => PathBuf::from(scratch).join(".carrack"),
                (None, Some(data), _) => PathBuf::from(data).join("carrack"),
                (None, None, Some(home)) => PathBuf::from(home).join(".local/share/carrack"),
                (None, None, None) => {
                    return Err(Error::new("cannot tell where images are kept")
                        .cause("neither `$SCRATCH` nor `$HOME` is set")
                        .hint("set `CARRACK_STORE`, or `store.path` in the settings"));
                }
            },
        };
        let packs = match &settings.cache {
            Some(path) => absolute("store.cache", path)?,
            None => root.join("packs"),
        };
        let read_only: Result<Vec<PathBuf>> = settings
            .read_only
            .iter()
            .map(|path| absolute("store.read_only", path))
            .collect();
        Ok(Place {
            read_only: read_only?
                .into_iter()
                .filter(|path| *path != root)
                .collect(),
            root,
            packs,
            sharing: settings.sharing,
            stripe_count: settings.stripe_count,
            packs_limit: settings.cache_size.0,
        })
    }
}

fn absolute(
    key: &str,
    path: &str,
    origin: &Origin,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<PathBuf> {
    let expanded =
        PathBuf::from(expand(path, variable).map_err(|error| {
            error.hint(format!("the setting is `{key}`, from {}", origin.place()))
        })?);
    if expanded.is_absolute() {
        return Ok(expanded);
    }
    // Made absolute here, it would be another directory in each job that inherits the variable.
    Err(Error::usage(format!("`{key}` is not an absolute path"))
        .cause(format!("`{}`, from {}", expanded.display(), origin.place()))
        .hint(match origin {
            Origin::Variable(name) => format!("write it whole: `{name}=$PWD/{path}`"),
            _ => "write it from `/` on; `~` and `$NAME` are expanded".to_string(),
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_then_scratch_then_home() {
        let places = [
            (
                None,
                &[("HOME", "/h"), ("SCRATCH", "/s")][..],
                Some("/s/.carrack"),
            ),
            (None, &[("HOME", "/h")], Some("/h/.local/share/carrack")),
            (
                None,
                &[("HOME", "/h"), ("XDG_DATA_HOME", "/d")],
                Some("/d/carrack"),
            ),
            (
                None,
                &[("HOME", "/h"), ("SCRATCH", "")],
                Some("/h/.local/share/carrack"),
            ),
            (
                Some("/x/$USER"),
                &[("HOME", "/h"), ("USER", "al")],
                Some("/x/al"),
            ),
            (Some("/x/$USER"), &[("HOME", "/h")], None),
            (Some("relative"), &[("HOME", "/h")], None),
            (None, &[], None),
        ];
        for (path, environment, want) in places {
            let mut settings = config::merge(&[], &[], &[]).unwrap();
            settings.config.store.path = path.map(String::from);
            settings.config.store.read_only = vec!["/sw/images".into()];
            let variable = |name: &str| {
                let found = environment.iter().find(|(key, _)| *key == name)?;
                Some(found.1.to_string())
            };
            let place = Place::choose(&settings, &variable).ok();
            assert_eq!(
                place.as_ref().map(|place| place.root.as_path()),
                want.map(std::path::Path::new)
            );
            if let Some(place) = place {
                assert_eq!(place.packs, place.root.join("packs"));
                assert_eq!(place.read_only, [PathBuf::from("/sw/images")]);
            }
        }
    }
    #[test]
    fn a_path_that_depends_on_where_one_is_is_refused_with_its_origin() {
        let site = config::File {
            path: "/etc/c.toml".into(),
            text: "[store]\ncache = \"packs\"\n".into(),
        };
        let given = |key, name, value: &str| config::Given {
            key,
            value: value.into(),
            origin: Origin::Variable(name),
        };
        for (given, cause, hint) in [
            (
                given("store.path", "CARRACK_STORE", "rel"),
                "`rel`, from variable CARRACK_STORE",
                "write it whole: `CARRACK_STORE=$PWD/rel`",
            ),
            (
                given("store.path", "CARRACK_STORE", "/s"),
                "`packs`, from /etc/c.toml:2",
                "write it from `/` on; `~` and `$NAME` are expanded",
            ),
            (
                given("store.path", "CARRACK_STORE", "/s/$NOPE"),
                "`$NOPE` is not set",
                "the setting is `store.path`, from variable CARRACK_STORE",
            ),
        ] {
            let settings = config::merge(std::slice::from_ref(&site), &[], &[given]).unwrap();
            let told = Place::choose(&settings, &|_| None).unwrap_err();
            assert_eq!(told.causes(), [cause]);
            assert_eq!(told.hints(), [hint]);
        }
    }
}
