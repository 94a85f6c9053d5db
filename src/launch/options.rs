//! The one option table. Flags, `CARRACK_*` variables, a job file's `[container]` table and srun options all arrive here as
//! `(name, value)` pairs and leave as a [`Request`]; help texts and the README's table are printed from it.
//!
//! Parsing never acts: whether a path exists is not asked. Deliberately absent: what an option means for the capsule
//! (`plan.rs`), and foreign spellings of the same thing (`spellings.rs`).

mod table;

pub use table::OPTIONS;

use super::request::{EnvRule, IdChoice, Origin, Request};
use crate::config::nearest;
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// One option, whatever door it comes through.
pub struct OptionSpec {
    /// The long flag without its dashes; also the name in policies.
    pub name: &'static str,
    pub short: Option<char>,
    /// The flag that says the opposite.
    pub off: Option<&'static str>,
    pub variable: &'static str,
    /// In a job file's `[container]` and in an EDF.
    pub key: &'static str,
    /// Of srun, sbatch and salloc; pyxis's names, so that existing scripts run unchanged.
    pub slurm: &'static [&'static str],
    pub slurm_off: &'static [&'static str],
    pub shape: Shape,
    /// Several values in one word, for doors that can give an option only once.
    pub split: Split,
    /// One line, imperative, without a full stop.
    pub help: &'static str,
    set: fn(&mut Request, Value) -> Result<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Yes or no.
    Switch,
    /// A value is needed; the text is its placeholder.
    Value(&'static str),
    /// Yes, no, or a value after `=`.
    Optional(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Never,
    /// At commas that no backslash protects.
    Commas,
    Lines,
}

/// What an option was given.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    On,
    Off,
    Text(&'a OsStr),
}

/// Applies pairs in order; a later one wins, lists grow. Names are those of the door that `origin` says.
pub fn apply<N: AsRef<str>>(
    request: &mut Request,
    origin: &Origin,
    pairs: impl IntoIterator<Item = (N, OsString)>,
) -> Result<()> {
    for (name, value) in pairs {
        let (option, off) = find(origin, name.as_ref())?;
        for part in parts(option, origin, &value) {
            let given = given(option, off, &part).map_err(|error| located(error, origin))?;
            (option.set)(request, given).map_err(|error| located(error, origin))?;
        }
        request.set_by.insert(option.name, origin.clone());
    }
    Ok(())
}

/// A mistake in a file or a variable says where it was made; on the command line that is plain.
fn located(error: Error, origin: &Origin) -> Error {
    match origin {
        Origin::Flag => error,
        _ => error.cause(format!("given by {origin}")),
    }
}

fn find(origin: &Origin, name: &str) -> Result<(&'static OptionSpec, bool)> {
    let same = |known: &str| known == name || (known.replace('-', "_") == name);
    for option in OPTIONS {
        let (on, off) = match origin {
            Origin::Flag => (option.name == name, option.off == Some(name)),
            Origin::Variable => (option.variable == name, false),
            Origin::File(_) => (
                // A job file may use the flag's name as well as the EDF's key.
                (!option.key.is_empty() && same(option.key)) || same(option.name),
                option.off.is_some_and(same),
            ),
            Origin::Slurm => (
                option.slurm.contains(&name),
                option.slurm_off.contains(&name),
            ),
        };
        if on || off {
            return Ok((option, off));
        }
    }
    let known = OPTIONS.iter().flat_map(|option| {
        let (main, off) = match origin {
            Origin::Flag => (option.name, option.off.unwrap_or_default()),
            Origin::Variable => (option.variable, ""),
            Origin::File(_) => (option.key, option.off.unwrap_or_default()),
            Origin::Slurm => (
                option.slurm.first().copied().unwrap_or_default(),
                option.slurm_off.first().copied().unwrap_or_default(),
            ),
        };
        [main, off]
    });
    let error = Error::usage(format!("unknown option `{name}` given by {origin}"));
    Err(match nearest(name, known.filter(|name| !name.is_empty())) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    })
}

