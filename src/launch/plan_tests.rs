use super::super::contract::{self, Project};
use super::super::facts::{GpuNode, Vendor};
use super::super::options::apply;
use super::super::request::Origin;
use super::super::step::Target;
use super::*;
use crate::record::{Contents, ImageConfig};

type Words<'a> = &'a [&'a str];
type Pairs<'a> = &'a [(&'a str, &'a str)];

fn found() -> Found {
    Found {
        image: Image::Squashfs {
            path: "/store/images/ab/ab12.sqsh".into(),
            offset: 0,
            check: None,
            name: "docker://ubuntu:24.04".into(),
        },
        record: ImageRecord {
            reference: "docker://docker.io/library/ubuntu:24.04".into(),
            manifest_digest: format!("sha256:{}", "a".repeat(64)),
            config: ImageConfig {
                env: vec![
                    "PATH=/usr/local/bin:/usr/bin:/bin".into(),
                    "LANG=C.UTF-8".into(),
                ],
                cmd: vec!["/bin/bash".into()],
                ..ImageConfig::default()
            },
            contents: Contents {
                shell: Some("/bin/sh".into()),
                ..Contents::default()
            },
            ..ImageRecord::default()
        },
        reference: "ubuntu:24.04".into(),
    }
}

fn request(pairs: &[(&str, &str)]) -> Request {
    let mut request = Request {
        command: vec!["./app".into(), "-x".into()],
        ..Request::default()
    };
    let pairs = pairs
        .iter()
        .map(|(name, value)| (*name, OsString::from(value)));
    apply(&mut request, &Origin::Flag, pairs).unwrap();
    request
}

fn facts(variables: &[(&str, &str)]) -> HostFacts {
    let mut facts = HostFacts::plain();
    let pairs = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    facts.environment.extend(pairs);
    facts
}

fn planned(pairs: &[(&str, &str)], facts: &HostFacts) -> Result<Plan> {
    plan(&found(), &request(pairs), &Config::default(), facts)
}

fn refused(pairs: &[(&str, &str)], facts: &HostFacts) -> String {
    planned(pairs, facts).unwrap_err().to_string()
}

fn mounts_of(plan: &Plan) -> Vec<String> {
    let system = ["bind /dev (rw)", "bind /proc (rw)", "bind /sys (rw)"];
    plan.steps
        .iter()
        .filter(|step| matches!(step, Step::Bind { .. } | Step::Tmpfs { .. }))
        .map(Step::to_string)
        .filter(|line| !system.contains(&line.as_str()) && !line.contains("/etc/"))
        .collect()
}

/// Compares with `tests/golden/NAME.txt`; `UPDATE_GOLDEN=1` writes it.
#[track_caller]
fn golden(name: &str, plan: &Plan) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
    // The key's hash changes with every field that a step gains.
    let text = match &plan.key {
        Some(key) => plan.to_string().replace(&key.hash, "HASH"),
        None => plan.to_string(),
    };
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        expected,
        "run with UPDATE_GOLDEN=1 if the change is meant: {}",
        path.display()
    );
}

