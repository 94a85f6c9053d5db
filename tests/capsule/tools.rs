//! The tools of these tests: an image, a job step, and looking for what is left of one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a job leaves behind should be gone by then; what takes longer is told, for runs on a quiet machine.
const SOON: Duration = Duration::from_secs(1);
/// Long enough for a machine that does much else; only failures wait this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Copies a program to run. Not by this process: another thread's child could hold it open for writing while we start it.
pub fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

pub fn task() -> PathBuf {
    let examples = Path::new(env!("CARGO_BIN_EXE_carrack"))
        .parent()
        .unwrap()
        .join("examples");
    examples.join("task")
}

/// A directory to be an image: empty mount points and one file. `/made` is missing on purpose.
pub fn tree() -> &'static Path {
    static TREE: OnceLock<tempfile::TempDir> = OnceLock::new();
    TREE.get_or_init(|| {
        let scene = tempfile::tempdir().unwrap();
        for name in [
            "etc", "proc", "sys", "dev", "tmp", "usr", "opt/test", "data",
        ] {
            std::fs::create_dir_all(scene.path().join(name)).unwrap();
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            // As on the host, so that its programs find each other.
            match std::fs::read_link(Path::new("/").join(name)) {
                Ok(to) => std::os::unix::fs::symlink(to, scene.path().join(name)).unwrap(),
                Err(_) => std::fs::create_dir(scene.path().join(name)).unwrap(),
            }
        }
        std::fs::write(
            scene.path().join("etc/passwd"),
            "daemon:x:2:2::/:/bin/false\n",
        )
        .unwrap();
        std::fs::write(scene.path().join("data/cargo"), "spices\n".repeat(50_000)).unwrap();
        scene
    })
    .path()
}

pub fn squashfs() -> &'static Path {
    static IMAGE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &IMAGE
        .get_or_init(|| {
            let scene = tempfile::tempdir().unwrap();
            let image = scene.path().join("image.sqsh");
            let made = Command::new(crate::need::program("mksquashfs").unwrap())
                .arg(tree())
                .arg(&image)
                .args(["-comp", "zstd", "-all-root", "-quiet", "-no-progress"])
                .stdout(Stdio::null())
                .status();
            assert!(made.unwrap().success());
            (scene, image)
        })
        .1
}

/// One job step on this node.
pub struct Job {
    pub id: String,
    pub image: PathBuf,
    pub variables: Vec<(&'static str, String)>,
}

impl Job {
    pub fn new(image: &Path) -> Job {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Job {
            id: format!("t{}-{number}", std::process::id()),
            image: image.into(),
            variables: Vec::new(),
        }
    }

    pub fn tasks(self, count: u32) -> Job {
        self.with("TASK_COUNT", count.to_string())
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Job {
        self.variables.push((name, value.into()));
        self
    }

    pub fn command(&self, rank: u32, words: &[&str]) -> Command {
        let mut command = Command::new(task());
        command.arg(&self.image).args(words);
        self.surround(&mut command, rank);
        command
    }

    pub fn surround(&self, command: &mut Command, rank: u32) {
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("SLURM_JOB_ID", &self.id)
            .env("SLURM_STEP_ID", "0")
            .env("SLURM_LOCALID", rank.to_string())
            .envs(std::env::vars().filter(|(name, _)| name == "CARRACK_PRETEND_MISSING"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
    }

    pub fn run(&self, rank: u32, words: &[&str]) -> Output {
        self.command(rank, words).output().unwrap()
    }

    pub fn start(&self, rank: u32, words: &[&str]) -> Child {
        self.command(rank, words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a script under a process that is called as Slurm's is; `$TASK` starts a task.
    pub fn step(&self, script: &str) -> Child {
        let mut command = Command::new(slurmstepd());
        self.surround(&mut command, 0);
        command
            .env(
                "TASK",
                format!("{} {}", task().display(), self.image.display()),
            )
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Processes of this job: their environment has its name.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let mark = format!("SLURM_JOB_ID={}\0", self.id);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if contains(&environment, mark.as_bytes()) {
                let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push((pid, name.trim().to_string()));
            }
        }
        found
    }

    pub fn broker(&self) -> Option<u32> {
        let named = |(pid, name): &(u32, String)| (name == "carrack-image").then_some(*pid);
        self.processes().iter().find_map(named)
    }

    /// Entries of this job in the user's rendezvous directory.
    pub fn entries(&self) -> Vec<String> {
        let uid = nix::unistd::geteuid();
        let prefix = format!("{}.", self.id);
        ["/dev/shm", "/tmp", "/var/tmp"]
            .iter()
            .filter_map(|base| std::fs::read_dir(base).ok())
            .flatten()
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                name.to_string_lossy()
                    .starts_with(&format!("carrack-{uid}"))
            })
            .filter_map(|directory| std::fs::read_dir(directory.path()).ok())
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&prefix))
            .collect()
    }

    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                if start.elapsed() > SOON {
                    eprintln!("{}: the {what} came after {:?}", self.id, start.elapsed());
                }
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{}: no {what} after {PATIENCE:?}: processes {:?}, entries {:?}",
                self.id,
                self.processes(),
                self.entries()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn processes_end(&self) {
        self.wait_for("end of all processes", || {
            self.processes().is_empty().then_some(())
        });
    }

    pub fn nothing_is_left(&self) {
        self.processes_end();
        let mut looks = 0;
        self.wait_for("end of the entry", || {
            // An entry that a neighbouring test looked at just then stays; the next launch sweeps it.
            looks += 1;
            if looks % 100 == 0 {
                out(&Job::new(squashfs()).run(0, &["true"]));
            }
            self.entries().is_empty().then_some(())
        });
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Bash by the name of Slurm's process.
fn slurmstepd() -> &'static Path {
    static COPY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &COPY
        .get_or_init(|| {
            let scene = tempfile::tempdir().unwrap();
            let path = scene.path().join("slurmstepd");
            copy("/bin/bash".as_ref(), &path);
            (scene, path)
        })
        .1
}

pub fn out(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

pub fn outs(children: Vec<Child>) -> Vec<String> {
    children
        .into_iter()
        .map(|child| out(&child.wait_with_output().unwrap()))
        .collect()
}

/// Reads the first line that a child prints.
pub fn first_line(child: &mut Child) -> String {
    use std::io::{BufRead, BufReader};
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.as_mut().unwrap());
    reader.read_line(&mut line).unwrap();
    line.trim().to_string()
}
