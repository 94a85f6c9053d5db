//! Nodes as they are: each oddity works, or ends in one clear error, and never on the bare host.
//!
//! A node is made of a user and mount namespace of the test's own, so every start here is also one inside another
//! container's namespaces.

use super::*;
use crate::need::need;

/// Moves the scene out of `/tmp`, so that `/tmp` can be something else.
const AWAY: &str = "
    mount --rbind ${TMPDIR%/tmp} /mnt
    mount --bind ${CARRACK%/*} /srv
    CARRACK=/srv/${CARRACK##*/}
    export CARRACK_STORE=/mnt/store HOME=/mnt/home CARRACK_CONFIG=/mnt/settings.toml TMPDIR=/tmp
    cd /mnt/work
";

#[test]
fn oddities_that_do_not_matter() {
    need!(Userns, Fuse);
    let scene = scene();
    let many = "mkdir -p $TMPDIR/m/0; cd $TMPDIR/m; mount -t tmpfs none 0
                for n in 1 2 3 4 5 6 7 8 9 10 11; do mkdir $n 2>/dev/null || :; mkdir -p 0/$n; mount --rbind 0 0/$n; done
                [ $(wc -l < /proc/self/mountinfo) -gt 2000 ]; cd /; ";
    let step = "export SLURM_JOB_ID=$$ SLURM_STEP_ID=0 SLURMD_NODENAME=n1 SLURM_STEP_NUM_TASKS=2 \
                SLURM_STEP_TASKS_PER_NODE=2 SLURM_PROCID=0 SLURM_LOCALID=0; ";
    let both = "\"$CARRACK\" exec box true; SLURM_LOCALID=1 ";
    for (what, prepare) in [
        ("nothing", String::new()),
        ("thousands of mounts", many.into()),
        ("/tmp does not execute", format!("{AWAY} mount -t tmpfs -o noexec none /tmp; ")),
        (
            "/tmp is full",
            format!("{AWAY} mount -t tmpfs -o size=64k none /tmp; head -c 1M /dev/zero > /tmp/full 2>/dev/null || :; "),
        ),
        ("/tmp is not there", format!("{AWAY} mount --rbind /tmp /opt; mount -t tmpfs -o mode=0 none /tmp; unset TMPDIR; ")),
        (
            "no room for a rendezvous directory in /dev/shm",
            format!("mount -t tmpfs -o nr_inodes=1 none /dev/shm; {step}{both}"),
        ),
        (
            "/dev/shm is read-only",
            format!("mount -t tmpfs -o ro none /dev/shm; {step}{both}"),
        ),
        ("a pid namespace", "exec unshare --pid --fork --mount-proc sh -euc '\"$CARRACK\" exec box sh -c \"echo yes\"' || ".into()),
        ("another user namespace", "exec unshare --user --map-root-user --mount sh -euc '\"$CARRACK\" exec box sh -c \"echo yes\"' || ".into()),
        ("no home", "export HOME=/no/such/home; ".into()),
        ("an unset home", "unset HOME; ".into()),
        ("a home that is a file", ": > $TMPDIR/f; export HOME=$TMPDIR/f; ".into()),
        ("a home that is a link", "ln -s $HOME $TMPDIR/l; export HOME=$TMPDIR/l; ".into()),
        ("a home that nobody may enter", "mkdir -m 0 $TMPDIR/h; mount -t tmpfs -o mode=0 none $TMPDIR/h; export HOME=$TMPDIR/h; ".into()),
        ("a home that leads in a circle", "ln -s c $TMPDIR/c; export HOME=$TMPDIR/c; ".into()),
        ("a directory that is gone", "mkdir $TMPDIR/gone; cd $TMPDIR/gone; rmdir $TMPDIR/gone; ".into()),
    ] {
        let script = format!("{prepare}\"$CARRACK\" exec box sh -c 'echo yes'");
        let outcome = on_a_node(&scene, &script);
        assert_eq!((outcome.code, outcome.out.as_str()), (0, "yes\n"), "{what}: {outcome}");
        let complaints = outcome.err.lines().filter(|line| !line.contains("warning: "));
        assert_eq!(complaints.count(), 0, "{what}: {outcome}");
        assert!(outcome.err.lines().count() <= 1, "{what}: {outcome}");
    }
}

#[test]
fn what_cannot_work_is_said_once() {
    need!(Userns, Fuse);
    let scene = scene();
    let dev = "rm -rf $TMPDIR/dev; mkdir $TMPDIR/dev; for n in null zero tty urandom fuse; do : > $TMPDIR/dev/$n; \
               mount --bind /dev/$n $TMPDIR/dev/$n; done; ";
    for (what, prepare, words) in [
        (
            "user namespaces are used up",
            "echo 0 > /proc/sys/user/max_user_namespaces; ".to_string(),
            &["cannot make a user namespace", "user.max_user_namespaces"][..],
        ),
        (
            "no /dev/fuse",
            format!(
                "{dev} umount $TMPDIR/dev/fuse; rm $TMPDIR/dev/fuse; mount --rbind $TMPDIR/dev /dev; "
            ),
            &["/dev/fuse", "modprobe fuse"],
        ),
        (
            "something else is called /dev/fuse",
            format!(
                "{dev} mount --bind /dev/null $TMPDIR/dev/fuse; mount --rbind $TMPDIR/dev /dev; "
            ),
            &["image"],
        ),
        (
            "a capsule of many tasks and no place to meet",
            format!(
                "{AWAY} for d in /dev/shm /tmp /var/tmp; do mount -t tmpfs -o ro none $d; done; \
             export SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURMD_NODENAME=n1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 \
             SLURM_PROCID=0 SLURM_LOCALID=0; "
            ),
            &["find each other", "/dev/shm"],
        ),
    ] {
        let script = format!("{prepare}\"$CARRACK\" exec box sh -c 'echo yes'");
        let outcome = on_a_node(&scene, &script);
        if let Some(wrong) = outcome.fails_otherwise(125, words) {
            panic!("{what}: {wrong}");
        }
    }
}

