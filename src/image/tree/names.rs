//! The trie of paths: names, who is whose parent, and the table that finds a child by its name.

use crate::error::{Error, Result};
use crate::image::entry::{MAX_ENTRIES, display};
use crate::image::tree::NONE;
use std::hash::{BuildHasher, RandomState};

/// Names and targets of one image.
const MAX_BYTES: usize = 1 << 30;

/// One path, in whatever layers.
struct Node {
    parent: u32,
    name_at: u32,
    /// One more than the highest layer that has something below this path; 0 for none.
    implied: u16,
    name_length: u8,
}

/// What only the merge needs to know of a path.
pub struct Links {
    pub first_child: u32,
    pub sibling: u32,
    /// The item that came last; items point to those before them.
    pub last: u32,
}

const _: () = assert!(size_of::<Node>() == 12 && size_of::<Links>() == 12);

/// All paths. Node 0 is the root.
#[derive(Default)]
pub struct Names {
    nodes: Vec<Node>,
    /// Names, and targets of symlinks.
    bytes: Vec<u8>,
}

impl Names {
    pub fn new() -> Names {
        Names {
            nodes: vec![Node {
                parent: NONE,
                name_at: 0,
                implied: 1,
                name_length: 0,
            }],
            bytes: Vec::new(),
        }
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    pub fn parent(&self, node: u32) -> u32 {
        self.nodes
            .get(node as usize)
            .map_or(NONE, |node| node.parent)
    }

    pub fn implied(&self, node: u32) -> u16 {
        self.nodes.get(node as usize).map_or(0, |node| node.implied)
    }

    pub fn name(&self, node: u32) -> &[u8] {
        self.nodes
            .get(node as usize)
            .and_then(|node| {
                let at = node.name_at as usize;
                self.bytes.get(at..at + usize::from(node.name_length))
            })
            .unwrap_or_default()
    }

    pub fn path(&self, mut at: u32) -> Vec<u8> {
        let mut names = Vec::new();
        while self.parent(at) != NONE {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Bytes that were put here before.
    pub fn bytes(&self, at: u32, length: u32) -> Option<&[u8]> {
        self.bytes.get(at as usize..at as usize + length as usize)
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<u32> {
        let at = self.bytes.len();
        if at + bytes.len() > MAX_BYTES {
            return Err(Error::new("the image has too many names").cause(format!(
                "names and symlink targets are limited to {MAX_BYTES} bytes"
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(at as u32)
    }

    /// Tells the directories above that `layer` has something in them.
    pub fn imply(&mut self, node: u32, layer: u16) {
        let mut at = self.parent(node);
        while let Some(node) = self.nodes.get_mut(at as usize) {
            if node.implied > layer {
                break;
            }
            node.implied = layer + 1;
            at = node.parent;
        }
    }

    fn add(&mut self, parent: u32, name: &[u8]) -> Result<u32> {
        if self.nodes.len() as u64 > 2 * MAX_ENTRIES {
            return Err(Error::new("the image has too many entries")
                .cause(format!("the limit is {} paths", 2 * MAX_ENTRIES)));
        }
        let name_length = u8::try_from(name.len())
            .map_err(|_| Error::new(format!("`{}` is too long a name", display(name))))?;
        let name_at = self.put(name)?;
        let node = self.nodes.len() as u32;
        self.nodes.push(Node {
            parent,
            name_at,
            implied: 0,
            name_length,
        });
        Ok(node)
    }
}

/// Finds children and links them to their parents while entries come. The table holds node numbers only: the names
/// that a hash map would hold again are in [`Names`].
pub struct Finder {
    pub links: Vec<Links>,
    /// Open addressing, at most two thirds full; the length is a power of two.
    table: Vec<u32>,
    /// Seeded, so that no image can be made whose names all collide.
    hasher: RandomState,
}

impl Finder {
    pub fn new() -> Finder {
        Finder {
            links: vec![Links {
                first_child: NONE,
                sibling: NONE,
                last: NONE,
            }],
            table: vec![NONE; 1 << 10],
            hasher: RandomState::new(),
        }
    }

    /// The child of this name, or the free place in the table.
    fn find(&self, names: &Names, parent: u32, name: &[u8]) -> Result<u32, usize> {
        let mask = self.table.len().wrapping_sub(1);
        let mut place = self.hasher.hash_one((parent, name)) as usize & mask;
        loop {
            match self.table.get(place) {
                Some(&node) if node != NONE => {
                    if names.parent(node) == parent && names.name(node) == name {
                        return Ok(node);
                    }
                }
                _ => return Err(place),
            }
            place = (place + 1) & mask;
        }
    }

    pub fn child(&self, names: &Names, parent: u32, name: &[u8]) -> Option<u32> {
        self.find(names, parent, name).ok()
    }

    /// The child of this name, made if needed.
    pub fn child_or_new(&mut self, names: &mut Names, parent: u32, name: &[u8]) -> Result<u32> {
        let place = match self.find(names, parent, name) {
            Ok(known) => return Ok(known),
            Err(place) => place,
        };
        let node = names.add(parent, name)?;
        let sibling = match self.links.get_mut(parent as usize) {
            Some(parent) => std::mem::replace(&mut parent.first_child, node),
            None => NONE,
        };
        self.links.push(Links {
            first_child: NONE,
            sibling,
            last: NONE,
        });
        if let Some(free) = self.table.get_mut(place) {
            *free = node;
        }
        if names.count() > self.table.len() / 3 * 2 {
            self.grow(names);
        }
        Ok(node)
    }

    /// No child will be looked for any more.
    pub fn forget_table(&mut self) {
        self.table = Vec::new();
    }

    fn grow(&mut self, names: &Names) {
        let length = self.table.len() * 2;
        // The old table goes first: nothing in it is needed.
        self.table = Vec::new();
        self.table = vec![NONE; length];
        for node in 1..names.count() as u32 {
            let place = self.find(names, names.parent(node), names.name(node));
            if let Some(free) = place.err().and_then(|place| self.table.get_mut(place)) {
                *free = node;
            }
        }
    }
}
