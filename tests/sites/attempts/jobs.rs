//! Attempts with datasets, images, people and jobs.

use super::*;

pub fn by_projects_and_images() -> Vec<Attempt> {
    let datasets: &[(&str, &str)] = &[
        ("../safe", "is no plain name"),
        ("d1/..", "is no plain name"),
        ("d1:/etc", "is no plain name"),
        ("{home}", "is no plain name"),
        (".", "is no plain name"),
    ];
    let mut all: Vec<Attempt> = datasets
        .iter()
        .map(|(id, says)| Attempt {
            name: "a dataset that is no name",
            site: DATASETS,
            words: exec(&["--dataset", id]),
            says,
            ..Attempt::default()
        })
        .collect();
    all.push(Attempt {
        name: "a dataset that is not there, at the desk",
        site: DATASETS,
        words: vec![
            "script",
            "--dataset",
            "d7",
            "dir:$SCENE/root",
            "--",
            "echo",
            "RAN",
        ],
        says: "cannot use the dataset `d7`",
        ..Attempt::default()
    });
    all.push(Attempt {
        name: "an option that eucaim locks",
        site: DATASETS,
        words: exec(&["--id", "root"]),
        says: "profile.eucaim.id",
        ..Attempt::default()
    });
    all.push(Attempt {
        name: "a command where the image decides",
        site: GEF,
        words: exec(&[]),
        says: "(`command`)",
        ..Attempt::default()
    });
    all.push(Attempt {
        name: "another entrypoint where the image decides",
        site: GEF,
        words: vec!["run", "--entrypoint", "echo", "dir:$SCENE/root", "RAN"],
        says: "(`command`)",
        ..Attempt::default()
    });
    // The home comes from the user database, so a link there cannot be placed by a test; see `contracts.rs` for it.
    for (name, words) in [
        ("an image that is a directory", exec(&[])),
        (
            "an image that is a file",
            vec!["exec", "$SCENE/root/bin/busybox.sqsh", "echo", "RAN"],
        ),
    ] {
        all.push(Attempt {
            name,
            site: IMAGES,
            files: &[("root/bin/busybox.sqsh", "hsqs")],
            words,
            says: if name.ends_with("file") {
                ""
            } else {
                "is not allowed here"
            },
            ..Attempt::default()
        });
    }
    for (name, site, says) in [
        ("a stranger", STRANGERS, "access.run_users"),
        ("another machine", ELSEWHERE, "access.hosts"),
    ] {
        all.push(Attempt {
            name,
            site,
            words: exec(&[]),
            says,
            ..Attempt::default()
        });
    }
    all.push(Attempt {
        name: "a stranger pulls",
        site: STRANGERS,
        words: vec!["pull", "registry.site/x"],
        says: "access.pull_users",
        ..Attempt::default()
    });
    all.push(Attempt {
        name: "a profile that is not offered",
        site: OFFERED,
        words: exec(&["--profile", "gef"]),
        says: "launch.profiles",
        ..Attempt::default()
    });
    for (name, words, says) in [
        ("a shell", vec!["shell", "dir:$SCENE/root"], "`interactive`"),
        ("into a running one", vec!["attach"], "`interactive`"),
        (
            "another registry",
            vec!["pull", "evil.site/x"],
            "`registries.allow`",
        ),
        (
            "another registry, named alike",
            vec!["pull", "registry.site.evil.site/x"],
            "`registries.allow`",
        ),
        (
            "without TLS",
            vec!["pull", "--insecure", "registry.site/x"],
            "registries.insecure",
        ),
        (
            "an image of another registry",
            vec!["exec", "evil.site/x", "echo", "RAN"],
            "`registries.allow`",
        ),
    ] {
        all.push(Attempt {
            name,
            site: HAVEN,
            words,
            says,
            ..Attempt::default()
        });
    }
    all
}

pub fn by_jobs() -> Vec<Attempt> {
    let rows: &[(&str, &str, &str)] = &[
        (
            "a mount",
            "mounts = [\"/etc:/x\"]\n",
            "profile.ces.user_binds",
        ),
        ("the network", "network = \"host\"\n", "profile.ces.network"),
        (
            "the profile",
            "profile = \"hpc\"\n",
            "launch.choose_profile",
        ),
        ("the home", "home = true\n", "profile.ces.home"),
        (
            "a device",
            "devices = [\"/dev/fuse\"]\n",
            "profile.ces.deny",
        ),
        (
            "another's project",
            "project = \"other\"\n",
            "the project `other` is not yours",
        ),
        (
            "an environment file",
            "base_environment = \"$SCENE/e.toml\"\n",
            "profile.ces.user_binds",
        ),
        (
            "a step's mount",
            "[[step]]\ncommand = [\"echo\", \"RAN\"]\ncontainer = { mounts = [\"/etc:/x\"] }\n",
            "profile.ces.user_binds",
        ),
    ];
    let mut all: Vec<Attempt> = vec![Attempt {
        name: "a copy of the image on the node",
        site: IMAGES,
        files: &[(
            "work/n.toml",
            "[job]\nimage-on = \"node\"\n[container]\nimage = \"dir:$SCENE/root\"\n",
        )],
        words: vec!["script", "n.toml"],
        says: "`image-on = \"node\"` is not allowed here",
        ..Attempt::default()
    }];
    for (name, keys, says) in rows {
        let job = format!("[container]\nimage = \"dir:$SCENE/root\"\n{keys}");
        // Texts of tests live as long as the test.
        let job: &'static str = job.leak();
        let files: &'static [(&str, &str)] =
            vec![("e.toml", "mounts = [\"/etc:/x\"]\n"), ("work/j.toml", job)].leak();
        for verb in ["script", "submit"] {
            all.push(Attempt {
                name,
                site: HAVEN,
                files,
                words: vec![verb, "j.toml"],
                says,
                ..Attempt::default()
            });
        }
    }
    for (name, options, says) in [
        (
            "a mount beside a job",
            &["--bind", "/etc:/x"][..],
            "profile.ces.user_binds",
        ),
        (
            "the network beside a job",
            &["--network", "host"],
            "profile.ces.network",
        ),
        ("longer than allowed", &["--time", "5:00:00"], "`max_time`"),
        ("for ever", &["--time", "UNLIMITED"], "`max_time`"),
    ] {
        all.push(Attempt {
            name,
            site: HAVEN,
            words: [
                &["submit", "--local"],
                options,
                &["dir:$SCENE/root", "--", "echo", "RAN"],
            ]
            .concat(),
            says,
            ..Attempt::default()
        });
    }
    all.push(Attempt {
        name: "a variable that the job would inherit",
        site: HAVEN,
        variables: &[("CARRACK_BIND", "/etc:/x")],
        words: vec!["submit", "--local", "dir:$SCENE/root", "--", "echo", "RAN"],
        says: "profile.ces.user_binds",
        ..Attempt::default()
    });
    all
}
