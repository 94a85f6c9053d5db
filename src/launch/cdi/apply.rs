//! From a device's edits to steps.
//!
//! The vendor's hooks would write links and a loader cache into the image. An image is read-only and belongs to nobody
//! here, so libraries that a hook wants found go to a directory of the capsule's own, under all their names, and the loader
//! is told of it. Everything else appears where the document says.

use super::document::{Edits, Mount};
use super::hook::{Action, action};
use crate::elf::Version;
use crate::error::{Error, Result};
use crate::launch::devices::Devices;
use crate::launch::driver::Libraries;
use crate::launch::environment::Addition;
use crate::launch::inside::InsidePath;
use crate::launch::request::Dev;
use crate::launch::step::{Access, Missing, Step, Target};
use std::path::{Path, PathBuf};

/// What the edits meet.
pub struct Context<'a> {
    /// For messages.
    pub name: &'a str,
    pub dev: Dev,
    /// The groups of the caller.
    pub groups: &'a [u32],
    /// GPUs that the node has: which of them appear is decided elsewhere.
    pub is_gpu: &'a dyn Fn(&Path) -> bool,
}

/// Adds what the edits need. The version of the driver, if a hook told it.
pub fn apply(
    edits: &Edits,
    context: &Context<'_>,
    result: &mut Devices,
) -> Result<Option<Version>> {
    let mut directories: Vec<PathBuf> = Vec::new();
    let mut links: Vec<(String, PathBuf)> = Vec::new();
    let mut driver = None;
    for hook in &edits.hooks {
        match action(hook) {
            Action::LibraryDirectories(more) => directories.extend(more),
            Action::Links(more) => links.extend(more),
            Action::Compatibility(version) => driver = version,
            Action::Nothing => {}
            Action::Unknown(name) => result.warnings.push(format!(
                "the device `{}` wants the hook `{name}` run, which carrack does not know",
                context.name
            )),
        }
    }
    for entry in &edits.environment {
        if let Some((name, value)) = entry.split_once('=') {
            let addition = Addition::Set(name.into(), value.into());
            result.additions.push(addition);
        }
    }
    nodes(edits, context, result)?;
    groups(edits, context, result);
    let mut libraries = Libraries::default();
    for mount in &edits.mounts {
        if !mount.there && !mount.tmpfs {
            return Err(Error::new(format!("cannot use the device `{}`", context.name))
                .cause(format!("`{}` does not exist on this node", mount.host.display()))
                .hint("the document is older than the driver: ask the site to generate it again (`nvidia-ctk cdi generate`)"));
        }
        let folder = mount.container.parent().unwrap_or(Path::new("/"));
        let is_library = file_name(&mount.container).contains(".so");
        if is_library && directories.iter().any(|directory| directory == folder) {
            libraries.add(&mount.host, file_name(&mount.container));
            if let Some(soname) = &mount.soname {
                libraries.link(soname, file_name(&mount.container));
            }
        } else {
            result.steps.push(step(mount)?);
        }
    }
    for (target, link) in &links {
        let folder = link.parent().unwrap_or(Path::new("/"));
        if directories.iter().any(|directory| directory == folder) {
            libraries.link(file_name(link), file_name(Path::new(target)));
            continue;
        }
        // Elsewhere the file itself takes the place of the link to it.
        let meant = folder.join(target);
        let same = |mount: &&Mount| file_name(&mount.container) == file_name(&meant);
        match edits.mounts.iter().find(same) {
            Some(mount) => result.steps.push(step(&Mount {
                container: link.clone(),
                ..mount.clone()
            })?),
            None => result.warnings.push(format!(
                "the device `{}` wants a link {} to `{target}`, which it does not bring",
                context.name,
                link.display()
            )),
        }
    }
    libraries.place(result);
    Ok(driver)
}

fn nodes(edits: &Edits, context: &Context<'_>, result: &mut Devices) -> Result<()> {
    for node in &edits.nodes {
        if (context.is_gpu)(&node.host) {
            continue;
        }
        let to = InsidePath::new(&node.path)?;
        // The host's own /dev has it already, under the host's name.
        if context.dev == Dev::Full && to.is_within(&InsidePath::fixed("/dev")) {
            if node.path != node.host {
                result.warnings.push(format!(
                    "the device `{}` appears as {}, not as {to}: /dev is the host's",
                    context.name,
                    node.host.display()
                ));
            }
            continue;
        }
        result.steps.push(Step::Bind {
            from: node.host.clone(),
            to,
            access: Access::ReadWrite,
            missing: Missing::Skip,
            target: Target::Make,
        });
    }
    Ok(())
}

/// A process keeps its groups inside, but nobody can give it more without privileges.
fn groups(edits: &Edits, context: &Context<'_>, result: &mut Devices) {
    for gid in &edits.groups {
        if !context.groups.contains(gid) {
            result.warnings.push(format!(
                "the device `{}` is for members of group {gid}, and you are none; ask the site to add you",
                context.name
            ));
        }
    }
}

fn step(mount: &Mount) -> Result<Step> {
    let at = InsidePath::new(&mount.container)?;
    Ok(match mount.tmpfs {
        true => Step::Tmpfs {
            at,
            size: None,
            mode: 0o755,
            target: Target::Ready,
        },
        false => Step::Bind {
            from: mount.host.clone(),
            to: at,
            access: match mount.read_only {
                true => Access::ReadOnly,
                false => Access::ReadWrite,
            },
            missing: Missing::Fail,
            target: Target::Ready,
        },
    })
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}
