//! What nearly every process reads first: the loader and the C library.
//!
//! While a capsule is being made there is a processor with nothing to do: it brings these files into the server's cache.
//! When the kernel has heard of one, its pages are handed over in a few pieces, where a process would ask for them fault
//! by fault. This needs a thread of its own: a page that is being asked for at that moment is locked until the request is
//! answered, and whoever hands it over waits for that.

use super::protocol::Reply;
use crate::error::Result;
use crate::launch::loader;
use crate::squashfs::read::{Image, Inode};
use rustix::io::Errno;
use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// glibc's name of the C library; musl's is the loader itself.
const LIBC: &str = "libc.so.6";
/// Small ones, which a launch or the loader reads whole.
const SMALL: &[&str] = &["/etc/passwd", "/etc/group", "/etc/ld.so.cache"];
/// Of each file. A C library is a little smaller.
const MOST: u64 = 2 << 20;
/// One message.
const PART: u64 = 128 << 10;
/// The kernel takes a moment to make a node of an answer.
const TRIES: u32 = 8;
const MOMENT: Duration = Duration::from_micros(20);

struct File {
    node: u64,
    inode: Inode,
    length: u64,
    /// How much of it, from its beginning on, is in the cache.
    warm: u64,
    /// The kernel has heard of it.
    known: bool,
}

/// What is to be done now.
enum Task {
    HandOver(File),
    Warm(Inode, u64),
}

/// These files of one image.
#[derive(Default)]
pub struct Hot {
    files: Mutex<Vec<File>>,
    changed: Condvar,
    /// Nothing is waited for (yet, or any more).
    idle: AtomicBool,
    device: OnceLock<OwnedFd>,
}

impl Hot {
    pub fn new() -> Hot {
        let hot = Hot::default();
        hot.idle.store(true, Ordering::Relaxed);
        hot
    }

    fn files(&self) -> MutexGuard<'_, Vec<File>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the files. What the image lacks is no error, and what is broken in it will be
    /// told to who asks for it.
    pub fn prepare(&self, image: &Image) {
        for path in SMALL {
            if let Ok(Some(found)) = image.follow(path.as_bytes()) {
                let _ = image.read_at(&found.inode, 0, &mut [0]);
            }
        }
        let mut found = Vec::new();
        for path in loader::HERE.loaders {
            let Ok(Some(loader)) = image.follow(path.as_bytes()) else {
                continue;
            };
            let libc = image.follow_from(&loader.directory, LIBC.as_bytes());
            found.push(loader.inode);
            found.extend(libc.ok().flatten().map(|libc| libc.inode));
        }
        *self.files() = found
            .into_iter()
            .map(|inode| File {
                node: super::answer::node_id(image, inode.reference),
                length: inode.size().min(MOST),
                warm: 0,
                inode,
                known: false,
            })
            .filter(|file| file.length > 0)
            .collect();
        self.idle.store(self.files().is_empty(), Ordering::Release);
    }

    /// The device that is served.
    pub fn serve(&self, device: BorrowedFd<'_>) {
        if let Ok(device) = device.try_clone_to_owned() {
            let _ = self.device.set(device);
        }
    }

    /// The kernel was told of a node, or asks for its content.
    pub fn heard_of(&self, node: u64) {
        if self.idle.load(Ordering::Acquire) {
            return;
        }
        let mut files = self.files();
        if let Some(file) = files.iter_mut().find(|file| file.node == node)
            && !file.known
        {
            file.known = true;
            self.changed.notify_one();
        }
    }

    /// Makes the files ready, and hands each to the kernel when it has heard of it; returns when all are handed over.
    pub fn hand_over(&self, image: &Image) {
        while let Some(task) = self.task() {
            // What is refused or broken will be asked for.
            let _ = match task {
                Task::HandOver(file) => self.hand_over_one(image, &file),
                Task::Warm(inode, at) => image.read_pieces(&inode, at, 1, drop),
            };
            let_others_run();
        }
        self.idle.store(true, Ordering::Release);
    }

    /// The next task, once there is one.
    fn task(&self) -> Option<Task> {
        let mut files = self.files();
        loop {
            if files.is_empty() {
                return None;
            }
            if let Some(index) = files.iter().position(|file| file.known) {
                return Some(Task::HandOver(files.swap_remove(index)));
            }
            if let Some(file) = files.iter_mut().find(|file| file.warm < file.length) {
                let at = file.warm;
                file.warm += PART;
                return Some(Task::Warm(file.inode.clone(), at));
            }
            files = self
                .changed
                .wait(files)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hand_over_one(&self, image: &Image, file: &File) -> Result<()> {
        let Some(device) = self.device.get() else {
            return Ok(());
        };
        let mut reply = Reply::default();
        let mut at = 0;
        while at < file.length {
            let length = PART.min(file.length - at);
            let mut pieces = Vec::new();
            image.read_pieces(&file.inode, at, length as usize, |piece| pieces.push(piece))?;
            reply.store(file.node, at, length as u32);
            let mut slices = vec![IoSlice::new(&reply.bytes)];
            slices.extend(pieces.iter().filter_map(|p| p.bytes()).map(IoSlice::new));
            let mut tries = 0;
            while let Err(errno) = rustix::io::writev(device, &slices) {
                tries += 1;
                if errno != Errno::NOENT || tries > TRIES {
                    return Ok(());
                }
                std::thread::sleep(MOMENT);
            }
            at += length;
            let_others_run();
        }
        Ok(())
    }
}

/// Nobody waits for this thread, but whoever makes the capsule waits for threads of the kernel that want this processor
/// for a moment (`umount` ends with a grace period of RCU): else they get it when a slice is over, milliseconds later.
fn let_others_run() {
    std::thread::yield_now();
}
