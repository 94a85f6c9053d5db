//! Merges and copies what is certain while lower layers are still being packed.
//!
//! What a layer shows depends on the layers above it only, and the image has the topmost layer's content first. So the
//! plan of an image's upper layers alone is the beginning of the whole image's plan, and can be carried out when these
//! are packed: the disk and a core that would wait are used, and less is left to do when the last layer is ready.
//!
//! The whole plan is made all the same, and has the last word: were it to begin otherwise, everything is copied again.

use crate::error::{Error, Result};
use crate::image::assemble::{self, Plan, Range};
use crate::image::tree;
use crate::pack::cache::Pack;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Layers with more entries than this together are merged in the end: a tree takes memory, which packing needs now.
const MOST_ENTRIES: u64 = 200_000;

/// Packs as they become ready, and what was done with them.
pub struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
    merging: Mutex<Merging>,
    /// Bytes of new packs that are worth one more plan.
    worth: u64,
}

struct State {
    /// Lowest layer first.
    packs: Vec<Option<Arc<Pack>>>,
    ended: bool,
    /// What was copied, or is on its way.
    ranges: Vec<Range>,
}

/// The tree of as many layers, from the topmost one down, as were ready.
pub struct Merging {
    builder: tree::Builder,
    /// Layers that are not in it.
    left: usize,
    /// The layer that could not be read to its end, and why.
    failed: Option<(usize, Error)>,
}

impl Merging {
    pub fn new(layers: usize) -> Result<Merging> {
        Ok(Merging {
            builder: tree::Builder::new(layers)?,
            left: layers,
            failed: None,
        })
    }

    /// Takes the layers that are new among `packs`, which are the upper ones, lowest first, from layer `first` on.
    fn take(&mut self, first: usize, packs: &[Arc<Pack>]) {
        while self.failed.is_none()
            && let Some(layer) = self.left.checked_sub(1)
            && let Some(pack) = layer.checked_sub(first).and_then(|at| packs.get(at))
        {
            self.left = layer;
            if let Err(error) = self.layer(pack) {
                self.failed = Some((layer, error));
            }
        }
    }

    fn layer(&mut self, pack: &Pack) -> Result<()> {
        self.builder.layer();
        for entry in pack.index.entries()? {
            self.builder.add(&entry?)?;
        }
        Ok(())
    }

    /// The tree of all layers; an error comes with its layer.
    pub fn finish(mut self, packs: &[Arc<Pack>]) -> Result<tree::Builder, (usize, Error)> {
        self.take(0, packs);
        match self.failed {
            Some(failed) => Err(failed),
            None => Ok(self.builder),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ahead {
    pub fn new(layers: usize, worth: u64) -> Result<Ahead> {
        Ok(Ahead {
            state: Mutex::new(State {
                packs: (0..layers).map(|_| None).collect(),
                ended: false,
                ranges: Vec::new(),
            }),
            changed: Condvar::new(),
            merging: Mutex::new(Merging::new(layers)?),
            worth,
        })
    }

    /// One layer has its pack.
    pub fn packed(&self, layer: usize, pack: &Arc<Pack>) {
        if let Some(place) = lock(&self.state).packs.get_mut(layer) {
            *place = Some(Arc::clone(pack));
        }
        self.changed.notify_all();
    }

    /// Nothing new is begun.
    fn stop(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    /// Nothing new is begun; says what will have been copied when [`Ahead::copy`] returns, and what is merged. Once.
    pub fn end(&self) -> Result<(Vec<Range>, Merging)> {
        self.stop();
        let none = Merging::new(0)?;
        let merging = std::mem::replace(&mut *lock(&self.merging), none);
        Ok((lock(&self.state).ranges.clone(), merging))
    }

    /// Waits for packs, merges them and copies what they show, until [`Ahead::end`] is called.
    pub fn copy(&self, output: &File) -> Result<()> {
        let (mut merged, mut planned) = (0, 0);
        while let Some(Ready {
            first,
            packs,
            length,
        }) = self.next(merged)
        {
            merged = packs.len();
            let mut merging = lock(&self.merging);
            merging.take(first, &packs);
            // What is wrong with a layer is told when all are merged.
            if merging.failed.is_some() {
                return Ok(());
            }
            // Each plan begins at the top again: few of them when there are many layers.
            if length.saturating_sub(planned) < self.worth.max(planned / 4) {
                continue;
            }
            planned = length;
            // A hard link may lead into a layer that is not here yet.
            let plan = merging
                .builder
                .so_far(|tree| Plan::make(tree, first, &packs));
            drop(merging);
            let Ok(plan) = plan else {
                continue;
            };
            let plan = plan?;
            let done = {
                let mut state = lock(&self.state);
                if state.ended || !plan.ranges().starts_with(&state.ranges) {
                    return Ok(());
                }
                std::mem::replace(&mut state.ranges, plan.ranges().to_vec()).len()
            };
            assemble::copy(&plan, done, output)?;
        }
        Ok(())
    }

    /// The upper layers that are packed, when they are more than `merged` and not all.
    fn next(&self, merged: usize) -> Option<Ready> {
        let mut state = lock(&self.state);
        while !state.ended {
            let ready = state.packs.iter().rev().map_while(Option::as_ref);
            let (mut count, mut length, mut entries) = (0, 0, 0);
            for pack in ready {
                count += 1;
                length += pack.index.blocks.length;
                entries += pack.index.summary.entries;
            }
            if count > merged && entries <= MOST_ENTRIES && count < state.packs.len() {
                let first = state.packs.len() - count;
                let packs = state.packs.iter().skip(first).flatten().cloned();
                return Some(Ready {
                    first,
                    packs: packs.collect(),
                    length,
                });
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

/// Layers that are packed, from the topmost one down.
struct Ready {
    /// The lowest of them.
    first: usize,
    /// Lowest layer first.
    packs: Vec<Arc<Pack>>,
    /// Bytes of all of them.
    length: u64,
}

/// Ends the copying however the packing does.
pub struct EndOnDrop<'a>(pub &'a Ahead);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
