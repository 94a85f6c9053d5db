//! A place for one test to run the built binary in: own home, own store, cleared environment.
//!
//! Everything that a command wrote is compared whole. Paths under the scene are shown as `$SCENE`, so that expected
//! texts can be written down.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary under test.
pub fn carrack() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_carrack"))
}

pub struct Scene {
    directory: tempfile::TempDir,
    environment: Vec<(OsString, OsString)>,
}

#[allow(dead_code)] // vocabulary for tests
impl Scene {
    pub fn new() -> Scene {
        let directory = tempfile::Builder::new()
            .prefix("carrack-test.")
            .tempdir()
            .unwrap();
        for name in ["home", "work", "tmp"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("settings.toml"), "").unwrap();
        Scene {
            directory,
            environment: Vec::new(),
        }
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a file under the scene, with the directories above it.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A variable for every later command.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Scene {
        self.environment
            .push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// A command line of carrack, not yet started.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.program(carrack());
        command.args(arguments);
        command
    }

    /// Any program, in the scene's world.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("CARRACK_STORE", self.store())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LANG", "C.UTF-8")
            .env("CARRACK_CONFIG", self.path("settings.toml"))
            .current_dir(self.path("work"))
            .stdin(Stdio::null());
        for name in ["CARRACK_PRETEND_MISSING", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs carrack to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        self.finish(self.command(arguments), b"")
    }

    /// Runs a prepared command to its end, with this on standard input.
    pub fn finish(&self, mut command: Command, input: &[u8]) -> Outcome {
        if !input.is_empty() {
            command.stdin(Stdio::piped());
        }
        let shown = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        if let Some(mut pipe) = child.stdin.take() {
            // A command that does not read its input is no failure of the test.
            let _ = pipe.write_all(input);
        }
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        Outcome {
            shown,
            code: status
                .code()
                .unwrap_or(128 + status.signal().unwrap_or_default()),
            out: self.shown(&stdout),
            err: self.shown(&stderr),
            stdout,
        }
    }

    fn shown(&self, bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).replace(self.path("").to_str().unwrap(), "$SCENE/")
    }

    /// Names of everything in the store that a person or another command could take for an image.
    pub fn visible_in_store(&self) -> Vec<String> {
        let mut found = Vec::new();
        for part in ["images", "refs"] {
            let mut pending = vec![self.store().join(part)];
            while let Some(directory) = pending.pop() {
                for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                    if entry.file_type().unwrap().is_dir() {
                        pending.push(entry.path());
                    } else {
                        let path = entry.path();
                        let path = path.strip_prefix(self.store()).unwrap();
                        found.push(path.to_string_lossy().into_owned());
                    }
                }
            }
        }
        found.sort();
        found
    }
}

/// What one command did.
#[allow(dead_code)]
pub struct Outcome {
    shown: String,
    pub code: i32,
    pub out: String,
    pub err: String,
    pub stdout: Vec<u8>,
}

#[allow(dead_code)]
impl Outcome {
    /// All three at once, so that a failing test shows the whole story.
    #[track_caller]
    pub fn is(&self, code: i32, out: &str, err: &str) -> &Outcome {
        if (self.code, self.out.as_str(), self.err.as_str()) != (code, out, err) {
            panic!(
                "{self}\nexpected exit code {code}\nstandard output {}standard error {}",
                crate::golden::difference(out, &self.out),
                crate::golden::difference(err, &self.err)
            );
        }
        self
    }

    /// The exit code, when the texts are another test's matter.
    #[track_caller]
    pub fn code(&self, code: i32) -> &Outcome {
        assert!(self.code == code, "{self}\nexpected exit code {code}");
        self
    }

    #[track_caller]
    pub fn ok(&self) -> &Outcome {
        self.code(0)
    }

    /// One clear error of ours: this exit code, nothing on standard output, each of these words in the text.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) -> &Outcome {
        if let Some(wrong) = self.fails_otherwise(code, words) {
            panic!("{wrong}");
        }
        self
    }

    /// What is not as `fails` wants it.
    pub fn fails_otherwise(&self, code: i32, words: &[&str]) -> Option<String> {
        let lines = self.err.lines();
        let errors = lines.filter(|l| l.starts_with("error: ")).count();
        let quiet = self.out.is_empty() && !self.err.contains("panicked");
        if self.code != code || errors != 1 || !quiet {
            return Some(format!(
                "{self}\nexpected exit code {code}, no output and exactly one error"
            ));
        }
        let missing = words.iter().find(|word| !self.err.contains(**word))?;
        Some(format!("{self}\nthe error does not say `{missing}`"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{}\nexit code {}\n--- standard output\n{}--- standard error\n{}---",
            self.shown, self.code, self.out, self.err
        )
    }
}
