//! The server against a real kernel, in a mount namespace of its own.
//!
//! Each test runs itself again inside `unshare`: as root in a private mount namespace, else in a user namespace.

use super::protocol::init;
use super::*;
use crate::squashfs::read::tests::{facts_of, have, make_tree, mksquashfs, noise, open, sealed};
use crate::squashfs::read::{Image, Options};
use crate::sys::process;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

const INSIDE: &str = "CARRACK_TEST_INSIDE";

/// Runs `work` in namespaces where it may mount; `name` is the test's own full name.
fn inside(name: &str, work: impl FnOnce(&Path)) {
    if std::env::var_os(INSIDE).is_some() {
        let scratch = tempfile::tempdir().unwrap();
        work(scratch.path());
        return;
    }
    if !have("mksquashfs") || !have("unshare") {
        return;
    }
    let root = nix::unistd::geteuid().is_root();
    let namespaces: &[&str] = if root { &["-m"] } else { &["-r", "-m"] };
    let usable = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", ": <>/dev/fuse"])
        .output()
        .unwrap();
    if !usable.status.success() {
        let required = std::env::var("CARRACK_TESTS_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "fuse"),
            "FUSE is required and not usable"
        );
        eprintln!("SKIPPED: no /dev/fuse for this user in a namespace");
        return;
    }
    let status = Command::new("unshare")
        .args(namespaces)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "failed in its namespace");
}

/// An image served on a directory; unmounted at the end.
struct Served {
    at: PathBuf,
    server: Option<JoinHandle<crate::error::Result<()>>>,
}

