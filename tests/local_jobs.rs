//! `carrack submit --local`: a job file runs here, without Slurm, and is a job like others afterwards.

use crate::scene::Scene;

const PREPARE: &str = "[job]\nname = 'prepare'\n[[stage]]\nout = '$TMPDIR/made'\nto = 'made'\n\
    [[step]]\nname = 'make'\ncontainer = false\nshell = 'echo good > $TMPDIR/made; exit ${CODE:-0}'\n";
const USE: &str = "[job]\nname = 'use'\nafter = ['prepare']\n\
    [[step]]\nname = 'read'\ncontainer = false\nshell = 'cat $CARRACK_AFTER_PREPARE/made'\n";

fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.write("work/prepare.toml", PREPARE);
    scene.write("work/use.toml", USE);
    let state = scene.path("state");
    scene.env("XDG_STATE_HOME", state);
    scene
}

#[test]
fn one_after_the_other_and_looked_at_afterwards() {
    let scene = scene();
    let ran = scene.run(["submit", "--local", "prepare.toml", "use.toml"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "good\n"), "{}", ran.err);
    // The directory on the node's own disk is gone, the results are not.
    assert_eq!(std::fs::read_dir(scene.path("tmp")).unwrap().count(), 0);

    let listed = scene.run(["ps"]).out;
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().skip(1).take(2).collect())
        .collect();
    let expected = [["use", "COMPLETED"], ["prepare", "COMPLETED"]];
    assert_eq!(rows, expected, "{listed}");
    assert_eq!(scene.run(["wait", "use"]).code, 0);
    assert_eq!(scene.run(["outputs", "prepare", "made"]).out, "good\n");
    let record = scene.run(["record", "use"]).out;
    assert!(
        record.contains("\nstep      read ended with 0: "),
        "{record}"
    );
    let logs = scene.run(["logs", "use"]);
    assert!(
        logs.code == 2
            && logs
                .err
                .contains("it ran without Slurm and wrote to the terminal"),
        "{}",
        logs.err
    );

    // A job of an earlier command is as good as one of the same.
    let again = scene.run(["submit", "--local", "use.toml"]);
    assert_eq!(
        (again.code, again.out.as_str()),
        (0, "good\n"),
        "{}",
        again.err
    );
}

#[test]
fn what_failed_or_never_ran_is_not_built_upon() {
    let mut scene = scene();
    let never = scene.run(["submit", "--local", "use.toml"]);
    assert_eq!(never.code, 2, "{}", never.out);
    let told = "error: `use.toml:3` waits for `prepare`, which was never submitted\n";
    assert!(never.err.starts_with(told), "{}", never.err);

    scene.env("CODE", "3");
    let failed = scene.run(["submit", "--local", "prepare.toml", "use.toml"]);
    assert_eq!(
        (failed.code, failed.out.as_str()),
        (3, ""),
        "{}",
        failed.err
    );
    assert_eq!(scene.run(["wait", "prepare"]).code, 3);
    let stopped = scene.run(["submit", "--local", "use.toml"]);
    assert_eq!(stopped.code, 125, "{}", stopped.out);
    let told = "error: `use.toml:3` waits for `prepare`, which is FAILED\n";
    assert!(stopped.err.starts_with(told), "{}", stopped.err);
}

#[test]
fn the_tasks_of_an_array_run_one_after_the_other() {
    let scene = scene();
    let shell =
        "echo $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT; exit $((SLURM_ARRAY_TASK_ID == 4))";
    scene.write(
        "work/many.toml",
        format!("[job]\nname = 'many'\narray = '2-6:2%1'\n[[step]]\nname = 's'\ncontainer = false\nshell = '{shell}'\n"),
    );
    let ran = scene.run(["submit", "--local", "many.toml"]);
    let expected = (1, "2 of 3\n4 of 3\n6 of 3\n");
    assert_eq!((ran.code, ran.out.as_str()), expected, "{}", ran.err);
    assert!(ran.err.contains("one after the other"), "{}", ran.err);

    let listed = scene.run(["ps"]).out;
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    let [(first, "COMPLETED"), (_, "FAILED"), (last, "COMPLETED")] =
        [0, 1, 2].map(|row| (rows[row][0], rows[row][2]))
    else {
        panic!("{listed}");
    };
    assert!(first.ends_with("_2") && last.ends_with("_6"), "{listed}");
    assert_eq!(scene.run(["wait", "many"]).code, 1);
    assert_eq!(scene.run(["wait", first]).code, 0);
    let record = scene.run(["record", last]);
    assert!(
        record.out.contains("\nstep      s ended with 0: "),
        "{}",
        record.err
    );
    let whole = scene.run(["record", "many"]);
    let hint = format!("hint:  name one of its tasks: {first} … {last}\n");
    assert!(
        whole.code == 2 && whole.err.contains(&hint),
        "{}",
        whole.err
    );
    let logs = scene.run(["logs", "many"]);
    assert!(logs.err.contains("wrote to the terminal"), "{}", logs.err);
}

#[test]
fn an_interrupt_is_for_the_script_that_brings_results_home() {
    use nix::sys::signal::{Signal, killpg};
    use std::os::unix::process::CommandExt;
    let scene = scene();
    let shell = "trap \"sleep 1; echo late > $TMPDIR/made; exit 0\" TERM; touch began; while :; do sleep 0.1; done";
    scene.write(
        "work/slow.toml",
        PREPARE.replace("echo good > $TMPDIR/made; exit ${CODE:-0}", shell),
    );
    // Its own group, as a shell with a terminal would make it.
    let mut command = scene.command(["submit", "--local", "slow.toml"]);
    let mut child = command.process_group(0).spawn().unwrap();
    for _ in 0..300 {
        if scene.path("work/began").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(scene.path("work/began").exists());
    killpg(
        nix::unistd::Pid::from_raw(child.id() as i32),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let made = std::fs::read_to_string(scene.path("work/made"));
    assert_eq!(made.unwrap(), "late\n");
}

#[test]
fn a_directory_that_takes_no_record_is_told_once() {
    use std::os::unix::fs::PermissionsExt;
    let scene = scene();
    let allow = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(scene.path("work"), mode).unwrap();
    };
    scene.write(
        "work/plain.toml",
        "[job]\nname = 'plain'\n[[step]]\nname = 's'\ncontainer = false\nshell = 'echo done'\n",
    );
    allow(0o555);
    let ran = scene.run(["submit", "--local", "plain.toml"]);
    allow(0o755);
    assert_eq!((ran.code, ran.out.as_str()), (0, "done\n"), "{}", ran.err);
    assert_eq!(ran.err.matches("error: ").count(), 1, "{}", ran.err);
    assert!(
        ran.err.contains("hint:  the job goes on without a record"),
        "{}",
        ran.err
    );
    let listed = scene.run(["ps", "plain"]).out;
    assert!(listed.contains(" COMPLETED"), "{listed}");
    let record = scene.run(["record", "plain"]).err;
    assert!(record.contains("could not be written"), "{record}");
}
