//! Signatures of images: what a key of the site has signed is the manifest's digest, in the form that cosign writes.
//!
//! A signature is a small document that names a digest, and an ECDSA signature (P-256, SHA-256) over the document's bytes.
//! They are fetched when the image is, verified, and kept beside the images, so that a launch can verify them again
//! without a network. A key that is not of this kind, a document that does not fit, or no signature at all: no.

use super::digest::Digest;
use super::source::Source;
use crate::config::{Require, Trust};
use crate::error::{Context, Error, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Everything that an image's signatures may weigh together.
pub const MAX_BYTES: usize = 1 << 20;
/// A kept proof, with the index that it may hold.
const LARGEST: u64 = 16 << 20;
/// What stands before the point in the DER of a P-256 public key.
const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// One signature as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The signed document, in Base64.
    pub payload: String,
    /// Over the document's bytes, in Base64.
    pub signature: String,
}

/// A public key of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// Reads `-----BEGIN PUBLIC KEY-----` of a P-256 key.
    pub fn parse(pem: &str) -> Result<Key> {
        let wrong = |why: &str| Error::usage("cannot read a public key of `trust.keys`").cause(why);
        let body = pem
            .trim()
            .strip_prefix("-----BEGIN PUBLIC KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"))
            .ok_or_else(|| wrong("it is not in PEM (`-----BEGIN PUBLIC KEY-----`)"))?;
        let text: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = BASE64_STANDARD
            .decode(text)
            .map_err(|_| wrong("its text is no Base64"))?;
        match der.strip_prefix(P256) {
            Some(point) if point.len() == 65 && point.first() == Some(&4) => {
                Ok(Key(point.to_vec()))
            }
            _ => Err(wrong("only ECDSA keys on P-256 are understood")
                .hint("`cosign generate-key-pair` makes one")),
        }
    }

    fn verifies(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0)
            .verify(payload, signature)
            .is_ok()
    }
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Named,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Whether one of the signatures is one of the keys', over this digest.
pub fn verify(signatures: &[Signature], digest: &Digest, keys: &[Key]) -> Result<()> {
    let mut why = vec![match signatures.len() {
        0 => "no signature was found".to_string(),
        count => format!("{count} signatures were found"),
    }];
    for signature in signatures {
        let decoded = BASE64_STANDARD
            .decode(&signature.payload)
            .ok()
            .zip(BASE64_STANDARD.decode(&signature.signature).ok());
        let Some((payload, bytes)) = decoded else {
            why.push("one is no Base64".into());
            continue;
        };
        if !keys.iter().any(|key| key.verifies(&payload, &bytes)) {
            why.push("one is of none of the site's keys".into());
            continue;
        }
        // Only now is a word of it believed.
        match serde_json::from_slice::<Payload>(&payload) {
            Ok(Payload { critical }) if critical.kind != "cosign container image signature" => {
                why.push(format!("one is over a `{}`", critical.kind));
            }
            Ok(Payload { critical }) if critical.image.digest == digest.to_string() => {
                return Ok(());
            }
            Ok(Payload { critical }) => {
                why.push(format!(
                    "one is over another image, `{}`",
                    critical.image.digest
                ));
            }
            Err(_) => why.push("one is over no such document".into()),
        }
    }
    let error = Error::usage(format!(
        "the image `{digest}` is not signed as the site requires (`trust.require`)"
    ));
    Err(why.into_iter().fold(error, Error::cause))
}

/// The site's keys; their texts were put in place of their files when the settings were read.
pub fn keys(trust: &Trust) -> Result<Vec<Key>> {
    trust.keys.iter().map(|text| Key::parse(text)).collect()
}

/// Whether signatures matter here, and not for this digest because the site named it.
pub fn wanted(trust: &Trust, digest: &str) -> bool {
    trust.require == Require::CosignKey && !trust.digests.iter().any(|known| known == digest)
}

/// Where the signatures of an image in a store are, by the image's file.
fn place(image: &Path, digest: &Digest) -> Option<PathBuf> {
    let store = image.ancestors().nth(3)?;
    Some(
        store
            .join("signatures")
            .join(format!("{}.json", digest.hex())),
    )
}

/// What makes an image signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// In Base64, where the signature is over an index of images for several machines: the index.
    pub index: Option<String>,
    pub signatures: Vec<Signature>,
}

