//! A job whose time is up, and jobs that Slurm's controller has forgotten, on a site that keeps accounts. They take half a
//! minute of waiting, so they are where the first tests are.

use super::cluster::{Cluster, field};
use crate::need::need;

#[test]
fn what_slurm_has_forgotten_its_accounts_tell() {
    need!(Root, Slurm, Slurmdbd);
    let cluster = Cluster::up_by(&["--accounting", "1", "0"], &[]);
    let submit = |name: &str, more: &str, line: &str| {
        let text = format!(
            "[job]\nname = '{name}'\n{more}\n[[step]]\ncontainer = false\nshell = '{line}'\n"
        );
        cluster.write(&format!("{name}.toml"), &text);
        let id = cluster.good(&format!("carrack submit --quiet {name}.toml"));
        id.trim().to_string()
    };
    // Its time is up at once, but the controller looks at the clock every half minute only.
    let late = submit(
        "late",
        "[[stage]]\nout = '$TMPDIR/out'\nto = 'home-late'",
        "echo half > $TMPDIR/out; : > runs-late; sleep 600",
    );
    cluster.good("until [ -e runs-late ]; do sleep 0.1; done");
    let end = format!("JobId={late}");
    cluster.run(&["sh", "login", "scontrol", "update", &end, "EndTime=now"]);

    cluster.run(&[
        "sh",
        "login",
        "sh",
        "-c",
        "sed -i s/^MinJobAge=.*/MinJobAge=2/ /etc/slurm/slurm.conf && scontrol reconfigure",
    ]);
    let seven = submit("seven", "", "echo seven; exit 7");
    submit("segv", "", "kill -SEGV $$");
    let array = submit(
        "array",
        "array = '1-2'",
        "exit $((SLURM_ARRAY_TASK_ID - 1))",
    );
    submit("cancelled", "", ": > runs-cancelled; sleep 600");
    submit("killed", "", ": > runs-killed; sleep 600");
    cluster.good(
        "until [ -e runs-cancelled -a -e runs-killed ]; do sleep 0.1; done; carrack cancel cancelled; \
         scancel --full --signal=KILL killed; scancel --signal=KILL --name=killed",
    );
    let jobs = ["seven", "segv", "array", "cancelled", "killed"];
    for name in jobs {
        assert_ne!(cluster.login(&format!("carrack wait {name}")).0, 0);
    }
    cluster.good("while squeue -h | grep -q .; do sleep 0.2; done");
    let (code, said) = cluster.login("carrack wait late");
    assert!(
        code != 0 && said == format!("job {late} late ended: TIMEOUT\n"),
        "{code} {said}"
    );
    assert_eq!(cluster.read("home-late"), "half\n", "{}", cluster.logs());
    assert_eq!(
        cluster.good("srun -Q -N1 sh -c 'ls -d /tmp/carrack-[0-9]* 2>/dev/null; true'"),
        ""
    );
    let record = cluster.good("carrack record late --json");
    assert_eq!(field(&record, &["state"]), "TIMEOUT", "{record}");
    assert_ne!(field(&record, &["end"]), "", "{record}");

    cluster.good("while squeue -h --states=all -o %i | grep -q .; do sleep 0.5; done");

    // Nobody knows this one but the accounts.
    cluster.good("rm seven-*.json");
    let (code, said) = cluster.login("carrack wait seven");
    assert_eq!(code, 7, "{said}");
    assert_eq!(said, format!("job {seven} seven ended: FAILED\n"));
    let said = cluster.good("carrack logs seven");
    assert!(said.lines().any(|line| line == "seven"), "{said}");
    // For these they have no code, or another one.
    for (name, state, code) in [
        ("segv", "FAILED", 139),
        ("cancelled", "CANCELLED", 143),
        ("late", "TIMEOUT", 143),
    ] {
        let (waited, said) = cluster.login(&format!("carrack wait {name} --json"));
        assert_eq!(waited, code, "{name} {said}");
        assert_eq!(field(&said, &["0", "state"]), state);
    }
    // The script could not complete this record.
    let record = cluster.good("carrack record killed --json");
    assert_ne!(field(&record, &["end"]), "", "{record}");
    assert_ne!(field(&record, &["state"]), "RUNNING", "{record}");

    assert_eq!(cluster.login("carrack wait array").0, 1);
    let listed = cluster.good("carrack ps");
    for line in [
        format!("{seven}    seven      FAILED     n1     -\n"),
        format!("{array}_1  array      COMPLETED  n1     -\n"),
        format!("{array}_2  array      FAILED     n1     -\n"),
    ] {
        assert!(listed.contains(&line), "{line}\n{listed}");
    }
    assert_eq!(listed.lines().count(), 8, "{listed}");
}
