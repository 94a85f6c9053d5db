//! `carrack pull`: the door through which images come in.

use super::policy::{Deed, may};
use super::progress::Watch;
use super::{Common, interrupt, output};
use crate::config::{Given, Origin, Size};
use crate::error::{Error, Result};
use crate::image::pull::{
    How, Name, Options, Pulled, host_platform, layer_bytes, parse_platform, pull,
};
use crate::image::reference::Reference;
use crate::image::store::Readers;
use crate::launch::probe;
use crate::record::Platform;
use std::process::ExitCode;

/// Bring images into the store
///
/// An image that is there already is not fetched again; a tag that did not move costs one request.
#[derive(clap::Args)]
#[command(after_help = "References:\n  \
    ubuntu:24.04                      a registry's name; Docker Hub, unless the site says otherwise\n  \
    docker://registry.site:5000/a:v1  the same, in full; @sha256:… pins it\n  \
    oci:DIR[:TAG], oci-archive:FILE   an OCI layout\n  \
    docker-archive:FILE               what `docker save` wrote\n  \
    x.tar, dir:DIR                    a root file system\n  \
    x.sqsh, x.sif                     a ready squashfs, taken as it is")]
pub struct Args {
    /// What to pull
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<String>,
    /// Leave alone what the store has under this name, without asking the registry whether the tag moved
    #[arg(long)]
    missing: bool,
    #[command(flatten)]
    how: Conversion,
    #[command(flatten)]
    pub common: Common,
}

/// How to bring an image in; the same for `pull` and `import`.
#[derive(clap::Args)]
pub struct Conversion {
    /// For which machine: OS/ARCH[/VARIANT] or ARCH [default: this one]
    #[arg(long, value_name = "PLATFORM", alias = "arch")]
    platform: Option<String>,
    /// Speak plain http to the registry
    #[arg(long)]
    insecure: bool,
    /// zstd level of the squashfs, 1 to 22 [default: 3]
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    /// Block size of the squashfs, 4K to 1M [default: 128K]
    #[arg(long, value_name = "SIZE")]
    block_size: Option<String>,
    /// Compression threads [default: as many as this process may use, at most 16]
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Let only these users read the image, besides you and `--allow-group`: names, with commas
    #[arg(long, value_name = "USERS", value_delimiter = ',')]
    allow_user: Vec<String>,
    /// Let only members of these groups read the image, besides you and `--allow-user`
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    allow_group: Vec<String>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let work = args.how.prepare(&args.common)?;
    let default = &work.settings.config.registries.default;
    let mut references = Vec::new();
    for text in &args.references {
        if args.missing && work.tell_stored(text, default)? {
            continue;
        }
        references.push((Reference::parse(text, default)?, Name::Reference));
    }
    work.all(references)
}

impl Conversion {
    /// The numbers of those who may read it, if anybody was named.
    fn readers(&self) -> Result<Option<Readers>> {
        if self.allow_user.is_empty() && self.allow_group.is_empty() {
            return Ok(None);
        }
        let numbers = |database: &str, names: &[String]| -> Result<Vec<u32>> {
            let number = |name: &String| {
                probe::number_of(database, name).ok_or_else(|| {
                    let what = if database == "group" { "group" } else { "user" };
                    Error::usage(format!("there is no {what} `{name}` on this machine"))
                })
            };
            names.iter().map(number).collect()
        };
        Ok(Some(Readers {
            users: numbers("passwd", &self.allow_user)?,
            groups: numbers("group", &self.allow_group)?,
        }))
    }

    /// Reads the settings with these options on top.
    pub fn prepare<'a>(&'a self, common: &'a Common) -> Result<Work<'a>> {
        let options = [
            ("conversion.level", "--level", &self.level),
            ("conversion.block_size", "--block-size", &self.block_size),
            ("conversion.threads", "--threads", &self.threads),
        ];
        let given = options.into_iter().filter_map(|(key, option, value)| {
            Some(Given {
                key,
                value: value.clone()?,
                origin: Origin::Option(option),
            })
        });
        let settings = common.settings_with(given.collect())?;
        settings.may_be_insecure(self.insecure)?;
        let platform = match &self.platform {
            Some(text) => parse_platform(text)?,
            None => host_platform(),
        };
        Ok(Work {
            how: self,
            common,
            settings,
            platform,
        })
    }
}

/// Pulls with its settings read.
pub struct Work<'a> {
    how: &'a Conversion,
    common: &'a Common,
    pub settings: crate::config::Settings,
    platform: Platform,
}

