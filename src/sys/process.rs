//! This process and others: detached children, privileges, signals, limits, and watching for an end.

use super::attempt::{Call, attempt};
use super::fd::{self, last_errno};
use super::{Errno, Result};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, CpuSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A process that was let go. Dropping this waits for the one in between, which made it nobody's child and has ended long
/// before, as a rule.
pub struct Detached(libc::pid_t);

impl Detached {
    /// Whether it could be started.
    pub fn check(self) -> Result<()> {
        let child = self.0;
        std::mem::forget(self);
        reap(child)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = reap(self.0);
    }
}

fn reap(child: libc::pid_t) -> Result<()> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is an int that lives until the call returns; the child is ours and not yet waited for.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            return if status == 0 {
                Ok(())
            } else {
                Err(Errno::AGAIN)
            };
        }
        match last_errno() {
            Errno::INTR => {}
            // The caller ignores SIGCHLD, so the kernel has already taken the status.
            Errno::CHILD => return Ok(()),
            errno => return Err(errno),
        }
    }
}

/// What the process in between needs, in the memory of the one that waits for it.
struct Between<'a, Run> {
    keep: &'a [BorrowedFd<'a>],
    run: Option<Run>,
}

/// As large as a thread's of the program. Pages that are not used cost nothing.
const STACK: usize = 2 << 20;
const GUARD: usize = 64 << 10;

/// A stack for the process in between, and for the one that it starts, whose own stack it stays: `run` may open an image and
/// serve for days. Nothing else lies there, and what lies below cannot be touched.
struct Stack(*mut libc::c_void);

impl Stack {
    fn get() -> Result<Stack> {
        // SAFETY: a new mapping replaces nothing.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                GUARD + STACK,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if place == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let stack = Stack(place);
        // SAFETY: these pages are part of the mapping, which nobody else knows.
        match unsafe {
            libc::mprotect(
                place.byte_add(GUARD),
                STACK,
                libc::PROT_READ | libc::PROT_WRITE,
            )
        } {
            0 => Ok(stack),
            _ => Err(last_errno()),
        }
    }

    /// Where a stack that grows downwards begins.
    fn top(&self) -> *mut libc::c_void {
        self.0.wrapping_byte_add(GUARD + STACK)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `get`, and the process that ran there has its own copy.
        unsafe { libc::munmap(self.0, GUARD + STACK) };
    }
}

/// Runs `run` in a process of its own session that is nobody's child, and returns here as soon as that exists. It has copies
/// of `keep`, which it gets in the same order, `/dev/null` as standard files, and no other descriptor: `run` must not use any
/// that it captured. The process ends when `run` returns or panics.
///
/// The process in between has no memory of its own, so there is one copy of the page tables to make and not two, and it does
/// not wait for a processor while this one goes on: whoever needs the new process soon does not wait for its parent.
pub fn detach<Run: FnOnce(Vec<OwnedFd>)>(keep: &[BorrowedFd<'_>], run: Run) -> Result<Detached> {
    let mut between = Between {
        keep,
        run: Some(run),
    };
    let stack = Stack::get()?;
    // SAFETY: this process has one thread (the callers' contract: nothing starts threads before the command is executed),
    // which stands still until the new one has ended, so `between` and the stack are its own until then.
    let child = unsafe {
        libc::clone(
            start_between::<Run>,
            stack.top(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut between).cast(),
        )
    };
    match child {
        -1 => Err(last_errno()),
        child => Ok(Detached(child)),
    }
}

/// Starts the process that is let go; the answer is the exit status.
extern "C" fn start_between<Run: FnOnce(Vec<OwnedFd>)>(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: setsid has no preconditions; the only thread of the memory that is copied is this one.
    let child = unsafe {
        libc::setsid();
        libc::fork()
    };
    if child != 0 {
        return (child == -1).into();
    }
    // SAFETY: it is the pointer that `detach` gave, to what nobody else uses in this copy of the memory.
    let between = unsafe { &mut *argument.cast::<Between<'_, Run>>() };
    let body = || {
        // SAFETY: this process ends by `_exit` below, and `run` keeps to its contract.
        let kept = unsafe { fd::close_all_but(between.keep) };
        if let (Ok(kept), Some(run)) = (kept, between.run.take()) {
            super::memory::get_own_pages();
            run(kept);
        }
    };
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    // SAFETY: ends the process without running exit handlers, which are the parent's.
    unsafe { libc::_exit(0) }
}

/// The process can never gain privileges by executing something.
pub fn no_new_privileges() -> Result<()> {
    rustix::thread::set_no_new_privs(true)
}

/// Empties every capability set, also for programs executed as user 0 of the namespace.
pub fn drop_capabilities() -> Result<()> {
    // Kernels before 4.3 have no ambient set.
    let _ = rustix::thread::clear_ambient_capability_set();
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the last capability of this kernel, or no right to (then there is nothing to keep either).
            Err(_) => break,
        }
    }
    let _ = rustix::thread::set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    );
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Makes the process deaf to everything that is sent to a whole job step or terminal; only SIGKILL ends it.
pub fn ignore_signals() {
    let keep = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCHLD,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
        libc::SIGTRAP,
    ];
    for signal in (1..32).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        if !keep.contains(&signal) {
            // SAFETY: SIG_IGN installs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
    // SAFETY: an empty set is made in place and only read by the second call.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// What SIGPIPE was before Rust's start-up code set it to be ignored.
static INHERITED_SIGPIPE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

extern "C" fn note_sigpipe() {
    // SAFETY: reads the disposition into a local struct; installs nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) == 0 {
            INHERITED_SIGPIPE.store(action.sa_sigaction, Ordering::Relaxed);
        }
    }
}

