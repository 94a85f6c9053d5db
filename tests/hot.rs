//! The first blocks of the loader, libc and the shells are in the image as they are, so that no start decompresses them.

use crate::golden::root;
use crate::image::layout::Layout;
use crate::image::text::bytes;
use crate::need::need;
use crate::scene::Scene;
use carrack::squashfs::read::{Content, Image, Options};
use std::process::Command;

/// Path, what is repeated in it, and how much of its start is stored raw.
const FILES: [(&str, &str, usize); 6] = [
    ("lib64/ld-linux-x86-64.so.2", "{newer*500000}", 2 << 20),
    (
        "lib/x86_64-linux-gnu/libc.so.6",
        "{libc\\sand\\smore*200000}",
        2 << 20,
    ),
    ("bin/sh", "{shell*60000}", 128 << 10),
    ("bin/dash", "small", 5),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh", 29),
    ("opt/bin/sh", "{cold*60000}", 0),
];

#[test]
fn what_every_start_reads_is_stored_raw() {
    need!(SquashfsTools);
    let scene = Scene::new();
    let text = std::fs::read_to_string(root().join("tests/corpus/hot.txt")).unwrap();
    Layout::of_text(&text).write(&scene.path("work/image"));
    let (_, squashfs) = crate::pulling::pull_layout(&scene, &scene.path("work/image"));
    let stored = std::fs::read(&squashfs).unwrap();
    let file = std::fs::File::open(&squashfs).unwrap();
    let image = Image::open(file, Options::default()).unwrap();
    for (path, content, raw) in FILES {
        let content = bytes(content);
        let inode = image.find(format!("/{path}").as_bytes()).unwrap().unwrap();
        let Content::File(place) = &inode.content else {
            panic!("{path} is no file");
        };
        let start = usize::try_from(place.start).unwrap();
        let same = stored[start..].iter().zip(&content);
        let same = same.take_while(|(one, other)| one == other).count();
        match raw {
            0 => assert!(same < 1000, "{path}: {same} bytes are raw"),
            // What follows is compressed, and agrees in a byte or two at most.
            _ => assert!((raw..raw + 100).contains(&same), "{path}: {same}"),
        }
        let mut seen = vec![0; content.len() + 1];
        let length = image.read_at(&inode, 0, &mut seen).unwrap();
        assert!(seen[..length] == content, "{path}: our reader");
        let unpacked = Command::new("unsquashfs")
            .arg("-cat")
            .arg(&squashfs)
            .arg(path)
            .output()
            .unwrap();
        assert!(unpacked.stdout == content, "{path}: unsquashfs");
    }
}
