//! A run record as a Workflow Run RO-Crate: a directory that archives and workflow hubs understand.
//!
//! Deliberately absent: the image and the results themselves. The crate names them; copying terabytes is not its part.

use super::files;
use super::run_record::RunRecord;
use crate::error::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

pub const METADATA: &str = "ro-crate-metadata.json";
const PROFILE: &str = "https://w3id.org/ro/wfrun/process/0.5";

/// Writes the crate's directory: metadata, record and, if it is at hand, the script.
pub fn export(
    record: &RunRecord,
    path: &Path,
    script: Option<&Path>,
    directory: &Path,
) -> Result<()> {
    std::fs::create_dir_all(directory)
        .or_say(|| format!("cannot make the directory `{}`", directory.display()))?;
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, directory.join(name)).or_say(|| {
            format!(
                "cannot copy `{}` into `{}`",
                from.display(),
                directory.display()
            )
        })
    };
    copy(path, "record.json")?;
    let script = script.filter(|script| script.is_file());
    if let Some(script) = script {
        copy(script, "script.sh")?;
    }
    files::write_json(
        &directory.join(METADATA),
        &metadata(record, script.is_some()),
    )
}

fn metadata(record: &RunRecord, with_script: bool) -> Value {
    let mut parts = vec![json!({"@id": "record.json"})];
    if with_script {
        parts.push(json!({"@id": "script.sh"}));
    }
    let actions: Vec<Value> = (0..record.steps.len())
        .map(|index| json!({"@id": format!("#step-{index}")}))
        .collect();
    let mut graph = vec![
        json!({
            "@id": METADATA, "@type": "CreativeWork",
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"}, "about": {"@id": "./"},
        }),
        json!({
            "@id": "./", "@type": "Dataset",
            "name": format!("Run of job {} ({})", record.job.id, record.job.name),
            "description": format!("Job {} on {}: {}", record.job.id, record.job.cluster, record.state),
            "datePublished": record.end,
            "license": "https://spdx.org/licenses/CC0-1.0",
            "conformsTo": {"@id": PROFILE},
            "hasPart": parts,
            "mentions": actions,
        }),
        json!({"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}),
        json!({"@id": "record.json", "@type": "File", "name": "carrack's run record", "encodingFormat": "application/json"}),
        json!({"@id": "#user", "@type": "Person", "name": record.job.user}),
        json!({
            "@id": "#carrack", "@type": "SoftwareApplication", "name": "carrack",
            "softwareVersion": record.versions.get("carrack"),
        }),
    ];
    if with_script {
        graph.push(json!({
            "@id": "script.sh", "@type": ["File", "SoftwareSourceCode"], "name": "the job's script", "sha256": record.script.sha256,
        }));
    }
    if let Some(image) = &record.image {
        graph.push(json!({
            "@id": "#image", "@type": "ContainerImage", "name": image.reference,
            "identifier": image.manifest_digest, "sha256": image.manifest_digest.trim_start_matches("sha256:"),
        }));
    }
    for (index, step) in record.steps.iter().enumerate() {
        let mut action = json!({
            "@id": format!("#step-{index}"), "@type": "CreateAction", "name": step.name,
            "description": step.argv.join(" "),
            "startTime": step.start, "endTime": step.end,
            "actionStatus": if step.exit_code == 0 {
                "http://schema.org/CompletedActionStatus"
            } else {
                "http://schema.org/FailedActionStatus"
            },
            "agent": {"@id": "#user"}, "instrument": {"@id": "#carrack"},
        });
        if step.exit_code != 0
            && let Some(map) = action.as_object_mut()
        {
            map.insert(
                "error".to_string(),
                json!(format!("exit code {}", step.exit_code)),
            );
        }
        if step.image.is_some()
            && record.image.is_some()
            && let Some(map) = action.as_object_mut()
        {
            map.insert("containerImage".to_string(), json!({"@id": "#image"}));
        }
        graph.push(action);
    }
    json!({
        "@context": ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"],
        "@graph": graph,
    })
}

#[cfg(test)]
mod tests {
    use super::super::run_record::{Image, Step};
    use super::*;

    #[test]
    fn every_entity_that_is_named_is_described() {
        let record = RunRecord {
            image: Some(Image::default()),
            steps: vec![Step {
                image: Some("x".to_string()),
                exit_code: 3,
                ..Step::default()
            }],
            ..RunRecord::default()
        };
        let text = metadata(&record, true);
        let graph = text["@graph"].as_array().expect("a graph");
        let known: Vec<&str> = graph
            .iter()
            .filter_map(|entity| entity["@id"].as_str())
            .collect();
        fn named<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) if map.len() == 1 => {
                    found.extend(map.get("@id").and_then(Value::as_str))
                }
                Value::Object(map) => map.values().for_each(|value| named(value, found)),
                Value::Array(values) => values.iter().for_each(|value| named(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        named(&text, &mut found);
        for id in found
            .iter()
            .filter(|id| !id.starts_with("https://w3id.org/ro/crate"))
        {
            assert!(known.contains(id), "{id} is named but not described");
        }
        assert!(found.contains(&"#image"));
    }
}
