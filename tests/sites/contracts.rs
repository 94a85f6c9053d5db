//! Requirement rows that the engine itself makes true, each under its profile. A test's name begins with its row.

use super::Site;
use crate::need::need;
use std::os::unix::fs::symlink;

const CES: &str = r#"
[launch]
profile = "ces"
[projects]
override = "choice"
[profile.ces]
project_data = "$SCENE/safe/{project}:/safe_data:ro"
outputs = "$SCENE/outputs_{job}:/safe_outputs"
scratch = "$SCENE/scratch_{job}:/scratch"
"#;

const EUCAIM: &str = r#"
[launch]
profile = "eucaim"
[profile.eucaim]
datasets = "$SCENE/data/{dataset}:/home/ds/datasets/{dataset}:ro"
binds = ["$SCENE/lake:/mnt/datalake:ro", "$SCENE/persistent:/home/ds/persistent-home:x-create=dir", "$SCENE/shared:/home/ds/persistent-shared-folder"]
"#;

fn site(settings: &str) -> Site {
    let mut site = Site::new();
    site.settings(settings);
    site.scene.env("CARRACK_JOB", "77");
    site
}

#[test]
fn c1_three_mounts() {
    need!(Userns);
    let site = site(CES);
    site.write(&site.fill("safe/$GROUP/input"), "spices");
    let line = "cat /safe_data/input; echo out >/safe_outputs/o; echo tmp >/scratch/s; ls / | cat";
    let outcome = site.inside(&[], line);
    outcome.ok();
    assert!(
        outcome.out.starts_with("spices") && outcome.out.contains("safe_outputs"),
        "{outcome}"
    );
    let read = |name: &str| std::fs::read_to_string(site.scene.path(name)).unwrap();
    assert_eq!(
        (read("outputs_77/o"), read("scratch_77/s")),
        ("out\n".into(), "tmp\n".into())
    );
}

#[test]
fn c2_outputs_stay_and_scratch_goes() {
    need!(Fuse, Userns);
    let site = site(CES);
    let run = |line: &str| {
        let words = [
            "submit",
            "--local",
            "--force",
            "--job-name",
            "j",
            "dir:$SCENE/root",
            "--",
            "sh",
            "-c",
            line,
        ];
        site.run(&words)
    };
    let left = |name: &str| {
        let entries = std::fs::read_dir(site.scene.path("")).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|entry| entry.starts_with(name)).count()
    };
    for (number, (line, code)) in [
        ("touch /safe_outputs/a /scratch/b", 0),
        ("mkdir /scratch/c; exit 7", 7),
    ]
    .iter()
    .enumerate()
    {
        let outcome = run(line);
        assert_eq!(outcome.code, *code, "{outcome}");
        assert_eq!(
            (left("outputs_"), left("scratch_")),
            (number + 1, 0),
            "{outcome}"
        );
    }
    // What a killed job left goes with `gc`, which an epilog can run.
    site.inside(
        &[],
        "touch /scratch/x /safe_outputs/y; mkdir /scratch/d; chmod 0 /scratch/d",
    )
    .ok();
    site.inside(&[], "touch /scratch/x /safe_outputs/y").ok();
    assert_eq!(left("scratch_"), 1);
    site.run(&["gc", "--job", "77"]).ok();
    assert_eq!((left("outputs_"), left("scratch_")), (3, 0));
    site.run(&["gc", "--job", "../x"]).fails(2, &["is no job"]);
}

