//! Every way in which a job can end early, and what was wrong with it before it began.

use super::cluster::{Cluster, field};
use crate::need::need;

/// A job of three nodes, each with its own results; its step hears TERM, takes a moment, and saves what it has.
const JOB: &str = "[job]\nname = 'NAME'\nnodes = 3\nntasks-per-node = 1\nopen-mode = 'append'\n\
    [[stage]]\nin = '/scratch/alice/input'\nto = '$TMPDIR/in'\n\
    [[stage]]\nout = '$TMPDIR/out'\nto = 'home-NAME'\non = 'every'\n\
    [[step]]\nname = 'work'\ncontainer = false\n\
    shell = 'echo half > $TMPDIR/out; trap \"sleep 1; echo saved >> $TMPDIR/out; exit 3\" TERM; : > started-NAME-$SLURM_PROCID; n=0; while [ $n -lt $ROUNDS ]; do sleep 0.1; n=$((n+1)); done'\n";

const LEFT: &str = "srun -Q -N3 sh -c 'ls -d /tmp/carrack-[0-9]* 2>/dev/null; true'";

impl Cluster {
    /// Submits the job and waits until its step runs everywhere.
    fn running(&self, name: &str) -> String {
        self.write("input", "hello\n");
        self.write(&format!("{name}.toml"), &JOB.replace("NAME", name));
        let id = self.good(&format!(
            "ROUNDS=6000 carrack submit --quiet {name}.toml; until [ -e started-{name}-0 -a -e started-{name}-1 -a -e started-{name}-2 ]; do sleep 0.1; done"
        ));
        id.trim().to_string()
    }

    /// Each node's results are home and its directory is gone; the record's state.
    #[track_caller]
    fn ended(&self, name: &str, id: &str) -> String {
        for node in ["n1", "n2", "n3"] {
            let result = self.read(&format!("home-{name}/{node}"));
            assert_eq!(result, "half\nsaved\n", "{name} on {node}\n{}", self.logs());
        }
        assert_eq!(self.good(LEFT), "", "{name}");
        let record = self.good(&format!("carrack record {id} --json"));
        assert_ne!(field(&record, &["end"]), "", "{record}");
        field(&record, &["state"]).as_str().unwrap().to_string()
    }
}

#[test]
fn results_of_all_nodes_come_home_and_no_directory_stays() {
    need!(Root, Slurm);
    let cluster = Cluster::up(3, 0);
    let id = cluster.running("cancelled");
    cluster.good("carrack cancel cancelled");
    assert_eq!(cluster.login(&format!("carrack wait {id}")).0, 143);
    assert_eq!(cluster.ended("cancelled", &id), "CANCELLED");

    // The warning before the time limit goes to the script alone, which tells the step.
    let id = cluster.running("warned");
    cluster.good(&format!("scancel --batch --signal=TERM {id}"));
    assert_eq!(cluster.login(&format!("carrack wait {id}")).0, 143);
    assert_eq!(cluster.ended("warned", &id), "FAILED");

    // Put back into the queue, it starts anew and ends well.
    let id = cluster.running("again");
    cluster.run(&[
        "sh",
        "login",
        "scontrol",
        "update",
        &format!("JobId={id}"),
        "TimeLimit=5",
    ]);
    cluster.good(&format!("rm started-again-*; scontrol requeue {id}"));
    cluster.good(
        "until [ -e home-again/n3 ]; do sleep 0.1; done; cat home-again/n3; rm -r home-again",
    );
    // The requeued job begins two minutes later unless its time is changed by the operator.
    let begin = format!("JobId={id}");
    cluster.good(&format!(
        "until squeue -h -t PD -o %i | grep -q {id}; do sleep 0.1; done"
    ));
    cluster.run(&["sh", "login", "scontrol", "update", &begin, "StartTime=now"]);
    cluster.good("until [ -e started-again-0 -a -e started-again-1 -a -e started-again-2 ]; do sleep 0.1; done; carrack cancel again");
    assert_ne!(cluster.login(&format!("carrack wait {id}")).0, 0);
    assert_eq!(cluster.ended("again", &id), "CANCELLED");
    let record = cluster.good(&format!("carrack record {id} --json"));
    assert_eq!(field(&record, &["job", "restarts"]), 1);

    // At whatever moment of its beginning a job is cancelled, also while Slurm starts its tasks.
    let early = JOB.replace("NAME", "early");
    cluster.write("early.toml", &early);
    cluster.good(
        "for moment in 0.2 0.5 0.8 1.1 1.5; do id=$(ROUNDS=6000 carrack submit --quiet early.toml); \
         { sleep $moment; scancel $id; carrack wait $id; } & done; wait",
    );
    assert_eq!(cluster.good("squeue -h"), "");
    assert_eq!(cluster.good(LEFT), "", "early\n{}", cluster.logs());
}

