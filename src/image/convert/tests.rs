use super::*;
use crate::image::fixture;
use crate::image::progress::Silent;
use crate::pack::cache::Parameters;
use crate::squashfs::read::{self, Image};
use std::os::unix::fs::FileExt;

/// Layers as given, lowest first, each opened from memory.
fn inputs(tars: &[Vec<u8>]) -> Vec<LayerInput> {
    tars.iter()
        .map(|tar| LayerInput {
            digest: Some(Digest::of(tar)),
            size: Some(tar.len() as u64),
            diff_id: None,
            media_type: "layer".into(),
            open: {
                let tar = tar.clone();
                Box::new(move || Ok(Box::new(std::io::Cursor::new(tar.clone()))))
            },
        })
        .collect()
}

/// No mount points: trees are what the layers say.
fn plain() -> Options {
    Options {
        threads: 2,
        mount_points: Vec::new(),
        mount_files: Vec::new(),
        ..Options::default()
    }
}

struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn packs(&self) -> PackCache {
        PackCache::open(self.directory.path().join("packs")).unwrap()
    }

    fn convert(&self, layers: &[LayerInput], options: &Options) -> Result<(Converted, Image)> {
        let output = self.directory.path().join("image.sqsh");
        let converted = convert(layers, &self.packs(), &output, options, &Silent)?;
        let file = std::fs::File::open(&output).unwrap();
        let image = Image::open(file, read::Options::named("test")).unwrap();
        image.check(&converted.squashfs).unwrap();
        assert!(read::verify_all(&image, 1).unwrap().is_none());
        Ok((converted, image))
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("image.sqsh")).unwrap()
    }
}

fn dump(layers: &[&str]) -> String {
    let tars: Vec<_> = layers.iter().map(|text| fixture::layer(text)).collect();
    let (_, image) = Scene::new().convert(&inputs(&tars), &plain()).unwrap();
    image.dump(false).unwrap()
}

#[test]
fn one_layer_is_what_it_says() {
    let text = "d / 755\nd /etc 750\nowner 7 4000000\ntime 1234\nf /etc/hosts 644 hello\nl /a -> etc/hosts\n\
        h /b = /etc/hosts\np /fifo 600\nxattr user.x yes\nf /big 4755 @random 400000\nf /hole 600 @zero 300000\n\
        f /new\\nline\\xff 600";
    assert_eq!(
        dump(&[text]),
        "d 0755 0:0 0 0 3 /\n\
         l 0777 7:4000000 9 1234 1 /a -> etc/hosts\n\
         f 0644 7:4000000 5 1234 2 /b\n\
         f 4755 7:4000000 400000 1234 1 /big user.x=yes\n\
         d 0750 0:0 0 0 2 /etc\n\
         f 0644 7:4000000 5 1234 2 /etc/hosts\n\
         p 0600 7:4000000 0 1234 1 /fifo\n\
         f 0600 7:4000000 300000 1234 1 /hole\n\
         f 0600 7:4000000 0 1234 1 /new\\x0aline\\xff\n"
    );
}

/// Several kinds of files, in three layers, with duplicates and hidden content.
const STACK: [&str; 3] = [
    "d /usr 755\nf /usr/a 644 @random 700000\nf /usr/b 644 @text 500000\nf /usr/small 644 x\nf /dup 600 @text 300000\n\
     h /usr/c = /usr/a\nf /old 644 @random 90000",
    "w /old\nf /usr/a 644 @random 10000\nf /usr/copy 644 @text 200000\nf /bin/sh 755 @text 150000",
    "f /usr/z 644 @zero 1000000\nl /usr/l -> a\nf /small 600 tail",
];

#[test]
fn equal_layers_give_equal_bytes() {
    let tars: Vec<_> = STACK.iter().map(|text| fixture::layer(text)).collect();
    let gzip: Vec<_> = tars.iter().map(|tar| fixture::gzip(tar)).collect();
    let zstd: Vec<_> = tars.iter().map(|tar| fixture::zstd(tar)).collect();
    let mut images = Vec::new();
    for (threads, copy_ahead) in [(1, u64::MAX), (1, 0), (2, 0), (8, 0)] {
        for layers in [&tars, &gzip, &zstd] {
            let scene = Scene::new();
            let options = Options {
                threads,
                copy_ahead,
                ..Options::default()
            };
            let (converted, _) = scene.convert(&inputs(layers), &options).unwrap();
            let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
            assert_eq!(converted.diff_ids, diff_ids);
            images.push(scene.bytes());
            // Once more from packs: nothing is opened.
            let from_packs: Vec<_> = diff_ids
                .into_iter()
                .map(|diff_id| LayerInput {
                    digest: None,
                    size: None,
                    diff_id: Some(diff_id),
                    media_type: String::new(),
                    open: Box::new(|| Err(Error::new("a layer with a pack was opened"))),
                })
                .collect();
            scene.convert(&from_packs, &options).unwrap();
            images.push(scene.bytes());
        }
    }
    assert!(images.iter().all(|image| *image == images[0]));
}

