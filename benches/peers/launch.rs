//! From a squashfs file to a process inside it, and what the process then reads.

use crate::Scene;
use crate::measure::{Make, Table, at_once, command, milliseconds, together};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The same program in each world: the words in front of it.
#[derive(Clone)]
struct World {
    name: &'static str,
    before: Vec<String>,
    /// The program is a task of this step.
    step: Option<u32>,
}

impl World {
    fn new(name: &'static str, before: &[&str]) -> World {
        World {
            name,
            before: before.iter().map(|word| word.to_string()).collect(),
            step: None,
        }
    }

    fn in_step(&self, name: &'static str, step: u32) -> World {
        World {
            name,
            step: Some(step),
            ..self.clone()
        }
    }

    fn command(&self, program: &[&str]) -> Command {
        let own = program.iter().map(|word| word.to_string());
        let words: Vec<String> = self.before.iter().cloned().chain(own).collect();
        let mut command = command(&words);
        // Where jobs are started. Elsewhere carrack, and no other one, would show the current directory, too.
        command.current_dir(std::env::var_os("HOME").unwrap_or("/".into()));
        if let Some(step) = self.step {
            command.env("SLURM_JOB_ID", "990001");
            command.env("SLURM_STEP_ID", step.to_string());
            command.env("SLURM_STEPID", step.to_string());
            for name in ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"] {
                command.env(name, "0");
            }
        }
        command
    }

    fn works(&self) -> bool {
        let status = self.command(TRUE).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

const TRUE: &[&str] = &["/bin/true"];
const IMPORT: &[&str] = &["python3", "-c", "import numpy"];
const FIND: &[&str] = &["find", "/usr", "-xdev", "-name", "*.absent"];
/// Looks at each file too.
const FIND_STAT: &[&str] = &["find", "/usr", "-xdev", "-newermt", "2100-01-01"];

/// Least milliseconds of one program in several worlds, which take turns.
fn alone(rounds: usize, worlds: &[World], program: &[&str]) -> Vec<f64> {
    compared(worlds, program, |commands| milliseconds(rounds, commands))
}

fn crowd(rounds: usize, count: usize, worlds: &[World], program: &[&str]) -> Vec<f64> {
    compared(worlds, program, |commands| {
        together(rounds, count, commands)
    })
}

fn compared(
    worlds: &[World],
    program: &[&str],
    measure: impl Fn(&[Make<'_>]) -> Vec<f64>,
) -> Vec<f64> {
    let commands: Vec<_> = worlds
        .iter()
        .map(|world| || world.command(program))
        .collect();
    let commands: Vec<Make<'_>> = commands.iter().map(|make| make as Make<'_>).collect();
    measure(&commands)
}

/// The numbers of other worlds, for comparison.
fn tell(table: &mut Table, worlds: &[World], times: &[f64]) {
    for (world, time) in worlds.iter().zip(times) {
        table.told(&format!("  {}", world.name), format!("{time:.2} ms"));
    }
}

fn bound_for(world: &World) -> Option<f64> {
    match world.name {
        KERNEL => Some(1.1),
        LOW_LEVEL => Some(0.9),
        _ => None,
    }
}

const KERNEL: &str = "the kernel's mount";
const LOW_LEVEL: &str = "squashfuse_ll";

/// What several tables compare.
struct Common {
    outside: World,
    made: World,
    on_directory: World,
    /// `ch-run` and `bwrap` on the unpacked image.
    directory_peers: Vec<World>,
    ch_run: World,
    joined: World,
    chroot: World,
}

impl Common {
    fn new(scene: &Scene) -> Common {
        let image = pulled(scene);
        let image = image.to_str().expect("a plain path");
        let carrack = scene.carrack.to_str().expect("a plain path");
        let directory = scene.images.join("directory");
        let directory = directory.to_str().expect("a plain path");
        let made = World::new("carrack, capsule made", &[carrack, "exec", image]);
        Common {
            outside: World::new("outside", &[]),
            joined: made.in_step("carrack, capsule joined", 0),
            made,
            on_directory: World::new("carrack on a directory", &[carrack, "exec", directory]),
            directory_peers: vec![
                World::new("ch-run on a directory", &["ch-run", directory, "--"]),
                bwrap("bwrap on a directory", directory),
            ],
            ch_run: World::new("ch-run on the same squashfs file", &["ch-run", image, "--"]),
            chroot: chroot("unshare and chroot to a directory", directory),
        }
    }
}

fn chroot(name: &'static str, root: &str) -> World {
    World::new(name, &["unshare", "--map-root-user", "chroot", root])
}

fn bwrap(name: &'static str, root: &str) -> World {
    let words = [
        "bwrap", "--bind", root, "/", "--dev", "/dev", "--proc", "/proc",
    ];
    World::new(name, &words)
}

/// Those that run here; the others are told.
fn working(worlds: Vec<World>, table: &mut Table) -> Vec<World> {
    let (work, broken): (Vec<_>, Vec<_>) = worlds.into_iter().partition(World::works);
    for world in broken {
        table.told(&format!("  {}", world.name), "does not run here".into());
    }
    work
}

/// `start`: how long a process takes to begin. `read`: what it reads then.
pub fn run(scene: &Scene, table: &mut Table, parts: &[&str]) {
    let common = Common::new(scene);
    if parts.contains(&"start") {
        starts(scene, table, &common);
    }
    // One task keeps the step's capsule; the others join it.
    let keeper = Keeper::start(&common.joined, scene);
    if parts.contains(&"start") {
        joins(table, &common);
    }
    if parts.contains(&"read") {
        let low_level = Mounted::start(scene);
        let others = readers(scene, table, &common, &low_level);
        let memory = Memory::of(scene);
        warm(table, &common, &others, &keeper, memory.as_ref());
        drop(keeper);
        match memory {
            Some(memory) => cold(scene, table, &common, others, &low_level, &memory),
            None => table.told(
                "cold imports",
                "the page cache cannot be emptied here".into(),
            ),
        }
    }
}

fn starts(scene: &Scene, table: &mut Table, common: &Common) {
    table.heading("A process inside the image: `true`");
    let peer = scene.images.join("peer.squashfs");
    let peer = peer.to_str().expect("a plain path");
    let mut worlds = vec![common.outside.clone(), common.on_directory.clone()];
    let mut peers = common.directory_peers.clone();
    peers.push(common.chroot.clone());
    worlds.extend(working(peers, table));
    let times = alone(200, &worlds, TRUE);
    let plain = times[0];
    table.told("fork, exec and end of `true`", format!("{plain:.2} ms"));
    table.ratio("a directory, against plain", times[1], plain, "ms", 2.2);
    tell(table, &worlds[2..], &times[2..]);

    let mount_and_run = format!(
        "d=$(mktemp -d) && squashfuse_ll {peer} $d && bwrap --bind $d / --dev /dev --proc /proc \"$@\"; \
         e=$?; fusermount3 -u $d; rmdir $d; exit $e"
    );
    let mounted = World::new(
        "squashfuse_ll, bwrap and fusermount",
        &["sh", "-c", &mount_and_run, "-"],
    );
    let mut worlds = vec![common.made.clone()];
    worlds.extend(working(vec![common.ch_run.clone(), mounted], table));
    let times = alone(60, &worlds, TRUE);
    let started = times[0];
    table.bound(
        "cold: capsule and server made, above plain",
        format!("{started:.2} ms"),
        started - plain,
        10.0,
        " ms",
    );
    if (worlds.get(1)).is_some_and(|world| world.name == common.ch_run.name) {
        table.ratio(
            "cold, against ch-run on the same file",
            started,
            times[1],
            "ms",
            0.6,
        );
    }
    tell(table, &worlds[1..], &times[1..]);
}

fn joins(table: &mut Table, common: &Common) {
    let mut worlds = vec![common.outside.clone(), common.joined.clone()];
    let times = alone(200, &worlds, TRUE);
    table.ratio("joined, against plain", times[1], times[0], "ms", 2.2);
    worlds.extend(working(common.directory_peers.clone(), table));
    let times = crowd(8, 128, &worlds, TRUE);
    table.ratio(
        "128 joined at once, against 128 plain",
        times[1],
        times[0],
        "ms",
        2.0,
    );
    tell(table, &worlds[2..], &times[2..]);
}

/// The same image read in other ways.
fn readers(scene: &Scene, table: &mut Table, common: &Common, low_level: &Mounted) -> Vec<World> {
    let mut others = vec![];
    let kernel = scene.run.join("kernel");
    if kernel.join("bin").exists() {
        others.push(chroot(KERNEL, kernel.to_str().expect("a plain path")));
    }
    others.push(chroot(
        LOW_LEVEL,
        low_level.at.to_str().expect("a plain path"),
    ));
    others.push(common.ch_run.clone());
    others.extend(common.directory_peers.last().cloned());
    working(others, table)
}

/// Least milliseconds of programs that find everything in the kernel's caches.
///
/// Where in memory these lie decides over some percent, and what other rows left in them is in the way of each world by
/// another part. So they are emptied and filled a few times.
fn warm_in_several_places(worlds: &[World], program: &[&str], memory: Option<&Memory>) -> Vec<f64> {
    let mut least = vec![f64::INFINITY; worlds.len()];
    for _ in 0..4 {
        if let Some(memory) = memory {
            memory.forget();
        }
        alone(2, worlds, program);
        for (least, time) in least.iter_mut().zip(alone(10, worlds, program)) {
            *least = least.min(time);
        }
    }
    least
}

fn warm(
    table: &mut Table,
    common: &Common,
    others: &[World],
    keeper: &Keeper,
    memory: Option<&Memory>,
) {
    table.heading("What it reads, warm");
    let mut worlds = vec![common.joined.clone(), common.chroot.clone()];
    worlds.extend_from_slice(others);
    for (what, program, bound) in [
        (
            "warm `import numpy`, against an ext4 directory",
            IMPORT,
            Some(1.05),
        ),
        ("warm `find`, against an ext4 directory", FIND, Some(1.3)),
        (
            "warm `find` with a `stat` of each file, against it",
            FIND_STAT,
            None,
        ),
    ] {
        let (compared, others) = worlds.split_at(2);
        let times = warm_in_several_places(compared, program, memory);
        tell_ratio(table, what, times[0], times[1], bound);
        // Some of them need seconds. The first round fills their caches.
        tell(table, others, &alone(5, others, program));
    }
    let times = crowd(12, 8, &worlds, IMPORT);
    table.told("8 warm imports at once", format!("{:.2} ms", times[0]));
    tell_ratios(table, &worlds, &times);
    if let Some(memory) = keeper.server_memory() {
        table.bound(
            "memory of the server after it",
            format!("{memory:.0} MiB"),
            memory,
            32.0,
            " MiB",
        );
    }
}

fn cold(
    scene: &Scene,
    table: &mut Table,
    common: &Common,
    others: Vec<World>,
    low_level: &Mounted,
    memory: &Memory,
) {
    table.heading(
        "What it reads, cold: nothing of any image in memory, capsule and server not made yet",
    );
    // Each round is a step of its own: its first task makes the capsule, the others join.
    let carrack = scene.carrack.to_str().expect("a plain path");
    let mut worlds = vec![common.made.in_step("carrack", 1)];
    worlds.extend(
        others
            .into_iter()
            .filter(|world| !world.name.starts_with("bwrap")),
    );
    let once = |world: &World, count: usize| {
        let again = (world.name == LOW_LEVEL).then(|| low_level.again());
        assert_ne!(again, Some(false), "squashfuse_ll");
        memory.forget();
        // What starts the worlds is not what is compared.
        std::hint::black_box(std::fs::read(&scene.carrack).expect("carrack"));
        for program in [carrack, "unshare", "chroot", "ch-run"] {
            let _ = command(&[program, "--version"])
                .stderr(Stdio::null())
                .status();
        }
        let start = Instant::now();
        at_once(count, &|| world.command(IMPORT));
        start.elapsed().as_secs_f64() * 1e3
    };
    for (count, rounds) in [(1, 12), (8, 24)] {
        let mut times = vec![vec![]; worlds.len()];
        for round in 0..rounds {
            for (index, (times, world)) in times.iter_mut().zip(&worlds).enumerate() {
                // What has no bound needs less.
                if index == 0 || bound_for(world).is_some() || round < 5 {
                    times.push(once(world, count));
                }
            }
        }
        // Eight tasks that meet a disk, a server and each other have luck in both directions.
        let times: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
        table.told(
            &format!("{count} cold, median"),
            format!("{:.2} ms", times[0]),
        );
        tell_ratios(table, &worlds, &times);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the first world needs against what each of the others does.
fn tell_ratios(table: &mut Table, worlds: &[World], times: &[f64]) {
    for (world, time) in worlds.iter().zip(times).skip(1) {
        let what = format!("  against {}", world.name);
        tell_ratio(table, &what, times[0], *time, bound_for(world));
    }
}

fn tell_ratio(table: &mut Table, what: &str, ours: f64, theirs: f64, bound: Option<f64>) {
    match bound {
        Some(bound) => table.ratio(what, ours, theirs, "ms", bound),
        None => {
            let ratio = ours / theirs;
            table.told(what, format!("{ours:.2} / {theirs:.2} ms = {ratio:.2}×"));
        }
    }
}

/// The machine's page cache, which only root can empty: `scripts/bench` does it when it is asked through a pipe.
struct Memory {
    ask: PathBuf,
    answer: PathBuf,
}

impl Memory {
    fn of(scene: &Scene) -> Option<Memory> {
        let memory = Memory {
            ask: scene.run.join("forget"),
            answer: scene.run.join("forgotten"),
        };
        memory.ask.exists().then_some(memory)
    }

    fn forget(&self) {
        std::fs::write(&self.ask, "\n").expect("a pipe");
        std::fs::read(&self.answer).expect("an answer");
    }
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
    /// What the command line of its server has in it and that of no other one.
    run: String,
}

impl Keeper {
    fn start(world: &World, scene: &Scene) -> Keeper {
        let child = world.command(&["sleep", "3600"]).spawn();
        std::thread::sleep(std::time::Duration::from_millis(500));
        Keeper {
            child: child.expect("carrack"),
            run: scene.run.display().to_string(),
        }
    }

    /// MiB of the server that came with it.
    fn server_memory(&self) -> Option<f64> {
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let read = |at: &Path, name: &str| {
            let bytes = std::fs::read(at.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        processes
            .map(|entry| entry.path())
            .filter(|at| read(at, "comm").starts_with("carrack-image"))
            .filter(|at| read(at, "cmdline").contains(&self.run))
            .filter_map(|at| {
                let status = read(&at, "status");
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

/// The peer's image served by squashfuse_ll, as long as the value lives.
struct Mounted {
    image: PathBuf,
    at: PathBuf,
}

impl Mounted {
    fn start(scene: &Scene) -> Mounted {
        let mounted = Mounted {
            image: scene.images.join("peer.squashfs"),
            at: scene.run.join("squashfuse"),
        };
        std::fs::create_dir(&mounted.at).expect("a directory");
        mounted.mount();
        mounted
    }

    fn mount(&self) -> bool {
        let mut command = Command::new("squashfuse_ll");
        command.arg(&self.image).arg(&self.at);
        let status = command.stdout(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    fn unmount(&self) {
        let _ = Command::new("fusermount3").arg("-u").arg(&self.at).status();
    }

    /// A new server, which knows nothing yet.
    fn again(&self) -> bool {
        self.unmount();
        self.mount()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}
