//! The command: which one it is, where it starts, what it sees of the caller.

use super::*;
use crate::need::need;

/// ENTRYPOINT, CMD and arguments as docker composes them.
#[test]
fn entrypoint_and_cmd() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    let (none, entry, cmd) = (
        json!(null),
        json!(["/bin/echo", "entry"]),
        json!(["/bin/echo", "cmd"]),
    );
    for (number, (entrypoint, command)) in [
        (&none, &none),
        (&none, &cmd),
        (&entry, &none),
        (&entry, &cmd),
    ]
    .into_iter()
    .enumerate()
    {
        let config = json!({ "Env": ["PATH=/bin"], "Entrypoint": entrypoint, "Cmd": command });
        add(&scene, &format!("box{number}"), busybox(), config);
    }
    // No entrypoint and no command; each alone; both. With and without words of the user's.
    for (line, expected) in [
        ("run box0", "error: no command to start in `box0`"),
        ("run box0 echo word", "word"),
        ("run box1", "cmd"),
        ("run box1 echo word", "word"),
        ("run box2", "entry"),
        ("run box2 word", "entry word"),
        ("run box3", "entry /bin/echo cmd"),
        ("run box3 word", "entry word"),
        // docker's --entrypoint drops the image's CMD, an empty one drops both.
        ("run --entrypoint /bin/echo box3", ""),
        ("run --entrypoint /bin/echo box3 word", "word"),
        ("run --entrypoint= box3 echo word", "word"),
        ("exec box3 echo word", "word"),
        ("exec --entrypoint box3 word", "entry word"),
        ("exec --entrypoint=/bin/echo box3 word", "word"),
    ] {
        let outcome = scene.run(line.split(' '));
        let said = match outcome.code {
            0 => &outcome.out,
            _ => &outcome.err,
        };
        let first = said.lines().next().unwrap_or_default();
        assert_eq!(first, expected, "{line}: {outcome}");
    }
}

/// The caller's directory, WORKDIR and USER.
#[test]
fn where_and_as_whom() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    for (name, workdir, user) in [
        ("box", "", ""),
        ("there", "/srv/app", "app"),
        ("gone", "/no/such", "nobody-knows"),
    ] {
        let mut entries = busybox();
        entries.push(directory("srv/app", 0o755));
        let config = json!({ "Env": ["PATH=/bin"], "WorkingDir": workdir, "User": user });
        add(&scene, name, entries, config);
    }
    let work = "$SCENE/work";
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let own = format!("{uid}:{gid}");
    let place = "echo $(pwd) $(id -u):$(id -g)";
    for (options, image, expected) in [
        ("", "box", format!("{work} {own}")),
        ("", "there", format!("{work} {own}")),
        ("-w /srv", "there", format!("/srv {own}")),
        ("--id image", "there", format!("{work} 1234:1235")),
        ("--id root", "box", format!("{work} 0:0")),
        ("--id 70000:70001", "box", format!("{work} 70000:70001")),
    ] {
        let words = ["exec"]
            .into_iter()
            .chain(options.split(' ').filter(|word| !word.is_empty()));
        let outcome = scene.run(words.chain([image, "sh", "-c", place]));
        assert_eq!(outcome.out.trim(), expected, "{options} {image}: {outcome}");
    }
    scene
        .run(["exec", "-w", "/no/such", "box", "true"])
        .fails(125, &["/no/such", "--workdir"]);
    scene
        .run(["exec", "--id", "image", "gone", "true"])
        .fails(125, &["nobody-knows"]);
}

/// A directory that does not exist inside: the image's WORKDIR, then home, then the root, with one warning.
#[test]
fn a_start_directory_that_is_missing_inside() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    let mut entries = busybox();
    entries.push(directory("srv/app", 0o755));
    add(
        &scene,
        "box",
        entries,
        json!({ "Env": ["PATH=/bin"], "WorkingDir": "srv/app" }),
    );
    let mut command = scene.command(["exec", "box", "pwd"]);
    command.current_dir("/var/lib");
    let outcome = scene.finish(command, b"");
    assert_eq!(outcome.out, "/srv/app\n", "{outcome}");
    assert_eq!(outcome.err.lines().count(), 1, "{outcome}");
    assert!(outcome.err.contains("/var/lib"), "{outcome}");
}

/// One order for all doors; nothing is evaluated, what the host's modules set stays outside.
#[test]
fn the_environment() {
    need!(Userns, Fuse);
    let scene = scene();
    let docker = scene.write(
        "work/docker.env",
        "# comment\n\nFILE=from file\nQUOTED=\"stays\"\nCALLER\n  INDENTED=1\nEMPTY=\n",
    );
    let nul = scene.write("work/nul.env", b"LINES=one\ntwo\0OTHER=$(touch owned)\0");
    let mut command = scene.command(["exec", "--env-file"]);
    command
        .arg(&docker)
        .arg("--env0-file")
        .arg(&nul)
        .args([
            "-e",
            "FILE=flag",
            "-e",
            "FROM_IMAGE=flag",
            "--unset-env",
            "OTH*",
            "-e",
            "TICK=`id`;$(id)",
            "box",
            "env",
        ])
        .env("CALLER", "passed")
        .env("PYTHONPATH", "/host/python")
        .env("LD_LIBRARY_PATH", "/host/lib")
        .env("LOADEDMODULES", "gcc/12")
        .env("SLURM_JOB_NAME", "a job")
        .env("PMIX_RANK", "3");
    scene
        .run(["exec", "--env-file", "nosuch", "box", "true"])
        .fails(
            2,
            &["cannot read the variables in `", "nosuch`", "os error 2"],
        );
    let outcome = scene.finish(command, b"");
    let mut lines: Vec<&str> = outcome.out.lines().collect();
    lines.sort_unstable();
    for (line, there) in [
        ("FILE=flag", true),
        ("QUOTED=\"stays\"", true),
        ("CALLER=passed", true),
        ("INDENTED=1", true),
        ("EMPTY=", true),
        ("LINES=one", true),
        ("two", true),
        ("OTHER=$(touch owned)", false),
        ("FROM_IMAGE=flag", true),
        ("TICK=`id`;$(id)", true),
        ("PATH=/bin", true),
        ("PYTHONPATH=/host/python", false),
        ("LD_LIBRARY_PATH=/host/lib", false),
        ("LOADEDMODULES=gcc/12", false),
        ("SLURM_JOB_NAME=a job", true),
        ("PMIX_RANK=3", true),
    ] {
        assert_eq!(lines.contains(&line), there, "{line}: {outcome}");
    }
    assert!(!exists(scene.path("work/owned")));
}

