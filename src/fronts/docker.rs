//! An opt-file: options of `docker run` or `podman run`, one or more per line, as CES users write them.
//!
//! What an option means here is said once, in the launcher's tables (`launch/options`, `launch/spellings`); this module
//! knows docker's letters and the few options that mean something to Slurm.

use super::{Flag, Takes, Word, lines_of_words, option, read};
use crate::error::{Error, Result};
use crate::launch::options::{OPTIONS, Shape};
use crate::launch::spellings::SPELLINGS;
use std::ffi::OsStr;
use std::path::Path;

/// What the site's rules say of things that depend on one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// There is no network inside.
    pub no_network: bool,
    /// Nobody sits in front of what runs.
    pub not_interactive: bool,
}

/// Options of a container as words of ours, with what is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// For sbatch.
    pub job: Vec<String>,
    pub container: Vec<String>,
    pub notices: Vec<String>,
}

macro_rules! flags {
    ($($short:literal $long:literal $takes:ident;)*) => {
        &[$(Flag { long: $long, short: $short, takes: Takes::$takes }),*]
    };
}

/// Of `docker run` and `podman run`. Those that mean nothing here are known too, to be refused with the reason.
const FLAGS: &[Flag] = flags! {
    'v' "volume" Value;
    ' ' "mount" Value;
    ' ' "tmpfs" Value;
    'e' "env" Value;
    ' ' "env-file" Value;
    'w' "workdir" Value;
    'u' "user" Value;
    'i' "interactive" Nothing;
    't' "tty" Nothing;
    ' ' "rm" Nothing;
    ' ' "init" Nothing;
    ' ' "replace" Nothing;
    ' ' "name" Value;
    'p' "publish" Value;
    'P' "publish-all" Nothing;
    ' ' "expose" Value;
    ' ' "entrypoint" Value;
    ' ' "network" Value;
    ' ' "net" Value;
    ' ' "gpus" Value;
    ' ' "device" Value;
    ' ' "read-only" Nothing;
    'l' "label" Value;
    'm' "memory" Value;
    ' ' "cpus" Value;
    ' ' "cpuset-cpus" Value;
    'c' "cpu-shares" Value;
    ' ' "shm-size" Value;
    ' ' "ulimit" Value;
    ' ' "pull" Value;
    ' ' "platform" Value;
    ' ' "log-driver" Value;
    ' ' "stop-signal" Value;
    ' ' "stop-timeout" Value;
    ' ' "ipc" Value;
    ' ' "pid" Value;
    ' ' "uts" Value;
    ' ' "cgroupns" Value;
    ' ' "security-opt" Value;
    'd' "detach" Nothing;
    ' ' "restart" Value;
    ' ' "privileged" Nothing;
    ' ' "cap-add" Value;
    ' ' "cap-drop" Value;
    ' ' "userns" Value;
    ' ' "cgroup-parent" Value;
    ' ' "runtime" Value;
    ' ' "volumes-from" Value;
    ' ' "volume-driver" Value;
    ' ' "cidfile" Value;
    ' ' "add-host" Value;
    ' ' "dns" Value;
    ' ' "dns-search" Value;
    ' ' "ip" Value;
    ' ' "link" Value;
    ' ' "mac-address" Value;
    ' ' "network-alias" Value;
    'h' "hostname" Value;
    ' ' "group-add" Value;
    ' ' "sig-proxy" Optional;
    ' ' "no-healthcheck" Nothing;
    'a' "attach" Value;
    ' ' "secret" Value;
    ' ' "pod" Value;
    ' ' "systemd" Value;
};

