//! One inode: header, type and the place of what follows it.

use super::metadata::{Cursor, copy};
use super::{Image, InodeReference};
use crate::error::Result;
use crate::squashfs::format::{
    DIRECTORY_SIZE_BIAS, InodeBody, InodeHeader, METADATA_SIZE, NONE32, decode_device, kind,
};

/// Longer targets cannot be used by any system call.
const TARGET_MAX: u32 = 4096;

/// File types, named as in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Directory,
    File,
    Symlink,
    BlockDevice,
    CharacterDevice,
    Fifo,
    Socket,
}

impl Type {
    /// From an inode's type, basic or extended.
    pub fn from_kind(inode_kind: u16) -> Option<Type> {
        let basic = if inode_kind > kind::EXTENDED {
            inode_kind - kind::EXTENDED
        } else {
            inode_kind
        };
        Some(match basic {
            kind::DIRECTORY => Type::Directory,
            kind::FILE => Type::File,
            kind::SYMLINK => Type::Symlink,
            kind::BLOCK_DEVICE => Type::BlockDevice,
            kind::CHARACTER_DEVICE => Type::CharacterDevice,
            kind::FIFO => Type::Fifo,
            kind::SOCKET => Type::Socket,
            _ => return None,
        })
    }

    /// The `S_IFMT` bits.
    pub fn mode_bits(self) -> u32 {
        match self {
            Type::Directory => 0o040_000,
            Type::File => 0o100_000,
            Type::Symlink => 0o120_000,
            Type::BlockDevice => 0o060_000,
            Type::CharacterDevice => 0o020_000,
            Type::Fifo => 0o010_000,
            Type::Socket => 0o140_000,
        }
    }

    /// The letter of `ls -l`, with `f` for files.
    pub fn letter(self) -> char {
        match self {
            Type::Directory => 'd',
            Type::File => 'f',
            Type::Symlink => 'l',
            Type::BlockDevice => 'b',
            Type::CharacterDevice => 'c',
            Type::Fifo => 'p',
            Type::Socket => 's',
        }
    }
}

/// One inode, as far as its fixed part tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub reference: InodeReference,
    pub number: u32,
    pub kind: Type,
    /// Permission bits, 07777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
    pub links: u32,
    /// Index into the xattr table.
    pub xattr: Option<u32>,
    pub content: Content,
}

/// What only some types have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Directory {
        /// Where the listing starts.
        listing: Cursor,
        /// Bytes of the listing.
        size: u32,
        /// Entries of the index behind the inode.
        index_count: u16,
        index: Cursor,
        /// Inode number of the parent.
        parent: u32,
    },
    File(FileContent),
    Symlink {
        target: Cursor,
        size: u32,
    },
    Device {
        major: u32,
        minor: u32,
    },
    Nothing,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    pub size: u64,
    /// Position of the first block.
    pub start: u64,
    /// Bytes in holes.
    pub sparse: u64,
    /// Fragment and the offset in it, for the bytes behind the last full block.
    pub fragment: Option<(u32, u32)>,
    /// Blocks in the list.
    pub blocks: u64,
    /// Where the list of stored sizes starts.
    pub list: Cursor,
}

impl Inode {
    /// Bytes of the content: file size, target length, listing size.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Directory { size, .. } => u64::from(*size),
            Content::File(file) => file.size,
            Content::Symlink { size, .. } => u64::from(*size),
            Content::Device { .. } | Content::Nothing => 0,
        }
    }

    /// Type and permission bits, as `st_mode` has them.
    pub fn full_mode(&self) -> u32 {
        self.kind.mode_bits() | u32::from(self.mode)
    }

    pub fn is_directory(&self) -> bool {
        self.kind == Type::Directory
    }
}

impl Image {
    /// Reads an inode.
    pub fn inode(&self, reference: InodeReference) -> Result<Inode> {
        let broken = || self.damaged(format!("the inode at {:#x} is broken", reference.0));
        let table = self.superblock.inode_table;
        let start = table.checked_add(reference.block()).ok_or_else(broken)?;
        if start >= self.superblock.directory_table || reference.offset() >= METADATA_SIZE {
            return Err(broken());
        }
        let mut cursor = Cursor {
            block: start,
            offset: reference.offset(),
        };
        // Most inodes lie inside one block; header and body are copied in one go then.
        let mut bytes = [0; InodeHeader::SIZE + 40];
        let block = self.metadata_block(start)?;
        let here = copy(
            &mut bytes,
            block.bytes().get(cursor.offset..).unwrap_or_default(),
        );
        let header = if here >= InodeHeader::SIZE {
            InodeHeader::parse(&bytes)
        } else {
            let mut ahead = cursor;
            let head = bytes.get_mut(..InodeHeader::SIZE).ok_or_else(broken)?;
            self.metadata_read(&mut ahead, head)?;
            InodeHeader::parse(head)
        }
        .ok_or_else(broken)?;
        let length = InodeBody::size(header.kind)
            .map(|body| body + InodeHeader::SIZE)
            .ok_or_else(broken)?;
        let whole = bytes.get_mut(..length).ok_or_else(broken)?;
        if here >= length {
            self.advance(&mut cursor, &block, length)?;
        } else {
            self.metadata_read(&mut cursor, whole)?;
        }
        let body = whole
            .get(InodeHeader::SIZE..)
            .and_then(|body| InodeBody::parse(header.kind, body))
            .ok_or_else(broken)?;
        self.assemble(reference, &header, body, cursor)
    }

