//! From a squashfs file to a process inside it, and what the process then reads.

use crate::Scene;
use crate::measure::{Table, command, milliseconds, together};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The same program in each world: the words in front of it.
struct World {
    name: &'static str,
    before: Vec<String>,
}

impl World {
    fn words(&self, program: &[&str]) -> Vec<String> {
        let own = program.iter().map(|word| word.to_string());
        self.before.iter().cloned().chain(own).collect()
    }
}

pub fn run(scene: &Scene, table: &mut Table) {
    table.heading("A process inside the image");
    let image = pulled(scene);
    let image = image.to_str().expect("a plain path");
    let carrack = scene.carrack.to_str().expect("a plain path");
    let directory = scene.images.join("directory");
    let directory = directory.to_str().expect("a plain path");
    // Before anything is started, so that each cold start makes a capsule of its own.
    let outside = World {
        name: "outside",
        before: vec![],
    };
    let cold = World {
        name: "carrack, capsule made",
        before: words(&[carrack, "exec", image]),
    };
    let chroot = |name, root: &str| World {
        name,
        before: words(&["unshare", "--map-root-user", "chroot", root]),
    };
    let ch_run = World {
        name: "ch-run on the squashfs file",
        before: words(&["ch-run", "-W", image, "--"]),
    };
    let bwrap = World {
        name: "bwrap on a directory",
        before: words(&[
            "bwrap", "--bind", directory, "/", "--dev", "/dev", "--proc", "/proc",
        ]),
    };

    let plain = milliseconds(200, &outside.words(&["/bin/true"]));
    let started = milliseconds(60, &cold.words(&["/bin/true"]));
    table.told("fork, exec and end of `true`", format!("{plain:.2} ms"));
    table.bound(
        "cold: capsule and server made, above plain",
        format!("{started:.2} ms"),
        started - plain,
        10.0,
        " ms",
    );
    match works(&ch_run) {
        true => {
            let theirs = milliseconds(60, &ch_run.words(&["/bin/true"]));
            table.ratio(
                "cold, against ch-run on the same file",
                started,
                theirs,
                "ms",
                0.6,
            );
        }
        false => table.told(ch_run.name, "does not run here".into()),
    }
    if works(&bwrap) {
        let theirs = milliseconds(100, &bwrap.words(&["/bin/true"]));
        table.told(bwrap.name, format!("{theirs:.2} ms"));
    }
    let on_directory = World {
        name: "carrack on a directory",
        before: words(&[carrack, "exec", directory]),
    };
    if works(&on_directory) {
        let ours = milliseconds(100, &on_directory.words(&["/bin/true"]));
        table.ratio("a directory, against plain", ours, plain, "ms", 2.2);
    }

    // One task keeps the step's capsule; the others join it.
    let keeper = Keeper::start(&cold);
    let joined = World {
        name: "carrack, capsule joined",
        ..cold
    };
    let step = |world: &World, program: &[&str]| {
        let mut all = words(&["env"]);
        all.extend(STEP.iter().map(|word| word.to_string()));
        all.extend(world.words(program));
        all
    };
    let ours = milliseconds(200, &step(&joined, &["/bin/true"]));
    let env = milliseconds(200, &words(&["env", "/bin/true"]));
    table.ratio("joined, against plain", ours, env, "ms", 2.2);
    let many = together(5, 128, &step(&joined, &["/bin/true"]));
    let plain_many = together(5, 128, &words(&["env", "/bin/true"]));
    table.ratio(
        "128 joined at once, against 128 plain",
        many,
        plain_many,
        "ms",
        2.0,
    );

    table.heading(
        "What it reads: carrack beside an ext4 directory, the kernel's mount and squashfuse_ll",
    );
    let low_level = Mounted::start(scene);
    let import = ["python3", "-c", "import numpy"];
    let find = ["find", "/usr", "-xdev", "-newermt", "2100-01-01"];
    let ext4 = chroot("an ext4 directory", directory);
    let mut others = vec![];
    let kernel = scene.run.join("kernel");
    if kernel.join("bin").exists() {
        others.push(chroot(
            "the kernel's mount",
            kernel.to_str().expect("a plain path"),
        ));
    }
    if let Some(mounted) = &low_level {
        others.push(chroot(
            "squashfuse_ll",
            mounted.0.to_str().expect("a plain path"),
        ));
    }
    for (what, program, bound) in [
        (
            "warm `import numpy`, against a directory",
            &import[..],
            1.05,
        ),
        ("warm `find`, against a directory", &find[..], 1.3),
    ] {
        // Once for the caches.
        milliseconds(2, &step(&joined, program));
        let ours = milliseconds(12, &step(&joined, program));
        let theirs = milliseconds(12, &ext4.words(program));
        table.ratio(what, ours, theirs, "ms", bound);
        for world in &others {
            milliseconds(2, &world.words(program));
            let theirs = milliseconds(12, &world.words(program));
            table.told(&format!("  {}", world.name), format!("{theirs:.2} ms"));
        }
    }
    let eight = together(3, 8, &step(&joined, &import));
    for world in &others {
        let theirs = together(3, 8, &world.words(&import));
        let bound = if world.name == "squashfuse_ll" {
            0.9
        } else {
            1.1
        };
        let what = format!("8 imports at once, against {}", world.name);
        table.ratio(&what, eight, theirs, "ms", bound);
    }
    if let Some(memory) = keeper.server_memory() {
        table.bound(
            "memory of the server after it",
            format!("{memory:.0} MiB"),
            memory,
            32.0,
            " MiB",
        );
    }
    drop(keeper);
}

