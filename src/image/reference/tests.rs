use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Reference> {
    text.parse()
}

#[test]
fn normal_forms() {
    let hex = "a".repeat(64);
    let rows = [
        ("alpine", "docker://docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker://docker.io/library/alpine:3.20"),
        (
            "docker://ubuntu",
            "docker://docker.io/library/ubuntu:latest",
        ),
        (
            "index.docker.io/rocker/r-ver",
            "docker://docker.io/rocker/r-ver:latest",
        ),
        (
            "docker.io/alpine",
            "docker://docker.io/library/alpine:latest",
        ),
        (
            "registry-1.docker.io/library/alpine",
            "docker://docker.io/library/alpine:latest",
        ),
        (
            "registry.site.eu:5000/nwp/wrf:v2",
            "docker://registry.site.eu:5000/nwp/wrf:v2",
        ),
        (
            "Registry.Site.EU/nwp/wrf",
            "docker://registry.site.eu/nwp/wrf:latest",
        ),
        ("localhost/x", "docker://localhost/x:latest"),
        ("localhost:5000/x:1", "docker://localhost:5000/x:1"),
        ("[::1]:5000/x:1", "docker://[::1]:5000/x:1"),
        ("team/app", "docker://docker.io/team/app:latest"),
        (
            "nvcr.io#nvidia/pytorch:24.01-py3",
            "docker://nvcr.io/nvidia/pytorch:24.01-py3",
        ),
        (
            "$oauthtoken@nvcr.io#nvidia/cuda:12",
            "docker://nvcr.io/nvidia/cuda:12",
        ),
        ("docker://host:5000#a/b", "docker://host:5000/a/b:latest"),
        // Without the `#` it would be a repository of the default registry.
        ("node7#a/b", "docker://node7#a/b:latest"),
        ("NODE7/a/b", "docker://node7#a/b:latest"),
        (
            "a.b/c/d__e.f---g:T_1.x-",
            "docker://a.b/c/d__e.f---g:T_1.x-",
        ),
        ("h.eu/x:v1.sqsh", "squashfs:h.eu/x:v1.sqsh"),
        ("docker://h.eu/x:v1.sqsh", "docker://h.eu/x:v1.sqsh"),
        ("x.sqsh", "x.sqsh"),
        ("./x.squashfs", "./x.squashfs"),
        ("/p/X.SQFS", "/p/X.SQFS"),
        ("squashfs:odd", "squashfs:odd"),
        ("squashfs:x.sqsh", "x.sqsh"),
        ("squashfs:tar:x.sqsh", "squashfs:tar:x.sqsh"),
        ("tool.sif", "tool.sif"),
        ("sif:tool", "sif:tool"),
        ("oci:dir", "oci:dir"),
        ("oci:/a/b:v1", "oci:/a/b:v1"),
        ("oci-archive:f.tar:v1", "oci-archive:f.tar:v1"),
        ("docker-archive:f.tar", "docker-archive:f.tar"),
        (
            "docker-archive:f.tar:repo/x:1",
            "docker-archive:f.tar:repo/x:1",
        ),
        ("dir:/srv/root:fs", "dir:/srv/root:fs"),
        ("tar:root.bin", "tar:root.bin"),
        ("saved.tar.gz", "saved.tar.gz"),
        ("/srv/thing", "/srv/thing"),
        ("/a:b://c", "/a:b://c"),
        ("..", ".."),
    ];
    for (text, normal) in rows {
        let reference = parse(text).unwrap();
        assert_eq!(reference.to_string(), normal, "{text}");
        assert_eq!(parse(normal).unwrap(), reference, "{text}");
    }
    for (text, normal) in [
        (
            format!("h.eu/x@sha256:{hex}"),
            format!("docker://h.eu/x@sha256:{hex}"),
        ),
        (
            format!("h.eu:1/x:t@sha256:{hex}"),
            format!("docker://h.eu:1/x:t@sha256:{hex}"),
        ),
        (
            format!("u@h.eu#x@sha256:{hex}"),
            format!("docker://h.eu/x@sha256:{hex}"),
        ),
    ] {
        let reference = parse(&text).unwrap();
        assert_eq!(reference.to_string(), normal);
        assert_eq!(reference.name().unwrap().version(), format!("sha256:{hex}"));
    }
}

