//! The option table as srun, sbatch and salloc see it, for the plugin: which options exist there, and the flags of
//! `carrack exec` that mean the same. Pure, like the table.

use super::options::{OPTIONS, OptionSpec, Shape, apply, split_for_slurm};
use super::request::{Origin, Request};
use crate::error::Result;
use std::ffi::OsString;

/// One option of srun, sbatch and salloc.
#[derive(Clone, Copy)]
pub struct SlurmOption {
    pub name: &'static str,
    /// Shown in `--help`; an option without one takes no value there.
    pub value: Option<&'static str>,
    pub spec: &'static OptionSpec,
    /// Whether it is the one that says the opposite.
    pub off: bool,
}

impl SlurmOption {
    /// Text for `--help`.
    pub fn help(&self) -> String {
        match (self.off, self.spec.slurm.first()) {
            (true, Some(on)) => format!("The opposite of --{on}"),
            _ => self.spec.help.to_string(),
        }
    }

    /// The flags of `carrack exec` that mean the same; a value that the table refuses is refused here already.
    pub fn flags(&self, value: &str) -> Result<Vec<String>> {
        let given = match self.value {
            Some(_) => OsString::from(value),
            None => OsString::from("true"),
        };
        let pair = [(self.name, given.clone())];
        apply(&mut Request::default(), &Origin::Slurm, pair)?;
        if self.value.is_none() {
            let name = if self.off {
                self.spec.off.unwrap_or(self.spec.name)
            } else {
                self.spec.name
            };
            return Ok(vec![format!("--{name}")]);
        }
        let parts = split_for_slurm(self.spec, &given);
        let flag = |part: OsString| format!("--{}={}", self.spec.name, part.to_string_lossy());
        Ok(parts.into_iter().map(flag).collect())
    }
}

/// All of them, in the table's order.
pub fn slurm_options() -> Vec<SlurmOption> {
    let mut options = Vec::new();
    for spec in OPTIONS {
        // pyxis's switches take no value, ours may: Slurm allows only one of the two.
        let value = match spec.shape {
            Shape::Value(value) => Some(value),
            Shape::Switch | Shape::Optional(_) => None,
        };
        let on = spec.slurm.iter().map(|name| SlurmOption {
            name,
            value,
            spec,
            off: false,
        });
        let off = spec.slurm_off.iter().map(|name| SlurmOption {
            name,
            value: None,
            spec,
            off: true,
        });
        options.extend(on.chain(off));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(name: &str, value: &str) -> Result<Vec<String>> {
        let option = slurm_options()
            .into_iter()
            .find(|option| option.name == name);
        option.expect(name).flags(value)
    }

    #[test]
    fn each_option_becomes_flags() {
        for (name, value, expected) in [
            (
                "container-mounts",
                "/a:/b:ro,/c",
                vec!["--bind=/a:/b:ro", "--bind=/c"],
            ),
            ("container-mounts", r"/a\,b", vec!["--bind=/a,b"]),
            ("container-workdir", "/w", vec!["--workdir=/w"]),
            ("container-name", "box:auto", vec!["--name=box:auto"]),
            ("container-mount-home", "", vec!["--home"]),
            ("no-container-mount-home", "", vec!["--no-home"]),
            ("container-remap-root", "", vec!["--remap-root"]),
            ("no-container-remap-root", "", vec!["--no-remap-root"]),
            ("container-entrypoint", "", vec!["--entrypoint"]),
            ("no-container-entrypoint", "", vec!["--no-entrypoint"]),
            ("container-writable", "", vec!["--writable"]),
            ("container-readonly", "", vec!["--read-only"]),
            ("container-env", "A,B", vec!["--env=A", "--env=B"]),
            ("container-unshare", "net", vec!["--unshare=net"]),
            ("environment", "ml", vec!["--environment=ml"]),
        ] {
            assert_eq!(flags(name, value).unwrap(), expected, "--{name}={value}");
        }
    }

    #[test]
    fn values_are_checked_before_the_queue() {
        for (name, value) in [
            ("container-unshare", "pid"),
            ("container-name", ":auto"),
            ("container-mounts", "a:b:c:d:e"),
        ] {
            assert!(flags(name, value).is_err(), "--{name}={value}");
        }
    }

    #[test]
    fn names_fit_slurm_and_are_unique() {
        let mut names: Vec<&str> = slurm_options().iter().map(|option| option.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        // SPANK_OPTION_MAXLEN
        assert!(names.iter().all(|name| name.len() <= 75));
    }
}
