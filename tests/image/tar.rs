//! Tar as odd as it comes: every header that real tools write, and some that none should.
//!
//! Own code, so that the product's reader is not tested against the library it uses.

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    /// Apparent size and the pieces that hold data.
    Sparse(u64, Vec<(u64, Vec<u8>)>),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Character((u32, u32)),
    Block((u32, u32)),
    Fifo,
    Global,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// What does not fit the header goes into PAX records; sparse files as GNU 1.0.
    Pax,
    /// What does not fit goes into GNU long names and base-256 numbers; sparse files as the old GNU type.
    Gnu,
    /// Long names split at a slash between prefix and name.
    Ustar,
    /// Sparse maps in repeated PAX records, and in one record.
    Sparse00,
    Sparse01,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Decimal text, may be negative or have a fraction.
    pub mtime: String,
    pub style: Style,
    pub pax: Vec<(String, Vec<u8>)>,
    /// The whole extended header, instead of well-formed records.
    pub raw_pax: Option<Vec<u8>>,
    pub claimed_size: Option<u64>,
    pub typeflag: Option<u8>,
    pub bad_checksum: bool,
}

impl Entry {
    pub fn new(kind: Kind, path: Vec<u8>, mode: u32) -> Entry {
        Entry {
            kind,
            path,
            mode,
            uid: 0,
            gid: 0,
            mtime: "1000000000".into(),
            style: Style::Pax,
            pax: Vec::new(),
            raw_pax: None,
            claimed_size: None,
            typeflag: None,
            bad_checksum: false,
        }
    }

