//! Capsules for real: many tasks, late tasks, hostile neighbours, and death at every moment.
//!
//! Each test is a job of its own name; the tasks are `task.rs`, which makes its plan by hand. A copy of bash called
//! `slurmstepd` stands for Slurm where the end of the step matters. Nothing may be left of a job afterwards: no process
//! with its name in the environment, no entry in the rendezvous directory.

mod deaths;
mod hostile;
mod tools;

use crate::need::need;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tools::{Job, first_line, out, outs, squashfs, task, tree};

const WHERE: [&str; 4] = [
    "readlink",
    "/proc/self/ns/user",
    "/proc/self/ns/mnt",
    "/proc/self/ns/net",
];

#[test]
fn all_tasks_of_a_step_share_one_capsule() {
    need!(Userns, Fuse, SquashfsTools);
    for count in [2, 64, 128] {
        let job = Job::new(squashfs()).tasks(count);
        let children = (0..count).map(|rank| job.start(rank, &WHERE)).collect();
        let mut places = outs(children);
        places.dedup();
        assert_eq!(places.len(), 1, "{count} tasks: {places:?}");
        job.nothing_is_left();
    }
}

#[test]
fn a_directory_is_shared_too() {
    need!(Userns);
    let job = Job::new(tree()).tasks(16);
    let children = (0..16).map(|rank| job.start(rank, &WHERE)).collect();
    let mut places = outs(children);
    places.dedup();
    assert_eq!(places.len(), 1, "{places:?}");
    job.nothing_is_left();
}

#[test]
fn a_task_that_comes_after_the_others_have_ended_finds_their_capsule() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(3);
    let first = out(&job.run(0, &WHERE));
    // The capsule has no process any more; only the count of tasks holds it, for as long as it takes.
    let seconds = std::env::var("CARRACK_TESTS_LATE").map_or(1, |text| text.parse().unwrap());
    std::thread::sleep(Duration::from_secs(seconds));
    assert_eq!(out(&job.run(2, &WHERE)), first);
    // A task that starts a second command is still one task.
    assert_eq!(out(&job.run(2, &WHERE)), first);
    assert_eq!(out(&job.run(1, &WHERE)), first);
    job.nothing_is_left();
}

#[test]
fn without_a_count_the_capsule_lives_by_its_processes() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs());
    let mut sleeper = job.start(0, &["sh", "-c", "echo in; exec sleep 60"]);
    assert_eq!(first_line(&mut sleeper), "in");
    let inside = std::fs::read_link(format!("/proc/{}/ns/mnt", sleeper.id())).unwrap();
    let inside = inside.to_string_lossy().into_owned();
    assert_eq!(out(&job.run(1, &["readlink", "/proc/self/ns/mnt"])), inside);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    job.nothing_is_left();
}

#[test]
fn jobs_images_and_plans_do_not_mix() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(2);
    let other_job = Job::new(squashfs()).tasks(2);
    let other_image = Job {
        id: job.id.clone(),
        ..Job::new(tree()).tasks(2)
    };
    let other_plan = Job {
        id: job.id.clone(),
        ..Job::new(squashfs()).tasks(2).with("TASK_UID", "0")
    };
    let jobs = [&job, &other_job, &other_image, &other_plan];
    let first: Vec<String> = jobs.iter().map(|job| out(&job.run(0, &WHERE))).collect();
    let second: Vec<String> = jobs.iter().map(|job| out(&job.run(1, &WHERE))).collect();
    assert_eq!(first, second);
    let mut distinct = first.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), jobs.len(), "{first:?}");
    jobs.iter().for_each(|job| job.nothing_is_left());
}

#[test]
fn the_step_ends_though_tasks_never_came() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(4);
    let step = job.step("$TASK true; SLURM_LOCALID=1 $TASK true; :");
    out(&step.wait_with_output().unwrap());
    job.nothing_is_left();
}

