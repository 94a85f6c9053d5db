//! Records, manifests and configs: any bytes are read or refused; a record that was read is written and read again as
//! itself.
#![no_main]

use carrack::image::manifest;
use carrack::record::ImageRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = ImageRecord::parse_unsealed(bytes) {
        let text = record.to_json();
        match ImageRecord::parse(text.as_bytes()) {
            Ok(again) => assert_eq!(again, record),
            Err(error) => panic!("{error}"),
        }
    }
    let _ = manifest::parse(bytes, None);
    for layers in 0..3 {
        let _ = manifest::parse_config(bytes, layers);
    }
});
