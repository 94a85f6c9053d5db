//! One container's options from keys, environment files and the command line, each checked by the launcher's own table.

use crate::error::Result;
use crate::jobs::environment;
use crate::launch::options::{self, OPTIONS, Shape};
use crate::launch::request::{Origin, Request};
use carrack_slurm::document::Pair;
use carrack_slurm::edf;
use carrack_slurm::quote;
use std::ffi::OsString;
use std::path::Path;

/// One container's options, checked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub image: Option<(String, usize)>,
    /// As flags; variables are live.
    pub flags: Vec<String>,
    /// What they ask for, with variables of this machine where the job's are not known yet.
    pub request: Request,
    /// The line of each mount in the request.
    pub mount_lines: Vec<usize>,
}

/// Options of a container from its keys, then the command line's.
pub(super) fn read_options(
    pairs: &[Pair],
    flags: &[(String, String)],
    label: &str,
) -> Result<Options> {
    let mut found = Options::default();
    // Environments come below what stands beside them, wherever the key is written.
    for pair in pairs
        .iter()
        .filter(|pair| matches!(pair.name.as_str(), "base_environment" | "environment"))
    {
        for word in pair
            .texts()
            .map_err(|mistake| environment::explain(label, mistake))?
        {
            found.environment(&word, pair.line)?;
        }
    }
    for (_, word) in flags.iter().filter(|(name, _)| name == "environment") {
        found.environment(word, 0)?;
    }
    let keys = edf::options(pairs).map_err(|mistake| environment::explain(label, mistake))?;
    for (name, value, line) in keys {
        if !matches!(name.as_str(), "base_environment" | "environment") {
            found.add(&Origin::File(label.to_string()), &name, &value, line, label)?;
        }
    }
    for (name, value) in flags.iter().filter(|(name, _)| name != "environment") {
        // The shell has expanded these already.
        found.add(&Origin::Flag, name, &value.replace('$', "$$"), 0, label)?;
    }
    Ok(found)
}

impl Options {
    fn environment(&mut self, word: &str, line: usize) -> Result<()> {
        for (name, value) in environment::load(word)? {
            let value = value.to_string_lossy().replace('$', "$$");
            self.add(&Origin::File(word.to_string()), &name, &value, line, word)?;
        }
        Ok(())
    }

    /// One option: checked by the launcher's table, then kept as a flag.
    fn add(
        &mut self,
        origin: &Origin,
        name: &str,
        value: &str,
        line: usize,
        label: &str,
    ) -> Result<()> {
        let folded = name.replace('_', "-");
        let spec = OPTIONS.iter().find(|option| {
            option.name == folded
                || option.key.replace('_', "-") == folded
                || option.off == Some(folded.as_str())
        });
        let before = self.request.mounts.len();
        options::apply(
            &mut self.request,
            origin,
            [(name, OsString::from(here(value)))],
        )
        .map_err(|error| {
            if line > 0 {
                error.while_doing(format!("cannot use `{label}:{line}`"))
            } else {
                error
            }
        })?;
        self.mount_lines.resize(
            self.mount_lines.len() + self.request.mounts.len() - before,
            line,
        );
        let Some(spec) = spec else { return Ok(()) };
        if spec.name == "image" {
            self.image = Some((here(value), line));
            return Ok(());
        }
        let off = spec.off == Some(folded.as_str());
        let yes = match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Some(!off),
            "0" | "false" | "no" | "off" => Some(off),
            _ => None,
        };
        match (spec.shape, yes) {
            (Shape::Value(_), _) => self
                .flags
                .extend([format!("--{}", spec.name), value.to_string()]),
            (_, Some(true)) => self.flags.push(format!("--{}", spec.name)),
            (_, Some(false)) => self.flags.extend(spec.off.map(|off| format!("--{off}"))),
            (_, None) => self.flags.push(format!("--{}={value}", spec.name)),
        }
        Ok(())
    }
}

/// Stands for what a variable has that only the job knows.
const STAND_IN: &str = "/x";

/// Whether a path of [`here`] begins with what only the job knows.
pub fn is_unknown(path: &Path) -> bool {
    path.starts_with(STAND_IN)
}

/// A value as it would be here: this machine's variables, and a stand-in for those that only the job has.
pub fn here(value: &str) -> String {
    let mut text = value.to_string();
    for name in quote::variables(value) {
        let known = std::env::var(name).unwrap_or_else(|_| STAND_IN.to_string());
        text = text
            .replace(&format!("${{{name}}}"), &known)
            .replace(&format!("${name}"), &known);
    }
    text.replace("$$", "$")
}
