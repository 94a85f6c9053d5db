use super::*;

fn digest(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

fn item(media_type: &str, letter: char, size: i64) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":{size}}}"#,
        digest(letter)
    )
}

fn manifest_text(layer_type: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        item(oci::IMAGE_CONFIG_MEDIA_TYPE, 'c', 10),
        item(layer_type, 'd', 20)
    )
}

fn platform(text: &str) -> Platform {
    let mut parts = text.split('/');
    let mut next = || parts.next().unwrap_or_default();
    normal_platform(next(), next(), next())
}

#[test]
fn layer_media_types() {
    let rows = [
        ("application/vnd.oci.image.layer.v1.tar", None),
        ("application/vnd.oci.image.layer.v1.tar+gzip", None),
        ("application/vnd.oci.image.layer.v1.tar+zstd", None),
        ("application/vnd.docker.image.rootfs.diff.tar", None),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", None),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", None),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Some("foreign"),
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            Some("foreign"),
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            Some("encrypted"),
        ),
        ("application/vnd.oci.image.layer.v1.tar+lz4", Some("`lz4`")),
        (
            "application/vnd.in-toto+json",
            Some("not a file system layer"),
        ),
    ];
    for (media_type, refused) in rows {
        match (parse(manifest_text(media_type).as_bytes(), None), refused) {
            (Ok(Document::Manifest(manifest)), None) => {
                assert_eq!(manifest.layers[0].media_type, media_type);
                assert_eq!(manifest.layers[0].size, 20);
            }
            (Err(error), Some(says)) => {
                let text = error.to_string();
                assert!(
                    text.contains(says) && text.contains("layer 1 of 1"),
                    "{text}"
                );
            }
            (other, _) => panic!("{media_type}: {other:?}"),
        }
    }
}

