use super::*;
use crate::squashfs::read::{self, Image};

/// What one inode of a [`Flat`] tree is.
enum Node {
    Directory(Vec<(Vec<u8>, u32)>),
    /// Size and the words of its blocks; nothing is stored anywhere.
    File(u64, u64, Vec<u32>),
    Link(Vec<u8>),
}

/// A tree as a list: inode, owner, links, xattrs.
struct Flat {
    nodes: Vec<(Node, u32, u32, Option<u32>)>,
    xattrs: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Tree for Flat {
    fn inodes(&self) -> u32 {
        self.nodes.len() as u32
    }
    fn inode(&self, number: u32) -> Option<Inode<'_>> {
        let (node, uid, links, xattrs) = self.nodes.get(number as usize)?;
        Some(Inode {
            mode: 0o755,
            uid: *uid,
            gid: 0,
            mtime: 1,
            links: *links,
            xattrs: *xattrs,
            body: match node {
                Node::Directory(_) => Body::Directory { parent: 0 },
                Node::File(size, start, blocks) => Body::File {
                    size: *size,
                    start: *start,
                    blocks,
                    tail: None,
                },
                Node::Link(target) => Body::Symlink(target),
            },
        })
    }
    fn entries(&self, directory: u32) -> Box<dyn Iterator<Item = (&[u8], u32)> + '_> {
        match &self.nodes[directory as usize].0 {
            Node::Directory(entries) => {
                Box::new(entries.iter().map(|(name, inode)| (&name[..], *inode)))
            }
            _ => Box::new(std::iter::empty()),
        }
    }
    fn xattrs(&self) -> &[Vec<(Vec<u8>, Vec<u8>)>] {
        &self.xattrs
    }
}

const OPTIONS: Options = Options {
    block_size: 128 << 10,
    level: 3,
    mkfs_time: 0,
};

fn written(tree: &Flat) -> Result<Image> {
    let file = tempfile::tempfile().unwrap();
    write(&file, DATA_START, tree, &[], &[], &OPTIONS)?;
    Image::open(file, read::Options::named("test"))
}

/// A root that lists all other nodes by number.
fn flat(nodes: Vec<(Node, u32, u32, Option<u32>)>, name: impl Fn(usize) -> String) -> Flat {
    let entries = (1..=nodes.len())
        .map(|n| (name(n).into_bytes(), n as u32))
        .collect();
    let mut all = vec![(Node::Directory(entries), 0, 2, None)];
    all.extend(nodes);
    Flat {
        nodes: all,
        xattrs: Vec::new(),
    }
}

#[test]
fn an_empty_image() {
    let image = written(&flat(Vec::new(), |_| String::new())).unwrap();
    assert_eq!(image.dump(false).unwrap(), "d 0755 0:0 0 1 2 /\n");
}

#[test]
fn large_directories_have_an_index() {
    let name = |n: usize| format!("{n:06}-{}", "x".repeat(n % 200));
    let nodes = (0..40_000)
        .map(|n| (Node::Link(vec![b'a'; 1 + n % 9]), 0, 1, None))
        .collect();
    let image = written(&flat(nodes, name)).unwrap();
    let root = image.inode(image.root()).unwrap();
    assert!(
        root.size() > 3 << 20,
        "the listing spans many metadata blocks"
    );
    for n in (1..=40_000).step_by(97).chain([1, 2, 40_000]) {
        let found = image
            .lookup(&root, name(n).as_bytes())
            .unwrap()
            .expect("listed name");
        assert_eq!(image.inode(found).unwrap().number, n as u32 + 1);
    }
    for missing in ["", "0", "000000", "000001", "999999", "020001-"] {
        assert!(
            image.lookup(&root, missing.as_bytes()).unwrap().is_none(),
            "{missing}"
        );
    }
    let mut listed = 0;
    image
        .walk(|_, _| {
            listed += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(listed, 40_001);
}

#[test]
fn what_basic_inodes_cannot_hold() {
    let far = 5u64 << 30;
    let huge = 9u64 << 30;
    let blocks = (huge / (128 << 10)) as usize;
    let nodes = vec![
        (Node::File(huge, 0, vec![0; blocks]), 0, 1, None),
        (Node::File(0, far, Vec::new()), 0, 1, None),
        (Node::Link(b"target".to_vec()), 0, 1, Some(1)),
        (Node::File(0, 0, Vec::new()), 0, 3, Some(0)),
    ];
    let mut tree = flat(nodes, |n| n.to_string());
    tree.xattrs = vec![
        vec![
            (b"long".to_vec(), vec![b'v'; 40_000]),
            (b"x".to_vec(), Vec::new()),
        ],
        vec![(b"other".to_vec(), b"1".to_vec())],
    ];
    let image = written(&tree).unwrap();
    let text = image.dump(false).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], format!("f 0755 0:0 {huge} 1 1 /1"));
    assert_eq!(lines[2], "f 0755 0:0 0 1 1 /2");
    assert_eq!(lines[3], "l 0755 0:0 6 1 1 /3 -> target user.other=1");
    assert_eq!(
        lines[4],
        format!(
            "f 0755 0:0 0 1 3 /4 user.long={} user.x=",
            "v".repeat(40_000)
        )
    );
}

/// Data and all tables lie behind 4 GiB; what is before them is a hole of the file.
#[test]
fn an_image_of_more_than_four_gibibytes() {
    let block = 128 << 10;
    let raw = crate::squashfs::read::tests::noise(block, 3);
    let start = (4u64 << 30) - 1000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("far");
    let file = File::create(&path).unwrap();
    file.write_all_at(&raw, start).unwrap();
    let stored = crate::squashfs::format::DATA_UNCOMPRESSED | block as u32;
    let far = vec![stored];
    let nodes = vec![
        (Node::File(block as u64, start, far.clone()), 7, 1, None),
        (Node::File(block as u64, start, far), 70_000, 2, Some(0)),
        (Node::Link(b"target".to_vec()), 0, 1, Some(0)),
    ];
    let mut tree = flat(nodes, |n| n.to_string());
    tree.xattrs = vec![vec![(b"name".to_vec(), b"value".to_vec())]];
    write(&file, 5 << 30, &tree, &[], &[], &OPTIONS).unwrap();
    let file = File::open(&path).unwrap();
    let image = Image::open(file, read::Options::named("far")).unwrap();
    for name in ["/1", "/2"] {
        let inode = image.find(name.as_bytes()).unwrap().unwrap();
        let mut seen = vec![0; block];
        image.read_at(&inode, 0, &mut seen).unwrap();
        assert!(seen == raw, "{name}");
    }
    if read::tests::have("unsquashfs") {
        let seen = std::process::Command::new("unsquashfs")
            .arg("-cat")
            .args([path.as_os_str(), "2".as_ref()])
            .output()
            .unwrap();
        assert!(
            seen.stdout == raw,
            "{}",
            String::from_utf8_lossy(&seen.stderr)
        );
    }
}

#[test]
fn ids_have_a_limit() {
    let tree = |count: u32| {
        let nodes = (0..count)
            .map(|n| (Node::Link(b"x".to_vec()), n, 1, None))
            .collect();
        flat(nodes, |n| format!("{n:06}"))
    };
    let image = written(&tree(65_535)).unwrap();
    let last = image.find(b"/065535").unwrap().unwrap();
    assert_eq!(last.uid, 65_534);
    let error = written(&tree(65_536)).err().unwrap().to_string();
    assert!(error.contains("65535 different ids"), "{error}");
}
