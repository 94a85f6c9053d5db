//! A registry that behaves as Harbor does where that matters: projects with members, tokens for robot accounts and CLI
//! secrets, 401 for what is not one's own, and Harbor's interface beside the distribution's.
//!
//! Images are served by a real registry behind it. What is made up here is who may see them.

use crate::image::layout::Layout;
use crate::need::need;
use crate::registry::{Manners, Registry};
use crate::scene::{Outcome, Scene};
use base64::Engine;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Name and secret; what a name may see is in [`may_see`].
const ACCOUNTS: [(&str, &str); 3] = [
    ("alice", "cli-secret"),
    ("robot$tools+puller", "robot-secret"),
    ("eve", "eves"),
];

fn may_see(user: &str, project: &str) -> bool {
    matches!(
        (user, project),
        (_, "open") | ("alice" | "robot$tools+puller", "tools") | ("alice", "many")
    )
}

struct Harbor {
    host: String,
    /// Request lines, with who asked.
    log: Arc<Mutex<Vec<String>>>,
}

struct Asked {
    method: String,
    path: String,
    query: String,
    authorization: String,
    /// As it came, for the registry behind.
    head: Vec<u8>,
}

impl Harbor {
    fn before(registry: &Registry) -> Harbor {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, name, behind) = (log.clone(), host.clone(), registry.host());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, name, behind) = (kept.clone(), name.clone(), behind.clone());
                std::thread::spawn(move || serve(stream, &kept, &name, &behind));
            }
        });
        Harbor { host, log }
    }

    fn asked(&self, words: &[&str]) -> usize {
        let log = self.log.lock().unwrap();
        let has = |line: &&String| words.iter().all(|word| line.contains(word));
        log.iter().filter(has).count()
    }
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        // Whoever tries TLS first is told at once that this is none.
        if head.is_empty() && byte[0] == 0x16 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let authorization = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    });
    Some(Asked {
        method,
        path: path.to_string(),
        query: query.to_string(),
        authorization: authorization.unwrap_or_default().to_string(),
        head,
    })
}

fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &Value) {
    let body = body.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    );
}

fn error(code: &str, message: &str) -> Value {
    json!({ "errors": [{ "code": code, "message": message }] })
}

/// Who a password is; `None` for a wrong one.
fn account(authorization: &str) -> Option<String> {
    if authorization.is_empty() {
        return Some(String::new());
    }
    let encoded = authorization.strip_prefix("Basic ")?;
    let pair = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (user, secret) = pair.split_once(':')?;
    ACCOUNTS.contains(&(user, secret)).then(|| user.to_string())
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<String>>, host: &str, behind: &str) {
    let Some(asked) = read(&mut stream) else {
        return;
    };
    let Asked {
        method,
        path,
        query,
        authorization,
        ..
    } = &asked;
    log.lock()
        .unwrap()
        .push(format!("{method} {path}?{query} {authorization}"));
    if path == "/service/token" {
        return match account(authorization) {
            Some(user) => answer(
                &mut stream,
                "200 OK",
                "",
                &json!({ "token": format!("of-{user}"), "expires_in": 1800 }),
            ),
            None => answer(
                &mut stream,
                "401 Unauthorized",
                "",
                &error("UNAUTHORIZED", "unauthorized"),
            ),
        };
    }
    if let Some(rest) = path.strip_prefix("/api/v2.0/") {
        let Some(user) = account(authorization) else {
            return answer(
                &mut stream,
                "401 Unauthorized",
                "",
                &error("UNAUTHORIZED", "unauthorized"),
            );
        };
        return match interface(&user, rest, query) {
            Some(body) => answer(&mut stream, "200 OK", "", &body),
            None => answer(
                &mut stream,
                "403 Forbidden",
                "",
                &error("FORBIDDEN", "forbidden"),
            ),
        };
    }
    let user = authorization.strip_prefix("Bearer of-");
    let repository = path.strip_prefix("/v2/").unwrap_or_default();
    let allowed = match (user, repository) {
        (Some(_), "") => true,
        // The catalogue is the administrators'.
        (_, "_catalog") => false,
        (Some(user), _) => may_see(user, repository.split('/').next().unwrap()),
        (None, _) => false,
    };
    if !allowed {
        let name = repository.split("/manifests").next().unwrap();
        let challenge = format!(
            "WWW-Authenticate: Bearer realm=\"http://{host}/service/token\",service=\"harbor-registry\",scope=\"repository:{name}:pull\"\r\n"
        );
        let said = format!("unauthorized to access repository: {name}, action: pull");
        return answer(
            &mut stream,
            "401 Unauthorized",
            &challenge,
            &error("UNAUTHORIZED", &said),
        );
    }
    let mut registry = TcpStream::connect(behind).unwrap();
    let text = String::from_utf8_lossy(&asked.head).into_owned();
    let mut kept = String::new();
    for line in text.trim_end().lines() {
        let name = line.to_ascii_lowercase();
        if !name.starts_with("authorization:") && !name.starts_with("connection:") {
            kept.push_str(line);
            kept.push_str("\r\n");
        }
    }
    write!(registry, "{kept}Connection: close\r\n\r\n").unwrap();
    let _ = std::io::copy(&mut registry, &mut stream);
}

