//! What each request gets for an answer: from the image's inodes to the kernel's structures. No device, no threads.

use super::protocol::{
    Attributes, Init, OPEN_CACHE_DIR, OPEN_KEEP_CACHE, ROOT, Reply, Request, init, opcode,
};
use crate::error::{Error, Result};
use crate::squashfs::format::{DIRECTORY_SIZE_BIAS, NAME_MAX};
use crate::squashfs::read::{Content, Image, Inode, InodeReference, Piece, Position, Type};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A listing is answered in parts of at most this; kernels ask for one page up to 1 MiB.
const LISTING_MAX: usize = 64 << 10;
/// The most that one READ is answered with.
const READ_MAX: u32 = 1 << 20;
/// Offsets of `.` and `..` in a listing; the image's own positions follow.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// What a request gets.
#[derive(Debug)]
pub enum Answer {
    /// Nothing is expected.
    Nothing,
    /// The body is in the reply.
    Body,
    /// The body is the pieces.
    Pieces,
    Errno(Errno),
    /// EIO, and something to tell.
    Failed(Error),
}

/// Where one thread makes its answers; kept so that a request allocates nothing.
#[derive(Default)]
pub struct Workspace {
    pub reply: Reply,
    pub pieces: Vec<Piece>,
}

/// How the kernel knows an inode.
pub fn node_id(image: &Image, reference: InodeReference) -> u64 {
    if reference == image.root() {
        return ROOT;
    }
    reference.0.wrapping_add(ROOT + 1)
}

/// Answers requests about one image.
pub struct Answerer {
    image: Arc<Image>,
    /// Shown as everybody's owner.
    owner: Option<(u32, u32)>,
    /// Flags that the kernel may offer; all but in tests.
    offered: u32,
    /// Flags agreed in INIT.
    agreed: AtomicU32,
}

impl Answerer {
    pub fn new(image: Arc<Image>, owner: Option<(u32, u32)>, offered: u32) -> Answerer {
        Answerer {
            image,
            owner,
            offered,
            agreed: AtomicU32::new(0),
        }
    }

    /// Answers a request, in `workspace`.
    pub fn answer(&self, request: &Request, workspace: &mut Workspace) -> Answer {
        workspace.reply.clear();
        workspace.pieces.clear();
        self.try_answer(request, workspace)
            .unwrap_or_else(Answer::Failed)
    }

    fn try_answer(&self, request: &Request, workspace: &mut Workspace) -> Result<Answer> {
        let reply = &mut workspace.reply;
        let answer = match request.opcode {
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => Answer::Nothing,
            opcode::INIT => self.init(request, reply),
            opcode::LOOKUP => self.lookup(request, reply)?,
            opcode::GETATTR => {
                reply.attr(&self.attributes(&self.node(request.node)?));
                Answer::Body
            }
            opcode::READLINK => {
                let target = self.image.read_link(&self.node(request.node)?)?;
                reply.bytes(&target);
                Answer::Body
            }
            opcode::READ => match request.range() {
                Some((offset, size)) => {
                    let inode = self.node(request.node)?;
                    let size = size.min(READ_MAX) as usize;
                    let pieces = &mut workspace.pieces;
                    self.image
                        .read_pieces(&inode, offset, size, |piece| pieces.push(piece))?;
                    Answer::Pieces
                }
                None => Answer::Errno(Errno::INVAL),
            },
            opcode::READDIR => self.listing(request, reply, false)?,
            opcode::READDIRPLUS => self.listing(request, reply, true)?,
            opcode::OPEN => self.open(reply, init::NO_OPEN_SUPPORT, OPEN_KEEP_CACHE),
            opcode::OPENDIR => self.open(
                reply,
                init::NO_OPENDIR_SUPPORT,
                OPEN_KEEP_CACHE | OPEN_CACHE_DIR,
            ),
            opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => Answer::Body,
            opcode::STATFS => {
                let superblock = self.image.superblock();
                let blocks = superblock
                    .bytes_used
                    .div_ceil(superblock.block_size.max(1).into());
                reply.statfs(blocks, superblock.block_size, superblock.inodes.into());
                Answer::Body
            }
            opcode::GETXATTR | opcode::LISTXATTR if self.image.has_xattrs() => {
                self.xattr(request, reply)?
            }
            // Told once, the kernel does not ask again.
            _ => Answer::Errno(Errno::NOSYS),
        };
        Ok(answer)
    }

