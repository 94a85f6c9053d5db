//! Shifter's commands: `shifter` becomes `carrack exec`, `shifterimg` one of the store's verbs.

use super::{Flag, Takes, Word, option, read};
use crate::error::{Error, Result};

const fn flag(long: &'static str, short: char, takes: Takes) -> Flag {
    Flag { long, short, takes }
}

const FLAGS: &[Flag] = &[
    flag("image", 'i', Takes::Value),
    flag("volume", 'V', Takes::Value),
    flag("env", 'e', Takes::Value),
    flag("env-file", ' ', Takes::Value),
    flag("clearenv", 'E', Takes::Nothing),
    flag("entrypoint", ' ', Takes::Optional),
    flag("workdir", 'w', Takes::Optional),
    flag("module", 'm', Takes::Value),
    flag("verbose", 'v', Takes::Nothing),
    flag("help", 'h', Takes::Nothing),
];

pub const HELP: &str = "Usage: shifter [OPTIONS] [--] [COMMAND …]

Runs a command inside an image, as `carrack exec` does; without a command a shell of the image.

Options:
      --image TYPE:NAME     docker:NAME:TAG, id:DIGITS, a squashfs file or a directory [default: $SHIFTER_IMAGE, $CARRACK_IMAGE]
  -V, --volume A:B[:FLAGS]  Show host directory A at B; several with `;`
  -e, --env NAME[=VALUE]    Set a variable, or pass the caller's
      --env-file FILE       Set the variables of a file
  -E, --clearenv            Pass nothing of the caller's environment
      --entrypoint[=CMD]    Start the image's entrypoint, or CMD in its place
      --workdir[=DIR]       Start in the image's directory, or in DIR
  -m, --module A[,B]        Take what the site describes under these names (`[bundle.NAME]`); `none` for no more
  -v, --verbose             Say more
  -h, --help                Print this
";

pub const IMAGES_HELP: &str = "Usage: shifterimg [-v] [-u USERS] [-g GROUPS] COMMAND

  images                list the images in the store
  lookup TYPE:NAME      print an image's digest; code 1 if it is not there
  pull TYPE:NAME        bring an image in; with -u or -g only these users and groups may read it, and you
  login [HOST]          log in to a registry
  rm TYPE:NAME          remove a name, and the image if nothing needs it
  tag TYPE:NAME NAME    give a second name
  rename TYPE:NAME NAME give another name
  gc [OPTIONS]          remove what nothing needs (`carrack gc --help`)
";

/// What a command line becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    Help,
    /// Words of ours, without the program's name.
    Words(Vec<String>),
    /// Several commands, one after the other; stops at the first that fails.
    Steps(Vec<Vec<String>>),
    /// Shifter's own list.
    Images,
    /// Shifter's own answer: the digest.
    Lookup(String),
}

/// Where volumes may not land: what shifter itself puts there.
const CLOSED: &[&str] = &["/etc", "/dev", "/proc", "/var", "/opt/udiImage"];