/// `None`: not for this user.
fn interface(user: &str, path: &str, query: &str) -> Option<Value> {
    let parts: Vec<&str> = path.split('/').collect();
    let number = |name: &str| {
        let value = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse::<usize>().ok())
    };
    let page = |all: Vec<Value>| {
        let size = number("page_size").unwrap_or(10).min(100);
        let first = (number("page").unwrap_or(1) - 1) * size;
        Value::Array(all.into_iter().skip(first).take(size).collect())
    };
    if parts == ["projects"] {
        let names = ["many", "open", "tools"].into_iter();
        let project = |name: &str| json!({ "name": name, "repo_count": 1, "metadata": { "public": (name == "open").to_string() } });
        return Some(page(
            names
                .filter(|name| may_see(user, name))
                .map(project)
                .collect(),
        ));
    }
    let ["projects", project, "repositories", rest @ ..] = parts.as_slice() else {
        return None;
    };
    if !may_see(user, project) {
        return None;
    }
    let described = json!({ "name": format!("{project}/deep/tool"), "description": "# Tool\n\nSegments *scans*." });
    match rest {
        [] if *project == "many" => {
            let one = |number: usize| json!({ "name": format!("many/r{number:03}") });
            Some(page((0..130).map(one).collect()))
        }
        [] => Some(page(vec![described])),
        ["deep%252Ftool"] => Some(described),
        ["deep%252Ftool", "artifacts"] => Some(page(vec![
            json!({ "digest": "sha256:1", "type": "IMAGE", "push_time": "2026-01-01T00:00:00Z", "tags": [{ "name": "1" }] }),
            json!({ "digest": "sha256:2", "type": "IMAGE", "push_time": "2026-02-01T00:00:00Z", "tags": [{ "name": "2" }, { "name": "latest" }] }),
        ])),
        _ => None,
    }
}

fn login(scene: &Scene, host: &str, user: &str, secret: &str) -> Outcome {
    let words = ["login", host, "-u", user, "--password-stdin"];
    scene.finish(scene.command(words), secret.as_bytes())
}

