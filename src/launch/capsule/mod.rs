//! Brings this process into the capsule of its plan: made by the first task of the step on this node, joined by the others.
//!
//! The maker holds the entry's lock from before it forks the broker until the broker has the namespaces. If it dies on the
//! way, the lock is free, the broker sees its end, and the next task makes the capsule. Deliberately absent: waiting by the
//! clock, and any trust in what another user could have put in the way.

pub mod rendezvous;
pub mod scope;

use super::broker::{self, Entry, Setup};
use super::passwd::Account;
use super::root::{self, Fault, Place};
use super::step::{Image, Network, Plan};
use crate::error::{Context, Error, Result};
use crate::sys::namespace::{self, Kind};
use crate::sys::{Errno, fd, process, socket};
use rendezvous::{Description, Lock, Rendezvous};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// How this process came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    Made,
    Joined,
}

/// Why it did not.
pub enum Refused {
    /// Step of the plan, and the fault.
    Step(usize, Fault),
    /// Before or after the steps.
    Whole(Error),
}

impl From<(usize, Fault)> for Refused {
    fn from((number, fault): (usize, Fault)) -> Refused {
        Refused::Step(number, fault)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Whole(error)
    }
}

/// What the launch needs from the host besides the plan; asked for only by the one who makes the capsule.
pub struct Host<'a> {
    pub account: &'a dyn Fn() -> Account,
    /// An inherited socket through which the plugin tells that the last task of the step has ended here.
    pub step_end: Option<RawFd>,
}

/// Enters the capsule of the plan. The process must have one thread.
pub fn enter(plan: &Plan, host: &Host<'_>) -> std::result::Result<Entered, Refused> {
    let Some(key) = &plan.key else {
        make(plan, host, None)?;
        return Ok(Entered::Made);
    };
    let variable = |name: &str| std::env::var(name).ok();
    let (rank, step) = (scope::place(variable), scope::step(variable));
    let name = scope::entry_name(key, &scope::node(variable));
    let rendezvous = match Rendezvous::open() {
        Ok(found) => found,
        // A single task needs nobody to find it.
        Err(_) if plan.tasks_on_node.unwrap_or(1) <= 1 => {
            make(plan, host, None)?;
            return Ok(Entered::Made);
        }
        Err(errno) => return Err(no_meeting_place(errno).into()),
    };
    loop {
        if join_own(&rendezvous, &name, rank, step)? {
            return Ok(Entered::Joined);
        }
        // Those who wait come in one after the other, each with the lock: all at once they would take the processors from
        // the maker and its server, for whose answers they then wait again.
        let Some(lock) = rendezvous
            .lock(&name, Lock::Making, true)
            .map_err(no_lock)?
        else {
            continue;
        };
        // Somebody has made it meanwhile; or has failed to, and one of those who waited is next.
        if join_own(&rendezvous, &name, rank, step)? {
            return Ok(Entered::Joined);
        }
        rendezvous.sweep_others(&scope::prefix_of(&name));
        let meeting = Meeting {
            rendezvous: &rendezvous,
            name: &name,
            rank,
        };
        let made = make(plan, host, Some(&meeting));
        drop(lock);
        if made.is_err() {
            rendezvous.sweep(&name);
        }
        return made.map(|()| Entered::Made);
    }
}

fn no_lock(errno: Errno) -> Error {
    Error::new("cannot lock the rendezvous of the capsule").source(errno)
}

fn no_meeting_place(errno: Errno) -> Error {
    Error::new("cannot make a directory where the tasks of the step find each other")
        .source(errno)
        .hint("`/dev/shm` or `/tmp` must be writable on the node, and not full")
}

struct Meeting<'a> {
    rendezvous: &'a Rendezvous,
    name: &'a str,
    rank: Option<u32>,
}

/// The same for a task: never into another step's capsule, because at that step's end Slurm kills the process that serves it.
fn join_own(
    rendezvous: &Rendezvous,
    name: &str,
    rank: Option<u32>,
    step: Option<u32>,
) -> Result<bool> {
    let mut tries = 0;
    loop {
        let Some((connection, description)) = rendezvous.connect(name) else {
            return Ok(false);
        };
        let Some(of) = description.step.filter(|of| Some(*of) != step) else {
            return welcome(connection, rank);
        };
        // The step before may be ending at this moment.
        if tries < STEP_BEFORE.0 {
            tries += 1;
            std::thread::sleep(STEP_BEFORE.1);
            continue;
        }
        let name = name.split('.').nth(1).unwrap_or_default();
        return Err(in_use(name.strip_prefix("name=").unwrap_or(name))
            .cause(format!(
                "step {of} still runs in it, and Slurm would take it away at that step's end"
            ))
            .hint("let one step end before the next begins, or give each a name of its own"));
    }
}

