//! Profiles: what a request leaves open, and what it may not ask for.
//!
//! The systems that carrack serves contradict each other (who one is inside, whether the home is there), so there is one
//! engine and a set of rules for each. A site changes rules key by key; a key that it marks final cannot be overridden by
//! an option. What this cannot do: stop a person from running another tool.

use super::environment::Addition;
use super::inside::InsidePath;
use super::mounts::{MountSpec, parse_size};
use super::options::{OPTIONS, id_choice};
use super::request::{Dev, Gpu, IdChoice, Inherit, NetworkChoice, Request, RootAccess, Tmp};
use crate::config::{Config, Rules, nearest};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::ffi::OsStr;

/// How deep profiles may be based on one another; deeper is a circle.
const MAX_DEPTH: usize = 8;

/// The rules in force, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    pub binds: Vec<MountSpec>,
    pub user_binds: bool,
    /// Empty: from anywhere.
    pub user_bind_paths: Vec<InsidePath>,
    pub home: bool,
    pub cwd: bool,
    pub tmp: Tmp,
    pub root: RootAccess,
    pub id: IdChoice,
    pub network: NetworkChoice,
    pub gpu: Gpu,
    pub dev: Dev,
    pub inherit: Inherit,
    pub interactive: bool,
    pub additions: Vec<Addition>,
    deny: BTreeSet<String>,
}

impl Profile {
    /// The rules for a request: its profile, or the site's.
    pub fn choose(config: &Config, request: &Request) -> Result<Profile> {
        let name = match &request.profile {
            Some(name) if *name != config.launch.profile && !config.launch.choose_profile => {
                return Err(policy(&format!("the profile `{name}`")).cause(format!(
                    "the site uses `{}` for everybody",
                    config.launch.profile
                )));
            }
            Some(name) => name,
            None => &config.launch.profile,
        };
        let mut rules = Rules::default();
        collect(config, name, 0, &mut rules)?;
        Profile::complete(name, rules)
            .map_err(|error| error.while_doing(format!("cannot use the profile `{name}`")))
    }

    fn complete(name: &str, rules: Rules) -> Result<Profile> {
        let wrong = |key: &str, value: &str| {
            Error::usage(format!("`{value}` is not a value for `{key}`"))
                .hint(format!("correct `[profile.{name}]` in the site file"))
        };
        let text = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.into());
        let tmp = text(rules.tmp, "host");
        let writable = text(rules.writable, "false");
        let id = text(rules.id, "keep");
        let network = text(rules.network, "host");
        let gpu = text(rules.gpu, "auto");
        let dev = text(rules.dev, "full");
        let mut additions: Vec<Addition> = Vec::new();
        additions.extend(rules.env_unset.into_iter().flatten().map(Addition::Unset));
        let pairs = |table: Option<std::collections::BTreeMap<String, String>>| {
            table
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.into(), v.into()))
        };
        additions.extend(pairs(rules.env).map(|(k, v)| Addition::Set(k, v)));
        additions.extend(pairs(rules.env_prepend).map(|(k, v)| Addition::Prepend(k, v)));
        additions.extend(pairs(rules.env_append).map(|(k, v)| Addition::Append(k, v)));
        let binds = rules.binds.unwrap_or_default();
        let paths = rules.user_bind_paths.unwrap_or_default();
        Ok(Profile {
            name: name.to_string(),
            binds: binds
                .iter()
                .map(|word| MountSpec::parse(OsStr::new(word)))
                .collect::<Result<_>>()?,
            user_binds: rules.user_binds.unwrap_or(true),
            user_bind_paths: paths.iter().map(InsidePath::new).collect::<Result<_>>()?,
            home: rules.home.unwrap_or(true),
            cwd: rules.cwd.unwrap_or(true),
            tmp: match tmp.as_str() {
                "host" => Tmp::Host,
                "private" => Tmp::Private,
                _ => return Err(wrong("tmp", &tmp)),
            },
            root: match writable.as_str() {
                "false" => RootAccess::ReadOnly,
                "true" => RootAccess::Writable { size: None },
                size => RootAccess::Writable {
                    size: Some(parse_size(size).map_err(|_| wrong("writable", size))?),
                },
            },
            id: id_choice(&id)?,
            network: match network.as_str() {
                "host" => NetworkChoice::Host,
                "none" => NetworkChoice::None,
                _ => return Err(wrong("network", &network)),
            },
            gpu: match gpu.as_str() {
                "auto" => Gpu::Auto,
                "none" => Gpu::None,
                "all" => Gpu::All,
                _ => return Err(wrong("gpu", &gpu)),
            },
            dev: match dev.as_str() {
                "full" => Dev::Full,
                "minimal" => Dev::Minimal,
                _ => return Err(wrong("dev", &dev)),
            },
            inherit: match rules.environment {
                Some(false) => Inherit::Clean,
                _ => Inherit::Pass,
            },
            interactive: rules.interactive.unwrap_or(true),
            additions,
            deny: rules.deny.into_iter().flatten().collect(),
        })
    }

    /// Refuses what the site does not leave to the user.
    pub fn check(&self, config: &Config, request: &Request) -> Result<()> {
        for (option, origin) in &request.set_by {
            let Some(spec) = OPTIONS.iter().find(|spec| spec.name == *option) else {
                continue;
            };
            let denied = self.deny.contains(*option);
            let fixed = rule_of(option).is_some_and(|key| {
                let dotted = format!("profile.{}.{key}", self.name);
                config.fixed.iter().any(|fixed| covers(fixed, &dotted))
            });
            if denied || fixed {
                return Err(policy(&origin.spell(spec))
                    .cause(format!("the site fixed it in the profile `{}`", self.name)));
            }
        }
        if !self.user_binds
            && let Some(origin) = ["bind", "mount"].iter().find_map(|o| request.set_by.get(o))
        {
            return Err(policy("a mount of your own").cause(format!(
                "the profile `{}` allows none (`user_binds`); it was given by {origin}",
                self.name
            )));
        }
        Ok(())
    }
}

