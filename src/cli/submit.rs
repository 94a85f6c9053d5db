//! `carrack submit`: from a job file or a command line into Slurm's queue, with everything checked that can be.

mod here;

use super::progress::Watch;
use super::ps::ended_well;
use super::script::LongCommon;
use super::{Common, hooks, output, policy, staging};
use crate::config::Settings;
use crate::elf::Version;
use crate::error::{Context, Error, Result, printable};
use crate::image::pull::{self, host_platform, source_settings};
use crate::image::reference::Reference;
use crate::image::store::{Store, Stored, named, now_text};
use crate::jobs::array;
use crate::jobs::assemble::{Assembled, Pinned, Source, assemble};
use crate::jobs::check::software::Nodes;
use crate::jobs::check::{self, Cluster, Finding, Weight};
use crate::jobs::journal::{Journal, Submission};
use crate::jobs::queue;
use crate::jobs::run_record::Image;
use crate::jobs::words::Words;
use crate::launch::profile::Profile;
use crate::launch::request::Request;
use carrack_slurm::job::Text;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Submit a job file, or a command in an image, to Slurm
///
/// The image is pulled if needed and pinned by digest; the script is kept and its path printed with the job's number.
#[derive(clap::Args)]
#[command(
    after_help = "Options (sbatch's long and short ones are all known; so are srun's and, by their long names, those of\n\
    `carrack exec`: `-e`, `-v` and `-w` are sbatch's, write `--env`, `--bind` and `--workdir`):\n  \
    --dry-run   Prepare and check everything, submit nothing\n  \
    --force     Submit in spite of what the checks found\n  \
    --local     Run on this machine, without Slurm\n  \
    --refresh   Ask the registry whether the tag has moved, even if the image is in the store\n  \
    --json      Print JSON\n\n\
    Examples:\n  carrack submit wrf.toml\n  carrack submit prepare.toml wrf.toml -A project\n  \
    carrack submit -N 2 --ntasks-per-node=2 --mpi=pmix registry.site/app:v1 -- ./app input.nml"
)]
pub struct Args {
    /// Job files, or options and an image: `-N 2 --mpi=pmix IMAGE -- ./program`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "JOB.toml | OPTIONS IMAGE -- COMMAND"
    )]
    words: Vec<String>,
    #[command(flatten)]
    pub common: LongCommon,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let words = Words::parse(&args.words)?;
    let desk = Desk::open(&words, args.common.common)?;
    let mut submitted: Vec<Submission> = Vec::new();
    let files: Vec<Option<&Path>> = match words.files.as_slice() {
        [] => vec![None],
        files => files.iter().map(|file| Some(file.as_path())).collect(),
    };
    for file in files {
        match desk.submit(file, &words, &submitted)? {
            Done::Submitted(submission) => submitted.push(*submission),
            Done::Ran(_, code) if code != 0 => return Ok(ExitCode::from(code)),
            Done::Ran(submission, _) => submitted.push(*submission),
            Done::Dry => {}
        }
    }
    if words.json {
        output::print_json(&submitted)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Submits what words say that no job file is among, for another system's front.
pub fn once(words: &Words) -> Result<Done> {
    Desk::open(words, Common::default())?.submit(None, words, &[])
}

/// What became of one job file.
pub enum Done {
    Submitted(Box<Submission>),
    Ran(Box<Submission>, u8),
    Dry,
}

/// The login node's side of a submission: settings, store and the current directory.
pub struct Desk {
    common: Common,
    settings: Settings,
    store: Store,
    here: PathBuf,
    refresh: bool,
    local: bool,
}

impl Desk {
    pub fn open(words: &Words, mut common: Common) -> Result<Desk> {
        common.quiet |= words.quiet;
        common.verbose = common.verbose.max(u8::from(words.verbose));
        if words.store.is_some() {
            common.store.clone_from(&words.store);
        }
        let settings = common.settings()?;
        Ok(Desk {
            store: common.store_of(&settings)?,
            settings,
            common,
            here: std::env::current_dir().or_say(|| "cannot tell the current directory")?,
            refresh: words.refresh,
            local: words.local,
        })
    }

    /// Reads a job file (or the words alone) and brings its images in.
    pub fn assemble(
        &self,
        file: Option<&Path>,
        words: &Words,
        environment: Vec<(String, String)>,
    ) -> Result<Assembled> {
        let text = match file {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|error| Error::unread("the job file", file, error))?,
            None => String::new(),
        };
        let source = match file {
            Some(path) => Source::File { path, text: &text },
            None => Source::Words,
        };
        let mut assembled = assemble(&source, words, &mut |image| self.bring(image))?;
        assembled.script.environment.splice(0..0, environment);
        policy::check_job(&mut assembled, &self.settings.config)?;
        staging::job(
            &mut assembled,
            &|request| {
                let profile = Profile::choose(&self.settings.config, request);
                profile.is_ok_and(|profile| profile.follows("gef"))
            },
            &|| source_settings(&self.settings.config, self.store.temporary()),
        )?;
        Ok(assembled)
    }

    /// The image from the store, pulled if it is not there, and its name with the digest.
    fn bring(&self, image: &str) -> Result<Pinned> {
        let default = &self.settings.config.registries.default;
        let reference = match Reference::parse(image, default) {
            Ok(reference) => reference.absolute(&self.here),
            Err(wrong) => {
                // A digest and its first digits are no reference.
                let stored = self
                    .store
                    .find_named(image, default, &host_platform())
                    .map_err(|missing| match named(image, default) {
                        Ok(None) => missing,
                        _ => wrong,
                    })?;
                return Ok(Pinned {
                    text: stored.digest.to_string(),
                    reference: image.to_string(),
                    stored: Some(stored),
                });
            }
        };
        if let Reference::Squashfs(path) = &reference {
            // A squashfs of the user's own stays where it is.
            let settings = source_settings(&self.settings.config, self.store.temporary())?;
            let stored = pull::in_place(&reference, &settings)?;
            return Ok(Pinned {
                text: path.display().to_string(),
                reference: image.to_string(),
                stored: Some(stored),
            });
        }
        let known = if self.refresh {
            None
        } else {
            self.store.find(&reference, &host_platform())?
        };
        // What could be a name and is none in the store may be the first digits of a digest.
        let digits = image.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let (None, true) = (&known, digits)
            && let Ok(stored) = self.store.find_named(image, default, &host_platform())
        {
            return Ok(Pinned {
                text: stored.digest.to_string(),
                reference: image.to_string(),
                stored: Some(stored),
            });
        }
        let stored = match known {
            Some(stored) => stored,
            None => {
                let watch = Watch::new(&self.common);
                let pulled = pull::pull(
                    &reference,
                    &self.store,
                    &self.settings.config,
                    &pull::Options::for_host(),
                    &watch,
                );
                watch.finish();
                // What names no image may be digits that are too few.
                let few = || self.store.too_few_digits(image).into_iter();
                pulled
                    .map_err(|error| few().fold(error, Error::hint))?
                    .stored
                    .or_say(|| format!("`{image}` was pulled but is not in the store"))?
            }
        };
        let text = match &reference {
            Reference::Registry(name) => format!("docker://{}", name.pinned(stored.digest)),
            _ => stored.digest.to_string(),
        };
        Ok(Pinned {
            text,
            reference: image.to_string(),
            stored: Some(stored),
        })
    }

    pub fn check(&self, assembled: &Assembled) -> Vec<Finding> {
        let slurm = !self.local && queue::is_there();
        let cluster = if slurm {
            let value = |name| assembled.job.option(name)?.value.as_deref();
            self.cluster(value("partition"), value("constraint"))
        } else {
            Cluster::default()
        };
        check::all(assembled, &cluster, &assembled.directory(&self.here))
    }

    /// What Slurm and the site file say of the nodes.
    fn cluster(&self, partition: Option<&str>, constraint: Option<&str>) -> Cluster {
        Cluster::ask(partition, constraint, self.driver())
    }

    fn driver(&self) -> Option<Version> {
        Version::parse(&self.settings.config.launch.gpu_driver)
    }

    /// An image by itself, beside this cluster and what a profile asks of images.
    pub fn check_image(&self, image: &str, profile: Option<&str>) -> Result<Vec<Finding>> {
        let cluster = match queue::is_there() {
            true => self.cluster(None, None),
            false => Cluster {
                nodes: Nodes::of(self.driver(), &[]),
                ..Cluster::default()
            },
        };
        let Some(stored) = self.bring(image)?.stored else {
            return Ok(Vec::new());
        };
        let mut found = check::image(&stored, &cluster);
        let profile = match profile {
            Some(name) => Profile::named(&self.settings.config, name)?,
            None => Profile::choose(&self.settings.config, &Request::default())?,
        };
        for contract in ["ces", "eucaim", "gef"] {
            if profile.follows(contract) {
                let files = check::contract::Files::look(&stored);
                found.extend(check::contract::findings(contract, &stored.record, &files));
            }
        }
        Ok(found)
    }

    fn submit(&self, file: Option<&Path>, words: &Words, earlier: &[Submission]) -> Result<Done> {
        let journal = Journal::open()?;
        let mut assembled = self.assemble(file, words, Vec::new())?;
        let after = self.after(&assembled, &journal, earlier, words)?;
        for (word, job) in &after {
            let name = format!("CARRACK_AFTER_{}", variable_name(word));
            let directory = job.directory.display().to_string().replace('$', "$$");
            assembled.script.environment.push((name, directory));
        }
        let mut findings = self.check(&assembled);
        let stop = !words.force
            && findings
                .iter()
                .any(|finding| finding.weight == Weight::Problem);
        if stop && !words.dry_run {
            report(&assembled, &findings, words.force);
            return Err(Error::usage(format!(
                "{} would fail; nothing was submitted",
                assembled.label
            ))
            .hint("`--force` submits it nevertheless"));
        }
        let jobs = after.iter().map(|(_, job)| job);
        // What ran here has ended; Slurm does not know it.
        let queued = jobs.filter(|job| !words.local && !job.is_local());
        let ids: Vec<String> = queued.map(|job| job.id.clone()).collect();
        let arguments: Vec<String> = (!ids.is_empty())
            .then(|| format!("--dependency=afterok:{}", ids.join(":")))
            .into_iter()
            .collect();
        if words.local && assembled.script.array {
            array::tasks(&assembled.array())?;
        }
        let directory = assembled.directory(&self.here);
        let script = journal.begin(&assembled.script.name, &assembled.script.render())?;
        if !words.local
            && let Err(refused) = queue::would_take(&script, &[], &self.here)
        {
            // sbatch's own words say more than any of ours.
            if !words.dry_run && !words.force {
                journal.forget(&script);
                return Err(
                    refused.while_doing(format!("Slurm would not take {}", assembled.label))
                );
            }
            findings.push(Finding {
                weight: Weight::Problem,
                line: 0,
                what: format!(
                    "sbatch would refuse the script: {}",
                    refused.causes().join("; ")
                ),
                hint: "see `sbatch --test-only`".to_string(),
            });
        }
        report(&assembled, &findings, words.force);
        if words.dry_run {
            journal.forget(&script);
            output::print(&assembled.script.render())?;
            return Ok(Done::Dry);
        }
        hooks::submit(&self.settings, &assembled).inspect_err(|_| journal.forget(&script))?;
        if words.local {
            here::warn(&assembled);
            let submission =
                self.submission(String::new(), &assembled, &script, file, ids, &directory);
            let (submission, code) = here::run(&journal, submission)?;
            return Ok(Done::Ran(Box::new(submission), code));
        }
        let id = queue::submit(&script, &arguments, &self.here)
            .inspect_err(|_| journal.forget(&script))?;
        let submission = self.submission(id, &assembled, &script, file, ids, &directory);
        journal.note(&submission)?;
        for image in &assembled.images {
            if let Some(stored) = &image.stored
                && let Err(error) = self.pin(&submission.id, stored, &image.text)
            {
                // A store that cannot be written cannot lose the image either.
                tracing::info!("the image is not pinned in the store: {}", error.what());
            }
        }
        if !words.json {
            self.say(&submission)?;
        }
        Ok(Done::Submitted(Box::new(submission)))
    }

    /// Keeps an image for a job, with the name by which it can be pulled again.
    fn pin(&self, job: &str, image: &Stored, text: &str) -> Result<()> {
        let name = match image.record.reference.as_str() {
            "" => text,
            name => name,
        };
        self.store.pin(job, &image.digest, name)
    }

    fn say(&self, submission: &Submission) -> Result<()> {
        if self.common.quiet {
            return output::print(&format!("{}\n", submission.id));
        }
        output::print(&printable(&announcement(submission)))
    }

    fn submission(
        &self,
        id: String,
        assembled: &Assembled,
        script: &Path,
        file: Option<&Path>,
        after: Vec<String>,
        directory: &Path,
    ) -> Submission {
        let image = assembled.images.first();
        Submission {
            schema: 1,
            id,
            name: assembled.script.name.clone(),
            cluster: std::env::var("SLURM_CLUSTER_NAME").unwrap_or_default(),
            submitted: now_text(),
            script: script.to_path_buf(),
            directory: directory.to_path_buf(),
            output: assembled.output_pattern(),
            record: assembled.record_pattern(),
            job_file: file.map(|file| self.here.join(file)),
            image: image.map(|image| image.reference.clone()),
            digest: image
                .and_then(|image| image.stored.as_ref())
                .map(|stored| stored.digest.to_string()),
            array: assembled.script.array,
            tasks: assembled.array(),
            ended: None,
            after,
        }
    }

    /// The jobs that must end well first: those submitted with this one, or earlier ones by name or number.
    fn after(
        &self,
        assembled: &Assembled,
        journal: &Journal,
        earlier: &[Submission],
        words: &Words,
    ) -> Result<Vec<(String, Submission)>> {
        let mut found = Vec::new();
        for Text { text, line } in &assembled.job.after {
            let stem = Path::new(text)
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default();
            let of_file = |job: &&Submission| {
                job.job_file
                    .as_ref()
                    .and_then(|file| file.file_stem())
                    .is_some_and(|file| file.to_string_lossy() == stem)
            };
            let together = earlier
                .iter()
                .find(|job| job.name == *text)
                .or_else(|| earlier.iter().find(of_file));
            if let Some(job) = together {
                found.push((text.clone(), job.clone()));
                continue;
            }
            match journal.find(text).map(|(job, _)| job) {
                Some(job) => {
                    // Slurm waits for its own jobs only.
                    if (words.local || job.is_local()) && !words.force {
                        ended_well(&job, text, &format!("{}:{line}", assembled.label))?;
                    }
                    found.push((text.clone(), job));
                }
                // Nothing was submitted that this one could wait for.
                None if words.dry_run => {}
                None => {
                    return Err(Error::usage(format!(
                        "`{}:{line}` waits for `{text}`, which was never submitted",
                        assembled.label
                    ))
                    .hint(format!(
                        "submit it together: `carrack submit {text}.toml {}`",
                        assembled.label
                    )));
                }
            }
        }
        Ok(found)
    }

    /// The image of an earlier run, brought in again if it has left the store.
    pub fn known(&self, image: &Image) -> Result<Stored> {
        let default = &self.settings.config.registries.default;
        let digest = &image.manifest_digest;
        let found = self.store.find_named(digest, default, &host_platform());
        found.or_else(|gone| {
            if !image.reference.starts_with("docker://") {
                return Err(gone);
            }
            let name = image.reference.split('@').next().unwrap_or_default();
            self.bring(&format!("{name}@{digest}"))?.stored.ok_or(gone)
        })
    }

    /// Submits a script that was submitted before.
    pub fn again(
        &self,
        journal: &Journal,
        first: Submission,
        text: &str,
        image: Option<&Stored>,
    ) -> Result<ExitCode> {
        let script = journal.begin(&first.name, text)?;
        let mut submission = Submission {
            submitted: now_text(),
            script,
            ended: None,
            ..first
        };
        if self.local {
            let (_, code) = here::run(journal, submission)?;
            return Ok(ExitCode::from(code));
        }
        submission.id = queue::submit(&submission.script, &[], &submission.directory)
            .inspect_err(|_| journal.forget(&submission.script))?;
        journal.note(&submission)?;
        if let Some(image) = image {
            let _ = self.pin(&submission.id, image, "");
        }
        self.say(&submission)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What a person wants to know of a job that was submitted; the log of an array with Slurm's pattern for the task.
fn announcement(submission: &Submission) -> String {
    let Submission {
        id, name, script, ..
    } = submission;
    let log = submission.output_path(None);
    let (script, log) = (script.display(), log.display());
    format!(
        "job     {id} {name}\nscript  {script}\nlog     {log}\nnext    carrack wait {id} && carrack logs {id}\n"
    )
}

/// `prepare-v2` → `PREPARE_V2`.
fn variable_name(word: &str) -> String {
    let stem = Path::new(word)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    stem.chars().map(letter).collect()
}

/// Prints findings to standard error, each with its line.
pub fn report(assembled: &Assembled, findings: &[Finding], force: bool) {
    for finding in findings {
        let place = match finding.line {
            0 => String::new(),
            line => format!("{}:{line}: ", assembled.label),
        };
        let word = match finding.weight {
            Weight::Problem if force => "warning",
            weight => weight.word(),
        };
        eprintln!("{word}: {}", printable(&format!("{place}{}", finding.what)));
        if !finding.hint.is_empty() {
            eprintln!("  hint:  {}", printable(&finding.hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_an_array_is_told_as_a_pattern() {
        let job = |array| Submission {
            id: "18".to_string(),
            name: "many".to_string(),
            output: if array {
                "many-%A_%a.out"
            } else {
                "many-%j.out"
            }
            .to_string(),
            directory: "/w".into(),
            array,
            ..Submission::default()
        };
        let text = announcement(&job(true));
        assert!(text.contains("\nlog     /w/many-18_%a.out\n"), "{text}");
        let text = announcement(&job(false));
        assert!(text.contains("\nlog     /w/many-18.out\n"), "{text}");
    }

    #[test]
    fn names_of_variables() {
        for (word, expected) in [
            ("prepare", "PREPARE"),
            ("dir/pre-v2.toml", "PRE_V2"),
            ("ü", "_"),
        ] {
            assert_eq!(variable_name(word), expected);
        }
    }
}
