//! The corpus' language: an image written as text, one tar entry a line. `tests/corpus/README.md` describes it.

use super::tar::{Entry, Kind, Style};

/// How the stored bytes of a layer are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    /// Two gzip members, as parallel compressors write.
    GzipMembers,
    Zstd,
}

#[derive(Clone, Debug)]
pub struct Layer {
    pub compression: Compression,
    pub entries: Vec<Entry>,
    /// The end-of-archive blocks are left out.
    pub no_end: bool,
    /// Bytes cut from the end of the tar before it is compressed.
    pub cut: usize,
}

/// What the file itself says about the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    Gone(Vec<u8>),
    File(Vec<u8>, Vec<u8>),
    Directory(Vec<u8>, u32),
    Link(Vec<u8>, Vec<u8>),
    /// Both paths are one inode.
    Same(Vec<u8>, Vec<u8>),
    Links(Vec<u8>, u64),
    Xattr(Vec<u8>, Vec<u8>, Vec<u8>),
    /// A count in the record.
    Note(String, u64),
    /// The pull fails with this text in its error.
    Fails(Vec<String>),
}

#[derive(Clone, Debug, Default)]
pub struct Image {
    pub layers: Vec<Layer>,
    pub expectations: Vec<Expectation>,
    /// umoci cannot unpack it, or unpacks it otherwise; the reason.
    pub without_umoci: Option<String>,
}

/// Reads a corpus file; a mistake in it is a mistake of the tests and panics with its line.
pub fn parse(text: &str) -> Image {
    let mut image = Image::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let done = match words.as_slice() {
            ["repeat", count, rest @ ..] => {
                let count: usize = count.parse().unwrap();
                (0..count).try_for_each(|index| {
                    let line = rest.join(" ").replace("{}", &format!("{index:05}"));
                    statement(&mut image, &line.split(' ').collect::<Vec<_>>())
                })
            }
            words => statement(&mut image, words),
        };
        if done.is_none() {
            panic!("line {}: not understood: {line}", number + 1);
        }
    }
    image
}

fn statement(image: &mut Image, words: &[&str]) -> Option<()> {
    match words {
        ["layer", options @ ..] => {
            let mut layer = Layer {
                compression: Compression::Gzip,
                entries: Vec::new(),
                no_end: false,
                cut: 0,
            };
            for option in options {
                match *option {
                    "plain" => layer.compression = Compression::Plain,
                    "gzip" => layer.compression = Compression::Gzip,
                    "gzip-members" => layer.compression = Compression::GzipMembers,
                    "zstd" => layer.compression = Compression::Zstd,
                    "no-end" => layer.no_end = true,
                    other => match other.split_once('=')? {
                        ("cut", bytes) => layer.cut = bytes.parse().ok()?,
                        ("same", index) => {
                            let same = image.layers.get(index.parse::<usize>().ok()?)?;
                            layer.entries = same.entries.clone();
                        }
                        _ => return None,
                    },
                }
            }
            image.layers.push(layer);
        }
        ["without-umoci", why @ ..] => image.without_umoci = Some(why.join(" ")),
        ["expect", rest @ ..] => image.expectations.push(expectation(rest)?),
        ["fails", rest @ ..] => {
            let words = rest.iter().map(|w| string(w)).collect();
            image.expectations.push(Expectation::Fails(words));
        }
        _ => {
            let entry = entry(words)?;
            image.layers.last_mut()?.entries.push(entry);
        }
    }
    Some(())
}

fn expectation(words: &[&str]) -> Option<Expectation> {
    Some(match words {
        ["gone", path] => Expectation::Gone(bytes(path)),
        ["f", path, content] => Expectation::File(bytes(path), content_of(content)?),
        ["d", path, mode] => Expectation::Directory(bytes(path), octal(mode)?),
        ["l", path, target] => Expectation::Link(bytes(path), bytes(target)),
        ["same", one, other] => Expectation::Same(bytes(one), bytes(other)),
        ["links", path, count] => Expectation::Links(bytes(path), count.parse().ok()?),
        ["xattr", path, name, value] => Expectation::Xattr(bytes(path), bytes(name), bytes(value)),
        ["note", name, count] => Expectation::Note((*name).into(), count.parse().ok()?),
        _ => return None,
    })
}

