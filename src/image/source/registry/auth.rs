//! Who we are to one registry: the challenge it gave, the credentials for it, and the tokens got with them.
//!
//! Tokens are kept per scope and renewed before they expire, or when the registry does not take one any more; several
//! transfers that need the same token wait for one request.

use super::client::{Call, Client};
use super::failure::Failure;
use crate::error::Error;
use crate::image::credentials::{self, Credential};
use crate::image::source::Secret;
use base64::Engine;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For servers that do not say; the token specification's default.
const DEFAULT_LIFE: u64 = 60;
/// A token is renewed this long before it ends.
const MARGIN: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 1 << 20;
const CLIENT_ID: &str = "carrack";

pub struct Auth {
    registry: String,
    /// Credentials may be kept for a part of a registry.
    repository: String,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Looked up once; `Some(None)` when there are none.
    credential: Option<Option<Credential>>,
    challenge: Option<Challenge>,
    tokens: HashMap<String, Token>,
}

#[derive(Clone, Debug, PartialEq)]
enum Challenge {
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
        scope: Option<String>,
    },
}

struct Token {
    header: Secret,
    ends: Instant,
}

/// What a token server gave.
pub struct Granted {
    token: Secret,
    life: Duration,
    /// Stands in for the password from now on.
    pub identity: Option<Secret>,
}

impl Auth {
    pub fn new(registry: &str, repository: &str) -> Auth {
        Auth {
            registry: registry.to_string(),
            repository: repository.to_string(),
            state: Default::default(),
        }
    }

    /// For `login`: these credentials and no others.
    pub fn with(registry: &str, credential: Credential) -> Auth {
        let state = State {
            credential: Some(Some(credential)),
            ..State::default()
        };
        Auth {
            registry: registry.to_string(),
            repository: String::new(),
            state: tokio::sync::Mutex::new(state),
        }
    }

    /// The header to send, if the registry is known to want one.
    pub async fn header(&self, client: &Client, scope: &str) -> Result<Option<Secret>, Failure> {
        let mut state = self.state.lock().await;
        if state.challenge.is_none() {
            return Ok(None);
        }
        self.ready(&mut state, client, scope).await
    }

    /// After a 401: takes the challenge and gives a header that may do better than `refused`.
    pub async fn challenged(
        &self,
        client: &Client,
        scope: &str,
        base: &Url,
        headers: &HeaderMap,
        refused: Option<&Secret>,
    ) -> Result<Option<Secret>, Failure> {
        let mut state = self.state.lock().await;
        let challenge = challenge(headers, base)?;
        if let Some(token) = state.tokens.get(scope)
            && Some(&token.header) != refused
        {
            // Somebody else has renewed it meanwhile.
            return Ok(Some(token.header.clone()));
        }
        state.tokens.remove(scope);
        state.challenge = Some(challenge);
        self.ready(&mut state, client, scope).await
    }

    /// The user that requests are made for.
    pub async fn user(&self) -> Option<String> {
        let state = self.state.lock().await;
        let credential = state.credential.as_ref()?.as_ref()?;
        Some(match credential {
            Credential::Password { user, .. } => user.clone(),
            Credential::Identity(_) => "(identity token)".to_string(),
        })
    }

    /// Whether the token server took the user's credentials.
    pub async fn has_token_of_user(&self) -> bool {
        let state = self.state.lock().await;
        let known = matches!(state.credential, Some(Some(_)));
        known && !state.tokens.is_empty()
    }

    /// Asks for an identity token in the password's place, if the registry is one that gives them.
    pub async fn identity(&self, client: &Client) -> Option<Secret> {
        let state = self.state.lock().await;
        let Some(challenge @ Challenge::Bearer { .. }) = &state.challenge else {
            return None;
        };
        let credential = state.credential.as_ref()?.as_ref();
        fetch(client, challenge, credential, "", true)
            .await
            .ok()?
            .identity
    }

    /// The password itself, for interfaces that take no tokens; nothing for somebody who has none.
    pub async fn password(&self, client: &Client) -> Result<Option<Secret>, Failure> {
        let mut state = self.state.lock().await;
        self.look_up(&mut state, client).await?;
        Ok(match state.credential.as_ref().and_then(Option::as_ref) {
            Some(Credential::Password { user, password }) => Some(basic(user, password)),
            Some(Credential::Identity(_)) | None => None,
        })
    }

    /// Credentials are looked for once.
    async fn look_up(&self, state: &mut State, client: &Client) -> Result<(), Failure> {
        if state.credential.is_none() {
            let (registry, repository) = (self.registry.clone(), self.repository.clone());
            let places = client.settings().credentials.clone();
            let find = move || credentials::find(&registry, &repository, &places);
            let found = tokio::task::spawn_blocking(find).await;
            let found = found
                .map_err(|error| Failure::refused(error.to_string()))?
                .map_err(|error: Error| Failure::refused(one_line(&error)))?;
            state.credential = Some(found);
        }
        Ok(())
    }