#[test]
fn kinds() {
    let path = || PathBuf::from("p");
    let tag = || Some("t:1".to_string());
    let rows = [
        (
            "oci:p:t:1",
            Reference::Layout {
                path: path(),
                tag: tag(),
            },
        ),
        (
            "oci-archive:p:t:1",
            Reference::OciArchive {
                path: path(),
                tag: tag(),
            },
        ),
        (
            "docker-archive:p:t:1",
            Reference::DockerArchive {
                path: path(),
                tag: tag(),
            },
        ),
        ("dir:p", Reference::Directory(path())),
        ("tar:p", Reference::RootfsTar(path())),
        ("squashfs:p", Reference::Squashfs(path())),
        ("sif:p", Reference::Sif(path())),
        ("p.sqsh", Reference::Squashfs("p.sqsh".into())),
        ("p.sif", Reference::Sif("p.sif".into())),
        ("p.tar", Reference::File("p.tar".into())),
        ("./p", Reference::File("./p".into())),
    ];
    for (text, reference) in rows {
        assert_eq!(parse(text).unwrap(), reference, "{text}");
    }
    let inside = parse("p.sqsh").unwrap().absolute(Path::new("/w"));
    assert_eq!(inside.path(), Some(Path::new("/w/p.sqsh")));
}

#[test]
fn a_site_names_another_default_registry() {
    let reference = Reference::parse("team/app", "registry.site.eu").unwrap();
    assert_eq!(
        reference.to_string(),
        "docker://registry.site.eu/team/app:latest"
    );
    // No `library/` outside Docker Hub.
    let reference = Reference::parse("app", "registry.site.eu").unwrap();
    assert_eq!(
        reference.to_string(),
        "docker://registry.site.eu/app:latest"
    );
}

#[test]
fn registries_alone() {
    let rows = [
        ("ghcr.io", Some("ghcr.io")),
        ("https://Ghcr.io/", Some("ghcr.io")),
        ("host:5000", Some("host:5000")),
        ("https://index.docker.io/v1/", Some("docker.io")),
        ("docker.io", Some("docker.io")),
        ("[::1]:5000", Some("[::1]:5000")),
        ("host/path", None),
        ("user@host", None),
        ("", None),
    ];
    for (text, expected) in rows {
        assert_eq!(registry_name(text).ok().as_deref(), expected, "{text}");
    }
}