impl Proof {
    /// Whether it makes this manifest a signed one.
    pub fn check(&self, manifest: &Digest, keys: &[Key]) -> Result<()> {
        let Some(index) = &self.index else {
            return verify(&self.signatures, manifest, keys);
        };
        let bytes = BASE64_STANDARD.decode(index).unwrap_or_default();
        verify(&self.signatures, &Digest::of(&bytes), keys)?;
        let lists: Index = serde_json::from_slice(&bytes).unwrap_or_default();
        let name = manifest.to_string();
        if lists.manifests.iter().any(|one| one.digest == name) {
            return Ok(());
        }
        Err(Error::usage(format!(
            "the image `{manifest}` is not signed as the site requires (`trust.require`)"
        ))
        .cause("the signed index does not list it"))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Index {
    manifests: Vec<Listed>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Listed {
    digest: String,
}

/// Fetches and verifies: the manifest's own signatures, else those of the index that the reference named.
pub fn fetch(
    source: &dyn Source,
    manifest: &Digest,
    reference: Option<&Digest>,
    trust: &Trust,
) -> Result<Proof> {
    let keys = keys(trust)?;
    let own = Proof {
        index: None,
        signatures: source.signatures(manifest)?,
    };
    let refused = match own.check(manifest, &keys) {
        Ok(()) => return Ok(own),
        Err(refused) => refused,
    };
    let Some(reference) = reference.filter(|reference| *reference != manifest) else {
        return Err(refused);
    };
    let signatures = source.signatures(reference)?;
    if signatures.is_empty() {
        return Err(refused);
    }
    let proof = Proof {
        index: Some(BASE64_STANDARD.encode(source.manifest(reference)?)),
        signatures,
    };
    proof.check(manifest, &keys)?;
    Ok(proof)
}

/// Keeps a proof beside the images.
pub fn keep(image: &Path, digest: &Digest, proof: &Proof) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || format!("cannot keep the signatures of `{digest}`");
    let path = place(image, digest).or_say(failed)?;
    let directory = path.parent().or_say(failed)?;
    std::fs::create_dir_all(directory).or_say(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(directory).or_say(failed)?;
    serde_json::to_writer(&mut file, proof).or_say(failed)?;
    let mode = std::fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(mode).or_say(failed)?;
    file.persist(&path).or_say(failed)?;
    Ok(())
}

/// The proof that was kept.
fn kept(image: &Path, digest: &Digest) -> Proof {
    let read = || {
        let mut text = Vec::new();
        let file = std::fs::File::open(place(image, digest)?).ok()?;
        file.take(LARGEST).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    };
    read().unwrap_or_default()
}

/// Before a launch: what was verified at the pull is verified again, from the store alone.
pub fn check_stored(trust: &Trust, image: &Path, digest: &Digest) -> Result<()> {
    if !wanted(trust, &digest.to_string()) {
        return Ok(());
    }
    kept(image, digest)
        .check(digest, &keys(trust)?)
        .map_err(|error| error.hint("pull it again: `carrack pull` fetches the signatures"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Signer {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            Signer(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap())
        }

        fn pem(&self) -> String {
            let der = [P256, self.0.public_key().as_ref()].concat();
            format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                BASE64_STANDARD.encode(der)
            )
        }

        fn sign(&self, payload: &str) -> Signature {
            let bytes = self
                .0
                .sign(&SystemRandom::new(), payload.as_bytes())
                .unwrap();
            Signature {
                payload: BASE64_STANDARD.encode(payload),
                signature: BASE64_STANDARD.encode(bytes),
            }
        }
    }

    fn payload(digest: &str, kind: &str) -> String {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"x"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
        )
    }

    #[test]
    fn only_the_sites_key_over_this_image_counts() {
        let (ours, theirs) = (Signer::new(), Signer::new());
        let keys = [Key::parse(&ours.pem()).unwrap()];
        let digest = Digest::of(b"manifest");
        let (name, other) = (digest.to_string(), Digest::of(b"other").to_string());
        let kind = "cosign container image signature";
        let good = ours.sign(&payload(&name, kind));
        let mut cut = good.clone();
        cut.signature.truncate(20);
        let mut moved = good.clone();
        moved.payload = BASE64_STANDARD.encode(payload(&other, kind));
        for (signatures, says) in [
            (vec![good.clone()], ""),
            (vec![theirs.sign(&payload(&name, kind)), good.clone()], ""),
            (vec![], "no signature was found"),
            (
                vec![theirs.sign(&payload(&name, kind))],
                "none of the site's keys",
            ),
            (
                vec![ours.sign(&payload(&other, kind))],
                "over another image",
            ),
            (
                vec![ours.sign(&payload(&name, "attestation"))],
                "over a `attestation`",
            ),
            (vec![ours.sign("{}")], "over no such document"),
            (vec![cut], "none of the site's keys"),
            (vec![moved], "none of the site's keys"),
            (
                vec![Signature {
                    payload: "?".into(),
                    signature: "?".into(),
                }],
                "one is no Base64",
            ),
        ] {
            match verify(&signatures, &digest, &keys) {
                Ok(()) => assert_eq!(says, ""),
                Err(error) => {
                    let told = error.to_string();
                    assert!(!says.is_empty() && told.contains(says), "{told}");
                    assert!(told.contains("`trust.require`"), "{told}");
                }
            }
        }
        assert!(
            verify(&[good], &digest, &[]).is_err(),
            "without keys nothing is signed"
        );
    }

    #[test]
    fn keys_of_another_kind() {
        let good = Signer::new().pem();
        for text in [
            "",
            "x",
            &good.replace("PUBLIC", "PRIVATE"),
            &good.replace('M', "?"),
            &good.replace("MFkw", "MFkx"),
        ] {
            assert!(Key::parse(text).is_err(), "{text}");
        }
    }
}
