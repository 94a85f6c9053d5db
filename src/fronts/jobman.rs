//! `jobman`, by which people of EUCAIM and CHAIMELEON submit jobs: its words, its settings file, its resource flavors.

use super::{Flag, Takes, Word, option, read};
use crate::config::{Flavor, nearest};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

mod resources;

pub use resources::{options_of, shown};

const fn flag(long: &'static str, short: char, takes: Takes) -> Flag {
    Flag { long, short, takes }
}

const FLAGS: &[Flag] = &[
    flag("image", 'i', Takes::Value),
    flag("annotations", 'a', Takes::Value),
    flag("job-name", 'j', Takes::Value),
    flag("resources-flavor", 'r', Takes::Value),
    flag("command", 'c', Takes::Nothing),
    flag("dry-run", ' ', Takes::Nothing),
    flag("all", ' ', Takes::Nothing),
    flag("settings", 's', Takes::Value),
    flag("version", 'v', Takes::Nothing),
    flag("help", 'h', Takes::Nothing),
];

pub const HELP: &str = "Usage: jobman [-s SETTINGS] COMMAND

  images                           list the images of the registry's project
  image-details -i IMAGE           print an image's description
  queue                            jobs and resources by flavor
  submit [-i NAME:TAG] [-r FLAVOR] [-j NAME] [-a ANNOTATIONS] [-c] [--dry-run] -- ARGUMENTS [-- NAME=VALUE …]
                                   submit a job; -c: ARGUMENTS replace the image's entrypoint
  list                             list your jobs
  details -j NAME                  print a job as JSON
  logs -j NAME                     print what a job wrote
  delete -j NAME | --all           remove jobs, also running ones
  resources-flavors                list the flavors

Examples:
  jobman submit -i ubuntu-python:latest -r no-gpu -- python main.py -i datasets/ID -o persistent-home/results
  jobman logs -j job-0123abcd
";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    Help,
    Version,
    Images,
    ImageDetails { image: String },
    Queue,
    Submit(Box<Submit>),
    List,
    Details { job: String },
    Logs { job: String },
    Delete { job: Option<String> },
    Flavors,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submit {
    pub image: Option<String>,
    pub annotations: Option<String>,
    pub name: Option<String>,
    /// A name, JSON or a file, as it was typed.
    pub flavor: Option<String>,
    pub replaces_entrypoint: bool,
    pub dry_run: bool,
    pub arguments: Vec<String>,
    /// After the second `--`.
    pub environment: Vec<String>,
}

