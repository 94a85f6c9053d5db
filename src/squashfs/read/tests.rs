//! Images made by mksquashfs against the trees that they were made from, and broken images.

use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// False, said aloud, when a program is absent; a failure when `CARRACK_TESTS_REQUIRE` names it.
pub(crate) fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    });
    if !found {
        let required = std::env::var("CARRACK_TESTS_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == program),
            "`{program}` is required and absent"
        );
        eprintln!("SKIPPED: `{program}` is not installed");
    }
    found
}

/// Bytes that do not compress, the same in every run.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect()
}

/// Writes a tree with every type, tails, holes, hard links, a big directory and user xattrs.
pub(crate) fn make_tree(root: &Path) {
    let put = |name: &str, bytes: &[u8]| std::fs::write(root.join(name), bytes).unwrap();
    for directory in ["empty", "many", "deep/a/b/c/d/e/f"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    put("nothing", b"");
    put("small", b"hello\n");
    put("text", "squashfs and text ".repeat(50_000).as_bytes());
    put("noise", &noise(700_001, 7));
    put("exact", &noise(1 << 20, 9));
    let mut holes = vec![0; 3 << 20];
    holes[1 << 20..(1 << 20) + 5].copy_from_slice(b"here!");
    put("holes", &holes);
    put("deep/a/b/c/d/e/f/leaf", &noise(4097, 11));
    for index in 0..3000 {
        put(
            &format!("many/name-{index:05}-{}", "x".repeat(index % 40)),
            index.to_string().as_bytes(),
        );
    }
    put("byte-\u{e9}", b"utf-8");
    std::fs::hard_link(root.join("small"), root.join("linked")).unwrap();
    symlink("small", root.join("link")).unwrap();
    symlink("x".repeat(4000), root.join("long-link")).unwrap();
    std::fs::set_permissions(root.join("small"), PermissionsExt::from_mode(0o4751)).unwrap();
    nix::unistd::mkfifo(
        &root.join("fifo"),
        nix::sys::stat::Mode::from_bits_truncate(0o640),
    )
    .unwrap();
    let long = noise(3000, 13);
    for (file, name, value) in [
        ("small", "user.note", &b"value"[..]),
        ("text", "user.note", b"value"),
        ("text", "user.long", &long),
        ("empty", "user.long", &long),
    ] {
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(root.join(file), name, value, flags).is_err() {
            eprintln!("SKIPPED in part: the temporary directory has no user xattrs");
        }
    }
}

pub(crate) fn mksquashfs(tree: &Path, image: &Path, arguments: &[&str]) -> bool {
    let output = Command::new("mksquashfs")
        .args([tree, image])
        .args(["-no-progress", "-quiet", "-noappend", "-processors", "1"])
        .args(arguments)
        .output()
        .unwrap();
    if !output.status.success() {
        eprintln!(
            "SKIPPED: mksquashfs {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    output.status.success()
}

pub(crate) fn open(path: &Path) -> Image {
    Image::open(
        File::open(path).unwrap(),
        Options::named(path.display().to_string()),
    )
    .unwrap()
}

/// Path → facts as the file system itself tells them.
pub(crate) fn facts_of(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                todo.push(entry.unwrap().path());
            }
        }
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let mut text = format!(
            "{:o} {}:{} {size} {} ",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime()
        );
        // Directory links depend on the file system that holds the tree.
        if !meta.is_dir() {
            text += &format!("links {} ", meta.nlink());
        }
        if meta.is_symlink() {
            text += &format!("-> {} ", std::fs::read_link(&path).unwrap().display());
        } else {
            let mut names = vec![0u8; 4096];
            let length = rustix::fs::listxattr(&path, &mut names).unwrap_or(0);
            let mut names: Vec<_> = names[..length].split(|b| *b == 0).collect();
            names.sort();
            for name in names.into_iter().filter(|name| name.starts_with(b"user.")) {
                let mut value = vec![0u8; 10_000];
                let length = rustix::fs::getxattr(&path, name, &mut value).unwrap();
                text += &format!("{}={} ", escaped(name), escaped(&value[..length]));
            }
        }
        if meta.is_file() {
            text += &blake3::hash(&std::fs::read(&path).unwrap()).to_string();
        }
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), text);
    }
    found
}

