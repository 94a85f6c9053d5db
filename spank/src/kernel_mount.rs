//! The site's opt-in: the kernel mounts an image of a store that is root's alone, once for a job on a node. Process:
//! slurmstepd's child before it becomes the task; identity: root; may fail: then the image is served as always.
//!
//! What keeps this safe. The image is opened with the user's rights, so nobody sees a file this way that he may not read.
//! It and every directory above it are root's alone, so nobody changes it after it was checked. An unprivileged process
//! (`carrack check-image`, as nobody) holds superblock, tables and length against the record that carrack itself wrote;
//! the kernel's parser sees nothing else. The mount is attached here, in a namespace that belongs to root, with
//! `nosuid,nodev,ro`: a user namespace made later gets a locked copy. A detached mount is never given away, because its
//! flags could be cleared there. Commands inside run with no_new_privs, which the launcher sets for all.

use crate::host::Step;
use crate::system::failed;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The user and group that checks run as; only root gives anything to them.
const NOBODY: u32 = 65534;
/// In a job's directory: what the kernel mounted. Root's, although the directory above is the user's.
const IMAGES: &str = "images";
const SQUASHFS: u64 = 0x7371_7368;
/// Other jobs of the node take loop devices, too.
const TRIES: u32 = 64;

/// What is to be mounted, and by which rules.
pub struct Wanted<'a> {
    /// The store that is root's alone.
    pub store: &'a str,
    /// 64 hexadecimal digits.
    pub digest: &'a str,
    /// The job's directory on this node, which is the user's.
    pub job: &'a str,
    pub launcher: &'a str,
}

/// Mounts the image unless it is; where. `None`: the store does not have it.
pub fn mount(wanted: &Wanted<'_>, step: &Step, groups: &[u32]) -> Result<Option<String>, String> {
    let Wanted {
        store, digest, job, ..
    } = *wanted;
    let base = format!(
        "{store}/images/{}/{digest}",
        digest.get(..2).unwrap_or_default()
    );
    let [image, record] = [format!("{base}.sqsh"), format!("{base}.json")];
    let opened = as_user(step, groups, || {
        Ok((File::open(&image)?, File::open(&record)?))
    });
    let Ok((image_file, record_file)) = opened else {
        return Ok(None);
    };
    let images = images_directory(job)?;
    // The other tasks of this node wait until it is there.
    rustix::fs::flock(&images, FlockOperation::LockExclusive).map_err(|e| e.to_string())?;
    match rustix::fs::mkdirat(&images, digest, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(failed(job)(error.into())),
    }
    let at = open_directory(&images, digest)?;
    let path = format!("{job}/{IMAGES}/{digest}");
    if rustix::fs::fstatfs(&at).is_ok_and(|found| found.f_type as u64 == SQUASHFS) {
        return Ok(Some(path));
    }
    for (file, name) in [(&image_file, &image), (&record_file, &record)] {
        roots_alone(file, name)?;
    }
    check(wanted, &image_file, &record_file)?;
    let device = Loop::over(&image_file)?;
    attach(&device, &at)
        .map_err(|errno| format!("the kernel does not mount `{image}`: {errno}"))?;
    Ok(Some(path))
}

/// Does something with the user's rights: all three of his ids, his groups, and no capability in effect.
fn as_user<T>(
    step: &Step,
    groups: &[u32],
    what: impl FnOnce() -> std::io::Result<T>,
) -> Result<T, String> {
    let own = own_groups()?;
    let change = |groups: &[u32], gid: u32, uid: u32| {
        // SAFETY: this process, a child that is about to become a task, has one thread; saved ids stay root's.
        let done = unsafe {
            libc::setgroups(groups.len(), groups.as_ptr()) == 0
                && libc::setresgid(gid, gid, 0) == 0
                && libc::setresuid(uid, uid, 0) == 0
        };
        match done {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error().to_string()),
        }
    };
    let back = || {
        // SAFETY: as above; the user id comes first, because only root may change the others.
        let done = unsafe {
            libc::setresuid(0, 0, 0) == 0
                && libc::setresgid(0, 0, 0) == 0
                && libc::setgroups(own.len(), own.as_ptr()) == 0
        };
        match done {
            true => Ok(()),
            false => Err("cannot become root again".to_string()),
        }
    };
    let result =
        change(groups, step.gid, step.uid).and_then(|()| what().map_err(|e| e.to_string()));
    back()?;
    result
}

fn own_groups() -> Result<Vec<u32>, String> {
    let groups = rustix::process::getgroups().map_err(|errno| errno.to_string())?;
    Ok(groups.into_iter().map(|group| group.as_raw()).collect())
}

fn open_directory(above: impl AsFd, name: &str) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
        .map_err(|errno| failed(name)(errno.into()))
}

/// Root's directory in the user's. The user may move it away, but can put none of root's in its place.
fn images_directory(job: &str) -> Result<OwnedFd, String> {
    let above = open_directory(CWD, job)?;
    // Nobody but root may open it, and so hold its lock.
    match rustix::fs::mkdirat(&above, IMAGES, Mode::from_raw_mode(0o711)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(failed(job)(errno.into())),
    }
    let images = open_directory(&above, IMAGES)?;
    let found = rustix::fs::fstat(&images).map_err(|errno| errno.to_string())?;
    match found.st_uid {
        0 => Ok(images),
        _ => Err(format!("`{job}/{IMAGES}` on this node is not root's")),
    }
}