/// Doors that give an option once carry lists in one word.
fn parts(option: &OptionSpec, origin: &Origin, value: &OsStr) -> Vec<OsString> {
    let at_commas = match (origin, option.split) {
        (Origin::Flag | Origin::File(_), _) | (_, Split::Never) => return vec![value.to_owned()],
        // `--container-env=A,B` names variables.
        (Origin::Slurm, Split::Lines) | (_, Split::Commas) => true,
        (Origin::Variable, Split::Lines) => false,
    };
    let mut parts = vec![Vec::new()];
    let mut bytes = value.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let Some(part) = parts.last_mut() else { break };
        match byte {
            b'\\' if at_commas && bytes.peek() == Some(&b',') => {
                bytes.next();
                part.push(b',');
            }
            // Flags of a mount are joined with `+` or follow a second colon; a comma before `/` or at the end of a mount
            // starts the next one, any other belongs to the flags.
            b',' if at_commas && starts_another(option, part, bytes.clone()) => {
                parts.push(Vec::new())
            }
            b'\n' if !at_commas => parts.push(Vec::new()),
            byte => part.push(byte),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
        .into_iter()
        .map(|part| OsStr::from_bytes(&part).to_owned())
        .collect()
}

/// The values in one srun option, as the table splits them.
pub(super) fn split_for_slurm(option: &OptionSpec, value: &OsStr) -> Vec<OsString> {
    parts(option, &Origin::Slurm, value)
}

fn starts_another(option: &OptionSpec, before: &[u8], after: impl Iterator<Item = u8>) -> bool {
    if option.name != "bind" {
        return true;
    }
    let colons = before.iter().filter(|b| **b == b':').count();
    let next: Vec<u8> = after.take_while(|b| !matches!(b, b',' | b':')).collect();
    // Inside the third field a comma may separate flags: `/a:/b:ro,rbind,/c:/d`.
    colons < 2 || next.contains(&b'/') || next == b"tmpfs" || next == b"umount"
}

fn given<'a>(option: &OptionSpec, off: bool, value: &'a OsStr) -> Result<Value<'a>> {
    let word = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let switched = match word.as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    };
    match (option.shape, switched) {
        (Shape::Value(_), _) => Ok(Value::Text(value)),
        (_, Some(on)) => Ok(if on != off { Value::On } else { Value::Off }),
        (Shape::Optional(_), None) if !off => Ok(Value::Text(value)),
        _ => Err(Error::usage(format!(
            "cannot understand `{}` as yes or no",
            value.display()
        ))
        .hint(format!("`{}` takes `true` or `false`", option.name))),
    }
}

fn os(value: Value<'_>) -> Result<&OsStr> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(Error::usage("a value is needed")),
    }
}

fn text(value: Value<'_>) -> Result<&str> {
    let value = os(value)?;
    value
        .to_str()
        .ok_or_else(|| Error::usage(format!("`{}` is not valid UTF-8", value.display())))
}

fn path(value: Value<'_>) -> Result<PathBuf> {
    let value = os(value)?;
    if value.is_empty() || value.as_bytes().contains(&0) {
        return Err(Error::usage("a file name is needed"));
    }
    Ok(PathBuf::from(value))
}

