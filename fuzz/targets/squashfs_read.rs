//! A squashfs image of any bytes: everything that a reader offers ends, without a panic and in bounded memory.
#![no_main]

use carrack::squashfs::read::{Image, Options, Position, integrity_of, verify_all};
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::io::Write;

/// Enough of a tree to see everything, little enough to be fast.
const ENTRIES: u32 = 300;

fuzz_target!(|bytes: &[u8]| {
    let memory = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::empty());
    let mut file = File::from(memory.expect("a memory file"));
    file.write_all(bytes).expect("memory");
    let small = Options {
        metadata_cache: 1,
        data_cache: 1,
        ..Options::default()
    };
    let Ok(image) = Image::open(file, small) else {
        return;
    };
    let mut left = ENTRIES;
    let whole = image.walk(|path, inode| {
        left = match left.checked_sub(1) {
            Some(left) => left,
            None => return Err(carrack::error::Error::new("enough")),
        };
        let _ = image.line(path, inode, inode.size() < 1 << 20);
        let _ = image.xattrs(inode);
        let mut part = [0; 5000];
        for offset in [0, 4096, inode.size() / 2, inode.size().wrapping_sub(9), u64::MAX] {
            let _ = image.read_at(inode, offset, &mut part);
        }
        if inode.is_directory() {
            for position in [0, 1, 600, u64::MAX] {
                let mut names = 0;
                let _ = image.read_dir(inode, Position(position), |entry| {
                    let _ = image.lookup(inode, entry.name);
                    names += 1;
                    names < 3
                });
            }
        }
        Ok(())
    });
    if whole.is_ok() && bytes.len() < 1 << 16 {
        let _ = verify_all(&image, 1);
        if let Ok(integrity) = integrity_of(&image) {
            // The table of hashes is not behind the image here.
            assert!(image.check(&integrity.squashfs).is_err() || integrity.hashes.is_empty());
        }
    }
});
