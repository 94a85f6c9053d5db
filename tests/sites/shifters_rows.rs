//! What Shifter's users and sites had, row by row.

use super::fronts::called;
use crate::need::need;
use crate::scene::{Outcome, Scene};
use crate::starting::{add, busybox};
use serde_json::json;
use std::os::unix::fs::{PermissionsExt, symlink};

fn scene(settings: &str) -> Scene {
    let mut scene = Scene::new();
    add(
        &scene,
        "box",
        busybox(),
        json!({ "Env": ["PATH=/bin", "WHO=image", "IMAGE=yes"] }),
    );
    let place = scene.path("").display().to_string();
    scene.write("settings.toml", settings.replace("$SCENE/", &place));
    scene.env("SHIFTER_IMAGE", "docker:box");
    scene
}

fn shifter(scene: &Scene, options: &[&str], line: &str) -> Outcome {
    called(scene, "shifter", &[options, &["sh", "-c", line]].concat())
}

/// Host, image, file, command line, module, site: each has the last word over those before it.
#[test]
fn f5_the_order_of_variables() {
    need!(Userns, Fuse);
    const NAMES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];
    let mut scene = Scene::new();
    let from = |who: &str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{name}={who}")).collect()
    };
    // The image sets all but the first, the file all but the first two, and so on.
    let image = [vec!["PATH=/bin".to_string()], from("image", &NAMES[1..])].concat();
    add(&scene, "box", busybox(), json!({ "Env": image }));
    scene.write("work/vars", from("file", &NAMES[2..]).join("\n"));
    for name in NAMES {
        scene.env(name, "host");
    }
    scene
        .env("TMPDIR", "/of/the/host")
        .env("LD_LIBRARY_PATH", "/of/the/host");
    let table = |who: &str, names: &[&str]| {
        from(who, names)
            .iter()
            .map(|one| one.replace('=', " = \"") + "\"")
            .collect::<Vec<_>>()
            .join(", ")
    };
    let settings = |locked: &str| {
        format!(
            "[profile.hpc]\nlocked = [{locked}]\nenv = {{ {} }}\nenv_unset = [\"TMPDIR\"]\n[bundle.mod]\nenv = {{ {} }}\n",
            table("site", &["F"]),
            table("module", &["E"])
        )
    };
    let line = "echo $A $B $C $D $E $F ${TMPDIR-dropped} ${LD_LIBRARY_PATH-dropped}";
    let words = [
        "--image=docker:box",
        "-e",
        "D=line",
        "-e",
        "E=line",
        "-e",
        "F=line",
        "--env-file",
        "vars",
        "-m",
        "mod",
    ];
    scene.write("settings.toml", settings("\"env\""));
    shifter(&scene, &words, line).is(0, "host image file line module site dropped dropped\n", "");
    // Where the site does not insist, a user may set its variables anew.
    scene.write("settings.toml", settings(""));
    let ran = shifter(&scene, &words, line);
    assert!(
        ran.ok().out.starts_with("host image file line line line "),
        "{ran}"
    );
}

/// `udiRoot.conf`, key by key.
#[test]
fn f6_what_a_site_describes() {
    need!(Userns, Fuse);
    let scene = scene(
        r#"
[profile.hpc]
binds = ["$SCENE/site:/site:ro", "$SCENE/etc/passwd:/etc/passwd:ro", "$SCENE/etc/group:/etc/group:ro", "$SCENE/etc/nsswitch.conf:/etc/nsswitch.conf:ro"]
env = { WHO = "site" }
env_prepend = { LIST = "first" }
env_append = { LIST = "last" }
env_unset = ["IMAGE"]
[bundle.mpich]
binds = ["$SCENE/mpich:/opt/mpich:ro"]
env = { MPI = "mpich" }
env_prepend = { LIST = "mpich" }
conflicts = ["openmpi"]
[bundle.openmpi]
env = { MPI = "openmpi" }
"#,
    );
    scene.write("site/file", "of the site\n");
    scene.write("mpich/lib", "library\n");
    scene.write("etc/passwd", "known:x:4711:4711:::\n");
    scene.write("etc/group", "known:x:4711:\n");
    scene.write("etc/nsswitch.conf", "passwd: files\n");
    let line = "cat /site/file; cat /etc/passwd /etc/group /etc/nsswitch.conf; echo $WHO $LIST ${IMAGE-unset} ${MPI-none}";
    let files = "of the site\nknown:x:4711:4711:::\nknown:x:4711:\npasswd: files\n";
    shifter(&scene, &[], line).is(0, &format!("{files}site first:last unset none\n"), "");
    let line = "cat /opt/mpich/lib; echo $MPI $LIST";
    shifter(&scene, &["--module=mpich"], line).is(0, "library\nmpich mpich:first:last\n", "");
    shifter(&scene, &["--module=mpich,openmpi"], line).fails(2, &["cannot be taken together"]);
    shifter(&scene, &["-m", "none"], "echo ${MPI-none}").is(0, "none\n", "");
    shifter(&scene, &["-m", "mpitch"], line).fails(2, &["unknown bundle `mpitch`", "mpich"]);
    // Nothing of the site can be written by its users.
    let line = "touch /site/x 2>/dev/null || echo refused";
    shifter(&scene, &[], line).is(0, "refused\n", "");
}

/// `#!/usr/bin/shifter --image=… SHELL`; a job keeps the image that it was submitted with.
#[test]
fn f7_a_script_begins_with_the_name() {
    need!(Userns, Fuse);
    let scene = scene("");
    std::fs::create_dir_all(scene.path("bin")).unwrap();
    symlink(crate::scene::carrack(), scene.path("bin/shifter")).unwrap();
    let program = scene.path("bin/shifter").display().to_string();
    // The kernel passes one word, which is how Shifter's own scripts are written.
    let text = format!("#!{program} /bin/sh\necho $IMAGE $# \"$1\"\n");
    let script = scene.write("work/script", text);
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut run = scene.program("sh");
    run.args(["-c", "exec ./script 'one two'"]);
    scene.finish(run, b"").is(0, "yes 1 one two\n", "");
}

/// A directory of each node alone, gone with the step.
#[test]
fn f11_a_cache_of_the_node() {
    need!(Userns, Fuse);
    let scene = scene("");
    scene.write("work/kept/file", "");
    let volume = format!(
        "{}:/cache:perNodeCache=size=1M",
        scene.path("work/kept").display()
    );
    let line = "ls /cache; echo x >/cache/new; head -c 2000000 /dev/zero >/cache/big 2>/dev/null || echo full; ls /cache/new";
    for _ in 0..2 {
        shifter(&scene, &["--volume", &volume], line).is(0, "full\n/cache/new\n", "");
    }
    assert_eq!(
        std::fs::read_dir(scene.path("work/kept")).unwrap().count(),
        1
    );
}
