//! A driver inside images, without hardware: a node is played by namespaces of a plain user, in which `/dev`, `/proc/driver`,
//! the loader's cache and the CDI directories are the test's own. The libraries are real ones, made by the compiler.

use crate::need::{need, program};
use crate::scene::{Outcome, Scene, carrack};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn done(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Compiles a shared library that says `words` when its function is called. It needs no C library, as real drivers need
/// only a very old one.
fn library(scene: &Scene, path: &str, soname: &str, function: &str, words: &str) {
    let source = scene.write(
        format!("{path}.c"),
        format!("const char *{function}(void) {{ return \"{words}\"; }}\n"),
    );
    done(
        Command::new("gcc")
            .args(["-shared", "-fPIC", "-nostdlib", "-o"])
            .arg(scene.path(path))
            .arg(format!("-Wl,-soname,{soname}"))
            .arg(&source),
    );
    std::fs::remove_file(source).unwrap();
}

/// Loads libraries by name, as PyTorch does, and prints what each says.
const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        void *library = dlopen(argv[i], RTLD_NOW);
        const char *(*function)(void) = library ? (const char *(*)(void))dlsym(library, argv[i + 1]) : 0;
        printf("%s: %s\n", argv[i], function ? function() : "not found");
    }
    return 0;
}
"#;

struct Node {
    scene: Scene,
    /// Commands of the node's own that come before carrack.
    before: String,
}

impl Node {
    fn new() -> Node {
        let scene = Scene::new();
        let driver = "node/driver";
        std::fs::create_dir_all(scene.path(driver)).unwrap();
        for (file, soname, function) in [
            ("libcuda.so.550.54.15", "libcuda.so.1", "cuda"),
            ("libnvidia-ml.so.550.54.15", "libnvidia-ml.so.1", "ml"),
            ("libnvidia-nvvm.so.550.54.15", "libnvidia-nvvm.so.4", "nvvm"),
            ("libGLX_nvidia.so.550.54.15", "libGLX_nvidia.so.0", "glx"),
        ] {
            library(
                &scene,
                &format!("{driver}/{file}"),
                soname,
                function,
                "host 550.54.15",
            );
        }
        // A release that was left behind comes first in the cache's order.
        std::fs::create_dir_all(scene.path("node/old")).unwrap();
        library(
            &scene,
            "node/old/libcuda.so.535.104.05",
            "libcuda.so.1",
            "cuda",
            "host 535",
        );
        let ldconfig = program("ldconfig").unwrap();
        for directory in ["node/old", driver] {
            done(Command::new(&ldconfig).arg("-n").arg(scene.path(directory)));
        }
        let conf = format!(
            "{}\n{}\n",
            scene.path("node/old").display(),
            scene.path(driver).display()
        );
        let conf = scene.write("node/ld.so.conf", conf);
        done(
            Command::new(&ldconfig)
                .arg("-X")
                .arg("-f")
                .arg(conf)
                .arg("-C")
                .arg(scene.path("node/ld.so.cache")),
        );
        scene.write(
            "node/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5\n",
        );
        scene.write("node/bin/nvidia-smi", "#!/bin/sh\necho smi\n");
        Node {
            scene,
            before: String::new(),
        }
    }

    /// Adds a CDI document of the node.
    fn cdi(&self, name: &str, text: &str) {
        let driver = self.scene.path("node/driver");
        let text = text.replace("DRIVER", driver.to_str().unwrap());
        self.scene.write(format!("cdi/{name}"), text);
        let directory = self.scene.path("cdi");
        self.scene.write(
            "settings.toml",
            format!(
                "[launch]\ncdi_directories = [\"{}\"]\n",
                directory.display()
            ),
        );
    }

