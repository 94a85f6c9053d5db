//! Which registry is asked for a name: the allow-list, the rewrite rules and the mirrors. Pure.

use crate::error::{Error, Result};
use crate::image::reference::{DOCKER_HUB, Name};
use crate::image::source::SourceSettings;
use reqwest::Url;
use std::net::IpAddr;

/// One place to ask: a registry, and what the repository is called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub registry: String,
    pub repository: String,
}

/// The places to ask, in order. Refuses a name that the allow-list lacks.
pub fn route(name: &Name, settings: &SourceSettings) -> Result<Vec<Endpoint>> {
    check_allowed(&name.registry, &name.repository, settings)?;
    let target = rewrite(name, settings);
    let mut endpoints: Vec<Endpoint> = settings
        .mirrors
        .get(&target.registry)
        .into_iter()
        .flatten()
        .map(|mirror| {
            let mirror = bare(mirror);
            match mirror.split_once('/') {
                Some((registry, prefix)) => Endpoint {
                    registry: registry.to_ascii_lowercase(),
                    repository: format!("{prefix}/{}", target.repository),
                },
                None => Endpoint {
                    registry: mirror.to_ascii_lowercase(),
                    repository: target.repository.clone(),
                },
            }
        })
        .collect();
    endpoints.push(target);
    endpoints.dedup();
    Ok(endpoints)
}

/// An entry of the allow-list is a registry, `*.domain`, or `registry/path` for everything below that path.
pub fn check_allowed(registry: &str, repository: &str, settings: &SourceSettings) -> Result<()> {
    let allowed = settings.allow.is_empty()
        || settings.allow.iter().any(|entry| {
            let entry = bare(entry);
            let (host, path) = entry.split_once('/').unwrap_or((entry, ""));
            let host_fits = match host.strip_prefix("*.") {
                Some(domain) => registry
                    .strip_suffix(domain)
                    .is_some_and(|before| before.ends_with('.')),
                None => registry.eq_ignore_ascii_case(host),
            };
            host_fits && below(repository, path).is_some()
        });
    if allowed {
        return Ok(());
    }
    let name = match repository {
        "" => registry.to_string(),
        repository => format!("{registry}/{repository}"),
    };
    Err(
        Error::new(format!("`{name}` may not be used on this system"))
            .cause("it is not on the site's list of registries (`registries.allow`)")
            .hint(format!("allowed are: {}", settings.allow.join(", "))),
    )
}

/// The longest rule whose whole components start the name.
fn rewrite(name: &Name, settings: &SourceSettings) -> Endpoint {
    let full = format!("{}/{}", name.registry, name.repository);
    let rule = settings
        .rewrites
        .iter()
        .filter_map(|(from, to)| Some((bare(from), bare(to), below(&full, bare(from))?)))
        .max_by_key(|(from, _, _)| from.len());
    let full = match rule {
        Some((_, to, "")) => to.to_string(),
        Some((_, to, rest)) => format!("{to}/{rest}"),
        None => full,
    };
    let (registry, repository) = full.split_once('/').unwrap_or((&full, &name.repository));
    Endpoint {
        registry: registry.to_ascii_lowercase(),
        repository: repository.to_string(),
    }
}

/// What is left of a name below a path; `None` when it is not below it.
fn below<'a>(name: &'a str, path: &str) -> Option<&'a str> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Some(name);
    }
    let rest = name.strip_prefix(path)?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None => rest.is_empty().then_some(rest),
    }
}

/// Settings are written with and without a scheme.
fn bare(text: &str) -> &str {
    let text = text.trim();
    let text = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .or_else(|| text.strip_prefix("docker://"))
        .unwrap_or(text);
    text.trim_end_matches('/')
}

/// Where the API of a registry is: Docker Hub's differs from its name.
pub fn api_host(registry: &str) -> &str {
    match registry {
        DOCKER_HUB => "registry-1.docker.io",
        other => other,
    }
}

/// Host and port, never the rest: addresses of stores carry signatures.
pub fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_string(),
    }
}

/// How a registry may be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Https,
    /// Loopback: https if it answers, else http.
    Either,
    /// Named by the site or the user.
    Http,
}

pub fn transport(registry: &str, settings: &SourceSettings) -> Transport {
    let named = settings.insecure.iter().any(|host| {
        let host = bare(host);
        host.eq_ignore_ascii_case(registry)
    });
    if named {
        Transport::Http
    } else if is_loopback(host_part(registry)) {
        Transport::Either
    } else {
        Transport::Https
    }
}

