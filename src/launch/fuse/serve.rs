//! The device: requests in, answers out, on as many threads as have work.
//!
//! Threads start here, after the fork that made the server process, never before. At most one thread listens while the
//! others rest, so that a single reader of the image is always answered by the same warm thread (two listeners take
//! turns, which doubled the time of a tree walk). A second thread is called when one is about to wait for the storage, or
//! to decompress or hand out a block while more requests are waiting: waking a thread costs as much as a small answer.
//! When the last process of the capsule is gone the kernel unmounts, every read gives ENODEV, and [`serve`] returns.

use super::answer::{Answer, Answerer, Workspace};
use super::hot::Hot;
use super::protocol::{Reply, Request, opcode};
use crate::error::{Context, Error, Result};
use crate::squashfs::read::{Image, Work};
use crate::sys::process;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::cell::Cell;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

/// The kernel demands 8 KiB; more lets it forget many nodes in one message.
const REQUEST_MAX: usize = 32 << 10;
/// zstd's deepest frames take some ten kilobytes.
const STACK: usize = 512 << 10;
/// A broken image is told about, but does not fill a disk.
const MESSAGES_MAX: u32 = 20;
/// More decoders than this only add memory.
const THREADS_MAX: usize = 32;
/// Holes are sent from here.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

thread_local! {
    /// Others that read the image have no requests behind them.
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// How to serve.
#[derive(Default)]
pub struct ServeOptions {
    /// Uid and gid shown as the owner of everything, as the mount's user namespace numbers them; `None` shows the
    /// image's own.
    pub owner: Option<(u32, u32)>,
    /// At most this many threads; 0 means one for each processor that the process may use, at least 2.
    pub threads: usize,
    /// Gets one line for each failure.
    pub log: Option<File>,
    /// Files that somebody hands to the kernel once it has heard of them.
    pub hot: Option<Arc<Hot>>,
    /// The calling thread is bound to the processor of the process that asks first, and is to be let go after the start.
    pub bound: bool,
    /// Flags of INIT to ignore although the kernel offers them; for tests of older kernels.
    pub without: u32,
}

/// Who does what; each number is a count of threads.
#[derive(Default)]
struct Crew {
    all: usize,
    listening: usize,
    resting: usize,
    /// Resting threads that were called and have not woken yet.
    called: usize,
    ended: bool,
}

/// Whoever waits for an answer leaves its processor to the one who gives it. On another processor both must be woken up for
/// each request, which takes several times as long as most answers. That is so for a process that is being started: it asks
/// one thing after the other. It ends when there are two questions at a time, or when the start is over.
struct Start {
    /// Threads run where their maker does, so all of them are bound at first if one is.
    bound: bool,
    /// Answered so far.
    requests: AtomicU32,
}

impl Start {
    /// A shell with its libraries asks a few dozen times.
    const REQUESTS: u32 = 512;

    /// Counts a request.
    fn is_over(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed) >= Start::REQUESTS
    }

    fn end(&self) {
        self.requests.fetch_max(Start::REQUESTS, Ordering::Relaxed);
    }
}

struct Server {
    device: OwnedFd,
    answerer: Answerer,
    hot: Option<Arc<Hot>>,
    log: Option<File>,
    messages: AtomicU32,
    /// The most.
    threads: usize,
    start: Start,
    crew: Mutex<Crew>,
    call: Condvar,
}

/// Serves a mounted device until it is unmounted.
pub fn serve(device: OwnedFd, image: Arc<Image>, options: ServeOptions) -> Result<()> {
    if let Some(hot) = &options.hot {
        hot.serve(device.as_fd());
    }
    let server = Arc::new(Server {
        device,
        hot: options.hot,
        answerer: Answerer::new(Arc::clone(&image), options.owner, !options.without),
        log: options.log,
        messages: AtomicU32::new(0),
        threads: match options.threads {
            0 => process::processors().min(THREADS_MAX),
            threads => threads.min(THREADS_MAX),
        },
        start: Start {
            bound: options.bound,
            requests: AtomicU32::new(0),
        },
        crew: Mutex::new(Crew {
            all: 1,
            ..Crew::default()
        }),
        call: Condvar::new(),
    });
    let weak = Arc::downgrade(&server);
    // What takes milliseconds to decompress is like waiting.
    let quick = image.compressor().is_quick();
    image.before_work(Box::new(move |work| {
        if SERVES.get()
            && let Some(server) = weak.upgrade()
            && (work == Work::Storage || !quick || server.more_requests())
        {
            server.somebody_listens();
        }
    }));
    let result = server.work();
    // The other threads end by themselves, at the latest when their answer is done; nobody needs them any more.
    let mut crew = server.crew();
    crew.ended = true;
    server.call.notify_all();
    while crew.all > 1 {
        crew = server
            .call
            .wait(crew)
            .unwrap_or_else(PoisonError::into_inner);
    }
    result
}

