//! `carrack verify`: are the bytes those that were written?

use super::{Common, output};
use crate::error::{Error, Result};
use crate::image::pull::{host_platform, threads};
use crate::image::store::Stored;
use crate::image::store::verify::{Damage, verify};
use crate::squashfs::read::escaped;
use std::process::ExitCode;

/// Check every byte of images against their records
#[derive(clap::Args)]
pub struct Args {
    /// Reference, digest or its first 6 digits or more
    #[arg(value_name = "IMAGE", required_unless_present = "all")]
    images: Vec<String>,
    /// Every image of every store
    #[arg(long, conflicts_with = "images")]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let settings = args.common.settings()?;
    let store = args.common.store_of(&settings)?;
    let threads = threads(settings.config.conversion.threads);
    let mut checks: Vec<(String, Result<Stored>)> = Vec::new();
    if args.all {
        let listing = store.list();
        checks.extend(
            listing
                .images
                .into_iter()
                .map(|listed| (listed.stored.digest.to_string(), Ok(listed.stored))),
        );
        checks.extend(
            listing
                .damaged
                .into_iter()
                .map(|damaged| (damaged.digest.to_string(), Err(damaged.error))),
        );
        let unreadable = listing.unreadable.into_iter();
        checks.extend(unreadable.map(|error| ("a part of the store".into(), Err(error))));
    } else {
        let default = &settings.config.registries.default;
        checks.extend(args.images.iter().map(|text| {
            (
                text.clone(),
                store.find_named(text, default, &host_platform()),
            )
        }));
    }
    let mut json = Vec::new();
    let mut bad = 0usize;
    let count = checks.len();
    for (name, stored) in checks {
        let result = stored.and_then(|stored| check(&name, &stored, threads));
        if args.json {
            let error = result.as_ref().err().map(|error| error.to_string());
            json.push(serde_json::json!({ "image": name, "ok": result.is_ok(), "error": error }));
        }
        match result {
            Ok(()) if args.json || args.common.quiet => {}
            Ok(()) => output::print(&format!("ok {name}\n"))?,
            Err(error) => {
                bad += 1;
                if !args.json {
                    error.print();
                }
            }
        }
    }
    if args.json {
        output::print_json(&json)?;
    }
    if count == 0 && !args.json && !args.common.quiet {
        let root = store.root().display();
        output::print(&format!("there are no images in `{root}`\n"))?;
    }
    match bad {
        0 => Ok(ExitCode::SUCCESS),
        bad => Err(Error::new(format!("{bad} of {count} checks failed"))),
    }
}

fn check(name: &str, stored: &Stored, threads: usize) -> Result<()> {
    match verify(stored, threads)? {
        None => Ok(()),
        Some(damage) => Err(broken(name, stored, &damage)),
    }
}

fn broken(name: &str, stored: &Stored, damage: &Damage) -> Error {
    let mut error = Error::new(format!("image `{name}` is damaged")).cause(format!(
        "`{}`, {} bytes at {}: {}",
        stored.path.display(),
        damage.size,
        damage.start,
        damage.cause
    ));
    for file in damage.files.iter().take(10) {
        error = error.cause(format!("needed by `{}` in the image", escaped(file)));
    }
    if damage.files.len() > 10 {
        error = error.cause(format!("and by {} more", damage.files.len() - 10));
    }
    error.hint(format!(
        "`carrack rm --force {}`, then pull it again",
        stored.digest.short()
    ))
}
