//! The site's programs and the site's records.

use super::Site;
use crate::need::need;
use std::os::unix::fs::PermissionsExt;

fn program(site: &Site, name: &str, text: &str) {
    site.write(name, text);
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(site.scene.path(name), mode).unwrap();
}

const DATASETS: &str = r#"
[launch]
profile = "eucaim"
[profile.eucaim]
binds = []
datasets = "$SCENE/data/{dataset}:/home/ds/datasets/{dataset}:ro"
[hooks]
submit = "$SCENE/prefix/etc/hook"
start = "$SCENE/prefix/etc/hook"
end = "$SCENE/prefix/etc/hook"
timeout = 5
"#;

/// Denies d2, notes every event, and says what environment it has.
const HOOK: &str = r#"#!/bin/sh
read -r document
echo "$document" >>$SCENE/events
env | cut -d= -f1 | sort | tr '\n' ' ' >$SCENE/environment
case $document in *'"d2"'*) echo "Access denied to the following datasets: d2"; exit 1 ;; esac
"#;

fn site() -> Site {
    let site = Site::new();
    site.settings(DATASETS);
    program(&site, "prefix/etc/hook", HOOK);
    std::fs::create_dir_all(site.scene.path("data/d2")).unwrap();
    site
}

fn events(site: &Site) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(site.scene.path("events")).unwrap_or_default();
    let _ = std::fs::remove_file(site.scene.path("events"));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn e5_dataset_access_is_decided_and_noted() {
    need!(Fuse, Userns);
    let site = site();
    let submit = |id: &str| {
        site.run(&[
            "submit",
            "--local",
            "--force",
            "--dataset",
            id,
            "dir:$SCENE/root",
            "--",
            "sh",
            "-c",
            "ls /home/ds/datasets",
        ])
    };
    let outcome = submit("d2");
    assert!(
        outcome.code == 2 && !outcome.out.contains("d2\n"),
        "{outcome}"
    );
    assert!(
        outcome
            .err
            .contains("Access denied to the following datasets: d2")
            && outcome.err.contains("`hooks.submit`"),
        "{outcome}"
    );
    assert_eq!(events(&site).len(), 1);
    let outcome = submit("d1");
    assert!(outcome.code == 0 && outcome.out.contains("d1"), "{outcome}");
    let seen = events(&site);
    let words: Vec<&str> = seen
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["submit", "start", "end"], "{seen:?}");
    for event in &seen {
        assert_eq!(
            (event["profile"].as_str(), event["datasets"][0].as_str()),
            (Some("eucaim"), Some("d1")),
            "{event}"
        );
    }
    assert_eq!(seen[2]["exit_code"], 0);
    // A start without a job is asked for as well, with nothing of the user's environment.
    let mut command = site.command(&["exec", "--dataset", "d2", "dir:$SCENE/root", "echo", "RAN"]);
    command
        .env("SECRET", "1")
        .env("LD_PRELOAD", "x")
        .env("BASH_ENV", "y");
    let outcome = site.scene.finish(command, b"");
    assert!(
        outcome.code == 2 && outcome.err.contains("`hooks.start`") && outcome.out.is_empty(),
        "{outcome}"
    );
    let environment = std::fs::read_to_string(site.scene.path("environment")).unwrap();
    for name in environment.split_whitespace() {
        assert!(
            ["LC_ALL", "PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name),
            "{environment}"
        );
    }
}

