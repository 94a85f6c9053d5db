//! Gives finished packs their names, beside whatever else the conversion does.
//!
//! A pack gets its name only when it is on the disk: one that a crash of the machine cut short must not be found
//! afterwards, because only its index is checked when it is used. The conversion itself need not wait for that. It reads
//! the pack through the open file, so the disk works while other layers are packed and the image is assembled.

use crate::error::{Error, Result, cannot_start};
use crate::image::digest::Digest;
use crate::image::lock::Lock;
use crate::pack::cache::{Building, PackCache, Parameters};
use std::fs::File;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// A pack without a name.
pub struct Finished {
    pub building: Building,
    pub dat: File,
    pub idx: File,
    pub diff_id: Digest,
    pub parameters: Parameters,
    /// Others wait for the pack until it has its name.
    pub lock: Option<Lock>,
}

/// One thread: the disk is what it waits for, and more threads would not make that faster. Dropping waits for all packs
/// too, since those of a conversion that fails serve the next attempt.
pub struct Publisher {
    to: Option<Sender<Finished>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Publisher {
    pub fn start(cache: PackCache) -> Result<Publisher> {
        let (to, from) = channel();
        let thread = std::thread::Builder::new()
            .name("publish".into())
            .spawn(move || publish_all(&cache, &from))
            .map_err(cannot_start)?;
        Ok(Publisher {
            to: Some(to),
            thread: Some(thread),
        })
    }

    pub fn publish(&self, pack: Finished) {
        if let Some(to) = &self.to {
            // Fails when the thread panicked, which `finish` tells.
            let _ = to.send(pack);
        }
    }

    /// Waits until all packs have their names.
    pub fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.to = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::new("a thread of the conversion panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn publish_all(cache: &PackCache, from: &Receiver<Finished>) -> Result<()> {
    let mut result = Ok(());
    for pack in from {
        let files = (&pack.dat, &pack.idx);
        let published = cache.publish(pack.building, files, &pack.diff_id, &pack.parameters);
        drop(pack.lock);
        if result.is_ok() {
            result = published;
        }
    }
    result
}
