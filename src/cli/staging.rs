//! Values for the input ports of a GEF image, made files before anything starts: a path stays where it is, a text becomes
//! a file of its own, an address is fetched. Runs on the login node; on a compute node everything is a path already.

mod fetched;

pub use fetched::fetched;

use crate::error::{Context, Error, Result};
use crate::image::digest::Digest;
use crate::image::source::SourceSettings;
use crate::jobs::assemble::Assembled;
use crate::jobs::run_record::Input;
use crate::launch::ports::{Port, Service, assign};
use carrack_slurm::script::InContainer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

type Values = Vec<(String, String)>;

/// A port's value as a file or directory of this machine, and where it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    pub port: String,
    /// `file:…`, with a slash at the end of a directory.
    pub file: String,
    /// As it was typed; empty for a text.
    pub source: String,
    /// Of what was fetched or written.
    pub sha256: String,
}

/// How an address becomes a file.
pub enum Fetch<'a> {
    Here(&'a SourceSettings),
    /// In another process: one that is to enter a capsule cannot start the network's threads.
    Elsewhere(&'a dyn Fn(&str) -> Result<Staged>),
    /// Only said, not done.
    Never,
}

/// The values with each made a `file:` of this machine.
pub fn values(
    labels: &BTreeMap<String, String>,
    given: &Values,
    fetch: &Fetch<'_>,
) -> Result<Vec<Staged>> {
    let Some(service) = Service::read(labels) else {
        return Err(Error::usage("the image has no ports")
            .cause("its labels have nothing that begins with `eudat.gef.service.`"));
    };
    let mut staged = Vec::new();
    for (port, value) in assign(&service, given)? {
        let one = one(port, value, fetch)
            .map_err(|error| error.while_doing(format!("cannot use the input `{}`", port.id)))?;
        staged.push(Staged {
            port: port.id.clone(),
            ..one
        });
    }
    Ok(staged)
}

/// As the launcher takes them.
pub fn pairs(staged: Vec<Staged>) -> Values {
    let pair = |one: Staged| (one.port, one.file);
    staged.into_iter().map(pair).collect()
}

/// The same for each step of a job that is about to be written.
pub fn job(
    assembled: &mut Assembled,
    is_gef: &dyn Fn(&crate::launch::request::Request) -> bool,
    sources: &dyn Fn() -> Result<SourceSettings>,
) -> Result<()> {
    for (checked, step) in assembled.steps.iter().zip(&mut assembled.script.steps) {
        let Some((pinned, options)) = &checked.container else {
            continue;
        };
        let labels = pinned
            .stored
            .as_ref()
            .map(|stored| &stored.record.config.labels);
        let asked = &options.request.inputs;
        let ports = labels.is_some_and(|labels| Service::read(labels).is_some());
        if asked.is_empty() && !(ports && is_gef(&options.request)) {
            continue;
        }
        let sources = sources()?;
        let labels = labels.unwrap_or(const { &BTreeMap::new() });
        let staged = values(labels, asked, &Fetch::Here(&sources))?;
        let contract = &mut assembled.script.contract;
        contract.extend(staged.iter().filter_map(for_record));
        let staged = pairs(staged);
        match &mut step.container {
            InContainer::Own { options, .. } => rewrite(options, &staged),
            InContainer::Same => rewrite(&mut assembled.script.container, &staged),
            InContainer::No => {}
        }
    }
    Ok(())
}

/// The option by which a job's record learns of it.
fn for_record(staged: &Staged) -> Option<String> {
    let path = staged.file.strip_prefix("file:")?;
    let input = Input {
        path: path.to_string(),
        port: staged.port.clone(),
        source: staged.source.clone(),
        sha256: staged.sha256.clone(),
        ..Input::default()
    };
    Some(format!("--staged={}", serde_json::to_string(&input).ok()?))
}

/// Puts the staged values in the place of those that were typed; both are in the order in which they were given.
fn rewrite(flags: &mut [String], staged: &Values) {
    let mut staged = staged.iter();
    let mut is_value = false;
    for flag in flags {
        if is_value && let Some((port, value)) = staged.next() {
            *flag = format!("{port}={}", value.replace('$', "$$"));
            is_value = false;
        } else {
            is_value = flag == "--input";
        }
    }
}

fn one(port: &Port, value: &str, fetch: &Fetch<'_>) -> Result<Staged> {
    let local = |file: String| Staged {
        file,
        source: value.to_string(),
        ..Staged::default()
    };
    if value.starts_with("file:/") {
        return Ok(local(value.to_string()));
    }
    if port.is_text() {
        return text(port, value);
    }
    if address(value).is_some() {
        return match fetch {
            Fetch::Here(sources) => fetched(value, sources),
            Fetch::Elsewhere(ask) => ask(value),
            Fetch::Never => Ok(local(value.to_string())),
        };
    }
    let path = std::path::absolute(value).or_say(|| "cannot tell the current directory")?;
    match path.metadata() {
        Ok(meta) => {
            let path = path
                .to_str()
                .ok_or_else(|| Error::usage(format!("`{value}` is not valid UTF-8")))?;
            let slash = if meta.is_dir() { "/" } else { "" };
            Ok(local(format!("file:{}{slash}", path.trim_end_matches('/'))))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::usage(format!("there is no `{}`", path.display()))
                .hint("an input is a file or a directory"))
        }
        Err(error) => Err(error).or_say(|| format!("cannot look at `{}`", path.display())),
    }
}

