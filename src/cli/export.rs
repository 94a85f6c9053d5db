//! `carrack export`: an image leaves the store as a file of another form.

use super::progress::Watch;
use super::{Common, interrupt, output};
use crate::error::{Error, Result};
use crate::image::export::{Compression, Format, Options, export, export_tar};
use crate::image::pull::host_platform;
use crate::image::reference::Reference;
use crate::image::store::verify;
use std::path::Path;
use std::process::ExitCode;

/// Write an image as a tar, an OCI or docker archive, or a squashfs file
///
/// The output's prefix or ending chooses the form: `oci-archive:FILE`, `oci:DIR`, `docker-archive:FILE` (what
/// `docker load` reads), `FILE.tar` (the file system alone) or `FILE.sqsh` (with its record beside it; `carrack import`
/// on another site takes the pair under the same digest). Archives have one layer.
#[derive(clap::Args)]
#[command(alias = "save")]
pub struct Args {
    /// Reference, digest or its first 6 digits or more
    image: String,
    /// Where to; `-` writes a tar of the file system to standard output
    output: String,
    /// Compression of the layer in an archive: gzip, zstd or none
    #[arg(long, value_name = "KIND", default_value = "gzip")]
    compression: String,
    /// `NAME:TAG` in the archive [default: the image's reference]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Replace a file that exists
    #[arg(short, long)]
    force: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let settings = args.common.settings()?;
    let store = args.common.store_of(&settings)?;
    let default = &settings.config.registries.default;
    let stored = store.find_named(&args.image, default, &host_platform())?;
    let options = Options {
        compression: compression(&args.compression)?,
        name: args
            .name
            .clone()
            .unwrap_or_else(|| name_of(&stored.record.reference)),
    };
    let watch = Watch::new(&args.common);
    if args.output == "-" {
        let image = verify::open_checked(&stored)?;
        if !args.dry_run {
            output::end_if_closed(export_tar(&image, &mut output::stream(), &watch))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some((format, path)) = Format::of(&args.output) else {
        return Err(Error::usage(format!("cannot tell in which form to write `{}`", args.output))
            .hint("end it in `.tar` or `.sqsh`, or begin it with `oci-archive:`, `oci:` or `docker-archive:`"));
    };
    let path = Path::new(path);
    if path.is_file() && !args.force {
        return Err(Error::usage(format!("`{}` exists already", path.display()))
            .hint("`--force` replaces it"));
    }
    if !args.dry_run {
        interrupt::clean_up_on_signals();
        let image = verify::open_checked(&stored)?;
        let file = verify::file(&stored)?;
        export(
            &image,
            &file,
            &stored.record,
            format,
            path,
            &options,
            &watch,
        )?;
        watch.finish();
    }
    if !args.common.quiet {
        let verb = if args.dry_run { "would write" } else { "wrote" };
        output::print(&format!("{verb} {} to {}\n", stored.digest, args.output))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compression(text: &str) -> Result<Compression> {
    match text {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "none" => Ok(Compression::None),
        other => {
            Err(Error::usage(format!("`{other}` is not a compression")).hint("gzip, zstd or none"))
        }
    }
}

/// What an archive calls the image: its name and tag; a path is no name.
fn name_of(reference: &str) -> String {
    let parsed: Option<Reference> = reference.parse().ok();
    let name = parsed.as_ref().and_then(Reference::name);
    match name {
        Some(name) => {
            let tag = name.tag.as_deref().unwrap_or("latest");
            format!("{}/{}:{tag}", name.registry, name.repository)
        }
        None => String::new(),
    }
}
