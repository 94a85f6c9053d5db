//! What the writer and the record ask of the merged tree.

use super::{Body, Inode, NONE, Tree, What, name_of, path_of};
use crate::image::entry::{Attributes, Content, Xattrs};

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
