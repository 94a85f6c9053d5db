//! Options that every command takes, before or after its name.

use super::policy;
use crate::config::{Given, Origin, Settings};
use crate::error::{Error, Result};
use crate::image::store::{Place, Store};
use crate::launch::{contract, probe};
use std::path::PathBuf;

/// Options of every command.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Common {
    /// Print nothing but the result
    // Singularity's `-s` and `-d` before a command's name mean the same.
    #[arg(
        short,
        long,
        conflicts_with = "verbose",
        short_alias = 's',
        alias = "silent"
    )]
    pub quiet: bool,
    /// Say more; twice for debugging
    #[arg(short, long, action = clap::ArgAction::Count, short_alias = 'd', alias = "debug")]
    pub verbose: u8,
    /// Keep images in DIR [default: $CARRACK_STORE, the site file, $SCRATCH/.carrack, ~/.local/share/carrack]
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub store: Option<PathBuf>,
}

/// The same for commands that start something in an image, where `-v` is a bind mount as in docker.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LaunchCommon {
    /// Print nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice for debugging
    #[arg(long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Look for images in DIR [default: $CARRACK_STORE, the site file, $SCRATCH/.carrack, ~/.local/share/carrack]
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub store: Option<PathBuf>,
}

impl Common {
    /// Takes what was given before the command's name.
    pub fn inherit(&mut self, outer: &Common) {
        self.quiet |= outer.quiet;
        self.verbose = self.verbose.max(outer.verbose);
        if self.store.is_none() {
            self.store.clone_from(&outer.store);
        }
    }

    /// The settings in force; says what a user's file cannot change.
    pub fn settings(&self) -> Result<Settings> {
        self.settings_with(Vec::new())
    }

    /// The same with the command's own options on top.
    pub fn settings_with(&self, mut given: Vec<Given>) -> Result<Settings> {
        if let Some(store) = &self.store {
            let value = std::path::absolute(store)
                .ok()
                .and_then(|path| path.into_os_string().into_string().ok())
                .ok_or_else(|| Error::usage("the path given to `--store` is not UTF-8"))?;
            given.push(Given {
                key: "store.path",
                value,
                origin: Origin::Option("--store"),
            });
        }
        let projects = |projects: &crate::config::Projects| {
            let groups = probe::group_names(&probe::caller());
            contract::projects(&groups, &projects.prefixes)
        };
        let settings = crate::config::load(given, &projects)?;
        policy::check_profiles(&settings)?;
        if !settings.warnings.is_empty() {
            self.start_log();
        }
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        Ok(settings)
    }

    /// The store that the settings choose.
    pub fn open_store(&self) -> Result<Store> {
        self.store_of(&self.settings()?)
    }

    /// The store of settings that were read already.
    pub fn store_of(&self, settings: &Settings) -> Result<Store> {
        // A step that was given only some variables still has a user.
        let home = || {
            let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??;
            user.dir.into_os_string().into_string().ok()
        };
        let variable = |name: &str| match std::env::var(name) {
            Err(_) if name == "HOME" => home(),
            found => found.ok(),
        };
        Ok(Store::open(Place::choose(settings, &variable)?))
    }

    /// Log lines go to standard error: warnings, with `-v` what is done, with `-vv` every request and file.
    pub fn start_log(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => tracing::Level::ERROR,
            (false, 0) => tracing::Level::WARN,
            (false, 1) => tracing::Level::INFO,
            (false, _) => tracing::Level::DEBUG,
        };
        // A second start (tests in one process) keeps the first.
        let _ = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .try_init();
    }
}

impl LaunchCommon {
    pub fn inherit(&mut self, outer: &Common) {
        let mut common = self.common();
        common.inherit(outer);
        (self.quiet, self.verbose, self.store) = (common.quiet, common.verbose, common.store);
    }

    /// A launch has nothing to log unless asked, or the settings have: what a log needs costs a task some dozen pages.
    pub fn start_log(&self) {
        if self.verbose > 0 {
            self.common().start_log();
        }
    }

    pub fn common(&self) -> Common {
        Common {
            quiet: self.quiet,
            verbose: self.verbose,
            store: self.store.clone(),
        }
    }
}
