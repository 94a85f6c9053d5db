//! A real Slurm: the job file's way from the login node to the nodes and back, and everything that can end it early.
//!
//! Each test starts a cluster of its own with `slurm/devcluster` (about a second) and ends it, so they neither wait for
//! nor see each other. They run as root, because a cluster has several users in it; everything in them is done as one of
//! its plain users.

pub mod as_root {
    mod accounts;
    pub mod cluster;
    mod d12;
    mod ends;
    mod gpus;
    mod mpi;
    mod plugin;

    use crate::need::need;
    use cluster::{Cluster, copy, field};
    use std::path::Path;

    const STAGES: &str = "[[stage]]\nin = '/scratch/alice/input'\nto = '$TMPDIR/in'\n[[stage]]\nout = '$TMPDIR/out'\nto = 'home'\n";

    #[test]
    fn a_job_on_bare_nodes_with_copies_in_and_out() {
        need!(Root, Slurm);
        let cluster = Cluster::up(2, 0);
        cluster.write("input", "hello\n");
        cluster.write(
            "job.toml",
            &format!(
                "[job]\nname = 'two words'\nnodes = 2\nntasks-per-node = 1\n{STAGES}\
                 [[step]]\nname = 'read'\ncontainer = false\nshell = 'cat $TMPDIR/in'\n\
                 [[step]]\nname = 'write'\nntasks = 1\ncontainer = false\nshell = 'echo result > $TMPDIR/out'\n"
            ),
        );
        let said = cluster.good("carrack submit job.toml");
        assert!(said.contains("log     /scratch/alice/two_words-"), "{said}");
        cluster.good("carrack wait 'two words'");
        assert_eq!(cluster.good("carrack logs 'two words'"), "hello\nhello\n");
        assert_eq!(cluster.read("home"), "result\n");
        assert_eq!(cluster.good("ls -d /tmp/carrack-* 2>/dev/null; srun -N2 sh -c 'ls -d /tmp/carrack-* 2>/dev/null; true'"), "");
        let record = cluster.good("carrack record 'two words' --json");
        assert_eq!(field(&record, &["state"]), "COMPLETED");
        assert_eq!(
            field(&record, &["job", "nodes"]),
            serde_json::json!(["n1", "n2"])
        );
        assert_eq!(field(&record, &["steps", "1", "name"]), "write");
        assert_eq!(field(&record, &["inputs", "0", "bytes"]), 6);
        let listed = cluster.good("carrack ps 'two words' --json");
        assert_eq!(field(&listed, &["0", "phase"]), "Succeeded");
        cluster.good("carrack record 'two words' --ro-crate crate");
        assert!(
            cluster
                .read("crate/ro-crate-metadata.json")
                .contains("CompletedActionStatus")
        );
    }

    #[test]
    fn whatever_ends_a_job_its_results_come_home_and_its_record_says_so() {
        need!(Root, Slurm);
        let cluster = Cluster::up(1, 0);
        cluster.write("input", "hello\n");
        let job = |name: &str, line: &str, more: &str| {
            let text = format!(
                "[job]\nname = '{name}'\n{more}\n{STAGES}[[step]]\ncontainer = false\nshell = 'echo half > $TMPDIR/out; {line}'\n"
            );
            cluster.write(
                &format!("{name}.toml"),
                &text.replace("'home'", &format!("'home-{name}'")),
            );
            cluster
                .good(&format!("carrack submit --quiet {name}.toml"))
                .trim()
                .to_string()
        };
        let failed = job("failed", "exit 7", "");
        assert_eq!(cluster.login(&format!("carrack wait {failed}")).0, 7);
        let cancelled = job("cancelled", ": > runs-cancelled; sleep 600", "");
        cluster.good("until [ -e runs-cancelled ]; do sleep 0.1; done");
        cluster.good("carrack cancel cancelled");
        assert_ne!(cluster.login(&format!("carrack wait {cancelled}")).0, 0);
        for (name, id, state) in [
            ("failed", failed, "FAILED"),
            ("cancelled", cancelled, "CANCELLED"),
        ] {
            assert_eq!(
                cluster.read(&format!("home-{name}")),
                "half\n",
                "{name}\n{}",
                cluster.logs()
            );
            let record = cluster.good(&format!("carrack record {id} --json"));
            assert_eq!(field(&record, &["state"]), state, "{record}");
            assert_ne!(field(&record, &["end"]), "", "{record}");
        }
        assert_eq!(
            cluster.good("srun -N1 sh -c 'ls -d /tmp/carrack-* 2>/dev/null; true'"),
            ""
        );
    }

