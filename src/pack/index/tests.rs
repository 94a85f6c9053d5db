use super::*;
use crate::image::entry::{Attributes, Content};
use crate::pack::blocks::PackFile;
use crate::pack::pool::Event;

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        attributes: Attributes {
            mode: 0o644,
            uid: 7,
            gid: 70_000,
            mtime: 1234,
        },
        xattrs: vec![(b"note".to_vec(), b"\0\xff".to_vec())],
        hints: vec!["4.1.4".into()],
    }
}

fn entries() -> Vec<Entry> {
    let content = |size, run, tail| Kind::File(Content { size, run, tail });
    let bare = |path, kind| Entry {
        attributes: Attributes::default(),
        xattrs: Vec::new(),
        hints: Vec::new(),
        ..entry(path, kind)
    };
    vec![
        entry("a", Kind::Directory),
        entry("a/big", content(10_000, Some(0), None)),
        entry("a/big2", content(10_000, Some(1), None)),
        entry("a/small", content(5, None, Some((0, 90)))),
        entry("a/none", content(0, None, None)),
        entry("b", Kind::Symlink(b"a/b".to_vec())),
        entry("c", Kind::HardLink(b"a/big".to_vec())),
        entry("d", Kind::Fifo),
        entry("e", Kind::Device),
        bare("f", Kind::Whiteout),
        bare("", Kind::Opaque),
    ]
}

/// An index of [`entries`] over a pack with blocks of 4096 bytes.
fn sample() -> (Vec<u8>, Blocks) {
    let mut pack = PackFile::new(tempfile::tempfile().unwrap());
    let stored = |length: usize, fragment| Event::Stored {
        bytes: vec![1; length],
        size: length as u32,
        hash: [length as u8; 20],
        fragment,
    };
    for event in [
        stored(100, false),
        Event::Holes(1),
        stored(50, false),
        Event::EndOfRun,
        stored(30, true),
        stored(100, false),
        Event::Holes(1),
        stored(50, false),
        Event::EndOfRun,
    ] {
        pack.take(&event).unwrap();
    }
    let (dat, blocks) = pack.finish().unwrap();
    assert_eq!(
        dat.metadata().unwrap().len(),
        180,
        "the second run is the first one again"
    );
    let file = tempfile::tempfile().unwrap();
    let mut writer = Writer::new(file).unwrap();
    entries()
        .iter()
        .for_each(|entry| writer.add(entry).unwrap());
    let notes = BTreeMap::from([("xattrs".to_string(), 3)]);
    let (file, _) = writer.finish(Digest::of(b"x"), notes, &blocks).unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    (bytes, blocks)
}

fn open(bytes: &[u8]) -> Result<Index> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Index::open(file, 4096)
}

#[test]
fn what_is_written_is_read() {
    let (bytes, blocks) = sample();
    let index = open(&bytes).unwrap();
    assert_eq!(index.blocks, blocks);
    assert_eq!(index.summary.notes["xattrs"], 3);
    assert_eq!(index.summary.diff_id, Digest::of(b"x"));
    let read: Vec<_> = index
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    assert_eq!(read, entries());
}

#[test]
fn any_flipped_byte_is_noticed() {
    let (bytes, _) = sample();
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 0x10;
        assert!(open(&broken).is_err(), "byte {at}");
    }
    for length in 0..bytes.len() {
        assert!(open(&bytes[..length]).is_err(), "cut at {length}");
    }
    assert!(Index::open(tempfile::tempfile().unwrap(), 4096).is_err());
}

/// Whoever can write the cache can also sign: then nothing may be believed, and nothing may panic.
#[test]
fn a_crafted_index_is_an_error_at_worst() {
    let (bytes, _) = sample();
    let signed = bytes.len() - 32;
    let mut believed = 0;
    for at in 0..signed {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut crafted = bytes.clone();
            crafted[at] = value;
            let hash = blake3::hash(&crafted[..signed]);
            crafted[signed..].copy_from_slice(hash.as_bytes());
            let Ok(index) = open(&crafted) else { continue };
            for entry in index.entries().unwrap() {
                let Ok(entry) = entry else { break };
                believed += 1;
                assert_eq!(path::normalise(&entry.path).unwrap(), entry.path);
            }
        }
    }
    assert!(believed > 0, "no crafted index got as far as its entries");
}
