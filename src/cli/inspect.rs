//! `carrack inspect`: what is known of an image, for people and for programs.

use super::table::ago;
use super::{Common, output};
use crate::config::Size;
use crate::error::{Result, printable};
use crate::image::adopt::software;
use crate::image::manifest::platform_text;
use crate::image::pull::{host_platform, in_place, source_settings};
use crate::image::reference::Reference;
use crate::image::store::verify::{open, open_checked};
use crate::image::store::{Store, Stored};
use crate::record::{Contents, ImageRecord, Library};
use std::process::ExitCode;

/// Show what is known of an image
#[derive(clap::Args)]
#[command(alias = "lookup")]
pub struct Args {
    /// Reference, digest or its first 6 digits or more, or a squashfs or SIF file
    image: String,
    /// List the files in the image, one per line: type, path, mode, owner, size …
    #[arg(long)]
    files: bool,
    /// Show the image as a service of GEF: its labels' name, version and ports
    #[arg(long, conflicts_with = "files")]
    gef: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "files")]
    json: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let settings = args.common.settings()?;
    let store = args.common.store_of(&settings)?;
    let default = &settings.config.registries.default;
    let stored = match store.find_named(&args.image, default, &host_platform()) {
        Ok(stored) => stored,
        Err(missing) => match crate::image::store::named(&args.image, default)? {
            Some(reference) if is_ready_file(&reference) => {
                let here = source_settings(&settings.config, std::env::temp_dir())?;
                let mut stored = in_place(&reference, &here).map_err(|error| {
                    // That the store cannot be read says more than that the image is not in it.
                    match missing.downcast_ref::<std::io::Error>() {
                        Some(_) => missing,
                        None => error,
                    }
                })?;
                if !args.files
                    && !args.common.quiet
                    && stored.record.contents == Contents::default()
                {
                    stored.record.contents = software(&stored)?;
                }
                stored
            }
            _ => return Err(missing),
        },
    };
    if args.files {
        list_files(&stored)?;
    } else if args.gef {
        super::gef::service(&stored, args.json)?;
    } else if args.json {
        output::print_json(&as_json(&store, &stored))?;
    } else if args.common.quiet {
        output::print(&format!("{}\t{}\n", stored.digest, stored.path.display()))?;
    } else {
        output::print(&as_text(&store, &stored))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A squashfs or SIF file can be looked at where it lies.
fn is_ready_file(reference: &Reference) -> bool {
    let ready = matches!(
        reference,
        Reference::Squashfs(_) | Reference::Sif(_) | Reference::File(_)
    );
    ready && reference.path().is_some_and(|path| path.is_file())
}

fn list_files(stored: &Stored) -> Result<()> {
    // A file of another tool has nothing to be checked against.
    let image = match stored.record.squashfs.root.is_empty() {
        true => open(stored)?,
        false => open_checked(stored)?,
    };
    let mut text = String::new();
    image.walk(|path, inode| {
        text.push_str(&image.line(path, inode, false)?);
        text.push('\n');
        if text.len() > 1 << 16 {
            output::print(&text)?;
            text.clear();
        }
        Ok(())
    })?;
    output::print(&text)
}

fn as_json(store: &Store, stored: &Stored) -> serde_json::Value {
    serde_json::json!({
        "digest": stored.digest,
        "path": stored.path,
        "offset": stored.offset,
        "store": stored.root,
        "read_only": stored.read_only,
        "references": store.references_to(stored),
        "jobs": store.pinned().remove(&stored.digest).unwrap_or_default(),
        "record": stored.record,
    })
}

fn as_text(store: &Store, stored: &Stored) -> String {
    let record = &stored.record;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let value = value.replace('\n', "\\n");
            text.push_str(&format!("{name:<13}{value}\n"));
        }
    };
    line("reference", &record.reference);
    for name in store.references_to(stored) {
        if name != record.reference {
            line("also", &name);
        }
    }
    line("digest", &record.manifest_digest);
    line("config", &record.config_digest);
    line("platform", &platform_text(&record.platform));
    line("created", &record.created);
    line("path", &stored.path.display().to_string());
    if let Ok(time) = stored.path.metadata().and_then(|meta| meta.modified()) {
        line("converted", &ago(time));
    }
    let squashfs = &record.squashfs;
    let content = match squashfs.content_bytes {
        0 => String::new(),
        bytes => format!(" for {} of content", Size(bytes)),
    };
    line(
        "size",
        &format!(
            "{}{content}, {} files, {} in blocks of {}",
            Size(squashfs.size),
            squashfs.inodes,
            squashfs.compressor,
            Size(u64::from(squashfs.block_size))
        ),
    );
    let checked = if squashfs.root.is_empty() {
        "nothing is known to check it against"
    } else {
        &squashfs.root
    };
    line("integrity", checked);
    config_lines(record, &mut line);
    content_lines(record, &mut line);
    for (index, layer) in record.layers.iter().enumerate() {
        let name = if index == 0 { "layers" } else { "" };
        line(
            name,
            &format!("{} {:>7}", layer.digest, Size(layer.size).to_string()),
        );
    }
    for (index, step) in record.history.iter().enumerate() {
        line(if index == 0 { "history" } else { "" }, step);
    }
    for (what, count) in &record.notes {
        line("note", &format!("{count} {what}"));
    }
    for job in store.pinned().remove(&stored.digest).unwrap_or_default() {
        line("needed by", &format!("job {job}"));
    }
    if let Some(warning) = version_differs(record) {
        line("warning", &warning);
    }
    printable(&text)
}

