//! slurmstepd and the epilog, as root: a directory of the node for roots that have a name, and the end of a step that is
//! to be saved.
//!
//! May fail: before the tasks, then they end without executing anything; after them, then the user is told.

use crate::host::{BATCH_STEP, EXTERN_STEP, INTERACTIVE_STEP, Place, Spank, Step};
use crate::options::{self, Asked, Container, Given};
use crate::task::Settings;

/// The directory in which a job's roots are kept on this node; the launcher makes one in it for each name.
pub fn directory(settings: &Settings, job: u32) -> String {
    format!("{}/{job}", settings.state)
}

/// What this step asks for. It is the same for all tasks, so slurmstepd reads it before it forks them.
pub fn asked(spank: &dyn Spank, given: &Given) -> Asked {
    match spank.place() {
        Place::Stepd => options::container(given, |name| spank.variable(name)),
        _ => Ok(None),
    }
}

/// In slurmstepd itself, before it forks the tasks.
pub fn before_tasks(spank: &mut dyn Spank, asked: &Asked) {
    // What is wrong with the request each task will say.
    if let Ok(Some(_)) = container_step(spank, asked) {
        spank.open_step_end();
    }
}

/// Before a task, still as root. The answer is where the kernel mounted the image, if the site lets it.
pub fn task_privileged(
    spank: &mut dyn Spank,
    asked: &Asked,
    settings: &Settings,
) -> Result<Option<String>, String> {
    let Some((container, step)) = container_step(spank, asked)? else {
        return Ok(None);
    };
    let image = settings.kernel_mount.as_ref().and_then(|store| {
        let image =
            crate::client::pinned(spank, &container.key).or_else(|| container.image.clone())?;
        Some((store.as_str(), digest_in(store, &image)?))
    });
    if container.name.is_some() || image.is_some() {
        spank.own_directory(&settings.state, &step.job.to_string(), &step)?;
    }
    let Some((store, digest)) = image else {
        return Ok(None);
    };
    let job = directory(settings, step.job);
    match spank.mount_image(store, &digest, &job, &settings.launcher, &step) {
        Ok(mounted) => Ok(mounted),
        // Not a reason to fail: the image can be served without the kernel's help, which checks it again.
        Err(error) => {
            spank.error(&error);
            Ok(None)
        }
    }
}

/// The hexadecimal digits of an image in this store, named by its digest or by its file.
fn digest_in(store: &str, image: &str) -> Option<String> {
    let digits = match image.strip_prefix("sha256:") {
        Some(digits) => digits,
        None => {
            let file = image.strip_prefix(store)?.strip_prefix("/images/")?;
            let (folder, name) = file.split_once('/')?;
            let digits = name.strip_suffix(".sqsh")?;
            (digits.get(..2) == Some(folder)).then_some(digits)?
        }
    };
    let plain = digits.len() == 64
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| digits.to_string())
}

