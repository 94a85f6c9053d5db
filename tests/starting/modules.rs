//! An image with environment modules of its own, started from a shell that has loaded the host's.

use super::*;
use crate::need::need;

#[test]
fn modules_of_the_image_and_not_the_hosts() {
    need!(Userns, Fuse, Lmod);
    let scene = Scene::new();
    let mut entries: Vec<Entry> = ["usr", "etc", "tmp"]
        .map(|name| directory(name, 0o755))
        .into();
    entries.extend(["bin", "sbin", "lib", "lib64"].map(|name| link(name, &format!("usr/{name}"))));
    entries.push(file(
        "opt/modules/wrf/4.5.lua",
        0o644,
        "setenv(\"WRF_HOME\", \"/opt/wrf\")\nprepend_path(\"PATH\", \"/opt/wrf/bin\")\n",
    ));
    entries.push(file(
        "opt/wrf/bin/wrf",
        0o755,
        "#!/bin/sh\necho forecast from $WRF_HOME\n",
    ));
    let config = json!({ "Env": ["PATH=/usr/bin:/bin", "MODULEPATH=/opt/modules"] });
    add(&scene, "site", entries, config);
    let mut command = scene.command(["exec"]);
    for path in ["/usr", "/etc/alternatives", "/etc/ld.so.cache"] {
        command.arg(format!("--bind={path}:{path}:ro"));
    }
    command.args(["site", "bash", "-c"]).arg(
        "source /usr/share/lmod/lmod/init/bash; module load wrf; module -t list; wrf; \
         env | grep -c /host",
    );
    for (name, value) in [
        ("MODULEPATH", "/host/modules"),
        ("LOADEDMODULES", "gcc/12:openmpi/4"),
        (
            "_LMFILES_",
            "/host/modules/gcc/12.lua:/host/modules/openmpi/4.lua",
        ),
        ("LMOD_CMD", "/host/lmod/libexec/lmod"),
        ("LMOD_DIR", "/host/lmod/libexec"),
        ("MODULESHOME", "/host/lmod"),
        ("_ModuleTable001_", "X01vZHVsZVRhYmxlXw=="),
        ("_ModuleTable_Sz_", "1"),
        ("__LMOD_REF_COUNT_PATH", "/host/gcc/bin:1"),
        ("BASH_ENV", "/host/lmod/init/bash"),
        ("BASH_FUNC_module%%", "() { echo the host speaks; }"),
        ("LD_LIBRARY_PATH", "/host/gcc/lib"),
        ("MANPATH", "/host/gcc/man"),
        ("GCC_HOME", "/opt/gcc"),
    ] {
        command.env(name, value);
    }
    let outcome = scene.finish(command, b"");
    assert_eq!(outcome.out, "forecast from /opt/wrf\n0\n", "{outcome}");
    assert_eq!(outcome.err, "wrf/4.5\n", "{outcome}");
}

/// A dynamic program of another C library: its loader is the image's.
#[test]
fn a_musl_image() {
    need!(Userns, Fuse, Musl);
    let scene = Scene::new();
    let source = scene.write(
        "work/ahoy.c",
        "#include <pwd.h>\n#include <stdio.h>\n#include <unistd.h>\n\
         int main(void) { struct passwd *p = getpwuid(getuid()); puts(p ? p->pw_dir : \"nobody\"); return 3; }\n",
    );
    let program = scene.path("work/ahoy");
    let made = std::process::Command::new("musl-gcc")
        .arg("-o")
        .arg(&program)
        .arg(source)
        .status();
    assert!(made.unwrap().success());
    let loader = format!("lib/ld-musl-{}.so.1", std::env::consts::ARCH);
    let library = std::fs::read(Path::new("/").join(&loader)).unwrap();
    let entries = vec![
        file("bin/ahoy", 0o755, std::fs::read(&program).unwrap()),
        file(&loader, 0o755, library),
    ];
    add(&scene, "musl", entries, json!({ "Cmd": ["ahoy"] }));
    scene.run(["run", "musl"]).is(3, "$SCENE/home\n", "");
}
