//! Finds environment files (EDF) and turns them into options for the launcher's table.
//!
//! Deliberately absent: the format itself (`carrack_slurm::edf`) and the meaning of the options (`launch/options.rs`).

use crate::error::{Error, Result};
use carrack_slurm::document::Mistake;
use carrack_slurm::edf::{self, Place};
use std::ffi::OsString;
use std::path::PathBuf;

/// Where sites keep theirs.
const SITE_DIRECTORIES: &str = "/etc/edf";
/// An environment file is some lines long.
const LARGEST: u64 = 1 << 20;

/// An environment as `(key, value)` pairs for `options::apply` with `Origin::File`.
pub fn load(word: &str) -> Result<Vec<(String, OsString)>> {
    let environment = edf::load::<Problem>(word, &mut |word| Ok(read(word)?), &|name| {
        std::env::var(name).ok()
    })
    .map_err(|problem| match problem {
        Problem::Ours(error) => error,
        Problem::Mistake(mistake) => explain(word, mistake),
    })?;
    let options = edf::options(&environment.pairs).map_err(|mistake| explain(word, mistake))?;
    let known = options.into_iter().filter(|(name, _, _)| is_key(name));
    Ok(known
        .map(|(name, value, _)| (name, OsString::from(value)))
        .collect())
}

/// The format lets any key stand there; only the launcher's are applied.
fn is_key(name: &str) -> bool {
    let name = name.replace('-', "_");
    crate::launch::options::OPTIONS.iter().any(|option| {
        option.key == name
            || option.name.replace('-', "_") == name
            || option.off.is_some_and(|off| off.replace('-', "_") == name)
    })
}

enum Problem {
    Ours(Error),
    Mistake(Mistake),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::Ours(error)
    }
}

impl From<Mistake> for Problem {
    fn from(mistake: Mistake) -> Self {
        Problem::Mistake(mistake)
    }
}

/// A mistake in a file, as people see it.
pub fn explain(file: &str, mistake: Mistake) -> Error {
    let place = if mistake.line > 0 {
        format!("{file}:{}", mistake.line)
    } else {
        file.to_string()
    };
    let error = Error::usage(format!("cannot use `{place}`")).cause(mistake.what);
    match mistake.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn read(word: &str) -> Result<String> {
    let path = match edf::place(word) {
        Place::File(file) => PathBuf::from(file),
        Place::Named(name) => {
            let variable = |name: &str| std::env::var(name).ok();
            let directories = edf::search_path(
                variable("EDF_PATH").as_deref(),
                variable("HOME").as_deref(),
                SITE_DIRECTORIES,
            );
            let found = directories
                .iter()
                .map(|dir| PathBuf::from(dir).join(format!("{name}.toml")));
            found.clone().find(|file| file.is_file()).ok_or_else(|| {
                Error::usage(format!("there is no environment `{name}`"))
                    .cause(format!("looked for `{name}.toml` in {}", directories.join(", ")))
                    .hint("name a file by its path, or set EDF_PATH to the directories that hold them")
            })?
        }
    };
    let unread = |error| Error::unread("the environment file", &path, error);
    let size = std::fs::metadata(&path).map_err(unread)?.len();
    if size > LARGEST {
        return Err(Error::usage(format!(
            "cannot read the environment file `{}`",
            path.display()
        ))
        .cause(format!("it has {size} bytes; that is no environment file")));
    }
    std::fs::read_to_string(&path).map_err(unread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_options_and_foreign_keys_are_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().join("base.toml");
        std::fs::write(
            &base,
            "image = 'debian'\nsomething_else = 1\n[env]\nA = '1'\n",
        )
        .expect("written");
        let top = dir.path().join("top.toml");
        std::fs::write(
            &top,
            format!("base_environment = '{}'\nworkdir = '/w'\n", base.display()),
        )
        .expect("written");
        let pairs = load(&top.display().to_string()).expect("it loads");
        let expected = [("image", "debian"), ("env", "A=1"), ("workdir", "/w")];
        assert_eq!(
            pairs,
            expected.map(|(name, value)| (name.to_string(), OsString::from(value)))
        );
    }

    #[test]
    fn a_mistake_names_the_file_and_the_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.toml");
        std::fs::write(
            &file,
            "image = 'a'\nmounts = ['${CARRACK_SURELY_NOT_SET}:/x']\n",
        )
        .expect("written");
        let error = load(&file.display().to_string())
            .expect_err("a mistake")
            .to_string();
        assert!(
            error.contains("x.toml:2`\n  cause: `${CARRACK_SURELY_NOT_SET}` is not set\n"),
            "{error}"
        );
    }
}
