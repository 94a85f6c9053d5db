//! What Slurm's accounts say of jobs that its controller has forgotten.
//!
//! A site need not keep accounts: without them sacct fails, and nothing is known here. They know states well and codes
//! badly: 139 is told as 11, that of a cancelled job as 0. Deliberately absent: steps, which our own records have.

use super::queue::{Status, codes, run, time};
use crate::error::Result;

/// The jobs with these numbers, and each job of an array.
pub fn of(ids: &[&str]) -> Result<Vec<Status>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids = ids.join(",");
    let output = run(
        "sacct",
        &[
            "--noheader",
            "--parsable2",
            "--allocations",
            "--format=JobID,State,ExitCode,Start,End,NodeList,Partition",
            "--jobs",
            &ids,
        ],
    )?;
    if !output.status.success() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Status> {
    let fields: Vec<&str> = line.trim().split('|').collect();
    let [id, state, code, start, end, nodes, partition] = fields.as_slice() else {
        return None;
    };
    let (exit_code, signal) = codes(code);
    Some(Status {
        id: id.to_string(),
        state: state.split(' ').next().unwrap_or_default().to_string(),
        start: time(start),
        end: time(end),
        nodes: if nodes.starts_with("None") {
            String::new()
        } else {
            nodes.to_string()
        },
        partition: partition.to_string(),
        exit_code,
        signal,
        from_accounts: true,
        ..Status::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What sacct of Slurm 22.05.8 printed for jobs of each kind.
    const PRINTED: &str = "\
1|COMPLETED|0:0|2026-11-21T15:29:48|2026-11-21T15:29:48|n1|main
3|FAILED|7:0|2026-11-21T15:30:04|2026-11-21T15:30:05|n1|main
5|CANCELLED by 4101|0:0|2026-11-21T15:30:04|2026-11-21T15:30:07|n1|main
7_2|FAILED|1:0|2026-11-21T15:30:05|2026-11-21T15:30:06|n1|main
10|FAILED|11:0|2026-11-21T15:36:03|2026-11-21T15:36:06|n1|main
13|RUNNING|0:0|2026-11-21T15:36:05|Unknown|n1|main
";

    #[test]
    fn what_sacct_prints() {
        let found: Vec<Status> = PRINTED.lines().filter_map(parse).collect();
        let told: Vec<_> = found
            .iter()
            .map(|status| (status.id.as_str(), status.state.as_str(), status.code()))
            .collect();
        assert_eq!(
            told,
            [
                ("1", "COMPLETED", 0),
                ("3", "FAILED", 7),
                ("5", "CANCELLED", 1),
                ("7_2", "FAILED", 1),
                ("10", "FAILED", 11),
                ("13", "RUNNING", 1),
            ]
        );
        let running = found.last().expect("a job");
        assert_eq!((running.end.as_str(), running.nodes.as_str()), ("", "n1"));
        assert_eq!(parse("nonsense"), None);
    }
}
