//! The process beside a capsule: serves its image and lets late tasks in. Process: a detached copy of the first task's,
//! outside the capsule's namespaces, in the job step's cgroup; identity: the user; may fail: the image (reported to the
//! maker), nothing later.
//!
//! Holding a namespace by descriptor keeps it alive, so holding it for ever would be a leak, and letting go too early would
//! split a step. The broker holds the descriptors while a task that it knows lives, and while tasks of the step are still to
//! come on this node and the step lives: by count and by the life of processes, never by the clock. Afterwards the
//! capsule lives by its processes alone, and whoever comes later (`attach`) enters through one of them. When the last is
//! gone the kernel unmounts the image, the server ends, and so does this process. Deliberately absent: any way to outlive
//! SIGKILL, and a supervisor.

mod opening;
mod watched;

use super::capsule::rendezvous::{Description, Rendezvous};
use super::capsule::scope::prefix_of;
use super::step::{Identity, Image as ImageStep};
use crate::sys::namespace::{self, Kind};
use crate::sys::{Errno, process, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use watched::Watched;

/// First bytes of the messages. From the maker: the finished capsule; and to the server, the FUSE device. To the maker:
/// the image is the right one, done, failed (with the text). From a joiner: its place in the step, or none. To a joiner:
/// the namespaces, or that there is no capsule any more.
pub const DEVICE: u8 = b'D';
pub const MADE: u8 = b'M';
pub const CHECKED: u8 = b'C';
pub const ACCEPTED: u8 = b'A';
pub const FAILED: u8 = b'F';
pub const JOIN: u8 = b'J';
pub const WELCOME: u8 = b'W';
pub const GONE: u8 = b'G';
pub const MAX_MESSAGE: usize = 4096;

/// Without pidfds (kernels before 5.3) ends are noticed by looking, this often.
const LOOK: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
const MAX_CONNECTIONS: usize = 1024;
const MAX_MEMBERS: usize = 1024;

/// What the maker tells its broker at birth.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    pub image: &'a ImageStep,
    pub identity: Identity,
    /// The entry of the rendezvous, when tasks are to be let in.
    pub entry: Option<Entry<'a>>,
    /// How many tasks of the step come on this node; `None` when nobody knows.
    pub tasks: Option<u32>,
    /// The maker's place among them.
    pub rank: Option<u32>,
    pub maker: u32,
    /// The processor that the maker is on.
    pub processor: usize,
    /// The number of the step that this process dies with.
    pub step: Option<u32>,
    /// The process whose end is the end of the step.
    pub guardian: Option<u32>,
    /// Tasks change their own copies of the mount namespace, so no task's namespace is the capsule's.
    pub private_copies: bool,
    /// Nobody else is to be let in.
    pub shut: bool,
    /// The root will be asked for when the last task has ended.
    pub hold: bool,
    /// Whether the plugin tells when the last task of the step has ended.
    pub step_end: bool,
    /// The root's directory outlives the capsule, and the next capsule waits for this one's end.
    pub kept: bool,
}

#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub directory: &'a str,
    pub name: &'a str,
}

