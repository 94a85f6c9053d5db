//! Local sources: each builds its own small image in a temporary directory.

use super::*;
use crate::image::manifest::normal_platform;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

fn amd64() -> Platform {
    normal_platform("linux", "amd64", "")
}

fn open_text(text: &str) -> Result<Box<dyn Source>> {
    super::open(&text.parse()?, &SourceSettings::default())
}

fn fails(text: &str) -> String {
    match open_text(text).and_then(|source| source.resolve(&amd64())) {
        Ok(resolved) => panic!("{text}: {resolved:?}"),
        Err(error) => error.to_string(),
    }
}

fn read(source: &dyn Source, layer: &Descriptor) -> Vec<u8> {
    let mut bytes = Vec::new();
    source.blob(layer).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// What a resolved image is made of, with its layers' bytes checked against their descriptors.
fn layers_of(source: &dyn Source) -> (Digest, Config, Vec<Vec<u8>>) {
    match source.resolve(&amd64()).unwrap() {
        Resolved::Layers {
            manifest_digest,
            config,
            layers,
            ..
        } => {
            let bytes = layers
                .iter()
                .map(|layer| {
                    let bytes = read(source, layer);
                    assert_eq!(Digest::of(&bytes), layer.digest);
                    assert_eq!(bytes.len() as u64, layer.size);
                    bytes
                })
                .collect();
            (manifest_digest, config, bytes)
        }
        other => panic!("{other:?}"),
    }
}

fn tar_of(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, data.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The files of a layout with one image per tag; every image has one plain and one gzip layer.
#[derive(Default)]
struct Made {
    files: BTreeMap<String, Vec<u8>>,
    entries: Vec<String>,
}

impl Made {
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        let name = format!("blobs/sha256/{}", digest.hex());
        self.files.insert(name, bytes.to_vec());
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#,
            bytes.len()
        )
    }

    fn image(&mut self, mark: &str, architecture: &str) -> String {
        let plain = tar_of(&BTreeMap::from([("a".into(), mark.into())]));
        let second = tar_of(&BTreeMap::from([("b".into(), mark.into())]));
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","config":{{"Env":["MARK={mark}"]}},"rootfs":{{"diff_ids":["{}","{}"]}}}}"#,
            Digest::of(&plain),
            Digest::of(&second)
        );
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{}]}}"#,
            self.blob(
                "application/vnd.oci.image.config.v1+json",
                config.as_bytes()
            ),
            self.blob(tar, &plain),
            self.blob(&format!("{tar}+gzip"), &gzip(&second))
        );
        self.blob(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.as_bytes(),
        )
    }

    fn tag(&mut self, entry: &str, tag: &str) {
        let annotation =
            format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}"#);
        self.entries
            .push(format!("{}{annotation}", entry.trim_end_matches('}')));
    }

    fn finish(mut self) -> BTreeMap<String, Vec<u8>> {
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            self.entries.join(",")
        );
        self.files.insert("index.json".into(), index.into());
        let layout = r#"{"imageLayoutVersion":"1.0.0"}"#;
        self.files.insert("oci-layout".into(), layout.into());
        self.files
    }
}

