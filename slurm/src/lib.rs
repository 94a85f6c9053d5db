//! What carrack knows about Slurm's text: job file → sbatch script, `SLURM_*` variables → step facts.
//!
//! Pure text in, text out. Deliberately absent: containers (the `[container]` table is uninterpreted pairs here), files,
//! processes, the environment of this process.

// What comes from outside ends in an error, never in a panic. Test code is free to insist.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod document;
pub mod edf;
pub mod job;
pub mod nearest;
pub mod options;
pub mod quote;
pub mod script;
pub mod step;
pub mod time_limit;
pub mod values;
