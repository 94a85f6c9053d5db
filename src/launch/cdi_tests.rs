use super::apply::{Context, apply};
use super::hook::{Action, action};
use super::*;
use crate::elf::Version;
use crate::launch::devices::Devices as Result_;
use crate::launch::request::Dev;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn read(value: Value) -> (Result<Specification>, String) {
    let mut notes = Vec::new();
    let read = document::read(&value, "f.json", &mut notes);
    (read, notes.join("; "))
}

fn document(directory: usize, file: &str, value: Value) -> Specification {
    let mut document = document::read(&value, file, &mut Vec::new()).unwrap();
    document.directory = directory;
    document
}

fn gpus() -> Value {
    json!({
        "cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
        "containerEdits": {"env": ["COMMON=1"], "deviceNodes": [{"path": "/dev/ctl"}]},
        "devices": [
            {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/g0"}], "env": ["A=0"]}},
            {"name": 1, "containerEdits": {"deviceNodes": [{"path": "/dev/g1", "hostPath": "/dev/x1"}]}},
        ]
    })
}

#[test]
fn versions_and_unknown_fields() {
    for (version, note) in [
        (json!("0.3.0"), ""),
        (json!("0.5.0"), ""),
        (json!("0.8.0"), ""),
        (json!("1.0.0"), ""),
        (json!("1.1.0"), ""),
        (json!("1.2.0"), "version 1.2.0 is newer than 1.1"),
        (json!("2"), "newer"),
        (json!("0.2.0"), "older than 0.3"),
        (Value::Null, "no `cdiVersion`"),
    ] {
        let (read, notes) = read(json!({"cdiVersion": version, "kind": "v.com/c", "devices": []}));
        assert!(read.is_ok());
        assert!(
            notes.contains(note) && (note.is_empty() == notes.is_empty()),
            "{version}: {notes}"
        );
    }
    let (read, notes) = read(json!({
        "cdiVersion": "1.1.0", "kind": "v.com/c", "fromTheFuture": 1,
        "containerEdits": {"intelRdt": {}, "netDevices": [], "env": ["NOVALUE", "=x"], "additionalGids": [44]},
        "devices": [
            {"name": "a", "colour": "red", "containerEdits": {"mounts": [
                {"hostPath": "/h", "containerPath": "/c", "options": ["ro", "nosuid"]},
                {"hostPath": "none", "containerPath": "/t", "type": "tmpfs"},
                {"hostPath": "x", "containerPath": "/p", "type": "proc"},
                {"hostPath": "/h"},
            ], "deviceNodes": [{"major": 1}]}},
            {"name": "../b", "containerEdits": {}},
        ]
    }));
    let document = read.unwrap();
    assert_eq!(document.devices.keys().collect::<Vec<_>>(), ["a"]);
    let mounts = &document.devices["a"].mounts;
    assert_eq!(
        (mounts.len(), mounts[0].read_only, mounts[1].tmpfs),
        (2, true, true)
    );
    assert_eq!(document.common.groups, [44]);
    for part in [
        "`fromTheFuture` of the document",
        "`intelRdt`",
        "`netDevices`",
        "`colour` of a device",
        "`proc` at /p",
        "NAME=VALUE",
        "lacks `hostPath`",
        "no `path`",
        "`../b` is not a name",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    for kind in [
        json!(""),
        json!("v.com"),
        json!("/c"),
        json!("v/c d"),
        Value::Null,
    ] {
        let value = json!({"cdiVersion": "0.5.0", "kind": kind});
        assert!(super::tests::read(value).0.is_err(), "{kind}");
    }
    for broken in [
        json!([]),
        json!("x"),
        json!({"kind": "v.com/c", "devices": 7, "containerEdits": []}),
    ] {
        let _ = super::tests::read(broken);
    }
}

#[test]
fn devices_by_name_and_all() {
    let other = json!({"cdiVersion": "0.5.0", "kind": "vendor.com/gpu", "devices": [
        {"name": "0", "containerEdits": {"env": ["FROM=second"]}}]});
    let devices = |documents: Vec<Specification>| Devices {
        specifications: documents,
        notes: vec!["`/etc/cdi/bad.yaml`: broken".into()],
        directories: vec!["/etc/cdi".into(), "/run/cdi".into()],
    };
    let one = devices(vec![document(0, "a", gpus())]);
    let nodes = |name: &str| -> String {
        let edits = one.find(name).unwrap();
        let nodes = edits
            .nodes
            .iter()
            .map(|node| node.path.display().to_string());
        nodes.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(nodes("vendor.com/gpu=0"), "/dev/ctl /dev/g0");
    assert_eq!(nodes("vendor.com/gpu=1"), "/dev/ctl /dev/g1");
    assert_eq!(nodes("vendor.com/gpu=all"), "/dev/ctl /dev/g0 /dev/g1");
    assert_eq!(one.names(), ["vendor.com/gpu=0", "vendor.com/gpu=1"]);
    for (name, part) in [
        ("vendor.com/gpu=2", "this node has vendor.com/gpu=0"),
        ("other.com/x=0", "no CDI document in /etc/cdi, /run/cdi"),
        ("other.com/x=all", "bad.yaml"),
    ] {
        let error = one.find(name).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // A later directory wins, two files of one directory do not agree.
    let two = devices(vec![
        document(0, "a", gpus()),
        document(1, "b", other.clone()),
    ]);
    assert_eq!(
        two.find("vendor.com/gpu=0").unwrap().environment,
        ["FROM=second"]
    );
    assert_eq!(
        two.find("vendor.com/gpu=1").unwrap().environment,
        ["COMMON=1"]
    );
    let torn = devices(vec![document(0, "a", gpus()), document(0, "b", other)]);
    assert!(torn.find("vendor.com/gpu=1").is_ok());
    let error = torn.find("vendor.com/gpu=0").unwrap_err().to_string();
    assert!(error.contains("both `a` and `b`"), "{error}");
}

fn hook(words: &[&str]) -> document::Hook {
    document::Hook {
        stage: "createContainer".into(),
        program: format!("/usr/bin/{}", words[0]),
        arguments: words.iter().map(|word| word.to_string()).collect(),
    }
}

#[test]
fn hooks_by_their_words() {
    let links = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        Action::Links(
            pairs
                .map(|(target, link)| (target.to_string(), link.into()))
                .collect(),
        )
    };
    let folders =
        |names: &[&str]| Action::LibraryDirectories(names.iter().map(PathBuf::from).collect());
    let unknown = |name: &str| Action::Unknown(name.to_string());
    for (words, expected) in [
        (
            &[
                "nvidia-cdi-hook",
                "create-symlinks",
                "--link",
                "a.so.1::/usr/lib/a.so",
                "--link=b::/c",
            ][..],
            links(&[("a.so.1", "/usr/lib/a.so"), ("b", "/c")]),
        ),
        (
            &[
                "nvidia-ctk",
                "hook",
                "update-ldcache",
                "--folder",
                "/usr/lib64",
            ],
            folders(&["/usr/lib64"]),
        ),
        (&["nvidia-cdi-hook", "update-ldcache"], folders(&[])),
        (
            &["nvidia-cdi-hook", "create-soname-symlinks", "--folder=/l"],
            folders(&["/l"]),
        ),
        (
            &[
                "nvidia-ctk",
                "hook",
                "chmod",
                "--mode",
                "755",
                "--path",
                "/dev/dri",
            ],
            Action::Nothing,
        ),
        (
            &["nvidia-cdi-hook", "disable-device-node-modification"],
            Action::Nothing,
        ),
        (
            &[
                "nvidia-cdi-hook",
                "enable-cuda-compat",
                "--host-driver-version=535.104.05",
            ],
            Action::Compatibility(Version::parse("535.104.05")),
        ),
        (
            &["nvidia-cdi-hook", "enable-cuda-compat"],
            Action::Compatibility(None),
        ),
        (
            &["nvidia-cdi-hook", "tomorrow"],
            unknown("nvidia-cdi-hook tomorrow"),
        ),
        (&["vendor-hook", "chmod"], unknown("/usr/bin/vendor-hook")),
        (&["nvidia-ctk"], unknown("nvidia-ctk ")),
    ] {
        assert_eq!(action(&hook(words)), expected, "{words:?}");
    }
}

fn mount(host: &str, container: &str, soname: Option<&str>) -> document::Mount {
    document::Mount {
        host: host.into(),
        container: container.into(),
        read_only: true,
        tmpfs: false,
        soname: soname.map(str::to_string),
        there: true,
    }
}

fn applied(edits: &Edits, dev: Dev) -> (Result<Option<Version>>, Result_) {
    let context = Context {
        name: "v.com/gpu=0",
        dev,
        groups: &[1000],
        is_gpu: &|path| path == Path::new("/dev/nvidia0"),
    };
    let mut result = Result_::default();
    let version = apply(edits, &context, &mut result);
    (version, result)
}

#[test]
fn libraries_links_and_the_rest() {
    let lib = "/usr/lib/x86_64-linux-gnu";
    let edits = Edits {
        mounts: vec![
            mount(
                "/usr/lib64/libcuda.so.550.1",
                &format!("{lib}/libcuda.so.550.1"),
                Some("libcuda.so.1"),
            ),
            mount("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi", None),
            mount(
                "/usr/lib64/gbm.so.550.1",
                &format!("{lib}/deep/gbm.so.550.1"),
                None,
            ),
        ],
        hooks: vec![
            hook(&["nvidia-cdi-hook", "update-ldcache", "--folder", lib]),
            hook(&[
                "nvidia-cdi-hook",
                "create-symlinks",
                "--link",
                &format!("libcuda.so.1::{lib}/libcuda.so"),
                "--link",
                &format!("../deep/gbm.so.550.1::{lib}/gbm/nvidia-drm_gbm.so"),
                "--link",
                "nowhere::/usr/share/x",
            ]),
            hook(&[
                "nvidia-cdi-hook",
                "enable-cuda-compat",
                "--host-driver-version=550.1",
            ]),
            hook(&["vendor-hook", "x"]),
        ],
        groups: vec![1000, 44],
        environment: vec!["NVIDIA_VISIBLE_DEVICES=void".into()],
        nodes: vec![
            document::Node {
                path: "/dev/nvidia0".into(),
                host: "/dev/nvidia0".into(),
            },
            document::Node {
                path: "/dev/y".into(),
                host: "/dev/x".into(),
            },
        ],
    };
    let (version, result) = applied(&edits, Dev::Full);
    assert_eq!(version.unwrap(), Version::parse("550.1"));
    let lines: Vec<String> = result.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "bind /usr/bin/nvidia-smi (ro)",
            "bind /usr/lib64/gbm.so.550.1 -> /usr/lib/x86_64-linux-gnu/deep/gbm.so.550.1 (ro)",
            "bind /usr/lib64/gbm.so.550.1 -> /usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so (ro)",
            "bind /usr/lib64/libcuda.so.550.1 -> /run/carrack/gpu/lib/libcuda.so.550.1 (ro, if there)",
            "link /run/carrack/gpu/lib/libcuda.so.1 -> libcuda.so.550.1",
            "link /run/carrack/gpu/lib/libcuda.so -> libcuda.so.1",
        ]
    );
    let warnings = result.warnings.join("\n");
    for part in [
        "/usr/bin/vendor-hook",
        "group 44",
        "`nowhere`",
        "appears as /dev/x",
    ] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    assert_eq!(result.warnings.len(), 4, "{warnings}");
    // A /dev of our own gets the node, but a GPU only if the step was given it, which is decided elsewhere.
    let (_, result) = applied(&edits, Dev::Minimal);
    let nodes: Vec<String> = result.steps.iter().map(ToString::to_string).collect();
    assert!(
        nodes.contains(&"bind /dev/x -> /dev/y (rw, if there)".to_string()),
        "{nodes:?}"
    );
    assert!(
        !nodes.iter().any(|line| line.contains("nvidia0")),
        "{nodes:?}"
    );
    // A document that is older than the driver.
    let mut stale = edits.clone();
    stale.mounts[0].there = false;
    let error = applied(&stale, Dev::Full).0.unwrap_err().to_string();
    assert!(
        error.contains("/usr/lib64/libcuda.so.550.1") && error.contains("generate"),
        "{error}"
    );
}