#[test]
fn content_that_was_copied_to_other_places_is_copied_again() {
    let tars: Vec<_> = STACK.iter().map(|text| fixture::layer(text)).collect();
    let scene = Scene::new();
    let options = Options::default();
    let (converted, _) = scene.convert(&inputs(&tars), &options).unwrap();
    let parameters = Parameters {
        block_size: options.block_size,
        level: options.level,
        hot_raw: options.raw_hot_files,
    };
    let packs: Vec<_> = converted
        .diff_ids
        .iter()
        .map(|diff_id| Arc::new(scene.packs().find(diff_id, &parameters).unwrap()))
        .collect();
    let layers = inputs(&tars);
    let merging = Merging::new(layers.len()).unwrap();
    let merged = finish_merge(&layers, &packs, merging, &options).unwrap();
    let tree = merged.tree;
    let plan = Plan::make(&tree, 0, &packs).unwrap();
    let good = plan.ranges().to_vec();
    assert!(good.len() > 1);
    let mut moved = good.clone();
    moved[0].to += 4096;
    for ranges in [vec![], good[..1].to_vec(), good.clone(), moved] {
        let file = tempfile::tempfile().unwrap();
        let wrong = ranges.first().is_some_and(|range| *range != good[0]);
        std::thread::scope(|scope| {
            let begun = Begun {
                ranges: ranges.clone(),
                copying: scope.spawn(|| {
                    if wrong {
                        file.write_all_at(&[0xff; 1 << 20], 0).unwrap();
                        return Ok(());
                    }
                    for range in &ranges {
                        let mut bytes = vec![0; range.length as usize];
                        let from = plan.file(range).unwrap();
                        from.read_exact_at(&mut bytes, range.from).unwrap();
                        file.write_all_at(&bytes, range.to).unwrap();
                    }
                    Ok(())
                }),
            };
            let options = write::Options {
                block_size: options.block_size,
                level: options.level,
                mkfs_time: options.source_date,
            };
            assemble(&tree, &plan, begun, &file, &options).unwrap();
        });
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == scene.bytes(), "{ranges:?}");
    }
}

/// The image of one layer given as bytes.
fn image_of(tar: Vec<u8>) -> Result<(Converted, Image)> {
    Scene::new().convert(&inputs(&[tar]), &plain())
}

fn tar(build: impl FnOnce(&mut fixture::Tar)) -> Vec<u8> {
    let mut tar = fixture::Tar::default();
    build(&mut tar);
    tar.finish()
}

#[test]
fn hostile_and_broken_layers_are_refused_and_leave_nothing() {
    let good = fixture::layer("f /a 644 @random 300000");
    let gzip = fixture::gzip(&good);
    let zstd = fixture::zstd(&good);
    let deep = "d/".repeat(100_000);
    for (what, bytes, why) in [
        (
            "gzip cut short",
            gzip[..gzip.len() / 2].to_vec(),
            "not valid gzip",
        ),
        (
            "zstd cut short",
            zstd[..zstd.len() / 2].to_vec(),
            "not valid zstd",
        ),
        ("tar cut short", good[..1000].to_vec(), "truncated"),
        ("tar cut in a header", good[..100].to_vec(), "truncated"),
        ("no tar", b"hello ".repeat(200), "not a tar stream"),
        ("html", b"<html>".repeat(200), "not a tar stream"),
        ("xz", b"\xfd7zXZ\0 and so on".to_vec(), "compressed with xz"),
        (
            "a link instead of the root",
            tar(|t| t.member(b'2', b".", b"/etc", 0o777, b"")),
            "image's root",
        ),
        (
            "a file instead of the root",
            tar(|t| t.member(b'0', b"a/..", b"", 0o644, b"x")),
            "image's root",
        ),
        (
            "a long name",
            tar(|t| t.member(b'0', &[b'n'; 256], b"", 0o644, b"")),
            "the limit is 255 bytes",
        ),
        (
            "a deep path",
            tar(|t| t.member(b'5', deep.as_bytes(), b"", 0o755, b"")),
            "the limit is 16384 bytes",
        ),
        (
            "an empty target",
            tar(|t| t.member(b'2', b"l", b"", 0o777, b"")),
            "its target is empty",
        ),
        (
            "a long target",
            tar(|t| t.member(b'2', b"l", &[b't'; 5000], 0o777, b"")),
            "the limit is 4095 bytes",
        ),
        (
            "a huge extended header",
            tar(|t| t.header(b'x', b"p", b"", 0o644, 1 << 40)),
            "the limit is 4194304",
        ),
        (
            "a file beyond the limit",
            tar(|t| t.header(b'0', b"big", b"", 0o644, 1 << 50)),
            "too large",
        ),
        (
            "a link to nothing",
            fixture::layer("h /a = /b"),
            "hard link to nothing",
        ),
    ] {
        let scene = Scene::new();
        let error = scene
            .convert(&inputs(&[bytes]), &plain())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{what}: {error}");
        let left: Vec<_> = std::fs::read_dir(scene.packs().directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| {
                !name.ends_with(".dat") && !name.ends_with(".idx") || name.starts_with('.')
            })
            .collect();
        assert!(left.is_empty(), "{what} left {left:?}");
    }
}

