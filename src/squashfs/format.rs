//! The on-disk structures of squashfs 4.0 ↔ bytes. No I/O, no policy.
//!
//! Source: the kernel's `fs/squashfs/squashfs_fs.h` (4.0, little endian). Sizes are bytes unless said otherwise.
//! Parsers take the bytes they need and return `None` when there are too few; they check nothing else: limits are the
//! reader's business.

pub const MAGIC: u32 = 0x7371_7368;
pub const SUPERBLOCK_SIZE: usize = 96;
/// Metadata is stored in blocks of this many bytes before compression.
pub const METADATA_SIZE: usize = 8192;
/// Set in a metadata block's u16 header when the block is stored as it is.
pub const METADATA_UNCOMPRESSED: u16 = 0x8000;
/// Set in a data block's or fragment's u32 size when it is stored as it is.
pub const DATA_UNCOMPRESSED: u32 = 1 << 24;
pub const DATA_SIZE_MASK: u32 = DATA_UNCOMPRESSED - 1;
/// No fragment, no xattrs, no table.
pub const NONE32: u32 = 0xffff_ffff;
pub const NONE64: u64 = 0xffff_ffff_ffff_ffff;
pub const MAX_BLOCK_SIZE: u32 = 1 << 20;
pub const NAME_MAX: usize = 255;
/// Entries after one directory header.
pub const DIRECTORY_RUN: usize = 256;
/// Directory listings are stored 3 bytes longer than they are (for `.` and `..`).
pub const DIRECTORY_SIZE_BIAS: u32 = 3;

pub mod flag {
    pub const UNCOMPRESSED_INODES: u16 = 0x0001;
    pub const UNCOMPRESSED_DATA: u16 = 0x0002;
    pub const UNCOMPRESSED_FRAGMENTS: u16 = 0x0008;
    pub const NO_FRAGMENTS: u16 = 0x0010;
    pub const DUPLICATES: u16 = 0x0040;
    pub const EXPORTABLE: u16 = 0x0080;
    pub const UNCOMPRESSED_XATTRS: u16 = 0x0100;
    pub const NO_XATTRS: u16 = 0x0200;
    pub const COMPRESSOR_OPTIONS: u16 = 0x0400;
    pub const UNCOMPRESSED_IDS: u16 = 0x0800;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressor {
    Gzip = 1,
    Lzma = 2,
    Lzo = 3,
    Xz = 4,
    Lz4 = 5,
    Zstd = 6,
}

impl Compressor {
    pub fn from_id(id: u16) -> Option<Compressor> {
        use Compressor::*;
        [Gzip, Lzma, Lzo, Xz, Lz4, Zstd]
            .into_iter()
            .find(|c| *c as u16 == id)
    }

    pub fn name(self) -> &'static str {
        match self {
            Compressor::Gzip => "gzip",
            Compressor::Lzma => "lzma",
            Compressor::Lzo => "lzo",
            Compressor::Xz => "xz",
            Compressor::Lz4 => "lz4",
            Compressor::Zstd => "zstd",
        }
    }

    /// Whether a block is decompressed within a fraction of a millisecond.
    pub fn is_quick(self) -> bool {
        matches!(self, Compressor::Lz4 | Compressor::Zstd)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The first 96 bytes. Table positions are absolute; [`NONE64`] means the table is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub inodes: u32,
    pub mkfs_time: u32,
    pub block_size: u32,
    pub fragments: u32,
    pub compressor: u16,
    pub flags: u16,
    pub ids: u16,
    pub root_inode: InodeReference,
    pub bytes_used: u64,
    pub id_table: u64,
    pub xattr_table: u64,
    pub inode_table: u64,
    pub directory_table: u64,
    pub fragment_table: u64,
    pub export_table: u64,
}

impl Superblock {
    pub fn encode(&self) -> [u8; SUPERBLOCK_SIZE] {
        let mut out = [0; SUPERBLOCK_SIZE];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC.to_le_bytes());
        put(&self.inodes.to_le_bytes());
        put(&self.mkfs_time.to_le_bytes());
        put(&self.block_size.to_le_bytes());
        put(&self.fragments.to_le_bytes());
        put(&self.compressor.to_le_bytes());
        put(&(self.block_size.max(1).ilog2() as u16).to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.ids.to_le_bytes());
        put(&4u16.to_le_bytes());
        put(&0u16.to_le_bytes());
        put(&self.root_inode.0.to_le_bytes());
        put(&self.bytes_used.to_le_bytes());
        put(&self.id_table.to_le_bytes());
        put(&self.xattr_table.to_le_bytes());
        put(&self.inode_table.to_le_bytes());
        put(&self.directory_table.to_le_bytes());
        put(&self.fragment_table.to_le_bytes());
        put(&self.export_table.to_le_bytes());
        out
    }