    fn init(&self, request: &Request, reply: &mut Reply) -> Answer {
        let Some(kernel) = Init::parse(request.body) else {
            return Answer::Errno(Errno::PROTO);
        };
        if kernel.major < super::protocol::MAJOR {
            return Answer::Errno(Errno::PROTO);
        }
        // A younger major: our version is the answer, and the kernel asks again in it.
        let agreed = kernel.flags & self.offered & init::WANTED;
        self.agreed.store(agreed, Ordering::Relaxed);
        reply.init(&kernel, agreed, 64);
        Answer::Body
    }

    fn open(&self, reply: &mut Reply, unneeded: u32, flags: u32) -> Answer {
        if self.agreed.load(Ordering::Relaxed) & unneeded != 0 {
            return Answer::Errno(Errno::NOSYS);
        }
        reply.open(flags);
        Answer::Body
    }

    fn node(&self, node: u64) -> Result<Inode> {
        self.image.inode(match node {
            ROOT => self.image.root(),
            _ => InodeReference(node.wrapping_sub(ROOT + 1)),
        })
    }

    fn node_id(&self, reference: InodeReference) -> u64 {
        node_id(&self.image, reference)
    }

    fn attributes(&self, inode: &Inode) -> Attributes {
        let (uid, gid) = self.owner.unwrap_or((inode.uid, inode.gid));
        let size = match inode.content {
            // As the kernel's own squashfs shows it.
            Content::Directory { size, .. } => u64::from(size) + u64::from(DIRECTORY_SIZE_BIAS),
            _ => inode.size(),
        };
        let stored = match &inode.content {
            Content::File(file) => file.size.saturating_sub(file.sparse),
            _ => 0,
        };
        let device = match inode.content {
            Content::Device { major, minor } => {
                crate::squashfs::format::encode_device(major, minor)
            }
            _ => 0,
        };
        Attributes {
            ino: inode.number.into(),
            size,
            blocks: stored.div_ceil(512),
            time: inode.mtime.into(),
            mode: inode.full_mode(),
            links: inode.links,
            uid,
            gid,
            device,
        }
    }

    fn lookup(&self, request: &Request, reply: &mut Reply) -> Result<Answer> {
        let Some(name) = request.name(0) else {
            return Ok(Answer::Errno(Errno::INVAL));
        };
        if name.len() > NAME_MAX {
            return Ok(Answer::Errno(Errno::NAMETOOLONG));
        }
        let directory = self.node(request.node)?;
        match self.image.lookup(&directory, name)? {
            Some(reference) => {
                let inode = self.image.inode(reference)?;
                reply.entry(self.node_id(reference), &self.attributes(&inode));
            }
            None => reply.entry(0, &Attributes::default()),
        }
        Ok(Answer::Body)
    }

    fn listing(&self, request: &Request, reply: &mut Reply, plus: bool) -> Result<Answer> {
        let Some((offset, size)) = request.range() else {
            return Ok(Answer::Errno(Errno::INVAL));
        };
        let room = (size as usize).min(LISTING_MAX);
        let directory = self.node(request.node)?;
        let Content::Directory { parent, .. } = directory.content else {
            return Ok(Answer::Errno(Errno::NOTDIR));
        };
        let mode = Type::Directory.mode_bits();
        let dots: [(u64, &[u8], u32); 2] =
            [(DOT, b".", directory.number), (DOT_DOT, b"..", parent)];
        for (position, name, number) in dots {
            if offset < position && reply.body_len() + Reply::dirent_len(name, plus) <= room {
                if plus {
                    // Node 0: attributes only; the kernel knows these two.
                    reply.entry(0, &Attributes::default());
                }
                reply.dirent(number.into(), position, mode, name);
            }
        }
        let from = Position(offset.saturating_sub(DOT_DOT));
        self.image.read_dir(&directory, from, |entry| {
            if reply.body_len() + Reply::dirent_len(entry.name, plus) > room {
                return false;
            }
            if plus {
                match self.image.inode(entry.inode) {
                    Ok(inode) => {
                        reply.entry(self.node_id(entry.inode), &self.attributes(&inode));
                    }
                    // Still listed; looking at it is what fails.
                    Err(_) => reply.entry(0, &Attributes::default()),
                }
            }
            reply.dirent(
                entry.number.into(),
                entry.next.0.saturating_add(DOT_DOT),
                entry.kind.mode_bits(),
                entry.name,
            );
            true
        })?;
        Ok(Answer::Body)
    }

