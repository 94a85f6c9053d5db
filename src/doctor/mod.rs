//! What this node can do for carrack, found by trying: one line for each finding, with cause and remedy.
//!
//! `probes` does the calls that a launch would do, each in a process of its own; `explain` turns their answers into words and
//! is pure. Deliberately absent: kernel versions. Enterprise kernels carry features of later ones, so only a call tells.

pub mod explain;
pub mod hardware;
pub mod probes;

use serde::Serialize;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Something works worse, or not in all cases.
    Warn,
    /// Images cannot be started, or not kept.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// Short and stable, for programs: `user-namespace`, `fuse-device`, …
    pub subject: &'static str,
    pub text: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cause: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Finding {
    pub fn ok(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding {
            level: Level::Ok,
            subject,
            text: text.into(),
            cause: String::new(),
            remedy: String::new(),
        }
    }

    pub fn warn(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding {
            level: Level::Warn,
            ..Finding::ok(subject, text)
        }
    }

    pub fn fail(subject: &'static str, text: impl Into<String>) -> Finding {
        Finding {
            level: Level::Fail,
            ..Finding::ok(subject, text)
        }
    }

    pub fn cause(mut self, cause: impl Into<String>) -> Finding {
        self.cause = cause.into();
        self
    }

    pub fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(out, "{level}  {:<15} {}", self.subject, self.text)?;
        if !self.cause.is_empty() {
            write!(out, "; cause: {}", self.cause)?;
        }
        if !self.remedy.is_empty() {
            write!(out, "; remedy: {}", self.remedy)?;
        }
        Ok(())
    }
}
