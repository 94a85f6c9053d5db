//! The job file: what to ask of Slurm, which image, what to copy, which steps.
//!
//! Everything is checked that can be checked in the text alone, and every complaint names its line. Deliberately absent:
//! what the keys of `[container]` mean (the launcher's option table) and whether a cluster has what the values ask for.

use crate::document::{self, Mistake, Pair, Result, Value};
use crate::nearest::nearest;
use crate::options::{self, Arity, Command, Unknown};
use crate::values;

/// A whole job file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Options of sbatch by their long names, in the file's order.
    pub options: Vec<Setting>,
    /// Heterogeneous sizes: what differs in each component after the first.
    pub components: Vec<Vec<Setting>>,
    /// Jobs that must have ended well before this one starts: names, numbers or job files.
    pub after: Vec<Text>,
    /// A size that the site has named.
    pub flavor: Option<Text>,
    pub image_on: ImageOn,
    /// Variables of the script and of all steps, on the host's side.
    pub environment: Vec<(String, String)>,
    pub container: Option<Container>,
    pub stages: Vec<Stage>,
    pub steps: Vec<Step>,
}

/// A value and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub text: String,
    pub line: usize,
}

/// One option of sbatch or srun; no value for a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub value: Option<String>,
    pub line: usize,
}

impl Setting {
    /// `--nodes=2`, as one argument.
    pub fn argument(&self) -> String {
        match &self.value {
            Some(value) => format!("--{}={value}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

/// Where the image's file is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageOn {
    /// One file on the shared file system.
    #[default]
    Shared,
    /// A copy on each node, made before the first step.
    Node,
}

/// The uninterpreted keys of a `[container]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    pub pairs: Vec<Pair>,
    pub line: usize,
}

/// A copy before the first step, or after the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub direction: Direction,
    /// File or directory; variables are expanded on the node.
    pub from: String,
    pub to: String,
    pub on: StageOn,
    pub line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// Which nodes copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StageOn {
    /// The node of the batch script.
    #[default]
    First,
    /// All of them; what they bring home goes into a directory per node.
    Every,
}

/// What one step does, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    pub command: Run,
    pub launcher: StepLauncher,
    pub container: StepContainer,
    /// Options of srun (or words for mpirun) by their long names.
    pub options: Vec<Setting>,
    pub environment: Vec<(String, String)>,
    pub line: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Exactly these words.
    Words(Vec<String>),
    /// A line for a shell, which expands it in each task.
    Shell(String),
    /// What the image runs by default.
    Image,
}

/// What starts the step's tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepLauncher {
    #[default]
    Srun,
    /// The host's mpirun, with the launcher as its command.
    Mpirun,
    /// The batch script itself, on the first node; also for mpirun inside the image.
    Script,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StepContainer {
    #[default]
    Same,
    /// On the bare node.
    None,
    /// The job's, with these keys changed.
    Changed(Container),
}

/// The tables of a job file; all else at the top is refused.
const TABLES: &[&str] = &["job", "component", "env", "container", "stage", "step"];
/// The keys of `[job]` that are not sbatch's.
const JOB_KEYS: &[&str] = &["after", "flavor", "image-on"];
/// The keys of `[[step]]` that are not srun's.
const STEP_KEYS: &[&str] = &["name", "command", "shell", "launcher", "container", "env"];

impl Job {
    pub fn parse(text: &str) -> Result<Job> {
        let mut job = Job::default();
        for pair in document::parse(text)? {
            match pair.name.as_str() {
                "job" => job.read_job(pair.table()?)?,
                "env" => job.environment = environment(pair.table()?)?,
                "container" => {
                    job.container = Some(Container {
                        pairs: pair.table()?.to_vec(),
                        line: pair.line,
                    });
                }
                "component" => {
                    for (table, _) in tables(&pair)? {
                        job.components.push(settings(table, Command::Sbatch)?);
                    }
                }
                "stage" => {
                    for (table, line) in tables(&pair)? {
                        job.stages.push(stage(table, line)?);
                    }
                }
                "step" => {
                    for (index, (table, line)) in tables(&pair)?.into_iter().enumerate() {
                        job.steps.push(step(table, line, index)?);
                    }
                }
                other => return Err(unknown_table(other, &pair)),
            }
        }
        job.check()?;
        Ok(job)
    }