/// `host:port` → `host`, `[::1]:5000` → `::1`.
pub fn host_part(registry: &str) -> &str {
    match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    }
}

pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::reference::Reference;

    fn name(text: &str) -> Name {
        match text.parse().unwrap() {
            Reference::Registry(name) => name,
            other => panic!("{other:?}"),
        }
    }

    fn routed(text: &str, settings: &SourceSettings) -> Vec<String> {
        route(&name(text), settings)
            .unwrap()
            .into_iter()
            .map(|endpoint| format!("{}/{}", endpoint.registry, endpoint.repository))
            .collect()
    }

    #[test]
    fn allow_list() {
        let allow = |list: &[&str]| SourceSettings {
            allow: list.iter().map(|entry| entry.to_string()).collect(),
            ..SourceSettings::default()
        };
        let rows: &[(&[&str], &str, bool)] = &[
            (&[], "any.eu/x", true),
            (&["ghcr.io"], "ghcr.io/x", true),
            (&["GHCR.io/"], "ghcr.io/x", true),
            (&["ghcr.io"], "docker.io/x", false),
            (&["ghcr.io"], "ghcr.io:5000/x", false),
            (&["ghcr.io"], "xghcr.io/x", false),
            (&["ghcr.io.evil"], "ghcr.io/x", false),
            (&["git.eu/team"], "git.eu/team/app", true),
            (&["git.eu/team"], "git.eu/team", true),
            (&["git.eu/team"], "git.eu/teams/app", false),
            (&["*.site.eu"], "a.site.eu/x", true),
            (&["*.site.eu"], "evilsite.eu/x", false),
            (&["docker.io/library"], "alpine", true),
            (&["docker.io/library"], "team/app", false),
        ];
        for (list, text, allowed) in rows {
            let result = route(&name(text), &allow(list));
            assert_eq!(result.is_ok(), *allowed, "{list:?} {text}");
        }
    }

    #[test]
    fn rewrites_and_mirrors() {
        let settings = SourceSettings {
            rewrites: [
                ("git.eu", "git.eu:5050"),
                ("git.eu/special", "https://other.eu/s"),
                ("quay.io/one/app", "cache.eu/app"),
            ]
            .map(|(from, to)| (from.to_string(), to.to_string()))
            .into(),
            mirrors: [
                ("docker.io", vec!["m1.eu:5000", "harbor.eu/hub/"]),
                ("git.eu:5050", vec!["m2.eu"]),
            ]
            .map(|(from, to)| (from.to_string(), to.into_iter().map(String::from).collect()))
            .into(),
            ..SourceSettings::default()
        };
        let rows: &[(&str, &[&str])] = &[
            (
                "alpine",
                &[
                    "m1.eu:5000/library/alpine",
                    "harbor.eu/hub/library/alpine",
                    "docker.io/library/alpine",
                ],
            ),
            (
                "git.eu/team/app",
                &["m2.eu/team/app", "git.eu:5050/team/app"],
            ),
            ("git.eu/special/app", &["other.eu/s/app"]),
            (
                "git.eu/specials/app",
                &["m2.eu/specials/app", "git.eu:5050/specials/app"],
            ),
            ("quay.io/one/app", &["cache.eu/app"]),
            ("quay.io/one/apps", &["quay.io/one/apps"]),
        ];
        for (text, expected) in rows {
            assert_eq!(&routed(text, &settings), expected, "{text}");
        }
    }

    #[test]
    fn plain_http_only_where_named_or_loopback() {
        let settings = SourceSettings {
            insecure: vec!["old.site:5000".into(), "http://older.site/".into()],
            ..SourceSettings::default()
        };
        let rows = [
            ("old.site:5000", Transport::Http),
            ("older.site", Transport::Http),
            ("old.site", Transport::Https),
            ("localhost:5000", Transport::Either),
            ("127.9.9.9:1", Transport::Either),
            ("[::1]:1", Transport::Either),
            ("localhost.evil.eu", Transport::Https),
            ("127.0.0.1.evil.eu", Transport::Https),
            ("10.0.0.1:5000", Transport::Https),
        ];
        for (registry, expected) in rows {
            assert_eq!(transport(registry, &settings), expected, "{registry}");
        }
    }
}
