//! The launch half: a request and a record become a plan, and the plan becomes a process inside the image.
//!
//! `plan` and what it uses (`options`, `request`, `mounts`, `identity`, `environment`, `devices`, `passwd`) touch nothing:
//! the node comes in as [`facts::HostFacts`], which only `probe` fills. Whatever acts on the node is elsewhere in this folder.

pub mod broker;
pub mod bundle;
pub mod capsule;
pub mod cdi;
pub mod contract;
pub mod cuda;
pub mod default_mounts;
pub mod devices;
pub mod driver;
pub mod environment;
pub mod execute;
pub mod facts;
#[cfg(feature = "squashfs")]
pub mod fuse;
pub mod identity;
pub mod image_file;
pub mod inside;
pub mod layout;
pub mod library_cache;
mod loader;
pub mod mounts;
pub mod mpi;
pub mod options;
pub mod passwd;
pub mod plan;
pub mod ports;
pub mod probe;
pub mod profile;
pub mod request;
pub mod root;
mod serve_image;
pub mod sharing;
pub mod slurm_options;
pub mod spellings;
pub mod step;
