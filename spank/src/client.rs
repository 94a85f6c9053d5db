//! srun, sbatch and salloc, as the user, on the login node: mistakes appear before the queue, the image is fixed, and the
//! command is guarded.
//!
//! The digest that the tag means now travels with the job, so that a tag moved later changes nothing. May fail: then
//! nothing is submitted.

use crate::host::{Place, Spank};
use crate::options::{self, Given};
use carrack::handover;
use std::borrow::Cow;
use std::ffi::CString;

/// Carries `KEY TAB DIGEST` to the tasks; in a job's environment Slurm puts `SLURM_SPANK_` in front.
pub const PIN: &str = "CARRACK_PIN";

/// Carries the directory that a relative `--container-save` starts at.
pub const DIRECTORY: &str = "CARRACK_SAVE_DIRECTORY";

/// Runs `carrack exec --pin` with these arguments: a front does it as a child process, a test as a closure. The answer is
/// the image's digest; nothing for an image that is a file.
pub type Resolve<'a> = &'a dyn Fn(&[String]) -> Result<Option<String>, String>;

/// After the options are known.
pub fn post_options(spank: &mut dyn Spank, given: &Given, resolve: Resolve) -> Result<(), String> {
    let place = spank.place();
    if !matches!(place, Place::Srun | Place::Allocator) {
        return Ok(());
    }
    let Some(container) = options::container(given, |name| spank.variable(name))? else {
        return Ok(());
    };
    if container.save.is_some() && place == Place::Srun {
        let directory = std::env::current_dir()
            .map_err(|error| format!("cannot tell the current directory: {error}"))?;
        spank.set_variable(DIRECTORY, &directory.to_string_lossy())?;
    }
    if pinned(spank, &container.key).is_some() {
        return Ok(());
    }
    let Some(digest) = resolve(&container.words(None))? else {
        return Ok(());
    };
    let pin = format!("{}\t{digest}", container.key);
    if place == Place::Allocator {
        spank.set_job_variable(PIN, &pin)
    } else {
        // srun hands its own environment to the tasks.
        spank.set_variable(PIN, &pin)
    }
}

/// srun, when the step's nodes are known and its command is about to be sent: a node that has no plugin must not run it.
pub fn guard_command(
    spank: &mut dyn Spank,
    given: &Given,
    program: &[String],
    launcher: &str,
) -> Result<(), String> {
    if spank.place() != Place::Srun
        || options::container(given, |name| spank.variable(name))?.is_none()
    {
        return Ok(());
    }
    let command = spank.command();
    if let Some(text) = programs_file(program, &command) {
        let guarded = handover::guard_programs(text.as_bytes(), launcher)
            .ok_or_else(|| format!("`--multi-prog` cannot name the launcher `{launcher}`"))?;
        return spank.replace_word(1, c_string(guarded)?);
    }
    match command.first() {
        Some(first) if !handover::is_guarded(first.as_bytes()) => {
            let guarded = handover::guard(first.as_bytes());
            spank.replace_word(0, c_string(guarded)?)
        }
        _ => Ok(()),
    }
}

fn c_string(bytes: Vec<u8>) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| "the command contains a NUL byte".to_string())
}

/// The text of the file that a --multi-prog step is made of. srun puts it behind the file's name, where its own words
/// have nothing.
fn programs_file<'a>(program: &[String], command: &'a [CString]) -> Option<&'a CString> {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let ends_with = |words: &[Cow<'_, str>]| {
        let from = program.len().checked_sub(words.len());
        let tail = from.and_then(|from| program.get(from..));
        tail.is_some_and(|tail| tail.iter().zip(words).all(|(one, other)| one == other))
    };
    let (name, [_, rest @ ..]) = words.split_first()? else {
        return None;
    };
    let without = [std::slice::from_ref(name), rest].concat();
    (!ends_with(&words) && ends_with(&without))
        .then(|| command.get(1))
        .flatten()
}

