//! A plan: everything needed to start a process inside an image, already decided, as a value.
//!
//! `--dry-run`, `-v`, error messages and golden files all show the same text: one line per step. Deliberately absent: any
//! look at the node. A plan made by two tasks of one job step from the same request is equal, so that its hash can name the
//! capsule that they share; hence nothing here says whether a path exists. Where that matters, the step states what to do
//! in either case (`missing`, [`Step::MountPoints`]) and the executor finds out by opening.

use super::inside::InsidePath;
use crate::record;
use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

/// One thing to do while making the capsule's root, in order.
///
/// Targets are looked up inside the new root (`openat2` with `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`), sources on the
/// host. Every mount except `/dev` is `nosuid,nodev`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Puts the image at the staging directory, which becomes the new root. Always the first step.
    Image(Image),
    /// Lays an empty directory over the image, where the kernel allows it, so that a server in user mode is not asked what
    /// the kernel can answer: `ioctl(TCGETS)`, with which python looks at every file that it opens, costs a FUSE server
    /// two switches of context each time, and all tasks of a node wait for the same one.
    ImageOverlay,
    /// Lays a writable, discarded tmpfs over the image (overlay with `userxattr`).
    Overlay { size: Option<u64> },
    /// Lays a directory of the host over the image. What is written stays there, for the next capsule that has it.
    KeptOverlay { at: PathBuf, access: Access },
    /// Adds the mount points that the image lacks, and does nothing when it has them all (an image converted by carrack has
    /// the usual ones). After [`Step::Overlay`] they are simply made. Otherwise the executor may put a tmpfs in place of
    /// the nearest existing parent and bind that parent's few entries back, or lay an overlay over the whole image (which
    /// costs every later lookup): the process sees the same either way.
    MountPoints(Vec<MountPoint>),
    /// Shows a host file or tree, with the mounts below it.
    Bind {
        from: PathBuf,
        to: InsidePath,
        access: Access,
        missing: Missing,
        target: Target,
    },
    /// Mounts an empty tmpfs.
    Tmpfs {
        at: InsidePath,
        size: Option<u64>,
        mode: u32,
        target: Target,
    },
    /// Makes a directory in a tmpfs of this plan.
    Directory { at: InsidePath, mode: u32 },
    /// Makes a symbolic link in a tmpfs of this plan.
    Link { at: InsidePath, to: PathBuf },
    /// Puts a generated file over the target, read-only.
    File {
        at: InsidePath,
        content: Content,
        target: Target,
    },
    /// Shows the directories of these paths without them, and leaves a directory alone that has none of them. Devices there
    /// that this user may not open are left out, too.
    LeaveOut(Vec<InsidePath>),
    /// Makes the staged tree the root directory and lets go of the host's. Always the last step.
    EnterRoot,
}

/// What the root is made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Image {
    /// Served by our own FUSE server.
    Squashfs {
        path: PathBuf,
        /// Where the squashfs starts in the file (a SIF holds it somewhere inside).
        offset: u64,
        /// How to check its bytes; an image made elsewhere has no record.
        check: Option<Check>,
        /// What the user knows the image by, for messages.
        name: String,
    },
    /// An unpacked root file system, bound read-only.
    Directory { path: PathBuf },
}

/// The part of a record that the server needs, with an identity: equal roots are equal bytes.
#[derive(Clone, Debug)]
pub struct Check(pub record::Squashfs);

impl PartialEq for Check {
    fn eq(&self, other: &Check) -> bool {
        self.0 == other.0
    }
}
impl Eq for Check {}
impl Hash for Check {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.root.hash(state);
    }
}

/// One place that something will be mounted on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MountPoint {
    pub at: InsidePath,
    pub like: Like,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Like {
    Directory,
    File,
    /// A directory or a file, as the bind source on the host is; nothing when the source is missing and may be.
    Source(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// What a missing bind source means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missing {
    /// The user or the site asked for it: fail.
    Fail,
    /// A default: leave it out when it does not exist or cannot be opened by this user.
    Skip,
    /// The source is made on the host first (pyxis's `x-create=dir`).
    MakeDirectory,
}

/// What a missing place inside means for the mount that wants it. Nothing is ever created in a host directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// It is there, by itself or through [`Step::MountPoints`]; else fail.
    Ready,
    /// It lies in a tmpfs of this plan: make it, with its parents.
    Make,
    /// Only where the image has such a file or directory; else leave the mount out.
    IfThere,
}

/// What a generated file holds; [`passwd::content`](super::passwd::content) makes the bytes of the latter two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    Bytes(Vec<u8>),
    /// The image's `/etc/passwd` with the user's line.
    Passwd(User),
    /// The image's `/etc/group` with the lines of the user's groups.
    Group(User),
    /// The image's `/etc/ld.so.cache` with these libraries first.
    LoaderCache(Vec<InsidePath>),
    /// The search path of musl's loader with this directory first.
    LoaderPath(PathBuf),
}

/// The user as the generated files show him.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    pub identity: Identity,
    /// Supplementary groups on the host.
    pub groups: Vec<u32>,
    pub home: PathBuf,
    /// A shell that the image has.
    pub shell: String,
}

