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

    fn items_of(&self, node: u32) -> impl Iterator<Item = (u32, &Item)> {
        let mut at = self
            .nodes
            .get(node as usize)
            .map_or(NONE, |node| node.newest);
        std::iter::from_fn(move || {
            let item = self.items.get(at as usize)?;
            let index = at;
            at = item.older;
            Some((index, item))
        })
    }

    /// What is visible at a node when layers below `floor` are hidden.
    fn see(&self, node: u32, mut floor: u16) -> Seen {
        let (mut opaque, mut winner) = (0, None);
        let mut nondirectory_below = None;
        let mut metadata = NONE;
        let mut last_layer = None;
        for (_, item) in self.items_of(node) {
            match item.what {
                What::Whiteout => floor = floor.max(item.layer),
                What::Opaque => opaque = opaque.max(item.layer),
                _ => {}
            }
        }
        for (index, item) in self.items_of(node) {
            if item.layer < floor {
                break;
            }
            if matches!(item.what, What::Whiteout | What::Opaque) || last_layer == Some(item.layer)
            {
                continue;
            }
            last_layer = Some(item.layer);
            if winner.is_none() {
                winner = Some((index, item));
            }
            if item.what == What::Directory {
                if metadata == NONE {
                    metadata = index;
                }
            } else {
                nondirectory_below = Some(item.layer);
                break;
            }
        }
        let implied = self.nodes.get(node as usize).map_or(0, |node| node.implied);
        let is_directory = match winner {
            Some((_, item)) if item.what == What::Directory => true,
            Some((_, item)) => implied > item.layer + 1,
            None => implied > floor,
        };
        match winner {
            _ if is_directory => Seen::Directory {
                metadata,
                floor: floor
                    .max(opaque)
                    .max(nondirectory_below.map_or(0, |layer| layer + 1)),
            },
            Some((item, _)) => Seen::Leaf { item },
            None => Seen::Nothing,
        }
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

    /// Follows a hard link to the item that is the inode.
    fn resolve(&self, link: u32) -> Result<u32> {
        let mut at = link;
        for _ in 0..MAX_HOPS {
            let Some(item) = self.items.get(at as usize) else {
                break;
            };
            if item.what != What::HardLink {
                return Ok(at);
            }
            let real = |item: &Item| !matches!(item.what, What::Whiteout | What::Opaque);
            let before = self
                .items_of(item.b)
                .find(|&(index, other)| index < at && real(other));
            // A link that stands before its target in its own layer is odd, but clear.
            let target = before.or_else(|| {
                self.items_of(item.b)
                    .find(|&(index, other)| index != at && other.layer == item.layer && real(other))
            });
            match target {
                Some((index, _)) => at = index,
                None => {
                    return Err(
                        Error::new("the image has a hard link to nothing").cause(format!(
                            "no layer has `{}`, to which `{}` should link",
                            self.path_text(item.b),
                            self.path_of_item(link)
                        )),
                    );
                }
            }
        }
        Err(Error::new("the image has hard links in a circle")
            .cause(format!("at `{}`", self.path_of_item(link))))
    }

    fn path_text(&self, node: u32) -> String {
        display(&path_of(&self.nodes, &self.bytes, node))
    }

    /// For errors only: looks everywhere.
    fn path_of_item(&self, item: u32) -> String {
        (0..self.nodes.len() as u32)
            .find(|&node| self.items_of(node).any(|(index, _)| index == item))
            .map(|node| self.path_text(node))
            .unwrap_or_default()
    }

    /// Decides what is visible.
    pub fn finish(mut self) -> Result<Tree> {
        self.lookup = HashMap::new();
        self.xattr_lookup = HashMap::new();
        let mut slots: Vec<Slot> = Vec::new();
        let mut entries: Vec<(u32, u32)> = Vec::new();
        let mut devices = 0;
        let mut inode_of: HashMap<u32, u32> = HashMap::new();
        let linked: std::collections::HashSet<u32> = self
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| item.what == What::HardLink)
            .filter_map(|(index, _)| self.resolve(index as u32).ok())
            .collect();
        let (metadata, floor) = match self.see(0, 0) {
            Seen::Directory { metadata, floor } => (metadata, floor),
            _ => (NONE, 0),
        };
        slots.push(Slot::new(metadata, 0));
        // Depth first; a directory's entries get consecutive numbers.
        let mut open = vec![(0u32, 0u32, floor)];
        let mut names: Vec<u32> = Vec::new();
        while let Some((node, inode, floor)) = open.pop() {
            names.clear();
            let mut child = self
                .nodes
                .get(node as usize)
                .map_or(NONE, |node| node.first_child);
            while let Some(next) = self.nodes.get(child as usize) {
                names.push(child);
                child = next.sibling;
            }
            names.sort_unstable_by_key(|&name| {
                self.nodes
                    .get(name as usize)
                    .map(|node| name_of(&self.bytes, node))
            });
            let first = entries.len() as u32;
            let mut subdirectories = 0;
            let opened = open.len();
            for &name in &names {
                let next = slots.len() as u32;
                match self.see(name, floor) {
                    Seen::Nothing => {}
                    Seen::Directory { metadata, floor } => {
                        slots.push(Slot::new(metadata, inode));
                        entries.push((name, next));
                        open.push((name, next, floor));
                        subdirectories += 1;
                    }
                    Seen::Leaf { item } => {
                        let item = self.resolve(item)?;
                        let what = self.items.get(item as usize).map(|item| item.what);
                        if what == Some(What::Device) {
                            devices += 1;
                            continue;
                        }
                        if what == Some(What::Directory) {
                            return Err(Error::new("the image has a hard link to a directory")
                                .cause(format!("`{}`", self.path_text(name))));
                        }
                        let inode = match inode_of.get(&item) {
                            Some(&known) => known,
                            None => {
                                slots.push(Slot::new(item, 0));
                                if linked.contains(&item) {
                                    inode_of.insert(item, next);
                                }
                                next
                            }
                        };
                        if let Some(slot) = slots.get_mut(inode as usize) {
                            slot.links += 1;
                        }
                        entries.push((name, inode));
                    }
                }
            }
            // The stack gives back the last first: this keeps directories in the order of their names.
            if let Some(new) = open.get_mut(opened..) {
                new.reverse();
            }
            if let Some(slot) = slots.get_mut(inode as usize) {
                slot.entries = first;
                slot.count = entries.len() as u32 - first;
                slot.links = 2 + subdirectories;
            }
        }
        Ok(Tree {
            nodes: self.nodes,
            items: self.items,
            bytes: self.bytes,
            xattrs: self.xattrs,
            hints: self.hints,
            slots,
            entries,
            devices,
        })
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

impl Tree {
    pub fn inodes(&self) -> u32 {
        self.slots.len() as u32
    }

    /// All sets of extended attributes that entries have, used or not.
    pub fn xattrs(&self) -> &[Xattrs] {
        &self.xattrs
    }

    pub fn inode(&self, inode: u32) -> Option<Inode<'_>> {
        let slot = self.slots.get(inode as usize)?;
        let item = self.items.get(slot.item as usize);
        let is_directory = slot.count != NONE;
        let attributes = match item {
            Some(item) => item.attributes,
            None => Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
        };
        let content = |run, tail| Body::File {
            layer: item.map_or(0, |item| item.layer.into()),
            content: Content {
                size: item.map_or(0, |item| item.size),
                run,
                tail,
            },
        };
        let body = match item {
            _ if is_directory => Body::Directory {
                parent: slot.parent,
            },
            Some(item) => match item.what {
                What::Run => content(Some(item.a), None),
                What::Tail => content(None, Some((item.a, item.b))),
                What::Empty => content(None, None),
                What::Symlink => {
                    let at = item.a as usize;
                    Body::Symlink(self.bytes.get(at..at + item.size as usize)?)
                }
                What::Fifo => Body::Fifo,
                _ => return None,
            },
            None => return None,
        };
        Some(Inode {
            attributes,
            links: slot.links,
            xattrs: item.map(|item| item.xattrs).filter(|&set| set != NONE),
            body,
        })
    }

    /// A directory's entries: name and inode, sorted by name.
    pub fn entries(&self, directory: u32) -> impl Iterator<Item = (&[u8], u32)> {
        let range = self
            .slots
            .get(directory as usize)
            .filter(|slot| slot.count != NONE);
        let (at, count) = range.map_or((0, 0), |slot| (slot.entries as usize, slot.count as usize));
        self.entries
            .get(at..at + count)
            .unwrap_or_default()
            .iter()
            .filter_map(|&(node, inode)| {
                Some((name_of(&self.bytes, self.nodes.get(node as usize)?), inode))
            })
    }

    /// What its content told of the software it is.
    pub fn hints(&self, inode: u32) -> &[String] {
        self.slots
            .get(inode as usize)
            .and_then(|slot| self.hints.get(&slot.item))
            .map_or(&[], Vec::as_slice)
    }

    /// Every path with its inode, in no promised order; the root is the empty path.
    pub fn walk(&self, visit: &mut dyn FnMut(&[u8], u32)) {
        visit(b"", 0);
        for &(node, inode) in &self.entries {
            visit(&path_of(&self.nodes, &self.bytes, node), inode);
        }
    }

    /// Every name with its inode, cheaper than [`Tree::walk`]; the path is made on demand.
    pub fn names(&self) -> impl Iterator<Item = (&[u8], u32, u32)> {
        self.entries.iter().filter_map(|&(node, inode)| {
            Some((
                name_of(&self.bytes, self.nodes.get(node as usize)?),
                inode,
                node,
            ))
        })
    }

    pub fn path(&self, node: u32) -> Vec<u8> {
        path_of(&self.nodes, &self.bytes, node)
    }
}

#[cfg(test)]
mod tests;
