//! What GEF's interface shows of services, in its own field names.

use super::output;
use super::table::table;
use crate::error::{Error, Result, printable};
use crate::image::store::Stored;
use crate::launch::ports::{Port, Service};
use serde_json::{Value, json};

/// An image as a service.
pub fn service(stored: &Stored, as_json: bool) -> Result<()> {
    let record = &stored.record;
    let Some(service) = Service::read(&record.config.labels) else {
        return Err(
            Error::new(format!("`{}` is no service of GEF", record.reference))
                .cause("it has no labels that begin with `eudat.gef.service.`"),
        );
    };
    for label in &service.ignored {
        tracing::warn!("the label `{label}` means nothing to GEF");
    }
    if as_json {
        return output::print_json(&json!({
            "Service": {
                "ID": stored.digest.hex(),
                "ImageID": record.manifest_digest,
                "Name": service.name,
                "RepoTag": record.reference,
                "Description": service.description,
                "Version": service.version,
                "Cmd": record.config.cmd,
                "Created": record.created,
                "Size": record.squashfs.size,
                "Input": ports(&service.inputs),
                "Output": ports(&service.outputs),
            }
        }));
    }
    let mut rows = Vec::new();
    for (what, value) in [
        ("name", &service.name),
        ("version", &service.version),
        ("description", &service.description),
    ] {
        if !value.is_empty() {
            rows.push(vec![what.to_string(), value.clone()]);
        }
    }
    for port in service.inputs.iter().chain(&service.outputs) {
        let kind = match port.kind.as_str() {
            "" => String::new(),
            kind => format!(" ({kind})"),
        };
        rows.push(vec![
            port.id.clone(),
            format!("{}{kind} {}", port.path, port.name),
        ]);
    }
    output::print(&printable(&table(&rows)))
}

fn ports(ports: &[Port]) -> Vec<Value> {
    let one = |port: &Port| {
        json!({
            "ID": port.id,
            "Name": port.name,
            "Path": port.path,
            "Type": port.kind,
            "FileName": port.file_name,
        })
    };
    ports.iter().map(one).collect()
}
