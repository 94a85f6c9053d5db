//! What the SPANK plugin calls before the kernel may mount an image. Process: a child of slurmstepd; identity: nobody; the
//! image is standard input, its record standard output, because nothing else may be opened here.

use super::LaunchCommon;
use crate::error::{Context, Error, Result};
use crate::record::{ImageRecord, MAX_BYTES};
use crate::squashfs::read::{Image, Options};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::ExitCode;

/// Hold an image against its record (for the SPANK plugin)
#[derive(clap::Args)]
#[command(hide = true)]
pub struct Args {
    /// The image's digest, 64 hexadecimal digits
    digest: String,
    #[command(flatten)]
    pub common: LaunchCommon,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let copy = |fd: &dyn AsFd| {
        fd.as_fd()
            .try_clone_to_owned()
            .or_say(|| "no files to check")
    };
    let image = File::from(copy(&std::io::stdin())?);
    let record = File::from(copy(&std::io::stdout())?);
    let mut text = Vec::new();
    record
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut text)
        .or_say(|| "cannot read the record")?;
    let record = ImageRecord::parse(&text)?;
    if record.manifest_digest != format!("sha256:{}", args.digest) {
        return Err(Error::new("the record is another image's").cause(record.manifest_digest));
    }
    let expected = &record.squashfs;
    // An imported squashfs gets a table of hashes, too, but has no layers that it was made from.
    if expected.root.is_empty() || expected.hashes_count == 0 || record.layers.is_empty() {
        return Err(Error::new("the image was not made by carrack"));
    }
    let size = image.metadata().or_say(|| "cannot read its length")?.len();
    if size != expected.size {
        return Err(Error::new("the image is not as long as its record says")
            .cause(format!("{size} bytes, not {}", expected.size)));
    }
    let options = Options {
        name: args.digest,
        ..Options::default()
    };
    Image::open(image, options)?.check(expected)?;
    Ok(ExitCode::SUCCESS)
}