/// The same from an image.
pub(crate) fn facts_in(image: &Image) -> BTreeMap<PathBuf, String> {
    use std::os::unix::ffi::OsStrExt;
    let mut found = BTreeMap::new();
    image
        .walk(|path, inode| {
            let size = if inode.is_directory() {
                0
            } else {
                inode.size()
            };
            let mut text = format!(
                "{:o} {}:{} {size} {} ",
                inode.full_mode(),
                inode.uid,
                inode.gid,
                inode.mtime
            );
            if !inode.is_directory() {
                text += &format!("links {} ", inode.links);
            }
            if inode.kind == Type::Symlink {
                text += &format!("-> {} ", String::from_utf8_lossy(&image.read_link(inode)?));
            }
            let mut xattrs = image.xattrs(inode)?;
            xattrs.sort();
            for (name, value) in xattrs {
                text += &format!("{}={} ", escaped(&name), escaped(&value));
            }
            if inode.kind == Type::File {
                text += &image.content_hash(inode)?.to_string();
            }
            let path = Path::new(std::ffi::OsStr::from_bytes(&path[1..]));
            found.insert(path.to_path_buf(), text);
            Ok(())
        })
        .unwrap();
    found
}

#[test]
fn every_compressor_and_block_size_reads_as_the_tree_it_was_made_from() {
    if !have("mksquashfs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let expected = facts_of(&tree);
    let cases: [&[&str]; 13] = [
        &["-comp", "gzip"],
        &["-comp", "gzip", "-b", "4096", "-always-use-fragments"],
        &["-comp", "gzip", "-b", "1M"],
        &["-comp", "zstd", "-Xcompression-level", "3", "-b", "65536"],
        &[
            "-comp",
            "zstd",
            "-Xcompression-level",
            "1",
            "-b",
            "1M",
            "-no-fragments",
        ],
        &["-comp", "lz4", "-b", "8192"],
        &["-comp", "lz4", "-Xhc", "-b", "1M"],
        &["-comp", "xz", "-b", "131072"],
        &["-comp", "xz", "-Xbcj", "x86", "-b", "1M"],
        &["-comp", "lzo"],
        &["-comp", "lzo", "-Xalgorithm", "lzo1x_1", "-b", "1M"],
        &["-comp", "gzip", "-noI", "-noD", "-noF", "-noX", "-noId"],
        &[
            "-comp",
            "zstd",
            "-Xcompression-level",
            "1",
            "-no-sparse",
            "-no-exports",
        ],
    ];
    for arguments in cases {
        let path = scratch.path().join("image.sqsh");
        if !mksquashfs(&tree, &path, arguments) {
            continue;
        }
        let image = open(&path);
        let found = facts_in(&image);
        for (path, facts) in &expected {
            assert_eq!(found.get(path), Some(facts), "{arguments:?} {path:?}");
        }
        assert_eq!(found.len(), expected.len(), "{arguments:?}");
        assert_eq!(verify_all(&image, 2).unwrap(), None, "{arguments:?}");
    }
}

#[test]
fn big_directories_are_searched_and_listed_from_any_position() {
    if !have("mksquashfs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let path = scratch.path().join("image.sqsh");
    assert!(mksquashfs(&tree, &path, &["-comp", "gzip"]));
    let image = open(&path);
    let many = image.find(b"/many").unwrap().unwrap();
    assert!(
        matches!(many.content, Content::Directory { index_count, .. } if index_count > 0),
        "the test needs an indexed directory"
    );
    let mut names = Vec::new();
    image
        .read_dir(&many, Position::default(), |entry| {
            names.push((entry.name.to_vec(), entry.inode, entry.next));
            true
        })
        .unwrap();
    assert_eq!(names.len(), 3000);
    for pair in names.windows(2).step_by(7) {
        let [(_, _, position), (expected, ..)] = pair else {
            unreachable!()
        };
        // A fresh image has no memory of where readers stopped.
        let fresh = open(&path);
        for image in [&image, &fresh] {
            let mut next = None;
            image
                .read_dir(&many, *position, |entry| {
                    next.get_or_insert(entry.name.to_vec());
                    next.is_none()
                })
                .unwrap();
            assert_eq!(next.as_ref(), Some(expected));
        }
    }
    for (name, inode, _) in names.iter().step_by(13) {
        assert_eq!(image.lookup(&many, name).unwrap(), Some(*inode));
        let absent = [name.as_slice(), b"?"].concat();
        assert_eq!(image.lookup(&many, &absent).unwrap(), None);
    }
    for absent in [&b"!"[..], b"zzz", b"", &[b'n'; 300]] {
        assert_eq!(image.lookup(&many, absent).unwrap(), None);
    }
}

#[test]
fn random_reads_of_a_long_file_are_right() {
    if !have("mksquashfs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    // 1500 blocks of 4 KiB: more than two marks, some of them holes.
    let mut content = noise(6_000_123, 3);
    content[2_100_000..2_200_000].fill(0);
    std::fs::write(tree.join("long"), &content).unwrap();
    let path = scratch.path().join("image.sqsh");
    assert!(mksquashfs(&tree, &path, &["-comp", "lz4", "-b", "4096"]));
    let image = open(&path);
    let file = image.find(b"/long").unwrap().unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (image, file, content) = (&image, &file, &content);
            scope.spawn(move || {
                let mut at = 17 * (seed + 1);
                for _ in 0..300 {
                    at = (at * 7919 + 13) % (content.len() + 5000);
                    let mut part = vec![1; 1 + at % 20_000];
                    let count = image.read_at(file, at as u64, &mut part).unwrap();
                    let expected = content.get(at..).unwrap_or_default();
                    let expected = &expected[..expected.len().min(part.len())];
                    assert_eq!(part.get(..count), Some(expected), "at {at}");
                }
            });
        }
    });
}

