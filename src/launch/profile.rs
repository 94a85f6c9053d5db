//! Profiles: what a request leaves open, and what it may not ask for.
//!
//! The systems that carrack serves contradict each other (who one is inside, whether the home is there), so there is one
//! engine and a set of rules for each. A site changes rules key by key. An option that asks for something else than a key
//! that is final or `locked` says is refused, whatever door it came through; asking for what is so anyway is no offence.
//! The same is asked twice: when a job is made, and on the node. What this cannot do: stop a person from running another
//! tool.

mod built_in;

use super::contract::words_of;
use super::environment::Addition;
use super::facts::HostFacts;
use super::inside::InsidePath;
use super::mounts::{MountSpec, parse_size};
use super::options::{OPTIONS, id_choice};
use super::request::{
    Dev, Entrypoint, Gpu, Home, IdChoice, Inherit, Mode, NetworkChoice, Request, RootAccess, Tmp,
};
use super::step::Access;
use crate::config::{Config, DataAccess, PROFILES, Rules, covers, nearest};
use crate::error::{Error, Result};
use built_in::built_in;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;

/// How deep profiles may be based on one another; deeper is a circle.
const MAX_DEPTH: usize = 8;

/// The rules in force, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    /// The profile and what it is based on, nearest first, each with the keys that it sets itself.
    chain: Vec<Link>,
    pub binds: Vec<MountSpec>,
    pub user_binds: bool,
    /// Empty: from anywhere.
    pub user_bind_paths: Vec<String>,
    pub home: bool,
    pub cwd: bool,
    pub tmp: Tmp,
    pub root: RootAccess,
    pub id: IdChoice,
    pub network: NetworkChoice,
    pub gpu: Gpu,
    pub dev: Dev,
    /// Whether the host's MPI takes the image's place; unset: as the bundles say.
    pub mpi_inject: Option<bool>,
    pub bundles: Vec<String>,
    pub inherit: Inherit,
    pub interactive: bool,
    pub command: Commands,
    pub additions: Vec<Addition>,
    pub project_data: Option<MountSpec>,
    pub datasets: Option<MountSpec>,
    pub outputs: Option<MountSpec>,
    pub scratch: Option<MountSpec>,
    /// sbatch options of jobs that do not give them.
    pub job: BTreeMap<String, String>,
    pub max_time: Option<String>,
    pub project_prefixes: Vec<String>,
    pub project_override: Option<String>,
    pub project_access: BTreeMap<String, Access>,
    locked: BTreeSet<String>,
    deny: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    name: String,
    keys: BTreeSet<String>,
}

/// What may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands {
    Any,
    /// The image's entrypoint, with arguments.
    Arguments,
    /// What the image does by itself.
    Image,
}

impl Profile {
    /// The rules for a request: its profile, or the site's.
    pub fn choose(config: &Config, request: &Request) -> Result<Profile> {
        let launch = &config.launch;
        let Some(name) = &request.profile else {
            return Profile::named(config, &launch.profile);
        };
        if *name != launch.profile && !launch.choose_profile {
            return Err(policy(&format!("the profile `{name}`")).cause(format!(
                "the site uses `{}` for everybody (`launch.choose_profile`)",
                launch.profile
            )));
        }
        let offered = launch.profiles.is_empty() || launch.profiles.contains(name);
        if *name != launch.profile && !offered {
            return Err(policy(&format!("the profile `{name}`")).cause(format!(
                "the site offers: {} (`launch.profiles`)",
                launch.profiles.join(", ")
            )));
        }
        Profile::named(config, name)
    }

    /// The rules of a profile by its name.
    pub fn named(config: &Config, name: &str) -> Result<Profile> {
        let mut rules = Rules::default();
        let mut chain = Vec::new();
        collect(config, name, &mut chain, &mut rules)?;
        Profile::complete(config, chain, rules)
            .map_err(|error| error.while_doing(format!("cannot use the profile `{name}`")))
    }

