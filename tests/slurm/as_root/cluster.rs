//! A cluster of `slurm/devcluster` for one test, and images for it.

use crate::scene::carrack;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A running cluster; gone when dropped.
pub struct Cluster {
    name: String,
    directory: PathBuf,
}

impl Cluster {
    pub fn up(nodes: u32, gpus: u32) -> Cluster {
        Cluster::up_by(&[&nodes.to_string(), &gpus.to_string()], &[])
    }

    /// By the words after `devcluster up`, and the variables that it reads.
    pub fn up_by(words: &[&str], variables: &[(&str, &str)]) -> Cluster {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let cluster = Cluster {
            directory: PathBuf::from(format!("/tmp/carrack-cluster-{name}")),
            name,
        };
        let mut up = cluster.command(&["up"]);
        let up = up.args(words).envs(variables.iter().copied());
        let output = up.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let programs = cluster.path("scratch/bin");
        std::fs::create_dir_all(&programs).unwrap();
        std::fs::copy(carrack(), programs.join("carrack")).unwrap();
        cluster
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/slurm/devcluster"));
        command
            .args(arguments)
            .env("CARRACK_CLUSTER", &self.name)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file in alice's directory, which is also where her commands run.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path("scratch/alice").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        self.run(&[
            "sh",
            "login",
            "chown",
            "-R",
            "alice:alice",
            "/scratch/alice",
        ]);
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path("scratch/alice").join(name))
            .unwrap_or_else(|error| format!("{name}: {error}"))
    }

    /// A line of bash on the login node as alice: its code and all that it said.
    pub fn login(&self, line: &str) -> (i32, String) {
        let line = format!("export PATH=/scratch/bin:$PATH; cd /scratch/alice; {line}");
        let output = self.run(&["login", "timeout", "-k", "5", "150", "bash", "-c", &line]);
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap_or(-1), said)
    }

    /// The same, which must end well.
    pub fn good(&self, line: &str) -> String {
        let (code, said) = self.login(line);
        assert_eq!(code, 0, "{line}\n{said}\n{}", self.logs());
        said
    }

    /// What the jobs wrote, for messages.
    pub fn logs(&self) -> String {
        let files = std::fs::read_dir(self.path("scratch/alice"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        let logs = files.filter(|file| file.extension().is_some_and(|ending| ending == "out"));
        logs.map(|file| {
            format!(
                "== {}\n{}",
                file.display(),
                std::fs::read_to_string(&file).unwrap_or_default()
            )
        })
        .collect()
    }

    /// A small tree that stands in for an image: busybox and bash.
    pub fn tree(&self) {
        let tree = self.path("scratch/root");
        for name in [
            "bin", "etc", "usr/bin", "tmp", "dev", "proc", "sys", "home", "scratch",
        ] {
            std::fs::create_dir_all(tree.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
        for name in [
            "awk", "cat", "date", "echo", "env", "false", "head", "hostname", "id", "ls", "mkdir",
            "pwd", "readlink", "seq", "sh", "sleep", "sort", "touch", "tr", "true",
        ] {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
        }
        std::fs::write(tree.join("etc/debian_version"), "12.99\n").unwrap();
        std::fs::write(tree.join("etc/os-release"), "PRETTY_NAME=\"Stand-in\"\n").unwrap();
        // A script of the examples asks for bash; busybox is shell enough, but goes by its own name.
        std::fs::write(tree.join("bin/bash"), "#!/bin/sh\nexec /bin/sh \"$@\"\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(tree.join("bin/bash"), mode).unwrap();
        self.good("carrack pull -q dir:/scratch/root");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

/// The value of a record's field, by names from the top.
pub fn field(record: &str, names: &[&str]) -> serde_json::Value {
    let mut value: serde_json::Value =
        serde_json::from_str(record).unwrap_or_else(|error| panic!("{error}: {record}"));
    for name in names {
        value = match name.parse::<usize>() {
            Ok(index) => value[index].take(),
            Err(_) => value[*name].take(),
        };
    }
    value
}

/// A directory with everything in it.
pub fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
