//! Files and directories that a job copies before its first step.

use super::{Finding, note, problem};
use crate::jobs::assemble;
use carrack_slurm::job::{Direction, Job};
use carrack_slurm::quote::variables;
use std::path::Path;

/// Those that are not here.
pub fn missing(job: &Job, here: &Path) -> Vec<Finding> {
    // The script sets these itself.
    let own = |name: &&str| *name == "TMPDIR" || job.environment.iter().any(|(own, _)| own == name);
    let waits = !job.after.is_empty() || job.option("dependency").is_some();
    let mut found = Vec::new();
    for stage in &job.stages {
        let from = assemble::here(&stage.from);
        if stage.direction == Direction::Out
            || variables(&stage.from).iter().any(own)
            // With a default.
            || from.contains("${")
            || assemble::is_unknown(Path::new(&from))
            || here.join(&from).exists()
        {
            continue;
        }
        let what = format!("`{from}`, which is to be copied, does not exist here");
        found.push(match waits {
            true => note(
                stage.line,
                what,
                "fine if the job that this one waits for makes it",
            ),
            false => problem(
                stage.line,
                what,
                "if only the compute nodes have it, submit with `--force`",
            ),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::super::tests::job;
    use super::*;

    #[test]
    fn an_input_that_is_not_there() {
        let here = tempfile::tempdir().expect("a directory");
        std::fs::write(here.path().join("input"), "").expect("written");
        let rows = [
            ("", "in='/nosuch'", Some(Weight::Problem)),
            ("", "in='input'", None),
            ("", "in='other'", Some(Weight::Problem)),
            ("after=['prepare']", "in='/nosuch'", Some(Weight::Note)),
            ("dependency='afterok:7'", "in='/nosuch'", Some(Weight::Note)),
            // What only the job knows.
            ("", "in='$CARRACK_SURELY_NOT_SET/a'", None),
            ("", "in='${A:-/tmp}/nosuch'", None),
            ("", "in='$TMPDIR/nosuch'", None),
            ("", "in='$PATH/nosuch'", Some(Weight::Problem)),
            ("", "in='$HOME/nosuch'", None),
            ("", "out='/nosuch'", None),
        ];
        for (options, stage, expected) in rows {
            let job = job(&format!(
                "[job]\nnodes=1\n{options}\n[env]\nHOME='/h'\n[container]\nimage='a'\n[[stage]]\nto='x'\n{stage}\n"
            ));
            let found = missing(&job, here.path());
            let told: Vec<Weight> = found.iter().map(|finding| finding.weight).collect();
            assert_eq!(
                told,
                expected.into_iter().collect::<Vec<_>>(),
                "{options} {stage}"
            );
        }
    }
}