/// Runs the broker to its end. `fds`: the socket to the maker, then the image file and the socket that the device comes
/// through if there is an image to serve, then the rendezvous directory if there is one, then the socket of the step's end
/// if there is one.
pub fn run(setup: &Setup<'_>, fds: Vec<OwnedFd>) {
    process::ignore_signals();
    process::use_all_processors();
    let threads = process::processors();
    // The maker goes on there.
    process::leave_processor(setup.processor);
    process::raise_limits();
    process::set_name(c"carrack-image");
    let _ = rustix::process::chdir("/");
    let mut fds = fds.into_iter();
    let Some(maker) = fds.next() else { return };
    let served = match setup.image {
        ImageStep::Squashfs { .. } => fds.next().map(File::from).zip(fds.next()),
        ImageStep::Directory { .. } => None,
    };
    let rendezvous = setup.entry.and_then(|entry| {
        Some(Rendezvous::from_parts(
            fds.next()?,
            entry.directory.to_string(),
        ))
    });
    let step_end = setup.step_end.then(|| fds.next()).flatten();
    // The word does not matter: slurmstepd learns by it which process this is, whose end it will wait for.
    let _ = step_end.as_ref().map(|end| socket::send(end, b"B", &[]));
    let started = match served {
        Some((file, door)) => match opening::start(setup, file, door, threads) {
            Ok(started) => {
                tell(&maker, CHECKED, "");
                Some(started)
            }
            Err(error) => return tell(&maker, FAILED, &error.to_string()),
        },
        None => None,
    };
    // The threads stay where they are.
    process::use_all_processors();
    let (served, log) = started.map(|server| (server.ended, server.log)).unzip();
    let mut broker = Broker {
        setup,
        maker: Some(maker),
        served,
        log,
        rendezvous,
        step_end,
        step_over: None,
        listener: None,
        connections: Vec::new(),
        capsule: None,
        guardian: setup.guardian.map(Watched::new),
        members: Vec::new(),
        seen: BTreeSet::new(),
    };
    broker.member(setup.maker);
    broker.serve();
    broker.retire();
}

fn tell(maker: &OwnedFd, kind: u8, text: &str) {
    let mut message = vec![kind];
    message.extend(text.bytes().take(MAX_MESSAGE - 1));
    let _ = socket::send(maker, &message, &[]);
}

/// The namespaces of the finished capsule.
struct Capsule {
    /// Held while tasks are still to come, or a known one lives.
    held: Option<Vec<OwnedFd>>,
    user: namespace::Identity,
    mount: namespace::Identity,
    kinds: usize,
}

/// What a poll can wake for.
#[derive(Clone, Copy)]
enum Source {
    Maker,
    Served,
    Log,
    Listener,
    StepEnd,
    Guardian,
    Connection(usize),
    Member(usize),
}

struct Broker<'a> {
    setup: &'a Setup<'a>,
    maker: Option<OwnedFd>,
    /// Becomes readable when the server has ended.
    served: Option<OwnedFd>,
    /// What the server has to say of a broken image.
    log: Option<OwnedFd>,
    rendezvous: Option<Rendezvous>,
    step_end: Option<OwnedFd>,
    /// The same when it has spoken. slurmstepd waits until it is closed, which the end of this process does.
    step_over: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    connections: Vec<OwnedFd>,
    capsule: Option<Capsule>,
    guardian: Option<Watched>,
    /// Processes that entered; their children are found through `/proc` when needed.
    members: Vec<Watched>,
    /// Places in the step that have come.
    seen: BTreeSet<u32>,
}