#[test]
fn stated_digests_and_sizes_are_verified() {
    let good = fixture::gzip(&fixture::layer("f /a 644 hello"));
    type Change = fn(&mut LayerInput);
    for (change, why) in [
        (
            (|layer| layer.digest = Some(Digest::of(b"x"))) as Change,
            "digest does not match",
        ),
        (|layer| layer.size = Some(3), "longer than stated"),
        (
            |layer| layer.size = layer.size.map(|size| size + 1),
            "truncated",
        ),
        (
            |layer| layer.diff_id = Some(Digest::of(b"x")),
            "diff id does not match",
        ),
    ] {
        let scene = Scene::new();
        let mut layers = inputs(std::slice::from_ref(&good));
        layers.iter_mut().for_each(change);
        let error = scene.convert(&layers, &plain()).map(|_| ()).unwrap_err();
        assert!(
            error
                .what()
                .starts_with("cannot convert layer 1 of 1 (`sha256:"),
            "{error}"
        );
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(
            std::fs::read_dir(scene.packs().directory())
                .unwrap()
                .count(),
            0
        );
    }
}

#[test]
fn odd_layers_are_read() {
    let sparse = |t: &mut fixture::Tar, major: bool| {
        if major {
            t.pax(b"GNU.sparse.major", b"1");
            t.pax(b"GNU.sparse.minor", b"0");
            t.pax(b"GNU.sparse.realsize", b"400000");
        } else {
            t.pax(b"GNU.sparse.size", b"400000");
            t.pax(b"GNU.sparse.numblocks", b"2");
            t.pax(b"GNU.sparse.map", b"200000,5,300000,3");
        }
        t.pax(b"GNU.sparse.name", b"real-name");
        let mut content = Vec::new();
        if major {
            content = b"2\n200000\n5\n300000\n3\n".to_vec();
            content.resize(512, 0);
        }
        content.extend(b"helloyou");
        t.member(b'0', b"GNUSparseFile.1/x", b"", 0o644, &content);
    };
    let mut expected = vec![0; 400_000];
    expected[200_000..200_005].copy_from_slice(b"hello");
    expected[300_000..300_003].copy_from_slice(b"you");
    for major in [true, false] {
        let (_, image) = image_of(tar(|t| sparse(t, major))).unwrap();
        let inode = image.find(b"/real-name").unwrap().unwrap();
        let mut read = Vec::new();
        image
            .read_all(&inode, &mut |bytes| {
                read.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        assert!(read == expected, "major {major}");
    }

    // What PAX says of the size counts: the second member is content of the first, not a file.
    let smuggled = fixture::layer("f /smuggled 644 x");
    let (_, image) = image_of(tar(|t| {
        t.pax(b"size", smuggled.len().to_string().as_bytes());
        t.header(b'x', b"pax", b"", 0o644, 0);
        t.member(b'0', b"honest", b"", 0o644, b"");
        t.content(&smuggled);
    }))
    .unwrap();
    assert!(image.find(b"/smuggled").unwrap().is_none());
    assert_eq!(
        image.find(b"/honest").unwrap().unwrap().size(),
        smuggled.len() as u64
    );

    for (what, bytes) in [
        ("no bytes at all", Vec::new()),
        ("no entries", tar(|_| ())),
        ("gzip of nothing", fixture::gzip(b"")),
    ] {
        let (_, image) = image_of(bytes).unwrap();
        assert_eq!(image.dump(false).unwrap(), "d 0755 0:0 0 0 2 /\n", "{what}");
    }

    // Two gzip members, and an archive without its end mark.
    let whole = fixture::layer("f /a 644 @random 200000\nf /b 644 x");
    let cut = whole.len() - 1024;
    let members = [
        fixture::gzip(&whole[..70_000]),
        fixture::gzip(&whole[70_000..cut]),
    ]
    .concat();
    let (converted, image) = image_of(members).unwrap();
    assert_eq!(converted.diff_ids, [Digest::of(&whole[..cut])]);
    assert_eq!(image.find(b"/a").unwrap().unwrap().size(), 200_000);
}

#[test]
fn what_is_dropped_is_counted() {
    let bytes = tar(|t| {
        t.pax(b"SCHILY.xattr.security.capability", b"x");
        t.pax(b"SCHILY.xattr.trusted.overlay", b"y");
        t.pax(b"SCHILY.xattr.user.kept", b"z");
        t.member(b'0', b"a", b"", 0o644, b"x");
        t.member(b'3', b"null", b"", 0o666, b"");
        t.member(b'4', b"disk", b"", 0o666, b"");
        for name in [b"b", b"c"] {
            t.header(b'x', b"pax", b"", 0o644, 4);
            t.content(b"junk");
            t.member(b'0', name, b"", 0o644, b"");
        }
    });
    let options = Options {
        threads: 2,
        ..Options::default()
    };
    let (converted, image) = Scene::new().convert(&inputs(&[bytes]), &options).unwrap();
    let notes: Vec<_> = converted
        .notes
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    assert_eq!(
        notes,
        [
            "devices 2",
            "malformed-pax 2",
            "mount-files 5",
            "mount-points 12",
            "xattrs 2"
        ]
    );
    assert_eq!(converted.warnings.len(), 1, "{:?}", converted.warnings);
    let text = image.dump(false).unwrap();
    assert!(text.contains("f 0644 0:0 1 0 1 /a user.kept=z\n"), "{text}");
    assert!(text.contains("d 1777 0:0 0 0 2 /var/tmp\n"), "{text}");
    assert!(
        text.contains("f 0644 0:0 0 0 1 /etc/resolv.conf\n"),
        "{text}"
    );
    assert!(!text.contains("null"), "{text}");
}

#[test]
fn a_broken_pack_is_made_again() {
    let scene = Scene::new();
    let bytes = fixture::layer("f /a 644 @random 300000\nf /b 644 x");
    let mut layers = inputs(std::slice::from_ref(&bytes));
    layers[0].diff_id = Some(Digest::of(&bytes));
    scene.convert(&layers, &plain()).unwrap();
    let first = scene.bytes();
    for (extension, damage) in [("idx", 40), ("dat", 0), ("idx", 0)] {
        let packs = std::fs::read_dir(scene.packs().directory()).unwrap();
        for path in packs.map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|found| found == extension) {
                let whole = std::fs::read(&path).unwrap();
                std::fs::write(&path, &whole[..damage]).unwrap();
            }
        }
        scene.convert(&layers, &plain()).unwrap();
        assert!(scene.bytes() == first, "after a broken {extension}");
    }
}

