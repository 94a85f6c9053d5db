//! `carrack artifact`: files in a registry that are no image.

use super::policy::{Deed, may};
use super::table::table;
use super::{Common, interrupt, output};
use crate::config::Size;
use crate::error::{Error, Result, printable};
use crate::image::artifact::{self, Destination};
use crate::image::pull::{host_platform, source_settings};
use crate::image::reference::{Name, Reference};
use crate::image::source::registry::{Registry, upload::Bytes};
use crate::image::source::{Resolved, Source};
use std::path::PathBuf;
use std::process::ExitCode;

/// Fetch and store files that are no image: models, data, results (ORAS artifacts)
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    pub common: Common,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Fetch the files of an artifact
    ///
    /// Files keep the names that the artifact gives them, below DIR. Nothing is replaced, and nothing appears before all of
    /// it has arrived with the right digests.
    Pull {
        /// REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:…
        reference: String,
        /// Put the files below DIR, which is made if need be [default: the working directory]
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Replace files that are there
        #[arg(short, long)]
        force: bool,
        /// Refuse an artifact of another type
        #[arg(long, value_name = "TYPE")]
        artifact_type: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// List what lies beside an image in its registry: SBOMs, reports of scanners, signatures
    ///
    /// Each can be fetched by its digest: `carrack artifact pull REGISTRY/NAME@sha256:…`.
    List {
        /// REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:… of the image
        reference: String,
        #[command(flatten)]
        how: How,
    },
    /// Store files under a name
    Push {
        /// REGISTRY/NAME:TAG
        reference: String,
        /// FILE, or FILE:TYPE with its media type [default: application/octet-stream]
        #[arg(required = true, value_name = "FILE[:TYPE]")]
        files: Vec<String>,
        /// What it is, for example application/zip
        #[arg(long, value_name = "TYPE", default_value = artifact::UNKNOWN)]
        artifact_type: String,
        #[command(flatten)]
        how: How,
    },
}

#[derive(clap::Args)]
struct How {
    /// Speak plain http to the registry
    #[arg(long)]
    insecure: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Pull {
            reference,
            output,
            force,
            artifact_type,
            how,
        } => pull(
            &args.common,
            how,
            reference,
            output.as_ref(),
            *force,
            artifact_type.as_deref(),
        ),
        Verb::List { reference, how } => list(&args.common, how, reference),
        Verb::Push {
            reference,
            files,
            artifact_type,
            how,
        } => push(&args.common, how, reference, files, artifact_type),
    }
}

/// What refers to the name's manifest, or to this machine's image below it.
fn list(common: &Common, how: &How, reference: &str) -> Result<ExitCode> {
    let (name, registry) = open(common, how, reference)?;
    let mut digests = Vec::new();
    digests.extend(registry.current()?);
    if let Ok(Resolved::Layers {
        manifest_digest, ..
    }) = registry.resolve(&host_platform())
        && !digests.contains(&manifest_digest)
    {
        digests.push(manifest_digest);
    }
    let mut found = Vec::new();
    for digest in &digests {
        found.extend(registry.attached_to(digest)?);
    }
    if how.json {
        output::print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["TYPE", "CREATED", "REFERENCE"].map(String::from).to_vec()];
    for one in &found {
        let created = one.annotations.get("org.opencontainers.image.created");
        rows.push(vec![
            one.kind.clone(),
            created.cloned().unwrap_or_default(),
            format!("{}/{}@{}", name.registry, name.repository, one.digest),
        ]);
    }
    output::print(&table(&rows))?;
    Ok(ExitCode::SUCCESS)
}

/// The registry behind a reference, with the site's and the user's settings.
fn open(common: &Common, how: &How, reference: &str) -> Result<(Name, Registry)> {
    let settings = common.settings()?;
    may(Deed::Pull, &settings.config.access)?;
    settings.may_be_insecure(how.insecure)?;
    let reference = Reference::parse(reference, &settings.config.registries.default)?;
    let Some(name) = reference.name() else {
        return Err(
            Error::usage(format!("`{reference}` does not name a registry"))
                .hint("for example `registry.site/project/model:v1`"),
        );
    };
    let mut sources = source_settings(&settings.config, std::env::temp_dir())?;
    if how.insecure {
        sources.insecure.push(name.registry.clone());
    }
    Ok((name.clone(), Registry::open(name, &sources)?))
}

