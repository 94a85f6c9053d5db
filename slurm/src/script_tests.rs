//! The whole text of one script, and what bash makes of hostile ones.

use super::*;
use proptest::prelude::*;
use std::process::{Command, Stdio};

fn setting(name: &'static str, value: &str) -> Setting {
    Setting {
        name,
        value: Some(value.to_string()),
        line: 1,
    }
}

fn step(name: &str, command: &[&str]) -> ScriptStep {
    ScriptStep {
        name: name.to_string(),
        command: Run::Words(command.iter().map(|word| word.to_string()).collect()),
        launcher: StepLauncher::Srun,
        options: Vec::new(),
        environment: Vec::new(),
        container: InContainer::Same,
    }
}

fn wrf() -> Script {
    Script {
        name: "wrf-fire".to_string(),
        made_by: "carrack 0.1.0 from wrf.toml".to_string(),
        options: vec![
            setting("job-name", "wrf-fire"),
            setting("nodes", "2"),
            setting(
                "output",
                &format!("{}.out", Script::output_stem("wrf-fire", false)),
            ),
        ],
        image: Some("docker://site.eu/wrf@sha256:12ab".to_string()),
        container: vec!["--bind".to_string(), "/work/project:/data:ro".to_string()],
        stages: vec![
            Stage {
                direction: Direction::In,
                from: "/work/in put".to_string(),
                to: "$TMPDIR/input".to_string(),
                on: StageOn::First,
                line: 1,
            },
            Stage {
                direction: Direction::Out,
                from: "$TMPDIR/out".to_string(),
                to: "/work/out".to_string(),
                on: StageOn::First,
                line: 1,
            },
        ],
        steps: vec![
            ScriptStep {
                options: vec![setting("ntasks", "1")],
                ..step("ideal", &["./ideal.exe"])
            },
            ScriptStep {
                options: vec![setting("mpi", "pmix")],
                environment: vec![("OMP_NUM_THREADS".to_string(), "2".to_string())],
                ..step("wrf", &["./wrf.exe", "it's"])
            },
            ScriptStep {
                container: InContainer::No,
                ..step("tidy", &["rm", "-f", "x y"])
            },
        ],
        ..Script::default()
    }
}

#[test]
fn the_whole_text() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/script_golden.sh");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, wrf().render()).expect("the golden file is written");
    }
    assert_eq!(
        wrf().render(),
        std::fs::read_to_string(golden).expect("the golden file")
    );
}

/// Runs a script with stand-ins for srun and carrack that write down their arguments.
fn run(script: &Script, stand_in: &str) -> (Option<i32>, String) {
    let dir = tempdir();
    let text = script.render();
    let prelude = format!(
        "SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=1 SLURMD_NODENAME=n1 TMPDIR={dir}/tmp\n\
         srun() {{ while [[ ${{1:-}} == -* ]]; do shift; done; \"$@\"; }}\n{stand_in}\n",
        dir = dir.display()
    );
    // What is replaced by srun needs a program; a step's stand-in for carrack is a function.
    let program = dir.join("srun");
    std::fs::write(
        &program,
        "#!/bin/bash\nwhile [[ ${1:-} == -* ]]; do shift; done\nexec \"$@\"\n",
    )
    .expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("executable");
    let output = Command::new("bash")
        .args(["--norc", "-c", &format!("{prelude}{text}")])
        .current_dir(&dir)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", dir.display()))
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let _ = std::fs::remove_dir_all(&dir);
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(
        &String::from_utf8_lossy(&output.stderr).replace(&dir.display().to_string(), "DIR"),
    );
    (output.status.code(), said)
}