#[test]
fn equal_layers_at_the_same_time_are_packed_once() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let scene = Scene::new();
    let bytes = fixture::layer("f /a 644 @random 3000000");
    let opened = Arc::new(AtomicUsize::new(0));
    let layer = || LayerInput {
        digest: None,
        size: None,
        diff_id: Some(Digest::of(&bytes)),
        media_type: String::new(),
        open: {
            let (bytes, opened) = (bytes.clone(), Arc::clone(&opened));
            Box::new(move || {
                opened.fetch_add(1, Ordering::SeqCst);
                Ok(Box::new(std::io::Cursor::new(bytes.clone())))
            })
        },
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (packs, layers) = (scene.packs(), [layer(), layer()]);
            let output = scene.directory.path().join(format!("{number}.sqsh"));
            scope.spawn(move || convert(&layers, &packs, &output, &plain(), &Silent).unwrap());
        }
    });
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}

#[test]
fn packs_that_are_not_kept_leave_nothing() {
    let scene = Scene::new();
    let options = Options {
        keep_packs: false,
        ..plain()
    };
    scene
        .convert(&inputs(&[fixture::layer("f /a 644 x")]), &options)
        .unwrap();
    assert_eq!(
        std::fs::read_dir(scene.packs().directory())
            .unwrap()
            .count(),
        0
    );
}

/// Comes late.
struct Late(std::io::Cursor<Vec<u8>>);

impl Read for Late {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(std::time::Duration::from_millis(200));
        self.0.read(out)
    }
}

#[test]
fn a_hard_link_may_lead_into_a_layer_that_comes_later() {
    let low = fixture::layer("f /low 644 @random 100000");
    let up = fixture::layer("f /up 644 @random 300000\nh /b = /low");
    let mut images = Vec::new();
    for copy_ahead in [u64::MAX, 0] {
        let mut layers = inputs(&[low.clone(), up.clone()]);
        let bytes = low.clone();
        layers[0].open = Box::new(move || Ok(Box::new(Late(std::io::Cursor::new(bytes.clone())))));
        let options = Options {
            copy_ahead,
            ..plain()
        };
        let scene = Scene::new();
        scene.convert(&layers, &options).unwrap();
        images.push(scene.bytes());
    }
    assert!(images[0] == images[1]);
}
