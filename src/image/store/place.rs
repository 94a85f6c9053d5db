//! Where the store is. Pure: the environment comes in as a function.

use crate::config::{self, Sharing, expand};
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
        settings: &config::Store,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Place> {
        let set = |name: &str| variable(name).filter(|value| value.starts_with('/'));
        let root = match &settings.path {
            Some(path) => absolute("store.path", path, variable)?,
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
            Some(path) => absolute("store.cache", path, variable)?,
            None => root.join("packs"),
        };
        let read_only: Result<Vec<PathBuf>> = settings
            .read_only
            .iter()
            .map(|path| absolute("store.read_only", path, variable))
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

fn absolute(key: &str, path: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let expanded = PathBuf::from(
        expand(path, variable).map_err(|error| error.hint(format!("the setting is `{key}`")))?,
    );
    if expanded.is_absolute() {
        Ok(expanded)
    } else {
        Err(Error::usage(format!("`{key}` is not an absolute path")).cause(expanded.display()))
    }
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
            let settings = config::Store {
                path: path.map(String::from),
                read_only: vec!["/sw/images".into()],
                ..Default::default()
            };
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
}
