//! Small files that are written whole or not at all.
//!
//! Deliberately absent: locks. Each file here has one writer.

use crate::error::{Context, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes beside, then renames.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let say = || format!("cannot write `{}`", path.display());
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written.or_say(say)
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text =
        serde_json::to_vec_pretty(value).or_say(|| format!("cannot form `{}`", path.display()))?;
    text.push(b'\n');
    write(path, &text, 0o644)
}

pub fn read_json<T: DeserializeOwned>(path: &Path, largest: u64) -> Result<T> {
    let say = || format!("cannot read `{}`", path.display());
    let mut text = Vec::new();
    let file = std::fs::File::open(path).or_say(say)?;
    file.take(largest + 1).read_to_end(&mut text).or_say(say)?;
    if text.len() as u64 > largest {
        return Err(Error::new(say()).cause(format!("it is larger than {largest} bytes")));
    }
    serde_json::from_slice(&text).or_say(say)
}