    /// The value of an option of sbatch, if the file has it.
    pub fn option(&self, name: &str) -> Option<&Setting> {
        self.options
            .iter()
            .rev()
            .find(|setting| setting.name == name)
    }

    fn read_job(&mut self, pairs: &[Pair]) -> Result<()> {
        for pair in pairs {
            match pair.name.replace('_', "-").as_str() {
                "after" => {
                    let line = pair.line;
                    let texts = pair.texts()?.into_iter();
                    self.after = texts.map(|text| Text { text, line }).collect();
                }
                "flavor" => {
                    self.flavor = Some(Text {
                        text: pair.text()?,
                        line: pair.line,
                    });
                }
                "image-on" => {
                    self.image_on = match pair.text()?.as_str() {
                        "shared" => ImageOn::Shared,
                        "node" => ImageOn::Node,
                        other => {
                            return Err(Mistake::new(
                                pair.line,
                                format!("`image-on` is \"shared\" or \"node\", not \"{other}\""),
                            ));
                        }
                    };
                }
                _ => self
                    .options
                    .extend(setting(pair, Command::Sbatch, JOB_KEYS)?),
            }
        }
        Ok(())
    }

    /// What no single key can get wrong.
    fn check(&self) -> Result<()> {
        if self.container.is_none() && self.steps.is_empty() {
            return Err(Mistake::new(
                0,
                "the job file has neither a `[[step]]` nor a `[container]`",
            )
            .hint("a `[container]` with an `image` runs what the image runs by default"));
        }
        for step in &self.steps {
            let contained = match step.container {
                StepContainer::None => false,
                StepContainer::Same => self.container.is_some(),
                StepContainer::Changed(_) => true,
            };
            if !contained && step.command == Run::Image {
                return Err(Mistake::new(step.line, format!("step `{}` has no `command`", step.name))
                    .hint("write `command = [\"./program\", \"argument\"]` or `shell = \"line for a shell\"`"));
            }
            if self.container.is_none() && step.container == StepContainer::Same {
                return Err(
                    Mistake::new(step.line, format!("step `{}` has no image: there is no `[container]`", step.name))
                        .hint("add `[container]` with an `image`, or write `container = false` for a step on the bare node"),
                );
            }
        }
        let mut names: Vec<&str> = Vec::new();
        for step in &self.steps {
            if names.contains(&step.name.as_str()) {
                return Err(Mistake::new(
                    step.line,
                    format!("two steps are called `{}`", step.name),
                ));
            }
            names.push(&step.name);
        }
        Ok(())
    }
}

fn unknown_table(name: &str, pair: &Pair) -> Mistake {
    let mistake = Mistake::new(pair.line, format!("unknown table `{name}`"));
    if let Some(table) = nearest(name, TABLES.iter().copied()) {
        return mistake.hint(format!("did you mean `[{table}]`?"));
    }
    if options::find(name, Command::Sbatch).is_ok() {
        return mistake.hint("options of sbatch belong under `[job]`");
    }
    mistake.hint(format!("a job file has the tables {}", TABLES.join(", ")))
}

/// The tables of `[[name]]`; one `[name]` counts as one.
fn tables(pair: &Pair) -> Result<Vec<(&[Pair], usize)>> {
    match &pair.value {
        Value::List(values) => values
            .iter()
            .map(|value| match value {
                Value::Table(pairs) => Ok((
                    pairs.as_slice(),
                    pairs.first().map_or(pair.line, |first| first.line),
                )),
                _ => Err(Mistake::new(
                    pair.line,
                    format!("`{0}` is a list of tables: write `[[{0}]]`", pair.name),
                )),
            })
            .collect(),
        _ => Ok(vec![(pair.table()?, pair.line)]),
    }
}

