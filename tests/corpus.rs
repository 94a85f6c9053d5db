//! Every image of `tests/corpus`, converted, against everybody who has an opinion on what it should be.
//!
//! The model merges the layers slowly; umoci unpacks them; the kernel, squashfuse and unsquashfs read our output. They
//! must agree path by path on type, mode, ids, size, times, links, targets, attributes and content. What differs on
//! purpose stands in [`MEANT`], with the reason.

use crate::golden::{difference, root};
use crate::image::text::{self, Expectation, Image};
use crate::image::tree::{Node, Tree, differences, name_inodes, of_directory, of_image};
use crate::image::{
    layout::{Layout, sha256},
    model,
};
use crate::need::need;
use crate::scene::Scene;
use carrack::image::convert::{self, Converted, LayerInput, Options, PackCache};
use carrack::image::progress::Progress;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A difference that we mean: with whom, why, and how their tree is brought to ours.
struct Meant {
    with: &'static str,
    why: &'static str,
    apply: fn(ours: &Tree, theirs: &mut Tree),
}

const MEANT: &[Meant] = &[
    Meant {
        with: "umoci",
        why: "device nodes are dropped and counted: an image cannot give a user devices",
        apply: |_, theirs| theirs.retain(|_, node| !matches!(node.kind, 'c' | 'b')),
    },
    Meant {
        with: "umoci",
        why: "attributes other than user.* are dropped and counted: they have no effect without privilege",
        apply: |_, theirs| {
            for node in theirs.values_mut() {
                node.xattrs.retain(|name, _| name.starts_with(b"user."));
            }
        },
    },
    Meant {
        with: "umoci",
        why: "a directory that no layer lists is 0755 root:root of 1970, so that equal layers give equal images; there it gets the time of unpacking",
        apply: |ours, theirs| {
            for (path, node) in theirs.iter_mut().filter(|(_, node)| node.kind == 'd') {
                if let Some(own) = ours.get(path).filter(|own| own.mtime == 0) {
                    node.mtime = 0;
                    node.mode = own.mode;
                }
            }
        },
    },
    Meant {
        with: "umoci",
        why: "squashfs keeps 32 bits of seconds from 1970; times outside are moved to the nearest end",
        apply: |_, theirs| {
            for node in theirs.values_mut() {
                node.mtime = node.mtime.clamp(0, i64::from(u32::MAX));
            }
        },
    },
    Meant {
        with: "umoci",
        why: "a directory's time is what its entry says; umoci leaves the time of unpacking on the root and where it removed names",
        apply: |ours, theirs| {
            let today = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs() as i64 - 86_400);
            for (path, node) in theirs.iter_mut().filter(|(_, node)| node.kind == 'd') {
                if let Some(own) = ours.get(path).filter(|_| node.mtime > today) {
                    node.mtime = own.mtime;
                }
            }
        },
    },
    Meant {
        with: "squashfuse",
        why: "an attribute without a value can be listed there, but not read",
        apply: |_, theirs| {
            for node in theirs.values_mut() {
                for value in node
                    .xattrs
                    .values_mut()
                    .filter(|v| v.starts_with(b"(No data"))
                {
                    value.clear();
                }
            }
        },
    },
    Meant {
        with: "umoci model",
        why: "empty mount points are added, so that a launch needs no overlay to mount there",
        apply: |ours, theirs| {
            for (path, node) in ours.iter().filter(|(path, _)| is_mount_point(path)) {
                if !theirs.contains_key(path) {
                    assert!(node.kind == 'd' || node.size == 0, "{node}");
                    theirs.insert(path.clone(), node.clone());
                }
            }
        },
    },
];

/// What the converter adds, and the directories above it.
fn is_mount_point(path: &[u8]) -> bool {
    let options = Options::default();
    let mut added = options.mount_points.iter().chain(&options.mount_files);
    let absolute = [b"/", path].concat();
    added.any(|name| {
        let name = name.as_bytes();
        name == absolute || name.starts_with(&[&absolute, &b"/"[..]].concat())
    })
}