/// Neither the file nor a directory above it can be changed by anybody else.
fn roots_alone(file: &File, path: &str) -> Result<(), String> {
    let refuse = |what: &Path| {
        Err(format!(
            "`{}` is not root's alone, so the kernel does not mount it",
            what.display()
        ))
    };
    let found = file.metadata().map_err(failed(path))?;
    let kind = FileType::from_raw_mode(found.mode());
    if kind != FileType::RegularFile || found.uid() != 0 || found.mode() & 0o022 != 0 {
        return refuse(Path::new(path));
    }
    for above in Path::new(path).ancestors().skip(1) {
        let found = std::fs::symlink_metadata(above).map_err(failed(path))?;
        // In a directory like /tmp nobody can rename what is root's.
        let closed = found.mode() & 0o022 == 0 || found.mode() & 0o1000 != 0;
        if found.uid() != 0 || !found.is_dir() || !closed {
            return refuse(above);
        }
    }
    Ok(())
}

/// Lets an unprivileged process hold the image against its record.
fn check(wanted: &Wanted<'_>, image: &File, record: &File) -> Result<(), String> {
    let clone = |file: &File| file.try_clone().map_err(|error| error.to_string());
    let mut command = Command::new(wanted.launcher);
    command
        .args(["check-image", wanted.digest])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(clone(image)?))
        // Two files have to go in, and nothing is said but an error.
        .stdout(Stdio::from(clone(record)?))
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| crate::system::become_user(NOBODY, NOBODY, &[]));
    }
    let mut child = command.spawn().map_err(failed(wanted.launcher))?;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!(
            "the kernel does not mount the image {}: {}",
            wanted.digest,
            said.trim().trim_start_matches("error: ").replace('\n', ";")
        )),
    }
}

/// A loop device over a file; freed by the kernel when nothing uses it any more.
struct Loop {
    path: String,
    _device: File,
}

/// `struct loop_config` with the `struct loop_info64` in it, of which only the flags are set.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    numbers: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
/// LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR
const READ_ONLY_AND_FREED: u32 = 1 | 4;

impl Loop {
    fn over(image: &File) -> Result<Loop, String> {
        let control = File::open("/dev/loop-control").map_err(failed("/dev/loop-control"))?;
        for _ in 0..TRIES {
            // SAFETY: the request takes and touches no memory.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
            if number < 0 {
                return Err(format!(
                    "no loop device: {}",
                    std::io::Error::last_os_error()
                ));
            }
            let path = format!("/dev/loop{number}");
            let device = File::open(&path).map_err(failed(&path))?;
            let config = LoopConfig {
                fd: image.as_raw_fd() as u32,
                block_size: 0,
                numbers: [0; 5],
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: READ_ONLY_AND_FREED,
                names: [0; 160],
                init: [0; 2],
                reserved: [0; 8],
            };
            // SAFETY: the request reads one struct loop_config, which lives until the call returns.
            let done =
                unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
            if done == 0 {
                verify(image, &device).map_err(|why| format!("`{path}`: {why}"))?;
                return Ok(Loop {
                    path,
                    _device: device,
                });
            }
            let error = std::io::Error::last_os_error();
            // Somebody else was faster with this one.
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(failed(&path)(error));
            }
        }
        Err("other jobs take all loop devices".to_string())
    }
}

/// Where root may not read the file (a share with root squashed), the device is empty and the kernel says nothing.
fn verify(image: &File, device: &File) -> Result<(), String> {
    let mut size = 0u64;
    // SAFETY: the request stores one 64-bit number.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &raw mut size) };
    let length = image.metadata().map_err(|error| error.to_string())?.len();
    if done != 0 || size != length & !511 {
        return Err(format!("it has {size} bytes, not {length}"));
    }
    let (mut before, mut after) = ([0; 96], [0; 96]);
    let read = image
        .read_exact_at(&mut before, 0)
        .and_then(|()| device.read_exact_at(&mut after, 0));
    match read {
        Ok(()) if before == after => Ok(()),
        Ok(()) => Err("it shows other bytes".to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Only for mounts that stay attached: nobody gets the descriptor.
fn attach(device: &Loop, at: &OwnedFd) -> rustix::io::Result<()> {
    let context = rustix::mount::fsopen("squashfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_flag(context.as_fd(), "ro")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "source", device.path.as_str())?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mounted =
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    rustix::mount::move_mount(
        mounted.as_fd(),
        "",
        at.as_fd(),
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Unmounts what is mounted below a directory.
pub fn unmount_below(directory: &str) -> Result<(), String> {
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(failed("/proc/self/mountinfo"))?;
    let inside = format!("{directory}/");
    // Spaces and the like are written as octal numbers, which no directory of ours has.
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| point.starts_with(&inside)) {
        rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|errno| failed(point)(errno.into()))?;
    }
    Ok(())
}