// SAFETY: the section holds pointers to functions that run before `main`; this one needs nothing that is set up later.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// Gives SIGPIPE back the meaning that the caller of this program chose.
pub fn restore_sigpipe() {
    if INHERITED_SIGPIPE.load(Ordering::Relaxed) != libc::SIG_IGN {
        // SAFETY: SIG_DFL installs no code of ours.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
}

/// Whether Ctrl-C was pressed while it was held.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Ctrl-C ends the programs that were started, not this one. Dropping this gives it its meaning back.
pub struct HeldInterrupts(libc::sighandler_t);

impl HeldInterrupts {
    pub fn came(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }
}

impl Drop for HeldInterrupts {
    fn drop(&mut self) {
        // SAFETY: what was there before, which is no code of ours.
        unsafe { libc::signal(libc::SIGINT, self.0) };
    }
}

/// With a handler, because what is ignored or blocked stays so in programs that are started.
pub fn hold_interrupts() -> HeldInterrupts {
    INTERRUPTED.store(false, Ordering::Relaxed);
    let handler = note_interrupt as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler stores to an atomic and does nothing else.
    let before = unsafe { libc::signal(libc::SIGINT, handler) };
    if before == libc::SIG_IGN {
        // The caller wants it to be ignored, also by what is started.
        // SAFETY: SIG_IGN installs no code of ours.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    }
    HeldInterrupts(before)
}

/// Lets the process run on every processor of its cgroup, whatever single one it inherited.
pub fn use_all_processors() {
    let mut all = CpuSet::new();
    for number in 0..CpuSet::MAX_CPU {
        all.set(number);
    }
    // The kernel cuts the set down to what the cgroup allows. On failure the inherited set is only slower.
    let _ = rustix::thread::sched_setaffinity(None, &all);
}

/// How many processors the calling thread may use; at least 2, because one may be unknown.
pub fn processors() -> usize {
    let allowed = rustix::thread::sched_getaffinity(None);
    allowed.map_or(2, |allowed| allowed.count() as usize).max(2)
}

/// Binds the calling thread to one processor; false where the cgroup does not allow that one.
pub fn use_processor(number: usize) -> bool {
    let mut one = CpuSet::new();
    if number >= CpuSet::MAX_CPU {
        return false;
    }
    one.set(number);
    rustix::thread::sched_setaffinity(None, &one).is_ok()
}

/// Keeps the calling thread off one processor, where it may use others.
pub fn leave_processor(number: usize) {
    if let Ok(mut allowed) = rustix::thread::sched_getaffinity(None)
        && number < CpuSet::MAX_CPU
    {
        allowed.unset(number);
        // An empty set is refused.
        let _ = rustix::thread::sched_setaffinity(None, &allowed);
    }
}

/// The processor that this thread runs on at this moment.
pub fn processor() -> usize {
    let mut number: libc::c_uint = 0;
    // The libraries would look the same up without a call, and take a hundred times as long to find out how.
    // SAFETY: the number lives until the call returns; what is null is not wanted.
    unsafe {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        libc::syscall(libc::SYS_getcpu, &raw mut number, nothing, nothing)
    };
    number as usize
}

/// Limits that a user set for the command must not end a helper in the middle.
pub fn raise_limits() {
    for resource in [
        Resource::As,
        Resource::Data,
        Resource::Cpu,
        Resource::Fsize,
        Resource::Nofile,
    ] {
        let limit = rustix::process::getrlimit(resource);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        let _ = rustix::process::setrlimit(resource, raised);
    }
}

/// The name that `ps` shows.
pub fn set_name(name: &std::ffi::CStr) {
    let _ = rustix::thread::set_name(name);
}

/// A descriptor that becomes readable when the process ends; `None` on kernels without (before 5.3).
pub fn watch(pid: u32) -> Result<Option<OwnedFd>> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)?;
    match attempt(Call::PidfdOpen, || {
        rustix::process::pidfd_open(pid, PidfdFlags::empty())
    }) {
        Some(answer) => answer.map(Some),
        None if rustix::process::test_kill_process(pid) == Err(Errno::SRCH) => Err(Errno::SRCH),
        None => Ok(None),
    }
}

/// Whether a process with this number exists.
pub fn exists(pid: u32) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_does_not_exist() {
        assert!(exists(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!exists(pid));
        assert!(!exists(0));
        assert_eq!(watch(pid).map(drop), Err(Errno::SRCH));
    }

    /// Uses some kibibytes of stack for each.
    #[inline(never)]
    fn deep(count: usize) -> usize {
        let room = std::hint::black_box([1_u8; 1024]);
        match count {
            0 => 0,
            _ => usize::from(room[count % room.len()]) + deep(count - 1),
        }
    }

    #[test]
    fn what_is_started_has_a_stack_of_its_own() {
        use std::os::fd::AsFd;
        let (ours, theirs) = crate::sys::socket::pair().unwrap();
        let here = std::hint::black_box([7_u8; 64]);
        let child = detach(&[theirs.as_fd()], |fds| {
            let there = std::hint::black_box([0_u8; 64]);
            let text = format!("{} {} {}", deep(500), here[63], there.as_ptr() as usize);
            let _ = crate::sys::socket::send(&fds[0], text.as_bytes(), &[]);
        });
        child.unwrap().check().unwrap();
        drop(theirs);
        let (bytes, _) = crate::sys::socket::receive(&ours, 100).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let there: usize = text.strip_prefix("500 7 ").unwrap().parse().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let my_stack = maps.lines().find_map(|line| {
            let (from, rest) = line.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            let range = number(from)?..number(rest.split_once(' ')?.0)?;
            range.contains(&(here.as_ptr() as usize)).then_some(range)
        });
        assert!(!my_stack.unwrap().contains(&there), "{there:x}");
    }
}
