//! slurmstepd and the epilog, as root: a directory of the node for roots that have a name, and the end of a step that is
//! to be saved.
//!
//! May fail: before the tasks, then they end without executing anything; after them, then the user is told.

use crate::host::{BATCH_STEP, EXTERN_STEP, INTERACTIVE_STEP, Place, Spank, Step};
use crate::options::{self, Container, Given};
use crate::task::Settings;

/// The directory in which a job's roots are kept on this node; the launcher makes one in it for each name.
pub fn directory(settings: &Settings, job: u32) -> String {
    format!("{}/{job}", settings.state)
}

/// Before a task, still as root.
pub fn task_privileged(
    spank: &mut dyn Spank,
    given: &Given,
    settings: &Settings,
) -> Result<(), String> {
    let Some((container, step)) = container_step(spank, given)? else {
        return Ok(());
    };
    if container.name.is_some() {
        spank.own_directory(&settings.state, &step.job.to_string(), &step)?;
    }
    Ok(())
}

/// After each task; `ended` of them have ended on this node.
pub fn task_exit(
    spank: &mut dyn Spank,
    given: &Given,
    settings: &Settings,
    ended: u32,
) -> Result<(), String> {
    let Some((container, step)) = container_step(spank, given)? else {
        return Ok(());
    };
    // One file can hold one node's root: the first one's.
    let Some(save) = container
        .save
        .filter(|_| step.node == 0 && ended == step.tasks_here)
    else {
        return Ok(());
    };
    let path = match save.starts_with('/') {
        true => save,
        false => {
            let directory = spank.variable(crate::client::DIRECTORY).ok_or(
                "nobody knows where srun was called, so `--container-save` needs an absolute path",
            )?;
            format!("{directory}/{save}")
        }
    };
    let job = match spank.variable("SLURM_RESTART_COUNT").as_deref() {
        None | Some("" | "0") => step.job.to_string(),
        Some(count) => format!("{}r{count}", step.job),
    };
    let scope = match container.name {
        Some(name) => format!("name={name}"),
        None => format!("{}-{}", step.step, step.node),
    };
    let words = [&settings.launcher, "save-capsule", &job, &scope, &path].map(str::to_string);
    spank.run_as_user(&step, &words)
}

/// When the job has ended on this node.
pub fn job_epilog(spank: &mut dyn Spank, settings: &Settings) -> Result<(), String> {
    match spank.step() {
        Some(step) => spank.remove_directory(&directory(settings, step.job)),
        None => Err("Slurm does not tell which job has ended".to_string()),
    }
}

/// What a real step asks for.
fn container_step(spank: &dyn Spank, given: &Given) -> Result<Option<(Container, Step)>, String> {
    let real = !matches!(
        spank.step_id(),
        None | Some(BATCH_STEP | EXTERN_STEP | INTERACTIVE_STEP)
    );
    if spank.place() != Place::Stepd || !real {
        return Ok(None);
    }
    let Some(container) = options::container(given, |name| spank.variable(name))? else {
        return Ok(None);
    };
    let step = spank
        .step()
        .ok_or("Slurm does not tell whose step this is")?;
    Ok(Some((container, step)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    fn settings() -> Settings {
        Settings::parse(["launcher=/bin/sh", "state=/run/x"]).unwrap()
    }

    fn given(more: &[(&str, &str)]) -> Given {
        crate::options::tests::given(&[&[("container-image", "x")], more].concat())
    }

    #[test]
    fn a_name_gets_a_directory_that_the_epilog_removes() {
        for (options, expected) in [
            (
                given(&[("container-name", "a")]),
                vec!["make /run/x/7 for 1000"],
            ),
            (given(&[]), vec![]),
            (Given::new(), vec![]),
        ] {
            let mut spank = Fake::at(Place::Stepd);
            task_privileged(&mut spank, &options, &settings()).unwrap();
            assert_eq!(spank.done, expected);
        }
        for step in [BATCH_STEP, EXTERN_STEP] {
            let mut spank = Fake::at(Place::Stepd);
            spank.step = Some(step);
            task_privileged(&mut spank, &given(&[("container-name", "a")]), &settings()).unwrap();
            assert!(spank.done.is_empty());
        }
        let mut epilog = Fake::at(Place::Other);
        job_epilog(&mut epilog, &settings()).unwrap();
        assert_eq!(epilog.done, ["remove /run/x/7"]);
    }

    #[test]
    fn the_last_task_s_end_saves() {
        let saving = given(&[("container-save", "/a.sqsh")]);
        let relative = given(&[("container-save", "a.sqsh"), ("container-name", "box:auto")]);
        for (options, ended, restarts, expected) in [
            (&saving, 1, "", vec![]),
            (
                &saving,
                2,
                "",
                vec!["1000: /bin/sh save-capsule 7 0-0 /a.sqsh"],
            ),
            (
                &saving,
                2,
                "2",
                vec!["1000: /bin/sh save-capsule 7r2 0-0 /a.sqsh"],
            ),
            (
                &relative,
                2,
                "0",
                vec!["1000: /bin/sh save-capsule 7 name=box /here/a.sqsh"],
            ),
            (&given(&[]), 2, "", vec![]),
        ] {
            let mut spank = Fake::at(Place::Stepd);
            spank
                .variables
                .insert("SLURM_RESTART_COUNT".into(), restarts.into());
            spank
                .variables
                .insert(crate::client::DIRECTORY.into(), "/here".into());
            task_exit(&mut spank, options, &settings(), ended).unwrap();
            assert_eq!(spank.done, expected);
        }
        let mut lost = Fake::at(Place::Stepd);
        assert!(task_exit(&mut lost, &relative, &settings(), 2).is_err());
    }
}