#[test]
fn what_is_missing_is_named() {
    need!(Root, Slurm);
    let cluster = Cluster::up(2, 0);
    cluster.tree();
    let submit = |name: &str, text: &str| {
        cluster.write(
            &format!("{name}.toml"),
            &format!("[job]\nname = '{name}'\n{text}"),
        );
        cluster.good(&format!("carrack submit --quiet {name}.toml"))
    };
    let fails = |name: &str, words: &[&str]| {
        let (code, _) = cluster.login(&format!("carrack wait {name}"));
        let said = cluster.good(&format!("carrack logs {name}"));
        assert!(
            code != 0 && words.iter().all(|word| said.contains(word)),
            "{code}\n{said}"
        );
    };
    let image = "[container]\nimage = 'dir:/scratch/root'\n[[step]]\ncommand = ['cat', '/etc/debian_version']\n";

    // The image is removed by hand while the job waits: nothing runs on the bare node.
    submit("removed", &format!("hold = true\n{image}"));
    cluster
        .good("rm -r /home/alice/.local/share/carrack/images; scontrol release $(squeue -h -o %A)");
    fails(
        "removed",
        &[
            "error: no image `sha256:",
            "`carrack pull dir:/scratch/root` brings it again",
        ],
    );
    cluster.good("carrack pull -q dir:/scratch/root");

    // A node without the file system of the store.
    cluster.run(&["sh", "n2", "umount", "-l", "/home"]);
    submit(
        "unmounted",
        &format!(
            "nodes = 2\nntasks-per-node = 1\nno-requeue = true\nchdir = '/scratch/alice'\n{image}"
        ),
    );
    fails("unmounted", &["n2"]);
    cluster.run(&["sh", "n2", "mount", "--bind", "/proc/1/root/home", "/home"]);

    // No space where the results go.
    cluster.run(&[
        "sh",
        "n1",
        "sh",
        "-c",
        "mkdir -p /var/tmp/small && mount -t tmpfs -o size=64k,mode=777 small /var/tmp/small",
    ]);
    submit(
        "full",
        "nodelist = 'n1'\n[[stage]]\nout = '$TMPDIR/out'\nto = '/var/tmp/small/out'\n[[step]]\ncontainer = false\nshell = 'head -c 1000000 /dev/zero > $TMPDIR/out'\n",
    );
    fails(
        "full",
        &[
            "No space left on device",
            "full: not all results could be copied; they stay in /tmp/carrack-",
            " on n1",
        ],
    );
    let (_, said) = cluster.login("carrack wait full");
    assert!(
        said.contains("\nwhat it could not copy home stays in /tmp/carrack-")
            && said.ends_with(" on n1\n"),
        "{said}"
    );
    let record = cluster.good("carrack record full --json");
    assert!(
        field(&record, &["kept"])
            .as_str()
            .unwrap()
            .starts_with("/tmp/carrack-")
    );
    assert_eq!(
        cluster.good("srun -Q -w n1 sh -c 'cat /tmp/carrack-*/out | wc -c'"),
        "1000000\n"
    );

    // Two at once, of the same name, are two jobs.
    cluster.write(
        "two.toml",
        "[job]\nname = 'two'\n[[step]]\ncontainer = false\ncommand = ['hostname']\n",
    );
    let ids =
        cluster.good("carrack submit --quiet two.toml & carrack submit --quiet two.toml; wait");
    let ids: std::collections::BTreeSet<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 2);
    for id in ids {
        cluster.good(&format!(
            "carrack wait {id} && carrack logs {id} | grep -q ^n && carrack record {id}"
        ));
    }

    // No controller: said at once, and nothing is left behind.
    let before = cluster.good("ls ~/.local/state/carrack/jobs | wc -l");
    cluster.run(&["sh", "login", "sh", "-c", "kill -STOP $(pidof slurmctld)"]);
    cluster.run(&[
        "sh",
        "login",
        "sh",
        "-c",
        "sed -i 's/^SlurmctldTimeout.*//; $ a MessageTimeout=2' /etc/slurm/slurm.conf",
    ]);
    let (code, said) = cluster.login("carrack submit two.toml");
    assert!(
        code == 125 && said.contains("Slurm would not take two.toml"),
        "{code} {said}"
    );
    cluster.run(&["sh", "login", "sh", "-c", "kill -CONT $(pidof slurmctld)"]);
    assert_eq!(
        cluster.good("ls ~/.local/state/carrack/jobs | wc -l"),
        before
    );
}