fn write(directory: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn layouts_in_directories_and_archives() {
    let scratch = tempfile::tempdir().unwrap();
    let mut made = Made::default();
    for tag in ["v1", "v2"] {
        let image = made.image(tag, "amd64");
        made.tag(&image, tag);
    }
    let files = made.finish();
    let directory = scratch.path().join("layout");
    write(&directory, &files);
    let tar = scratch.path().join("layout.tar");
    fs::write(&tar, tar_of(&files)).unwrap();
    let packed = scratch.path().join("packed.tar.gz");
    fs::write(&packed, gzip(&tar_of(&files))).unwrap();

    for base in [
        format!("oci:{}", directory.display()),
        format!("oci-archive:{}", tar.display()),
        format!("oci-archive:{}", packed.display()),
    ] {
        let source = open_text(&format!("{base}:v2")).unwrap();
        let (_, config, layers) = layers_of(source.as_ref());
        assert_eq!(config.config.env, ["MARK=v2"]);
        assert_eq!(layers.len(), 2);
        let several = fails(&base);
        assert!(
            several.contains("several images") && several.contains("`v1`, `v2`"),
            "{several}"
        );
        let missing = fails(&format!("{base}:v3"));
        assert!(missing.contains("no image named `v3`"), "{missing}");
    }
}

#[test]
fn layouts_with_several_platforms() {
    let scratch = tempfile::tempdir().unwrap();
    let mut made = Made::default();
    let (arm, amd) = (made.image("arm", "arm64"), made.image("amd", "amd64"));
    let with = |entry: &str, architecture: &str| {
        let entry = entry.trim_end_matches('}');
        format!(r#"{entry},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#)
    };
    let inner = format!(
        r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
        with(&arm, "arm64"),
        with(&amd, "amd64")
    );
    let index = made.blob("application/vnd.oci.image.index.v1+json", inner.as_bytes());
    made.tag(&index, "multi");
    made.tag(&arm, "arm-only");
    write(scratch.path(), &made.finish());
    let base = format!("oci:{}", scratch.path().display());
    let source = open_text(&format!("{base}:multi")).unwrap();
    assert_eq!(layers_of(source.as_ref()).1.config.env, ["MARK=amd"]);
    let error = fails(&format!("{base}:arm-only"));
    assert!(
        error.contains("for linux/arm64, not for linux/amd64"),
        "{error}"
    );
}

#[test]
fn broken_layouts() {
    let scratch = tempfile::tempdir().unwrap();
    let mut made = Made::default();
    let image = made.image("x", "amd64");
    made.tag(&image, "x");
    let files = made.finish();
    let config = files
        .iter()
        .find(|(_, bytes)| bytes.starts_with(br#"{"os""#))
        .map(|(name, _)| name.clone())
        .unwrap();

    let lies = scratch.path().join("lies");
    write(&lies, &files);
    let other = String::from_utf8(files[&config].clone())
        .unwrap()
        .replace("MARK=x", "MARK=y");
    fs::write(lies.join(&config), other).unwrap();
    let error = fails(&format!("oci:{}", lies.display()));
    assert!(
        error.contains("cannot trust") && error.contains("has the digest"),
        "{error}"
    );

    let short = scratch.path().join("short");
    write(&short, &files);
    fs::write(short.join(&config), "{}").unwrap();
    let error = fails(&format!("oci:{}", short.display()));
    assert!(error.contains("its descriptor says"), "{error}");

    let outside = scratch.path().join("outside");
    write(&outside, &files);
    fs::rename(outside.join(&config), scratch.path().join("secret")).unwrap();
    symlink("../../../secret", outside.join(&config)).unwrap();
    let error = fails(&format!("oci:{}", outside.display()));
    assert!(error.contains("outside of the layout"), "{error}");

    let error = fails(&format!("oci:{}", scratch.path().display()));
    assert!(error.contains("no `index.json`"), "{error}");
}

#[test]
fn docker_archives() {
    let scratch = tempfile::tempdir().unwrap();
    let layer = tar_of(&BTreeMap::from([("a".into(), b"1".to_vec())]));
    let second = tar_of(&BTreeMap::from([("b".into(), b"2".to_vec())]));
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["sh"]}},"rootfs":{{"diff_ids":["{}","{}"]}}}}"#,
        Digest::of(&layer),
        Digest::of(&second)
    );
    let digest = Digest::of(config.as_bytes());
    let name = format!("{}.json", digest.hex());
    let image = |tags: &str, config: &str| {
        format!(
            r#"{{"Config":"{config}","RepoTags":{tags},"Layers":["one/layer.tar","two.tar.gz"]}}"#
        )
    };
    let files = |manifest: String| {
        BTreeMap::from([
            (name.clone(), config.clone().into_bytes()),
            ("one/layer.tar".to_string(), layer.clone()),
            ("two.tar.gz".to_string(), gzip(&second)),
            ("manifest.json".to_string(), manifest.into_bytes()),
        ])
    };
    let one = format!("[{}]", image(r#"["repo/app:1"]"#, &name));
    let plain = scratch.path().join("saved.tar");
    fs::write(&plain, tar_of(&files(one.clone()))).unwrap();
    let packed = scratch.path().join("saved.tar.gz");
    fs::write(&packed, gzip(&tar_of(&files(one)))).unwrap();
    for text in [
        format!("docker-archive:{}", plain.display()),
        format!("docker-archive:{}:repo/app:1", plain.display()),
        format!("docker-archive:{}", packed.display()),
        plain.display().to_string(),
        packed.display().to_string(),
    ] {
        let source = open_text(&text).unwrap();
        let (manifest, config, layers) = layers_of(source.as_ref());
        assert_eq!(manifest, digest, "{text}");
        assert_eq!(config.config.cmd, ["sh"]);
        assert_eq!(layers[0], layer);
    }
    let error = fails(&format!("docker-archive:{}:other", plain.display()));
    assert!(
        error.contains("no image named `other`") && error.contains("`repo/app:1`"),
        "{error}"
    );

    let two = format!(
        "[{},{}]",
        image(r#"["x:1"]"#, &name),
        image(r#"["docker.io/library/y:latest"]"#, &name)
    );
    fs::write(&plain, tar_of(&files(two))).unwrap();
    let error = fails(&format!("docker-archive:{}", plain.display()));
    assert!(error.contains("several images"), "{error}");
    let source = open_text(&format!("docker-archive:{}:y", plain.display())).unwrap();
    assert_eq!(layers_of(source.as_ref()).2.len(), 2);

    let lie = format!("{}.json", "0".repeat(64));
    let mut wrong = files(format!("[{}]", image("null", &lie)));
    wrong.insert(lie, config.into_bytes());
    fs::write(&plain, tar_of(&wrong)).unwrap();
    let error = fails(&format!("docker-archive:{}", plain.display()));
    assert!(error.contains("cannot trust"), "{error}");

    fs::write(&plain, tar_of(&BTreeMap::from([("x".into(), vec![])]))).unwrap();
    let error = fails(&format!("docker-archive:{}", plain.display()));
    assert!(error.contains("no `manifest.json`"), "{error}");
}

#[test]
fn rootfs_tars() {
    let scratch = tempfile::tempdir().unwrap();
    let bytes = tar_of(&BTreeMap::from([("bin/sh".into(), b"x".to_vec())]));
    let path = scratch.path().join("root.tar");
    fs::write(&path, &bytes).unwrap();
    for text in [
        format!("tar:{}", path.display()),
        path.display().to_string(),
    ] {
        let source = open_text(&text).unwrap();
        let (digest, config, layers) = layers_of(source.as_ref());
        assert_eq!(digest, Digest::of(&bytes));
        assert_eq!(config.diff_ids, [digest]);
        assert_eq!(layers[0], bytes);
    }
    for packed in [gzip(&bytes), zstd::encode_all(&bytes[..], 1).unwrap()] {
        fs::write(&path, &packed).unwrap();
        let source = open_text(&path.display().to_string()).unwrap();
        let (digest, config, layers) = layers_of(source.as_ref());
        assert_eq!(digest, Digest::of(&packed));
        assert!(config.diff_ids.is_empty());
        assert_eq!(layers, [packed]);
    }
    fs::write(&path, b"just text, much shorter than a header").unwrap();
    assert!(fails(&format!("tar:{}", path.display())).contains("cut off"));
    fs::write(&path, [7; 2000]).unwrap();
    assert!(fails(&path.display().to_string()).contains("known are squashfs, SIF and tar"));
}

#[test]
fn directories_become_canonical_tars() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    let long = "n".repeat(120);
    fs::create_dir_all(root.join("b/c")).unwrap();
    fs::write(root.join("b/file"), vec![b'x'; 700]).unwrap();
    fs::write(root.join(&long), b"long").unwrap();
    fs::hard_link(root.join("b/file"), root.join("z-hard")).unwrap();
    symlink("/etc/passwd", root.join("a-link")).unwrap();
    symlink(&long, root.join("long-link")).unwrap();
    fs::set_permissions(root.join("b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    rustix::fs::setxattr(
        root.join("b/file"),
        "user.note",
        b"kept\n",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap_or_default();

    let source = open_text(&format!("dir:{}", root.display())).unwrap();
    let (digest, config, layers) = layers_of(source.as_ref());
    assert_eq!(config.diff_ids, [digest]);
    assert_eq!(
        layers_of(source.as_ref()).0,
        digest,
        "reading twice gives the same bytes"
    );

    let mut archive = tar::Archive::new(&layers[0][..]);
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let kind = entry.header().entry_type().as_byte() as char;
        let target = entry
            .link_name()
            .unwrap()
            .map(|target| target.display().to_string())
            .unwrap_or_default();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if name == "b/file" {
            assert_eq!(entry.header().mode().unwrap(), 0o4751);
            assert_eq!(entry.header().username().unwrap().unwrap_or_default(), "");
        }
        found.push((name, kind, target, content.len()));
    }
    let row =
        |name: &str, kind, target: &str, size| (name.to_string(), kind, target.to_string(), size);
    assert_eq!(
        found,
        [
            row("./", '5', "", 0),
            row("a-link", '2', "/etc/passwd", 0),
            row("b/", '5', "", 0),
            row("b/c/", '5', "", 0),
            row("b/file", '0', "", 700),
            row("long-link", '2', &long, 0),
            row(&long, '0', "", 4),
            row("z-hard", '1', "b/file", 0),
        ]
    );

    fs::write(root.join(".wh.x"), b"").unwrap();
    assert!(fails(&format!("dir:{}", root.display())).contains(".wh."));
}

#[test]
fn missing_files_are_told_as_such() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("image.sqsh"), b"").unwrap();
    let wrong = scratch.path().join("imgae.sqsh");
    let error = fails(&wrong.display().to_string());
    assert!(
        error.contains("there is no file") && error.contains("image.sqsh`?"),
        "{error}"
    );
    let error = fails("no-such-file.sqsh");
    assert!(error.contains("docker://no-such-file.sqsh"), "{error}");
    let error = fails("oci:/no/such");
    assert!(!error.contains("docker://"), "{error}");
    let error = fails(&format!("dir:{}/image.sqsh", scratch.path().display()));
    assert!(error.contains("not a directory"), "{error}");
}
