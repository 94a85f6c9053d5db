//! What the SPANK plugin adds to `carrack exec`. Not for people: hidden, and refused where it makes no sense.

use crate::error::{Context, Error, Result};
use crate::launch::request::{Origin, Request, RootAccess};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Clone, Debug, Default)]
pub struct Aids {
    /// Only check the request and bring its image; print the image's digest
    #[arg(long, hide = true)]
    pub pin: bool,
    /// Keep what is written under `--name` in this directory, until the plugin removes it
    #[arg(long, hide = true, value_name = "DIR")]
    keep_in: Option<PathBuf>,
    /// Somebody comes for the root when the last task has ended
    #[arg(long, hide = true)]
    hold: bool,
    /// The image, as the kernel mounted it for this job
    #[arg(long, hide = true, value_name = "DIR")]
    pub mounted: Option<PathBuf>,
}

/// In the directory of a kept root: the image that it lies over.
const IMAGE: &str = "image";

impl Aids {
    /// Puts them into the request, before the site's rules are asked.
    pub fn apply(&self, request: &mut Request) -> Result<()> {
        if request.save.is_some() && !self.pin {
            return Err(Error::usage("cannot save the root from here")
                .hint("`srun --container-save=FILE` can, where the site has the SPANK plugin"));
        }
        request.hold = self.hold;
        if let (Some(directory), Some(name)) = (&self.keep_in, &request.name) {
            request.kept = Some(directory.join(name));
        }
        if let Some(kept) = &request.kept
            && request.image.is_none()
        {
            request.image = image_of(kept)?;
        }
        // What cannot be written to need not be kept or saved.
        if (request.kept.is_some() || request.hold) && request.root.is_none() {
            request.root = Some(RootAccess::Writable { size: None });
            request.set_by.insert("writable", Origin::Slurm);
        }
        Ok(())
    }
}

fn image_of(kept: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(kept.join(IMAGE)) {
        Ok(name) => Ok(Some(name)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::usage(format!(
            "this job has no root `{}` on this node",
            kept.file_name().unwrap_or_default().display()
        ))
        .hint("the first step that uses a name gives the image, too")),
        Err(error) => Err(Error::new("cannot read which image a root has").source(error)),
    }
}

/// Notes over which image a kept root lies; refuses another one.
pub fn remember(kept: &Path, image: &str) -> Result<()> {
    let what = || format!("cannot use `{}`", kept.display());
    std::fs::create_dir_all(kept).or_say(what)?;
    // Complete or not there: another task may read it now.
    let mut file = tempfile::NamedTempFile::new_in(kept).or_say(what)?;
    std::io::Write::write_all(&mut file, image.as_bytes()).or_say(what)?;
    match file.persist_noclobber(kept.join(IMAGE)) {
        Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new(what()).source(error.error));
        }
        _ => {}
    }
    match image_of(kept)? {
        Some(before) if before != image => Err(Error::usage(format!(
            "the root `{}` of this job lies over another image",
            kept.file_name().unwrap_or_default().display()
        ))
        .cause(format!("it was made from `{before}`, not from `{image}`"))
        .hint("leave out the image, or use another name")),
        _ => Ok(()),
    }
}
