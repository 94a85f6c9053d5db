//! Images in registries, over the distribution API.
//!
//! The asynchronous world is inside this folder only: a small runtime starts with the first request, and everything
//! that leaves is a value or a blocking `Read`.

mod address;
mod auth;
mod blob;
mod client;
pub mod download;
pub mod failure;
pub mod harbor;
mod route;
pub mod signatures;
mod tls;
pub mod upload;
mod wait;

use super::resolve;
use super::{Descriptor, Resolved, Secret, Source, SourceSettings};
use crate::config::nearest;
use crate::error::{Context, Error, Result};
use crate::image::credentials::Credential;
use crate::image::digest::Digest;
use crate::image::manifest;
use crate::image::reference::Name;
use crate::image::signature::Signature;
use crate::record::Platform;
use client::{Client, Request};
use failure::Failure;
use reqwest::header::{CONTENT_TYPE, LINK};
use reqwest::{Method, Response, Url};
use route::Endpoint;
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Pages of a listing; more is a registry that goes in circles.
const MAX_PAGES: usize = 10_000;
const MAX_PAGE_BYTES: usize = 16 << 20;

pub struct Registry {
    name: Name,
    client: Arc<Client>,
    endpoints: Vec<Endpoint>,
    /// Which endpoint had the manifest: its layers are most likely there too.
    served_by: Mutex<Option<Endpoint>>,
}

/// Started once, when something first needs it. Two threads suffice: the work is waiting.
fn runtime() -> Result<&'static tokio::runtime::Runtime> {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("carrack-network")
        .enable_all()
        .build()
        .or_say(|| "cannot start the threads for network transfers")?;
    Ok(RUNTIME.get_or_init(|| made))
}

fn pull_scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

impl Registry {
    pub fn open(name: &Name, settings: &SourceSettings) -> Result<Registry> {
        let endpoints = route::route(name, settings)?;
        Ok(Registry {
            name: name.clone(),
            client: Arc::new(Client::new(settings, &endpoints)),
            endpoints,
            served_by: Mutex::default(),
        })
    }

    /// Asks the endpoints in turn; the last one's failure is the one that counts.
    fn first<T>(
        &self,
        what: &str,
        ask: impl AsyncFn(&Client, &Endpoint) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut last = Error::new(what);
        for endpoint in self.in_order() {
            match runtime()?.block_on(ask(&self.client, &endpoint)) {
                Ok(value) => {
                    *self
                        .served_by
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Some(endpoint);
                    return Ok(value);
                }
                Err(failure) => last = self.explain(what, &endpoint, failure),
            }
        }
        Err(last)
    }

    fn in_order(&self) -> Vec<Endpoint> {
        let served = self
            .served_by
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let rest = self
            .endpoints
            .iter()
            .filter(|e| Some(*e) != served.as_ref())
            .cloned();
        served.clone().into_iter().chain(rest).collect()
    }

    fn explain(&self, what: &str, endpoint: &Endpoint, failure: Failure) -> Error {
        let missing = matches!(failure, Failure::NotFound { .. });
        let error = failure.explain(what.to_string(), &endpoint.registry);
        let Some(tag) = self
            .name
            .tag
            .as_deref()
            .filter(|_| missing && self.name.digest.is_none())
        else {
            return error;
        };
        // One more question, so that a misspelt tag is told from a misspelt name.
        let Ok(tags) = self.tags_of(endpoint) else {
            return error.hint(format!(
                "there may be no repository `{}`",
                endpoint.repository
            ));
        };
        match nearest(tag, tags.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("there is no tag `{tag}`; did you mean `{near}`?")),
            None if tags.is_empty() => error.hint("it has no tags"),
            None if tags.len() <= 10 => {
                let tags = tags.join("`, `");
                error.hint(format!("there is no tag `{tag}`; it has `{tags}`"))
            }
            None => error.hint(format!(
                "there is no tag `{tag}` among its {} tags; `carrack tags {}/{}` lists them",
                tags.len(),
                self.name.registry,
                self.name.repository
            )),
        }
    }

    /// All tags, sorted: some registries list them as their disk does.
    pub fn tags(&self) -> Result<Vec<String>> {
        let what = format!(
            "cannot list the tags of `{}/{}`",
            self.name.registry, self.name.repository
        );
        let mut all = self.first(&what, async |client, endpoint| tags(client, endpoint).await)?;
        all.sort();
        Ok(all)
    }

    fn tags_of(&self, endpoint: &Endpoint) -> Result<Vec<String>> {
        let tags = runtime()?.block_on(tags(&self.client, endpoint));
        tags.map_err(|failure| Error::new("cannot list tags").source(failure))
    }
}