    fn complete(config: &Config, chain: Vec<Link>, rules: Rules) -> Result<Profile> {
        let name = chain
            .first()
            .map(|link| link.name.clone())
            .unwrap_or_default();
        let read = Reader { profile: &name };
        let paths = rules.user_bind_paths.unwrap_or_default();
        for path in &paths {
            words_of(path)?;
        }
        let locked: BTreeSet<String> = rules.locked.into_iter().flatten().collect();
        for key in &locked {
            read.known("locked", key, LOCKABLE)?;
        }
        let deny: BTreeSet<String> = rules.deny.into_iter().flatten().collect();
        for option in &deny {
            let names: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
            read.known("deny", option, &names)?;
        }
        let writable = rules.writable.as_deref().unwrap_or("false");
        let mut additions: Vec<Addition> = Vec::new();
        additions.extend(rules.env_unset.into_iter().flatten().map(Addition::Unset));
        let pairs = |table: Option<BTreeMap<String, String>>| {
            table
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.into(), v.into()))
        };
        additions.extend(pairs(rules.env).map(|(k, v)| Addition::Set(k, v)));
        additions.extend(pairs(rules.env_prepend).map(|(k, v)| Addition::Prepend(k, v)));
        additions.extend(pairs(rules.env_append).map(|(k, v)| Addition::Append(k, v)));
        let binds = rules.binds.unwrap_or_default();
        let access = |(name, access): (&String, &DataAccess)| {
            let access = match access {
                DataAccess::ReadOnly => Access::ReadOnly,
                DataAccess::ReadWrite => Access::ReadWrite,
            };
            (name.clone(), access)
        };
        Ok(Profile {
            binds: binds
                .iter()
                .map(|word| read.mount("binds", word, &[], &["dataset"]))
                .collect::<Result<_>>()?,
            user_binds: rules.user_binds.unwrap_or(true),
            user_bind_paths: paths,
            home: rules.home.unwrap_or(true),
            cwd: rules.cwd.unwrap_or(true),
            tmp: read.one_of(
                "tmp",
                rules.tmp,
                &[("host", Tmp::Host), ("private", Tmp::Private)],
            )?,
            root: match writable {
                "false" => RootAccess::ReadOnly,
                "true" => RootAccess::Writable { size: None },
                size => RootAccess::Writable {
                    size: Some(parse_size(size).map_err(|_| read.wrong("writable", size))?),
                },
            },
            id: id_choice(rules.id.as_deref().unwrap_or("keep"))?,
            network: read.one_of(
                "network",
                rules.network,
                &[("host", NetworkChoice::Host), ("none", NetworkChoice::None)],
            )?,
            gpu: read.one_of(
                "gpu",
                rules.gpu,
                &[("auto", Gpu::Auto), ("none", Gpu::None), ("all", Gpu::All)],
            )?,
            dev: read.one_of(
                "dev",
                rules.dev,
                &[("full", Dev::Full), ("minimal", Dev::Minimal)],
            )?,
            mpi_inject: match rules.mpi_inject {
                None => None,
                word => {
                    Some(read.one_of("mpi_inject", word, &[("host", true), ("none", false)])?)
                }
            },
            bundles: rules.bundles.unwrap_or_default(),
            inherit: match rules.environment {
                Some(false) => Inherit::Clean,
                _ => Inherit::Pass,
            },
            interactive: rules.interactive.unwrap_or(true),
            command: read.one_of(
                "command",
                rules.command,
                &[
                    ("any", Commands::Any),
                    ("arguments", Commands::Arguments),
                    ("image", Commands::Image),
                ],
            )?,
            additions,
            project_data: read.optional("project_data", rules.project_data, "project")?,
            datasets: read.optional("datasets", rules.datasets, "dataset")?,
            outputs: read.optional("outputs", rules.outputs, "job")?,
            scratch: read.optional("scratch", rules.scratch, "job")?,
            job: rules.job.unwrap_or_default(),
            max_time: rules.max_time,
            project_prefixes: config.projects.prefixes.clone(),
            project_override: config.projects.own_choice.clone(),
            project_access: config.projects.access.iter().map(access).collect(),
            locked,
            deny,
            name,
            chain,
        })
    }

    /// Refuses what the site does not leave to the user.
    pub fn check(&self, config: &Config, request: &Request) -> Result<()> {
        for (option, origin) in &request.set_by {
            let Some(spec) = OPTIONS.iter().find(|spec| spec.name == *option) else {
                continue;
            };
            let refused = |why: String| Err(policy(&origin.spell(spec)).cause(why));
            if self.deny.contains(*option) {
                return refused(format!(
                    "the profile `{}` denies the option `{option}` (`profile.{}.deny`)",
                    self.name, self.name
                ));
            }
            let Some(key) = rule_of(option).filter(|key| self.differs(key, request)) else {
                continue;
            };
            if let Some(why) = self.fixed(config, key) {
                return refused(why);
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
        if (request.mode == Mode::Shell || request.interactive) && !self.interactive {
            return Err(self.nobody_enters());
        }
        self.check_command(request)
    }

    /// The site's variables: those that a user may set anew, and those that have the last word (`env` is locked).
    pub fn variables(&self) -> (&[Addition], &[Addition]) {
        match self.locked.contains("env") {
            true => (&[], &self.additions),
            false => (&self.additions, &[]),
        }
    }

    /// Whether it is that profile, or based on it.
    pub fn follows(&self, name: &str) -> bool {
        self.chain.iter().any(|link| link.name == name)
    }

    pub fn nobody_enters(&self) -> Error {
        Error::usage("nobody may enter an image here").cause(format!(
            "the profile `{}` says so (`interactive`)",
            self.name
        ))
    }

    fn check_command(&self, request: &Request) -> Result<()> {
        let own_entrypoint = match (&request.entrypoint, request.mode) {
            (None, mode) => mode != Mode::Run,
            (Some(entrypoint), _) => *entrypoint != Entrypoint::Image,
        };
        let refused = match self.command {
            Commands::Any => false,
            Commands::Arguments => own_entrypoint,
            Commands::Image => own_entrypoint || !request.command.is_empty(),
        };
        if !refused {
            return Ok(());
        }
        let error = policy("a command of your own");
        Err(match self.command {
            Commands::Arguments => error
                .cause(format!(
                    "the profile `{}` starts the image's entrypoint (`command`)",
                    self.name
                ))
                .hint("`carrack run IMAGE ARGUMENT…` gives it arguments"),
            _ => error
                .cause(format!(
                    "the profile `{}` starts what the image does by itself (`command`)",
                    self.name
                ))
                .hint("`carrack run IMAGE` starts it"),
        })
    }

    /// Why a key cannot be changed by options, if it cannot.
    fn fixed(&self, config: &Config, key: &str) -> Option<String> {
        for Link { name, keys } in &self.chain {
            let dotted = format!("profile.{name}.{key}");
            if config.fixed.iter().any(|fixed| covers(fixed, &dotted)) {
                return Some(format!("`{dotted}` is final"));
            }
            // What the site says nearer is its own answer; users cannot base theirs on a final key.
            if keys.contains(key) {
                break;
            }
        }
        self.locked.contains(key).then(|| {
            format!(
                "the profile `{}` locks `{key}` (`profile.{}.locked`)",
                self.name, self.name
            )
        })
    }

    /// Whether a request asks for something else than the rule says.
    fn differs(&self, key: &str, request: &Request) -> bool {
        match key {
            "home" => match &request.home {
                Some(Home::Mount) => !self.home,
                Some(Home::Hide) => self.home,
                Some(Home::MountFrom(_)) => true,
                None => false,
            },
            "tmp" => request.tmp.is_some_and(|asked| asked != self.tmp),
            "writable" => request.root.is_some_and(|asked| asked != self.root),
            "id" => request.id.as_ref().is_some_and(|asked| *asked != self.id),
            "network" => request.network.is_some_and(|asked| asked != self.network),
            "gpu" => request.gpu.is_some_and(|asked| asked != self.gpu),
            "dev" => request.dev.is_some_and(|asked| asked != self.dev),
            "mpi_inject" => request
                .mpi_inject
                .is_some_and(|asked| asked != (self.mpi_inject == Some(true))),
            "bundles" => request
                .bundles
                .iter()
                .any(|name| !self.bundles.contains(name)),
            "environment" => request.inherit.is_some_and(|asked| asked != self.inherit),
            _ => true,
        }
    }

    /// Whether mounts are limited, so that nothing that a user can steer is mounted unseen.
    pub fn is_restricted(&self) -> bool {
        !self.user_binds || !self.user_bind_paths.is_empty()
    }

    /// Whether any mount has words to fill in.
    pub fn has_words(&self) -> bool {
        let special = [
            &self.project_data,
            &self.datasets,
            &self.outputs,
            &self.scratch,
        ];
        let has = |spec: &MountSpec| {
            let from = match spec {
                MountSpec::Bind { from, .. } => from.to_string_lossy().contains('{'),
                _ => false,
            };
            from || spec.target().is_some_and(|at| at.to_string().contains('{'))
        };
        special.into_iter().flatten().chain(&self.binds).any(has)
            || self.user_bind_paths.iter().any(|path| path.contains('{'))
    }

    /// The directories that users may mount from, with their words filled in; one that cannot be filled in allows nothing.
    pub fn allowed_paths(&self, facts: &HostFacts) -> Vec<PathBuf> {
        let filler = super::contract::Filler {
            facts,
            dataset: None,
            scratch: None,
        };
        let filled = self
            .user_bind_paths
            .iter()
            .filter_map(|path| filler.fill(path).ok());
        filled
            .filter_map(|path| Some(InsidePath::new(path).ok()?.as_path().to_path_buf()))
            .collect()
    }

    pub fn project_is_writable(&self, project: &str) -> bool {
        let own = self.project_access.get(project).copied();
        let general = match &self.project_data {
            Some(MountSpec::Bind { access, .. }) => Some(*access),
            _ => None,
        };
        own.or(general) == Some(Access::ReadWrite)
    }
}

/// Reads the values of a profile's keys.
struct Reader<'a> {
    profile: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, key: &str, value: &str) -> Error {
        Error::usage(format!("`{value}` is not a value for `{key}`")).hint(format!(
            "correct `[profile.{}]` in the site file",
            self.profile
        ))
    }

    /// The first is the default.
    fn one_of<T: Copy>(&self, key: &str, value: Option<String>, known: &[(&str, T)]) -> Result<T> {
        let word = match (&value, known) {
            (Some(word), _) => word.as_str(),
            (None, [(first, _), ..]) => first,
            (None, []) => "",
        };
        match known.iter().find(|(name, _)| *name == word) {
            Some((_, value)) => Ok(*value),
            None => {
                let words: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                Err(self
                    .wrong(key, word)
                    .cause(format!("it is one of: {}", words.join(", "))))
            }
        }
    }

    fn known(&self, key: &str, word: &str, known: &[&str]) -> Result<()> {
        if known.contains(&word) {
            return Ok(());
        }
        let error = self.wrong(key, word);
        Err(match nearest(word, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.cause(format!("it is one of: {}", known.join(", "))),
        })
    }

    /// A mount whose words are known; `wanted` ones must be there, `banned` ones not.
    fn mount(&self, key: &str, text: &str, wanted: &[&str], banned: &[&str]) -> Result<MountSpec> {
        let words = words_of(text)?;
        let spec = MountSpec::parse(OsStr::new(text))?;
        let from = match &spec {
            MountSpec::Bind { from, .. } => from.to_string_lossy().into_owned(),
            _ => String::new(),
        };
        if let Some(missing) = wanted
            .iter()
            .find(|word| !from.contains(&format!("{{{word}}}")))
        {
            return Err(self
                .wrong(key, text)
                .cause(format!("its source needs `{{{missing}}}`")));
        }
        if let Some(word) = banned.iter().find(|word| words.contains(word)) {
            return Err(self
                .wrong(key, text)
                .cause(format!("`{{{word}}}` has no meaning there")));
        }
        Ok(spec)
    }

    /// An empty text takes back what the base says.
    fn optional(&self, key: &str, text: Option<String>, word: &str) -> Result<Option<MountSpec>> {
        let text = text.filter(|text| !text.is_empty());
        let banned: &[&str] = if word == "dataset" { &[] } else { &["dataset"] };
        text.map(|text| self.mount(key, &text, &[word], banned))
            .transpose()
    }
}

