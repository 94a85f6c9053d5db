//! Attempts by the names of other systems' commands, by what stands behind `--`, and by programs in a directory of one's own.

use super::*;

pub fn by_names() -> Vec<Attempt> {
    let rows: &[(&str, &'static str, &[&'static str], &str)] = &[
        (
            "shifter's volumes",
            "shifter",
            &["--image=local:$SCENE/root", "-V", "/etc:/x", "echo", "RAN"],
            "profile.ces.user_binds",
        ),
        (
            "shifter's node cache",
            "shifter",
            &[
                "--image=local:$SCENE/root",
                "-V",
                "/a:/safe_data:perNodeCache=size=1M",
                "echo",
                "RAN",
            ],
            "profile.ces.user_binds",
        ),
        (
            "shifter's modules",
            "shifter",
            &["--image=local:$SCENE/root", "-m", "mine", "echo", "RAN"],
            "bundle",
        ),
        (
            "shifter's shell",
            "shifter",
            &["--image=local:$SCENE/root"],
            "`interactive`",
        ),
        (
            "a token, another registry",
            "ces-pull",
            &["me", "t0ken", "evil.site/n/x:1"],
            "`registries.allow`",
        ),
        (
            "an option of ces-run",
            "ces-run",
            &["--no-slurm", "--opt-file", "$SCENE/opt", "dir:$SCENE/root"],
            "user_binds",
        ),
        (
            "an opt-file that leads to another",
            "ces-run",
            &[
                "--no-slurm",
                "--opt-file",
                "$SCENE/linked",
                "dir:$SCENE/root",
            ],
            "user_binds",
        ),
        (
            "jobman without the profile",
            "jobman",
            &[
                "submit",
                "-i",
                "dir:$SCENE/root",
                "--dry-run",
                "-c",
                "--",
                "echo",
                "RAN",
            ],
            "launch.choose_profile",
        ),
        (
            "an option behind the image",
            "",
            &[
                "exec",
                "--",
                "--network=host",
                "dir:$SCENE/root",
                "echo",
                "RAN",
            ],
            "no image was named",
        ),
        (
            "options of the launcher in an option's value",
            "",
            &[
                "exec",
                "-e",
                "A=1\n--network=host",
                "--bind",
                "/etc:/x",
                "dir:$SCENE/root",
                "echo",
                "RAN",
            ],
            "profile.ces.user_binds",
        ),
    ];
    let mut all: Vec<Attempt> = rows
        .iter()
        .map(|(name, called, words, says)| Attempt {
            name,
            called,
            site: HAVEN,
            files: &[("opt", "-v /etc:/x\n"), ("linked->", "$SCENE/opt")],
            // A user's own bundle is none of the site's.
            user: if name.ends_with("modules") {
                "[bundle.mine]\nbinds = [\"/etc:/x\"]\n"
            } else {
                ""
            },
            words: words.to_vec(),
            says,
            ..Attempt::default()
        })
        .collect();
    all.push(Attempt {
        name: "settings behind a link",
        site: HAVEN,
        user: "",
        files: &[
            ("own.toml", "[profile.ces]\nnetwork = \"host\"\n"),
            ("link.toml->", "$SCENE/own.toml"),
        ],
        variables: &[("CARRACK_CONFIG", "$SCENE/link.toml")],
        words: exec(&[]),
        says: "`profile` is final",
        ..Attempt::default()
    });
    // The site's hook is asked by its path; a program of that name that comes first in `PATH` is never started.
    all.push(Attempt {
        name: "a hook of one's own in PATH",
        site: "[hooks]\nstart = \"$SCENE/prefix/etc/no\"\n",
        files: &[("work/bin/no", "#!/bin/sh\nexit 0\n")],
        variables: &[("PATH", "$SCENE/work/bin:/usr/bin:/bin")],
        words: exec(&["--no-home"]),
        says: "hooks.start",
        ..Attempt::default()
    });
    all
}
