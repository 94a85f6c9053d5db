//! Builds the capsule's root, step by step, inside fresh user and mount namespaces.
//!
//! ```text
//! /            a tmpfs of ours, made the root first, so that no bind of the host's /tmp or /dev shows the work in progress
//! /image       the image
//! /nothing     an empty directory, for an overlay of the image alone
//! /root        the overlay or the mirror over it, if the plan or a missing mount point needs one
//! /parts       generated files, bound into place
//! /old         the host, until the last step
//! /proc        the host's, for paths that name descriptors
//! ```
//! Sources are opened before anything is mounted, targets are found by descriptor inside the new root, so nothing that an
//! image or another process of the user does to names in between can move a mount. Deliberately absent: choices.
//!
//! The first design had no overlay over an image that is only read. But of what FUSE cannot answer in the kernel one thing
//! is frequent, python's `ioctl` for each file that it opens, and eight imports at once took a quarter longer for it than
//! on the kernel's own squashfs mount. The overlay's price is a third of a microsecond for each `stat`.

mod left_out;
mod points;

use super::inside::InsidePath;
use super::loader;
use super::passwd::{self, Account};
use super::step::{Access, Content, Identity, Image, Like, Missing, MountPoint, Step, Target};
use crate::sys::attempt::{Call, have};
use crate::sys::mount::{self, Attributes};
use crate::sys::resolve::{Last, in_root};
use crate::sys::{Errno, fd, namespace};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Directories that a node has, for a moment's mount that only this process sees.
const STAGES: [&str; 6] = ["/tmp", "/dev/shm", "/var/tmp", "/run", "/mnt", "/usr"];
/// In the directory of a root that is kept.
const CHANGES: &str = "changes";
const WORK: &str = "work";
const MAX_IMAGE_FILE: usize = 1 << 20;
/// What a step failed with, before it is put in words.
#[derive(Debug)]
pub struct Fault {
    pub errno: Errno,
    /// What exactly was refused, when the step alone does not say it.
    pub at: Option<String>,
    pub place: Place,
}

/// Which of the things that a step names was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Source,
    Target,
    Fuse,
    Mount,
}

impl Fault {
    fn new(errno: Errno, place: Place) -> Fault {
        Fault {
            errno,
            at: None,
            place,
        }
    }

    fn at(mut self, at: impl std::fmt::Display) -> Fault {
        self.at = Some(at.to_string());
        self
    }
}

/// A fault of the mount itself, unless said otherwise.
impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault::new(errno, Place::Mount)
    }
}

type Done<T = ()> = std::result::Result<T, Fault>;

/// What the root is made with, besides the plan.
pub struct Ground<'a> {
    pub identity: Identity,
    /// Takes the device of the image that was just mounted to the server, which then answers.
    pub serve: &'a mut dyn FnMut(OwnedFd) -> rustix::io::Result<()>,
    /// Looked up on the host, before.
    pub account: &'a Account,
}

/// Before the namespaces: lets automounts of the sources happen, makes sources that are to be made.
pub fn prepare(steps: &[Step]) -> std::result::Result<(), (usize, Fault)> {
    for (number, step) in steps.iter().enumerate() {
        if let Step::KeptOverlay { at, .. } = step {
            make_kept(at).map_err(|errno| (number, Fault::new(errno, Place::Source)))?;
        }
        if let Step::Bind { from, missing, .. } = step {
            let source = |errno| (number, Fault::new(errno, Place::Source));
            match (mount::wake_automount(from), missing) {
                (Ok(()), _) => {}
                (Err(Errno::NOENT), Missing::MakeDirectory) => {
                    make_on_host(from).map_err(source)?;
                }
                (Err(_), Missing::Skip) => {}
                (Err(errno), _) => return Err(source(errno)),
            }
        }
    }
    Ok(())
}

