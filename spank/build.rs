//! Decides for which Slurm release this build is: `SLURM_VERSION=25.05` (or `25.05.3`), else the `srun` found here, else
//! 22.05. Slurm loads a plugin only when major and minor equal its own; the micro version is free.
//!
//! And links what unwinds the stack into the plugin: the shared library of it, which no program of Slurm has, takes twice as
//! long to load as the plugin itself.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    link_unwinder();
    if let Err(what) = name_release() {
        println!("cargo::error={what}");
    }
}

/// `-lgcc_s` finds the static library of the same functions first. Where the compiler has none, it stays with the shared one.
fn link_unwinder() {
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let compiler = std::env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let named = Command::new(compiler)
        .arg("-print-file-name=libgcc_eh.a")
        .output();
    let library = named
        .ok()
        .and_then(|said| String::from_utf8(said.stdout).ok())
        .map(|name| PathBuf::from(name.trim()))
        .filter(|path| path.is_absolute() && path.is_file());
    let (Some(library), Some(out)) = (library, std::env::var_os("OUT_DIR")) else {
        return;
    };
    let directory = Path::new(&out);
    if std::fs::copy(library, directory.join("libgcc_s.a")).is_ok() {
        println!("cargo::rustc-link-arg-cdylib=-L{}", directory.display());
    }
}

fn name_release() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=SLURM_VERSION");
    let named = std::env::var("SLURM_VERSION")
        .ok()
        .filter(|text| !text.is_empty());
    let ask = |configuration: Option<&Path>| {
        let mut srun = Command::new("srun");
        srun.arg("--version");
        srun.envs(configuration.map(|path| ("SLURM_CONF", path)));
        let text = String::from_utf8(srun.output().ok()?.stdout).ok()?;
        text.split_whitespace().nth(1).map(str::to_string)
    };
    // srun tells its version only where it finds a configuration, which a machine that builds packages lacks.
    let found = || {
        ask(None).or_else(|| {
            let path = Path::new(&std::env::var_os("OUT_DIR")?).join("slurm.conf");
            std::fs::write(&path, "ClusterName=none\nSlurmctldHost=none\n").ok()?;
            ask(Some(&path))
        })
    };
    let version = named.or_else(found).unwrap_or_else(|| "22.05".to_string());
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>());
    let mut part = || parts.next().and_then(Result::ok);
    let (Some(major), Some(minor)) = (part(), part()) else {
        return Err(format!(
            "SLURM_VERSION `{version}` is not MAJOR.MINOR, for example 25.05"
        ));
    };
    // SLURM_VERSION_NUMBER: one byte each of major, minor, micro.
    let number = major << 16 | minor << 8 | part().unwrap_or(0);
    println!("cargo::rustc-env=CARRACK_SLURM_VERSION_NUMBER={number}");
    Ok(())
}
