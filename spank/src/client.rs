//! srun, sbatch and salloc, as the user, on the login node: mistakes appear before the queue, the image is fixed, and the
//! command is guarded.
//!
//! The digest that the tag means now travels with the job, so that a tag moved later changes nothing. May fail: then
//! nothing is submitted.

use crate::host::{Place, Spank};
use crate::options::{self, Given};
use carrack::handover;
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
) -> Result<(), String> {
    if spank.place() != Place::Srun
        || options::container(given, |name| spank.variable(name))?.is_none()
    {
        return Ok(());
    }
    let command = spank.command();
    // The words of a --multi-prog step are in a file, which the nodes read.
    if multiple_programs(program, command.len()) {
        return Ok(());
    }
    match command.first() {
        Some(first) if !handover::is_guarded(first.as_bytes()) => {
            let guarded = CString::new(handover::guard(first.as_bytes()))
                .map_err(|_| "the command contains a NUL byte".to_string())?;
            spank.replace_first(guarded)
        }
        _ => Ok(()),
    }
}

/// Whether srun's own words, which are those before the command, say so. srun accepts the option's beginning, too.
fn multiple_programs(program: &[String], command: usize) -> bool {
    let options = program.len().saturating_sub(command);
    program
        .iter()
        .take(options)
        .any(|word| word.len() > "--mu".len() && "--multi-prog".starts_with(word.as_str()))
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
            guard_command(&mut srun, &given("x"), &plain).unwrap();
            let first = srun.command.first().unwrap().as_bytes();
            assert_eq!(handover::unguard(first), b"./app");
            assert!(handover::is_guarded(first));
        }
        for (place, options, line) in [
            (Place::Srun, Given::new(), "srun ./app -x"),
            (Place::Allocator, given("x"), "salloc ./app -x"),
            (Place::Srun, given("x"), "srun --multi-prog ./app -x"),
            (Place::Srun, given("x"), "srun --mult ./app -x"),
        ] {
            let mut bare = Fake::at(place);
            guard_command(&mut bare, &options, &program(line)).unwrap();
            assert_eq!(bare.command.first().unwrap().as_bytes(), b"./app", "{line}");
        }
    }
}
