//! The merge: what layers say of paths → the one tree that a container sees. Pure; entries in, a [`Tree`] out.
//!
//! All entries of all layers go into one trie of paths, lowest layer first; a walk from the root then decides what is
//! visible. A path is hidden by whatever upper layers put in its place, whited out or made opaque above it:
//! - the topmost layer wins; inside a layer the last entry of a path does, whatever the order of its whiteouts;
//! - a layer's whiteouts and opaque marks act only on layers strictly below;
//! - a directory above a file above a directory hides the lowest directory's content;
//! - a directory has the metadata of the topmost layer that lists it, or 0755 root of 1970 when none does;
//! - a hard link means the inode that its target was when the link was made: an entry before it in its layer, else in
//!   the layers below. Overriding the target later does not change the link.
//!
//! Everything is held in flat tables with 32-bit indexes: some 100 bytes for each entry.

mod decide;
mod view;

use crate::error::{Error, Result};
use crate::image::entry::{Attributes, Content, Entry, Kind, MAX_ENTRIES, Xattrs, display};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

const NONE: u32 = u32::MAX;
/// Names and targets of one image.
const MAX_BYTES: usize = 1 << 30;
/// Links to links to links.
const MAX_HOPS: usize = 256;
/// As many layers as fit into the tables; registries stop at 127.
const MAX_LAYERS: usize = 4096;

/// One path of the trie, in whatever layers.
struct Node {
    parent: u32,
    name_at: u32,
    first_child: u32,
    sibling: u32,
    /// The newest item; items point to older ones.
    newest: u32,
    /// One more than the highest layer that has something below this path; 0 for none.
    implied: u16,
    name_length: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Directory,
    Run,
    Tail,
    Empty,
    Symlink,
    Fifo,
    Device,
    /// `b` is the target's node.
    HardLink,
    Whiteout,
    Opaque,
}

/// What one layer says of one path.
struct Item {
    older: u32,
    attributes: Attributes,
    xattrs: u32,
    size: u64,
    a: u32,
    b: u32,
    layer: u16,
    what: What,
}

/// Collects entries, then decides.
pub struct Builder {
    nodes: Vec<Node>,
    items: Vec<Item>,
    bytes: Vec<u8>,
    /// Hash of parent and name → node; collisions are resolved by probing.
    lookup: HashMap<u64, u32>,
    hasher: RandomState,
    xattrs: Vec<Xattrs>,
    xattr_lookup: HashMap<Xattrs, u32>,
    hints: HashMap<u32, Vec<String>>,
    layers: u16,
}

/// What an inode is, as [`Tree::inode`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    Directory {
        parent: u32,
    },
    /// Content in the pack of this layer.
    File {
        layer: usize,
        content: Content,
    },
    Symlink(&'a [u8]),
    Fifo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode<'a> {
    pub attributes: Attributes,
    pub links: u32,
    /// Index into [`Tree::xattrs`].
    pub xattrs: Option<u32>,
    pub body: Body<'a>,
}

/// An inode's place in the tables.
struct Slot {
    item: u32,
    links: u32,
    /// Directories: where their entries start, how many, and their parent.
    entries: u32,
    count: u32,
    parent: u32,
}

/// The merged tree. Inodes are numbered from 0, the root; every directory's entries are sorted by name.
pub struct Tree {
    nodes: Vec<Node>,
    items: Vec<Item>,
    bytes: Vec<u8>,
    xattrs: Vec<Xattrs>,
    hints: HashMap<u32, Vec<String>>,
    slots: Vec<Slot>,
    entries: Vec<(u32, u32)>,
    /// Device nodes that would be visible.
    pub devices: u64,
}

/// What is at a path below a floor of visible layers.
enum Seen {
    Nothing,
    Leaf { item: u32 },
    Directory { metadata: u32, floor: u16 },
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    pub fn new() -> Builder {
        let root = Node {
            parent: NONE,
            name_at: 0,
            first_child: NONE,
            sibling: NONE,
            newest: NONE,
            implied: 1,
            name_length: 0,
        };
        Builder {
            nodes: vec![root],
            items: Vec::new(),
            bytes: Vec::new(),
            lookup: HashMap::new(),
            hasher: RandomState::new(),
            xattrs: Vec::new(),
            xattr_lookup: HashMap::new(),
            hints: HashMap::new(),
            layers: 0,
        }
    }

    /// Starts the next layer up.
    pub fn layer(&mut self) -> Result<()> {
        if usize::from(self.layers) >= MAX_LAYERS {
            return Err(Error::new("the image has too many layers")
                .cause(format!("the limit is {MAX_LAYERS}")));
        }
        self.layers += 1;
        Ok(())
    }

