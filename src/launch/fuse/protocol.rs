//! The messages of the FUSE kernel protocol (`include/uapi/linux/fuse.h`) that a read-only server meets. Bytes only.
//!
//! We speak 7.31; younger kernels keep to it, and what older ones lack shows in the flags of INIT.

pub const MAJOR: u32 = 7;
pub const MINOR: u32 = 31;
/// The node id of the root.
pub const ROOT: u64 = 1;

pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const READLINK: u32 = 5;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
}

/// Flags of INIT.
pub mod init {
    /// Several reads of one file at a time.
    pub const ASYNC_READ: u32 = 1;
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    /// The kernel chooses between READDIR and READDIRPLUS by what the reader of the directory does.
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    /// ENOSYS to OPEN means that no open is ever needed.
    pub const NO_OPEN_SUPPORT: u32 = 1 << 17;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const CACHE_SYMLINKS: u32 = 1 << 23;
    /// ENOSYS to OPENDIR means that no open is ever needed, and that listings are kept.
    pub const NO_OPENDIR_SUPPORT: u32 = 1 << 24;

    pub const WANTED: u32 = ASYNC_READ
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | NO_OPEN_SUPPORT
        | PARALLEL_DIROPS
        | MAX_PAGES
        | CACHE_SYMLINKS
        | NO_OPENDIR_SUPPORT;
}

/// Flags of the answer to OPEN and OPENDIR, for kernels that insist on asking.
pub const OPEN_KEEP_CACHE: u32 = 1 << 1;
pub const OPEN_CACHE_DIR: u32 = 1 << 3;

/// In seconds: an image never changes.
const FOR_EVER: u64 = u32::MAX as u64;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(eight.try_into().ok()?))
}

/// One request of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub opcode: u32,
    /// Named by the answer.
    pub unique: u64,
    pub node: u64,
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    const HEADER: usize = 40;

    pub fn parse(bytes: &'a [u8]) -> Option<Request<'a>> {
        let length = u32_at(bytes, 0)? as usize;
        Some(Request {
            opcode: u32_at(bytes, 4)?,
            unique: u64_at(bytes, 8)?,
            node: u64_at(bytes, 16)?,
            body: bytes.get(Request::HEADER..length)?,
        })
    }

    /// The name in a body that ends with one.
    pub fn name(&self, from: usize) -> Option<&'a [u8]> {
        let rest = self.body.get(from..)?;
        rest.split(|byte| *byte == 0).next()
    }

    /// Offset and size of READ, READDIR and READDIRPLUS.
    pub fn range(&self) -> Option<(u64, u32)> {
        Some((u64_at(self.body, 8)?, u32_at(self.body, 16)?))
    }

    /// The size that GETXATTR and LISTXATTR start with.
    pub fn size(&self) -> Option<u32> {
        u32_at(self.body, 0)
    }
}

/// What the kernel says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u32,
}

impl Init {
    pub fn parse(body: &[u8]) -> Option<Init> {
        Some(Init {
            major: u32_at(body, 0)?,
            minor: u32_at(body, 4)?,
            // Kernels before 7.6 send no more.
            max_readahead: u32_at(body, 8).unwrap_or(0),
            flags: u32_at(body, 12).unwrap_or(0),
        })
    }
}

/// Attributes as the kernel wants them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub ino: u64,
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    pub time: u64,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub device: u32,
}

/// An answer in the making: its header is filled in last.
#[derive(Default)]
pub struct Reply {
    pub bytes: Vec<u8>,
}

impl Reply {
    pub const HEADER: usize = 16;

