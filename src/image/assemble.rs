//! A merged tree and its packs → the squashfs file: copies what the tree refers to, then writes the tables.
//!
//! Blocks stay as they are in the packs; only their positions change. Ranges that stand together in a pack are copied
//! together.

mod copy;
mod direct;
mod plan;

use crate::error::{Context, Error, Result, cannot_start};
use crate::image::tree::{self, Tree};
use crate::squashfs::write::{self, Body, Inode, Written};
use crate::sys::thread;
pub use copy::copy;
pub use plan::{Plan, Range};
use std::fs::File;
use std::thread::ScopedJoinHandle;

const CANNOT_WRITE: &str = "cannot write the image";

/// What was copied into the output, or is being copied, before the whole plan was known.
pub struct Begun<'scope> {
    pub ranges: Vec<Range>,
    pub copying: ScopedJoinHandle<'scope, Result<()>>,
}

/// What the record needs to know.
pub struct Assembled {
    pub written: Written,
    pub hashes: u64,
    pub content_bytes: u64,
}

/// Writes the image.
pub fn assemble(
    tree: &Tree,
    plan: &Plan,
    begun: Begun,
    output: &File,
    options: &write::Options,
) -> Result<Assembled> {
    let panicked = |_| Err(Error::new("a thread of the conversion panicked"));
    let mut done = begun.ranges.len();
    let mut copying = Some(begun.copying);
    if !plan.ranges().starts_with(&begun.ranges)
        && let Some(copying) = copying.take()
    {
        copying.join().unwrap_or_else(panicked)?;
        output.set_len(0).or_say(|| CANNOT_WRITE)?;
        done = 0;
    }
    // Where everything goes is known: metadata need not wait until the content is there.
    let (copied, written) = std::thread::scope(|scope| {
        let copy = thread::start(scope, "copy", move || {
            copying.map_or(Ok(()), |copying| copying.join().unwrap_or_else(panicked))?;
            copy(plan, done, output)
        });
        let copy = copy.map_err(cannot_start)?;
        let written = write::write(
            output,
            plan.end,
            &Source { tree, plan },
            &plan.fragments,
            &plan.hashes,
            options,
        );
        Ok::<_, Error>((copy.join().unwrap_or_else(panicked), written))
    })?;
    copied?;
    Ok(Assembled {
        written: written?,
        hashes: plan.hashes.len() as u64,
        content_bytes: plan.content_bytes,
    })
}

/// The tree as the writer wants it.
struct Source<'a> {
    tree: &'a Tree,
    plan: &'a Plan<'a>,
}

impl write::Tree for Source<'_> {
    fn inodes(&self) -> u32 {
        self.tree.inodes()
    }

    fn inode(&self, number: u32) -> Option<Inode<'_>> {
        let inode = self.tree.inode(number)?;
        let body = match inode.body {
            tree::Body::Directory { parent } => Body::Directory { parent },
            tree::Body::Symlink(target) => Body::Symlink(target),
            tree::Body::Fifo => Body::Fifo,
            tree::Body::File { layer, content } => {
                let (mut start, mut blocks) = (0, &[][..]);
                let mut tail = None;
                // Empty files need no pack; those added as mount points have none.
                if let Some(run) = content.run {
                    (start, blocks) = self.plan.blocks(layer, run)?;
                } else if let Some((fragment, offset)) = content.tail {
                    tail = Some((self.plan.fragment_number(layer, fragment)?, offset));
                }
                Body::File {
                    size: content.size,
                    start,
                    blocks,
                    tail,
                }
            }
        };
        Some(Inode {
            mode: inode.attributes.mode,
            uid: inode.attributes.uid,
            gid: inode.attributes.gid,
            mtime: inode.attributes.mtime,
            links: inode.links,
            xattrs: inode.xattrs,
            body,
        })
    }

    fn entries(&self, directory: u32) -> Box<dyn Iterator<Item = (&[u8], u32)> + '_> {
        Box::new(self.tree.entries(directory))
    }

    fn xattrs(&self) -> &[Vec<(Vec<u8>, Vec<u8>)>] {
        self.tree.xattrs()
    }
}