/// How often, and after what time, to look again for the end of a step.
const STEP_BEFORE: (u32, Duration) = (100, Duration::from_millis(20));

fn in_use(name: &str) -> Error {
    Error::new(format!(
        "the root `{name}` is in use by another step of this job"
    ))
}

/// Enters the capsule of an entry through its broker. False when there is none.
fn join(rendezvous: &Rendezvous, name: &str, rank: Option<u32>) -> Result<bool> {
    match rendezvous.connect(name) {
        Some((connection, _)) => welcome(connection, rank),
        None => Ok(false),
    }
}

fn welcome(connection: OwnedFd, rank: Option<u32>) -> Result<bool> {
    match request(connection, rank) {
        Some(namespaces) => enter_namespaces(&namespaces).map(|()| true),
        None => Ok(false),
    }
}

/// The namespaces of a capsule; `None` when its broker ends or has nobody inside any more.
fn request(connection: OwnedFd, rank: Option<u32>) -> Option<Vec<OwnedFd>> {
    let mut message = vec![broker::JOIN];
    message.extend(rank.iter().flat_map(|rank| rank.to_le_bytes()));
    socket::send(&connection, &message, &[]).ok()?;
    let (answer, fds) = socket::receive(&connection, broker::MAX_MESSAGE).ok()?;
    (answer.first() == Some(&broker::WELCOME) && fds.len() >= 2).then_some(fds)
}

fn enter_namespaces(fds: &[OwnedFd]) -> Result<()> {
    for (fd, kind) in fds.iter().zip([Kind::User, Kind::Mount, Kind::Network]) {
        namespace::enter(fd, kind).map_err(|errno| {
            let error = Error::new("cannot join the capsule of this step").source(errno);
            match errno {
                Errno::INVAL => error.hint("carrack must have one thread here; this is a defect"),
                Errno::PERM => error.hint(
                    "the capsule belongs to another user namespace; start all tasks of the step in the same way",
                ),
                _ => error,
            }
        })?;
    }
    Ok(())
}

/// Makes the capsule and is inside it afterwards.
fn make(
    plan: &Plan,
    host: &Host<'_>,
    meeting: Option<&Meeting<'_>>,
) -> std::result::Result<(), Refused> {
    let image = plan
        .image()
        .ok_or_else(|| Error::new("the plan has no image"))?;
    let file = open_image(image)?;
    let kept = lock_kept(plan)?;
    // It starts while this process goes on; waited for before the command, which must not find an unknown child.
    let started = match (meeting, image) {
        // A directory that nobody else will enter needs no company.
        (None, Image::Directory { .. }) => None,
        _ => {
            let step_end = host.step_end.and_then(fd::inherited);
            let given = [&file, &step_end, &kept];
            Some(start_broker(plan, image, given, meeting)?)
        }
    };
    drop((file, kept));
    let (broker, started) = started.unzip();
    let done = fill(plan, image, host, broker.as_ref(), meeting.is_some());
    match started.map(process::Detached::check) {
        Some(Err(errno)) => Err(Error::new(not_started()).source(errno).into()),
        _ => done,
    }
}

/// Looks at the host while it is there, makes the namespaces and the root in them, and gives them to the broker.
fn fill(
    plan: &Plan,
    image: &Image,
    host: &Host<'_>,
    broker: Option<&Ends>,
    meet: bool,
) -> std::result::Result<(), Refused> {
    let door = broker.and_then(|ends| ends.server.as_ref());
    root::prepare(&plan.steps)?;
    let account = (host.account)();
    make_namespaces(plan)?;
    let broker = broker.map(|ends| &ends.broker);
    let mut serve = |device: OwnedFd| match door {
        Some(door) => socket::send(door, &[broker::DEVICE], &[device.as_fd()]),
        None => Ok(()),
    };
    let mut ground = root::Ground {
        identity: plan.identity,
        serve: &mut serve,
        account: &account,
    };
    if let Err(refused) = root::build(&plan.steps, &mut ground) {
        // The image may be what is really wrong: its check always comes to an end.
        return Err(match broker.and_then(|broker| last_word(broker, image)) {
            Some(error) => Refused::Whole(error),
            None => refused.into(),
        });
    }
    if let (Some(broker), Image::Squashfs { .. }) = (broker, image) {
        hear(broker, broker::CHECKED)?;
    }
    match broker {
        Some(broker) => Ok(hand_over(broker, plan, meet)?),
        None => Ok(()),
    }
}

