use super::*;
use crate::record::{SCHEMA, Squashfs};
use std::os::unix::fs::{PermissionsExt, symlink};

fn digest(digit: char) -> Digest {
    format!("sha256:{}", digit.to_string().repeat(64))
        .parse()
        .unwrap()
}

fn amd64() -> Platform {
    Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: String::new(),
    }
}

fn record(digest: &Digest, size: u64) -> ImageRecord {
    ImageRecord {
        schema: SCHEMA,
        manifest_digest: digest.to_string(),
        squashfs: Squashfs {
            size,
            root: format!("blake3:{}", "b".repeat(64)),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn entry(digest: &Digest) -> Entry {
    Entry {
        digest: *digest,
        remote: None,
        when: now_text(),
        by: "me".into(),
    }
}

fn begin<'a>(store: &'a Store, digest: &Digest) -> Incoming<'a> {
    match store.begin(digest, &mut |_| {}).unwrap() {
        Begin::Convert(incoming) => incoming,
        Begin::Ready(_) => panic!("already there"),
    }
}

fn add(store: &Store, digest: &Digest, reference: &str) -> Stored {
    let incoming = begin(store, digest);
    std::fs::write(incoming.output().unwrap(), "image").unwrap();
    let stored = incoming.publish(&record(digest, 5)).unwrap();
    store
        .set_reference(&reference.parse().unwrap(), &amd64(), entry(digest))
        .unwrap();
    stored
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Place::at(directory.path().join("s")));
    (directory, store)
}

#[test]
fn an_image_comes_is_found_and_goes() {
    let (_keep, store) = store();
    let a = digest('a');
    assert!(store.list().images.is_empty());
    let stored = add(&store, &a, "site.eu/x:1");
    assert_eq!(
        stored.path.metadata().unwrap().permissions().mode() & 0o777,
        0o444
    );
    assert_eq!(
        store.root().metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
    for name in [
        "site.eu/x:1",
        "docker://site.eu/x:1",
        &a.to_string(),
        "aaaaaa",
        &a.hex(),
    ] {
        assert_eq!(
            store
                .find_named(name, "docker.io", &amd64())
                .unwrap()
                .digest,
            a,
            "{name}"
        );
    }
    for name in [
        "site.eu/x:2",
        "aaaaa",
        "bbbbbb",
        "other/x:1",
        &digest('b').to_string(),
    ] {
        assert!(
            store.find_named(name, "docker.io", &amd64()).is_err(),
            "{name}"
        );
    }
    let listing = store.list();
    assert_eq!(listing.images[0].references, ["docker://site.eu/x:1"]);
    assert_eq!(std::fs::read_dir(store.temporary()).unwrap().count(), 0);
    assert_eq!(
        store.remove_references_to(&a).unwrap(),
        ["docker://site.eu/x:1"]
    );
    store.remove(&a, false).unwrap();
    assert!(store.get(&a).unwrap().is_none());
    assert_eq!(
        std::fs::read_dir(store.root().join("refs"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn what_is_not_published_leaves_nothing() {
    let (_keep, store) = store();
    let a = digest('a');
    let incoming = begin(&store, &a);
    std::fs::write(incoming.output().unwrap(), "half").unwrap();
    drop(incoming);
    assert!(store.get(&a).unwrap().is_none());
    assert_eq!(std::fs::read_dir(store.temporary()).unwrap().count(), 0);
    // A converter whose file is not what its record says is not believed.
    let incoming = begin(&store, &a);
    std::fs::write(incoming.output().unwrap(), "half").unwrap();
    assert!(incoming.publish(&record(&a, 5)).is_err());
    assert!(store.get(&a).unwrap().is_none());
}

#[test]
fn the_second_converter_waits_and_finds_the_image() {
    let (_keep, store) = store();
    let a = digest('a');
    let first = begin(&store, &a);
    let mut waited = false;
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let mut told = 0;
            let begun = store.begin(&a, &mut |owner| {
                assert_eq!(owner.pid, std::process::id());
                told += 1;
            });
            (matches!(begun.unwrap(), Begin::Ready(_)), told)
        });
        while !second.is_finished() && !waited {
            std::thread::sleep(std::time::Duration::from_millis(150));
            waited = true;
        }
        std::fs::write(first.output().unwrap(), "image").unwrap();
        first.publish(&record(&a, 5)).unwrap();
        assert_eq!(second.join().unwrap(), (true, 1));
    });
}

#[test]
fn leftovers_of_dead_converters_go_and_those_of_living_ones_stay() {
    let (_keep, store) = store();
    store.prepare().unwrap();
    let (a, b) = (digest('a'), digest('b'));
    let left = store.temporary().join(format!("{}.abc", a.hex()));
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("image.sqsh"), "half").unwrap();
    let living = begin(&store, &b);
    let young = store.temporary().join("file-abc");
    std::fs::write(&young, "").unwrap();
    let packs = &store.place().packs;
    std::fs::create_dir(packs).unwrap();
    let living_pack = packs.join(format!(".partial-{}-x.dat", crate::image::lock::mark()));
    let mark = crate::image::lock::mark();
    let (pid, place) = (mark.split('-').next().unwrap(), mark.split('-').next_back());
    let dead_pack = packs.join(format!(".partial-{pid}-1-{}-x.dat", place.unwrap()));
    for pack in [&living_pack, &dead_pack] {
        std::fs::write(pack, "half a pack").unwrap();
    }
    // Of the image and of the pack.
    assert_eq!(store.leftovers(), 4 + 11);
    assert!(left.exists() && dead_pack.exists(), "only counted");
    assert_eq!(store.clean(), 4 + 11);
    assert!(!left.exists() && !dead_pack.exists());
    assert!(living.directory().exists());
    assert!(young.exists() && living_pack.exists());
    assert_eq!(store.clean(), 0);
}