    async fn ready(
        &self,
        state: &mut State,
        client: &Client,
        scope: &str,
    ) -> Result<Option<Secret>, Failure> {
        self.look_up(state, client).await?;
        let credential = state.credential.as_ref().and_then(Option::as_ref);
        let Some(challenge) = state.challenge.clone() else {
            return Ok(None);
        };
        if challenge == Challenge::Basic {
            return match credential {
                Some(Credential::Password { user, password }) => Ok(Some(basic(user, password))),
                Some(Credential::Identity(_)) => Err(Failure::refused(
                    "the registry wants a password, but an identity token is stored for it",
                )),
                None => Ok(None),
            };
        }
        let now = Instant::now();
        if let Some(token) = state.tokens.get(scope)
            && token.ends > now
        {
            return Ok(Some(token.header.clone()));
        }
        let granted = fetch(client, &challenge, credential, scope, false).await?;
        let header = Secret::new(format!("Bearer {}", granted.token.reveal()));
        let life = granted.life.max(MARGIN.saturating_mul(2));
        let token = Token {
            header: header.clone(),
            ends: now.checked_add(life.saturating_sub(MARGIN)).unwrap_or(now),
        };
        state.tokens.insert(scope.to_string(), token);
        Ok(Some(header))
    }
}

fn one_line(error: &Error) -> String {
    let mut text = error.what().to_string();
    for cause in error.causes() {
        text.push_str(": ");
        text.push_str(cause);
    }
    text
}

fn basic(user: &str, password: &Secret) -> Secret {
    let pair = Secret::new(format!("{user}:{}", password.reveal()));
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair.reveal());
    Secret::new(format!("Basic {encoded}"))
}

/// Bearer is taken before Basic, as the registry's own choice for clients that can do both.
fn challenge(headers: &HeaderMap, base: &Url) -> Result<Challenge, Failure> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Some(challenges) = value
            .to_str()
            .ok()
            .and_then(|text| http_auth::parse_challenges(text).ok())
        else {
            continue;
        };
        for challenge in challenges {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                continue;
            }
            let parameter = |name: &str| {
                let mut all = challenge.params.iter();
                all.find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_unescaped())
            };
            let realm = parameter("realm").unwrap_or_default();
            let realm = base.join(&realm).map_err(|_| {
                Failure::refused(format!("its token server `{realm}` is not an address"))
            })?;
            if base.scheme() == "https" && realm.scheme() != "https" {
                return Err(Failure::refused(format!(
                    "it asks to send the password unencrypted to `{}`",
                    realm.host_str().unwrap_or_default()
                )));
            }
            return Ok(Challenge::Bearer {
                realm,
                service: parameter("service"),
                scope: parameter("scope"),
            });
        }
    }
    basic.ok_or_else(|| Failure::Unauthorized {
        cause: "it answers 401 without saying how to log in".to_string(),
        user: None,
    })
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<f64>,
}

