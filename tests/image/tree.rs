//! What an image holds, path by path, as its readers see it: one value, so that two readers can be compared.

use super::layout::sha256;
use super::text::shown;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Path from the root, without a leading slash; the root itself is empty.
pub type Tree = BTreeMap<Vec<u8>, Node>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `d f l c b p s`.
    pub kind: char,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: i64,
    /// Of a file its bytes, of a link its target's; nothing for the others.
    pub size: u64,
    pub target: Vec<u8>,
    /// Digest of the content; empty where the reader gives none.
    pub content: String,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same inode; a file of its own names itself.
    pub inode: Vec<u8>,
    pub links: u64,
    pub device: (u32, u32),
}

impl Node {
    pub fn new(kind: char, path: &[u8]) -> Node {
        Node {
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            target: Vec::new(),
            content: String::new(),
            xattrs: BTreeMap::new(),
            inode: path.to_vec(),
            links: 1,
            device: (0, 0),
        }
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} {:04o} {}:{} @{} size={} links={} inode={}",
            self.kind,
            self.mode,
            self.uid,
            self.gid,
            self.mtime,
            self.size,
            self.links,
            shown(&self.inode)
        )?;
        if self.kind == 'l' {
            write!(out, " -> {}", shown(&self.target))?;
        }
        if matches!(self.kind, 'c' | 'b') {
            write!(out, " {},{}", self.device.0, self.device.1)?;
        }
        if let Some(hex) = self.content.get(7..19) {
            write!(out, " {hex}")?;
        }
        for (name, value) in &self.xattrs {
            write!(out, " {}={}", shown(name), shown(value))?;
        }
        Ok(())
    }
}

/// Reads a tree through the kernel: a directory, or an image that somebody mounted there.
pub fn of_directory(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut inodes = BTreeMap::new();
    visit(root, root, &mut tree, &mut inodes);
    first_names(&mut tree);
    tree
}

fn visit(root: &Path, path: &Path, tree: &mut Tree, inodes: &mut BTreeMap<u64, Vec<u8>>) {
    let name = path
        .strip_prefix(root)
        .unwrap()
        .as_os_str()
        .as_bytes()
        .to_vec();
    let say = |error| panic!("{}: {error}", path.display());
    let meta = path.symlink_metadata().unwrap_or_else(say);
    let mut node = Node::new(kind_of(meta.mode()), &name);
    node.mode = meta.mode() & 0o7777;
    node.uid = meta.uid().into();
    node.gid = meta.gid().into();
    node.mtime = meta.mtime();
    match node.kind {
        'f' => {
            node.size = meta.len();
            node.content = sha256(&std::fs::read(path).unwrap());
        }
        'l' => {
            let target = std::fs::read_link(path).unwrap();
            node.target = target.into_os_string().into_vec();
            node.size = node.target.len() as u64;
        }
        'c' | 'b' => {
            let device = meta.rdev();
            node.device = (libc::major(device), libc::minor(device));
        }
        _ => {}
    }
    node.xattrs = xattrs(path);
    node.links = meta.nlink();
    if node.kind != 'd' {
        node.inode = inodes.entry(meta.ino()).or_insert(name.clone()).clone();
    }
    let is_directory = node.kind == 'd';
    tree.insert(name, node);
    if is_directory {
        let mut children: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        children.sort();
        for child in children {
            visit(root, &child, tree, inodes);
        }
    }
}

fn kind_of(mode: u32) -> char {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFREG => 'f',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        _ => 's',
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]) {
                Ok(length) => value.truncate(length),
                // Listed, but not given: a difference to show.
                Err(error) => value = format!("({error})").into_bytes(),
            }
            (name.to_vec(), value)
        })
        .collect()
}

/// Reads a tree with our own reader.
pub fn of_image(file: &Path) -> Tree {
    use carrack::squashfs::read::{Content, Image, Options};
    let opened = std::fs::File::open(file).unwrap();
    let image = Image::open(opened, Options::default()).unwrap();
    let mut tree = Tree::new();
    let mut inodes: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    image
        .walk(|path, inode| {
            let name = path.strip_prefix(b"/").unwrap_or(path).to_vec();
            let mut node = Node::new(inode.kind.letter(), &name);
            node.mode = inode.mode.into();
            (node.uid, node.gid) = (inode.uid.into(), inode.gid.into());
            node.mtime = inode.mtime.into();
            node.links = inode.links.into();
            node.xattrs = image.xattrs(inode)?.into_iter().collect();
            match &inode.content {
                Content::File(_) => {
                    node.size = inode.size();
                    let mut content = Vec::new();
                    image.read_all(inode, &mut |bytes| {
                        content.extend(bytes);
                        Ok(())
                    })?;
                    node.content = sha256(&content);
                }
                Content::Symlink { .. } => {
                    node.target = image.read_link(inode)?;
                    node.size = inode.size();
                }
                Content::Device { major, minor } => node.device = (*major, *minor),
                _ => {}
            }
            if node.kind != 'd' {
                let first = inodes.entry(inode.number).or_insert(name.clone());
                node.inode = first.clone();
            }
            tree.insert(name, node);
            Ok(())
        })
        .unwrap();
    first_names(&mut tree);
    tree
}

/// Gives every inode the first path that leads to it, in order of paths; says how many paths each has.
fn first_names(tree: &mut Tree) -> BTreeMap<Vec<u8>, u64> {
    let mut first: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut count = BTreeMap::new();
    for (path, node) in tree.iter_mut() {
        let name = first.entry(node.inode.clone()).or_insert(path.clone());
        node.inode = name.clone();
        *count.entry(name.clone()).or_default() += 1;
    }
    count
}

/// Names the inodes and counts their links, as they should be.
pub fn name_inodes(tree: &mut Tree) {
    let count = first_names(tree);
    let mut subdirectories: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for (path, node) in tree.iter().filter(|(path, _)| !path.is_empty()) {
        if node.kind == 'd' {
            let parent = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
            *subdirectories.entry(path[..parent].to_vec()).or_default() += 1;
        }
    }
    for (path, node) in tree.iter_mut() {
        if node.kind == 'd' {
            node.links = 2 + subdirectories.get(path).copied().unwrap_or(0);
            continue;
        }
        node.links = count[&node.inode];
    }
}

/// All differences, one a line: the path, then both sides.
pub fn differences(one: (&str, &Tree), other: (&str, &Tree)) -> Vec<String> {
    let mut found = Vec::new();
    let paths: std::collections::BTreeSet<&Vec<u8>> = one.1.keys().chain(other.1.keys()).collect();
    let side = |node: Option<&Node>| node.map_or("absent".to_string(), Node::to_string);
    for path in paths {
        let (left, right) = (one.1.get(path), other.1.get(path));
        if left != right {
            found.push(format!(
                "/{}\n  {:<12} {}\n  {:<12} {}",
                shown(path),
                one.0,
                side(left),
                other.0,
                side(right)
            ));
        }
    }
    found
}
