//! References: what is accepted prints as something that is accepted again and means the same.
#![no_main]

use carrack::image::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let printed = reference.to_string();
        let again: Reference = match printed.parse() {
            Ok(again) => again,
            Err(error) => panic!("{text:?} prints as {printed:?}, which is refused: {error}"),
        };
        assert_eq!(again.to_string(), printed, "{text:?}");
    }
});
