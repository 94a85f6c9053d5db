//! Which files are read more closely while they pass: those that tell what software an image holds, and those that
//! every process start reads. Decided by name alone, so that a pack depends on its layer only.

/// Words of a library's content that name its version, kept as text; what they mean is decided after the merge.
pub struct Sniffer {
    needles: &'static [&'static [u8]],
    /// Whether strings that are nothing but a version count too.
    versions: bool,
    tail: Vec<u8>,
    read: u64,
    pub found: Vec<String>,
}

/// A hint is at most this long.
const LONGEST: usize = 160;
/// Identification stands in read-only data; nothing larger is worth the time.
const MAX_READ: u64 = 96 << 20;
const MAX_FOUND: usize = 8;

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

impl Sniffer {
    /// A sniffer for a file that may tell something.
    pub fn for_path(path: &[u8]) -> Option<Sniffer> {
        let name = base(path);
        let starts = |prefix: &[u8]| name.starts_with(prefix);
        let musl = path.windows(4).any(|part| part == b"musl");
        let (needles, versions): (&[&[u8]], bool) = if name == b"libc.so.6" || starts(b"libc-2.") {
            (&[b"GNU C Library "], false)
        } else if starts(b"ld-musl-") || starts(b"libc.musl-") || (musl && name == b"libc.so") {
            (&[b"musl libc "], true)
        } else if starts(b"libmpi.so") || starts(b"libmpich.so") || starts(b"libmpi_cray.so") {
            (
                &[
                    b"Open MPI v",
                    b"MPICH Version",
                    b"MVAPICH",
                    b"Intel(R) MPI Library",
                    b"CRAY MPICH version",
                    b"libpmix.so",
                ],
                true,
            )
        } else if starts(b"libpmix.so") {
            (&[b"OpenPMIx ", b"PMIx "], true)
        } else {
            return None;
        };
        Some(Sniffer {
            needles,
            versions,
            tail: Vec::new(),
            read: 0,
            found: Vec::new(),
        })
    }

    /// Takes the next bytes of the content.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.read > MAX_READ || self.found.len() >= MAX_FOUND {
            return;
        }
        self.read += bytes.len() as u64;
        let joined = [self.tail.as_slice(), bytes].concat();
        for needle in self.needles {
            let Some((&first, rest)) = needle.split_first() else {
                continue;
            };
            let mut at = 0;
            while let Some(found) = joined
                .get(at..)
                .and_then(|rest| rest.iter().position(|&byte| byte == first))
            {
                at += found + 1;
                if joined.get(at..).is_some_and(|here| here.starts_with(rest)) {
                    self.keep(joined.get(at - 1..).unwrap_or_default(), needle.len());
                }
            }
        }
        if self.versions {
            let texts = joined.split(|&byte| byte == 0);
            // The first and last text may be cut; what a cut hides is whole in the next round.
            let inner = texts
                .skip(1)
                .take_while(|text| text.as_ptr_range().end != joined.as_ptr_range().end);
            for text in inner.filter(|text| is_version(text)) {
                self.keep(text, text.len());
            }
        }
        let keep = joined.len().saturating_sub(LONGEST);
        self.tail = joined.get(keep..).unwrap_or_default().to_vec();
    }

    fn keep(&mut self, text: &[u8], needle: usize) {
        let text: String = text
            .iter()
            .take(LONGEST)
            .take_while(|byte| matches!(byte, b' '..=b'~'))
            .map(|&byte| char::from(byte))
            .collect();
        // A longer reading of what was cut at a buffer's end replaces it.
        if let Some(known) = self
            .found
            .iter_mut()
            .find(|known| text.starts_with(known.as_str()) || known.starts_with(&text))
        {
            if text.len() > known.len() {
                *known = text;
            }
        } else if text.len() >= needle && self.found.len() < MAX_FOUND {
            self.found.push(text);
        }
    }
}

/// `4.1.4`, `v4.1.4`, `4.2.2rc1`, with a first number that is not 0.
fn is_version(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"v").unwrap_or(text);
    if text.len() > 16 || !matches!(text.first(), Some(b'1'..=b'9')) {
        return false;
    }
    let mut parts = text.split(|&byte| byte == b'.');
    let number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    let (Some(major), Some(minor), Some(patch), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let digits = patch
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    number(major)
        && number(minor)
        && digits > 0
        && patch.iter().skip(digits).all(u8::is_ascii_alphanumeric)
}

/// How much of a file's start is stored uncompressed because every start reads it: the dynamic loader, libc and the shells,
/// and the small files that a capsule shows with more lines. That costs a start no decompression, and the image about a
/// megabyte, whatever its size.
pub fn hot_length(path: &[u8]) -> u64 {
    let name = base(path);
    let starts = |prefix: &[u8]| name.starts_with(prefix);
    let directory = path.strip_suffix(name).unwrap_or_default();
    let in_bin = [&b"bin/"[..], b"usr/bin/"].contains(&directory);
    let shells: [&[u8]; 5] = [b"true", b"sh", b"dash", b"bash", b"busybox"];
    let lists: [&[u8]; 3] = [b"etc/passwd", b"etc/group", b"etc/ld.so.cache"];
    if starts(b"ld-linux")
        || starts(b"ld-musl")
        || (starts(b"ld-2.") && name.ends_with(b".so"))
        || name == b"libc.so.6"
        || (starts(b"libc-2.") && name.ends_with(b".so"))
    {
        2 << 20
    } else if (in_bin && shells.contains(&name)) || lists.contains(&path) {
        128 << 10
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_across_pieces() {
        let text = b"\0\0GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n\0GNU C";
        for cut in 0..text.len() {
            let mut sniffer = Sniffer::for_path(b"usr/lib/libc.so.6").unwrap();
            sniffer.feed(&text[..cut]);
            sniffer.feed(&text[cut..]);
            let expected = "GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.";
            assert_eq!(sniffer.found, [expected], "cut at {cut}");
        }
        let mut musl = Sniffer::for_path(b"lib/ld-musl-x86_64.so.1").unwrap();
        musl.feed(b"x\x001.2.4\x001.2\x000.1.2\x001.2.3.4\0v4.1.4rc1\0y\x009.9.9");
        assert_eq!(musl.found, ["1.2.4", "v4.1.4rc1"]);
        assert!(Sniffer::for_path(b"usr/lib/libm.so.6").is_none());
    }

    #[test]
    fn hot_files() {
        for (path, hot) in [
            ("lib64/ld-linux-x86-64.so.2", 2 << 20),
            ("usr/lib/x86_64-linux-gnu/libc.so.6", 2 << 20),
            ("lib/x86_64-linux-gnu/libc-2.31.so", 2 << 20),
            ("lib/ld-musl-x86_64.so.1", 2 << 20),
            ("etc/passwd", 128 << 10),
            ("opt/etc/passwd", 0),
            ("usr/bin/dash", 128 << 10),
            ("bin/sh", 128 << 10),
            ("opt/app/bin/sh", 0),
            ("usr/lib/libcrypt.so.1", 0),
        ] {
            assert_eq!(hot_length(path.as_bytes()), hot, "{path}");
        }
    }
}
