//! Tasks of a step that need each other, or a device of their own, in one container.

use super::super::mpi::{FIXTURES, all_right, ranks};
use super::{check, with_plugin};
use crate::need::need;
use std::process::Command;

#[test]
fn each_task_sees_its_gpu_in_the_capsule_that_all_share() {
    need!(Root, Slurm);
    let cluster = with_plugin(2, 2);
    // No driver stands behind the nodes: one that may be opened says so with ENXIO, all others with EPERM.
    let look = "sh -c 'o=; for g in /dev/nvidia0 /dev/nvidia1; do test -e $g || continue; case $(cat $g 2>&1) in *such*) o=\"$o $g\";; esac; done; \
                echo $SLURM_PROCID$o >>/scratch/alice/seen; readlink /proc/self/ns/user >>/scratch/alice/capsule'";
    for (options, seen, capsules) in [
        (
            "-N1 -n2 --gpus-per-task=1",
            "0 /dev/nvidia0\n1 /dev/nvidia1\n",
            "1\n",
        ),
        (
            "-N2 --ntasks-per-node=2 --gpus-per-task=1",
            "0 /dev/nvidia0\n1 /dev/nvidia1\n2 /dev/nvidia0\n3 /dev/nvidia1\n",
            "2\n",
        ),
        (
            "-N1 -n2 --gres=gpu:1",
            "0 /dev/nvidia0\n1 /dev/nvidia0\n",
            "1\n",
        ),
        ("-N1 -n1", "0\n", "1\n"),
    ] {
        cluster.good(&format!(
            "rm -f seen capsule; srun --quiet {options} --container-image=base {look}"
        ));
        assert_eq!(cluster.good("sort seen"), seen, "{options}");
        assert_eq!(
            cluster.good("sort -u capsule | wc -l"),
            capsules,
            "{options}"
        );
    }
}

#[test]
fn ranks_find_each_other_through_both_process_managers() {
    need!(Root, Slurm, OpenMpi);
    let cluster = with_plugin(2, 0);
    let tree = cluster.path("scratch/mpi");
    let made = Command::new(format!("{FIXTURES}/mpi-tree"))
        .arg(&tree)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    cluster.good("carrack pull -q dir:/scratch/mpi; carrack tag dir:/scratch/mpi mpi");
    let said = ranks(
        &cluster,
        "srun --quiet --mpi=pmix -N2 --ntasks-per-node=2 --container-image=mpi allreduce",
    );
    all_right(&said, 4, "memory read");
    check(
        &cluster,
        2,
        &[(
            "srun --mpi=pmi2 -N2 --ntasks-per-node=2 --container-image=mpi pmi2 | sort",
            PMI2,
        )],
    );
}

const PMI2: &str =
    "rank 0 of 4: right\nrank 1 of 4: right\nrank 2 of 4: right\nrank 3 of 4: right\ncode 0\n";