fn tempdir() -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let dir = std::env::temp_dir().join(format!(
        "carrack-script-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}

/// What the stand-in for carrack prints: the command's words after `--`, NUL-terminated; `record` is silent.
const PRINT: &str = "carrack() { [[ $1 == record ]] && return; while [[ $1 != -- ]]; do shift; done; shift; printf '%s\\0' \"$@\"; }";

#[test]
fn a_failing_step_ends_the_job_and_results_still_come_home() {
    let mut script = wrf();
    let dir = tempdir();
    script.stages = vec![Stage {
        direction: Direction::Out,
        from: "$TMPDIR/out".to_string(),
        to: dir.join("home").display().to_string(),
        on: StageOn::First,
        line: 1,
    }];
    let stand_in = "carrack() { [[ $1 == record ]] && { [[ $2 == finish ]] && echo \"${@:4}\"; return; }; echo result >\"$TMPDIR/out\"; return 9; }";
    let (code, said) = run(&script, stand_in);
    assert_eq!(code, Some(9), "{said}");
    assert_eq!(said, "--code 9 --kept \n");
    assert_eq!(
        std::fs::read_to_string(dir.join("home")).expect("a result"),
        "result\n"
    );
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_signal_during_a_step_still_brings_results_home() {
    let mut script = wrf();
    let dir = tempdir();
    script.stages = vec![Stage {
        direction: Direction::Out,
        from: "$TMPDIR/out".to_string(),
        to: dir.join("home").display().to_string(),
        on: StageOn::First,
        line: 1,
    }];
    // The step signals the script as Slurm would, and then goes on for longer than any test.
    let stand_in = "carrack() { [[ $1 == record ]] && return; echo half >\"$TMPDIR/out\"; kill -TERM $$; exec sleep 1000; }";
    let (code, said) = run(&script, stand_in);
    assert_eq!(code, Some(143), "{said}");
    assert_eq!(
        std::fs::read_to_string(dir.join("home")).expect("a result"),
        "half\n"
    );
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn results_that_cannot_be_copied_stay_and_the_job_fails() {
    let mut script = wrf();
    script.stages.remove(0);
    script.stages[0].to = "/proc/no/such".to_string();
    script.steps.truncate(1);
    let (code, said) = run(
        &script,
        "carrack() { [[ $1 == record ]] && return; :>\"$TMPDIR/out\"; }",
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(
            "wrf-fire: not all results could be copied; they stay in DIR/tmp/carrack-7 on "
        ),
        "{said}"
    );
}

#[test]
fn an_input_that_cannot_be_copied_is_named() {
    let mut script = wrf();
    script.stages.truncate(1);
    script.stages[0].from = "/no/such".to_string();
    let (code, said) = run(&script, "carrack() { :; }");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("the [[stage]] from /no/such to DIR/tmp/carrack-7/"),
        "{said}"
    );
}

#[test]
fn names_of_files() {
    let rows = [
        ("wrf-fire", "wrf-fire"),
        ("a b/c", "a_b_c"),
        ("../x", "_x"),
        ("", "job"),
        ("ü", "ü"),
        ("-x", "x"),
    ];
    for (name, expected) in rows {
        assert_eq!(file_name(name), expected);
    }
    assert_eq!(Script::output_stem("50%j", true), "50%%j-%A_%a");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn commands_arrive_exactly(
        name in "(\\PC|[$'\"`\\\\\n%#]){1,12}",
        words in prop::collection::vec("(\\PC|[\\x01-\\x7f]|[$'\"`\\\\!#~*?(){}%\n\t ]){0,12}", 1..6),
        line in "(\\PC|[\\x01-\\x7f]){0,12}",
        value in "(\\PC|[\"`'\\\\\n ]){0,12}",
    ) {
        prop_assume!(!value.contains('$'));
        let first = ScriptStep {
            command: Run::Words(words.clone()),
            environment: vec![("CARRACK_TEST".to_string(), value.clone())],
            ..step(&name, &[])
        };
        let script = Script {
            name: name.clone(),
            made_by: line.clone(),
            notes: vec![line.clone()],
            image: Some(line.clone()),
            container: vec!["--env".to_string(), format!("A={value}")],
            environment: vec![("CARRACK_JOB".to_string(), value.clone())],
            steps: vec![
                ScriptStep { environment: Vec::new(), ..first },
                ScriptStep { command: Run::Shell(line.clone()), ..step("other", &[]) },
            ],
            ..Script::default()
        };
        let stand_in = "carrack() { [[ $1 == record ]] && return; printf '%s\\0' \"$CARRACK_JOB\" \"$@\"; }";
        let (code, said) = run(&script, stand_in);
        let mut expected = Vec::new();
        for command in [&words[..], &["sh".to_string(), "-c".to_string(), line.clone()][..]] {
            expected.extend([value.clone(), "exec".to_string(), "--env".to_string(), format!("A={value}"), line.clone(), "--".to_string()]);
            expected.extend(command.iter().cloned());
        }
        let expected: String = expected.iter().map(|word| format!("{word}\0")).collect();
        prop_assert_eq!((code, said), (Some(0), expected), "{}", script.render());
    }
}

#[test]
fn variables_are_expanded_where_the_job_runs() {
    let mut script = wrf();
    script.stages.clear();
    script.environment = vec![("HERE".to_string(), "$SLURM_JOB_ID/$(no)".to_string())];
    script.steps = vec![step("one", &["$SLURM_JOB_ID"])];
    let (code, said) = run(&script, &format!("{PRINT}\ntrap 'echo $HERE' USR1"));
    assert_eq!((code, said.as_str()), (Some(0), "$SLURM_JOB_ID\0"));
    assert!(
        script
            .render()
            .contains("export HERE=\"$SLURM_JOB_ID/\\$(no)\"\n")
    );
}

/// Slurm's signal and the script's own often come within milliseconds of each other.
#[test]
fn a_second_signal_does_not_end_what_the_first_one_started() {
    use functions::{FINISH_HEAD, KEEPER_HEAD, KEEPER_TAIL};
    let meets_another = "remove() { sh -c 'kill -TERM $$; echo removed'; }\nawait_tasks() { :; }\n";
    for script in [
        format!("{KEEPER_HEAD}{KEEPER_TAIL}sleep 100 >/dev/null &\nleave_node 143"),
        format!("running=\n{FINISH_HEAD}    remove\n}}\ntrap finish EXIT"),
    ] {
        let output = Command::new("bash")
            .args(["--norc", "-c", &format!("{meets_another}{script}")])
            .env("TMPDIR", "/nowhere")
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "removed\n",
            "{script}"
        );
    }
}