/// Waits for a word of the broker.
fn hear(broker: &OwnedFd, word: u8) -> Result<()> {
    let ended = || Error::new("the process that serves the image has ended early");
    match socket::receive(broker, broker::MAX_MESSAGE) {
        Ok((answer, _)) if answer.first() == Some(&word) => Ok(()),
        Ok((answer, _)) => Err(spoken(&answer).unwrap_or_else(ended)),
        Err(errno) => Err(ended().source(errno)),
    }
}

/// Two overlays must not write to one directory. The lock is the broker's for as long as the capsule lives.
fn lock_kept(plan: &Plan) -> Result<Option<OwnedFd>> {
    let Some(at) = plan.kept() else {
        return Ok(None);
    };
    let what = || format!("cannot lock `{}`", at.display());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(at.join("lock"), flags, Mode::RUSR | Mode::WUSR).or_say(what)?;
    // The capsule of the step before may be ending at this moment.
    for _ in 0..STEP_BEFORE.0 {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(fd)),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(STEP_BEFORE.1),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new(what()).source(errno)),
        }
    }
    let name = at.file_name().unwrap_or_default();
    Err(in_use(&name.to_string_lossy())
        .cause("that step asked for other mounts or another access")
        .hint("give both steps the same options, or another name"))
}

fn open_image(image: &Image) -> std::result::Result<Option<OwnedFd>, Refused> {
    let Image::Squashfs { path, .. } = image else {
        return Ok(None);
    };
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map(Some).map_err(|errno| {
        let fault = Fault {
            errno,
            at: None,
            place: Place::Source,
        };
        Refused::Step(0, fault)
    })
}

fn not_started() -> &'static str {
    "cannot start the process that serves the image"
}

/// What this process says to the one beside the capsule.
struct Ends {
    broker: OwnedFd,
    /// To the thread that waits for the device; none where no image is served.
    server: Option<OwnedFd>,
}

/// Forks the process that serves the image and lets others in, before this one leaves the host's namespaces.
fn start_broker(
    plan: &Plan,
    image: &Image,
    [file, step_end, kept]: [&Option<OwnedFd>; 3],
    meeting: Option<&Meeting<'_>>,
) -> Result<(Ends, process::Detached)> {
    let pair = || socket::pair().or_say(|| "cannot make a socket");
    let (broker, theirs) = pair()?;
    let (server, door) = file.is_some().then(pair).transpose()?.unzip();
    let setup = Setup {
        image,
        identity: plan.identity,
        entry: meeting.map(|meeting| Entry {
            directory: meeting.rendezvous.path(),
            name: meeting.name,
        }),
        tasks: plan.tasks_on_node,
        rank: meeting.and_then(|meeting| meeting.rank),
        maker: std::process::id(),
        processor: process::processor(),
        step: scope::step(|name| std::env::var(name).ok()),
        guardian: meeting.and_then(|_| scope::guardian()),
        private_copies: !plan.task_steps.is_empty(),
        shut: plan.shut,
        hold: plan.hold,
        step_end: step_end.is_some(),
        kept: kept.is_some(),
    };
    let mut keep: Vec<BorrowedFd<'_>> = vec![theirs.as_fd()];
    keep.extend(file.iter().chain(&door).map(|fd| fd.as_fd()));
    keep.extend(meeting.map(|meeting| meeting.rendezvous.fd()));
    keep.extend(step_end.iter().map(|end| end.as_fd()));
    // Last, because the broker only holds it.
    keep.extend(kept.iter().map(|kept| kept.as_fd()));
    let started = process::detach(&keep, |fds| broker::run(&setup, fds)).or_say(not_started)?;
    Ok((Ends { broker, server }, started))
}

fn make_namespaces(plan: &Plan) -> Result<()> {
    let mut kinds = vec![Kind::User, Kind::Mount];
    if plan.network == Network::None {
        kinds.push(Kind::Network);
    }
    namespace::unshare(&kinds).map_err(super::execute::hints::no_namespaces)?;
    let identity = plan.identity;
    namespace::map_ids(
        (identity.outside_uid, identity.inside_uid),
        (identity.outside_gid, identity.inside_gid),
    )
    .map_err(super::execute::hints::no_id_map)?;
    if plan.network == Network::None {
        namespace::loopback_up().or_say(|| "cannot bring up the loopback device")?;
    }
    Ok(())
}

