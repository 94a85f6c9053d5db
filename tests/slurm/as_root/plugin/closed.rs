//! A step that asks for a container runs in it, or not at all, and says on which node and why.

use super::{plugstack, with_plugin};
use crate::need::need;

/// A site's rule that the step breaks.
const RULE: &str = "[profile.hpc]\ndeny = ['bind']\n";

#[test]
fn whatever_is_missing_on_a_node_its_host_runs_nothing() {
    need!(Root, Slurm);
    let cluster = with_plugin(2, 0);
    std::fs::create_dir_all(cluster.path("etc/carrack")).unwrap();
    let on_n2 = |line: &str| {
        let output = cluster.run(&["sh", "n2", "sh", "-c", line]);
        assert!(output.status.success(), "{line}: {output:?}");
    };
    let step = "rm -f ran; srun -N2 --container-image=base --container-mounts=/etc:/opt sh -c 'echo ran on $SLURMD_NODENAME; \
                grep -q 12.99 /etc/debian_version || touch /scratch/alice/ran'; echo code $?; test ! -e ran";
    cluster.write("site.toml", RULE);
    for (name, before, after, expected) in [
        (
            "a rule of that node's alone",
            "mkdir -p /tmp/carrack; cp /scratch/alice/site.toml /tmp/carrack/carrack.toml; \
             mount --bind /tmp/carrack /etc/carrack",
            "umount -l /etc/carrack",
            vec!["denies the option `bind`", "on node n2", "code 2\n"],
        ),
        (
            "no plugin: Slurm itself goes on without the options",
            ": >/tmp/plugstack; mount --bind /tmp/plugstack /etc/slurm/plugstack.conf",
            "umount -l /etc/slurm/plugstack.conf",
            vec![
                "slurmstepd-n2: error: execve(): /the carrack plugin is not loaded on this node, so nothing is executed here:/",
                "code 2\n",
            ],
        ),
        (
            "no launcher",
            "mkdir /tmp/bin; cp /scratch/bin/carrack_spank.so /tmp/bin; mount --bind /tmp/bin /scratch/bin",
            "umount -l /scratch/bin",
            vec![
                "slurmstepd-n2: error: carrack: cannot start the container on this node: `/scratch/bin/carrack`: No such file",
                "code 1\n",
            ],
        ),
        (
            "no image",
            "mount -t tmpfs empty /home/alice/.local/share/carrack",
            "umount -l /home/alice/.local/share/carrack",
            vec!["error: no image `sha256:", "on node n2", "code 125\n"],
        ),
        (
            "an image that cannot be read",
            "cd /home/alice/.local/share/carrack/images; for d in *; do mkdir -p /tmp/shut/$d; cp $d/*.json /tmp/shut/$d; \
             for f in $d/*.sqsh; do touch /tmp/shut/$f; chmod 0 /tmp/shut/$f; done; done; mount --bind /tmp/shut .",
            "umount -l /home/alice/.local/share/carrack/images",
            vec!["on node n2", "code 125\n"],
        ),
        (
            "a file system that is full or cannot be written",
            "mount -o remount,ro /dev/shm; mount --bind /proc/sys /tmp; mount --bind /proc/sys /var/tmp",
            "umount -l /var/tmp; umount -l /tmp; mount -o remount,rw /dev/shm",
            vec!["code"],
        ),
    ] {
        on_n2(before);
        let (code, said) = cluster.login(step);
        on_n2(after);
        assert_eq!(code, 0, "{name}: the host ran it\n{said}");
        for part in expected {
            assert!(said.contains(part), "{name}: no `{part}` in\n{said}");
        }
        if !name.starts_with("a file system") {
            assert!(!said.contains("ran on n2\n"), "{name}\n{said}");
        }
    }
    assert!(cluster.good(step).contains("ran on n2\n"));
    // Slurm makes these words on the nodes, out of srun's reach.
    let program = "* sh -c 'grep -q 12.99 /etc/debian_version || touch /scratch/alice/ran'\n";
    cluster.write("many", program);
    on_n2(": >/tmp/plugstack; mount --bind /tmp/plugstack /etc/slurm/plugstack.conf");
    let (code, said) = cluster.login(
        "rm -f ran; srun -N2 -n2 --container-image=base --multi-prog many; echo code $?; test ! -e ran",
    );
    on_n2("umount -l /etc/slurm/plugstack.conf");
    assert!(
        code == 0
            && said.contains(
                "the carrack plugin is not loaded on node n2, so nothing is executed there"
            ),
        "{said}"
    );
    // The login node's rule is told before the queue.
    std::fs::write(cluster.path("etc/carrack/carrack.toml"), RULE).unwrap();
    let before = cluster.good("squeue -h -t all -o %i | wc -l");
    let (code, said) = cluster.login(step);
    assert!(
        code == 0
            && said.contains("denies the option `bind`")
            && said.contains("nothing was submitted"),
        "{said}"
    );
    assert_eq!(cluster.good("squeue -h -t all -o %i | wc -l"), before);
}

#[test]
fn mistakes_are_told_before_the_queue() {
    need!(Root, Slurm);
    let cluster = with_plugin(1, 0);
    cluster.write("job.sh", "#!/bin/bash\nsrun true\n");
    cluster.write("bad.toml", "image = \n");
    let refused = |line: &str, expected: &str| {
        let (code, said) = cluster.login(line);
        assert!(
            code != 0 && said.contains(expected),
            "{line}: {code}\n{said}"
        );
        assert_eq!(
            cluster.good("squeue -h; squeue -h -t all -o %i"),
            "",
            "{line}"
        );
    };
    for program in ["srun", "sbatch job.sh", "salloc"] {
        let (program, script) = program.split_once(' ').unwrap_or((program, "true"));
        for (options, expected) in [
            (
                "--container-mounts=/a",
                "`--container-mounts` needs `--container-image` or `--environment`",
            ),
            (
                "--container-image=base --container-unshare=pid",
                "cannot unshare `pid`",
            ),
            (
                "--container-image=base --container-writable --container-readonly",
                "contradict each other",
            ),
            ("--container-image=oci:nosuch", "nosuch"),
            ("--environment=./bad.toml", "bad.toml"),
            ("--environment=./none.toml", "none.toml"),
            (
                "--container-image=base --container-imagine=x",
                "unrecognized option",
            ),
        ] {
            refused(&format!("{program} {options} {script}"), expected);
        }
    }
    refused(
        "CARRACK_CONTAINER_WRITABLE=maybe srun --container-image=base true",
        "CARRACK_CONTAINER_WRITABLE",
    );
    refused("CARRACK_CONTAINER_IMAGE=oci:nosuch sbatch job.sh", "nosuch");
    for (arguments, expected) in [
        ("launcher=/nowhere", "cannot run `/nowhere`"),
        ("launcher=relative", "is not an absolute path"),
        ("lancher=/x", "`lancher=/x` in plugstack.conf is not known"),
    ] {
        plugstack(&cluster, arguments);
        refused("srun --container-image=base true", expected);
    }
}
