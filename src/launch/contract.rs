//! The mounts that a profile promises: templates with `{words}` that are filled in for the user, the project and the job.
//!
//! A word is filled in after the template was taken apart, so that nothing in a name can add a field, and only plain names
//! get in: no slash, no dots in front. Touches nothing: who the user is and where the project's data lies are facts.

use super::facts::HostFacts;
use super::inside::InsidePath;
use super::mounts::{MountSpec, Placed, What};
use super::profile::Profile;
use super::request::Request;
use super::step::{Access, Missing};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Words that a template may hold.
pub const WORDS: [&str; 8] = [
    "user", "group", "project", "job", "step", "dataset", "home", "scratch",
];

/// Who runs and for what, as far as a profile's templates ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    pub user: String,
    pub group: String,
    /// As the user database has it, whatever `$HOME` says.
    pub home: PathBuf,
    pub job: String,
    pub step: String,
}

/// The project that was found for the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    pub name: String,
    pub data: PathBuf,
}

/// Whether a name may become one component of a path.
pub fn is_plain(name: &str) -> bool {
    let kept = |c: char| c.is_ascii_alphanumeric() || "_.+@-".contains(c);
    (1..=128).contains(&name.len()) && !name.starts_with(['.', '-']) && name.chars().all(kept)
}

/// The words in braces of a template, in order.
pub fn words_of(template: &str) -> Result<Vec<&str>> {
    let wrong = |why: String| Error::usage(format!("cannot use `{template}`")).cause(why);
    let mut found = Vec::new();
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((word, after)) = after.split_once('}') else {
            return Err(wrong("`{` without `}`".into()));
        };
        if !WORDS.contains(&word) {
            return Err(wrong(format!(
                "`{{{word}}}` is none of: {}",
                WORDS.map(|word| format!("{{{word}}}")).join(" ")
            )));
        }
        found.push(word);
        rest = after;
    }
    Ok(found)
}

/// Projects that a user belongs to, by the names of the groups: `PROJECT` or `PREFIX-PROJECT`.
pub fn projects(groups: &[String], prefixes: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for group in groups {
        let behind = group.split_once('-').filter(|(prefix, _)| {
            prefixes.is_empty() || prefixes.iter().any(|known| known == prefix)
        });
        for name in [Some(group.as_str()), behind.map(|(_, name)| name)] {
            let name = name.unwrap_or_default();
            if is_plain(name) && !found.iter().any(|known| known == name) {
                found.push(name.to_string());
            }
        }
    }
    found
}

/// Fills in the words of one text.
pub struct Filler<'a> {
    pub facts: &'a HostFacts,
    pub dataset: Option<&'a str>,
    /// The job's scratch directory, where the profile has one.
    pub scratch: Option<&'a Path>,
}

impl Filler<'_> {
    pub fn fill(&self, template: &str) -> Result<String> {
        let mut out = template.to_string();
        for word in words_of(template)? {
            let value = self.value(word).map_err(|error| {
                error.while_doing(format!("cannot fill in `{{{word}}}` of `{template}`"))
            })?;
            out = out.replacen(&format!("{{{word}}}"), &value, 1);
        }
        Ok(out)
    }

    fn value(&self, word: &str) -> Result<String> {
        let words = self.facts.words.clone().unwrap_or_default();
        let project = self.facts.project.as_ref();
        let plain = |value: &str| {
            if is_plain(value) {
                return Ok(value.to_string());
            }
            Err(Error::usage(format!("`{value}` is no plain name"))
                .cause("a name in a path has letters, digits, `_`, `.`, `+`, `@` and `-`, and no dot in front"))
        };
        let directory = |path: &Path| {
            let path = InsidePath::new(path)?;
            let text = path
                .as_path()
                .to_str()
                .filter(|text| !text.contains(['{', '}']));
            text.map(str::to_string)
                .ok_or_else(|| Error::usage(format!("`{path}` is no plain path")))
        };
        match word {
            "user" => plain(&words.user),
            "group" => plain(&words.group),
            "job" => plain(&words.job),
            "step" => plain(&words.step),
            "dataset" => plain(self.dataset.unwrap_or_default()),
            "project" => match project {
                Some(project) => plain(&project.name),
                None => Err(Error::usage("no project of yours was found")),
            },
            "scratch" => match self.scratch {
                Some(path) => directory(path),
                None => Err(Error::usage("the profile has no `scratch`")),
            },
            _ => directory(&words.home),
        }
    }

    /// A mount with its words filled in, source and target each by itself.
    pub fn mount(&self, spec: &MountSpec) -> Result<MountSpec> {
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_string)
                .ok_or_else(|| Error::usage(format!("`{}` is not UTF-8", path.display())))
        };
        let inside = |at: &InsidePath| InsidePath::new(self.fill(&text(at.as_path())?)?);
        Ok(match spec {
            MountSpec::Bind {
                from,
                to,
                access,
                missing,
            } => MountSpec::Bind {
                from: self.fill(&text(from)?)?.into(),
                to: to.as_ref().map(inside).transpose()?,
                access: *access,
                missing: *missing,
            },
            MountSpec::Tmpfs { at, size, mode } => MountSpec::Tmpfs {
                at: inside(at)?,
                size: *size,
                mode: *mode,
            },
            MountSpec::Omit { at } => MountSpec::Omit { at: inside(at)? },
        })
    }
}

