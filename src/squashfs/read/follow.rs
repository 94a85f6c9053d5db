//! A path of the image, links followed inside it only.

use super::{Content, Image, Inode};
use crate::error::Result;

/// As the kernel counts them.
const MAX_LINKS: usize = 40;

/// What a path leads to.
pub struct Found {
    pub inode: Inode,
    /// The directory that it really lies in.
    pub directory: Inode,
}

impl Image {
    /// `None` when there is no such path.
    pub fn follow(&self, path: &[u8]) -> Result<Option<Found>> {
        let root = self.inode(self.root())?;
        self.follow_from(&root, path)
    }

    /// The same for a path that may begin in another directory than the root.
    pub fn follow_from(&self, directory: &Inode, path: &[u8]) -> Result<Option<Found>> {
        let mut waiting: Vec<Vec<u8>> = components(path);
        let mut above = match path.first() {
            Some(b'/') => vec![self.inode(self.root())?],
            _ => vec![directory.clone()],
        };
        let mut links = 0;
        while let Some(name) = waiting.pop() {
            if name == b".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let Some(here) = above.last().filter(|here| here.is_directory()) else {
                return Ok(None);
            };
            let Some(reference) = self.lookup(here, &name)? else {
                return Ok(None);
            };
            let inode = self.inode(reference)?;
            if matches!(inode.content, Content::Symlink { .. }) {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(None);
                }
                let target = self.read_link(&inode)?;
                if target.first() == Some(&b'/') {
                    above = vec![self.inode(self.root())?];
                }
                waiting.extend(components(&target));
            } else {
                above.push(inode);
            }
        }
        let inode = above.pop();
        Ok(inode.map(|inode| Found {
            directory: above.pop().unwrap_or_else(|| inode.clone()),
            inode,
        }))
    }
}

/// In reverse, so that the next one is popped.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path
        .split(|b| *b == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    names.reverse();
    names
}
