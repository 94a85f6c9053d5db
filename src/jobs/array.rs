//! What `--array` says → the tasks of the array, for runs without Slurm, which otherwise reads it.

use crate::error::{Error, Result};

/// More than any Slurm can be configured to take.
const MOST: usize = 4_000_001;

/// `1-4%2`, `0-8:4`, `1,3,7-9`; how many may run at once does not matter here.
pub fn tasks(spec: &str) -> Result<Vec<u32>> {
    let wrong = || {
        Error::usage(format!("`--array={spec}` names no tasks"))
            .hint("write numbers and ranges: `1-4`, `0-8:4`, `1,3,7-9`")
    };
    let list = spec.split('%').next().unwrap_or(spec);
    let mut found = Vec::new();
    for part in list.split(',') {
        let (range, step) = part.split_once(':').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let (Some(first), Some(last), Some(step)) = (number(first), number(last), number(step))
        else {
            return Err(wrong());
        };
        if step == 0 || first > last || (last as usize) >= MOST {
            return Err(wrong());
        }
        found.extend((first..=last).step_by(step as usize));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The variables that Slurm gives to one task of an array.
pub fn variables(job: u32, task: u32, tasks: &[u32]) -> [(&'static str, String); 6] {
    let (first, last) = (tasks.first(), tasks.last());
    // Of numbers that are no range Slurm says 1.
    let step = match tasks {
        [first, second, ..] => second - first,
        _ => 1,
    };
    let even = tasks.windows(2).all(|two| two[1] - two[0] == step);
    [
        ("SLURM_ARRAY_JOB_ID", job.to_string()),
        ("SLURM_ARRAY_TASK_ID", task.to_string()),
        ("SLURM_ARRAY_TASK_COUNT", tasks.len().to_string()),
        ("SLURM_ARRAY_TASK_MIN", first.unwrap_or(&task).to_string()),
        ("SLURM_ARRAY_TASK_MAX", last.unwrap_or(&task).to_string()),
        (
            "SLURM_ARRAY_TASK_STEP",
            if even { step } else { 1 }.to_string(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges() {
        for (spec, expected) in [
            ("1-4%2", Some(vec![1, 2, 3, 4])),
            ("0-8:4", Some(vec![0, 4, 8])),
            ("7-9,3,1,8", Some(vec![1, 3, 7, 8, 9])),
            ("5", Some(vec![5])),
            ("", None),
            ("4-1", None),
            ("1-4:0", None),
            ("a", None),
            ("1-4294967295", None),
        ] {
            assert_eq!(tasks(spec).ok(), expected, "{spec}");
        }
    }

    #[test]
    fn what_a_task_is_told() {
        let told = |tasks: &[u32]| -> String {
            let values = variables(77, tasks[1], tasks).map(|(_, value)| value);
            values.join(" ")
        };
        assert_eq!(told(&[0, 4, 8]), "77 4 3 0 8 4");
        assert_eq!(told(&[1, 3, 7]), "77 3 3 1 7 1");
    }
}