/// Who the process is, outside and inside. One entry each in the id maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub outside_uid: u32,
    pub outside_gid: u32,
    pub inside_uid: u32,
    pub inside_gid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    Host,
    /// A network namespace of the capsule with only `lo`, which must be brought up before capabilities are dropped.
    None,
}

/// Which processes share a capsule. Without a key a launch makes its own and offers it to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// `JOBID` with a restart count, as far as Slurm told.
    pub job: String,
    /// Step id, or `name=NAME` for a capsule shared by the steps of the job.
    pub scope: String,
    pub uid: u32,
    /// Over image, steps, identity and network.
    pub hash: String,
}

impl Key {
    /// The rendezvous file's name: only letters, digits, `.`, `_`, `=` and `-`.
    pub fn file_name(&self) -> String {
        let plain = |text: &str| -> String {
            text.chars()
                .map(|c| match c {
                    'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '=' | '-' => c,
                    _ => '_',
                })
                .take(64)
                .collect()
        };
        format!("{}.{}.{}", plain(&self.job), plain(&self.scope), self.hash)
    }
}

/// Where the process starts: the first candidate that can be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartDirectory {
    pub candidates: Vec<InsidePath>,
    /// The user named the first one: fail instead of trying the next.
    pub required: bool,
}

/// Everything needed to start, already decided. Equal plans start equal processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub key: Option<Key>,
    /// How many tasks of the step will come on this node, when Slurm told.
    pub tasks_on_node: Option<u32>,
    pub identity: Identity,
    pub network: Network,
    /// Makes the capsule's root; done once, by its creator.
    pub steps: Vec<Step>,
    /// Done by each task after it joined, in a copy of the mount namespace that it makes for this (same user namespace, so
    /// that ranks can still read each other's memory). Usually empty. Not part of the key. Only
    /// [`Step::LeaveOut`].
    pub task_steps: Vec<Step>,
    /// The complete environment of the process.
    pub environment: Vec<(OsString, OsString)>,
    pub directory: StartDirectory,
    /// The capsule outlives its processes until the step ends, because somebody will come for its root.
    pub hold: bool,
    /// The command; the first word is searched in the new environment's `PATH`, inside.
    pub argv: Vec<OsString>,
    /// Inherited descriptors above 2 that stay open (process managers talk through them); all others are closed.
    pub keep_fds: Vec<i32>,
    /// What the user should know, said once per step.
    pub warnings: Vec<String>,
    /// Nobody may be let in besides the tasks of the step.
    pub shut: bool,
}

impl Plan {
    /// Names what two tasks must have in common to share a capsule.
    pub fn hash_of(steps: &[Step], identity: Identity, network: Network) -> String {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, steps, identity, network).hash(&mut hasher);
            hasher.finish()
        };
        format!("{:016x}{:016x}", half(0), half(1))
    }

    /// The directory that outlives the capsule, if it has one.
    pub fn kept(&self) -> Option<&Path> {
        self.steps.iter().find_map(|step| match step {
            Step::KeptOverlay { at, .. } => Some(at.as_path()),
            _ => None,
        })
    }

    pub fn image(&self) -> Option<&Image> {
        self.steps.iter().find_map(|step| match step {
            Step::Image(image) => Some(image),
            _ => None,
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Image(Image::Squashfs {
                path,
                offset,
                check,
                ..
            }) => {
                write!(out, "image {}", path.display())?;
                if *offset > 0 {
                    write!(out, " at byte {offset}")?;
                }
                out.write_str(if check.is_some() {
                    " (squashfs, checked block by block)"
                } else {
                    " (squashfs, no record to check it by)"
                })
            }
            Step::Image(Image::Directory { path }) => {
                write!(out, "image {} (directory, ro)", path.display())
            }
            Step::ImageOverlay => {
                out.write_str("overlay of the image alone (if the kernel allows it)")
            }
            Step::Overlay { size } => {
                write!(out, "overlay writable, discarded at the end{}", Size(*size))
            }
            Step::KeptOverlay { at, access } => {
                write!(out, "overlay kept in {} ({access})", at.display())
            }
            Step::MountPoints(points) => {
                out.write_str("mount points")?;
                for point in points {
                    write!(out, " {}", point.at)?;
                }
                out.write_str(" (added if the image lacks them)")
            }
            Step::Bind {
                from,
                to,
                access,
                missing,
                target,
            } => {
                write!(out, "bind {}", from.display())?;
                if from != to.as_path() {
                    write!(out, " -> {to}")?;
                }
                write!(out, " ({access}")?;
                match missing {
                    Missing::Fail => {}
                    Missing::Skip => out.write_str(", if there")?,
                    Missing::MakeDirectory => out.write_str(", made if missing")?,
                }
                if *target == Target::IfThere {
                    out.write_str(", if the image has it")?;
                }
                out.write_str(")")
            }
            Step::Tmpfs { at, size, mode, .. } => {
                write!(out, "tmpfs {at} (mode {mode:04o}{})", Size(*size))
            }
            Step::Directory { at, mode } => write!(out, "directory {at} (mode {mode:04o})"),
            Step::Link { at, to } => write!(out, "link {at} -> {}", to.display()),
            Step::File { at, content, .. } => match content {
                Content::Bytes(bytes) => write!(out, "file {at} ({} bytes)", bytes.len()),
                Content::Passwd(_) => write!(out, "file {at} (the image's users and you)"),
                Content::Group(_) => write!(out, "file {at} (the image's groups and yours)"),
                Content::LoaderCache(paths) => {
                    write!(
                        out,
                        "file {at} (the image's libraries and {} of the host)",
                        paths.len()
                    )
                }
                Content::LoaderPath(path) => {
                    write!(
                        out,
                        "file {at} ({} before the image's path)",
                        path.display()
                    )
                }
            },
            Step::LeaveOut(paths) => {
                out.write_str("leave out")?;
                for path in paths {
                    write!(out, " {path}")?;
                }
                Ok(())
            }
            Step::EnterRoot => out.write_str("enter the new root"),
        }
    }
}

