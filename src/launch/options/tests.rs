use super::*;
use crate::launch::request::NetworkChoice;

fn apply_one(origin: Origin, name: &str, value: &str) -> Result<Request> {
    let mut request = Request::default();
    apply(&mut request, &origin, [(name, OsString::from(value))])?;
    Ok(request)
}

fn file() -> Origin {
    Origin::File("job.toml".into())
}

#[test]
fn four_doors_lead_to_the_same_request() {
    let rows: &[(&str, &str, &str, &str, &str)] = &[
        // flag, variable, job file, srun, value
        (
            "image",
            "CARRACK_IMAGE",
            "image",
            "container-image",
            "ubuntu:24.04",
        ),
        (
            "bind",
            "CARRACK_BIND",
            "mounts",
            "container-mounts",
            "/a:/b:ro",
        ),
        (
            "workdir",
            "CARRACK_WORKDIR",
            "workdir",
            "container-workdir",
            "/w",
        ),
        ("env", "CARRACK_ENV", "env", "container-env", "A"),
        (
            "home",
            "CARRACK_HOME",
            "home",
            "container-mount-home",
            "true",
        ),
        (
            "no-home",
            "CARRACK_HOME=0",
            "no_home",
            "no-container-mount-home",
            "true",
        ),
        (
            "entrypoint",
            "CARRACK_ENTRYPOINT",
            "entrypoint",
            "container-entrypoint",
            "true",
        ),
        (
            "writable",
            "CARRACK_WRITABLE",
            "writable",
            "container-writable",
            "true",
        ),
        (
            "read-only",
            "CARRACK_WRITABLE=no",
            "read_only",
            "container-readonly",
            "true",
        ),
        ("name", "CARRACK_NAME", "name", "container-name", "n"),
        (
            "environment",
            "CARRACK_ENVIRONMENT",
            "base_environment",
            "environment",
            "e",
        ),
    ];
    for (flag, variable, key, slurm, value) in rows {
        let expected = Request {
            set_by: Default::default(),
            ..apply_one(Origin::Flag, flag, value).unwrap()
        };
        let (variable, text) = variable.split_once('=').unwrap_or((variable, value));
        for (origin, name, value) in [
            (Origin::Variable, variable, text),
            (file(), key, value),
            (Origin::Slurm, slurm, value),
        ] {
            let mut other = apply_one(origin, name, value).unwrap();
            other.set_by.clear();
            assert_eq!(other, expected, "{name}");
        }
    }
}

#[test]
fn lists_in_one_word() {
    for (origin, name, value, expected) in [
        (Origin::Slurm, "container-mounts", "/a:/b,/c:/d:ro", 2),
        (Origin::Slurm, "container-mounts", "/a:/b:ro,rbind,/c", 2),
        (Origin::Slurm, "container-mounts", "/a:/b:ro,tmpfs:/t", 2),
        (Origin::Slurm, "container-mounts", r"/a\,b", 1),
        (Origin::Variable, "CARRACK_BIND", "/a,/b,/c", 3),
        (
            Origin::Variable,
            "CARRACK_MOUNT",
            "type=bind,src=/a,dst=/b\ntype=tmpfs,dst=/t",
            2,
        ),
        (Origin::Flag, "bind", "/a:/b:ro,rbind", 1),
    ] {
        let request = apply_one(origin, name, value).unwrap();
        assert_eq!(request.mounts.len(), expected, "{value}");
    }
    let request = apply_one(Origin::Slurm, "container-env", "A,B").unwrap();
    assert_eq!(
        request.environment,
        [EnvRule::Pass("A".into()), EnvRule::Pass("B".into())]
    );
    let request = apply_one(Origin::Variable, "CARRACK_ENV", "A=1,2\nB").unwrap();
    assert_eq!(
        request.environment,
        [
            EnvRule::Set("A".into(), "1,2".into()),
            EnvRule::Pass("B".into())
        ]
    );
}

