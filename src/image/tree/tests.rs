use super::*;
use crate::image::fixture;
use crate::pack::path;
use crate::pack::tar::{Archive, Type};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Entries of a layer written as text; content is told apart by its size.
fn entries(text: &str) -> Vec<Entry> {
    let tar = fixture::layer(text);
    let mut archive = Archive::new(&tar[..]);
    let mut all = Vec::new();
    while let Some(member) = archive.next_member().unwrap() {
        let (path, kind) = match path::read(&member.path, member.kind == Type::Directory).unwrap() {
            path::Name::Whiteout(path) => (path, Kind::Whiteout),
            path::Name::Opaque(path) => (path, Kind::Opaque),
            path::Name::Ignored => continue,
            path::Name::Plain(path) => {
                let kind = match member.kind {
                    Type::Directory => Kind::Directory,
                    Type::File => Kind::File(Content {
                        size: member.size,
                        run: (member.size > 0).then_some(0),
                        tail: None,
                    }),
                    Type::HardLink => Kind::HardLink(path::normalise(&member.link).unwrap()),
                    Type::Symlink => Kind::Symlink(member.link),
                    Type::Fifo => Kind::Fifo,
                    _ => Kind::Device,
                };
                (path, kind)
            }
        };
        all.push(Entry {
            path,
            kind,
            attributes: Attributes {
                mode: member.mode,
                uid: member.uid,
                gid: member.gid,
                mtime: member.mtime as u32,
            },
            xattrs: member.xattrs,
            hints: Vec::new(),
        });
    }
    all
}

fn merge(layers: &[Vec<Entry>]) -> Result<Tree> {
    let mut builder = Builder::new(layers.len())?;
    for layer in layers.iter().rev() {
        builder.layer();
        for entry in layer {
            builder.add(entry)?;
        }
        // A look in between changes nothing; that a hard link leads nowhere yet is no matter.
        let _ = builder.so_far(|tree| tree.inodes());
    }
    builder.finish()
}

/// One line per path: what it is, its mode, its layer and size or target, links, and which paths share its inode.
fn show(tree: &Tree) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    tree.walk(&mut |path, number| {
        let inode = tree.inode(number).unwrap();
        let what = match inode.body {
            Body::Directory { .. } => "d".to_string(),
            Body::File { layer, content } => format!("f{layer} {}", content.size),
            Body::Symlink(target) => format!("l {}", String::from_utf8_lossy(target)),
            Body::Fifo => "p".to_string(),
        };
        let links = if what == "d" { 0 } else { inode.links };
        lines.insert(
            String::from_utf8_lossy(path).into_owned(),
            format!("{what} {:o} {links}", inode.attributes.mode),
        );
    });
    lines
}