struct Size(Option<u64>);

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(out, ", at most {bytes} bytes"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Access::ReadWrite => "rw",
            Access::ReadOnly => "ro",
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}:{} as {}:{}",
            self.outside_uid, self.outside_gid, self.inside_uid, self.inside_gid
        )
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Network::Host => "the host's",
            Network::None => "none (loopback only)",
        })
    }
}

/// What `--dry-run` prints. Environment values are shown: the reader is the one who will run it.
impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => writeln!(out, "capsule   {}", key.file_name())?,
            None => writeln!(out, "capsule   of this process only")?,
        }
        writeln!(out, "identity  {}", self.identity)?;
        writeln!(out, "network   {}", self.network)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(out, "step {:2}   {step}", number + 1)?;
        }
        for step in &self.task_steps {
            writeln!(out, "task      {step}")?;
        }
        for (name, value) in &self.environment {
            writeln!(out, "env       {}={}", name.display(), value.display())?;
        }
        for (index, candidate) in self.directory.candidates.iter().enumerate() {
            let word = if index == 0 { "cwd" } else { "else" };
            writeln!(out, "{word:9} {candidate}")?;
        }
        for fd in &self.keep_fds {
            writeln!(out, "keep fd   {fd}")?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning   {warning}")?;
        }
        write!(out, "command  ")?;
        for word in &self.argv {
            write!(out, " {}", Word(word))?;
        }
        writeln!(out)
    }
}

/// One word of a command as a shell would need it, so that the line can be read without doubt.
struct Word<'a>(&'a OsString);

impl fmt::Display for Word<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        let plain = |c: char| c.is_alphanumeric() || "_-./=:,@%+".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            return out.write_str(&text);
        }
        write!(out, "'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(to: &str) -> Step {
        Step::Bind {
            from: "/work/project".into(),
            to: InsidePath::new(to).unwrap(),
            access: Access::ReadOnly,
            missing: Missing::Fail,
            target: Target::Ready,
        }
    }

    #[test]
    fn one_line_per_step() {
        for (step, line) in [
            (bind("/data"), "bind /work/project -> /data (ro)"),
            (bind("/work/project"), "bind /work/project (ro)"),
            (
                Step::Tmpfs {
                    at: InsidePath::fixed("/dev"),
                    size: None,
                    mode: 0o755,
                    target: Target::Ready,
                },
                "tmpfs /dev (mode 0755)",
            ),
            (
                Step::Overlay { size: Some(4096) },
                "overlay writable, discarded at the end, at most 4096 bytes",
            ),
            (Step::EnterRoot, "enter the new root"),
        ] {
            assert_eq!(step.to_string(), line);
        }
    }

    #[test]
    fn what_is_mounted_and_mapped_decides_who_shares() {
        let identity = Identity {
            outside_uid: 1000,
            outside_gid: 1000,
            inside_uid: 1000,
            inside_gid: 1000,
        };
        let root = Identity {
            inside_uid: 0,
            ..identity
        };
        let hash = |steps: &[Step], identity, network| Plan::hash_of(steps, identity, network);
        let base = hash(&[bind("/data")], identity, Network::Host);
        assert_eq!(base, hash(&[bind("/data")], identity, Network::Host));
        assert_eq!(base.len(), 32);
        for other in [
            hash(&[bind("/data2")], identity, Network::Host),
            hash(&[bind("/data")], root, Network::Host),
            hash(&[bind("/data")], identity, Network::None),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn file_names_cannot_leave_their_directory() {
        let key = Key {
            job: "../7".into(),
            scope: "name=a/b c".into(),
            uid: 1,
            hash: "ab".into(),
        };
        assert_eq!(key.file_name(), "___7.name=a_b_c.ab");
    }

    #[test]
    fn words_are_quoted_only_when_needed() {
        for (word, shown) in [
            ("a", "a"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
        ] {
            assert_eq!(Word(&word.into()).to_string(), shown);
        }
    }
}
