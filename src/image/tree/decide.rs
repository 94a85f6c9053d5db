//! The decision of the merge: which item wins at a path, what a hard link means, and the walk that keeps what is visible.

use super::{
    Builder, DIRECTORY, Directory, Item, Items, MAX_HOPS, NONE, Names, Seen, Slot, Tree, What,
};
use crate::error::{Error, Result};
use crate::image::entry::display;
use std::collections::{HashMap, HashSet};

/// Why a hard link means no inode, and the link at which that shows.
enum Broken {
    ToNothing(u32),
    Circle(u32),
}

/// A layer, and an item of it.
type Moment = (u16, u32);

/// Of paths with a long history, what it is: an image may have a million links to one that has a million entries.
type Histories = HashMap<u32, Vec<Moment>>;
/// Shorter ones are looked through each time.
const LONG: usize = 16;

impl Builder {
    /// What layers say of a path: the lowest layer first, of each layer what it says last.
    fn items_of(&self, node: u32) -> impl Iterator<Item = (u32, &Item)> {
        let links = self.finder.links.get(node as usize);
        let mut at = links.map_or(NONE, |links| links.last);
        std::iter::from_fn(move || {
            let item = self.items.get(at)?;
            let index = at;
            at = item.before;
            Some((index, item))
        })
    }

    /// What is visible at a node when layers below `floor` are hidden.
    pub(super) fn see(&self, node: u32, mut floor: u16) -> Seen {
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
            if item.layer < floor
                || matches!(item.what, What::Whiteout | What::Opaque)
                || last_layer == Some(item.layer)
            {
                continue;
            }
            last_layer = Some(item.layer);
            winner = Some((index, item));
            if item.what == What::Directory {
                metadata = index;
            } else {
                metadata = NONE;
                nondirectory_below = Some(item.layer);
            }
        }
        let implied = self.names.implied(node);
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

    /// What there was at a path, by layer and then by order of entries, and how much was looked at for it.
    fn history(&self, node: u32) -> (Vec<Moment>, usize) {
        let mut looks = 0;
        let items = self.items_of(node).inspect(|_| looks += 1);
        let real = items.filter(|(_, item)| !matches!(item.what, What::Whiteout | What::Opaque));
        let mut history: Vec<_> = real.map(|(index, item)| (item.layer, index)).collect();
        history.sort_unstable();
        (history, looks)
    }

    /// The item that a hard link means: what its target was when the link was made.
    fn target(&self, link: u32, item: &Item, known: &mut Histories) -> Option<u32> {
        let new;
        let history = match known.get(&item.b) {
            Some(history) => history,
            None => {
                let looks;
                (new, looks) = self.history(item.b);
                match looks > LONG {
                    true => known.entry(item.b).or_insert(new),
                    false => &new,
                }
            }
        };
        let before = history.partition_point(|&moment| moment < (item.layer, link));
        if let Some(&(_, index)) = before.checked_sub(1).and_then(|at| history.get(at)) {
            return Some(index);
        }
        // A link that stands before its target in its own layer is odd, but clear.
        let last = history.partition_point(|&(layer, _)| layer <= item.layer);
        let later = history.get(before..last).unwrap_or_default();
        let mut later = later.iter().rev().map(|&(_, index)| index);
        later.find(|&index| index != link)
    }

    /// Follows a hard link to the item that is the inode.
    fn resolve(&self, link: u32, known: &mut Histories) -> Result<u32, Broken> {
        let mut at = link;
        for _ in 0..MAX_HOPS {
            match self.items.get(at) {
                Some(item) if item.what == What::HardLink => {
                    at = self.target(at, item, known).ok_or(Broken::ToNothing(at))?;
                }
                Some(_) => return Ok(at),
                None => break,
            }
        }
        Err(Broken::Circle(at))
    }

    /// Takes a look at everything, so it is for what is told only.
    fn explain(&self, link: u32, broken: Broken) -> Error {
        match broken {
            Broken::ToNothing(last) => {
                let target = self.items.get(last).map_or(NONE, |item| item.b);
                Error::new("the image has a hard link to nothing").cause(format!(
                    "no layer has `{}`, to which `{}` should link",
                    self.path_text(target),
                    self.path_of_item(link)
                ))
            }
            Broken::Circle(at) => Error::new("the image has hard links in a circle")
                .cause(format!("at `{}`", self.path_of_item(at))),
        }
    }

    fn path_text(&self, node: u32) -> String {
        display(&self.names.path(node))
    }