impl Broker<'_> {
    fn serve(&mut self) {
        loop {
            let (ready, timed_out) = match self.wait() {
                Ok(found) => found,
                Err(Errno::INTR) => continue,
                Err(_) => return,
            };
            if timed_out {
                self.guardian.iter_mut().for_each(Watched::look);
                self.members.iter_mut().for_each(Watched::look);
            }
            // Connections are removed from the end, so that the other indexes stay right.
            for source in ready.into_iter().rev() {
                let go_on = match source {
                    Source::Maker => self.hear_maker(),
                    Source::Served => false,
                    Source::Log => self.pass_on_log(),
                    Source::Listener => self.accept(),
                    Source::StepEnd => self.hear_step_end(),
                    Source::Guardian => {
                        self.guardian.iter_mut().for_each(|g| g.ended = true);
                        true
                    }
                    Source::Connection(index) => self.answer(index),
                    Source::Member(index) => {
                        self.members
                            .get_mut(index)
                            .into_iter()
                            .for_each(|m| m.ended = true);
                        true
                    }
                };
                if !go_on {
                    return;
                }
            }
            self.members.retain(|member| !member.ended);
            if !self.let_go() {
                return;
            }
        }
    }

    fn wait(&self) -> Result<(Vec<Source>, bool), Errno> {
        let mut sources: Vec<(Source, &OwnedFd)> = [
            (Source::Maker, &self.maker),
            (Source::Served, &self.served),
            (Source::Log, &self.log),
            (Source::Listener, &self.listener),
            (Source::StepEnd, &self.step_end),
        ]
        .into_iter()
        .filter_map(|(source, fd)| Some((source, fd.as_ref()?)))
        .collect();
        let mut watched: Vec<(Source, &Watched)> = Vec::new();
        watched.extend(self.guardian.iter().map(|g| (Source::Guardian, g)));
        let held = (self.capsule.as_ref()).is_some_and(|capsule| capsule.held.is_some());
        if held || self.lives_by_members() {
            let members = self.members.iter().enumerate();
            watched.extend(members.map(|(index, m)| (Source::Member(index), m)));
        }
        watched.retain(|(_, process)| !process.ended);
        let looking = watched.iter().any(|(_, process)| process.end.is_none());
        let ends = watched.iter();
        sources.extend(ends.filter_map(|(source, process)| Some((*source, process.end.as_ref()?))));
        let connections = self.connections.iter().enumerate();
        sources.extend(connections.map(|(index, fd)| (Source::Connection(index), fd)));
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd)| PollFd::new(*fd, PollFlags::IN))
            .collect();
        let count = poll(&mut polled, looking.then_some(&LOOK))?;
        let ready = sources
            .into_iter()
            .zip(&polled)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|((source, _), _)| source)
            .collect();
        Ok((ready, count == 0))
    }

    /// Whether the life of the capsule cannot be seen from the image's mount: there is none, or copies of it live on.
    fn lives_by_members(&self) -> bool {
        self.setup.private_copies
            || self.setup.kept
            || matches!(self.setup.image, ImageStep::Directory { .. })
    }

    fn hear_maker(&mut self) -> bool {
        let Some(maker) = &self.maker else {
            return true;
        };
        let (bytes, fds) = socket::receive(maker, MAX_MESSAGE).unwrap_or_default();
        match (bytes.first(), fds.len()) {
            (Some(&MADE), 2 | 3) => self.open_house(fds),
            _ => {
                // The maker has executed its command or died. Half a capsule is none.
                self.maker = None;
                self.capsule.is_some() || (self.rendezvous.is_none() && self.served.is_some())
            }
        }
    }

    /// The capsule is complete: others may come.
    fn open_house(&mut self, fds: Vec<OwnedFd>) -> bool {
        let identities = (
            fds.first().map(namespace::identity),
            fds.get(1).map(namespace::identity),
        );
        let (Some(Ok(user)), Some(Ok(mount))) = identities else {
            return false;
        };
        self.capsule = Some(Capsule {
            kinds: fds.len(),
            held: Some(fds),
            user,
            mount,
        });
        self.seen.extend(self.setup.rank);
        if let (Some(rendezvous), Some(entry)) = (&self.rendezvous, self.setup.entry) {
            let opened = socket::listen().and_then(|(listener, socket)| {
                let description = Description {
                    socket,
                    broker: std::process::id(),
                    image: image_name(self.setup.image),
                    file: match self.setup.image {
                        ImageStep::Squashfs { path, .. } | ImageStep::Directory { path } => {
                            path.clone()
                        }
                    },
                    shut: self.setup.shut,
                    made: std::time::SystemTime::now()
                        .duration_since(std::time::UNIX_EPOCH)
                        .map_or(0, |time| time.as_secs()),
                    step: self.setup.step,
                };
                rendezvous.write(entry.name, &description)?;
                Ok(listener)
            });
            match opened {
                Ok(listener) => self.listener = Some(listener),
                Err(errno) => {
                    self.tell_maker(FAILED, &format!("cannot write the rendezvous: {errno}"));
                    return false;
                }
            }
        }
        self.tell_maker(ACCEPTED, "");
        true
    }

    /// A word means that the last task has ended, and that slurmstepd waits for this process before it clears the step away.
    /// Closed without a word: it was killed, and the tasks may live on.
    fn hear_step_end(&mut self) -> bool {
        let spoken = |end: &OwnedFd| socket::peek(end).is_ok_and(|count| count > 0);
        self.step_over = self.step_end.take().filter(spoken);
        true
    }

    fn tell_maker(&self, kind: u8, text: &str) {
        if let Some(maker) = &self.maker {
            tell(maker, kind, text);
        }
    }

    fn accept(&mut self) -> bool {
        let Some(listener) = &self.listener else {
            return true;
        };
        let own = rustix::process::geteuid().as_raw();
        while let Ok(connection) = socket::accept(listener) {
            // Everybody on the node can find the name; only the user is answered.
            let ours = socket::peer(&connection).is_ok_and(|(_, uid)| uid == own);
            if ours && self.connections.len() < MAX_CONNECTIONS {
                self.connections.push(connection);
            }
        }
        true
    }

    /// Lets the process at the other end in. A request is one message; the connection is closed with the answer.
    fn answer(&mut self, index: usize) -> bool {
        if index >= self.connections.len() {
            return true;
        }
        let connection = self.connections.swap_remove(index);
        let (bytes, _) = match socket::receive(&connection, MAX_MESSAGE) {
            Err(Errno::AGAIN) => {
                self.connections.push(connection);
                return true;
            }
            other => other.unwrap_or_default(),
        };
        if bytes.first() != Some(&JOIN) {
            return true;
        }
        let rank = bytes
            .get(1..5)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes);
        let Some(namespaces) = self.namespaces() else {
            // Nobody is inside any more, yet something keeps the image mounted. The next one makes a new capsule.
            let _ = socket::send(&connection, &[GONE], &[]);
            self.listener = None;
            self.sweep();
            return true;
        };
        let fds: Vec<_> = namespaces.iter().map(|fd| fd.as_fd()).collect();
        if socket::send(&connection, &[WELCOME], &fds).is_ok() {
            self.seen.extend(rank);
            if let Ok((pid, _)) = socket::peer(&connection) {
                self.member(pid);
            }
        }
        true
    }

    fn member(&mut self, pid: u32) {
        if self.members.len() >= MAX_MEMBERS {
            self.members.iter_mut().for_each(|member| {
                member.ended |= !process::exists(member.pid);
            });
            self.members.retain(|member| !member.ended);
        }
        if self.members.len() < MAX_MEMBERS {
            self.members.push(Watched::new(pid));
        }
    }

    /// Copies of the capsule's namespaces: held ones, or those of a process that is inside.
    fn namespaces(&self) -> Option<Vec<OwnedFd>> {
        let capsule = self.capsule.as_ref()?;
        if let Some(held) = &capsule.held {
            return held.iter().map(|fd| fd.try_clone().ok()).collect();
        }
        let known = self.members.iter().rev().map(|member| member.pid);
        known
            .chain(processes())
            .find_map(|pid| of_process(pid, capsule))
    }

    /// Drops what keeps the capsule alive once it may live by its processes alone. False when this process has no task left.
    fn let_go(&mut self) -> bool {
        let step_ended = self.guardian.as_ref().is_some_and(|g| g.ended);
        let all_came = match self.setup.tasks {
            Some(tasks) if tasks > 1 => self.seen.len() >= tasks as usize,
            _ => true,
        };
        let deserted = self.lives_by_members() && self.deserted();
        // Whoever is left will be killed at once. Another step may want a kept root: only when nobody can write to it.
        if self.step_over.is_some() && (deserted || !self.setup.kept) {
            return false;
        }
        let Some(capsule) = &mut self.capsule else {
            return true;
        };
        // A task would wait for the end of the mounts before its own is seen, and its parent with it.
        let spared = |member: &Watched| member.end.is_some() && !member.ended;
        let may_go = all_came && !self.setup.hold && !self.members.iter().any(spared);
        if (may_go && (!self.setup.private_copies || deserted)) || step_ended {
            capsule.held = None;
        }
        if self.setup.kept && deserted && !self.setup.hold {
            return false;
        }
        !(deserted && capsule.held.is_none() && self.served.is_none())
    }

    /// Whether no process is left in the capsule. Looks only when the known ones have ended.
    fn deserted(&mut self) -> bool {
        let Some(capsule) = &self.capsule else {
            return false;
        };
        if self.members.is_empty() {
            let user = capsule.user;
            let inside = |pid: &u32| namespace::identity_of(*pid, Kind::User) == Ok(user);
            let found: Vec<u32> = processes().filter(inside).take(8).collect();
            self.members.extend(found.into_iter().map(Watched::new));
            self.members.retain(|member| !member.ended);
        }
        self.members.is_empty()
    }

    /// Writes what the server has to say where the user will see it: the standard error of a task. It is not held open,
    /// because srun waits until nobody holds it.
    fn pass_on_log(&mut self) -> bool {
        let mut bytes = vec![0; MAX_MESSAGE];
        let count = match self
            .log
            .as_ref()
            .map(|log| rustix::io::read(log, &mut bytes))
        {
            Some(Ok(count)) if count > 0 => count,
            Some(Err(Errno::AGAIN | Errno::INTR)) => return true,
            _ => {
                self.log = None;
                return true;
            }
        };
        for member in self.members.iter().rev() {
            let stderr = rustix::fs::open(
                format!("/proc/{}/fd/2", member.pid),
                OFlags::WRONLY
                    | OFlags::APPEND
                    | OFlags::NONBLOCK
                    | OFlags::NOCTTY
                    | OFlags::CLOEXEC,
                Mode::empty(),
            );
            if let Ok(stderr) = stderr
                && rustix::io::write(&stderr, bytes.get(..count).unwrap_or_default()).is_ok()
            {
                break;
            }
        }
        true
    }

    fn sweep(&self) {
        if let (Some(rendezvous), Some(entry)) = (&self.rendezvous, self.setup.entry) {
            rendezvous.sweep(entry.name);
        }
    }

    /// Stops answering first, so that nobody takes the entry for a living one, then removes it, and with the last capsule
    /// of the step what its tasks looked up.
    fn retire(&mut self) {
        self.listener = None;
        self.connections.clear();
        self.sweep();
        if let (Some(rendezvous), Some(entry)) = (&self.rendezvous, self.setup.entry) {
            rendezvous.sweep_step(&prefix_of(entry.name));
        }
    }
}

fn image_name(image: &ImageStep) -> String {
    match image {
        ImageStep::Squashfs { name, .. } => name.clone(),
        ImageStep::Directory { path } => path.display().to_string(),
    }
}

/// All processes that this user may see.
fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The namespaces of a process if they are the capsule's. The number may belong to another process by now, hence the
/// comparison of what was opened.
fn of_process(pid: u32, capsule: &Capsule) -> Option<Vec<OwnedFd>> {
    if namespace::identity_of(pid, Kind::Mount).ok()? != capsule.mount {
        return None;
    }
    let kinds = [Kind::User, Kind::Mount, Kind::Network];
    let fds: Vec<OwnedFd> = kinds
        .iter()
        .take(capsule.kinds)
        .map(|kind| namespace::open(Some(pid), *kind).ok())
        .collect::<Option<_>>()?;
    let identity = |index: usize| fds.get(index).and_then(|fd| namespace::identity(fd).ok());
    let same = identity(0) == Some(capsule.user) && identity(1) == Some(capsule.mount);
    same.then_some(fds)
}
