//! One error for everything a person reads: what was attempted, the causes, and the hint that fixes it.
//!
//! Engines add context once, at the layer that loops; nothing here prints except [`Error::print`], which only the
//! fronts call. Typed errors exist beside this one only where a caller decides on them.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// What carrack's own failures mean to a shell. A command that ran gives its own code, 128+N for a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command line or an input file is wrong.
    Usage = 2,
    /// carrack could not do what was asked.
    Failed = 125,
    /// The command exists in the image but cannot be executed.
    NotExecutable = 126,
    /// The command does not exist in the image.
    NotFound = 127,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure in the user's terms.
pub struct Error {
    what: String,
    causes: Vec<String>,
    hints: Vec<String>,
    exit: Exit,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure described in one line: what was attempted, with names in backticks.
    pub fn new(what: impl Into<String>) -> Self {
        Error {
            what: what.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            exit: Exit::Failed,
            source: None,
        }
    }

    /// A mistake in what the user typed or wrote.
    pub fn usage(what: impl Into<String>) -> Self {
        Error {
            exit: Exit::Usage,
            ..Error::new(what)
        }
    }

    /// A file that somebody named cannot be read. One that is not there is a mistake in what was typed; else it is this
    /// machine's failure.
    pub fn unread(what: &str, path: &Path, error: io::Error) -> Self {
        let told = Error::new(format!("cannot read {what} `{}`", path.display()));
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if path.is_relative() => told
                .source(error)
                .exit(Exit::Usage)
                .hint("a relative path begins in the directory that carrack was started in"),
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory => told
                .source(error)
                .exit(Exit::Usage)
                .hint("is it the right path, and is its file system here on this machine?"),
            _ => told.source(error),
        }
    }

    /// Adds why it failed, innermost last.
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Adds what the user can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Keeps the typed error for a caller that decides on it; its text becomes a cause.
    pub fn source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let mut next: Option<&dyn std::error::Error> = Some(&source);
        while let Some(error) = next {
            let text = error.to_string();
            // Wrapping errors often repeat the text of what they wrap.
            if !self.causes.last().is_some_and(|last| last.contains(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self.source = Some(Box::new(source));
        self
    }

    /// Puts a wider statement in front; the former one becomes the first cause.
    pub fn while_doing(mut self, what: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.what, what.into());
        self.causes.insert(0, inner);
        self
    }

    pub fn what(&self) -> &str {
        &self.what
    }

    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    pub fn kind(&self) -> Exit {
        self.exit
    }

    /// The typed error inside, if it is a `T`.
    pub fn downcast_ref<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.source.as_ref()?.downcast_ref()
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }

    /// Writes the error to standard error as people see it.
    pub fn print(&self) {
        use std::io::Write;
        // A closed stderr is no reason to panic.
        let _ = write!(std::io::stderr().lock(), "{self}");
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "error: {}", printable(&self.what))?;
        for cause in &self.causes {
            writeln!(out, "  cause: {}", printable(cause))?;
        }
        for hint in &self.hints {
            writeln!(out, "  hint:  {}", printable(hint))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Why the kernel refused a thread, and what to do about it.
pub fn cannot_start(refused: std::io::Error) -> Error {
    Error::new("cannot start a thread")
        .source(refused)
        .hint("there are limits on processes (`ulimit -u`, `pids.max` of a cgroup) and on memory; `conversion.threads` takes fewer")
}

/// Names come from images, registries and other users: control characters must not reach a terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// Turns any error into ours with a statement of what was attempted.
pub trait Context<T> {
    fn or_say<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn or_say<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::new(what()).source(error))
    }
}

impl<T> Context<T> for Option<T> {
    fn or_say<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.ok_or_else(|| Error::new(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_what_causes_and_hint() {
        let missing = std::io::Error::from_raw_os_error(2);
        let error = Error::new("cannot open `/dev/fuse`")
            .source(missing)
            .hint("run `carrack doctor`");
        assert_eq!(
            error.to_string(),
            "error: cannot open `/dev/fuse`\n  cause: No such file or directory (os error 2)\n  hint:  run `carrack doctor`\n"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_a_mistake() {
        let rows = [
            (2, "in.txt", Exit::Usage, "a relative path"),
            (2, "/in.txt", Exit::Usage, "is it the right path"),
            (20, "/in.txt", Exit::Usage, "is it the right path"),
            (21, "/in", Exit::Usage, "is it the right path"),
            (5, "in.txt", Exit::Failed, ""),
        ];
        for (number, path, exit, hint) in rows {
            let error = Error::unread(
                "the list",
                Path::new(path),
                io::Error::from_raw_os_error(number),
            );
            assert_eq!(error.what(), format!("cannot read the list `{path}`"));
            assert_eq!((error.kind(), error.causes().len()), (exit, 1), "{error}");
            let told = error.hints().concat();
            assert!(
                told.starts_with(hint) && told.is_empty() == hint.is_empty(),
                "{error}"
            );
        }
    }

    #[test]
    fn control_characters_of_hostile_names_are_escaped() {
        assert_eq!(
            Error::new("bad name `\u{1b}[2Jx`").to_string(),
            "error: bad name `\\u{1b}[2Jx`\n"
        );
    }

    #[test]
    fn a_wider_statement_keeps_the_inner_one() {
        let error = Error::new("inner").cause("why").while_doing("outer");
        assert_eq!(
            (error.what(), error.causes()),
            ("outer", &["inner".to_string(), "why".to_string()][..])
        );
    }
}
