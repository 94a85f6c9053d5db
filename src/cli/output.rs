//! Standard output of the commands. A reader that went away (`carrack images | head -1`) ends the command silently with
//! the code that a shell gives to SIGPIPE.

use crate::error::{Context, Result};
use std::io::{ErrorKind, Write};

/// 128 + SIGPIPE.
const PIPE_CLOSED: i32 = 141;

/// Writes text to standard output.
pub fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to standard output: file names need not be UTF-8.
pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(PIPE_CLOSED),
        done => done.or_say(|| "cannot write to standard output"),
    }
}

/// Standard output for those who write a stream of their own; see [`end_if_closed`].
pub fn stream() -> impl Write {
    std::io::stdout().lock()
}

/// Ends the command silently when the error is that the reader of the stream went away.
pub fn end_if_closed<T>(result: Result<T>) -> Result<T> {
    if let Err(error) = &result {
        let closed = |cause: &String| cause.ends_with("(os error 32)");
        if error.causes().iter().any(closed) {
            std::process::exit(PIPE_CLOSED);
        }
    }
    result
}

/// Writes a value as indented JSON and a newline.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).or_say(|| "cannot form the JSON output")?;
    text.push('\n');
    print(&text)
}

/// Writes names, which a stranger may have chosen, one per line or as JSON.
pub fn print_names(names: &[String], json: bool) -> Result<()> {
    if json {
        return print_json(&names);
    }
    let lines = names
        .iter()
        .map(|name| crate::error::printable(&name.replace('\n', "\\n")) + "\n");
    print(&lines.collect::<String>())
}
