//! srun, sbatch and salloc, as the user, on the login node: mistakes appear before the queue, and the image is fixed.
//!
//! The digest that the tag means now travels with the job, so that a tag moved later changes nothing. May fail: then
//! nothing is submitted.

use crate::host::{Place, Spank};
use crate::options::{self, Given};

/// Carries `IMAGE TAB DIGEST` to the tasks; in a job's environment Slurm puts `SLURM_SPANK_` in front.
pub const PIN: &str = "CARRACK_PIN";

/// Runs the launcher for the digest of a reference: a front does it as a child process, a test as a closure.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// After the options are known.
pub fn post_options(spank: &mut dyn Spank, given: &Given, resolve: Resolve) -> Result<(), String> {
    let place = spank.place();
    if !matches!(place, Place::Srun | Place::Allocator) {
        return Ok(());
    }
    let Some(container) = options::container(given, |name| spank.variable(name))? else {
        return Ok(());
    };
    let Some(image) = container.image else {
        return Ok(());
    };
    if pinned(spank, &image).is_some() || is_file(&image) {
        return Ok(());
    }
    let digest = resolve(&image)?;
    let pin = format!("{image}\t{digest}");
    if place == Place::Allocator {
        spank.set_job_variable(PIN, &pin)
    } else {
        // srun hands its own environment to the tasks.
        spank.set_variable(PIN, &pin)
    }
}

/// The digest that was fixed for this image when the job was submitted.
pub fn pinned(spank: &dyn Spank, image: &str) -> Option<String> {
    [PIN.to_string(), format!("SLURM_SPANK_{PIN}")]
        .iter()
        .find_map(|name| {
            let pin = spank.variable(name)?;
            let (pinned_image, digest) = pin.rsplit_once('\t')?;
            (pinned_image == image).then(|| digest.to_string())
        })
}

/// A squashfs file is what it is: nothing to resolve.
fn is_file(image: &str) -> bool {
    image.starts_with('/') || image.starts_with("./") || image.starts_with("../")
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
        let mut srun = Fake::at(Place::Srun);
        post_options(&mut srun, &given("debian:12"), &|_| Ok("sha256:1".into())).unwrap();
        assert_eq!(srun.variables[PIN], "debian:12\tsha256:1");
        let mut sbatch = Fake::at(Place::Allocator);
        post_options(&mut sbatch, &given("debian:12"), &|_| Ok("sha256:1".into())).unwrap();
        assert_eq!(
            sbatch.variables["SLURM_SPANK_CARRACK_PIN"],
            "debian:12\tsha256:1"
        );
        // An srun inside that job asks nobody, unless it names another image.
        let mut inner = Fake::at(Place::Srun);
        inner.variables = sbatch.variables;
        post_options(&mut inner, &given("debian:12"), &|_| Err("asked".into())).unwrap();
        assert_eq!(
            post_options(&mut inner, &given("debian:13"), &|_| Err("asked".into())),
            Err("asked".into())
        );
    }

    #[test]
    fn files_and_bare_jobs_ask_nobody() {
        for options in [given("./x.sqsh"), given("/x.sqsh"), Given::new()] {
            post_options(&mut Fake::at(Place::Srun), &options, &|_| {
                Err("asked".into())
            })
            .unwrap();
        }
    }
}
