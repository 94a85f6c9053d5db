use super::*;
use std::os::unix::fs::PermissionsExt;

fn places(directory: &Path) -> Places {
    let file = directory.join("deep/config.json");
    Places {
        fixed: None,
        files: vec![file.clone()],
        own: Some(file),
    }
}

fn put(places: &Places, text: &str) {
    let path = &places.files[0];
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn password(user: &str, password: &str) -> Option<Credential> {
    Some(password_or_token(user, password))
}

#[test]
fn entries_of_auths() {
    let scratch = tempfile::tempdir().unwrap();
    let places = places(scratch.path());
    // `dTpw` is `u:p`, `dTpwOnE=` is `u:p:q`.
    let rows = [
        (
            r#"{"auths":{"h.eu":{"auth":"dTpw"}}}"#,
            "h.eu",
            "x",
            password("u", "p"),
        ),
        (
            r#"{"auths":{"h.eu":{"auth":"dTpwOnE="}}}"#,
            "h.eu",
            "x",
            password("u", "p:q"),
        ),
        (
            r#"{"auths":{"h.eu":{"auth":"dTpwOnE"}}}"#,
            "h.eu",
            "x",
            password("u", "p:q"),
        ),
        (
            r#"{"auths":{"https://h.eu/v1/":{"auth":"dTpw"}}}"#,
            "h.eu",
            "x",
            password("u", "p"),
        ),
        (
            r#"{"auths":{"http://H.eu":{"auth":"dTpw"}}}"#,
            "h.eu",
            "x",
            password("u", "p"),
        ),
        (
            r#"{"auths":{"h.eu:5000":{"auth":"dTpw"}}}"#,
            "h.eu",
            "x",
            None,
        ),
        (
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#,
            "docker.io",
            "x",
            password("u", "p"),
        ),
        (
            r#"{"auths":{"docker.io":{"username":"a","password":"b"}}}"#,
            "docker.io",
            "x",
            password("a", "b"),
        ),
        (
            r#"{"auths":{"h.eu":{"auth":"dTo=","identitytoken":"t"}}}"#,
            "h.eu",
            "x",
            Some(Credential::Identity(Secret::new("t"))),
        ),
        (
            r#"{"auths":{"h.eu":{"username":"<token>","password":"t"}}}"#,
            "h.eu",
            "x",
            Some(Credential::Identity(Secret::new("t"))),
        ),
        (r#"{"auths":{"h.eu":{}}}"#, "h.eu", "x", None),
        (
            r#"{"auths":{"h.eu":{"auth":"dTpw"},"h.eu/team":{"username":"t","password":"p"}}}"#,
            "h.eu",
            "team/app",
            password("t", "p"),
        ),
        (
            r#"{"auths":{"h.eu":{"auth":"dTpw"},"h.eu/team":{"username":"t","password":"p"}}}"#,
            "h.eu",
            "teams/app",
            password("u", "p"),
        ),
        (
            r#"{"credsStore":"not-on-this-machine","auths":{}}"#,
            "h.eu",
            "x",
            None,
        ),
        ("{}", "h.eu", "x", None),
        ("", "h.eu", "x", None),
    ];
    for (text, registry, repository, expected) in rows {
        put(&places, text);
        assert_eq!(
            find(registry, repository, &places).unwrap(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn broken_files_are_named_without_their_secrets() {
    let scratch = tempfile::tempdir().unwrap();
    let places = places(scratch.path());
    for text in [
        r#"{"auths":{"h.eu":{"auth":"aGlkZGVu"}}}"#,
        r#"{"auths":{"h.eu":{"auth":"hidden!"}}}"#,
        r#"{"auths":{"h.eu":{"auth":"hidden"#,
        r#"["hidden"]"#,
    ] {
        put(&places, text);
        let error = find("h.eu", "x", &places).unwrap_err().to_string();
        assert!(
            error.contains("config.json") && !error.contains("hidden"),
            "{error}"
        );
    }
}

#[test]
fn saving_keeps_the_rest_of_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let places = places(scratch.path());
    let secret = Secret::new("s3cret");
    let kept = save("h.eu:5000", "ann", &secret, false, &places).unwrap();
    let path = places.files[0].clone();
    assert_eq!(kept, Kept::File(path.clone()));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));

    put(
        &places,
        r#"{"HttpHeaders":{"X":"y"},"auths":{"other":{"auth":"dTpw"},"https://h.eu/v1/":{"auth":"dTpw"}}}"#,
    );
    save("h.eu", "ann", &secret, false, &places).unwrap();
    save("docker.io", "bob", &Secret::new("refresh"), true, &places).unwrap();
    let file = read(&path).unwrap().unwrap();
    assert_eq!(file["HttpHeaders"]["X"], "y");
    let names: Vec<&String> = file["auths"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["h.eu", DOCKER_HUB_KEY, "other"]);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(
        find("h.eu", "", &places).unwrap(),
        password("ann", "s3cret")
    );
    assert_eq!(
        find("docker.io", "", &places).unwrap(),
        Some(Credential::Identity(Secret::new("refresh")))
    );

    assert_eq!(remove("h.eu", &places).unwrap(), [Kept::File(path.clone())]);
    assert_eq!(remove("h.eu", &places).unwrap(), []);
    assert_eq!(find("h.eu", "", &places).unwrap(), None);
    assert_eq!(find("other", "", &places).unwrap(), password("u", "p"));

    put(&places, "not json");
    assert!(save("h.eu", "ann", &secret, false, &places).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not json");
}

#[test]
fn a_linked_file_stays_a_link() {
    let scratch = tempfile::tempdir().unwrap();
    let places = places(scratch.path());
    put(&places, "{}");
    let (link, real) = (places.files[0].clone(), scratch.path().join("real.json"));
    std::fs::rename(&link, &real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    save("h.eu", "ann", &Secret::new("x"), false, &places).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(std::fs::read_to_string(&real).unwrap().contains("h.eu"));
}

#[test]
fn the_environment_comes_first_and_only_for_its_registry() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("password");
    std::fs::write(&file, "from-file\n").unwrap();
    let path = file.display().to_string();
    let with = |pairs: &[(&str, &str)]| {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Places::from_variables(&move |name| {
            pairs
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        })
    };
    let here = with(&[("CARRACK_USERNAME", "u"), ("CARRACK_PASSWORD", "p")]);
    assert_eq!(find("h.eu", "", &here).unwrap(), password("u", "p"));
    let only = with(&[
        ("CARRACK_USERNAME", "u"),
        ("CARRACK_PASSWORD_FILE", &path),
        ("CARRACK_REGISTRY", "h.eu"),
    ]);
    assert_eq!(find("h.eu", "", &only).unwrap(), password("u", "from-file"));
    assert_eq!(find("mirror.eu", "", &only).unwrap(), None);
    let home = with(&[
        ("HOME", "/h"),
        ("XDG_RUNTIME_DIR", "/r"),
        ("REGISTRY_AUTH_FILE", "/a"),
    ]);
    let files: Vec<String> = home
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    assert_eq!(
        files,
        [
            "/a",
            "/h/.docker/config.json",
            "/r/containers/auth.json",
            "/h/.config/containers/auth.json"
        ]
    );
    assert_eq!(home.own, Some("/a".into()));
}