/// The differences that are not meant, each with the image's name.
fn differing(name: &str, ours: &Tree, whose: &str, mut theirs: Tree) -> Vec<String> {
    let with = |meant: &&Meant| meant.with.split(' ').any(|with| with == whose);
    for meant in MEANT.iter().filter(with) {
        (meant.apply)(ours, &mut theirs);
    }
    if !whose.contains("squashfuse") {
        // Directories of other file systems count their links otherwise, and mount points were added.
        name_inodes(&mut theirs);
    }
    let mut found = labelled(name, differences(("carrack", ours), (whose, &theirs)));
    if !found.is_empty() {
        let meant = MEANT
            .iter()
            .filter(with)
            .map(|meant| format!("  meant: {}", meant.why));
        found.extend(meant);
    }
    found
}

fn labelled(name: &str, found: Vec<String>) -> Vec<String> {
    let count = found.len();
    let mut shown: Vec<String> = found
        .into_iter()
        .take(10)
        .map(|text| format!("{name}: {text}"))
        .collect();
    if count > 10 {
        shown.push(format!("{name}: … {count} differences"));
    }
    shown
}

#[track_caller]
fn none(found: Vec<String>) {
    assert!(
        found.is_empty(),
        "besides the differences that are meant (MEANT in tests/corpus.rs):
{}",
        found.join(
            "
"
        )
    );
}