/// The directories of a root that is kept, as far as they are not there.
fn make_kept(at: &Path) -> rustix::io::Result<()> {
    for (name, mode) in [("", 0o700), (CHANGES, 0o755), (WORK, 0o700)] {
        match rustix::fs::mkdir(at.join(name), Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn make_on_host(path: &Path) -> rustix::io::Result<()> {
    std::fs::create_dir_all(path).map_err(|error| {
        error
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error)
    })
}

/// Walks the steps; the process has new user and mount namespaces with its ids mapped. On failure: which step, and why.
pub fn build(steps: &[Step], ground: &mut Ground<'_>) -> std::result::Result<(), (usize, Fault)> {
    let mut staging = Staging::open(steps)?;
    for (number, step) in steps.iter().enumerate() {
        staging
            .step(number, step, ground)
            .map_err(|fault| (number, fault))?;
    }
    Ok(())
}

/// What one task does to its own copy of the mount namespace.
pub fn restrict_task(steps: &[Step]) -> std::result::Result<(), (usize, Fault)> {
    let first = |errno: Errno| (0, Fault::from(errno));
    if steps.is_empty() {
        return Ok(());
    }
    namespace::unshare(&[namespace::Kind::Mount]).map_err(first)?;
    mount::receive_only().map_err(first)?;
    let root = mount::place("/").map_err(first)?;
    for (number, step) in steps.iter().enumerate() {
        if let Step::LeaveOut(paths) = step {
            left_out::leave_out(root.as_fd(), paths).map_err(|fault| (number, fault))?;
        }
    }
    Ok(())
}

struct Staging {
    /// Sources of binds and images by step, and what they are; absent ones are to be skipped.
    sources: BTreeMap<usize, (OwnedFd, FileType)>,
    /// Changes and work of a root that is kept.
    kept: Option<[OwnedFd; 2]>,
    /// Opened in the new user namespace, as the kernel demands.
    fuse: Option<Result<OwnedFd, Errno>>,
    /// Kinds of the sources, which mount points are to be like.
    likes: BTreeMap<PathBuf, FileType>,
    /// What `df` shows for it.
    source: String,
    /// The root being built; first the image, then what lies over it.
    root: Option<OwnedFd>,
    /// The root accepts new files.
    writable: bool,
    /// A server has something to do while this process waits.
    ahead: bool,
    parts: u32,
}

impl Staging {
    fn open(steps: &[Step]) -> std::result::Result<Staging, (usize, Fault)> {
        let first = |errno: Errno| (0, Fault::from(errno));
        mount::receive_only().map_err(first)?;
        let mut staging = Staging {
            sources: BTreeMap::new(),
            kept: None,
            fuse: None,
            likes: BTreeMap::new(),
            source: "carrack".into(),
            root: None,
            writable: false,
            ahead: false,
            parts: 0,
        };
        for (number, step) in steps.iter().enumerate() {
            staging
                .open_source(number, step)
                .map_err(|fault| (number, fault))?;
        }
        staging.take_the_root().map_err(first)?;
        Ok(staging)
    }

    fn open_source(&mut self, number: usize, step: &Step) -> Done {
        let source = |errno| Fault::new(errno, Place::Source);
        match step {
            Step::Image(Image::Squashfs { .. }) => {
                self.fuse = Some(rustix::fs::open(
                    "/dev/fuse",
                    OFlags::RDWR | OFlags::CLOEXEC,
                    Mode::empty(),
                ));
            }
            Step::Image(Image::Directory { path }) => {
                let opened = mount::place(path).map_err(source)?;
                let kind = fd::kind(&opened).map_err(source)?;
                self.sources.insert(number, (opened, kind));
            }
            Step::KeptOverlay { at, .. } => {
                let open = |name: &str| mount::place(at.join(name)).map_err(source);
                self.kept = Some([open(CHANGES)?, open(WORK)?]);
            }
            Step::Bind { from, missing, .. } => match (mount::place(from), missing) {
                (Ok(opened), _) => {
                    let kind = fd::kind(&opened).map_err(source)?;
                    self.likes.insert(from.clone(), kind);
                    self.sources.insert(number, (opened, kind));
                }
                (Err(_), Missing::Skip) => {}
                (Err(errno), _) => return Err(source(errno)),
            },
            _ => {}
        }
        Ok(())
    }

    /// Makes a tmpfs of ours the root directory, with the host at `/old`.
    fn take_the_root(&mut self) -> rustix::io::Result<()> {
        let mut refused = Errno::NOENT;
        for stage in STAGES {
            let mounted = mount::place(Path::new(stage).join("."))
                .and_then(|fd| mount::tmpfs(fd, None, 0o755, Attributes::SAFE));
            match mounted {
                Err(errno) => refused = errno,
                Ok(()) => {
                    let stage = mount::place(stage)?;
                    for name in ["image", "root", "parts", "old", "proc"] {
                        rustix::fs::mkdirat(&stage, name, Mode::from_raw_mode(0o755))?;
                    }
                    let host = mount::place("/proc")?;
                    let target = mount::Target::find(stage.as_fd(), Path::new("proc"))?;
                    mount::bind(host, &target, Attributes::SAFE)?;
                    return mount::exchange_root(stage, "old").map(drop);
                }
            }
        }
        Err(refused)
    }

    fn root(&self) -> Done<BorrowedFd<'_>> {
        match &self.root {
            Some(root) => Ok(root.as_fd()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn step(&mut self, number: usize, step: &Step, ground: &mut Ground<'_>) -> Done {
        match step {
            Step::Image(image) => self.image(number, image, ground),
            Step::ImageOverlay => self.image_overlay(),
            Step::Overlay { size } => self.overlay(*size),
            Step::KeptOverlay { access, .. } => self.kept_overlay(*access),
            Step::MountPoints(points) => self.mount_points(points),
            Step::Bind {
                to, access, target, ..
            } => {
                let Some((source, kind)) = self.sources.remove(&number) else {
                    return Ok(());
                };
                let directory = kind == FileType::Directory;
                let like = if directory {
                    Like::Directory
                } else {
                    Like::File
                };
                let Some(at) = self.target(to, *target, &like)? else {
                    return Ok(());
                };
                if directory != (fd::kind(at.fd())? == FileType::Directory) {
                    return Err(Fault::new(Errno::NOTDIR, Place::Target));
                }
                let devices = to.is_within(&InsidePath::fixed("/dev"));
                let attributes = Attributes {
                    read_only: *access == Access::ReadOnly,
                    no_devices: !devices,
                    ..Attributes::SAFE
                };
                Ok(mount::bind(source, &at, attributes)?)
            }
            Step::Tmpfs {
                at,
                size,
                mode,
                target,
            } => {
                let attributes = Attributes {
                    no_exec: false,
                    ..Attributes::SAFE
                };
                match self.target(at, *target, &Like::Directory)? {
                    Some(at) => Ok(mount::tmpfs(at.fd(), *size, *mode, attributes)?),
                    None => Ok(()),
                }
            }
            Step::Directory { at, mode } => {
                points::make(self.root()?, at.as_path(), &Like::Directory, *mode)
            }
            Step::Link { at, to } => {
                let (parent, name) = points::parent(self.root()?, at.as_path())?;
                Ok(rustix::fs::symlinkat(to, parent, name)?)
            }
            Step::File {
                at,
                content,
                target,
            } => {
                self.look_ahead()?;
                self.file(at, content, *target, ground)
            }
            Step::LeaveOut(paths) => left_out::leave_out(self.root()?, paths),
            Step::EnterRoot => Ok(mount::enter_root(self.root()?)?),
        }
    }

    fn image(&mut self, number: usize, image: &Image, ground: &mut Ground<'_>) -> Done {
        match image {
            Image::Squashfs { name, .. } => {
                let fuse = |errno| Fault::new(errno, Place::Fuse);
                let device = self
                    .fuse
                    .take()
                    .unwrap_or(Err(Errno::NOENT))
                    .map_err(fuse)?;
                let Identity {
                    inside_uid,
                    inside_gid,
                    ..
                } = ground.identity;
                mount::fuse(&device, "/image", inside_uid, inside_gid, name)?;
                self.source = name.clone();
                (ground.serve)(device).map_err(fuse)?;
                points::list("/image");
                self.ahead = true;
            }
            Image::Directory { .. } => {
                let (source, kind) = self.sources.remove(&number).ok_or(Errno::NOENT)?;
                if kind != FileType::Directory {
                    return Err(Fault::new(Errno::NOTDIR, Place::Source));
                }
                let stage = mount::place("/")?;
                let target = mount::Target::find(stage.as_fd(), Path::new("image"))?;
                let attributes = Attributes {
                    read_only: true,
                    ..Attributes::SAFE
                };
                mount::bind(source, &target, attributes)?;
            }
        }
        self.root = Some(mount::place("/image")?);
        Ok(())
    }

    /// Without it everything works, too.
    fn image_overlay(&mut self) -> Done {
        if have(Call::Overlay) {
            rustix::fs::mkdir("/nothing", Mode::from_raw_mode(0o755))?;
            // The image on top, because `df` shows the topmost.
            let lower = ["/image", "/nothing"];
            if mount::overlay("/root", &self.source, &lower, None).is_ok() {
                self.root = Some(mount::place("/root")?);
            }
        }
        Ok(())
    }

    fn overlay(&mut self, size: Option<u64>) -> Done {
        rustix::fs::mkdir("/upper", Mode::RWXU)?;
        mount::tmpfs(mount::place("/upper")?, size, 0o755, Attributes::SAFE)?;
        // The new root shows the mode of the upper directory.
        let mode = Mode::from_raw_mode(rustix::fs::fstat(self.root()?)?.st_mode & 0o7777);
        rustix::fs::mkdir("/upper/changes", mode)?;
        rustix::fs::chmod("/upper/changes", mode | Mode::RWXU)?;
        rustix::fs::mkdir("/upper/work", Mode::RWXU)?;
        mount::overlay(
            "/root",
            &self.source,
            &["/image"],
            Some(("/upper/changes", "/upper/work")),
        )?;
        self.root = Some(mount::place("/root")?);
        self.writable = true;
        Ok(())
    }

    fn kept_overlay(&mut self, access: Access) -> Done {
        let kept = self.kept.take().ok_or(Errno::NOENT)?;
        let [changes, work] = kept.each_ref().map(fd::path_of);
        let (lower, upper): (&[&str], _) = match access {
            Access::ReadWrite => (&["/image"], Some((changes.as_str(), work.as_str()))),
            Access::ReadOnly => (&[&changes, "/image"], None),
        };
        mount::overlay("/root", &self.source, lower, upper)?;
        self.root = Some(mount::place("/root")?);
        self.writable = access == Access::ReadWrite;
        Ok(())
    }

    fn mount_points(&mut self, wanted: &[MountPoint]) -> Done {
        let mut mirrors = points::Mirrors::new(self.root()?, self.writable)?;
        for point in wanted {
            let like = match &point.like {
                Like::Source(path) => match self.likes.get(path) {
                    None => continue,
                    Some(FileType::Directory) => Like::Directory,
                    Some(_) => Like::File,
                },
                plain => plain.clone(),
            };
            mirrors
                .add(point.at.as_path(), &like)
                .map_err(|fault| match fault.at {
                    None => Fault {
                        place: Place::Target,
                        ..fault
                    }
                    .at(&point.at),
                    Some(_) => fault,
                })?;
        }
        if let Some(root) = mirrors.finish()? {
            self.root = Some(root);
        }
        Ok(())
    }

    /// The place that a mount goes to; `None` when it is to be left out.
    fn target<'s>(
        &'s self,
        at: &'s InsidePath,
        target: Target,
        like: &Like,
    ) -> Done<Option<mount::Target<'s>>> {
        let root = self.root()?;
        match (mount::Target::find(root, at.relative()), target) {
            (Ok(found), _) => Ok(Some(found)),
            (Err(Errno::NOENT | Errno::NOTDIR), Target::IfThere) => Ok(None),
            (Err(Errno::NOENT), Target::Make) => {
                points::make(root, at.as_path(), like, 0o755)?;
                Ok(Some(mount::Target::find(root, at.relative())?))
            }
            (Err(errno), _) => Err(Fault::new(errno, Place::Target)),
        }
    }

    /// Looks up what the command will ask for first, by the names that it will use: the server hands a file to the kernel
    /// as soon as it may, which is when the kernel has heard of it.
    fn look_ahead(&mut self) -> Done {
        if std::mem::take(&mut self.ahead) {
            let root = self.root()?;
            for paths in [loader::HERE.loaders, loader::HERE.libc] {
                let found = |path: &&str| in_root(root, path, Last::Follow).is_ok();
                let _ = paths.iter().copied().find(found);
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        at: &InsidePath,
        content: &Content,
        target: Target,
        ground: &Ground<'_>,
    ) -> Done {
        let own = match content {
            Content::Bytes(_) => Vec::new(),
            _ => read_inside(self.root()?, at.as_path()),
        };
        let bytes = passwd::content(content, &own, ground.account);
        self.parts += 1;
        let part = format!("/parts/{}", self.parts);
        let Some(at) = self.target(at, target, &Like::File)? else {
            return Ok(());
        };
        if fd::kind(at.fd())? == FileType::Directory {
            return Err(Fault::new(Errno::ISDIR, Place::Target));
        }
        let made = rustix::fs::openat(
            CWD,
            &part,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?;
        write_all(&made, &bytes)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o644))?;
        let attributes = Attributes {
            read_only: true,
            ..Attributes::SAFE
        };
        Ok(mount::bind(mount::place(&part)?, &at, attributes)?)
    }
}

/// What the image has at `path`; nothing when it has nothing readable there.
fn read_inside(root: BorrowedFd<'_>, path: &Path) -> Vec<u8> {
    let opened = in_root(root, path, Last::Follow).and_then(|found| match fd::kind(&found)? {
        FileType::RegularFile => fd::reopen(&found, OFlags::RDONLY | OFlags::NONBLOCK),
        _ => Err(Errno::INVAL),
    });
    let mut bytes = Vec::with_capacity(8 << 10);
    if let Ok(file) = opened {
        let file = std::fs::File::from(file);
        // What was read before an error is there.
        let _ = file.take(MAX_IMAGE_FILE as u64).read_to_end(&mut bytes);
    }
    bytes
}

fn write_all(file: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = rustix::io::write(file, rest)?;
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// The permissions of an open object.
fn mode_of(fd: impl AsFd) -> rustix::io::Result<Mode> {
    rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)
        .map(|stat| Mode::from_raw_mode(stat.st_mode & 0o7777))
}