/// What a start outside of any job leaves when it is killed goes with the next `gc`; what runs keeps it.
#[test]
fn c2_scratch_of_a_killed_start_is_swept() {
    need!(Fuse, Userns);
    let site = Site::new();
    site.settings(CES);
    let words = [
        "exec",
        "dir:$SCENE/root",
        "sh",
        "-c",
        "touch /scratch/x /safe_outputs/y; exec /bin/busybox sleep 600",
    ];
    let mut command = site.command(&words);
    let mut child = command.spawn().unwrap();
    let left = |name: &str| {
        let entries = std::fs::read_dir(site.scene.path("")).unwrap().flatten();
        let mut names = entries.map(|entry| entry.path());
        names.find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(name)
        })
    };
    for _ in 0..300 {
        if left("outputs_local-").is_some_and(|path| path.join("y").exists()) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    site.run(&["gc"]).ok();
    assert!(left("scratch_local-").is_some_and(|path| path.join("x").exists()));
    child.kill().unwrap();
    child.wait().unwrap();
    let told = site.run(&["gc", "--dry-run"]);
    assert!(
        told.ok().out.contains("would remove $SCENE/scratch_local-"),
        "{told}"
    );
    // Names that only look alike, and other machines' starts, are left alone.
    for name in [
        "scratch_local-elsewhere-1-999999999",
        "scratch_mine",
        "scratch_local-1",
    ] {
        std::fs::create_dir(site.scene.path(name)).unwrap();
    }
    site.run(&["gc"]).ok();
    let mut names: Vec<String> = std::fs::read_dir(site.scene.path(""))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.starts_with("scratch_"))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "scratch_local-1",
            "scratch_local-elsewhere-1-999999999",
            "scratch_mine"
        ]
    );
    assert!(left("outputs_local-").is_some_and(|path| path.join("y").exists()));
}

#[test]
fn c3_read_only_or_not_by_project() {
    need!(Userns);
    let site = site(CES);
    let write = |site: &Site| site.inside(&[], "touch /safe_data/x");
    let outcome = write(&site);
    assert!(
        outcome.code == 1 && outcome.err.contains("Read-only file system"),
        "{outcome}"
    );
    site.settings(
        &format!("{CES}\n[projects.access]\n\"$GROUP\" = \"rw\"\n")
            .replace("[projects]\noverride = \"choice\"\n", ""),
    );
    write(&site).ok();
    assert!(site.scene.path(site.fill("safe/$GROUP/x")).exists());
}

#[test]
fn c4_projects_by_group() {
    need!(Userns);
    let site = site(CES);
    site.inside(&["--project", &site.group], "true").ok();
    site.inside(&["--project", "other"], "true").fails(
        2,
        &["the project `other` is not yours", "your groups name: "],
    );
    let data = site.scene.path(site.fill("safe/$GROUP"));
    use std::os::unix::fs::PermissionsExt;
    let mode =
        |mode| std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    if !rustix_is_root() {
        site.inside(&[], "true")
            .fails(2, &["cannot read the data of the project"]);
        mode(0o500);
        site.settings(
            &format!("{CES}\n[projects.access]\n\"$GROUP\" = \"rw\"\n")
                .replace("[projects]\noverride = \"choice\"\n", ""),
        );
        site.inside(&[], "true")
            .fails(2, &["cannot write the data of the project"]);
    }
    mode(0o755);
    std::fs::remove_dir(&data).unwrap();
    site.settings(CES);
    site.inside(&[], "true")
        .fails(2, &["no project of yours was found"]);
    // A link that somebody else than root made leads nowhere.
    symlink(site.scene.path("safe/other"), &data).unwrap();
    if !rustix_is_root() {
        site.inside(&[], "true")
            .fails(2, &["it is a link that user"]);
    }
}

fn rustix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0)
}

#[test]
fn c9_no_network() {
    need!(Userns);
    let site = site(CES);
    let outcome = site.inside(
        &[],
        "ip -o link | cat; wget -q -T 2 -O - http://192.0.2.1/ || echo unreachable",
    );
    assert!(
        outcome.out.contains("lo:")
            && !outcome.out.contains("eth")
            && outcome.out.contains("unreachable"),
        "{outcome}"
    );
}

#[test]
fn c10_nobody_enters() {
    let site = site(CES);
    for words in [
        &["shell", "dir:$SCENE/root"][..],
        &["attach"],
        &["exec", "-it", "dir:$SCENE/root", "sh"],
        &["run", "-t", "dir:$SCENE/root"],
    ] {
        site.run(words)
            .fails(2, &["nobody may enter", "`interactive`"]);
    }
}

