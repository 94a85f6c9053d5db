//! The options that the plugin adds to srun, sbatch and salloc, and how they become arguments of `carrack exec`.
//!
//! Names and value syntax are pyxis's, so that scripts written for it run unchanged. Meaning and validity of the values
//! are the launcher's business: the plugin only splits lists. Pure: no Slurm, no environment of its own.

use std::collections::BTreeMap;

/// One option of srun, sbatch and salloc.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    /// Shown in `--help`; an option without one takes no value.
    pub value: Option<&'static str>,
    pub help: &'static str,
    /// A default from the submitter's environment; the option wins.
    pub variable: &'static str,
    /// What it becomes.
    pub becomes: Becomes,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Becomes {
    /// The image, `exec`'s positional argument.
    Image,
    /// These arguments as they are.
    Arguments(&'static [&'static str]),
    /// This flag with the value.
    Flag(&'static str),
    /// This flag once for each item of a list: commas separate, `\,` is a comma.
    Each(&'static str),
    /// `--network none` for `net`; anything else is refused.
    Unshare,
    /// A name, with pyxis's `:auto|create|exec|no_exec` behind it.
    Name,
}

use Becomes::*;

pub const DEFINITIONS: &[Definition] = &[
    Definition {
        name: "container-image",
        value: Some("IMAGE"),
        help: "run the tasks inside this image: a reference ([REGISTRY#]NAME[:TAG], docker://…) or a squashfs file",
        variable: "CARRACK_CONTAINER_IMAGE",
        becomes: Image,
    },
    Definition {
        name: "environment",
        value: Some("NAME|FILE"),
        help: "run the tasks as this environment definition file (EDF) says",
        variable: "CARRACK_ENVIRONMENT",
        becomes: Flag("--environment"),
    },
    Definition {
        name: "container-mounts",
        value: Some("SRC[:DST[:FLAGS]],…"),
        help: "show these host paths inside; FLAGS are joined with `+`, for example ro",
        variable: "CARRACK_CONTAINER_MOUNTS",
        becomes: Each("--bind"),
    },
    Definition {
        name: "container-workdir",
        value: Some("DIR"),
        help: "start in this directory of the image",
        variable: "CARRACK_CONTAINER_WORKDIR",
        becomes: Flag("--workdir"),
    },
    Definition {
        name: "container-name",
        value: Some("NAME"),
        help: "share one container between the steps of the job that give this name",
        variable: "CARRACK_CONTAINER_NAME",
        becomes: Name,
    },
    Definition {
        name: "container-mount-home",
        value: None,
        help: "show the home directory inside (default unless the site says otherwise)",
        variable: "CARRACK_CONTAINER_MOUNT_HOME",
        becomes: Arguments(&["--home"]),
    },
    Definition {
        name: "no-container-mount-home",
        value: None,
        help: "do not show the home directory inside",
        variable: "CARRACK_NO_CONTAINER_MOUNT_HOME",
        becomes: Arguments(&["--no-home"]),
    },
    Definition {
        name: "container-remap-root",
        value: None,
        help: "appear as root inside (without its powers)",
        variable: "CARRACK_CONTAINER_REMAP_ROOT",
        becomes: Arguments(&["--id", "root"]),
    },
    Definition {
        name: "no-container-remap-root",
        value: None,
        help: "keep the own user id inside (default)",
        variable: "CARRACK_NO_CONTAINER_REMAP_ROOT",
        becomes: Arguments(&["--id", "keep"]),
    },
    Definition {
        name: "container-entrypoint",
        value: None,
        help: "start the command through the image's entrypoint",
        variable: "CARRACK_CONTAINER_ENTRYPOINT",
        becomes: Arguments(&["--entrypoint"]),
    },
    Definition {
        name: "no-container-entrypoint",
        value: None,
        help: "start the command itself (default)",
        variable: "CARRACK_NO_CONTAINER_ENTRYPOINT",
        becomes: Arguments(&["--no-entrypoint"]),
    },
    Definition {
        name: "container-writable",
        value: None,
        help: "make the root writable; changes are discarded at the end",
        variable: "CARRACK_CONTAINER_WRITABLE",
        becomes: Arguments(&["--writable"]),
    },
    Definition {
        name: "container-readonly",
        value: None,
        help: "keep the root read-only (default)",
        variable: "CARRACK_CONTAINER_READONLY",
        becomes: Arguments(&["--read-only"]),
    },
    Definition {
        name: "container-env",
        value: Some("NAME,…"),
        help: "let these variables of the job win over the image's",
        variable: "CARRACK_CONTAINER_ENV",
        becomes: Each("--env"),
    },
    Definition {
        name: "container-unshare",
        value: Some("net"),
        help: "cut the tasks off the network (`net`)",
        variable: "CARRACK_CONTAINER_UNSHARE",
        becomes: Unshare,
    },
];

/// Options that contradict each other.
const PAIRS: &[(&str, &str)] = &[
    ("container-mount-home", "no-container-mount-home"),
    ("container-remap-root", "no-container-remap-root"),
    ("container-entrypoint", "no-container-entrypoint"),
    ("container-writable", "container-readonly"),
];

/// The values given on command lines, by index into [`DEFINITIONS`].
pub type Given = BTreeMap<usize, String>;

/// What the options ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Container {
    /// The image as written; none when an environment definition names it.
    pub image: Option<String>,
    /// Arguments of `carrack exec`, without the image.
    pub arguments: Vec<String>,
}

