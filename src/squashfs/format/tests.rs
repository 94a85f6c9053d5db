//! Encodings there and back, and bounds of hostile numbers.

use super::*;

#[test]
fn superblock_there_and_back() {
    let superblock = Superblock {
        inodes: 1,
        mkfs_time: 2,
        block_size: 1 << 17,
        fragments: 3,
        compressor: 6,
        flags: flag::EXPORTABLE,
        ids: 4,
        root_inode: InodeReference::new(5, 6),
        bytes_used: 7,
        id_table: 8,
        xattr_table: NONE64,
        inode_table: 9,
        directory_table: 10,
        fragment_table: 11,
        export_table: 12,
    };
    let bytes = superblock.encode();
    assert_eq!(Superblock::parse(&bytes), Some(superblock));
    assert_eq!(Superblock::parse(&bytes[..95]), None);
}

#[test]
fn every_inode_body_has_the_size_it_says() {
    let bytes = [7u8; 64];
    for inode_kind in 1..=14 {
        let size = InodeBody::size(inode_kind).unwrap();
        let body = InodeBody::parse(inode_kind, &bytes[..size]).unwrap();
        assert_eq!(
            InodeBody::parse(inode_kind, &bytes[..size - 1]),
            None,
            "type {inode_kind}"
        );
        let mut out = Vec::new();
        body.encode(&mut out);
        assert_eq!(out, bytes[..size], "type {inode_kind}");
    }
    assert_eq!(InodeBody::size(15), None);
}

#[test]
fn devices_there_and_back() {
    for (major, minor) in [(1, 3), (195, 255), (10, 229), (259, 70_000)] {
        assert_eq!(decode_device(encode_device(major, minor)), (major, minor));
    }
}
