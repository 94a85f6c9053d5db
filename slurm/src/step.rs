//! `SLURM_*` variables → what this task is: which job, step and node, and who shares the node with it.
//!
//! Only variables that Slurm sets are read, and none is trusted to be sane: a user may set them too, so what does not
//! parse counts as absent. Deliberately absent: any look at the machine. Which GPUs really open is the launcher's to
//! find out; the variables only say what Slurm meant.

/// Where in a job this process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A numbered step: started by `srun`.
    Step(u32),
    /// The batch script itself, or something that it started without `srun`.
    Batch,
    /// A shell of `salloc`: an allocation, but perhaps not one of its nodes.
    Allocation,
}

/// Who started the tasks that share this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    Srun,
    /// `mpirun`/`mpiexec`, whose daemon is the step's only task on a node as far as Slurm knows.
    Mpirun,
    /// This process is alone.
    None,
}

/// The process manager interface that the task was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pmi {
    /// `PMIX_*`: a server directory that must be visible at its own path.
    Pmix,
    /// `PMI_FD`: a descriptor that must stay open.
    Pmi2,
    None,
}

/// What Slurm said about GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    /// `SLURM_STEP_GPUS`: indices on this node. With per-task binding and device limits it says 0 for every task.
    pub step: Option<Vec<u32>>,
    /// `SLURM_JOB_GPUS`: indices on the *batch* node, inherited by steps on other nodes, where they may be wrong.
    pub job: Option<Vec<u32>>,
    /// `SLURM_GPUS_ON_NODE`: how many the step has here.
    pub on_node: Option<u32>,
    /// `SLURMD_TRES_BIND` or `SLURM_GPU_BIND`: the binding of tasks to GPUs, e.g. `gpu:single:1`.
    pub bind: Option<String>,
}

/// One task of a job, as Slurm describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The job's number; for a heterogeneous job the leader's.
    pub job: u32,
    /// The array's own number and the index of this job in it.
    pub array: Option<(u32, u32)>,
    pub part: Part,
    /// How many components a heterogeneous job has; 1 for all others.
    pub components: u32,
    /// The node's number in the step. Two components of one step may share a host and differ only in this.
    pub node_id: u32,
    /// The node's name, if this is a compute node of the job.
    pub node: Option<String>,
    pub nodes: u32,
    pub rank: u32,
    pub local_rank: u32,
    pub tasks: u32,
    /// How many tasks of the step are on this node: those that share one capsule.
    pub tasks_here: u32,
    pub cpus_per_task: Option<u32>,
    pub cpus_on_node: Option<u32>,
    pub launcher: Launcher,
    pub pmi: Pmi,
    pub gpus: Gpus,
}

impl Step {
    /// Reads the variables through `variable`; `None` when this is no job.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Step> {
        let number = |name: &str| variable(name)?.trim().parse::<u32>().ok();
        let job = number("SLURM_JOB_ID").or_else(|| number("SLURM_JOBID"))?;
        let node = variable("SLURMD_NODENAME").filter(|name| !name.is_empty());
        let part = match number("SLURM_STEP_ID").or_else(|| number("SLURM_STEPID")) {
            Some(step) => Part::Step(step),
            None if node.is_some() => Part::Batch,
            None => Part::Allocation,
        };
        let in_step = matches!(part, Part::Step(_));
        let node_id = number("SLURM_NODEID").unwrap_or(0);
        let (launcher, rank, local_rank, tasks, tasks_here) =
            if let Some((rank, local_rank, tasks, tasks_here)) = under_mpirun(&number) {
                (Launcher::Mpirun, rank, local_rank, tasks, tasks_here)
            } else if in_step {
                let per_node = variable("SLURM_STEP_TASKS_PER_NODE")
                    .or_else(|| variable("SLURM_TASKS_PER_NODE"))
                    .and_then(|text| tasks_on_node(&text, node_id));
                (
                    Launcher::Srun,
                    number("SLURM_PROCID").unwrap_or(0),
                    number("SLURM_LOCALID").unwrap_or(0),
                    number("SLURM_STEP_NUM_TASKS")
                        .or_else(|| number("SLURM_NTASKS"))
                        .unwrap_or(1),
                    per_node.unwrap_or(1),
                )
            } else {
                // The batch script is one process, whatever the job's own SLURM_NTASKS says.
                (Launcher::None, 0, 0, 1, 1)
            };
        let array = number("SLURM_ARRAY_JOB_ID").zip(number("SLURM_ARRAY_TASK_ID"));
        Some(Step {
            job,
            array,
            part,
            components: number("SLURM_HET_SIZE").unwrap_or(1).max(1),
            node_id,
            node,
            nodes: number("SLURM_STEP_NUM_NODES")
                .filter(|_| in_step)
                .or_else(|| number("SLURM_JOB_NUM_NODES"))
                .unwrap_or(1),
            rank,
            local_rank,
            tasks,
            tasks_here: tasks_here.max(1),
            cpus_per_task: number("SLURM_CPUS_PER_TASK"),
            cpus_on_node: number("SLURM_CPUS_ON_NODE"),
            launcher,
            pmi: if variable("PMIX_NAMESPACE").is_some() {
                Pmi::Pmix
            } else if variable("PMI_FD").is_some() {
                Pmi::Pmi2
            } else {
                Pmi::None
            },
            gpus: Gpus {
                step: variable("SLURM_STEP_GPUS").and_then(|text| indices(&text)),
                job: variable("SLURM_JOB_GPUS").and_then(|text| indices(&text)),
                on_node: number("SLURM_GPUS_ON_NODE"),
                bind: variable("SLURMD_TRES_BIND").or_else(|| variable("SLURM_GPU_BIND")),
            },
        })
    }

    /// `123.0`, `123.batch`: as Slurm's own commands write it.
    pub fn id(&self) -> String {
        match self.part {
            Part::Step(step) => format!("{}.{step}", self.job),
            Part::Batch => format!("{}.batch", self.job),
            Part::Allocation => self.job.to_string(),
        }
    }
}

