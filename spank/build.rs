//! Decides for which Slurm release this build is: `SLURM_VERSION=25.05` (or `25.05.3`), else the `srun` found here, else
//! 22.05. Slurm loads a plugin only when major and minor equal its own; the micro version is free.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=SLURM_VERSION");
    let named = std::env::var("SLURM_VERSION")
        .ok()
        .filter(|text| !text.is_empty());
    let found = || {
        let output = Command::new("srun").arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.split_whitespace().nth(1).map(str::to_string)
    };
    let version = named.or_else(found).unwrap_or_else(|| "22.05".to_string());
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>());
    let mut part = || parts.next().and_then(Result::ok);
    let (Some(major), Some(minor)) = (part(), part()) else {
        println!("cargo::error=SLURM_VERSION `{version}` is not MAJOR.MINOR, for example 25.05");
        return;
    };
    // SLURM_VERSION_NUMBER: one byte each of major, minor, micro.
    let number = major << 16 | minor << 8 | part().unwrap_or(0);
    println!("cargo::rustc-env=CARRACK_SLURM_VERSION_NUMBER={number}");
}