#[test]
fn the_same_run_again_or_what_differs() {
    need!(Root, Slurm);
    let cluster = Cluster::up(2, 0);
    cluster.tree();
    let site = cluster.path("etc/carrack");
    std::fs::create_dir_all(&site).unwrap();
    std::fs::write(
        site.join("carrack.toml"),
        "[records]\ndirectory = '/scratch/records'\n",
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1733);
    std::fs::create_dir(cluster.path("scratch/records")).unwrap();
    std::fs::set_permissions(cluster.path("scratch/records"), mode).unwrap();
    cluster.write("input", "hello\n");
    cluster.write("job.toml", "[job]\nname = 'first'\nnodes = 2\nntasks-per-node = 1\nimage-on = 'node'\n\
        [container]\nimage = 'dir:/scratch/root'\n[[stage]]\nin = 'input'\nto = '$TMPDIR/in'\n\
        [[stage]]\nout = '$TMPDIR/out'\nto = 'results/out'\n\
        [[step]]\nname = 'one'\nshell = 'cat $TMPDIR/in > $TMPDIR/out; readlink -f /etc/debian_version'\n");
    let id = cluster.good(
        "touch -d yesterday input job.toml; carrack submit --quiet job.toml && carrack wait first",
    );
    let id = id.trim();
    // The copies on the nodes ran, and they are gone.
    let record = cluster.good("carrack record first --json");
    assert_eq!(
        field(&record, &["steps", "0", "image"]),
        format!("/tmp/carrack-{id}/image.sqsh")
    );
    assert_eq!(
        cluster.good("srun -Q -N2 sh -c 'ls -d /tmp/carrack-[0-9]* 2>/dev/null; true'"),
        ""
    );
    // What the site keeps cannot be changed or listed by its users.
    let kept: Vec<_> = std::fs::read_dir(cluster.path("scratch/records"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_ne!(cluster.login("ls /scratch/records").0, 0);

    let listed = cluster.good("carrack outputs first");
    assert!(
        listed.contains("results/out\n")
            && listed.contains(&format!("first-{id}.out\n"))
            && !listed.contains("input"),
        "{listed}"
    );
    assert_eq!(cluster.good("carrack outputs first results/out"), "hello\n");
    let json = cluster.good("carrack outputs first results --json");
    assert_eq!(field(&json, &["volumeContent", "0", "name"]), "out");

    assert_eq!(cluster.good("carrack rerun --dry-run first"), "");
    let second = cluster.good("carrack rerun --quiet first");
    let second = second.trim();
    cluster.good(&format!("carrack wait {second}"));
    let again = cluster.good(&format!("carrack record {second} --json"));
    for name in [["script", "sha256"], ["image", "manifest_digest"]] {
        assert_eq!(field(&again, &name), field(&record, &name));
    }
    // A node that cannot take the copy uses the shared file, and says so.
    let broken = cluster.path("scratch/broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("sbcast"), "#!/bin/sh\nexit 1\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(broken.join("sbcast"), mode).unwrap();
    let third = cluster.good("PATH=/scratch/broken:$PATH; id=$(carrack rerun --quiet first); carrack wait $id; carrack logs $id");
    assert!(
        third
            .contains("first: the image could not be copied to all nodes; using the shared file\n"),
        "{third}"
    );

    cluster.write("input", "other\n");
    let (code, said) = cluster.login("carrack rerun first");
    assert!(
        code == 125 && said.contains("differs: the input `input` had 1 files and 6 bytes"),
        "{said}"
    );
}