    /// `None` when too short, not squashfs, not 4.0 or with a block size that disagrees with its logarithm.
    pub fn parse(bytes: &[u8]) -> Option<Superblock> {
        let block_size = u32_at(bytes, 12)?;
        let block_log = u16_at(bytes, 22)?;
        let version = (u16_at(bytes, 28)?, u16_at(bytes, 30)?);
        if u32_at(bytes, 0)? != MAGIC
            || version != (4, 0)
            || 1u32.checked_shl(block_log.into()) != Some(block_size)
        {
            return None;
        }
        Some(Superblock {
            inodes: u32_at(bytes, 4)?,
            mkfs_time: u32_at(bytes, 8)?,
            block_size,
            fragments: u32_at(bytes, 16)?,
            compressor: u16_at(bytes, 20)?,
            flags: u16_at(bytes, 24)?,
            ids: u16_at(bytes, 26)?,
            root_inode: InodeReference(u64_at(bytes, 32)?),
            bytes_used: u64_at(bytes, 40)?,
            id_table: u64_at(bytes, 48)?,
            xattr_table: u64_at(bytes, 56)?,
            inode_table: u64_at(bytes, 64)?,
            directory_table: u64_at(bytes, 72)?,
            fragment_table: u64_at(bytes, 80)?,
            export_table: u64_at(bytes, 88)?,
        })
    }
}

/// Where an inode is: offset of its metadata block from the inode table, and offset inside the uncompressed block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeReference(pub u64);

impl InodeReference {
    pub fn new(block: u64, offset: u16) -> InodeReference {
        InodeReference(block << 16 | u64::from(offset))
    }
    pub fn block(self) -> u64 {
        self.0 >> 16
    }
    pub fn offset(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

/// Inode types; the extended form is the basic one plus 7.
pub mod kind {
    pub const DIRECTORY: u16 = 1;
    pub const FILE: u16 = 2;
    pub const SYMLINK: u16 = 3;
    pub const BLOCK_DEVICE: u16 = 4;
    pub const CHARACTER_DEVICE: u16 = 5;
    pub const FIFO: u16 = 6;
    pub const SOCKET: u16 = 7;
    pub const EXTENDED: u16 = 7;
}

/// What every inode starts with (16 bytes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InodeHeader {
    /// One of [`kind`], basic or extended.
    pub kind: u16,
    /// Permission bits, 07777.
    pub mode: u16,
    /// Index into the id table.
    pub uid: u16,
    pub gid: u16,
    pub mtime: u32,
    pub number: u32,
}

/// The rest of an inode, without its variable tail (block list, symlink target, directory index).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InodeBody {
    Directory {
        start: u32,
        links: u32,
        size: u16,
        offset: u16,
        parent: u32,
    },
    DirectoryExtended {
        links: u32,
        size: u32,
        start: u32,
        parent: u32,
        index_count: u16,
        offset: u16,
        xattr: u32,
    },
    /// Followed by one u32 per full block, and one for the tail when `fragment` is [`NONE32`].
    File {
        start: u32,
        fragment: u32,
        offset: u32,
        size: u32,
    },
    FileExtended {
        start: u64,
        size: u64,
        sparse: u64,
        links: u32,
        fragment: u32,
        offset: u32,
        xattr: u32,
    },
    /// Followed by the target; the extended form has its xattr index behind the target.
    Symlink {
        links: u32,
        size: u32,
    },
    Device {
        links: u32,
        device: u32,
    },
    DeviceExtended {
        links: u32,
        device: u32,
        xattr: u32,
    },
    Ipc {
        links: u32,
    },
    IpcExtended {
        links: u32,
        xattr: u32,
    },
}

impl InodeHeader {
    pub const SIZE: usize = 16;