#[test]
fn what_a_task_leaves_running_still_reads_the_image() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(1);
    let scene = tempfile::tempdir().unwrap();
    let result = scene.path().join("result");
    let script = format!(
        "(sleep 0.5; tail -n 1 /data/cargo > {}) >/dev/null 2>&1 &",
        result.display()
    );
    out(&job.run(0, &["sh", "-c", &script]));
    job.nothing_is_left();
    assert_eq!(std::fs::read_to_string(result).unwrap(), "spices\n");
}

#[test]
fn neighbours_can_read_each_other() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(2);
    let mut one = job.start(0, &["/opt/test/task", "show", "60"]);
    let shown = first_line(&mut one);
    let (pid, address) = shown.split_once(' ').unwrap();
    let peek = ["/opt/test/task", "peek", pid, address];
    assert_eq!(out(&job.run(1, &peek)), "ahoy");
    let seen = out(&job.run(1, &["readlink", &format!("/proc/{pid}/fd/0")]));
    assert_eq!(seen, "/dev/null");
    one.kill().unwrap();
    one.wait().unwrap();
    job.nothing_is_left();
}

#[test]
fn a_capsule_can_be_attached_to_while_it_lives() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(1);
    let mut sleeper = job.start(0, &["sh", "-c", "echo in; exec sleep 60"]);
    first_line(&mut sleeper);
    let attach = |words: &[&str]| {
        let mut command = Command::new(task());
        job.surround(&mut command, 0);
        command
            .args(["attach", &job.id])
            .args(words)
            .output()
            .unwrap()
    };
    let inside = std::fs::read_link(format!("/proc/{}/ns/mnt", sleeper.id())).unwrap();
    let there = out(&attach(&["readlink", "/proc/self/ns/mnt"]));
    assert_eq!(there, inside.to_string_lossy());
    let status = out(&attach(&[
        "grep",
        "-E",
        "^(CapEff|CapBnd|NoNewPrivs)",
        "/proc/self/status",
    ]));
    let zero = "0".repeat(16);
    assert_eq!(
        status,
        format!("CapEff:\t{zero}\nCapBnd:\t{zero}\nNoNewPrivs:\t1")
    );
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    job.nothing_is_left();
    assert!(!attach(&["true"]).status.success());
}

#[test]
fn makers_and_joiners_have_no_capability() {
    need!(Userns, Fuse, SquashfsTools);
    for uid in ["0", "1000"] {
        let job = Job::new(squashfs()).tasks(2).with("TASK_UID", uid);
        let look = ["grep", "-E", "^(Cap|NoNewPrivs|Uid)", "/proc/self/status"];
        let (made, joined) = (out(&job.run(0, &look)), out(&job.run(1, &look)));
        assert_eq!(made, joined);
        assert!(made.contains(&format!("Uid:\t{uid}\t{uid}")), "{made}");
        assert_eq!(made.matches("\t0000000000000000").count(), 5, "{made}");
        assert!(made.contains("NoNewPrivs:\t1"), "{made}");
        job.nothing_is_left();
    }
}

#[test]
fn a_command_ends_as_if_nothing_were_around_it() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs());
    assert_eq!(job.run(0, &["sh", "-c", "exit 42"]).status.code(), Some(42));
    let killed = job.run(0, &["sh", "-c", "kill -SEGV $$"]);
    assert_eq!(killed.status.signal(), Some(11));
    let missing = job.run(0, &["no-such-command"]);
    assert_eq!(missing.status.code(), Some(127));
    let refused = job.run(0, &["/etc/passwd"]);
    assert_eq!(refused.status.code(), Some(126));
    // Also SIGPIPE, which Rust's start-up code ignores for this program's own use.
    let look = ["SigIgn", "/proc/self/status"];
    let plain = Command::new("grep").args(look).output().unwrap();
    assert_eq!(out(&job.run(0, &["grep", look[0], look[1]])), out(&plain));
    let broken = Job::new(Path::new("/no/such/image.sqsh")).run(0, &["true"]);
    assert_eq!(broken.status.code(), Some(125));
    job.nothing_is_left();
}

