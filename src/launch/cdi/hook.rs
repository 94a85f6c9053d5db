//! What the hooks of CDI documents do, told from their words. They are programs for engines that run as root and write into
//! the image; we do the same without either.

use super::document::Hook;
use crate::elf::Version;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Links by what they point to and where they are.
    Links(Vec<(String, PathBuf)>),
    /// The libraries in these directories shall be found.
    LibraryDirectories(Vec<PathBuf>),
    /// An image's newer compatibility libraries win over a driver of this version.
    Compatibility(Option<Version>),
    /// Already so: directories that we make can be searched, and no program here can make or change device nodes.
    Nothing,
    /// Nobody here knows it; its name.
    Unknown(String),
}

/// Programs of the vendor's toolkit, whose sub-commands are the hooks.
const TOOLKIT: [&str; 3] = ["nvidia-cdi-hook", "nvidia-ctk", "nvidia-container-toolkit"];

/// What a hook would do.
pub fn action(hook: &Hook) -> Action {
    let program = hook.program.rsplit('/').next().unwrap_or_default();
    let mut words = hook.arguments.iter().skip(1).map(String::as_str);
    let mut verb = words.next().unwrap_or_default();
    if verb == "hook" {
        verb = words.next().unwrap_or_default();
    }
    let words: Vec<&str> = words.collect();
    if !TOOLKIT.contains(&program) {
        return Action::Unknown(hook.program.clone());
    }
    match verb {
        "create-symlinks" => Action::Links(
            values(&words, "--link")
                .filter_map(|pair| pair.split_once("::"))
                .map(|(target, link)| (target.to_string(), link.into()))
                .collect(),
        ),
        "update-ldcache" | "create-soname-symlinks" => {
            Action::LibraryDirectories(values(&words, "--folder").map(PathBuf::from).collect())
        }
        "enable-cuda-compat" => {
            let version = values(&words, "--host-driver-version").next();
            Action::Compatibility(version.and_then(Version::parse))
        }
        "chmod" | "disable-device-node-modification" => Action::Nothing,
        other => Action::Unknown(format!("{program} {other}")),
    }
}

/// The values of an option, as `--name value` or `--name=value`.
fn values<'a>(words: &'a [&'a str], name: &'a str) -> impl Iterator<Item = &'a str> {
    words.iter().enumerate().filter_map(move |(index, word)| {
        if *word == name {
            return words.get(index + 1).copied();
        }
        word.strip_prefix(name)?.strip_prefix('=')
    })
}