/// Reads the words; the path of a settings file comes with them.
pub fn parse(words: &[String]) -> Result<(Verb, Option<String>)> {
    let mut verb: Option<String> = None;
    let mut settings = None;
    let mut given: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut rest = Vec::new();
    for word in read(words, FLAGS, false)? {
        match word {
            Word::Flag("help", _) => return Ok((Verb::Help, None)),
            Word::Flag("version", _) => return Ok((Verb::Version, None)),
            Word::Flag("settings", value) => settings = value,
            Word::Flag(name, value) => {
                given.insert(name, value.unwrap_or_default());
            }
            Word::Plain(word) if verb.is_none() => verb = Some(word),
            Word::Plain(word) => {
                return Err(Error::usage(format!("`{word}` is one word too many"))
                    .hint("arguments of the image stand behind `--`"));
            }
            Word::Rest(words) => rest = words,
        }
    }
    let Some(verb) = verb else {
        return Ok((Verb::Help, settings));
    };
    let allowed: &[&str] = match verb.as_str() {
        "submit" => &[
            "image",
            "annotations",
            "job-name",
            "resources-flavor",
            "command",
            "dry-run",
        ],
        "image-details" => &["image"],
        "details" | "logs" => &["job-name"],
        "delete" => &["job-name", "all"],
        "log" => return Err(Error::usage("`log` is no command").hint("use `jobman logs`")),
        "images" | "queue" | "list" | "resources-flavors" => &[],
        other => {
            let error = Error::usage(format!("`jobman` has no command `{other}`"));
            return Err(match nearest(other, VERBS.iter().copied()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint("`jobman --help` lists them"),
            });
        }
    };
    if let Some(wrong) = given.keys().find(|name| !allowed.contains(name)) {
        return Err(Error::usage(format!(
            "`jobman {verb}` has no option `--{wrong}`"
        )));
    }
    if !rest.is_empty() && verb != "submit" {
        return Err(Error::usage(format!("`jobman {verb}` takes no arguments")));
    }
    let mut take = |name: &str| given.remove(name);
    let mut needed = |name: &str| {
        take(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Error::usage(format!("`jobman {verb}` needs `--{name}`")))
    };
    let found = match verb.as_str() {
        "images" => Verb::Images,
        "queue" => Verb::Queue,
        "list" => Verb::List,
        "resources-flavors" => Verb::Flavors,
        "image-details" => Verb::ImageDetails {
            image: needed("image")?,
        },
        "details" => Verb::Details {
            job: needed("job-name")?,
        },
        "logs" => Verb::Logs {
            job: needed("job-name")?,
        },
        "delete" => match (take("job-name"), take("all").is_some()) {
            (Some(job), false) => Verb::Delete { job: Some(job) },
            (None, true) => Verb::Delete { job: None },
            _ => {
                return Err(Error::usage(
                    "`jobman delete` needs either `--job-name` or `--all`",
                ));
            }
        },
        _ => {
            let (arguments, environment) = split(rest)?;
            Verb::Submit(Box::new(Submit {
                image: take("image"),
                annotations: take("annotations"),
                name: take("job-name"),
                flavor: take("resources-flavor"),
                replaces_entrypoint: take("command").is_some(),
                dry_run: take("dry-run").is_some(),
                arguments,
                environment,
            }))
        }
    };
    Ok((found, settings))
}

const VERBS: &[&str] = &[
    "images",
    "image-details",
    "queue",
    "submit",
    "list",
    "details",
    "logs",
    "delete",
    "resources-flavors",
];

/// Arguments, then variables behind a second `--`.
fn split(rest: Vec<String>) -> Result<(Vec<String>, Vec<String>)> {
    let Some(at) = rest.iter().position(|word| word == "--") else {
        return Ok((rest, Vec::new()));
    };
    let environment = rest.get(at + 1..).unwrap_or_default().to_vec();
    for word in &environment {
        if word.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return Err(Error::usage(format!("`{word}` is no variable"))
                .hint("behind the second `--` stand variables: `NAME=VALUE`"));
        }
    }
    let arguments = rest.get(..at).unwrap_or_default().to_vec();
    Ok((arguments, environment))
}

/// The settings: what is built in, with the user's file laid over it key by key, or a file that was named in their place.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    value: Value,
}

/// Keys of Kubernetes that have no meaning here; they may stand in a file that is used for both.
const IGNORED: &[&str] = &["securityContext", "priorityClassName"];

fn built_in() -> Value {
    json!({
        "job": {
            "defaultImage": "",
            "imagePrefix": "",
            "annotations": [],
            "resources": { "default": "", "label": "", "predefined": [] },
        },
        "harbor": { "url": "", "project": "" },
    })
}

impl Settings {
    /// Reads the user's file, or the one that was named (`alone`).
    pub fn read(text: Option<&str>, alone: bool) -> Result<Settings> {
        let mut value = built_in();
        if let Some(text) = text {
            let own: Value = serde_json::from_str(text)
                .map_err(|error| Error::usage("the settings are no JSON").cause(error))?;
            let Value::Object(_) = own else {
                return Err(Error::usage("the settings are no JSON object"));
            };
            merge(&mut value, &own, if alone { 0 } else { 1 });
        }
        let settings = Settings { value };
        settings.predefined()?;
        settings.annotations(&|_| None)?;
        for key in [
            "/job/defaultImage",
            "/job/imagePrefix",
            "/harbor/url",
            "/harbor/project",
        ] {
            settings.text(key)?;
        }
        Ok(settings)
    }