impl Work<'_> {
    /// Says what the store has under this name; false when it has nothing.
    fn tell_stored(&self, text: &str, default: &str) -> Result<bool> {
        let store = self.common.store_of(&self.settings)?;
        let Ok(stored) = store.find_named(text, default, &self.platform) else {
            return Ok(false);
        };
        let path = stored.path.display();
        output::print(&match self.common.quiet {
            true => format!("{}\t{path}\n", stored.digest),
            false => crate::error::printable(&format!(
                "{text}: in the store\n  digest  {}\n  path    {path}\n",
                stored.digest
            )),
        })?;
        Ok(true)
    }

    /// Pulls each reference. One failure does not stop the others.
    pub fn all(&self, references: Vec<(Reference, Name)>) -> Result<ExitCode> {
        interrupt::clean_up_on_signals();
        let mut failed: Option<Error> = None;
        let mut json = Vec::new();
        for (reference, name) in references {
            match self.one(&reference, name) {
                Ok(value) => json.extend(value),
                Err(error) => {
                    if let Some(before) = failed.replace(error) {
                        before.print();
                    }
                }
            }
        }
        if self.how.json {
            output::print_json(&json)?;
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(ExitCode::SUCCESS),
        }
    }

    fn one(&self, reference: &Reference, name: Name) -> Result<Option<serde_json::Value>> {
        may(Deed::Pull, &self.settings.config.access)?;
        if reference.name().is_some() {
            self.may_pull_on_this_node(reference)?;
        }
        let mut config = self.settings.config.clone();
        if let Some(name) = reference.name().filter(|_| self.how.insecure) {
            config.registries.insecure.push(name.registry.clone());
        }
        let store = self.common.store_of(&self.settings)?;
        let options = Options {
            platform: self.platform.clone(),
            dry_run: self.how.dry_run,
            name,
            readers: self.how.readers()?,
        };
        let watch = Watch::new(self.common);
        let pulled = pull(reference, &store, &config, &options, &watch);
        watch.finish();
        let pulled = pulled?;
        for warning in &pulled.warnings {
            tracing::warn!("{warning}");
        }
        if self.how.json {
            return Ok(Some(as_json(reference, &pulled, self.how.dry_run)));
        }
        let path = pulled
            .stored
            .as_ref()
            .map(|stored| stored.path.display().to_string());
        if self.common.quiet {
            output::print(&format!(
                "{}\t{}\n",
                pulled.digest,
                path.unwrap_or_default()
            ))?;
        } else {
            output::print(&self.summary(reference, &pulled, &watch))?;
        }
        Ok(None)
    }

    /// Some sites want the network of compute nodes left alone. Where nobody said so, who asks for it gets it.
    fn may_pull_on_this_node(&self, reference: &Reference) -> Result<()> {
        let origin = self.settings.origin("pull.compute_nodes");
        let forbidden = *origin != Origin::Default && !self.settings.config.pull.compute_nodes;
        // Slurm sets it in job scripts and steps, not in the shell that `salloc` leaves on a login node.
        match std::env::var("SLURMD_NODENAME") {
            Ok(node) if forbidden => Err(Error::new(format!("cannot pull `{reference}` here"))
                .cause(format!(
                    "node {node} is a compute node, where nothing is pulled (`pull.compute_nodes`, {origin})"
                ))
                .hint(format!(
                    "pull first on a login node: `carrack pull {reference}`"
                ))),
            _ => Ok(()),
        }
    }

    fn summary(&self, reference: &Reference, pulled: &Pulled, watch: &Watch) -> String {
        let how = match (pulled.how, self.how.dry_run) {
            (How::Unchanged, _) => "unchanged",
            (How::Present, _) => "already in the store",
            (_, true) => "would be pulled",
            (How::Converted, _) => "pulled",
            (How::Copied, _) => "copied into the store",
        };
        let mut text = format!("{reference}: {how}\n  digest  {}\n", pulled.digest);
        if matches!(pulled.how, How::Converted) {
            let ways = watch.layers();
            let ways = if ways.is_empty() {
                ways
            } else {
                format!(" ({ways})")
            };
            text.push_str(&format!(
                "  layers  {}{ways}, {}\n",
                pulled.layers.len(),
                layer_bytes(&pulled.layers)
            ));
        }
        if let Some(stored) = &pulled.stored {
            let squashfs = &stored.record.squashfs;
            text.push_str(&format!(
                "  image   {} for {} of content, {} files",
                Size(squashfs.size),
                Size(squashfs.content_bytes),
                squashfs.inodes
            ));
            if matches!(pulled.how, How::Converted | How::Copied) {
                text.push_str(&format!(", {:.1} s", watch.elapsed().as_secs_f64()));
            }
            text.push_str(&format!("\n  path    {}\n", stored.path.display()));
        }
        crate::error::printable(&text)
    }
}

fn as_json(reference: &Reference, pulled: &Pulled, dry_run: bool) -> serde_json::Value {
    let how = match pulled.how {
        How::Unchanged => "unchanged",
        How::Present => "present",
        How::Converted => "converted",
        How::Copied => "copied",
    };
    serde_json::json!({
        "reference": reference.to_string(),
        "digest": pulled.digest,
        "path": pulled.stored.as_ref().map(|stored| &stored.path),
        "how": how,
        "dry_run": dry_run,
        "layers": pulled.layers.len(),
        "layer_bytes": layer_bytes(&pulled.layers).0,
        "size": pulled.stored.as_ref().map(|stored| stored.record.squashfs.size),
        "warnings": pulled.warnings,
    })
}
