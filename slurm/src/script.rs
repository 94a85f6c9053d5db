//! A job, with its image pinned and its container options spelled out → the bash script that sbatch is given.
//!
//! The text is what a careful person would write by hand: it can be read, changed and submitted without carrack's help.
//! Deliberately absent: any choice. What to run, with which options and which image, is decided before this.

mod functions;
mod lines;

use crate::job::{Direction, ImageOn, Run, Setting, Stage, StageOn, StepLauncher};
use crate::quote::{live, sbatch, word};
use functions::*;
use lines::{wrapped, write_array};
use std::fmt::Write;

/// Everything that the script says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The job's name; it also begins the names of the log and the record.
    pub name: String,
    /// Who made the script, and from which file: `carrack 0.1.0 from wrf.toml`.
    pub made_by: String,
    /// What a reader should know, one line each.
    pub notes: Vec<String>,
    pub options: Vec<Setting>,
    pub components: Vec<Vec<Setting>>,
    /// The directory that holds `carrack`, if it is not on everybody's path.
    pub program_dir: Option<String>,
    /// The image by digest.
    pub image: Option<String>,
    /// Its file on the shared file system and the SHA-256 of that, for copies on the nodes.
    pub image_file: Option<(String, String)>,
    pub image_on: ImageOn,
    pub environment: Vec<(String, String)>,
    /// Options for the launcher, as words in which variables are live.
    pub container: Vec<String>,
    pub stages: Vec<Stage>,
    pub steps: Vec<ScriptStep>,
    /// Whether the launcher makes directories for the job that go when it ends.
    pub cleans_up: bool,
    /// Options for the record: under which rules the job runs.
    pub contract: Vec<String>,
    /// Whether jobs of an array run it.
    pub array: bool,
    pub runs_on: RunsOn,
}

/// Who runs the script.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunsOn {
    #[default]
    Slurm,
    /// This machine: one task per step, no queue.
    Here,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptStep {
    pub name: String,
    pub command: Run,
    pub launcher: StepLauncher,
    pub options: Vec<Setting>,
    pub environment: Vec<(String, String)>,
    pub container: InContainer,
}

/// What a step runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InContainer {
    No,
    /// The job's image and options.
    Same,
    /// An image of its own (or the job's) and all of its options.
    Own {
        image: Option<String>,
        options: Vec<String>,
    },
}

