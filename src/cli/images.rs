//! `carrack images`: what is in the stores.

use super::table::{ago, table};
use super::{Common, output};
use crate::config::Size;
use crate::error::Result;
use crate::image::manifest::platform_text;
use crate::image::store::{Listed, text_of};
use std::process::ExitCode;

/// List the images in the store
#[derive(clap::Args)]
#[command(alias = "list", alias = "ls")]
pub struct Args {
    /// Only images whose reference contains TEXT
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let store = args.common.open_store()?;
    let mut listing = store.list();
    if let Some(filter) = &args.filter {
        listing.images.retain(|listed| {
            listed
                .references
                .iter()
                .any(|name| name.contains(filter.as_str()))
        });
        listing.damaged.clear();
    }
    listing
        .images
        .sort_by(|a, b| (&a.references, b.added).cmp(&(&b.references, a.added)));
    if args.json {
        let images: Vec<_> = listing.images.iter().map(as_json).collect();
        output::print_json(&images)?;
    } else if args.common.quiet {
        let lines = listing
            .images
            .iter()
            .map(|listed| format!("{}\n", listed.stored.digest));
        output::print(&lines.collect::<String>())?;
    } else {
        let head = ["REFERENCE", "DIGEST", "PLATFORM", "SIZE", "ADDED", "STORE"];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(listing.images.iter().flat_map(rows_of));
        output::print(&table(&rows))?;
    }
    for damaged in &listing.damaged {
        damaged.error.print();
    }
    // A list that may lack something is no success.
    let mut unreadable = listing.unreadable.into_iter();
    let last = unreadable.next_back();
    unreadable.for_each(|error| error.print());
    last.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// One row per name.
fn rows_of(listed: &Listed) -> Vec<Vec<String>> {
    let stored = &listed.stored;
    let names = match listed.references.as_slice() {
        [] => vec!["(no name)".to_string()],
        names => names.to_vec(),
    };
    let row = |name: String| {
        vec![
            name.strip_prefix("docker://")
                .map(String::from)
                .unwrap_or(name),
            stored.digest.short(),
            platform_text(&stored.record.platform),
            Size(stored.record.squashfs.size).to_string(),
            ago(listed.added),
            if stored.read_only { "site" } else { "own" }.to_string(),
        ]
    };
    names.into_iter().map(row).collect()
}

fn as_json(listed: &Listed) -> serde_json::Value {
    let record = &listed.stored.record;
    serde_json::json!({
        "references": listed.references,
        "digest": listed.stored.digest,
        "path": listed.stored.path,
        "platform": platform_text(&record.platform),
        "size": record.squashfs.size,
        "content_bytes": record.squashfs.content_bytes,
        "created": record.created,
        "added": text_of(listed.added),
        "used": text_of(listed.used),
        "read_only": listed.stored.read_only,
        "labels": record.config.labels,
    })
}