#[test]
fn c11_gpus_only_when_asked() {
    let site = site(CES);
    let plan = |options: &[&str]| {
        let words = [
            &["exec", "--dry-run"],
            options,
            &["dir:$SCENE/root", "true"],
        ]
        .concat();
        site.run(&words).ok().out.clone()
    };
    assert!(!plan(&[]).contains("/dev/nvidia"), "{}", plan(&[]));
    plan(&["--gpu", "auto"]);
}

#[test]
fn c14_access_by_account_and_host() {
    let site = site("[access]\nrun_groups = [\"$GROUP\"]\npull_users = [\"nobody\"]\n");
    need!(Userns);
    site.inside(&["--no-home"], "true").ok();
    site.run(&["pull", "registry.site/x"])
        .fails(2, &["may not pull images here", "access.pull_users"]);
    site.settings("[access]\nhosts = [\"elsewhere*\"]\n");
    site.inside(&[], "true")
        .fails(2, &["nothing may be done on", "access.hosts"]);
}

#[test]
fn c15_the_same_plan_without_slurm() {
    let site = site(CES);
    let plan = || {
        site.run(&["exec", "--dry-run", "dir:$SCENE/root", "true"])
            .ok()
            .out
            .clone()
    };
    assert_eq!(plan(), plan());
    assert!(plan().contains("-> /safe_data (ro)"), "{}", plan());
}

#[test]
fn c19_longest_time() {
    let site = site(&format!(
        "{CES}max_time = \"06:00:00\"\njob = {{ mem = \"4G\" }}\n"
    ));
    let script = |options: &[&str]| {
        let words = [&["script"], options, &["dir:$SCENE/root", "--", "true"]].concat();
        site.run(&words)
    };
    let text = script(&[]).ok().out.clone();
    assert!(
        text.contains("#SBATCH --time=06:00:00\n") && text.contains("#SBATCH --mem=4G\n"),
        "{text}"
    );
    let text = script(&["--time", "30", "--mem-per-cpu=1G"])
        .ok()
        .out
        .clone();
    assert!(
        text.contains("#SBATCH --time=30\n") && !text.contains("--mem=4G"),
        "{text}"
    );
    script(&["--time", "7:00:00"]).fails(2, &["`max_time`"]);
}

#[test]
fn e1_always_user_1000() {
    need!(Userns);
    let site = site(EUCAIM);
    let outcome = site.inside(&[], "id -u; id -g; touch /home/ds/persistent-home/mine");
    assert!(
        outcome.code == 0 && outcome.out == "1000\n1000\n",
        "{outcome}"
    );
    use std::os::unix::fs::MetadataExt;
    let owner = |path: &str| std::fs::metadata(site.scene.path(path)).unwrap().uid();
    assert_eq!(owner("persistent/mine"), owner("root"));
    site.inside(&["--id", "root"], "id")
        .fails(2, &["profile `eucaim` locks `id`"]);
}

#[test]
fn e2_datasets_by_id() {
    need!(Userns);
    let site = site(EUCAIM);
    site.write("lake/deep/scan", "scan");
    site.write("data/d1/scan->", "/mnt/datalake/deep/scan");
    site.write("data/d2/x", "x");
    let outcome = site.inside(
        &["--dataset", "d1,d2"],
        "cat /home/ds/datasets/d1/scan; ls /home/ds/datasets; touch /home/ds/datasets/d2/y",
    );
    assert!(
        outcome.out == "scand1\nd2\n" && outcome.err.contains("Read-only"),
        "{outcome}"
    );
    let job = |id: &str| site.run(&["script", "--dataset", id, "dir:$SCENE/root", "--", "true"]);
    assert!(job("d1").ok().out.contains("--dataset d1"));
    job("d9").fails(2, &["cannot use the dataset `d9`"]);
}

