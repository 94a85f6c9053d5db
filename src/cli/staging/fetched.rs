//! What an address or a PID leads to, kept in a directory that the digest of its content names: one file, or all files of a
//! record of B2SHARE.

use super::{Staged, address, inputs};
use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::source::SourceSettings;
use crate::image::source::registry::download::{Arrived, download, plain};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More than a login node should be asked to fetch.
const LARGEST: u64 = 100 << 30;
/// A record is some kilobytes, with one entry for each file.
const LARGEST_RECORD: u64 = 16 << 20;

/// A file that has come, under the name that it will have.
struct Come {
    name: String,
    file: tempfile::NamedTempFile,
    digest: Digest,
    size: u64,
}

pub fn fetched(value: &str, sources: &SourceSettings) -> Result<Staged> {
    let address = address(value)
        .ok_or_else(|| Error::usage(format!("`{value}` is neither an address nor a PID")))?;
    let place = inputs()?;
    let what = || format!("cannot keep what `{address}` gives");
    std::fs::create_dir_all(&place).or_say(what)?;
    let come = match one(&address, &place, LARGEST, sources)? {
        Ok(come) => vec![come],
        Err(record) => all_of(&record, &place, sources)?,
    };
    for one in &come {
        tracing::info!(
            "fetched `{address}`: {}, {} bytes, {}",
            one.name,
            one.size,
            one.digest
        );
    }
    let digest = match come.as_slice() {
        [one] => one.digest,
        several => {
            let line = |one: &Come| format!("{}  {}\n", one.digest.hex(), one.name);
            Digest::of(several.iter().map(line).collect::<String>().as_bytes())
        }
    };
    let directory = place.join(digest.hex());
    std::fs::create_dir_all(&directory).or_say(what)?;
    for one in come {
        one.file.persist(directory.join(&one.name)).or_say(what)?;
    }
    Ok(Staged {
        file: format!("file:{}/", directory.display()),
        source: value.to_string(),
        sha256: digest.hex(),
        ..Staged::default()
    })
}

/// One file, or where the record is described that the address leads to.
fn one(
    address: &str,
    place: &Path,
    limit: u64,
    sources: &SourceSettings,
) -> Result<std::result::Result<Come, String>> {
    let what = || format!("cannot keep what `{address}` gives");
    let mut file = tempfile::NamedTempFile::new_in(place).or_say(what)?;
    let done = match download(address, file.as_file_mut(), limit, sources)? {
        Arrived::File(done) => done,
        Arrived::Record(described) => return Ok(Err(described)),
    };
    let digest = digest_of(file.reopen().or_say(what)?).or_say(what)?;
    Ok(Ok(Come {
        name: done.name,
        file,
        digest,
        size: done.size,
    }))
}

fn digest_of(mut file: File) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut bytes)?;
        match bytes.get(..count).filter(|read| !read.is_empty()) {
            Some(read) => hasher.update(read),
            None => return Ok(Digest::from_bytes(hasher.finalize().into())),
        }
    }
}

/// The files of a record, sorted by name.
fn all_of(described: &str, place: &Path, sources: &SourceSettings) -> Result<Vec<Come>> {
    let wrong = |why: &str| {
        Error::new(format!("cannot use the record `{described}`")).cause(why.to_string())
    };
    let mut text = Vec::new();
    download(described, &mut text, LARGEST_RECORD, sources)?;
    let record: Value =
        serde_json::from_slice(&text).map_err(|_| wrong("its description is not readable"))?;
    let files = files_of(described, &record).ok_or_else(|| wrong("it names no files"))?;
    let mut come: Vec<Come> = Vec::new();
    let mut left = LARGEST;
    for (key, address) in files {
        let Ok(file) = one(&address, place, left, sources)? else {
            return Err(wrong("one of its files is a page for people"));
        };
        left -= file.size.min(left);
        let name = plain(&key);
        if come.iter().any(|other| other.name == name) {
            return Err(wrong("two of its files have one name").cause(name));
        }
        come.push(Come { name, ..file });
    }
    come.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(come)
}

/// Names and addresses of a record's files, which lie with the record's own server.
fn files_of(described: &str, record: &Value) -> Option<Vec<(String, String)>> {
    let base = reqwest::Url::parse(described).ok()?;
    let bucket = base.join(record["links"]["files"].as_str()?).ok()?;
    if bucket.origin() != base.origin() {
        return None;
    }
    let mut files = Vec::new();
    for file in record["files"].as_array()? {
        let key = file["key"].as_str()?;
        let mut address = bucket.clone();
        address.path_segments_mut().ok()?.pop_if_empty().push(key);
        files.push((key.to_string(), address.to_string()));
    }
    (!files.is_empty()).then_some(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_of_a_record() {
        let record = |files: &str, keys: &[&str]| {
            let keys: Vec<Value> = keys.iter().map(|key| json!({ "key": key })).collect();
            files_of(
                "https://b2share.site/api/records/1",
                &json!({ "links": { "files": files }, "files": keys }),
            )
        };
        let found = record("https://b2share.site/api/files/b", &["a b.nc", "../x"]).unwrap();
        let addresses: Vec<&str> = found.iter().map(|(_, address)| address.as_str()).collect();
        assert_eq!(
            addresses,
            [
                "https://b2share.site/api/files/b/a%20b.nc",
                "https://b2share.site/api/files/b/..%2Fx"
            ]
        );
        for (files, keys) in [
            ("https://evil.site/api/files/b", &["a"][..]),
            ("http://b2share.site/api/files/b", &["a"]),
            ("https://b2share.site/api/files/b", &[]),
            ("https://", &["a"]),
        ] {
            assert!(record(files, keys).is_none(), "{files} {keys:?}");
        }
        assert!(files_of("https://b2share.site/x", &json!([])).is_none());
    }
}
