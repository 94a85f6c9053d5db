//! A pack's index of any content behind a right checksum: it is refused, or an image is made from it or refused.
//!
//! Input: which part is entries (two bytes), the footer's numbers (one byte each), then entries and tables as they are
//! before compression.
#![no_main]

use carrack::image::convert::{LayerInput, Options, PackCache, convert};
use carrack::image::digest::Digest;
use carrack::image::progress::Silent;
use carrack::pack::cache::Parameters;
use carrack::squashfs::read;
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::io::Write;

const MAGIC: &[u8] = b"carrack1";

fuzz_target!(|bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let [low, high, count, dat] = *head;
    let split = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let (entries, tables) = rest.split_at(split);
    let length = u64::from(dat) << 8;

    let mut index = MAGIC.to_vec();
    index.extend(zstd::bulk::compress(entries, 1).expect("zstd"));
    let entries_end = index.len() as u64;
    index.extend(zstd::bulk::compress(tables, 1).expect("zstd"));
    let tables_end = index.len() as u64;
    let mut footer = MAGIC.to_vec();
    for word in [
        entries_end,
        tables_end,
        count.into(),
        1 << 20,
        entries.len() as u64,
        tables.len() as u64,
        length,
        0,
    ] {
        footer.extend(word.to_le_bytes());
    }
    let diff_id = Digest::from_bytes([7; 32]);
    footer.extend(diff_id.as_bytes());
    index.extend(footer);
    let hash = blake3::hash(&index);
    index.extend(hash.as_bytes());

    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let packs = PackCache::open(scratch.path().join("packs")).expect("a cache");
    let options = Options {
        threads: 1,
        level: 1,
        block_size: 4096,
        ..Options::default()
    };
    let parameters = Parameters {
        block_size: options.block_size,
        level: options.level,
        hot_raw: options.raw_hot_files,
    };
    let (building, blocks, mut file) = packs.build().expect("files");
    blocks.set_len(length).expect("memory");
    file.write_all(&index).expect("memory");
    packs
        .publish(building, (&blocks, &file), &diff_id, &parameters)
        .expect("published");

    let layer = LayerInput {
        digest: None,
        size: None,
        diff_id: Some(diff_id),
        media_type: "layer".into(),
        open: Box::new(|| Err(carrack::error::Error::new("the pack was not taken"))),
    };
    let output = scratch.path().join("image.sqsh");
    if convert(&[layer], &packs, &output, &options, &Silent).is_ok() {
        // Its blocks are zeros and need not decompress; its tables must be right.
        let file = File::open(&output).expect("the image");
        let image = match read::Image::open(file, read::Options::default()) {
            Ok(image) => image,
            Err(error) => panic!("{error}"),
        };
        if let Err(error) = image.walk(|_, _| Ok(())) {
            panic!("{error}");
        }
    }
});