/// Rank, local rank, size and local size of a process that an MPI's own launcher started.
fn under_mpirun(number: &impl Fn(&str) -> Option<u32>) -> Option<(u32, u32, u32, u32)> {
    // Open MPI; Intel MPI and MPICH (hydra) name the local ones MPI_LOCAL*.
    let open_mpi = || {
        Some((
            number("OMPI_COMM_WORLD_RANK")?,
            number("OMPI_COMM_WORLD_LOCAL_RANK")?,
            number("OMPI_COMM_WORLD_SIZE")?,
            number("OMPI_COMM_WORLD_LOCAL_SIZE")?,
        ))
    };
    let hydra = || {
        Some((
            number("PMI_RANK")?,
            number("MPI_LOCALRANKID")?,
            number("PMI_SIZE")?,
            number("MPI_LOCALNRANKS")?,
        ))
    };
    open_mpi().or_else(hydra)
}

/// Tasks on the node with this number, from Slurm's `4(x2),1`: four on the first two nodes, one on the third.
pub fn tasks_on_node(text: &str, node: u32) -> Option<u32> {
    let mut left = node;
    for group in text.split(',') {
        let (tasks, times) = match group.trim().split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse::<u32>().ok()?),
            None => (group.trim(), 1),
        };
        let tasks = tasks.parse::<u32>().ok()?;
        if left < times {
            return Some(tasks);
        }
        left -= times;
    }
    None
}

