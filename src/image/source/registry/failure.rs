//! How a request to a registry can fail, and what to tell people about each way.

use super::route::shown;
use super::tls;
use crate::error::Error;
use reqwest::{StatusCode, Url};
use std::fmt;
use std::time::Duration;

/// Decided on by the retry loops, by the choice of mirrors and by callers that find it inside an [`Error`].
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Nobody answers there, or not with the TLS that was asked for.
    Unreachable {
        cause: String,
    },
    /// The server's certificate is not believed.
    Untrusted {
        cause: String,
    },
    /// May be different in a moment.
    Temporary {
        cause: String,
        /// As the server asked.
        wait: Option<Duration>,
        throttled: bool,
    },
    /// 401: nobody, or not with these credentials.
    Unauthorized {
        cause: String,
        /// Who tried; `None` for nobody.
        user: Option<String>,
    },
    /// 403, or a token that does not suffice.
    Forbidden {
        cause: String,
        user: Option<String>,
    },
    NotFound {
        cause: String,
    },
    /// Will be the same tomorrow.
    Refused {
        cause: String,
    },
}

impl Failure {
    pub fn refused(cause: impl Into<String>) -> Failure {
        Failure::Refused {
            cause: cause.into(),
        }
    }

    pub fn temporary(cause: impl Into<String>) -> Failure {
        Failure::Temporary {
            cause: cause.into(),
            wait: None,
            throttled: false,
        }
    }

    /// The error that a person reads. `what` was attempted, at `registry`.
    pub fn explain(self, what: String, registry: &str) -> Error {
        let error = Error::new(what).source(self.clone());
        let login = format!("`carrack login {registry}`");
        match self {
            Failure::Unreachable { .. } => error.hint(format!(
                "is the name `{registry}` right, and does this machine reach it? Proxies are taken from HTTPS_PROXY and NO_PROXY"
            )),
            Failure::Untrusted { .. } => error.hint(format!(
                "put the CA certificate of the registry into `~/.config/containers/certs.d/{registry}/ca.crt`, or ask the site to do so in `/etc/containers/certs.d`"
            )),
            Failure::Temporary { throttled: true, .. } => error.hint(format!(
                "the registry limits how much is pulled; try later, or log in with {login} for a higher limit"
            )),
            Failure::Temporary { .. } => error.hint("try again later"),
            Failure::Unauthorized { user: None, .. } => {
                error.hint(format!("log in with {login}, or check the name: private and missing images look the same from outside"))
            }
            Failure::Unauthorized { user: Some(user), .. } => error.hint(format!(
                "the password or token of `{user}` is wrong or has expired; log in again with {login}"
            )),
            Failure::Forbidden { user: None, .. } => {
                error.hint(format!("nobody is logged in; if you have an account there, use {login}"))
            }
            Failure::Forbidden { user: Some(user), .. } => error.hint(format!(
                "`{user}` is known there but not allowed to do this; ask the owner of the image, or use another account with {login}"
            )),
            Failure::NotFound { .. } | Failure::Refused { .. } => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable { cause }
            | Failure::Untrusted { cause }
            | Failure::Temporary { cause, .. }
            | Failure::Unauthorized { cause, .. }
            | Failure::Forbidden { cause, .. }
            | Failure::NotFound { cause }
            | Failure::Refused { cause } => out.write_str(cause),
        }
    }
}

impl std::error::Error for Failure {}

/// What a status that is no success means, apart from who asked.
pub fn by_status(status: StatusCode, cause: String, wait: Option<Duration>) -> Failure {
    match status {
        StatusCode::NOT_FOUND => Failure::NotFound { cause },
        StatusCode::TOO_MANY_REQUESTS => Failure::Temporary {
            cause,
            wait,
            throttled: true,
        },
        StatusCode::REQUEST_TIMEOUT => Failure::Temporary {
            cause,
            wait,
            throttled: false,
        },
        status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
            Failure::Temporary {
                cause,
                wait,
                throttled: false,
            }
        }
        _ => Failure::Refused { cause },
    }
}

/// Why a request got no answer.
pub fn unsent(error: reqwest::Error, url: &Url) -> Failure {
    let connecting = error.is_connect();
    let error = error.without_url();
    let secure = tls_error(&error);
    let cause = match &secure {
        Some(error) => {
            let words = tls::words(error);
            format!("cannot connect to `{}` safely: {words}", shown(url))
        }
        None => format!("cannot connect to `{}`: {}", shown(url), innermost(&error)),
    };
    match secure {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Failure::Untrusted { cause }
        }
        Some(rustls::Error::AlertReceived(_)) => Failure::refused(cause),
        _ if connecting || error.is_timeout() => Failure::Unreachable { cause },
        _ => Failure::temporary(format!(
            "the connection to `{}` broke: {}",
            shown(url),
            innermost(&error)
        )),
    }
}

/// The TLS error inside; I/O errors hide what they wrap from `source`.
fn tls_error(error: &(dyn std::error::Error + 'static)) -> Option<rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.clone());
        }
        next = match error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}

/// An error with all that it wraps.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// The first error of a registry's JSON answer: code and message, without the rest.
pub fn said(body: &[u8]) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = value.get("errors")?.get(0)?;
    let text = |name| {
        let text = first.get(name).and_then(|text| text.as_str());
        text.unwrap_or_default()
            .chars()
            .take(300)
            .collect::<String>()
    };
    Some((text("code"), text("message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_registries() {
        let row = |code: &str, message: &str| Some((code.to_string(), message.to_string()));
        let rows = [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
                row("MANIFEST_UNKNOWN", "manifest unknown"),
            ),
            (r#"{"errors":[{"code":"X"}]}"#, row("X", "")),
            (r#"{"errors":[]}"#, None),
            (r#"{"errors":{}}"#, None),
            ("<html>", None),
            ("", None),
        ];
        for (body, expected) in rows {
            assert_eq!(said(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn each_way_has_its_own_hint() {
        let user = || Some("ann".to_string());
        let cause = || "why".to_string();
        let rows = [
            (
                Failure::Unauthorized {
                    cause: cause(),
                    user: None,
                },
                "log in with `carrack login h.eu`",
            ),
            (
                Failure::Unauthorized {
                    cause: cause(),
                    user: user(),
                },
                "of `ann` is wrong",
            ),
            (
                Failure::Forbidden {
                    cause: cause(),
                    user: user(),
                },
                "not allowed to do this",
            ),
            (
                Failure::Forbidden {
                    cause: cause(),
                    user: None,
                },
                "nobody is logged in",
            ),
            (Failure::Untrusted { cause: cause() }, "ca.crt"),
            (
                Failure::Temporary {
                    cause: cause(),
                    wait: None,
                    throttled: true,
                },
                "limits",
            ),
        ];
        for (failure, says) in rows {
            let error = failure.clone().explain("cannot pull".into(), "h.eu");
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(error.downcast_ref::<Failure>(), Some(&failure));
        }
    }
}