fn merged(layers: &[&str]) -> String {
    let layers: Vec<_> = layers.iter().map(|text| entries(text)).collect();
    let tree = merge(&layers).unwrap();
    let lines = show(&tree).into_iter().skip(1);
    lines
        .map(|(path, what)| format!("{path} {what}"))
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn rules() {
    for (rule, layers, expected) in [
        (
            "the upper layer wins",
            &["f /a 600 x", "f /a 644 xx"][..],
            "a f1 2 644 1",
        ),
        (
            "the last entry of a layer wins",
            &["f /a 600 x\nf /a 644 xx"],
            "a f0 2 644 1",
        ),
        (
            "missing parents are made",
            &["f /a/b 600 x"],
            "a d 755 0; a/b f0 1 600 1",
        ),
        (
            "a directory keeps its own metadata",
            &["f /a/b 600 x\nd /a 700"],
            "a d 700 0; a/b f0 1 600 1",
        ),
        (
            "an upper layer that only passes through does not change it",
            &["d /a 700", "f /a/b 600 x"],
            "a d 700 0; a/b f1 1 600 1",
        ),
        (
            "a whiteout hides",
            &["f /a 600 x\nf /b 600 x", "w /a"],
            "b f0 1 600 1",
        ),
        ("… a whole directory", &["f /a/b/c 600 x", "w /a"], ""),
        (
            "… of layers below only",
            &["f /a 600 x", "w /a\nf /a 644 xx"],
            "a f1 2 644 1",
        ),
        (
            "… whatever the order in the layer",
            &["f /a 600 x", "f /a 644 xx\nw /a"],
            "a f1 2 644 1",
        ),
        (
            "… and not what is above",
            &["f /a 600 x", "w /a", "f /a 644 xx"],
            "a f2 2 644 1",
        ),
        (
            "… also under a directory that comes back",
            &["f /a/b 600 x", "w /a", "f /a/c 600 y"],
            "a d 755 0; a/c f2 1 600 1",
        ),
        (
            "a whiteout of nothing is nothing",
            &["f /a 600 x", "w /b/c"],
            "a f0 1 600 1",
        ),
        (
            "opaque hides what is below",
            &["f /a/b 600 x\nf /a/c/d 600 x", "o /a\nf /a/e 600 y"],
            "a d 755 0; a/e f1 1 600 1",
        ),
        (
            "… keeps the directory's metadata",
            &["d /a 700\nf /a/b 600 x", "o /a"],
            "a d 700 0",
        ),
        (
            "… at the root too",
            &["f /a 600 x", "f /b 600 y\no /"],
            "b f1 1 600 1",
        ),
        (
            "a file replaces a directory",
            &["f /a/b 600 x", "f /a 644 y"],
            "a f1 1 644 1",
        ),
        (
            "a directory replaces a file",
            &["f /a 600 x", "f /a/b 644 y"],
            "a d 755 0; a/b f1 1 644 1",
        ),
        (
            "a file between directories hides the lowest one's content",
            &[
                "d /a 700\nf /a/b 600 x",
                "f /a 600 y",
                "d /a 750\nf /a/c 600 z",
            ],
            "a d 750 0; a/c f2 1 600 1",
        ),
        (
            "a symlink replaces a directory",
            &["f /a/b 600 x", "l /a -> c"],
            "a l c 777 1",
        ),
        (
            "a directory replaces a symlink",
            &["l /a -> c\nd /c 700", "f /a/b 600 x"],
            "a d 755 0; a/b f1 1 600 1; c d 700 0",
        ),
        (
            "a hard link is the same inode",
            &["f /a 600 x\nh /b = /a"],
            "a f0 1 600 2; b f0 1 600 2",
        ),
        (
            "… to a lower layer",
            &["f /a 600 x", "h /b = /a"],
            "a f0 1 600 2; b f0 1 600 2",
        ),
        (
            "… outlives its target",
            &["f /a 600 x\nh /b = /a", "w /a"],
            "b f0 1 600 1",
        ),
        (
            "… keeps the old content when the target changes",
            &["f /a 600 x\nh /b = /a", "f /a 644 yy"],
            "a f1 2 644 1; b f0 1 600 1",
        ),
        (
            "… even inside one layer",
            &["f /a 600 x\nh /b = /a\nf /a 644 yy"],
            "a f0 2 644 1; b f0 1 600 1",
        ),
        (
            "… to a hidden file",
            &["f /a 600 x", "h /b = /a", "w /a"],
            "b f0 1 600 1",
        ),
        (
            "… to a link to it",
            &["f /a 600 x\nh /b = /a\nh /c = /b"],
            "a f0 1 600 3; b f0 1 600 3; c f0 1 600 3",
        ),
        (
            "… before its target",
            &["h /b = /a\nf /a 600 x"],
            "a f0 1 600 2; b f0 1 600 2",
        ),
        (
            "… to itself means the one before",
            &["f /a 600 x", "h /a = /a"],
            "a f0 1 600 1",
        ),
        (
            "… to a symlink",
            &["l /a -> x\nh /b = /a"],
            "a l x 777 2; b l x 777 2",
        ),
        (
            "devices leave nothing, and hide",
            &["f /null 600 x", "c /null 1 3"],
            "",
        ),
        (
            "a file hides the entries that its own layer puts below it",
            &["f /a 600 x\nf /a/b 600 y"],
            "a f0 1 600 1",
        ),
    ] {
        assert_eq!(merged(layers), expected, "{rule}");
    }
}

#[test]
fn many_links_to_a_path_with_many_entries_are_no_work() {
    const MANY: usize = 200_000;
    let one = entries("f /a 600 x");
    let entry = |path: String, kind| Entry {
        path: path.into_bytes(),
        kind,
        ..one[0].clone()
    };
    let link = |number| entry(format!("{number}"), Kind::HardLink(b"a".to_vec()));
    let links: Vec<_> = (0..MANY).map(link).collect();
    let many = vec![one[0].clone(); MANY];
    let whiteouts = vec![entry("a".to_string(), Kind::Whiteout); MANY];
    // Minutes, were each link to look at each entry, or a link that leads nowhere yet at each path.
    for layers in [
        [many.clone(), links.clone()],
        [[one.clone(), links.clone()].concat(), many],
        [one.clone(), [whiteouts, links].concat()],
    ] {
        let tree = merge(&layers).unwrap();
        assert!(tree.entries(0).count() >= MANY);
    }
}

#[test]
fn links_that_cannot_be() {
    for (layers, why) in [
        (&["h /a = /b"][..], "hard link to nothing"),
        (&["h /a = /a"], "hard link to nothing"),
        (&["h /a = /b\nh /b = /a"], "in a circle"),
        (&["d /d 755\nh /a = /d"], "hard link to a directory"),
        (&["w /b\nh /a = /b"], "hard link to nothing"),
    ] {
        let layers: Vec<_> = layers.iter().map(|text| entries(text)).collect();
        let error = merge(&layers)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn missing_places_are_added_where_nothing_is() {
    for (layers, path, expected) in [
        (&["f /a 600 x"][..], "proc", "a f0 1 600 1; proc d 711 0"),
        (&["f /a 600 x"], "a", "a f0 1 600 1"),
        (&["f /a 600 x"], "a/b", "a f0 1 600 1"),
        (&["l /var -> v"], "var/tmp", "var l v 777 1"),
        (&["d /var 700"], "var/tmp", "var d 700 0; var/tmp d 711 0"),
        (&[], "var/tmp", "var d 755 0; var/tmp d 711 0"),
        (&["d /tmp 700", "w /tmp"], "tmp", "tmp d 711 0"),
        (&["d /tmp 700"], "tmp", "tmp d 700 0"),
        (
            &["f /x/tmp 600 a", "o /x"],
            "x/tmp",
            "x d 755 0; x/tmp d 711 0",
        ),
        (&["c /dev 1 3"], "dev", ""),
    ] {
        let mut builder = Builder::new(layers.len()).unwrap();
        for layer in layers.iter().rev() {
            builder.layer();
            entries(layer)
                .iter()
                .for_each(|entry| builder.add(entry).unwrap());
        }
        builder
            .add_missing(path.as_bytes(), Kind::Directory, 0o711)
            .unwrap();
        let lines = show(&builder.finish().unwrap()).into_iter().skip(1);
        let all: Vec<_> = lines.map(|(path, what)| format!("{path} {what}")).collect();
        assert_eq!(all.join("; "), expected, "{path} over {layers:?}");
    }
}

/// The naive model: layers applied one after the other to a map, as if they were unpacked.
#[derive(Clone, Debug)]
enum Thing {
    Directory(u16),
    Leaf(u32),
}

fn apply(layers: &[Vec<Entry>]) -> BTreeMap<Vec<u8>, Thing> {
    let mut map: BTreeMap<Vec<u8>, Thing> = BTreeMap::new();
    let under = |path: &[u8], directory: &[u8]| {
        directory.is_empty()
            || path
                .strip_prefix(directory)
                .is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    let mut next = 0;
    for layer in layers {
        // Whiteouts act on what is below, so they come first.
        for entry in layer {
            match entry.kind {
                Kind::Whiteout => {
                    map.retain(|path, _| *path != entry.path && !under(path, &entry.path))
                }
                Kind::Opaque => map.retain(|path, _| !under(path, &entry.path)),
                _ => {}
            }
        }
        // What this layer itself has as files hides its own entries below them.
        let last = |wanted: &[u8]| {
            layer.iter().rfind(|entry| {
                entry.path == wanted && !matches!(entry.kind, Kind::Whiteout | Kind::Opaque)
            })
        };
        let ancestors = |path: &[u8]| -> Vec<Vec<u8>> {
            (0..path.len())
                .filter(|&at| path[at] == b'/')
                .map(|at| path[..at].to_vec())
                .collect()
        };
        for (index, entry) in layer.iter().enumerate() {
            next += 1;
            if matches!(entry.kind, Kind::Whiteout | Kind::Opaque) {
                continue;
            }
            for parent in ancestors(&entry.path) {
                if !matches!(map.get(&parent), Some(Thing::Directory(_))) {
                    map.insert(parent, Thing::Directory(0o755));
                }
            }
            let is_last = std::ptr::eq(last(&entry.path).unwrap(), entry);
            let thing = match &entry.kind {
                Kind::Directory => Thing::Directory(entry.attributes.mode),
                _ => Thing::Leaf(next),
            };
            if matches!(thing, Thing::Leaf(_)) && is_last {
                map.retain(|path, _| !under(path, &entry.path));
            }
            if is_last {
                map.insert(entry.path.clone(), thing);
            }
            let _ = index;
        }
        // Entries below this layer's own files never become visible.
        let hidden: Vec<_> = map
            .keys()
            .filter(|path| {
                ancestors(path)
                    .iter()
                    .any(|parent| last(parent).is_some_and(|entry| entry.kind != Kind::Directory))
            })
            .cloned()
            .collect();
        for path in hidden {
            map.remove(&path);
        }
        for entry in layer {
            if let Some(last) = last(&entry.path)
                && last.kind != Kind::Directory
                && matches!(map.get(&entry.path), Some(Thing::Directory(_)))
            {
                let number = layers
                    .iter()
                    .flatten()
                    .position(|other| std::ptr::eq(other, last))
                    .unwrap();
                map.insert(entry.path.clone(), Thing::Leaf(number as u32 + 1));
            }
        }
    }
    map
}

fn any_layer() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let kind = prop_oneof![
        4 => Just(Kind::File(Content::default())),
        3 => Just(Kind::Directory),
        1 => Just(Kind::Fifo),
        2 => Just(Kind::Whiteout),
        1 => Just(Kind::Opaque),
    ];
    let entry = (path, kind, 0u16..8).prop_map(|(path, kind, mode)| Entry {
        path: path.into_bytes(),
        kind,
        attributes: Attributes {
            mode: 0o700 + mode,
            ..Attributes::default()
        },
        xattrs: Vec::new(),
        hints: Vec::new(),
    });
    prop::collection::vec(entry, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_stack_is_what_unpacking_gives(mut layers in prop::collection::vec(any_layer(), 1..5)) {
        // Every leaf says which entry it is.
        for (number, entry) in layers.iter_mut().flatten().enumerate() {
            if entry.kind != Kind::Directory {
                entry.attributes.mtime = number as u32 + 1;
            }
        }
        let tree = merge(&layers).unwrap();
        let mut seen = BTreeMap::new();
        tree.walk(&mut |path, number| {
            if path.is_empty() {
                return;
            }
            let inode = tree.inode(number).unwrap();
            let text = match inode.body {
                Body::Directory { .. } => format!("d {:o}", inode.attributes.mode),
                _ => format!("leaf {}", inode.attributes.mtime),
            };
            seen.insert(path.to_vec(), text);
        });
        let expected: BTreeMap<_, _> = apply(&layers)
            .into_iter()
            .map(|(path, thing)| (path, match thing {
                Thing::Directory(mode) => format!("d {mode:o}"),
                Thing::Leaf(number) => format!("leaf {number}"),
            }))
            .collect();
        prop_assert_eq!(seen, expected);
    }
}