/// The rule that an option would override.
fn rule_of(option: &str) -> Option<&str> {
    Some(match option {
        "home" | "tmp" | "writable" | "id" | "network" | "gpu" | "dev" => option,
        "remap-root" => "id",
        "unshare" => "network",
        "clean-env" => "environment",
        "bind" | "mount" => "user_binds",
        _ => return None,
    })
}

/// Whether a `final` entry names the key or a section that it is in.
fn covers(fixed: &str, key: &str) -> bool {
    key.strip_prefix(fixed)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn policy(what: &str) -> Error {
    Error::usage(format!("{what} is not allowed here"))
        .hint("`carrack config show` prints the site's settings; ask the site's administrators")
}

/// Lays a profile over what it is based on; what is already set in `rules` is nearer and stays.
fn collect(config: &Config, name: &str, depth: usize, rules: &mut Rules) -> Result<()> {
    let site = config.profile.get(name);
    let built_in = built_in(name);
    if site.is_none() && built_in.is_none() {
        let known = BUILT_IN
            .iter()
            .copied()
            .chain(config.profile.keys().map(String::as_str));
        let error = Error::usage(format!("unknown profile `{name}`"));
        return Err(match nearest(name, known.clone()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("known: {}", known.collect::<Vec<_>>().join(", "))),
        });
    }
    if depth > MAX_DEPTH {
        return Err(Error::usage(format!("profile `{name}` is based on itself")));
    }
    let base = site.and_then(|rules| rules.base.clone());
    for layer in [site.cloned(), built_in].into_iter().flatten() {
        fill(rules, layer);
    }
    match base {
        Some(base) if base != name => collect(config, &base, depth + 1, rules),
        _ => Ok(()),
    }
}

fn fill(rules: &mut Rules, layer: Rules) {
    macro_rules! fill {
        ($($field:ident)*) => { $(if rules.$field.is_none() { rules.$field = layer.$field; })* };
    }
    fill!(binds user_binds user_bind_paths home cwd tmp writable id network gpu dev environment interactive env env_unset
          env_prepend env_append deny);
}

