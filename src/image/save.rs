//! The root of a running capsule becomes an image: a squashfs file with its record beside it.
//!
//! All paths lead through descriptors that the caller opened (`/proc/self/fd/N`), because the caller has left the host's
//! name space by then. Absent on purpose: capsules.

use crate::error::{Context, Error, Result};
use crate::image::convert::{LayerInput, Options, PackCache, convert};
use crate::image::progress::Progress;
use crate::image::pull::tool;
use crate::image::source::directory::Directory;
use crate::image::source::{Resolved, Source};
use crate::record::{ImageRecord, Layer, SCHEMA};
use std::path::Path;
use std::sync::Arc;

/// What the names of unfinished work of this process begin with.
pub fn prefix() -> String {
    format!(".carrack-save-{}-", std::process::id())
}

/// Writes what is below `root` to `directory`/`name` and its record to `name.json`. `base` is the image that the root was
/// made from: how it starts is kept.
pub fn save(
    root: &Path,
    directory: &Path,
    name: &str,
    base: &ImageRecord,
    progress: &dyn Progress,
) -> Result<ImageRecord> {
    let what = || "cannot make files where the image is to be written";
    let work = tempfile::Builder::new()
        .prefix(&prefix())
        .tempdir_in(directory)
        .or_say(what)?;
    let source: Arc<dyn Source> = Arc::new(Directory::open(root)?);
    let Resolved::Layers {
        manifest_digest,
        layers,
        diff_ids,
        ..
    } = source.resolve(&base.platform)?
    else {
        return Err(Error::new("a directory has layers"));
    };
    let inputs: Vec<LayerInput> = layers
        .iter()
        .enumerate()
        .map(|(index, layer)| {
            let (source, descriptor) = (source.clone(), layer.clone());
            LayerInput {
                digest: Some(layer.digest),
                size: Some(layer.size),
                diff_id: diff_ids.get(index).copied(),
                media_type: layer.media_type.clone(),
                open: Box::new(move || source.blob(&descriptor)),
            }
        })
        .collect();
    let output = work.path().join("image");
    let packs = PackCache::open(work.path().join("packs"))?;
    let options = Options {
        keep_packs: false,
        ..Options::default()
    };
    let converted = convert(&inputs, &packs, &output, &options, progress)?;
    let layers = layers.iter().zip(&converted.diff_ids);
    let record = ImageRecord {
        schema: SCHEMA,
        manifest_digest: manifest_digest.to_string(),
        config_digest: String::new(),
        layers: layers
            .map(|(layer, diff_id)| Layer {
                digest: layer.digest.to_string(),
                diff_id: diff_id.to_string(),
                media_type: layer.media_type.clone(),
                size: layer.size,
            })
            .collect(),
        history: [base.history.clone(), vec!["saved by carrack".into()]].concat(),
        squashfs: converted.squashfs,
        contents: converted.contents,
        notes: converted.notes,
        tool: tool(),
        ..base.clone()
    };
    let text = work.path().join("record");
    std::fs::write(&text, record.to_json()).or_say(what)?;
    // The record first: an image is not taken for complete without it.
    std::fs::rename(&text, directory.join(format!("{name}.json"))).or_say(what)?;
    std::fs::rename(&output, directory.join(name)).or_say(what)?;
    Ok(record)
}
