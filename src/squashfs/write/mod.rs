//! A tree → the metadata of a squashfs: inodes, directories, fragments, export, ids, xattrs, superblock.
//!
//! File content is in place already: the caller wrote its blocks behind the superblock and says where they are. Nothing
//! here knows where a tree came from. The order of everything follows from the tree, so equal trees give equal bytes.

mod directory;
mod metadata;
mod tables;

use crate::error::{Context, Error, Result};
use crate::squashfs::format::{
    Compressor, FragmentEntry, InodeBody, InodeHeader, InodeReference, NONE32, NONE64,
    SUPERBLOCK_SIZE, Superblock, flag, kind,
};
use crate::squashfs::integrity::{self, BlockHash};
use metadata::Metadata;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// What a file system is made of. Inodes are numbered from 0, the root, to `inodes() - 1`.
pub trait Tree {
    fn inodes(&self) -> u32;
    fn inode(&self, number: u32) -> Option<Inode<'_>>;
    /// A directory's names and inodes, ascending by name.
    fn entries(&self, directory: u32) -> Box<dyn Iterator<Item = (&[u8], u32)> + '_>;
    /// Sets of `user.*` attributes, names without the prefix; [`Inode::xattrs`] counts in them.
    fn xattrs(&self) -> &[Vec<(Vec<u8>, Vec<u8>)>];
}

#[derive(Clone, Copy, Debug)]
pub struct Inode<'a> {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
    pub links: u32,
    pub xattrs: Option<u32>,
    pub body: Body<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    Directory {
        parent: u32,
    },
    File {
        size: u64,
        /// Where its first block is in the output.
        start: u64,
        /// One word per block as squashfs stores it; 0 is a hole.
        blocks: &'a [u32],
        /// Fragment and offset in it.
        tail: Option<(u32, u32)>,
    },
    Symlink(&'a [u8]),
    Fifo,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub block_size: u32,
    pub level: i32,
    pub mkfs_time: u32,
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// Bytes of the whole file.
    pub size: u64,
    pub bytes_used: u64,
    pub inodes: u32,
    pub hashes_offset: u64,
    pub root: String,
}

pub(crate) const CANNOT_WRITE: &str = "cannot write the image";

/// The output behind the data: buffered, hashed, and it knows where it is.
struct Output {
    file: BufWriter<File>,
    pages: integrity::Pages,
    position: u64,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.pages.update(bytes);
        self.position += bytes.len() as u64;
        self.file.write_all(bytes).or_say(|| CANNOT_WRITE)
    }
}