fn pull(
    common: &Common,
    how: &How,
    reference: &str,
    directory: Option<&PathBuf>,
    force: bool,
    wanted: Option<&str>,
) -> Result<ExitCode> {
    let (name, registry) = open(common, how, reference)?;
    let manifest = registry.any_manifest()?;
    let about = |error: Error| error.while_doing(format!("cannot fetch the artifact `{name}`"));
    let found = artifact::parse(&manifest).map_err(about)?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != found.kind) {
        return Err(about(Error::new(format!(
            "it is of the type `{}`, not `{wanted}`",
            found.kind
        ))));
    }
    // A stranger's `.bashrc` must not appear in a home directory because somebody was there.
    let hidden = |title: &str| title.split('/').any(|part| part.starts_with('.'));
    if directory.is_none()
        && let Some(file) = found.files.iter().find(|file| hidden(&file.title))
    {
        return Err(about(
            Error::new(format!("it has a hidden file, `{}`", file.title))
                .hint("name a directory for it with `--output DIR`"),
        ));
    }
    for warning in &found.warnings {
        tracing::warn!("{}", printable(warning));
    }
    let here = PathBuf::from(".");
    let destination = Destination::open(directory.unwrap_or(&here), force)?;
    destination.check(&found.files)?;
    let staging = destination.staging()?;
    let unfinished = staging.path().to_path_buf();
    interrupt::before_ending(move || {
        let _ = std::fs::remove_dir_all(unfinished);
    });
    let staged = |index: usize| staging.path().join(index.to_string());
    for (index, file) in found.files.iter().enumerate() {
        artifact::stage(registry.blob(&file.blob)?, file, &staged(index))?;
    }
    let mut lines = Vec::new();
    for (index, file) in found.files.iter().enumerate() {
        let path = destination.place(&staged(index), &file.title)?;
        lines.push((path, file));
    }
    if how.json {
        let files: Vec<_> = lines
            .iter()
            .map(|(path, file)| {
                serde_json::json!({
                    "title": file.title, "path": path, "digest": file.blob.digest, "size": file.blob.size,
                    "media_type": file.blob.media_type,
                })
            })
            .collect();
        let digest = crate::image::digest::Digest::of(&manifest);
        output::print_json(&serde_json::json!({
            "reference": name.to_string(), "digest": digest, "artifact_type": found.kind, "files": files,
        }))?;
    } else {
        let text: String = lines
            .iter()
            .map(|(path, file)| match common.quiet {
                true => format!("{}\n", path.display()),
                false => format!("{}  {}\n", path.display(), Size(file.blob.size)),
            })
            .collect();
        output::print(&printable(&text))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn push(
    common: &Common,
    how: &How,
    reference: &str,
    files: &[String],
    kind: &str,
) -> Result<ExitCode> {
    if !artifact::is_media_type(kind) {
        return Err(
            Error::usage(format!("`{kind}` is no type")).hint("for example `application/zip`")
        );
    }
    let (name, registry) = open(common, how, reference)?;
    if name.digest.is_some() {
        return Err(Error::usage(format!("cannot push to `{name}`"))
            .cause("the digest follows from the files")
            .hint("name a tag"));
    }
    let files = files
        .iter()
        .map(|text| artifact::outgoing(text))
        .collect::<Result<Vec<_>>>()?;
    // Names that clash are told before anything is sent.
    let manifest = artifact::manifest(kind, &files)?;
    registry.push_blob(&artifact::empty(), Bytes::Held(artifact::EMPTY.to_vec()))?;
    for file in &files {
        let blob = &file.part.blob;
        let sent = registry.push_blob(blob, Bytes::File(file.path.clone(), blob.size))?;
        let how = if sent { "pushed" } else { "is there already" };
        tracing::info!("{} {how}", file.part.title);
    }
    let digest = registry.push_manifest(artifact::MANIFEST, &manifest)?;
    if how.json {
        output::print_json(&serde_json::json!({
            "reference": name.to_string(), "digest": digest, "artifact_type": kind,
        }))?;
    } else if common.quiet {
        output::print(&format!("{digest}\n"))?;
    } else {
        output::print(&printable(&format!("{name}: pushed\n  digest  {digest}\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}
