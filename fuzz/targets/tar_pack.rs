//! A layer of any bytes: it is refused, or becomes an image that our reader finds whole.
#![no_main]

use carrack::image::convert::{LayerInput, Options, PackCache, convert};
use carrack::image::progress::Silent;
use carrack::squashfs::read;
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::io::{Cursor, Read};
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let packs = PackCache::open(scratch.path().join("packs")).expect("a cache");
    let output = scratch.path().join("image.sqsh");
    let shared: Arc<[u8]> = bytes.into();
    let layer = LayerInput {
        digest: None,
        size: None,
        diff_id: None,
        media_type: "layer".into(),
        open: Box::new(move || {
            Ok(Box::new(Cursor::new(Arc::clone(&shared))) as Box<dyn Read + Send>)
        }),
    };
    let options = Options {
        threads: 1,
        level: 1,
        block_size: 4096,
        ..Options::default()
    };
    let Ok(converted) = convert(&[layer], &packs, &output, &options, &Silent) else {
        return;
    };
    let file = File::open(&output).expect("the image");
    let image = match read::Image::open(file, read::Options::default()) {
        Ok(image) => image,
        Err(error) => panic!("{error}"),
    };
    if let Err(error) = image.check(&converted.squashfs) {
        panic!("{error}");
    }
    match read::verify_all(&image, 1) {
        Ok(None) => {}
        Ok(Some(damage)) => panic!("{damage:?}"),
        Err(error) => panic!("{error}"),
    }
});
