//! Jobs: from a job file or a command line to a script in Slurm's queue, and what became of it.
//!
//! The texts are `carrack-slurm`'s; this module looks at files, the store and Slurm's commands. Deliberately absent:
//! printing, which is the fronts' part.

pub mod accounts;
pub mod array;
pub mod assemble;
pub mod check;
pub mod crate_export;
pub mod environment;
pub mod files;
pub mod gef;
pub mod journal;
pub mod outputs;
pub mod queue;
pub mod run_record;
pub mod signature;
pub mod site_records;
pub mod words;