    fn text(&self, pointer: &str) -> Result<String> {
        match self.value.pointer(pointer) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(wrong(pointer, "a text is needed")),
        }
    }

    pub fn harbor(&self) -> Result<(String, String)> {
        Ok((self.text("/harbor/url")?, self.text("/harbor/project")?))
    }

    /// Words in the file that change nothing here.
    pub fn ignored(&self) -> Vec<&'static str> {
        let has = |key: &&&str| self.value.pointer(&format!("/job/{key}")).is_some();
        IGNORED.iter().filter(has).copied().collect()
    }

    /// Name → flavor, in the file's order.
    pub fn predefined(&self) -> Result<Vec<(String, Flavor)>> {
        let place = "/job/resources/predefined";
        let list = match self.value.pointer(place) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(wrong(place, "a list is needed")),
        };
        let default = self.text("/job/resources/default")?;
        let one = |entry: &Value| {
            let name = entry["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                return Err(wrong(place, "a flavor has no name"));
            }
            let options = options_of(&entry["resources"])
                .map_err(|error| error.while_doing(format!("cannot use the flavor `{name}`")))?;
            Ok((
                name.to_string(),
                Flavor {
                    description: entry["description"].as_str().unwrap_or_default().into(),
                    is_default: name == default,
                    options,
                },
            ))
        };
        list.iter().map(one).collect()
    }

    /// Annotations of all jobs; `valueType: env` takes a variable of the caller.
    pub fn annotations(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Map<String, Value>> {
        let place = "/job/annotations";
        let list = match self.value.pointer(place) {
            None | Some(Value::Null) => return Ok(Map::new()),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(wrong(place, "a list is needed")),
        };
        let mut found = Map::new();
        for entry in list {
            let (Some(key), Some(value)) = (entry["key"].as_str(), entry["value"].as_str()) else {
                return Err(wrong(place, "each needs `key` and `value`"));
            };
            let value = match entry["valueType"].as_str() {
                None | Some("string") => value.to_string(),
                Some("env") => variable(value).unwrap_or_default(),
                Some(other) => {
                    return Err(wrong(place, &format!("`{other}` is no `valueType`")));
                }
            };
            found.insert(key.to_string(), value.into());
        }
        Ok(found)
    }

    /// `name:tag` below the prefix, unless it names a registry itself.
    pub fn image(&self, asked: Option<&str>) -> Result<String> {
        let default = self.text("/job/defaultImage")?;
        let prefix = self.text("/job/imagePrefix")?;
        let image = asked.unwrap_or(&default);
        if image.is_empty() {
            return Err(Error::usage("no image was named")
                .hint("`jobman submit -i NAME:TAG`, or `job.defaultImage` in the settings"));
        }
        let has_registry = image
            .split_once('/')
            .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
        Ok(
            match prefix.is_empty() || has_registry || image.starts_with(&prefix) {
                true => image.to_string(),
                false => format!("{}/{image}", prefix.trim_end_matches('/')),
            },
        )
    }
}

fn wrong(pointer: &str, why: &str) -> Error {
    let key = pointer.trim_start_matches('/').replace('/', ".");
    Error::usage(format!("cannot use `{key}` of the settings")).cause(why)
}

/// Lays one value over another, objects key by key. `depth` 0 takes whole sections.
fn merge(below: &mut Value, above: &Value, depth: usize) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                match below.get_mut(key) {
                    Some(known) if depth > 0 => merge(known, value, depth),
                    _ => {
                        below.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (below, above) => *below = above.clone(),
    }
}

/// Flavors by name: the site's, and those of the settings that the site does not have.
pub fn flavors(
    site: &BTreeMap<String, Flavor>,
    settings: &Settings,
) -> Result<Vec<(String, Flavor)>> {
    let mut all: Vec<(String, Flavor)> = site.clone().into_iter().collect();
    let site_has_default = all.iter().any(|(_, flavor)| flavor.is_default);
    for (name, mut flavor) in settings.predefined()? {
        if let Some(known) = site.get(&name) {
            if known.options != flavor.options {
                return Err(Error::usage(format!(
                    "the flavor `{name}` cannot be made another one"
                ))
                .cause(format!("the site says what it is (`flavor.{name}`)")));
            }
            continue;
        }
        flavor.is_default &= !site_has_default;
        all.push((name, flavor));
    }
    Ok(all)
}