/// Keys that options change.
const LOCKABLE: &[&str] = &[
    "home",
    "cwd",
    "tmp",
    "writable",
    "id",
    "network",
    "gpu",
    "dev",
    "mpi_inject",
    "bundles",
    "environment",
    "env",
    "user_binds",
    "interactive",
    "command",
];

/// The rule that an option would override.
fn rule_of(option: &str) -> Option<&str> {
    Some(match option {
        "home" | "tmp" | "writable" | "id" | "network" | "gpu" | "dev" => option,
        "read-only" => "writable",
        "remap-root" => "id",
        "unshare" => "network",
        "mpi-inject" => "mpi_inject",
        "bundle" => "bundles",
        "clean-env" => "environment",
        "bind" | "mount" => "user_binds",
        _ => return None,
    })
}

fn policy(what: &str) -> Error {
    Error::usage(format!("{what} is not allowed here")).hint(
        "`carrack config show --origin` prints the site's settings; ask the site's administrators",
    )
}

/// Lays a profile over what it is based on; what is already set in `rules` is nearer and stays.
fn collect(config: &Config, name: &str, chain: &mut Vec<Link>, rules: &mut Rules) -> Result<()> {
    let site = config.profile.get(name);
    let built_in = built_in(name);
    if site.is_none() && built_in.is_none() {
        let known = PROFILES
            .iter()
            .copied()
            .chain(config.profile.keys().map(String::as_str));
        let error = Error::usage(format!("unknown profile `{name}`"));
        return Err(match nearest(name, known.clone()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("known: {}", known.collect::<Vec<_>>().join(", "))),
        });
    }
    if chain.len() > MAX_DEPTH {
        return Err(Error::usage(format!("profile `{name}` is based on itself")));
    }
    let keys = |rules: &Rules| match serde_json::to_value(rules) {
        Ok(serde_json::Value::Object(keys)) => keys.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    };
    chain.push(Link {
        name: name.to_string(),
        keys: [site, built_in.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(keys)
            .collect(),
    });
    let base_of = |rules: Option<&Rules>| rules.and_then(|rules| rules.base.clone());
    let base = base_of(site).or_else(|| base_of(built_in.as_ref()));
    for layer in [site.cloned(), built_in].into_iter().flatten() {
        fill(rules, layer);
    }
    match base {
        Some(base) if base != name => collect(config, &base, chain, rules),
        _ => Ok(()),
    }
}

fn fill(rules: &mut Rules, layer: Rules) {
    macro_rules! fill {
        ($($field:ident)*) => { $(if rules.$field.is_none() { rules.$field = layer.$field; })* };
    }
    fill!(binds user_binds user_bind_paths home cwd tmp writable id network gpu dev mpi_inject bundles environment interactive env
          env_unset env_prepend env_append project_data datasets outputs scratch command job max_time locked deny);
}

#[cfg(test)]
mod tests;
