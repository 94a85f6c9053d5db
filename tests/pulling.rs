//! From a real registry: schemes, logins, certificates, many at once, and bad days.

use crate::image::layout::{Layout, sha256};
use crate::image::text::Compression;
use crate::image::tree::of_image;
use crate::need::need;
use crate::proxy::{Proxy, Spoil};
use crate::registry::{Manners, Registry};
use crate::scene::{Outcome, Scene};
use std::path::{Path, PathBuf};

const IMAGE: &str = "layer\nd etc/ 755\nf etc/name 644 one\nlayer zstd\nf big 644 size:3000000\nlayer\nf etc/name 644 two\n";

/// A scene with a registry that has `test/image:v1`.
fn scene_with(text: &str) -> (Scene, Registry) {
    let scene = Scene::new();
    let registry = Registry::start(&scene.path(""), Manners::default());
    Layout::of_text(text).write(&scene.path("layout"));
    registry.push(&scene.path("layout"), "test/image", "v1");
    (scene, registry)
}

/// Pulls an OCI layout: digest and path of the squashfs.
#[track_caller]
pub fn pull_layout(scene: &Scene, layout: &Path) -> (String, PathBuf) {
    pulled(&scene.run(["pull", "-q", &format!("oci:{}", layout.display())]))
}

/// Digest and path that a quiet pull printed.
#[track_caller]
fn pulled(outcome: &Outcome) -> (String, PathBuf) {
    outcome.ok();
    let line = String::from_utf8(outcome.stdout.clone()).unwrap();
    let (digest, path) = line.trim_end().split_once('\t').expect("digest TAB path");
    (digest.into(), path.into())
}

#[test]
fn a_pull_prints_the_digest_and_the_path() {
    need!(Registry);
    let (scene, registry) = scene_with(IMAGE);
    let reference = format!("{}/test/image:v1", registry.host());
    let (digest, path) = pulled(&scene.run(["pull", "-q", &reference]));
    assert_eq!(
        digest,
        sha256(Layout::of_text(IMAGE).manifest().to_string().as_bytes())
    );
    assert!(path.starts_with(scene.store()), "{}", path.display());
    let tree = of_image(&path);
    assert_eq!(tree[&b"etc/name"[..]].content, sha256(b"two"));
    // Nothing of the machine's own settings decided this; now the same by digest and by another spelling.
    for other in [
        format!("docker://{reference}"),
        format!("{}/test/image@{digest}", registry.host()),
        format!("{}/test/image:v1@{digest}", registry.host()),
    ] {
        assert_eq!(pulled(&scene.run(["pull", "-q", &other])).0, digest);
    }
}

#[test]
fn an_unchanged_tag_costs_one_request_and_writes_nothing() {
    need!(Registry);
    let (scene, registry) = scene_with(IMAGE);
    let reference = format!("{}/test/image:v1", registry.host());
    let first = pulled(&scene.run(["pull", "-q", &reference]));
    let before = (registry.requests(&[]), scene.visible_in_store());
    let again = pulled(&scene.run(["pull", "-q", &reference]));
    assert_eq!(again, first);
    assert_eq!(
        registry.requests(&["GET ", "/blobs/"]),
        4,
        "one config, three layers"
    );
    assert_eq!(registry.requests(&[]) - before.0, 1);
    assert_eq!(scene.visible_in_store(), before.1);
}

#[test]
fn a_moved_tag_brings_the_new_image_and_reuses_layers() {
    need!(Registry);
    let (scene, registry) = scene_with(IMAGE);
    let reference = format!("{}/test/image:v1", registry.host());
    let first = pulled(&scene.run(["pull", "-q", &reference]));
    let moved = format!("{IMAGE}layer\nf new 644 new\n");
    Layout::of_text(&moved).write(&scene.path("moved"));
    registry.push(&scene.path("moved"), "test/image", "v1");
    let second = pulled(&scene.run(["pull", "-q", &reference]));
    assert_ne!(first.0, second.0);
    assert!(of_image(&second.1).contains_key(&b"new"[..]));
    assert!(first.1.exists(), "the older image may be in use");
    let big = sha256_of_layer(IMAGE, 1);
    assert_eq!(registry.requests(&["GET", &big]), 1, "packed once");
}