/// Writes metadata from `data_end` on, the table of block hashes, and the superblock. `hashes` must be ascending.
pub fn write(
    file: &File,
    data_end: u64,
    tree: &dyn Tree,
    fragments: &[FragmentEntry],
    hashes: &[BlockHash],
    options: &Options,
) -> Result<Written> {
    let mut file_at_end = file.try_clone().or_say(|| CANNOT_WRITE)?;
    file_at_end
        .seek(SeekFrom::Start(data_end))
        .or_say(|| CANNOT_WRITE)?;
    let mut out = Output {
        file: BufWriter::with_capacity(256 << 10, file_at_end),
        pages: integrity::Pages::default(),
        position: data_end,
    };
    let inode_table = data_end;
    let mut writer = Writer {
        inodes: Metadata::new(options.level)?,
        directories: Metadata::new(options.level)?,
        directory_bytes: Vec::new(),
        references: vec![NONE64; tree.inodes() as usize],
        ids: tables::Ids::default(),
        xattrs: tables::Xattrs::build(tree)?,
        scratch: Vec::new(),
        block_size: options.block_size,
        tree,
        out,
    };
    writer.inodes()?;
    let Writer {
        mut inodes,
        mut directories,
        mut directory_bytes,
        references,
        ids,
        xattrs,
        ..
    } = writer;
    out = writer.out;
    inodes.finish(&mut |bytes| out.put(bytes))?;
    directories.finish(&mut |bytes| {
        directory_bytes.extend_from_slice(bytes);
        Ok(())
    })?;
    let directory_table = out.position;
    out.put(&directory_bytes)?;
    drop(directory_bytes);
    let mut bytes = Vec::new();
    fragments.iter().for_each(|entry| entry.encode(&mut bytes));
    let fragment_table = tables::indexed(&mut out, &bytes, options.level)?;
    let export_table = tables::indexed_words(&mut out, &references, options.level)?;
    let id_table = tables::indexed(&mut out, &ids.encode(), options.level)?;
    let xattr_table = xattrs.write(&mut out, options.level)?;
    let bytes_used = out.position;
    let metadata_pages = std::mem::take(&mut out.pages).finish();

    let mut flags = flag::EXPORTABLE | flag::DUPLICATES;
    if fragments.is_empty() {
        flags |= flag::NO_FRAGMENTS;
    }
    if xattr_table == NONE64 {
        flags |= flag::NO_XATTRS;
    }
    let superblock = Superblock {
        inodes: tree.inodes(),
        mkfs_time: options.mkfs_time,
        block_size: options.block_size,
        fragments: fragments.len() as u32,
        compressor: Compressor::Zstd as u16,
        flags,
        ids: ids.count(),
        root_inode: InodeReference(references.first().copied().unwrap_or(NONE64)),
        bytes_used,
        id_table,
        xattr_table,
        inode_table,
        directory_table,
        fragment_table: if fragments.is_empty() {
            NONE64
        } else {
            fragment_table
        },
        export_table,
    }
    .encode();

    let hashes_offset = integrity::hashes_offset(bytes_used);
    bytes.clear();
    bytes.resize((hashes_offset - bytes_used) as usize, 0);
    let padding = bytes.len();
    hashes.iter().for_each(|hash| hash.encode(&mut bytes));
    let table_pages = integrity::Pages::of(bytes.get(padding..).unwrap_or_default());
    bytes.extend(&metadata_pages);
    bytes.extend(&table_pages);
    out.put(&bytes)?;
    let size = out.position;
    out.file.flush().or_say(|| CANNOT_WRITE)?;
    file.write_all_at(&superblock, 0).or_say(|| CANNOT_WRITE)?;
    Ok(Written {
        size,
        bytes_used,
        inodes: tree.inodes(),
        hashes_offset,
        root: integrity::root(&superblock, &metadata_pages, &table_pages),
    })
}

/// Where data starts in the output.
pub const DATA_START: u64 = SUPERBLOCK_SIZE as u64;

/// The state while inodes and directories are written side by side.
struct Writer<'a> {
    tree: &'a dyn Tree,
    inodes: Metadata,
    directories: Metadata,
    /// Directories stand behind the inodes in the file; their compressed bytes wait here.
    directory_bytes: Vec<u8>,
    references: Vec<u64>,
    ids: tables::Ids,
    xattrs: tables::Xattrs,
    scratch: Vec<u8>,
    block_size: u32,
    out: Output,
}

