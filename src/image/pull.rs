//! Reference → image in the store: asks the source what the reference names, and converts only what is not there.

mod options;

pub use options::{How, Name, Options, Pulled, host_platform, parse_platform};

use crate::config::{self, Config, Size};
use crate::error::{Context, Error, Result};
use crate::image::convert::{self, Converted, LayerInput, PackCache};
use crate::image::digest::Digest;
use crate::image::manifest::{self, Descriptor};
use crate::image::progress::Progress;
use crate::image::reference::Reference;
use crate::image::source::{self, Resolved, Source, SourceSettings};
use crate::image::store::{Begin, Entry, Incoming, Store, Stored, advise, now_text, space, who};
use crate::image::{adopt, signature, store};
use crate::record::{ImageRecord, Layer, SCHEMA, Tool};
use std::path::PathBuf;
use std::sync::Arc;

/// Raised with every change of the converter that changes bytes.
pub const ENGINE: &str = "4";

/// How sources are reached, from the settings and the environment.
pub fn source_settings(config: &Config, temporary: PathBuf) -> Result<SourceSettings> {
    let mut settings = SourceSettings::from_environment();
    let registries = &config.registries;
    settings.allow.clone_from(&registries.allow);
    settings.insecure.clone_from(&registries.insecure);
    settings.mirrors.clone_from(&registries.mirrors);
    settings.rewrites.clone_from(&registries.rewrites);
    let variable = |name: &str| std::env::var(name).ok();
    for (host, path) in &registries.certificates {
        let path = config::expand(path, &variable)
            .map_err(|error| error.hint("the setting is `registries.certificates`"))?;
        settings.certificates.insert(host.clone(), path.into());
    }
    settings.temporary = temporary;
    Ok(settings)
}

