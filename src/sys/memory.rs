//! The memory allocator of the program: the first megabytes come from one piece that is never given back.
//!
//! A launch allocates some thousand small things and then executes the command. The C library's allocator would ask the
//! kernel for pages dozens of times on that way (musl's does, to make misuse show), which is a good part of a launch that
//! joins a capsule. The server of an image would do so from several threads, each of which waits meanwhile for what the
//! others have begun. What lives longer (a pull) uses up the piece and goes on with the C library's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Pages that are never used cost nothing.
const SIZE: usize = 8 << 20;
/// Larger things are few, and better given back. A server's blocks are as large, and are used again and again.
const LARGE: usize = 128 << 10;
/// The usual size; there is nothing to gain on a system with another.
const PAGE: usize = 4096;
/// What every launch uses.
const AT_ONCE: usize = 64 << 10;
/// What a server does, before it has threads.
const SERVER: usize = 128 << 10;

/// Freed blocks above [`LARGE`] up to this size are kept,
const KEPT_LARGEST: usize = 512 << 10;
/// so many,
const KEPT: usize = 16;
/// aligned like this.
const KEPT_ALIGN: usize = 16;

/// What `malloc` promises, and somebody relies on it: LLVM's unwinder, which the static program has, writes 16 bytes at
/// once into the box that Rust makes for a panic, whose type says 8.
const AS_MALLOC: usize = 16;

/// The allocator of this program, if it is this one.
static IN_USE: AtomicPtr<Memory> = AtomicPtr::new(std::ptr::null_mut());

pub struct Memory {
    first: First,
    used: AtomicUsize,
    /// Nobody has had what comes after: it is zero.
    touched: AtomicUsize,
    kept: Kept,
}

/// Blocks of the system's allocator that nobody has now. That is `malloc` on Unix, which knows itself how long each is.
struct Kept {
    busy: AtomicBool,
    /// Where each is and how long at least; no place means none.
    blocks: UnsafeCell<[(*mut u8, usize); KEPT]>,
}

// SAFETY: `blocks` is touched by the one who has set `busy` only.
unsafe impl Sync for Kept {}

impl Kept {
    const fn new() -> Kept {
        Kept {
            busy: AtomicBool::new(false),
            blocks: UnsafeCell::new([(std::ptr::null_mut(), 0); KEPT]),
        }
    }

    /// `None` also when somebody else is at it: nobody waits in an allocator.
    fn with<T>(&self, work: impl FnOnce(&mut [(*mut u8, usize); KEPT]) -> Option<T>) -> Option<T> {
        if self.busy.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: nobody else has set `busy`, and `work` neither allocates nor panics.
        let done = work(unsafe { &mut *self.blocks.get() });
        self.busy.store(false, Ordering::Release);
        done
    }

    fn is_kept(layout: Layout) -> bool {
        layout.size() > LARGE && layout.size() <= KEPT_LARGEST && layout.align() <= KEPT_ALIGN
    }

    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let wanted = layout.size();
        if !Kept::is_kept(layout) {
            return None;
        }
        self.with(|blocks| {
            // Not one that is much longer: somebody else may want that.
            let fits = |block: &&mut (*mut u8, usize)| {
                !block.0.is_null() && (wanted..=wanted + wanted / 4).contains(&block.1)
            };
            let block = blocks.iter_mut().find(fits)?;
            Some(std::mem::replace(&mut block.0, std::ptr::null_mut()))
        })
    }

    /// False when there is no room.
    fn give(&self, place: *mut u8, layout: Layout) -> bool {
        let keep = |blocks: &mut [(*mut u8, usize); KEPT]| {
            let free = blocks.iter_mut().find(|block| block.0.is_null())?;
            *free = (place, layout.size());
            Some(())
        };
        Kept::is_kept(layout) && self.with(keep).is_some()
    }

    /// Any of them, out of here.
    fn last(&self) -> Option<(*mut u8, usize)> {
        self.with(|blocks| {
            let block = blocks.iter_mut().rfind(|block| !block.0.is_null())?;
            Some(std::mem::replace(block, (std::ptr::null_mut(), 0)))
        })
    }
}

#[repr(align(4096))]
struct First(UnsafeCell<[u8; SIZE]>);

// SAFETY: `used` gives each part of the piece to one owner only, and nothing is read or written here.
unsafe impl Sync for First {}

impl Memory {
    pub const fn new() -> Memory {
        Memory {
            first: First(UnsafeCell::new([0; SIZE])),
            used: AtomicUsize::new(0),
            touched: AtomicUsize::new(0),
            kept: Kept::new(),
        }
    }