/// A script may name its image in its first line.
#[test]
fn an_interpreter_line() {
    need!(Userns, Fuse);
    let scene = scene();
    let carrack = crate::scene::carrack().display();
    for line in ["exec box", "exec -e WORD=x box --", "exec box sh"] {
        let text = format!("#!/usr/bin/env -S {carrack} {line}\n");
        // Without an interpreter of its own the script is one for the shell of the image.
        let command = if line.ends_with("sh") { "" } else { "sh" };
        let first = text.trim_end();
        let script = format!("{first} {command}\necho $FROM_IMAGE $# $1 \"$2\"\n");
        let path = scene.write("work/script", script);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        let mut run = scene.program("sh");
        run.args(["-c", "exec ./script one 'two three'"]);
        let outcome = scene.finish(run, b"");
        outcome.is(0, "yes 2 one two three\n", "");
    }
}

/// A program and nothing else, as `FROM scratch` gives it: no shell, no users, no directories.
#[test]
fn a_static_program_alone() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let alone = vec![file("busybox", 0o755, busybox)];
    add(
        &scene,
        "alone",
        alone,
        json!({ "Entrypoint": ["/busybox", "echo"], "Cmd": ["ahoy"] }),
    );
    scene.run(["run", "alone"]).is(0, "ahoy\n", "");
    scene.run(["run", "alone", "a", "b"]).is(0, "a b\n", "");
    scene
        .run([
            "exec",
            "alone",
            "/busybox",
            "sh",
            "-c",
            "echo $(/busybox id -un)",
        ])
        .ok();
    scene
        .run(["shell", "alone"])
        .fails(127, &["has no shell", "carrack exec"]);
    scene
        .run(["exec", "alone", "ls"])
        .fails(127, &["`ls`", "PATH="]);
}

/// Ends of all kinds pass through, and the command's own 125 to 127 are not explained away.
#[test]
fn ends_and_streams() {
    need!(Userns, Fuse);
    let scene = scene();
    for (script, code) in [
        ("exit 42", 42),
        ("exit 125", 125),
        ("kill -9 $$", 137),
        ("kill -SEGV $$", 139),
        ("kill -TERM $$", 143),
    ] {
        sh(&scene, &[], script).is(code, "", "");
    }
    let echo = scene.command(["exec", "box", "cat"]);
    scene
        .finish(echo, b"in and out\n")
        .is(0, "in and out\n", "");
    let mut limited = scene.program("sh");
    limited.args([
        "-c",
        "umask 027; ulimit -n 77; exec \"$0\" exec box sh -c 'umask; ulimit -n'",
    ]);
    limited.arg(crate::scene::carrack());
    scene.finish(limited, b"").is(0, "0027\n77\n", "");
    scene
        .run(["exec", "box", "no-such-program"])
        .fails(127, &["no-such-program"]);
    scene
        .run(["exec", "box", "/etc/passwd"])
        .fails(126, &["/etc/passwd"]);
}

/// Three mistakes of a tired person for each command: one error, and what to write instead.
#[test]
fn slips() {
    need!(Userns, Fuse);
    let scene = scene();
    for (words, code, says) in [
        (&["run"][..], 2, "no image was named"),
        (&["run", "box"], 2, "carrack exec IMAGE COMMAND"),
        (
            &["run", "box", "-v", "/data:/data", "ls"],
            127,
            "come before the image",
        ),
        (&["run", "./box.sqsh"], 125, "carrack images"),
        (&["exec", "box"], 2, "carrack shell"),
        (&["exec", "/bin/ls", "-l"], 2, "carrack exec IMAGE /bin/ls"),
        (&["exec", "box", "echo hello"], 127, "sh -c"),
        (&["exec", "box", "cd", "/tmp"], 127, "part of a shell"),
        (
            &["exec", "-B", "/usr,/etc", "box", "ls"],
            125,
            "one `--bind` for each",
        ),
        (
            &["exec", "-B", "/no/such:/data", "box", "ls"],
            125,
            "make it first",
        ),
        (
            &["exec", "--mpi=pmix", "box", "ls"],
            2,
            "srun --mpi=pmix carrack",
        ),
        (&["exec", "-e", "NAME", "VALUE", "box", "env"], 2, "`VALUE`"),
        (&["shell"], 2, "no image was named"),
        (&["shell", "--writable=lots", "box"], 2, "`4G`"),
        (&["shell", "--profile", "hcp", "box"], 2, "hpc"),
        (&["attach", "no-such"], 125, "no capsule `no-such`"),
    ] {
        if let Some(wrong) = scene.run(words).fails_otherwise(code, &[says]) {
            panic!("{wrong}");
        }
    }
}