#[test]
fn refused_with_a_reason() {
    let long = format!("h.eu/{}", "a".repeat(300));
    // `library/` is put in front.
    let hub = "a".repeat(250);
    let huge = "a".repeat(5000);
    let tag = format!("x:{}", "t".repeat(129));
    let digest = format!("sha256:{}", "a".repeat(64));
    let upper = format!("h.eu/x@sha256:{}", "A".repeat(64));
    let sha512 = format!("h.eu/x@sha512:{}", "a".repeat(128));
    let rows = [
        ("", "empty"),
        (huge.as_str(), "too long"),
        (long.as_str(), "characters"),
        (hub.as_str(), "258 characters"),
        (tag.as_str(), "is not a tag"),
        (upper.as_str(), "lower-case hex"),
        (sha512.as_str(), "only sha256"),
        ("h.eu/x@sha256:1", "64"),
        (digest.as_str(), "NAME@sha256:aaa"),
        ("sha256:f827", "a digest alone"),
        ("h.eu/x:", "is not a tag"),
        ("h.eu/x:-a", "is not a tag"),
        ("h.eu/x:a b", "is not a tag"),
        ("h.eu/", "no image name"),
        ("docker://", "no image name"),
        ("h.eu/a//b", "is not a part"),
        ("h.eu/../b", "is not a part"),
        ("h.eu/a/..", "is not a part"),
        ("h.eu/a___b", "is not a part"),
        ("h.eu/a._b", "is not a part"),
        ("h.eu/a-", "is not a part"),
        ("h.eu/a%2e", "is not a part"),
        ("h.eu/MyApp", "lower case"),
        ("h.eu:0/x", "port"),
        ("h.eu:99999/x", "port"),
        ("h.eu:/x", "port"),
        ("-h.eu/x", "host name"),
        ("h..eu/x", "host name"),
        ("[::1/x", "closing"),
        ("[zz]/x", "IPv6"),
        ("a\nb", "control"),
        ("x\u{1b}[2J", "control"),
        ("docker:alpine", "write `docker://alpine`"),
        ("https://h.eu/x", "write `docker://h.eu/x`"),
        ("docker-daemon:x", "docker save"),
        ("library://a/b/c", ".sif"),
        ("ftp://x/y", "not a known source"),
        ("oci:", "no path"),
        ("oci::tag", "no path"),
        ("oci:d:", "empty"),
        ("dir:", "no path"),
    ];
    for (text, says) in rows {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn only_what_is_valid_is_proposed() {
    let rows = [
        ("h.eu/MyApp", Some("did you mean `h.eu/myapp`?")),
        ("h.eu/My/App:V1", Some("did you mean `h.eu/my/app:V1`?")),
        ("h.eu/My App", None),
        ("h.eu/MyApp:a b", None),
    ];
    for (text, hint) in rows {
        let error = parse(text).expect_err(text);
        assert_eq!(error.hints().first().map(String::as_str), hint, "{text}");
    }
    // A part with a capital is a host by docker's rule, so the bare name is one of the site's registry.
    let error = parse("Bad Name").expect_err("a space");
    assert!(error.hints().is_empty(), "{error}");
    let error = parse("MyApp").expect_err("capitals");
    assert_eq!(error.hints(), ["did you mean `myapp`?"]);
}

#[test]
fn a_password_is_not_repeated() {
    let long = format!("user:pw9@h.eu/a@sha256:{}", "a".repeat(64));
    for text in [
        "user:pw9@h.eu/a:b",
        "docker://user:pw9@h.eu/a",
        "https://user:pw9@h.eu/a",
        "user:pw9@pw9/pw9@h.eu/a",
        "user:pw9@h.eu#Bad",
        "user@h.eu/a",
        long.as_str(),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(!error.contains("pw9"), "{text}: {error}");
        assert!(error.contains("`carrack login h.eu`"), "{text}: {error}");
    }
    for text in ["user:pw9@h.eu", "https://user:p@w9@h.eu/v1/"] {
        let error = registry_name(text).expect_err(text).to_string();
        assert!(
            error.contains("`carrack login h.eu`") && !error.contains("w9"),
            "{text}: {error}"
        );
    }
    // Files may be called so.
    assert!(parse("./user:pw9@h.eu/a").is_ok());
    assert!(parse("dir:user:pw9@h.eu/a").is_ok());
}

proptest! {
    #[test]
    fn any_text_is_refused_or_round_trips(text in "\\PC{0,60}") {
        if let Ok(reference) = parse(&text) {
            prop_assert_eq!(parse(&reference.to_string()).unwrap(), reference);
        }
    }

    #[test]
    fn texts_near_the_grammar_round_trip(
        text in "(docker://|oci:|dir:|tar:|squashfs:|sif:|oci-archive:|/|\\./)?[aAb.:/#@_-]{0,12}(\\.sqsh|\\.sif|\\.tar|:1)?"
    ) {
        if let Ok(reference) = parse(&text) {
            prop_assert_eq!(parse(&reference.to_string()).unwrap(), reference);
        }
    }
}
