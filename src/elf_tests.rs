use super::*;

/// A small shared library, made byte by byte: headers, dynamic table, version records, one property note.
pub fn library(soname: &str, needed: &[&str], versions: &[(&str, &str)], isa: u32) -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut put = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let mut dynamic: Vec<(u64, u64)> = vec![(14, put(soname))];
    dynamic.extend(needed.iter().map(|name| (1, put(name))));
    dynamic.push((29, put("$ORIGIN/../lib:/opt/x")));
    let mut records = Vec::new();
    for (index, (file, version)) in versions.iter().enumerate() {
        let last = index + 1 == versions.len();
        let (file, version) = (put(file) as u32, put(version) as u32);
        for half in [1u16, 1] {
            records.extend_from_slice(&half.to_le_bytes());
        }
        for word in [file, 16, if last { 0 } else { 32 }] {
            records.extend_from_slice(&word.to_le_bytes());
        }
        for word in [0, 2 << 16, version, 0] {
            records.extend_from_slice(&u32::to_le_bytes(word));
        }
    }
    let mut note = Vec::new();
    for word in [4u32, 16, 5] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"GNU\0");
    for word in [0xc000_8002u32, 4, isa, 0] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    let start = 64 + 3 * 56;
    let records_at = start + strings.len();
    let note_at = records_at + records.len();
    let dynamic_at = note_at + note.len();
    const BASE: u64 = 0x1000;
    let address = |at: usize| BASE + at as u64;
    dynamic.extend([(5, address(start)), (10, strings.len() as u64)]);
    dynamic.extend([
        (0x6fff_fffe, address(records_at)),
        (0x6fff_ffff, versions.len() as u64),
        (0, 0),
    ]);
    let dynamic: Vec<u8> = dynamic
        .iter()
        .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
        .collect();
    let end = dynamic_at + dynamic.len();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend_from_slice(&3u16.to_le_bytes());
    file.extend_from_slice(&62u16.to_le_bytes());
    file.resize(32, 0);
    file.extend_from_slice(&64u64.to_le_bytes());
    file.resize(54, 0);
    for half in [56u16, 3] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.resize(64, 0);
    for (kind, at, size) in [
        (LOAD, 0, end),
        (DYNAMIC, dynamic_at, dynamic.len()),
        (NOTE, note_at, note.len()),
    ] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&4u32.to_le_bytes());
        for word in [at as u64, address(at), 0, size as u64, size as u64, 8] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    file.extend(strings);
    file.extend(records);
    file.extend(note);
    file.extend(dynamic);
    file
}

#[test]
fn all_that_is_told() {
    let bytes = library(
        "libx.so.1",
        &["libc.so.6", "libm.so.6"],
        &[
            ("libc.so.6", "GLIBC_2.9"),
            ("libc.so.6", "GLIBC_2.34"),
            ("libstdc++.so.6", "GLIBCXX_3.4.29"),
        ],
        0b0111,
    );
    let elf = Elf::read(bytes.as_slice()).unwrap();
    assert_eq!(elf.machine, 62);
    assert_eq!(elf.soname.as_deref(), Some("libx.so.1"));
    assert_eq!(elf.needed, ["libc.so.6", "libm.so.6"]);
    assert_eq!(elf.search, ["$ORIGIN/../lib", "/opt/x"]);
    assert_eq!(elf.floor("GLIBC").unwrap().to_string(), "2.34");
    assert_eq!(elf.floor("GLIBCXX").unwrap().to_string(), "3.4.29");
    assert_eq!(elf.floor("GCC"), None);
    assert_eq!(elf.level, 3);
}

#[test]
fn cut_and_flipped_files_are_no_danger() {
    let whole = library("libx.so.1", &["a"], &[("libc.so.6", "GLIBC_2.9")], 1);
    for end in 0..whole.len() {
        let _ = Elf::read(&whole[..end]);
    }
    for at in 0..whole.len() {
        for value in [0, 0x7f, 0xff] {
            let mut broken = whole.clone();
            broken[at] = value;
            let _ = Elf::read(broken.as_slice());
        }
    }
    assert_eq!(Elf::read(b"#!/bin/sh\n".as_slice()), None);
}

/// The C library of this machine, read as the loader would.
#[test]
fn a_real_program() {
    let file = File::open("/proc/self/exe").unwrap();
    let elf = Elf::read(&file).unwrap();
    assert!(elf.needed.iter().any(|name| name.starts_with("libc.so")));
    assert!(elf.floor("GLIBC").unwrap() >= Version(vec![2, 2]));
}

#[test]
fn versions_compare_as_numbers() {
    for (older, newer) in [("2.9", "2.34"), ("2.34", "2.34.1"), ("535.9", "550.1")] {
        assert!(Version::parse(older) < Version::parse(newer));
    }
    assert_eq!(Version::parse("4.1.4rc1"), Version::parse("4.1.4"));
    assert_eq!(Version::parse("x"), None);
    assert_eq!(Version::parse("550.54.15").unwrap().major(), 550);
}
