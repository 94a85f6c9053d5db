//! One small image behind a server of this test's own, which answers as each row wants.

mod fake;
mod tokens;

use super::*;
use crate::image::credentials::{Fixed, FixedPassword};
use crate::image::manifest::normal_platform;
use fake::{Asked, Image, SILENCE, Server, reply};
use std::time::{Duration, Instant};

fn settings() -> SourceSettings {
    SourceSettings {
        first_wait: Duration::from_millis(1),
        stall_timeout: Duration::from_secs(20),
        ca_bundles: Vec::new(),
        certificate_roots: Vec::new(),
        ..SourceSettings::default()
    }
}

fn registry(text: &str, settings: &SourceSettings) -> Result<Registry> {
    let reference: crate::image::reference::Reference = text.parse()?;
    Registry::open(reference.name().unwrap(), settings)
}

/// The layer's bytes, got the whole way.
fn pull(text: &str, settings: &SourceSettings) -> Result<Vec<u8>> {
    let source = registry(text, settings)?;
    let layer = match source.resolve(&normal_platform("linux", "amd64", ""))? {
        Resolved::Layers { layers, .. } => layers[0].clone(),
        other => panic!("{other:?}"),
    };
    let mut bytes = Vec::new();
    source
        .blob(&layer)?
        .read_to_end(&mut bytes)
        .or_say(|| "cannot read the layer")?;
    Ok(bytes)
}

fn fails(server: &Server, settings: &SourceSettings) -> String {
    match pull(&format!("{}/team/app:v1", server.host), settings) {
        Ok(_) => panic!("it was pulled"),
        Err(error) => error.to_string(),
    }
}

fn with_user(user: &str, password: &str) -> SourceSettings {
    let mut settings = settings();
    settings.credentials.fixed = Some(Fixed {
        registry: None,
        user: user.to_string(),
        password: FixedPassword::Here(Secret::new(password)),
    });
    settings
}

#[test]
fn silence_is_not_waited_out() {
    let settings = SourceSettings {
        stall_timeout: Duration::from_secs(1),
        tries: 2,
        ..settings()
    };
    let silent = |mut answer: Vec<u8>, keep: usize| {
        answer.truncate(keep);
        answer.extend(SILENCE);
        answer
    };
    let image = Image::new();
    let once = image.served_with(move |image, asked, _| {
        let first = image.is_layer(asked) && asked.header("range").is_none();
        first.then(|| silent(image.answer(asked), 100_000))
    });
    let got = pull(&format!("{}/team/app:v1", once.host), &settings).unwrap();
    assert!(got == image.layer);
    assert!(
        once.asked()
            .iter()
            .any(|asked| asked.header("range").is_some())
    );
    let always = image.served_with(move |image, asked, _| {
        let answer = || silent(image.answer(asked), 300);
        image.is_layer(asked).then(answer)
    });
    let told = fails(&always, &settings);
    assert!(told.contains("nothing came for 1 seconds"), "{told}");
    let mute = image.served_with(|_, asked, _| asked.is("/manifests/").then(|| SILENCE.to_vec()));
    let told = fails(&mute, &settings);
    assert!(told.contains("did not answer within 1 seconds"), "{told}");
}

