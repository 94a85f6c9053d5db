//! What an ELF file says about itself: its name, what it needs, and how new a C library and a processor must be.
//!
//! Only the few parts that a loader reads first are looked at, through [`Bytes`], because a driver's library can have a
//! hundred megabytes. Every offset is checked: the files come from images and drivers alike. Only 64-bit little-endian
//! files are read, which is what clusters have.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// A file's bytes by place.
pub trait Bytes {
    /// Up to `length` bytes from `offset`; fewer at the end.
    fn part(&self, offset: u64, length: usize) -> Option<Vec<u8>>;
}

impl Bytes for [u8] {
    fn part(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let start = usize::try_from(offset).ok()?;
        let rest = self.get(start..)?;
        Some(rest.get(..length.min(rest.len()))?.to_vec())
    }
}

impl Bytes for File {
    fn part(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read_at(rest, offset.checked_add(done as u64)?) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        bytes.truncate(done);
        Some(bytes)
    }
}

/// What is read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// As the header counts them: 62 is x86-64, 183 AArch64.
    pub machine: u16,
    pub soname: Option<String>,
    pub needed: Vec<String>,
    /// Directories that it wants its libraries from, `RUNPATH` or `RPATH`.
    pub search: Vec<String>,
    /// Versions that it needs of its libraries: (`libc.so.6`, `GLIBC_2.34`).
    pub versions: Vec<(String, String)>,
    /// The x86-64 level that it says it needs: 1 to 4; 0 when it says nothing.
    pub level: u8,
}

/// More than any file has; beyond it the file is broken or hostile.
const MAX_HEADERS: u16 = 512;
const MAX_TABLE: u64 = 16 << 20;
const MAX_ENTRIES: usize = 65_536;

const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const NOTE: u32 = 4;
const PROPERTY: u32 = 0x6474_e553;

impl Elf {
    /// Reads what a file says; `None` when it is not such a file or broken.
    pub fn read(file: &(impl Bytes + ?Sized)) -> Option<Elf> {
        let header = file.part(0, 64)?;
        if header.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let (count, size) = (u16_at(&header, 56)?, u16_at(&header, 54)?);
        if size != 56 || count > MAX_HEADERS {
            return None;
        }
        let table = file.part(u64_at(&header, 32)?, usize::from(count) * 56)?;
        let segments: Vec<Segment> = (0..usize::from(count))
            .map(|index| Segment::read(&table, index * 56))
            .collect::<Option<_>>()?;
        let mut elf = Elf {
            machine: u16_at(&header, 18)?,
            ..Elf::default()
        };
        if let Some(dynamic) = segments.iter().find(|segment| segment.kind == DYNAMIC) {
            elf.dynamic(file, &segments, dynamic)?;
        }
        for segment in &segments {
            if matches!(segment.kind, NOTE | PROPERTY) && segment.size <= MAX_TABLE {
                let notes = file.part(segment.offset, usize::try_from(segment.size).ok()?)?;
                elf.level = elf.level.max(level(&notes).unwrap_or(0));
            }
        }
        Some(elf)
    }

    /// The highest version of one family that it needs, e.g. `GLIBC`: (2, 34).
    pub fn floor(&self, family: &str) -> Option<Version> {
        let versions = self.versions.iter();
        versions
            .filter_map(|(_, version)| version.strip_prefix(family)?.strip_prefix('_'))
            .filter_map(Version::parse)
            .max()
    }

