//! Rows for the job file: what is understood, and what each mistake says.

use super::*;

const WRF: &str = r#"
[job]
name = "wrf-fire"
nodes = 2
ntasks_per_node = 20
time = "01:00:00"
exclusive = true
hold = false
mail-type = ["END", "FAIL"]
after = ["prepare"]

[container]
image = "docker://registry.site.eu:5000/nwp/wrf:v2"
mounts = ["/work/project:/data:ro"]

[[stage]]
in  = "/work/project/input"
to  = "$TMPDIR/input"

[[step]]
name = "ideal"
ntasks = 1
command = ["./ideal.exe"]

[[step]]
mpi = "pmix"
shell = "./wrf.exe > log.$SLURM_PROCID"
container = { writable = true }

[[step]]
name = "tidy"
container = false
launcher = "none"
command = ["rm", "-f", "namelist.output"]
"#;

#[test]
fn the_whole_of_a_job_file() {
    let job = Job::parse(WRF).expect("it parses");
    let options: Vec<String> = job.options.iter().map(Setting::argument).collect();
    assert_eq!(
        options,
        [
            "--job-name=wrf-fire",
            "--nodes=2",
            "--ntasks-per-node=20",
            "--time=01:00:00",
            "--exclusive",
            "--mail-type=END,FAIL"
        ]
    );
    assert_eq!(
        job.after,
        [Text {
            text: "prepare".to_string(),
            line: 10
        }]
    );
    assert_eq!(
        job.container
            .as_ref()
            .map(|container| container.pairs.len()),
        Some(2)
    );
    assert_eq!(job.stages[0].to, "$TMPDIR/input");
    let steps: Vec<(&str, StepLauncher, &StepContainer)> = job
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.launcher, &step.container))
        .collect();
    assert_eq!(
        steps[0],
        ("ideal", StepLauncher::Srun, &StepContainer::Same)
    );
    assert_eq!((steps[1].0, steps[1].1), ("step2", StepLauncher::Srun));
    assert!(
        matches!(steps[1].2, StepContainer::Changed(changed) if changed.pairs[0].name == "writable")
    );
    assert_eq!(
        steps[2],
        ("tidy", StepLauncher::Script, &StepContainer::None)
    );
    assert_eq!(job.steps[1].options[0].argument(), "--mpi=pmix");
    assert_eq!(
        job.steps[1].command,
        Run::Shell("./wrf.exe > log.$SLURM_PROCID".to_string())
    );
}

#[test]
fn an_image_alone_is_a_job() {
    let job = Job::parse("[container]\nimage = 'alpine'\n").expect("it parses");
    assert!(job.steps.is_empty() && job.container.is_some());
}

#[test]
fn every_mistake_names_its_line_and_helps() {
    let image = "[container]\nimage='a'\n";
    let rows = [
        (
            "[job]\nntask = 3\n",
            "line 2: `ntask` is no option of sbatch",
            "did you mean `ntasks`?",
        ),
        (
            "[job]\nafer = 3\n",
            "line 2: `afer` is no option of sbatch",
            "did you mean `after`?",
        ),
        (
            "[job]\nmpi = 'pmix'\n",
            "line 2: `mpi` is no option of sbatch",
            "srun has it: put it under `[[step]]`",
        ),
        (
            "[job]\nwrap = 'x'\n",
            "line 2: `wrap` has no place in a job file",
            "commands go into `[[step]]`",
        ),
        (
            "[job]\nhold = 'x'\n",
            "line 2: `hold` takes no value: write `hold = true`",
            "",
        ),
        (
            "[job]\nname = \"a\\nb\"\n",
            "line 2: `name` has a line break, which no #SBATCH line can hold",
            "",
        ),
        (
            "[job]\nnodes = -1\n",
            "line 2: `nodes` is a number of nodes, not \"-1\"",
            "write `4`, or `2-4` for two at least and four at most",
        ),
        (
            "[[component]]\nmem = '4X'\n",
            "line 2: `mem` is a size, not \"4X\"",
            "write a number with K, M, G or T, for instance `4G`; a number alone is in megabytes",
        ),
        (
            "[[step]]\ncommand = ['x']\ntime = '1:60:00x'\n",
            "line 3: `time` is a time, not \"1:60:00x\"",
            "write minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES, for instance `90`, `1:30:00` or `2-12:00`",
        ),
        (
            "[jobs]\nname = 'x'\n",
            "line 1: unknown table `jobs`",
            "did you mean `[job]`?",
        ),
        (
            "nodes = 2\n",
            "line 1: unknown table `nodes`",
            "options of sbatch belong under `[job]`",
        ),
        (
            "[job]\nimage-on = 'x'\n",
            "line 2: `image-on` is \"shared\" or \"node\", not \"x\"",
            "",
        ),
        (
            "[[stage]]\nin = 'x'\n",
            "line 2: a `[[stage]]` needs `to`: where the copy goes",
            "",
        ),
        (
            "[[stage]]\nin = 'x'\nout = 'y'\n",
            "line 3: a `[[stage]]` has `in` or `out`, not both",
            "write one `[[stage]]` for each copy",
        ),
        (
            "[[step]]\nname = 's'\ncontainer=false\n",
            "line 2: step `s` has no `command`",
            "write `command = [\"./program\", \"argument\"]` or `shell = \"line for a shell\"`",
        ),
        (
            "[[step]]\ncommand = 'ls -l'\n",
            "line 2: `command` is a list of words",
            "write `command = [\"./program\", \"argument\"]`, or `shell = \"…\"` for a shell's line",
        ),
        (
            "[[step]]\narray = '1-3'\n",
            "line 2: `array` is no option of srun",
            "sbatch has it: put it under `[job]`",
        ),
        (
            "[[step]]\nlauncher = 'none'\nntasks = 2\ncommand=['x']\n",
            "line 3: `ntasks` is for srun, which does not start step `step1`",
            "",
        ),
        (
            "[[step]]\nname='a'\ncommand=['x']\n[[step]]\nname='a'\ncommand=['x']\n",
            "line 5: two steps are called `a`",
            "",
        ),
        (
            "[env]\n\"A B\" = 'x'\n",
            "line 2: `A B` is no name of a variable",
            "",
        ),
    ];
    for (text, what, hint) in rows {
        let mistake = Job::parse(&format!("{text}{image}")).expect_err(text);
        assert_eq!(mistake.to_string(), what, "{text}");
        assert_eq!(mistake.hint.unwrap_or_default(), hint, "{text}");
    }
    let mistake = Job::parse("[[step]]\ncommand=['x']\n").expect_err("no image");
    assert_eq!(
        mistake.to_string(),
        "line 2: step `step1` has no image: there is no `[container]`"
    );
}

#[test]
fn no_text_makes_it_panic() {
    for end in 0..WRF.len() {
        if let Some(text) = WRF.get(..end) {
            let _ = Job::parse(text);
        }
        let broken: String = WRF
            .chars()
            .enumerate()
            .filter(|(at, _)| *at != end)
            .map(|(_, c)| c)
            .collect();
        let _ = Job::parse(&broken);
    }
}