    #[test]
    fn the_loss_of_a_node_is_in_the_record() {
        need!(Root, Slurm);
        let cluster = Cluster::up(2, 0);
        cluster.write("job.toml", "[job]\nname = 'lost'\nno-requeue = true\n[[step]]\ncontainer = false\ncommand = ['sleep', '600']\n");
        cluster.good("carrack submit job.toml; until [ -s lost-*.json ]; do sleep 0.2; done");
        let node = cluster.good("squeue -h -o %N").trim().to_string();
        assert!(cluster.run(&["kill", &node]).status.success());
        // Nothing listens on the node any more; the controller is told so at once instead of after its patience.
        cluster.run(&[
            "sh",
            "login",
            "scontrol",
            "update",
            &format!("NodeName={node}"),
            "State=DOWN",
            "Reason=gone",
        ]);
        assert_ne!(cluster.login("carrack wait lost").0, 0);
        let record = cluster.good("carrack record lost --json");
        assert_eq!(field(&record, &["state"]), "NODE_FAIL", "{record}");
    }

    #[test]
    fn names_reach_slurm_exactly() {
        need!(Root, Slurm);
        let cluster = Cluster::up(1, 0);
        let names = [
            "a b",
            "a#b",
            "a\\\"b",
            "it's",
            "a\\\\b",
            "$HOME`id`$(id)",
            "50%j ü",
            "-x",
        ];
        for (index, name) in names.iter().enumerate() {
            let text = format!(
                "[job]\nname = \"{name}\"\nhold = true\n[[step]]\ncontainer = false\ncommand = ['true']\n"
            );
            cluster.write(&format!("{index}.toml"), &text);
            let id = cluster.good(&format!("carrack submit --quiet {index}.toml"));
            let said = cluster.good(&format!("squeue -h -o %j -j {}", id.trim()));
            let plain = name.replace("\\\"", "\"").replace("\\\\", "\\");
            assert_eq!(said.trim_end_matches('\n'), plain);
        }
    }

    #[test]
    fn what_would_fail_in_the_queue_fails_at_the_desk() {
        need!(Root, Slurm);
        let cluster = Cluster::up(1, 0);
        cluster.tree();
        let rows = [
            (
                "partition = 'nope'",
                "['true']",
                "invalid partition specified: nope",
            ),
            (
                "partition = 'shorn'",
                "['true']",
                "hint:  did you mean `short`?",
            ),
            (
                "nodes = 99",
                "['true']",
                "Requested node configuration is not available",
            ),
            (
                "",
                "['nosuch']",
                "problem: job.toml:6: `nosuch` of step `step1` is not in the image's PATH",
            ),
            (
                "",
                "['./nosuch']",
                "problem: job.toml:6: `./nosuch` of step `step1` does not exist inside the image",
            ),
            (
                "",
                "['true']\nmpi = 'nope'",
                "problem: job.toml:7: this cluster's srun knows no `--mpi=nope`",
            ),
        ];
        for (option, command, expected) in rows {
            let text = format!(
                "[job]\n{option}\n[container]\nimage = 'dir:/scratch/root'\n[[step]]\ncommand = {command}\n"
            );
            cluster.write("job.toml", &text);
            let (code, said) = cluster.login("carrack submit job.toml");
            assert!(code != 0 && said.contains(expected), "{text}\n{said}");
        }
        assert_eq!(cluster.good("squeue -h"), "");

        // Cancelled before it began, and once more.
        cluster.write(
            "held.toml",
            "[job]\nname = 'held'\nhold = true\n[[step]]\ncontainer = false\ncommand = ['true']\n",
        );
        cluster.good("carrack submit held.toml; carrack cancel held");
        assert!(
            cluster
                .good("carrack cancel held")
                .ends_with(" held has ended already\n")
        );
        assert!(
            cluster
                .login("carrack logs held")
                .1
                .contains("`held` wrote no log\n")
        );
    }

