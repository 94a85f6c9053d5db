use super::*;

fn file(path: &str, text: &str) -> File {
    File {
        path: path.into(),
        text: text.into(),
    }
}

const SITE: &str = "final = [\"registries.allow\", \"conversion\"]\n[registries]\nallow = [\"ghcr.io\"]\n\
    rewrites = { \"git.site/x\" = \"git.site:5050/x\" }\n[store]\npath = \"/scratch/$USER/c\"\n";

#[test]
fn later_sources_win_and_are_remembered() {
    let user = "[store]\nread_only = [\"/sw/images\"]\n[registries]\nrewrites.\"a\" = \"b\"\n";
    let given = Given {
        key: "store.path",
        value: "/mine".into(),
        origin: Origin::Variable("CARRACK_STORE"),
    };
    let settings = merge(
        &[file("/etc/c.toml", SITE)],
        &[file("~/c.toml", user)],
        &[given],
    )
    .unwrap();
    assert_eq!(settings.config.store.path.as_deref(), Some("/mine"));
    assert_eq!(settings.config.registries.rewrites.len(), 2);
    for (key, want) in [
        ("store.path", "variable CARRACK_STORE"),
        ("store.read_only", "user file ~/c.toml:2"),
        ("registries.allow", "site file /etc/c.toml:3"),
        (
            "registries.rewrites.\"git.site/x\"",
            "site file /etc/c.toml:4",
        ),
        ("registries.rewrites.a", "user file ~/c.toml:4"),
        ("conversion.level", "default"),
    ] {
        assert_eq!(settings.origin(key).to_string(), want, "{key}");
    }
    assert_eq!(settings.warnings, [""; 0]);
}

#[test]
fn fixed_keys_keep_the_sites_value() {
    for (user, refused) in [
        ("[registries]\nallow = [\"ghcr.io\"]\n", ""),
        ("final = []\nuser_file = true\n", ""),
        (
            "[registries]\nallow = []\n",
            "cannot set `registries.allow` in `~/c.toml:2`\n  cause: `registries.allow` is final in `/etc/c.toml:1`",
        ),
        (
            "\n[conversion]\nlevel = 19\n",
            "cannot set `conversion.level` in `~/c.toml:3`\n  cause: `conversion` is final in `/etc/c.toml:1`",
        ),
    ] {
        let merged = merge(&[file("/etc/c.toml", SITE)], &[file("~/c.toml", user)], &[]);
        match merged {
            Ok(settings) => assert_eq!(settings.config.registries.allow, ["ghcr.io"]),
            Err(error) => {
                let told = error.to_string();
                assert!(!refused.is_empty() && told.contains(refused), "{told}");
            }
        }
    }
    // A second site file cannot set a key free either.
    let second = file("/opt/c.toml", "final = []\n[conversion]\nlevel = 9\n");
    let settings = merge(&[file("/etc/c.toml", SITE), second], &[], &[]).unwrap();
    assert_eq!(settings.config.conversion.level, 3);
    let given = Given {
        key: "conversion.level",
        value: "5".into(),
        origin: Origin::Option("--level"),
    };
    let told = merge(&[file("/etc/c.toml", SITE)], &[], &[given])
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("cannot set `conversion.level` by option --level")
            && told.contains("/etc/c.toml"),
        "{told}"
    );
}

#[test]
fn a_misspelt_final_is_a_mistake() {
    for (text, want) in [
        ("final = [\"registries.alow\"]", "did you mean `allow`?"),
        (
            "final = [\"profile.ces.netwrok\"]",
            "did you mean `network`?",
        ),
        ("final = [\"profile.cse.network\"]", "did you mean `ces`?"),
        ("final = [\"stor\"]", "did you mean `store`?"),
        ("final = [\"a b\"]", "which is no setting"),
        ("final = [\"\"]", "which is no setting"),
    ] {
        let told = merge(&[file("s", text)], &[], &[]).unwrap_err().to_string();
        assert!(
            told.contains(want) && told.contains("`s:1`"),
            "{text}: {told}"
        );
    }
    for good in [
        "final = [\"profile\", \"profile.ces\", \"profile.ces.network\", \"launch\", \"registries.mirrors\", \"user_file\"]",
        "final = [\"profile.mine.id\", \"trust.require\", \"flavor\", \"registries.mirrors.a\"]\n[profile.mine]\n",
    ] {
        merge(&[file("s", good)], &[], &[]).unwrap();
    }
}