impl Source for Registry {
    fn resolve(&self, platform: &Platform) -> Result<Resolved> {
        let what = format!("cannot get the manifest of `{}`", self.name);
        let version = self.name.version();
        let (bytes, stated) = self.first(&what, async |client, endpoint| {
            let fetched = get_manifest(client, endpoint, &version, manifest::MAX_BYTES).await?;
            check_stated(&fetched, self.name.digest)?;
            Ok((fetched.bytes, fetched.media_type))
        })?;
        let digest = Digest::of(&bytes);
        let fetch = |descriptor: &Descriptor| self.document(&what, descriptor);
        manifest::parse(&bytes, stated.as_deref())
            .and_then(|document| resolve::resolve(digest, document, platform, &fetch))
            .map_err(|error| match error.what() == what {
                true => error,
                false => error.while_doing(what.clone()),
            })
    }

    fn blob(&self, layer: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let runtime = runtime()?.handle();
        Ok(Box::new(blob::open(
            runtime,
            self.client.clone(),
            self.in_order(),
            layer,
        )))
    }

    fn signatures(&self, digest: &Digest) -> Result<Vec<Signature>> {
        self.signatures_of(digest)
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.manifest_bytes(digest)
    }

    fn current(&self) -> Result<Option<Digest>> {
        if let Some(digest) = self.name.digest {
            return Ok(Some(digest));
        }
        let what = format!("cannot look up `{}`", self.name);
        let version = self.name.version();
        self.first(&what, async |client, endpoint| {
            let host = client.host(&endpoint.registry)?;
            let request = Request {
                method: Method::HEAD,
                accept: Some(manifest::ACCEPT),
                ..manifest_request(endpoint, &version)
            };
            match client.send(&host, &request).await {
                Ok(response) => Ok(content_digest(&response)),
                // Some registries and proxies have no HEAD; `resolve` will tell.
                Err(Failure::Refused { .. }) => Ok(None),
                Err(failure) => Err(failure),
            }
        })
    }
}

impl Registry {
    /// The manifest that the name stands for, whatever kind of thing it describes.
    pub fn any_manifest(&self) -> Result<Vec<u8>> {
        let what = format!("cannot get the manifest of `{}`", self.name);
        let version = self.name.version();
        self.first(&what, async |client, endpoint| {
            let fetched = get_manifest(client, endpoint, &version, manifest::MAX_BYTES).await?;
            check_stated(&fetched, self.name.digest)?;
            Ok(fetched.bytes)
        })
    }

    /// A manifest or config that a manifest at hand names.
    fn document(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let kind =
            descriptor.media_type.contains("manifest") || descriptor.media_type.contains("index");
        let limit = usize::try_from(descriptor.size)
            .unwrap_or(usize::MAX)
            .min(manifest::MAX_BYTES);
        self.first(what, async |client, endpoint| {
            if kind {
                let version = descriptor.digest.to_string();
                return Ok(get_manifest(client, endpoint, &version, limit).await?.bytes);
            }
            let host = client.host(&endpoint.registry)?;
            let path = format!("/v2/{}/blobs/{}", endpoint.repository, descriptor.digest);
            let request = Request::get(path, pull_scope(&endpoint.repository));
            whole(client, &host, &request, limit)
                .await
                .map(|(_, bytes)| bytes)
        })
    }
}

struct Fetched {
    bytes: Vec<u8>,
    media_type: Option<String>,
    stated: Option<Digest>,
}

fn manifest_request(endpoint: &Endpoint, version: &str) -> Request {
    let path = format!("/v2/{}/manifests/{version}", endpoint.repository);
    Request {
        accept: Some(manifest::ACCEPT),
        ..Request::get(path, pull_scope(&endpoint.repository))
    }
}

async fn get_manifest(
    client: &Client,
    endpoint: &Endpoint,
    version: &str,
    limit: usize,
) -> Result<Fetched, Failure> {
    let host = client.host(&endpoint.registry)?;
    let request = manifest_request(endpoint, version);
    let (head, bytes) = whole(client, &host, &request, limit).await?;
    Ok(Fetched {
        bytes,
        media_type: head.media_type,
        stated: head.digest,
    })
}

