use super::*;

#[test]
fn platforms() {
    for (text, want) in [
        ("linux/amd64", Some("linux/amd64")),
        ("arm64", Some("linux/arm64")),
        ("x86_64", Some("linux/amd64")),
        ("linux/arm/v6", Some("linux/arm/v6")),
        ("", None),
        ("linux/", None),
        ("a/b/c/d", None),
        ("linux/../x", None),
    ] {
        let got = parse_platform(text)
            .ok()
            .map(|platform| manifest::platform_text(&platform));
        assert_eq!(got.as_deref(), want, "{text}");
    }
}

#[test]
fn the_usual_level_is_the_one_that_packs_are_tuned_for() {
    assert_eq!(Config::default().conversion.level, crate::pack::LEVEL);
}