#[test]
fn what_only_the_site_decides() {
    let site = "final = [\"profile.ces\"]\n[trust]\nrequire = \"cosign-key\"\n[flavor.small]\noptions = { mem = \"4G\" }\n";
    let locked = "[launch]\nchoose_profile = false\nprofile = \"ces\"\n";
    for (site, user, rule) in [
        (
            site,
            "[trust]\nrequire = \"nothing\"",
            "the site decides on `trust`",
        ),
        (
            site,
            "[trust]\nkeys = [\"x\"]",
            "the site decides on `trust`",
        ),
        (
            site,
            "[flavor.small.options]\nmem = \"64G\"",
            "the site decides on `flavor`",
        ),
        (
            site,
            "[flavor.huge.options]\nmem = \"64G\"",
            "the site decides on `flavor`",
        ),
        (site, "[access]\nhosts = [\"x\"]", ""),
        (
            site,
            "[profile.ces]\nnetwork = \"host\"",
            "`profile.ces` is final",
        ),
        (
            site,
            "[profile.mine]\nbase = \"ces\"\nnetwork = \"host\"",
            "`mine` is based on `ces`, and `profile.ces` is final",
        ),
        (
            site,
            "[profile.mine]\nbase = \"step\"\nlocked = []\n[profile.step]\nbase = \"ces\"",
            "`profile.ces` is final",
        ),
        (
            site,
            "[profile.mine]\nbase = \"hpc\"\nnetwork = \"host\"",
            "",
        ),
        (
            locked,
            "[profile.ces]\nnetwork = \"host\"",
            "`launch.choose_profile` is false",
        ),
        (
            locked,
            "[launch]\nchoose_profile = true",
            "`launch.choose_profile` is false",
        ),
        (
            locked,
            "[launch]\nprofile = \"hpc\"",
            "`launch.choose_profile` is false",
        ),
        (
            locked,
            "[profile.mine]\nbase = \"ces\"",
            "`launch.choose_profile` is false",
        ),
    ] {
        for project in [false, true] {
            let files = vec![file("u", user)];
            let mut sources = Sources {
                site: vec![file("s", site)],
                ..Sources::default()
            };
            match project {
                true => sources.project = files,
                false => sources.user = files,
            }
            match lay(&sources) {
                Ok(_) => assert_eq!(rule, "", "{user}"),
                Err(error) => {
                    let told = error.to_string();
                    assert!(!rule.is_empty() && told.contains(rule), "{user}: {told}");
                }
            }
        }
    }
}

#[test]
fn users_file_can_be_switched_off() {
    let settings = merge(
        &[file("s", "user_file = false")],
        &[file("u", "nonsense = 1")],
        &[],
    )
    .unwrap();
    assert!(!settings.config.user_file);
}

#[test]
fn numbers_may_come_from_variables() {
    let given = |value: &str| Given {
        key: "conversion.threads",
        value: value.into(),
        origin: Origin::Variable("CARRACK_THREADS"),
    };
    assert_eq!(
        merge(&[], &[], &[given("2")])
            .unwrap()
            .config
            .conversion
            .threads,
        2
    );
    let told = merge(&[], &[], &[given("two")]).unwrap_err().to_string();
    assert!(
        told.contains("cannot set `conversion.threads` to `two` by variable CARRACK_THREADS"),
        "{told}"
    );
}

#[test]
fn flat_lists_every_key_once() {
    let flat = merge(&[], &[], &[]).unwrap().flat();
    let keys: Vec<&str> = flat.iter().map(|(key, _)| key.as_str()).collect();
    for key in [
        "final",
        "store.path",
        "registries.default",
        "conversion.level",
        "pull.compute_nodes",
    ] {
        assert!(keys.contains(&key), "{keys:?}");
    }
}
