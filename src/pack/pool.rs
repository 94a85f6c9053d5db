//! The compression pool that all layers of a conversion share, and the ordered writer behind each of them.
//!
//! Every block gets a ticket when it is cut. Workers compress in any order; results enter the pack in ticket order, so
//! that a pack's bytes do not depend on the number of workers. A block travels in one buffer from the tar reader to
//! the file, and there is a fixed number of buffers: whoever wants one more waits until a good part of them is free
//! again. That is the bound on memory. It cannot deadlock: the block with the lowest ticket of each pack is always in the
//! queue already.

use crate::error::{Context, Error, Result};
use crate::pack::LEVEL;
use crate::pack::blocks::PackFile;
use crate::squashfs::format::DATA_UNCOMPRESSED;
use crate::squashfs::integrity::short_hash;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Workers stand this much behind the threads that read, inflate and hash (the kernel counts it for each thread). Those
/// are few and everything waits for them: were they to wait for a core themselves, workers would run dry now and then.
const BEHIND: i32 = 3;

/// What goes into a pack, in order.
#[derive(Debug)]
pub enum Event {
    /// A block as it is stored: part of the current run, or a whole fragment.
    Stored {
        bytes: Vec<u8>,
        size: u32,
        hash: [u8; 20],
        fragment: bool,
    },
    /// So many blocks of zeros in the current run.
    Holes(u64),
    /// The file is complete.
    EndOfRun,
}

/// One pack under construction: takes events in any order, writes them in theirs.
pub struct Ordered {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    next: u64,
    waiting: BTreeMap<u64, Event>,
    /// Gone while somebody writes, and when the pack is complete.
    file: Option<PackFile>,
    error: Option<Error>,
}

