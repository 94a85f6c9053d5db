//! The other systems' commands on a real Slurm, as people type them.

use crate::need::need;
use crate::slurm::as_root::cluster::{Cluster, field};
use crate::starting::{busybox, layout};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

#[test]
fn c1_c2_c6_c11_e13_e16_e17_commands_of_others_on_a_cluster() {
    need!(Root, Slurm);
    let cluster = Cluster::up(1, 2);
    for name in ["ces-run", "ces-gpu-run", "jobman"] {
        symlink("carrack", cluster.path("scratch/bin").join(name)).unwrap();
    }
    let line = "cp /safe_data/data /safe_outputs/copy; touch /scratch/x; echo begun; \
                case \"$HOW\" in fail) exit 7;; wait) sleep 600;; esac; ls -d /dev/nvidia[0-9]*; echo done";
    let config = json!({ "Env": ["PATH=/bin"], "WorkingDir": "/bin", "Cmd": ["sh", "-c", line] });
    layout(busybox(), config).write(&cluster.path("scratch/image"));
    cluster.write("safe/alice/data", "of the project\n");
    cluster.write(
        "haven.toml",
        "[launch]\nprofile = \"haven\"\n[profile.haven]\nbase = \"ces\"\njob = { mem = \"100M\" }\n\
         project_data = \"/scratch/alice/safe/{project}:/safe_data:ro\"\n\
         outputs = \"/scratch/alice/outputs_{job}:/safe_outputs\"\n\
         scratch = \"/scratch/alice/scratch_{job}:/scratch\"\n\
         [flavor.small]\ndefault = true\noptions = { mem = \"100M\" }\n",
    );
    cluster.write("fails", "HOW=fail\n");
    cluster.write("waits", "HOW=wait\n");
    let haven = "export CARRACK_CONFIG=/scratch/alice/haven.toml;";
    cluster.good("carrack import -q oci:/scratch/image ghcr.io/n/tool:1");
    let after = |ending: &str| {
        // The job's own end comes a moment after its last word.
        let gone =
            "for i in $(seq 100); do ls -d scratch_* >/dev/null 2>&1 || break; sleep 0.1; done;";
        let kept = cluster.good(&format!(
            "{gone} cat outputs_*/copy; ls -d scratch_* 2>/dev/null || rm -r outputs_*"
        ));
        assert_eq!(kept, "of the project\n", "{ending}");
    };
    let said = cluster.good(&format!("{haven} ces-run ghcr.io/n/tool:1"));
    assert!(
        said.contains("begun\n") && said.contains("done\n"),
        "{said}"
    );
    // busybox names the pattern when nothing matches.
    assert!(!said.contains("\n/dev/nvidia"), "{said}");
    after("success");
    let said = cluster.good(&format!("{haven} ces-gpu-run ghcr.io/n/tool:1"));
    let seen = said.lines().filter(|line| line.starts_with("/dev/nvidia"));
    assert_eq!(seen.count(), 1, "one of the node's two: {said}");
    assert!(said.contains("done\n"), "{said}");
    after("success with a GPU");
    let (code, said) = cluster.login(&format!(
        "{haven} ces-run --env-file fails ghcr.io/n/tool:1"
    ));
    assert_eq!(code, 7, "{said}");
    after("failure");
    let (code, said) = cluster.login(&format!(
        "{haven} ces-run --env-file waits ghcr.io/n/tool:1 & until grep -q begun *.out && [ $(squeue -h -t R | wc -l) = 1 ]; do sleep 0.2; done; \
         until [ -e outputs_*/copy ]; do sleep 0.2; done; scancel -u alice; wait $!"
    ));
    assert_ne!(code, 0, "{said}");
    after("cancelled");

    let own = format!("{haven} export CARRACK_PROFILE=eucaim;");
    let said = cluster.good(&format!(
        "{own} jobman submit -i ghcr.io/n/tool:1 -j mine -a '{{\"note\":\"a \\\"b\\\" c\"}}' -c -- sh -c 'id -u; echo $A' -- 'A=b c'"
    ));
    assert_eq!(
        said,
        "Job named 'mine' created successfully by user 'alice'\n"
    );
    cluster.good("carrack wait mine");
    assert_eq!(cluster.good("jobman logs -j mine"), "1000\nb c\n");
    let details: Value = serde_json::from_str(&cluster.good("jobman details -j mine")).unwrap();
    assert_eq!(details[0]["name"], "mine");
    assert_eq!(details[0]["exit_code"], 0, "{details}");
    // The annotation stays with the job: in Slurm and in the record.
    let record = cluster.good("cat mine-*.json");
    assert_eq!(
        field(&record, &["job", "comment"]),
        "{\"note\":\"a \\\"b\\\" c\"}"
    );
    let listed = cluster.good("jobman list");
    let first = listed.lines().nth(1).unwrap();
    assert!(
        first.starts_with("mine") && first.contains("Succeeded"),
        "{listed}"
    );
    cluster.good(&format!(
        "{own} jobman submit -i ghcr.io/n/tool:1 -j long -c -- sleep 600"
    ));
    let queue = cluster.good(&format!("{own} jobman queue"));
    let small: Vec<&str> = queue.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(small[..4], ["small", "(default)", "1", "1"], "{queue}");
    cluster.good("jobman delete --all");
    cluster.login("carrack wait long");
    let listed = cluster.good("jobman list");
    assert!(
        listed.lines().nth(1).unwrap().contains("Failed"),
        "{listed}"
    );
}