impl Script {
    /// The name of the job's files for `sbatch --output`, without ending; `%` in the job's name is not a pattern there.
    pub fn output_stem(name: &str, array: bool) -> String {
        let pattern = if array { "%A_%a" } else { "%j" };
        format!("{}-{pattern}", file_name(name).replace('%', "%%"))
    }

    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        self.header(out)?;
        self.setup(out)?;
        self.functions(out)?;
        self.body(out)
    }

    fn slurm(&self) -> bool {
        self.runs_on == RunsOn::Slurm
    }

    /// The job's number, with that of the task of an array.
    fn number(&self) -> &'static str {
        match (self.slurm(), self.array) {
            (true, true) => "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
            (true, false) => "$SLURM_JOB_ID",
            // Who runs the script by hand may say which task it is.
            (false, true) => "local-${SLURM_ARRAY_JOB_ID:-$$}_${SLURM_ARRAY_TASK_ID:-0}",
            (false, false) => "local-$$",
        }
    }

    /// A private directory on the nodes is made for copies only.
    fn scratch(&self) -> bool {
        !self.stages.is_empty() || self.copies_image()
    }

    fn copies_image(&self) -> bool {
        self.slurm() && self.image_on == ImageOn::Node && self.image_file.is_some()
    }

    /// Whether other nodes have such a directory too.
    fn every_node(&self) -> bool {
        self.scratch() && self.slurm() && !self.one_node()
    }

    fn header(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "#!/bin/bash")?;
        writeln!(
            out,
            "# {}: made by {}. Plain bash: read it, change it, submit it with {}.",
            one_line(&self.name),
            one_line(&self.made_by),
            if self.slurm() { "sbatch" } else { "bash" },
        )?;
        for note in &self.notes {
            writeln!(out, "# {}", one_line(note))?;
        }
        if self.slurm() {
            for (index, options) in std::iter::once(&self.options)
                .chain(&self.components)
                .enumerate()
            {
                if index > 0 {
                    writeln!(out, "#SBATCH hetjob")?;
                }
                for setting in options {
                    match &setting.value {
                        // The job file's parser refuses line breaks.
                        Some(value) => {
                            let value = sbatch(value)
                                .or_else(|| sbatch(&one_line(value)))
                                .unwrap_or_default();
                            writeln!(out, "#SBATCH --{}={value}", setting.name)?;
                        }
                        None => writeln!(out, "#SBATCH --{}", setting.name)?,
                    }
                }
            }
        }
        writeln!(out)
    }

    fn setup(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# Not -e: after a failed step the end of this script must still run, so each step is checked instead."
        )?;
        writeln!(out, "set -uo pipefail")?;
        if let Some(dir) = &self.program_dir {
            writeln!(out, "export PATH={}:$PATH", word(dir))?;
        }
        writeln!(
            out,
            "record=$PWD/{}-{}.json",
            word(&file_name(&self.name)),
            self.number()
        )?;
        if self
            .options
            .iter()
            .any(|setting| setting.name == "cpus-per-task")
            && self.slurm()
        {
            writeln!(
                out,
                "\n# srun does not take this over from sbatch by itself."
            )?;
            writeln!(out, "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")?;
        }
        if !self.environment.is_empty() {
            writeln!(out)?;
        }
        for (name, value) in &self.environment {
            writeln!(out, "export {name}={}", live(value))?;
        }
        if self.cleans_up {
            let job = match self.slurm() {
                true => "$SLURM_JOB_ID",
                false => "local-$$",
            };
            writeln!(
                out,
                "\n# The launcher names the job's own directories by it."
            )?;
            writeln!(out, "export CARRACK_JOB={job}")?;
        }
        if self.scratch() {
            writeln!(
                out,
                "\n# A directory of this job alone on {} disk; it goes when the job ends.",
                if self.slurm() {
                    "each node's own"
                } else {
                    "this machine's"
                }
            )?;
            let job = if self.slurm() {
                "$SLURM_JOB_ID"
            } else {
                "local-$$"
            };
            writeln!(out, "export TMPDIR=${{TMPDIR:-/tmp}}/carrack-{job}")?;
        }
        if let Some(image) = &self.image {
            writeln!(
                out,
                "\n# By digest: what was checked is what runs, wherever its tag points by then."
            )?;
            writeln!(out, "image={}", word(image))?;
            write_array(out, "container", &self.container_words())?;
        }
        writeln!(out)
    }

    /// The job's options, and the job's own directory under its own name.
    fn container_words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.container.iter().map(|option| live(option)).collect();
        if !self.stages.is_empty() {
            words.extend(["--bind".to_string(), "\"$TMPDIR\"".to_string()]);
        }
        words
    }

    fn functions(&self, out: &mut String) -> std::fmt::Result {
        if self.every_node() {
            out.push_str(EVERY_NODE);
        }
        if self.slurm() {
            out.push_str(OTHERS);
        }
        if self.every_node() {
            out.push_str(AWAIT_TASKS);
        }
        if !self.stages.is_empty() {
            out.push_str(COPY);
        }
        if self.outs().next().is_some() {
            out.push_str(BRING);
        }
        if self.scratch() {
            out.push_str(REMOVE);
        }
        if self.every_node() {
            self.keeper(out)?;
        }
        out.push_str(STEP);
        out.push_str(if self.slurm() { STOP } else { STOP_HERE });
        self.finish(out)?;
        out.push_str(TRAPS);
        Ok(())
    }

    /// The function that each other node runs until the job ends.
    fn keeper(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(KEEPER_HEAD);
        for stage in self.outs().filter(|stage| stage.on == StageOn::Every) {
            writeln!(out, "    {} || kept=$TMPDIR", self.copy_line(stage))?;
        }
        out.push_str(KEEPER_TAIL);
        Ok(())
    }

    fn outs(&self) -> impl Iterator<Item = &Stage> {
        self.stages
            .iter()
            .filter(|stage| stage.direction == Direction::Out)
    }

    fn finish(&self, out: &mut String) -> std::fmt::Result {
        out.push_str(FINISH_HEAD);
        if self.every_node() {
            writeln!(out, "    if [[ -n $keeper ]]; then")?;
            writeln!(
                out,
                "        if ((code)); then kill -USR2 \"$keeper\"; else kill -USR1 \"$keeper\"; fi 2>/dev/null"
            )?;
            writeln!(out, "    fi")?;
        }
        for stage in self.outs() {
            writeln!(out, "    {} || kept=$TMPDIR", self.copy_line(stage))?;
        }
        if self.outs().next().is_some() {
            writeln!(out, "    if [[ -n $kept ]]; then")?;
            writeln!(
                out,
                "        echo \"{}: not all results could be copied; they stay in $kept on $(hostname)\" >&2",
                echoable(&self.name)
            )?;
            writeln!(out, "    else")?;
            writeln!(out, "        remove \"$TMPDIR\"")?;
            writeln!(out, "    fi")?;
        } else if self.scratch() {
            writeln!(out, "    remove \"$TMPDIR\"")?;
        }
        if self.every_node() {
            writeln!(
                out,
                "    # One that was not ready has nothing, and its srun may wait for tasks that never start."
            )?;
            writeln!(
                out,
                "    [[ -z $prepared ]] || await \"$keeper\" || kept=$TMPDIR"
            )?;
        }
        if self.scratch() {
            writeln!(out, "    [[ -z $kept ]] || ((code)) || code=1")?;
        }
        if self.cleans_up {
            writeln!(out, "    carrack gc --quiet --job \"$CARRACK_JOB\"")?;
        }
        writeln!(
            out,
            "    carrack record finish \"$record\" --code \"$code\" --kept \"$kept\""
        )?;
        writeln!(out, "    exit \"$code\"\n}}\n")
    }

    /// Whether the job cannot have more than one node.
    fn one_node(&self) -> bool {
        let nodes = self
            .options
            .iter()
            .rev()
            .find(|setting| setting.name == "nodes");
        let tasks = self
            .options
            .iter()
            .any(|setting| setting.name.starts_with("ntasks"));
        self.components.is_empty()
            && nodes.map_or(!tasks, |setting| setting.value.as_deref() == Some("1"))
    }

    fn copy_line(&self, stage: &Stage) -> String {
        let (from, to) = (live(&stage.from), live(&stage.to));
        match (stage.on, stage.direction) {
            (StageOn::Every, Direction::In) if self.every_node() => format!(
                "attend \"${{every_node[@]}}\" bash -c \"$(declare -f copy)\"'; copy \"$1\" \"$2\"' - {from} {to}"
            ),
            (StageOn::Every, Direction::Out) if self.slurm() => {
                format!("bring {from} {to}/\"$SLURMD_NODENAME\"")
            }
            (_, Direction::Out) => format!("bring {from} {to}"),
            (_, Direction::In) => format!("copy {from} {to}"),
        }
    }

    fn body(&self, out: &mut String) -> std::fmt::Result {
        let image = if self.image.is_some() {
            " --image \"$image\""
        } else {
            ""
        };
        let read = self
            .stages
            .iter()
            .filter(|stage| stage.direction == Direction::In);
        let inputs: String = read
            .map(|stage| format!(" --input {}", live(&stage.from)))
            .collect();
        let outputs: String = self
            .outs()
            .map(|stage| format!(" --output {}", live(&stage.to)))
            .collect();
        // Until the end says otherwise: a script that is killed cannot.
        let kept = if outputs.is_empty() {
            ""
        } else {
            " --kept \"$TMPDIR\""
        };
        let local = match self.slurm() {
            true => String::new(),
            false => format!(" --local {} {}", self.number(), word(&self.name)),
        };
        let contract: String = self
            .contract
            .iter()
            .map(|w| format!(" {}", word(w)))
            .collect();
        writeln!(
            out,
            "carrack record start \"$record\" --script \"$0\"{image}{inputs}{outputs}{kept}{contract}{local}"
        )?;
        if self.scratch() {
            writeln!(out, "mkdir -p -m 700 -- \"$TMPDIR\" || exit")?;
        }
        if self.every_node() {
            out.push_str(START_KEEPER);
        }
        if self.copies_image() {
            self.broadcast(out)?;
        }
        let ins: Vec<&Stage> = self
            .stages
            .iter()
            .filter(|stage| stage.direction == Direction::In)
            .collect();
        if !ins.is_empty() {
            writeln!(out, "\n# Bring the input.")?;
        }
        for stage in ins {
            writeln!(out, "{} || exit", self.copy_line(stage))?;
        }
        for step in &self.steps {
            writeln!(out)?;
            self.step(out, step)?;
        }
        Ok(())
    }

    fn broadcast(&self, out: &mut String) -> std::fmt::Result {
        let Some((file, sha256)) = &self.image_file else {
            return Ok(());
        };
        writeln!(
            out,
            "\n# A copy of the image on each node's disk; should that fail, the shared file does."
        )?;
        writeln!(out, "file={}", word(file))?;
        writeln!(out, "if sbcast --force \"$file\" \"$TMPDIR/image.sqsh\" &&")?;
        writeln!(
            out,
            "    sbcast --force \"${{file%.sqsh}}.json\" \"$TMPDIR/image.json\" &&"
        )?;
        writeln!(
            out,
            "    {}sh -c 'echo \"$1  $2\" | sha256sum --check --status' - {} \"$TMPDIR/image.sqsh\"; then",
            if self.every_node() {
                "attend \"${every_node[@]}\" "
            } else {
                ""
            },
            word(sha256)
        )?;
        writeln!(out, "    image=$TMPDIR/image.sqsh")?;
        writeln!(out, "else")?;
        writeln!(
            out,
            "    echo \"{}: the image could not be copied to all nodes; using the shared file\" >&2",
            echoable(&self.name)
        )?;
        writeln!(out, "fi")
    }

    fn step(&self, out: &mut String, step: &ScriptStep) -> std::fmt::Result {
        let name = word(&file_name(&step.name));
        let mut words = vec!["step".to_string(), name.clone()];
        if !step.environment.is_empty() {
            words.push("env".to_string());
            let set = |(name, value): &(String, String)| format!("{name}={}", live(value));
            words.extend(step.environment.iter().map(set));
        }
        match step.launcher {
            StepLauncher::Srun if self.slurm() => {
                words.extend(["srun".to_string(), format!("--job-name={name}")]);
                let has = |name: &str| step.options.iter().any(|setting| setting.name == name);
                let single = |setting: &Setting| {
                    setting.name == "ntasks" && setting.value.as_deref() == Some("1")
                };
                // srun would warn that one task cannot run on all of the job's nodes.
                if step.options.iter().any(single) && !has("nodes") {
                    words.push("--nodes=1".to_string());
                }
                words.extend(step.options.iter().map(|setting| word(&setting.argument())));
            }
            StepLauncher::Mpirun => {
                words.push("mpirun".to_string());
                for setting in step
                    .options
                    .iter()
                    .filter(|setting| setting.name == "ntasks")
                {
                    words.extend([
                        "-n".to_string(),
                        word(setting.value.as_deref().unwrap_or("1")),
                    ]);
                }
            }
            StepLauncher::Srun | StepLauncher::Script => {}
        }
        match &step.container {
            InContainer::No => {}
            InContainer::Same => {
                words.extend(["carrack".to_string(), verb(step).to_string()]);
                if !self.container_words().is_empty() {
                    words.push("\"${container[@]}\"".to_string());
                }
                words.push("\"$image\"".to_string());
            }
            InContainer::Own { image, options } => {
                words.extend(["carrack".to_string(), verb(step).to_string()]);
                words.extend(options.iter().map(|option| live(option)));
                if !self.stages.is_empty() {
                    words.extend(["--bind".to_string(), "\"$TMPDIR\"".to_string()]);
                }
                words.push(
                    image
                        .as_ref()
                        .map_or("\"$image\"".to_string(), |image| word(image)),
                );
            }
        }
        let separator = (step.container != InContainer::No && step.command != Run::Image)
            .then(|| "--".to_string());
        words.extend(separator);
        match &step.command {
            Run::Words(command) => words.extend(command.iter().map(|argument| word(argument))),
            Run::Shell(line) => words.extend(["sh".to_string(), "-c".to_string(), word(line)]),
            Run::Image => {}
        }
        words.push("|| exit".to_string());
        out.push_str(&wrapped(&words));
        Ok(())
    }
}

/// `run` is for what the image runs by default.
fn verb(step: &ScriptStep) -> &'static str {
    if step.command == Run::Image {
        "run"
    } else {
        "exec"
    }
}

/// A comment that cannot leave its line.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Text inside double quotes of an `echo`.
fn echoable(text: &str) -> String {
    let keep = |c: char| c.is_alphanumeric() || " _-./:=@%+,".contains(c);
    text.chars()
        .map(|c| if keep(c) { c } else { '_' })
        .collect()
}

/// A job's name as the beginning of a file's name.
pub fn file_name(name: &str) -> String {
    let keep =
        |c: char| !c.is_control() && !c.is_whitespace() && !"/\\\"'`$*?[]{}()<>|&;!#~".contains(c);
    let safe: String = name
        .chars()
        .map(|c| if keep(c) { c } else { '_' })
        .take(80)
        .collect();
    match safe.trim_start_matches(['-', '.']) {
        "" => "job".to_string(),
        rest => rest.to_string(),
    }
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