    /// Gets the first pages now. To be called at the start.
    pub fn get_pages(&'static self) {
        IN_USE.store(std::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        populate(self.start(), AT_ONCE);
    }

    fn start(&self) -> usize {
        self.first.0.get() as usize
    }

    fn is_first(&self, place: *mut u8) -> bool {
        (self.start()..self.start() + SIZE).contains(&(place as usize))
    }

    /// A part, and how much of its beginning somebody may have had before. Acquires what [`Memory::move_end`] released.
    fn take(&self, layout: Layout) -> Option<(*mut u8, usize)> {
        if layout.size() > LARGE || layout.align() > 4096 {
            return None;
        }
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let from = used.checked_next_multiple_of(layout.align().max(AS_MALLOC))?;
            let to = from.checked_add(layout.size())?;
            if to > SIZE {
                return None;
            }
            match self
                .used
                .compare_exchange_weak(used, to, Ordering::Acquire, Ordering::Relaxed)
            {
                // Inside the piece, hence never null.
                Ok(_) => {
                    let touched = self.touched.fetch_max(to, Ordering::Relaxed);
                    let place = self.first.0.get().cast::<u8>().wrapping_add(from);
                    return Some((place, touched.saturating_sub(from).min(layout.size())));
                }
                Err(now) => used = now,
            }
        }
    }

    fn free_kept(&self) {
        while let Some((place, size)) = self.kept.last() {
            if let Ok(layout) = Layout::from_size_align(size, 1) {
                // SAFETY: it is the system's and nobody's any more. On Unix that is `malloc`'s, which knows how long it is.
                unsafe { System.dealloc(place, layout) }
            }
        }
    }