/// Names, zone and resolver come from the host, whatever they are there.
#[test]
fn files_of_the_host() {
    need!(Userns, Fuse);
    let scene = scene();
    let host = "
        rm -rf $TMPDIR/*; mkdir -p $TMPDIR/etc $TMPDIR/run/resolver; cd $TMPDIR
        cp /etc/passwd /etc/group /etc/nsswitch.conf etc/ 2>/dev/null || :
        mount --rbind etc /etc; mount --rbind run /run; cd /
        start() { \"$CARRACK\" exec box sh -c \"$1\"; }
    ";
    let seen = |script: &str| on_a_node(&scene, &format!("{host}{script}"));
    seen(
        "echo 127.0.0.1 host > /etc/hosts; echo first > /run/resolver/conf; ln -s ../run/resolver/conf /etc/resolv.conf
         start 'cat /etc/hosts /etc/resolv.conf'",
    )
    .is(0, "127.0.0.1 host\nfirst\n", "");
    // Replaced while a command runs: that one goes on with what it had, the next has the new.
    seen(
        "echo first > /run/resolver/conf; ln -s ../run/resolver/conf /etc/resolv.conf
         start 'echo in; read line; cat /etc/resolv.conf' < $TMPDIR/fifo > $TMPDIR/out & exec 3> $TMPDIR/fifo
         while ! grep -qs in $TMPDIR/out; do sleep 0.01; done
         echo second > /run/resolver/new; mv /run/resolver/new /run/resolver/conf; echo go >&3; wait
         cat $TMPDIR/out; start 'cat /etc/resolv.conf'"
            .replace("echo first", "mkfifo $TMPDIR/fifo; echo first")
            .as_str(),
    )
    .is(0, "in\nfirst\nsecond\n", "");
    // Nothing there, or a link to nowhere: the image's own.
    seen("ln -s /run/nowhere /etc/resolv.conf; start 'cat /etc/hosts; wc -c < /etc/resolv.conf'")
        .code(0);
    seen("start 'cat /etc/hosts'").is(0, "127.0.0.9 image\n", "");
}

/// The tasks of a step ask the shared file system once.
#[test]
fn one_task_looks_the_image_up() {
    need!(Userns, Fuse, Strace);
    let scene = scene();
    // The step's own process lives as long as the step; strace, which would be taken for it, does not.
    let step = scene.path("slurmstepd");
    let copied = std::process::Command::new("cp")
        .arg("/bin/bash")
        .arg(&step)
        .status();
    assert!(copied.unwrap().success());
    for round in 0..4 {
        let plain = task(&scene, &job(), 0, 4);
        let mut command = scene.program(&step);
        command
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .arg("-c")
            .arg(
                "for rank in 0 1 2 3; do SLURM_LOCALID=$rank SLURM_PROCID=$rank \
                 strace -e trace=%file -o $LOGS$rank $CARRACK exec box true & tasks=\"$tasks $!\"; done
                 for task in $tasks; do wait $task || exit; done; :",
            )
            .env("LOGS", scene.path("log"))
            .env("CARRACK", crate::scene::carrack());
        scene.finish(command, b"").is(0, "", "");
        let asked = |rank: &u32| {
            let log = std::fs::read(scene.path(format!("log{rank}"))).unwrap();
            String::from_utf8_lossy(&log).contains("/store\"")
        };
        let who: Vec<u32> = (0..4).filter(asked).collect();
        assert_eq!(who.len(), 1, "round {round}: {who:?}");
    }
}

mod as_root {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A user whom no database knows, with a large number and a hundred groups that keep their rights.
    #[test]
    fn a_user_that_nobody_knows() {
        need!(Root, Userns);
        let scene = Scene::new();
        let plain = scene.path("work/plain");
        for entry in ["bin", "etc", "tmp", "dev", "proc", "sys"] {
            std::fs::create_dir_all(plain.join(entry)).unwrap();
        }
        std::fs::copy("/bin/busybox", plain.join("bin/busybox")).unwrap();
        for name in APPLETS {
            std::os::unix::fs::symlink("busybox", plain.join("bin").join(name)).unwrap();
        }
        let secret = scene.write("work/secret", "of the group\n");
        let (uid, gid) = (3_000_000_001_u32, 3_000_000_002_u32);
        std::os::unix::fs::chown(&secret, Some(0), Some(70_050)).unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o640)).unwrap();
        let program = scene.path("work/carrack");
        std::fs::copy(crate::scene::carrack(), &program).unwrap();
        for path in ["", "work"] {
            std::fs::set_permissions(scene.path(path), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let groups: Vec<String> = (70_000..70_100).map(|gid: u32| gid.to_string()).collect();
        let mut command = scene.program("setpriv");
        command
            .args(["--reuid", &uid.to_string(), "--regid", &gid.to_string()])
            .args(["--groups", &groups.join(",")])
            .arg(&program)
            .args(["exec", "--no-home", "dir:plain", "sh", "-c"])
            .arg("id -u; id -un; id -g; cat secret; grep -c ^g70 /etc/group; sed -n 1p /etc/passwd")
            .env("HOME", "/no/such/home");
        let outcome = scene.finish(command, b"");
        assert_eq!(
            outcome.out,
            format!(
                "{uid}\nu{uid}\n{gid}\nof the group\n100\nu{uid}:x:{uid}:{gid}::/no/such/home:/bin/sh\n"
            ),
            "{outcome}"
        );
    }
}
