//! What root does on a node, in as few words as possible. Process: slurmstepd, its children, the epilog; identity: root.

use crate::host::Step;
use std::ffi::{CString, OsStr};
use std::fs::{DirBuilder, Metadata};
use std::io::{Error, ErrorKind, Result as IoResult};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

pub fn failed(path: &str) -> impl Fn(Error) -> String {
    move |error| format!("`{path}` on this node: {error}")
}

/// Makes a directory unless it is there; never follows a link.
fn directory(path: &str, mode: u32) -> IoResult<Metadata> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(path)?;
    match found.is_dir() {
        true => Ok(found),
        false => Err(Error::from(ErrorKind::NotADirectory)),
    }
}

pub fn own_directory(parent: &str, name: &str, step: &Step) -> Result<(), String> {
    let above = directory(parent, 0o755).map_err(failed(parent))?;
    if above.uid() != 0 || above.mode() & 0o022 != 0 {
        return Err(format!(
            "`{parent}` on this node is not root's alone; see `state=` in plugstack.conf"
        ));
    }
    // Nobody but root can put anything under this name.
    let path = format!("{parent}/{name}");
    let found = directory(&path, 0o700).map_err(failed(&path))?;
    if found.uid() == step.uid {
        return Ok(());
    }
    let empty = || std::fs::read_dir(&path).is_ok_and(|mut list| list.next().is_none());
    if found.uid() != 0 || !empty() {
        return Err(format!("`{path}` on this node belongs to another user"));
    }
    std::os::unix::fs::lchown(&path, Some(step.uid), Some(step.gid)).map_err(failed(&path))
}

/// The user may still change what is in it, so names are only followed from directory to directory, never through links;
/// that is what the standard library does.
pub fn remove_directory(path: &str) -> Result<(), String> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {}
        _ => return Ok(()),
    }
    crate::kernel_mount::unmount_below(path)?;
    // An overlay leaves a directory without any permissions, which stops nobody who is root.
    std::fs::remove_dir_all(path).map_err(failed(path))
}

pub fn names_in(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// By the titles that Slurm gives its processes: `slurmstepd: [JOB.STEP]`.
pub fn jobs_here() -> Vec<u32> {
    let title = |process: &String| std::fs::read(format!("/proc/{process}/cmdline")).ok();
    let processes = names_in("/proc").into_iter();
    processes
        .filter_map(|process| {
            let title = title(&process)?;
            let rest = title.strip_prefix(b"slurmstepd: [")?;
            let digits = rest.split(|byte| !byte.is_ascii_digit()).next()?;
            std::str::from_utf8(digits).ok()?.parse().ok()
        })
        .collect()
}

/// Runs a program with the user's rights and the job's environment; what it said on its standard error if it failed.
pub fn run_as_user(
    step: &Step,
    groups: &[u32],
    environment: &[CString],
    words: &[String],
) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else {
        return Err("no program".to_string());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for variable in environment {
        let bytes = variable.as_bytes();
        if let Some(at) = bytes.iter().position(|byte| *byte == b'=') {
            let (name, value) = bytes.split_at(at);
            command.env(
                OsStr::from_bytes(name),
                OsStr::from_bytes(value.get(1..).unwrap_or_default()),
            );
        }
    }
    command.env_remove(carrack::handover::VARIABLE);
    let (uid, gid, groups) = (step.uid, step.gid, groups.to_vec());
    // SAFETY: between fork and exec only system calls are made, on values that were ready before.
    unsafe {
        command.pre_exec(move || become_user(uid, gid, &groups));
    }
    let output = command
        .output()
        .map_err(|error| format!("cannot run `{program}`: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("error: ");
            Err(match said {
                "" => format!("`{program}` ended with {}", output.status),
                said => said.replace('\n', ";"),
            })
        }
    }
}

pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> IoResult<()> {
    // SAFETY: `groups` is as long as said; the other calls take numbers.
    let done = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr()) == 0
            && libc::setresgid(gid, gid, gid) == 0
            && libc::setresuid(uid, uid, uid) == 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            // If slurmstepd is killed, nobody waits for the answer.
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
    };
    match done {
        true => Ok(()),
        false => Err(Error::last_os_error()),
    }
}
