//! Words for the kernel's refusals: several of them say something else than they mean.

use super::super::root::{Fault, Place};
use super::super::step::{Image, Step};
use crate::error::Error;
use crate::sys::Errno;
use crate::sys::namespace::MapRefused;
use std::path::Path;

/// What went wrong in a step, naming what was refused.
pub fn cause(step: &Step, fault: &Fault) -> String {
    let errno = fault.errno;
    let at = fault.at.as_deref();
    match (step, fault.place, at) {
        (Step::Image(_), Place::Fuse, _) => format!("cannot open `/dev/fuse`: {errno}"),
        (Step::Image(Image::Squashfs { path, .. }), Place::Source, _) => {
            format!("cannot open `{}`: {errno}", path.display())
        }
        (Step::Bind { from, .. }, Place::Source, _) => {
            format!("cannot open `{}` on the host: {errno}", from.display())
        }
        (Step::Bind { to, .. }, Place::Target, _) if errno == Errno::NOTDIR => {
            format!("one of the source and `{to}` is a directory, the other is not")
        }
        (_, Place::Target, Some(at)) => format!("cannot use `{at}` inside the image: {errno}"),
        (_, Place::Target, None) => format!("cannot use the target inside the image: {errno}"),
        (_, _, Some(at)) => format!("`{at}`: {errno}"),
        (_, _, None) => errno.to_string(),
    }
}

/// What the user or the site can do about a failed step.
pub fn hint_for(step: &Step, fault: &Fault) -> Option<String> {
    let text = match (step, fault.place, fault.errno) {
        // Whatever reads the image next gets them.
        (_, _, Errno::NOTCONN | Errno::CONNABORTED) | (Step::Image(_), _, Errno::PIPE) => {
            "the process that serves the image has ended; was it killed for memory?"
        }
        (Step::Image(_), Place::Fuse, Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            "the `fuse` kernel module is not loaded on the node: `modprobe fuse`"
        }
        (Step::Image(_), Place::Fuse, Errno::ACCESS | Errno::PERM) => {
            "`/dev/fuse` must be readable and writable for users (mode 0666, as udev sets it), also in the job's device cgroup"
        }
        (Step::Image(_), Place::Fuse, _) => "run `carrack doctor` on the node",
        (Step::Image(_), Place::Source, Errno::NOENT) => {
            "the image is not visible on this node; `carrack images` lists those of the store"
        }
        (Step::Image(_), Place::Source, Errno::ACCESS | Errno::PERM) => {
            "the image and the directories above it must be readable for you on this node"
        }
        (Step::Image(_), Place::Mount, Errno::PERM | Errno::ACCESS) => {
            "a security module refuses mounts in user namespaces (Ubuntu: AppArmor; install the profile that `carrack doctor` names)"
        }
        (Step::Image(_), Place::Mount, Errno::INVAL) => {
            "the kernel is too old for FUSE in user namespaces (4.18 is needed)"
        }
        (Step::Overlay { .. }, _, Errno::PERM | Errno::INVAL | Errno::NODEV) => {
            "this kernel does not allow overlays in user namespaces (5.11 is needed); leave out `--writable`"
        }
        (Step::MountPoints(_), Place::Mount, Errno::PERM | Errno::INVAL | Errno::NODEV) => {
            "the directory has too many entries to be mirrored on this kernel; add the mount point to the image"
        }
        (Step::MountPoints(_) | Step::Bind { .. }, Place::Target, Errno::NOTDIR | Errno::ISDIR) => {
            "choose another target, or add a fitting mount point to the image"
        }
        (Step::MountPoints(_), Place::Target, Errno::ACCESS) => {
            "a directory that serves as an image keeps its owners, and `--writable` changes only what is yours; `carrack import` makes an image of it, in which all is"
        }
        (Step::Bind { from, .. }, Place::Source, Errno::NOENT) if lists(from) => {
            "write one `--bind` for each; only the variable CARRACK_BIND takes a list"
        }
        (Step::Bind { .. }, Place::Source, Errno::NOENT) => {
            "make it first, or let it be made with the flag `x-create=dir`"
        }
        (Step::Bind { .. }, Place::Source, Errno::ACCESS) => {
            "the directories above it must be searchable for you on this node"
        }
        (Step::Bind { .. }, Place::Target, Errno::NOENT) => {
            "the target does not exist in the image"
        }
        (Step::Bind { .. }, Place::Mount, Errno::INVAL) => {
            "the source contains mounts that this user may not show without the ones below them"
        }
        (_, Place::Mount, Errno::NOSPC) => {
            "the limit `fs.mount-max` of the node is reached, or the memory of the job is used up"
        }
        (_, _, Errno::LOOP) => "symbolic links in the image lead in a circle",
        _ => return None,
    };
    Some(text.to_string())
}

