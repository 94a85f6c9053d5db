//! The reference: layers applied one after the other to a map of paths, as slowly and plainly as can be.
//!
//! No cleverness is allowed here; what the engine does in one pass over packs must come out the same.

use super::layout::sha256;
use super::tar::{Entry, Kind};
use super::text::Image;
use super::tree::{Node, Tree, name_inodes};
use std::collections::{BTreeMap, BTreeSet};

/// The tree that the image should be, and what was left out of it, by the record's words.
pub fn merge(image: &Image) -> (Tree, BTreeMap<String, u64>) {
    let mut tree = Tree::new();
    let mut notes = BTreeMap::new();
    tree.insert(Vec::new(), Node::new('d', b""));
    for (index, layer) in image.layers.iter().enumerate() {
        apply(&mut tree, &layer.entries, index, &mut notes);
    }
    name_inodes(&mut tree);
    (tree, notes)
}

/// No leading slash, no `.`; `..` does not climb out.
pub fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join(&b'/')
}

/// The entry with the names that its PAX records give it.
fn named(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    for (key, value) in entry.pax.clone() {
        match (key.as_str(), &mut entry.kind) {
            ("path", _) => entry.path = value,
            ("linkpath", Kind::Symlink(target) | Kind::HardLink(target)) => *target = value,
            _ => {}
        }
    }
    entry
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn remove_below(tree: &mut Tree, path: &[u8]) {
    let start = match path {
        b"" => Vec::new(),
        path => [path, b"/"].concat(),
    };
    tree.retain(|other, _| other.is_empty() || !other.starts_with(&start));
}

fn remove(tree: &mut Tree, path: &[u8]) {
    if !path.is_empty() {
        remove_below(tree, path);
        tree.remove(path);
    }
}

fn apply(tree: &mut Tree, entries: &[Entry], layer: usize, notes: &mut BTreeMap<String, u64>) {
    // Whiteouts act on what the layers below left, wherever they stand in the archive.
    for entry in entries {
        let path = normal(&entry.path);
        let (parent, name) = split(&path);
        if name == b".wh..wh..opq" {
            remove_below(tree, parent);
        } else if name.starts_with(b".wh.") && !name.starts_with(b".wh..wh.") {
            // `..` is no name that could be hidden.
            if !matches!(&name[4..], b"" | b"." | b"..") {
                remove(tree, &normal(&[parent, &name[4..]].join(&b'/')));
            }
        }
    }
    let mut global_times = None;
    let mut mine = BTreeSet::new();
    for (position, entry) in entries.iter().enumerate() {
        let entry = &named(entry);
        if entry.kind == Kind::Global {
            let time = entry.pax.iter().find(|(key, _)| key == "mtime");
            global_times = time.map(|(_, value)| value.clone());
            continue;
        }
        let path = normal(&entry.path);
        let (parent, name) = split(&path);
        if name.starts_with(b".wh.") {
            continue;
        }
        if matches!(entry.kind, Kind::Character(_) | Kind::Block(_)) {
            // A device hides what was below it, and is not kept itself.
            remove(tree, &path);
            *notes.entry("devices".into()).or_default() += 1;
            continue;
        }
        if !make_parents(tree, parent, &mine) {
            continue;
        }
        let mut node = node_of(entry, &path, layer, position, global_times.as_deref());
        if let Kind::HardLink(target) = &entry.kind {
            let target = normal(target);
            node = tree
                .get(&target)
                .unwrap_or_else(|| panic!("the model has no {}", target.escape_ascii()))
                .clone();
        }
        let dropped = drop_privileged(&mut node);
        if dropped > 0 && !matches!(entry.kind, Kind::HardLink(_)) {
            *notes.entry("xattrs".into()).or_default() += dropped;
        }
        if node.kind != 'd' || tree.get(&path).is_some_and(|old| old.kind != 'd') {
            remove(tree, &path);
        }
        mine.insert(path.clone());
        tree.insert(path, node);
    }
}

/// False if this layer itself put something else than a directory on the way.
fn make_parents(tree: &mut Tree, parent: &[u8], mine: &BTreeSet<Vec<u8>>) -> bool {
    let mut at = Vec::new();
    for part in parent.split(|byte| *byte == b'/') {
        if part.is_empty() {
            continue;
        }
        if !at.is_empty() {
            at.push(b'/');
        }
        at.extend(part);
        if tree.get(&at).is_some_and(|node| node.kind != 'd') {
            if mine.contains(&at) {
                return false;
            }
            remove(tree, &at);
        }
        tree.entry(at.clone())
            .or_insert_with(|| Node::new('d', &at));
    }
    true
}

fn node_of(
    entry: &Entry,
    path: &[u8],
    layer: usize,
    position: usize,
    global_time: Option<&[u8]>,
) -> Node {
    let kind = match &entry.kind {
        Kind::File(_) | Kind::Sparse(..) => 'f',
        Kind::Directory => 'd',
        Kind::Symlink(_) => 'l',
        Kind::Fifo => 'p',
        _ => '?',
    };
    let mut node = Node::new(kind, path);
    // Unique until paths are given, and no path.
    if kind != 'd' {
        node.inode = format!("\0{layer}.{position}").into_bytes();
    }
    node.mode = if kind == 'l' {
        0o777
    } else {
        entry.mode & 0o7777
    };
    (node.uid, node.gid) = (entry.uid, entry.gid);
    // squashfs counts 32 bits of seconds from 1970.
    node.mtime = entry.seconds().clamp(0, i64::from(u32::MAX));
    if let Some(time) = global_time {
        node.mtime = std::str::from_utf8(time).unwrap().parse().unwrap();
    }
    for (key, value) in &entry.pax {
        let text = || std::str::from_utf8(value).unwrap();
        match key.as_str() {
            "uid" => node.uid = text().parse().unwrap(),
            "gid" => node.gid = text().parse().unwrap(),
            "mtime" => node.mtime = text().split('.').next().unwrap().parse().unwrap(),
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    node.xattrs.insert(name.into(), value.clone());
                }
            }
        }
    }
    match &entry.kind {
        Kind::File(content) => {
            node.size = content.len() as u64;
            node.content = sha256(content);
        }
        Kind::Sparse(size, pieces) => {
            let mut content = vec![0; *size as usize];
            for (offset, piece) in pieces {
                let at = *offset as usize;
                content[at..at + piece.len()].copy_from_slice(piece);
            }
            node.size = *size;
            node.content = sha256(&content);
        }
        Kind::Symlink(target) => {
            node.size = target.len() as u64;
            node.target = target.clone();
        }
        _ => {}
    }
    node
}

/// Only `user.` attributes are for users.
fn drop_privileged(node: &mut Node) -> u64 {
    let before = node.xattrs.len();
    node.xattrs.retain(|name, _| name.starts_with(b"user."));
    (before - node.xattrs.len()) as u64
}