fn choice<T: Copy>(name: &str, value: Value, known: &[(&'static str, T)]) -> Result<T> {
    let word = text(value)?;
    let words = || known.iter().map(|(word, _)| *word);
    match known.iter().find(|(known, _)| *known == word) {
        Some((_, value)) => Ok(*value),
        None => {
            let list: Vec<&str> = words().collect();
            Err(Error::usage(format!("cannot use `{word}` for `{name}`"))
                .hint(format!("it is one of: {}", list.join(", "))))
        }
    }
}

fn env_rule(word: &OsStr) -> Result<EnvRule> {
    let bytes = word.as_bytes();
    let equals = bytes.iter().position(|b| *b == b'=');
    let name = OsStr::from_bytes(
        bytes
            .get(..equals.unwrap_or(bytes.len()))
            .unwrap_or_default(),
    );
    if name.is_empty() || bytes.contains(&0) {
        return Err(
            Error::usage(format!("cannot set the variable `{}`", word.display()))
                .cause("a variable needs a name and no NUL bytes")
                .hint("write `NAME=VALUE`, or `NAME` to pass the caller's value"),
        );
    }
    Ok(match equals {
        None => EnvRule::Pass(name.to_owned()),
        Some(at) => EnvRule::Set(
            name.to_owned(),
            OsStr::from_bytes(bytes.get(at + 1..).unwrap_or_default()).to_owned(),
        ),
    })
}

/// Reads `keep`, `root`, `image` or numbers. Names are the image's to know, hence refused.
pub fn id_choice(word: &str) -> Result<IdChoice> {
    let number = |text: &str| -> Option<u32> {
        // The last value is the kernel's "no id".
        text.parse::<u32>().ok().filter(|id| *id != u32::MAX)
    };
    match word {
        "keep" => return Ok(IdChoice::Keep),
        "root" => return Ok(IdChoice::Root),
        "image" => return Ok(IdChoice::Image),
        _ => {}
    }
    let parsed = match word.split_once(':') {
        Some((uid, gid)) => number(uid)
            .zip(number(gid))
            .map(|(uid, gid)| (uid, Some(gid))),
        None => number(word).map(|uid| (uid, None)),
    };
    match parsed {
        Some((uid, gid)) => Ok(IdChoice::Number { uid, gid }),
        None => Err(Error::usage(format!("cannot appear as `{word}`"))
            .hint("use `keep`, `root`, `image` or numbers such as `1000:1000`")),
    }
}

fn device(word: &str) -> Result<String> {
    // docker writes `/dev/x:/dev/x:rwm`; only the same place with all rights can be had.
    let mut fields = word.split(':');
    let path = fields.next().unwrap_or_default();
    let same_place = fields
        .next()
        .is_none_or(|to| to == path || to.chars().all(|c| "rwm".contains(c)));
    let cdi = word.split_once('=').is_some_and(|(kind, name)| {
        kind.contains('/') && !kind.starts_with('/') && !name.is_empty()
    });
    if cdi {
        return Ok(word.to_string());
    }
    if !same_place || !path.starts_with("/dev/") || path.contains("/../") || path.ends_with("/..") {
        return Err(Error::usage(format!("cannot show the device `{word}`"))
            .hint("give a path below /dev, which keeps its place, or a CDI name such as `nvidia.com/gpu=all`"));
    }
    Ok(path.to_string())
}

/// The README's table of options, in Markdown.
pub fn markdown_table() -> String {
    let mut table = String::from(
        "| Flag | Variable | Job file, EDF | srun, sbatch | What it does |\n|---|---|---|---|---|\n",
    );
    for option in OPTIONS {
        let short = option.short.map(|c| format!("-{c}, ")).unwrap_or_default();
        let value = match option.shape {
            Shape::Switch => String::new(),
            Shape::Value(value) => format!(" {value}"),
            Shape::Optional(value) => format!("[={value}]"),
        };
        let mut flag = format!("`{short}--{}{value}`", option.name);
        if let Some(off) = option.off {
            flag.push_str(&format!(", `--{off}`"));
        }
        let slurm: Vec<String> = option
            .slurm
            .iter()
            .chain(option.slurm_off)
            .map(|name| format!("`--{name}`"))
            .collect();
        let code = |text: &str| match text {
            "" => "–".to_string(),
            text => format!("`{text}`"),
        };
        table.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            flag.replace('|', "\\|"),
            code(option.variable),
            code(option.key),
            if slurm.is_empty() {
                "–".into()
            } else {
                slurm.join(", ")
            },
            option.help.replace('|', "\\|"),
        ));
    }
    table
}

#[cfg(test)]
mod tests;
