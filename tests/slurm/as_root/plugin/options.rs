//! What each option does, through each of its doors.

use super::{check, plugstack, with_plugin};
use crate::need::need;

const EDF: &str =
    "image = 'base'\nmounts = ['/scratch/root:/edf']\nworkdir = '/etc'\n[env]\nFROM = 'edf'\n";

#[test]
fn every_option_of_srun() {
    need!(Root, Slurm);
    let cluster = with_plugin(2, 0);
    cluster.write("ml.toml", EDF);
    cluster.write("data/file", "data\n");
    cluster.write(
        "many",
        "# programs\n0 cat \\\n/etc/debian_version\n1   'echo' task %t\n",
    );
    let in_base = |rest: &str| format!("srun -n1 --container-image=base {rest}");
    let rows = [
        (in_base("cat /etc/debian_version"), "12.99\ncode 0\n"),
        (
            in_base("--container-mounts=/scratch/alice/data:/mnt cat /mnt/file"),
            "data\ncode 0\n",
        ),
        (
            in_base("--container-mounts=/scratch/alice/data:/mnt:ro,/scratch/alice/data:/opt sh -c 'echo $(ls /mnt /opt); : >/mnt/x'"),
            "/mnt: file /opt: file\nsh: can't create /mnt/x: Read-only file system\ncode 1\n",
        ),
        (in_base("--container-workdir=/usr pwd"), "/usr\ncode 0\n"),
        (in_base("--container-writable sh -c 'echo x >/etc/new && cat /etc/new'"), "x\ncode 0\n"),
        (
            in_base("--container-readonly touch /etc/new"),
            "touch: /etc/new: Read-only file system\ncode 1\n",
        ),
        (in_base("--container-remap-root id -u"), "0\ncode 0\n"),
        (in_base("--no-container-remap-root id -u"), "4101\ncode 0\n"),
        (in_base("--container-mount-home ls /home"), "alice\ncode 0\n"),
        (in_base("--no-container-mount-home ls /home"), "code 0\n"),
        (
            in_base("--container-unshare=net cat /proc/net/dev | awk 'NR > 2 { print $1 }'"),
            "lo:\ncode 0\n",
        ),
        (
            format!("A=1 B=2 {}", in_base("--container-env=A=3,C=4 sh -c 'echo $A $B $C'")),
            "3 2 4\ncode 0\n",
        ),
        (in_base("--no-container-entrypoint echo plain"), "plain\ncode 0\n"),
        (in_base("--container-entrypoint --container-entrypoint-log echo plain"), "plain\ncode 0\n"),
        // All at once, on all nodes.
        (
            "srun -N2 -l --container-image=base --container-mounts=/scratch/alice/data:/mnt --container-workdir=/mnt \
             --container-writable --container-remap-root --no-container-mount-home --container-env=A=1 \
             sh -c 'echo $(id -u) $(pwd) $(ls) $A $(ls /home | grep -c x); : >/x' | sort".into(),
            "0: 0 /mnt file 1 0\n1: 0 /mnt file 1 0\ncode 0\n",
        ),
        // An environment file; a variable beats it, an option beats that.
        (
            "srun -n1 --environment=./ml.toml sh -c 'echo $FROM $(pwd) $(ls -d /edf)'".into(),
            "edf /etc /edf\ncode 0\n",
        ),
        (
            "CARRACK_CONTAINER_WORKDIR=/usr srun -n1 --environment=./ml.toml pwd".into(),
            "/usr\ncode 0\n",
        ),
        (
            "CARRACK_CONTAINER_WORKDIR=/usr srun -n1 --environment=./ml.toml --container-workdir=/bin pwd".into(),
            "/bin\ncode 0\n",
        ),
        (
            "CARRACK_CONTAINER_ENVIRONMENT=./ml.toml CARRACK_CONTAINER_MOUNT_HOME=no srun -n1 sh -c 'echo $FROM $(ls /home)'".into(),
            "edf\ncode 0\n",
        ),
        // Which nodes; and a path to an image.
        (
            "srun -N2 --container-image=$(ls ~/.local/share/carrack/images/*/*.sqsh | tail -1) cat /etc/debian_version".into(),
            "12.99\n12.99\ncode 0\n",
        ),
        // Each task its own program.
        (
            "srun -N1 -n2 -l --container-image=base --multi-prog many | sort".into(),
            "0: 12.99\n1: task 1\ncode 0\n",
        ),
        // No option: no container.
        ("srun -n1 test -e /scratch/bin".into(), "code 0\n"),
    ];
    let rows: Vec<(&str, &str)> = rows
        .iter()
        .map(|(line, said)| (line.as_str(), *said))
        .collect();
    check(&cluster, 2, &rows);
}

