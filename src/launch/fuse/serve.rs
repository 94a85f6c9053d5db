//! The device: requests in, answers out, on as many threads as have work.
//!
//! Threads start here, after the fork that made the server process, never before. They all read the one device; a
//! thread that takes a request while nobody else waits starts another, up to the limit, so that a single reader costs
//! two threads and a full node gets as many as it needs. When the last process of the capsule is gone the kernel
//! unmounts, every read gives ENODEV, and [`serve`] returns.

use super::answer::{Answer, Answerer, Workspace};
use super::protocol::{Reply, Request};
use crate::error::{Context, Error, Result};
use crate::squashfs::read::Image;
use rustix::io::Errno;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::{Builder, Scope};

/// The kernel demands 8 KiB; more lets it forget many nodes in one message.
const REQUEST_MAX: usize = 32 << 10;
/// zstd's deepest frames take some ten kilobytes.
const STACK: usize = 512 << 10;
/// A broken image is told about, but does not fill a disk.
const MESSAGES_MAX: u32 = 20;
/// Holes are sent from here.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// How to serve.
#[derive(Debug, Default)]
pub struct ServeOptions {
    /// Uid and gid shown as the owner of everything, as the mount's user namespace numbers them; `None` shows the
    /// image's own.
    pub owner: Option<(u32, u32)>,
    /// At most this many threads; 0 means one for each processor that the process may use, at least 2.
    pub threads: usize,
    /// Gets one line for each failure.
    pub log: Option<File>,
    /// Flags of INIT to ignore although the kernel offers them; for tests of older kernels.
    pub without: u32,
}

struct Server<'a> {
    device: &'a OwnedFd,
    answerer: Answerer,
    log: Option<File>,
    messages: AtomicU32,
    /// Threads that exist, and that wait for a request.
    threads: AtomicUsize,
    waiting: AtomicUsize,
    limit: usize,
}

/// Serves a mounted device until it is unmounted.
pub fn serve(device: OwnedFd, image: Arc<Image>, options: ServeOptions) -> Result<()> {
    let limit = match options.threads {
        0 => std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 64)),
        threads => threads,
    };
    let server = Server {
        device: &device,
        answerer: Answerer::new(image, options.owner, !options.without),
        log: options.log,
        messages: AtomicU32::new(0),
        threads: AtomicUsize::new(1),
        waiting: AtomicUsize::new(0),
        limit,
    };
    std::thread::scope(|scope| server.work(scope))
}

impl Server<'_> {
    /// One thread's life.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<()> {
        let mut buffer = vec![0; REQUEST_MAX];
        let mut workspace = Workspace::default();
        loop {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let read = rustix::io::read(self.device, buffer.as_mut_slice());
            let alone = self.waiting.fetch_sub(1, Ordering::Relaxed) == 1;
            let length = match read {
                Ok(length) => length,
                // ENOENT: the request was taken back meanwhile.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(()),
                Err(errno) => {
                    return Err(std::io::Error::from(errno))
                        .or_say(|| "cannot read from the FUSE device");
                }
            };
            if alone {
                self.one_more(scope);
            }
            let Some(request) = Request::parse(buffer.get(..length).unwrap_or_default()) else {
                self.tell(&Error::new(
                    "the kernel sent a FUSE message that is cut off",
                ));
                continue;
            };
            let answer = self.answerer.answer(&request, &mut workspace);
            match self.send(&request, answer, &mut workspace) {
                // ENOENT: whoever asked was interrupted.
                Ok(()) | Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::NODEV) => return Ok(()),
                Err(errno) => self.tell(
                    &Error::new("the kernel refused an answer of the FUSE server")
                        .source(std::io::Error::from(errno)),
                ),
            }
            // Blocks must not outlive their request: the cache counts on being the one owner.
            workspace.pieces.clear();
        }
    }

    fn one_more<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let there = self.threads.fetch_add(1, Ordering::Relaxed);
        // At a limit of processes the threads that exist do all the work.
        if there >= self.limit
            || Builder::new()
                .name("fuse".into())
                .stack_size(STACK)
                .spawn_scoped(scope, || {
                    if let Err(error) = self.work(scope) {
                        self.tell(&error);
                    }
                })
                .is_err()
        {
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn send(
        &self,
        request: &Request,
        answer: Answer,
        workspace: &mut Workspace,
    ) -> Result<(), Errno> {
        let Workspace { reply, pieces } = workspace;
        let errno = match answer {
            Answer::Nothing => return Ok(()),
            Answer::Body => 0,
            Answer::Pieces => return self.send_pieces(request, workspace),
            Answer::Errno(errno) => errno.raw_os_error(),
            Answer::Failed(error) => {
                self.tell(&error);
                Errno::IO.raw_os_error()
            }
        };
        pieces.clear();
        reply.finish(request.unique, errno, 0);
        rustix::io::write(self.device, &reply.bytes).map(drop)
    }

    fn send_pieces(&self, request: &Request, workspace: &mut Workspace) -> Result<(), Errno> {
        let Workspace { reply, pieces } = workspace;
        let length = pieces.iter().map(|piece| piece.len()).sum();
        reply.finish(request.unique, 0, length);
        let mut slices = Vec::with_capacity(pieces.len() + 1);
        slices.push(IoSlice::new(
            reply.bytes.get(..Reply::HEADER).unwrap_or_default(),
        ));
        for piece in pieces.iter() {
            match piece.bytes() {
                Some(bytes) => slices.push(IoSlice::new(bytes)),
                None => {
                    let mut left = piece.len();
                    while left > 0 {
                        let part = ZEROS.get(..left.min(ZEROS.len())).unwrap_or_default();
                        slices.push(IoSlice::new(part));
                        left -= part.len();
                    }
                }
            }
        }
        rustix::io::writev(self.device, &slices).map(drop)
    }

    /// One line: what and why.
    fn tell(&self, error: &Error) {
        let Some(mut log) = self.log.as_ref() else {
            return;
        };
        if self.messages.fetch_add(1, Ordering::Relaxed) >= MESSAGES_MAX {
            return;
        }
        let mut line = format!("carrack: {}", error.what());
        for cause in error.causes() {
            line.push_str(": ");
            line.push_str(cause);
        }
        let line = crate::error::printable(&line).replace('\n', " ") + "\n";
        // Nobody is left to tell about a closed log.
        let _ = log.write_all(line.as_bytes());
    }
}