const BUILT_IN: [&str; 4] = ["hpc", "ces", "eucaim", "gef"];

fn built_in(name: &str) -> Option<Rules> {
    let shut = Rules {
        home: Some(false),
        cwd: Some(false),
        tmp: Some("private".into()),
        writable: Some("true".into()),
        environment: Some(false),
        ..Rules::default()
    };
    Some(match name {
        // Everything as on the node: what MPI and GPU programs expect.
        "hpc" => Rules::default(),
        // Safe haven: data in and out through given directories only, no network, nobody looks in.
        "ces" => Rules {
            id: Some("root".into()),
            network: Some("none".into()),
            interactive: Some(false),
            ..shut
        },
        // Always the user 1000 that the images are made for, whatever they say.
        "eucaim" => Rules {
            id: Some("1000:1000".into()),
            network: Some("none".into()),
            user_binds: Some(false),
            ..shut
        },
        // As docker would run it.
        "gef" => Rules {
            id: Some("image".into()),
            user_binds: Some(false),
            ..shut
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::options::apply;
    use super::super::request::Origin;
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    fn request(pairs: &[(&str, &str)]) -> Request {
        let mut request = Request::default();
        let pairs = pairs.iter().map(|(name, value)| (*name, value.into()));
        apply(&mut request, &Origin::Flag, pairs).unwrap();
        request
    }

    #[test]
    fn site_changes_and_new_profiles() {
        let config = config(
            "[profile.hpc]\ntmp = \"private\"\nbinds = [\"/work\"]\n\
             [profile.ml]\nbase = \"hpc\"\ngpu = \"all\"\n[profile.round]\nbase = \"robin\"\n\
             [profile.robin]\nbase = \"round\"\n[profile.broken]\nid = \"ds\"\n",
        );
        let get = |name: &str| Profile::choose(&config, &request(&[("profile", name)]));
        let ml = get("ml").unwrap();
        assert_eq!(
            (ml.tmp, ml.gpu, ml.binds.len(), ml.home),
            (Tmp::Private, Gpu::All, 1, true)
        );
        let ces = get("ces").unwrap();
        assert_eq!(
            (ces.id, ces.network, ces.home),
            (IdChoice::Root, NetworkChoice::None, false)
        );
        for (name, part) in [
            ("mll", "did you mean `ml`?"),
            ("round", "is based on itself"),
            ("broken", "cannot appear as `ds`"),
        ] {
            let text = get(name).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_the_site_fixed_cannot_be_asked_for() {
        let plain = "";
        let fixed = "final = [\"profile.hpc.network\"]\n[profile.hpc]\nnetwork = \"none\"\n";
        let section = "final = [\"profile\"]\n";
        let deny = "[profile.hpc]\ndeny = [\"device\"]\n";
        let shut = "[profile.hpc]\nuser_binds = false\n";
        let one = "[launch]\nchoose_profile = false\n";
        for (site, pairs, refused) in [
            (plain, &[("network", "host")][..], false),
            (fixed, &[("network", "host")], true),
            (fixed, &[("unshare", "net")], true),
            (fixed, &[("tmp", "private")], false),
            (section, &[("tmp", "private")], true),
            (section, &[("workdir", "/x")], false),
            (deny, &[("device", "/dev/x")], true),
            (shut, &[("bind", "/x")], true),
            (shut, &[("mount", "type=tmpfs,dst=/x")], true),
            (shut, &[], false),
            (one, &[("profile", "ces")], true),
            (one, &[("profile", "hpc")], false),
        ] {
            let (config, request) = (config(site), request(pairs));
            let result = Profile::choose(&config, &request)
                .and_then(|profile| profile.check(&config, &request));
            assert_eq!(result.is_err(), refused, "{site} {pairs:?}");
        }
    }

    #[test]
    fn a_key_is_covered_by_its_sections_only() {
        assert!(covers("profile", "profile.hpc.id"));
        assert!(covers("profile.hpc", "profile.hpc.id"));
        assert!(covers("profile.hpc.id", "profile.hpc.id"));
        assert!(!covers("profile.h", "profile.hpc.id"));
    }
}