/// Gives the namespaces to the broker and waits until others can come, where any will.
fn hand_over(broker: &OwnedFd, plan: &Plan, meet: bool) -> Result<()> {
    let mut kinds = vec![Kind::User, Kind::Mount];
    if plan.network == Network::None {
        kinds.push(Kind::Network);
    }
    let what = || "cannot name the capsule's namespaces";
    let fds: Vec<OwnedFd> = kinds
        .into_iter()
        .map(|kind| namespace::open(None, kind))
        .collect::<std::result::Result<_, _>>()
        .or_say(what)?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    if socket::send(broker, &[broker::MADE], &fds).is_err() {
        let ended = || Error::new("the process that serves the image has ended early");
        return Err(complaint(broker).unwrap_or_else(ended));
    }
    match meet {
        true => hear(broker, broker::ACCEPTED),
        false => Ok(()),
    }
}

fn last_word(broker: &OwnedFd, image: &Image) -> Option<Error> {
    match image {
        Image::Squashfs { .. } => {
            let (answer, _) = socket::receive(broker, broker::MAX_MESSAGE).ok()?;
            spoken(&answer)
        }
        Image::Directory { .. } => complaint(broker),
    }
}

/// What the broker had to say before it ended, if anything.
fn complaint(broker: &OwnedFd) -> Option<Error> {
    // Its end closes the socket; until then there is nothing to wait for.
    rustix::fs::fcntl_setfl(broker, OFlags::NONBLOCK).ok()?;
    let (answer, _) = socket::receive(broker, broker::MAX_MESSAGE).ok()?;
    spoken(&answer)
}

fn spoken(answer: &[u8]) -> Option<Error> {
    let (kind, text) = answer.split_first()?;
    if *kind != broker::FAILED {
        return None;
    }
    Some(super::execute::hints::reread(&String::from_utf8_lossy(
        text,
    )))
}

/// Bytes that every task of a step needs and one of them fetches: the others read them from this node's memory instead of
/// asking the shared file system the same question. `job` and `scope` are those of the capsule's key. `question` is a file
/// name's worth of letters and digits that names what is asked. Where tasks cannot meet, each fetches for itself.
pub fn once_per_step(
    job: &str,
    scope: &str,
    question: &str,
    fetch: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let node = scope::node(|name| std::env::var(name).ok());
    let name = scope::answer_name(job, scope, question, &node);
    let Ok(rendezvous) = Rendezvous::open() else {
        return fetch();
    };
    let shared = |lock: OwnedFd| {
        // Until a capsule of the step lives, only this keeps others from sweeping the answer; the exec lets go.
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
            std::mem::forget(lock);
        }
    };
    // Readers never wait for each other, only for the one who asks.
    let asking = loop {
        if let Ok(Some(lock)) = rendezvous.lock(&name, Lock::Waiting, true)
            && let Some(answer) = rendezvous.read_answer(&name)
        {
            shared(lock);
            return Ok(answer);
        }
        match rendezvous.lock(&name, Lock::Making, false) {
            Ok(Some(lock)) => break lock,
            Ok(None) => {}
            Err(_) => return fetch(),
        }
    };
    if let Some(answer) = rendezvous.read_answer(&name) {
        shared(asking);
        return Ok(answer);
    }
    let fetched = fetch();
    match &fetched {
        // A full memory file system costs only speed.
        Ok(answer) if rendezvous.write_answer(&name, answer).is_ok() => shared(asking),
        _ => rendezvous.remove(&name),
    }
    fetched
}

/// A capsule on this node that can be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub job: String,
    pub scope: String,
    /// Tells capsules of one step apart.
    pub hash: String,
    pub description: Description,
    entry: String,
}

/// The user's capsules on this node whose brokers live.
pub fn running() -> Vec<Running> {
    let Some(rendezvous) = Rendezvous::existing() else {
        return Vec::new();
    };
    let entries = rendezvous.names().into_iter();
    entries
        .filter_map(|entry| {
            let (_, description) = rendezvous.connect(&entry)?;
            let mut words = entry.split('.').map(str::to_string);
            Some(Running {
                job: words.next()?,
                scope: words.next()?,
                hash: words.next()?,
                description,
                entry: entry.clone(),
            })
        })
        .collect()
}

/// Enters a running capsule. The process must have one thread.
pub fn attach(running: &Running) -> Result<()> {
    let gone = || {
        Error::new(format!(
            "the capsule of `{}` has ended",
            running.description.image
        ))
    };
    let rendezvous = Rendezvous::existing().ok_or_else(gone)?;
    if join(&rendezvous, &running.entry, None)? {
        Ok(())
    } else {
        Err(gone())
    }
}
