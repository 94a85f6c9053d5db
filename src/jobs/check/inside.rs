//! What a check reads of the image's files themselves: for which processors it is built, and its PMIx's components.

use crate::elf::{Bytes, Elf};
use crate::image::store::{Stored, verify};
use crate::squashfs::read::{Content, Image, Inode};

/// A component's file: `mca_psec_native.so`.
const SECURITY: &[u8] = b"mca_psec_";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// The x86-64 level of the C library or of the program, whichever is more; 0 if neither says.
    pub level: u8,
    pub pmix_security: Vec<String>,
}

impl Inside {
    /// Looks at the C library, at `program` if it is a path in the image, and at the names of PMIx's components.
    pub fn look(stored: &Stored, program: Option<&str>) -> Inside {
        let Ok(image) = verify::open(stored) else {
            return Inside::default();
        };
        let contents = &stored.record.contents;
        let library = contents.libc.as_ref().map(|libc| libc.path.as_str());
        let program = program.filter(|program| program.starts_with('/'));
        let files = library.into_iter().chain(program);
        let levels = files
            .filter_map(|path| elf(&image, path))
            .map(|elf| elf.level);
        let mut inside = Inside {
            level: levels.max().unwrap_or_default(),
            ..Inside::default()
        };
        // Open MPI may have PMIx within itself; only plugins in files tell anything.
        if contents.pmi.iter().any(|pmi| pmi.name == "pmix") {
            let _ = image.walk(|path, _| {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let word = name.strip_prefix(SECURITY);
                let word = word.and_then(|rest| rest.strip_suffix(b".so"));
                let word = word.map(|word| String::from_utf8_lossy(word).into_owned());
                inside.pmix_security.extend(word);
                Ok(())
            });
        }
        inside
    }
}

fn elf(image: &Image, path: &str) -> Option<Elf> {
    let inode = image.find(path.as_bytes()).ok()??;
    Elf::read(&File {
        image,
        inode: &inode,
    })
}

struct File<'a> {
    image: &'a Image,
    inode: &'a Inode,
}

impl Bytes for File<'_> {
    fn part(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let Content::File(file) = &self.inode.content else {
            return None;
        };
        let rest = usize::try_from(file.size.checked_sub(offset)?).unwrap_or(length);
        let mut bytes = vec![0; length.min(rest)];
        let mut done = 0;
        while let Some(part) = bytes.get_mut(done..).filter(|part| !part.is_empty()) {
            let at = offset.checked_add(done as u64)?;
            match self.image.read_at(self.inode, at, part).ok()? {
                0 => break,
                count => done += count,
            }
        }
        bytes.truncate(done);
        Some(bytes)
    }
}
