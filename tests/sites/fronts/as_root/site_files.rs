//! What `slurm/site` gives to sites, in a running Slurm: the controller's check of jobs, prolog and epilog, and what a job
//! leaves that was ended from outside.

use crate::golden::root;
use crate::need::need;
use crate::slurm::as_root::cluster::Cluster;
use crate::starting::{busybox, layout};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

const SITE: &str = r#"final = ["launch", "profile", "records"]
[launch]
profile = "haven"
choose_profile = false
[profile.haven]
base = "ces"
job = { mem = "100M" }
project_data = "/scratch/alice/safe/{project}:/safe_data:ro"
outputs = "/scratch/alice/outputs_{job}:/safe_outputs"
scratch = "/scratch/alice/scratch_{job}:/scratch"
[records]
directory = "/scratch/records"
"#;

/// A cluster with the files of `slurm/site` where their comments say.
fn with_site_files() -> Cluster {
    let cluster = Cluster::up(1, 0);
    let write = |name: &str, text: &str, mode: u32| {
        let path = cluster.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    write("etc/carrack/carrack.toml", SITE, 0o644);
    for name in ["prolog", "epilog", "job_submit.lua"] {
        let text = std::fs::read_to_string(root().join("slurm/site").join(name)).unwrap();
        let text = text
            .replace("/usr/local/bin/carrack", "/scratch/bin/carrack")
            .replace("/var/lib/carrack/records", "/scratch/records");
        write(&format!("etc/slurm/{name}"), &text, 0o755);
    }
    let conf = cluster.path("etc/slurm/slurm.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    let more = "JobSubmitPlugins=lua\nProlog=/etc/slurm/prolog\nEpilog=/etc/slurm/epilog\n\
                PartitionName=haven Nodes=ALL MaxTime=1440 State=UP\n";
    std::fs::write(&conf, text + more).unwrap();
    write("scratch/records/x", "", 0o600);
    std::fs::set_permissions(
        cluster.path("scratch/records"),
        PermissionsExt::from_mode(0o1733),
    )
    .unwrap();
    assert!(cluster.run(&["restart"]).status.success());
    cluster
}

fn exists(cluster: &Cluster, name: &str) -> bool {
    cluster.path(name).exists()
}

#[test]
fn c2_g9_what_the_site_files_hold_to() {
    need!(Root, Slurm);
    let cluster = with_site_files();
    let line = "cp /safe_data/data /safe_outputs/copy; touch /scratch/x; case \"$1\" in stay) sleep 600;; esac; echo done";
    let config = json!({ "Env": ["PATH=/bin"], "Entrypoint": ["sh", "-c", line, "tool"] });
    layout(busybox(), config).write(&cluster.path("scratch/image"));
    cluster.write("safe/alice/data", "of the project\n");
    cluster.good("carrack import -q oci:/scratch/image tool");
    let submit = |options: &str, words: &str| {
        let line = format!("carrack submit --quiet --entrypoint {options} tool -- {words}");
        cluster.good(&line).trim().to_string()
    };
    // Ended by its time, which takes Slurm more than a minute: looked at in the end.
    let late = submit("--time=1 --job-name=late", "stay");

    // The controller takes what carrack made, and nothing else there.
    for (line, told) in [
        (
            "srun -p haven true",
            "salloc and srun are not allowed on this partition",
        ),
        (
            "salloc -p haven true",
            "salloc and srun are not allowed on this partition",
        ),
        (
            "printf '#!/bin/bash\\nhostname\\n' | sbatch -p main,haven",
            "jobs of this partition are made by",
        ),
        (
            "carrack script -p haven tool -- x | sed 's/carrack exec/carrack exec --profile=hpc/' | sbatch",
            "the profile of this partition cannot be changed",
        ),
        (
            "carrack script -p haven tool -- x | sed 's/carrack exec.*/hostname/' | sbatch",
            "a step outside of a container is not allowed here",
        ),
        (
            "scontrol update job=$(sbatch -p main --hold --parsable --wrap=true) partition=haven",
            // What the controller's script says of a change does not reach the user of this Slurm.
            "error for job",
        ),
    ] {
        let (code, said) = cluster.login(line);
        assert!(code != 0 && said.contains(told), "{line}: {said}");
    }
    let good = submit("-p haven", "go");
    cluster.good(&format!("carrack wait {good}"));
    // The epilog took the records out of the user's hands.
    let kept = || {
        let entries = std::fs::read_dir(cluster.path("scratch/records.kept"));
        let entries = entries.into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with(&format!("{good}-")))
            .count()
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        for _ in 0..300 {
            if done() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{what}\n{}", cluster.logs());
    };
    until("no records were kept", &|| kept() == 2);

    // Nobody was left to remove the scratch directory but the epilog.
    let killed = submit("-p haven", "stay");
    let copy = format!("scratch/alice/outputs_{killed}/copy");
    // It makes this after the copy.
    let last = format!("scratch/alice/scratch_{killed}/x");
    until("the job does not begin", &|| exists(&cluster, &last));
    assert!(exists(&cluster, &copy));
    cluster.good(&format!("scancel --full --signal=KILL {killed}"));
    until("scratch stays", &|| {
        !exists(&cluster, &format!("scratch/alice/scratch_{killed}"))
    });
    assert!(exists(&cluster, &copy));

    cluster.login(&format!("carrack wait {late}"));
    let job: Value =
        serde_json::from_str(&cluster.good(&format!("carrack ps --gef {late}"))).unwrap();
    let state = &job["Job"]["State"];
    assert_eq!(state["Status"], "Job execution timeout exceeded", "{job}");
    assert_eq!(state["Code"], 1, "{job}");
    until("scratch stays", &|| {
        !exists(&cluster, &format!("scratch/alice/scratch_{late}"))
    });
    assert!(exists(
        &cluster,
        &format!("scratch/alice/outputs_{late}/copy")
    ));

    // A node whose site file could be anybody's takes no jobs.
    std::fs::set_permissions(
        cluster.path("etc/carrack/carrack.toml"),
        PermissionsExt::from_mode(0o666),
    )
    .unwrap();
    cluster.good("sbatch --quiet -p main -o never.out --wrap='echo RAN'");
    until("the node is not drained", &|| {
        cluster.login("sinfo -h -o %T").1.contains("drain")
    });
    assert!(!exists(&cluster, "scratch/alice/never.out"));
}
