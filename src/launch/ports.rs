//! Services with ports, as the Generic Execution Framework (GEF) writes them into an image's labels: inputs and outputs are
//! directories of the image, which are mounted for each job.
//!
//! Labels are read by GEF's own rules. A value is something of this machine by the time it arrives here: texts, addresses
//! and identifiers were made files by the front (`cli/staging.rs`). Touches nothing.

use super::contract::Filler;
use super::facts::HostFacts;
use super::inside::InsidePath;
use super::mounts::{Placed, What};
use super::profile::Profile;
use super::request::Request;
use super::step::{Access, Missing};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PREFIX: &str = "eudat.gef.service.";

/// Where outputs go that nobody gave a place.
const OUTPUTS: &str = "{home}/outputs_{job}";

/// What the labels of an image say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub description: String,
    pub version: String,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// Labels with GEF's prefix that mean nothing, in order.
    pub ignored: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// `input0`, `output1`: numbered anew, without gaps.
    pub id: String,
    pub name: String,
    pub path: String,
    pub kind: String,
    pub file_name: String,
}

impl Port {
    /// A text that is written to a file; everything else is a path or an address, also where the type is missing.
    pub fn is_text(&self) -> bool {
        self.kind.eq_ignore_ascii_case("string")
    }

    /// Whether a person means this one: by number, id or name.
    fn is_called(&self, word: &str, number: usize) -> bool {
        word == self.id
            || (!self.name.is_empty() && word == self.name)
            || word == number.to_string()
    }
}

impl Service {
    /// Reads labels; `None` where an image has none of GEF's.
    pub fn read(labels: &BTreeMap<String, String>) -> Option<Service> {
        let mut service = Service::default();
        let mut inputs: BTreeMap<u8, Port> = BTreeMap::new();
        let mut outputs: BTreeMap<u8, Port> = BTreeMap::new();
        let mut any = false;
        for (label, value) in labels {
            let Some(key) = label.strip_prefix(PREFIX) else {
                continue;
            };
            any = true;
            match key {
                "name" => service.name.clone_from(value),
                "description" => service.description.clone_from(value),
                "version" => service.version.clone_from(value),
                _ => {
                    if !port(key, value, &mut inputs, &mut outputs) {
                        service.ignored.push(label.clone());
                    }
                }
            }
        }
        service.inputs = numbered("input", inputs);
        service.outputs = numbered("output", outputs);
        any.then_some(service)
    }
}

/// `input.<n>.<key>`; false for anything else.
fn port(
    key: &str,
    value: &str,
    inputs: &mut BTreeMap<u8, Port>,
    outputs: &mut BTreeMap<u8, Port>,
) -> bool {
    let fields: Vec<&str> = key.split('.').collect();
    let [direction, number, key] = fields.as_slice() else {
        return false;
    };
    // GEF's reader takes digits only: `+1` and ` 1` are no numbers.
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let Some(number) = number.parse::<u8>().ok().filter(|_| digits) else {
        return false;
    };
    let (ports, is_input) = match *direction {
        "input" => (inputs, true),
        "output" => (outputs, false),
        _ => return false,
    };
    let known = match *key {
        "name" | "path" => true,
        "type" | "filename" => is_input,
        _ => false,
    };
    if !known {
        return false;
    }
    let port = ports.entry(number).or_default();
    let field = match *key {
        "name" => &mut port.name,
        "path" => &mut port.path,
        "type" => &mut port.kind,
        _ => &mut port.file_name,
    };
    *field = value.to_string();
    true
}

/// Ports without a path are dropped, the others numbered anew.
fn numbered(prefix: &str, ports: BTreeMap<u8, Port>) -> Vec<Port> {
    let with_path = ports.into_values().filter(|port| !port.path.is_empty());
    with_path
        .enumerate()
        .map(|(number, port)| Port {
            id: format!("{prefix}{number}"),
            ..port
        })
        .collect()
}

/// Each input port with its value. The numbers must be equal, as GEF has it.
pub fn assign<'a>(
    service: &'a Service,
    given: &'a [(String, String)],
) -> Result<Vec<(&'a Port, &'a str)>> {
    let values = find(&service.inputs, given, "input")?;
    if values.len() != service.inputs.len() {
        let names: Vec<String> = service
            .inputs
            .iter()
            .map(|port| match port.name.as_str() {
                "" => port.id.clone(),
                name => format!("{} ({name})", port.id),
            })
            .collect();
        return Err(Error::usage("Input source number mismatch")
            .cause(format!(
                "{} given, but the image has {}{}{}",
                values.len(),
                service.inputs.len(),
                if names.is_empty() { "" } else { ": " },
                names.join(", ")
            ))
            .hint("`--input NUMBER=VALUE` for each; `carrack inspect --gef IMAGE` shows them"));
    }
    Ok(values)
}

