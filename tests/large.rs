//! Files beyond 4 GiB, which are mostly holes so that they cost nothing, in each of the forms that GNU tar gives them.

use crate::need::need;
use crate::scene::Scene;
use carrack::squashfs::read::{Image, Options};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const FOUR: u64 = 4 << 30;
const SIZE: u64 = 5 * (1 << 30) + 12_345;
/// Where the file has something else than zeros: at its start, on both sides of 4 GiB, at its end.
const PIECES: [(u64, &[u8]); 4] = [
    (0, b"head"),
    (FOUR - 3, b"across the border"),
    (FOUR + (1 << 29), b"behind"),
    (SIZE - 4, b"tail"),
];
/// More pieces than the header of the old form holds.
const HOLED: u64 = 60;
const STEP: u64 = 65_536;

/// Options of GNU tar, by form.
const FORMS: [(&str, &[&str]); 4] = [
    ("gnu", &["--format=gnu"]),
    ("pax-0.0", &["--format=pax", "--sparse-version=0.0"]),
    ("pax-0.1", &["--format=pax", "--sparse-version=0.1"]),
    ("pax-1.0", &["--format=pax", "--sparse-version=1.0"]),
];

fn make_tree(scene: &Scene) -> PathBuf {
    let root = scene.path("root");
    std::fs::create_dir(&root).unwrap();
    let huge = std::fs::File::create(root.join("huge")).unwrap();
    huge.set_len(SIZE).unwrap();
    for (offset, text) in PIECES {
        huge.write_all_at(text, offset).unwrap();
    }
    let holed = std::fs::File::create(root.join("holed")).unwrap();
    for n in 0..HOLED {
        holed.write_all_at(b"piece", n * STEP).unwrap();
    }
    std::fs::write(root.join("last"), "still in step").unwrap();
    root
}

/// Pulls the archive that GNU tar makes of the tree in one form: the squashfs.
fn pulled(scene: &Scene, root: &Path, form: &str, options: &[&str]) -> PathBuf {
    let archive = scene.path(format!("work/{form}.tar"));
    let made = Command::new("tar")
        .args(["--create", "--sparse", "--sort=name", "--file"])
        .arg(&archive)
        .args(options)
        .arg("--directory")
        .arg(root)
        .arg(".")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let length = archive.metadata().unwrap().len();
    assert!(
        length < 4 << 20,
        "{form}: the archive has no holes: {length}"
    );
    let outcome = scene.run(["pull", "-q", &format!("{form}.tar")]);
    outcome.ok();
    let line = String::from_utf8(outcome.stdout.clone()).unwrap();
    line.trim_end().split_once('\t').unwrap().1.into()
}

/// What a reader of files says is wrong with the tree.
fn wrong(size: u64, mut read: impl FnMut(&str, u64, &mut [u8])) -> Vec<String> {
    let mut wrong = Vec::new();
    if size != SIZE {
        wrong.push(format!("{size} bytes instead of {SIZE}"));
    }
    let mut check = |name: &str, offset: u64, text: &[u8]| {
        let mut seen = vec![b'?'; text.len()];
        read(name, offset, &mut seen);
        if seen != text {
            wrong.push(format!("{name} at {offset}: {}", seen.escape_ascii()));
        }
    };
    for (offset, text) in PIECES {
        check("huge", offset, text);
        if offset > 100 {
            check("huge", offset - 100, &[0; 100]);
        }
        if offset + 200 < SIZE {
            check("huge", offset + text.len() as u64, &[0; 100]);
        }
    }
    for n in 0..HOLED {
        check("holed", n * STEP, b"piece");
    }
    check("last", 0, b"still in step");
    wrong
}

fn wrong_in_directory(root: &Path) -> Vec<String> {
    let open = |name: &str| std::fs::File::open(root.join(name)).unwrap();
    let size = root.join("huge").metadata().unwrap().len();
    wrong(size, |name, offset, into| {
        // A short file shows as question marks.
        let _ = open(name).read_exact_at(into, offset);
    })
}

fn wrong_in_image(squashfs: &Path) -> Vec<String> {
    let file = std::fs::File::open(squashfs).unwrap();
    let image = Image::open(file, Options::default()).unwrap();
    let find = |name: &str| image.find(format!("/{name}").as_bytes()).unwrap().unwrap();
    wrong(find("huge").size(), |name, offset, into| {
        image.read_at(&find(name), offset, into).unwrap();
    })
}

#[test]
fn sparse_files_of_gnu_tar_beyond_four_gibibytes() {
    need!(SquashfsTools);
    let scene = Scene::new();
    let root = make_tree(&scene);
    assert_eq!(wrong_in_directory(&root), [""; 0]);
    for (form, options) in FORMS {
        let squashfs = pulled(&scene, &root, form, options);
        assert!(squashfs.metadata().unwrap().len() < 2 << 20, "{form}");
        assert_eq!(wrong_in_image(&squashfs), [""; 0], "{form}");
        let out = scene.path(format!("{form}.out"));
        let unpacked = Command::new("unsquashfs")
            .args(["-quiet", "-no-progress", "-dest"])
            .args([&out, &squashfs])
            .output()
            .unwrap();
        assert!(unpacked.status.success(), "{form}: {unpacked:?}");
        assert_eq!(wrong_in_directory(&out), [""; 0], "{form}: unsquashfs");
        // Whatever else were in it would take room.
        let taken = out.join("huge").metadata().unwrap().blocks() * 512;
        assert!(taken < 4 << 20, "{form}: {taken} bytes are no holes");
    }
    scene.run(["verify", "--all"]).ok();
}

mod as_root {
    use super::*;

    #[test]
    fn the_kernel_reads_files_beyond_four_gibibytes() {
        need!(KernelMount);
        let scene = Scene::new();
        let root = make_tree(&scene);
        let (form, options) = FORMS[0];
        let squashfs = pulled(&scene, &root, form, options);
        let at = scene.path("mnt");
        let mounted = crate::corpus::mounted(&squashfs, &at);
        assert_eq!(wrong_in_directory(&mounted.0), [""; 0]);
    }
}