impl Writer<'_> {
    /// Writes all inodes. Directories come in the reverse order of their numbers, which puts each behind all that it
    /// lists, and the files of one directory beside each other.
    fn inodes(&mut self) -> Result<()> {
        for number in (0..self.tree.inodes()).rev() {
            let Some(inode) = self.tree.inode(number) else {
                return Err(
                    Error::new("cannot write the image").cause("an inode has no description")
                );
            };
            if let Body::Directory { parent } = inode.body {
                let tree = self.tree;
                for (_, child) in tree.entries(number) {
                    let unwritten = self.reference(child) == NONE64;
                    if unwritten && let Some(inode) = tree.inode(child) {
                        self.leaf(child, &inode)?;
                    }
                }
                self.directory(number, &inode, parent)?;
            }
        }
        Ok(())
    }

    fn reference(&self, number: u32) -> u64 {
        self.references
            .get(number as usize)
            .copied()
            .unwrap_or(NONE64)
    }

    fn header(&mut self, number: u32, inode: &Inode, kind: u16) -> Result<InodeHeader> {
        Ok(InodeHeader {
            kind,
            mode: inode.mode & 0o7777,
            uid: self.ids.index(inode.uid)?,
            gid: self.ids.index(inode.gid)?,
            mtime: inode.mtime,
            number: number + 1,
        })
    }

    /// Writes one inode: header, body and what follows it.
    fn put(
        &mut self,
        number: u32,
        header: &InodeHeader,
        body: &InodeBody,
        rest: &[u8],
    ) -> Result<()> {
        if let Some(reference) = self.references.get_mut(number as usize) {
            *reference = self.inodes.reference().0;
        }
        self.scratch.clear();
        header.encode(&mut self.scratch);
        body.encode(&mut self.scratch);
        let out = &mut self.out;
        let mut sink = |bytes: &[u8]| out.put(bytes);
        self.inodes.push(&self.scratch, &mut sink)?;
        self.inodes.push(rest, &mut sink)
    }

    fn leaf(&mut self, number: u32, inode: &Inode) -> Result<()> {
        let xattr = self.xattrs.index(inode.xattrs);
        let plain = xattr == NONE32;
        let (basic, body, rest) = match inode.body {
            Body::Directory { .. } => return Ok(()),
            Body::Symlink(target) => {
                let body = InodeBody::Symlink {
                    links: inode.links,
                    size: target.len() as u32,
                };
                let mut rest = target.to_vec();
                if !plain {
                    rest.extend(xattr.to_le_bytes());
                }
                (kind::SYMLINK, body, rest)
            }
            Body::Fifo => {
                let links = inode.links;
                let body = if plain {
                    InodeBody::Ipc { links }
                } else {
                    InodeBody::IpcExtended { links, xattr }
                };
                (kind::FIFO, body, Vec::new())
            }
            Body::File {
                size,
                start,
                blocks,
                tail,
            } => return self.file(number, inode, xattr, (size, start, blocks, tail)),
        };
        let header = self.header(
            number,
            inode,
            if plain { basic } else { basic + kind::EXTENDED },
        )?;
        self.put(number, &header, &body, &rest)
    }

    fn file(
        &mut self,
        number: u32,
        inode: &Inode,
        xattr: u32,
        (size, start, blocks, tail): (u64, u64, &[u32], Option<(u32, u32)>),
    ) -> Result<()> {
        let (fragment, offset) = tail.unwrap_or((NONE32, 0));
        let holes = blocks.iter().filter(|&&block| block == 0).count() as u64;
        let basic = (u32::try_from(start).ok().zip(u32::try_from(size).ok()))
            .filter(|_| holes == 0 && inode.links == 1 && xattr == NONE32);
        let (file_kind, body) = match basic {
            Some((start, size)) => (
                kind::FILE,
                InodeBody::File {
                    start,
                    fragment,
                    offset,
                    size,
                },
            ),
            None => (
                kind::FILE + kind::EXTENDED,
                InodeBody::FileExtended {
                    start,
                    size,
                    // What the kernel subtracts for `du`.
                    sparse: holes.saturating_mul(self.block_size.into()).min(size),
                    links: inode.links,
                    fragment,
                    offset,
                    xattr,
                },
            ),
        };
        let header = self.header(number, inode, file_kind)?;
        self.put(number, &header, &body, &[])?;
        let out = &mut self.out;
        for part in blocks.chunks(1024) {
            self.scratch.clear();
            part.iter()
                .for_each(|block| self.scratch.extend(block.to_le_bytes()));
            self.inodes
                .push(&self.scratch, &mut |bytes| out.put(bytes))?;
        }
        Ok(())
    }

    fn directory(&mut self, number: u32, inode: &Inode, parent: u32) -> Result<()> {
        let listing = directory::write(
            self.tree,
            number,
            &self.references,
            &mut self.directories,
            &mut self.directory_bytes,
        )?;
        let xattr = self.xattrs.index(inode.xattrs);
        // The root's parent is no inode; mksquashfs uses the next number too.
        let parent = if number == 0 {
            self.tree.inodes() + 1
        } else {
            parent + 1
        };
        let basic = u16::try_from(listing.size)
            .ok()
            .filter(|_| xattr == NONE32 && listing.index_count == 0);
        let (directory_kind, body) = match basic {
            Some(size) => (
                kind::DIRECTORY,
                InodeBody::Directory {
                    start: listing.start,
                    links: inode.links,
                    size,
                    offset: listing.offset,
                    parent,
                },
            ),
            None => (
                kind::DIRECTORY + kind::EXTENDED,
                InodeBody::DirectoryExtended {
                    links: inode.links,
                    size: listing.size,
                    start: listing.start,
                    parent,
                    index_count: listing.index_count,
                    offset: listing.offset,
                    xattr,
                },
            ),
        };
        let header = self.header(number, inode, directory_kind)?;
        self.put(number, &header, &body, &listing.index)
    }
}

#[cfg(test)]
mod tests;
