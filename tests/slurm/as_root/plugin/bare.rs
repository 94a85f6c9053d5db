//! A step in a container is like the same step without: what Slurm sets, what it passes on, what comes back.

use super::{check, steps, with_plugin};
use crate::need::need;

#[test]
fn everything_that_slurm_gives_a_task_is_as_in_a_bare_step() {
    need!(Root, Slurm);
    let cluster = with_plugin(2, 0);
    let box_of = |words: &str| format!("srun CONTAINER {words}");
    let lines: Vec<String> = [
        "-l -N2 -n4 busybox sh -c 'echo out $SLURM_PROCID; echo err $SLURM_PROCID >&2' 2>&1 | sort",
        "-n1 busybox true",
        "-n1 busybox sh -c 'exit 7'",
        "-n2 busybox sh -c 'exit $SLURM_PROCID'",
        "-n1 busybox sh -c 'kill -KILL $$'",
        "-n1 busybox sh -c 'kill -TERM $$'",
        "-n1 busybox sh -c 'kill -SEGV $$'",
        "-n1 busybox sh -c umask",
        "-n1 busybox sh -c 'ulimit -a; ulimit -H -a'",
        "-n1 --propagate=NOFILE busybox sh -c 'ulimit -n'",
        "-n1 busybox pwd",
        "-n1 -D /tmp busybox pwd",
        "-n1 busybox sh -c 'id -u; id -g'",
        "-n4 -c1 --cpu-bind=map_cpu:0,1,0,1 busybox sh -c 'grep Cpus_allowed_list /proc/self/status' | sort",
        "-n1 busybox sh -c 'grep -E ^Sig[BIC] /proc/self/status'",
        "-n1 busybox cat </etc/hostname",
        "-n2 -i1 busybox cat </etc/hostname",
        "-n1 busybox sh -c 'for f in 0 1 2 3 4 5; do test -e /proc/self/fd/$f && echo $f; done'",
        "-n1 --export=A=1 /bin/busybox sh -c 'echo $A$B'",
        "-n1 --unbuffered busybox sh -c 'echo $0 \"$@\"' zero 'a b' '' '$x'",
        "-n1 -o /scratch/alice/out-%N-%t busybox echo file && cat out-n1-0",
        "-n1 -t0:05 busybox sh -c 'echo $SLURM_STEP_ID | grep -c .'",
        "-n1 --kill-on-bad-exit=1 -n2 busybox sh -c 'test $SLURM_PROCID = 0 && exit 3; sleep 60' 2>&1 | grep -v -e STEP -e 'Terminated' -e 'Killed'",
    ]
    .iter()
    .map(|words| box_of(words))
    .collect();
    let told = |container: &str| {
        let lines: Vec<String> = lines
            .iter()
            .map(|line| line.replace("CONTAINER", container))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let said = steps(&cluster, 2, &lines);
        let step = |said: String| match said.split_once("StepId=") {
            Some((before, after)) => {
                let after = after.split_once('.').map_or(after, |(_, step)| step);
                format!("{before}StepId={after}")
            }
            None => said,
        };
        // Slurm chooses the node.
        let sorted = |said: String| {
            let mut lines: Vec<&str> = said.lines().collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        said.into_iter()
            .map(step)
            .map(|said| said.replace("error: n2:", "error: n1:"))
            .map(sorted)
            .collect::<Vec<_>>()
    };
    let (bare, inside) = (told(""), told("--container-image=base"));
    for ((line, bare), inside) in lines.iter().zip(&bare).zip(&inside) {
        assert_eq!(inside, bare, "{line}");
    }
    // The comparison would be empty if the steps said nothing.
    assert!(
        bare.first().is_some_and(|said| said.contains("3: err 3")),
        "{bare:?}"
    );
}

#[test]
fn prologs_stay_on_the_host_and_terminals_come_along() {
    need!(Root, Slurm);
    let cluster = with_plugin(1, 2);
    for (name, line) in [("prolog", "echo export BY_PROLOG=yes; "), ("epilog", "")] {
        cluster.write(name, &format!("#!/bin/bash\n{line}test -e /etc/debian_version && head -c3 /etc/debian_version >/scratch/alice/{name}-saw\n"));
    }
    cluster.good("chmod +x prolog epilog");
    let host = std::fs::read_to_string("/etc/debian_version").unwrap();
    check(
        &cluster,
        1,
        &[
            (
                "srun -n1 --task-prolog=/scratch/alice/prolog --task-epilog=/scratch/alice/epilog --container-image=base sh -c 'echo $BY_PROLOG; cat /etc/debian_version'",
                "yes\n12.99\ncode 0\n",
            ),
            (
                "script -qec \"srun --jobid=$job --overlap -n1 --pty --container-image=base busybox tty\" /dev/null </dev/null | grep -c pts",
                "1\ncode 0\n",
            ),
        ],
    );
    for name in ["prolog", "epilog"] {
        assert_eq!(cluster.read(&format!("{name}-saw")), host[..3], "{name}");
    }
}