#[test]
fn plans_as_text() {
    let slurm = facts(&[
        ("SLURM_JOB_ID", "17"),
        ("SLURM_STEP_ID", "0"),
        ("SLURMD_NODENAME", "n2"),
        ("SLURM_NODEID", "1"),
        ("SLURM_STEP_NUM_NODES", "2"),
        ("SLURM_STEP_NUM_TASKS", "8"),
        ("SLURM_STEP_TASKS_PER_NODE", "4(x2)"),
        ("SLURM_STEP_GPUS", "1"),
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("PMIX_SERVER_TMPDIR", "/var/spool/slurmd/pmix.17.0"),
        ("PMI_FD", "13"),
        ("TMPDIR", "/scratch/local/17"),
        ("LOADEDMODULES", "gcc/12"),
        ("LD_LIBRARY_PATH", "/opt/gcc/lib"),
    ]);
    let with_gpus = HostFacts {
        gpus: [0, 1]
            .map(|index| GpuNode {
                vendor: Vendor::Nvidia,
                path: format!("/dev/nvidia{index}").into(),
                also: Vec::new(),
                index,
                allowed: true,
            })
            .to_vec(),
        driver: super::super::driver::tests::small(),
        ..slurm.clone()
    };
    golden("plan-plain", &planned(&[], &facts(&[])).unwrap());
    golden("plan-slurm-gpu", &planned(&[], &with_gpus).unwrap());
    let closed = [
        ("id", "root"),
        ("home", "false"),
        ("tmp", "private"),
        ("dev", "minimal"),
        ("network", "none"),
        ("writable", "1G"),
        ("clean-env", "true"),
        ("bind", "/data/in:/input:ro"),
        ("bind", "/data/out:/tmp/out"),
        ("env", "MODE=a b"),
    ];
    golden(
        "plan-closed",
        &planned(&closed, &facts(&[("TERM", "xterm")])).unwrap(),
    );
    let mut config = Config::parse(
        "[profile.hpc]\nbinds = [\"/work\", \"/sw:/sw:ro\"]\nenv = { SITE = \"x\" }\nenv_append = { PATH = \"/sw/bin\" }\n",
    )
    .unwrap();
    let site = plan(
        &found(),
        &request(&[("workdir", "/w")]),
        &config,
        &facts(&[]),
    )
    .unwrap();
    golden("plan-site", &site);
    for profile in ["ces", "eucaim", "gef"] {
        config.launch.profile = profile.into();
        let image = HostFacts {
            image_users: Some(super::super::facts::ImageUsers {
                passwd: b"ds:x:1000:1000::/home/ds:/bin/sh\n".to_vec(),
                group: vec![],
            }),
            words: Some(contract::Words {
                user: "alice".into(),
                group: "staff".into(),
                home: "/home/alice".into(),
                job: "17".into(),
                step: "0".into(),
            }),
            project: Some(Project {
                name: "p01".into(),
                data: "/safe_data/p01".into(),
            }),
            account_home: Some("/home/alice".into()),
            ..facts(&[])
        };
        let mut request = match profile {
            "eucaim" => request(&[("dataset", "d1,d2")]),
            _ => request(&[]),
        };
        if profile == "gef" {
            (request.mode, request.command) = (Mode::Run, Vec::new());
        }
        let made = plan(&found(), &request, &config, &image).unwrap();
        golden(&format!("plan-{profile}"), &made);
    }
}

#[test]
fn what_is_mounted_by_default() {
    let at = |home: &str, cwd: &str, more: &[(&str, &str)]| {
        let mut facts = facts(more);
        facts.environment.retain(|(name, _)| name != "HOME");
        facts.environment.push(("HOME".into(), home.into()));
        facts.cwd = (!cwd.is_empty()).then(|| cwd.into());
        facts
    };
    let tmp = ["bind /tmp (rw, if there)", "bind /var/tmp (rw, if there)"];
    let row = |facts: &HostFacts, pairs: &[(&str, &str)], more: &[&str]| {
        let got = mounts_of(&planned(pairs, facts).unwrap());
        let mut expected: Vec<&str> = [&tmp[..], more].concat();
        expected.sort_by_key(|line| {
            let target = line.split(" -> ").last().unwrap_or_default();
            target.matches('/').count()
        });
        assert_eq!(got, expected, "{:?} {pairs:?}", facts.cwd);
    };
    let home = "bind /home/a (rw, if there)";
    row(&at("/home/a", "/home/a/run", &[]), &[], &[home]);
    row(
        &at("/home/a", "/work/p", &[]),
        &[],
        &[home, "bind /work/p (rw, if there)"],
    );
    row(&at("/home/a", "/tmp/x", &[]), &[], &[home]);
    row(&at("/home/a", "/usr/share", &[]), &[], &[home]);
    row(&at("/home/a", "/", &[]), &[], &[home]);
    row(&at("/home/a", "", &[]), &[], &[home]);
    row(&at("/", "/work", &[]), &[], &["bind /work (rw, if there)"]);
    row(
        &at("relative", "/work", &[]),
        &[],
        &["bind /work (rw, if there)"],
    );
    row(
        &at("/home/../etc", "/work", &[]),
        &[],
        &["bind /work (rw, if there)"],
    );
    // The home is hidden: standing in it must not show it.
    row(&at("/home/a", "/home/a", &[]), &[("home", "no")], &[]);
    row(&at("/home/a", "/home", &[]), &[("home", "no")], &[]);
    row(
        &at("/home/a", "/home/a/run", &[]),
        &[("home", "no")],
        &["bind /home/a/run (rw, if there)"],
    );
    row(
        &at("/home/a", "/home/a", &[]),
        &[("home", "/h2")],
        &["bind /h2 -> /home/a (rw)"],
    );
    row(
        &at("/home/a", "/home/a", &[("TMPDIR", "/local/1")]),
        &[],
        &["bind /local/1 (rw, if there)", home],
    );
    row(
        &at("/home/a", "/home/a", &[("TMPDIR", "/tmp/1")]),
        &[],
        &[home],
    );
    row(
        &at(
            "/home/a",
            "/home/a",
            &[("PMIX_SERVER_TMPDIR", "/tmp/ompi/1")],
        ),
        &[],
        &[home],
    );
}

