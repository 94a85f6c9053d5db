//! One row for each state, and one job whole.

use super::*;
use crate::jobs::run_record::{Image, Input};

fn known(state: &str, exit_code: Option<i32>, record: Option<&RunRecord>) -> Value {
    let submission = Submission {
        id: "17".into(),
        name: "clone".into(),
        submitted: "2026-01-31T12:00:00Z".into(),
        digest: Some("sha256:abc".into()),
        ..Submission::default()
    };
    let status = Status {
        state: state.into(),
        exit_code,
        ..Status::default()
    };
    job(&Known {
        submission: &submission,
        status: &status,
        record,
        console: "said",
        now: seconds_of("2026-01-31T12:01:40Z").unwrap(),
    })
}

fn record(end: &str, exit_code: i32) -> RunRecord {
    let label = |key: &str, value: &str| (format!("eudat.gef.service.{key}"), value.to_string());
    RunRecord {
        start: "2026-01-31T12:00:10Z".into(),
        end: end.into(),
        image: Some(Image {
            labels: [
                label("output.3.path", "/out"),
                label("output.3.name", "copy"),
                label("output.4.path", "/more"),
            ]
            .into(),
            ..Image::default()
        }),
        inputs: vec![
            Input {
                path: "/h/inputs/1/".into(),
                port: "input0".into(),
                ..Input::default()
            },
            Input {
                path: "/of/a/stage".into(),
                ..Input::default()
            },
        ],
        steps: vec![Step {
            name: "run".into(),
            exit_code,
            ..Step::default()
        }],
        ..RunRecord::default()
    }
}

#[test]
fn states() {
    let failed = |code: u8| format!("Service failed (exitCode = {code})");
    for (state, code, status, error, number) in [
        ("PENDING", None, "Created".to_string(), String::new(), -1),
        (
            "RUNNING",
            None,
            "Executing the service".into(),
            "".into(),
            -1,
        ),
        (
            "COMPLETED",
            Some(0),
            "Ended successfully".into(),
            "".into(),
            0,
        ),
        ("FAILED", Some(7), failed(7), failed(7), 1),
        (
            "TIMEOUT",
            Some(0),
            "Job execution timeout exceeded".into(),
            "Job execution timeout exceeded".into(),
            1,
        ),
        (
            "CANCELLED by 1000",
            Some(0),
            failed(1),
            "CANCELLED".into(),
            1,
        ),
        (
            "OUT_OF_MEMORY",
            Some(137),
            failed(137),
            "OUT_OF_MEMORY".into(),
            1,
        ),
        ("", None, "Unknown".into(), "".into(), -1),
    ] {
        let expected = json!({ "Status": status, "Error": error, "Code": number });
        assert_eq!(known(state, code, None)["State"], expected, "{state}");
    }
}

#[test]
fn a_job_whole() {
    let done = record("2026-01-31T12:00:40Z", 7);
    let expected = json!({
        "ID": "17", "ConnectionID": 0, "ServiceID": "abc", "Created": "2026-01-31T12:00:00Z", "Duration": 30,
        "State": {
            "Status": "Service failed (exitCode = 7)", "Error": "Service failed (exitCode = 7)", "Code": 1,
        },
        "InputVolume": [{ "VolumeID": "/h/inputs/1/", "Name": "input0" }],
        "OutputVolume": [{ "VolumeID": "17", "Name": "copy" }, { "VolumeID": "17", "Name": "output1" }],
        "Tasks": [{
            "ID": "17.0", "Name": "run", "ContainerID": "", "SwarmServiceID": "", "Error": "exitCode = 7",
            "ExitCode": 7, "ConsoleOutput": "said",
        }],
    });
    assert_eq!(known("FAILED", Some(7), Some(&done)), expected);
    let running = record("", 0);
    assert_eq!(known("RUNNING", None, Some(&running))["Duration"], 90);
    // Killed before it could note anything.
    let killed = known("TIMEOUT", Some(0), None);
    assert_eq!(killed["Tasks"][0]["ConsoleOutput"], "said");
    assert_eq!(killed["Tasks"][0]["ExitCode"], 1);
    assert_eq!(known("PENDING", None, None)["Tasks"], json!([]));
}
