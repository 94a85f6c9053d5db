//! What the writer and the record ask of the merged tree.

use super::{Body, Directory, Inode, NONE, Slot, Tree, What};
use crate::image::entry::{Attributes, Content, Xattrs};

impl Tree {
    pub fn inodes(&self) -> u32 {
        self.slots.len() as u32
    }

    /// All sets of extended attributes that entries have, used or not.
    pub fn xattrs(&self) -> &[Xattrs] {
        &self.items.xattrs
    }

    fn directory(&self, slot: &Slot) -> Option<&Directory> {
        self.directories.get(slot.as_directory()?)
    }

    pub fn inode(&self, inode: u32) -> Option<Inode<'_>> {
        let slot = self.slots.get(inode as usize)?;
        let item = self.items.get(slot.item);
        let look = item.and_then(|item| self.items.looks.get(item.look as usize));
        let attributes = match (item, look) {
            (Some(item), Some(look)) => Attributes {
                mode: look.mode,
                uid: look.uid,
                gid: look.gid,
                mtime: item.mtime,
            },
            _ => Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
        };
        let content = |run, tail| Body::File {
            layer: item.map_or(0, |item| item.layer.into()),
            content: Content {
                size: self.items.size(slot.item),
                run,
                tail,
            },
        };
        let directory = self.directory(slot);
        let body = match item {
            _ if directory.is_some() => Body::Directory {
                parent: directory.map_or(0, |directory| directory.parent),
            },
            Some(item) => match item.what {
                What::Run => content(Some(item.a), None),
                What::Tail => content(None, Some((item.a, item.b))),
                What::Empty => content(None, None),
                What::Symlink => Body::Symlink(self.names.bytes(item.a, item.size)?),
                What::Fifo => Body::Fifo,
                _ => return None,
            },
            None => return None,
        };
        Some(Inode {
            attributes,
            links: directory.map_or(slot.links, |directory| 2 + directory.subdirectories),
            xattrs: look.map(|look| look.xattrs).filter(|&set| set != NONE),
            body,
        })
    }

    /// A directory's entries: name and inode, sorted by name.
    pub fn entries(&self, directory: u32) -> impl Iterator<Item = (&[u8], u32)> {
        let found = self.slots.get(directory as usize);
        let found = found.and_then(|slot| self.directory(slot));
        let (at, count) = found.map_or((0, 0), |found| {
            (found.entries as usize, found.count as usize)
        });
        self.entries
            .get(at..at + count)
            .unwrap_or_default()
            .iter()
            .map(|&(node, inode)| (self.names.name(node), inode))
    }

    /// What its content told of the software it is.
    pub fn hints(&self, inode: u32) -> &[String] {
        self.slots
            .get(inode as usize)
            .and_then(|slot| self.items.hints.get(&slot.item))
            .map_or(&[], Vec::as_slice)
    }

    /// Every path with its inode, in no promised order; the root is the empty path.
    pub fn walk(&self, visit: &mut dyn FnMut(&[u8], u32)) {
        visit(b"", 0);
        for &(node, inode) in &self.entries {
            visit(&self.names.path(node), inode);
        }
    }

    /// Every name with its inode, cheaper than [`Tree::walk`]; the path is made on demand.
    pub fn names(&self) -> impl Iterator<Item = (&[u8], u32, u32)> {
        let entries = self.entries.iter();
        entries.map(|&(node, inode)| (self.names.name(node), inode, node))
    }

    pub fn path(&self, node: u32) -> Vec<u8> {
        self.names.path(node)
    }
}