/// Name and text of every image in the corpus; `CARRACK_TESTS_CORPUS=a,b` takes only these.
pub fn corpus(folder: &str) -> Vec<(String, String)> {
    let only = std::env::var("CARRACK_TESTS_CORPUS").unwrap_or_default();
    let mut found: Vec<(String, String)> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .filter(|(name, _)| only.is_empty() || only.split(',').any(|n| n == name))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// One corpus image, converted.
struct Made {
    name: String,
    image: Image,
    squashfs: PathBuf,
    notes: BTreeMap<String, u64>,
}

/// Converts the stored layers straight with the library, without a store.
pub fn convert_layers(
    layout: &Layout,
    packs: &Path,
    output: &Path,
    options: &Options,
) -> carrack::error::Result<Converted> {
    let layers: Vec<LayerInput> = layout
        .layers
        .iter()
        .map(|(bytes, kind)| {
            let bytes = Arc::new(bytes.clone());
            LayerInput {
                digest: Some(sha256(&bytes).parse().unwrap()),
                size: Some(bytes.len() as u64),
                diff_id: None,
                media_type: kind.clone(),
                open: Box::new(move || {
                    let bytes: Vec<u8> = (*bytes).clone();
                    Ok(Box::new(std::io::Cursor::new(bytes)))
                }),
            }
        })
        .collect();
    let packs = PackCache::open(packs)?;
    convert::convert(&layers, &packs, output, options, &Silent)
}

struct Silent;
impl Progress for Silent {}

/// Converts every image and fails with all that `check` found, so that one run shows everything.
#[track_caller]
fn each(scene: &Scene, mut check: impl FnMut(&Made) -> Vec<String>) {
    let mut found = Vec::new();
    for (name, text) in corpus("tests/corpus") {
        let image = text::parse(&text);
        let squashfs = scene.path(format!("{name}.sqsh"));
        let options = Options::default();
        let packs = scene.path(format!("{name}.packs"));
        std::fs::create_dir(&packs).unwrap();
        match convert_layers(&Layout::of(&image), &packs, &squashfs, &options) {
            Ok(converted) => found.extend(check(&Made {
                name,
                image,
                squashfs,
                notes: converted.notes,
            })),
            Err(error) => found.push(format!("{name}: {error}")),
        }
    }
    none(found);
}

#[test]
fn the_converter_agrees_with_the_model_and_with_the_corpus_itself() {
    let scene = Scene::new();
    each(&scene, |made| {
        let ours = of_image(&made.squashfs);
        let mut counted = ours.clone();
        name_inodes(&mut counted);
        let found = differences(("carrack", &ours), ("counted", &counted));
        let mut found = labelled(&made.name, found);
        let (expected, _) = model::merge(&made.image);
        found.extend(differing(&made.name, &ours, "model", expected));
        for expectation in &made.image.expectations {
            if let Err(why) = holds(expectation, &ours, &made.notes) {
                found.push(format!("{}: {expectation:?}: {why}", made.name));
            }
        }
        found
    });
}

fn holds(
    expectation: &Expectation,
    tree: &Tree,
    notes: &BTreeMap<String, u64>,
) -> Result<(), String> {
    let node = |path: &Vec<u8>| -> Result<&Node, String> {
        tree.get(path).ok_or_else(|| "absent".to_string())
    };
    let (right, seen) = match expectation {
        Expectation::Gone(path) => (!tree.contains_key(path), String::new()),
        Expectation::File(path, content) => {
            let node = node(path)?;
            let right = node.kind == 'f' && node.content == sha256(content);
            (right, node.to_string())
        }
        Expectation::Directory(path, mode) => {
            let node = node(path)?;
            (node.kind == 'd' && node.mode == *mode, node.to_string())
        }
        Expectation::Link(path, target) => {
            let node = node(path)?;
            (node.kind == 'l' && node.target == *target, node.to_string())
        }
        Expectation::Same(one, other) => {
            let (one, other) = (node(one)?, node(other)?);
            (one.inode == other.inode, format!("{one}; {other}"))
        }
        Expectation::Links(path, count) => (node(path)?.links == *count, node(path)?.to_string()),
        Expectation::Xattr(path, name, value) => {
            let node = node(path)?;
            (node.xattrs.get(name) == Some(value), node.to_string())
        }
        Expectation::Note(name, count) => {
            let seen = notes.get(name).copied().unwrap_or(0);
            (seen == *count, seen.to_string())
        }
        Expectation::Fails(_) => (false, "it was converted".into()),
    };
    if right {
        return Ok(());
    }
    Err(format!("seen: {seen}"))
}

#[test]
fn unsquashfs_lists_what_our_reader_sees() {
    need!(SquashfsTools);
    let scene = Scene::new();
    each(&scene, |made| {
        let output = Command::new("unsquashfs")
            .args(["-lln", "-UTC", "-d", ""])
            .arg(&made.squashfs)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {output:?}", made.name);
        let blanks = |line: &[u8]| -> String {
            let text = String::from_utf8_lossy(line).into_owned();
            let mut words: Vec<&str> = text.split_whitespace().collect();
            // The bytes of a directory's listing are nobody else's matter.
            if let [mode, _, size, ..] = &mut words[..]
                && mode.len() == 10
                && mode.starts_with('d')
            {
                *size = "-";
            }
            words.join(" ")
        };
        let mut listed: Vec<String> = output
            .stdout
            .split(|byte| *byte == b'\n')
            .map(blanks)
            .filter(|line| !line.is_empty())
            .collect();
        let tree = of_image(&made.squashfs);
        let mut expected: Vec<String> = Vec::new();
        for (path, node) in &tree {
            // A name with a newline is printed as it is, and so takes two lines.
            let line = unsquashfs_line(path, node);
            let lines = line.split(|byte| *byte == b'\n').map(blanks);
            expected.extend(lines.filter(|line| !line.is_empty()));
        }
        listed.sort();
        expected.sort();
        let (expected, listed) = (
            expected.join(
                "
",
            ),
            listed.join(
                "
",
            ),
        );
        if expected == listed {
            return Vec::new();
        }
        vec![format!("{}: {}", made.name, difference(&expected, &listed))]
    });
}

/// As `unsquashfs -lln` prints it, but for the width of columns.
fn unsquashfs_line(path: &[u8], node: &Node) -> Vec<u8> {
    let kind = if node.kind == 'f' { '-' } else { node.kind };
    let mut mode: Vec<char> = "rwxrwxrwx".chars().collect();
    for (bit, letter) in mode.iter_mut().enumerate() {
        if node.mode & (0o400 >> bit) == 0 {
            *letter = '-';
        }
    }
    for (bit, at, set, unset) in [
        (0o4000, 2, 's', 'S'),
        (0o2000, 5, 's', 'S'),
        (0o1000, 8, 't', 'T'),
    ] {
        if node.mode & bit != 0 {
            mode[at] = if mode[at] == 'x' { set } else { unset };
        }
    }
    let mode: String = mode.into_iter().collect();
    let time = minutes(node.mtime);
    let head = format!("{kind}{mode} {}/{} ", node.uid, node.gid);
    let size = match node.kind {
        'd' => "-".to_string(),
        _ => node.size.to_string(),
    };
    let mut line = format!("{head}{size} {time} ").into_bytes();
    if !path.is_empty() {
        line.push(b'/');
    }
    line.extend(path);
    if node.kind == 'l' {
        line.extend(b" -> ");
        line.extend(&node.target);
    }
    line
}

/// `YYYY-MM-DD HH:MM` in UTC.
fn minutes(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date of the proleptic Gregorian calendar, in years that start in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}",
        rest / 3600,
        rest % 3600 / 60
    )
}

