//! Settings files: any text is read or refused, and whatever a user writes below a site's file, what the site made final
//! stays as the site has it.
//!
//! A line `---` parts the site's file from the user's.
#![no_main]

use carrack::config::{Config, File, Settings, covers, merge};
use carrack::launch::profile::Profile;
use libfuzzer_sys::fuzz_target;

fn file(path: &str, text: &str) -> Vec<File> {
    vec![File {
        path: path.into(),
        text: text.into(),
    }]
}

fn fixed(settings: &Settings, by: &Config) -> Vec<(String, serde_json::Value)> {
    let is_fixed = |key: &str| key != "final" && by.fixed.iter().any(|rule| covers(rule, key));
    let all = settings.flat().into_iter();
    all.filter(|(key, _)| is_fixed(key)).collect()
}

fuzz_target!(|text: &str| {
    let (site, user) = text.split_once("\n---\n").unwrap_or((text, ""));
    let Ok(alone) = merge(&file("site", site), &[], &[]) else {
        return;
    };
    let names = alone.config.profile.keys().map(String::as_str);
    for name in names.chain(["hpc", "ces"]) {
        let _ = Profile::named(&alone.config, name);
    }
    if let Ok(both) = merge(&file("site", site), &file("user", user), &[]) {
        assert_eq!(
            fixed(&alone, &alone.config),
            fixed(&both, &alone.config),
            "{text}"
        );
    }
});