/// The digest that was fixed for this image when the job was submitted.
pub fn pinned(spank: &dyn Spank, key: &str) -> Option<String> {
    [PIN.to_string(), format!("SLURM_SPANK_{PIN}")]
        .iter()
        .find_map(|name| {
            let pin = spank.variable(name)?;
            let (pinned_key, digest) = pin.rsplit_once('\t')?;
            (pinned_key == key).then(|| digest.to_string())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    fn given(image: &str) -> Given {
        crate::options::tests::given(&[("container-image", image)])
    }

    #[test]
    fn the_digest_travels_with_the_job() {
        let resolve: Resolve = &|words| match words {
            [word] if word == "--image=debian:12" => Ok(Some("sha256:1".into())),
            _ => Err("asked".into()),
        };
        let mut srun = Fake::at(Place::Srun);
        post_options(&mut srun, &given("debian:12"), resolve).unwrap();
        assert_eq!(srun.variables[PIN], "debian:12\tsha256:1");
        let mut sbatch = Fake::at(Place::Allocator);
        post_options(&mut sbatch, &given("debian:12"), resolve).unwrap();
        assert_eq!(
            sbatch.variables["SLURM_SPANK_CARRACK_PIN"],
            "debian:12\tsha256:1"
        );
        // An srun inside that job asks nobody, unless it names another image.
        let mut inner = Fake::at(Place::Srun);
        inner.variables = sbatch.variables;
        post_options(&mut inner, &given("debian:12"), &|_| Err("asked".into())).unwrap();
        assert_eq!(
            post_options(&mut inner, &given("debian:13"), resolve),
            Err("asked".into())
        );
    }

    #[test]
    fn files_have_no_digest_and_bare_jobs_ask_nobody() {
        let mut file = Fake::at(Place::Srun);
        post_options(&mut file, &given("./x.sqsh"), &|_| Ok(None)).unwrap();
        assert!(file.variables.is_empty());
        post_options(&mut Fake::at(Place::Srun), &Given::new(), &|_| {
            Err("asked".into())
        })
        .unwrap();
    }

    #[test]
    fn the_command_of_a_container_step_is_guarded_once() {
        let program =
            |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_string).collect() };
        let plain = program("srun -n4 ./app -x");
        let mut srun = Fake::at(Place::Srun);
        for _ in 0..2 {
            guard_command(&mut srun, &given("x"), &plain, "/l").unwrap();
            let first = srun.command.first().unwrap().as_bytes();
            assert_eq!(handover::unguard(first), b"./app");
            assert!(handover::is_guarded(first));
        }
        for (place, options, line) in [
            (Place::Srun, Given::new(), "srun ./app -x"),
            (Place::Allocator, given("x"), "salloc ./app -x"),
        ] {
            let mut bare = Fake::at(place);
            guard_command(&mut bare, &options, &program(line), "/l").unwrap();
            assert_eq!(bare.command.first().unwrap().as_bytes(), b"./app", "{line}");
        }
    }

    #[test]
    fn the_file_of_a_multi_prog_step_is_guarded_instead() {
        for (line, command, guarded) in [
            ("srun --multi-prog file", &[c"file", c"0 ./a\n"][..], 1),
            ("srun -n2 --mu file x", &[c"file", c"0 ./a\n", c"x"], 1),
            ("srun --comment --multi-prog a b", &[c"a", c"b"], 0),
            ("srun a a", &[c"a", c"a"], 0),
            ("srun a", &[c"a"], 0),
        ] {
            let program: Vec<String> = line.split(' ').map(str::to_string).collect();
            let mut srun = Fake::at(Place::Srun);
            srun.command = command.iter().map(|word| (*word).to_owned()).collect();
            guard_command(&mut srun, &given("x"), &program, "/l").unwrap();
            for (at, (now, before)) in srun.command.iter().zip(command).enumerate() {
                assert_eq!(now.as_c_str() != *before, at == guarded, "{line}: {now:?}");
            }
            let programs = handover::are_guarded_programs(&srun.command);
            assert_eq!(programs, guarded == 1, "{line}");
        }
    }
}
