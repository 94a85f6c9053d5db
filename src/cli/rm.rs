//! `carrack rm`: takes names and images away.

use super::{Common, output};
use crate::config::Size;
use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::pull::host_platform;
use crate::image::store::{Store, named};
use std::process::ExitCode;

/// Remove images from the store
///
/// A reference goes, and with the last one the image. A digest takes the image with all its names. An image that a
/// queued or running job needs stays.
#[derive(clap::Args)]
#[command(alias = "rmi")]
pub struct Args {
    /// Reference, digest or its first 6 digits or more
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Also what a job needs, and what is damaged
    #[arg(short, long)]
    force: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let settings = args.common.settings()?;
    let store = args.common.store_of(&settings)?;
    let mut failed: Option<Error> = None;
    for text in &args.images {
        match one(&args, &store, text, &settings.config.registries.default) {
            Ok(told) if args.common.quiet => drop(told),
            Ok(told) => output::print(&told)?,
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    before.print();
                }
            }
        }
    }
    if !args.dry_run {
        store.clean();
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn one(args: &Args, store: &Store, text: &str, default: &str) -> Result<String> {
    let verb = if args.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let reference = named(text, default)?;
    if let Some(reference) = &reference
        && let Some(target) = store.own_target(reference)?
    {
        let mut told = format!("{verb} {reference}\n");
        let mut last = Vec::new();
        for entry in target.images.values() {
            if store.names_of(&entry.digest) == [target.reference.clone()] {
                last.push(entry.digest);
            }
        }
        if !args.dry_run {
            // Refuse before the name is gone.
            for digest in last.iter().filter(|_| !args.force) {
                store.refuse_pinned(digest)?;
            }
            store.remove_reference(reference)?;
        }
        for digest in last {
            told.push_str(&remove(args, store, &digest)?);
        }
        return Ok(told);
    }
    if let Some(digest) = store.own_digest(text)? {
        let names = store.names_of(&digest);
        let mut told = String::new();
        if !args.dry_run {
            if !args.force {
                store.refuse_pinned(&digest)?;
            }
            store.remove_references_to(&digest)?;
        }
        for name in names {
            told.push_str(&format!("{verb} {name}\n"));
        }
        return Ok(told + &remove(args, store, &digest)?);
    }
    let stored = store.find_to_remove(text, default, &host_platform())?;
    Err(Error::new(format!("cannot remove `{text}`")).cause(format!(
        "it is in the site's store `{}`, which is not written from here",
        stored.root.display()
    )))
}

fn remove(args: &Args, store: &Store, digest: &Digest) -> Result<String> {
    if args.dry_run {
        return Ok(format!("would remove {digest}\n"));
    }
    let freed = store.remove(digest, args.force)?;
    Ok(format!("removed {digest}, {} freed\n", Size(freed)))
}
