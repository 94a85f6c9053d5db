//! Other systems' words: opt-files, labels of GEF, settings and resources of jobman. Nothing panics, and what an opt-file
//! becomes is known to the launcher.
#![no_main]

use carrack::fronts::{docker, jobman};
use carrack::launch::options::OPTIONS;
use carrack::launch::ports::Service;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    if let Ok(found) = docker::options(text, Path::new("/here"), docker::Rules::default()) {
        for word in &found.container {
            let name = word.trim_start_matches("--").split('=').next().unwrap_or_default();
            let known = |option: &carrack::launch::options::OptionSpec| {
                option.name == name || option.off == Some(name)
            };
            assert!(OPTIONS.iter().any(known), "{text:?} became {word:?}");
        }
    }
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let labels = lines
        .map(|(key, value)| (format!("eudat.gef.service.{key}"), value.to_string()))
        .collect();
    if let Some(service) = Service::read(&labels) {
        assert!(service.inputs.iter().all(|port| !port.path.is_empty()));
    }
    if let Ok(settings) = jobman::Settings::read(Some(text), false) {
        let _ = settings.image(None);
    }
    let _ = jobman::flavor(Some(text), &[]);
});