    /// Forgets the former answer, keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(Reply::HEADER, 0);
    }

    /// The header of an answer with `extra` bytes that follow from elsewhere; `error` is a positive errno or 0.
    pub fn finish(&mut self, unique: u64, error: i32, extra: usize) {
        if error != 0 {
            self.bytes.truncate(Reply::HEADER);
        }
        let length = self.bytes.len().saturating_add(extra) as u32;
        let header = [
            &length.to_le_bytes()[..],
            &error.wrapping_neg().to_le_bytes(),
            &unique.to_le_bytes(),
        ]
        .concat();
        if let Some(place) = self.bytes.get_mut(..Reply::HEADER) {
            place.copy_from_slice(&header);
        }
    }

    /// Bytes of the body so far.
    pub fn body_len(&self) -> usize {
        self.bytes.len().saturating_sub(Reply::HEADER)
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The answer to INIT.
    pub fn init(&mut self, kernel: &Init, flags: u32, background: u16) {
        self.u32(MAJOR);
        self.u32(MINOR);
        self.u32(kernel.max_readahead);
        self.u32(flags);
        self.u16(background);
        // Congested above three quarters, as the kernel's own defaults have it.
        self.u16(background / 4 * 3);
        self.u32(4096); // max_write: the least that is allowed
        self.u32(1_000_000_000); // times in whole seconds
        self.u16(256); // max_pages: 1 MiB
        self.bytes(&[0; 34]); // map alignment, second flags, stack depth, timeout, unused
    }

    fn attributes(&mut self, a: &Attributes) {
        self.u64(a.ino);
        self.u64(a.size);
        self.u64(a.blocks);
        for _ in 0..3 {
            self.u64(a.time);
        }
        for _ in 0..3 {
            self.u32(0); // nanoseconds
        }
        for word in [a.mode, a.links, a.uid, a.gid, a.device, 4096, 0] {
            self.u32(word);
        }
    }

    /// The answer to GETATTR.
    pub fn attr(&mut self, attributes: &Attributes) {
        self.u64(FOR_EVER);
        self.u64(0);
        self.attributes(attributes);
    }

    /// The answer to LOOKUP; node 0 says, for ever, that there is no such name.
    pub fn entry(&mut self, node: u64, attributes: &Attributes) {
        self.u64(node);
        self.u64(0); // generation
        self.u64(FOR_EVER);
        self.u64(FOR_EVER);
        self.u64(0); // nanoseconds
        self.attributes(attributes);
    }

    /// One name of a listing.
    pub fn dirent(&mut self, ino: u64, next: u64, mode: u32, name: &[u8]) {
        self.u64(ino);
        self.u64(next);
        self.u32(name.len() as u32);
        self.u32(mode >> 12);
        self.bytes(name);
        let padded = self.body_len().next_multiple_of(8);
        self.bytes.resize(Reply::HEADER + padded, 0);
    }

    /// Bytes that [`Reply::dirent`] takes, with [`Reply::entry`] before it for READDIRPLUS.
    pub fn dirent_len(name: &[u8], plus: bool) -> usize {
        (24 + name.len()).next_multiple_of(8) + if plus { 128 } else { 0 }
    }

    /// The answer to OPEN and OPENDIR.
    pub fn open(&mut self, flags: u32) {
        self.u64(0); // handle
        self.u32(flags);
        self.u32(0);
    }

    /// The answer to STATFS: a full file system.
    pub fn statfs(&mut self, blocks: u64, block_size: u32, inodes: u64) {
        for long in [blocks, 0, 0, inodes, 0] {
            self.u64(long);
        }
        for word in [block_size, 255, block_size, 0, 0, 0, 0, 0, 0, 0] {
            self.u32(word);
        }
    }

    /// The beginning of a message that nobody asked for: `length` bytes of a file for the kernel's page cache.
    pub fn store(&mut self, node: u64, offset: u64, length: u32) {
        const NOTIFY_STORE: u32 = 4;
        self.bytes.clear();
        self.u32((Reply::HEADER + 24) as u32 + length);
        self.u32(NOTIFY_STORE);
        self.u64(0); // the answer to nothing
        self.u64(node);
        self.u64(offset);
        self.u32(length);
        self.u32(0);
    }

    /// The node of an answer to LOOKUP.
    pub fn node(&self) -> Option<u64> {
        u64_at(&self.bytes, Reply::HEADER)
    }

    /// The answer to GETXATTR and LISTXATTR that ask for a length.
    pub fn xattr_size(&mut self, size: u32) {
        self.u32(size);
        self.u32(0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message as the kernel sends it.
    pub fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((40 + body.len() as u32).to_le_bytes());
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(77u64.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn requests_are_parsed_and_short_ones_refused() {
        let bytes = message(opcode::LOOKUP, 9, b"name\0");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!((request.opcode, request.unique, request.node), (1, 77, 9));
        assert_eq!(request.name(0), Some(&b"name"[..]));
        assert_eq!(request.name(9), None);
        assert_eq!(request.range(), None);
        for length in 0..bytes.len() {
            assert_eq!(Request::parse(&bytes[..length]), None);
        }
    }

    #[test]
    fn answers_have_the_kernels_sizes() {
        let init = Init::parse(&[7, 0, 0, 0, 31, 0, 0, 0]).unwrap();
        assert_eq!((init.major, init.minor, init.flags), (7, 31, 0));
        let a = Attributes::default();
        type Fill<'a> = &'a dyn Fn(&mut Reply);
        let cases: [(Fill, usize); 8] = [
            (&|r| r.init(&init, 0, 12), 64),
            (&|r| r.attr(&a), 104),
            (&|r| r.entry(0, &a), 128),
            (&|r| r.dirent(1, 2, 0o40000, b"four"), 32),
            (&|r| r.dirent(1, 2, 0o40000, b"12345678"), 32),
            (&|r| r.open(0), 16),
            (&|r| r.statfs(1, 1, 1), 80),
            (&|r| r.xattr_size(1), 8),
        ];
        for (index, (fill, size)) in cases.iter().enumerate() {
            let mut reply = Reply::default();
            reply.clear();
            fill(&mut reply);
            assert_eq!(reply.body_len(), *size, "case {index}");
        }
        assert_eq!(Reply::dirent_len(b"four", true), 160);
    }

    #[test]
    fn an_error_has_no_body() {
        let mut reply = Reply::default();
        reply.clear();
        reply.u64(5);
        reply.finish(0x0102, 5, 0);
        assert_eq!(
            reply.bytes,
            [16, 0, 0, 0, 251, 255, 255, 255, 2, 1, 0, 0, 0, 0, 0, 0]
        );
    }
}
