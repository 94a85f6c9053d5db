//! Whether a step's program is where it will be looked for: in the image with the host's directories over it.

use super::{Finding, problem};
use crate::image::store::verify;
use crate::jobs::assemble::{CheckedStep, Options, Pinned, is_unknown};
use crate::launch::mounts::MountSpec;
use crate::launch::request::{Entrypoint, EnvRule};
use crate::record::ImageRecord;
use crate::squashfs::read::{Content, Image, Inode};
use carrack_slurm::job::Run;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Whether a file can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Good,
    NotExecutable,
    Missing,
    /// It is on a part of the tree that only the node knows.
    Unknown,
}

pub fn command(
    step: &CheckedStep,
    image: &Pinned,
    options: &Options,
    here: &Path,
    found: &mut Vec<Finding>,
) {
    let Some(stored) = &image.stored else { return };
    let program = match &step.step.command {
        Run::Words(words) => words.first().cloned().unwrap_or_default(),
        Run::Shell(_) => "sh".to_string(),
        Run::Image => {
            if stored.record.config.entrypoint.is_empty() && stored.record.config.cmd.is_empty() {
                found.push(problem(
                    step.step.line,
                    format!(
                        "step `{}` has no command, and the image has no default one",
                        step.step.name
                    ),
                    "write `command = [\"./program\"]`",
                ));
            }
            return;
        }
    };
    if matches!(
        options.request.entrypoint,
        Some(Entrypoint::Image | Entrypoint::Replace(_))
    ) {
        return;
    }
    let Ok(tree) = verify::open(stored) else {
        return;
    };
    let view = View {
        image: &tree,
        options,
        here,
        path: search_path(&stored.record, options),
    };
    let finding = match view.find(&program) {
        Program::Good | Program::Unknown => return,
        Program::NotExecutable => problem(
            step.step.line,
            format!("`{program}` of step `{}` is not executable", step.step.name),
            "set its execute permission",
        ),
        Program::Missing if program.contains('/') => problem(
            step.step.line,
            format!(
                "`{program}` of step `{}` does not exist inside the image",
                step.step.name
            ),
            "if it is on a directory that is not mounted yet, add it to `mounts`; if an earlier step makes it, use `--force`",
        ),
        Program::Missing => problem(
            step.step.line,
            format!(
                "`{program}` of step `{}` is not in the image's PATH",
                step.step.name
            ),
            format!("looked in {}", view.path.join(":")),
        ),
    };
    found.push(finding);
}

fn search_path(record: &ImageRecord, options: &Options) -> Vec<String> {
    const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let set = options
        .request
        .environment
        .iter()
        .rev()
        .find_map(|rule| match rule {
            EnvRule::Set(name, value) if name == "PATH" => value.to_str().map(str::to_string),
            _ => None,
        });
    let images = || {
        record
            .config
            .env
            .iter()
            .find_map(|pair| pair.strip_prefix("PATH=").map(str::to_string))
    };
    let path = set.or_else(images).unwrap_or_else(|| USUAL.to_string());
    path.split(':')
        .filter(|part| part.starts_with('/'))
        .map(str::to_string)
        .collect()
}

/// The tree that a step will see, as far as it is known here: the image with the host's directories over it.
struct View<'a> {
    image: &'a Image,
    options: &'a Options,
    here: &'a Path,
    path: Vec<String>,
}

impl View<'_> {
    fn find(&self, program: &str) -> Program {
        if program.contains('/') {
            let start = match &self.options.request.workdir {
                Some(directory) => directory.as_path().to_path_buf(),
                None => self.here.to_path_buf(),
            };
            return self.look(&start.join(program));
        }
        let mut best = Program::Missing;
        for directory in &self.path {
            match self.look(&Path::new(directory).join(program)) {
                Program::Missing => {}
                Program::NotExecutable => best = Program::NotExecutable,
                good => return good,
            }
        }
        best
    }

    /// A path inside: from the host where something of the host is mounted, else from the image.
    fn look(&self, path: &Path) -> Program {
        let path = normal(path);
        let mounts = self.options.request.mounts.iter().rev();
        for mount in mounts {
            let Some(target) = mount.target() else {
                continue;
            };
            if let Ok(rest) = path.strip_prefix(target.as_path()) {
                return match mount {
                    MountSpec::Bind { from, .. } if is_unknown(from) => Program::Unknown,
                    MountSpec::Bind { from, .. } => on_host(&self.here.join(from).join(rest)),
                    MountSpec::Tmpfs { .. } => Program::Missing,
                    MountSpec::Omit { .. } => continue,
                };
            }
        }
        // The default mounts of the usual profile: home, the current directory, /tmp; others are the node's own.
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let shared = [Some(self.here.to_path_buf()), home];
        if shared
            .iter()
            .flatten()
            .any(|shared| path.starts_with(shared))
        {
            return on_host(&path);
        }
        if ["/tmp", "/dev", "/proc", "/sys"]
            .iter()
            .any(|own| path.starts_with(own))
        {
            return Program::Unknown;
        }
        in_image(self.image, &path)
    }
}

/// Takes `.` and `..` out without looking at links: good enough to say under which mount a path lies.
fn normal(path: &Path) -> PathBuf {
    let mut found = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                found.pop();
            }
            Component::Normal(name) => found.push(name),
            _ => {}
        }
    }
    found
}

fn on_host(path: &Path) -> Program {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
            Program::Good
        }
        Ok(_) => Program::NotExecutable,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Program::Missing,
        Err(_) => Program::Unknown,
    }
}

/// Follows links inside the image, as the kernel would with the image as root.
fn in_image(image: &Image, path: &Path) -> Program {
    // The kernel's own limit.
    let mut links = 40;
    let mut pending: Vec<Vec<u8>> = names(path.as_os_str().as_bytes());
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut inode = None;
    while let Some(name) = pending.pop() {
        if name == b".." {
            done.pop();
            continue;
        }
        done.push(name);
        let at: Vec<u8> = done
            .iter()
            .flat_map(|name| [b"/", name.as_slice()].concat())
            .collect();
        let Ok(Some(found)) = image.find(&at) else {
            return Program::Missing;
        };
        if let Some(target) = link(image, &found) {
            links -= 1;
            if links == 0 {
                return Program::Missing;
            }
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
                // What the host puts there is not the image's to tell.
                let target = Path::new(OsStr::from_bytes(&target));
                if ["/home", "/tmp", "/dev", "/proc", "/sys"]
                    .iter()
                    .any(|own| target.starts_with(own))
                {
                    return Program::Unknown;
                }
            }
            pending.extend(names(&target));
            continue;
        }
        inode = Some(found);
    }
    match inode {
        Some(inode) if matches!(inode.content, Content::File(_)) && inode.mode & 0o111 != 0 => {
            Program::Good
        }
        Some(_) => Program::NotExecutable,
        None => Program::Missing,
    }
}

fn link(image: &Image, inode: &Inode) -> Option<Vec<u8>> {
    matches!(inode.content, Content::Symlink { .. })
        .then(|| image.read_link(inode).ok())
        .flatten()
}

/// The names of a path, the first one last.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    names.map(<[u8]>::to_vec).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_without_dots() {
        assert_eq!(normal(Path::new("/a/../b/./c")), Path::new("/b/c"));
        assert_eq!(normal(Path::new("/../../a")), Path::new("/a"));
    }
}