impl Served {
    fn new(at: PathBuf, image: Image, options: ServeOptions) -> Served {
        std::fs::create_dir_all(&at).unwrap();
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        mount(
            Some("test"),
            &at,
            Some("fuse"),
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(data.as_str()),
        )
        .unwrap();
        let image = Arc::new(image);
        let server = std::thread::spawn(move || {
            assert!(!options.bound || process::use_processor(process::processor()));
            serve(OwnedFd::from(device), image, options)
        });
        Served {
            at,
            server: Some(server),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        umount2(&self.at, MntFlags::MNT_DETACH).unwrap();
        let ended = self.server.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn image_of_everything(scratch: &Path) -> (PathBuf, PathBuf) {
    let tree = scratch.join("tree");
    std::fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let path = scratch.join("image.sqsh");
    assert!(mksquashfs(&tree, &path, &["-comp", "gzip"]));
    (tree, path)
}

fn assert_same(found: &BTreeMap<PathBuf, String>, expected: &BTreeMap<PathBuf, String>) {
    for (path, facts) in expected {
        assert_eq!(found.get(path), Some(facts), "{path:?}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_served_image_is_the_tree_it_was_made_from() {
    inside(
        "launch::fuse::tests::a_served_image_is_the_tree_it_was_made_from",
        |scratch| {
            let (tree, path) = image_of_everything(scratch);
            let expected = facts_of(&tree);
            let no_open = init::NO_OPEN_SUPPORT | init::NO_OPENDIR_SUPPORT;
            let plus = init::DO_READDIRPLUS | init::READDIRPLUS_AUTO;
            // The kernels of today, of RHEL 8, and one that offers nothing.
            for (without, threads) in [(0, 0), (0, 1), (no_open, 2), (plus, 2), (!0, 2)] {
                let options = ServeOptions {
                    without,
                    threads,
                    ..ServeOptions::default()
                };
                let served = Served::new(scratch.join("mount"), open(&path), options);
                assert_same(&facts_of(&served.at), &expected);
                // A second time, from what the kernel keeps.
                assert_same(&facts_of(&served.at), &expected);
            }
        },
    );
}

#[test]
fn the_kernels_own_squashfs_shows_the_same() {
    inside(
        "launch::fuse::tests::the_kernels_own_squashfs_shows_the_same",
        |scratch| {
            let (_, path) = image_of_everything(scratch);
            let kernel = scratch.join("kernel");
            std::fs::create_dir(&kernel).unwrap();
            let mounted = Command::new("mount")
                .args(["-t", "squashfs", "-o", "loop,ro"])
                .args([&path, &kernel])
                .output()
                .unwrap();
            if !mounted.status.success() {
                eprintln!("SKIPPED: the kernel does not mount squashfs for this user");
                return;
            }
            let served = Served::new(scratch.join("mount"), open(&path), ServeOptions::default());
            // Everything that stat shows but device, access and birth times, preferred I/O size, and blocks (where
            // the kernel counts xattrs in).
            let listing = |root: &Path| {
                let output = Command::new("find")
                    .arg(".")
                    .args(["-printf", "%P %y %m %U:%G %s %n %i %T@ %C@ %l\\n"])
                    .current_dir(root)
                    .output()
                    .unwrap();
                assert!(output.status.success());
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let mut lines: Vec<String> = text.lines().map(String::from).collect();
                lines.sort();
                lines
            };
            let (theirs, ours) = (listing(&kernel), listing(&served.at));
            for name in ["holes", "noise", "nothing"] {
                use std::os::unix::fs::MetadataExt;
                let blocks = |root: &Path| root.join(name).metadata().unwrap().blocks();
                assert_eq!(blocks(&served.at), blocks(&kernel), "{name}");
            }
            for (theirs, ours) in theirs.iter().zip(&ours) {
                assert_eq!(ours, theirs);
            }
            assert_eq!(theirs.len(), ours.len());
            let status = Command::new("diff")
                .args(["-r", "--no-dereference", "--exclude=fifo"])
                .args([&kernel, &served.at])
                .status()
                .unwrap();
            assert_eq!(status.code(), Some(0));
            umount2(&kernel, MntFlags::empty()).unwrap();
        },
    );
}

#[test]
fn many_readers_at_once_read_right() {
    inside(
        "launch::fuse::tests::many_readers_at_once_read_right",
        |scratch| {
            let (tree, path) = image_of_everything(scratch);
            let expected = facts_of(&tree);
            let options = Options {
                // Small enough that blocks are evicted all the time.
                data_cache: 1,
                metadata_cache: 1,
                ..Options::default()
            };
            let image = Image::open(File::open(&path).unwrap(), options).unwrap();
            let options = ServeOptions {
                threads: 8,
                ..ServeOptions::default()
            };
            let served = Served::new(scratch.join("mount"), image, options);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert_same(&facts_of(&served.at), &expected));
                }
            });
        },
    );
}

#[test]
fn no_thread_stays_on_one_processor_after_the_start() {
    inside(
        "launch::fuse::tests::no_thread_stays_on_one_processor_after_the_start",
        |scratch| {
            let (tree, path) = image_of_everything(scratch);
            let names = ["text", "noise", "exact", "holes"];
            let expected = names.map(|name| std::fs::read(tree.join(name)).unwrap());
            let read = &|at: &Path, index: usize| {
                let mut file = File::open(at.join(names[index])).unwrap();
                let mut content = Vec::new();
                file.read_to_end(&mut content).unwrap();
                assert!(content == expected[index], "{}", names[index]);
                // The next reader asks the server again.
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            };
            // `None` when the thread has ended meanwhile.
            let allowed = |thread: &Path| {
                let text = std::fs::read_to_string(thread.join("status")).ok()?;
                let line = text.lines().find(|line| line.starts_with("Cpus_allowed:"));
                Some(line.unwrap().to_string())
            };
            let all = allowed(Path::new("/proc/self")).unwrap();
            let bound = || -> Vec<PathBuf> {
                let threads = std::fs::read_dir("/proc/self/task").unwrap();
                let threads = threads.map(|thread| thread.unwrap().path());
                threads
                    .filter(|thread| allowed(thread).is_some_and(|allowed| allowed != all))
                    .collect()
            };
            for _ in 0..8 {
                let options = ServeOptions {
                    threads: 8,
                    bound: true,
                    ..ServeOptions::default()
                };
                let served = Served::new(scratch.join("mount"), open(&path), options);
                // A thread is let go with the first request that it gets after the start.
                let free = (0..200).any(|_| {
                    std::thread::scope(|scope| {
                        for reader in 0..8 {
                            let at = &served.at;
                            scope.spawn(move || read(at, reader % names.len()));
                        }
                    });
                    bound().is_empty()
                });
                assert!(free, "{:?}", bound());
            }
        },
    );
}

#[test]
fn a_loader_that_is_handed_over_is_as_it_was_written() {
    inside(
        "launch::fuse::tests::a_loader_that_is_handed_over_is_as_it_was_written",
        |scratch| {
            let tree = scratch.join("tree");
            std::fs::create_dir_all(tree.join("usr/lib64")).unwrap();
            std::os::unix::fs::symlink("usr/lib64", tree.join("lib64")).unwrap();
            let names = ["ld-linux-x86-64.so.2", "libc.so.6"];
            let contents = [noise(300_001, 5), noise(1_500_000, 6)];
            for (name, content) in names.iter().zip(&contents) {
                std::fs::write(tree.join("usr/lib64").join(name), content).unwrap();
            }
            let path = scratch.join("image.sqsh");
            // As conversion keeps them.
            assert!(mksquashfs(
                &tree,
                &path,
                &["-comp", "gzip", "-noD", "-no-fragments"]
            ));
            let image = open(&path);
            let hot = Arc::new(Hot::new());
            hot.prepare(&image);
            let options = ServeOptions {
                hot: Some(Arc::clone(&hot)),
                ..ServeOptions::default()
            };
            let served = Served::new(scratch.join("mount"), open(&path), options);
            std::thread::scope(|scope| {
                let all = scope.spawn(|| hot.hand_over(&image));
                for (name, content) in names.iter().zip(&contents) {
                    let file = File::open(served.at.join("lib64").join(name)).unwrap();
                    let mut page = vec![0; 4096];
                    std::os::unix::fs::FileExt::read_exact_at(&file, &mut page, 8192).unwrap();
                    assert!(page == content[8192..8192 + 4096], "{name}");
                }
                all.join().unwrap();
            });
            for (name, content) in names.iter().zip(&contents) {
                let read = std::fs::read(served.at.join("lib64").join(name)).unwrap();
                assert!(read == *content, "{name}");
            }
        },
    );
}

#[test]
fn the_owner_is_whom_we_say() {
    inside("launch::fuse::tests::the_owner_is_whom_we_say", |scratch| {
        use std::os::unix::fs::MetadataExt;
        let (_, path) = image_of_everything(scratch);
        // In a user namespace only 0 is mapped.
        let owner = if std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|m| m.contains("4294967295"))
        {
            (12, 34)
        } else {
            (0, 0)
        };
        let options = ServeOptions {
            owner: Some(owner),
            ..ServeOptions::default()
        };
        let served = Served::new(scratch.join("mount"), open(&path), options);
        for name in ["", "small", "many", "link"] {
            let meta = served.at.join(name).symlink_metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid()), owner, "{name}");
        }
    });
}

