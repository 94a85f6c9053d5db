//! What the options on srun, sbatch and salloc ask for, as arguments of `carrack exec`.
//!
//! The options themselves are those of the launcher's one table. Pure: no Slurm, no environment of its own.

use carrack::launch::slurm_options::{SlurmOption, slurm_options};
use std::collections::BTreeMap;

/// Defaults from the submitter's environment for the two options that ask for a container; `carrack exec` reads the
/// variables of all others itself. Not `CARRACK_IMAGE`: that one is for people who type `carrack exec`.
const VARIABLES: [(&str, &str); 2] = [
    ("container-image", "CARRACK_CONTAINER_IMAGE"),
    ("environment", "CARRACK_CONTAINER_ENVIRONMENT"),
];

/// The values given on command lines, by index into the list of [`slurm_options`].
pub type Given = BTreeMap<usize, String>;

/// What the options ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Container {
    /// The image as written; none when an environment file names it.
    pub image: Option<String>,
    /// Arguments of `carrack exec`, without the image.
    pub arguments: Vec<String>,
}

/// Reads the options given, then the variables. `None` means that no container was asked for.
pub fn container(
    given: &Given,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Container>, String> {
    let options = slurm_options();
    let mut effective: Vec<(&SlurmOption, String)> = Vec::new();
    for (index, option) in options.iter().enumerate() {
        let default = || {
            let (_, name) = VARIABLES.iter().find(|(name, _)| *name == option.name)?;
            variable(name).filter(|value| !value.is_empty())
        };
        if let Some(value) = given.get(&index).cloned().or_else(default) {
            effective.push((option, value));
        }
    }
    if !effective.iter().any(|(option, _)| asks(option)) {
        return match effective.first() {
            Some((option, _)) => Err(format!(
                "`--{}` needs `--container-image` or `--environment`",
                option.name
            )),
            None => Ok(None),
        };
    }
    let mut container = Container {
        image: None,
        arguments: Vec::new(),
    };
    for (at, (option, value)) in effective.iter().enumerate() {
        let rival = |(other, _): &&(&SlurmOption, String)| std::ptr::eq(other.spec, option.spec);
        if let Some((other, _)) = effective
            .get(at + 1..)
            .and_then(|rest| rest.iter().find(rival))
        {
            return Err(format!(
                "`--{}` and `--{}` contradict each other",
                option.name, other.name
            ));
        }
        let flags = option
            .flags(value)
            .map_err(|error| error.to_string().trim_end().replacen("error: ", "", 1))?;
        if option.name == "container-image" {
            container.image = Some(value.clone());
        } else {
            container.arguments.extend(flags);
        }
    }
    Ok(Some(container))
}

fn asks(option: &SlurmOption) -> bool {
    VARIABLES.iter().any(|(name, _)| *name == option.name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn given(options: &[(&str, &str)]) -> Given {
        let known = slurm_options();
        let position = |name: &str| {
            known
                .iter()
                .position(|option| option.name == name)
                .expect(name)
        };
        options
            .iter()
            .map(|(name, value)| (position(name), value.to_string()))
            .collect()
    }

    fn read(options: &[(&str, &str)]) -> Result<Option<Container>, String> {
        container(&given(options), |_| None)
    }

    #[test]
    fn options_become_arguments() {
        let container = read(&[
            ("container-image", "x"),
            ("container-mounts", "/a,/b:/c:ro"),
            ("container-writable", ""),
        ]);
        let container = container.unwrap().unwrap();
        assert_eq!(container.image.as_deref(), Some("x"));
        assert_eq!(
            container.arguments,
            ["--bind=/a", "--bind=/b:/c:ro", "--writable"]
        );
        let by_file = read(&[("environment", "ml")]).unwrap().unwrap();
        assert_eq!(
            (by_file.image, by_file.arguments),
            (None, vec!["--environment=ml".to_string()])
        );
    }

    #[test]
    fn mistakes_are_refused() {
        for (options, part) in [
            (
                vec![("container-mounts", "/a")],
                "needs `--container-image`",
            ),
            (
                vec![("container-image", "x"), ("container-unshare", "pid")],
                "only `net`",
            ),
            (
                vec![
                    ("container-image", "x"),
                    ("container-writable", ""),
                    ("container-readonly", ""),
                ],
                "contradict",
            ),
            (
                vec![("container-image", "x"), ("container-name", ":auto")],
                "name",
            ),
        ] {
            let error = read(&options).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn options_beat_variables_and_nothing_means_no_container() {
        let variables =
            |name: &str| (name == "CARRACK_CONTAINER_IMAGE").then(|| "from-variable".to_string());
        let by_variable = container(&Given::new(), variables).unwrap().unwrap();
        assert_eq!(by_variable.image.as_deref(), Some("from-variable"));
        let by_option = container(&given(&[("container-image", "y")]), variables)
            .unwrap()
            .unwrap();
        assert_eq!(by_option.image.as_deref(), Some("y"));
        assert_eq!(container(&Given::new(), |_| None), Ok(None));
        let other = |name: &str| (name == "CARRACK_IMAGE").then(|| "x".to_string());
        assert_eq!(container(&Given::new(), other), Ok(None));
    }
}