#[test]
fn users_mounts() {
    let facts = facts(&[]);
    let rows: &[(Words, Words)] = &[
        (
            &["data:/data"],
            &["bind /home/alice/run/data -> /data (rw)"],
        ),
        (
            &["./data:/data:ro"],
            &["bind /home/alice/run/data -> /data (ro)"],
        ),
        (&["/a/b", "/a"], &["bind /a (rw)", "bind /a/b (rw)"]),
        (&["/x:/home/alice"], &["bind /x -> /home/alice (rw)"]),
        (
            &["tmpfs:/a", "/b:/a/b"],
            &["tmpfs /a (mode 1777)", "bind /b -> /a/b (rw)"],
        ),
        (&["/m:/var/run/munge"], &["bind /m -> /run/munge (rw)"]),
        (&["umount:/home/alice"], &[]),
    ];
    for (words, expected) in rows {
        let pairs: Vec<(&str, &str)> = words.iter().map(|word| ("bind", *word)).collect();
        let got = mounts_of(&planned(&pairs, &facts).unwrap());
        let shown: Vec<&String> = got
            .iter()
            .filter(|line| !line.contains("if there"))
            .collect();
        assert_eq!(shown, *expected, "{words:?}");
    }
    for word in [
        "/a:/",
        "/a:/proc",
        "/a:/proc/self",
        "/a:/dev",
        "/a:/sys",
        "/a/../b",
        "../x",
    ] {
        let error = refused(&[("bind", word)], &facts);
        assert!(error.contains("cannot"), "{error}");
    }
}

#[test]
fn missing_targets_are_made_in_the_image_or_a_tmpfs_and_never_on_the_host() {
    let made = planned(
        &[
            ("bind", "/a:/new/place"),
            ("bind", "/b:/home/alice/deep"),
            ("mount", "type=tmpfs,dst=/t"),
            ("bind", "/c:/t/c"),
            ("bind", "/d:/t/c/d"),
        ],
        &facts(&[]),
    )
    .unwrap();
    let target = |path: &str| {
        made.steps.iter().find_map(|step| match step {
            Step::Bind { to, target, .. } if to.as_path() == Path::new(path) => Some(*target),
            _ => None,
        })
    };
    assert_eq!(target("/new/place"), Some(Target::Ready));
    assert_eq!(target("/home/alice/deep"), Some(Target::Ready));
    assert_eq!(target("/t/c"), Some(Target::Make));
    assert_eq!(target("/t/c/d"), Some(Target::Ready));
    let points = made.steps.iter().find_map(|step| match step {
        Step::MountPoints(points) => Some(points),
        _ => None,
    });
    let points = points.unwrap_or_else(|| panic!("no mount points: {made}"));
    let has = |path: &str| {
        points
            .iter()
            .any(|point| point.at.as_path() == Path::new(path))
    };
    assert!(has("/new/place") && has("/t") && has("/dev") && has("/etc/passwd"));
    assert!(!has("/home/alice/deep") && !has("/t/c") && !has("/etc/localtime"));
}