#[test]
fn damaged_images_are_told_not_used() {
    let (_keep, store) = store();
    let a = digest('a');
    let spoil = |change: &dyn Fn(&Store)| {
        let stored = add(&store, &a, "x:1");
        change(&store);
        let told = store.get(&a).unwrap_err().to_string();
        assert!(
            told.contains("damaged") || told.contains("cannot read"),
            "{told}"
        );
        assert_eq!(
            (store.list().images.len(), store.list().damaged.len()),
            (0, 1)
        );
        store.remove(&a, false).unwrap();
        assert!(!stored.path.exists());
    };
    let write = |path: PathBuf, text: &str| {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, text).unwrap();
    };
    spoil(&|store| write(store.image_path(&a), "imag"));
    spoil(&|store| write(store.record_path(&a), "{"));
    spoil(&|store| write(store.record_path(&a), &record(&digest('c'), 5).to_json()));
    spoil(&|store| write(store.record_path(&a), &"[".repeat(100_000)));
    spoil(&|store| {
        std::fs::remove_file(store.image_path(&a)).unwrap();
        symlink("/etc/passwd", store.image_path(&a)).unwrap();
    });
    spoil(&|store| {
        std::fs::remove_file(store.record_path(&a)).unwrap();
        symlink("/etc/passwd", store.record_path(&a)).unwrap();
    });
}

#[test]
fn odd_names_in_a_store_are_passed_over() {
    let (_keep, store) = store();
    let a = digest('a');
    add(&store, &a, "x:1");
    let images = store.root().join("images");
    std::fs::create_dir(images.join("zz")).unwrap();
    std::fs::write(images.join("zz/x.json"), "{}").unwrap();
    // A digest in another's directory, and a directory named as a record.
    std::fs::write(images.join("zz").join(format!("{}.json", a.hex())), "{}").unwrap();
    std::fs::create_dir_all(
        images
            .join("bb")
            .join(format!("{}.json", digest('b').hex())),
    )
    .unwrap();
    symlink("/", store.root().join("refs/loop")).unwrap();
    std::fs::write(
        store.root().join("refs/x.json"),
        "{\"reference\":\"docker://a/b:c\",\"images\":{}}",
    )
    .unwrap();
    let listing = store.list();
    assert_eq!(listing.images.len(), 1);
    assert_eq!(listing.images[0].references.len(), 1);
}

