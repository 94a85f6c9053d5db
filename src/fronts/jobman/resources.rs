//! Kubernetes' resources in sbatch's options: `{"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": 1}}`.

use crate::config::Flavor;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// More than any node has.
const MOST: u64 = 1 << 50;

/// The sbatch options of a `resources` object. Limits count where both name something.
pub fn options_of(resources: &Value) -> Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    let Some(resources) = resources.as_object() else {
        return match resources {
            Value::Null => Ok(options),
            _ => Err(Error::usage("the resources are no JSON object")),
        };
    };
    for key in resources.keys() {
        if !matches!(key.as_str(), "requests" | "limits") {
            return Err(
                Error::usage(format!("unknown key `{key}` of the resources"))
                    .hint("`requests` and `limits` are known"),
            );
        }
    }
    for part in ["requests", "limits"] {
        let entries = match resources.get(part) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(entries)) => entries,
            Some(_) => return Err(Error::usage(format!("`{part}` is no JSON object"))),
        };
        for (name, value) in entries {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Err(not_understood(name, &value.to_string())),
            };
            let (option, value) = one(name, &text)?;
            if let Some(value) = value {
                options.insert(option.to_string(), value);
            }
        }
    }
    Ok(options)
}

fn not_understood(name: &str, text: &str) -> Error {
    Error::usage(format!("cannot understand `{text}` as `{name}`"))
}

fn one(name: &str, text: &str) -> Result<(&'static str, Option<String>)> {
    let wrong = || not_understood(name, text);
    match name {
        "cpu" => {
            let cores = match text.strip_suffix('m') {
                Some(thousandths) => thousandths
                    .parse::<u64>()
                    .map_err(|_| wrong())?
                    .div_ceil(1000),
                None => {
                    let cores: f64 = text.parse().map_err(|_| wrong())?;
                    if !(0.0..=65536.0).contains(&cores) {
                        return Err(wrong());
                    }
                    cores.ceil() as u64
                }
            };
            Ok(("cpus-per-task", Some(cores.max(1).to_string())))
        }
        "memory" => Ok(("mem", Some(memory(text).ok_or_else(wrong)?))),
        // Containers have no disk of their own here; what they write is in memory.
        "ephemeral-storage" => Ok(("", None)),
        gpu if gpu.ends_with("/gpu") => {
            let count: u32 = text.parse().map_err(|_| wrong())?;
            Ok(("gres", (count > 0).then(|| format!("gpu:{count}"))))
        }
        _ => Err(Error::usage(format!("unknown resource `{name}`"))
            .hint("`cpu`, `memory` and `nvidia.com/gpu` are known")),
    }
}

/// `28Gi`, `1G`, `512M` or bytes; sbatch counts in 1024s, and a bit more is better than a bit less.
fn memory(text: &str) -> Option<String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().ok()?;
    let unit: f64 = match text.strip_prefix(digits)? {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        _ => return None,
    };
    let bytes = number * unit;
    if !(1.0..=MOST as f64).contains(&bytes) {
        return None;
    }
    let megabytes = (bytes / 1024f64.powi(2)).ceil() as u64;
    Some(match megabytes % 1024 {
        0 => format!("{}G", megabytes / 1024),
        _ => format!("{megabytes}M"),
    })
}

/// A row of `jobman resources-flavors`: name, cores, memory, GPUs, description.
pub fn shown(name: &str, flavor: &Flavor) -> Vec<String> {
    let option = |names: &[&str]| {
        let found = names.iter().find_map(|name| flavor.options.get(*name));
        found.cloned().unwrap_or_else(|| "-".into())
    };
    let gpus = option(&["gres", "gpus", "gpus-per-node"]);
    vec![
        match flavor.is_default {
            true => format!("{name} (default)"),
            false => name.to_string(),
        },
        option(&["cpus-per-task"]),
        option(&["mem"]),
        gpus.strip_prefix("gpu:").unwrap_or(&gpus).to_string(),
        option(&["time"]),
        flavor.description.clone(),
    ]
}