#[test]
fn only_named_descriptors_are_kept() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).with("TASK_KEEP", "17");
    let mut command = Command::new("bash");
    job.surround(&mut command, 0);
    let script = format!(
        "exec {} {} bash -c 'echo /proc/self/fd/*; cat <&17' 17</etc/passwd 18</etc/passwd 19</",
        task().display(),
        job.image.display()
    );
    let output = command.args(["-c", &script]).output().unwrap();
    let text = out(&output);
    assert!(text.contains("/proc/self/fd/17"), "{text}");
    assert!(!text.contains("/proc/self/fd/18"), "{text}");
    assert!(text.contains("root:"), "{text}");
    // A directory would be a way out, named or not.
    let job = job.with("TASK_KEEP", "19");
    let mut command = Command::new("bash");
    job.surround(&mut command, 0);
    let text = out(&command
        .args(["-c", &script.replace("; cat <&17", "")])
        .output()
        .unwrap());
    assert!(!text.contains("/proc/self/fd/19"), "{text}");
    job.nothing_is_left();
}

#[test]
fn missing_mount_points_are_added_and_the_root_stays_closed() {
    need!(Userns, Fuse, SquashfsTools);
    let scene = tempfile::tempdir().unwrap();
    std::fs::write(scene.path().join("wind"), "west\n").unwrap();
    let bind = |at: &str| format!("{}:{at}", scene.path().display());
    for at in ["/made", "/made/deep", "/data/made", "/etc/a/b"] {
        let job = Job::new(squashfs()).with("TASK_BIND", bind(at));
        let wind = format!("{at}/wind");
        assert_eq!(out(&job.run(0, &["cat", &wind])), "west", "{at}");
        assert_eq!(out(&job.run(0, &["tail", "-n1", "/data/cargo"])), "spices");
        for place in ["/", "/data/", "/etc/", at] {
            let touched = job.run(0, &["touch", &format!("{place}/new")]);
            let text = String::from_utf8_lossy(&touched.stderr);
            assert!(
                text.contains("Read-only file system"),
                "{at} {place}: {text}"
            );
        }
        job.nothing_is_left();
    }
    let job = Job::new(squashfs())
        .with("TASK_BIND", bind("/made"))
        .with("TASK_WRITABLE", "1");
    assert_eq!(
        out(&job.run(
            0,
            &["sh", "-c", "echo x > /data/new; cat /data/new /made/wind"]
        )),
        "x\nwest"
    );
    assert!(!job.run(0, &["cat", "/data/new"]).status.success());
    job.nothing_is_left();
}

#[test]
fn a_capsule_without_network_has_only_loopback() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(2).with("TASK_NETWORK", "none");
    let first = out(&job.run(0, &WHERE));
    assert_eq!(out(&job.run(1, &WHERE)), first);
    let job = Job::new(squashfs()).with("TASK_NETWORK", "none");
    let links = out(&job.run(0, &["tail", "-n", "+3", "/proc/net/dev"]));
    assert!(links.trim_start().starts_with("lo:"), "{links}");
    assert_eq!(links.lines().count(), 1, "{links}");
    job.nothing_is_left();
}

