//! Programs of the site that are asked before a job is submitted and before something starts, and told when a job ends.
//!
//! They run as the user, with nothing of his environment, from `/`, for a limited time, and get one JSON document on
//! standard input. Exit code 0 allows; what they print is shown to the user. Any other end denies, and so does silence
//! beyond the time: a decision that was not made is no permission.

use crate::config::{Settings, load, trusted};
use crate::error::{Context, Error, Result, printable};
use crate::jobs::assemble::Assembled;
use crate::launch::capsule::once_per_step;
use crate::launch::plan::Found;
use crate::launch::probe;
use crate::launch::profile::Profile;
use crate::launch::request::Request;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A pipe takes this much without anybody reading.
const MAX_DOCUMENT: usize = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Submit,
    Start,
    End,
}

impl Event {
    fn word(self) -> &'static str {
        match self {
            Event::Submit => "submit",
            Event::Start => "start",
            Event::End => "end",
        }
    }
}

/// Asks the hook of an event, if the site has one.
pub fn ask(settings: &Settings, event: Event, document: Value) -> Result<()> {
    let hooks = &settings.config.hooks;
    let program = match event {
        Event::Submit => &hooks.submit,
        Event::Start => &hooks.start,
        Event::End => &hooks.end,
    };
    let Some(program) = program else {
        return Ok(());
    };
    let word = event.word();
    let failed = |error: Error| error.while_doing(format!("cannot ask the site's `hooks.{word}`"));
    let key = format!("hooks.{word}");
    let owner = load::owner_of(settings.origin(&key));
    trusted::program(Path::new(program), owner).map_err(failed)?;
    let mut text = whole(event, document).to_string();
    if text.len() > MAX_DOCUMENT {
        return Err(failed(
            Error::new("there is too much to say")
                .cause(format!("{} bytes, more than {MAX_DOCUMENT}", text.len())),
        ));
    }
    text.push('\n');
    let patience = Duration::from_secs(hooks.timeout);
    let (status, said) = run(program, text.as_bytes(), patience).map_err(failed)?;
    let said = printable(said.trim());
    match status {
        Some(status) if status.success() => {
            if !said.is_empty() {
                eprintln!("{said}");
            }
            Ok(())
        }
        Some(status) => Err(denied(event)
            .cause(match said.is_empty() {
                true => format!("`{program}` ended with {status}"),
                false => said,
            })
            .cause(format!("the site decides by `{key}`"))),
        None => Err(denied(event).cause(format!(
            "`{program}` gave no answer in {} s (`hooks.timeout`)",
            hooks.timeout
        ))),
    }
}

fn denied(event: Event) -> Error {
    Error::usage(match event {
        Event::Submit => "the site does not allow this job",
        Event::Start => "the site does not allow this start",
        Event::End => "the site's end of a job failed",
    })
}

/// What every document says.
fn whole(event: Event, document: Value) -> Value {
    let words = probe::words(&probe::caller());
    let mut whole = json!({
        "schema": 1,
        "event": event.word(),
        "user": words.user,
        "uid": rustix::process::geteuid().as_raw(),
        "node": probe::node_name(),
        "account": std::env::var("SLURM_JOB_ACCOUNT").ok(),
    });
    if let (Some(into), Value::Object(more)) = (whole.as_object_mut(), document) {
        into.extend(more);
    }
    whole
}

/// Runs a program to its end, or to the end of patience. No thread is started: a capsule may be entered after this.
fn run(program: &str, input: &[u8], patience: Duration) -> Result<(Option<ExitStatus>, String)> {
    let end = Instant::now() + patience;
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .or_say(|| format!("cannot start `{program}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not want to read may still decide.
        let _ = stdin.write_all(input);
    }
    let said = child
        .stdout
        .take()
        .map(|output| probe::read_for(output, patience));
    let status = wait(&mut child, end);
    let said = said.unwrap_or_default();
    let shown = said.get(..4096).unwrap_or(&said);
    Ok((status, String::from_utf8_lossy(shown).into_owned()))
}

fn wait(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => break,
        }
    }
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
    None
}

/// Before a job is submitted.
pub fn submit(settings: &Settings, assembled: &Assembled) -> Result<()> {
    let images = assembled.images.iter().map(|image| {
        let stored = image.stored.as_ref();
        json!({
            "reference": image.reference,
            "digest": stored.map(|stored| stored.digest.to_string()),
            "labels": stored.map(|stored| stored.record.config.labels.clone()),
        })
    });
    let steps = assembled
        .steps
        .iter()
        .map(|step| json!({ "name": step.step.name, "command": words_of(&step.step.command) }));
    let contract = &assembled.contract;
    ask(
        settings,
        Event::Submit,
        json!({
            "job": { "name": assembled.script.name },
            "profile": contract.profile,
            "project": contract.project,
            "datasets": contract.datasets,
            "images": images.collect::<Vec<_>>(),
            "steps": steps.collect::<Vec<_>>(),
        }),
    )
}

fn words_of(run: &carrack_slurm::job::Run) -> Vec<String> {
    match run {
        carrack_slurm::job::Run::Image => Vec::new(),
        carrack_slurm::job::Run::Words(words) => words.clone(),
        carrack_slurm::job::Run::Shell(line) => vec!["sh".into(), "-c".into(), line.clone()],
    }
}

/// Before something starts: by the first task of a step on each node, or by whoever is alone.
pub fn start(
    settings: &Settings,
    request: &Request,
    profile: &Profile,
    found: &Found,
    project: Option<&str>,
) -> Result<()> {
    if settings.config.hooks.start.is_none() {
        return Ok(());
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let command = request.command.iter();
    let document = json!({
        "job": { "id": variable("SLURM_JOB_ID"), "step": variable("SLURM_STEP_ID"), "name": variable("SLURM_JOB_NAME") },
        "profile": profile.name,
        "project": project,
        "datasets": request.datasets,
        "images": [{
            "reference": found.record.reference,
            "digest": found.record.manifest_digest,
            "labels": found.record.config.labels,
        }],
        "steps": [{ "command": command.map(|word| word.to_string_lossy()).collect::<Vec<_>>() }],
    });
    match (variable("SLURM_JOB_ID"), variable("SLURM_STEP_ID")) {
        (Some(job), Some(step)) => once_per_step(&job, &step, "hook", || {
            ask(settings, Event::Start, document).map(|()| b"allowed".to_vec())
        })
        .map(|_| ()),
        _ => ask(settings, Event::Start, document),
    }
}