#[test]
fn a_site_store_is_found_but_the_users_names_win() {
    let (_keep, site) = store();
    let (a, b) = (digest('a'), digest('b'));
    add(&site, &a, "x:1");
    add(&site, &b, "y:1");
    let (_keep_own, own) = store();
    let both = Store::open(Place {
        read_only: vec![site.root().to_path_buf()],
        ..own.place().clone()
    });
    let found = |name: &str| both.find_named(name, "docker.io", &amd64()).unwrap();
    assert!(found("x:1").read_only);
    let mine = add(&both, &digest('c'), "x:1");
    assert_eq!(found("x:1").digest, mine.digest);
    assert_eq!(found("y:1").digest, b);
    assert!(!found("x:1").read_only);
}

#[test]
fn two_platforms_share_a_name() {
    let (_keep, store) = store();
    add(&store, &digest('a'), "x:1");
    let arm = Platform {
        architecture: "arm64".into(),
        ..amd64()
    };
    let reference = "x:1".parse().unwrap();
    store
        .set_reference(&reference, &arm, entry(&digest('b')))
        .unwrap();
    assert_eq!(
        store.find(&reference, &amd64()).unwrap().unwrap().digest,
        digest('a')
    );
    assert!(store.find(&reference, &arm).unwrap().is_none());
    store.remove_references_to(&digest('b')).unwrap();
    assert_eq!(
        store.find(&reference, &amd64()).unwrap().unwrap().digest,
        digest('a')
    );
}

#[test]
fn pins_hold_until_they_are_let_go() {
    let (_keep, store) = store();
    let (a, b) = (digest('a'), digest('b'));
    add(&store, &a, "x:1");
    // No numbers: where there is a Slurm, it is asked about those.
    store.pin("one", &a, "x:1").unwrap();
    store.pin("one", &b, "y:1").unwrap();
    store.pin("two_7", &a, "x:1").unwrap();
    assert_eq!(store.pinned().get(&a).unwrap(), &["one", "two_7"]);
    let told = store.remove(&a, false).unwrap_err().to_string();
    assert!(told.contains("jobs one and two_7"), "{told}");
    store.unpin("one").unwrap();
    store.unpin("one").unwrap();
    assert!(!store.pinned().contains_key(&b));
    store.remove(&a, true).unwrap();
    for job in ["", "../x", "a/b", ".", "1 2"] {
        assert!(store.pin(job, &a, "x").is_err(), "{job}");
    }
}

#[test]
fn a_digest_that_is_gone_is_brought_by_its_name() {
    let (_keep, store) = store();
    let (a, b, c) = (digest('a'), digest('b'), digest('c'));
    let entries = [(&a, "dir:/tree"), (&b, "host:5000/g/n:v1")];
    for (digest, name) in entries {
        let name = name.parse().unwrap();
        store.set_reference(&name, &amd64(), entry(digest)).unwrap();
    }
    store.pin("12", &c, "docker://host:5000/p:1").unwrap();
    for (text, hint) in [
        (
            a.to_string(),
            "`carrack pull dir:/tree` brings it again, if that has not changed".to_string(),
        ),
        (
            b.to_string(),
            format!("`carrack pull host:5000/g/n:v1@{b}` brings it again"),
        ),
        (
            c.to_string(),
            format!("`carrack pull host:5000/p:1@{c}` brings it again"),
        ),
        (
            digest('d').to_string(),
            "in its line `# Image:`".to_string(),
        ),
        (
            "sha256:dddddd".to_string(),
            "in its line `# Image:`".to_string(),
        ),
        (
            "x:2".to_string(),
            "`carrack pull x:2` brings it,".to_string(),
        ),
    ] {
        let told = store.find_named(&text, "docker.io", &amd64()).unwrap_err();
        let hints = told.hints().join("\n");
        assert!(hints.contains(&hint), "{text}: {hints}");
    }
}

