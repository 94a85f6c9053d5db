//! Roots that have a name, and roots that are saved.

use super::{with_plugin, without_srun};
use crate::need::need;

#[test]
fn a_name_keeps_a_root_for_the_job_and_save_makes_an_image_of_it() {
    need!(Root, Slurm);
    let cluster = with_plugin(2, 0);
    // slurmd looks only when it starts whether a plugin has an epilog.
    assert!(cluster.run(&["restart"]).status.success());
    cluster.write(
        "job.sh",
        "#!/bin/bash\n#SBATCH -o job.out -N2 --container-image=base --container-name=box\n\
         exec 2>&1\n\
         srun -N2 sh -c 'echo $SLURMD_NODENAME >>/etc/mine; rm /etc/debian_version; chmod 0 /etc/os-release'\n\
         echo written\n\
         srun -l -N2 sh -c 'echo $(cat /etc/mine; ls /etc/debian_version 2>&1)' | sort\n\
         echo other options, not writable\n\
         srun -N1 --container-readonly sh -c 'cat /etc/mine; : >/etc/x' 2>&1 | grep -v ^srun\n\
         echo another root\n\
         srun -N1 --container-name=other ls /etc/mine /etc/debian_version 2>&1 | grep -v ^srun | sort -r\n\
         echo another image\n\
         srun -N1 --container-image=dir:/scratch/root true 2>&1 | grep -v ^srun\n\
         srun -N2 --container-save=saved.sqsh true && echo saved\n\
         srun -N1 --container-save=/nowhere/x.sqsh true 2>&1 | grep -v ^srun\n\
         unset ${!SLURM_SPANK_*} ${!_SLURM_SPANK_*}\n\
         srun -l -N2 --container-image=./saved.sqsh sh -c 'echo $(cat /etc/mine)' | sort\n",
    );
    cluster.good("sbatch --wait --quiet job.sh >/dev/null");
    let said = without_srun(&cluster.read("job.out"));
    let expected = "written\n\
        0: n1 ls: /etc/debian_version: No such file or directory\n\
        1: n2 ls: /etc/debian_version: No such file or directory\n\
        other options, not writable\nn1\nsh: can't create /etc/x: Read-only file system\n\
        another root\nls: /etc/mine: No such file or directory\n/etc/debian_version\n\
        another image\nerror: the root `box` of this job lies over another image\n";
    assert!(said.starts_with(expected), "{said}");
    let rest: Vec<&str> = said[expected.len()..]
        .lines()
        .filter(|line| !line.starts_with(' '))
        .collect();
    assert_eq!(rest[0], "saved", "{said}");
    assert!(
        rest[1].contains("cannot save the root as `/nowhere/x.sqsh`"),
        "{said}"
    );
    assert_eq!(rest[2..], ["0: n1", "1: n1"], "{said}");
    // What the image says of itself is still there, and its bytes are pinned.
    let shown = cluster.good("carrack inspect ./saved.sqsh");
    assert!(
        shown.contains("integrity    blake3-pages:") && shown.contains("saved by carrack"),
        "{shown}"
    );
    assert_eq!(cluster.good("ls -a | grep carrack-save; true"), "");
    // A step that names a root which no step has made.
    let (code, said) = cluster.login("srun --container-name=box true");
    assert!(
        code != 0 && said.contains("this job has no root `box` on this node"),
        "{said}"
    );
    // The job has ended: nothing of it is on the nodes.
    let left = "while [ -n \"$(squeue -h -t all -o %T | grep -v -e COMPLETED -e FAILED)\" ]; do sleep 0.1; done; \
                srun -N2 find /run/carrack -mindepth 1";
    assert_eq!(cluster.good(left), "");

    // Two steps at once: the second would lose the image when the first ends, so it does not even begin.
    cluster.write(
        "both.sh",
        "#!/bin/bash\n#SBATCH -o both.out -N1 -n4 --container-image=base --container-name=both\n\
         exec 2>&1\n\
         srun -n1 --overlap sh -c ': >/etc/mine; touch /scratch/alice/in; sleep 60' & \n\
         until [ -e in ]; do sleep 0.05; done\n\
         srun -n1 --overlap ls /etc/mine | grep -v -e ^srun -e ^slurmstepd\n\
         srun -n1 --overlap --container-name=own echo own\n\
         scancel -s KILL $SLURM_JOB_ID.0; wait\n\
         srun -n1 --overlap ls /etc/mine\n",
    );
    cluster.good("sbatch --wait --quiet both.sh >/dev/null");
    let said = cluster.read("both.out");
    let said: Vec<&str> = said
        .lines()
        .filter(|line| {
            !["srun", "slurmstepd", "error"]
                .iter()
                .any(|word| line.starts_with(word))
        })
        .collect();
    assert_eq!(
        said,
        [
            "  cause: the root `both` is in use by another step of this job",
            "  cause: step 0 still runs in it, and Slurm would take it away at that step's end",
            "  hint:  let one step end before the next begins, or give each a name of its own",
            "own",
            "/etc/mine"
        ]
    );

    // What jobs have left whose epilog never ran, goes with the next one's; the controller still knows job 1.
    let on_n1 = |line: &str| cluster.run(&["sh", "n1", "bash", "-ec", line]);
    let made = on_n1(
        "cd /run/carrack; mkdir -p 1/box 999999/box/upper 999999/m other; mount -t tmpfs m 999999/m; touch 999999/m/file",
    );
    assert!(made.status.success(), "{made:?}");
    cluster.good("srun -N2 true");
    let ended = "while [ -n \"$(squeue -h -t all -o %T | grep -v -e COMPLETED -e FAILED)\" ]; do sleep 0.1; done";
    cluster.good(ended);
    let left = on_n1("ls /run/carrack");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "1\nother\n");
}
