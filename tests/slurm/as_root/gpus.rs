//! Inside an image a task sees the GPUs that Slurm gave it: no others are listed, and each of them opens.

use super::cluster::Cluster;
use crate::need::need;

/// No driver stands behind the nodes: one that may be opened says so with ENXIO, all others with EPERM.
const LOOK: &str = "cd /dev; for gpu in $(ls | grep 'nvidia[0-9]'); do case $(cat $gpu 2>&1) in \
                    *'No such device'*) set -- $* ${gpu#nvidia};; *) set -- $* $gpu-is-closed;; esac; done; \
                    echo $SLURM_PROCID: $*";

/// What each task of a step saw, in the tasks' order, without their numbers.
fn seen(cluster: &Cluster, options: &str) -> Vec<String> {
    cluster.write("look.sh", LOOK);
    let said = cluster.good(&format!(
        "srun --quiet {options} carrack exec dir:/scratch/root sh look.sh"
    ));
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort();
    let without_number = |line: &&str| line.split_once(':').unwrap().1.trim().to_string();
    lines.iter().map(without_number).collect()
}

#[test]
fn a_step_sees_exactly_its_gpus() {
    need!(Root, Slurm);
    let cluster = Cluster::up(2, 2);
    cluster.tree();
    let rows: [(&str, &[&str]); 9] = [
        ("-n1", &[""]),
        ("-n1 --exclusive", &[""]),
        ("-n1 --gres=gpu:1", &["0"]),
        ("-n1 --exclusive --gres=gpu:2", &["0 1"]),
        ("-N2 --gpus-per-node=2", &["0 1", "0 1"]),
        (
            "-N2 --ntasks-per-node=2 --gpus-per-task=1",
            &["0", "1", "0", "1"],
        ),
        ("-N1 -n2 --gpus=2 --gpu-bind=map_gpu:1,0", &["1", "0"]),
        ("-N1 -n2 --gpus-per-task=1 --gpu-bind=none", &["0 1", "0 1"]),
        ("-N1 -n2 --gpus=2 --gpu-bind=single:1", &["0", "1"]),
    ];
    for (options, expected) in rows {
        assert_eq!(seen(&cluster, options), expected, "{options}");
    }
    // The first of two jobs has GPU 0, so that the second one's is called 1 by the node and 0 by CUDA.
    cluster.good("sbatch --quiet --gres=gpu:1 -w n1 --wrap 'sleep 600'; until [ -n \"$(squeue -h -t R)\" ]; do sleep 0.1; done");
    assert_eq!(seen(&cluster, "-n1 -w n1 --gres=gpu:1"), ["1"]);
    // A step without GPUs in a job that has some.
    cluster.write("job.sh", "#!/bin/bash\n#SBATCH -w n2 --gres=gpu:2 -o out\nsrun --quiet --gres=none carrack exec dir:/scratch/root sh look.sh\nSLURM_PROCID=batch carrack exec dir:/scratch/root sh look.sh\n");
    cluster.good("sbatch --quiet --wait job.sh");
    assert_eq!(cluster.read("out"), "0:\nbatch: 0 1\n");
}

#[test]
fn where_slurm_limits_no_devices_its_variables_count() {
    need!(Root, Slurm);
    let cluster = Cluster::up_by(&["2", "2"], &[("CARRACK_CLUSTER_CGROUP", "none")]);
    cluster.tree();
    let rows: [(&str, &[&str]); 5] = [
        ("-n1", &[""]),
        ("-n1 --gres=gpu:1", &["0"]),
        ("-N2 --gpus-per-node=2", &["0 1", "0 1"]),
        ("-N1 -n2 --gpus-per-task=1", &["0", "1"]),
        ("-N1 -n2 --gpus-per-task=1 --gpu-bind=none", &["0 1", "0 1"]),
    ];
    for (options, expected) in rows {
        assert_eq!(seen(&cluster, options), expected, "{options}");
    }
}