fn entry(words: &[&str]) -> Option<Entry> {
    let (kind, path, mode, rest) = match words {
        ["d", path, mode, rest @ ..] => (Kind::Directory, bytes(path), octal(mode)?, rest),
        ["f", path, mode, content, rest @ ..] => {
            let kind = Kind::File(content_of(content)?);
            (kind, bytes(path), octal(mode)?, rest)
        }
        ["sparse", path, mode, size, rest @ ..] => {
            // Pieces come before options: OFFSET:CONTENT.
            let pieces: Vec<(u64, Vec<u8>)> = rest
                .iter()
                .take_while(|word| word.as_bytes()[0].is_ascii_digit())
                .map(|word| {
                    let (offset, content) = word.split_once(':')?;
                    Some((offset.parse().ok()?, content_of(content)?))
                })
                .collect::<Option<_>>()?;
            let rest = &rest[pieces.len()..];
            let kind = Kind::Sparse(size.parse().ok()?, pieces);
            (kind, bytes(path), octal(mode)?, rest)
        }
        ["l", path, target, rest @ ..] => (Kind::Symlink(bytes(target)), bytes(path), 0o777, rest),
        ["h", path, target, rest @ ..] => (Kind::HardLink(bytes(target)), bytes(path), 0o644, rest),
        ["c", path, mode, device, rest @ ..] => (
            Kind::Character(pair(device)?),
            bytes(path),
            octal(mode)?,
            rest,
        ),
        ["b", path, mode, device, rest @ ..] => {
            (Kind::Block(pair(device)?), bytes(path), octal(mode)?, rest)
        }
        ["p", path, mode, rest @ ..] => (Kind::Fifo, bytes(path), octal(mode)?, rest),
        // A whiteout of PATH, and the mark that PATH's lower children are hidden.
        ["w", path, rest @ ..] => {
            let path = bytes(path);
            let slash = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
            let (parent, name) = path.split_at(slash);
            let path = [parent, b".wh.", name].concat();
            (Kind::File(Vec::new()), path, 0o600, rest)
        }
        ["o", path, rest @ ..] => {
            let mut path = bytes(path);
            while path.ends_with(b"/") {
                path.pop();
            }
            path.extend(if path.is_empty() {
                &b".wh..wh..opq"[..]
            } else {
                b"/.wh..wh..opq"
            });
            (Kind::File(Vec::new()), path, 0o600, rest)
        }
        // A PAX record that holds for all that follows.
        ["global", rest @ ..] => (Kind::Global, Vec::new(), 0, rest),
        _ => return None,
    };
    let mut entry = Entry::new(kind, path, mode);
    for option in rest {
        let (name, value) = option.split_once('=')?;
        match name {
            "uid" => entry.uid = value.parse().ok()?,
            "gid" => entry.gid = value.parse().ok()?,
            "mtime" => entry.mtime = value.into(),
            "size" => entry.claimed_size = Some(value.parse().ok()?),
            "type" => entry.typeflag = value.bytes().next(),
            "style" => {
                entry.style = match value {
                    "pax" => Style::Pax,
                    "gnu" => Style::Gnu,
                    "ustar" => Style::Ustar,
                    "pax00" => Style::Sparse00,
                    "pax01" => Style::Sparse01,
                    _ => return None,
                }
            }
            "raw-pax" => entry.raw_pax = Some(bytes(value)),
            "checksum" => entry.bad_checksum = value == "bad",
            _ => {
                let (group, key) = name.split_once(':')?;
                let value = bytes(value);
                match group {
                    "xattr" => entry.pax.push((format!("SCHILY.xattr.{key}"), value)),
                    "libarchive" => entry.pax.push((format!("LIBARCHIVE.xattr.{key}"), value)),
                    "pax" => entry.pax.push((key.into(), value)),
                    _ => return None,
                }
            }
        }
    }
    Some(entry)
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok()
}

fn pair(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(',')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn string(word: &str) -> String {
    String::from_utf8(bytes(word)).unwrap()
}

/// `size:N` N different-looking bytes, `zero:N`, `-` nothing, `name*N` repeats, else the word itself.
fn content_of(word: &str) -> Option<Vec<u8>> {
    if word == "-" {
        return Some(Vec::new());
    }
    if let Some(count) = word.strip_prefix("zero:") {
        return Some(vec![0; count.parse().ok()?]);
    }
    if let Some(count) = word.strip_prefix("size:") {
        let mut state = 0x9e37_79b9_u32;
        return Some(
            (0..count.parse::<usize>().ok()?)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect(),
        );
    }
    Some(bytes(word))
}

/// Escapes `\s` blank, `\n`, `\t`, `\\`, `\xHH`; `{a*300}` three hundred times the letter.
pub fn bytes(word: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => match rest.next().expect("an escape") {
                b'n' => out.push(b'\n'),
                b't' => out.push(b'\t'),
                b's' => out.push(b' '),
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    let digits = std::str::from_utf8(&digits).unwrap();
                    out.push(u8::from_str_radix(digits, 16).expect("two hex digits"));
                }
                other => out.push(other),
            },
            b'{' => {
                let inside: Vec<u8> = rest.by_ref().take_while(|b| *b != b'}').collect();
                let inside = String::from_utf8(inside).unwrap();
                let (what, count) = inside.rsplit_once('*').expect("{what*count}");
                out.extend(bytes(what).repeat(count.parse().unwrap()));
            }
            other => out.push(other),
        }
    }
    out
}

/// A path for messages.
pub fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
