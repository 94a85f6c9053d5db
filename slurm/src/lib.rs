//! What carrack knows about Slurm's text: job file → sbatch script, `SLURM_*` variables → step facts.
//!
//! Pure text in, text out. Deliberately absent: containers (the `[container]` table is uninterpreted pairs here), files,
//! processes, the environment of this process.

pub mod document;
pub mod edf;
pub mod job;
pub mod nearest;
pub mod options;
pub mod quote;
pub mod script;
pub mod step;