/// Brings what `reference` names into the store.
pub fn pull(
    reference: &Reference,
    store: &Store,
    config: &Config,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Pulled> {
    let reference = absolute(reference)?;
    let known = store.target(&reference).ok().flatten();
    let before = known
        .as_ref()
        .and_then(|target| Some(target.choose(&options.platform)?.digest));
    let result = Job {
        names: vec![reference.clone()],
        reference: reference.clone(),
        store,
        config,
        options,
        progress,
    }
    .run();
    let verb = match reference.name() {
        Some(_) => "pull",
        None => "import",
    };
    let told = |error: Error| advise(error).while_doing(format!("cannot {verb} `{reference}`"));
    let mut pulled = result.map_err(told)?;
    if let (Some(_), Some(before)) = (reference.name(), before)
        && before != pulled.digest
    {
        let moved = format!("`{reference}` has moved: it was {before}");
        pulled.warnings.push(moved);
    }
    if let (Some(readers), Some(stored), false) =
        (&options.readers, &pulled.stored, options.dry_run)
    {
        store.show_to(stored, readers)?;
    }
    Ok(pulled)
}

/// A path as any directory sees it: the store is asked for it later from elsewhere.
fn absolute(reference: &Reference) -> Result<Reference> {
    // An absolute path needs no current directory, which may have been removed.
    if reference.path().is_none_or(|path| path.is_absolute()) {
        return Ok(reference.clone());
    }
    let here = std::env::current_dir().or_say(|| "cannot tell the current directory")?;
    Ok(reference.clone().absolute(&here))
}

struct Job<'a> {
    reference: Reference,
    /// What the image is called when it is there.
    names: Vec<Reference>,
    store: &'a Store,
    config: &'a Config,
    options: &'a Options,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    fn run(mut self) -> Result<Pulled> {
        let temporary = match self.options.dry_run {
            true => std::env::temp_dir(),
            false => self.store.temporary(),
        };
        let settings = source_settings(self.config, temporary)?;
        if !self.options.dry_run {
            self.store.prepare()?;
            if self.options.readers.is_some() {
                self.store.can_be_entered()?;
            }
            self.store.clean();
        }
        let source: Arc<dyn Source> = Arc::from(source::open(&self.reference, &settings)?);
        self.names = self.chosen_names(&*source)?;
        if let Some(unchanged) = self.unchanged(&*source)? {
            return Ok(unchanged);
        }
        match source.resolve(&self.options.platform)? {
            Resolved::Layers {
                reference_digest,
                manifest_digest,
                config_digest,
                config,
                layers,
                diff_ids,
            } => {
                let image = Image {
                    digest: manifest_digest,
                    remote: Some(reference_digest),
                    config_digest,
                    config,
                    layers,
                    diff_ids,
                };
                self.layers(&source, image)
            }
            Resolved::Squashfs {
                path,
                offset,
                length,
                platform,
            } => self.squashfs(&adopt::File {
                path,
                offset,
                length,
                platform,
            }),
        }
    }

    fn chosen_names(&self, source: &dyn Source) -> Result<Vec<Reference>> {
        let default = &self.config.registries.default;
        let names = match &self.options.name {
            Name::Reference => Vec::new(),
            Name::Given(name) => vec![name.clone()],
            Name::Inside => {
                // What is no name in our sense is passed over.
                let inside = source.names()?.into_iter();
                inside
                    .filter_map(|name| Reference::parse(&format!("docker://{name}"), default).ok())
                    .collect()
            }
        };
        match names.is_empty() {
            true => Ok(vec![self.reference.clone()]),
            false => Ok(names),
        }
    }

    /// What the reference named last time, when the source says it still does. Costs one small request at most.
    fn unchanged(&self, source: &dyn Source) -> Result<Option<Pulled>> {
        let known = self.store.target(&self.reference)?;
        let entry = known
            .as_ref()
            .and_then(|target| target.choose(&self.options.platform));
        let Some(entry) = entry else { return Ok(None) };
        // A damaged image is pulled again: converting replaces it.
        let Some(stored) = self.store.get(&entry.digest).ok().flatten() else {
            return Ok(None);
        };
        // One whose signatures were never asked for is looked at again.
        let trust = &self.config.trust;
        if signature::check_stored(trust, &stored.path, &stored.digest).is_err() {
            return Ok(None);
        }
        // A digest names the same for ever.
        let pinned = self
            .reference
            .name()
            .is_some_and(|name| name.digest.is_some());
        if !pinned && (entry.remote.is_none() || source.current()? != entry.remote) {
            return Ok(None);
        }
        self.name(&stored, entry.remote)?;
        Ok(Some(Pulled {
            digest: stored.digest,
            stored: Some(stored),
            how: How::Unchanged,
            layers: Vec::new(),
            warnings: Vec::new(),
        }))
    }

    /// What the record calls the image.
    fn title(&self) -> &Reference {
        self.names.first().unwrap_or(&self.reference)
    }

    /// Lets the names point at the image; what already does is not written.
    fn name(&self, stored: &Stored, remote: Option<Digest>) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        for reference in &self.names {
            let known = self.store.target(reference).ok().flatten();
            let entry = known
                .as_ref()
                .and_then(|target| target.choose(&self.options.platform));
            if entry.is_none_or(|entry| entry.digest != stored.digest || entry.remote != remote) {
                let entry = Entry {
                    digest: stored.digest,
                    remote,
                    when: now_text(),
                    by: who(),
                };
                self.store
                    .set_reference(reference, &self.options.platform, entry)?;
            }
        }
        Ok(())
    }

    fn layers(&self, source: &Arc<dyn Source>, image: Image) -> Result<Pulled> {
        let done = |stored: Option<Stored>, how, warnings| Pulled {
            digest: image.digest,
            stored,
            how,
            layers: image.layers.clone(),
            warnings,
        };
        let trust = &self.config.trust;
        let proof = signature::wanted(trust, &image.digest.to_string())
            .then(|| signature::fetch(&**source, &image.digest, image.remote.as_ref(), trust))
            .transpose()?;
        let keep = |stored: &Stored| match &proof {
            Some(proof) if !self.options.dry_run => {
                signature::keep(&stored.path, &image.digest, proof)
            }
            _ => Ok(()),
        };
        // A damaged one is replaced.
        if let Some(stored) = self.store.get(&image.digest).ok().flatten() {
            keep(&stored)?;
            self.name(&stored, image.remote)?;
            return Ok(done(Some(stored), How::Present, Vec::new()));
        }
        if self.options.dry_run {
            self.check_space(&image)?;
            return Ok(done(None, How::Converted, Vec::new()));
        }
        let (stored, how, warnings) = match self.begin(&image.digest)? {
            Begin::Ready(stored) => (*stored, How::Present, Vec::new()),
            Begin::Convert(mut incoming) => {
                if self.options.readers.is_some() {
                    incoming.keep_private();
                }
                self.check_space(&image)?;
                let converted = self.convert(source, &image, &incoming)?;
                let warnings = converted.warnings.clone();
                let mut record = image.record(self.title(), converted)?;
                // A name that was given says nothing of where the image came from.
                if self.title() != &self.reference {
                    record.source = self.reference.to_string();
                }
                (incoming.publish(&record)?, How::Converted, warnings)
            }
        };
        keep(&stored)?;
        self.name(&stored, image.remote)?;
        self.store.trim_packs();
        Ok(done(Some(stored), how, warnings))
    }

    fn begin(&self, digest: &Digest) -> Result<Begin<'_>> {
        self.store.begin(digest, &mut |owner| {
            self.progress.note(&format!(
                "waiting: process {} on {} is converting {}",
                owner.pid,
                owner.host,
                digest.short()
            ));
        })
    }

    fn check_space(&self, image: &Image) -> Result<()> {
        let place = self.store.place();
        let plain = |layer: &Descriptor| layer.media_type.ends_with("tar");
        let estimate = |layers: &mut dyn Iterator<Item = &Descriptor>| {
            space::estimate(layers.map(|layer| (layer.size, plain(layer))))
        };
        let all = estimate(&mut image.layers.iter());
        let cached = self.store.cached_layers(&image.diff_ids);
        let missing = image
            .layers
            .iter()
            .enumerate()
            .filter(|(index, _)| !cached.contains(index));
        space::check(&[
            space::Need {
                directory: place.root.clone(),
                bytes: all,
                what: "the image",
                setting: "`CARRACK_STORE`",
            },
            space::Need {
                directory: place.packs.clone(),
                bytes: estimate(&mut missing.map(|(_, layer)| layer)),
                what: "converted layers",
                setting: "`CARRACK_CACHE`",
            },
        ])
    }

    fn convert(
        &self,
        source: &Arc<dyn Source>,
        image: &Image,
        incoming: &Incoming<'_>,
    ) -> Result<Converted> {
        let inputs: Vec<LayerInput> = image
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| LayerInput {
                digest: Some(layer.digest),
                size: Some(layer.size),
                diff_id: image.diff_ids.get(index).copied(),
                media_type: layer.media_type.clone(),
                open: {
                    let (source, layer) = (Arc::clone(source), layer.clone());
                    Box::new(move || source.blob(&layer))
                },
            })
            .collect();
        let settings = &self.config.conversion;
        let options = convert::Options {
            threads: threads(settings.threads),
            level: settings.level,
            block_size: u32::try_from(settings.block_size.0).unwrap_or(128 << 10),
            keep_packs: settings.keep_packs,
            ..Default::default()
        };
        // Layers of an image that is not for everybody stay in a directory of this process alone, and go with it.
        let packs = match self.options.readers {
            None => self.store.place().packs.clone(),
            Some(_) => incoming.directory().join("packs"),
        };
        let packs = PackCache::open(packs)?;
        let converted = convert::convert(
            &inputs,
            &packs,
            &incoming.output()?,
            &options,
            self.progress,
        )?;
        self.store.touch_packs(&converted.diff_ids);
        Ok(converted)
    }

    /// Takes a squashfs as it is, with a table of block hashes behind it.
    fn squashfs(mut self, file: &adopt::File) -> Result<Pulled> {
        self.may_import()?;
        let known = adopt::identify(file, self.progress)?;
        if let (Name::Inside, Some(name)) = (&self.options.name, known.name()) {
            self.names = vec![name];
        }
        let digest = known.digest;
        if signature::wanted(&self.config.trust, &digest.to_string()) {
            return Err(
                Error::usage(format!("`{}` carries no signature", self.reference))
                    .cause("the site requires one (`trust.require`)")
                    .hint("pull the image from its registry"),
            );
        }
        let done = |stored: Option<Stored>, how| Pulled {
            digest,
            stored,
            how,
            layers: Vec::new(),
            warnings: Vec::new(),
        };
        if let Some(stored) = self.store.get(&digest).ok().flatten() {
            self.name(&stored, None)?;
            return Ok(done(Some(stored), How::Present));
        }
        space::check(&[space::Need {
            directory: self.store.root().to_path_buf(),
            bytes: file.length,
            what: "the image",
            setting: "`CARRACK_STORE`",
        }])?;
        if self.options.dry_run {
            return Ok(done(None, How::Copied));
        }
        let (stored, how) = match self.begin(&digest)? {
            Begin::Ready(stored) => (*stored, How::Present),
            Begin::Convert(mut incoming) => {
                if self.options.readers.is_some() {
                    incoming.keep_private();
                }
                let mut record = adopt::copy(file, known, &incoming.output()?, self.title())?;
                record.source = self.reference.to_string();
                (incoming.publish(&record)?, How::Copied)
            }
        };
        self.name(&stored, None)?;
        Ok(done(Some(stored), how))
    }

    /// Some sites let only named users bring in images that no registry has seen.
    fn may_import(&self) -> Result<()> {
        let users = &self.config.pull.import_users;
        let uid = rustix::process::getuid().as_raw();
        if users.is_empty() || users.contains(&uid.to_string()) {
            return Ok(());
        }
        // `id` asks the directory services, which a static binary cannot.
        // By absolute path: a `PATH` of the user's own must not answer.
        let output = ["/usr/bin/id", "/bin/id"].iter().find_map(|program| {
            let mut command = std::process::Command::new(program);
            command.arg("-un").env_clear().output().ok()
        });
        let name = output
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string())
            .unwrap_or_default();
        if users.contains(&name) {
            return Ok(());
        }
        Err(Error::new(format!(
            "user `{name}` ({uid}) may not import ready images here"
        ))
        .cause("the site's setting `pull.import_users` does not list it")
        .hint("pull the image from a registry, or ask the site"))
    }
}