/// The options of a flavor that was asked for by name, as JSON or (read by the caller) as a file's text.
pub fn flavor(asked: Option<&str>, known: &[(String, Flavor)]) -> Result<BTreeMap<String, String>> {
    let Some(asked) = asked else {
        let default = known.iter().find(|(_, flavor)| flavor.is_default);
        return Ok(default
            .map(|(_, flavor)| flavor.options.clone())
            .unwrap_or_default());
    };
    if asked.trim_start().starts_with('{') {
        let value: Value = serde_json::from_str(asked)
            .map_err(|error| Error::usage("the resources are no JSON").cause(error))?;
        let resources = value.get("resources").unwrap_or(&value);
        return options_of(resources);
    }
    match known.iter().find(|(name, _)| name == asked) {
        Some((_, flavor)) => Ok(flavor.options.clone()),
        None => {
            let error = Error::usage(format!("there is no flavor `{asked}`"));
            Err(
                match nearest(asked, known.iter().map(|(name, _)| name.as_str())) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint("`jobman resources-flavors` lists them"),
                },
            )
        }
    }
}

/// sbatch cuts comments; more than this is refused.
const LONGEST_COMMENT: usize = 1024;

/// The words of `carrack submit`.
pub fn submit(
    asked: &Submit,
    profile: &str,
    settings: &Settings,
    options: &BTreeMap<String, String>,
    variable: &dyn Fn(&str) -> Option<String>,
    unique: &str,
) -> Result<Vec<String>> {
    let mut words = vec![option("profile", profile)];
    words.extend(options.iter().map(|(name, value)| option(name, value)));
    let name = match &asked.name {
        Some(name) => name.clone(),
        None => format!("job-{unique}"),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
        return Err(Error::usage(format!("cannot use the job name `{name}`"))
            .cause("a name has 1 to 63 letters, digits, `-`, `.` or `_`"));
    }
    words.push(option("job-name", &name));
    let mut annotations = settings.annotations(variable)?;
    if let Some(text) = &asked.annotations {
        let own: Value = serde_json::from_str(text)
            .map_err(|error| Error::usage("the annotations are no JSON").cause(error))?;
        let Value::Object(own) = own else {
            return Err(Error::usage("the annotations are no JSON object"));
        };
        if let Some((key, _)) = own.iter().find(|(_, value)| !value.is_string()) {
            return Err(Error::usage(format!("the annotation `{key}` is no text")));
        }
        annotations.extend(own);
    }
    // The ones that ask for something are options here; all of them stay with the job.
    if let Some(ids) = annotations
        .get("chaimeleon.eu/datasetsIDs")
        .and_then(Value::as_str)
    {
        let ids = ids.split(',').map(str::trim).filter(|id| !id.is_empty());
        words.extend(ids.map(|id| option("dataset", id)));
    }
    if !annotations.is_empty() {
        let comment = Value::Object(annotations).to_string();
        if comment.len() > LONGEST_COMMENT {
            return Err(Error::usage("the annotations are too long").cause(format!(
                "{} bytes, at most {LONGEST_COMMENT}",
                comment.len()
            )));
        }
        words.push(option("comment", &comment));
    }
    words.extend(asked.environment.iter().map(|pair| option("env", pair)));
    if asked.replaces_entrypoint {
        if asked.arguments.is_empty() {
            return Err(Error::usage("`-c` needs a command behind `--`"));
        }
        words.push("--no-entrypoint".to_string());
    } else if !asked.arguments.is_empty() {
        words.push("--entrypoint".to_string());
    }
    words.extend(asked.dry_run.then(|| "--dry-run".to_string()));
    words.push(settings.image(asked.image.as_deref())?);
    if !asked.arguments.is_empty() {
        words.push("--".to_string());
        words.extend(asked.arguments.iter().cloned());
    }
    Ok(words)
}

#[cfg(test)]
#[path = "jobman_tests.rs"]
mod tests;