    /// Only `user.*`: the others act on whoever meets them, and the mount would not honour them.
    fn xattr(&self, request: &Request, reply: &mut Reply) -> Result<Answer> {
        let Some(size) = request.size() else {
            return Ok(Answer::Errno(Errno::INVAL));
        };
        let inode = self.node(request.node)?;
        let mut xattrs = self.image.xattrs(&inode)?;
        xattrs.retain(|(name, _)| name.starts_with(b"user."));
        let value = if request.opcode == opcode::LISTXATTR {
            let mut names = Vec::new();
            for (name, _) in xattrs {
                names.extend_from_slice(&name);
                names.push(0);
            }
            names
        } else {
            let Some(wanted) = request.name(8) else {
                return Ok(Answer::Errno(Errno::INVAL));
            };
            match xattrs.into_iter().find(|(name, _)| name == wanted) {
                Some((_, value)) => value,
                None => return Ok(Answer::Errno(Errno::NODATA)),
            }
        };
        if size == 0 {
            reply.xattr_size(value.len() as u32);
        } else if value.len() > size as usize {
            return Ok(Answer::Errno(Errno::RANGE));
        } else {
            reply.bytes(&value);
        }
        Ok(Answer::Body)
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::tests::message;
    use super::*;
    use crate::squashfs::read::tests::{have, make_tree, mksquashfs, open};

    const PROTO: &str = "Protocol error (os error 71)";
    const NOSYS: &str = "Function not implemented (os error 38)";
    const INVAL: &str = "Invalid argument (os error 22)";
    const NOTDIR: &str = "Not a directory (os error 20)";
    const NAMETOOLONG: &str = "File name too long (os error 36)";

    fn ask(answerer: &Answerer, opcode: u32, node: u64, body: &[u8]) -> (String, Vec<u8>) {
        let mut workspace = Workspace::default();
        let bytes = message(opcode, node, body);
        let request = Request::parse(&bytes).unwrap();
        let answer = match answerer.answer(&request, &mut workspace) {
            Answer::Nothing => "nothing".into(),
            Answer::Body => "body".into(),
            Answer::Pieces => {
                let length: usize = workspace.pieces.iter().map(Piece::len).sum();
                format!("pieces {length}")
            }
            Answer::Errno(errno) => std::io::Error::from(errno).to_string(),
            Answer::Failed(error) => error.causes().join(": "),
        };
        (answer, workspace.reply.bytes)
    }

    #[test]
    fn every_kind_of_request_is_answered() {
        if !have("mksquashfs") {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        make_tree(&tree);
        let path = scratch.path().join("image.sqsh");
        assert!(mksquashfs(&tree, &path, &["-comp", "gzip", "-no-xattrs"]));
        let answerer = Answerer::new(Arc::new(open(&path)), Some((5, 6)), !0);
        let node = |name: &[u8]| {
            let (_, reply) = ask(&answerer, opcode::LOOKUP, ROOT, &[name, b"\0"].concat());
            u64::from_le_bytes(reply[16..24].try_into().unwrap())
        };
        let range = |offset: u64, size: u32| {
            [
                &[0; 8][..],
                &offset.to_le_bytes(),
                &size.to_le_bytes(),
                &[0; 20],
            ]
            .concat()
        };
        let init = |major: u32, flags: u32| {
            [major, 31, 1 << 17, flags]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        assert_eq!(node(b"absent"), 0);
        assert_ne!(node(b"small"), 0);
        assert_eq!(node(b"small"), node(b"linked"), "hard links share a node");
        // Before INIT nothing is agreed, so opens are answered.
        assert_eq!(ask(&answerer, opcode::OPEN, ROOT, &[0; 8]).0, "body");
        let cases: &[(u32, u64, Vec<u8>, &str)] = &[
            (opcode::INIT, 0, vec![], PROTO),
            (opcode::INIT, 0, init(6, 0), PROTO),
            (opcode::INIT, 0, init(8, !0), "body"),
            (opcode::INIT, 0, init(7, !0), "body"),
            (opcode::OPEN, node(b"small"), vec![0; 8], NOSYS),
            (opcode::OPENDIR, ROOT, vec![0; 8], NOSYS),
            (opcode::FORGET, ROOT, vec![0; 8], "nothing"),
            (opcode::BATCH_FORGET, 0, vec![0; 8], "nothing"),
            (opcode::INTERRUPT, 0, vec![0; 8], "nothing"),
            (opcode::DESTROY, 0, vec![], "body"),
            (opcode::GETATTR, ROOT, vec![0; 16], "body"),
            (opcode::READLINK, node(b"link"), vec![], "body"),
            (opcode::READ, node(b"text"), range(0, 4096), "pieces 4096"),
            (
                opcode::READ,
                node(b"text"),
                range(899_990, 4096),
                "pieces 10",
            ),
            (opcode::READ, node(b"text"), range(u64::MAX, !0), "pieces 0"),
            (opcode::READ, node(b"text"), vec![0; 7], INVAL),
            (opcode::READDIR, ROOT, range(0, 4096), "body"),
            (opcode::READDIRPLUS, ROOT, range(2, !0), "body"),
            (opcode::READDIR, node(b"small"), range(0, 4096), NOTDIR),
            (opcode::STATFS, ROOT, vec![], "body"),
            (opcode::GETXATTR, ROOT, vec![0; 16], NOSYS),
            (opcode::LOOKUP, ROOT, vec![b'x'; 300], NAMETOOLONG),
            (34, ROOT, vec![0; 8], NOSYS),  // ACCESS
            (46, ROOT, vec![0; 24], NOSYS), // LSEEK
            (4096, ROOT, vec![], NOSYS),    // CUSE_INIT
        ];
        for (opcode, node, body, expected) in cases {
            assert_eq!(
                ask(&answerer, *opcode, *node, body).0,
                *expected,
                "opcode {opcode}"
            );
        }
        let (wrong, _) = ask(&answerer, opcode::GETATTR, 1 << 40, &[]);
        assert!(wrong.contains("inode"), "{wrong}");
    }

    #[test]
    fn a_listing_is_the_same_in_parts_of_any_size() {
        if !have("mksquashfs") {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        for index in 0..300 {
            std::fs::write(tree.join(format!("name-{index}")), b"").unwrap();
        }
        let path = scratch.path().join("image.sqsh");
        assert!(mksquashfs(&tree, &path, &["-comp", "gzip"]));
        let answerer = Answerer::new(Arc::new(open(&path)), None, !0);
        for (opcode, skip) in [(opcode::READDIR, 0), (opcode::READDIRPLUS, 128)] {
            for size in [200u32, 1000, 4096, 1 << 20] {
                let (mut names, mut offset) = (Vec::new(), 0u64);
                loop {
                    let range = [
                        &[0; 8][..],
                        &offset.to_le_bytes(),
                        &size.to_le_bytes(),
                        &[0; 20],
                    ]
                    .concat();
                    let (_, reply) = ask(&answerer, opcode, ROOT, &range);
                    let mut rest = &reply[Reply::HEADER..];
                    if rest.is_empty() {
                        break;
                    }
                    assert!(rest.len() <= size as usize);
                    while !rest.is_empty() {
                        let entry = &rest[skip..];
                        offset = u64::from_le_bytes(entry[8..16].try_into().unwrap());
                        let length = u32::from_le_bytes(entry[16..20].try_into().unwrap()) as usize;
                        names.push(String::from_utf8(entry[24..24 + length].to_vec()).unwrap());
                        rest = &entry[(24 + length).next_multiple_of(8)..];
                    }
                }
                assert_eq!(names.len(), 302, "parts of {size}");
                assert_eq!(names[..2], [".", ".."]);
                assert!(names[2..].is_sorted());
            }
        }
    }
}