#[test]
fn a_prefix_of_two_images_is_not_guessed() {
    let (_keep, store) = store();
    let hex = |end: char| {
        format!("sha256:{}{end}", "d".repeat(63))
            .parse::<Digest>()
            .unwrap()
    };
    add(&store, &hex('1'), "x:1");
    add(&store, &hex('2'), "x:2");
    let told = store
        .find_named("dddddd", "docker.io", &amd64())
        .unwrap_err()
        .to_string();
    assert!(told.contains("names 2 images"), "{told}");
}

#[test]
fn too_few_digits_are_told_apart_from_a_name() {
    let (_keep, store) = store();
    let a = digest('a');
    add(&store, &a, "site.eu/x:1");
    let told = |text: &str| store.find_named(text, "docker.io", &amd64()).unwrap_err();
    let short = a.short();
    for (text, begins) in [
        ("aaaaa", format!("`aaaaa` begins `{short}`")),
        ("cafe", "`cafe` has 4".into()),
    ] {
        let hints = told(text).hints().join("\n");
        let rule = format!(
            "named by 6 digits of its digest or more{}{begins}",
            if text == "cafe" { "; " } else { ": " }
        );
        assert!(hints.contains(&rule), "{text}: {hints}");
        assert!(hints.contains(&format!("`carrack pull {text}`")), "{hints}");
    }
    for text in ["sha256:aa", "sha256:f827"] {
        let told = told(text).to_string();
        assert!(told.contains("too short for a digest"), "{told}");
        assert!(told.contains("6 digits"), "{told}");
        assert!(!told.contains("carrack pull"), "{told}");
    }
    for text in ["nosuch", "x:2", "cafecafe", "sha256:"] {
        assert!(!told(text).to_string().contains("6 digits"), "{text}");
    }
    // Who removes it is not told how to bring it.
    for text in ["nosuch", "x:2", "cafe", "sha256:dddddd"] {
        let told = store
            .find_to_remove(text, "docker.io", &amd64())
            .unwrap_err();
        assert!(told.to_string().contains("no image"), "{told}");
        assert!(!told.to_string().contains("carrack pull"), "{told}");
    }
}

#[test]
fn what_cannot_be_listed_is_told() {
    let (_keep, store) = store();
    add(&store, &digest('a'), "site.eu/x:1");
    assert!(store.list().unreadable.is_empty());
    let images = store.root().join("images");
    std::fs::rename(&images, store.root().join("away")).unwrap();
    assert!(store.list().unreadable.is_empty(), "empty, not broken");
    // A link to itself cannot be opened by anybody, root included.
    symlink("images", &images).unwrap();
    let listing = store.list();
    assert!(listing.images.is_empty());
    let told = listing.unreadable[0].to_string();
    assert!(told.starts_with("error: cannot list `"), "{told}");
}

#[test]
fn a_damaged_copy_of_the_site_does_not_hide_a_good_one() {
    let (_keep, site) = store();
    let (_also, mut own) = store();
    own.place.read_only = vec![site.root().to_path_buf()];
    let a = digest('a');
    add(&site, &a, "site.eu/x:1");
    std::fs::write(site.record_path(&a).with_extension("new"), "{").unwrap();
    std::fs::rename(
        site.record_path(&a).with_extension("new"),
        site.record_path(&a),
    )
    .unwrap();
    assert!(own.get(&a).is_err(), "nothing else is there");
    let incoming = match own.begin(&a, &mut |_| {}) {
        Ok(Begin::Convert(incoming)) => incoming,
        other => panic!("{other:?}"),
    };
    std::fs::write(incoming.output().unwrap(), "image").unwrap();
    let stored = incoming.publish(&record(&a, 5)).unwrap();
    assert!(!stored.read_only);
    assert!(!own.get(&a).unwrap().unwrap().read_only);
}