    /// Moves the end of what was taken last from `from` to `to` bytes after `place`.
    fn move_end(&self, place: *mut u8, from: usize, to: usize) -> bool {
        let offset = place as usize - self.start();
        let moved = offset + to <= SIZE
            && self
                .used
                .compare_exchange(
                    offset + from,
                    offset + to,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok();
        if moved {
            self.touched.fetch_max(offset + to, Ordering::Relaxed);
        }
        moved
    }
}

/// Frees the blocks that were kept.
pub fn give_back() {
    // SAFETY: only `get_pages` stores a pointer there, to a static.
    if let Some(memory) = unsafe { IN_USE.load(Ordering::Relaxed).as_ref() } {
        memory.free_kept();
    }
}

/// After a fork: makes the pages that are shared with the parent this process's own, before it has threads. Once it has,
/// each first write to one of them interrupts every processor that runs a thread, which takes twenty times as long.
pub fn get_own_pages() {
    // SAFETY: only `get_pages` stores a pointer there, to a static.
    if let Some(memory) = unsafe { IN_USE.load(Ordering::Relaxed).as_ref() } {
        populate(memory.start(), SERVER);
    }
}

/// Gets the pages of a fresh buffer that will be filled at once.
pub fn get_pages(buffer: &mut [u8]) {
    let start = buffer.as_mut_ptr() as usize;
    let before = start % PAGE;
    populate(start - before, before + buffer.len());
}

/// One call costs a fraction of a fault for each page.
fn populate(start: usize, length: usize) {
    let start = std::ptr::without_provenance_mut(start);
    // SAFETY: no byte changes, also where a page has another owner, too. A kernel that does not know the advice, or has
    // other pages, refuses it.
    let _ = unsafe { libc::madvise(start, length, libc::MADV_POPULATE_WRITE) };
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

// SAFETY: each block is from the piece, given out once, aligned and of the asked size, or from the system's allocator,
// which gets back exactly its own. A block of the piece is taken back only while it is the last one. One that was kept
// meanwhile is as long as it was when it was freed, and as aligned as the system's allocator makes all of them.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((place, _)) => place,
            None => match self.kept.take(layout) {
                Some(place) => place,
                // SAFETY: the caller's contract is the same.
                None => unsafe { System.alloc(layout) },
            },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((place, touched)) => {
                // SAFETY: the block is at least as long; who had it before may have written it.
                unsafe { place.write_bytes(0, touched) };
                place
            }
            None => match self.kept.take(layout) {
                Some(place) => {
                    // SAFETY: the block is at least as long.
                    unsafe { place.write_bytes(0, layout.size()) };
                    place
                }
                // Fresh pages are zero already, and only the C library knows which are fresh.
                // SAFETY: the caller's contract is the same.
                None => unsafe { System.alloc_zeroed(layout) },
            },
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if self.is_first(place) {
            self.move_end(place, layout.size(), 0);
        } else if !self.kept.give(place, layout) {
            // SAFETY: it is not ours, so it is the system's; the caller's contract is the same.
            unsafe { System.dealloc(place, layout) }
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.is_first(place) {
            // SAFETY: as above.
            return unsafe { System.realloc(place, layout, size) };
        }
        if size <= LARGE && self.move_end(place, layout.size(), size) {
            return place;
        }
        // SAFETY: `size` is not zero and no overflow when rounded up to the alignment, by the caller's contract; the new
        // block does not overlap the old one, which is as long as its layout says.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(place, new, layout.size().min(size));
                self.dealloc(place, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_aligned_and_as_they_were_written() {
        // Not on a stack: it is large.
        static MEMORY: Memory = Memory::new();
        let memory = &MEMORY;
        let mut blocks = Vec::new();
        // Until well past the end of the piece.
        for number in 0..3000_usize {
            let layout = Layout::from_size_align(1 + number * 7 % 9000, 1 << (number % 8)).unwrap();
            // SAFETY: the layout is not empty, and as many bytes are written as it has.
            let place = unsafe { memory.alloc(layout) };
            assert!(!place.is_null() && (place as usize).is_multiple_of(layout.align()));
            // SAFETY: as above.
            unsafe { place.write_bytes(number as u8, layout.size()) };
            blocks.push((place, layout, number as u8));
        }
        assert!(blocks.iter().any(|(place, ..)| !memory.is_first(*place)));
        for (place, layout, byte) in blocks {
            let size = layout.size() * 2;
            // SAFETY: the block is given up for the new one, of which the first half is read and all is freed.
            unsafe {
                let place = memory.realloc(place, layout, size);
                let bytes = std::slice::from_raw_parts(place, layout.size());
                assert!(bytes.iter().all(|b| *b == byte));
                memory.dealloc(
                    place,
                    Layout::from_size_align(size, layout.align()).unwrap(),
                );
            }
        }
    }

    #[test]
    fn blocks_are_as_aligned_as_those_of_malloc() {
        static MEMORY: Memory = Memory::new();
        for size in 1..100 {
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: the layout is not empty.
            let place = unsafe { MEMORY.alloc(layout) };
            assert!(MEMORY.is_first(place));
            assert_eq!(place as usize % AS_MALLOC, 0, "{size}");
        }
    }

    #[test]
    fn zeroed_is_zero_also_where_somebody_was() {
        // Not on a stack: it is large.
        static MEMORY: Memory = Memory::new();
        let memory = &MEMORY;
        let layout = Layout::from_size_align(1000, 8).unwrap();
        // SAFETY: each block is used with the layout that it has, and freed once.
        unsafe {
            let first = memory.alloc(layout);
            first.write_bytes(0xff, 1000);
            let first = memory.realloc(first, layout, 3000);
            first.write_bytes(0xff, 3000);
            memory.dealloc(first, Layout::from_size_align(3000, 8).unwrap());
            for size in [500, 4000, 100] {
                let layout = Layout::from_size_align(size, 8).unwrap();
                let place = memory.alloc_zeroed(layout);
                let bytes = std::slice::from_raw_parts(place, size);
                assert!(bytes.iter().all(|b| *b == 0), "{size}");
                place.write_bytes(0xff, size);
            }
        }
    }

    #[test]
    fn large_blocks_are_kept_for_the_next_who_wants_one() {
        // Not on a stack: it is large.
        static MEMORY: Memory = Memory::new();
        let memory = &MEMORY;
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        // SAFETY: each block is used with the layout that it has, and freed once.
        unsafe {
            let first = memory.alloc(layout(300 << 10));
            first.write_bytes(0xff, 300 << 10);
            memory.dealloc(first, layout(300 << 10));
            for wanted in [200 << 10, 301 << 10, 600 << 10, 100] {
                let other = memory.alloc(layout(wanted));
                assert_ne!(other, first, "{wanted}");
            }
            let again = memory.alloc_zeroed(layout(299 << 10));
            assert_eq!(again, first);
            let bytes = std::slice::from_raw_parts(again, 299 << 10);
            assert!(bytes.iter().all(|b| *b == 0));
            // It is the system's, and may grow there.
            let grown = memory.realloc(again, layout(299 << 10), 5 << 20);
            memory.dealloc(grown, layout(5 << 20));
            memory.dealloc(memory.alloc(layout(300 << 10)), layout(300 << 10));
            memory.free_kept();
            assert!(memory.kept.last().is_none());
            // More than there is room for, from several threads.
            std::thread::scope(|scope| {
                for seed in 0..4_u8 {
                    scope.spawn(move || {
                        for round in 0..200_usize {
                            let size = (129 << 10) + round * 1009;
                            let blocks: Vec<_> = (0..8)
                                .map(|number| {
                                    let place = memory.alloc(layout(size));
                                    place.write_bytes(seed + number * 8, size);
                                    (place, seed + number * 8)
                                })
                                .collect();
                            for (place, byte) in blocks {
                                let bytes = std::slice::from_raw_parts(place, size);
                                assert!(bytes.iter().all(|b| *b == byte));
                                memory.dealloc(place, layout(size));
                            }
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn the_last_block_grows_and_goes_in_place() {
        // Not on a stack: it is large.
        static MEMORY: Memory = Memory::new();
        let memory = &MEMORY;
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: each block is used with the layout that it has.
        unsafe {
            let first = memory.alloc(layout);
            assert_eq!(memory.realloc(first, layout, 200), first);
            memory.dealloc(first, Layout::from_size_align(200, 8).unwrap());
            assert_eq!(memory.alloc(layout), first);
            assert_ne!(memory.alloc(layout), first);
        }
    }
}
