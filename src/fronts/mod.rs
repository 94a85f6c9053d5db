//! Other systems' command lines, translated into ours.
//!
//! The binary answers to the names of the commands that people of those systems type (`ces-run`, `shifter`, `jobman` …).
//! A translation is a function from their words to the words of a `carrack` command: it touches nothing, and what it makes
//! goes through the same door as anything typed by hand, so no rule of a site is asked here. What has no meaning here is
//! refused by name. `cli/fronts/` reads the files that such a command line names, and runs the result.

pub mod ces;
pub mod docker;
pub mod jobman;
pub mod shifter;
mod words;

pub use words::{Flag, Takes, Word, lines_of_words, read};

/// The names that the binary answers to beside its own.
pub const NAMES: &[&str] = &[
    "ces-pull",
    "ces-run",
    "ces-gpu-run",
    "ces-pm-run",
    "shifter",
    "shifterimg",
    "jobman",
];

/// `--name=value` as one word of ours.
pub fn option(name: &str, value: &str) -> String {
    format!("--{name}={value}")
}