/// After each task; `ended` of them have ended on this node.
pub fn task_exit(
    spank: &mut dyn Spank,
    asked: &Asked,
    settings: &Settings,
    ended: u32,
) -> Result<(), String> {
    let last = spank.step().is_some_and(|step| ended >= step.tasks_here);
    if !last {
        return Ok(());
    }
    let saved = match container_step(spank, asked) {
        Ok(Some((container, step))) => save(spank, settings, container, &step),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    spank.tell_step_end();
    saved
}

/// Writes the root of the step into a file, if that was asked for.
fn save(
    spank: &mut dyn Spank,
    settings: &Settings,
    container: &Container,
    step: &Step,
) -> Result<(), String> {
    // One file can hold one node's root: the first one's.
    let Some(save) = container.save.as_ref().filter(|_| step.node == 0) else {
        return Ok(());
    };
    let path = match save.starts_with('/') {
        true => save.clone(),
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
    let scope = match &container.name {
        Some(name) => format!("name={name}"),
        None => format!("{}-{}", step.step, step.node),
    };
    let words = [&settings.launcher, "save-capsule", &job, &scope, &path].map(str::to_string);
    spank.run_as_user(step, &words)
}

/// When the job has ended on this node.
pub fn job_epilog(spank: &mut dyn Spank, settings: &Settings) -> Result<(), String> {
    let Some(step) = spank.step() else {
        return Err("Slurm does not tell which job has ended".to_string());
    };
    sweep(spank, settings, step.job);
    spank.remove_directory(&directory(settings, step.job))
}

/// Removes what jobs have left whose epilog never ran: slurmd was killed, or the node was lost. Only of jobs that run
/// nothing here and that the controller has forgotten; a job that waits between two steps or to be run again is neither.
fn sweep(spank: &mut dyn Spank, settings: &Settings, own: u32) {
    let here = spank.jobs_here();
    let names = spank.names_in(&settings.state);
    let jobs = names.iter().filter_map(|name| name.parse::<u32>().ok());
    for job in jobs.filter(|job| *job != own && !here.contains(job)) {
        match spank.job_is_gone(job) {
            Some(true) => {}
            Some(false) => continue,
            // The next one would only wait as long; a later epilog asks again.
            None => return,
        }
        // No reason to take the node out of service.
        if let Err(error) = spank.remove_directory(&directory(settings, job)) {
            spank.error(&error);
        }
    }
}

/// What a real step asks for.
fn container_step<'a>(
    spank: &dyn Spank,
    asked: &'a Asked,
) -> Result<Option<(&'a Container, Step)>, String> {
    let real = !matches!(
        spank.step_id(),
        None | Some(BATCH_STEP | EXTERN_STEP | INTERACTIVE_STEP)
    );
    if spank.place() != Place::Stepd || !real {
        return Ok(None);
    }
    let Some(container) = asked.as_ref().map_err(String::clone)? else {
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

    fn asking(more: &[(&str, &str)]) -> Asked {
        crate::options::tests::asking(&[&[("container-image", "x")], more].concat())
    }

    #[test]
    fn a_name_gets_a_directory_that_the_epilog_removes() {
        for (options, expected) in [
            (
                asking(&[("container-name", "a")]),
                vec!["make /run/x/7 for 1000"],
            ),
            (asking(&[]), vec![]),
            (Ok(None), vec![]),
        ] {
            let mut spank = Fake::at(Place::Stepd);
            task_privileged(&mut spank, &options, &settings()).unwrap();
            assert_eq!(spank.done, expected);
        }
        for step in [BATCH_STEP, EXTERN_STEP] {
            let mut spank = Fake::at(Place::Stepd);
            spank.step = Some(step);
            task_privileged(&mut spank, &asking(&[("container-name", "a")]), &settings()).unwrap();
            assert!(spank.done.is_empty());
        }
        let mut epilog = Fake::at(Place::Other);
        job_epilog(&mut epilog, &settings()).unwrap();
        assert_eq!(epilog.done, ["remove /run/x/7"]);
        // What a missed epilog left: 5 still runs here, the controller still knows 6.
        let mut epilog = Fake::at(Place::Other);
        epilog.names = ["4", "5", "6", "7", "x", "-8", "9", "100", "8"]
            .map(str::to_string)
            .to_vec();
        job_epilog(&mut epilog, &settings()).unwrap();
        assert_eq!(
            epilog.done,
            ["remove /run/x/4", "remove /run/x/9", "remove /run/x/7"]
        );
    }

    #[test]
    fn the_kernel_mounts_only_what_lies_in_the_site_s_store() {
        let digits = "ab".repeat(32);
        let file = format!("/site/images/ab/{digits}.sqsh");
        for (image, expected) in [
            (format!("sha256:{digits}"), Some(&digits)),
            (file.clone(), Some(&digits)),
            (format!("/home/me{file}"), None),
            (format!("/site/images/../../home/{digits}.sqsh"), None),
            (format!("/site/images/ab/../{digits}.sqsh"), None),
            (format!("/site/images/cd/{digits}.sqsh"), None),
            (format!("sha256:{}", "AB".repeat(32)), None),
            ("sha256:../../etc/passwd".into(), None),
            ("debian:12".into(), None),
        ] {
            assert_eq!(digest_in("/site", &image).as_ref(), expected, "{image}");
        }
        let settings = Settings::parse(["kernel-mount=/site"]).unwrap();
        let mut spank = Fake::at(Place::Stepd);
        let options = crate::options::tests::asking(&[("container-image", &file)]);
        let mounted = task_privileged(&mut spank, &options, &settings).unwrap();
        assert_eq!(mounted.as_deref(), Some("/mounted"));
        assert_eq!(
            spank.done,
            [
                "make /run/carrack/7 for 1000".to_string(),
                format!("mount {digits} of /site in /run/carrack/7"),
            ]
        );
        let mut user_mode = Fake::at(Place::Stepd);
        let mounted = task_privileged(&mut user_mode, &options, &super::tests::settings()).unwrap();
        assert_eq!((mounted, user_mode.done.len()), (None, 0));
    }

    #[test]
    fn only_a_step_in_a_container_has_an_end_to_tell() {
        for (step, options, expected) in [
            (0, asking(&[]), vec!["open the step's end"]),
            (0, Ok(None), vec![]),
            (BATCH_STEP, asking(&[]), vec![]),
        ] {
            let mut spank = Fake::at(Place::Stepd);
            spank.step = Some(step);
            before_tasks(&mut spank, &options);
            assert_eq!(spank.done, expected);
        }
    }

    #[test]
    fn the_last_task_s_end_saves() {
        let saving = asking(&[("container-save", "/a.sqsh")]);
        let relative = asking(&[("container-save", "a.sqsh"), ("container-name", "box:auto")]);
        let told = "tell the step's end";
        for (options, ended, restarts, expected) in [
            (&saving, 1, "", vec![]),
            (
                &saving,
                2,
                "",
                vec!["1000: /bin/sh save-capsule 7 0-0 /a.sqsh", told],
            ),
            (
                &saving,
                2,
                "2",
                vec!["1000: /bin/sh save-capsule 7r2 0-0 /a.sqsh", told],
            ),
            (
                &relative,
                2,
                "0",
                vec!["1000: /bin/sh save-capsule 7 name=box /here/a.sqsh", told],
            ),
            (&asking(&[]), 1, "", vec![]),
            (&asking(&[]), 2, "", vec![told]),
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
        assert_eq!(lost.done, [told]);
    }
}