/// The bytes must have the digest that was asked for, and the one that the registry states.
fn check_stated(fetched: &Fetched, wanted: Option<Digest>) -> Result<(), Failure> {
    let found = Digest::of(&fetched.bytes);
    for (digest, who) in [
        (wanted, "the reference asks for"),
        (fetched.stated, "the registry states"),
    ] {
        if let Some(digest) = digest
            && digest != found
        {
            return Err(Failure::refused(format!(
                "the manifest has the digest `{found}`, {who} `{digest}`"
            )));
        }
    }
    Ok(())
}

struct Head {
    media_type: Option<String>,
    digest: Option<Digest>,
    next: Option<String>,
}

/// A small answer, asked for again when it breaks off.
async fn whole(
    client: &Client,
    host: &client::Host,
    request: &Request,
    limit: usize,
) -> Result<(Head, Vec<u8>), Failure> {
    let mut failures = 0;
    loop {
        let response = client.send(host, request).await?;
        let header = |name| {
            let value: &reqwest::header::HeaderValue = response.headers().get(name)?;
            Some(value.to_str().ok()?.to_string())
        };
        let head = Head {
            media_type: header(CONTENT_TYPE),
            digest: content_digest(&response),
            next: header(LINK),
        };
        match client::body(response, limit, client.settings()).await {
            Ok(bytes) => return Ok((head, bytes)),
            Err(failure) => {
                failures += 1;
                client.pause(host, failure, failures).await?;
            }
        }
    }
}

fn content_digest(response: &Response) -> Option<Digest> {
    let value = response.headers().get("docker-content-digest")?;
    value.to_str().ok()?.parse().ok()
}

async fn tags(client: &Client, endpoint: &Endpoint) -> Result<Vec<String>, Failure> {
    let path = format!("/v2/{}/tags/list?n=1000", endpoint.repository);
    let scope = pull_scope(&endpoint.repository);
    listing(client, &endpoint.registry, path, scope, "tags").await
}

/// Follows the pages of a list.
async fn listing(
    client: &Client,
    registry: &str,
    mut path: String,
    scope: String,
    key: &str,
) -> Result<Vec<String>, Failure> {
    let host = client.host(registry)?;
    let mut all = Vec::new();
    for _ in 0..MAX_PAGES {
        let request = Request::get(path.clone(), scope.clone());
        let (head, bytes) = whole(client, &host, &request, MAX_PAGE_BYTES).await?;
        let page: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|_| Failure::refused("its list is not readable"))?;
        let names = page.get(key).and_then(|names| names.as_array());
        let names = names.into_iter().flatten().filter_map(|name| name.as_str());
        all.extend(names.map(str::to_string));
        match head.next.as_deref().and_then(|link| next_page(link, &path)) {
            Some(next) if next != path => path = next,
            _ => return Ok(all),
        }
    }
    Err(Failure::refused("its list has no end"))
}

/// `</v2/…?last=x>; rel="next"`; only path and query are taken, so that it stays with this registry.
fn next_page(link: &str, path: &str) -> Option<String> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !rest.replace(' ', "").contains("rel=\"next\"") {
        return None;
    }
    let base = Url::parse("http://registry").ok()?.join(path).ok()?;
    let next = base.join(target).ok()?;
    if !next.path().starts_with("/v2/") {
        return None;
    }
    Some(format!(
        "{}?{}",
        next.path(),
        next.query().unwrap_or_default()
    ))
}

/// The names of all repositories, where the registry tells them.
pub fn catalog(registry: &str, settings: &SourceSettings) -> Result<Vec<String>> {
    route::check_allowed(registry, "", settings)?;
    let client = Client::new(settings, &[]);
    let names = listing(
        &client,
        registry,
        "/v2/_catalog?n=1000".to_string(),
        "registry:catalog:*".to_string(),
        "repositories",
    );
    runtime()?.block_on(names).map_err(|failure| {
        failure.explain(
            format!("cannot list the repositories of `{registry}`"),
            registry,
        )
    })
}

/// Tries credentials out; gives an identity token if the registry offers one in the password's place.
pub fn check_login(
    registry: &str,
    user: &str,
    password: &Secret,
    settings: &SourceSettings,
) -> Result<Option<Secret>> {
    route::check_allowed(registry, "", settings)?;
    let credential = Credential::Password {
        user: user.to_string(),
        password: password.clone(),
    };
    let client = Client::with(settings, credential);
    let attempt = async {
        let host = client.host(registry)?;
        client.ping(&host).await?;
        Ok(host.auth.identity(&client).await)
    };
    runtime()?.block_on(attempt).map_err(|failure: Failure| {
        failure.explain(format!("cannot log in to `{registry}`"), registry)
    })
}

#[cfg(test)]
mod tests;
