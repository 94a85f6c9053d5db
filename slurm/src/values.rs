//! The values that nearly every job has, as Slurm writes them: so that a slip is told with its line, also where no Slurm is.
//!
//! A form that any Slurm from 22.05 on takes is taken here; what is unsure is passed on, for sbatch to say. Deliberately
//! absent: whether the cluster has so many nodes, or gives so much time.

use crate::time_limit::minutes;

/// What a value should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Behind `is`: `a number of nodes`.
    pub what: &'static str,
    pub hint: &'static str,
}

/// The form that the value of this option of sbatch or srun has not; none where it is fine or nobody here can tell.
pub fn mistaken(option: &str, value: &str) -> Option<Form> {
    let (fine, form): (fn(&str) -> bool, Form) = match option {
        "time" | "time-min" => (is_time, TIME),
        "mem" | "mem-per-cpu" | "mem-per-gpu" | "tmp" => (is_size, SIZE),
        "nodes" => (is_nodes, NODES),
        "array" => (is_array, ARRAY),
        "ntasks" | "ntasks-per-node" | "cpus-per-task" => (is_number, NUMBER),
        _ => return None,
    };
    // Some of Slurm's parsers skip spaces.
    (!fine(value.trim())).then_some(form)
}

const TIME: Form = Form {
    what: "a time",
    hint: "write minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES, for instance `90`, `1:30:00` or `2-12:00`",
};
const SIZE: Form = Form {
    what: "a size",
    hint: "write a number with K, M, G or T, for instance `4G`; a number alone is in megabytes",
};
const NODES: Form = Form {
    what: "a number of nodes",
    hint: "write `4`, or `2-4` for two at least and four at most",
};
const ARRAY: Form = Form {
    what: "a list of indices",
    hint: "write `0-15`, `1,3,5-7`, `0-15:4` for each fourth, or `0-15%4` for four at a time",
};
const NUMBER: Form = Form {
    what: "a number",
    hint: "write digits alone, for instance `4`",
};

fn is_time(text: &str) -> bool {
    // Slurm's own number for no limit is -1.
    let endless = ["unlimited", "infinite", "-1"];
    endless.contains(&text.to_ascii_lowercase().as_str()) || minutes(text).is_some()
}

/// Slurm's megabytes may have a `B` behind the letter.
fn is_size(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let unit = unit.to_ascii_uppercase();
    text.starts_with(|c: char| c.is_ascii_digit())
        && matches!(
            unit.strip_suffix('B').unwrap_or(&unit),
            "" | "K" | "M" | "G" | "T" | "P"
        )
        && unit != "B"
}

/// `2`, `2-4`, and since 23.02 also `1,2,4` and `4-16:4`.
fn is_nodes(text: &str) -> bool {
    let count = |text: &str| is_number(text.trim_end_matches(['k', 'K', 'm', 'M']));
    text.split(',').all(|sizes| {
        let (range, step) = sizes.split_once(':').unwrap_or((sizes, "1"));
        let (least, most) = range.split_once('-').unwrap_or((range, range));
        count(least) && count(most) && count(step)
    })
}

fn is_array(text: &str) -> bool {
    // The brackets that squeue prints are taken too, and a comma too many is none.
    let mut parts = text.split(',').filter(|part| !part.is_empty()).peekable();
    parts.peek().is_some()
        && parts.all(|part| {
            let (indices, at_once) = part.split_once('%').unwrap_or((part, "1"));
            let indices = indices.trim_start_matches('[').trim_end_matches(']');
            let (range, step) = indices.split_once(':').unwrap_or((indices, "1"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            [first, last, step, at_once.trim_end_matches(']')]
                .into_iter()
                .all(is_number)
        })
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sbatch_takes_is_taken() {
        // Asked of sbatch 22.05, but for the sizes of a job, which are newer, and the arrays, which only the controller reads.
        let rows = [
            (
                "time",
                "0 30 1:2 1:60:00 1:90 1-2 1-2:3 1-2:3:4 0-0:0:90 1- unlimited INFINITE -1 99999999999",
            ),
            ("time-min", "10"),
            ("mem", "0 4 4K 4k 4M 4G 4T 4MB 4GB 4Gb 4KB"),
            ("mem-per-cpu", "0 4G"),
            ("tmp", "20G"),
            ("nodes", "0 2 2-4 1k 1K 1m 1M 1k-2k +2 0-4 1,2,4 4-16:4"),
            (
                "array",
                "0 7 0-15 1,3,5-7 0-15:4 0-15%4 1-3,7%2 0-100:10%2 [1-3] [1-3]%2 [1-3%2] 1,3,",
            ),
            ("ntasks", "1 +2 128"),
            ("cpus-per-task", "4"),
            ("partition", "anything -1"),
        ];
        for (option, values) in rows {
            for value in values.split(' ') {
                assert_eq!(mistaken(option, value), None, "{option}={value}");
            }
        }
        assert_eq!(mistaken("nodes", " 2 "), None);
    }

    #[test]
    fn what_sbatch_refuses_is_refused() {
        let rows = [
            (
                "time",
                "1:60:00x :30 1: 1::2 1-2:3:4:5 1:2:3:4 5m 1h 1.5 infin -5 -1:00 soon",
            ),
            ("mem", "4X 4GiB 4.5G -1 -4G 1.5 G 4b 4E B GB"),
            ("nodes", "two -1 -3 2- 2x 2.5 2, 2-4-6 k"),
            ("array", "1- -3 two 1..3 1-3:x 1-3:-1 1-3%x , [ % 0x3"),
            ("ntasks", "two -1 1k 2.5 1,2"),
            ("cpus-per-task", "2-4"),
        ];
        for (option, values) in rows {
            for value in values.split(' ') {
                assert!(mistaken(option, value).is_some(), "{option}={value}");
            }
        }
        for option in ["time", "mem", "nodes", "array", "ntasks"] {
            assert!(mistaken(option, "").is_some(), "{option}");
        }
    }
}
