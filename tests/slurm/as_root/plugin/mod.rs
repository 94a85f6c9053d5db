//! The SPANK plugin on a real Slurm, built as it is installed and loaded through plugstack.conf.

mod bare;
mod closed;
mod kept;
mod options;
mod ranks;
mod root_mode;
mod soak;

use super::cluster::Cluster;
use crate::scene::carrack;

/// A cluster whose commands and nodes load the plugin, with the image `base` in alice's store.
fn with_plugin(nodes: u32, gpus: u32) -> Cluster {
    let cluster = Cluster::up(nodes, gpus);
    install(&cluster);
    plugstack(&cluster, "");
    cluster.tree();
    cluster.good("carrack tag dir:/scratch/root base");
    cluster
}

/// Puts the plugin where the nodes see it, as an administrator should: by rename.
fn install(cluster: &Cluster) {
    let built = carrack().with_file_name("libcarrack_spank.so");
    assert!(
        built.exists(),
        "{} is not there: cargo build -p carrack-spank",
        built.display()
    );
    let new = cluster.path("scratch/bin/new.so");
    std::fs::copy(built, &new).unwrap();
    std::fs::rename(new, cluster.path("scratch/bin/carrack_spank.so")).unwrap();
}

/// Every command and every step reads it anew.
fn plugstack(cluster: &Cluster, arguments: &str) {
    let line = format!(
        "optional /scratch/bin/carrack_spank.so launcher=/scratch/bin/carrack {arguments}\n"
    );
    std::fs::write(cluster.path("etc/slurm/plugstack.conf"), line).unwrap();
}

/// Runs steps in one allocation of all nodes, which is much faster than a job for each: the words of srun and the command
/// as a shell has them, and for each what it said, with its code in the last line.
fn steps(cluster: &Cluster, nodes: u32, lines: &[&str]) -> Vec<String> {
    let tasks = 4 * nodes;
    let mut script = format!(
        "set -o pipefail; job=$(sbatch --parsable -o /dev/null -N{nodes} -n{tasks} --wrap 'sleep 600')\n\
         until [ \"$(squeue -h -j $job -o %T)\" = RUNNING ]; do sleep 0.05; done\n\
         srun() {{ command srun --jobid=$job --overlap \"$@\"; }}\n"
    );
    for line in lines {
        script.push_str(&format!(
            "printf '\\0'; {{ {line}\n}} 2>&1; echo \"code $?\"\n"
        ));
    }
    script.push_str("printf '\\0'; scancel --quiet $job\n");
    let said = cluster.good(&script);
    said.split('\0')
        .skip(1)
        .take(lines.len())
        .map(str::to_string)
        .collect()
}

/// Each line with what it must say.
#[track_caller]
fn check(cluster: &Cluster, nodes: u32, rows: &[(&str, &str)]) {
    let lines: Vec<&str> = rows.iter().map(|(line, _)| *line).collect();
    let wrong: Vec<String> = steps(cluster, nodes, &lines)
        .iter()
        .zip(rows)
        .map(|(said, row)| (without_srun(said), row))
        .filter(|(said, (_, expected))| said != expected)
        .map(|(said, (line, expected))| format!("{line}\nsaid:\n{said}expected:\n{expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// srun's own lines come when they like.
fn without_srun(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.starts_with("srun: "));
    lines.map(|line| format!("{line}\n")).collect()
}
