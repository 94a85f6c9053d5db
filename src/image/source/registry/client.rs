//! Requests to registries: transports per host, redirects, retries, waiting as asked.
//!
//! Redirects are followed here and not by the HTTP library, so that no credentials go to another host and none to plain
//! http. `oci-client` is not used for requests: it hides Retry-After and the exact status, and has no identity tokens,
//! no client certificates and no CA per registry.

use super::address::Getent;
use super::auth::Auth;
use super::failure::{Failure, by_status, chain, unsent};
use super::route::{self, Endpoint, Transport, shown};
use super::upload::Content;
use super::{tls, wait};
use crate::image::credentials::{self, Credential};
use crate::image::source::{Secret, SourceSettings};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

const MAX_REDIRECTS: usize = 8;
/// Enough of an error's text.
const MAX_ERROR: usize = 64 << 10;

pub struct Client {
    settings: SourceSettings,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    transports: Mutex<HashMap<String, reqwest::Client>>,
    given: Option<Credential>,
    /// What will be asked for.
    endpoints: Vec<Endpoint>,
}

/// A registry and what is known of it.
pub struct Host {
    pub registry: String,
    /// Of the URL: Docker Hub's API lives elsewhere.
    authority: String,
    pub auth: Auth,
    pub connections: Arc<Semaphore>,
    scheme: AtomicU8,
    /// Whether it ever answered; one that never did is not asked again and again.
    reached: AtomicBool,
}

const SCHEME_OPEN: u8 = 0;
const SCHEME_HTTPS: u8 = 1;
const SCHEME_HTTP: u8 = 2;

/// A request to a registry's API.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    /// From `/v2/` on, with its query.
    pub path: String,
    /// What a token must allow.
    pub scope: String,
    pub accept: Option<&'static str>,
    /// First and last byte.
    pub range: Option<(u64, u64)>,
    pub content: Option<Content>,
    /// With the password itself, where no token counts.
    pub by_password: bool,
}

/// A request to any server.
pub struct Call {
    pub method: Method,
    pub url: Url,
    pub authorization: Option<Secret>,
    pub accept: Option<&'static str>,
    pub range: Option<(u64, u64)>,
    /// A form to post.
    pub body: Option<Secret>,
    /// What is uploaded.
    pub content: Option<Content>,
}

pub struct Reply {
    pub response: Response,
    /// It came from another host, to which a redirect led.
    pub elsewhere: bool,
    pub wait: Option<Duration>,
}

impl Call {
    pub fn new(method: Method, url: Url) -> Call {
        Call {
            method,
            url,
            authorization: None,
            accept: None,
            range: None,
            body: None,
            content: None,
        }
    }
}

impl Request {
    pub fn get(path: String, scope: String) -> Request {
        Request {
            method: Method::GET,
            path,
            scope,
            accept: None,
            range: None,
            content: None,
            by_password: false,
        }
    }
}

impl Client {
    pub fn new(settings: &SourceSettings, endpoints: &[Endpoint]) -> Client {
        let mut settings = settings.clone();
        // Without a word on whom they are for, the user's own credentials are for the registry itself, not for mirrors.
        if let (Some(fixed), Some(target)) = (&mut settings.credentials.fixed, endpoints.last()) {
            fixed
                .registry
                .get_or_insert_with(|| target.registry.clone());
        }
        Client {
            settings,
            endpoints: endpoints.to_vec(),
            hosts: Mutex::default(),
            transports: Mutex::default(),
            given: None,
        }
    }

    /// For `login`: uses these credentials everywhere.
    pub fn with(settings: &SourceSettings, credential: Credential) -> Client {
        Client {
            given: Some(credential),
            ..Client::new(settings, &[])
        }
    }

    pub fn settings(&self) -> &SourceSettings {
        &self.settings
    }