#[test]
fn transfers_that_break_are_finished() {
    type Mood = Box<dyn Fn(&Image, &Asked, usize) -> Option<Vec<u8>> + Send + Sync>;
    let cut = |mut answer: Vec<u8>, keep: usize| {
        let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        answer.truncate((body + keep).min(answer.len()));
        answer
    };
    let first_of_layer =
        |image: &Image, asked: &Asked| image.is_layer(asked) && asked.header("range").is_none();
    let days: Vec<(&str, Mood)> = vec![
        (
            "cut once",
            Box::new(move |image, asked, _| {
                first_of_layer(image, asked).then(|| cut(image.answer(asked), 70_000))
            }),
        ),
        (
            "cut in every answer",
            Box::new(move |image, asked, _| {
                image
                    .is_layer(asked)
                    .then(|| cut(image.answer(asked), 60_000))
            }),
        ),
        (
            "ranges are ignored",
            Box::new(move |image, asked, before| {
                image.is_layer(asked).then(|| {
                    let whole = reply("200 OK", &[], &image.layer);
                    match before % 2 == 0 && asked.header("range").is_none() {
                        true => cut(whole, 50_000),
                        false => whole,
                    }
                })
            }),
        ),
        (
            "ranges are refused",
            Box::new(move |image, asked, before| match asked.header("range") {
                Some(_) => Some(reply("416 Range Not Satisfiable", &[], b"")),
                None if image.is_layer(asked) && before < 4 => {
                    Some(cut(image.answer(asked), 50_000))
                }
                None => None,
            }),
        ),
        (
            "another range comes",
            Box::new(move |image, asked, before| match asked.header("range") {
                Some(_) => Some(reply(
                    "206 Partial Content",
                    &[("Content-Range", "bytes 0-199999/200000")],
                    &image.layer,
                )),
                None if image.is_layer(asked) && before < 4 => {
                    Some(cut(image.answer(asked), 50_000))
                }
                None => None,
            }),
        ),
        (
            "no length is told",
            Box::new(move |image, asked, _| {
                image
                    .is_layer(asked)
                    .then(|| reply("200 OK", &[("Content-Length", "")], &image.layer))
            }),
        ),
        (
            "no length is told, and cut",
            Box::new(move |image, asked, _| {
                first_of_layer(image, asked).then(|| {
                    cut(
                        reply("200 OK", &[("Content-Length", "")], &image.layer),
                        99_999,
                    )
                })
            }),
        ),
        (
            "the server stumbles",
            Box::new(|_, _, before| {
                let status = ["502 Bad Gateway", "500 Oops", "503 Busy", "429 Too Many"];
                (before % 3 != 2 && before < 8).then(|| reply(status[before % 4], &[], b""))
            }),
        ),
        (
            "every connection hangs up once",
            Box::new(|_, _, before| (before % 2 == 0).then(Vec::new)),
        ),
    ];
    let image = Image::new();
    for (name, mood) in days {
        let server = image.served_with(mood);
        // The first connection decides between https and http; it must not be hung up on.
        let mut settings = settings();
        settings.insecure = vec![server.host.clone()];
        let bytes = pull(&format!("{}/team/app:v1", server.host), &settings);
        match bytes {
            Ok(bytes) => assert!(bytes == image.layer, "{name}: other bytes"),
            Err(error) if name.starts_with("every connection") => {
                // A host that never answered is not asked again.
                assert!(error.to_string().contains("broke"), "{name}: {error}");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn answers_that_end_a_pull() {
    type Mood = Box<dyn Fn(&Image, &Asked, usize) -> Option<Vec<u8>> + Send + Sync>;
    let rows: Vec<(&str, Mood, &[&str])> = vec![
        (
            "longer layer",
            Box::new(|image, asked, _| {
                let longer = [&image.layer[..], b"more"].concat();
                image
                    .is_layer(asked)
                    .then(|| reply("200 OK", &[("Content-Length", "")], &longer))
            }),
            &["cannot download the layer `sha256:", "longer than"],
        ),
        (
            "wrong length",
            Box::new(|image, asked, _| {
                image
                    .is_layer(asked)
                    .then(|| reply("200 OK", &[], b"short"))
            }),
            &["has 5 bytes there"],
        ),
        (
            "always short",
            Box::new(|image, asked, _| {
                image
                    .is_layer(asked)
                    .then(|| reply("200 OK", &[("Content-Length", "")], b"short"))
            }),
            &["ended after 5 of 200000"],
        ),
        (
            "encoded",
            Box::new(|image, asked, _| {
                image
                    .is_layer(asked)
                    .then(|| reply("200 OK", &[("Content-Encoding", "gzip")], &image.layer))
            }),
            &["content encoding"],
        ),
        (
            "lying digest",
            Box::new(|image, asked, _| {
                let lie = format!("sha256:{}", "0".repeat(64));
                asked.is("/manifests/").then(|| {
                    reply(
                        "200 OK",
                        &[("Docker-Content-Digest", &lie)],
                        image.manifest.as_bytes(),
                    )
                })
            }),
            &["the registry states `sha256:000"],
        ),
        (
            "other config",
            Box::new(|image, asked, _| {
                let other = image.config.replace("amd64", "arm64");
                (asked.is("/blobs/") && !image.is_layer(asked))
                    .then(|| reply("200 OK", &[], other.as_bytes()))
            }),
            &["cannot trust"],
        ),
        (
            "endless manifest",
            Box::new(|_, asked, _| {
                asked
                    .is("/manifests/")
                    .then(|| reply("200 OK", &[], &vec![b' '; 5 << 20]))
            }),
            &["longer than 4194304"],
        ),
        (
            "index as manifest",
            Box::new(|image, asked, _| {
                let kind = "application/vnd.oci.image.index.v1+json";
                asked.is("/manifests/").then(|| {
                    reply(
                        "200 OK",
                        &[("Content-Type", kind)],
                        image.manifest.as_bytes(),
                    )
                })
            }),
            &["content is that of a manifest"],
        ),
        (
            "forbidden",
            Box::new(|_, asked, _| {
                asked.is("/manifests/").then(|| {
                    reply(
                        "403 Forbidden",
                        &[],
                        br#"{"errors":[{"code":"DENIED","message":"project is private"}]}"#,
                    )
                })
            }),
            &["403", "project is private", "nobody is logged in"],
        ),
        (
            "unauthorized",
            Box::new(|_, _, _| {
                Some(reply(
                    "401 Unauthorized",
                    &[("WWW-Authenticate", "Basic realm=\"x\"")],
                    b"",
                ))
            }),
            &["401", "carrack login 127.0.0.1:"],
        ),
        (
            "missing tag",
            Box::new(|_, asked, _| {
                let tags = reply("200 OK", &[], br#"{"tags":["v2","latest"]}"#);
                if asked.is("/tags/list") {
                    return Some(tags);
                }
                asked
                    .is("/manifests/")
                    .then(|| reply("404 Not Found", &[], b""))
            }),
            &["404", "did you mean `v2`?"],
        ),
        (
            "long wait",
            Box::new(|_, _, _| {
                Some(reply(
                    "429 Too Many Requests",
                    &[("Retry-After", "100000")],
                    b"",
                ))
            }),
            &["asks to wait 100000 seconds", "higher limit"],
        ),
        (
            "redirects in a circle",
            Box::new(|_, _, _| {
                Some(reply(
                    "307 Temporary Redirect",
                    &[("Location", "/v2/again")],
                    b"",
                ))
            }),
            &["redirects more than"],
        ),
        (
            "redirect to another scheme",
            Box::new(|_, _, _| {
                Some(reply(
                    "307 Temporary Redirect",
                    &[("Location", "file:///etc/passwd")],
                    b"",
                ))
            }),
            &["redirects to `file:`"],
        ),
        (
            "redirect to plain http elsewhere",
            Box::new(|_, _, _| {
                Some(reply(
                    "307 Temporary Redirect",
                    &[("Location", "http://192.0.2.1/x?signature=hidden")],
                    b"",
                ))
            }),
            &["plain http", "192.0.2.1"],
        ),
    ];
    let image = Image::new();
    for (name, mood, words) in rows {
        let server = image.served_with(mood);
        let error = fails(&server, &settings());
        for word in words {
            assert!(error.contains(word), "{name}: {error}");
        }
        assert!(!error.contains("hidden"), "{name}: {error}");
        assert!(server.asked().len() < 20, "{name}: it insists");
    }
}

#[test]
fn a_wrong_digest_in_the_reference_is_refused() {
    let image = Image::new();
    let server = image.served_with(|_, _, _| None);
    let right = format!("{}/team/app:v1@{}", server.host, image.digest());
    assert!(pull(&right, &settings()).is_ok());
    let source = registry(&right, &settings()).unwrap();
    let asked = server.asked().len();
    assert_eq!(source.current().unwrap(), Some(image.digest()));
    assert_eq!(
        server.asked().len(),
        asked,
        "a digest need not be asked for"
    );
    let wrong = format!("{}/team/app:v1@{}", server.host, Digest::of(b"other"));
    let error = pull(&wrong, &settings()).unwrap_err().to_string();
    assert!(error.contains("the reference asks for"), "{error}");
}

#[test]
fn retry_after_is_obeyed() {
    let image = Image::new();
    let server = image.served_with(|_, _, before| {
        (before == 0).then(|| reply("429 Too Many Requests", &[("Retry-After", "1")], b""))
    });
    let start = Instant::now();
    assert!(pull(&format!("{}/team/app:v1", server.host), &settings()).is_ok());
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn credentials_stay_with_their_host() {
    let image = Image::new();
    let elsewhere = image.served_with(|_, _, _| None);
    let target = elsewhere.host.clone();
    let front = image.served_with(move |image, asked, _| {
        if asked.header("authorization").is_none() {
            let basic = [("WWW-Authenticate", "Basic realm=\"x\"")];
            return Some(reply("401 Unauthorized", &basic, b""));
        }
        let path = asked.line.split(' ').nth(1).unwrap();
        let location = format!("http://{target}{path}");
        image
            .is_layer(asked)
            .then(|| reply("307 Temporary Redirect", &[("Location", &location)], b""))
    });
    let settings = with_user("ann", "s3cret");
    let bytes = pull(&format!("{}/team/app:v1", front.host), &settings).unwrap();
    assert!(bytes == image.layer);
    let there = elsewhere.asked();
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].header("authorization"), None);
    let last = front.asked().pop().unwrap();
    assert_eq!(last.header("authorization"), Some("Basic YW5uOnMzY3JldA=="));
}

#[test]
fn mirrors_come_first_and_may_fail() {
    let image = Image::new();
    let dead = "127.0.0.1:1".to_string();
    let empty = image.served_with(|_, _, _| Some(reply("404 Not Found", &[], b"")));
    let full = image.served_with(|_, _, _| None);
    let origin = image.served_with(|_, _, _| None);
    let mut settings = with_user("ann", "s3cret");
    settings.mirrors.insert(
        origin.host.clone(),
        vec![dead, empty.host.clone(), format!("{}/cache", full.host)],
    );
    let text = format!("{}/team/app:v1", origin.host);
    assert!(pull(&text, &settings).unwrap() == image.layer);
    assert_eq!(origin.asked().len(), 0);
    assert!(
        full.asked()
            .iter()
            .all(|asked| asked.is("/v2/cache/team/app/"))
    );
    settings
        .mirrors
        .insert(origin.host.clone(), vec![empty.host.clone()]);
    assert!(pull(&text, &settings).unwrap() == image.layer);
    for asked in empty.asked().iter().chain(&full.asked()) {
        assert_eq!(
            asked.header("authorization"),
            None,
            "mirrors get nobody's password"
        );
    }
}

#[test]
fn a_registry_that_is_not_allowed_is_not_asked() {
    let image = Image::new();
    let server = image.served_with(|_, _, _| None);
    let settings = SourceSettings {
        allow: vec!["ghcr.io".into()],
        ..settings()
    };
    let error = fails(&server, &settings);
    assert!(error.contains("allowed are: ghcr.io"), "{error}");
    assert!(catalog(&server.host, &settings).is_err());
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn lists_are_followed_over_their_pages() {
    let server = Server::start(|asked, _| {
        let next = |link: &str, body: &[u8]| reply("200 OK", &[("Link", link)], body);
        if asked.is("last=b") {
            return reply("200 OK", &[], br#"{"tags":["c"],"repositories":["r3"]}"#);
        }
        if asked.is("last=elsewhere") {
            return next(
                "<http://192.0.2.1/v2/x?last=b>; rel=\"next\"",
                br#"{"tags":[]}"#,
            );
        }
        let link = match asked.is("_catalog") {
            true => "</v2/_catalog?last=b&n=2>; rel=\"next\"",
            false => "</v2/team/app/tags/list?last=b>; rel=\"next\"",
        };
        next(link, br#"{"tags":["a","b"],"repositories":["r1","r2"]}"#)
    });
    let source = registry(&format!("{}/team/app", server.host), &settings()).unwrap();
    assert_eq!(source.tags().unwrap(), ["a", "b", "c"]);
    assert_eq!(
        catalog(&server.host, &settings()).unwrap(),
        ["r1", "r2", "r3"]
    );
    assert_eq!(
        next_page("<http://192.0.2.1/v2/x?last=b>; rel=\"next\"", "/v2/y"),
        Some("/v2/x?last=b".to_string())
    );
    assert_eq!(next_page("</other>; rel=\"next\"", "/v2/y"), None);
    assert_eq!(next_page("</v2/x>; rel=\"prev\"", "/v2/y"), None);
}

#[test]
fn proxies_are_used_but_not_for_loopback() {
    let image = Image::new();
    let proxy = image.served_with(|_, _, _| None);
    let direct = image.served_with(|_, _, _| None);
    let mut settings = settings();
    settings.insecure = vec!["registry.invalid".into(), "other.invalid".into()];
    settings.proxy.http = Some(Secret::new(format!("http://ann:s3cret@{}", proxy.host)));
    settings.proxy.none = ".other.invalid,other.invalid".into();
    assert!(pull("registry.invalid/team/app:v1", &settings).unwrap() == image.layer);
    for asked in proxy.asked() {
        assert!(asked.is("GET http://registry.invalid/v2/"), "{asked:?}");
        assert!(asked.header("proxy-authorization").is_some());
    }
    let seen = proxy.asked().len();
    assert!(pull(&format!("{}/team/app:v1", direct.host), &settings).is_ok());
    let error = pull("other.invalid/team/app:v1", &settings).unwrap_err();
    assert!(error.to_string().contains("not known"), "{error}");
    assert_eq!(proxy.asked().len(), seen);
}
