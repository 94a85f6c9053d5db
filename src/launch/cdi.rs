//! The Container Device Interface: documents in which vendors say what a program needs to use a device.
//!
//! `document` reads one, `hook` says what the programs that it wants run would do, so that they need not be run, and
//! `apply` turns a chosen device into steps. Nothing here opens a file: the node's documents come in as facts. What a
//! document says that carrack does not know is told and left out, never a reason to fail: drivers are updated before us.

pub mod apply;
pub mod document;
pub mod hook;

pub use document::{Edits, Node, Specification};

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// The documents of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// From the directory that counts least to the one that counts most.
    pub specifications: Vec<Specification>,
    /// What could not be read or understood, each with its file.
    pub notes: Vec<String>,
    /// Where was looked.
    pub directories: Vec<String>,
}

impl Devices {
    /// `vendor/class=name`, or `=all` for every device of the class: what they need, the common part of a document once.
    pub fn find(&self, wanted: &str) -> Result<Edits> {
        let (kind, name) = wanted.split_once('=').unwrap_or((wanted, ""));
        let documents = || {
            let all = self.specifications.iter().enumerate();
            all.filter(|(_, document)| document.kind == kind)
        };
        // A later directory replaces the devices of an earlier one by name.
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, document) in documents() {
            for device in document.devices.keys() {
                if let Some(before) = known.insert(device, index)
                    && self.rank(before) == self.rank(index)
                    && (device == name || name == "all")
                {
                    return Err(self.ambiguous(wanted, before, index));
                }
            }
        }
        let chosen: Vec<(&str, usize)> = match known.get(name) {
            Some(index) => vec![(name, *index)],
            None if name == "all" && !known.is_empty() => known.into_iter().collect(),
            None => return Err(self.unknown(wanted, kind)),
        };
        let mut edits = Edits::default();
        let mut common: Vec<usize> = Vec::new();
        for (device, index) in chosen {
            let Some(document) = self.specifications.get(index) else {
                continue;
            };
            if !common.contains(&index) {
                common.push(index);
                edits.add(&document.common);
            }
            if let Some(own) = document.devices.get(device) {
                edits.add(own);
            }
        }
        Ok(edits)
    }

    /// The driver of a class of devices without any device: the common part of its documents.
    pub fn common(&self, kind: &str) -> Option<Edits> {
        let mut documents = self.specifications.iter().filter(|one| one.kind == kind);
        let mut edits = documents.next()?.common.clone();
        documents.for_each(|document| edits.add(&document.common));
        Some(edits)
    }

    /// Qualified names of all devices.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .specifications
            .iter()
            .flat_map(|document| {
                let names = document.devices.keys();
                names.map(|name| format!("{}={name}", document.kind))
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn rank(&self, index: usize) -> Option<usize> {
        self.specifications
            .get(index)
            .map(|document| document.directory)
    }

    fn ambiguous(&self, wanted: &str, one: usize, other: usize) -> Error {
        let file = |index: usize| {
            let document = self.specifications.get(index);
            document.map(|document| document.file.clone())
        };
        Error::new(format!("cannot choose the device `{wanted}`"))
            .cause(format!(
                "both `{}` and `{}` describe it",
                file(one).unwrap_or_default(),
                file(other).unwrap_or_default()
            ))
            .hint("remove one of the two, or move the one that shall win to a later directory")
    }

    fn unknown(&self, wanted: &str, kind: &str) -> Error {
        let names = self.names();
        let same: Vec<&str> = names
            .iter()
            .filter(|name| name.starts_with(&format!("{kind}=")))
            .map(String::as_str)
            .collect();
        let mut error = Error::new(format!("cannot find the device `{wanted}`"));
        error = if same.is_empty() {
            error.cause(format!(
                "no CDI document in {} describes `{kind}`",
                self.directories.join(", ")
            ))
        } else {
            error.cause(format!("this node has {}", same.join(", ")))
        };
        for note in &self.notes {
            error = error.cause(note);
        }
        error.hint("`carrack doctor --gpu` lists the devices of this node")
    }
}

#[cfg(test)]
#[path = "cdi_tests.rs"]
mod tests;