#[test]
fn a_server_reads_ahead_what_stands_behind_a_block_and_not_for_ever() {
    if !have("mksquashfs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("long"), noise(4 << 20, 3)).unwrap();
    let path = scratch.path().join("image.sqsh");
    assert!(mksquashfs(&tree, &path, &["-b", "128K"]));
    let file = File::open(&path).unwrap();
    let in_memory = || -> u64 {
        let mut fincore = Command::new("fincore");
        let output = fincore.args(["-b", "-n", "-o", "RES"]).arg(&path).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.trim().parse().unwrap()
    };
    for times in [1, 0] {
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        if in_memory() > 0 {
            eprintln!("SKIPPED in part: the temporary directory is in memory");
            return;
        }
        let mut image = open(&path);
        image.before_work(Box::new(|_| ()));
        let found = image.follow(b"/long").unwrap().unwrap();
        image.times_ahead = AtomicU32::new(times);
        let mut byte = [0];
        image.read_at(&found.inode, 2 << 20, &mut byte).unwrap();
        assert_eq!(image.times_ahead.into_inner(), 0);
        // The kernel reads when it likes; a file system that takes no advice must not make this wait for ever.
        let read = || times == 0 || in_memory() >= READ_AHEAD.get();
        let pause = std::time::Duration::from_millis(5);
        let there = (0..6000).any(|_| {
            read() || {
                std::thread::sleep(pause);
                false
            }
        });
        assert!(there, "{} bytes were read", in_memory());
    }
}

/// A checked image: squashfs, zero padding, table; and its record.
pub(crate) fn sealed(path: &Path) -> crate::record::Squashfs {
    let integrity = integrity_of(&open(path)).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(integrity.squashfs.bytes_used as usize);
    bytes.resize(integrity.squashfs.hashes_offset as usize, 0);
    bytes.extend(integrity.stored());
    assert_eq!(bytes.len() as u64, integrity.squashfs.size);
    std::fs::write(path, bytes).unwrap();
    integrity.squashfs
}

#[test]
fn links_are_followed_inside_the_image() {
    if !have("mksquashfs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir_all(tree.join("usr/lib64")).unwrap();
    std::fs::write(tree.join("usr/lib64/loader"), "x").unwrap();
    for (link, to) in [
        ("lib64", "usr/lib64"),
        ("usr/lib64/alias", "/lib64/../../../lib64/loader"),
        ("loop", "loop"),
        ("nowhere", "/absent"),
    ] {
        symlink(to, tree.join(link)).unwrap();
    }
    let path = scratch.path().join("image.sqsh");
    assert!(mksquashfs(&tree, &path, &["-comp", "gzip"]));
    let image = open(&path);
    let loader = image.find(b"/usr/lib64/loader").unwrap().unwrap();
    for (from, leads) in [
        ("/usr/lib64/loader", true),
        ("lib64/alias", true),
        ("/../lib64/./loader", true),
        ("/loop", false),
        ("/nowhere", false),
        ("/lib64/loader/x", false),
    ] {
        let found = image.follow(from.as_bytes()).unwrap();
        let number = found.as_ref().map(|found| found.inode.number);
        assert_eq!(number, leads.then_some(loader.number), "{from}");
        if let Some(found) = found {
            let beside = image.follow_from(&found.directory, b"alias").unwrap();
            assert_eq!(beside.unwrap().inode.number, loader.number);
        }
    }
}

/// Looks at everything that an image offers; the results do not matter.
fn exercise(path: &Path) {
    let Ok(image) = Image::open(File::open(path).unwrap(), Options::default()) else {
        return;
    };
    let mut entries = 0u32;
    let _ = image.walk(|_, inode| {
        entries += 1;
        if entries > 20_000 {
            return Err(Error::new("enough"));
        }
        let _ = image.read_link(inode);
        let _ = image.xattrs(inode);
        let _ = image.lookup(inode, b"name-00100");
        let mut part = [0; 5000];
        for offset in [
            0,
            4096,
            1 << 20,
            inode.size() / 2,
            inode.size().wrapping_sub(9),
        ] {
            let _ = image.read_at(inode, offset, &mut part);
        }
        Ok(())
    });
    let _ = verify_all(&image, 1);
}

#[test]
fn flipped_bytes_never_panic_or_hang() {
    if !have("mksquashfs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    for index in 0..300 {
        std::fs::write(tree.join(format!("a/name-{index:05}")), index.to_string()).unwrap();
    }
    std::fs::write(tree.join("noise"), noise(30_000, 5)).unwrap();
    std::fs::write(tree.join("a/b/text"), "some text ".repeat(999)).unwrap();
    symlink("noise", tree.join("link")).unwrap();
    let _ = rustix::fs::setxattr(
        tree.join("noise"),
        "user.x",
        &noise(400, 1),
        rustix::fs::XattrFlags::empty(),
    );
    let path = scratch.path().join("image.sqsh");
    let broken = scratch.path().join("broken.sqsh");
    // Uncompressed metadata lets every flip through to the parsers.
    for arguments in [
        &[
            "-comp", "gzip", "-b", "4096", "-noI", "-noId", "-noX", "-noF",
        ][..],
        &["-comp", "lzo", "-b", "8192"],
    ] {
        assert!(mksquashfs(&tree, &path, arguments));
        let good = std::fs::read(&path).unwrap();
        let image = open(&path);
        let metadata = image.superblock().inode_table as usize;
        let mut state = 99u64;
        for round in 0..1500 {
            let mut bad = good.clone();
            for _ in 0..=round % 4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let random = (state >> 20) as usize;
                let at = match random % 8 {
                    0 => 8 + random % 88,
                    1 => random % metadata,
                    _ => metadata + random % (bad.len() - metadata),
                };
                let values = [0, 0xff, 0x80, 1, (random >> 8) as u8];
                bad[at] = values[random % 5];
            }
            if round % 50 == 0 {
                bad.truncate((state as usize >> 7) % bad.len());
            }
            std::fs::write(&broken, &bad).unwrap();
            exercise(&broken);
        }
    }
}

#[test]
fn what_is_no_image_is_told_so() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x");
    for bytes in [&b""[..], b"hsqs", &[0; 200], &noise(5000, 1)] {
        std::fs::write(&path, bytes).unwrap();
        let error = Image::open(File::open(&path).unwrap(), Options::named("x.sqsh"))
            .err()
            .expect("refused");
        assert!(error.to_string().contains("`x.sqsh`"), "{error}");
    }
}
