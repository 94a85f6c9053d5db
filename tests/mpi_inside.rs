//! The host's MPI in the place of the image's: small real libraries with the names and versions of the families.

use crate::need::need;
use crate::scene::{Outcome, Scene, carrack};
use std::process::Command;

fn gcc(scene: &Scene, arguments: &[&str]) {
    let output = Command::new("gcc")
        .args(arguments)
        .current_dir(scene.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// A shared library that says who it is.
fn library(scene: &Scene, file: &str, soname: &str, code: &str, more: &[&str]) {
    std::fs::create_dir_all(scene.path(file).parent().unwrap()).unwrap();
    let source = format!("{file}.c");
    scene.write(&source, code);
    let name = format!("-Wl,-soname,{soname}");
    gcc(
        scene,
        &[&["-shared", "-fPIC", "-o", file, &name, &source], more].concat(),
    );
    std::fs::remove_file(scene.path(source)).unwrap();
    let link = scene.path(file).parent().unwrap().join(soname);
    let target = scene.path(file);
    let _ = std::os::unix::fs::symlink(target.file_name().unwrap(), link);
}

/// An image with a program that is linked with this MPI.
fn image(scene: &Scene, name: &str, file: &str, soname: &str) -> String {
    let library_file = format!("{name}/usr/lib/{file}");
    library(
        scene,
        &library_file,
        soname,
        "const char *who(void) { return \"image\"; }",
        &[],
    );
    for path in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
        std::fs::create_dir_all(scene.path(name).join(path)).unwrap();
    }
    scene.write(
        "main.c",
        "#include <stdio.h>\nconst char *who(void);\nint main(void) { puts(who()); return 0; }\n",
    );
    let program = format!("{name}/bin/rank");
    gcc(scene, &["-o", &program, "main.c", &library_file]);
    let output = Command::new("ldd").arg("/bin/true").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // The C library alone: the machine may have an MPI of this name, which is none of the image's.
    for file in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = scene.path(name).join(file.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    let (tree, reference) = (scene.path(name), format!("{name}:1"));
    scene
        .run(["import", "-q", tree.to_str().unwrap(), &reference])
        .ok();
    reference
}

const HOST: &str = "const char *fabric(void); const char *who(void) { return fabric(); }";
const FABRIC: &str = "const char *fabric(void) { return \"host\"; }";

fn run(scene: &Scene, image: &str, options: &[&str], directory: &str) -> Outcome {
    let mut command =
        scene.command([&["exec", "--no-home"], options, &[image, "/bin/rank"]].concat());
    command.env("LD_LIBRARY_PATH", scene.path(directory));
    scene.finish(command, b"")
}

#[test]
fn programs_of_one_family_run_with_the_others_library() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    library(&scene, "host/libfab.so.1.2", "libfab.so.1", FABRIC, &[]);
    library(
        &scene,
        "host/libmpi.so.12.3.1",
        "libmpi.so.12",
        HOST,
        &["host/libfab.so.1.2"],
    );
    let mpich = image(&scene, "mpich", "libmpich.so.12.2.2", "libmpich.so.12");
    // The other way round: a program of Intel MPI, and the host with Debian's name.
    library(&scene, "debian/libfab.so.1.2", "libfab.so.1", FABRIC, &[]);
    library(
        &scene,
        "debian/libmpich.so.12.2.2",
        "libmpich.so.12",
        HOST,
        &["debian/libfab.so.1.2"],
    );
    let intel = image(&scene, "intel", "libmpi.so.12.0.0", "libmpi.so.12");
    for (name, directory) in [(&mpich, "host"), (&intel, "debian")] {
        run(&scene, name, &[], directory).is(0, "image\n", "");
        run(&scene, name, &["--mpi-inject", "host"], directory).is(0, "host\n", "");
        run(&scene, name, &["--mpi-inject", "none"], directory).is(0, "image\n", "");
    }
    // A bundle of the site does the same under a name.
    let directory = scene.path("host");
    let bundle = format!(
        "[bundle.fast]\nmpi_inject = \"host\"\nlibraries = [\"{}\"]\nenv = {{ FAST = \"1\" }}\n",
        directory.display()
    );
    scene.write("settings.toml", &bundle);
    run(&scene, &mpich, &["--bundle", "fast"], "nowhere").is(0, "host\n", "");
    run(&scene, &mpich, &["--bundle", "fats"], "nowhere").fails(2, &["did you mean `fast`?"]);
    // Or the rules give it to everybody.
    let rules = format!("{bundle}[profile.hpc]\nbundles = [\"fast\"]\n");
    scene.write("settings.toml", &rules);
    run(&scene, &mpich, &[], "nowhere").is(0, "host\n", "");
    run(&scene, &mpich, &["--mpi-inject", "none"], "nowhere").is(0, "image\n", "");
    // Where mounts are the site's, nothing comes from a place that the caller names.
    let shut = "[profile.hpc]\nmpi_inject = \"host\"\nuser_binds = false\n";
    scene.write("settings.toml", shut);
    let outcome = run(&scene, &mpich, &[], "host");
    assert_ne!(outcome.out, "host\n", "{outcome}");
}

#[test]
fn what_does_not_fit_stays_out() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    let inject: &[&str] = &["--mpi-inject", "host"];
    library(
        &scene,
        "mpich/libmpi.so.12.3.1",
        "libmpi.so.12",
        FABRIC,
        &[],
    );
    let open = image(&scene, "open", "libmpi.so.40.30.4", "libmpi.so.40");
    // The host's loader knows nothing else: the machine may have an Open MPI of its own.
    let cache = scene.write("cache", "");
    let mut command = scene.program("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-ec"])
        .arg("mount --bind \"$1\" /etc/ld.so.cache; shift; exec \"$@\"")
        .arg("sh")
        .arg(cache)
        .arg(carrack())
        .args([
            "exec",
            "--no-home",
            "--mpi-inject",
            "host",
            &open,
            "/bin/rank",
        ])
        .env("LD_LIBRARY_PATH", scene.path("mpich"));
    let untouched = scene.finish(command, b"");
    assert_eq!(
        (untouched.code, untouched.out.as_str()),
        (0, "image\n"),
        "{untouched}"
    );
    assert!(untouched.err.contains("stays its own"), "{untouched}");
    library(
        &scene,
        "five/libmpi.so.40.40.1",
        "libmpi.so.40",
        FABRIC,
        &[],
    );
    run(&scene, &open, inject, "five").fails(125, &["the image has Open MPI 4", "is Open MPI 5"]);
    // A library that was built for a C library of the future.
    let map = "GLIBC_2.99 { global: future; };\n";
    scene.write("map", map);
    library(
        &scene,
        "future/libc.so.6.1",
        "libc.so.6",
        "int future(void) { return 1; }",
        &["-nostdlib", "-Wl,--version-script,map"],
    );
    library(
        &scene,
        "new/libmpi.so.12.3.1",
        "libmpi.so.12",
        "int future(void); const char *who(void) { return future() ? \"host\" : 0; }",
        &["-nostdlib", "future/libc.so.6.1"],
    );
    let mpich = image(&scene, "image", "libmpich.so.12.2.2", "libmpich.so.12");
    run(&scene, &mpich, inject, "new").fails(
        125,
        &[
            "libmpi.so.12.3.1` needs glibc 2.99, the image has 2.",
            "leave `mpi_inject` out",
        ],
    );
    // Something is missing on the host.
    library(&scene, "torn/libfab.so.1.2", "libfabgone.so.1", FABRIC, &[]);
    library(
        &scene,
        "torn/libmpi.so.12.3.1",
        "libmpi.so.12",
        HOST,
        &["torn/libfab.so.1.2"],
    );
    std::fs::remove_file(scene.path("torn/libfabgone.so.1")).unwrap();
    run(&scene, &mpich, inject, "torn").fails(125, &["`libmpi.so.12.3.1` needs `libfabgone.so.1`"]);
}
