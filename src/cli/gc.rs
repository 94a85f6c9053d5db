//! `carrack gc`: frees space by rules.

mod of_job;

use super::{Common, output};
use crate::config::{Age, Size};
use crate::error::Result;
use crate::image::store::gc::{Decision, Rules, decide};
use crate::image::store::jobs_named;
use std::process::ExitCode;
use std::time::SystemTime;

/// Free space: leftovers, converted layers over the cache's size, and images by rule
///
/// Without options no image is removed. An image that a queued or running job needs always stays.
#[derive(clap::Args)]
pub struct Args {
    /// Remove images that were not used for AGE, e.g. 30d, 12h
    #[arg(long, value_name = "AGE")]
    older_than: Option<Age>,
    /// Remove images that no reference names
    #[arg(long, alias = "dangling")]
    unnamed: bool,
    /// Shrink the cache of converted layers to SIZE; 0 empties it [default: `store.cache_size`, 50G]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Size>,
    /// Remove what profiles made for this job alone (`scratch`) and nothing else; root in an epilog does it as the job's user
    #[arg(long, value_name = "JOB", conflicts_with_all = ["older_than", "unnamed", "cache_size"])]
    job: Option<String>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    if let Some(job) = &args.job {
        return of_job::remove(job, &args.common, args.dry_run);
    }
    let quiet = Common {
        quiet: args.common.quiet || args.json,
        ..args.common.clone()
    };
    of_job::sweep(&quiet, args.dry_run)?;
    let store = args.common.open_store()?;
    let rules = Rules {
        older_than: args.older_than.map(|age| age.0),
        unnamed: args.unnamed,
        packs_limit: args
            .cache_size
            .map_or(store.place().packs_limit, |size| size.0),
    };
    let mut inventory = store.inventory();
    let mut decision = decide(&inventory, &rules, SystemTime::now());
    if !args.dry_run {
        // First, for it needs no room and nobody's permission; what others left in a shared store stays.
        decision.leftovers = store.clean();
        store.sweep(&decision)?;
    }
    if args.json {
        output::print_json(&as_json(&decision, args.dry_run))?;
    } else if !args.common.quiet {
        output::print(&as_text(&decision, args.dry_run))?;
    }
    if let Some(error) = inventory.unreadable.pop() {
        return Err(error.while_doing("cannot look through the whole store"));
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(decision: &Decision, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    if decision.leftovers > 0 {
        text.push_str(&format!(
            "{verb} what interrupted commands left: {}\n",
            Size(decision.leftovers)
        ));
    }
    for gone in &decision.images {
        let names = if gone.references.is_empty() {
            String::new()
        } else {
            format!(" {}", gone.references.join(" "))
        };
        text.push_str(&format!("{verb} {}{names}: {}\n", gone.name, gone.why));
    }
    for gone in &decision.packs {
        text.push_str(&format!(
            "{verb} converted layer {}: {}\n",
            gone.name, gone.why
        ));
    }
    for (digest, jobs) in &decision.kept {
        let need = if jobs.len() == 1 { "needs" } else { "need" };
        text.push_str(&format!("kept {digest}: {} {need} it\n", jobs_named(jobs)));
    }
    let freed = if dry_run { "would be freed" } else { "freed" };
    text + &format!("{} {freed}\n", Size(decision.bytes()))
}

fn as_json(decision: &Decision, dry_run: bool) -> serde_json::Value {
    let gone = |list: &[crate::image::store::gc::Gone]| -> Vec<serde_json::Value> {
        let one = |gone: &crate::image::store::gc::Gone| serde_json::json!({ "name": gone.name, "references": gone.references, "bytes": gone.bytes, "why": gone.why });
        list.iter().map(one).collect()
    };
    let kept = |(digest, jobs): &(crate::image::digest::Digest, Vec<String>)| serde_json::json!({ "digest": digest, "jobs": jobs });
    serde_json::json!({
        "dry_run": dry_run,
        "images": gone(&decision.images),
        "packs": gone(&decision.packs),
        "leftovers": decision.leftovers,
        "kept": decision.kept.iter().map(kept).collect::<Vec<_>>(),
        "bytes": decision.bytes(),
    })
}
