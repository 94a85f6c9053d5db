//! `carrack tag`: another name for an image.

use super::{Common, output};
use crate::error::{Error, Result};
use crate::image::pull::host_platform;
use crate::image::reference::Reference;
use crate::image::store::{Entry, now_text, who};
use std::process::ExitCode;

/// Give an image another name
#[derive(clap::Args)]
pub struct Args {
    /// Reference, digest or its first 6 digits or more
    image: String,
    /// The new name; one that exists is moved
    name: String,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let settings = args.common.settings()?;
    let store = args.common.store_of(&settings)?;
    let default = &settings.config.registries.default;
    let stored = store.find_named(&args.image, default, &host_platform())?;
    let reference = Reference::parse(&args.name, default)?;
    let tag = reference.name().filter(|name| name.digest.is_none());
    if tag.is_none() {
        return Err(
            Error::usage(format!("`{reference}` is not a name for an image"))
                .hint("for example `myapp:v2`"),
        );
    }
    if !args.dry_run {
        let entry = Entry {
            digest: stored.digest,
            remote: None,
            when: now_text(),
            by: who(),
        };
        store.set_reference(&reference, &stored.record.platform, entry)?;
    }
    if !args.common.quiet {
        output::print(&format!("{reference} -> {}\n", stored.digest))?;
    }
    Ok(ExitCode::SUCCESS)
}