/// Gets a token: anonymously, with a password, or (OAuth2) with an identity token.
async fn fetch(
    client: &Client,
    challenge: &Challenge,
    credential: Option<&Credential>,
    scope: &str,
    offline: bool,
) -> Result<Granted, Failure> {
    let Challenge::Bearer {
        realm,
        service,
        scope: asked,
    } = challenge
    else {
        return Err(Failure::refused("it gives no tokens"));
    };
    if realm.scheme() != "https" && !client.may_be_plain(realm) {
        return Err(Failure::refused(format!(
            "its token server `{}` speaks plain http and is not among the hosts for which that is allowed",
            realm.host_str().unwrap_or_default()
        )));
    }
    let scope = match (scope, asked) {
        ("", Some(asked)) if !offline => asked,
        (scope, _) => scope,
    };
    let mut parameters: Vec<(&str, &str)> = Vec::new();
    if let Some(service) = service {
        parameters.push(("service", service));
    }
    if !scope.is_empty() {
        parameters.push(("scope", scope));
    }
    let mut url = realm.clone();
    let mut call = match credential {
        Some(Credential::Identity(token)) => {
            parameters.push(("client_id", CLIENT_ID));
            parameters.push(("grant_type", "refresh_token"));
            parameters.push(("refresh_token", token.reveal()));
            Call {
                body: Some(Secret::new(form(&parameters))),
                ..Call::new(Method::POST, url)
            }
        }
        Some(Credential::Password { user, password }) => {
            parameters.push(("account", user));
            if offline {
                parameters.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
            }
            url.query_pairs_mut().extend_pairs(parameters);
            Call {
                authorization: Some(basic(user, password)),
                ..Call::new(Method::GET, url)
            }
        }
        None => {
            url.query_pairs_mut().extend_pairs(parameters);
            Call::new(Method::GET, url)
        }
    };
    call.accept = Some("application/json");
    let reply = client.call(call).await?;
    let status = reply.response.status();
    let server = realm.host_str().unwrap_or_default();
    let body = super::client::body(reply.response, MAX_ANSWER, client.settings()).await?;
    let said = super::failure::said(&body).map(|(_, message)| message);
    let cause = |text: &str| match said.as_deref() {
        Some(said) if !said.is_empty() => format!("{text} ({status}): {said}"),
        _ => format!("{text} ({status})"),
    };
    let user = match credential {
        Some(Credential::Password { user, .. }) => Some(user.clone()),
        Some(Credential::Identity(_)) => Some("(identity token)".to_string()),
        None => None,
    };
    match status {
        status if status.is_success() => {}
        // Servers differ in what they call a wrong password.
        StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => {
            let cause = cause(&format!("the token server `{server}` refuses"));
            return Err(Failure::Unauthorized { cause, user });
        }
        StatusCode::FORBIDDEN => {
            let cause = cause(&format!("the token server `{server}` refuses"));
            return Err(Failure::Forbidden { cause, user });
        }
        status => {
            return Err(super::failure::by_status(
                status,
                cause(&format!("the token server `{server}` fails")),
                reply.wait,
            ));
        }
    }
    let mut answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| Failure::refused(format!("the token server `{server}` gave no token")))?;
    let token = answer
        .token
        .take()
        .filter(|token| !token.is_empty())
        .or(answer.access_token.take())
        .map(Secret::new)
        .ok_or_else(|| Failure::refused(format!("the token server `{server}` gave no token")))?;
    let life = answer.expires_in.unwrap_or(DEFAULT_LIFE as f64);
    Ok(Granted {
        token,
        life: Duration::try_from_secs_f64(life.clamp(1.0, 86_400.0)).unwrap_or(MARGIN),
        identity: answer.refresh_token.take().map(Secret::new),
    })
}

fn form(parameters: &[(&str, &str)]) -> String {
    // The query of an address has the form's encoding.
    match Url::parse("http://form") {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(parameters);
            url.query().unwrap_or_default().to_string()
        }
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(values: &[&str], base: &str) -> Result<Challenge, Failure> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenge(&headers, &Url::parse(base).unwrap())
    }

    #[test]
    fn challenges() {
        let bearer = |realm: &str, scope: Option<&str>| Challenge::Bearer {
            realm: Url::parse(realm).unwrap(),
            service: Some("reg".to_string()),
            scope: scope.map(str::to_string),
        };
        let https = "https://h.eu/v2/";
        let rows: &[(&[&str], Challenge)] = &[
            (&["Basic realm=\"x\""], Challenge::Basic),
            (
                &[
                    "Bearer realm=\"https://t.eu/token\",service=\"reg\",scope=\"repository:a/b:pull,push\"",
                ],
                bearer("https://t.eu/token", Some("repository:a/b:pull,push")),
            ),
            (
                &[
                    "Basic realm=\"x\"",
                    "bearer realm=\"https://t.eu/t\", service=\"reg\"",
                ],
                bearer("https://t.eu/t", None),
            ),
            (
                &["Basic realm=\"x\", Bearer realm=\"https://t.eu/t\", service=\"reg\""],
                bearer("https://t.eu/t", None),
            ),
            (
                &["Bearer realm=\"/token\",service=\"reg\""],
                bearer("https://h.eu/token", None),
            ),
        ];
        for (values, expected) in rows {
            assert_eq!(parsed(values, https).as_ref(), Ok(expected), "{values:?}");
        }
        let cleartext = parsed(&["Bearer realm=\"http://t.eu/t\""], https);
        assert!(
            matches!(cleartext, Err(Failure::Refused { .. })),
            "{cleartext:?}"
        );
        assert!(parsed(&["Bearer realm=\"http://t.eu/t\""], "http://h.eu/v2/").is_ok());
        for values in [&[][..], &["Digest realm=\"x\""], &["\u{7f}"]] {
            if values.iter().any(|value| value.contains('\u{7f}')) {
                continue;
            }
            assert!(matches!(
                parsed(values, https),
                Err(Failure::Unauthorized { .. })
            ));
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(
            form(&[("a", "b&c=d"), ("s", "x y+z")]),
            "a=b%26c%3Dd&s=x+y%2Bz"
        );
    }

    #[test]
    fn basic_header() {
        let header = basic("ann", &Secret::new("pass:word"));
        assert_eq!(header.reveal(), "Basic YW5uOnBhc3M6d29yZA==");
    }
}