fn find<'a>(
    ports: &'a [Port],
    given: &'a [(String, String)],
    what: &str,
) -> Result<Vec<(&'a Port, &'a str)>> {
    let mut found: Vec<(&Port, &str)> = Vec::new();
    for (word, value) in given {
        let port = ports
            .iter()
            .enumerate()
            .find(|(number, port)| port.is_called(word, *number))
            .map(|(_, port)| port)
            .ok_or_else(|| {
                let known: Vec<&str> = ports.iter().map(|port| port.id.as_str()).collect();
                Error::usage(format!("the image has no {what} `{word}`")).cause(
                    match known.is_empty() {
                        true => format!("its labels name no {what}"),
                        false => format!("its labels name: {}", known.join(", ")),
                    },
                )
            })?;
        if found.iter().any(|(known, _)| known.id == port.id) {
            return Err(Error::usage(format!("`{}` was given twice", port.id)));
        }
        found.push((port, value));
    }
    Ok(found)
}

/// The mounts of a service's ports, for profiles that follow GEF and for whoever names a port.
pub fn mounts(
    request: &Request,
    profile: &Profile,
    facts: &HostFacts,
    labels: &BTreeMap<String, String>,
) -> Result<Vec<Placed>> {
    let asked = !request.inputs.is_empty() || !request.outputs.is_empty();
    if !asked && !profile.follows("gef") {
        return Ok(Vec::new());
    }
    let service = match Service::read(labels) {
        Some(service) => service,
        None if asked => {
            return Err(Error::usage("the image has no ports").cause(format!(
                "its labels have nothing that begins with `{PREFIX}`"
            )));
        }
        None => return Ok(Vec::new()),
    };
    let mut all = Vec::new();
    for (port, value) in assign(&service, &request.inputs)? {
        let at = target(port)?;
        let (from, at) = source(port, value, &at)?;
        all.push(bind(from, at, Access::ReadOnly, Missing::Fail));
    }
    let chosen = find(&service.outputs, &request.outputs, "output")?;
    for port in &service.outputs {
        let own = chosen.iter().find(|(known, _)| known.id == port.id);
        let from = match own {
            Some((_, directory)) => facts.absolute(Path::new(directory)),
            None => {
                let filler = Filler {
                    facts,
                    dataset: None,
                    scratch: None,
                };
                let last = match super::contract::is_plain(&port.name) {
                    true => &port.name,
                    false => &port.id,
                };
                Path::new(&filler.fill(OUTPUTS)?).join(last)
            }
        };
        all.push(bind(
            from,
            target(port)?,
            Access::ReadWrite,
            Missing::MakeDirectory,
        ));
    }
    Ok(all)
}

/// Where a job's outputs are on the host, for those who look for them later.
pub fn outputs_of(facts: &HostFacts) -> Result<PathBuf> {
    let filler = Filler {
        facts,
        dataset: None,
        scratch: None,
    };
    Ok(PathBuf::from(filler.fill(OUTPUTS)?))
}

fn bind(from: PathBuf, at: InsidePath, access: Access, missing: Missing) -> Placed {
    Placed {
        at,
        what: What::Bind {
            from,
            access,
            missing,
        },
    }
}

/// A port's directory in the image. The label is the image's: what it must not cover is checked as for anybody's mount.
fn target(port: &Port) -> Result<InsidePath> {
    let wrong = || {
        format!(
            "cannot use the path `{}` of the port `{}`",
            port.path, port.id
        )
    };
    let at = InsidePath::new(&port.path).map_err(|error| error.while_doing(wrong()))?;
    let closed = ["/proc", "/sys", "/dev"];
    if at.is_root() || closed.iter().any(|path| at.as_path().starts_with(path)) {
        return Err(Error::usage(wrong()).cause("a capsule needs what is there"));
    }
    Ok(at)
}

/// `file:/x/` is a directory that is shown as the port, `file:/x` a file in it.
fn source(port: &Port, value: &str, at: &InsidePath) -> Result<(PathBuf, InsidePath)> {
    let Some(path) = value
        .strip_prefix("file:")
        .filter(|path| path.starts_with('/'))
    else {
        return Err(Error::usage(format!("the value `{value}` of `{}` is not on this machine", port.id))
            .cause("texts, addresses and identifiers are made files on the login node, before a job starts")
            .hint("start it with `carrack run` or `carrack submit` there"));
    };
    if path.ends_with('/') {
        return Ok((PathBuf::from(path), at.clone()));
    }
    let from = PathBuf::from(path);
    let name = match port.file_name.as_str() {
        "" => from.file_name().unwrap_or_default().to_os_string(),
        name => name.into(),
    };
    let inside = InsidePath::new(at.as_path().join(name))?;
    if !inside.as_path().starts_with(at.as_path()) || inside == *at {
        return Err(Error::usage(format!(
            "cannot use the file name `{}` of the port `{}`",
            port.file_name, port.id
        )));
    }
    Ok((from, inside))
}

/// `NUMBER|NAME=VALUE` of the options `input` and `output`.
pub fn parse(word: &str) -> Result<(String, String)> {
    match word.split_once('=') {
        Some((port, value)) if !port.is_empty() && !value.is_empty() => {
            Ok((port.to_string(), value.to_string()))
        }
        _ => Err(Error::usage(format!("cannot understand the port `{word}`"))
            .hint("write `NUMBER=VALUE` or `NAME=VALUE`")),
    }
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