    fn assemble(
        &self,
        reference: InodeReference,
        header: &InodeHeader,
        body: InodeBody,
        behind: Cursor,
    ) -> Result<Inode> {
        let broken = |why: &str| self.damaged(format!("the inode at {:#x} {why}", reference.0));
        let kind = Type::from_kind(header.kind).ok_or_else(|| broken("has no known type"))?;
        let (links, xattr, content) = match body {
            InodeBody::Directory {
                start,
                links,
                size,
                offset,
                parent,
            } => {
                let content = self.listing(start, offset, u32::from(size), 0, behind, parent);
                (links, NONE32, content)
            }
            InodeBody::DirectoryExtended {
                links,
                size,
                start,
                parent,
                index_count,
                offset,
                xattr,
            } => {
                let content = self.listing(start, offset, size, index_count, behind, parent);
                (links, xattr, content)
            }
            InodeBody::File {
                start,
                fragment,
                offset,
                size,
            } => {
                let content = self.file(start.into(), size.into(), 0, fragment, offset, behind);
                (1, NONE32, content)
            }
            InodeBody::FileExtended {
                start,
                size,
                sparse,
                links,
                fragment,
                offset,
                xattr,
            } => {
                let content = self.file(start, size, sparse, fragment, offset, behind);
                (links, xattr, content)
            }
            InodeBody::Symlink { links, size } => {
                if size == 0 || size > TARGET_MAX {
                    return Err(broken("is a symlink with an impossible length"));
                }
                let xattr = if header.kind > kind::EXTENDED {
                    let mut after = behind;
                    let mut word = [0; 4];
                    self.metadata_skip(&mut after, size.into())?;
                    self.metadata_read(&mut after, &mut word)?;
                    u32::from_le_bytes(word)
                } else {
                    NONE32
                };
                let target = behind;
                (links, xattr, Content::Symlink { target, size })
            }
            InodeBody::Device { links, device } => (links, NONE32, device_content(device)),
            InodeBody::DeviceExtended {
                links,
                device,
                xattr,
            } => (links, xattr, device_content(device)),
            InodeBody::Ipc { links } => (links, NONE32, Content::Nothing),
            InodeBody::IpcExtended { links, xattr } => (links, xattr, Content::Nothing),
        };
        if let Content::File(file) = &content
            && i64::try_from(file.size).is_err()
        {
            return Err(broken("is a file with an impossible size"));
        }
        Ok(Inode {
            reference,
            number: header.number,
            kind,
            mode: header.mode & 0o7777,
            uid: self.id(header.uid)?,
            gid: self.id(header.gid)?,
            mtime: header.mtime,
            links,
            xattr: (xattr != NONE32).then_some(xattr),
            content,
        })
    }

    fn listing(
        &self,
        start: u32,
        offset: u16,
        size: u32,
        index_count: u16,
        index: Cursor,
        parent: u32,
    ) -> Content {
        Content::Directory {
            listing: Cursor {
                block: self.superblock.directory_table.saturating_add(start.into()),
                offset: offset.into(),
            },
            size: size.saturating_sub(DIRECTORY_SIZE_BIAS),
            index_count,
            index,
            parent,
        }
    }

    fn file(
        &self,
        start: u64,
        size: u64,
        sparse: u64,
        fragment: u32,
        offset: u32,
        list: Cursor,
    ) -> Content {
        let block_size = u64::from(self.superblock.block_size);
        let fragment = (fragment != NONE32).then_some((fragment, offset));
        Content::File(FileContent {
            size,
            start,
            sparse,
            fragment,
            blocks: if fragment.is_some() {
                size / block_size
            } else {
                size.div_ceil(block_size)
            },
            list,
        })
    }

    /// The target of a symlink; an error for other types.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>> {
        let Content::Symlink { target, size } = inode.content else {
            return Err(self.damaged(format!("inode {} is not a symlink", inode.number)));
        };
        let mut bytes = vec![0; size.min(TARGET_MAX) as usize];
        self.metadata_read(&mut { target }, &mut bytes)?;
        if bytes.contains(&0) {
            return Err(self.damaged(format!("symlink {} contains a zero byte", inode.number)));
        }
        Ok(bytes)
    }
}

fn device_content(device: u32) -> Content {
    let (major, minor) = decode_device(device);
    Content::Device { major, minor }
}