#[test]
fn commands_as_docker_composes_them() {
    let rows: &[(Words, Words, Words, Option<&str>, &str)] = &[
        // entrypoint, cmd, arguments, --entrypoint, what starts
        (&[], &[], &[], None, "error"),
        (&[], &["c", "d"], &[], None, "c d"),
        (&[], &["c"], &["x"], None, "x"),
        (&["e"], &[], &[], None, "e"),
        (&["e"], &["c"], &[], None, "e c"),
        (&["e"], &["c"], &["x", "*"], None, "e x *"),
        (
            &["/bin/sh", "-c", "echo $HOME"],
            &["c"],
            &[],
            None,
            "/bin/sh -c echo $HOME c",
        ),
        (&["e"], &["c"], &[], Some("f"), "f"),
        (&["e"], &["c"], &["x"], Some("f"), "f x"),
        (&["e"], &["c"], &[], Some(""), "c"),
        (&["e"], &["c"], &["x"], Some("false"), "x"),
        (&[""], &["c"], &[], None, "c"),
    ];
    for (entrypoint, cmd, arguments, option, expected) in rows {
        let owned = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
        let mut found = found();
        found.record.config.entrypoint = owned(entrypoint);
        found.record.config.cmd = owned(cmd);
        let mut request = request(
            &option
                .map(|word| ("entrypoint", word))
                .into_iter()
                .collect::<Vec<_>>(),
        );
        request.mode = Mode::Run;
        request.command = arguments.iter().map(OsString::from).collect();
        let shown = match argv(&request, &found) {
            Ok(argv) => argv.join(OsStr::new(" ")).into_string().unwrap(),
            Err(_) => "error".into(),
        };
        assert_eq!(
            shown, *expected,
            "{entrypoint:?} {cmd:?} {arguments:?} {option:?}"
        );
    }
}

#[test]
fn exec_and_shell() {
    let mut found = found();
    found.record.config.entrypoint = vec!["e".into()];
    let argv_of = |found: &Found, mode, entrypoint: Option<&str>| {
        let mut request = request(
            &entrypoint
                .map(|word| ("entrypoint", word))
                .into_iter()
                .collect::<Vec<_>>(),
        );
        request.mode = mode;
        argv(&request, found).map(|argv| argv.join(OsStr::new(" ")).into_string().unwrap())
    };
    assert_eq!(argv_of(&found, Mode::Exec, None).unwrap(), "./app -x");
    assert_eq!(
        argv_of(&found, Mode::Exec, Some("true")).unwrap(),
        "e ./app -x"
    );
    let shell = argv_of(&found, Mode::Shell, None).unwrap();
    assert!(
        shell.starts_with("/bin/sh -c ") && shell.ends_with("/bin/sh ./app -x"),
        "{shell}"
    );
    found.record.contents.shell = None;
    let error = argv_of(&found, Mode::Shell, None).unwrap_err();
    assert_eq!(error.kind(), Exit::NotFound);
    found.record.manifest_digest.clear();
    assert!(
        argv_of(&found, Mode::Shell, None).is_ok(),
        "an unknown image may have one"
    );
}

