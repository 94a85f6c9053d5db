//! The SPANK plugin: collects `--container-*` options and hands each task over to `carrack exec`.
//!
//! It plans and mounts nothing itself; no threads, network, compression or async reach Slurm's processes.
//!
//! | callback | process | as whom | what we do | file |
//! | --- | --- | --- | --- | --- |
//! | `slurm_spank_init` | srun, sbatch, salloc, slurmstepd | user; root in slurmstepd | register the options | [`options`] |
//! | `slurm_spank_init_post_opt` | srun, sbatch, salloc | user | check the request, fix the image's digest | [`client`] |
//! | `slurm_spank_local_user_init` | srun | user | guard the command | [`client`] |
//! | `slurm_spank_user_init` | slurmstepd, once for a step on a node | user | a way to tell of the step's end | [`stepd`] |
//! | `slurm_spank_task_init_privileged` | slurmstepd's child, once per task | root | a directory for a root with a name | [`stepd`] |
//! | `slurm_spank_task_init` | slurmstepd's child, once per task | user | put the launcher in front of the command | [`task`] |
//! | `slurm_spank_task_exit` | slurmstepd | root | after the last task, save the root (as the user) and end what serves the step | [`stepd`] |
//! | `slurm_spank_job_epilog` | slurmstepd, for the job | root | remove the job's directory, and what missed epilogs left | [`stepd`] |
//!
//! How the command becomes `carrack exec … -- command`: Slurm 23.11 and later have `spank_prepend_task_argv`. Before,
//! `S_JOB_ARGV` gives the very array that slurmstepd will execute, so the plugin replaces the first word in the task's own
//! (forked) process and sends the rest in one variable. Both leave everything else to Slurm: TaskProlog still runs on
//! the host, rlimits are still set last, the task is still executed by slurmstepd. Two other ways were tried and are
//! worse: `setns` in this callback runs TaskProlog inside the image, and `execve` from it skips TaskProlog and rlimits.
//!
//! The guard: Slurm tells a node that lacks the plugin to go on without the options, so srun sends the command below a
//! directory that is nowhere; only the plugin (or, from 23.11 on, the launcher) takes that away again. The words of
//! `--multi-prog` are made on the nodes, before any callback, of a text that srun sends: there each line gets the launcher,
//! with the guarded command as its argument, and the plugin only sends along what belongs between the two.
//!
//! Fails closed: a task whose options ask for a container and for which anything here fails ends before anything is
//! executed. A negative return is not enough for that: for an `optional` plugin slurmstepd notes it and goes on.

// What comes from outside ends in an error, never in a panic. Test code is free to insist.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod host;
pub mod options;
pub mod stepd;
pub mod task;

#[cfg(not(test))]
#[allow(unsafe_code)]
mod abi;
#[cfg(not(test))]
#[allow(unsafe_code)]
mod entry;
#[cfg(not(test))]
#[allow(unsafe_code)]
mod kernel_mount;
mod step_end;
#[cfg(not(test))]
#[allow(unsafe_code)]
mod system;
