//! What the plugin needs of Slurm, as a trait: the real one is in `abi`, the tests bring a map. Nothing here calls Slurm.

use carrack::launch::slurm_options::SlurmOption;
use std::ffi::CString;

/// Which program loaded the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// srun.
    Srun,
    /// sbatch or salloc.
    Allocator,
    /// slurmstepd.
    Stepd,
    /// slurmd, prolog, epilog: nothing to do.
    Other,
}

/// What slurmstepd runs on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub job: u32,
    pub step: u32,
    /// Of this node in the step, from 0.
    pub node: u32,
    pub tasks_here: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Slurm's step ids that are no real steps.
pub const BATCH_STEP: u32 = 0xffff_fffb;
pub const EXTERN_STEP: u32 = 0xffff_fffc;
pub const INTERACTIVE_STEP: u32 = 0xffff_fffa;

/// One loaded plugin's view of Slurm.
pub trait Spank {
    fn place(&self) -> Place;
    fn register(&mut self, index: usize, option: &SlurmOption) -> Result<(), String>;
    /// A variable of the job's environment (of this process's in srun, sbatch and salloc).
    fn variable(&self, name: &str) -> Option<String>;
    fn set_variable(&mut self, name: &str, value: &str) -> Result<(), String>;
    /// A variable that follows the job: inner steps see it with `SLURM_SPANK_` in front.
    fn set_job_variable(&mut self, name: &str, value: &str) -> Result<(), String>;
    fn step_id(&self) -> Option<u32>;
    /// Who runs what; only in slurmstepd, and in the epilog, which knows no step.
    fn step(&self) -> Option<Step>;
    /// The environment of the job, as `NAME=VALUE`.
    fn environment(&self) -> Vec<CString>;
    /// A directory that only root may change, and in it one of this user's own; both are made if need be.
    fn own_directory(&mut self, parent: &str, name: &str, step: &Step) -> Result<(), String>;
    /// Removes a directory with all that is in it.
    fn remove_directory(&mut self, path: &str) -> Result<(), String>;
    /// The names in a directory; none if it cannot be read.
    fn names_in(&self, directory: &str) -> Vec<String>;
    /// The jobs of which Slurm runs any step on this node.
    fn jobs_here(&self) -> Vec<u32>;
    /// Whether the controller says that there is no such job any more; `None` where it does not answer.
    fn job_is_gone(&self, job: u32) -> Option<bool>;
    /// Lets the kernel mount an image; where. `None` when the store does not have it.
    fn mount_image(
        &mut self,
        store: &str,
        digest: &str,
        job: &str,
        launcher: &str,
        step: &Step,
    ) -> Result<Option<String>, String>;
    /// Runs a program as the user of the step to its end; what it said, if it failed.
    fn run_as_user(&mut self, step: &Step, words: &[String]) -> Result<(), String>;
    /// In slurmstepd, before its tasks: makes what the two calls below need.
    fn open_step_end(&mut self);
    /// In a task: the descriptor through which what it starts will hear that the step's last task has ended.
    fn step_end(&mut self) -> Option<i32>;
    /// In slurmstepd, after the last task: tells it to whoever listens, and waits for the listener's end.
    fn tell_step_end(&mut self);
    /// The command of the task.
    fn command(&self) -> Vec<CString>;
    /// Makes slurmstepd execute `words` in front of the command, where this Slurm can.
    fn prepend(&mut self, words: &[CString]) -> Option<Result<(), String>>;
    /// Replaces a word of the command in this process.
    fn replace_word(&mut self, at: usize, word: CString) -> Result<(), String>;
    /// One line on the user's stderr.
    fn error(&self, text: &str);
}

/// A Slurm made of maps, for the tests.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;
    use std::collections::BTreeMap;

    pub(crate) struct Fake {
        pub place: Place,
        pub variables: BTreeMap<String, String>,
        pub step: Option<u32>,
        pub command: Vec<CString>,
        pub can_prepend: bool,
        pub step_end: Option<i32>,
        /// What was done to the node.
        pub done: Vec<String>,
        /// Directories that earlier jobs left.
        pub names: Vec<String>,
    }

    impl Fake {
        pub(crate) fn at(place: Place) -> Fake {
            let command = ["./app", "-x"]
                .into_iter()
                .filter_map(|word| CString::new(word).ok())
                .collect();
            Fake {
                place,
                variables: BTreeMap::new(),
                step: Some(0),
                command,
                can_prepend: false,
                step_end: None,
                done: Vec::new(),
                names: Vec::new(),
            }
        }
    }

    impl Spank for Fake {
        fn place(&self) -> Place {
            self.place
        }
        fn register(&mut self, _: usize, _: &SlurmOption) -> Result<(), String> {
            Ok(())
        }
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).cloned()
        }
        fn set_variable(&mut self, name: &str, value: &str) -> Result<(), String> {
            self.variables.insert(name.into(), value.into());
            Ok(())
        }
        fn set_job_variable(&mut self, name: &str, value: &str) -> Result<(), String> {
            self.set_variable(&format!("SLURM_SPANK_{name}"), value)
        }
        fn step_id(&self) -> Option<u32> {
            self.step
        }
        fn step(&self) -> Option<Step> {
            Some(Step {
                job: 7,
                step: self.step.unwrap_or_default(),
                tasks_here: 2,
                uid: 1000,
                gid: 1000,
                ..Step::default()
            })
        }
        fn environment(&self) -> Vec<CString> {
            Vec::new()
        }
        fn own_directory(&mut self, parent: &str, name: &str, step: &Step) -> Result<(), String> {
            self.done
                .push(format!("make {parent}/{name} for {}", step.uid));
            Ok(())
        }
        fn remove_directory(&mut self, path: &str) -> Result<(), String> {
            self.done.push(format!("remove {path}"));
            Ok(())
        }
        fn names_in(&self, _: &str) -> Vec<String> {
            self.names.clone()
        }
        fn jobs_here(&self) -> Vec<u32> {
            vec![5]
        }
        fn job_is_gone(&self, job: u32) -> Option<bool> {
            (job < 100).then_some(job != 6)
        }
        fn mount_image(
            &mut self,
            store: &str,
            digest: &str,
            job: &str,
            _: &str,
            _: &Step,
        ) -> Result<Option<String>, String> {
            self.done
                .push(format!("mount {digest} of {store} in {job}"));
            Ok(Some("/mounted".into()))
        }
        fn run_as_user(&mut self, step: &Step, words: &[String]) -> Result<(), String> {
            self.done.push(format!("{}: {}", step.uid, words.join(" ")));
            Ok(())
        }
        fn open_step_end(&mut self) {
            self.done.push("open the step's end".into());
        }
        fn step_end(&mut self) -> Option<i32> {
            self.step_end
        }
        fn tell_step_end(&mut self) {
            self.done.push("tell the step's end".into());
        }
        fn command(&self) -> Vec<CString> {
            self.command.clone()
        }
        fn prepend(&mut self, words: &[CString]) -> Option<Result<(), String>> {
            self.can_prepend.then(|| {
                self.command.splice(0..0, words.iter().cloned());
                Ok(())
            })
        }
        fn replace_word(&mut self, at: usize, word: CString) -> Result<(), String> {
            self.command
                .get_mut(at)
                .map(|first| *first = word)
                .ok_or_else(|| "no command".to_string())
        }
        fn error(&self, _: &str) {}
    }
}
