//! What one task of a step found out about its image, for the other tasks of the node.
//!
//! Without this every task would ask the shared file system for the same reference, record and file. The answer lies in
//! the user's private directory in this node's memory, under the name of those who will share the capsule, for as long as
//! the capsule lives; a broken one is no answer.

use crate::error::{Error, Result};
use crate::launch::capsule::once_per_step;
use crate::launch::facts::HostFacts;
use crate::launch::plan::Found;
use crate::launch::sharing::sharing;
use crate::launch::step::{Check, Image};
use crate::record::ImageRecord;
use carrack_slurm::step::Step as SlurmStep;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

#[derive(Serialize, Deserialize)]
struct Answer {
    path: Vec<u8>,
    offset: u64,
    checked: bool,
    name: String,
    reference: String,
    record: ImageRecord,
}

/// Asks `find`, or whoever asked before among those who will share a capsule. `place` is what the answer depends on
/// besides the name: the store, and the directory that relative names start at. `caller` is this process.
pub fn once(
    name: &str,
    capsule: Option<&str>,
    place: &[&[u8]],
    caller: &HostFacts,
    find: impl Fn() -> Result<Found>,
) -> Result<Found> {
    let slurm = SlurmStep::read(|name| Some(caller.variable(name)?.to_str()?.to_string()));
    let Some((job, scope)) = sharing(capsule, caller, slurm.as_ref()).scope else {
        return find();
    };
    let mut hasher = DefaultHasher::new();
    (name, place, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    let question = format!("image{:016x}", hasher.finish());
    let fetched = once_per_step(&job, &scope, &question, || encode(&find()?));
    match fetched {
        Ok(bytes) => match decode(&bytes) {
            Some(found) => Ok(found),
            None => find(),
        },
        // A directory has nothing to look up; everything else said why it failed.
        Err(error) if error.what() == UNSHARED => find(),
        Err(error) => Err(error),
    }
}

const UNSHARED: &str = "an unpacked image is not looked up";

fn encode(found: &Found) -> Result<Vec<u8>> {
    let Image::Squashfs {
        path,
        offset,
        check,
        name,
    } = &found.image
    else {
        return Err(Error::new(UNSHARED));
    };
    let answer = Answer {
        path: path.as_os_str().as_bytes().to_vec(),
        offset: *offset,
        checked: check.is_some(),
        name: name.clone(),
        reference: found.reference.clone(),
        record: found.record.clone(),
    };
    serde_json::to_vec(&answer)
        .map_err(|error| Error::new("cannot share what was found of the image").source(error))
}

fn decode(bytes: &[u8]) -> Option<Found> {
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let check = answer
        .checked
        .then(|| Check(answer.record.squashfs.clone()));
    let path = OsString::from_vec(answer.path).into();
    Some(Found {
        image: Image::Squashfs {
            path,
            offset: answer.offset,
            check,
            name: answer.name,
        },
        record: answer.record,
        reference: answer.reference,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(image: Image) -> Found {
        let record = ImageRecord {
            reference: "r".into(),
            ..Default::default()
        };
        Found {
            image,
            record,
            reference: "debian".into(),
        }
    }

    #[test]
    fn an_answer_there_and_back() {
        let record = crate::record::Squashfs {
            size: 7,
            ..Default::default()
        };
        let path = OsString::from_vec(b"/s/\xff.sqsh".to_vec()).into();
        let mut found = found(Image::Squashfs {
            path,
            offset: 4096,
            check: Some(Check(record.clone())),
            name: "n".into(),
        });
        found.record.squashfs = record;
        let back = decode(&encode(&found).unwrap()).unwrap();
        assert_eq!(
            (&back.image, &back.record, &back.reference),
            (&found.image, &found.record, &found.reference)
        );
    }

    #[test]
    fn what_is_no_answer() {
        assert!(decode(b"{").is_none());
        assert!(encode(&found(Image::Directory { path: "/x".into() })).is_err());
    }
}