    #[test]
    fn a_running_job_is_entered_and_followed_from_the_login_node() {
        need!(Root, Slurm);
        let cluster = Cluster::up(2, 0);
        cluster.tree();
        cluster.write("job.toml", "[job]\nname='long'\nnodes=2\nntasks-per-node=2\n[container]\nimage='dir:/scratch/root'\n[[step]]\nshell='echo begun; until [ -e /scratch/alice/go ]; do sleep 0.1; done; echo done; exit 5'\n");
        let id = cluster.good("carrack submit --quiet job.toml; until [ $(cat long-*.out 2>/dev/null | grep -c begun) = 4 ]; do sleep 0.1; done");
        let id = id.trim();
        let inside = "12.99\n";
        for which in ["long", id, &format!("{id}.0"), &format!("{id}@n2")] {
            let said = cluster.good(&format!(
                "carrack attach {which} -- cat /etc/debian_version"
            ));
            assert_eq!(said, inside, "{which}");
        }
        let said = cluster.good(&format!("carrack attach {id}.0@n2 -- hostname"));
        assert_eq!(said, "n2\n");
        assert_eq!(
            cluster
                .login(&format!("carrack attach {id} -- sh -c 'exit 9'"))
                .0,
            9
        );
        let (code, said) = cluster.login(&format!("carrack attach {id}@n9 -- true"));
        assert_eq!(code, 125, "{said}");
        assert!(said.contains("cause: it runs on n1, n2\n"), "{said}");
        let said = cluster.good("(sleep 1; touch go) & carrack logs -f long");
        assert_eq!(
            said.matches("begun").count() + said.matches("done").count(),
            8,
            "{said}"
        );
        let (code, said) = cluster.login("carrack wait long --json");
        assert_eq!(code, 5);
        assert_eq!(field(&said, &["0", "exit_code"]), 5);
        let (code, said) = cluster.login(&format!("carrack attach {id} -- true"));
        assert!(code != 0 && said.contains("srun: error"), "{said}");
    }

    #[test]
    fn the_digest_of_the_submission_runs_even_if_the_tag_moves() {
        need!(Root, Slurm);
        let cluster = Cluster::up(1, 0);
        cluster.tree();
        cluster.write("job.toml", "[job]\nname='old'\nhold=true\n[container]\nimage='dir:/scratch/root'\n[[step]]\ncommand=['cat','/etc/debian_version']\n");
        cluster.good("carrack submit --quiet job.toml");
        std::fs::write(cluster.path("scratch/root/etc/debian_version"), "13.0\n").unwrap();
        cluster.good("carrack pull -q dir:/scratch/root; scontrol release $(squeue -h -o %A); carrack wait old");
        assert_eq!(cluster.good("carrack logs old"), "12.99\n");
    }

    #[test]
    fn every_example_runs() {
        need!(Root, Slurm);
        let cluster = Cluster::up(2, 2);
        cluster.tree();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        copy(&examples, &cluster.path("scratch/alice/examples"));
        cluster.write("examples/.here", "");
        cluster.good("sed -i 's#docker://[a-z0-9.:/-]*#dir:/scratch/root#' examples/*.toml examples/edf/*.toml examples/*.sh");
        let run = |files: &str, name: &str| {
            cluster.good(&format!(
                "carrack submit --quiet {files} >/dev/null && carrack wait {name}"
            ));
            cluster.good(&format!("carrack logs {name}"))
        };
        assert!(run("examples/hello.toml", "hello").contains("Stand-in"));
        let gpu = run("examples/gpu.toml", "gpu");
        assert_eq!(
            gpu.lines()
                .filter(|line| line.ends_with(" of its own: nvidia0")
                    || line.ends_with(" of its own: nvidia1"))
                .count(),
            4,
            "{gpu}"
        );
        cluster.good("carrack submit --quiet examples/array.toml && carrack wait array");
        assert_eq!(
            cluster.good("cat array-*_*.out | sort"),
            "parameter 1\nparameter 2\nparameter 3\nparameter 4\n"
        );
        let (code, said) = cluster.login("carrack record array");
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("name one of its tasks: "), "{said}");
        assert!(said.contains("_1 … ") && said.contains("_4\n"), "{said}");
        run("examples/prepare.toml examples/pipeline.toml", "pipeline");
        assert_eq!(cluster.read("sum.txt"), "5050\n");
        let mixed = run("examples/mixed.toml", "mixed");
        assert!(
            mixed.contains("n1\n")
                && mixed.contains("n2\n")
                && mixed.contains(
                    "12.99
#!/bin/bash
"
                ),
            "{mixed}"
        );
        assert_eq!(run("examples/edf.toml", "edf"), "hello from /tmp\n");
        cluster.good("cd examples && sbatch --wait submit.sh");
        assert!(
            cluster.read("examples/rsl.out.0001").contains(':'),
            "{}",
            cluster.logs()
        );
        let owner = cluster.good("stat -c %U examples/rsl.out.0000");
        assert_eq!(owner, "alice\n");
    }
}
