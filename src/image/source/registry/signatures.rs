//! Signatures that lie beside an image in its repository: found through the referrers API, else by cosign's tag.

use super::{Registry, Request, get_manifest, pull_scope, whole};
use crate::error::Result;
use crate::image::digest::Digest;
use crate::image::manifest;
use crate::image::signature::{MAX_BYTES, Signature};
use crate::image::source::registry::failure::Failure;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// More is no image that somebody signed, but somebody who wants to keep us busy.
const MAX_SIGNATURES: usize = 64;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    manifests: Vec<Descriptor>,
    layers: Vec<Descriptor>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    artifact_type: String,
    digest: String,
    annotations: BTreeMap<String, String>,
}

/// Something that refers to an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    pub digest: Digest,
    /// `application/spdx+json`, …
    #[serde(rename = "artifactType")]
    pub kind: String,
    pub annotations: BTreeMap<String, String>,
}

impl Registry {
    /// All signatures over a manifest, not verified.
    pub fn signatures_of(&self, digest: &Digest) -> Result<Vec<Signature>> {
        let what = format!("cannot look for signatures of `{}`", self.name);
        let mut manifests = self.signing(&what, digest)?;
        manifests.push(format!("sha256-{}.sig", digest.hex()));
        let mut found = Vec::new();
        for version in manifests {
            let Some(document) = self.small_manifest(&what, &version)? else {
                continue;
            };
            for layer in document.layers {
                let Some(signature) = layer.annotations.get(SIGNATURE) else {
                    continue;
                };
                if layer.media_type != SIMPLE_SIGNING || found.len() >= MAX_SIGNATURES {
                    continue;
                }
                let Ok(payload) = layer.digest.parse::<Digest>() else {
                    continue;
                };
                let bytes = self.small_blob(&what, &payload)?;
                if Digest::of(&bytes) == payload {
                    found.push(Signature {
                        payload: BASE64_STANDARD.encode(bytes),
                        signature: signature.clone(),
                    });
                }
            }
        }
        Ok(found)
    }

    /// What lies beside a manifest and refers to it: signatures, lists of what is in an image, reports of scanners.
    pub fn attached_to(&self, digest: &Digest) -> Result<Vec<Attached>> {
        let what = format!("cannot look for what refers to `{}`", self.name);
        self.referrers(&what, digest)
    }

    /// Manifests that refer to this one and may hold signatures.
    fn signing(&self, what: &str, digest: &Digest) -> Result<Vec<String>> {
        let signs = |one: &Attached| one.kind.contains("cosign") || one.kind == SIMPLE_SIGNING;
        let found = self.referrers(what, digest)?.into_iter();
        Ok(found
            .filter(signs)
            .map(|one| one.digest.to_string())
            .collect())
    }

    /// Manifests that refer to this one. A registry without that API keeps their list under a tag.
    fn referrers(&self, what: &str, digest: &Digest) -> Result<Vec<Attached>> {
        let bytes = self.first(what, async |client, endpoint| {
            let host = client.host(&endpoint.registry)?;
            let path = format!("/v2/{}/referrers/{digest}", endpoint.repository);
            let request = Request::get(path, pull_scope(&endpoint.repository));
            match whole(client, &host, &request, MAX_BYTES).await {
                Ok((_, bytes)) => Ok(bytes),
                Err(failure) if is_absent(&failure) => Ok(Vec::new()),
                Err(failure) => Err(failure),
            }
        })?;
        let index: Document = match bytes.is_empty() {
            true => {
                let tag = format!("sha256-{}", digest.hex());
                self.small_manifest(what, &tag)?.unwrap_or_default()
            }
            false => serde_json::from_slice(&bytes).unwrap_or_default(),
        };
        let attached = |one: Descriptor| {
            Some(Attached {
                digest: one.digest.parse().ok()?,
                kind: one.artifact_type,
                annotations: one.annotations,
            })
        };
        let all = index.manifests.into_iter().filter_map(attached);
        Ok(all.take(MAX_SIGNATURES).collect())
    }

    /// The bytes of a manifest or an index by its digest.
    pub fn manifest_bytes(&self, digest: &Digest) -> Result<Vec<u8>> {
        let what = format!("cannot get the manifest `{digest}`");
        let version = digest.to_string();
        self.first(&what, async |client, endpoint| {
            let fetched = get_manifest(client, endpoint, &version, manifest::MAX_BYTES).await?;
            super::check_stated(&fetched, Some(*digest))?;
            Ok(fetched.bytes)
        })
    }

    fn small_manifest(&self, what: &str, version: &str) -> Result<Option<Document>> {
        let wanted = version.parse::<Digest>().ok();
        let bytes = self.first(what, async |client, endpoint| {
            match get_manifest(client, endpoint, version, manifest::MAX_BYTES).await {
                Ok(fetched) => Ok(Some(fetched.bytes)),
                Err(failure) if is_absent(&failure) => Ok(None),
                Err(failure) => Err(failure),
            }
        })?;
        let honest = |bytes: &Vec<u8>| wanted.is_none_or(|wanted| Digest::of(bytes) == wanted);
        Ok(bytes
            .filter(honest)
            .and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn small_blob(&self, what: &str, digest: &Digest) -> Result<Vec<u8>> {
        self.first(what, async |client, endpoint| {
            let host = client.host(&endpoint.registry)?;
            let path = format!("/v2/{}/blobs/{digest}", endpoint.repository);
            let request = Request::get(path, pull_scope(&endpoint.repository));
            let answer = whole(client, &host, &request, MAX_BYTES).await;
            answer.map(|(_, bytes)| bytes)
        })
    }
}

fn is_absent(failure: &Failure) -> bool {
    matches!(failure, Failure::NotFound { .. } | Failure::Refused { .. })
}