    /// Whole seconds, rounded down.
    pub fn seconds(&self) -> i64 {
        match self.mtime.split_once('.') {
            Some((whole, _)) if self.mtime.starts_with('-') => whole.parse::<i64>().unwrap() - 1,
            Some((whole, _)) => whole.parse().unwrap(),
            None => self.mtime.parse().unwrap(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut pax = self.pax.clone();
        let mut name = self.path.clone();
        let mut prefix = Vec::new();
        let link: &[u8] = match &self.kind {
            Kind::Symlink(target) | Kind::HardLink(target) => target,
            _ => b"",
        };
        let mut data: Vec<u8> = Vec::new();
        let mut old_sparse = None;
        match &self.kind {
            Kind::File(content) => data = content.clone(),
            Kind::Sparse(size, pieces) => match self.style {
                Style::Gnu => {
                    data = pieces.iter().flat_map(|(_, c)| c.clone()).collect();
                    old_sparse = Some((*size, pieces));
                }
                _ => data = sparse_data(self.style, *size, pieces, &mut pax, &mut name),
            },
            _ => {}
        }
        if name.len() > 100 || !name.is_ascii() {
            match self.style {
                Style::Gnu if name.len() >= 100 => {
                    long(out, b'L', &name);
                    name.truncate(100);
                }
                Style::Gnu => {}
                Style::Ustar => {
                    let at = (0..name.len())
                        .rev()
                        .find(|at| name[*at] == b'/' && name.len() - at <= 101 && *at <= 155)
                        .expect("a path that fits prefix and name");
                    prefix = name[..at].to_vec();
                    name = name[at + 1..].to_vec();
                }
                _ => {
                    pax.push(("path".into(), name.clone()));
                    name.truncate(100);
                }
            }
        }
        if link.len() > 100 || !link.is_ascii() {
            match self.style {
                Style::Gnu => long(out, b'K', link),
                _ => pax.push(("linkpath".into(), link.to_vec())),
            }
        }
        for (key, value) in [("uid", self.uid), ("gid", self.gid)] {
            if value > 0o777_7777 && self.style != Style::Gnu {
                pax.push((key.into(), value.to_string().into_bytes()));
            }
        }
        let seconds = self.seconds();
        let plain_time = !self.mtime.contains('.') && (0..0o777_7777_7777).contains(&seconds);
        if !plain_time && self.style != Style::Gnu {
            pax.push(("mtime".into(), self.mtime.clone().into_bytes()));
        }
        let records = match &self.raw_pax {
            Some(raw) => raw.clone(),
            None => pax.iter().flat_map(|(k, v)| record(k, v)).collect(),
        };
        let extended = match self.kind {
            Kind::Global => b'g',
            _ => b'x',
        };
        if !records.is_empty() {
            let mut header = Header::new(b"PaxHeaders/x", extended, records.len() as u64);
            header.finish(out, false);
            padded(out, &records);
        }
        if self.kind == Kind::Global {
            return;
        }
        let (flag, device) = match &self.kind {
            Kind::Sparse(..) if old_sparse.is_some() => (b'S', None),
            Kind::File(_) | Kind::Sparse(..) => (b'0', None),
            Kind::HardLink(_) => (b'1', None),
            Kind::Symlink(_) => (b'2', None),
            Kind::Character(device) => (b'3', Some(*device)),
            Kind::Block(device) => (b'4', Some(*device)),
            Kind::Directory => (b'5', None),
            Kind::Fifo => (b'6', None),
            Kind::Global => unreachable!(),
        };
        let size = self.claimed_size.unwrap_or(data.len() as u64);
        let mut header = Header::new(&name, self.typeflag.unwrap_or(flag), size);
        header.number(100, 8, i128::from(self.mode));
        header.number(108, 8, i128::from(self.uid));
        header.number(116, 8, i128::from(self.gid));
        header.number(136, 12, i128::from(seconds));
        header.text(157, &link[..link.len().min(100)]);
        if self.style == Style::Gnu {
            header.text(257, b"ustar  \0");
        }
        header.text(345, &prefix);
        if let Some((major, minor)) = device {
            header.number(329, 8, i128::from(major));
            header.number(337, 8, i128::from(minor));
        }
        if let Some((size, pieces)) = old_sparse {
            header.pieces(386, &pieces[..pieces.len().min(4)]);
            header.0[482] = u8::from(pieces.len() > 4);
            header.number(483, 12, i128::from(size));
        }
        header.finish(out, self.bad_checksum);
        if let Some((_, pieces)) = old_sparse {
            // What does not fit the header stands in blocks of 21 pieces each.
            let mut rest = pieces.get(4..).unwrap_or_default().chunks(21).peekable();
            while let Some(part) = rest.next() {
                let mut block = Header([0; 512]);
                block.pieces(0, part);
                block.0[504] = u8::from(rest.peek().is_some());
                out.extend(block.0);
            }
        }
        padded(out, &data);
    }
}

/// GNU sparse files in PAX clothes: the map in front of the data (1.0), or in records (0.0, 0.1).
fn sparse_data(
    style: Style,
    size: u64,
    pieces: &[(u64, Vec<u8>)],
    pax: &mut Vec<(String, Vec<u8>)>,
    name: &mut Vec<u8>,
) -> Vec<u8> {
    let mut add = |key: &str, value: String| pax.push((key.into(), value.into_bytes()));
    let content = pieces.iter().flat_map(|(_, content)| content.clone());
    match style {
        Style::Sparse00 => {
            add("GNU.sparse.size", size.to_string());
            add("GNU.sparse.numblocks", pieces.len().to_string());
            for (offset, content) in pieces {
                add("GNU.sparse.offset", offset.to_string());
                add("GNU.sparse.numbytes", content.len().to_string());
            }
            content.collect()
        }
        Style::Sparse01 => {
            add("GNU.sparse.size", size.to_string());
            add("GNU.sparse.numblocks", pieces.len().to_string());
            let map: Vec<String> = pieces
                .iter()
                .map(|(offset, content)| format!("{offset},{}", content.len()))
                .collect();
            add("GNU.sparse.map", map.join(","));
            add("GNU.sparse.name", String::from_utf8(name.clone()).unwrap());
            *name = b"GNUSparseFile.0/x".to_vec();
            content.collect()
        }
        _ => {
            add("GNU.sparse.major", "1".into());
            add("GNU.sparse.minor", "0".into());
            add("GNU.sparse.name", String::from_utf8(name.clone()).unwrap());
            add("GNU.sparse.realsize", size.to_string());
            *name = b"GNUSparseFile.0/x".to_vec();
            let mut data = format!("{}\n", pieces.len()).into_bytes();
            for (offset, content) in pieces {
                data.extend(format!("{offset}\n{}\n", content.len()).bytes());
            }
            data.resize(data.len().next_multiple_of(512), 0);
            data.extend(content);
            data
        }
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut out = format!("{length} {key}=").into_bytes();
    out.extend(value);
    out.push(b'\n');
    out
}

/// The whole archive.
pub fn archive(entries: &[Entry], end: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        entry.write(&mut out);
    }
    if end {
        out.resize(out.len() + 1024, 0);
    }
    out
}

fn padded(out: &mut Vec<u8>, data: &[u8]) {
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// A GNU long name or long link target, in an entry of its own.
fn long(out: &mut Vec<u8>, flag: u8, text: &[u8]) {
    let mut header = Header::new(b"././@LongLink", flag, text.len() as u64 + 1);
    header.finish(out, false);
    padded(out, &[text, b"\0"].concat());
}

struct Header([u8; 512]);

impl Header {
    fn new(name: &[u8], flag: u8, size: u64) -> Header {
        let mut header = Header([0; 512]);
        header.text(0, name);
        header.number(100, 8, 0o644);
        header.number(108, 8, 0);
        header.number(116, 8, 0);
        header.number(124, 12, i128::from(size));
        header.number(136, 12, 0);
        header.0[156] = flag;
        header.text(257, b"ustar\x0000");
        header
    }

    fn text(&mut self, at: usize, text: &[u8]) {
        self.0[at..at + text.len()].copy_from_slice(text);
    }

    /// Offsets and lengths of the old GNU sparse map.
    fn pieces(&mut self, at: usize, pieces: &[(u64, Vec<u8>)]) {
        for (index, (offset, content)) in pieces.iter().enumerate() {
            self.number(at + index * 24, 12, i128::from(*offset));
            self.number(at + index * 24 + 12, 12, content.len() as i128);
        }
    }

    /// Octal where it fits, else base 256.
    fn number(&mut self, at: usize, width: usize, value: i128) {
        let octal = format!("{value:0digits$o}\0", digits = width - 1);
        if value >= 0 && octal.len() == width {
            self.text(at, octal.as_bytes());
            return;
        }
        let bytes = value.to_be_bytes();
        self.text(at, &bytes[16 - width..]);
        self.0[at] |= 0x80;
    }

    fn finish(&mut self, out: &mut Vec<u8>, wrong: bool) {
        self.text(148, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        let sum = sum + u32::from(wrong);
        self.text(148, format!("{sum:06o}\0 ").as_bytes());
        out.extend(self.0);
    }
}

#[test]
fn records_count_themselves() {
    assert_eq!(record("path", b"x"), b"9 path=x\n");
    assert_eq!(record("k", &[b'v'; 93]).len(), 99);
    assert_eq!(record("k", &[b'v'; 94]).len(), 101);
}
