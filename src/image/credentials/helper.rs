//! Credential helpers: programs `docker-credential-NAME` that get, store and erase. Secrets pass through pipes only.

use super::{Credential, Secret, password_or_token};
use crate::error::{Context, Error, Result};
use serde::Deserialize;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Helpers may ask the user something; longer than this they hang.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_ANSWER: u64 = 1 << 20;

fn program(name: &str) -> Result<String> {
    let fine = !name.is_empty()
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    match fine {
        true => Ok(format!("docker-credential-{name}")),
        false => Err(Error::new(format!(
            "`{name}` is not a name of a credential helper"
        ))),
    }
}

/// Whether the program is in PATH.
pub fn exists(name: &str) -> bool {
    let Ok(program) = program(name) else {
        return false;
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(&program).is_file())
}

pub fn get(name: &str, server: &str) -> Result<Option<Credential>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Username", default)]
        user: String,
        #[serde(rename = "Secret", default)]
        secret: String,
    }
    let (ok, output) = run(name, "get", server)?;
    if !ok {
        let said = output.reveal().trim();
        if said.contains("credentials not found") || said.contains("no credentials") {
            return Ok(None);
        }
        return Err(failed(name, "get", said));
    }
    let mut answer: Answer = serde_json::from_str(output.reveal())
        .map_err(|_| failed(name, "get", "its answer is not what helpers say"))?;
    let secret = Secret::new(std::mem::take(&mut answer.secret));
    if secret.reveal().is_empty() {
        return Ok(None);
    }
    Ok(Some(password_or_token(&answer.user, secret.reveal())))
}

pub fn store(name: &str, server: &str, user: &str, secret: &Secret) -> Result<()> {
    let json =
        serde_json::json!({"ServerURL": server, "Username": user, "Secret": secret.reveal()});
    let input = Secret::new(json.to_string());
    match run(name, "store", input.reveal())? {
        (true, _) => Ok(()),
        (false, output) => Err(failed(name, "store", output.reveal().trim())),
    }
}

pub fn erase(name: &str, server: &str) -> Result<()> {
    match run(name, "erase", server)? {
        (true, _) => Ok(()),
        (false, output) => Err(failed(name, "erase", output.reveal().trim())),
    }
}

fn failed(name: &str, verb: &str, said: &str) -> Error {
    let said: String = said.chars().take(300).collect();
    Error::new(format!("the credential helper `{name}` cannot {verb}")).cause(said)
}

/// Runs the helper; whether it succeeded, and what it wrote.
fn run(name: &str, verb: &str, input: &str) -> Result<(bool, Secret)> {
    let program = program(name)?;
    let what = || format!("cannot run the credential helper `{program}`");
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            Error::new(what())
                .source(error)
                .hint("docker's `config.json` names it under `credHelpers` or `credsStore`")
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input has its reasons; its answer counts.
        let _ = stdin.write_all(input.as_bytes());
    }
    let stdout = child.stdout.take().or_say(what)?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.take(MAX_ANSWER).read_to_string(&mut text);
        // The other side may have lost patience.
        let _ = sender.send(read.map(|_| Secret::new(text)));
    });
    let end = Instant::now() + PATIENCE;
    let output = receiver.recv_timeout(PATIENCE);
    loop {
        if let Some(status) = child.try_wait().or_say(what)? {
            let output = output.or_say(what)?.or_say(what)?;
            return Ok((status.success(), output));
        }
        if output.is_err() || Instant::now() >= end {
            // It is gone or will be: nothing else to do about a failure here.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::new(what()).cause(format!(
                "it did not end within {} seconds",
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
