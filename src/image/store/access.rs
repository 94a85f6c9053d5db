//! Who besides its owner may read one image of a store that others can enter: named users and groups.
//!
//! The kernel asks for nothing else than the attribute `system.posix_acl_access`, so it is written here and no program is
//! needed. Image and record get the same list. Converted layers are not shared this way: they never leave the work
//! directory of a private pull. What stays visible is the image's name.

use super::{Store, Stored, explain};
use crate::error::{Error, Result};
use rustix::fs::XattrFlags;
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Numbers of those who may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readers {
    pub users: Vec<u32>,
    pub groups: Vec<u32>,
}

const ATTRIBUTE: &str = "system.posix_acl_access";
const VERSION: u32 = 2;
const READ: u16 = 4;
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
/// What named users and groups can have at most.
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;
/// Where an entry names nobody.
const NOBODY: u32 = u32::MAX;

impl Readers {
    /// The list as the kernel reads it: little-endian, in the order of tags, then of numbers.
    fn attribute(&self) -> Vec<u8> {
        let sorted = |numbers: &[u32]| {
            let mut numbers = numbers.to_vec();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let mut entries = vec![(OWNER, READ, NOBODY)];
        entries.extend(sorted(&self.users).into_iter().map(|id| (USER, READ, id)));
        entries.push((OWNING_GROUP, 0, NOBODY));
        entries.extend(sorted(&self.groups).into_iter().map(|id| (GROUP, READ, id)));
        entries.extend([(MASK, READ, NOBODY), (OTHERS, 0, NOBODY)]);
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(rights.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }
}

impl Store {
    /// Whether others can reach what is in here at all.
    pub fn can_be_entered(&self) -> Result<()> {
        let root = self.root();
        let mode = root
            .metadata()
            .map_err(|error| explain(format!("cannot look at `{}`", root.display()), error))?
            .permissions()
            .mode();
        if mode & 0o011 != 0 {
            return Ok(());
        }
        Err(
            Error::usage("nobody else can enter this store, whatever an image allows")
                .cause(format!("`{}` is closed to others", root.display()))
                .hint("a store for several people: `store.path` where they can go, with `store.sharing = \"public\"`"),
        )
    }

    /// Shows an image to these readers and its owner, and to nobody else.
    pub fn show_to(&self, stored: &Stored, readers: &Readers) -> Result<()> {
        if stored.read_only {
            return Err(Error::usage(format!(
                "`{}` is in a store of the site",
                stored.digest.short()
            ))
            .cause(format!(
                "`{}` decides who may read it",
                stored.root.display()
            )));
        }
        let attribute = readers.attribute();
        // The record first: an image without one is not there.
        for path in [
            self.record_path(&stored.digest),
            self.image_path(&stored.digest),
        ] {
            limit(&path, &attribute)?;
        }
        Ok(())
    }
}

/// Closes the file, then opens it for those on the list: a failure on the way leaves it closed.
fn limit(path: &Path, attribute: &[u8]) -> Result<()> {
    let failed = |error| {
        explain(
            format!("cannot say who may read `{}`", path.display()),
            error,
        )
    };
    let file = File::open(path).map_err(failed)?;
    file.set_permissions(Permissions::from_mode(0o400))
        .map_err(failed)?;
    match rustix::fs::fsetxattr(&file, ATTRIBUTE, attribute, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => Err(failed(rustix::io::Errno::OPNOTSUPP.into())
            .cause("the file system keeps no access lists (POSIX ACL); now only you can read the image")
            .hint("a store on another file system, or a store of the group: `store.sharing = \"group\"`")),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// What a record that cannot be read means: it is another user's and not for this one, or nothing can be read here at all.
pub(super) fn private(error: Error, root: &Path, record: &Path, name: &str) -> Error {
    let own = rustix::process::geteuid().as_raw();
    let anothers = root.join(record).symlink_metadata();
    let denied =
        error.downcast_ref().map(std::io::Error::kind) == Some(ErrorKind::PermissionDenied);
    if !denied || !anothers.is_ok_and(|found| found.uid() != own) {
        return error;
    }
    Error::new(format!(
        "the image `{name}` in `{}` is private",
        root.display()
    ))
    .source(std::io::Error::from(ErrorKind::PermissionDenied))
    .hint("who put it there shows it to named users and groups; with a login of your own, `carrack pull` brings a copy of your own")
}

/// Whether an error says that an image is there, but for others.
pub fn is_private(error: &Error) -> bool {
    // The system's own errors have a number.
    error.downcast_ref().is_some_and(|error: &std::io::Error| {
        error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_as_the_kernel_reads_it() {
        let readers = Readers {
            users: vec![1001, 7, 7],
            groups: vec![50],
        };
        let bytes = readers.attribute();
        let expected = "02000000 \
            01000400ffffffff 0200040007000000 02000400e9030000 04000000ffffffff \
            0800040032000000 10000400ffffffff 20000000ffffffff";
        let shown: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, expected.replace(' ', ""));
    }
}