#[test]
fn e13_e19_a_registry_like_harbor() {
    need!(Registry);
    let scene = Scene::new();
    let registry = Registry::start(&scene.path(""), Manners::default());
    Layout::of_text("layer\nd bin/ 755\nf bin/x 755 one\n").write(&scene.path("layout"));
    for name in ["tools/deep/tool", "open/tool"] {
        registry.push(&scene.path("layout"), name, "1");
    }
    let harbor = Harbor::before(&registry);
    let host = harbor.host.as_str();
    let (tool, open) = (
        format!("{host}/tools/deep/tool:1"),
        format!("{host}/open/tool:1"),
    );

    // Nobody is logged in: public projects only, and the way to log in.
    scene.run(["pull", "-q", &open]).ok();
    scene
        .run(["pull", "-q", &tool])
        .fails(125, &["401", &format!("carrack login {host}")]);
    scene
        .run(["search", "--projects", host])
        .is(0, "open\n", "");
    // A wrong secret is told as such, and kept nowhere.
    login(&scene, host, "alice", "wrong")
        .fails(125, &["401", "password or token of `alice` is wrong"]);

    // A robot account sees its project; Basic goes to the token server only, which gives a Bearer.
    login(&scene, host, "robot$tools+puller", "robot-secret").ok();
    scene.run(["pull", "-q", &tool]).ok();
    assert_eq!(harbor.asked(&["/v2/", "Basic"]), 0);
    assert!(
        harbor.asked(&[
            "/service/token",
            "repository%3Atools%2Fdeep%2Ftool%3Apull",
            "Basic"
        ]) > 0
    );
    scene
        .run(["search", "--projects", host])
        .is(0, "open\ntools\n", "");

    // Somebody who is known but not a member: not a wrong password.
    login(&scene, host, "eve", "eves").ok();
    let refused = scene.run(["pull", "-q", "--store", "other", &tool]);
    refused.fails(
        125,
        &[
            "unauthorized to access repository",
            "`eve` is known there but not allowed",
        ],
    );
    scene
        .run(["search", &format!("{host}/tools")])
        .fails(125, &["403", "`eve` is known there"]);

    // A CLI secret. The catalogue is closed, so projects are asked for; long lists to their end.
    login(&scene, host, "alice", "cli-secret").ok();
    let all = scene.run(["search", host]);
    assert_eq!(all.ok().out.lines().count(), 132, "{all}");
    assert!(all.out.contains(&format!("{host}/many/r129\n")), "{all}");
    scene
        .run(["search", &format!("{host}/tools")])
        .is(0, &format!("{host}/tools/deep/tool\n"), "");
    let long = scene.run(["search", "--long", host, "deep/tool"]);
    let fields: Vec<&str> = long
        .ok()
        .out
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(
        fields,
        [
            &format!("{host}/open/deep/tool"),
            "2,",
            "latest,",
            "1",
            "#",
            "Tool"
        ],
        "{long}"
    );
    let long: Value = serde_json::from_str(
        &scene
            .run(["search", "--long", "--json", host, "tools/"])
            .ok()
            .out,
    )
    .unwrap();
    assert_eq!(long[0]["artifacts"][0]["tags"], json!(["2", "latest"]));
    scene
        .run(["tags", &format!("{host}/tools/deep/tool")])
        .is(0, "1\n", "");
    scene
        .run(["search", &format!("{host}/../x")])
        .fails(2, &["no name of a project"]);

    // The same by the names of other systems' commands, each with a store that does not have it yet.
    let mut other = Scene::new();
    other.env("CARRACK_STORE", scene.path("other-store"));
    let called = |words: &[&str]| super::fronts::called(&other, words[0], &words[1..]);
    let lookup = || called(&["shifterimg", "lookup", &format!("docker:{tool}")]);
    called(&["ces-pull", "podman", "eve", "eves", &tool]).code(125);
    called(&["ces-pull", "podman", "alice", "cli-secret", &tool]).ok();
    assert_eq!(lookup().ok().out.trim().len(), 64);
    called(&["shifterimg", "rm", &format!("docker:{tool}")]).ok();
    login(&other, host, "robot$tools+puller", "robot-secret").ok();
    called(&["shifterimg", "pull", &format!("docker:{tool}")]).ok();
    assert_eq!(lookup().ok().out.trim().len(), 64);

    // jobman's own words for the same.
    scene.write(
        "home/.jobman/settings.json",
        json!({ "harbor": { "url": format!("http://{host}"), "project": "tools" } }).to_string(),
    );
    let called = |words: &[&str]| super::fronts::called(&scene, "jobman", words);
    called(&["images"]).is(0, "NAME       TAGS\ndeep/tool  2, latest, 1\n", "");
    called(&["image-details", "-i", "deep/tool:1"]).is(0, "# Tool\n\nSegments *scans*.\n", "");
}