/// An image made of layers, as its source describes it.
struct Image {
    digest: Digest,
    remote: Option<Digest>,
    config_digest: Option<Digest>,
    config: manifest::Config,
    layers: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
}

impl Image {
    fn record(&self, reference: &Reference, converted: Converted) -> Result<ImageRecord> {
        let diff_ids = &converted.diff_ids;
        if diff_ids.len() != self.layers.len() {
            return Err(Error::new("the converter lost a layer").cause(format!(
                "{} of {}",
                diff_ids.len(),
                self.layers.len()
            )));
        }
        let layers = self
            .layers
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| Layer {
                digest: layer.digest.to_string(),
                diff_id: diff_id.to_string(),
                media_type: layer.media_type.clone(),
                size: layer.size,
            });
        Ok(ImageRecord {
            schema: SCHEMA,
            reference: reference.to_string(),
            source: String::new(),
            manifest_digest: self.digest.to_string(),
            config_digest: self
                .config_digest
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
            platform: self.config.platform.clone(),
            created: self.config.created.clone(),
            layers: layers.collect(),
            config: self.config.config.clone(),
            history: self.config.history.clone(),
            squashfs: converted.squashfs,
            contents: converted.contents,
            notes: converted.notes,
            tool: tool(),
        })
    }
}

/// This carrack, for records.
pub fn tool() -> Tool {
    Tool {
        version: env!("CARGO_PKG_VERSION").into(),
        engine: ENGINE.into(),
    }
}

/// The number of compression threads; more than 16 are faster than any layer can be read.
pub fn threads(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(16),
        set => set.min(256),
    }
}

/// The sum of the layers as transferred, for people.
pub fn layer_bytes(layers: &[Descriptor]) -> Size {
    Size(
        layers
            .iter()
            .fold(0, |sum, layer| sum.saturating_add(layer.size)),
    )
}

/// An image that is read but not kept: a squashfs file named on a command line, as a launcher needs it.
pub fn in_place(reference: &Reference, settings: &SourceSettings) -> Result<store::Stored> {
    let reference = absolute(reference)?;
    match source::open(&reference, settings)?.resolve(&host_platform())? {
        Resolved::Squashfs {
            path,
            offset,
            length,
            platform,
        } => adopt::in_place(
            &adopt::File {
                path,
                offset,
                length,
                platform,
            },
            &reference,
        ),
        Resolved::Layers { .. } => Err(Error::new(format!("`{reference}` is not in the store"))
            .hint(format!("`carrack pull {reference}` brings it"))),
    }
}

#[cfg(test)]
mod tests;