/// Translates the text of an opt-file. Relative paths are below `here`.
pub fn options(text: &str, here: &Path, rules: Rules) -> Result<Translated> {
    let mut found = Translated::default();
    let (mut ports, mut no_network) = (Vec::new(), rules.no_network);
    for word in read(&lines_of_words(text)?, FLAGS, false)? {
        let (name, value) = match word {
            Word::Flag(name, value) => (name, value.unwrap_or_default()),
            Word::Plain(word) => return Err(no_option(&word)),
            Word::Rest(rest) => return Err(no_option(rest.first().map_or("--", String::as_str))),
        };
        match name {
            "publish" => ports.push(value),
            "publish-all" | "expose" | "rm" | "replace" => {}
            "interactive" | "tty" if rules.not_interactive => {
                return Err(Error::usage(format!("`--{name}` is not allowed here"))
                    .cause("nobody may enter or sit in front of a running image (`interactive`)"));
            }
            "interactive" | "tty" => found.notices.push(format!(
                "`--{name}` means nothing for a job; it is left out"
            )),
            "name" => found.job.push(option("job-name", &value)),
            "memory" => found.job.push(option("mem", &memory(&value)?)),
            "cpus" => found.job.push(option("cpus-per-task", &cores(&value)?)),
            "volume" => found.container.push(option("bind", &volume(&value, here)?)),
            "mount" => found.container.push(option("mount", &keyed(&value, here))),
            "env-file" => {
                let path = here.join(&value);
                let path = path.to_str().unwrap_or_default();
                found.container.push(option("env-file", path));
            }
            "detach" | "attach" | "secret" | "pod" | "systemd" => {
                return Err(not_offered(
                    name,
                    "a job runs by itself and has one container",
                ));
            }
            _ => found.container.extend(own(name, &value)?),
        }
        no_network |= found
            .container
            .last()
            .is_some_and(|last| last == "--network=none");
    }
    for port in ports {
        if no_network {
            return Err(
                not_offered("publish", "there is no network here (`network`)")
                    .cause(format!("`{port}` could be reached by nobody")),
            );
        }
        found.notices.push(format!(
            "the network is the host's: the port of `-p {port}` is reachable as it is, on the job's node"
        ));
    }
    Ok(found)
}

/// By the launcher's own tables.
fn own(name: &str, value: &str) -> Result<Vec<String>> {
    let text = |(name, value): (&str, &OsStr)| {
        let value = value.to_str().unwrap_or_default();
        match OPTIONS.iter().find(|option| option.name == name) {
            Some(known) if known.shape == Shape::Switch && value == "true" => format!("--{name}"),
            _ => option(name, value),
        }
    };
    let spelling = SPELLINGS.iter().find(|row| row.long.contains(&name));
    if let Some(spelling) = spelling {
        let pairs = spelling.translate(Some(OsStr::new(value)))?;
        let words = pairs.iter().map(|(name, value)| text((name, value)));
        return Ok(words.collect());
    }
    let known = OPTIONS.iter().find(|option| option.name == name);
    match known {
        Some(known) => Ok(vec![text((known.name, OsStr::new(value)))]),
        None if OPTIONS.iter().any(|option| option.off == Some(name)) => {
            Ok(vec![format!("--{name}")])
        }
        None => Err(not_offered(name, "it has no meaning here")),
    }
}

fn no_option(word: &str) -> Error {
    Error::usage(format!("`{word}` is no option"))
        .hint("one or more options of `docker run` per line; arguments of the program go into the arg-file")
}

fn not_offered(name: &str, why: &str) -> Error {
    Error::usage(format!("`--{name}` is not offered")).cause(why)
}

/// `./x:/y` starts here; a bare name would be one of docker's own volumes.
fn volume(value: &str, here: &Path) -> Result<String> {
    let (source, rest) = match value.split_once(':') {
        Some((source, rest)) => (source, format!(":{rest}")),
        None => (value, String::new()),
    };
    if source.starts_with('/') {
        return Ok(value.to_string());
    }
    if !(source.starts_with("./") || source.starts_with("../") || [".", ".."].contains(&source)) {
        return Err(not_offered(
            &format!("volume {value}"),
            "there are no named volumes here",
        )
        .hint("give a directory: `/path:/inside`, or `./path:/inside`"));
    }
    Ok(format!("{}{rest}", beside(source, here)))
}

fn beside(path: &str, here: &Path) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    match path {
        "." | "" => here.display().to_string(),
        path => here.join(path).display().to_string(),
    }
}

/// The relative source of a `type=bind,source=./x`.
fn keyed(value: &str, here: &Path) -> String {
    let field = |field: &str| match field.split_once('=') {
        Some((key @ ("source" | "src"), path)) if path.starts_with('.') => {
            format!("{key}={}", beside(path, here))
        }
        _ => field.to_string(),
    };
    value.split(',').map(field).collect::<Vec<_>>().join(",")
}

/// docker's `4g`, `512m`, `1gb` or bytes, in sbatch's letters.
fn memory(value: &str) -> Result<String> {
    let wrong =
        || Error::usage(format!("`{value}` is no amount of memory")).hint("for example `4g`");
    let lower = value.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match lower.strip_prefix(digits).unwrap_or_default() {
        "" | "b" => Ok(format!("{}K", number.div_ceil(1024).max(1))),
        unit @ ("k" | "kb" | "m" | "mb" | "g" | "gb") => Ok(format!(
            "{number}{}",
            unit.get(..1).unwrap_or_default().to_ascii_uppercase()
        )),
        _ => Err(wrong()),
    }
}