/// A mount that goes away with the value.
pub struct Mounted<'a>(pub PathBuf, &'a [&'a str]);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new(self.1[0])
            .args(&self.1[1..])
            .arg(&self.0)
            .status();
    }
}

/// The kernel's own view of an image.
#[track_caller]
pub fn mounted(squashfs: &Path, at: &Path) -> Mounted<'static> {
    std::fs::create_dir(at).unwrap();
    let done = Command::new("mount")
        .args(["-t", "squashfs", "-o", "loop,ro"])
        .args([squashfs, at])
        .status()
        .unwrap();
    assert!(done.success(), "{}", squashfs.display());
    Mounted(at.into(), &["umount"])
}

#[test]
fn squashfuse_reads_what_our_reader_sees() {
    need!(Squashfuse, Fuse);
    let scene = Scene::new();
    each(&scene, |made| {
        let at = scene.path(format!("{}.mnt", made.name));
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("squashfuse_ll")
            .arg(&made.squashfs)
            .arg(&at)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(mounted.success(), "{}", made.name);
        let mounted = Mounted(at, &["fusermount3", "-u"]);
        let theirs = of_directory(&mounted.0);
        let ours = of_image(&made.squashfs);
        differing(&made.name, &ours, "squashfuse", theirs)
    });
}

mod as_root {
    use super::*;

    #[test]
    fn umoci_unpacks_the_same_tree() {
        need!(Root, Umoci);
        let scene = Scene::new();
        each(&scene, |made| {
            if made.image.without_umoci.is_some() {
                return Vec::new();
            }
            let theirs = unpacked(&scene, &made.name, &made.image);
            differing(&made.name, &of_image(&made.squashfs), "umoci", theirs)
        });
    }

    fn unpacked(scene: &Scene, name: &str, image: &Image) -> Tree {
        // This umoci knows no zstd; how a layer is compressed changes nothing of what is in it.
        let mut image = image.clone();
        for layer in &mut image.layers {
            layer.compression = text::Compression::Gzip;
        }
        let layout = scene.path(format!("{name}.umoci"));
        Layout::of(&image).write(&layout);
        let bundle = scene.path(format!("{name}.bundle"));
        let output = Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:latest", layout.display()))
            .arg(&bundle)
            .output()
            .unwrap();
        if !output.status.success() {
            eprintln!("{name}: {}", String::from_utf8_lossy(&output.stderr));
            return Tree::new();
        }
        let tree = of_directory(&bundle.join("rootfs"));
        std::fs::remove_dir_all(bundle).unwrap();
        tree
    }

    /// The two references first of all agree with each other.
    #[test]
    fn umoci_agrees_with_the_model() {
        need!(Root, Umoci);
        let scene = Scene::new();
        let mut found = Vec::new();
        for (name, text) in corpus("tests/corpus") {
            let image = text::parse(&text);
            if image.without_umoci.is_some() {
                continue;
            }
            let (mut expected, _) = model::merge(&image);
            name_inodes(&mut expected);
            let theirs = unpacked(&scene, &name, &image);
            found.extend(differing(&name, &expected, "umoci", theirs));
        }
        none(found);
    }

    #[test]
    fn the_kernel_mounts_what_our_reader_sees() {
        need!(KernelMount);
        let scene = Scene::new();
        each(&scene, |made| {
            let at = scene.path(format!("{}.mnt", made.name));
            let mounted = mounted(&made.squashfs, &at);
            let theirs = of_directory(&mounted.0);
            let ours = of_image(&made.squashfs);
            labelled(
                &made.name,
                differences(("carrack", &ours), ("the kernel", &theirs)),
            )
        });
    }
}
