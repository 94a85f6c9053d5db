//! Jobs in the words of GEF's interface, for programs that were written for it: pure, from what the journal, Slurm and the
//! record know.
//!
//! A volume here is a directory: its id is the job's number for outputs, which `carrack outputs ID [NAME] --json` lists, and
//! the path for inputs. What GEF has and this does not (connections, Swarm) is 0 or empty.

use super::journal::Submission;
use super::queue::{Phase, Status};
use super::run_record::{RunRecord, Step};
use crate::image::store::seconds_of;
use crate::launch::ports::Service;
use serde_json::{Value, json};

/// All that is known of one job.
pub struct Known<'a> {
    pub submission: &'a Submission,
    pub status: &'a Status,
    pub record: Option<&'a RunRecord>,
    /// The end of what it wrote.
    pub console: &'a str,
    /// Seconds since 1970.
    pub now: u64,
}

pub fn job(known: &Known<'_>) -> Value {
    let Known {
        submission,
        status,
        record,
        ..
    } = known;
    let digest = submission.digest.as_deref().unwrap_or_default();
    let inputs = record.iter().flat_map(|record| &record.inputs);
    let inputs = inputs.filter(|input| !input.port.is_empty());
    let labels = record.and_then(|record| Some(&record.image.as_ref()?.labels));
    let outputs = labels
        .and_then(Service::read)
        .map(|service| service.outputs);
    let outputs = outputs.unwrap_or_default();
    let output_name = |port: &crate::launch::ports::Port| match port.name.as_str() {
        "" => port.id.clone(),
        name => name.to_string(),
    };
    json!({
        "ID": submission.id,
        "ConnectionID": 0,
        "ServiceID": digest.strip_prefix("sha256:").unwrap_or(digest),
        "Created": submission.submitted,
        "Duration": duration(known),
        "State": state(status),
        "InputVolume": inputs
            .map(|input| json!({ "VolumeID": input.path, "Name": input.port }))
            .collect::<Vec<_>>(),
        "OutputVolume": outputs
            .iter()
            .map(|port| json!({ "VolumeID": submission.id, "Name": output_name(port) }))
            .collect::<Vec<_>>(),
        "Tasks": tasks(known),
    })
}

/// GEF's words for what became of it; the code is -1 until it has ended, then 0 or 1.
fn state(status: &Status) -> Value {
    let failed = || format!("Service failed (exitCode = {})", status.code());
    let word = status.state.split([' ', '+']).next().unwrap_or_default();
    let (said, error, code) = match (status.phase(), word) {
        (Phase::Waiting, _) => ("Created".to_string(), String::new(), -1),
        (Phase::Running, _) => ("Executing the service".to_string(), String::new(), -1),
        (Phase::Succeeded, _) => ("Ended successfully".to_string(), String::new(), 0),
        (Phase::Failed, "TIMEOUT" | "DEADLINE") => {
            let said = "Job execution timeout exceeded".to_string();
            (said.clone(), said, 1)
        }
        (Phase::Failed, "FAILED") => (failed(), failed(), 1),
        (Phase::Failed, word) => (failed(), word.to_string(), 1),
        (Phase::Unknown, _) => ("Unknown".to_string(), String::new(), -1),
    };
    json!({ "Status": said, "Error": error, "Code": code })
}

/// Seconds from its start to its end, or to now.
fn duration(known: &Known<'_>) -> u64 {
    let moment = |text: &str| seconds_of(text);
    let Some(record) = known.record else { return 0 };
    let Some(start) = moment(&record.start) else {
        return 0;
    };
    moment(&record.end)
        .unwrap_or(match known.status.phase().is_over() {
            true => start,
            false => known.now,
        })
        .saturating_sub(start)
}

/// The steps. All of them write to one log, which the last one shows.
fn tasks(known: &Known<'_>) -> Vec<Value> {
    let steps = known.record.map(|record| record.steps.as_slice());
    let steps = steps.unwrap_or_default();
    let over = known.status.phase().is_over();
    // One that was ended from outside could not note its own end.
    let ended = Step {
        name: known.submission.name.clone(),
        exit_code: known.status.code().into(),
        ..Step::default()
    };
    let unnoted = over && steps.is_empty();
    let steps: Vec<&Step> = steps.iter().chain(unnoted.then_some(&ended)).collect();
    let last = steps.len().saturating_sub(1);
    let task = |(number, step): (usize, &&Step)| {
        let error = match step.exit_code {
            0 => String::new(),
            code => format!("exitCode = {code}"),
        };
        json!({
            "ID": format!("{}.{number}", known.submission.id),
            "Name": step.name,
            "ContainerID": "",
            "SwarmServiceID": "",
            "Error": error,
            "ExitCode": step.exit_code,
            "ConsoleOutput": if number == last { known.console } else { "" },
        })
    };
    steps.iter().enumerate().map(task).collect()
}

#[cfg(test)]
#[path = "gef_tests.rs"]
mod tests;