fn settings(pairs: &[Pair], command: Command) -> Result<Vec<Setting>> {
    let mut found = Vec::new();
    for pair in pairs {
        found.extend(setting(pair, command, &[])?);
    }
    Ok(found)
}

/// One option from one pair; none for a flag that is false.
fn setting(pair: &Pair, command: Command, ours: &[&'static str]) -> Result<Option<Setting>> {
    let known = options::find(&pair.name, command)
        .map_err(|unknown| explain(pair, command, ours, unknown))?;
    let with = |value| {
        Ok(Some(Setting {
            name: known.name,
            value,
            line: pair.line,
        }))
    };
    match (&pair.value, known.arity) {
        (Value::Flag(false), Arity::Flag | Arity::Optional) => Ok(None),
        (Value::Flag(true), Arity::Flag | Arity::Optional) => with(None),
        (_, Arity::Flag) => Err(Mistake::new(
            pair.line,
            format!(
                "`{}` takes no value: write `{} = true`",
                known.name, known.name
            ),
        )),
        // Several mail types, licences or nodes: Slurm separates them by commas.
        (Value::List(_), _) => with(Some(pair.texts()?.join(","))),
        _ => with(Some(pair.text()?)),
    }
    .and_then(|found| match found {
        Some(setting)
            if setting
                .value
                .as_ref()
                .is_some_and(|value| value.contains(['\n', '\r'])) =>
        {
            Err(Mistake::new(
                pair.line,
                format!(
                    "`{}` has a line break, which no #SBATCH line can hold",
                    pair.name
                ),
            ))
        }
        found => Ok(found),
    })
    .and_then(|found| {
        let value = found.as_ref().and_then(|setting| setting.value.as_deref());
        match value.and_then(|value| Some((value, values::mistaken(known.name, value)?))) {
            Some((value, form)) => Err(Mistake::new(
                pair.line,
                format!("`{}` is {}, not \"{value}\"", pair.name, form.what),
            )
            .hint(form.hint)),
            None => Ok(found),
        }
    })
}

fn explain(pair: &Pair, command: Command, ours: &[&'static str], unknown: Unknown) -> Mistake {
    let mistake = Mistake::new(
        pair.line,
        format!("`{}` is no option of {}", pair.name, command.name()),
    );
    match unknown {
        Unknown::Refused(why) => Mistake::new(
            pair.line,
            format!("`{}` has no place in a job file", pair.name),
        )
        .hint(why),
        Unknown::Other(Command::Srun) => mistake.hint("srun has it: put it under `[[step]]`"),
        Unknown::Other(Command::Sbatch) => mistake.hint("sbatch has it: put it under `[job]`"),
        Unknown::Nearest(theirs) => {
            let folded = pair.name.replace('_', "-");
            match nearest(&folded, ours.iter().copied()).or(theirs) {
                Some(name) => mistake.hint(format!("did you mean `{name}`?")),
                None => mistake,
            }
        }
    }
}

fn environment(pairs: &[Pair]) -> Result<Vec<(String, String)>> {
    pairs
        .iter()
        .map(|pair| {
            let name = &pair.name;
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty()
                || !name.chars().all(good)
                || name.starts_with(|c: char| c.is_ascii_digit())
            {
                return Err(Mistake::new(
                    pair.line,
                    format!("`{name}` is no name of a variable"),
                ));
            }
            Ok((name.clone(), pair.text()?))
        })
        .collect()
}

fn stage(pairs: &[Pair], line: usize) -> Result<Stage> {
    let (mut found, mut to, mut on): (_, Option<String>, _) = (None, None, None);
    for pair in pairs {
        match pair.name.as_str() {
            "in" | "out" if found.is_some() => {
                return Err(
                    Mistake::new(pair.line, "a `[[stage]]` has `in` or `out`, not both")
                        .hint("write one `[[stage]]` for each copy"),
                );
            }
            "in" => found = Some((Direction::In, pair.text()?)),
            "out" => found = Some((Direction::Out, pair.text()?)),
            "to" => to = Some(pair.text()?),
            "on" => {
                on = match pair.text()?.as_str() {
                    "first" => Some(StageOn::First),
                    "every" => Some(StageOn::Every),
                    other => {
                        return Err(Mistake::new(
                            pair.line,
                            format!("`on` is \"first\" or \"every\", not \"{other}\""),
                        ));
                    }
                };
            }
            other => {
                return Err(Mistake::new(
                    pair.line,
                    format!("unknown key `{other}` in `[[stage]]`"),
                )
                .hint("it has `in` or `out`, `to` and `on`"));
            }
        }
    }
    let (direction, from) = found
        .ok_or_else(|| Mistake::new(line, "a `[[stage]]` needs `in` or `out`: what to copy"))?;
    let to =
        to.ok_or_else(|| Mistake::new(line, "a `[[stage]]` needs `to`: where the copy goes"))?;
    // A node's own directory is wanted on all nodes; a shared one would be written by all of them at once.
    let own = to.starts_with("$TMPDIR") || to.starts_with("${TMPDIR");
    let usual = if direction == Direction::In && own {
        StageOn::Every
    } else {
        StageOn::First
    };
    Ok(Stage {
        direction,
        from,
        to,
        on: on.unwrap_or(usual),
        line,
    })
}

fn step(pairs: &[Pair], line: usize, index: usize) -> Result<Step> {
    let mut step = Step {
        name: format!("step{}", index + 1),
        command: Run::Image,
        launcher: StepLauncher::Srun,
        container: StepContainer::Same,
        options: Vec::new(),
        environment: Vec::new(),
        line,
    };
    for pair in pairs {
        match pair.name.as_str() {
            "name" => step.name = pair.text()?,
            "command" | "shell" if step.command != Run::Image => {
                return Err(Mistake::new(
                    pair.line,
                    "a step has one `command` or one `shell` line",
                ));
            }
            "command" => {
                let Value::List(_) = pair.value else {
                    return Err(Mistake::new(pair.line, "`command` is a list of words")
                        .hint("write `command = [\"./program\", \"argument\"]`, or `shell = \"…\"` for a shell's line"));
                };
                let words = pair.texts()?;
                if words.first().is_none_or(String::is_empty) {
                    return Err(Mistake::new(pair.line, "`command` has no words"));
                }
                step.command = Run::Words(words);
            }
            "shell" => step.command = Run::Shell(pair.text()?),
            "launcher" => {
                step.launcher = match pair.text()?.as_str() {
                    "srun" => StepLauncher::Srun,
                    "mpirun" => StepLauncher::Mpirun,
                    "none" => StepLauncher::Script,
                    other => {
                        return Err(Mistake::new(
                            pair.line,
                            format!(
                                "`launcher` is \"srun\", \"mpirun\" or \"none\", not \"{other}\""
                            ),
                        ));
                    }
                };
            }
            "container" => {
                step.container = match &pair.value {
                    Value::Flag(false) => StepContainer::None,
                    Value::Flag(true) => StepContainer::Same,
                    _ => StepContainer::Changed(Container {
                        pairs: pair.table()?.to_vec(),
                        line: pair.line,
                    }),
                };
            }
            "env" => step.environment = environment(pair.table()?)?,
            _ => step
                .options
                .extend(setting(pair, Command::Srun, STEP_KEYS)?),
        }
    }
    if step.launcher != StepLauncher::Srun {
        // mpirun has options of its own; only the number of tasks means the same.
        let allowed =
            |setting: &&Setting| step.launcher == StepLauncher::Mpirun && setting.name == "ntasks";
        if let Some(setting) = step.options.iter().find(|setting| !allowed(setting)) {
            return Err(Mistake::new(
                setting.line,
                format!(
                    "`{}` is for srun, which does not start step `{}`",
                    setting.name, step.name
                ),
            ));
        }
    }
    Ok(step)
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