fn sha256_of_layer(text: &str, index: usize) -> String {
    sha256(&Layout::of_text(text).layers[index].0)
}

#[test]
fn ten_pulls_at_once_download_each_layer_once() {
    need!(Registry);
    let (scene, registry) = scene_with(IMAGE);
    let reference = format!("{}/test/image:v1", registry.host());
    let results: Vec<(String, PathBuf)> = std::thread::scope(|threads| {
        let started: Vec<_> = (0..10)
            .map(|_| threads.spawn(|| pulled(&scene.run(["pull", "-q", &reference]))))
            .collect();
        started.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(results.iter().all(|result| *result == results[0]));
    for index in 0..3 {
        let digest = sha256_of_layer(IMAGE, index);
        assert_eq!(registry.requests(&["GET", &digest]), 1, "layer {index}");
    }
}

#[test]
fn https_needs_the_authority_and_says_so() {
    need!(Registry, Openssl);
    let (mut scene, plain) = scene_with(IMAGE);
    let tls = plain.beside(
        &scene.path(""),
        Manners {
            tls: true,
            ..Manners::default()
        },
    );
    let reference = format!("{}/test/image:v1", tls.host());
    scene
        .run(["pull", "-q", &reference])
        .fails(125, &["certificate"]);
    let authority = tls.authority();
    scene.env("SSL_CERT_FILE", &authority);
    pulled(&scene.run(["pull", "-q", &reference]));
}

#[test]
fn https_with_an_authority_of_its_own_and_a_login() {
    need!(Registry, Openssl, Htpasswd);
    let (mut scene, plain) = scene_with(IMAGE);
    let manners = Manners {
        tls: true,
        login: Some(("alice", "s3cret")),
    };
    let closed = plain.beside(&scene.path(""), manners);
    let reference = format!("{}/test/image:v1", closed.host());
    scene.env("CARRACK_USERNAME", "alice");
    scene.env("CARRACK_PASSWORD", "s3cret");
    // Nothing is sent to a server that cannot prove who it is.
    scene
        .run(["pull", "-q", &reference])
        .fails(125, &["certificate"]);
    assert_eq!(closed.requests(&[]), 0);
    scene.env("SSL_CERT_FILE", closed.authority());
    pulled(&scene.run(["pull", "-q", &reference]));
    scene.env("CARRACK_PASSWORD", "wrong");
    let outcome = scene.run(["pull", "-q", "--store", "other", &reference]);
    outcome.fails(125, &["401", "`alice`"]);
    assert!(!outcome.err.contains("wrong\""), "{outcome}");
}

#[test]
fn an_authority_may_come_from_the_settings_or_a_directory() {
    need!(Registry, Openssl);
    let (scene, plain) = scene_with(IMAGE);
    let manners = Manners {
        tls: true,
        ..Manners::default()
    };
    let tls = plain.beside(&scene.path(""), manners);
    let reference = format!("{}/test/image:v1", tls.host());
    let pull = |store: &str| scene.run(["pull", "-q", "--store", store, &reference]);
    pull("none").fails(125, &["certificate", "certs.d"]);
    scene.write(
        "authorities/site.crt",
        std::fs::read(tls.authority()).unwrap(),
    );
    let setting = format!(
        "[registries.certificates]\n{:?} = {:?}\n",
        tls.host(),
        scene.path("authorities")
    );
    scene.write("settings.toml", setting);
    pulled(&pull("by-setting"));
    scene.write("settings.toml", "");
    pull("none").fails(125, &["certificate"]);
    let place = format!("home/.config/containers/certs.d/{}/ca.crt", tls.host());
    scene.write(place, std::fs::read(tls.authority()).unwrap());
    pulled(&pull("by-directory"));
    // Plain http to a server of https is told as such.
    scene
        .run(["pull", "-q", "--insecure", "--store", "none", &reference])
        .fails(125, &["https"]);
}

#[test]
fn credential_helpers_give_and_keep() {
    use std::os::unix::fs::PermissionsExt;
    need!(Registry, Htpasswd);
    let (mut scene, plain) = scene_with(IMAGE);
    let manners = Manners {
        login: Some(("alice", "s3cret")),
        ..Manners::default()
    };
    let closed = plain.beside(&scene.path(""), manners);
    let host = closed.host();
    let reference = format!("{host}/test/image:v1");
    let kept = scene.path("kept");
    let helper = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat >{kept:?} ;;\nget) cat >/dev/null; cat {kept:?} ;;\nerase) rm {kept:?} ;;\nesac\n"
    );
    let program = scene.write("bin/docker-credential-test", helper);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:/usr/bin:/bin:/usr/sbin:/sbin",
        scene.path("bin").display()
    );
    scene.env("PATH", path);
    scene.write("home/.docker/config.json", "{\"credsStore\":\"test\"}");
    scene
        .finish(
            scene.command(["login", "--username=alice", "--password-stdin", &host]),
            b"s3cret",
        )
        .ok();
    let config = std::fs::read_to_string(scene.path("home/.docker/config.json")).unwrap();
    assert!(kept.exists() && !config.contains("auth\""), "{config}");
    pulled(&scene.run(["pull", "-q", &reference]));
    scene.run(["logout", &host]).ok();
    assert!(!kept.exists());
    let named = format!("{{\"credHelpers\":{{{host:?}:\"absent\"}}}}");
    scene.write("home/.docker/config.json", named);
    scene
        .run(["pull", "-q", "--store", "other", &reference])
        .fails(125, &["docker-credential-absent"]);
    // A store for all registries that is not here: public images can be had, the rest is told why not.
    scene.write("home/.docker/config.json", "{\"credsStore\":\"absent\"}");
    let told = ["docker-credential-absent", "config.json", "not in PATH"];
    scene
        .run(["pull", "-q", "--store", "other", &reference])
        .fails(125, &told);
    let public = format!("{}/test/image:v1", plain.host());
    scene.run(["pull", "-q", "--store", "other", &public]).ok();
    let login = scene.command(["login", "--username=alice", "--password-stdin", &host]);
    scene.finish(login, b"s3cret").fails(125, &told);
    let config = std::fs::read_to_string(scene.path("home/.docker/config.json")).unwrap();
    assert!(!config.contains("auth"), "{config}");
    let out = scene.run(["logout", &host]);
    assert!(out.ok().err.contains("docker-credential-absent"), "{out}");
}

