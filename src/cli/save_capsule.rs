//! What the SPANK plugin calls when the last task of a step with `--container-save` has ended. Process: a child of
//! slurmstepd; identity: the user; may fail: everything, and then the file is not there.

use super::LaunchCommon;
use super::starting::find;
use crate::error::{Context, Error, Result};
use crate::image::progress::Silent;
use crate::image::save::{prefix, save};
use crate::launch::capsule::{attach, running};
use crate::sys::{fd, mount, process};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write the root of a capsule that is held as an image (for the SPANK plugin)
#[derive(clap::Args)]
#[command(hide = true)]
pub struct Args {
    job: String,
    scope: String,
    output: PathBuf,
    #[command(flatten)]
    pub common: LaunchCommon,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let shown = args.output.display();
    let what = || format!("cannot save the root as `{shown}`");
    save_to(&args).map_err(|error| error.while_doing(what()))?;
    Ok(ExitCode::SUCCESS)
}

fn save_to(args: &Args) -> Result<()> {
    let capsule = running()
        .into_iter()
        .find(|one| one.job == args.job && one.scope == args.scope)
        .ok_or_else(|| {
            Error::new("the step's capsule is gone")
                .cause("no task of the step entered its container on this node, or it was killed")
        })?;
    let settings = args.common.common().settings()?;
    let base = find(&capsule.description.image, &settings, &args.common, true)?.record;
    let (Some(parent), Some(name)) = (args.output.parent(), args.output.file_name()) else {
        return Err(Error::usage("a file name is needed"));
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())
        .or_say(|| format!("cannot open `{}`", parent.display()))?;
    let broker = capsule.description.broker;
    // Threads come later: a process with several cannot enter a user namespace.
    attach(&capsule)?;
    let root = mount::alone("/").or_say(|| "cannot look at the root without its mounts")?;
    let name = name
        .to_str()
        .ok_or_else(|| Error::usage("the file's name is not valid UTF-8"))?;
    let [root, directory] = [&root, &directory].map(fd::path_of);
    end_with(broker, directory.clone());
    save(
        Path::new(&root),
        Path::new(&directory),
        name,
        &base,
        &Silent,
    )?;
    Ok(())
}

/// The step may be killed meanwhile, and this process is not in its control group. The broker is.
fn end_with(broker: u32, directory: String) {
    let Ok(Some(end)) = process::watch(broker) else {
        return;
    };
    std::thread::spawn(move || {
        let mut polled = [rustix::event::PollFd::new(
            &end,
            rustix::event::PollFlags::IN,
        )];
        while rustix::event::poll(&mut polled, None).is_err() {}
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        std::process::exit(1);
    });
}