#[test]
fn a_later_door_wins_and_is_remembered() {
    let mut request = Request::default();
    apply(
        &mut request,
        &file(),
        [("network", "none".into()), ("mounts", "/a".into())],
    )
    .unwrap();
    apply(
        &mut request,
        &Origin::Variable,
        [("CARRACK_NETWORK", "none".into())],
    )
    .unwrap();
    apply(
        &mut request,
        &Origin::Flag,
        [("network", "host".into()), ("bind", "/b".into())],
    )
    .unwrap();
    assert_eq!(request.network, Some(NetworkChoice::Host));
    assert_eq!(request.set_by.get("network"), Some(&Origin::Flag));
    assert_eq!(request.mounts.len(), 2);
}

#[test]
fn values() {
    let id = |text| {
        apply_one(Origin::Flag, "id", text)
            .map(|r| r.id)
            .ok()
            .flatten()
    };
    for (text, expected) in [
        ("keep", Some(IdChoice::Keep)),
        ("root", Some(IdChoice::Root)),
        ("image", Some(IdChoice::Image)),
        (
            "1000",
            Some(IdChoice::Number {
                uid: 1000,
                gid: None,
            }),
        ),
        (
            "4000000000:7",
            Some(IdChoice::Number {
                uid: 4_000_000_000,
                gid: Some(7),
            }),
        ),
        ("4294967295", None),
        ("-1", None),
        ("1000:", None),
        ("ds", None),
    ] {
        assert_eq!(id(text), expected, "{text}");
    }
    for (name, value) in [
        ("bind", ""),
        ("bind", "/a:/b:weird"),
        ("workdir", "relative"),
        ("workdir", "/a/../b"),
        ("env", "=x"),
        ("env", ""),
        ("network", "bridge"),
        ("gpu", "2"),
        ("writable", "much"),
        ("home", ""),
        ("clean-env", "maybe"),
        ("name", "../x"),
        ("device", "/etc/passwd"),
        ("device", "/dev/../etc/passwd"),
        ("device", "/dev/a:/dev/b"),
        ("unshare", "pid"),
    ] {
        let error = apply_one(Origin::Flag, name, value).unwrap_err();
        assert_eq!(error.kind(), crate::error::Exit::Usage, "{name} {value}");
    }
    for device in [
        "/dev/infiniband",
        "/dev/x:/dev/x:rwm",
        "/dev/x:rw",
        "nvidia.com/gpu=0",
    ] {
        assert!(
            apply_one(Origin::Flag, "device", device).is_ok(),
            "{device}"
        );
    }
}

#[test]
fn unknown_names_are_told_with_the_nearest() {
    let error = apply_one(file(), "writeable", "true")
        .unwrap_err()
        .to_string();
    assert!(error.contains("did you mean `writable`?"), "{error}");
    let error = apply_one(file(), "mounts", "/a:b").unwrap_err().to_string();
    assert!(error.contains("given by job.toml"), "{error}");
}

#[test]
fn each_name_exists_once() {
    let mut seen = std::collections::BTreeSet::new();
    for option in OPTIONS {
        assert!(option.variable.starts_with("CARRACK_"));
        assert!(!option.help.is_empty() && !option.help.ends_with('.'));
        for name in [Some(option.name), option.off].into_iter().flatten() {
            assert!(seen.insert(format!("--{name}")), "{name}");
        }
        for name in option.slurm.iter().chain(option.slurm_off) {
            assert!(seen.insert(format!("srun --{name}")), "{name}");
        }
        assert!(seen.insert(option.variable.to_string()));
        if !option.key.is_empty() {
            assert!(seen.insert(format!("[{}]", option.key)));
        }
        if let Some(short) = option.short {
            assert!(seen.insert(format!("-{short}")), "{short}");
        }
    }
    for spelling in crate::launch::spellings::SPELLINGS {
        for long in spelling.long {
            assert!(seen.insert(format!("--{long}")), "{long}");
        }
        if let Some(short) = spelling.short {
            assert!(seen.insert(format!("-{short}")), "{short}");
        }
    }
}

#[test]
fn the_table_has_every_option() {
    let table = markdown_table();
    for option in OPTIONS {
        assert!(table.contains(&format!("--{}", option.name)));
    }
    assert_eq!(table.lines().count(), OPTIONS.len() + 2);
}