#[test]
fn e3_persistent_and_private() {
    need!(Userns);
    let site = site(EUCAIM);
    std::fs::create_dir(site.scene.path("shared")).unwrap();
    let line = "echo 1 >/home/ds/persistent-home/a; echo 2 >/home/ds/persistent-shared-folder/b; echo 3 >/tmp/c";
    site.inside(&[], line).ok();
    let outcome = site.inside(
        &[],
        "cat /home/ds/persistent-home/a /home/ds/persistent-shared-folder/b; ls /tmp",
    );
    assert!(outcome.code == 0 && outcome.out == "1\n2\n", "{outcome}");
}

#[test]
fn e6_loopback_works() {
    need!(Userns);
    let site = site(EUCAIM);
    let outcome = site.inside(
        &[],
        "ip -o addr show lo | cat; wget -q -T 2 -O - http://192.0.2.1/ || echo unreachable",
    );
    assert!(
        outcome.out.contains("127.0.0.1") && outcome.out.contains("unreachable"),
        "{outcome}"
    );
}

#[test]
fn e12_only_the_internal_registry() {
    let site = site("[launch]\nimages = [\"docker://harbor.site/tools/\"]\n");
    site.inside(&[], "true")
        .fails(2, &["is not allowed here", "harbor.site/tools/"]);
}

#[test]
fn e15_settings_by_precedence() {
    let site = site(
        "final = [\"launch.images\"]\n[launch]\nimages = [\"docker://a/\"]\nprofile = \"gef\"\n[store]\nstripe_count = 4\n",
    );
    let show = || {
        site.run(&["config", "show", "--origin", "launch.profile"])
            .ok()
            .out
            .clone()
    };
    assert!(
        show().contains("\"gef\"") && show().contains("site file"),
        "{}",
        show()
    );
    site.write("settings.toml", "[launch]\nprofile = \"hpc\"\n");
    assert!(
        show().contains("\"hpc\"") && show().contains("user file"),
        "{}",
        show()
    );
    site.write("settings.toml", "[launch]\nimages = []\n");
    site.run(&["config", "show"])
        .fails(2, &["`launch.images` is final"]);
}

#[test]
fn f10_ready_images_only_from_named_users() {
    let site = site("[pull]\nimport_users = [\"nobody-at-all\"]\n");
    need!(SquashfsTools);
    let made = std::process::Command::new(crate::need::program("mksquashfs").unwrap())
        .args([site.scene.path("root"), site.scene.path("x.sqsh")])
        .args(["-quiet", "-no-progress", "-all-root"])
        .output();
    assert!(made.unwrap().status.success());
    site.run(&["import", "$SCENE/x.sqsh"])
        .fails(125, &["import_users"]);
    // Who the user is must not be asked of a program of his own.
    site.write("evil/id", "#!/bin/sh\necho nobody-at-all\n");
    let path = site.scene.path("evil/id");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = site.command(&["import", "$SCENE/x.sqsh"]);
    command.env("PATH", site.scene.path("evil"));
    site.scene
        .finish(command, b"")
        .fails(125, &["import_users"]);
}

#[test]
fn n2_switches_of_the_administrator() {
    need!(Userns);
    let site = Site::new();
    let home = site.scene.path("home");
    let sees = |settings: &str, path: &str| {
        site.settings(settings);
        site.inside(&[], &format!("test -e {path}")).code == 0
    };
    let home = home.to_str().unwrap();
    for (settings, path, seen) in [
        ("", home, true),
        (
            "[profile.hpc]\nhome = false\ntmp = \"private\"\ncwd = false\n",
            home,
            false,
        ),
        (
            "[profile.hpc]\nbinds = [\"$SCENE/data:/d\"]\n",
            "/d/d1",
            true,
        ),
        ("", "/d/d1", false),
        (
            "[profile.hpc]\nbinds = [\"$SCENE/nothing:/d\"]\n",
            "/d",
            false,
        ),
    ] {
        assert_eq!(sees(settings, path), seen, "{settings} {path}");
    }
    site.settings("[profile.hpc]\nuser_binds = false\n");
    site.inside(&["-v", "$SCENE/data:/d"], "true")
        .fails(2, &["`user_binds`"]);
}
