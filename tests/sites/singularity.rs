//! Lines of Singularity's manual with the name changed.

use crate::need::need;
use crate::scene::Scene;
use crate::starting::{add, busybox};
use serde_json::json;

fn scene() -> Scene {
    let scene = Scene::new();
    let config = json!({
        "Env": ["PATH=/bin", "FROM_IMAGE=yes"],
        "Entrypoint": ["echo", "runs"],
        "Cmd": ["by itself"],
        "Labels": { "org.site.note": "labelled" },
    });
    add(&scene, "box", busybox(), config);
    scene
}

#[test]
fn n1_the_commands_and_what_stands_before_them() {
    need!(Userns, Fuse);
    let scene = scene();
    scene
        .run(["exec", "box", "echo", "words"])
        .is(0, "words\n", "");
    scene.run(["run", "box"]).is(0, "runs by itself\n", "");
    scene.run(["run", "box", "mine"]).is(0, "runs mine\n", "");
    let shell = scene.command(["shell", "box"]);
    scene
        .finish(shell, b"echo $FROM_IMAGE\n")
        .is(0, "yes\n", "");
    let inspected = scene.run(["inspect", "box"]);
    assert!(inspected.ok().out.contains("labelled"), "{inspected}");
    let nowhere = scene.run(["pull", "docker://127.0.0.1:1/n/x"]);
    assert_eq!(nowhere.code, 125, "{nowhere}");
    scene.run(["--version"]).ok();
    for word in ["-v", "--verbose", "-d", "--debug", "-q", "-s", "--silent"] {
        let ran = scene.run([word, "exec", "box", "echo", "words"]);
        assert_eq!(ran.ok().out, "words\n", "{word}: {ran}");
    }
    let quiet = scene.run(["--quiet", "pull", "docker://127.0.0.1:1/n/x"]);
    assert_eq!(
        quiet
            .err
            .lines()
            .filter(|line| line.starts_with("error"))
            .count(),
        1,
        "{quiet}"
    );
}

#[test]
fn n3_oneself_inside_and_no_more() {
    need!(Userns, Fuse);
    let scene = scene();
    let who = std::process::Command::new("id")
        .args(["-un"])
        .output()
        .unwrap();
    let who = String::from_utf8(who.stdout).unwrap();
    let line = "id -un; id -u; id -g; grep NoNewPrivs /proc/self/status; \
                grep -c ' / ro.*nosuid\\| / rw.*nosuid' /proc/self/mountinfo";
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let expected = format!("{who}{uid}\n{gid}\nNoNewPrivs:\t1\n1\n");
    scene
        .run(["exec", "box", "sh", "-c", line])
        .is(0, &expected, "");
}

/// Option by option, as Singularity spells them.
#[test]
fn n6_its_options() {
    need!(Userns, Fuse);
    let mut scene = scene();
    scene.write("work/there/file", "shown\n");
    scene.write("other/file", "of another home\n");
    scene.write("home/mine", "");
    scene.env("SINGULARITYENV_INNER", "carried");
    let place = |name: &str| scene.path(name).display().to_string();
    let (there, other, home) = (place("work/there"), place("other"), place("home"));
    let bind = format!("{there}:/mnt");
    let read_only = format!("{there}:/mnt:ro");
    let new_home = format!("{other}:/home/other");
    let rows: &[(&[&str], &str, &str)] = &[
        (&["-B", &bind], "cat /mnt/file", "shown\n"),
        (
            &["--bind", &read_only],
            "touch /mnt/x 2>/dev/null || echo refused",
            "refused\n",
        ),
        (&["--pwd", "/etc"], "pwd", "/etc\n"),
        (
            &[],
            "grep -q \" $HOME \" /proc/self/mountinfo && echo there",
            "there\n",
        ),
        (
            &["--no-home"],
            "grep -q \" $HOME \" /proc/self/mountinfo || echo hidden",
            "hidden\n",
        ),
        (
            &["--contain"],
            "test -e $HOME/mine || echo hidden; touch /tmp/x; ls /tmp | grep -v ^carrack-test",
            "hidden\nx\n",
        ),
        (&["--containall"], "echo \"${CALLER-clean}\"", "clean\n"),
        (
            &["--cleanenv"],
            "echo \"${CALLER-clean} $INNER\"",
            "clean carried\n",
        ),
        (
            &[],
            "echo \"$CALLER $INNER ${SINGULARITYENV_INNER-gone}\"",
            "passed carried gone\n",
        ),
        (&["--nv"], "echo started", "started\n"),
        (
            &[],
            "touch /made 2>/dev/null || echo read-only",
            "read-only\n",
        ),
        (&["--writable-tmpfs"], "touch /made && ls /made", "/made\n"),
    ];
    for (options, line, expected) in rows {
        let words = [&["exec"], *options, &["box", "sh", "-c", line]].concat();
        let mut command = scene.command(words);
        command.env("CALLER", "passed").env("HOME", &home);
        scene.finish(command, b"").is(0, expected, "");
    }
    let words = [
        "exec",
        &format!("--home={other}"),
        "box",
        "sh",
        "-c",
        "cat ~/file",
    ];
    scene.run(words).is(0, "of another home\n", "");
    // A home elsewhere inside is a mount and a variable.
    let words = [
        "exec",
        "--no-home",
        "-B",
        &new_home,
        "-e",
        "HOME=/home/other",
        "box",
        "sh",
        "-c",
        "cat ~/file",
    ];
    scene.run(words).is(0, "of another home\n", "");
}