#[test]
fn where_it_starts() {
    let start = |pairs: &[(&str, &str)], workdir: &str, profile: &str| {
        let mut found = found();
        found.record.config.workdir = workdir.into();
        let mut config = Config::default();
        config.launch.profile = profile.into();
        let any = config.profile.entry("gef".into()).or_default();
        any.command = Some("any".into());
        let start = plan(&found, &request(pairs), &config, &facts(&[]))
            .unwrap()
            .directory;
        let list: Vec<String> = start.candidates.iter().map(ToString::to_string).collect();
        format!(
            "{}{}",
            list.join(" "),
            if start.required { " !" } else { "" }
        )
    };
    let rows: &[(Pairs, &str, &str, &str)] = &[
        (&[], "", "hpc", "/home/alice/run /home/alice /"),
        (&[], "/app", "hpc", "/home/alice/run /app /home/alice /"),
        (&[], "app", "hpc", "/home/alice/run /app /home/alice /"),
        (&[], "/app", "gef", "/app /root /"),
        (&[], "/proc/self/fd/7", "gef", "/root /"),
        (&[], "/a/../../b", "gef", "/root /"),
        (&[("workdir", "/w")], "/app", "hpc", "/w !"),
    ];
    for (pairs, workdir, profile, expected) in rows {
        assert_eq!(
            start(pairs, workdir, profile),
            *expected,
            "{workdir} {profile}"
        );
    }
}

#[test]
fn a_directory_that_is_gone_is_said_once() {
    let gone = HostFacts {
        cwd: None,
        ..facts(&[])
    };
    let made = planned(&[], &gone).unwrap();
    assert_eq!(made.warnings.len(), 1);
    assert_eq!(
        made.directory.candidates.first().unwrap().as_path(),
        Path::new("/home/alice")
    );
    assert!(
        planned(&[("workdir", "/w")], &gone)
            .unwrap()
            .warnings
            .is_empty()
    );
}

#[test]
fn no_network_and_more_than_one_node_exclude_each_other() {
    let step = |nodes: &str, more: &[(&str, &str)]| {
        let base = [
            ("SLURM_JOB_ID", "1"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NUM_NODES", nodes),
        ];
        facts(&[&base[..], more].concat())
    };
    let none = [("network", "none")];
    assert!(planned(&none, &step("1", &[])).is_ok());
    assert!(planned(&[], &step("2", &[])).is_ok());
    let error = refused(&none, &step("2", &[]));
    assert!(
        error.contains("2 nodes, which could not reach each other"),
        "{error}"
    );
    let pmix = [("PMIX_NAMESPACE", "x"), ("SLURM_STEP_NUM_TASKS", "2")];
    assert!(refused(&none, &step("1", &pmix)).contains("PMIx"));
}

#[test]
fn tasks_of_a_step_agree_whatever_they_run() {
    let step = |rank: &str| {
        facts(&[
            ("SLURM_JOB_ID", "1"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", rank),
            ("SLURM_LOCALID", rank),
            ("PMI_RANK", rank),
            ("CUDA_VISIBLE_DEVICES", rank),
        ])
    };
    let key =
        |pairs: &[(&str, &str)], rank: &str| planned(pairs, &step(rank)).unwrap().key.unwrap();
    let mut other_command = request(&[("env", "A=1"), ("workdir", "/w")]);
    other_command.command = vec!["other".into()];
    let other = plan(&found(), &other_command, &Config::default(), &step("1")).unwrap();
    assert_eq!(key(&[], "0"), key(&[], "1"));
    assert_eq!(key(&[], "0"), other.key.unwrap());
    for different in [
        ("bind", "/x"),
        ("id", "root"),
        ("writable", "yes"),
        ("tmp", "private"),
        ("network", "none"),
    ] {
        assert_ne!(key(&[], "0"), key(&[different], "0"), "{different:?}");
    }
}

#[test]
fn descriptors_that_stay() {
    let environment = |value: &str| vec![(OsString::from("PMI_FD"), OsString::from(value))];
    let argv = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    for (value, words, expected) in [
        ("13", &["app"][..], &[13][..]),
        ("x", &["app"], &[]),
        ("1", &["app"], &[]),
        ("-1", &["app"], &[]),
        (
            "13",
            &["diff", "/dev/fd/63", "/proc/self/fd/62"],
            &[13, 62, 63],
        ),
        ("13", &["app", "/dev/fd/13"], &[13]),
    ] {
        assert_eq!(keep_fds(&environment(value), &argv(words)), expected);
    }
}

#[path = "plan_policy_tests.rs"]
mod policy;
