//! How docker, singularity, ch-run and shifter spell our options, so that lines from their manuals work unchanged.
//!
//! A spelling is translated into pairs for the option table, means nothing here (and says why), or is refused by name: an
//! option that was silently ignored would be worse than one that is not offered.

use super::mounts::MountSpec;
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

pub struct Spelling {
    /// Names this row and no other.
    pub id: &'static str,
    /// Long flags, the first one is shown; may be empty when only the letter is known.
    pub long: &'static [&'static str],
    pub short: Option<char>,
    pub takes: Takes,
    pub means: Means,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    Value,
    /// A value after `=` only.
    Optional,
}

pub type Pair = (&'static str, OsString);

pub enum Means {
    /// The option of that name, with the same value.
    Same(&'static str),
    /// These options.
    Pairs(&'static [(&'static str, &'static str)]),
    /// Depends on the value.
    Read(fn(&OsStr) -> Result<Vec<Pair>>),
    /// Already so, or without meaning here.
    Nothing,
    /// Not offered, because.
    Refused(&'static str),
}

use Means::{Nothing as NoEffect, Pairs, Read, Refused, Same};
use Takes::{Nothing, Optional, Value};

macro_rules! spellings {
    ($($short:literal $($long:literal)* , $takes:ident => $means:expr;)*) => {
        pub static SPELLINGS: &[Spelling] = &[$(Spelling {
            id: concat!("spelling ", $short $(, " ", $long)*),
            long: &[$($long),*],
            short: letter($short),
            takes: $takes,
            means: $means,
        }),*];
    };
}

const fn letter(short: char) -> Option<char> {
    match short {
        ' ' => None,
        short => Some(short),
    }
}

spellings! {
    // Mounts and directories.
    'B', Value => Same("bind");
    'b', Value => Same("bind");
    ' ' "volume", Value => Same("bind");
    'V', Value => Read(shifter_volumes);
    ' ' "tmpfs", Value => Read(|value| {
        MountSpec::parse_tmpfs(value)?;
        let mut word = OsString::from("tmpfs:");
        word.push(value);
        Ok(vec![("bind", word)])
    });
    ' ' "pwd" "cd" "cwd", Value => Same("workdir");
    'c', Value => Same("workdir");
    ' ' "private-tmp", Nothing => Pairs(&[("tmp", "private")]);
    ' ' "contain", Nothing => Pairs(&[("home", "false"), ("tmp", "private"), ("dev", "minimal")]);
    'C' "containall", Nothing => Pairs(&[("home", "false"), ("tmp", "private"), ("dev", "minimal"), ("clean-env", "true")]);
    // Environment.
    ' ' "set-env", Value => Read(|value| Ok(vec![match value.as_bytes().contains(&b'=') {
        true => ("env", value.to_owned()),
        false => ("env-file", value.to_owned()),
    }]));
    ' ' "set-env0", Value => Same("env0-file");
    'E' "clearenv" "cleanenv", Nothing => Pairs(&[("clean-env", "true")]);
    // Who one is.
    'u' "user" "uid", Value => Read(docker_user);
    ' ' "fakeroot", Nothing => Pairs(&[("id", "root")]);
    'g' "gid", Value => Refused("give both numbers at once: `--id UID:GID`");
    ' ' "group-add", Value => Refused("a process keeps the rights of all groups that its user has on the host");
    // The root file system.
    ' ' "writable-tmpfs", Nothing => Pairs(&[("writable", "true")]);
    'W' "write-fake", Optional => Same("writable");
    'o' "overlay", Value => Refused("use `--writable[=SIZE]`, which is kept in memory and discarded");
    // GPUs.
    ' ' "nv" "rocm" "nvccli", Nothing => Pairs(&[("gpu", "auto")]);
    ' ' "gpus", Value => Read(docker_gpus);
    // Network.
    ' ' "net", Value => Same("network");
    'p' "publish", Value => Refused("the network is the host's: the port is reachable as it is, without mapping");
    'P' "publish-all", Nothing => NoEffect;
    ' ' "add-host" "dns" "dns-search" "ip" "link" "mac-address" "network-alias", Value => Refused("the network and its names are the host's");
    ' ' "hostname", Value => Refused("the host name is the host's: MPI and Slurm rely on it");
    // What is so anyway.
    't' "tty", Nothing => Pairs(&[("interactive", "true")]);
    ' ' "rm" "init" "sig-proxy" "no-healthcheck" "join", Nothing => NoEffect;
    'j', Nothing => NoEffect;
    ' ' "shm-size" "ulimit" "pull" "platform" "log-driver" "stop-signal" "stop-timeout" "ipc" "pid" "uts" "cgroupns", Value => Read(host_is_fine);
    'l' "label", Value => NoEffect;
    ' ' "security-opt", Value => Read(|value| match value.to_str() {
        Some("no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true") => Ok(Vec::new()),
        _ => Err(not_offered("--security-opt", "a capsule has no privileges to adjust; no_new_privs is always on")),
    });
    // What Slurm does.
    'd' "detach", Nothing => Refused("`carrack submit` starts something that runs by itself");
    'm' "memory", Value => Refused("memory is limited by Slurm: `--mem` of sbatch or srun");
    ' ' "cpus" "cpuset-cpus" "cpu-shares", Value => Refused("processors are given by Slurm: `--cpus-per-task` of sbatch or srun");
    ' ' "mpi" "ntasks" "nodes" "partition" "gres" "mem", Value => Refused("Slurm's options come before carrack: `srun --mpi=pmix carrack exec …`");
    ' ' "restart", Value => Refused("jobs are restarted by Slurm: `--requeue` of sbatch");
    // What nobody can do without privilege.
    ' ' "privileged" "keep-privs" "allow-setuid", Nothing => Refused("nothing here has privileges to give");
    ' ' "cap-add" "add-caps", Value => Refused("a capsule has no capabilities");
    ' ' "cap-drop", Value => NoEffect;
    ' ' "userns" "cgroup-parent" "runtime" "volumes-from" "volume-driver" "cidfile" "mount-hostfs", Value => Refused("carrack has no daemon and one kind of capsule");
    ' ' "security", Value => Refused("a capsule has no privileges to adjust");
}

/// Long flags that name more than one thing (`--ipc host`): fine when they ask for what is so.
fn host_is_fine(value: &OsStr) -> Result<Vec<Pair>> {
    match value.to_str() {
        Some("private" | "none" | "shareable") => Err(not_offered(
            "a namespace of its own",
            "MPI ranks of one node need the host's process and memory namespaces",
        )),
        _ => Ok(Vec::new()),
    }
}

/// `/a:/b[:ro][;/c:/d]`, with flags that shifter alone has refused.
fn shifter_volumes(value: &OsStr) -> Result<Vec<Pair>> {
    value
        .as_bytes()
        .split(|b| *b == b';')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let word = OsStr::from_bytes(word);
            MountSpec::parse(word)?;
            Ok(("bind", word.to_owned()))
        })
        .collect()
}

fn docker_user(value: &OsStr) -> Result<Vec<Pair>> {
    let id = match value.to_str() {
        Some("root" | "0" | "0:0" | "root:root") => "root",
        Some(text) if super::options::id_choice(text).is_ok() => text,
        _ => {
            return Err(
                Error::usage(format!("cannot appear as `{}`", value.display()))
                    .cause("only the image knows its user names")
                    .hint("use `--id image` for the image's USER, or numbers: `--id 1000:1000`"),
            );
        }
    };
    Ok(vec![("id", id.into())])
}

fn docker_gpus(value: &OsStr) -> Result<Vec<Pair>> {
    match value.to_str() {
        // All that docker would show are, under Slurm, those of the allocation.
        Some("all") => Ok(vec![("gpu", "auto".into())]),
        Some("0" | "none") => Ok(vec![("gpu", "none".into())]),
        _ => Err(not_offered(
            "--gpus with a number or a list",
            "Slurm chooses the GPUs: `--gpus`, `--gres` or `--gpus-per-task` of sbatch or srun",
        )),
    }
}

fn not_offered(what: &str, why: &str) -> Error {
    Error::usage(format!("{what} is not offered")).cause(why)
}

impl Spelling {
    /// As the user wrote it.
    pub fn name(&self) -> String {
        match (self.long.first(), self.short) {
            (Some(long), _) => format!("--{long}"),
            (None, Some(short)) => format!("-{short}"),
            (None, None) => String::new(),
        }
    }

    /// The pairs that this spelling stands for.
    pub fn translate(&self, value: Option<&OsStr>) -> Result<Vec<Pair>> {
        let value = value.unwrap_or(OsStr::new(match self.takes {
            Optional => "true",
            _ => "",
        }));
        match &self.means {
            Same(name) => Ok(vec![(*name, value.to_owned())]),
            Pairs(pairs) => Ok(pairs
                .iter()
                .map(|(name, value)| (*name, value.into()))
                .collect()),
            Read(read) => read(value),
            NoEffect => Ok(Vec::new()),
            Refused(why) => Err(not_offered(&format!("`{}`", self.name()), why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(flag: &str) -> &'static Spelling {
        let letter = flag.chars().next().filter(|_| flag.len() == 1);
        SPELLINGS
            .iter()
            .find(|s| s.long.contains(&flag) || (letter.is_some() && s.short == letter))
            .unwrap()
    }

    #[test]
    fn translations() {
        for (flag, value, expected) in [
            ("B", "/a:/b", "bind=/a:/b"),
            ("volume", "/a", "bind=/a"),
            ("V", "/a:/b:ro;/c:/d", "bind=/a:/b:ro bind=/c:/d"),
            ("tmpfs", "/run:size=1m", "bind=tmpfs:/run:size=1m"),
            ("set-env", "A=1", "env=A=1"),
            ("set-env", "file", "env-file=file"),
            ("user", "1000:1000", "id=1000:1000"),
            ("u", "root", "id=root"),
            ("gpus", "all", "gpu=auto"),
            (
                "containall",
                "",
                "home=false tmp=private dev=minimal clean-env=true",
            ),
            ("rm", "", ""),
            ("ipc", "host", ""),
            ("user", "ds", "error: cannot appear as `ds`"),
            (
                "gpus",
                "2",
                "error: --gpus with a number or a list is not offered",
            ),
            ("privileged", "", "error: `--privileged` is not offered"),
            ("detach", "", "error: `--detach` is not offered"),
            (
                "ipc",
                "private",
                "error: a namespace of its own is not offered",
            ),
        ] {
            let shown = match find(flag).translate(Some(OsStr::new(value))) {
                Ok(pairs) => pairs
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.display()))
                    .collect::<Vec<_>>()
                    .join(" "),
                Err(error) => error.to_string().lines().next().unwrap().to_string(),
            };
            assert_eq!(shown, expected, "{flag} {value}");
        }
    }

    #[test]
    fn every_translation_names_an_option() {
        let known = |name: &str| {
            super::super::options::OPTIONS
                .iter()
                .any(|o| o.name == name)
        };
        for spelling in SPELLINGS {
            match &spelling.means {
                Same(name) => assert!(known(name), "{name}"),
                Pairs(pairs) => assert!(pairs.iter().all(|(name, _)| known(name))),
                _ => {}
            }
        }
    }
}