#[test]
fn a_device_can_be_left_out_for_one_task_only() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(2);
    let look = [
        "sh",
        "-c",
        "ls /dev; ls /dev/shm /dev/pts >&2; echo > /dev/null; head -c1 /dev/urandom | wc -c; \
         : > /dev/shm/$SLURM_JOB_ID && rm /dev/shm/$SLURM_JOB_ID; touch /dev/new 2>&1",
    ];
    let without = |name: &str| {
        let mut command = job.command(0, &look);
        let output = command.env("TASK_LEAVE_OUT", name).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let all = without("/dev/no-such-device");
    let less = without("/dev/zero");
    assert!(all.lines().any(|line| line == "zero"), "{all}");
    assert!(less.contains("\n1\n") && less.contains("new"), "{less}");
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::to_string);
        lines.take_while(|line| line != "1").collect()
    };
    let own: Vec<String> = names(&all);
    let kept = names(&less);
    assert!(!kept.contains(&"zero".to_string()), "{less}");
    for name in ["null", "full", "urandom", "tty", "shm", "pts", "fd", "fuse"] {
        assert!(kept.contains(&name.to_string()), "{name}: {less}");
    }
    assert!(kept.iter().all(|name| own.contains(name)), "{less}");
    let seen = job.run(1, &["head", "-c0", "/dev/zero"]);
    assert!(seen.status.success(), "{seen:?}");
    job.nothing_is_left();
}

#[test]
fn a_broken_image_is_told_about() {
    need!(Userns, Fuse);
    let scene = tempfile::tempdir().unwrap();
    let image = scene.path().join("broken.sqsh");
    File::create(&image).unwrap().write_all(&[7; 4096]).unwrap();
    let job = Job::new(&image).tasks(2);
    let output = job.run(0, &["true"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(text.contains("not a squashfs"), "{text}");
    job.nothing_is_left();
}

/// Metadata operations on the image's file system: all of the maker's and its server's, and none of a joiner's.
#[test]
fn the_image_is_opened_once_on_a_node() {
    need!(Userns, Fuse, SquashfsTools, Strace);
    let scene = tempfile::tempdir().unwrap();
    let image = scene.path().join("image.sqsh");
    std::fs::copy(squashfs(), &image).unwrap();
    let touches = |job: &Job, rank: u32| -> Vec<String> {
        let log = scene.path().join(format!("log{rank}"));
        let mut command = Command::new("strace");
        command
            .args(["-f", "-y", "-e", "trace=%file,%desc", "-o"])
            .arg(&log);
        command.arg(task()).arg(&image).arg("true");
        job.surround(&mut command, rank);
        out(&command.output().unwrap());
        let text = std::fs::read(&log).unwrap();
        let data = [
            "read(", "pread64(", "preadv(", "preadv2(", "close(", "execve(", "mount(", "dup",
            "fcntl(", "resumed>",
        ];
        String::from_utf8_lossy(&text)
            .lines()
            .filter(|line| line.contains("image.sqsh"))
            .filter(|line| !data.iter().any(|call| line.contains(call)))
            .map(String::from)
            .collect()
    };
    // strace waits for the server too, so nobody may be expected after the maker.
    let job = Job::new(&image).tasks(1);
    let maker = touches(&job, 0);
    assert!((1..=3).contains(&maker.len()), "{maker:#?}");
    job.nothing_is_left();
    let job = Job::new(&image).tasks(2);
    out(&job.run(0, &["true"]));
    let joiner = touches(&job, 1);
    assert!(joiner.is_empty(), "{joiner:#?}");
    job.nothing_is_left();
}

/// Python looks at every file that it opens in this way, and FUSE has no other answer than its server's.
#[test]
fn whether_a_file_is_a_terminal_is_not_asked_of_the_server() {
    need!(Userns, Fuse, SquashfsTools);
    let job = Job::new(squashfs()).tasks(1);
    let script = "exec 3</data/cargo; echo in; read go; [ -t 3 ]; echo $?";
    let mut command = job.command(0, &["sh", "-c", script]);
    let mut task = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut task), "in");
    let server = Pid::from_raw(job.broker().unwrap() as i32);
    // Where overlays are not to be used the server has to answer.
    let forced = std::env::var_os("CARRACK_PRETEND_MISSING").is_some();
    if !forced {
        kill(server, Signal::SIGSTOP).unwrap();
    }
    task.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let answered = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        task.try_wait().unwrap().is_some()
    });
    kill(server, Signal::SIGCONT).unwrap();
    assert!(answered, "the server is asked");
    assert_eq!(first_line(&mut task), "1");
    job.nothing_is_left();
}