impl Ordered {
    pub fn new(file: PackFile) -> Ordered {
        Ordered {
            state: Mutex::new(State {
                next: 0,
                waiting: BTreeMap::new(),
                file: Some(file),
                error: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds an event. Whoever completes the order writes, and takes along what others add meanwhile: nobody waits for
    /// the file.
    pub fn post(&self, ticket: u64, event: Event, pool: &Pool) {
        let mut state = lock(&self.state);
        state.waiting.insert(ticket, event);
        if ticket != state.next {
            return;
        }
        let Some(mut file) = state.file.take() else {
            return;
        };
        let mut ready = Vec::new();
        loop {
            let mut next = state.next;
            while let Some(event) = state.waiting.remove(&next) {
                next += 1;
                ready.push(event);
            }
            state.next = next;
            if ready.is_empty() {
                break;
            }
            let mut failed = state.error.is_some();
            drop(state);
            let mut error = None;
            for event in ready.drain(..) {
                if !failed && let Err(first) = file.take(&event) {
                    error = Some(first);
                    failed = true;
                }
                if let Event::Stored { bytes, .. } = event {
                    pool.give_buffer(bytes);
                }
            }
            state = lock(&self.state);
            if error.is_some() {
                state.error = error;
            }
        }
        state.file = Some(file);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether writing has failed; the layer need not be read further.
    pub fn has_failed(&self) -> bool {
        lock(&self.state).error.is_some()
    }

    /// Why writing failed, once.
    pub fn take_error(&self) -> Option<Error> {
        lock(&self.state).error.take()
    }

    /// Waits until all events below `tickets` are written and gives the file back.
    pub fn finish(&self, tickets: u64, pool: &Pool) -> Result<PackFile> {
        let mut state = lock(&self.state);
        // Without the file, somebody still writes.
        while state.next < tickets || state.file.is_none() {
            if pool.is_stopped() {
                return Err(stopped());
            }
            state = self
                .changed
                .wait_timeout(state, std::time::Duration::from_millis(200))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        match state.error.take() {
            Some(error) => Err(error),
            None => state.file.take().ok_or_else(stopped),
        }
    }
}

/// What work that was given up because other work failed says; never shown when the other error is known.
pub fn stopped() -> Error {
    Error::new("the conversion was stopped")
}

struct Job {
    pack: Arc<Ordered>,
    ticket: u64,
    buffer: Vec<u8>,
    raw: bool,
    fragment: bool,
}

/// Buffers that are free or not made yet, and who may take them.
struct Buffers {
    free: Vec<Vec<u8>>,
    unmade: usize,
    ranks: BTreeSet<usize>,
}

impl Buffers {
    fn count(&self) -> usize {
        self.free.len() + self.unmade
    }
}

/// How many buffers must be free for what. Whoever waits for one is woken late and goes on in a long stroke: with a
/// switch between reading and compressing for every block, both would find the core's cache filled by the other.
struct Marks {
    /// Wakes the first layer, which takes them down to none.
    first: usize,
    /// What others leave to the first layer.
    left: usize,
    /// Wakes the others.
    others: usize,
}

/// What zstd's tables of [`LEVEL`] are made for.
const USUAL_BLOCK: usize = 128 << 10;

/// The library's level, but for the usual one with blocks of the usual size: its two tables are half as large. All of a
/// worker then stays in its core's cache beside what else runs there, and a conversion takes 2.5 percent less time for
/// 0.4 percent more bytes. Smaller ones give less for more.
fn compressor(level: i32, block_size: usize) -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    if level == LEVEL && block_size == USUAL_BLOCK {
        compressor.set_parameter(CParameter::HashLog(15))?;
        compressor.set_parameter(CParameter::ChainLog(14))?;
    }
    Ok(compressor)
}

/// Queue and buffers.
pub struct Pool {
    /// By rank, then ticket.
    jobs: Mutex<BTreeMap<(usize, u64), Job>>,
    job_came: Condvar,
    buffers: Mutex<Buffers>,
    marks: Marks,
    first_may: Condvar,
    others_may: Condvar,
    stop: AtomicBool,
    layers: usize,
    block_size: usize,
    level: i32,
}

/// One layer's place among those that use the pool; nobody else has its rank. The lowest rank comes first.
pub struct Turn<'a> {
    pub pool: &'a Pool,
    rank: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Another layer is the first one now.
        lock(&self.pool.buffers).ranks.remove(&self.rank);
        self.pool.first_may.notify_all();
        self.pool.others_may.notify_all();
    }
}

impl Turn<'_> {
    /// An empty buffer with room for a block; waits for one.
    pub fn take_buffer(&self) -> Result<Vec<u8>> {
        let pool = self.pool;
        let mut guard = lock(&pool.buffers);
        loop {
            if pool.is_stopped() {
                return Err(stopped());
            }
            let buffers = &mut *guard;
            let first = buffers.ranks.first() == Some(&self.rank);
            if first || buffers.count() > pool.marks.left {
                if let Some(buffer) = buffers.free.pop() {
                    return Ok(buffer);
                }
                if buffers.unmade > 0 {
                    buffers.unmade -= 1;
                    return Ok(Vec::with_capacity(zstd::zstd_safe::compress_bound(
                        pool.block_size,
                    )));
                }
            }
            let came = if first {
                &pool.first_may
            } else {
                &pool.others_may
            };
            guard = came.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Queues a block of the current run, or a fragment.
    pub fn submit(
        &self,
        pack: &Arc<Ordered>,
        ticket: u64,
        buffer: Vec<u8>,
        raw: bool,
        fragment: bool,
    ) {
        let job = Job {
            pack: Arc::clone(pack),
            ticket,
            buffer,
            raw,
            fragment,
        };
        lock(&self.pool.jobs).insert((self.rank, ticket), job);
        self.pool.job_came.notify_one();
    }
}

impl Pool {
    /// For `layers` at once, each of which holds two buffers while it waits for another one. There must be four for
    /// each of them at least.
    pub fn new(block_size: usize, level: i32, buffers: usize, layers: usize) -> Pool {
        let idle = buffers.saturating_sub(2 * layers);
        Pool {
            jobs: Mutex::default(),
            job_came: Condvar::new(),
            buffers: Mutex::new(Buffers {
                free: Vec::new(),
                unmade: buffers,
                ranks: BTreeSet::new(),
            }),
            marks: Marks {
                first: (buffers / 4).clamp(1, idle.max(1)),
                left: (buffers / 2).min(idle.saturating_sub(1)),
                others: (buffers * 3 / 4).min(idle).max(1),
            },
            first_may: Condvar::new(),
            others_may: Condvar::new(),
            stop: AtomicBool::new(false),
            layers,
            block_size,
            level,
        }
    }

    /// A place for one more layer.
    pub fn turn(&self, rank: usize) -> Turn<'_> {
        lock(&self.buffers).ranks.insert(rank);
        Turn { pool: self, rank }
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// How many are read at once.
    pub fn layers(&self) -> usize {
        self.layers
    }

    pub fn give_buffer(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut buffers = lock(&self.buffers);
        buffers.free.push(buffer);
        let count = buffers.count();
        drop(buffers);
        // Who waits began to below the mark, so its crossing is not missed.
        if count == self.marks.first {
            self.first_may.notify_all();
        }
        if count == self.marks.others {
            self.others_may.notify_all();
        }
    }

    /// Ends the workers and wakes everybody who waits.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        drop(lock(&self.jobs));
        self.job_came.notify_all();
        drop(lock(&self.buffers));
        self.first_may.notify_all();
        self.others_may.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// One worker's life.
    pub fn work(&self) -> Result<()> {
        // A worker that could not step behind works all the same.
        let _ = rustix::process::nice(BEHIND);
        let mut compressor =
            compressor(self.level, self.block_size).or_say(|| "cannot start zstd")?;
        let mut scratch: Vec<u8> =
            Vec::with_capacity(zstd::zstd_safe::compress_bound(self.block_size));
        loop {
            let job = {
                let mut jobs = lock(&self.jobs);
                loop {
                    if self.is_stopped() {
                        return Ok(());
                    }
                    if let Some((_, job)) = jobs.pop_first() {
                        break job;
                    }
                    jobs = self
                        .job_came
                        .wait(jobs)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            };
            let mut bytes = job.buffer;
            let mut size = bytes.len() as u32 | DATA_UNCOMPRESSED;
            if !job.raw {
                scratch.clear();
                let length = compressor
                    .compress_to_buffer(&bytes, &mut scratch)
                    .map_err(|error| Error::new("cannot compress a block").source(error))?;
                if length < bytes.len() {
                    std::mem::swap(&mut bytes, &mut scratch);
                    size = length as u32;
                }
            }
            let event = Event::Stored {
                hash: short_hash(&bytes),
                size,
                bytes,
                fragment: job.fragment,
            };
            job.pack.post(job.ticket, event, self);
        }
    }
}