    pub fn encode(&self, out: &mut Vec<u8>) {
        for half in [self.kind, self.mode, self.uid, self.gid] {
            out.extend(half.to_le_bytes());
        }
        out.extend(self.mtime.to_le_bytes());
        out.extend(self.number.to_le_bytes());
    }

    pub fn parse(bytes: &[u8]) -> Option<InodeHeader> {
        Some(InodeHeader {
            kind: u16_at(bytes, 0)?,
            mode: u16_at(bytes, 2)?,
            uid: u16_at(bytes, 4)?,
            gid: u16_at(bytes, 6)?,
            mtime: u32_at(bytes, 8)?,
            number: u32_at(bytes, 12)?,
        })
    }
}

impl InodeBody {
    /// Bytes of the fixed part for an inode of this type; `None` for an unknown type.
    pub fn size(inode_kind: u16) -> Option<usize> {
        Some(match inode_kind {
            1 => 16,
            2 => 16,
            3 | 10 => 8,
            4 | 5 => 8,
            6 | 7 => 4,
            8 => 24,
            9 => 40,
            11 | 12 => 12,
            13 | 14 => 8,
            _ => return None,
        })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            InodeBody::Directory {
                start,
                links,
                size,
                offset,
                parent,
            } => {
                out.extend(start.to_le_bytes());
                out.extend(links.to_le_bytes());
                out.extend(size.to_le_bytes());
                out.extend(offset.to_le_bytes());
                out.extend(parent.to_le_bytes());
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
                for word in [links, size, start, parent] {
                    out.extend(word.to_le_bytes());
                }
                out.extend(index_count.to_le_bytes());
                out.extend(offset.to_le_bytes());
                out.extend(xattr.to_le_bytes());
            }
            InodeBody::File {
                start,
                fragment,
                offset,
                size,
            } => {
                for word in [start, fragment, offset, size] {
                    out.extend(word.to_le_bytes());
                }
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
                for long in [start, size, sparse] {
                    out.extend(long.to_le_bytes());
                }
                for word in [links, fragment, offset, xattr] {
                    out.extend(word.to_le_bytes());
                }
            }
            InodeBody::Symlink { links, size } => {
                out.extend(links.to_le_bytes());
                out.extend(size.to_le_bytes());
            }
            InodeBody::Device { links, device } => {
                out.extend(links.to_le_bytes());
                out.extend(device.to_le_bytes());
            }
            InodeBody::DeviceExtended {
                links,
                device,
                xattr,
            } => {
                for word in [links, device, xattr] {
                    out.extend(word.to_le_bytes());
                }
            }
            InodeBody::Ipc { links } => out.extend(links.to_le_bytes()),
            InodeBody::IpcExtended { links, xattr } => {
                out.extend(links.to_le_bytes());
                out.extend(xattr.to_le_bytes());
            }
        }
    }

    /// Parses the bytes behind the header.
    pub fn parse(inode_kind: u16, b: &[u8]) -> Option<InodeBody> {
        Some(match inode_kind {
            1 => InodeBody::Directory {
                start: u32_at(b, 0)?,
                links: u32_at(b, 4)?,
                size: u16_at(b, 8)?,
                offset: u16_at(b, 10)?,
                parent: u32_at(b, 12)?,
            },
            8 => InodeBody::DirectoryExtended {
                links: u32_at(b, 0)?,
                size: u32_at(b, 4)?,
                start: u32_at(b, 8)?,
                parent: u32_at(b, 12)?,
                index_count: u16_at(b, 16)?,
                offset: u16_at(b, 18)?,
                xattr: u32_at(b, 20)?,
            },
            2 => InodeBody::File {
                start: u32_at(b, 0)?,
                fragment: u32_at(b, 4)?,
                offset: u32_at(b, 8)?,
                size: u32_at(b, 12)?,
            },
            9 => InodeBody::FileExtended {
                start: u64_at(b, 0)?,
                size: u64_at(b, 8)?,
                sparse: u64_at(b, 16)?,
                links: u32_at(b, 24)?,
                fragment: u32_at(b, 28)?,
                offset: u32_at(b, 32)?,
                xattr: u32_at(b, 36)?,
            },
            3 | 10 => InodeBody::Symlink {
                links: u32_at(b, 0)?,
                size: u32_at(b, 4)?,
            },
            4 | 5 => InodeBody::Device {
                links: u32_at(b, 0)?,
                device: u32_at(b, 4)?,
            },
            11 | 12 => InodeBody::DeviceExtended {
                links: u32_at(b, 0)?,
                device: u32_at(b, 4)?,
                xattr: u32_at(b, 8)?,
            },
            6 | 7 => InodeBody::Ipc {
                links: u32_at(b, 0)?,
            },
            13 | 14 => InodeBody::IpcExtended {
                links: u32_at(b, 0)?,
                xattr: u32_at(b, 4)?,
            },
            _ => return None,
        })
    }
}

