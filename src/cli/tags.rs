//! `carrack tags`: what versions a registry has of an image.

use super::{Common, output};
use crate::error::{Error, Result};
use crate::image::pull::source_settings;
use crate::image::reference::Reference;
use crate::image::source::registry::Registry;
use std::process::ExitCode;

/// List the tags that a registry has of an image
#[derive(clap::Args)]
pub struct Args {
    /// The image without a tag, for example `registry.site/group/app`
    image: String,
    /// Speak plain http to the registry
    #[arg(long)]
    insecure: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let settings = args.common.settings()?;
    let reference = Reference::parse(&args.image, &settings.config.registries.default)?;
    let Some(name) = reference.name() else {
        return Err(
            Error::usage(format!("`{reference}` is not an image in a registry"))
                .hint("for example `carrack tags docker.io/library/ubuntu`"),
        );
    };
    settings.may_be_insecure(args.insecure)?;
    let mut sources = source_settings(&settings.config, std::env::temp_dir())?;
    if args.insecure {
        sources.insecure.push(name.registry.clone());
    }
    let tags = Registry::open(name, &sources)?.tags()?;
    output::print_names(&tags, args.json)?;
    if tags.is_empty() && !args.json && !args.common.quiet {
        tracing::warn!("`{}/{}` has no tags", name.registry, name.repository);
    }
    Ok(ExitCode::SUCCESS)
}