#[test]
fn options_of_a_job_reach_its_steps() {
    need!(Root, Slurm);
    let cluster = with_plugin(2, 0);
    cluster.write("ml.toml", EDF);
    let job = |head: &str, body: &str| {
        cluster.write(
            "job.sh",
            &format!("#!/bin/bash\n#SBATCH -o job.out\n{head}\n{body}\n"),
        );
        cluster.good("rm -f job.out; sbatch --wait --quiet job.sh >/dev/null");
        cluster.read("job.out")
    };
    let host = std::fs::read_to_string("/etc/debian_version").unwrap();
    let both = format!("{host}12.99\n12.99\n");
    let version = "cat /etc/debian_version\nsrun cat /etc/debian_version";
    // The script runs on the host, its steps inside, on all nodes.
    let head = "#SBATCH -N2 --container-image=base\n#SBATCH --container-mounts=/scratch/root:/mnt";
    assert_eq!(job(head, version), both);
    assert_eq!(job(head, "srun -N1 ls -d /mnt/bin"), "/mnt/bin\n");
    // A step says otherwise.
    assert_eq!(
        job(
            head,
            "srun -N1 --container-mounts=/scratch:/opt sh -c 'ls -d /opt/root; ls /mnt | busybox wc -l'"
        ),
        "/opt/root\n0\n"
    );
    assert_eq!(job("#SBATCH -N2 --environment=./ml.toml", version), both);
    assert_eq!(
        job(
            "#SBATCH --array=1-2 -o job.out --open-mode=append --container-image=base",
            "srun -n1 cat /etc/debian_version"
        ),
        "12.99\n12.99\n"
    );
    std::fs::remove_file(cluster.path("scratch/alice/job.out")).unwrap();
    // The tag moves while the job waits: what was submitted runs.
    cluster.write(
        "job.sh",
        "#!/bin/bash\n#SBATCH -o job.out -H --container-image=base\nsrun cat /etc/debian_version\n",
    );
    cluster.good("sbatch --quiet job.sh >job.id");
    std::fs::write(cluster.path("scratch/root/etc/debian_version"), "13.0\n").unwrap();
    cluster.good("carrack pull -q dir:/scratch/root && carrack tag -f dir:/scratch/root base || carrack tag dir:/scratch/root base");
    assert_eq!(
        cluster.good("srun --quiet --container-image=base cat /etc/debian_version"),
        "13.0\n"
    );
    cluster.good(
        "scontrol release $(squeue -h -o %A); while [ -n \"$(squeue -h)\" ]; do sleep 0.1; done",
    );
    assert_eq!(cluster.read("job.out"), "12.99\n");
    assert_eq!(
        cluster.good("salloc --quiet -N2 --container-image=base srun cat /etc/debian_version"),
        "13.0\n13.0\n"
    );
    // Where the site says so, the script itself runs inside.
    plugstack(&cluster, "batch=inside");
    assert_eq!(
        job(
            "#SBATCH --container-image=base",
            "cat /etc/debian_version; echo $0 | grep -c slurm_script; echo $SLURM_JOB_NUM_NODES"
        ),
        "13.0\n1\n1\n"
    );
    assert_eq!(job("", "cat /etc/debian_version"), host);
}