#[test]
fn documents_that_are_not_what_they_seem() {
    let config = item(oci::IMAGE_CONFIG_MEDIA_TYPE, 'c', 10);
    let entry = item(oci::OCI_IMAGE_MEDIA_TYPE, 'a', 10);
    let plain = manifest_text("application/vnd.oci.image.layer.v1.tar");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
    let v1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let rows: Vec<(String, Option<&str>, &str)> = vec![
        (
            plain.clone(),
            Some(oci::OCI_IMAGE_INDEX_MEDIA_TYPE),
            "content is that of a manifest",
        ),
        (
            index.clone(),
            Some(oci::IMAGE_MANIFEST_MEDIA_TYPE),
            "content is that of an index",
        ),
        (
            index.replace(
                "2,",
                &format!(r#"2,"mediaType":"{}","#, oci::OCI_IMAGE_MEDIA_TYPE),
            ),
            None,
            "content is that of an index",
        ),
        (
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#),
            None,
            "both `manifests` and `layers`",
        ),
        (r#"{"schemaVersion":2}"#.into(), None, "neither"),
        (
            r#"{"schemaVersion":1,"fsLayers":[]}"#.into(),
            None,
            "schema 1",
        ),
        (plain.clone(), Some(v1), "schema 1"),
        (plain.replace(":2", ":3"), None, "is not 2"),
        (plain.replace("10}", "-10}"), None, "negative"),
        (plain.replace("20}", "-1}"), None, "negative"),
        (
            plain.replace(&digest('d'), "sha256:../../etc/passwd"),
            None,
            "not a digest",
        ),
        (
            plain.replace(r#""layers":"#, r#""layers":[],"layers":"#),
            None,
            "duplicate field",
        ),
        (
            plain.replace(
                oci::IMAGE_CONFIG_MEDIA_TYPE,
                "application/vnd.cncf.helm.config.v1+json",
            ),
            None,
            "artifact of type `application/vnd.cncf.helm",
        ),
        ("[".repeat(100_000), None, "cannot read"),
        ("{".into(), None, "cannot read"),
        (String::new(), None, "cannot read"),
        (" ".repeat(MAX_BYTES + 1), None, "limit"),
        (
            format!(
                r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
                vec![item("application/vnd.oci.image.layer.v1.tar", 'd', 1); MAX_LAYERS + 1]
                    .join(",")
            ),
            None,
            "limit",
        ),
    ];
    for (text, stated, says) in rows {
        let error = parse(text.as_bytes(), stated).expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    // Types that say nothing, and types with parameters, are fine.
    for stated in [
        "application/json",
        "text/plain; charset=utf-8",
        &format!("{}; charset=utf-8", oci::OCI_IMAGE_MEDIA_TYPE),
    ] {
        assert!(parse(plain.as_bytes(), Some(stated)).is_ok(), "{stated}");
    }
}

fn index_of(rows: &[(&str, &str)]) -> Index {
    let entries = rows
        .iter()
        .zip('a'..='f')
        .map(|((kind, text), letter)| Entry {
            descriptor: descriptor(
                match *kind {
                    "index" => oci::OCI_IMAGE_INDEX_MEDIA_TYPE,
                    _ => oci::OCI_IMAGE_MEDIA_TYPE,
                },
                &digest(letter),
                1,
            )
            .unwrap(),
            platform: (!text.is_empty()).then(|| platform(text)),
            annotations: match *kind {
                "proof" => {
                    BTreeMap::from([(ANNOTATION_TYPE.into(), "attestation-manifest".into())])
                }
                _ => BTreeMap::new(),
            },
        })
        .collect();
    Index { entries }
}

#[test]
fn platform_choice() {
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let rows: &[Row] = &[
        (
            &[("image", "linux/arm64"), ("image", "linux/amd64")],
            "linux/amd64",
            "b",
        ),
        (&[("image", "linux/arm64/v8")], "linux/arm64", "a"),
        (&[("image", "linux/aarch64")], "linux/arm64/v8", "a"),
        (
            &[("image", "linux/amd64"), ("image", "linux/amd64/v3")],
            "linux/amd64/v3",
            "b",
        ),
        (
            &[("image", "linux/amd64"), ("image", "linux/amd64/v3")],
            "linux/amd64/v4",
            "b",
        ),
        (
            &[("image", "linux/amd64/v3"), ("image", "linux/amd64")],
            "linux/amd64",
            "b",
        ),
        (&[("image", "linux/amd64/v3")], "linux/amd64/v2", "-"),
        (
            &[("image", "linux/arm/v6"), ("image", "linux/arm/v7")],
            "linux/arm",
            "b",
        ),
        (
            &[("image", "linux/arm/v5"), ("image", "linux/arm/v6")],
            "linux/arm/v7",
            "b",
        ),
        (
            &[("image", "linux/amd64"), ("image", "linux/amd64")],
            "linux/amd64",
            "a",
        ),
        (
            &[("proof", "linux/amd64"), ("image", "linux/amd64")],
            "linux/amd64",
            "b",
        ),
        (
            &[("image", "unknown/unknown"), ("image", "linux/amd64")],
            "linux/amd64",
            "b",
        ),
        (&[("image", "windows/amd64")], "linux/amd64", "-"),
        (&[("image", "")], "linux/amd64", "a"),
        (&[("image", ""), ("image", "")], "linux/amd64", "-"),
        (
            &[("index", ""), ("image", "linux/arm64")],
            "linux/amd64",
            "a",
        ),
        (
            &[("index", ""), ("image", "linux/amd64")],
            "linux/amd64",
            "ba",
        ),
        (
            &[("index", "linux/arm64"), ("index", "linux/amd64")],
            "linux/amd64",
            "b",
        ),
        (&[], "linux/amd64", "-"),
    ];
    for (entries, wanted, expected) in rows {
        let index = index_of(entries);
        let chosen = match index.choose(&platform(wanted)) {
            Ok(chosen) => chosen
                .iter()
                .map(|entry| entry.descriptor.digest.hex().remove(0))
                .collect(),
            Err(_) => "-".to_string(),
        };
        assert_eq!(&chosen, expected, "{entries:?} for {wanted}");
    }
    let index = index_of(&[("image", "linux/arm64"), ("proof", "unknown/unknown")]);
    let error = index.choose(&platform("linux/amd64")).unwrap_err();
    assert_eq!(error.causes(), ["it has: linux/arm64"]);
}

#[test]
fn configs() {
    let diff_id = digest('e');
    let full = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z",
        "config":{{"Env":["A=1","B="],"Entrypoint":["/e"],"Cmd":["c","d"],"WorkingDir":"/w","User":"u:g",
        "Labels":{{"x":"y","n":null}},"Volumes":{{"/v":{{}}}},"ExposedPorts":{{"80/tcp":{{}}}},"StopSignal":"SIGINT"}},
        "rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},
        "history":[{{"created_by":"one"}},{{"empty_layer":true}}]}}"#
    );
    let config = parse_config(full.as_bytes(), 1).unwrap();
    assert_eq!(config.config.env, ["A=1", "B="]);
    assert_eq!(config.config.entrypoint, ["/e"]);
    assert_eq!(config.config.cmd, ["c", "d"]);
    assert_eq!(
        (config.config.workdir.as_str(), config.config.user.as_str()),
        ("/w", "u:g")
    );
    assert_eq!(config.config.labels["n"], "");
    assert_eq!(config.config.volumes, ["/v"]);
    assert_eq!(config.config.exposed_ports, ["80/tcp"]);
    assert_eq!(config.history, ["one", ""]);
    assert_eq!(platform_text(&config.platform), "linux/amd64");
    assert_eq!(config.diff_ids.len(), 1);
    // What Go writes for nothing.
    let nulls = r#"{"config":{"Env":null,"Cmd":null,"Labels":null,"Volumes":null},"rootfs":{"diff_ids":null},"history":null}"#;
    assert_eq!(
        parse_config(nulls.as_bytes(), 0).unwrap().config,
        ImageConfig::default()
    );
    assert!(parse_config(br#"{"config":null}"#, 0).is_ok());
    let more = parse_config(full.as_bytes(), 2).unwrap_err().to_string();
    assert!(
        more.contains("lists 1 layers, the manifest has 2"),
        "{more}"
    );
    let bad = full.replace(&diff_id, "sha256:1");
    assert!(parse_config(bad.as_bytes(), 1).is_err());
}

#[test]
fn an_image_for_another_machine_is_refused() {
    let (amd, arm) = (platform("linux/amd64"), platform("linux/arm64"));
    assert!(check_platform(&amd, &amd).is_ok());
    assert!(check_platform(&Platform::default(), &amd).is_ok());
    let error = check_platform(&arm, &amd).unwrap_err();
    assert!(error.hints()[0].contains("--platform linux/arm64"));
}

#[test]
fn tags_of_a_layout() {
    let mut index = index_of(&[("image", ""), ("image", ""), ("proof", "")]);
    for (entry, tag) in index.entries.iter_mut().zip(["v1", "v2", "v1"]) {
        entry.annotations.insert(ANNOTATION_NAME.into(), tag.into());
    }
    assert_eq!(index.tagged(Some("v1")).len(), 1);
    assert_eq!(index.tagged(Some(&digest('b'))).len(), 1);
    assert_eq!(index.tagged(Some("v3")).len(), 0);
    assert_eq!(index.tagged(None).len(), 2);
}