#[test]
fn tags_and_images_of_a_registry_are_listed() {
    need!(Registry);
    let (scene, registry) = scene_with(IMAGE);
    registry.push(&scene.path("layout"), "test/image", "v2");
    registry.push(&scene.path("layout"), "other", "latest");
    let host = registry.host();
    let image = format!("{host}/test/image");
    scene.run(["tags", &image]).is(0, "v1\nv2\n", "");
    scene
        .run(["tags", "--json", &image])
        .is(0, "[\n  \"v1\",\n  \"v2\"\n]\n", "");
    scene
        .run(["search", &host])
        .is(0, &format!("{host}/other\n{image}\n"), "");
    scene
        .run(["search", &host, "imag"])
        .is(0, &format!("{image}\n"), "");
    scene
        .run(["pull", "-q", &format!("{host}/test/image:latest")])
        .fails(125, &["no tag `latest`; it has `v1`, `v2`"]);
    scene.run(["pull", "-q", &format!("{image}:v1")]).ok();
    let meant = format!("did you mean `docker://{image}:v1`");
    scene.run(["inspect", "image:v1"]).fails(125, &[&meant]);
    scene
        .run(["login", "-uann", "--password-stdin", &image])
        .fails(2, &[&format!("the registry is `{host}`")]);
    scene
        .run(["tags", &format!("{host}/none")])
        .fails(125, &["no repository `none`"]);
    scene
        .run(["search", "a/b"])
        .fails(2, &["not the name of a registry"]);
}

