//! What the SPANK plugin adds to `carrack exec`. Not for people: hidden, and refused where it makes no sense.

use crate::error::{Context, Error, Result};
use crate::launch::request::{Origin, Request, RootAccess};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
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
    /// A descriptor through which the plugin tells of the end of the step's last task
    #[arg(long, hide = true, value_name = "FD")]
    pub step_end: Option<i32>,
    /// The image, as the kernel mounted it for this job
    #[arg(long, hide = true, value_name = "DIR")]
    pub mounted: Option<PathBuf>,
}

/// In the directory of a kept root: the image that it lies over.
const IMAGE: &str = "image";

impl Aids {
    /// The same as the parser makes of the words that the plugin puts first, and what follows them.
    pub fn plain(arguments: &[OsString]) -> (Aids, &[OsString]) {
        let mut aids = Aids::default();
        let mut rest = arguments;
        while let Some((word, after)) = rest.split_first() {
            let (name, value) = match word.to_str().map(|word| word.split_once('=')) {
                Some(Some((name, value))) if !value.is_empty() => (name, Some(value)),
                Some(None) => (word.to_str().unwrap_or_default(), None),
                _ => break,
            };
            match (name, value) {
                ("--pin", None) => aids.pin = true,
                ("--hold", None) => aids.hold = true,
                ("--keep-in", Some(value)) => aids.keep_in = Some(value.into()),
                ("--mounted", Some(value)) => aids.mounted = Some(value.into()),
                ("--step-end", Some(value)) => match value.parse() {
                    Ok(number) => aids.step_end = Some(number),
                    Err(_) => break,
                },
                _ => break,
            }
            rest = after;
        }
        (aids, rest)
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, Command, FromArgMatches};

    #[test]
    fn without_the_parser_it_is_the_same() {
        for (line, count) in [
            ("", 0),
            ("--pin --image=x", 1),
            (
                "--hold --keep-in=/run/7 --mounted=/m --step-end=9 --image=x",
                4,
            ),
            ("--step-end=x", 0),
            ("--keep-in= a", 0),
            ("--hold=1", 0),
            ("--bind=/a --hold", 0),
        ] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let (aids, rest) = Aids::plain(&words);
            assert_eq!(words.len() - rest.len(), count, "{line}");
            let taken = words.iter().take(count).cloned();
            let command = Aids::augment_args(Command::new("exec").no_binary_name(true));
            let matches = command.try_get_matches_from(taken).unwrap();
            assert_eq!(aids, Aids::from_arg_matches(&matches).unwrap(), "{line}");
        }
    }
}