/// The variables that make processes the tasks of one step.
const STEP: &[&str] = &[
    "SLURM_JOB_ID=990001",
    "SLURM_STEP_ID=0",
    "SLURM_STEPID=0",
    "SLURM_PROCID=0",
    "SLURM_LOCALID=0",
    "SLURM_NODEID=0",
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

fn works(world: &World) -> bool {
    let words = world.words(&["/bin/true"]);
    command(&words)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The image in a store of this run.
fn pulled(scene: &Scene) -> PathBuf {
    let layout = format!("oci:{}:v1", scene.images.join("layout").display());
    let output = Command::new(&scene.carrack)
        .args(["pull", "-q", "--store"])
        .arg(scene.run.join("store"))
        .arg(layout)
        .output()
        .expect("carrack");
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = line.trim_end().split('\t').nth(1).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    path.into()
}

/// A task that stays, so that the capsule does.
struct Keeper {
    child: Child,
    before: Vec<u32>,
}

impl Keeper {
    fn start(world: &World) -> Keeper {
        let before = processes_named("carrack");
        let words = world.words(&["sleep", "3600"]);
        let mut command = command(&words);
        command.envs(STEP.iter().filter_map(|word| word.split_once('=')));
        let child = command.spawn().expect("carrack");
        std::thread::sleep(std::time::Duration::from_millis(300));
        Keeper { child, before }
    }

    /// MiB of the processes that came with it.
    fn server_memory(&self) -> Option<f64> {
        processes_named("carrack")
            .into_iter()
            .filter(|pid| !self.before.contains(pid) && *pid != self.child.id())
            .filter_map(|pid| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
                let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
                line.split_whitespace().nth(1)?.parse::<f64>().ok()
            })
            .map(|kib| kib / 1024.0)
            .reduce(f64::max)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn processes_named(name: &str) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| comm.trim_end().starts_with(name))
        })
        .collect()
}

/// The peer's image served by squashfuse_ll.
struct Mounted(PathBuf);

impl Mounted {
    fn start(scene: &Scene) -> Option<Mounted> {
        let at = scene.run.join("squashfuse");
        std::fs::create_dir(&at).ok()?;
        let image: &Path = &scene.images.join("peer.squashfs");
        let status = Command::new("squashfuse_ll")
            .arg(image)
            .arg(&at)
            .stdout(Stdio::null())
            .status()
            .ok()?;
        status.success().then_some(Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3").arg("-u").arg(&self.0).status();
    }
}