/// More than one page of each. They are made in the registry's storage, which is
/// all that it lists them by.
#[test]
fn long_lists_are_read_to_their_end() {
    need!(Registry);
    let (scene, registry) = scene_with(IMAGE);
    let repositories = registry.storage().join("docker/registry/v2/repositories");
    let tags = repositories.join("test/image/_manifests/tags");
    let (mut want_tags, mut want_names) = (String::new(), String::new());
    for n in 0..1010 {
        std::fs::create_dir(tags.join(format!("t{n:04}"))).unwrap();
        want_tags += &format!("t{n:04}\n");
        let repository = repositories.join(format!("many/r{n:04}"));
        std::fs::create_dir_all(repository.join("_layers")).unwrap();
        want_names += &format!("{}/many/r{n:04}\n", registry.host());
    }
    want_tags += "v1\n";
    let host = registry.host();
    let image = format!("{host}/test/image");
    scene.run(["tags", &image]).is(0, &want_tags, "");
    scene.run(["search", &host, "many/"]).is(0, &want_names, "");
    assert_eq!(registry.requests(&["/_catalog"]), 2, "pages");
    scene
        .run(["pull", "-q", &format!("{image}:t1010")])
        .fails(125, &["t1010", "did you mean `t"]);
}

#[test]
fn compute_nodes_do_not_pull_where_the_site_says_so() {
    need!(Registry);
    let (mut scene, registry) = scene_with(IMAGE);
    let reference = format!("{}/test/image:v1", registry.host());
    scene.write("settings.toml", "[pull]\ncompute_nodes = false\n");
    scene
        .run(["pull", "-q", "--store", "login", &reference])
        .ok();
    scene.env("SLURMD_NODENAME", "n7");
    let before = registry.requests(&[]);
    scene
        .run(["pull", "-q", &reference])
        .fails(125, &["node n7", "pull first on a login node"]);
    assert_eq!(registry.requests(&[]), before, "nothing was asked");
    scene.write("settings.toml", "");
    pulled(&scene.run(["pull", "-q", &reference]));
}

#[test]
fn logins() {
    need!(Registry, Htpasswd);
    let (scene, plain) = scene_with(IMAGE);
    let closed = plain.beside(
        &scene.path(""),
        Manners {
            login: Some(("alice", "s3cret \"x")),
            ..Manners::default()
        },
    );
    let host = closed.host();
    let reference = format!("{host}/test/image:v1");
    let login = |password: &str| {
        scene.finish(
            scene.command(["login", "--username", "alice", "--password-stdin", &host]),
            password.as_bytes(),
        )
    };
    scene
        .run(["pull", "-q", &reference])
        .fails(125, &["carrack login"]);
    let wrong = login("wrong\n");
    assert_eq!(wrong.code, 125, "{wrong}");
    assert!(!wrong.err.contains("wrong\""), "{wrong}");
    login("s3cret \"x\n").ok();
    pulled(&scene.run(["pull", "-q", &reference]));
    // The password is nowhere but in the user's own file.
    let mut found = Vec::new();
    let mut pending = vec![scene.store()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains("s3cret") {
            found.push(path);
        }
    }
    assert!(found.is_empty(), "{found:?}");
    scene.run(["logout", &host]).ok();
    scene
        .run(["pull", "-q", "--store", "other", &reference])
        .fails(125, &["carrack login"]);
}

