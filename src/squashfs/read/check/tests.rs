//! Images with one byte changed, before a check and after it.

use super::super::Options;
use super::super::tests::{facts_in, have, mksquashfs, noise, open, sealed};
use super::*;
use std::fs::File;
use std::path::PathBuf;

#[test]
fn a_checked_image_serves_no_flipped_byte() {
    if !have("mksquashfs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("noise"), noise(300_000, 5)).unwrap();
    std::fs::write(tree.join("text"), "some text ".repeat(9999)).unwrap();
    std::fs::write(tree.join("other"), b"tail").unwrap();
    let path = scratch.path().join("image.sqsh");
    assert!(mksquashfs(&tree, &path, &["-comp", "gzip"]));
    let record = sealed(&path);
    let good = std::fs::read(&path).unwrap();
    let image = open(&path);
    image.check(&record).unwrap();
    assert_eq!(facts_in(&image), facts_in(&open(&path)));
    assert_eq!(verify_all(&image, 2).unwrap(), None);

    // Every place that a reader can see: superblock, data, metadata, table.
    let data_end = image.superblock().inode_table as usize;
    let table = record.hashes_offset as usize;
    let pages = table + record.hashes_count as usize * BlockHash::SIZE;
    for at in (0..good.len())
        .step_by(997)
        .chain([5, 95, data_end, table, pages, good.len() - 1])
    {
        if at >= record.bytes_used as usize && at < table {
            continue; // padding, which nobody reads
        }
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let Ok(image) = Image::open(File::open(&path).unwrap(), Options::default()) else {
            assert!(at < 96, "byte {at}");
            continue;
        };
        match image.check(&record) {
            Err(_) => assert!(at < 96 || at >= pages, "byte {at}"),
            Ok(()) => {
                let damage = match verify_all(&image, 2) {
                    Ok(damage) => damage.expect("found"),
                    Err(error) => {
                        assert!((data_end..pages).contains(&at), "byte {at}: {error}");
                        continue;
                    }
                };
                let range = damage.start..damage.start + u64::from(damage.size);
                assert!(range.contains(&(at as u64)), "byte {at}: {damage:?}");
                let file = String::from_utf8(damage.files[0].clone()).unwrap();
                let inode = image.find(file.as_bytes()).unwrap().unwrap();
                let error = image.content_hash(&inode).unwrap_err();
                assert!(
                    error.to_string().contains("is not what was written"),
                    "{error}"
                );
            }
        }
    }
}

/// Some blocks more than a page of the table has, and metadata of several pages; `None` without mksquashfs.
fn many_blocks() -> Option<(tempfile::TempDir, PathBuf)> {
    if !have("mksquashfs") {
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("noise"), noise(3_000_000, 5)).unwrap();
    for number in 0..2000 {
        let name = format!("{number:03}-{:x}", number * 7919 % 4096);
        std::fs::write(tree.join(name.repeat(3)), b"").unwrap();
    }
    let path = scratch.path().join("image.sqsh");
    assert!(mksquashfs(&tree, &path, &["-comp", "gzip", "-b", "4096"]));
    Some((scratch, path))
}

#[test]
fn nothing_is_served_of_an_image_that_is_another_one() {
    let Some((_scratch, path)) = many_blocks() else {
        return;
    };
    let record = sealed(&path);
    assert!(record.hashes_count > (PAGE / BlockHash::SIZE) as u64 + 100);
    let other = crate::record::Squashfs {
        root: format!("{PAGED}{}", "0".repeat(64)),
        ..record.clone()
    };
    let fewer = crate::record::Squashfs {
        hashes_count: record.hashes_count - 1,
        ..record.clone()
    };
    let more = crate::record::Squashfs {
        hashes_count: u64::MAX / 32,
        ..record.clone()
    };
    for expected in [&other, &fewer, &more] {
        let image = open(&path);
        image.check(expected).unwrap_err();
        let error = image.find(b"/noise").unwrap_err();
        assert!(
            error.to_string().contains("not the one that its record"),
            "{error}"
        );
    }
}

#[test]
fn metadata_is_held_to_its_pages_when_it_is_read() {
    let Some((_scratch, path)) = many_blocks() else {
        return;
    };
    let record = sealed(&path);
    let image = open(&path);
    image.check(&record).unwrap();
    let all = facts_in(&open(&path));
    // After the check, where a copy of the start would already be wrong.
    let writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let start = image.superblock().inode_table;
    let mut stored = [0; 16];
    image.file.read_exact_at(&mut stored, start).unwrap();
    writer
        .write_all_at(&stored.map(|byte| !byte), start)
        .unwrap();
    let error = image.walk(|_, _| Ok(())).unwrap_err();
    assert!(
        error.to_string().contains("not what was written"),
        "{error}"
    );
    // Once it was right it stays so, because it is served from memory.
    writer.write_all_at(&stored, start).unwrap();
    assert_eq!(facts_in(&image), all);
    writer
        .write_all_at(&stored.map(|byte| !byte), start)
        .unwrap();
    image.walk(|_, _| Ok(())).unwrap();
}

#[test]
fn an_image_without_hashes_of_pages_is_checked_as_a_whole() {
    let Some((_scratch, path)) = many_blocks() else {
        return;
    };
    let sealed = sealed(&path);
    let bytes = std::fs::read(&path).unwrap();
    let image = open(&path);
    let metadata = image.superblock().inode_table as usize..sealed.bytes_used as usize;
    let table = sealed.hashes_offset as usize;
    let end = table + sealed.hashes_count as usize * BlockHash::SIZE;
    let old = crate::record::Squashfs {
        size: end as u64,
        root: whole_root(
            &bytes[..96],
            blake3::hash(&bytes[metadata.clone()]),
            blake3::hash(&bytes[table..end]),
        ),
        ..sealed
    };
    std::fs::write(&path, &bytes[..end]).unwrap();
    let image = open(&path);
    image.check(&old).unwrap();
    assert_eq!(verify_all(&image, 2).unwrap(), None);
    for at in [metadata.start + 100, table + 700] {
        let mut bad = bytes[..end].to_vec();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        open(&path).check(&old).unwrap_err();
    }
}

#[test]
fn the_first_broken_block_is_found_and_a_panic_is_no_success() {
    let blocks: Vec<(u64, u32)> = (0..9).map(|at| (at, 1)).collect();
    for threads in [0, 1, 2, 4, 100] {
        let broken = |bad: &'static [u64]| {
            let verify = move |start, _| match bad.contains(&start) {
                true => Err(Error::new("broken")),
                false => Ok(()),
            };
            let found = first_broken(&blocks, threads, &verify).unwrap();
            found.map(|(start, ..)| start)
        };
        assert_eq!(broken(&[]), None);
        assert_eq!(broken(&[7, 3, 8]), Some(3));
        let panics = |start, _| match start {
            2 | 5 | 8 => panic!("a mistake of ours"),
            _ => Ok(()),
        };
        let told = first_broken(&blocks, threads, &panics).map(drop);
        assert!(told.unwrap_err().what().contains("panicked"));
    }
}
