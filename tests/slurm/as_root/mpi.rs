//! Open MPI and PMI2 through every launcher, in an image that came from a registry.

use super::cluster::Cluster;
use crate::image::layout::{Layout, architecture, sha256};
use crate::need::need;
use crate::registry::{Manners, Registry};
use serde_json::json;
use std::path::Path;
use std::process::Command;

pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm");

/// Runs a program of `tests/slurm` that makes a tree.
#[track_caller]
pub fn fixture(program: &str, tree: &Path) {
    let made = Command::new(format!("{FIXTURES}/{program}"))
        .arg(tree)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// A tree as the only layer of an image in a registry, and its reference.
pub fn image_of(tree: &Path, registry: &Registry, layout: &Path, name: &str) -> String {
    let tar = Command::new("tar")
        .args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "-c",
            ".",
        ])
        .current_dir(tree)
        .output()
        .unwrap();
    assert!(tar.status.success(), "{tar:?}");
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["allreduce"] },
        "rootfs": { "type": "layers", "diff_ids": [sha256(&tar.stdout)] },
    });
    let kind = "application/vnd.oci.image.layer.v1.tar".to_string();
    let layers = vec![(tar.stdout, kind)];
    Layout { layers, config }.write(layout);
    registry.push(layout, name, "v1");
    format!("docker://{}/{name}:v1", registry.host())
}

