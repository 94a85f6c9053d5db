//! One document, versions 0.3 to 1.1, from JSON or YAML that was already turned into values.

use crate::elf::Version;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The newest version that this was written for; later ones are read as far as they are known.
const NEWEST: [u32; 2] = [1, 1];
const OLDEST: [u32; 2] = [0, 3];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Specification {
    pub file: String,
    /// Which of the directories it lies in: a later one wins.
    pub directory: usize,
    /// `vendor/class`.
    pub kind: String,
    /// For every device of the document.
    pub common: Edits,
    pub devices: BTreeMap<String, Edits>,
}

/// What a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    pub environment: Vec<String>,
    pub nodes: Vec<Node>,
    pub mounts: Vec<Mount>,
    pub hooks: Vec<Hook>,
    pub groups: Vec<u32>,
}

impl Edits {
    pub fn add(&mut self, other: &Edits) {
        fn extend<T: PartialEq + Clone>(list: &mut Vec<T>, more: &[T]) {
            for item in more {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        extend(&mut self.environment, &other.environment);
        extend(&mut self.nodes, &other.nodes);
        extend(&mut self.mounts, &other.mounts);
        extend(&mut self.hooks, &other.hooks);
        extend(&mut self.groups, &other.groups);
    }
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub path: PathBuf,
    /// Where the host has it.
    pub host: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    pub host: PathBuf,
    pub container: PathBuf,
    pub read_only: bool,
    /// Nothing of the host but an empty directory.
    pub tmpfs: bool,
    /// The library's own name, if it is one; looked up on the node.
    pub soname: Option<String>,
    /// Whether the host has it; looked up on the node.
    pub there: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    pub stage: String,
    pub program: String,
    pub arguments: Vec<String>,
}

/// Reads a document. What it says beyond our knowledge is added to `notes`.
pub fn read(value: &Value, file: &str, notes: &mut Vec<String>) -> Result<Specification> {
    let mut reader = Reader { file, notes };
    reader.known(
        value,
        "the document",
        &[
            "cdiVersion",
            "kind",
            "annotations",
            "devices",
            "containerEdits",
        ],
    );
    reader.version(value);
    let kind = text(value, "kind").unwrap_or_default();
    let plain = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte))
    };
    let is_kind = kind
        .split_once('/')
        .is_some_and(|(vendor, class)| plain(vendor) && plain(class));
    if !is_kind {
        return Err(Error::new(format!("cannot use `{file}`"))
            .cause(format!("`{kind}` is not a kind like `vendor.com/class`")));
    }
    let common = reader.edits(value.get("containerEdits"));
    let mut devices = BTreeMap::new();
    for device in list(value, "devices") {
        reader.known(
            device,
            "a device",
            &["name", "annotations", "containerEdits"],
        );
        let name = match device.get("name") {
            // YAML reads the name of device 0 as a number.
            Some(Value::Number(number)) => number.to_string(),
            other => other
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_string(),
        };
        if plain(&name) {
            let edits = reader.edits(device.get("containerEdits"));
            devices.insert(name, edits);
        } else {
            reader.note(format!("`{name}` is not a name for a device"));
        }
    }
    Ok(Specification {
        file: file.to_string(),
        directory: 0,
        kind: kind.to_string(),
        common,
        devices,
    })
}

struct Reader<'a> {
    file: &'a str,
    notes: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn note(&mut self, text: String) {
        let note = format!("`{}`: {text}", self.file);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn known(&mut self, value: &Value, what: &str, keys: &[&str]) {
        for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
            if !keys.contains(&key.as_str()) {
                self.note(format!("`{key}` of {what} is not known and left out"));
            }
        }
    }

    fn version(&mut self, value: &Value) {
        let text = text(value, "cdiVersion").unwrap_or_default();
        match Version::parse(text) {
            None => self.note("it has no `cdiVersion`".into()),
            Some(version) if version.0 < OLDEST.to_vec() => {
                self.note(format!("version {text} is older than 0.3"));
            }
            Some(version) if version.0.iter().take(2).gt(NEWEST.iter()) => {
                self.note(format!(
                    "version {text} is newer than 1.1; read as far as known"
                ));
            }
            Some(_) => {}
        }
    }

    fn edits(&mut self, value: Option<&Value>) -> Edits {
        let Some(value) = value else {
            return Edits::default();
        };
        self.known(
            value,
            "containerEdits",
            &[
                "env",
                "deviceNodes",
                "mounts",
                "hooks",
                "additionalGids",
                "additionalGIDs",
            ],
        );
        let mut edits = Edits::default();
        for entry in list(value, "env") {
            match entry.as_str() {
                Some(entry) if entry.find('=').is_some_and(|at| at > 0) => {
                    edits.environment.push(entry.to_string());
                }
                _ => self.note(format!("`{entry}` is not NAME=VALUE")),
            }
        }
        for node in list(value, "deviceNodes") {
            // Type, numbers and modes are those of the host's node, which is shown as it is.
            let keys = [
                "path",
                "hostPath",
                "type",
                "major",
                "minor",
                "fileMode",
                "permissions",
                "uid",
                "gid",
            ];
            self.known(node, "a device node", &keys);
            match text(node, "path") {
                Some(path) => edits.nodes.push(Node {
                    path: path.into(),
                    host: text(node, "hostPath").unwrap_or(path).into(),
                }),
                None => self.note("a device node has no `path`".into()),
            }
        }
        for mount in list(value, "mounts") {
            self.known(
                mount,
                "a mount",
                &["hostPath", "containerPath", "options", "type"],
            );
            let option =
                |name: &str| list(mount, "options").any(|option| option.as_str() == Some(name));
            let kind = text(mount, "type").unwrap_or("bind");
            match (text(mount, "hostPath"), text(mount, "containerPath")) {
                (Some(host), Some(container)) if matches!(kind, "bind" | "none" | "tmpfs" | "") => {
                    edits.mounts.push(Mount {
                        host: host.into(),
                        container: container.into(),
                        read_only: option("ro"),
                        tmpfs: kind == "tmpfs",
                        soname: None,
                        there: true,
                    });
                }
                (Some(_), Some(container)) => {
                    self.note(format!("a `{kind}` at {container} cannot be mounted"));
                }
                _ => self.note("a mount lacks `hostPath` or `containerPath`".into()),
            }
        }
        for hook in list(value, "hooks") {
            let keys = ["hookName", "path", "args", "env", "timeout"];
            self.known(hook, "a hook", &keys);
            let words = list(hook, "args").filter_map(|word| word.as_str());
            edits.hooks.push(Hook {
                stage: text(hook, "hookName").unwrap_or_default().to_string(),
                program: text(hook, "path").unwrap_or_default().to_string(),
                arguments: words.map(str::to_string).collect(),
            });
        }
        for key in ["additionalGids", "additionalGIDs"] {
            let numbers = list(value, key).filter_map(Value::as_u64);
            edits
                .groups
                .extend(numbers.filter_map(|gid| u32::try_from(gid).ok()));
        }
        edits
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    let list = value.get(key).and_then(Value::as_array);
    list.into_iter().flatten()
}
