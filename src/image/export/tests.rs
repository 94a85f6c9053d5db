//! Exports against what mksquashfs, tar and skopeo make of them.

use super::*;
use crate::image::progress::Silent;
use crate::record::{ImageConfig, Platform};
use crate::squashfs::read::tests::{facts_in, have, make_tree, mksquashfs, open};
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn scene() -> Option<(tempfile::TempDir, PathBuf)> {
    if !have("mksquashfs") {
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let deep = tree.join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("f".repeat(200)), b"long").unwrap();
    let image = scratch.path().join("image.sqsh");
    assert!(mksquashfs(&tree, &image, &["-comp", "zstd"]));
    Some((scratch, image))
}

fn record() -> ImageRecord {
    ImageRecord {
        schema: crate::record::SCHEMA,
        platform: Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            ..Platform::default()
        },
        created: "2026-01-02T03:04:05Z".into(),
        history: vec!["RUN something".into(), "COPY x /".into()],
        config: ImageConfig {
            env: vec!["A=b c".into()],
            entrypoint: vec!["/bin/x".into()],
            workdir: "/work".into(),
            volumes: vec!["/data".into()],
            ..ImageConfig::default()
        },
        ..ImageRecord::default()
    }
}

fn export_to(image: &Path, format: Format, output: &Path, options: &Options) -> Exported {
    export(
        &open(image),
        &File::open(image).unwrap(),
        &record(),
        format,
        output,
        options,
        &Silent,
    )
    .unwrap()
}

#[test]
fn outputs_are_told_apart_by_prefix_or_ending() {
    for (output, expected) in [
        ("oci-archive:a.tar", Some((Format::OciArchive, "a.tar"))),
        ("docker-archive:x", Some((Format::DockerArchive, "x"))),
        ("oci:dir", Some((Format::OciLayout, "dir"))),
        ("x.tar", Some((Format::Tar, "x.tar"))),
        ("./x.sqsh", Some((Format::Squashfs, "./x.sqsh"))),
        ("x.squashfs", Some((Format::Squashfs, "x.squashfs"))),
        ("x.zip", None),
    ] {
        assert_eq!(Format::of(output), expected, "{output}");
    }
}

#[test]
fn a_tar_made_into_an_image_again_is_the_same() {
    let Some((scratch, image)) = scene() else {
        return;
    };
    let tar = scratch.path().join("out.tar");
    let exported = export_to(&image, Format::Tar, &tar, &Options::default());
    assert_eq!(std::fs::metadata(&tar).unwrap().len(), exported.bytes);
    let again = scratch.path().join("again.sqsh");
    let made = Command::new("mksquashfs")
        .arg("-")
        .arg(&again)
        .args([
            "-tar",
            "-no-progress",
            "-quiet",
            "-noappend",
            "-comp",
            "gzip",
        ])
        .stdin(Stdio::from(File::open(&tar).unwrap()))
        .output()
        .unwrap();
    if !made.status.success() {
        eprintln!("SKIPPED: this mksquashfs does not read tars");
        return;
    }
    let (expected, found) = (facts_in(&open(&image)), facts_in(&open(&again)));
    for (path, facts) in &expected {
        // mksquashfs makes the root itself.
        if !path.as_os_str().is_empty() {
            assert_eq!(found.get(path), Some(facts), "{path:?}");
        }
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn archives_are_equal_each_time_and_other_tools_read_them() {
    let Some((scratch, image)) = scene() else {
        return;
    };
    let tar = scratch.path().join("out.tar");
    export_to(&image, Format::Tar, &tar, &Options::default());
    let diff_id = crate::image::digest::Digest::of(&std::fs::read(&tar).unwrap());
    for (format, prefix, compression) in [
        (Format::OciArchive, "oci-archive", Compression::Gzip),
        (Format::OciArchive, "oci-archive", Compression::Zstd),
        (Format::OciArchive, "oci-archive", Compression::None),
        (Format::DockerArchive, "docker-archive", Compression::None),
        (Format::OciLayout, "oci", Compression::Gzip),
    ] {
        let options = Options {
            compression,
            name: "example.org/a/b:v1".into(),
        };
        let outputs = [1, 2].map(|n| scratch.path().join(format!("{prefix}-{compression:?}-{n}")));
        for output in &outputs {
            export_to(&image, format, output, &options);
        }
        if format != Format::OciLayout {
            let [first, second] = &outputs;
            assert!(std::fs::read(first).unwrap() == std::fs::read(second).unwrap());
        }
        if !have("skopeo") {
            continue;
        }
        let output = Command::new("skopeo")
            .args(["inspect", "--config", "--raw"])
            .arg(format!("{prefix}:{}", outputs[0].display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], diff_id.to_string());
        assert_eq!(config["config"]["Env"][0], "A=b c");
        assert_eq!(config["config"]["Volumes"]["/data"], serde_json::json!({}));
        assert_eq!(config["history"].as_array().unwrap().len(), 3);
        // Copying verifies every digest.
        let copied = scratch.path().join("copied");
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--quiet"])
            .arg(format!("{prefix}:{}", outputs[1].display()))
            .arg(format!("dir:{}", copied.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::remove_dir_all(copied).unwrap();
    }
}

#[test]
fn a_squashfs_is_copied_with_its_record() {
    let Some((scratch, image)) = scene() else {
        return;
    };
    let output = scratch.path().join("copy.sqsh");
    export_to(&image, Format::Squashfs, &output, &Options::default());
    assert!(std::fs::read(&output).unwrap() == std::fs::read(&image).unwrap());
    let text = std::fs::read_to_string(scratch.path().join("copy.sqsh.json")).unwrap();
    assert_eq!(text, record().to_json());
}

#[test]
fn a_failed_export_leaves_nothing() {
    let Some((scratch, image)) = scene() else {
        return;
    };
    let mut bytes = std::fs::read(&image).unwrap();
    let inodes = open(&image).superblock().inode_table as usize;
    for byte in &mut bytes[inodes + 2..inodes + 300] {
        *byte ^= 0x55;
    }
    std::fs::write(&image, bytes).unwrap();
    let directory = scratch.path().join("out");
    std::fs::create_dir(&directory).unwrap();
    let output = directory.join("x.tar");
    let error = export(
        &open(&image),
        &File::open(&image).unwrap(),
        &record(),
        Format::OciArchive,
        &output,
        &Options::default(),
        &Silent,
    )
    .unwrap_err();
    assert!(error.to_string().contains("x.tar"), "{error}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
}
