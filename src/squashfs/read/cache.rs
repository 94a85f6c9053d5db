//! Blocks kept in memory, bounded by bytes, each made once even when several threads want it at the same moment.
//!
//! Replacement is a clock: a block that was used since the hand last passed gets another round. Buffers of evicted
//! blocks are used again, because fresh pages cost as much as decompressing into them. No read-ahead and no statistics.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Where a block is stored, and its size word: crafted images may claim two sizes for one place.
pub type Key = (u64, u32);

/// Uncompressed bytes.
#[derive(Debug)]
pub struct Block {
    buffer: Vec<u8>,
    length: usize,
    /// For metadata: where the next block is stored.
    pub next: u64,
}

impl Block {
    /// The first `length` bytes of `buffer`; the rest is room that a later block may use.
    pub fn new(buffer: Vec<u8>, length: usize, next: u64) -> Block {
        let length = length.min(buffer.len());
        Block {
            buffer,
            length,
            next,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

enum Slot {
    /// Some thread is making it.
    Pending,
    Ready(usize),
}

struct Seat {
    key: Key,
    block: Arc<Block>,
    used: bool,
}

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    seats: Vec<Seat>,
    hand: usize,
    bytes: usize,
    waiting: usize,
    spare: Vec<Vec<u8>>,
}

pub struct Cache {
    state: Mutex<State>,
    changed: Condvar,
    limit: usize,
}

/// Buffers kept for the next blocks.
const SPARE: usize = 4;

impl Cache {
    pub fn new(limit: usize) -> Cache {
        Cache {
            state: Mutex::default(),
            changed: Condvar::new(),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block of `key`; `make` gets an old buffer to fill (of any length) when it is not there. `wait` is called once
    /// before waiting for another thread that makes it.
    pub fn get<E>(
        &self,
        key: Key,
        wait: impl Fn(),
        make: impl FnOnce(Vec<u8>) -> Result<Block, E>,
    ) -> Result<Arc<Block>, E> {
        let mut state = self.lock();
        let mut told = false;
        loop {
            match state.slots.get(&key) {
                Some(Slot::Ready(index)) => {
                    let index = *index;
                    if let Some(seat) = state.seats.get_mut(index) {
                        seat.used = true;
                        return Ok(Arc::clone(&seat.block));
                    }
                    break;
                }
                Some(Slot::Pending) if !told => {
                    drop(state);
                    wait();
                    told = true;
                    state = self.lock();
                }
                Some(Slot::Pending) => {
                    state.waiting = state.waiting.saturating_add(1);
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                    state.waiting = state.waiting.saturating_sub(1);
                }
                None => break,
            }
        }
        state.slots.insert(key, Slot::Pending);
        let buffer = state.spare.pop().unwrap_or_default();
        drop(state);

        // Taken back on every way out, a panic of a decoder included; else the waiters would wait for ever.
        let mut pending = Pending {
            cache: self,
            key,
            block: None,
        };
        let block = Arc::new(make(buffer)?);
        pending.block = Some(Arc::clone(&block));
        Ok(block)
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

struct Pending<'a> {
    cache: &'a Cache,
    key: Key,
    block: Option<Arc<Block>>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        match self.block.take() {
            Some(block) => state.insert(self.key, block, self.cache.limit),
            None => {
                state.slots.remove(&self.key);
            }
        }
        // Waking nobody would still be a system call.
        if state.waiting > 0 {
            self.cache.changed.notify_all();
        }
    }
}

impl State {
    fn insert(&mut self, key: Key, block: Arc<Block>, limit: usize) {
        let bytes = block.buffer.len();
        while !self.seats.is_empty() && self.bytes.saturating_add(bytes) > limit {
            self.evict();
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.slots.insert(key, Slot::Ready(self.seats.len()));
        self.seats.push(Seat {
            key,
            block,
            used: false,
        });
    }

    fn evict(&mut self) {
        // Ends within two rounds: the first clears every mark.
        loop {
            if self.hand >= self.seats.len() {
                self.hand = 0;
            }
            match self.seats.get_mut(self.hand) {
                Some(seat) if seat.used => {
                    seat.used = false;
                    self.hand = self.hand.wrapping_add(1);
                }
                Some(_) => break,
                None => return,
            }
        }
        let seat = self.seats.swap_remove(self.hand);
        self.slots.remove(&seat.key);
        if let Some(moved) = self.seats.get(self.hand) {
            self.slots.insert(moved.key, Slot::Ready(self.hand));
        }
        // The one that moved here is the youngest: it waits a whole round.
        self.hand = self.hand.wrapping_add(1);
        self.bytes = self.bytes.saturating_sub(seat.block.buffer.len());
        if self.spare.len() < SPARE
            && let Ok(block) = Arc::try_unwrap(seat.block)
        {
            self.spare.push(block.buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    fn block(byte: u8, length: usize) -> Block {
        Block::new(vec![byte; length], length, 0)
    }

    #[test]
    fn a_block_is_made_once_for_many_threads() {
        let cache = Cache::new(1 << 20);
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for key in 0..50 {
                        let got = cache.get::<()>(
                            (key, 0),
                            || (),
                            |_| {
                                made.fetch_add(1, SeqCst);
                                std::thread::yield_now();
                                Ok(block(key as u8, 100))
                            },
                        );
                        assert_eq!(got.unwrap().bytes(), [key as u8; 100]);
                    }
                });
            }
        });
        assert_eq!(made.load(SeqCst), 50);
    }

    #[test]
    fn memory_stays_under_the_limit_and_used_blocks_stay_longer() {
        let cache = Cache::new(1000);
        for key in 0..100 {
            cache
                .get::<()>((key, 0), || (), |_| Ok(block(1, 100)))
                .unwrap();
            // Block 0 is wanted all the time.
            cache
                .get::<()>((0, 0), || (), |_| panic!("block 0 was evicted"))
                .unwrap();
            assert!(cache.bytes() <= 1000);
        }
    }

    #[test]
    fn a_failure_is_not_remembered_and_does_not_block() {
        let cache = Cache::new(1000);
        assert_eq!(
            cache.get((7, 0), || (), |_| Err("broken")).unwrap_err(),
            "broken"
        );
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.get::<()>((7, 0), || (), |_| panic!("decoder"))
        }));
        assert!(panicked.is_err());
        assert_eq!(
            cache
                .get::<()>((7, 0), || (), |_| Ok(block(9, 5)))
                .unwrap()
                .bytes(),
            [9; 5]
        );
    }

    #[test]
    fn one_block_larger_than_the_limit_is_served() {
        let cache = Cache::new(10);
        for key in 0..3 {
            let got = cache
                .get::<()>((key, 0), || (), |_| Ok(block(3, 100)))
                .unwrap();
            assert_eq!(got.bytes().len(), 100);
        }
        assert!(cache.bytes() <= 100);
    }
}
