//! What one layer says about one path, as packs carry it and the merge reads it. Values only.

/// Names are bytes; a path is relative to the image's root, without `.` and `..`, empty for the root itself.
pub type Path = Vec<u8>;

/// Paths beyond these are bombs: Linux itself stops at 4096 bytes for one call.
pub const MAX_PATH: usize = 16 << 10;
pub const MAX_DEPTH: usize = 1024;
/// One component, as in every Linux file system and in squashfs.
pub const MAX_NAME: usize = 255;
/// The longest target that Linux can read from a symlink.
pub const MAX_TARGET: usize = 4095;
/// Entries of one layer, and nodes of one image. Ten times the largest image met so far.
pub const MAX_ENTRIES: u64 = 4 << 20;
/// Sum of path, target and xattr bytes of one layer, as they stand in memory while merging.
pub const MAX_METADATA: u64 = 256 << 20;

/// Owner, permissions and time of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, 07777.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
}

/// Names and values of the `user.*` attributes that are kept; names without their `user.`.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Where the content of a regular file is in its pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    /// Index into the pack's list of block runs; unused when the file is a tail only.
    pub run: Option<u32>,
    /// Fragment and offset in it, for files shorter than a block.
    pub tail: Option<(u32, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    Fifo,
    /// A device node: hides what is below it, is not put into images.
    Device,
    /// Another name of the inode at this path.
    HardLink(Path),
    /// `.wh.NAME`: hides NAME of the layers below; the path is that of NAME.
    Whiteout,
    /// `.wh..wh..opq`: hides the content that the layers below have in this directory.
    Opaque,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Path,
    pub kind: Kind,
    pub attributes: Attributes,
    pub xattrs: Xattrs,
    /// What was read in the content that tells which software it is; see `contents`.
    pub hints: Vec<String>,
}

/// A path for messages: lossy text, never longer than a screen line or two.
pub fn display(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    if text.len() <= 200 {
        return text.into_owned();
    }
    let start: String = text.chars().take(120).collect();
    format!("{start}… ({} bytes)", path.len())
}
