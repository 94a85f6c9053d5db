//! One task of a job step, for the capsule's tests: makes a plan by hand from `TASK_*` variables and executes it.
//!
//! Usage: task IMAGE COMMAND…   The image is a squashfs file or a directory.
//! As a command inside: task peek PID ADDRESS (reads its neighbour's memory), task show SECONDS (shows memory to be read).

use carrack::launch::capsule::{self, Entered, Host};
use carrack::launch::execute::{self, Listener};
use carrack::launch::inside::InsidePath;
use carrack::launch::passwd::Account;
use carrack::launch::step::{
    Access, Content, Identity, Image, Key, Like, Missing, MountPoint, Network, Plan,
    StartDirectory, Step, Target, User,
};
use std::path::PathBuf;

/// Parts of the host that the test's commands need.
const HOST: [&str; 9] = [
    "/proc", "/sys", "/dev", "/tmp", "/usr", "/bin", "/lib", "/lib64", "/sbin",
];

struct Say;

impl Listener for Say {
    fn entered(&self, how: Entered) {
        if variable("TASK_SAY").is_some() {
            println!("{how:?}");
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["peek", pid, address] => peek(pid.parse().unwrap(), address.parse().unwrap()),
        ["show", seconds] => show(seconds.parse().unwrap()),
        ["attach", job, command @ ..] => {
            let running = capsule::running();
            let found = running.iter().find(|running| running.job == *job);
            let found = found.expect("no such capsule");
            fail(execute::attach(found, &plan("/", command), &Say))
        }
        [image, command @ ..] => {
            let host = Host {
                account: &Account::default,
                step_end: variable("TASK_STEP_END").map(|fd| fd.parse().unwrap()),
            };
            fail(execute::execute(&plan(image, command), &host, &Say))
        }
        [] => panic!("no image"),
    }
}

fn fail(error: carrack::error::Error) {
    error.print();
    std::process::exit(error.kind() as i32);
}

fn plan(image: &str, command: &[&str]) -> Plan {
    let (uid, gid) = (
        nix::unistd::getuid().as_raw(),
        nix::unistd::getgid().as_raw(),
    );
    let identity = Identity {
        outside_uid: uid,
        outside_gid: gid,
        inside_uid: variable("TASK_UID").map_or(uid, |uid| uid.parse().unwrap()),
        inside_gid: gid,
    };
    let path = PathBuf::from(image);
    let mut steps = vec![Step::Image(if image.ends_with(".sqsh") {
        Image::Squashfs {
            path,
            offset: 0,
            check: None,
            name: image.into(),
        }
    } else {
        Image::Directory { path }
    })];
    if variable("TASK_WRITABLE").is_some() {
        steps.push(Step::Overlay {
            size: Some(16 << 20),
        });
    } else if image.ends_with(".sqsh") {
        steps.push(Step::ImageOverlay);
    }
    let own = std::env::current_exe().unwrap();
    let own = own.parent().unwrap().to_path_buf();
    let mut binds: Vec<(PathBuf, InsidePath, Access, Missing)> = HOST
        .iter()
        .map(|at| {
            let to = InsidePath::fixed(at);
            (PathBuf::from(at), to, Access::ReadWrite, Missing::Skip)
        })
        .collect();
    let tests = InsidePath::fixed("/opt/test");
    binds.push((own, tests, Access::ReadOnly, Missing::Fail));
    for bind in variable("TASK_BIND")
        .iter()
        .flat_map(|list| list.split(','))
    {
        let (from, to) = bind.split_once(':').unwrap();
        let to = InsidePath::new(to).unwrap();
        binds.push((from.into(), to, Access::ReadOnly, Missing::Fail));
    }
    let points = binds.iter().map(|(from, to, ..)| MountPoint {
        at: to.clone(),
        like: Like::Source(from.clone()),
    });
    steps.push(Step::MountPoints(points.collect()));
    for (from, to, access, missing) in binds {
        steps.push(Step::Bind {
            from,
            to,
            access,
            missing,
            target: if missing == Missing::Skip {
                Target::IfThere
            } else {
                Target::Ready
            },
        });
    }
    steps.push(Step::File {
        at: InsidePath::fixed("/etc/passwd"),
        content: Content::Passwd(User {
            identity,
            groups: Vec::new(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        }),
        target: Target::IfThere,
    });
    steps.push(Step::EnterRoot);
    let network = match variable("TASK_NETWORK").as_deref() {
        Some("none") => Network::None,
        _ => Network::Host,
    };
    let hash = Plan::hash_of(&steps, identity, network);
    let left_out =
        variable("TASK_LEAVE_OUT").map(|at| Step::LeaveOut(vec![InsidePath::new(at).unwrap()]));
    Plan {
        key: variable("SLURM_JOB_ID").map(|job| Key {
            job,
            scope: variable("SLURM_STEP_ID").unwrap_or("batch".into()),
            uid,
            hash,
        }),
        tasks_on_node: variable("TASK_COUNT").map(|count| count.parse().unwrap()),
        identity,
        network,
        steps,
        task_steps: left_out.into_iter().collect(),
        environment: std::env::vars_os().collect(),
        directory: StartDirectory {
            candidates: vec![InsidePath::fixed("/")],
            required: true,
        },
        argv: command.iter().map(Into::into).collect(),
        hold: false,
        keep_fds: variable("TASK_KEEP")
            .map(|fd| fd.parse().unwrap())
            .into_iter()
            .collect(),
        warnings: Vec::new(),
        shut: false,
    }
}

/// Prints where a value lies and keeps it there.
fn show(seconds: u64) {
    let value = Box::new(*b"ahoy");
    println!("{} {}", std::process::id(), value.as_ptr() as usize);
    std::thread::sleep(std::time::Duration::from_secs(seconds));
    drop(value);
}

/// Reads that value from outside, as MPI libraries do between ranks.
fn peek(pid: i32, address: usize) {
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    let mut value = [0; 4];
    let remote = RemoteIoVec {
        base: address,
        len: 4,
    };
    let mut local = [std::io::IoSliceMut::new(&mut value)];
    process_vm_readv(nix::unistd::Pid::from_raw(pid), &mut local, &[remote]).unwrap();
    println!("{}", String::from_utf8_lossy(&value));
}