/// The words of `shifter`. `variable` gives the image that the environment or the job names.
pub fn shifter(words: &[String], variable: Option<&str>) -> Result<Becomes> {
    let mut ours = Vec::new();
    let mut image = variable.map(str::to_string);
    let mut command = Vec::new();
    // A clean environment comes before what is set on top of it; docker and shifter agree on that.
    let mut workdir = None;
    let mut variables = Vec::new();
    for word in read(words, FLAGS, true)? {
        let (name, value) = match word {
            Word::Flag(name, value) => (name, value),
            Word::Plain(word) => {
                command.push(word);
                continue;
            }
            Word::Rest(rest) => {
                command.extend(rest);
                continue;
            }
        };
        match (name, value) {
            ("help", _) => return Ok(Becomes::Help),
            ("verbose", _) => ours.push("--verbose".into()),
            ("image", Some(value)) => image = Some(value),
            ("volume", Some(value)) => ours.extend(volumes(&value)?),
            ("clearenv", _) => ours.push("--clean-env".into()),
            ("workdir", value) => workdir = value.map(|value| option("workdir", &value)),
            ("entrypoint", None) => ours.push("--entrypoint".into()),
            ("module", value) => {
                let value = value.unwrap_or_default();
                let names = value.split(',').filter(|name| !name.is_empty());
                // A site's own modules are its bundles; `none` is shifter's word for no others.
                ours.extend(
                    names
                        .filter(|name| *name != "none")
                        .map(|name| option("bundle", name)),
                );
            }
            // A file's variables come before those of the command line, wherever they stand in it.
            ("env", value) => variables.push(option("env", &value.unwrap_or_default())),
            (name, value) => ours.push(option(name, &value.unwrap_or_default())),
        }
    }
    ours.extend(variables);
    ours.extend(workdir);
    let Some(image) = image.filter(|image| !image.is_empty()) else {
        return Err(Error::usage("no image was named")
            .hint("`shifter --image=docker:NAME:TAG COMMAND`, or set SHIFTER_IMAGE"));
    };
    let verb = match command.is_empty() && !ours.iter().any(|word| word.starts_with("--entrypoint"))
    {
        true => "shell",
        false => "exec",
    };
    let mut words = vec![verb.to_string()];
    words.extend(ours);
    words.push(reference(&image)?);
    if !command.is_empty() {
        words.push("--".into());
        words.extend(command);
    }
    Ok(Becomes::Words(words))
}