    /// Runs carrack on the node, with these GPUs in its `/dev`.
    fn run(&self, gpus: &[&str], words: &[&str]) -> Outcome {
        let node = self.scene.path("node");
        let nodes = gpus.join(" ");
        let mut command = self.scene.program("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-ec"])
            .arg(format!(
                "cd {node}; mkdir -p dev; mount -t tmpfs dev dev\n\
                 for n in null zero full random urandom tty fuse; do : >dev/$n; mount --bind /dev/$n dev/$n; done\n\
                 mkdir dev/pts dev/shm dev/mqueue dev/dri dev/nvidia-caps dev/infiniband\n\
                 mount --bind /dev/shm dev/shm; mount --bind /dev/pts dev/pts\n\
                 for n in {nodes}; do : >dev/$n; mount --bind /dev/null dev/$n; done\n\
                 ln -s /proc/self/fd dev/fd; ln -s pts/ptmx dev/ptmx\n\
                 mount --rbind dev /dev\n\
                 mount -t tmpfs driver /proc/driver; mkdir /proc/driver/nvidia; cp version /proc/driver/nvidia\n\
                 mount --bind ld.so.cache /etc/ld.so.cache\n\
                 {before}\n\
                 cd {work}; exec \"$@\"",
                node = node.display(),
                before = self.before,
                work = self.scene.path("work").display(),
            ))
            .arg("sh")
            .arg(carrack())
            .args(words);
        self.scene.finish(command, b"")
    }

    /// An image with a program that loads libraries, a stale stub of libcuda in it, and what else is asked for.
    fn image(&self, name: &str, compiler: &str) -> PathBuf {
        let at = |path: &str| format!("{name}/{path}");
        let scene = &self.scene;
        for path in [
            "bin",
            "etc",
            "proc",
            "sys",
            "dev",
            "tmp",
            "run",
            "home",
            "usr/lib/stub",
        ] {
            std::fs::create_dir_all(scene.path(at(path))).unwrap();
        }
        let source = scene.write("load.c", PROGRAM);
        done(
            Command::new(compiler)
                .arg("-o")
                .arg(scene.path(at("bin/load")))
                .arg(source)
                .arg("-ldl"),
        );
        std::fs::copy("/bin/busybox", scene.path(at("bin/busybox"))).unwrap();
        for link in ["sh", "env", "ls", "cat"] {
            std::os::unix::fs::symlink("busybox", scene.path(at("bin")).join(link)).unwrap();
        }
        library(
            scene,
            &at("usr/lib/stub/libcuda.so.1"),
            "libcuda.so.1",
            "cuda",
            "stub of the image",
        );
        scene.path(name)
    }

    /// The same with the C library of this machine and, if wanted, a loader cache that knows the stub.
    fn glibc_image(&self, name: &str, with_cache: bool) -> PathBuf {
        let image = self.image(name, "gcc");
        let output = Command::new("ldd")
            .arg(image.join("bin/load"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let files = text.split_whitespace().filter(|word| word.starts_with('/'));
        for file in files {
            let to = image.join(file.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(file, to).unwrap();
        }
        if with_cache {
            self.scene
                .write(format!("{name}/etc/ld.so.conf"), "/usr/lib/stub\n");
            done(
                Command::new(program("ldconfig").unwrap())
                    .arg("-X")
                    .arg("-r")
                    .arg(&image),
            );
            std::fs::remove_file(image.join("etc/ld.so.conf")).unwrap();
        }
        image
    }

    /// The tree as an image of the store, of which is known what it holds.
    fn stored(&self, tree: &Path) -> String {
        let name = format!("{}:1", tree.file_name().unwrap().to_str().unwrap());
        let tree = tree.to_str().unwrap();
        self.scene.run(["import", "-q", tree, &name]).ok();
        name
    }
}

const ALL: &[&str] = &["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"];

#[test]
fn the_driver_of_the_host_is_found_by_any_image() {
    need!(Userns, Fuse);
    let node = Node::new();
    let cached = node.glibc_image("cached", true);
    let bare = node.glibc_image("bare", false);
    let words = [
        "libcuda.so.1",
        "cuda",
        "libnvidia-ml.so.1",
        "ml",
        "libcuda.so",
        "cuda",
    ];
    let found = "libcuda.so.1: host 550.54.15\nlibnvidia-ml.so.1: host 550.54.15\nlibcuda.so: host 550.54.15\n";
    let run = |image: &str, gpus: &[&str], before: &[&str]| {
        let exec = ["exec", "--no-home", image];
        node.run(gpus, &[&exec[..], before, &["/bin/load"], &words].concat())
    };
    // The stub is found without a GPU, and loses with one; a program that clears its environment finds the driver, too.
    let missing = "libnvidia-ml.so.1: not found\nlibcuda.so: not found\n";
    for image in [cached.display().to_string(), node.stored(&cached)] {
        run(&image, &[], &[]).is(
            0,
            &format!("libcuda.so.1: stub of the image\n{missing}"),
            "",
        );
        run(&image, ALL, &[]).is(0, found, "");
        run(&image, ALL, &["env", "-i"]).is(0, found, "");
    }
    // No ldconfig and no cache in the image.
    for image in [bare.display().to_string(), node.stored(&bare)] {
        run(&image, &[], &[]).is(0, &format!("libcuda.so.1: not found\n{missing}"), "");
        run(&image, ALL, &[]).is(0, found, "");
        run(&image, ALL, &["env", "-i"]).is(0, found, "");
    }
    let image = bare.display().to_string();
    // Without the GPU's libraries nothing is injected.
    let none = node.run(
        ALL,
        &[
            "exec",
            "--no-home",
            "--gpu",
            "none",
            &image,
            "/bin/ls",
            "/run",
        ],
    );
    none.is(0, "", "");
    // Nothing of the image is followed on the host: a link in its place changes where things appear inside, no more.
    let evil = node.glibc_image("evil", false);
    std::fs::remove_dir(evil.join("run")).unwrap();
    let target = node.scene.path("outside");
    std::fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink(&target, evil.join("run")).unwrap();
    let refused = run(&evil.display().to_string(), ALL, &[]);
    assert!(refused.code == 0 || refused.code == 125, "{refused}");
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0, "{refused}");
}

/// Images of research groups install the tools of a driver that no node has any more.
#[test]
fn a_copy_of_nvidia_smi_in_the_image_loses() {
    need!(Userns);
    let mut node = Node::new();
    node.before = "mount -t tmpfs none /usr/local/bin; cp bin/nvidia-smi /usr/local/bin; chmod 755 /usr/local/bin/nvidia-smi".into();
    let image = node.image("image", "gcc");
    let own = node
        .scene
        .write("image/usr/bin/nvidia-smi", "#!/bin/sh\necho of the image\n");
    std::fs::set_permissions(own, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let image = image.display().to_string();
    let smi = |gpus: &[&str]| {
        node.run(
            gpus,
            &["exec", "--no-home", &image, "sh", "-c", "nvidia-smi"],
        )
    };
    smi(ALL).is(0, "smi\n", "");
    smi(&[]).is(0, "of the image\n", "");
}

#[test]
fn the_driver_is_found_by_musl() {
    need!(Userns, Fuse, Musl);
    let node = Node::new();
    let image = node.image("musl", "musl-gcc");
    let loader = "lib/ld-musl-x86_64.so.1";
    std::fs::create_dir_all(image.join("lib")).unwrap();
    std::fs::copy(Path::new("/").join(loader), image.join(loader)).unwrap();
    let image = node.stored(&image);
    let found = "libcuda.so.1: host 550.54.15\n";
    for before in [&[][..], &["env", "-i"]] {
        let exec = ["exec", "--no-home", &image];
        let words = [&exec[..], before, &["/bin/load", "libcuda.so.1", "cuda"]].concat();
        node.run(ALL, &words).is(0, found, "");
    }
}

#[test]
fn classes_programs_and_devices() {
    need!(Userns);
    let mut node = Node::new();
    node.before = "mkdir -p /tmp/x; mount -t tmpfs none /usr/local/bin; cp bin/nvidia-smi /usr/local/bin; chmod 755 /usr/local/bin/nvidia-smi".into();
    let image = node.image("image", "gcc").display().to_string();
    let list = |gpus: &[&str], options: &[&str], directory: &str| {
        let words = [
            &["exec", "--no-home"],
            options,
            &[&image, "/bin/ls", directory],
        ]
        .concat();
        let outcome = node.run(gpus, &words);
        assert_eq!(outcome.code, 0, "{outcome}");
        outcome.out.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let lib = "/run/carrack/gpu/lib";
    assert_eq!(
        list(ALL, &["-e", "NVIDIA_DRIVER_CAPABILITIES=utility"], lib),
        "libnvidia-ml.so libnvidia-ml.so.1 libnvidia-ml.so.550.54.15"
    );
    let usual = "libcuda.so libcuda.so.1 libcuda.so.550.54.15 libnvidia-ml.so libnvidia-ml.so.1 \
                 libnvidia-ml.so.550.54.15 libnvidia-nvvm.so.4 libnvidia-nvvm.so.550.54.15";
    assert_eq!(list(ALL, &[], lib), usual);
    let all = list(ALL, &["-e", "NVIDIA_DRIVER_CAPABILITIES=all"], lib);
    assert!(all.starts_with("libGLX_nvidia.so.0 "), "{all}");
    assert_eq!(list(ALL, &[], "/run/carrack/gpu/bin"), "nvidia-smi");
    // A step has what Slurm gave it; the rows of a real cluster are in tests/slurm.rs.
    let gpus = |outcome: String| -> String {
        let names = outcome.split(' ').filter(|name| name.starts_with("nvidia"));
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        gpus(list(ALL, &[], "/dev")),
        "nvidia-caps nvidia-uvm nvidia0 nvidia1 nvidiactl"
    );
    assert_eq!(gpus(list(ALL, &["--gpu", "none"], "/dev")), "");
}

const DOCUMENT: &str = r#"---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
  mounts:
  - hostPath: DRIVER/libcuda.so.550.54.15
    containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
    options: [ro, nosuid, nodev, rbind, rprivate]
  - hostPath: DRIVER/libnvidia-ml.so.550.54.15
    containerPath: /opt/where/it/says/ml.txt
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, create-symlinks, --link, "libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so"]
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/nvidia1
"#;

#[test]
fn documents_of_the_site_in_both_languages() {
    need!(Userns);
    let node = Node::new();
    let image = node.glibc_image("image", true).display().to_string();
    let load = [
        "/bin/load",
        "libcuda.so.1",
        "cuda",
        "libcuda.so",
        "cuda",
        "libnvidia-ml.so.1",
        "ml",
    ];
    let found =
        "libcuda.so.1: host 550.54.15\nlibcuda.so: host 550.54.15\nlibnvidia-ml.so.1: not found\n";
    let json = r#"{"cdiVersion": "1.1.0", "kind": "vendor.com/net", "new": 1, "devices": [
        {"name": "a", "containerEdits": {"env": ["NET=a"], "additionalGids": [4242],
         "mounts": [{"hostPath": "DRIVER", "containerPath": "/net", "options": ["ro"]}]}}]}"#;
    node.cdi("nvidia.yaml", DOCUMENT);
    node.cdi("net.json", json);
    let exec = |options: &[&str], command: &[&str]| {
        node.run(
            ALL,
            &[&["exec", "--no-home"], options, &[image.as_str()], command].concat(),
        )
    };
    // A GPU that is given is described by the site's document, by name or not.
    for options in [
        &[][..],
        &["--device", "nvidia.com/gpu=0"],
        &["--device", "nvidia.com/gpu=all"],
        &["--gpu", "none", "--device", "nvidia.com/gpu=0"],
    ] {
        exec(options, &load).is(0, found, "");
    }
    exec(
        &[],
        &[
            "/bin/sh",
            "-c",
            "echo $NVIDIA_VISIBLE_DEVICES; [ -s /opt/where/it/says/ml.txt ]",
        ],
    )
    .is(0, "void\n", "");
    let one = exec(
        &["--gpu", "none", "--device", "nvidia.com/gpu=0"],
        &["/bin/sh", "-c", "echo /dev/nvidia[0-9]"],
    );
    one.is(0, "/dev/nvidia0\n", "");
    let net = exec(
        &["--device", "vendor.com/net=a"],
        &["/bin/sh", "-c", "echo $NET; ls /net | grep -c cuda"],
    );
    assert_eq!((net.code, net.out.as_str()), (0, "a\n2\n"), "{net}");
    assert!(net.err.contains("group 4242"), "{net}");
    exec(&["--device", "vendor.com/net=b"], &["/bin/true"]).fails(
        125,
        &[
            "`vendor.com/net=b`",
            "this node has vendor.com/net=a",
            "doctor --gpu",
        ],
    );
    // An environment file names devices by the same words.
    node.scene.write(
        "work/net.toml",
        format!("image = \"{image}\"\ndevices = [\"vendor.com/net=a\"]\n"),
    );
    let edf = node.run(
        ALL,
        &[
            "exec",
            "--no-home",
            "-q",
            "--environment",
            "./net.toml",
            "/bin/sh",
            "-c",
            "echo $NET",
        ],
    );
    edf.is(0, "a\n", "");
    // The driver was updated, the document not: by name this is an error, without a name the driver is searched.
    node.cdi(
        "nvidia.yaml",
        &DOCUMENT.replace("libcuda.so.550.54.15\n    c", "libcuda.so.550.40\n    c"),
    );
    exec(&["--device", "nvidia.com/gpu=0"], &load)
        .fails(125, &["libcuda.so.550.40", "nvidia-ctk cdi generate"]);
    let searched = exec(&[], &load);
    assert!(
        searched.out.contains("libnvidia-ml.so.1: host 550"),
        "{searched}"
    );
    // Broken documents are named when a device is not found.
    node.cdi("nvidia.yaml", "kind: [");
    exec(&["--device", "nvidia.com/gpu=0"], &load).fails(125, &["nvidia.yaml"]);
}
