//! `carrack import`: a file or directory becomes an image with a name.

use super::Common;
use super::pull::Conversion;
use crate::error::{Error, Result};
use crate::image::pull::Name;
use crate::image::reference::Reference;
use std::path::Path;
use std::process::ExitCode;

/// Bring a file or directory into the store
///
/// Takes what `docker save` wrote, an OCI layout or archive, a tar of a root file system, a directory, a squashfs or a SIF
/// file; what it is, its content tells.
#[derive(clap::Args)]
#[command(alias = "load")]
pub struct Args {
    /// File or directory, or a reference such as `oci:DIR:TAG`
    #[arg(value_name = "SOURCE", required_unless_present = "input")]
    source: Option<String>,
    /// Name for the image, e.g. `myapp:v2` [default: the name in the archive, else the path]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The same as SOURCE, as `docker load` calls it
    #[arg(short, long, value_name = "FILE")]
    input: Option<String>,
    #[command(flatten)]
    how: Conversion,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    // With -i the first word is the name.
    let (source, name) = match (args.input, args.source, args.name) {
        (Some(input), name, None) => (input, name),
        (None, Some(source), name) => (source, name),
        _ => return Err(Error::usage("give SOURCE or `-i FILE`, not both")),
    };
    let work = args.how.prepare(&args.common)?;
    let default = work.settings.config.registries.default.clone();
    let path = Path::new(&source);
    let reference = if path.is_dir() {
        // A directory that is an OCI layout is one; any other is a root file system.
        let scheme = if path.join("oci-layout").is_file() {
            "oci"
        } else {
            "dir"
        };
        format!("{scheme}:{source}").parse()?
    } else if path.is_file() {
        local(&source)?
    } else {
        Reference::parse(&source, &default)?
    };
    if reference.name().is_some() {
        return Err(Error::usage(format!(
            "cannot import `{source}`: there is no such file or directory"
        ))
        .hint(format!(
            "`carrack pull {source}` brings an image from a registry"
        )));
    }
    let name = name
        .map(|name| Reference::parse(&name, &default))
        .transpose()?;
    if let Some(name) = name.as_ref().filter(|name| name.name().is_none()) {
        return Err(Error::usage(format!("`{name}` is not a name for an image"))
            .hint("for example `myapp:v2`"));
    }
    work.all(vec![(reference, name.map_or(Name::Inside, Name::Given))])
}

/// A file that exists, whatever it is called.
fn local(source: &str) -> Result<Reference> {
    let path = Path::new(source);
    if path.is_absolute() || source.starts_with("./") || source.starts_with("../") {
        return source.parse();
    }
    format!("./{source}").parse()
}