#[test]
fn a_damaged_block_is_an_error_and_one_line_in_the_log() {
    inside(
        "launch::fuse::tests::a_damaged_block_is_an_error_and_one_line_in_the_log",
        |scratch| {
            let tree = scratch.join("tree");
            std::fs::create_dir(&tree).unwrap();
            std::fs::write(tree.join("noise"), noise(300_000, 5)).unwrap();
            std::fs::write(tree.join("text"), "some text ".repeat(99_999)).unwrap();
            let path = scratch.join("image.sqsh");
            assert!(mksquashfs(&tree, &path, &["-comp", "gzip"]));
            let record = sealed(&path);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[200] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let image = open(&path);
            image.check(&record).unwrap();
            let log = tempfile::tempfile().unwrap();
            let options = ServeOptions {
                log: Some(log.try_clone().unwrap()),
                ..ServeOptions::default()
            };
            let served = Served::new(scratch.join("mount"), image, options);
            let error = std::fs::read(served.at.join("noise")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5));
            assert!(std::fs::read(served.at.join("text")).is_ok());
            drop(served);
            let mut text = String::new();
            let mut log = log;
            std::io::Seek::rewind(&mut log).unwrap();
            log.read_to_string(&mut text).unwrap();
            let line = text.lines().next().unwrap();
            for word in [
                "carrack: ",
                "image.sqsh",
                "block at 96 ",
                "not what was written",
            ] {
                assert!(line.contains(word), "{line}");
            }
        },
    );
}
