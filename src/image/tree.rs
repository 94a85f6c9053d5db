//! The merge: what layers say of paths → the one tree that a container sees. Pure; entries in, a [`Tree`] out.
//!
//! All entries of all layers go into one trie of paths, topmost layer first, because its content is copied first; a walk
//! from the root then decides what is visible. A path is hidden by whatever upper layers put in its place, whited out or
//! made opaque above it:
//! - the topmost layer wins; inside a layer the last entry of a path does, whatever the order of its whiteouts;
//! - a layer's whiteouts and opaque marks act only on layers strictly below;
//! - a directory above a file above a directory hides the lowest directory's content;
//! - a directory has the metadata of the topmost layer that lists it, or 0755 root of 1970 when none does;
//! - a hard link means the inode that its target was when the link was made: an entry before it in its layer, else in
//!   the layers below. Overriding the target later does not change the link.
//!
//! Everything is held in flat tables with 32-bit indexes: some 70 bytes for each entry, names included.

mod decide;
mod names;
mod view;

use crate::error::{Error, Result};
use crate::image::entry::{Attributes, Content, Entry, Kind, Xattrs};
use names::{Finder, Names};
use std::collections::HashMap;

const NONE: u32 = u32::MAX;
/// Links to links to links.
const MAX_HOPS: usize = 256;
/// As many layers as fit into the tables; registries stop at 127.
const MAX_LAYERS: usize = 4096;

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

/// What many items have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Look {
    mode: u16,
    uid: u32,
    gid: u32,
    xattrs: u32,
}

/// What one layer says of one path.
struct Item {
    /// What came before it for its path: an earlier entry of its layer, or one of a layer above.
    before: u32,
    /// Index into the table of [`Look`]s.
    look: u32,
    mtime: u32,
    /// [`NONE`] when it is in the table of large sizes.
    size: u32,
    a: u32,
    b: u32,
    layer: u16,
    what: What,
}

/// All items, and what they share.
#[derive(Default)]
struct Items {
    list: Vec<Item>,
    looks: Vec<Look>,
    /// Sizes that do not fit into an item.
    large: HashMap<u32, u64>,
    xattrs: Vec<Xattrs>,
    hints: HashMap<u32, Vec<String>>,
}

impl Items {
    fn get(&self, item: u32) -> Option<&Item> {
        self.list.get(item as usize)
    }

    fn size(&self, item: u32) -> u64 {
        match self.get(item) {
            Some(found) if found.size == NONE => self.large.get(&item).copied().unwrap_or(0),
            Some(found) => found.size.into(),
            None => 0,
        }
    }
}

/// Collects entries, then decides.
pub struct Builder {
    names: Names,
    finder: Finder,
    items: Items,
    look_lookup: HashMap<Look, u32>,
    xattr_lookup: HashMap<Xattrs, u32>,
    layers: u16,
    /// The one that entries belong to.
    layer: u16,
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
    /// How many names it has; of a directory, [`DIRECTORY`] and its index in the table of directories.
    links: u32,
}

// What an image of a million entries costs. `make bench` has the bound on the whole process.
const _: () = assert!(size_of::<Item>() == 28 && size_of::<Slot>() == 8);

/// Set in [`Slot::links`] of directories.
const DIRECTORY: u32 = 1 << 31;

/// Where a directory's entries start, how many, and its parent.
struct Directory {
    entries: u32,
    count: u32,
    parent: u32,
    subdirectories: u32,
}

/// The merged tree. Inodes are numbered from 0, the root; every directory's entries are sorted by name.
pub struct Tree {
    names: Names,
    items: Items,
    slots: Vec<Slot>,
    directories: Vec<Directory>,
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

impl Builder {
    /// For an image of so many layers.
    pub fn new(layers: usize) -> Result<Builder> {
        if layers > MAX_LAYERS {
            return Err(Error::new("the image has too many layers")
                .cause(format!("the limit is {MAX_LAYERS}")));
        }
        Ok(Builder {
            names: Names::new(),
            finder: Finder::new(),
            items: Items::default(),
            look_lookup: HashMap::new(),
            xattr_lookup: HashMap::new(),
            layers: layers as u16,
            layer: layers as u16,
        })
    }

    /// The entries that come now are the next layer's, the topmost one's at first.
    pub fn layer(&mut self) {
        self.layer = self.layer.saturating_sub(1);
    }

    /// Takes the next entry of the current layer.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        let layer = self.layer;
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
                a = self.names.put(target)?;
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
        let item = self.items.list.len() as u32;
        let Attributes {
            mode,
            uid,
            gid,
            mtime,
        } = entry.attributes;
        let xattrs = self.xattrs(&entry.xattrs);
        let look = self.look(Look {
            mode,
            uid,
            gid,
            xattrs,
        });
        if !entry.hints.is_empty() {
            self.items.hints.insert(item, entry.hints.clone());
        }
        let before = match self.finder.links.get_mut(node as usize) {
            Some(links) => std::mem::replace(&mut links.last, item),
            None => NONE,
        };
        let small = u32::try_from(size).ok().filter(|&size| size != NONE);
        if small.is_none() {
            self.items.large.insert(item, size);
        }
        self.items.list.push(Item {
            before,
            look,
            mtime,
            size: small.unwrap_or(NONE),
            a,
            b,
            layer,
            what,
        });
        if !matches!(what, What::Whiteout | What::Opaque) {
            self.names.imply(node, layer);
        }
        Ok(())
    }

    fn xattrs(&mut self, xattrs: &Xattrs) -> u32 {
        if xattrs.is_empty() {
            return NONE;
        }
        let mut sorted = xattrs.clone();
        sorted.sort();
        let next = self.items.xattrs.len() as u32;
        *self.xattr_lookup.entry(sorted).or_insert_with_key(|set| {
            self.items.xattrs.push(set.clone());
            next
        })
    }

    fn look(&mut self, look: Look) -> u32 {
        let next = self.items.looks.len() as u32;
        *self.look_lookup.entry(look).or_insert_with(|| {
            self.items.looks.push(look);
            next
        })
    }

    /// The node of a path, made if needed.
    fn node(&mut self, path: &[u8]) -> Result<u32> {
        let mut at = 0;
        for name in path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
        {
            at = self.finder.child_or_new(&mut self.names, at, name)?;
        }
        Ok(at)
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
            match self.finder.child(&self.names, at, name) {
                Some(child) => at = child,
                None => return true,
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
        // Nothing that can be seen came before it for this path, so that it need not have come first.
        self.layer = self.layers;
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

#[cfg(test)]
mod tests;