/// docker's fractions of a processor are whole ones here.
fn cores(value: &str) -> Result<String> {
    match value.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 4096.0 => Ok(format!("{}", number.ceil() as u32)),
        _ => Err(Error::usage(format!(
            "`{value}` is no number of processors"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, rules: Rules) -> String {
        match options(text, Path::new("/here"), rules) {
            Ok(found) => {
                let notes = found.notices.iter().map(|_| "(notice)".to_string());
                let all = found.job.into_iter().chain(found.container);
                all.chain(notes).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.what().to_string(),
        }
    }

    const OPEN: Rules = Rules {
        no_network: false,
        not_interactive: false,
    };
    const SHUT: Rules = Rules {
        no_network: true,
        not_interactive: true,
    };

    #[test]
    fn what_the_samples_of_ces_say() {
        let rocker = "-p 8787:8787\n-e PASSWORD=test\n--mount type=tmpfs,destination=/run\n";
        assert_eq!(
            shown(rocker, OPEN),
            "--env=PASSWORD=test --mount=type=tmpfs,destination=/run (notice)"
        );
        let postgres = "-e POSTGRES_PASSWORD=a\n-v ./pgdata:/var/lib/postgresql\n";
        assert_eq!(
            shown(postgres, OPEN),
            "--env=POSTGRES_PASSWORD=a --bind=/here/pgdata:/var/lib/postgresql"
        );
        assert_eq!(shown(rocker, SHUT), "`--publish` is not offered");
    }

    #[test]
    fn options_one_by_one() {
        for (text, expected) in [
            ("-v /a:/b:ro", "--bind=/a:/b:ro"),
            ("--volume=.:/b", "--bind=/here:/b"),
            ("-v data:/b", "`--volume data:/b` is not offered"),
            (
                "--mount type=bind,src=./a,dst=/b",
                "--mount=type=bind,src=/here/a,dst=/b",
            ),
            ("--tmpfs /run:size=1m", "--bind=tmpfs:/run:size=1m"),
            ("-e A=b\\ c -e D", "--env=A=b c --env=D"),
            ("--env-file vars", "--env-file=/here/vars"),
            ("-w /w -u 1000:1000", "--workdir=/w --id=1000:1000"),
            ("-u root", "--id=root"),
            ("--entrypoint sh", "--entrypoint=sh"),
            ("--name rs --rm", "--job-name=rs"),
            ("-m 4g --cpus 1.5", "--mem=4G --cpus-per-task=2"),
            ("-m 1048576", "--mem=1024K"),
            ("-m lots", "`lots` is no amount of memory"),
            ("--network none", "--network=none"),
            ("--net=host", "--network=host"),
            ("--network none -p 80:80", "`--publish` is not offered"),
            ("-p 80:80 --network none", "`--publish` is not offered"),
            ("--read-only", "--read-only"),
            ("--gpus all", "--gpu=auto"),
            ("-it", "(notice) (notice)"),
            ("--security-opt no-new-privileges", ""),
            ("--privileged", "`--privileged` is not offered"),
            ("--cap-add SYS_ADMIN", "`--cap-add` is not offered"),
            ("-d", "`--detach` is not offered"),
            ("-h box", "`--hostname` is not offered"),
            ("--ipc=private", "a namespace of its own is not offered"),
            ("--secret x", "`--secret` is not offered"),
            ("--usr 1", "unknown option `--usr`"),
            ("ubuntu", "`ubuntu` is no option"),
            ("-- ubuntu", "`ubuntu` is no option"),
            ("--bind /a", "unknown option `--bind`"),
            ("--profile hpc", "unknown option `--profile`"),
            ("-e 'A", "line 1 cannot be understood"),
        ] {
            assert_eq!(shown(text, OPEN), expected, "{text}");
        }
        assert_eq!(shown("-it", SHUT), "`--interactive` is not allowed here");
        assert_eq!(shown("-e A=1", SHUT), "--env=A=1");
    }

    #[test]
    fn what_is_let_through_is_known_to_the_launcher() {
        for flag in FLAGS {
            let value = match flag.long {
                "network" | "net" => "none",
                "user" => "0",
                "gpus" => "all",
                _ => "/x",
            };
            let Ok(words) = own(flag.long, value) else {
                continue;
            };
            for word in words {
                let name = word.trim_start_matches("--").split('=').next().unwrap();
                let known = OPTIONS
                    .iter()
                    .any(|option| option.name == name || option.off == Some(name));
                assert!(known, "{word}");
            }
        }
    }
}
