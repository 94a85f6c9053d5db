//! The integration tests: one binary, so that it links once.
//!
//! The bulk of the rules is tested in tables beside the code. Here stand the tests that need the whole binary, a
//! registry, another tool's opinion or the kernel's, and those that look at the repository itself. Modules named
//! `as_builder` need cargo, those named `as_root` need root; `scripts/test` runs them apart from the rest.

mod broken_machine;
mod budget;
mod capsule;
mod checking;
mod cli_images;
mod command_line;
mod corpus;
mod floors;
mod foreign;
mod golden;
mod gpu_inside;
mod hostile;
mod hot;
mod image;
mod installing;
mod large;
mod local_jobs;
mod mount_points;
mod mpi_inside;
mod need;
mod proxy;
mod pulling;
mod readme;

mod registry;
mod scene;
mod sites;
mod slurm;
mod starting;
mod store;
