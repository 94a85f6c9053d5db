//! Everything that decides how sources are reached, as one plain value.
//!
//! The site file fills it; [`SourceSettings::from_environment`] is what holds without one. Registries are named
//! `host` or `host:port`, as in references.

use crate::image::credentials::Places;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A password or token. It does not show itself in any text, and its memory is overwritten when it goes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// For the one place that sends or stores it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(secret)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(secret)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// Registries, or `registry/path` prefixes, that may be used; empty: any.
    pub allow: Vec<String>,
    /// Registries that may be spoken to in plain http, tried when https does not answer. Loopback addresses and
    /// `localhost` need not be named.
    pub insecure: Vec<String>,
    /// Registries to try before the named one, by registry.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// `host/path` → `host:port/path`; the longest prefix of whole components wins.
    pub rewrites: BTreeMap<String, String>,
    /// Further CA certificates by registry: a PEM file, or a directory of `*.crt`, `*.cert`, `*.key`.
    pub certificates: BTreeMap<String, PathBuf>,
    /// Directories that have one directory of certificates per registry.
    pub certificate_roots: Vec<PathBuf>,
    /// System-wide CA bundles; the first that exists counts.
    pub ca_bundles: Vec<PathBuf>,
    pub proxy: Proxy,
    pub credentials: Places,
    /// For opening a connection, TLS included.
    pub connect_timeout: Duration,
    /// For silence on an open connection.
    pub stall_timeout: Duration,
    /// How often in a row one request may fail before it is given up.
    pub tries: u32,
    /// The first wait after a failure; each further one doubles.
    pub first_wait: Duration,
    /// The longest wait that a registry may ask for.
    pub longest_wait: Duration,
    /// Transfers at one time from one registry.
    pub connections: usize,
    /// For archives that must be unpacked to be read.
    pub temporary: PathBuf,
}

/// As the usual variables give it. A URL may hold a password.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    pub http: Option<Secret>,
    pub https: Option<Secret>,
    /// Comma-separated hosts, domains and networks that are reached directly.
    pub none: String,
}

impl Default for SourceSettings {
    fn default() -> Self {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
        SourceSettings {
            allow: Vec::new(),
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            certificates: BTreeMap::new(),
            certificate_roots: paths(&["/etc/docker/certs.d", "/etc/containers/certs.d"]),
            ca_bundles: paths(&[
                "/etc/ssl/certs/ca-certificates.crt",
                "/etc/pki/tls/certs/ca-bundle.crt",
                "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
                "/etc/ssl/ca-bundle.pem",
                "/etc/ssl/cert.pem",
            ]),
            proxy: Proxy::default(),
            credentials: Places::default(),
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
            tries: 6,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(300),
            connections: 6,
            temporary: std::env::temp_dir(),
        }
    }
}

impl SourceSettings {
    /// The defaults with what the user's environment adds: proxies, certificates, places of credentials.
    pub fn from_environment() -> SourceSettings {
        SourceSettings::from_variables(&|name| {
            std::env::var(name).ok().filter(|value| !value.is_empty())
        })
    }

    fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> SourceSettings {
        let mut settings = SourceSettings::default();
        let either = |lower: &str, upper: &str| get(lower).or_else(|| get(upper));
        let all = either("all_proxy", "ALL_PROXY");
        settings.proxy = Proxy {
            http: either("http_proxy", "HTTP_PROXY")
                .or_else(|| all.clone())
                .map(Secret::new),
            https: either("https_proxy", "HTTPS_PROXY")
                .or(all)
                .map(Secret::new),
            none: either("no_proxy", "NO_PROXY").unwrap_or_default(),
        };
        if let Some(home) = get("HOME") {
            let own = PathBuf::from(home).join(".config/containers/certs.d");
            settings.certificate_roots.insert(0, own);
        }
        if let Some(directory) = get("CARRACK_CERTS_DIR") {
            settings.certificate_roots.insert(0, directory.into());
        }
        if let Some(bundle) = get("SSL_CERT_FILE") {
            settings.ca_bundles.insert(0, bundle.into());
        }
        settings.credentials = Places::from_variables(get);
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment() {
        let variables = BTreeMap::from([
            ("HOME", "/h"),
            ("HTTPS_PROXY", "http://u:hidden@proxy:3128"),
            ("no_proxy", ".site.eu"),
            ("CARRACK_CERTS_DIR", "/certs"),
            ("SSL_CERT_FILE", "/own.pem"),
            ("CARRACK_USERNAME", "u"),
            ("CARRACK_PASSWORD", "hidden"),
        ]);
        let settings =
            SourceSettings::from_variables(&|name| variables.get(name).map(|v| v.to_string()));
        assert_eq!(settings.certificate_roots[0], PathBuf::from("/certs"));
        assert_eq!(settings.ca_bundles[0], PathBuf::from("/own.pem"));
        assert_eq!(settings.proxy.none, ".site.eu");
        assert!(settings.proxy.https.is_some() && settings.proxy.http.is_none());
        assert!(settings.credentials.fixed.is_some());
        assert!(!format!("{settings:?}").contains("hidden"));
    }
}