/// `0,2-3` → 0, 2, 3. Names and UUIDs, which some sites use, are not indices.
fn indices(text: &str) -> Option<Vec<u32>> {
    // No node has more GPUs than this; a longer range is not one of Slurm's.
    const MOST: u32 = 1024;
    let mut found = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if last < first || last - first >= MOST || found.len() >= MOST as usize {
            return None;
        }
        found.extend(first..=last);
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Step> {
        let pairs: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .collect();
        Step::read(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn tasks_per_node_without_expanding() {
        let rows = [
            ("4(x2),1", 0, Some(4)),
            ("4(x2),1", 1, Some(4)),
            ("4(x2),1", 2, Some(1)),
            ("4(x2),1", 3, None),
            ("2,1", 1, Some(1)),
            ("7", 0, Some(7)),
            ("7(x4000000000)", 3_999_999_999, Some(7)),
            ("7(x0),3", 0, Some(3)),
            ("", 0, None),
            ("x(x2)", 0, None),
            ("4(x", 0, None),
            ("4(x-1)", 0, None),
        ];
        for (text, node, expected) in rows {
            assert_eq!(tasks_on_node(text, node), expected, "{text} node {node}");
        }
    }

    #[test]
    fn indices_of_gpus() {
        let rows = [
            ("0", Some(vec![0])),
            ("1,0", Some(vec![1, 0])),
            ("0,2-3", Some(vec![0, 2, 3])),
            ("", None),
            ("GPU-8932f937", None),
            ("3-1", None),
            ("0-4294967295", None),
        ];
        for (text, expected) in rows {
            assert_eq!(indices(text), expected, "{text}");
        }
    }

    #[test]
    fn no_job_is_no_step() {
        assert_eq!(read("SLURM_CONF=/etc/slurm/slurm.conf"), None);
        assert_eq!(read("SLURM_JOB_ID=not a number"), None);
    }

    #[test]
    fn a_task_of_a_step() {
        let step = read(
            "SLURM_JOB_ID=17\nSLURM_STEP_ID=2\nSLURMD_NODENAME=n2\nSLURM_NODEID=1\nSLURM_PROCID=2\nSLURM_LOCALID=0
             SLURM_STEP_NUM_TASKS=3\nSLURM_STEP_TASKS_PER_NODE=2,1\nSLURM_STEP_NUM_NODES=2\nSLURM_JOB_NUM_NODES=3
             SLURM_STEP_GPUS=0\nSLURM_JOB_GPUS=1\nSLURM_GPUS_ON_NODE=1\nSLURMD_TRES_BIND=gpu:single:1\nPMIX_NAMESPACE=slurm.pmix.17.2",
        )
        .expect("a step");
        assert_eq!(step.id(), "17.2");
        assert_eq!(step.node.as_deref(), Some("n2"));
        assert_eq!(
            (step.rank, step.local_rank, step.tasks, step.tasks_here),
            (2, 0, 3, 1)
        );
        assert_eq!((step.nodes, step.node_id, step.components), (2, 1, 1));
        assert_eq!((step.launcher, step.pmi), (Launcher::Srun, Pmi::Pmix));
        assert_eq!(step.gpus.step, Some(vec![0]));
        assert_eq!(step.gpus.bind.as_deref(), Some("gpu:single:1"));
    }

    #[test]
    fn the_batch_script_is_one_process_although_the_job_has_more_tasks() {
        let step = read(
            "SLURM_JOB_ID=17\nSLURMD_NODENAME=n1\nSLURM_NTASKS=40\nSLURM_TASKS_PER_NODE=20(x2)\nSLURM_PROCID=0
             SLURM_JOB_NUM_NODES=2\nSLURM_ARRAY_JOB_ID=16\nSLURM_ARRAY_TASK_ID=3",
        )
        .expect("a step");
        assert_eq!((step.part, step.launcher), (Part::Batch, Launcher::None));
        assert_eq!((step.tasks, step.tasks_here), (1, 1));
        assert_eq!(step.array, Some((16, 3)));
        assert_eq!(step.id(), "17.batch");
    }

    #[test]
    fn ranks_of_mpirun_are_counted_by_mpirun() {
        let step = read(
            "SLURM_JOB_ID=17\nSLURM_STEP_ID=0\nSLURMD_NODENAME=n2\nSLURM_NODEID=1\nSLURM_STEP_TASKS_PER_NODE=1(x2)
             SLURM_PROCID=1\nSLURM_LOCALID=0\nOMPI_COMM_WORLD_RANK=3\nOMPI_COMM_WORLD_LOCAL_RANK=1
             OMPI_COMM_WORLD_SIZE=4\nOMPI_COMM_WORLD_LOCAL_SIZE=2",
        )
        .expect("a step");
        assert_eq!(step.launcher, Launcher::Mpirun);
        assert_eq!(
            (step.rank, step.local_rank, step.tasks, step.tasks_here),
            (3, 1, 4, 2)
        );
    }

    #[test]
    fn a_shell_of_salloc_and_a_heterogeneous_step() {
        let shell = read("SLURM_JOB_ID=5\nSLURM_NTASKS=4").expect("a job");
        assert_eq!(
            (shell.part, shell.id()),
            (Part::Allocation, "5".to_string())
        );
        let step = read(
            "SLURM_JOB_ID=2\nSLURM_STEP_ID=0\nSLURMD_NODENAME=n2\nSLURM_HET_SIZE=2\nSLURM_NODEID=1
             SLURM_STEP_TASKS_PER_NODE=1,2,1\nSLURM_PROCID=2\nSLURM_LOCALID=1\nSLURM_STEP_NUM_TASKS=4",
        )
        .expect("a step");
        assert_eq!((step.components, step.tasks_here), (2, 2));
    }
}
