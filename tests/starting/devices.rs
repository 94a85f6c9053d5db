//! `/dev` inside: everything of the host but the GPUs that were not given.

use super::*;
use crate::need::need;

/// A node with two GPUs of NVIDIA and one render node. The kernel lets a plain user make no device, so each stands for
/// itself by a mount of `/dev/null`.
const NODE: &str = "
    mkdir $TMPDIR/dev; cd $TMPDIR/dev
    for name in null zero full urandom tty fuse nvidia0 nvidia1 nvidiactl nvidia-uvm; do
        : > $name; from=/dev/$name; [ -e $from ] || from=/dev/null; mount --bind $from $name
    done
    mkdir shm pts infiniband; mount --rbind /dev/shm shm; mount --rbind /dev/pts pts
    : > infiniband/uverbs0; mount --bind /dev/null infiniband/uverbs0
    ln -s /proc/self/fd fd
    mount --rbind . /dev; cd /
    list() { \"$CARRACK\" exec \"$@\" box sh -c 'cd /dev; echo $(ls -d nv*) ${CUDA_VISIBLE_DEVICES-unset}'; }
    export SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURMD_NODENAME=n1 SLURM_PROCID=0 SLURM_LOCALID=0
";

#[test]
fn exactly_the_gpus_that_were_given() {
    need!(Userns, Fuse);
    let scene = scene();
    let script = [
        NODE,
        "list 2>/dev/null
         SLURM_STEP_GPUS=0,1 CUDA_VISIBLE_DEVICES=0,1 list
         SLURM_STEP_GPUS=1 CUDA_VISIBLE_DEVICES=1 list
         SLURM_STEP_GPUS=1 CUDA_VISIBLE_DEVICES=1 SLURMD_TRES_BIND=gpu:per_task:1 list
         SLURM_STEP_GPUS=1 CUDA_VISIBLE_DEVICES=1 list --dev minimal
         SLURM_STEP_GPUS=1 list --gpu all
         SLURM_STEP_GPUS=1 list --gpu none 2>/dev/null
         SLURM_STEP_GPUS=1 list --device /dev/nvidia0
         unset SLURM_JOB_ID SLURM_STEP_ID; CUDA_VISIBLE_DEVICES=1 list",
    ]
    .concat();
    on_a_node(&scene, &script).is(
        0,
        "unset\n\
         nvidia-uvm nvidia0 nvidia1 nvidiactl 0,1\n\
         nvidia-uvm nvidia1 nvidiactl 0\n\
         nvidia-uvm nvidia1 nvidiactl 0\n\
         nvidia-uvm nvidia1 nvidiactl 0\n\
         nvidia-uvm nvidia0 nvidia1 nvidiactl unset\n\
         unset\n\
         nvidia-uvm nvidia0 nvidia1 nvidiactl unset\n\
         nvidia-uvm nvidia0 nvidia1 nvidiactl 1\n",
        "",
    );
}

/// Leaving out GPUs must not cost anything else of `/dev`.
#[test]
fn the_rest_of_dev_is_the_hosts() {
    need!(Userns, Fuse);
    let scene = scene();
    let script = [
        NODE,
        "SLURM_STEP_GPUS=1 \"$CARRACK\" exec box sh -c '
            ls -d /dev/nvidia0 2>&1
            ls /dev/infiniband /dev/fd/0; readlink /dev/fd; echo lost > /dev/null
            head -c 3 /dev/zero | wc -c; ls -d /dev/fuse /dev/full /dev/urandom /dev/tty
            : > /dev/shm/carrack-test-$$ && rm /dev/shm/carrack-test-$$
            touch /dev/new 2>&1; echo $?; stat -c %a /dev'",
    ]
    .concat();
    on_a_node(&scene, &script).is(
        0,
        "ls: /dev/nvidia0: No such file or directory\n\
         /dev/fd/0\n\n/dev/infiniband:\nuverbs0\n/proc/self/fd\n3\n\
         /dev/full\n/dev/fuse\n/dev/tty\n/dev/urandom\n\
         touch: /dev/new: Read-only file system\n1\n755\n",
        "",
    );
}

/// Tasks with GPUs of their own share one capsule all the same: they can read each other's memory.
#[test]
fn gpus_per_task_in_one_capsule() {
    need!(Userns, Fuse);
    let scene = scene();
    let script = [
        NODE,
        "export SLURM_JOB_ID=$$ SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2
         for rank in 0 1; do
             SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_STEP_GPUS=$rank CUDA_VISIBLE_DEVICES=$rank \\
             SLURMD_TRES_BIND=gpu:per_task:1 \"$CARRACK\" exec box sh -c '
                 echo $(ls -d /dev/nvidia[0-9]) $CUDA_VISIBLE_DEVICES; readlink /proc/self/ns/user >&2' &
         done; wait",
    ]
    .concat();
    let outcome = on_a_node(&scene, &script);
    let mut seen: Vec<&str> = outcome.out.lines().collect();
    seen.sort_unstable();
    assert_eq!(seen, ["/dev/nvidia0 0", "/dev/nvidia1 0"], "{outcome}");
    let mut capsules: Vec<&str> = outcome.err.lines().collect();
    capsules.dedup();
    assert_eq!(capsules.len(), 1, "{outcome}");
}
