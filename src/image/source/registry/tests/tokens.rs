//! Registries that want tokens, and the servers that give them.

use super::*;

const TOKEN_LIFE: &str = r#""expires_in":300"#;

/// A registry that wants tokens, with the server that gives them.
fn with_tokens(image: &Image, life: &str, uses: usize) -> (Server, Server) {
    let life = life.to_string();
    let tokens = Server::start(move |asked, before| {
        let body = format!(r#"{{"token":"t{before}",{life}}}"#);
        let known = asked.is("POST") && asked.body.contains("refresh_token=refresh%26me")
            || asked.header("authorization") == Some("Basic YW5uOnMzY3JldA==");
        match known {
            true => reply("200 OK", &[], body.as_bytes()),
            false => reply(
                "401 Unauthorized",
                &[],
                br#"{"errors":[{"code":"U","message":"bad password"}]}"#,
            ),
        }
    });
    let realm = tokens.host.clone();
    let used = Mutex::new(std::collections::HashMap::new());
    let registry = image.served_with(move |_, asked, _| {
        let token = asked.header("authorization").unwrap_or_default().to_string();
        let mut used = used.lock().unwrap();
        let count = used.entry(token.clone()).or_insert(0);
        *count += 1;
        let fine = token.starts_with("Bearer t") && *count <= uses;
        (!fine).then(|| {
            let challenge = format!(r#"Bearer realm="http://{realm}/token",service="reg",scope="repository:team/app:pull""#);
            reply("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"")
        })
    });
    (registry, tokens)
}

#[test]
fn tokens_are_got_used_and_renewed() {
    let image = Image::new();
    let (registry, tokens) = with_tokens(&image, TOKEN_LIFE, 100);
    let text = format!("{}/team/app:v1", registry.host);
    assert!(pull(&text, &with_user("ann", "s3cret")).unwrap() == image.layer);
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "one token for all requests");
    for part in [
        "service=reg",
        "scope=repository%3Ateam%2Fapp%3Apull",
        "account=ann",
    ] {
        assert!(asked[0].is(part), "{asked:?}");
    }
    let error = pull(&text, &with_user("ann", "wrong"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bad password") && error.contains("of `ann` is wrong"),
        "{error}"
    );
    assert!(!error.contains("YW5u"), "{error}");

    // Each token is good for one request only, whatever it promised.
    let (registry, tokens) = with_tokens(&image, TOKEN_LIFE, 1);
    let text = format!("{}/team/app:v1", registry.host);
    assert!(pull(&text, &with_user("ann", "s3cret")).unwrap() == image.layer);
    assert_eq!(tokens.asked().len(), 3, "manifest, config, layer");
}

#[test]
fn identity_tokens_are_exchanged_by_post() {
    let image = Image::new();
    let (registry, tokens) = with_tokens(&image, TOKEN_LIFE, 100);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("config.json");
    let auths = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"refresh&me"}}}}}}"#,
        registry.host
    );
    std::fs::write(&file, auths).unwrap();
    let mut settings = settings();
    settings.credentials.files = vec![file];
    let text = format!("{}/team/app:v1", registry.host);
    assert!(pull(&text, &settings).unwrap() == image.layer);
    let asked = tokens.asked();
    assert!(
        asked[0].is("POST /token "),
        "the token is not in the address: {asked:?}"
    );
    assert!(asked[0].body.contains("grant_type=refresh_token"));
}

#[test]
fn logins_are_tried_out() {
    let image = Image::new();
    let (registry, _) = with_tokens(&image, TOKEN_LIFE, 100);
    let check =
        |password: &str| check_login(&registry.host, "ann", &Secret::new(password), &settings());
    assert_eq!(check("s3cret").unwrap(), None);
    assert!(check("wrong").is_err());
    let offering =
        Server::start(|_, _| reply("200 OK", &[], br#"{"token":"t","refresh_token":"stay"}"#));
    let realm = offering.host.clone();
    let registry = image.served_with(move |_, asked, _| {
        let challenge = format!(r#"Bearer realm="http://{realm}/token",service="reg""#);
        asked
            .header("authorization")
            .is_none()
            .then(|| reply("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b""))
    });
    let identity = check_login(&registry.host, "ann", &Secret::new("x"), &settings()).unwrap();
    assert_eq!(identity, Some(Secret::new("stay")));
    assert!(
        offering
            .asked()
            .iter()
            .any(|asked| asked.is("offline_token=true"))
    );
}
