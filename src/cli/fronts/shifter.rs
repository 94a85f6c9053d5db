//! `shifter` and `shifterimg`.

use super::{begin, carrack};
use crate::cli::output;
use crate::error::Result;
use crate::fronts::shifter::{self, Becomes, Line};
use crate::image::pull::host_platform;
use crate::image::store::text_of;
use crate::launch::probe;
use std::process::ExitCode;

pub fn run(words: &[String]) -> Result<ExitCode> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let image = variable("SHIFTER_IMAGE").or_else(|| variable("CARRACK_IMAGE"));
    match shifter::shifter(words, image.as_deref())? {
        Becomes::Words(words) => carrack(&words),
        _ => said(shifter::HELP),
    }
}

pub fn images(words: &[String]) -> Result<ExitCode> {
    match shifter::shifterimg(words)? {
        Becomes::Words(words) => carrack(&words),
        Becomes::Steps(steps) => {
            for words in steps {
                carrack(&words)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Becomes::Images => list(),
        Becomes::Lookup(name) => lookup(&name),
        Becomes::Help => said(shifter::IMAGES_HELP),
    }
}

fn said(text: &str) -> Result<ExitCode> {
    output::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn list() -> Result<ExitCode> {
    let (common, settings) = begin(false)?;
    let listing = common.store_of(&settings)?.list();
    let system = match std::env::var("SLURM_CLUSTER_NAME") {
        Ok(name) if !name.is_empty() => name,
        _ => probe::node_name(),
    };
    let mut rows = Vec::new();
    for listed in &listing.images {
        let date = text_of(listed.added);
        let id = listed.stored.digest.hex();
        for name in &listed.references {
            rows.push((
                date.trim_end_matches('Z').to_string(),
                id.clone(),
                name.clone(),
            ));
        }
    }
    rows.sort_by(|a, b| a.2.cmp(&b.2));
    let lines: Vec<Line> = rows
        .iter()
        .map(|(date, id, name)| Line {
            system: &system,
            id,
            date,
            name,
        })
        .collect();
    output::print(&crate::error::printable(&shifter::images(&lines)))?;
    for damaged in &listing.damaged {
        damaged.error.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the digest; a script asks by the code whether the image is there.
fn lookup(name: &str) -> Result<ExitCode> {
    let (common, settings) = begin(false)?;
    let store = common.store_of(&settings)?;
    match store.find_named(name, &settings.config.registries.default, &host_platform()) {
        Ok(stored) => {
            output::print(&format!("{}\n", stored.digest.hex()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            error.print();
            Ok(ExitCode::FAILURE)
        }
    }
}