/// Before each run of up to [`DIRECTORY_RUN`] entries whose inodes share a metadata block (12 bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryHeader {
    /// Entries that follow; stored minus one.
    pub count: u32,
    /// Offset of the inodes' metadata block from the inode table.
    pub start: u32,
    /// Entries store their inode number as a difference to this one.
    pub inode_number: u32,
}

impl DirectoryHeader {
    pub const SIZE: usize = 12;

    pub fn encode(&self, out: &mut Vec<u8>) {
        for word in [self.count.wrapping_sub(1), self.start, self.inode_number] {
            out.extend(word.to_le_bytes());
        }
    }

    pub fn parse(b: &[u8]) -> Option<DirectoryHeader> {
        Some(DirectoryHeader {
            count: u32_at(b, 0)?.checked_add(1)?,
            start: u32_at(b, 4)?,
            inode_number: u32_at(b, 8)?,
        })
    }
}

/// One name (8 bytes and the name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    pub offset: u16,
    pub number_delta: i16,
    /// Always the basic type.
    pub kind: u16,
    pub name: &'a [u8],
}

impl<'a> DirectoryEntry<'a> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.offset.to_le_bytes());
        out.extend(self.number_delta.to_le_bytes());
        out.extend(self.kind.to_le_bytes());
        out.extend((self.name.len().wrapping_sub(1) as u16).to_le_bytes());
        out.extend(self.name);
    }

    /// The entry and the bytes it takes.
    pub fn parse(b: &'a [u8]) -> Option<(DirectoryEntry<'a>, usize)> {
        let length = usize::from(u16_at(b, 6)?) + 1;
        let entry = DirectoryEntry {
            offset: u16_at(b, 0)?,
            number_delta: u16_at(b, 2)? as i16,
            kind: u16_at(b, 4)?,
            name: b.get(8..8 + length)?,
        };
        Some((entry, 8 + length))
    }
}

/// One index entry of an extended directory (12 bytes and the name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryIndex<'a> {
    /// Bytes into the listing where the metadata block starts.
    pub index: u32,
    /// Offset of that metadata block from the directory table.
    pub start: u32,
    pub name: &'a [u8],
}

impl DirectoryIndex<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.index.to_le_bytes());
        out.extend(self.start.to_le_bytes());
        out.extend((self.name.len().wrapping_sub(1) as u32).to_le_bytes());
        out.extend(self.name);
    }
}

/// One fragment block (16 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentEntry {
    pub start: u64,
    /// Stored size with [`DATA_UNCOMPRESSED`].
    pub size: u32,
}

impl FragmentEntry {
    pub const SIZE: usize = 16;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.start.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(0u32.to_le_bytes());
    }

    pub fn parse(b: &[u8]) -> Option<FragmentEntry> {
        Some(FragmentEntry {
            start: u64_at(b, 0)?,
            size: u32_at(b, 8)?,
        })
    }
}

/// Xattr name prefixes; the stored name lacks them.
pub mod xattr_prefix {
    pub const USER: u16 = 0;
    pub const TRUSTED: u16 = 1;
    pub const SECURITY: u16 = 2;
    /// The value is a reference to one stored elsewhere.
    pub const OUT_OF_LINE: u16 = 0x100;
}

/// A device number as squashfs stores it (the kernel's `new_encode_dev`).
pub fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Major and minor of a stored device number.
pub fn decode_device(device: u32) -> (u32, u32) {
    (
        (device & 0xfff00) >> 8,
        (device & 0xff) | ((device >> 12) & 0xfff00),
    )
}

#[cfg(test)]
mod tests;