    fn dynamic(
        &mut self,
        file: &(impl Bytes + ?Sized),
        segments: &[Segment],
        dynamic: &Segment,
    ) -> Option<()> {
        if dynamic.size > MAX_TABLE {
            return None;
        }
        let table = file.part(dynamic.offset, usize::try_from(dynamic.size).ok()?)?;
        let entries: Vec<(u64, u64)> = table
            .chunks_exact(16)
            .map_while(|entry| Some((u64_at(entry, 0)?, u64_at(entry, 8)?)))
            .take_while(|(tag, _)| *tag != 0)
            .collect();
        let value = |wanted: u64| {
            let entry = entries.iter().find(|(tag, _)| *tag == wanted);
            entry.map(|(_, value)| *value)
        };
        let (Some(strings), Some(size)) = (value(5), value(10)) else {
            return Some(());
        };
        if size > MAX_TABLE {
            return None;
        }
        let strings = file.part(offset_of(segments, strings)?, usize::try_from(size).ok()?)?;
        let texts = |wanted: u64| -> Vec<String> {
            let entries = entries.iter().filter(move |(tag, _)| *tag == wanted);
            entries
                .filter_map(|(_, at)| text(&strings, usize::try_from(*at).ok()?))
                .collect()
        };
        self.soname = texts(14).into_iter().next();
        self.needed = texts(1);
        let paths = match texts(29) {
            run if run.is_empty() => texts(15),
            run => run,
        };
        self.search = paths
            .iter()
            .flat_map(|path| path.split(':'))
            .filter(|path| !path.is_empty())
            .map(str::to_string)
            .collect();
        if let (Some(at), Some(count)) = (value(0x6fff_fffe), value(0x6fff_ffff)) {
            let start = offset_of(segments, at)?;
            self.versions = versions(file, start, count, &strings)?;
        }
        Some(())
    }
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Segment {
    fn read(table: &[u8], at: usize) -> Option<Segment> {
        Some(Segment {
            kind: u32_at(table, at)?,
            offset: u64_at(table, at + 8)?,
            address: u64_at(table, at + 16)?,
            size: u64_at(table, at + 32)?,
        })
    }
}

/// Where in the file an address is.
fn offset_of(segments: &[Segment], address: u64) -> Option<u64> {
    let within = |segment: &&Segment| {
        segment.kind == LOAD
            && address >= segment.address
            && address - segment.address < segment.size
    };
    let segment = segments.iter().find(within)?;
    segment.offset.checked_add(address - segment.address)
}

/// The chain of `Verneed` records, each with its chain of `Vernaux`.
fn versions(
    file: &(impl Bytes + ?Sized),
    start: u64,
    count: u64,
    strings: &[u8],
) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut at = start;
    for _ in 0..count.min(4096) {
        let record = file.part(at, 16)?;
        let library = text(strings, u32_at(&record, 4)? as usize)?;
        let mut inner = at.checked_add(u64::from(u32_at(&record, 8)?))?;
        for _ in 0..u16_at(&record, 2)? {
            let version = file.part(inner, 16)?;
            found.push((
                library.clone(),
                text(strings, u32_at(&version, 8)? as usize)?,
            ));
            if found.len() > MAX_ENTRIES {
                return None;
            }
            match u32_at(&version, 12)? {
                0 => break,
                next => inner = inner.checked_add(u64::from(next))?,
            }
        }
        match u32_at(&record, 12)? {
            0 => break,
            next => at = at.checked_add(u64::from(next))?,
        }
    }
    Some(found)
}

/// The x86-64 level in a segment of notes (`GNU_PROPERTY_X86_ISA_1_NEEDED`).
fn level(notes: &[u8]) -> Option<u8> {
    const ISA_NEEDED: u32 = 0xc000_8002;
    let mut at = 0;
    while at + 12 <= notes.len() {
        let (name, size) = (u32_at(notes, at)? as usize, u32_at(notes, at + 4)? as usize);
        let start = (at + 12).checked_add(name)?.checked_next_multiple_of(8)?;
        let end = start.checked_add(size)?;
        if u32_at(notes, at + 8)? == 5 && notes.get(at + 12..at + 16)? == b"GNU\0" {
            let mut property = start;
            while property + 8 <= end {
                let length = u32_at(notes, property + 4)? as usize;
                if u32_at(notes, property)? == ISA_NEEDED && length >= 4 {
                    let bits = u32_at(notes, property + 8)?;
                    return (1..=4).rev().find(|level| bits & (1 << (level - 1)) != 0);
                }
                property = (property + 8)
                    .checked_add(length)?
                    .checked_next_multiple_of(8)?;
            }
        }
        // Older notes are aligned to 4; those before a property are of that kind.
        let step = if u32_at(notes, at + 8)? == 5 { 8 } else { 4 };
        let start = (at + 12).checked_add(name)?.checked_next_multiple_of(4)?;
        let next = start.checked_add(size)?.checked_next_multiple_of(step)?;
        at = next.max(at + 12);
    }
    None
}

fn text(strings: &[u8], at: usize) -> Option<String> {
    let rest = strings.get(at..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    String::from_utf8(rest.get(..end)?.to_vec()).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// Numbers with dots between them, compared as numbers: 2.9 is older than 2.34.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub Vec<u32>);

impl Version {
    /// The numbers at the beginning of a text; `None` when it does not begin with one.
    pub fn parse(text: &str) -> Option<Version> {
        let numbers: Vec<u32> = text
            .split('.')
            .map_while(|part| {
                let digits: &str = part
                    .split(|c: char| !c.is_ascii_digit())
                    .next()
                    .unwrap_or_default();
                digits.parse().ok()
            })
            .collect();
        (!numbers.is_empty()).then_some(Version(numbers))
    }

    pub fn major(&self) -> u32 {
        self.0.first().copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u32::to_string).collect();
        out.write_str(&numbers.join("."))
    }
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