/// Reads the options: those given, then variables. `None` means that no container was asked for.
pub fn container(
    given: &Given,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Container>, String> {
    let mut effective: BTreeMap<&str, (&Definition, String)> = BTreeMap::new();
    for (index, definition) in DEFINITIONS.iter().enumerate() {
        let option = given.get(&index).cloned();
        let rival_given = PAIRS.iter().any(|(one, other)| {
            let rival = if *one == definition.name { other } else { one };
            (*one == definition.name || *other == definition.name)
                && position(rival).is_some_and(|at| given.contains_key(&at))
        });
        let default = || match definition.value {
            // A flag as a variable: set and neither empty, 0, no nor false.
            None => variable(definition.variable)
                .filter(|text| !matches!(text.as_str(), "" | "0" | "no" | "false")),
            Some(_) => variable(definition.variable).filter(|text| !text.is_empty()),
        };
        // An option beats the variable of its opposite too.
        if let Some(value) = option.or_else(|| if rival_given { None } else { default() }) {
            effective.insert(definition.name, (definition, value));
        }
    }
    for (one, other) in PAIRS {
        if effective.contains_key(one) && effective.contains_key(other) {
            return Err(format!("`--{one}` and `--{other}` contradict each other"));
        }
    }
    if !effective.contains_key("container-image") && !effective.contains_key("environment") {
        // Only an option given for this command is a mistake; variables may stand ready for other jobs.
        return match given
            .keys()
            .next()
            .and_then(|index| DEFINITIONS.get(*index))
        {
            Some(definition) => Err(format!(
                "`--{}` needs `--container-image` or `--environment`",
                definition.name
            )),
            None => Ok(None),
        };
    }
    let mut container = Container {
        image: None,
        arguments: Vec::new(),
    };
    for (definition, value) in effective.into_values() {
        match &definition.becomes {
            Image => container.image = Some(value),
            Arguments(words) => container
                .arguments
                .extend(words.iter().map(ToString::to_string)),
            Flag(flag) => container.arguments.push(format!("{flag}={value}")),
            Each(flag) => container.arguments.extend(
                items(&value)
                    .into_iter()
                    .map(|item| format!("{flag}={item}")),
            ),
            Unshare => match value.as_str() {
                "net" => container.arguments.push("--network=none".to_string()),
                _ => {
                    return Err(format!(
                        "`--container-unshare={value}` is not offered: only `net` can be unshared (MPI needs the node's ipc and pid)"
                    ));
                }
            },
            Name => container
                .arguments
                .push(format!("--name={}", name(&value)?)),
        }
    }
    Ok(Some(container))
}

fn position(name: &str) -> Option<usize> {
    DEFINITIONS
        .iter()
        .position(|definition| definition.name == name)
}

fn name(value: &str) -> Result<&str, String> {
    let (name, mode) = value.split_once(':').unwrap_or((value, "auto"));
    match mode {
        _ if name.is_empty() => Err("`--container-name` needs a name".to_string()),
        // Whoever comes first creates, the others join: what pyxis calls `auto`; `create` differs only in refusing to join.
        "auto" | "create" => Ok(name),
        _ => Err(format!(
            "`--container-name={value}` is not offered: only NAME, NAME:auto and NAME:create are"
        )),
    }
}

/// The items of a comma-separated list; a backslash keeps the next character as it is.
fn items(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => items.push(String::new()),
            '\\' => items
                .last_mut()
                .map_or((), |item| item.extend(characters.next())),
            other => items.last_mut().map_or((), |item| item.push(other)),
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(options: &[(&str, &str)]) -> Given {
        options
            .iter()
            .map(|(name, value)| (position(name).expect(name), value.to_string()))
            .collect()
    }

    fn arguments(options: &[(&str, &str)]) -> Result<Option<Container>, String> {
        container(&given(options), |_| None)
    }

    #[test]
    fn each_option_becomes_arguments_of_exec() {
        for (option, value, expected) in [
            (
                "container-mounts",
                "/a:/b:ro,/c",
                vec!["--bind=/a:/b:ro", "--bind=/c"],
            ),
            ("container-mounts", r"/a\,b", vec!["--bind=/a,b"]),
            ("container-workdir", "/w", vec!["--workdir=/w"]),
            ("container-name", "box", vec!["--name=box"]),
            ("container-name", "box:auto", vec!["--name=box"]),
            ("container-mount-home", "", vec!["--home"]),
            ("no-container-mount-home", "", vec!["--no-home"]),
            ("container-remap-root", "", vec!["--id", "root"]),
            ("no-container-remap-root", "", vec!["--id", "keep"]),
            ("container-entrypoint", "", vec!["--entrypoint"]),
            ("no-container-entrypoint", "", vec!["--no-entrypoint"]),
            ("container-writable", "", vec!["--writable"]),
            ("container-readonly", "", vec!["--read-only"]),
            ("container-env", "A,B", vec!["--env=A", "--env=B"]),
            ("container-unshare", "net", vec!["--network=none"]),
        ] {
            let container = arguments(&[("container-image", "x"), (option, value)])
                .unwrap()
                .unwrap();
            assert_eq!(container.image.as_deref(), Some("x"));
            assert_eq!(container.arguments, expected, "--{option}={value}");
        }
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
                vec![("container-image", "x"), ("container-name", "n:exec")],
                "not offered",
            ),
            (
                vec![("container-image", "x"), ("container-name", ":auto")],
                "needs a name",
            ),
        ] {
            let error = arguments(&options).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn options_beat_variables_and_nothing_means_no_container() {
        let variables = |name: &str| match name {
            "CARRACK_CONTAINER_IMAGE" => Some("from-variable".to_string()),
            "CARRACK_CONTAINER_WRITABLE" => Some("1".to_string()),
            "CARRACK_CONTAINER_MOUNT_HOME" => Some("0".to_string()),
            _ => None,
        };
        let by_variable = container(&Given::new(), variables).unwrap().unwrap();
        assert_eq!(
            (by_variable.image.as_deref(), by_variable.arguments),
            (Some("from-variable"), vec!["--writable".to_string()])
        );
        let options = given(&[("container-image", "y"), ("container-readonly", "")]);
        let by_option = container(&options, variables).unwrap().unwrap();
        assert_eq!(
            (by_option.image.as_deref(), by_option.arguments),
            (Some("y"), vec!["--read-only".to_string()])
        );
        assert_eq!(container(&Given::new(), |_| None), Ok(None));
        let only_extra =
            |name: &str| (name == "CARRACK_CONTAINER_WORKDIR").then(|| "/w".to_string());
        assert_eq!(container(&Given::new(), only_extra), Ok(None));
    }

    #[test]
    fn names_fit_slurm_and_are_unique() {
        let mut names: Vec<&str> = DEFINITIONS
            .iter()
            .map(|definition| definition.name)
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DEFINITIONS.len());
        // SPANK_OPTION_MAXLEN
        assert!(names.iter().all(|name| name.len() <= 75));
    }
}
