//! Death at every moment: whoever dies, nothing is left, and the next launch works.
//!
//! The moments are spread over the time that a launch takes, by a counter, not by chance, so that a failure can be had
//! again. `CARRACK_TESTS_ROUNDS` chooses how many (40 unless told; the full run has 500).

use super::tools::{Job, first_line, out, squashfs, tree};
use crate::need::need;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use std::os::fd::AsRawFd;
use std::process::Child;
use std::time::Duration;

fn rounds() -> u32 {
    std::env::var("CARRACK_TESTS_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(40)
}

/// A pause between nothing and 12 ms, different in each round.
fn moment(round: u32) {
    std::thread::sleep(Duration::from_micros(u64::from(
        round.wrapping_mul(7919) % 12_000,
    )));
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn strike(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

#[test]
fn of_the_maker() {
    need!(Userns, Fuse, SquashfsTools);
    for round in 0..rounds() {
        let job = Job::new(squashfs()).tasks(4);
        let mut step = job.step(
            "$TASK true & echo $!; others=
             for rank in 1 2 3; do SLURM_LOCALID=$rank $TASK true & others=\"$others $!\"; done
             for other in $others; do wait $other || exit 1; done; wait; :",
        );
        let maker = first_line(&mut step).parse().unwrap();
        moment(round);
        strike(maker, Signal::SIGKILL);
        // The others get in all the same: one of them makes a new capsule if need be.
        out(&step.wait_with_output().unwrap());
        job.nothing_is_left();
    }
}

#[test]
fn of_a_joiner() {
    need!(Userns, Fuse, SquashfsTools);
    for round in 0..rounds() {
        let job = Job::new(squashfs()).tasks(3);
        out(&job.run(0, &["true"]));
        let joiner = job.start(1, &["true"]);
        moment(round % 7);
        end(joiner);
        out(&job.run(1, &["true"]));
        out(&job.run(2, &["true"]));
        job.nothing_is_left();
    }
}

#[test]
fn of_the_server() {
    need!(Userns, Fuse, SquashfsTools);
    for round in 0..rounds() {
        let job = Job::new(squashfs()).tasks(2);
        let script = "cat /data/cargo >/dev/null; exec sleep 60";
        let payload = job.start(0, &["sh", "-c", script]);
        moment(round);
        let broker = job.broker();
        broker
            .into_iter()
            .for_each(|pid| strike(pid, Signal::SIGKILL));
        end(payload);
        // Without a server there is no capsule: the next task makes a new one, and others find it.
        out(&job.run(0, &["cat", "/data/cargo"]));
        out(&job.run(1, &["cat", "/data/cargo"]));
        job.nothing_is_left();
    }
}

#[test]
fn of_the_payload() {
    need!(Userns, Fuse, SquashfsTools);
    for round in 0..rounds() {
        let job = Job::new(squashfs()).tasks(2);
        let payloads: Vec<Child> = (0..2)
            .map(|rank| {
                job.start(
                    rank,
                    &[
                        "sh",
                        "-c",
                        "echo in; cat /data/cargo >/dev/null; exec sleep 60",
                    ],
                )
            })
            .map(|mut child| {
                first_line(&mut child);
                child
            })
            .collect();
        moment(round % 5);
        payloads.into_iter().for_each(end);
        job.nothing_is_left();
    }
}

#[test]
fn of_all_at_once() {
    need!(Userns, Fuse, SquashfsTools);
    for round in 0..rounds() {
        let job = Job::new(if round % 4 == 0 { tree() } else { squashfs() }).tasks(4);
        let tasks: Vec<Child> = (0..3)
            .map(|rank| job.start(rank, &["sleep", "60"]))
            .collect();
        moment(round);
        // As Slurm does it: everything in the step, until nothing is found any more.
        loop {
            let processes = job.processes();
            processes
                .iter()
                .for_each(|(pid, _)| strike(*pid, Signal::SIGKILL));
            if processes.is_empty() {
                break;
            }
        }
        tasks.into_iter().for_each(end);
        job.processes_end();
        // The entry may have survived; whoever launches next sweeps it.
        // A neighbouring test may be looking at it just then, and then it is the neighbour who sweeps.
        job.wait_for("sweep", || {
            let next = Job::new(squashfs());
            out(&next.run(0, &["true"]));
            next.nothing_is_left();
            job.entries().is_empty().then_some(())
        });
    }
}

/// Ctrl-C and `scancel --signal` reach every process of a step; the payload decides for itself, the server serves on.
#[test]
fn signals_to_the_whole_step_do_not_end_the_server() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(2);
    let mut payload = job.start(0, &["sh", "-c", "echo in; exec sleep 60"]);
    assert_eq!(first_line(&mut payload), "in");
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        for (pid, name) in job.processes() {
            if name == "carrack-image" {
                strike(pid, signal);
            }
        }
    }
    let broker = job.broker().expect("the server is there");
    let session = std::fs::read_to_string(format!("/proc/{broker}/stat")).unwrap();
    let fields: Vec<&str> = session
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // Its own session, no terminal, and nothing of the step's open.
    assert_ne!(fields[3], payload.id().to_string());
    for standard in 0..3 {
        let open = std::fs::read_link(format!("/proc/{broker}/fd/{standard}")).unwrap();
        assert_eq!(open.to_str(), Some("/dev/null"));
    }
    out(&job.run(1, &["cat", "/data/cargo"]));
    end(payload);
    for (pid, name) in job.processes() {
        if name != "carrack-image" {
            strike(pid, Signal::SIGKILL);
        }
    }
    job.nothing_is_left();
}

#[test]
fn a_server_that_hears_of_the_step_s_end_goes_though_somebody_is_left() {
    need!(Userns, Fuse, SquashfsTools);
    for (image, told) in [(squashfs(), true), (tree(), true), (squashfs(), false)] {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        let number = theirs.as_raw_fd().to_string();
        let job = Job::new(image).tasks(1).with("TASK_STEP_END", number);
        let mut payload = job.start(0, &["sh", "-c", "echo in; exec sleep 60"]);
        first_line(&mut payload);
        rustix::io::fcntl_setfd(&theirs, FdFlags::CLOEXEC).unwrap();
        drop(theirs);
        assert!(job.broker().is_some());
        if told {
            rustix::net::send(&ours, b"E", SendFlags::NOSIGNAL).unwrap();
            let gone = || job.broker().is_none().then_some(());
            job.wait_for("end of the server", gone);
        } else {
            // slurmstepd was killed: what runs on still needs its image.
            drop(ours);
            out(&job.run(0, &["cat", "/data/cargo"]));
            assert!(job.broker().is_some());
        }
        end(payload);
        job.nothing_is_left();
    }
}
