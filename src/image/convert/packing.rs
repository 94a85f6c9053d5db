//! Gets a pack for every layer: from the cache, from another process that makes it now, or by packing.

use crate::error::{Context, Error, Result, cannot_start};
use crate::image::convert::ahead::Ahead;
use crate::image::convert::publishing::{Finished, Publisher};
use crate::image::convert::{LayerInput, Options};
use crate::image::digest::Digest;
use crate::image::lock::Lock;
use crate::image::progress::Progress;
use crate::pack::cache::{Pack, PackCache, Parameters};
use crate::pack::index::Index;
use crate::pack::layer::{self, Expected};
use crate::pack::pool::{Pool, Turn, stopped};
use crate::sys::{heap, thread};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Layers that are read at once. Each costs some megabytes; more only help when each comes slowly.
const MOST_AT_ONCE: usize = 6;
/// Blocks on their way, in bytes: some tens of milliseconds of compression, so that no worker runs dry while the
/// threads before it wait for their turn on a core.
const BUFFERED: usize = 12 << 20;

/// The statement of a failure in one layer.
pub fn failed(layers: &[LayerInput], index: usize) -> String {
    let name = layers.get(index).map(name).unwrap_or_default();
    format!(
        "cannot convert layer {} of {} (`{name}`)",
        index + 1,
        layers.len()
    )
}

fn name(layer: &LayerInput) -> String {
    match layer.digest.or(layer.diff_id) {
        Some(digest) => digest.to_string(),
        None => layer.media_type.clone(),
    }
}

/// One pack for each layer, in their order. Equal layers share one. New ones are handed to `publisher`.
pub fn pack_all(
    layers: &[LayerInput],
    cache: &PackCache,
    publisher: &Publisher,
    options: &Options,
    progress: &dyn Progress,
    ahead: &Ahead,
) -> Result<Vec<Arc<Pack>>> {
    // Of equal layers one is packed; the others point at it.
    let mut unique: Vec<usize> = Vec::new();
    let mut same_as: Vec<usize> = Vec::new();
    for layer in layers {
        let known = unique.iter().position(|&other| {
            layers.get(other).is_some_and(|other| {
                (layer.diff_id.is_some() && layer.diff_id == other.diff_id)
                    || (layer.digest.is_some()
                        && layer.digest == other.digest
                        && layer.diff_id == other.diff_id)
            })
        });
        same_as.push(known.unwrap_or_else(|| {
            unique.push(same_as.len());
            unique.len() - 1
        }));
    }
    let threads = options.threads.max(1);
    let at_once = unique
        .len()
        .min((threads + 1).clamp(3, MOST_AT_ONCE))
        .max(1);
    let block_size = options.block_size as usize;
    let buffers = (BUFFERED / block_size).max(threads * 4 + at_once * 4);
    let pool = Pool::new(block_size, options.level, buffers, at_once);
    let job = Job {
        layers,
        cache,
        publisher,
        options,
        progress,
        pool: &pool,
    };
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Result<Arc<Pack>>>>> =
        Mutex::new(unique.iter().map(|_| None).collect());
    let worker_error: Mutex<Option<Error>> = Mutex::new(None);
    let fail = |error| {
        *worker_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        pool.stop();
    };
    std::thread::scope(|scope| {
        let mut refused = None;
        let workers = (0..threads).map_while(|_| {
            let work = || {
                let _guard = StopOnPanic(&pool);
                if let Err(error) = pool.work() {
                    fail(error);
                }
            };
            refused_later(&mut refused, thread::start(scope, "compress", work))
        });
        let workers = workers.count();
        let packers: Vec<_> = (0..at_once)
            .map_while(|_| {
                let work = || {
                    let _guard = StopOnPanic(&pool);
                    loop {
                        // The topmost layer first: what it shows is certain.
                        let rank = next.fetch_add(1, Ordering::Relaxed);
                        let Some(turn) = unique.len().checked_sub(rank + 1) else {
                            return;
                        };
                        let Some(&index) = unique.get(turn) else {
                            return;
                        };
                        let result = if pool.is_stopped() {
                            Err(stopped())
                        } else {
                            job.pack(index, &pool.turn(rank)).map(Arc::new)
                        };
                        match &result {
                            Ok(pack) => same_as
                                .iter()
                                .enumerate()
                                .filter(|(_, same)| **same == turn)
                                .for_each(|(layer, _)| ahead.packed(layer, pack)),
                            Err(_) => pool.stop(),
                        }
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(place) = done.get_mut(turn) {
                            *place = Some(result);
                        }
                    }
                };
                refused_later(&mut refused, thread::start(scope, "layer", work))
            })
            .collect();
        // With fewer of them it only takes longer.
        if let Some(error) = refused.filter(|_| workers == 0 || packers.is_empty()) {
            fail(cannot_start(error));
        }
        for packer in packers {
            let _ = packer.join();
        }
        pool.stop();
    });
    drop(pool);
    heap::give_back();
    if let Some(error) = worker_error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        return Err(error);
    }
    let mut packs = Vec::new();
    let mut given_up = None;
    for (place, &index) in done
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .into_iter()
        .zip(&unique)
    {
        match place {
            Some(Ok(pack)) => packs.push(pack),
            // Layers that were stopped because of another one's failure say nothing of interest.
            Some(Err(error)) if error.what() == stopped().what() => given_up = Some(error),
            Some(Err(error)) => return Err(error.while_doing(failed(layers, index))),
            None => given_up = Some(Error::new("a thread of the conversion panicked")),
        }
    }
    if let Some(error) = given_up {
        return Err(error);
    }
    for (index, &same) in same_as.iter().enumerate() {
        if unique.get(same) != Some(&index) {
            progress.layer_done(index, "same as another layer");
        }
    }
    same_as
        .into_iter()
        .map(|same| packs.get(same).cloned().ok_or_else(stopped))
        .collect()
}

