//! The site's share of a run: its own copy of the record, its hook, and the list of what it has.

use crate::cli::hooks::{self, Event};
use crate::cli::{Common, output};
use crate::error::{Error, Result};
use crate::jobs::run_record::RunRecord;
use crate::jobs::site_records;
use std::path::{Path, PathBuf};

/// Copies a record to the site and, at the end, tells its hook. A job does not fail for want of it: what must be kept in
/// any case, the site's own epilog keeps.
pub fn tell(common: &Common, event: &str, record: &RunRecord) {
    if let Err(error) = try_to_tell(common, event, record) {
        tracing::warn!("{error}");
    }
}

fn try_to_tell(common: &Common, event: &str, record: &RunRecord) -> Result<()> {
    let settings = common.settings()?;
    if let Some(directory) = &settings.config.records.directory {
        site_records::add(Path::new(directory), event, record)?;
    }
    if event != "end" {
        return Ok(());
    }
    let image = record.image.clone().unwrap_or_default();
    let steps = record
        .steps
        .iter()
        .map(|step| serde_json::json!({ "name": step.name, "command": step.argv, "exit_code": step.exit_code }));
    hooks::ask(
        &settings,
        Event::End,
        serde_json::json!({
            "job": { "id": record.job.id, "name": record.job.name },
            "profile": record.profile,
            "project": record.project,
            "datasets": record.datasets,
            "images": [{ "reference": image.reference, "digest": image.manifest_digest, "labels": image.labels }],
            "steps": steps.collect::<Vec<_>>(),
            "exit_code": record.exit_code,
            "state": record.state,
        }),
    )
}

pub fn list(common: &Common, directory: Option<&Path>, json: bool) -> Result<()> {
    let settings = common.settings()?;
    let configured = settings
        .config
        .records
        .directory
        .as_ref()
        .map(PathBuf::from);
    let Some(directory) = directory.map(Path::to_path_buf).or(configured) else {
        return Err(Error::usage("the site keeps no records").hint(
            "`records.directory` in the site file says where; `carrack ps --all` lists your jobs",
        ));
    };
    let entries = site_records::list(&directory)?;
    if json {
        let rows = entries.iter().map(|(path, entry)| match entry {
            Ok(entry) => serde_json::json!({ "file": path, "event": entry.event, "written": entry.written, "record": entry.record }),
            Err(error) => serde_json::json!({ "file": path, "error": error.causes().join("; ") }),
        });
        return output::print_json(&rows.collect::<Vec<_>>());
    }
    let mut text = String::new();
    for (path, entry) in &entries {
        match entry {
            Ok(entry) => {
                let record = &entry.record;
                let digest = record
                    .image
                    .as_ref()
                    .map(|image| image.manifest_digest.as_str());
                text.push_str(&format!(
                    "{}  {:<5} {}  job {}  {}  {}\n",
                    entry.written,
                    entry.event,
                    record.job.user,
                    record.job.id,
                    record.state,
                    digest.unwrap_or("-"),
                ));
            }
            Err(error) => text.push_str(&format!(
                "{}: {}\n",
                path.display(),
                error.causes().join("; ")
            )),
        }
    }
    output::print(&crate::error::printable(&text))
}

pub fn verify(files: &[PathBuf]) -> Result<()> {
    for file in files {
        let entry = site_records::read(file)?;
        output::print(&format!(
            "{}: whole; {} of job {} of user {}\n",
            file.display(),
            entry.event,
            entry.record.job.id,
            entry.record.job.uid
        ))?;
    }
    Ok(())
}
