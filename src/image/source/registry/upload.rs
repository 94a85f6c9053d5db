//! Pushing: blobs and a manifest into a repository, each in one request as every registry takes them.
//!
//! Always the registry itself, never a mirror. An upload that breaks is begun again: what a registry keeps of a half one
//! differs too much between them.

use super::client::{Client, Host, Request};
use super::{Endpoint, Registry, runtime};
use crate::error::{Error, Result};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::source::registry::failure::Failure;
use reqwest::header::LOCATION;
use reqwest::{Method, Response, Url};
use std::path::PathBuf;
use std::time::Duration;

/// A link slower than this would need days for what people push.
const SLOWEST: u64 = 64 << 10;

/// What a request carries.
#[derive(Clone, Debug)]
pub struct Content {
    pub media_type: String,
    pub bytes: Bytes,
}

#[derive(Clone, Debug)]
pub enum Bytes {
    Held(Vec<u8>),
    /// So many bytes of a file, which is read again for each attempt.
    File(PathBuf, u64),
}

impl Bytes {
    fn size(&self) -> u64 {
        match self {
            Bytes::Held(bytes) => bytes.len() as u64,
            Bytes::File(_, size) => *size,
        }
    }
}

impl Content {
    /// Bytes as they are.
    fn held(media_type: &str, bytes: &[u8]) -> Content {
        Content {
            media_type: media_type.to_string(),
            bytes: Bytes::Held(bytes.to_vec()),
        }
    }

    pub fn size(&self) -> u64 {
        self.bytes.size()
    }

    /// How much longer than a small question it may take.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.size() / SLOWEST)
    }

    pub async fn body(&self) -> Result<reqwest::Body, Failure> {
        match &self.bytes {
            Bytes::Held(bytes) => Ok(bytes.clone().into()),
            Bytes::File(path, size) => {
                let cannot = |why: String| {
                    Failure::refused(format!("cannot read `{}`: {why}", path.display()))
                };
                let open = tokio::fs::File::open(path).await;
                let file = open.map_err(|error| cannot(error.to_string()))?;
                let metadata = file.metadata().await;
                let found = metadata.map_err(|error| cannot(error.to_string()))?.len();
                match found == *size {
                    true => Ok(file.into()),
                    false => Err(cannot(format!(
                        "it had {size} bytes and has {found} now; somebody writes to it"
                    ))),
                }
            }
        }
    }
}

impl Registry {
    /// Brings a blob there, unless the repository has it. True when it had to be sent.
    pub fn push_blob(&self, blob: &Descriptor, bytes: Bytes) -> Result<bool> {
        let content = Content {
            media_type: "application/octet-stream".into(),
            bytes,
        };
        let what = format!("cannot push `{}` to `{}`", blob.digest, self.name);
        self.there(&what, async |client, endpoint, host| {
            let path = format!("/v2/{}/blobs/{}", endpoint.repository, blob.digest);
            let look = Request {
                method: Method::HEAD,
                ..Request::get(path, push_scope(endpoint))
            };
            match client.send(host, &look).await {
                Ok(_) => return Ok(false),
                Err(Failure::NotFound { .. }) => {}
                Err(failure) => return Err(failure),
            }
            let mut failures = 0;
            loop {
                match send_blob(client, endpoint, host, blob, &content).await {
                    Ok(_) => return Ok(true),
                    Err(failure) => {
                        failures += 1;
                        client.pause(host, failure, failures).await?;
                    }
                }
            }
        })
    }

    /// Puts a manifest under the name's tag. Its blobs must be there.
    pub fn push_manifest(&self, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        let what = format!("cannot push the manifest of `{}`", self.name);
        let version = self.name.version();
        let digest = Digest::of(bytes);
        self.there(&what, async |client, endpoint, host| {
            let path = format!("/v2/{}/manifests/{version}", endpoint.repository);
            let request = Request {
                method: Method::PUT,
                content: Some(Content::held(media_type, bytes)),
                ..Request::get(path, push_scope(endpoint))
            };
            let answer = client.send(host, &request).await?;
            match super::content_digest(&answer) {
                Some(stated) if stated != digest => Err(Failure::refused(format!(
                    "the registry made `{stated}` of the manifest `{digest}`"
                ))),
                _ => Ok(digest),
            }
        })
    }

    fn there<T>(
        &self,
        what: &str,
        ask: impl AsyncFn(&Client, &Endpoint, &Host) -> Result<T, Failure>,
    ) -> Result<T> {
        let Some(endpoint) = self.endpoints.last() else {
            return Err(Error::new(what));
        };
        let attempt = async {
            let host = self.client.host(&endpoint.registry)?;
            ask(&self.client, endpoint, &host).await
        };
        runtime()?
            .block_on(attempt)
            .map_err(|failure| failure.explain(what.to_string(), &endpoint.registry))
    }
}

fn push_scope(endpoint: &Endpoint) -> String {
    format!("repository:{}:pull,push", endpoint.repository)
}

async fn send_blob(
    client: &Client,
    endpoint: &Endpoint,
    host: &Host,
    blob: &Descriptor,
    content: &Content,
) -> Result<(), Failure> {
    let begin = Request {
        method: Method::POST,
        content: Some(Content::held("application/octet-stream", b"")),
        ..Request::get(
            format!("/v2/{}/blobs/uploads/", endpoint.repository),
            push_scope(endpoint),
        )
    };
    let begun = client.send_once(host, &begin).await?;
    let send = Request {
        method: Method::PUT,
        path: upload_path(&begun, &blob.digest)?,
        content: Some(content.clone()),
        ..begin
    };
    client.send_once(host, &send).await.map(|_| ())
}

/// Where the registry wants the bytes. Only on the registry itself: what is pushed goes nowhere else.
fn upload_path(begun: &Response, digest: &Digest) -> Result<String, Failure> {
    let location = begun.headers().get(LOCATION);
    let place = location
        .and_then(|value| value.to_str().ok())
        .and_then(|text| begun.url().join(text).ok())
        .ok_or_else(|| Failure::refused("the registry does not say where to upload"))?;
    let same = |url: &Url| {
        (
            url.host_str().map(str::to_string),
            url.port_or_known_default(),
        )
    };
    // Behind a proxy that ends TLS registries often name themselves with http.
    if place.host_str() != begun.url().host_str()
        || (place.scheme() == begun.url().scheme() && same(&place) != same(begun.url()))
    {
        return Err(Failure::refused(format!(
            "the registry wants the upload on another host, `{}`",
            super::route::shown(&place)
        )));
    }
    let mut place = place;
    place
        .query_pairs_mut()
        .append_pair("digest", &digest.to_string());
    Ok(format!(
        "{}?{}",
        place.path(),
        place.query().unwrap_or_default()
    ))
}