impl Server {
    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread's life.
    fn work(self: &Arc<Self>) -> Result<()> {
        let mut buffer = vec![0; REQUEST_MAX];
        let mut workspace = Workspace::default();
        let mut bound = self.start.bound;
        SERVES.set(true);
        while self.my_turn() {
            let read = rustix::io::read(&self.device, buffer.as_mut_slice());
            self.crew().listening -= 1;
            if bound && self.start.is_over() {
                process::use_all_processors();
                bound = false;
            }
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
            let Some(request) = Request::parse(buffer.get(..length).unwrap_or_default()) else {
                self.tell(&Error::new(
                    "the kernel sent a FUSE message that is cut off",
                ));
                continue;
            };
            if request.opcode == opcode::READ && self.more_requests() {
                self.somebody_listens();
            }
            // A panic would leave the caller without an answer, for ever.
            let answer = catch_unwind(AssertUnwindSafe(|| {
                self.answerer.answer(&request, &mut workspace)
            }))
            .unwrap_or_else(|_| Answer::Failed(Error::new("the FUSE server has a bug")));
            match self.send(&request, answer, &mut workspace) {
                // ENOENT: whoever asked was interrupted.
                Ok(()) | Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::NODEV) => return Ok(()),
                Err(errno) => self.tell(
                    &Error::new("the kernel refused an answer of the FUSE server")
                        .source(std::io::Error::from(errno)),
                ),
            }
            if let Some(hot) = &self.hot {
                let node = match request.opcode {
                    opcode::LOOKUP => workspace.reply.node(),
                    opcode::READ => Some(request.node),
                    _ => None,
                };
                node.into_iter().for_each(|node| hot.heard_of(node));
            }
            // Blocks must not outlive their request: the cache counts on being the one owner.
            workspace.pieces.clear();
        }
        Ok(())
    }

    /// Rests while somebody else listens; false at the end.
    fn my_turn(&self) -> bool {
        let mut crew = self.crew();
        if crew.listening > 0 && !crew.ended {
            crew.resting += 1;
            while crew.called == 0 && !crew.ended {
                crew = self.call.wait(crew).unwrap_or_else(PoisonError::into_inner);
            }
            crew.resting -= 1;
            crew.called = crew.called.saturating_sub(1);
        }
        crew.listening += 1;
        !crew.ended
    }

    fn more_requests(&self) -> bool {
        let mut poll = [PollFd::new(&self.device, PollFlags::IN)];
        let more = rustix::event::poll(&mut poll, Some(&Timespec::default()));
        let more = more.is_ok_and(|ready| ready > 0);
        if more {
            self.start.end();
        }
        more
    }

    /// Calls or makes a thread if none listens and none was called to.
    fn somebody_listens(self: &Arc<Self>) {
        let mut crew = self.crew();
        if crew.listening > 0 || crew.called > 0 || crew.ended {
            return;
        }
        if crew.resting > 0 {
            crew.called += 1;
            self.call.notify_one();
            return;
        }
        if crew.all >= self.threads {
            return;
        }
        crew.all += 1;
        drop(crew);
        let server = Arc::clone(self);
        let made = Builder::new()
            .name("fuse".into())
            .stack_size(STACK)
            .spawn(move || {
                if let Err(error) = server.work() {
                    server.tell(&error);
                }
                let mut crew = server.crew();
                crew.all -= 1;
                crew.ended = true;
                server.call.notify_all();
            });
        if made.is_err() {
            // At a limit of processes the threads that exist do all the work.
            self.crew().all -= 1;
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
        rustix::io::write(&self.device, &reply.bytes).map(drop)
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
        rustix::io::writev(&self.device, &slices).map(drop)
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