/// The mounts of the contract proper: the project's data, datasets, outputs and scratch.
pub fn mounts(request: &Request, profile: &Profile, facts: &HostFacts) -> Result<Vec<Placed>> {
    let scratch = scratch_directory(profile, facts)?;
    let filler = |dataset| Filler {
        facts,
        dataset,
        scratch: scratch.as_deref(),
    };
    let mut all = Vec::new();
    if let Some(spec) = &profile.project_data {
        let MountSpec::Bind { to, access, .. } = filler(None).mount(spec)? else {
            return Ok(all);
        };
        let Some(project) = &facts.project else {
            return Err(Error::usage("no project of yours was found"));
        };
        let own = profile.project_access.get(&project.name);
        all.push(placed(
            project.data.clone(),
            to,
            own.copied().unwrap_or(access),
            Missing::Fail,
        )?);
    }
    match &profile.datasets {
        Some(spec) => {
            for id in &request.datasets {
                all.push(bind(filler(Some(id)).mount(spec)?, Missing::Fail)?);
            }
        }
        None if !request.datasets.is_empty() => {
            return Err(
                Error::usage(format!("the profile `{}` has no datasets", profile.name))
                    .hint("the site names them in `datasets` of the profile"),
            );
        }
        None => {}
    }
    for spec in [&profile.outputs, &profile.scratch].into_iter().flatten() {
        all.push(bind(filler(None).mount(spec)?, Missing::MakeDirectory)?);
    }
    Ok(all)
}

/// Where the job's scratch directory is on the host.
pub fn scratch_directory(profile: &Profile, facts: &HostFacts) -> Result<Option<PathBuf>> {
    let text = source(&profile.scratch).map(|text| filled(text, facts));
    text.transpose()
}

/// The same for its outputs; none where it cannot be told.
pub fn outputs_directory(profile: &Profile, facts: &HostFacts) -> Option<PathBuf> {
    filled(source(&profile.outputs)?, facts).ok()
}

fn source(spec: &Option<MountSpec>) -> Option<&str> {
    match spec {
        Some(MountSpec::Bind { from, .. }) => Some(from.to_str().unwrap_or_default()),
        _ => None,
    }
}

fn filled(template: &str, facts: &HostFacts) -> Result<PathBuf> {
    let filler = Filler {
        facts,
        dataset: None,
        scratch: None,
    };
    Ok(filler.fill(template)?.into())
}

fn bind(spec: MountSpec, missing: Missing) -> Result<Placed> {
    match spec {
        MountSpec::Bind {
            from, to, access, ..
        } => placed(from, to, access, missing),
        _ => Err(Error::usage("a directory of the host is needed here")),
    }
}

fn placed(
    from: PathBuf,
    to: Option<InsidePath>,
    access: Access,
    missing: Missing,
) -> Result<Placed> {
    let from = InsidePath::new(from)?;
    Ok(Placed {
        at: to.unwrap_or_else(|| from.clone()),
        what: What::Bind {
            from: from.as_path().to_path_buf(),
            access,
            missing,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> HostFacts {
        HostFacts {
            project: Some(Project {
                name: "p01".into(),
                data: "/safe_data/p01".into(),
            }),
            ..HostFacts::in_a_job()
        }
    }

    #[test]
    fn words_are_filled_in() {
        let facts = facts();
        let filler = Filler {
            facts: &facts,
            dataset: Some("d-1"),
            scratch: Some(Path::new("/s/17")),
        };
        for (template, expected) in [
            ("/a", "/a"),
            ("{home}/outputs_{job}", "/home/alice/outputs_17"),
            (
                "/{user}/{group}/{project}/{job}.{step}",
                "/alice/staff/p01/17.0",
            ),
            ("/d/{dataset}/{dataset}", "/d/d-1/d-1"),
            ("{scratch}/x", "/s/17/x"),
        ] {
            assert_eq!(filler.fill(template).unwrap(), expected);
        }
        for template in ["/{nobody}", "/{home", "/{}"] {
            assert!(filler.fill(template).is_err(), "{template}");
        }
    }

    #[test]
    fn no_name_leaves_its_place() {
        for job in [
            "../x", "a/b", "", ".", "..", "a:b", "a b", "-x", "{home}", "a\nb",
        ] {
            let mut facts = facts();
            facts.words.as_mut().unwrap().job = job.into();
            let filler = Filler {
                facts: &facts,
                dataset: Some(job),
                scratch: None,
            };
            for template in ["/x/{job}", "/x/{dataset}"] {
                let told = filler.fill(template).unwrap_err().to_string();
                assert!(told.contains("is no plain name"), "{job:?}: {told}");
            }
        }
        let mut facts = facts();
        facts.words.as_mut().unwrap().home = "/home/../etc".into();
        let filler = Filler {
            facts: &facts,
            dataset: None,
            scratch: None,
        };
        assert!(filler.fill("{home}/x").is_err());
        assert!(filler.fill("{scratch}/x").is_err());
    }

    #[test]
    fn groups_become_projects() {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (groups, prefixes, expected) in [
            (&["p01"][..], &[][..], &["p01"][..]),
            (&["eidf-p01"], &[], &["eidf-p01", "p01"]),
            (&["eidf-p01"], &["eidf"], &["eidf-p01", "p01"]),
            (&["other-p01"], &["eidf"], &["other-p01"]),
            (&["a-b-c"], &[], &["a-b-c", "b-c"]),
            (&["a/b", "../x", "x-../y", "a-.x", "-"], &[], &["a-.x"]),
            (&["p01", "eidf-p01"], &[], &["p01", "eidf-p01"]),
        ] {
            assert_eq!(projects(&strings(groups), &strings(prefixes)), expected);
        }
    }
}
