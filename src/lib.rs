//! carrack: from an OCI image in a registry to a running Slurm job step.
//!
//! # Words (one word per idea)
//! *reference* what the user types · *manifest*, *layer* as in OCI · *pack* one layer, converted once · *image* one
//! squashfs file and its *record* · *store* where images live · *request* what was asked · *facts* what the node is ·
//! *plan* ordered *steps* · *capsule* the namespaces that the tasks of one step share on one node · *profile* a named
//! set of site rules.
//!
//! # Floors (imports point down, or sideways inside one folder)
//! ```text
//!  3  fronts    main.rs  cli/                                      (spank/ is a package of its own)
//!  2  engines   image/ {source, store, pull}  pack/  squashfs/ {write, read}    launch/ {execute, capsule, fuse, probe}
//!  1  plans     image/ {reference, manifest, tree}                 launch/ {options, request, plan, step, mounts, environment, devices}
//!  0  ground    error  config  record  elf  squashfs/{format, integrity}     sys/ (all unsafe of this crate)     (inflate/ and slurm/ likewise)
//! ```
//! Floor 1 touches nothing: no file, process, environment or network. `image` and `launch` do not know each other; the
//! [`record`] is the only bridge. `tests/floors.rs` reads the `use` lines and reports a crossing.

// What comes from outside ends in an error, never in a panic. Test code is free to insist.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod config;
pub mod elf;
pub mod error;
pub mod handover;
pub mod record;

#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "image")]
pub mod pack;
#[cfg(feature = "squashfs")]
pub mod squashfs;

#[cfg(feature = "cli")]
pub mod cli;

#[cfg(feature = "cli")]
pub mod doctor;

#[cfg(feature = "image")]
pub mod fronts;

pub mod launch;

#[cfg(feature = "cli")]
pub mod jobs;

#[allow(unsafe_code)]
pub mod sys;
