//! Tables of what Slurm's commands print and what we make of it.

use super::*;

#[test]
fn phases_of_slurms_states() {
    let rows = [
        ("PENDING", Phase::Waiting),
        ("RUNNING", Phase::Running),
        ("COMPLETING", Phase::Running),
        ("COMPLETED", Phase::Succeeded),
        ("FAILED", Phase::Failed),
        ("TIMEOUT", Phase::Failed),
        ("CANCELLED by 1000", Phase::Failed),
        ("CANCELLED+", Phase::Failed),
        ("OUT_OF_MEMORY", Phase::Failed),
        ("NODE_FAIL", Phase::Failed),
        ("SOMETHING_NEW", Phase::Unknown),
    ];
    for (state, phase) in rows {
        assert_eq!(Phase::of(state), phase, "{state}");
    }
}

#[test]
fn scontrol_with_a_name_that_imitates_keys() {
    let line = "JobId=7 JobName=x JobState=COMPLETED ExitCode=0:0 UserId=alice(4101) GroupId=alice(4101) MCS_label=N/A \
                Priority=1 Nice=0 Account=(null) QOS=(null) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) \
                Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=9:0 RunTime=00:00:01 StartTime=2026-11-21T09:15:47 \
                EndTime=Unknown Partition=main NodeList=n[1-2] BatchHost=n1 Command=/h/x y.sh WorkDir=/h StdErr=/h/a b.out \
                StdIn=/dev/null StdOut=/h/a b.out Power= ";
    let status = parse_scontrol(line).expect("a job");
    assert_eq!(
        status,
        Status {
            id: "7".to_string(),
            state: "FAILED".to_string(),
            reason: "NonZeroExitCode".to_string(),
            nodes: "n[1-2]".to_string(),
            start: "2026-11-21T09:15:47".to_string(),
            end: String::new(),
            exit_code: Some(9),
            signal: 0,
            output: Some("/h/a b.out".to_string()),
            partition: "main".to_string(),
            from_accounts: false,
        }
    );
    assert_eq!(status.code(), 9);
}

#[test]
fn squeue_lines() {
    let waiting = parse_squeue("12_[0-9%4]|PENDING|Resources|N/A|N/A|main|").expect("a job");
    assert_eq!(
        (
            waiting.id.as_str(),
            waiting.reason.as_str(),
            waiting.start.as_str()
        ),
        ("12_[0-9%4]", "Resources", "")
    );
}

#[test]
fn codes_of_jobs() {
    let with = |state: &str, exit_code, signal| Status {
        state: state.to_string(),
        exit_code,
        signal,
        ..Status::default()
    };
    let rows = [
        (with("COMPLETED", Some(0), 0), 0),
        (with("FAILED", Some(7), 0), 7),
        (with("FAILED", Some(0), 9), 137),
        // Slurm says 0:0 for a job that was cancelled while it waited, and for some time limits.
        (with("CANCELLED", Some(0), 0), 1),
        (with("TIMEOUT", Some(0), 0), 1),
        (with("NODE_FAIL", None, 0), 128),
    ];
    for (status, code) in rows {
        assert_eq!(status.code(), code, "{status:?}");
    }
}

#[test]
fn an_array_runs_while_one_of_its_jobs_does() {
    let with = |id: &str, state: &str| Status {
        id: id.to_string(),
        state: state.to_string(),
        ..Status::default()
    };
    let found = summary(vec![
        with("5_1", "COMPLETED"),
        with("5_2", "RUNNING"),
        with("5_3", "FAILED"),
    ]);
    assert_eq!(found.map(|status| status.id), Some("5_2".to_string()));
    let found = summary(vec![with("5_1", "COMPLETED"), with("5_3", "FAILED")]);
    assert_eq!(found.map(|status| status.id), Some("5_3".to_string()));
}

#[test]
fn time_is_used_up() {
    let rows = [
        ("00:01:02", "00:01:00", true),
        ("00:00:30", "00:01:00", false),
        ("1-00:00:00", "1-00:00:00", true),
        ("00:10:00", "UNLIMITED", false),
    ];
    for (run, limit, expected) in rows {
        let line = format!(
            "JobId=1 JobName=RunTime=99:00:00 UserId=a(1) RunTime={run} TimeLimit={limit} TimeMin=N/A"
        );
        assert_eq!(used_up(&line), expected, "{run} {limit}");
    }
}

#[test]
fn only_numbers_are_asked_for() {
    for good in ["1", "123_4"] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in ["", "-1", "1;2", "1_", "_1", "all", "99999999999"] {
        assert!(check_id(bad).is_err(), "{bad}");
    }
}

#[test]
fn mpi_types_and_architectures() {
    let text = "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4,pmix_v5\n";
    assert_eq!(
        parse_mpi_types(text),
        ["pmix", "none", "pmi2", "pmix_v4", "pmix_v5"]
    );
    assert_eq!(
        parse_mpi_types("srun: MPI types are...\nsrun: pmi2\nsrun: none\n"),
        ["pmi2", "none"]
    );
    let nodes = "NodeName=n1 Arch=x86_64 Partitions=main,short \nNodeName=g1 Arch=aarch64 Partitions=arm \n";
    assert_eq!(parse_architectures(nodes, Some("arm")), ["aarch64"]);
    assert_eq!(parse_architectures(nodes, None), ["x86_64", "aarch64"]);
}
