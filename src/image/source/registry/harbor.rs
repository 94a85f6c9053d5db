//! Harbor's own interface, beside that of the distribution: projects, repositories with their descriptions, artifacts with
//! their tags.
//!
//! Harbor shows its catalogue to administrators only, so what a user may see is asked for here. It is asked with the
//! password itself (a CLI secret or a robot account's), because this interface takes no tokens of the registry. What is
//! absent: everything that changes something there.

use super::client::{Client, Host, Request};
use super::failure::Failure;
use super::{MAX_PAGE_BYTES, MAX_PAGES, route, runtime, whole};
use crate::error::{Error, Result};
use crate::image::source::SourceSettings;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// The largest that Harbor gives.
const PAGE: usize = 100;

pub struct Harbor {
    registry: String,
    client: Client,
    host: Arc<Host>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Project {
    pub name: String,
    pub public: bool,
    pub repositories: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repository {
    /// Without the project.
    pub name: String,
    /// Markdown, as its owner wrote it.
    pub description: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Artifact {
    pub digest: String,
    /// `IMAGE`, `CHART`, …
    #[serde(rename = "type")]
    pub kind: String,
    pub size: u64,
    pub push_time: String,
    #[serde(deserialize_with = "names")]
    pub tags: Vec<String>,
}

/// Tags are objects, or `null` where there are none.
fn names<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    let tags = Option::<Vec<Value>>::deserialize(from)?.unwrap_or_default();
    let name = |tag: &Value| Some(tag.get("name")?.as_str()?.to_string());
    Ok(tags.iter().filter_map(name).collect())
}

impl Harbor {
    pub fn open(registry: &str, settings: &SourceSettings) -> Result<Harbor> {
        route::check_allowed(registry, "", settings)?;
        let client = Client::new(settings, &[]);
        let host = client
            .host(registry)
            .map_err(|failure| failure.explain(format!("cannot ask `{registry}`"), registry))?;
        Ok(Harbor {
            registry: registry.to_string(),
            client,
            host,
        })
    }

    /// The projects that this user sees; public ones without a login.
    pub fn projects(&self) -> Result<Vec<Project>> {
        let found = self.pages("/api/v2.0/projects", "cannot list the projects")?;
        let project = |value: &Value| {
            let public = &value["metadata"]["public"];
            Some(Project {
                name: text(value, "name")?,
                // A text, in Harbor.
                public: public.as_str() == Some("true") || public.as_bool() == Some(true),
                repositories: value["repo_count"].as_u64().unwrap_or(0),
            })
        };
        Ok(found.iter().filter_map(project).collect())
    }

    pub fn repositories(&self, project: &str) -> Result<Vec<Repository>> {
        let path = format!("/api/v2.0/projects/{}/repositories", checked(project)?);
        let what = format!("cannot list the repositories of `{project}`");
        let found = self.pages(&path, &what)?;
        let mut all: Vec<Repository> = found
            .iter()
            .filter_map(|value| repository(value, project))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub fn repository(&self, project: &str, name: &str) -> Result<Repository> {
        let path = format!(
            "/api/v2.0/projects/{}/repositories/{}",
            checked(project)?,
            encoded(name)?
        );
        let what = format!("cannot look at `{project}/{name}`");
        let value = self.ask(&path, &what)?;
        repository(&value, project).ok_or_else(|| self.unreadable(&what))
    }

    /// The artifacts of a repository, newest first, each with its tags.
    pub fn artifacts(&self, project: &str, name: &str) -> Result<Vec<Artifact>> {
        let path = format!(
            "/api/v2.0/projects/{}/repositories/{}/artifacts",
            checked(project)?,
            encoded(name)?
        );
        let what = format!("cannot list what `{project}/{name}` holds");
        let found = self.pages(&path, &what)?;
        let mut all = Vec::new();
        for value in found {
            let artifact = serde_json::from_value::<Artifact>(value);
            all.push(artifact.map_err(|_| self.unreadable(&what))?);
        }
        all.sort_by(|a, b| b.push_time.cmp(&a.push_time));
        Ok(all)
    }

    fn pages(&self, path: &str, what: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for page in 1..=MAX_PAGES {
            let value = self.ask(&format!("{path}?page={page}&page_size={PAGE}"), what)?;
            let Value::Array(list) = value else {
                return Err(self.unreadable(what));
            };
            let is_last = list.len() < PAGE;
            all.extend(list);
            if is_last {
                return Ok(all);
            }
        }
        Err(Error::new(format!("{what} of `{}`", self.registry)).cause("its list has no end"))
    }

    fn ask(&self, path: &str, what: &str) -> Result<Value> {
        let request = Request {
            by_password: true,
            ..Request::get(path.to_string(), String::new())
        };
        let asked = async {
            let (_, bytes) = whole(&self.client, &self.host, &request, MAX_PAGE_BYTES).await?;
            serde_json::from_slice(&bytes)
                .map_err(|_| Failure::refused("it is no Harbor: its answer is not readable"))
        };
        let what = format!("{what} at `{}`", self.registry);
        runtime()?
            .block_on(asked)
            .map_err(|failure: Failure| failure.explain(what, &self.registry))
    }

    fn unreadable(&self, what: &str) -> Error {
        Error::new(format!("{what} at `{}`", self.registry)).cause("its answer is not readable")
    }
}

/// Harbor names a repository with its project.
fn repository(value: &Value, project: &str) -> Option<Repository> {
    let name = text(value, "name")?;
    let short = name.strip_prefix(project).and_then(|n| n.strip_prefix('/'));
    Some(Repository {
        name: short.unwrap_or(&name).to_string(),
        description: text(value, "description").unwrap_or_default(),
    })
}

fn text(value: &Value, key: &str) -> Option<String> {
    Some(value.get(key)?.as_str()?.to_string())
}

/// A name that may stand in a path as it is.
fn checked(name: &str) -> Result<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain) {
        true => Ok(name),
        false => Err(Error::usage(format!("`{name}` is no name of a project"))),
    }
}

/// A repository's name may have slashes, which Harbor wants encoded twice.
fn encoded(name: &str) -> Result<String> {
    let parts: Result<Vec<&str>> = name.split('/').map(checked).collect();
    let parts = parts.map_err(|_| Error::usage(format!("`{name}` is no name of an image")))?;
    Ok(parts.join("%252F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths() {
        assert_eq!(encoded("a/b-1/c.d").unwrap(), "a%252Fb-1%252Fc.d");
        for name in ["", "a//b", "a/../b", "a?b", "a b", "ä", "a%2f"] {
            assert!(encoded(name).is_err(), "{name}");
            assert!(checked(name).is_err(), "{name}");
        }
    }

    #[test]
    fn artifacts_as_harbor_writes_them() {
        let text = r#"{"digest":"sha256:1","type":"IMAGE","size":7,"push_time":"2026-01-01T00:00:00.000Z",
            "tags":[{"name":"1.0","id":3},{"name":"latest"}],"extra_attrs":{"os":"linux"}}"#;
        let artifact: Artifact = serde_json::from_str(text).unwrap();
        assert_eq!(artifact.tags, ["1.0", "latest"]);
        assert_eq!((artifact.kind.as_str(), artifact.size), ("IMAGE", 7));
        let bare: Artifact =
            serde_json::from_str("{\"digest\":\"sha256:2\",\"tags\":null}").unwrap();
        assert!(bare.tags.is_empty());
    }
}
