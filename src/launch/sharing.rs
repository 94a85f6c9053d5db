//! Which processes share a capsule on a node, and how many will come.
//!
//! Ranks of one node must be in the same user namespace, or they cannot read each other's memory. They are found by what
//! started them: a step of srun, or an MPI's own launcher, whose local children have their parent in common.

use super::facts::HostFacts;
use super::step::Key;
use carrack_slurm::step::{Launcher, Part, Step as SlurmStep};

/// What a key is made of, before the plan's hash is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Job and scope; `None` for a process that starts alone.
    pub scope: Option<(String, String)>,
    pub tasks_on_node: Option<u32>,
}

impl Sharing {
    pub fn key(&self, uid: u32, hash: String) -> Option<Key> {
        self.scope.clone().map(|(job, scope)| Key {
            job,
            scope,
            uid,
            hash,
        })
    }
}

pub fn sharing(name: Option<&str>, facts: &HostFacts, slurm: Option<&SlurmStep>) -> Sharing {
    let number = |name: &str| facts.variable(name)?.to_str()?.parse::<u32>().ok();
    let job = slurm.map_or("none".to_string(), |step| {
        // A requeued job has the same number, and its former life's processes may still be ending.
        match number("SLURM_RESTART_COUNT").unwrap_or(0) {
            0 => step.job.to_string(),
            count => format!("{}r{count}", step.job),
        }
    });
    if let Some(name) = name {
        // Later steps come too; how many is unknown.
        return Sharing {
            scope: Some((job, format!("name={name}"))),
            tasks_on_node: None,
        };
    }
    let by_mpi = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"]
        .iter()
        .find_map(|name| number(name));
    let step = match slurm.map(|step| (step, step.part)) {
        Some((step, Part::Step(number))) => Some((step, number)),
        _ => None,
    };
    match (step, by_mpi) {
        (Some((step, number)), None) if step.launcher == Launcher::Srun => Sharing {
            // Components of a heterogeneous job may share a host.
            scope: Some((job, format!("{number}-{}", step.node_id))),
            tasks_on_node: Some(step.tasks_here),
        },
        (_, Some(local)) if local > 1 => Sharing {
            scope: Some((job, format!("mpi={}", facts.parent))),
            tasks_on_node: Some(local),
        },
        _ => Sharing::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn who_shares() {
        let step = "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURMD_NODENAME=n2 SLURM_NODEID=1 SLURM_STEP_TASKS_PER_NODE=4,2";
        let batch = "SLURM_JOB_ID=7 SLURMD_NODENAME=n1 SLURM_NTASKS=8";
        let mpi = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_SIZE=4";
        let hydra = "PMI_RANK=1 PMI_SIZE=4 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2";
        let with = |a: &str, b: &str| format!("{a} {b}");
        for (variables, name, expected) in [
            (step.to_string(), None, "7.0-1 2"),
            (with(step, "SLURM_RESTART_COUNT=2"), None, "7r2.0-1 2"),
            (step.to_string(), Some("a"), "7.name=a ?"),
            (batch.to_string(), None, "alone"),
            (with(batch, mpi), None, "7.mpi=4242 4"),
            (with(step, mpi), None, "7.mpi=4242 4"),
            (with(batch, hydra), None, "7.mpi=4242 2"),
            (mpi.to_string(), None, "none.mpi=4242 4"),
            (String::new(), None, "alone"),
            (String::new(), Some("a"), "none.name=a ?"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE=1".to_string(), None, "alone"),
        ] {
            let facts = HostFacts {
                environment: variables
                    .split_whitespace()
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(name, value)| (OsString::from(name), OsString::from(value)))
                    .collect(),
                ..HostFacts::plain()
            };
            let slurm = SlurmStep::read(|name| Some(facts.variable(name)?.to_str()?.to_string()));
            let sharing = sharing(name, &facts, slurm.as_ref());
            let shown = match &sharing.scope {
                Some((job, scope)) => {
                    let tasks = sharing.tasks_on_node.map_or("?".into(), |n| n.to_string());
                    format!("{job}.{scope} {tasks}")
                }
                None => "alone".into(),
            };
            assert_eq!(shown, expected, "{variables}");
        }
    }
}