fn config_lines(record: &ImageRecord, line: &mut dyn FnMut(&str, &str)) {
    let config = &record.config;
    let words = |words: &[String]| match words {
        [] => String::new(),
        words => serde_json::to_string(words).unwrap_or_default(),
    };
    line("entrypoint", &words(&config.entrypoint));
    line("command", &words(&config.cmd));
    line("workdir", &config.workdir);
    line("user", &config.user);
    for variable in &config.env {
        line("env", variable);
    }
    for (name, value) in &config.labels {
        line("label", &format!("{name}={value}"));
    }
    line("volumes", &config.volumes.join(" "));
    line("ports", &config.exposed_ports.join(" "));
    line("stop signal", &config.stop_signal);
}

fn content_lines(record: &ImageRecord, line: &mut dyn FnMut(&str, &str)) {
    let contents = &record.contents;
    if let Some(libc) = &contents.libc {
        line(
            "libc",
            &format!("{} {} ({})", libc.kind, libc.version, libc.path),
        );
    }
    for (name, libraries) in [
        ("mpi", &contents.mpi),
        ("pmi", &contents.pmi),
        ("gpu", &contents.gpu),
    ] {
        for library in libraries {
            line(name, &library_text(library));
        }
    }
    line("shell", contents.shell.as_deref().unwrap_or_default());
}

fn library_text(library: &Library) -> String {
    let speaks = match library.speaks.as_slice() {
        [] => String::new(),
        speaks => format!(", speaks {}", speaks.join(" ")),
    };
    format!(
        "{} {} ({}{speaks})",
        library.name, library.version, library.path
    )
}

/// Whether the image's own version label contradicts the tag it was pulled by.
pub fn version_differs(record: &ImageRecord) -> Option<String> {
    let reference: Reference = record.reference.parse().ok()?;
    let tag = reference
        .name()?
        .tag
        .clone()
        .filter(|tag| tag != "latest")?;
    let labels = &record.config.labels;
    let version = labels
        .get("org.opencontainers.image.version")
        .or_else(|| labels.get("version"))?;
    let bare = |text: &str| text.trim().trim_start_matches('v').to_string();
    // `3.12-slim` of version `3.12` agrees.
    let agree = bare(&tag).starts_with(&bare(version)) || bare(version).starts_with(&bare(&tag));
    (!agree).then(|| format!("the tag is `{tag}` but the image calls itself version `{version}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_labels_are_held_to_the_tag() {
        for (tag, version, differs) in [
            ("2.0", "1.0", true),
            ("v1.0", "1.0", false),
            ("3.12-slim", "3.12", false),
            ("3.12", "3.12.4", false),
            ("latest", "1.0", false),
        ] {
            let mut record = ImageRecord {
                reference: format!("docker://site.eu/x:{tag}"),
                ..Default::default()
            };
            record
                .config
                .labels
                .insert("version".into(), version.into());
            assert_eq!(
                version_differs(&record).is_some(),
                differs,
                "{tag} {version}"
            );
        }
    }
}