#[test]
fn bad_days_end_well() {
    need!(Registry);
    let (scene, registry) = scene_with(IMAGE);
    let big = sha256_of_layer(IMAGE, 1);
    let upstream = registry.port();
    let is_blob = |head: &str| head.starts_with("GET") && head.contains("/blobs/");
    type Day = (
        &'static str,
        Box<dyn Fn(usize, &str) -> Spoil + Send + Sync>,
    );
    let days: Vec<Day> = vec![
        (
            "every blob is cut once, near its start",
            Box::new(move |n, head| match n {
                0 if is_blob(head) => Spoil::CutAfter(10),
                _ => Spoil::No,
            }),
        ),
        (
            "the big blob is cut again and again",
            Box::new(move |n, head| match n {
                0..3 if head.contains(&big) => Spoil::CutAfter(500_000),
                _ => Spoil::No,
            }),
        ),
        (
            "everything is throttled once",
            Box::new(|n, _| if n == 0 { Spoil::Busy } else { Spoil::No }),
        ),
        (
            "the server falls over now and then",
            Box::new(|n, _| {
                if n == 0 {
                    Spoil::Status(503)
                } else {
                    Spoil::No
                }
            }),
        ),
        (
            "nothing has a length",
            Box::new(move |_, head| {
                if is_blob(head) {
                    Spoil::NoLength
                } else {
                    Spoil::No
                }
            }),
        ),
    ];
    let mut results = Vec::new();
    for (name, rule) in days {
        let proxy = Proxy::start(upstream, rule);
        let store = format!("--store={}", scene.path(name).display());
        let reference = format!("{}/test/image:v1", proxy.host());
        let outcome = scene.run(["pull", "-q", &store, &reference]);
        assert_eq!(outcome.code, 0, "{name}: {outcome}");
        results.push(sha256(&std::fs::read(pulled(&outcome).1).unwrap()));
    }
    results.dedup();
    assert_eq!(results.len(), 1, "all days give the same bytes");
}

#[test]
fn a_registry_that_stays_bad_is_given_up() {
    need!(Registry);
    let (scene, registry) = scene_with(IMAGE);
    for (spoil, words) in [
        (Spoil::Status(403), &["403"][..]),
        (Spoil::Status(404), &["test/image"]),
        (Spoil::Status(401), &["401"]),
    ] {
        let proxy = Proxy::start(registry.port(), move |_, _| spoil);
        let reference = format!("{}/test/image:v1", proxy.host());
        scene.run(["pull", "-q", &reference]).fails(125, words);
        assert!(proxy.heads().len() < 20, "it does not insist");
    }
    assert!(scene.visible_in_store().is_empty());
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    need!(Registry, Htpasswd);
    let (scene, plain) = scene_with(IMAGE);
    let closed = plain.beside(
        &scene.path(""),
        Manners {
            login: Some(("alice", "s3cret")),
            ..Manners::default()
        },
    );
    let elsewhere = Proxy::start(plain.port(), |_, _| Spoil::No);
    let port = elsewhere.port();
    let front = Proxy::start(closed.port(), move |_, head| {
        match head.starts_with("GET") && head.contains("/blobs/") {
            true => Spoil::RedirectTo(port),
            false => Spoil::No,
        }
    });
    scene
        .finish(
            scene.command([
                "login",
                "--username=alice",
                "--password-stdin",
                &front.host(),
            ]),
            b"s3cret",
        )
        .ok();
    let reference = format!("{}/test/image:v1", front.host());
    pulled(&scene.run(["pull", "-q", &reference]));
    let asked = elsewhere.heads();
    assert!(!asked.is_empty());
    for head in asked {
        assert!(!head.to_lowercase().contains("authorization:"), "{head}");
    }
    assert!(
        front
            .heads()
            .iter()
            .any(|h| h.to_lowercase().contains("authorization:")),
        "the registry itself was asked with them"
    );
}

#[test]
fn compression_of_layers_does_not_change_the_image() {
    let scene = Scene::new();
    let mut seen = Vec::new();
    for how in [
        Compression::Plain,
        Compression::Gzip,
        Compression::GzipMembers,
        Compression::Zstd,
    ] {
        let mut image = crate::image::text::parse(IMAGE);
        image.layers.iter_mut().for_each(|l| l.compression = how);
        let layout = scene.path(format!("{how:?}"));
        Layout::of(&image).write(&layout);
        for store in ["a", "b"] {
            // Store `a` has the packs of the first round; each `b` converts from nothing.
            let store = match store {
                "a" => scene.path("shared"),
                _ => scene.path(format!("own-{how:?}")),
            };
            let store = format!("--store={}", store.display());
            let layout = format!("oci:{}", layout.display());
            let (_, path) = pulled(&scene.run(["pull", "-q", &store, &layout]));
            seen.push(sha256(&std::fs::read(path).unwrap()));
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "equal layers give equal bytes");
}