    /// Takes the next entry of the current layer.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        let layer = self.layers.saturating_sub(1);
        let node = self.node(&entry.path)?;
        let (mut size, mut a, mut b) = (0, NONE, NONE);
        let what = match &entry.kind {
            Kind::Directory => What::Directory,
            Kind::File(content) => {
                size = content.size;
                match (content.run, content.tail) {
                    (Some(run), _) => {
                        a = run;
                        What::Run
                    }
                    (None, Some((fragment, offset))) => {
                        (a, b) = (fragment, offset);
                        What::Tail
                    }
                    (None, None) => What::Empty,
                }
            }
            Kind::Symlink(target) => {
                size = target.len() as u64;
                a = self.bytes(target)?;
                What::Symlink
            }
            Kind::Fifo => What::Fifo,
            Kind::Device => What::Device,
            Kind::HardLink(target) => {
                b = self.node(target)?;
                What::HardLink
            }
            Kind::Whiteout => What::Whiteout,
            Kind::Opaque => What::Opaque,
        };
        let item = self.items.len() as u32;
        let xattrs = self.xattrs(&entry.xattrs);
        if !entry.hints.is_empty() {
            self.hints.insert(item, entry.hints.clone());
        }
        let older = match self.nodes.get_mut(node as usize) {
            Some(node) => std::mem::replace(&mut node.newest, item),
            None => NONE,
        };
        self.items.push(Item {
            older,
            attributes: entry.attributes,
            xattrs,
            size,
            a,
            b,
            layer,
            what,
        });
        if !matches!(what, What::Whiteout | What::Opaque) {
            self.imply(node, layer);
        }
        Ok(())
    }

    /// Tells the directories above that `layer` has something in them.
    fn imply(&mut self, node: u32, layer: u16) {
        let mut at = self
            .nodes
            .get(node as usize)
            .map_or(NONE, |node| node.parent);
        while let Some(node) = self.nodes.get_mut(at as usize) {
            if node.implied > layer {
                break;
            }
            node.implied = layer + 1;
            at = node.parent;
        }
    }

    fn xattrs(&mut self, xattrs: &Xattrs) -> u32 {
        if xattrs.is_empty() {
            return NONE;
        }
        let mut sorted = xattrs.clone();
        sorted.sort();
        let next = self.xattrs.len() as u32;
        *self.xattr_lookup.entry(sorted).or_insert_with_key(|set| {
            self.xattrs.push(set.clone());
            next
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<u32> {
        let at = self.bytes.len();
        if at + bytes.len() > MAX_BYTES {
            return Err(Error::new("the image has too many names").cause(format!(
                "names and symlink targets are limited to {MAX_BYTES} bytes"
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(at as u32)
    }

    /// The node of a path, made if needed.
    fn node(&mut self, path: &[u8]) -> Result<u32> {
        let mut at = 0;
        for name in path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
        {
            at = match self.child(at, name) {
                Ok(child) => child,
                Err(key) => self.make(at, name, key)?,
            };
        }
        Ok(at)
    }

    /// The child of this name, or the key that a new one gets.
    fn child(&self, parent: u32, name: &[u8]) -> Result<u32, u64> {
        let mut key = self.hasher.hash_one((parent, name));
        while let Some(&found) = self.lookup.get(&key) {
            if self
                .nodes
                .get(found as usize)
                .is_some_and(|node| node.parent == parent && name_of(&self.bytes, node) == name)
            {
                return Ok(found);
            }
            key = key.wrapping_add(1);
        }
        Err(key)
    }

    fn make(&mut self, parent: u32, name: &[u8], key: u64) -> Result<u32> {
        if self.nodes.len() as u64 > 2 * MAX_ENTRIES {
            return Err(Error::new("the image has too many entries")
                .cause(format!("the limit is {} paths", 2 * MAX_ENTRIES)));
        }
        let name_length = u8::try_from(name.len())
            .map_err(|_| Error::new(format!("`{}` is too long a name", display(name))))?;
        let name_at = self.bytes(name)?;
        let node = self.nodes.len() as u32;
        let sibling = match self.nodes.get_mut(parent as usize) {
            Some(parent) => std::mem::replace(&mut parent.first_child, node),
            None => NONE,
        };
        self.nodes.push(Node {
            parent,
            name_at,
            first_child: NONE,
            sibling,
            newest: NONE,
            implied: 0,
            name_length,
        });
        self.lookup.insert(key, node);
        Ok(node)
    }

    /// Whether anything can be put at this path: nothing is there, and directories or nothing above it.
    fn is_free(&self, path: &[u8]) -> bool {
        let (mut at, mut floor) = (0, 0);
        let mut names = path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .peekable();
        while let Some(name) = names.next() {
            match self.see(at, floor) {
                Seen::Directory { floor: inner, .. } => floor = inner,
                Seen::Leaf { .. } => return false,
                Seen::Nothing => return true,
            }
            match self.child(at, name) {
                Ok(child) => at = child,
                Err(_) => return true,
            }
            if names.peek().is_none() {
                return matches!(self.see(at, floor), Seen::Nothing);
            }
        }
        false
    }

    /// Adds an empty directory or file on top of everything where nothing is; says whether it did. The last calls before
    /// [`Builder::finish`].
    pub fn add_missing(&mut self, path: &[u8], kind: Kind, mode: u16) -> Result<bool> {
        if !self.is_free(path) {
            return Ok(false);
        }
        self.add(&Entry {
            path: path.to_vec(),
            kind,
            attributes: Attributes {
                mode,
                ..Attributes::default()
            },
            xattrs: Vec::new(),
            hints: Vec::new(),
        })?;
        Ok(true)
    }
}

impl Slot {
    fn new(item: u32, parent: u32) -> Slot {
        Slot {
            item,
            links: 0,
            entries: 0,
            count: NONE,
            parent,
        }
    }
}

fn name_of<'a>(bytes: &'a [u8], node: &Node) -> &'a [u8] {
    let at = node.name_at as usize;
    bytes
        .get(at..at + usize::from(node.name_length))
        .unwrap_or_default()
}

fn path_of(nodes: &[Node], bytes: &[u8], mut at: u32) -> Vec<u8> {
    let mut names = Vec::new();
    while let Some(node) = nodes.get(at as usize).filter(|node| node.parent != NONE) {
        names.push(name_of(bytes, node));
        at = node.parent;
    }
    names.reverse();
    names.join(&b'/')
}

#[cfg(test)]
mod tests;
