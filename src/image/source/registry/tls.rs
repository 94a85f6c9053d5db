//! Whom to believe: the system's CA bundle, CAs and client certificates per registry, on rustls with ring.
//!
//! A static binary cannot ask the platform, so the usual bundle files are read. There is no switch that turns
//! verification off.

use crate::error::{Context, Error, Result};
use crate::image::source::SourceSettings;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was found for one registry.
#[derive(Default)]
struct Own {
    authorities: Vec<CertificateDer<'static>>,
    /// `x.cert` with `x.key`.
    client: Option<(PathBuf, PathBuf)>,
}

pub fn config(registry: &str, settings: &SourceSettings) -> Result<ClientConfig> {
    let own = own(registry, settings)?;
    let mut roots = RootCertStore::empty();
    let bundle = settings.ca_bundles.iter().find(|path| path.is_file());
    if let Some(path) = bundle {
        // Bundles of real systems have a few certificates that nobody can parse; those are passed over.
        roots.add_parsable_certificates(certificates(path)?);
    }
    roots.add_parsable_certificates(own.authorities.iter().cloned());
    if roots.is_empty() && super::route::is_loopback(super::route::host_part(registry)) {
        // Most likely it speaks plain http; if not, its certificate will not be believed.
        return none();
    }
    if roots.is_empty() {
        return Err(Error::new(format!("cannot verify `{registry}`"))
            .cause("no CA certificates were found on this machine")
            .hint("install the package `ca-certificates`, or name a file in `SSL_CERT_FILE`"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .or_say(|| "cannot set up the verification of certificates")?;
    let verifier = Verifier {
        usual: verifier,
        pinned: own.authorities,
        provider: provider.clone(),
    };
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .or_say(|| "cannot set up TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((certificate, key)) = own.client else {
        return Ok(config.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(&key)
        .or_say(|| format!("cannot read the client key `{}`", key.display()))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .or_say(|| format!("cannot use the key of `{}`", certificate.display()))?;
    // Not `with_client_auth_cert`: it parses the certificate and refuses version 1, which docker's manual has people make.
    let pair = CertifiedKey::new(certificates(&certificate)?, key);
    Ok(config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair))))
}

/// What is wrong with the other side, in words.
pub fn words(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else {
        return match error {
            rustls::Error::AlertReceived(alert) => format!(
                "it refuses the connection ({alert:?}); it may want a client certificate, `client.cert` with `client.key` beside the registry's `ca.crt`"
            ),
            other => other.to_string(),
        };
    };
    match bad {
        Bad::UnknownIssuer => {
            "its certificate comes from an authority that is not known here".into()
        }
        Bad::Expired | Bad::ExpiredContext { .. } => "its certificate has expired".into(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "its certificate is not valid yet; is the clock of this machine right?".into()
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            "its certificate is for another name".into()
        }
        Bad::Other(_) => "its certificate is self-signed or unusual and not known here".into(),
        other => format!("its certificate is not valid: {other:?}"),
    }
}

/// For plain http, where nothing is verified because nothing is encrypted; it believes nobody.
pub fn none() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .or_say(|| "cannot set up TLS")?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("cannot read certificates from `{}`", path.display());
    let bytes = std::fs::read(path).or_say(what)?;
    CertificateDer::pem_slice_iter(&bytes)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::new(what()).cause(format!("{error:?}")))
}

/// Collects what the site, docker's and podman's directories have for a registry.
fn own(registry: &str, settings: &SourceSettings) -> Result<Own> {
    let mut own = Own::default();
    let host = super::route::host_part(registry);
    for name in [registry, host] {
        if let Some(path) = settings.certificates.get(name) {
            if !path.exists() {
                return Err(Error::new(format!("cannot verify `{registry}`"))
                    .cause(format!("`{}` does not exist", path.display()))
                    .hint("the setting `registries.certificates` names it"));
            }
            own.add(path)?;
        }
        for root in &settings.certificate_roots {
            own.add(&root.join(name))?;
        }
        if registry == host {
            break;
        }
    }
    Ok(own)
}

impl Own {
    fn add(&mut self, path: &Path) -> Result<()> {
        if path.is_file() {
            self.authorities.extend(certificates(path)?);
            return Ok(());
        }
        // Directories that do not exist are the usual case, unreadable ones belong to somebody else.
        let Ok(entries) = std::fs::read_dir(path) else {
            return Ok(());
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt" | "pem") => self.authorities.extend(certificates(&file)?),
                Some("cert") if self.client.is_none() => {
                    let key = file.with_extension("key");
                    if !key.exists() {
                        return Err(Error::new(format!(
                            "cannot use the client certificate `{}`",
                            file.display()
                        ))
                        .cause(format!("its key `{}` is missing", key.display()))
                        .hint("CA certificates are named `*.crt`"));
                    }
                    self.client = Some((file, key));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Verifies as usual; a server's own certificate, put among the registry's CAs by the site, is believed as well.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let usual = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match usual {
            // Expired, revoked or wrongly named ones stay refused. A self-signed one has no issuer and may be marked
            // as a CA, which no server's certificate should be.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            )) if self.pinned.iter().any(|pinned| pinned == end_entity) => {
                let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