/// Where a value is to be fetched, if it is not a path: an address, or a PID (`11304/…`) through the handle system.
fn address(value: &str) -> Option<String> {
    let proxy = || {
        let own = std::env::var("CARRACK_HANDLE_PROXY").unwrap_or_default();
        match own.trim_end_matches('/') {
            "" => "https://hdl.handle.net".to_string(),
            own => own.to_string(),
        }
    };
    let handle = ["http://hdl.handle.net/", "https://hdl.handle.net/"];
    if let Some(pid) = handle.iter().find_map(|known| value.strip_prefix(known)) {
        return Some(format!("{}/{pid}", proxy()));
    }
    if value.starts_with("http://") || value.starts_with("https://") {
        return Some(value.to_string());
    }
    let (prefix, suffix) = value.split_once('/')?;
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_pid = prefix.split('.').all(number) && !suffix.is_empty() && !Path::new(value).exists();
    is_pid.then(|| format!("{}/{value}", proxy()))
}

/// A file with this text, in a directory that its digest names: equal texts are one file, and none is ever changed.
fn text(port: &Port, value: &str) -> Result<Staged> {
    let name = Path::new(&port.file_name);
    let mut parts = name.components();
    let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
        return Err(Error::usage(format!(
            "the image says no usable file name: `{}`",
            port.file_name
        ))
        .cause("a port of the type `string` needs the label `filename`"));
    };
    let digest = Digest::of(format!("{}\n{value}", port.file_name).as_bytes()).hex();
    let directory = inputs()?.join(digest);
    let file = directory.join(name);
    // The text itself is in no script and no record.
    let staged = Staged {
        file: format!("file:{}/", directory.display()),
        sha256: Digest::of(value.as_bytes()).hex(),
        ..Staged::default()
    };
    if std::fs::read(&file).is_ok_and(|known| known == value.as_bytes()) {
        return Ok(staged);
    }
    let what = || format!("cannot write `{}`", file.display());
    std::fs::create_dir_all(&directory).or_say(what)?;
    let mut temporary = tempfile::NamedTempFile::new_in(&directory).or_say(what)?;
    std::io::Write::write_all(&mut temporary, value.as_bytes()).or_say(what)?;
    temporary.persist(&file).or_say(what)?;
    Ok(staged)
}

/// Beside the notes of submitted jobs, on the shared home.
fn inputs() -> Result<PathBuf> {
    let variable = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let state = variable("XDG_STATE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".local/state")))
        .ok_or_else(|| Error::usage("there is no home directory to keep inputs in"))?;
    Ok(state.join("carrack/inputs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_in_order() {
        let words = |line: &str| line.split(' ').map(str::to_string).collect::<Vec<_>>();
        let mut flags = words("--bind --input --input 0=a --home --input 1=b");
        let staged = vec![
            ("input0".to_string(), "file:/a$".to_string()),
            ("input1".to_string(), "file:/b/".to_string()),
        ];
        flags.remove(1);
        rewrite(&mut flags, &staged);
        assert_eq!(
            flags,
            words("--bind --input input0=file:/a$$ --home --input input1=file:/b/")
        );
    }

    #[test]
    fn what_is_an_address() {
        let proxy = "https://hdl.handle.net";
        for (value, expected) in [
            ("https://h/x", Some("https://h/x".to_string())),
            ("11304/abc-1", Some(format!("{proxy}/11304/abc-1"))),
            ("10.1234/abc/d", Some(format!("{proxy}/10.1234/abc/d"))),
            (
                "http://hdl.handle.net/11304/x",
                Some(format!("{proxy}/11304/x")),
            ),
            ("data/x", None),
            ("/11304/x", None),
            ("11304/", None),
            ("11304", None),
            ("1.x/y", None),
        ] {
            assert_eq!(address(value), expected, "{value}");
        }
    }

    #[test]
    fn paths_stay_where_they_are() {
        let port = Port {
            id: "input0".into(),
            ..Port::default()
        };
        let place = tempfile::tempdir().unwrap();
        let path = place.path().to_str().unwrap();
        let refused = |_: &str| Err(Error::new("not now"));
        let fetch = Fetch::Elsewhere(&refused);
        let file_of = |value: &str| one(&port, value, &fetch).map(|staged| staged.file);
        assert_eq!(file_of(path).unwrap(), format!("file:{path}/"));
        let file = format!("{path}/f");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(file_of(&file).unwrap(), format!("file:{file}"));
        assert_eq!(file_of("file:/x").unwrap(), "file:/x");
        for wrong in ["/no/such/path", "https://h/x"] {
            assert!(file_of(wrong).is_err(), "{wrong}");
        }
        for name in ["", "../x", "/x", "a/b", ".."] {
            let port = Port {
                kind: "string".into(),
                file_name: name.into(),
                ..Port::default()
            };
            let told = one(&port, "x", &fetch).unwrap_err().to_string();
            assert!(told.contains("no usable file name"), "{name}: {told}");
        }
    }
}
