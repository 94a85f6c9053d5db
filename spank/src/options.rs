//! What the options on srun, sbatch and salloc ask for, as arguments of `carrack exec`.
//!
//! The options themselves are those of the launcher's one table. Pure: no Slurm, no environment of its own.

use carrack::launch::slurm_options::{SlurmOption, slurm_options};
use std::collections::BTreeMap;

/// The options that ask for a container; all others only say how. A name alone is that of a root which a step before made.
const IMAGE: &str = "container-image";
const ENVIRONMENT: &str = "environment";
const NAME: &str = "container-name";
const SAVE: &str = "container-save";

/// The values given on command lines, by index into the list of [`slurm_options`].
pub type Given = BTreeMap<usize, String>;

/// What the options ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The image as written; none when an environment file names it.
    pub image: Option<String>,
    /// Arguments of `carrack exec`, without the image.
    pub arguments: Vec<String>,
    /// What the digest that was fixed at submission belongs to.
    pub key: String,
    pub name: Option<String>,
    pub save: Option<String>,
}

/// What a step asks for, or what is wrong with it.
pub type Asked = Result<Option<Container>, String>;

impl Container {
    /// The arguments and the image, which is the one that was fixed when the job was submitted, if one was.
    pub fn words(&self, pinned: Option<String>) -> Vec<String> {
        let image = pinned.or_else(|| self.image.clone());
        let mut words = self.arguments.clone();
        words.extend(image.map(|image| format!("--image={image}")));
        words
    }
}

/// The variable of the submitter's environment that stands in for an option, as pyxis has them under its own prefix.
fn variable_of(option: &SlurmOption) -> String {
    let name = option.name.strip_prefix("container-");
    let name = name.unwrap_or(option.name).replace('-', "_");
    format!("CARRACK_CONTAINER_{}", name.to_uppercase())
}

/// Reads the options given, then the variables. `None` means that no container was asked for.
pub fn container(given: &Given, variable: impl Fn(&str) -> Option<String>) -> Asked {
    let options = slurm_options();
    let effective = effective(&options, given, variable)?;
    let named = given
        .keys()
        .filter_map(|index| options.get(*index))
        .any(|option| option.name == NAME);
    if !named && !effective.iter().any(|(option, _)| asks(option)) {
        let first = given.keys().next().and_then(|index| options.get(*index));
        return match first {
            Some(option) => Err(format!(
                "`--{}` needs `--container-image` or `--environment`",
                option.name
            )),
            None => Ok(None),
        };
    }
    let mut container = Container {
        image: None,
        arguments: Vec::new(),
        key: String::new(),
        name: None,
        save: None,
    };
    for (at, (option, value)) in effective.iter().enumerate() {
        let rival = |(other, _): &&(&SlurmOption, String)| std::ptr::eq(other.spec, option.spec);
        let rest = effective.get(at + 1..).unwrap_or_default();
        if let Some((other, _)) = rest.iter().find(rival) {
            return Err(format!(
                "`--{}` and `--{}` contradict each other",
                option.name, other.name
            ));
        }
        let flags = option
            .flags(value)
            .map_err(|error| error.to_string().trim_end().replacen("error: ", "", 1))?;
        match option.name {
            IMAGE => container.image = Some(value.clone()),
            SAVE => container.save = Some(value.clone()),
            NAME => {
                // pyxis appends what to do with an existing one; ours is always joined or made.
                let name = value.split(':').next().unwrap_or_default();
                container.name = Some(name.to_string());
            }
            _ => {}
        }
        if option.name == ENVIRONMENT && container.key.is_empty() {
            container.key = format!("environment {value}");
        }
        // The step's end saves, not the tasks.
        if ![IMAGE, SAVE].contains(&option.name) {
            container.arguments.extend(flags);
        }
    }
    if let Some(image) = &container.image {
        container.key.clone_from(image);
    }
    Ok(Some(container))
}

/// The options in force, in the table's order: a given one beats the variable of it and of its opposite.
fn effective<'a>(
    options: &'a [SlurmOption],
    given: &Given,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(&'a SlurmOption, String)>, String> {
    let mut effective = Vec::new();
    for (index, option) in options.iter().enumerate() {
        if let Some(value) = given.get(&index) {
            effective.push((option, value.clone()));
            continue;
        }
        let same = |index: &usize| {
            let other = options.get(*index);
            other.is_some_and(|other| std::ptr::eq(other.spec, option.spec))
        };
        if option.off || given.keys().any(same) {
            continue;
        }
        let name = variable_of(option);
        let Some(value) = variable(&name).filter(|value| !value.is_empty()) else {
            continue;
        };
        if option.value.is_some() {
            effective.push((option, value));
            continue;
        }
        let off = match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => false,
            "0" | "false" | "no" | "off" => true,
            _ => {
                return Err(format!(
                    "cannot understand `{value}` in {name} as yes or no"
                ));
            }
        };
        let opposite = |other: &&SlurmOption| other.off && std::ptr::eq(other.spec, option.spec);
        match (off, options.iter().find(opposite)) {
            (false, _) => effective.push((option, String::new())),
            (true, Some(opposite)) => effective.push((opposite, String::new())),
            (true, None) => {}
        }
    }
    Ok(effective)
}

fn asks(option: &SlurmOption) -> bool {
    [IMAGE, ENVIRONMENT].contains(&option.name)
}

#[cfg(test)]
#[path = "options_tests.rs"]
pub(crate) mod tests;