    /// For errors only: looks everywhere.
    fn path_of_item(&self, item: u32) -> String {
        (0..self.names.count() as u32)
            .find(|&node| self.items_of(node).any(|(index, _)| index == item))
            .map(|node| self.path_text(node))
            .unwrap_or_default()
    }

    /// Decides what is visible.
    pub fn finish(mut self) -> Result<Tree> {
        self.finder.forget_table();
        self.look_lookup = HashMap::new();
        self.xattr_lookup = HashMap::new();
        Ok(self.decide()?.tree(self.names, self.items))
    }

    /// What would be visible were there no other layers than those that came.
    pub fn so_far<T>(&mut self, look: impl FnOnce(&Tree) -> T) -> Result<T> {
        let decided = self.decide()?;
        let (names, items) = (&mut self.names, &mut self.items);
        let tree = decided.tree(std::mem::take(names), std::mem::take(items));
        let seen = look(&tree);
        (*names, *items) = (tree.names, tree.items);
        Ok(seen)
    }

    fn decide(&self) -> Result<Decided> {
        let mut slots: Vec<Slot> = Vec::new();
        let mut directories: Vec<Directory> = Vec::new();
        let mut entries: Vec<(u32, u32)> = Vec::new();
        let mut devices = 0;
        let mut inode_of: HashMap<u32, u32> = HashMap::new();
        let mut known = Histories::new();
        let linked: HashSet<u32> = self
            .items
            .list
            .iter()
            .enumerate()
            .filter(|(_, item)| item.what == What::HardLink)
            .filter_map(|(index, _)| self.resolve(index as u32, &mut known).ok())
            .collect();
        let (metadata, floor) = match self.see(0, 0) {
            Seen::Directory { metadata, floor } => (metadata, floor),
            _ => (NONE, 0),
        };
        slots.push(Slot::directory(metadata, 0, &mut directories));
        // Depth first; a directory's entries get consecutive numbers.
        let mut open = vec![(0u32, 0u32, floor)];
        let mut names: Vec<u32> = Vec::new();
        while let Some((node, inode, floor)) = open.pop() {
            names.clear();
            let links = &self.finder.links;
            let mut child = links
                .get(node as usize)
                .map_or(NONE, |links| links.first_child);
            while let Some(next) = links.get(child as usize) {
                names.push(child);
                child = next.sibling;
            }
            names.sort_unstable_by_key(|&name| self.names.name(name));
            let first = entries.len() as u32;
            let mut subdirectories = 0;
            let opened = open.len();
            for &name in &names {
                let next = slots.len() as u32;
                match self.see(name, floor) {
                    Seen::Nothing => {}
                    Seen::Directory { metadata, floor } => {
                        slots.push(Slot::directory(metadata, inode, &mut directories));
                        entries.push((name, next));
                        open.push((name, next, floor));
                        subdirectories += 1;
                    }
                    Seen::Leaf { item } => {
                        let found = self.resolve(item, &mut known);
                        let item = found.map_err(|broken| self.explain(item, broken))?;
                        let what = self.items.get(item).map(|item| item.what);
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
                                slots.push(Slot { item, links: 0 });
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
            let at = slots.get(inode as usize).and_then(Slot::as_directory);
            if let Some(directory) = at.and_then(|at| directories.get_mut(at)) {
                directory.entries = first;
                directory.count = entries.len() as u32 - first;
                directory.subdirectories = subdirectories;
            }
        }
        Ok(Decided {
            slots,
            directories,
            entries,
            devices,
        })
    }
}

/// A [`Tree`] without what the layers said.
struct Decided {
    slots: Vec<Slot>,
    directories: Vec<Directory>,
    entries: Vec<(u32, u32)>,
    devices: u64,
}

impl Decided {
    fn tree(self, names: Names, items: Items) -> Tree {
        Tree {
            names,
            items,
            slots: self.slots,
            directories: self.directories,
            entries: self.entries,
            devices: self.devices,
        }
    }
}

impl Slot {
    fn directory(item: u32, parent: u32, directories: &mut Vec<Directory>) -> Slot {
        let index = directories.len() as u32;
        directories.push(Directory {
            entries: 0,
            count: 0,
            parent,
            subdirectories: 0,
        });
        Slot {
            item,
            links: DIRECTORY | index,
        }
    }

    pub(super) fn as_directory(&self) -> Option<usize> {
        (self.links & DIRECTORY != 0).then_some((self.links & !DIRECTORY) as usize)
    }
}