/// `/a:/b:ro;/c:/d` as `--bind` words; what shifter refuses as a target is refused.
fn volumes(value: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for one in value.split(';').filter(|one| !one.is_empty()) {
        let fields: Vec<&str> = one.split(':').collect();
        let [source, target, flags @ ..] = fields.as_slice() else {
            return Err(Error::usage(format!("cannot use the volume `{one}`"))
                .hint("write `--volume=/from:/to`, with `:ro` for reading only"));
        };
        let normal = format!("/{}", target.trim_matches('/'));
        let closed = CLOSED.iter().find(|closed| {
            normal
                .strip_prefix(*closed)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if let Some(closed) = closed {
            return Err(
                Error::usage(format!("cannot use the volume `{one}`")).cause(format!(
                    "nothing of yours may be shown in `{closed}`, which belongs to image and host"
                )),
            );
        }
        let mut read_only = false;
        let mut in_memory = None;
        for flag in flags.iter().flat_map(|flags| flags.split(',')) {
            match flag.split('=').next().unwrap_or_default() {
                "ro" => read_only = true,
                // All mounts here are recursive and get what the host mounts later.
                "rec" | "slave" | "rw" | "" => {}
                // A file system in a file would need root to mount it; each node's memory needs nobody.
                "perNodeCache" => in_memory = Some(cache_size(flag)?),
                "private" => {
                    return Err(Error::usage(format!("the flag `{flag}` is not offered"))
                        .cause("what the host mounts later is seen inside as well (`slave`)"));
                }
                _ => {
                    return Err(Error::usage(format!("unknown flag `{flag}` of a volume"))
                        .hint("`ro`, `rec` and `slave` are known"));
                }
            }
        }
        found.push(match (in_memory, read_only) {
            (Some(size), _) => option(
                "mount",
                &format!("type=tmpfs,destination={target},tmpfs-size={size}"),
            ),
            (None, true) => option("bind", &format!("{source}:{target}:ro")),
            (None, false) => option("bind", &format!("{source}:{target}")),
        });
    }
    Ok(found)
}

/// The size in `perNodeCache=size=10G`.
fn cache_size(flag: &str) -> Result<&str> {
    let size = flag.strip_prefix("perNodeCache=size=");
    size.filter(|size| !size.is_empty()).ok_or_else(|| {
        Error::usage(format!("`{flag}` has no size")).hint("write `perNodeCache=size=10G`")
    })
}

/// `docker:ubuntu:24.04`, `id:…`, `custom:/x.sqsh`, `local:/dir`, or one of our own forms.
pub fn reference(image: &str) -> Result<String> {
    let wrong = |why: &str| Error::usage(format!("cannot use the image `{image}`")).cause(why);
    match image.split_once(':') {
        Some(("docker", name)) if name.starts_with("//") => Ok(image.to_string()),
        Some(("docker", "")) => Err(wrong("the name is missing")),
        Some(("docker", name)) => Ok(format!("docker://{name}")),
        Some(("id", digits))
            if digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            Ok(digits.to_string())
        }
        Some(("id", _)) => Err(wrong("an id is the first digits of a digest, six or more")),
        Some(("custom", path)) if path.starts_with('/') => Ok(path.to_string()),
        Some(("local", path)) if path.starts_with('/') => Ok(format!("dir:{path}")),
        Some(("custom" | "local", _)) => Err(wrong("an absolute path is needed")),
        _ => Ok(image.to_string()),
    }
}

const IMAGE_FLAGS: &[Flag] = &[
    flag("user", 'u', Takes::Value),
    flag("group", 'g', Takes::Value),
    flag("verbose", 'v', Takes::Nothing),
    flag("help", 'h', Takes::Nothing),
];

/// What flags ask for, and the words between them.
#[derive(Default)]
struct Asked {
    verbose: bool,
    /// Lists of users and groups, as options.
    shared: Vec<String>,
    words: Vec<String>,
}

impl Asked {
    /// Adds what more words ask for; nothing if they ask for help. `first` ends the flags at the first plain word.
    fn read(mut self, words: &[String], first: bool) -> Result<Option<Asked>> {
        for word in read(words, IMAGE_FLAGS, first)? {
            match word {
                Word::Flag("help", _) => return Ok(None),
                Word::Flag("verbose", _) => self.verbose = true,
                Word::Flag(list, names) => self
                    .shared
                    .push(option(&format!("allow-{list}"), &names.unwrap_or_default())),
                Word::Plain(word) => self.words.push(word),
                Word::Rest(words) => self.words.extend(words),
            }
        }
        Ok(Some(self))
    }
}

/// The words of `shifterimg`.
pub fn shifterimg(words: &[String]) -> Result<Becomes> {
    let Some(mut asked) = Asked::default().read(words, true)? else {
        return Ok(Becomes::Help);
    };
    let verb = match asked.words.is_empty() {
        true => String::new(),
        false => asked.words.remove(0),
    };
    let rest = std::mem::take(&mut asked.words);
    // After the verb, too, as people type it; but these two have options of their own.
    if !matches!(verb.as_str(), "gc" | "login") {
        let Some(more) = asked.read(&rest, false)? else {
            return Ok(Becomes::Help);
        };
        asked = more;
    }
    let Asked {
        verbose,
        shared,
        words: names,
    } = asked;
    if let (Some(list), false) = (shared.first(), verb == "pull") {
        return Err(Error::usage(format!("`{list}` means nothing to `{verb}`"))
            .cause("who may read an image is said when it is pulled"));
    }
    let mut start = Vec::new();
    start.extend(verbose.then(|| "--verbose".to_string()));
    let ours = |words: &[&str]| {
        let words = words.iter().map(ToString::to_string);
        Becomes::Words(start.iter().cloned().chain(words).collect())
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match (verb.as_str(), names.as_slice()) {
        ("", _) => Ok(Becomes::Help),
        ("images", []) => Ok(Becomes::Images),
        ("lookup", [name]) => Ok(Becomes::Lookup(reference(name)?)),
        ("pull", [name]) => {
            let mut words = vec!["pull"];
            words.extend(shared.iter().map(String::as_str));
            let name = reference(name)?;
            words.push(&name);
            Ok(ours(&words))
        }
        ("login", _) => {
            let words = rest.iter().map(String::as_str);
            Ok(ours(
                &["login"].into_iter().chain(words).collect::<Vec<_>>(),
            ))
        }
        ("gc", _) => {
            let words = rest.iter().map(String::as_str);
            Ok(ours(&["gc"].into_iter().chain(words).collect::<Vec<_>>()))
        }
        ("rm", [name]) => Ok(ours(&["rm", &reference(name)?])),
        ("tag", [old, new]) => Ok(ours(&["tag", &reference(old)?, &reference(new)?])),
        ("rename", [old, new]) => {
            let (old, new) = (reference(old)?, reference(new)?);
            let step = |words: &[&str]| words.iter().map(ToString::to_string).collect();
            Ok(Becomes::Steps(vec![
                step(&["tag", &old, &new]),
                step(&["rm", &old]),
            ]))
        }
        ("expire" | "autoexpire", _) => Err(Error::usage(format!("`{verb}` is not offered"))
            .cause("images stay until they are removed")
            .hint("`shifterimg rm NAME`, or `shifterimg gc --older-than 30d`")),
        ("images" | "lookup" | "pull" | "rm" | "tag" | "rename", _) => Err(Error::usage(format!(
            "`shifterimg {verb}` needs other words"
        ))
        .hint("`shifterimg --help` shows the forms")),
        _ => Err(
            Error::usage(format!("`shifterimg` has no command `{verb}`"))
                .hint("`shifterimg --help` lists them"),
        ),
    }
}

/// One line of `shifterimg images`.
pub struct Line<'a> {
    pub system: &'a str,
    pub id: &'a str,
    /// As shifter writes it: `2026-11-21T10:00:00`.
    pub date: &'a str,
    pub name: &'a str,
}

/// Shifter's columns: system, type, status, first digits of the digest, date, name.
pub fn images(lines: &[Line<'_>]) -> String {
    let mut text = String::new();
    for line in lines {
        let (kind, name) = match line.name.split_once("://") {
            Some(("docker", name)) => ("docker", name),
            _ if line.name.contains(':') && !line.name.starts_with('/') => {
                line.name.split_once(':').unwrap_or(("docker", line.name))
            }
            _ => ("custom", line.name),
        };
        let id: String = line.id.chars().take(10).collect();
        text.push_str(&format!(
            "{:<10} {kind:<10} {:<8} {id:<10} {:<20} {name:<30}\n",
            line.system, "READY", line.date
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_string).collect()
    }

    fn shown(becomes: Result<Becomes>) -> String {
        match becomes {
            Ok(Becomes::Words(words)) => words.join(" "),
            Ok(Becomes::Steps(steps)) => {
                let steps: Vec<String> = steps.iter().map(|words| words.join(" ")).collect();
                steps.join(" && ")
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.what().to_string(),
        }
    }

    #[test]
    fn lines_of_shifter() {
        for (line, expected) in [
            (
                "--image=docker:ubuntu:24.04 cat /etc/os-release",
                "exec docker://ubuntu:24.04 -- cat /etc/os-release",
            ),
            (
                "--image docker:a:1 --volume=/a:/b:ro;/c:/d -- ./x --image=y",
                "exec --bind=/a:/b:ro --bind=/c:/d docker://a:1 -- ./x --image=y",
            ),
            (
                "--image=docker:a:1 -V /a:/b -E -e A=1 --env-file=f --workdir=/w x",
                "exec --bind=/a:/b --clean-env --env-file=f --env=A=1 --workdir=/w docker://a:1 -- x",
            ),
            ("--image=docker:a:1", "shell docker://a:1"),
            (
                "--image=docker:a:1 --entrypoint",
                "exec --entrypoint docker://a:1",
            ),
            (
                "--image=docker:a:1 --entrypoint=/e x",
                "exec --entrypoint=/e docker://a:1 -- x",
            ),
            (
                "--image=id:0123456789ab -m mpich,gpu x",
                "exec --bundle=mpich --bundle=gpu 0123456789ab -- x",
            ),
            ("--image=docker:a -m none x", "exec docker://a -- x"),
            (
                "--image=docker:a -e A=1 --env-file=f x",
                "exec --env-file=f --env=A=1 docker://a -- x",
            ),
            ("--image=custom:/i.sqsh x", "exec /i.sqsh -- x"),
            ("--image=local:/tree x", "exec dir:/tree -- x"),
            ("--image=docker: x", "cannot use the image `docker:`"),
            (
                "--image=custom:i.sqsh x",
                "cannot use the image `custom:i.sqsh`",
            ),
            ("x", "exec docker://env:1 -- x"),
            (
                "--image=docker:a -V /a:/etc/x x",
                "cannot use the volume `/a:/etc/x`",
            ),
            (
                "--image=docker:a -V /a:/var x",
                "cannot use the volume `/a:/var`",
            ),
            (
                "--image=docker:a -V /a:/variable x",
                "exec --bind=/a:/variable docker://a -- x",
            ),
            ("--image=docker:a -V /a x", "cannot use the volume `/a`"),
            (
                "--image=docker:a -V /a:/b:rec,slave x",
                "exec --bind=/a:/b docker://a -- x",
            ),
            (
                "--image=docker:a -V /a:/b:perNodeCache=size=1G x",
                "exec --mount=type=tmpfs,destination=/b,tmpfs-size=1G docker://a -- x",
            ),
            (
                "--image=docker:a -V /a:/b:perNodeCache x",
                "`perNodeCache` has no size",
            ),
            (
                "--image=docker:a -V /a:/b:zz x",
                "unknown flag `zz` of a volume",
            ),
            ("--imgae=docker:a x", "unknown option `--imgae`"),
            ("--profile=hpc x", "unknown option `--profile`"),
        ] {
            let got = shifter(&words(line), Some("docker:env:1"));
            assert_eq!(shown(got), expected, "{line}");
        }
        assert_eq!(shown(shifter(&words("x"), None)), "no image was named");
    }

    #[test]
    fn lines_of_shifterimg() {
        for (line, expected) in [
            ("images", "Images"),
            ("lookup docker:a:1", "Lookup(\"docker://a:1\")"),
            ("pull docker:a:1", "pull docker://a:1"),
            ("pull a:1", "pull a:1"),
            (
                "-u bob,eve pull -g lab docker:a:1",
                "pull --allow-user=bob,eve --allow-group=lab docker://a:1",
            ),
            ("rm -u bob a:1", "`--allow-user=bob` means nothing to `rm`"),
            ("-v pull a", "--verbose pull a"),
            ("login", "login"),
            ("login host -u me", "login host -u me"),
            ("rm docker:a:1", "rm docker://a:1"),
            ("tag docker:a:1 b:2", "tag docker://a:1 b:2"),
            ("rename a:1 b:2", "tag a:1 b:2 && rm a:1"),
            ("gc --older-than 3d", "gc --older-than 3d"),
            ("pull", "`shifterimg pull` needs other words"),
            ("expire a", "`expire` is not offered"),
            ("frob", "`shifterimg` has no command `frob`"),
            ("", "Help"),
        ] {
            assert_eq!(shown(shifterimg(&words(line))), expected, "{line}");
        }
    }

    #[test]
    fn the_list_looks_like_shifters() {
        let text = images(&[Line {
            system: "cluster",
            id: "0123456789abcdef",
            date: "2026-11-21T10:00:00",
            name: "docker://docker.io/library/ubuntu:24.04",
        }]);
        let fields: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(
            fields,
            [
                "cluster",
                "docker",
                "READY",
                "0123456789",
                "2026-11-21T10:00:00",
                "docker.io/library/ubuntu:24.04"
            ]
        );
    }
}
