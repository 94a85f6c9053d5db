//! A skip is visible and can be forbidden.
//!
//! A test that needs something of the machine says `need!(Fuse, Registry)` first. If that is not there, the test prints
//! why and ends; if `CARRACK_TESTS_REQUIRE` names it, the test fails instead. `packages` there stands for everything
//! that `scripts/setup test` installs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // the list is what tests may ask for, not what they ask for today
pub enum Need {
    /// A plain user may make user namespaces.
    Userns,
    /// `/dev/fuse` can be opened.
    Fuse,
    /// The tests run as root.
    Root,
    /// Root may mount a squashfs file through a loop device.
    KernelMount,
    Cargo,
    /// Debian's docker-registry.
    Registry,
    Umoci,
    Skopeo,
    /// mksquashfs and unsquashfs.
    SquashfsTools,
    Squashfuse,
    Openssl,
    Htpasswd,
    Strace,
    /// musl-gcc.
    Musl,
    /// slurmctld, slurmd and munged.
    Slurm,
    /// slurmdbd and a database for it.
    Slurmdbd,
    /// Open MPI and a client library of PMI2, to compile for and to copy into images.
    OpenMpi,
    /// The module command that is written in Lua.
    Lmod,
}

impl Need {
    /// The word in `CARRACK_TESTS_REQUIRE`, and whether `packages` includes it.
    fn word(self) -> (&'static str, bool) {
        match self {
            Need::Userns => ("userns", false),
            Need::Fuse => ("fuse", false),
            Need::Root => ("root", false),
            Need::KernelMount => ("kernelmount", false),
            Need::Cargo => ("cargo", false),
            Need::Registry => ("registry", true),
            Need::Umoci => ("umoci", true),
            Need::Skopeo => ("skopeo", true),
            Need::SquashfsTools => ("squashfs-tools", true),
            Need::Squashfuse => ("squashfuse", true),
            Need::Openssl => ("openssl", true),
            Need::Htpasswd => ("htpasswd", true),
            Need::Strace => ("strace", true),
            Need::Musl => ("musl", true),
            Need::Slurm => ("slurm", true),
            Need::Slurmdbd => ("slurmdbd", true),
            Need::OpenMpi => ("openmpi", true),
            Need::Lmod => ("lmod", true),
        }
    }

    /// Why it is not there, if it is not.
    fn missing(self) -> Option<String> {
        match self {
            Need::Userns => fails("unshare", &["--user", "--map-root-user", "true"]),
            Need::Fuse => std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .err()
                .map(|error| format!("/dev/fuse: {error}")),
            Need::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".into()),
            Need::KernelMount => Need::Root.missing().or_else(|| {
                (!Path::new("/dev/loop-control").exists()).then(|| "no loop devices".into())
            }),
            Need::Cargo => fails("cargo", &["--version"]),
            Need::Registry => absent(&["docker-registry"]),
            Need::Umoci => absent(&["umoci"]),
            Need::Skopeo => absent(&["skopeo"]),
            Need::SquashfsTools => absent(&["mksquashfs", "unsquashfs"]),
            Need::Squashfuse => absent(&["squashfuse_ll", "fusermount3"]),
            Need::Openssl => absent(&["openssl"]),
            Need::Htpasswd => absent(&["htpasswd"]),
            Need::Strace => absent(&["strace"]),
            Need::Musl => absent(&["musl-gcc"]),
            Need::Slurm => absent(&["slurmctld", "slurmd", "munged"]),
            Need::Slurmdbd => absent(&["slurmdbd", "mariadbd"]),
            Need::OpenMpi => absent(&["gcc", "mpicc", "mpirun"]).or_else(|| {
                (!Path::new("/usr/include/slurm/pmi2.h").exists())
                    .then(|| "no `slurm/pmi2.h`".into())
            }),
            Need::Lmod => {
                (!Path::new("/usr/share/lmod/lmod/libexec/lmod").exists()).then(|| "no Lmod".into())
            }
        }
    }
}

fn fails(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("{program}: {error}")),
    }
}

/// Where a program is, also in the directories that a plain user's `PATH` often lacks.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

fn absent(programs: &[&str]) -> Option<String> {
    programs
        .iter()
        .find(|name| program(name).is_none())
        .map(|name| format!("no `{name}`"))
}

/// Whether all of them are there; says on the terminal, past libtest's capture, which is not.
pub fn met(test: &str, needs: &[Need]) -> bool {
    let required = std::env::var("CARRACK_TESTS_REQUIRE").unwrap_or_default();
    let required: Vec<&str> = required.split(',').map(str::trim).collect();
    for need in needs {
        let Some(why) = need.missing() else { continue };
        let (word, packaged) = need.word();
        assert!(
            !(required.contains(&word) || packaged && required.contains(&"packages")),
            "this test may not be skipped here (CARRACK_TESTS_REQUIRE), but needs {word}: {why}"
        );
        let _ = writeln!(
            std::io::stderr().lock(),
            "skipped: {test}: needs {word}: {why}"
        );
        return false;
    }
    true
}

/// Ends the test, visibly, unless the machine has what it needs.
macro_rules! need {
    ($($need:ident),+) => {
        if !crate::need::met(
            std::thread::current().name().unwrap_or("a test"),
            &[$(crate::need::Need::$need),+],
        ) {
            return;
        }
    };
}
pub(crate) use need;
