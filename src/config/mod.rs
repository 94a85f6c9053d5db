//! The settings: what the site file, the user's file, the environment and the command line decide.
//!
//! Later sources win: built-in defaults, `/etc/carrack/carrack.toml`, `etc/carrack.toml` beside the binary's `bin`, the
//! project's file, the user's (`$CARRACK_CONFIG`, else `~/.config/carrack/carrack.toml`), variables, options. A key that a
//! site file names in `final` (or a whole section) keeps the site's value, and who asks for another is refused. A site file
//! that somebody else could have written ([`trusted`]), or that has a mistake, stops everything: nothing falls back to
//! weaker rules. One section is one struct in its own file; its fields are the keys, their defaults the documentation of
//! `config show`. This module reads strings; [`load`](mod@load) reads files.
//! What is absent: power over people who run another program. Only Slurm and file permissions have that (`slurm/site/`).

mod bundle;
mod conversion;
mod launch;
mod layers;
pub mod load;
mod nearest;
mod pull;
mod registries;
mod site;
mod store;
pub mod trusted;
mod units;

pub use bundle::Bundle;
pub use conversion::{Conversion, check_block_size, check_level};
pub use launch::{Launch, PROFILES, Rules};
pub use layers::{File, Given, Origin, Settings, Sources, covers, lay, merge};
pub use load::load;
pub use nearest::nearest;
pub use pull::Pull;
pub use registries::Registries;
pub use site::{Access, DataAccess, Flavor, Hooks, Projects, Records, Require, Trust};
pub use store::{Sharing, Store, expand};
pub use units::{Age, Size};

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that can be set in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Keys or sections that a later source cannot change, e.g. `["registries.allow", "store"]`.
    #[serde(rename = "final")]
    pub fixed: Vec<String>,
    /// Whether users' own files are read at all.
    pub user_file: bool,
    pub store: Store,
    pub registries: Registries,
    pub pull: Pull,
    pub conversion: Conversion,
    pub launch: Launch,
    /// Rules by profile name.
    pub profile: BTreeMap<String, Rules>,
    /// What the site's fabric and software need, by name.
    pub bundle: BTreeMap<String, Bundle>,
    pub access: Access,
    pub trust: Trust,
    pub hooks: Hooks,
    pub records: Records,
    pub projects: Projects,
    /// Resources by name.
    pub flavor: BTreeMap<String, Flavor>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            fixed: Vec::new(),
            user_file: true,
            store: Store::default(),
            registries: Registries::default(),
            pull: Pull::default(),
            conversion: Conversion::default(),
            launch: Launch::default(),
            profile: BTreeMap::new(),
            bundle: BTreeMap::new(),
            access: Access::default(),
            trust: Trust::default(),
            hooks: Hooks::default(),
            records: Records::default(),
            projects: Projects::default(),
            flavor: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the text of one file; keys that it does not name have their defaults.
    pub fn parse(text: &str) -> Result<Config> {
        let file = File {
            path: "settings".into(),
            text: text.into(),
        };
        Ok(merge(&[file], &[], &[])?.config)
    }
}

/// A file's mistake with its line and, for a misspelt key, the nearest known one.
fn mistake(file: &File, error: &toml::de::Error) -> Error {
    let line = error.span().map_or(1, |span| file.line_at(span.start));
    let message = error.message();
    let mut told = Error::usage(format!(
        "cannot read the settings in `{}:{line}`",
        file.path
    ));
    let mut names = message.split('`').skip(1).step_by(2);
    if let (true, Some(wrong)) = (message.starts_with("unknown field"), names.next()) {
        let known: Vec<&str> = names.collect();
        told = told.cause(format!("unknown key `{wrong}`"));
        return match nearest(wrong, known.iter().copied()) {
            Some(name) => told.hint(format!("did you mean `{name}`?")),
            None => told.hint(format!("known keys here: {}", known.join(", "))),
        };
    }
    told = told.cause(message);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_text_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_name_line_and_nearest_key() {
        for (text, want) in [
            (
                "\n[store]\npaht = \"/x\"\n",
                &["settings:3`", "unknown key `paht`", "did you mean `path`?"][..],
            ),
            ("[stor]\n", &["settings:1`", "did you mean `store`?"]),
            ("[store]\nzzzzzz = 1\n", &["known keys here: path"]),
            ("[store]\npath = 3\n", &["settings:2`", "expected a string"]),
            ("[conversion]\nlevel = 99\n", &["settings:2`", "1 to 22"]),
            (
                "[conversion]\nblock_size = \"100K\"\n",
                &["settings:2`", "power of two"],
            ),
            ("[store\n", &["settings:1`"]),
            (
                "[store]\nsharing = \"everyone\"\n",
                &["settings:2`", "private"],
            ),
            (
                "[store]\ncache_size = \"12 apples\"\n",
                &["settings:2`", "12 apples"],
            ),
        ] {
            let told = Config::parse(text).unwrap_err().to_string();
            for part in want {
                assert!(told.contains(part), "{text:?} gave {told}");
            }
        }
    }
}
