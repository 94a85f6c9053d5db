//! Layers written as text, for tests: one line per entry, a tar stream out.
//!
//! ```text
//! d /etc 755                 directory
//! f /etc/hosts 644 hello     file; the rest of the line is its content
//! f /big 644 @random 300000  … or so many bytes that do not compress, or `@zero N`, or `@text N` that do
//! l /a -> b                  symlink
//! h /b = /a                  hard link
//! w /etc/old                 whiteout
//! o /dir                     opaque directory
//! p /fifo 600                FIFO
//! c /dev/null 1 3            device node
//! owner 1000 100             for the entries that follow
//! time 1234567890            likewise
//! xattr user.note hello      for the next entry
//! ```
//! `\n` and `\xNN` in names stand for those bytes. Lines that are empty or start with `#` are skipped. Long names, large
//! ids and attributes become PAX headers. A line that cannot be read panics: fixtures are part of tests.

use std::io::Write;

/// The tar stream of a layer.
pub fn layer(text: &str) -> Vec<u8> {
    let mut tar = Tar::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        tar.line(line);
    }
    tar.finish()
}

/// The same layer compressed with gzip.
pub fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(tar).expect("memory");
    encoder.finish().expect("memory")
}

/// The same layer compressed with zstd.
pub fn zstd(tar: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(tar, 1).expect("memory")
}

/// Builds tar streams member by member.
#[derive(Default)]
pub struct Tar {
    out: Vec<u8>,
    uid: u64,
    gid: u64,
    mtime: u64,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Tar {
    fn line(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let (kind, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let rest = words.next().unwrap_or("");
        let name = unescape(second.strip_prefix('/').unwrap_or(second));
        let mode = |text: &str| u32::from_str_radix(text.trim(), 8).expect("octal mode");
        match kind {
            _ if kind.starts_with('#') => {}
            "owner" => {
                self.uid = second.parse().expect("uid");
                self.gid = rest.trim().parse().expect("gid");
            }
            "time" => self.mtime = second.parse().expect("time"),
            "xattr" => {
                let key = [b"SCHILY.xattr.", second.as_bytes()].concat();
                self.pax.push((key, unescape(rest)));
            }
            "d" => self.member(b'5', &[&name[..], b"/"].concat(), b"", mode(rest), b""),
            "f" => {
                let (bits, content) = rest.split_once(' ').unwrap_or((rest, ""));
                let content = content_of(&name, content);
                self.member(b'0', &name, b"", mode(bits), &content);
            }
            "l" => {
                let target = unescape(rest.strip_prefix("-> ").expect("l NAME -> TARGET"));
                self.member(b'2', &name, &target, 0o777, b"");
            }
            "h" => {
                let target = rest.strip_prefix("= ").expect("h NAME = TARGET");
                let target = unescape(target.strip_prefix('/').unwrap_or(target));
                self.member(b'1', &name, &target, 0o644, b"");
            }
            "w" => {
                let (parent, base) = split(&name);
                self.member(b'0', &[parent, b".wh.", base].concat(), b"", 0o600, b"");
            }
            "o" => {
                let name = [&name[..], b"/.wh..wh..opq"].concat();
                self.member(b'0', &name, b"", 0o600, b"");
            }
            "p" => self.member(b'6', &name, b"", mode(rest), b""),
            "c" => self.member(b'3', &name, b"", 0o666, b""),
            _ => panic!("no such line in a layer: {line}"),
        }
    }

    /// Adds a PAX record to the next member.
    pub fn pax(&mut self, key: &[u8], value: &[u8]) {
        self.pax.push((key.to_vec(), value.to_vec()));
    }

    /// Adds a member; long names and what [`Tar::pax`] collected go into a PAX header.
    pub fn member(&mut self, kind: u8, name: &[u8], link: &[u8], mode: u32, content: &[u8]) {
        let mut pax = std::mem::take(&mut self.pax);
        if name.len() > 100 || name.is_empty() {
            pax.push((b"path".to_vec(), name.to_vec()));
        }
        if link.len() > 100 {
            pax.push((b"linkpath".to_vec(), link.to_vec()));
        }
        for (key, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if id >= 1 << 21 {
                pax.push((key.to_vec(), id.to_string().into_bytes()));
            }
        }
        if !pax.is_empty() {
            let records: Vec<u8> = pax.iter().flat_map(|(k, v)| record(k, v)).collect();
            self.header(b'x', b"pax", b"", 0o644, records.len() as u64);
            self.content(&records);
        }
        self.header(kind, name, link, mode, content.len() as u64);
        self.content(content);
    }

    /// Adds a bare header, with whatever size it should state.
    pub fn header(&mut self, kind: u8, name: &[u8], link: &[u8], mode: u32, size: u64) {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name[..name.len().min(100)]);
        put(100, format!("{mode:07o}").as_bytes());
        put(108, format!("{:07o}", self.uid & 0o7777777).as_bytes());
        put(116, format!("{:07o}", self.gid & 0o7777777).as_bytes());
        if size < 1 << 33 {
            put(124, format!("{size:011o}").as_bytes());
        } else {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
        put(136, format!("{:011o}", self.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &link[..link.len().min(100)]);
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.out.extend(block);
    }

    /// Adds content and its padding.
    pub fn content(&mut self, content: &[u8]) {
        self.out.extend(content);
        self.out.resize(self.out.len().next_multiple_of(512), 0);
    }

    /// The stream with its end mark.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.extend([0; 1024]);
        self.out
    }

    /// The stream as it stands.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}

/// A PAX record, whose length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let at = name.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    name.split_at(at)
}

/// What a file's content text stands for; tests compare with it.
pub fn content_of(name: &[u8], text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["@zero", count] => vec![0; count.parse().expect("count")],
        ["@text", count] => {
            let line = [name, b" some text that compresses well\n"].concat();
            line.into_iter()
                .cycle()
                .take(count.parse().expect("count"))
                .collect()
        }
        ["@random", count] => {
            let mut reader = blake3::Hasher::new().update(name).finalize_xof();
            let mut bytes = vec![0; count.parse().expect("count")];
            reader.fill(&mut bytes);
            bytes
        }
        _ => text.as_bytes().to_vec(),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, rest) {
            (b'\\', [b'n', after @ ..]) => {
                out.push(b'\n');
                rest = after;
            }
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("hex");
                out.push(u8::from_str_radix(digits, 16).expect("hex"));
                rest = after;
            }
            _ => out.push(byte),
        }
    }
    out
}