    pub fn host(&self, registry: &str) -> Result<Arc<Host>, Failure> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(registry) {
            return Ok(host.clone());
        }
        let scheme = match route::transport(registry, &self.settings) {
            Transport::Https => SCHEME_HTTPS,
            Transport::Http => SCHEME_HTTP,
            Transport::Either => SCHEME_OPEN,
        };
        let host = Arc::new(Host {
            registry: registry.to_string(),
            authority: route::api_host(registry).to_string(),
            auth: match &self.given {
                Some(credential) => Auth::with(registry, credential.clone()),
                None => {
                    let mut endpoints = self.endpoints.iter();
                    let known = endpoints.find(|endpoint| endpoint.registry == registry);
                    Auth::new(registry, known.map_or("", |endpoint| &endpoint.repository))
                }
            },
            connections: Arc::new(Semaphore::new(self.settings.connections.max(1))),
            scheme: AtomicU8::new(scheme),
            reached: AtomicBool::new(false),
        });
        hosts.insert(registry.to_string(), host.clone());
        Ok(host)
    }

    /// Asks until there is an answer, within the bounds of patience. The answer is a success.
    pub async fn send(&self, host: &Host, request: &Request) -> Result<Response, Failure> {
        let mut failures = 0;
        loop {
            let failure = match self.send_once(host, request).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            failures += 1;
            self.pause(host, failure, failures).await?;
        }
    }

    /// Waits before the next try, or gives the failure back when there should be none.
    pub async fn pause(&self, host: &Host, failure: Failure, failures: u32) -> Result<(), Failure> {
        let asked = match &failure {
            Failure::Temporary { wait, .. } => *wait,
            Failure::Unreachable { .. } if host.reached.load(Ordering::Relaxed) => None,
            _ => return Err(failure),
        };
        if failures >= self.settings.tries.max(1) {
            return Err(failure);
        }
        let wait = match asked {
            Some(wait) if wait > self.settings.longest_wait => {
                let cause = format!("{failure}; it asks to wait {} seconds", wait.as_secs());
                return Err(match failure {
                    Failure::Temporary { throttled, .. } => Failure::Temporary {
                        cause,
                        wait: Some(wait),
                        throttled,
                    },
                    other => other,
                });
            }
            Some(wait) => wait,
            None => wait::backoff(self.settings.first_wait, failures),
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// One request with what authentication it takes.
    pub async fn send_once(&self, host: &Host, request: &Request) -> Result<Response, Failure> {
        let mut authorization = match request.by_password {
            true => host.auth.password(self).await?,
            false => host.auth.header(self, &request.scope).await?,
        };
        let mut challenged = request.by_password;
        loop {
            let (base, reply) = self.reach(host, request, authorization.as_ref()).await?;
            host.reached.store(true, Ordering::Relaxed);
            let status = reply.response.status();
            if status.is_success() {
                return Ok(reply.response);
            }
            if status == StatusCode::UNAUTHORIZED && !reply.elsewhere && !challenged {
                challenged = true;
                let headers = reply.response.headers();
                let before = authorization.take();
                authorization = host
                    .auth
                    .challenged(self, &request.scope, &base, headers, before.as_ref())
                    .await?;
                if authorization.is_some() {
                    continue;
                }
            }
            return Err(self.failed(host, reply, authorization.is_some()).await);
        }
    }

    /// Finds out on the way whether a loopback registry speaks https.
    async fn reach(
        &self,
        host: &Host,
        request: &Request,
        authorization: Option<&Secret>,
    ) -> Result<(Url, Reply), Failure> {
        loop {
            let known = host.scheme.load(Ordering::Relaxed);
            let scheme = match known {
                SCHEME_HTTP => "http",
                _ => "https",
            };
            let address = format!("{scheme}://{}{}", host.authority, request.path);
            let url = Url::parse(&address)
                .map_err(|_| Failure::refused(format!("`{address}` is not an address")))?;
            let call = Call {
                method: request.method.clone(),
                url: url.clone(),
                authorization: authorization.cloned(),
                accept: request.accept,
                range: request.range,
                body: None,
                content: request.content.clone(),
            };
            match self.call(call).await {
                Err(Failure::Unreachable { .. }) if known == SCHEME_OPEN => {
                    host.scheme.store(SCHEME_HTTP, Ordering::Relaxed);
                }
                reply => {
                    if known == SCHEME_OPEN && reply.is_ok() {
                        host.scheme.store(SCHEME_HTTPS, Ordering::Relaxed);
                    }
                    return Ok((url, reply?));
                }
            }
        }
    }

    /// Whether the registry lets us in at all.
    pub async fn ping(&self, host: &Host) -> Result<(), Failure> {
        let request = Request::get("/v2/".to_string(), String::new());
        self.send(host, &request).await.map(|_| ())
    }

    /// Sends, following redirects. The status of the answer is not judged.
    pub async fn call(&self, call: Call) -> Result<Reply, Failure> {
        let Call {
            method,
            mut url,
            mut authorization,
            accept,
            range,
            body,
            content,
        } = call;
        let mut elsewhere = false;
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.transport(&url)?.request(method.clone(), url.clone());
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some((first, last)) = range {
                request = request.header(RANGE, format!("bytes={first}-{last}"));
            }
            if let Some(secret) = &authorization {
                let mut value = HeaderValue::from_str(secret.reveal()).map_err(|_| {
                    Failure::refused("the token has characters that cannot be sent")
                })?;
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            if let Some(form) = &body {
                request = request
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.reveal().to_string());
            }
            let mut patience = self.settings.stall_timeout;
            if let Some(content) = &content {
                patience += content.patience();
                request = request
                    .header(CONTENT_TYPE, &content.media_type)
                    .header(CONTENT_LENGTH, content.size())
                    .body(content.body().await?);
            }
            let sent = tokio::time::timeout(patience, request.send()).await;
            let response = match sent {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(unsent(error, &url)),
                Err(_) => {
                    return Err(Failure::temporary(format!(
                        "`{}` did not answer within {} seconds",
                        shown(&url),
                        patience.as_secs()
                    )));
                }
            };
            // Only a GET or HEAD may be repeated elsewhere, and never a form with a token in it.
            let moved = response.status().is_redirection() && body.is_none() && content.is_none();
            let Some(location) = response.headers().get(LOCATION).filter(|_| moved) else {
                let wait = response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| value.to_str().ok())
                    .and_then(|value| wait::retry_after(value, SystemTime::now()));
                return Ok(Reply {
                    response,
                    elsewhere,
                    wait,
                });
            };
            let next = location
                .to_str()
                .ok()
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| {
                    Failure::refused(format!("`{}` redirects to nowhere", shown(&url)))
                })?;
            self.check_redirect(&url, &next)?;
            if next.origin() != url.origin() {
                authorization = None;
                elsewhere = true;
            }
            url = next;
        }
        Err(Failure::refused(format!(
            "`{}` redirects more than {MAX_REDIRECTS} times",
            shown(&url)
        )))
    }

    fn check_redirect(&self, from: &Url, to: &Url) -> Result<(), Failure> {
        match to.scheme() {
            "https" => Ok(()),
            "http" if from.scheme() == "https" => Err(Failure::refused(format!(
                "`{}` redirects from https to plain http on `{}`",
                shown(from),
                shown(to)
            ))),
            "http" if !self.may_be_plain(to) => Err(Failure::refused(format!(
                "`{}` redirects to `{}` in plain http, which is not among the hosts for which that is allowed",
                shown(from),
                shown(to)
            ))),
            "http" => Ok(()),
            other => Err(Failure::refused(format!(
                "`{}` redirects to `{other}:`",
                shown(from)
            ))),
        }
    }

    /// Whether plain http is allowed with the host of an address.
    pub fn may_be_plain(&self, url: &Url) -> bool {
        route::transport(&shown(url), &self.settings) != Transport::Https
    }

    /// The HTTP client for a host: each has its own CAs and client certificate.
    fn transport(&self, url: &Url) -> Result<reqwest::Client, Failure> {
        let name = shown(url);
        let key = format!("{}://{name}", url.scheme());
        let mut transports = self
            .transports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = transports.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(url, &name)?;
        transports.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, url: &Url, name: &str) -> Result<reqwest::Client, Failure> {
        let settings = &self.settings;
        let cannot = |error: crate::error::Error| {
            let mut text = error.what().to_string();
            for more in error.causes().iter().chain(error.hints()) {
                text.push_str(": ");
                text.push_str(more);
            }
            Failure::refused(text)
        };
        let direct = route::is_loopback(route::host_part(name));
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("carrack/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .dns_resolver(Arc::new(Getent))
            .connect_timeout(settings.connect_timeout)
            .pool_max_idle_per_host(settings.connections.max(1));
        // A proxy may speak TLS itself, so a configuration is needed for plain http behind one too.
        let proxies = || settings.proxy.http.iter().chain(&settings.proxy.https);
        let proxied = !direct && proxies().next().is_some();
        let by_tls = proxied && proxies().any(|proxy| proxy.reveal().starts_with("https:"));
        let config = match url.scheme() == "https" || by_tls {
            true => tls::config(name, settings).map_err(cannot)?,
            false => tls::none().map_err(cannot)?,
        };
        builder = builder.tls_backend_preconfigured(config);
        if proxied {
            let none = reqwest::NoProxy::from_string(&settings.proxy.none);
            let bad = |_| {
                Failure::refused("the proxy's address in HTTPS_PROXY or HTTP_PROXY cannot be read")
            };
            if let Some(proxy) = &settings.proxy.https {
                let proxy = reqwest::Proxy::https(proxy.reveal()).map_err(bad)?;
                builder = builder.proxy(proxy.no_proxy(none.clone()));
            }
            if let Some(proxy) = &settings.proxy.http {
                let proxy = reqwest::Proxy::http(proxy.reveal()).map_err(bad)?;
                builder = builder.proxy(proxy.no_proxy(none));
            }
        }
        builder
            .build()
            .map_err(|error| Failure::refused(format!("cannot set up HTTP: {error}")))
    }

    /// What an answer that is no success means.
    async fn failed(&self, host: &Host, reply: Reply, authorized: bool) -> Failure {
        let status = reply.response.status();
        let plain = reply.response.url().scheme() == "http";
        let place = match reply.elsewhere {
            true => format!("the storage host `{}`", shown(reply.response.url())),
            false => format!("`{}`", host.registry),
        };
        let insufficient = reply
            .response
            .headers()
            .get(reqwest::header::WWW_AUTHENTICATE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("insufficient_scope"));
        let body = body(reply.response, MAX_ERROR, &self.settings).await;
        let said = body.ok().and_then(|body| super::failure::said(&body));
        let cause = match said {
            Some((code, message)) if message.is_empty() => {
                format!("{place} answers {status}: {code}")
            }
            Some((_, message)) => format!("{place} answers {status}: {message}"),
            // What servers that speak https say to plain http; most say it in words that are no JSON.
            None if status == StatusCode::BAD_REQUEST && plain => {
                format!("{place} answers {status} to plain http; it may speak https only")
            }
            None => format!("{place} answers {status}"),
        };
        if reply.elsewhere {
            // An expired link or a hiccup of the store behind the registry; it says nothing of the user.
            return match status {
                StatusCode::RANGE_NOT_SATISFIABLE => Failure::refused(cause),
                _ => Failure::Temporary {
                    cause,
                    wait: reply.wait,
                    throttled: false,
                },
            };
        }
        let user = host.auth.user().await;
        let mut cause = cause;
        if status == StatusCode::UNAUTHORIZED && user.is_none() {
            let places = &self.settings.credentials;
            let missing = credentials::missing_helper(&host.registry, places);
            cause.extend(missing.map(|missing| format!("; {missing}")));
        }
        match status {
            // Whoever got a token with the password is known. Harbor says 401 to those, too, about what is not theirs.
            StatusCode::UNAUTHORIZED
                if authorized && (insufficient || host.auth.has_token_of_user().await) =>
            {
                Failure::Forbidden { cause, user }
            }
            StatusCode::UNAUTHORIZED => Failure::Unauthorized { cause, user },
            StatusCode::FORBIDDEN => Failure::Forbidden { cause, user },
            status => by_status(status, cause, reply.wait),
        }
    }
}

/// Reads a small answer whole.
pub async fn body(
    mut response: Response,
    limit: usize,
    settings: &SourceSettings,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        let chunk = tokio::time::timeout(settings.stall_timeout, response.chunk()).await;
        match chunk {
            Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(bytes),
            Ok(Err(error)) => return Err(Failure::temporary(chain(&error.without_url()))),
            Err(_) => return Err(Failure::temporary("the answer stopped arriving")),
        }
        if bytes.len() > limit {
            return Err(Failure::refused(format!(
                "the answer is longer than {limit} bytes"
            )));
        }
    }
}