/// Whether somebody wrote several paths into one, as other launchers allow.
fn lists(path: &Path) -> bool {
    path.to_string_lossy().contains(",/")
}

/// `unshare` failed.
pub fn no_namespaces(errno: Errno) -> Error {
    let error = Error::new("cannot make a user namespace").source(errno);
    match errno {
        Errno::NOSPC => error.hint(
            "the sysctl `user.max_user_namespaces` is 0 or used up; the site must raise it",
        ),
        Errno::USERS => error.hint("user namespaces are nested too deeply (32 levels)"),
        Errno::PERM => error.hint(
            "user namespaces are forbidden here: sysctl `kernel.unprivileged_userns_clone` (Debian), a seccomp filter, or a chroot",
        ),
        Errno::INVAL => error.hint("the kernel has no user namespaces, or carrack has threads here"),
        _ => error.hint("run `carrack doctor` on the node"),
    }
}

/// The id maps could not be written.
pub fn no_id_map(refused: MapRefused) -> Error {
    let error = Error::new(format!("cannot write `{}`", refused.file)).source(refused.errno);
    match refused.errno {
        Errno::ACCESS | Errno::PERM => error.hint(
            "a security module cuts user namespaces down (Ubuntu 23.10 and later: AppArmor); install the profile that `carrack doctor` names",
        ),
        Errno::NOENT | Errno::ROFS => error.hint("`/proc` is hidden or read-only here"),
        _ => error,
    }
}

/// An error that another process printed, as an error again.
pub fn reread(text: &str) -> Error {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let mut error = Error::new(first.strip_prefix("error: ").unwrap_or(first));
    for line in lines {
        let line = line.trim_start();
        if let Some(hint) = line.strip_prefix("hint:") {
            error = error.hint(hint.trim_start());
        } else {
            error = error.cause(line.strip_prefix("cause:").unwrap_or(line).trim_start());
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::super::super::inside::InsidePath;
    use super::super::super::step::{Access, Missing, Target};
    use super::*;

    fn image() -> Step {
        Step::Image(Image::Squashfs {
            path: "/a.sqsh".into(),
            offset: 0,
            check: None,
            name: "a".into(),
        })
    }

    fn bind() -> Step {
        Step::Bind {
            from: "/work".into(),
            to: InsidePath::fixed("/data"),
            access: Access::ReadOnly,
            missing: Missing::Fail,
            target: Target::Ready,
        }
    }

    #[test]
    fn refusals_that_mean_something_else() {
        for (step, place, errno, cause_says, hint_says) in [
            (image(), Place::Fuse, Errno::NOENT, "/dev/fuse", "modprobe"),
            (image(), Place::Fuse, Errno::ACCESS, "/dev/fuse", "0666"),
            (
                image(),
                Place::Source,
                Errno::NOENT,
                "/a.sqsh",
                "carrack images",
            ),
            (image(), Place::Mount, Errno::PERM, "", "AppArmor"),
            (bind(), Place::Source, Errno::NOENT, "/work", "x-create"),
            (bind(), Place::Target, Errno::NOTDIR, "/data", "mount point"),
            (bind(), Place::Mount, Errno::NOSPC, "", "mount-max"),
            (bind(), Place::Target, Errno::NOTCONN, "inside", "has ended"),
            (
                Step::Overlay { size: None },
                Place::Mount,
                Errno::PERM,
                "",
                "--writable",
            ),
        ] {
            let fault = Fault {
                errno,
                at: None,
                place,
            };
            let (cause, hint) = (cause(&step, &fault), hint_for(&step, &fault).unwrap());
            assert!(cause.contains(cause_says), "{cause}");
            assert!(hint.contains(hint_says), "{hint}");
        }
    }

    #[test]
    fn an_error_survives_the_way_through_a_socket() {
        let error = Error::new("cannot open `x`").cause("short").hint("pull it");
        assert_eq!(reread(&error.to_string()).to_string(), error.to_string());
    }
}
