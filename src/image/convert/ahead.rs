//! Copies what is certain while lower layers are still being packed.
//!
//! What a layer shows depends on the layers above it only, and the image has the topmost layer's content first. So the
//! plan of an image's upper layers alone is the beginning of the whole image's plan, and can be carried out when these
//! are packed: the disk and a core that would wait are used, and less is left to do when the last layer is ready.
//!
//! The whole plan is made all the same, and has the last word: were it to begin otherwise, everything is copied again.

use crate::error::Result;
use crate::image::assemble::{self, Plan, Range};
use crate::image::convert::merge;
use crate::pack::cache::Pack;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Layers with more entries than this together are merged once, in the end: a tree takes memory, which packing needs now.
const MOST_ENTRIES: u64 = 200_000;

/// Packs as they become ready, and what was done with them.
pub struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
    /// Bytes of new packs that are worth one more merge.
    worth: u64,
}

struct State {
    /// Lowest layer first.
    packs: Vec<Option<Arc<Pack>>>,
    ended: bool,
    /// What was copied, or is on its way.
    ranges: Vec<Range>,
}

impl Ahead {
    pub fn new(layers: usize, worth: u64) -> Ahead {
        Ahead {
            state: Mutex::new(State {
                packs: (0..layers).map(|_| None).collect(),
                ended: false,
                ranges: Vec::new(),
            }),
            changed: Condvar::new(),
            worth,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One layer has its pack.
    pub fn packed(&self, layer: usize, pack: &Arc<Pack>) {
        if let Some(place) = self.state().packs.get_mut(layer) {
            *place = Some(Arc::clone(pack));
        }
        self.changed.notify_all();
    }

    /// Nothing new is begun; says what will have been copied when [`Ahead::copy`] returns.
    pub fn end(&self) -> Vec<Range> {
        let mut state = self.state();
        state.ended = true;
        self.changed.notify_all();
        state.ranges.clone()
    }

    /// Waits for packs and copies what they show, until [`Ahead::end`] is called.
    pub fn copy(&self, output: &File) -> Result<()> {
        let mut used = 0;
        while let Some(packs) = self.next(&mut used) {
            // What is wrong with a layer is told when all are merged.
            let Ok(builder) = merge(&packs) else {
                return Ok(());
            };
            // A hard link may lead into a layer that is not here yet.
            let Ok(tree) = builder.finish() else {
                continue;
            };
            let plan = Plan::make(&tree, &packs)?;
            let done = {
                let mut state = self.state();
                if state.ended || !plan.ranges().starts_with(&state.ranges) {
                    return Ok(());
                }
                std::mem::replace(&mut state.ranges, plan.ranges().to_vec()).len()
            };
            assemble::copy(&plan, done, output)?;
        }
        Ok(())
    }

    /// The upper layers' packs, lowest first, when enough of them are new and not all are there.
    fn next(&self, used: &mut u64) -> Option<Vec<Arc<Pack>>> {
        let mut state = self.state();
        while !state.ended {
            let ready = state.packs.iter().rev().map_while(Option::as_ref);
            let (mut count, mut length, mut entries) = (0, 0u64, 0u64);
            for pack in ready {
                count += 1;
                length += pack.index.blocks.length;
                entries += pack.index.summary.entries;
            }
            // Each merge begins at the top again: few of them when there are many layers.
            let enough = length.saturating_sub(*used) >= self.worth.max(*used / 4);
            if count > 0 && enough && entries <= MOST_ENTRIES && count < state.packs.len() {
                *used = length;
                let upper = state.packs.iter().skip(state.packs.len() - count);
                return Some(upper.flatten().cloned().collect());
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

/// Ends the copying however the packing does.
pub struct EndOnDrop<'a>(pub &'a Ahead);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