#[test]
fn g14_a_hook_that_cannot_decide_denies() {
    let site = site();
    let told = || site.inside(&[], "echo RAN");
    for (text, says) in [
        ("#!/bin/sh\nexit 3\n", "ended with exit status: 3"),
        ("#!/bin/sh\nkill -9 $$\n", "signal: 9"),
        (
            "#!/bin/sh\nsleep 60\n",
            "gave no answer in 1 s (`hooks.timeout`)",
        ),
        ("not a program\n", "cannot start `"),
    ] {
        program(&site, "prefix/etc/hook", text);
        site.settings(&DATASETS.replace("timeout = 5", "timeout = 1"));
        let outcome = told();
        assert!(
            outcome.code != 0 && outcome.out.is_empty() && outcome.err.contains(says),
            "{outcome}"
        );
    }
    // Whoever else could have written it decides nothing.
    program(&site, "prefix/etc/hook", "#!/bin/sh\n");
    let path = site.scene.path("prefix/etc/hook");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    told().fails(
        125,
        &[
            "cannot ask the site's `hooks.start`",
            "others than the owner can write",
        ],
    );
    std::fs::remove_file(&path).unwrap();
    told().fails(125, &["cannot ask the site's `hooks.start`"]);
}

/// The example of `slurm/site` does what its comments say.
#[test]
fn the_example_hook_decides_by_its_list() {
    let site = Site::new();
    site.write("allow", "alice d1\nalice d3\n");
    let decide = |user: &str, ids: &str| {
        let mut command = site
            .scene
            .program(crate::golden::root().join("slurm/site/ask"));
        command.env("CARRACK_HOOK_LIST", site.scene.path("allow"));
        let text = format!(
            "{{\"schema\":1,\"event\":\"start\",\"user\":\"{user}\",\"datasets\":[{ids}]}}\n"
        );
        site.scene.finish(command, text.as_bytes())
    };
    decide("alice", "\"d1\",\"d3\"").is(0, "", "");
    decide("alice", "").is(0, "", "");
    decide("alice", "\"d1\",\"d2\"").is(1, "Access denied to the following datasets: d2\n", "");
    decide("bob", "\"d1\"").is(1, "Access denied to the following datasets: d1\n", "");
}

#[test]
fn records_go_to_the_site_and_are_checked() {
    need!(Fuse, Userns);
    let site = Site::new();
    site.settings("[records]\ndirectory = \"/var/tmp\"\n");
    // The site's directory belongs to somebody else than the user; this is one that every machine has. In /tmp hundreds of
    // other tests come and go while it is read.
    let words = [
        "submit",
        "--local",
        "--force",
        "--job-name",
        "recorded",
        "dir:$SCENE/root",
        "--",
        "true",
    ];
    let before = site_files();
    let outcome = site.run(&words);
    outcome.ok();
    let added: Vec<_> = site_files()
        .into_iter()
        .filter(|file| !before.contains(file))
        .collect();
    let mine: Vec<_> = added
        .iter()
        .filter(|file| {
            std::fs::read_to_string(file).is_ok_and(|text| text.contains(&site.fill("$SCENE")))
        })
        .collect();
    assert_eq!(mine.len(), 2, "{added:?}\n{outcome}");
    for file in &mine {
        let file = file.to_str().unwrap();
        assert!(
            site.run(&["record", "verify", file])
                .ok()
                .out
                .contains("whole; ")
        );
        let text = std::fs::read_to_string(file).unwrap();
        site.write(
            "forged.json",
            &text
                .replace("COMPLETED", "FAILED")
                .replace("RUNNING", "COMPLETED"),
        );
        site.run(&["record", "verify", "$SCENE/forged.json"])
            .fails(125, &["(checksum)"]);
        std::fs::remove_file(file).unwrap();
    }
    site.settings("[records]\ndirectory = \"$SCENE\"\n");
    let outcome = site.run(&words);
    assert!(
        outcome.err.contains("the directory is your own"),
        "{outcome}"
    );
}

fn site_files() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir("/var/tmp").unwrap().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("local-"))
        })
        .collect()
}

/// What is shown to sites can be installed as it is.
#[test]
fn the_example_site_file_has_no_mistake() {
    let site = Site::new();
    let file = crate::golden::root().join("slurm/site/carrack.toml");
    site.run(&["config", "check", file.to_str().unwrap()]).ok();
}