/// Keeps why a thread was refused.
fn refused_later<T>(refused: &mut Option<io::Error>, started: io::Result<T>) -> Option<T> {
    started.map_err(|error| *refused = Some(error)).ok()
}

/// A panic of one thread must not leave the others waiting for it.
struct StopOnPanic<'a>(&'a Pool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

/// What all packing threads share.
struct Job<'a> {
    layers: &'a [LayerInput],
    cache: &'a PackCache,
    publisher: &'a Publisher,
    options: &'a Options,
    progress: &'a dyn Progress,
    pool: &'a Pool,
}

impl Job<'_> {
    fn pack(&self, index: usize, turn: &Turn) -> Result<Pack> {
        let Some(layer) = self.layers.get(index) else {
            return Err(stopped());
        };
        let parameters = Parameters {
            block_size: self.options.block_size,
            level: self.options.level,
            hot_raw: self.options.raw_hot_files,
        };
        self.progress.layer(index, layer.size, &name(layer));
        let Some(diff_id) = layer.diff_id else {
            return self.build(index, turn, &parameters, None);
        };
        let found = || {
            let pack = self.cache.find(&diff_id, &parameters);
            if pack.is_some() {
                self.progress.layer_done(index, "cached");
            }
            pack
        };
        if let Some(pack) = found() {
            return Ok(pack);
        }
        if !self.options.keep_packs {
            return self.build(index, turn, &parameters, None);
        }
        let mut told = false;
        let lock = self.cache.lock(&diff_id, &parameters, &mut |owner| {
            if !told {
                self.progress.note(&format!(
                    "waiting for process {} on {}, which converts layer {}",
                    owner.pid,
                    owner.host,
                    diff_id.short()
                ));
                told = true;
            }
            !self.pool.is_stopped()
        })?;
        let Some(lock) = lock else {
            return Err(stopped());
        };
        match found() {
            Some(pack) => Ok(pack),
            None => self.build(index, turn, &parameters, Some(lock)),
        }
    }

    fn build(
        &self,
        index: usize,
        turn: &Turn,
        parameters: &Parameters,
        lock: Option<Lock>,
    ) -> Result<Pack> {
        let Some(layer) = self.layers.get(index) else {
            return Err(stopped());
        };
        let expected = Expected {
            digest: layer.digest,
            size: layer.size,
            diff_id: layer.diff_id,
        };
        let mut input = (layer.open)()?;
        let (building, dat, idx) = self.cache.build()?;
        let (dat, idx, summary) = layer::pack(
            &mut *input,
            expected,
            (dat, idx),
            turn,
            parameters.hot_raw,
            &|bytes| self.progress.advance(index, bytes),
        )?;
        let diff_id: Digest = summary.diff_id;
        if self.options.keep_packs {
            let again = |file: &File| file.try_clone().or_say(|| "cannot keep a pack open");
            self.publisher.publish(Finished {
                building,
                dat: again(&dat)?,
                idx: again(&idx)?,
                diff_id,
                parameters: *parameters,
                lock,
            });
        }
        let index_file = Index::open(idx, parameters.block_size)?;
        self.progress.layer_done(index, "packed");
        Ok(Pack {
            index: index_file,
            dat,
        })
    }
}