/// How often to repeat what a race could spoil.
fn rounds(usual: u32) -> u32 {
    let wanted = std::env::var("CARRACK_TEST_ROUNDS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Each of `ranks` said once that its sum is right; `memory` is what it said of its neighbour's.
#[track_caller]
pub fn all_right(said: &str, ranks: usize, memory: &str) {
    for rank in 0..ranks {
        let begin = format!("rank {rank} of {ranks} on ");
        let mut lines = said.lines().filter(|line| line.starts_with(&begin));
        let line = lines.next().unwrap_or_default();
        let good = line.contains(": right, ") && (memory.is_empty() || line.ends_with(memory));
        assert!(good && lines.next().is_none(), "rank {rank}:\n{said}");
    }
}

/// Open MPI 4.1 jumps to address 0 in `MPI_Init` about once in a hundred starts of several ranks on nodes that have no
/// core to spare, on bare nodes as well; then it says this.
const FAULT_OF_OPEN_MPI: [&str; 2] = ["Segmentation fault", "Failing at address: (nil)"];

/// What a line that starts ranks says. It has a second attempt where Open MPI's own fault ended the first one.
#[track_caller]
pub fn ranks(cluster: &Cluster, line: &str) -> String {
    let (code, said) = cluster.login(line);
    if code != 0 && FAULT_OF_OPEN_MPI.iter().all(|part| said.contains(part)) {
        eprintln!("Open MPI did not start, once more:\n{said}");
        return cluster.good(line);
    }
    assert_eq!(code, 0, "{line}\n{said}\n{}", cluster.logs());
    said
}

/// What the ranks of a job file say, whether or not they all lived.
fn job_of(name: &str) -> String {
    format!(
        "carrack submit --quiet {name}.toml && carrack wait {name}; code=$?; carrack logs {name}; exit $code"
    )
}

#[test]
fn ranks_of_all_nodes_find_each_other() {
    need!(Root, Slurm, OpenMpi, Registry);
    let cluster = Cluster::up(3, 0);
    let tree = cluster.path("scratch/mpi");
    fixture("mpi-tree", &tree);
    let registry = Registry::start(&cluster.path(""), Manners::default());
    let image = image_of(&tree, &registry, &cluster.path("layout"), "demo/mpi");
    let example =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mpi.toml")).unwrap();
    let example = example.replace("docker://registry.example.eu/demo/mpi:v1", &image);
    assert!(example.contains(&image));
    cluster.write("mpi.toml", &example);

    // The first submission pulls; from then on nobody asks the registry for anything.
    all_right(&ranks(&cluster, &job_of("mpi")), 6, "memory read");
    let pulled = registry.requests(&["GET", "/blobs/"]);
    assert_eq!(pulled, 2, "one layer and one configuration");
    let requests = registry.requests(&[]);
    for _ in 0..rounds(2) {
        let line = format!(
            "srun --quiet -N3 --ntasks-per-node=2 --mpi=pmix carrack exec {image} allreduce"
        );
        let said = ranks(&cluster, &line);
        all_right(&said, 6, "memory read");
        assert_eq!(said.lines().count(), 6, "{said}");
    }
    // Nodes with two ranks and with one.
    let line = format!("srun --quiet -n5 -N3 --mpi=pmix carrack exec {image} allreduce");
    all_right(&ranks(&cluster, &line), 5, "");

    // Two jobs on the same nodes at once: the first waits inside for the file that the second makes.
    let two = format!(
        "rm -f go; \
         srun --quiet -N3 --ntasks-per-node=2 --mem=50 --mpi=pmix carrack exec {image} allreduce wait go >one 2>&1 & \
         until [ $(squeue -h -t R | wc -l) = 1 ] || ! kill -0 $!; do sleep 0.1; done; \
         srun --quiet -N3 --ntasks-per-node=2 --mem=50 --mpi=pmix carrack exec {image} allreduce >two 2>&1; code=$?; touch go; wait $! || code=$?; cat one; echo; cat two; exit $code"
    );
    let said = ranks(&cluster, &two);
    let (one, two) = said.split_once("\n\n").unwrap_or((&said, ""));
    all_right(one, 6, "memory read");
    all_right(two, 6, "memory read");

    // PMI2, for those who speak nothing else.
    for _ in 0..rounds(1) {
        let said = cluster.good(&format!(
            "srun --quiet -N3 --ntasks-per-node=2 --mpi=pmi2 carrack exec {image} pmi2"
        ));
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort();
        let expected: Vec<String> = (0..6)
            .map(|rank| format!("rank {rank} of 6: right"))
            .collect();
        assert_eq!(lines, expected);
    }

    // mpirun inside the image, on one node; then the host's mpirun, with `carrack exec` as its command.
    let job = |name: &str, options: &str, step: &str| {
        let text = format!(
            "[job]\nname = '{name}'\n{options}\n[container]\nimage = '{image}'\n[[step]]\n{step}\n"
        );
        cluster.write(&format!("{name}.toml"), &text);
        ranks(&cluster, &job_of(name))
    };
    let inside = "launcher = 'none'\ncommand = ['mpirun', '-n', '4', 'allreduce']";
    all_right(
        &job("inside", "nodes = 1\nntasks = 4", inside),
        4,
        "memory read",
    );
    let outside = "launcher = 'mpirun'\ncommand = ['allreduce']";
    let said = job("outside", "nodes = 3\nntasks-per-node = 2", outside);
    all_right(&said, 6, "memory read");

    assert_eq!(
        registry.requests(&[]),
        requests,
        "a compute node asked the registry"
    );

    // What cannot work is said at the desk.
    let wrong = example.replace("mpi = \"pmix\"", "mpi = \"pmi2\"");
    cluster.write("wrong.toml", &wrong);
    let (code, said) = cluster.login("carrack submit wrong.toml");
    assert!(
        code == 2
            && said.contains("in the image does not speak")
            && said.contains("write `mpi = \"pmix\"`"),
        "{said}"
    );
    // Who goes on nevertheless reads at the end of the log what it means.
    let (code, said) = cluster
        .login("carrack submit --force --quiet wrong.toml; carrack wait mpi; carrack logs mpi");
    assert!(
        code == 0
            && said.contains("OMPI was not built with SLURM's PMI support")
            && said.contains("\ncarrack: the image's Open MPI was started by srun with an interface that it does not speak: "),
        "{code} {said}"
    );
    let alone = "mpi = 'none'\ncommand = ['mpirun', '-n', '1', 'allreduce']";
    let text = format!(
        "[job]\nname = 'alone'\nntasks = 4\nnodes = 1\n[container]\nimage = '{image}'\n[[step]]\n{alone}\n"
    );
    cluster.write("alone.toml", &text);
    let said = cluster
        .good("carrack submit --force --quiet alone.toml; carrack wait alone; carrack logs alone");
    for line in [
        "carrack: warning: srun offers its 4 tasks no interface for MPI, each rank of openmpi ",
        "rank 0 of 1 on n",
        "carrack: 4 tasks each ran as rank 0 of 1: ",
    ] {
        assert!(said.contains(&format!("\n{line}")), "{line}\n{said}");
    }
}
