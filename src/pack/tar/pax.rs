//! PAX extended headers: `length key=value\n` records.
//!
//! A record that breaks the form ends the header; what stood before it counts. Layers with such records exist in
//! registries, and refusing them would refuse the image.

use crate::image::entry::Xattrs;

/// What the records of one header change in the entry that follows. Nothing stated: `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<i64>,
    pub xattrs: Xattrs,
    /// `security.*`, `trusted.*`, `system.*`: not representable for an unprivileged user, dropped.
    pub dropped_xattrs: u64,
    pub sparse: Sparse,
    /// A record did not have the form that it must have.
    pub malformed: bool,
}

/// GNU sparse, formats 0.0, 0.1 and 1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparse {
    pub major: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// From 0.0 (repeated keys) or 0.1 (one list).
    pub map: Vec<(u64, u64)>,
    pub has_map: bool,
    offset: Option<u64>,
}

impl Pax {
    /// Reads the records; later ones win.
    pub fn parse(&mut self, mut bytes: &[u8]) {
        // A header may be padded with zeros.
        while bytes.first().is_some_and(|&byte| byte != 0) {
            let Some((key, value, rest)) = record(bytes) else {
                self.malformed = true;
                return;
            };
            if self.apply(key, value).is_none() {
                self.malformed = true;
            }
            bytes = rest;
        }
    }

    /// `None`: the value has not the form that the key needs.
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        // An empty value takes back what a global header said.
        let stated = !value.is_empty();
        match key {
            b"path" => self.path = stated.then(|| value.to_vec()),
            b"linkpath" => self.link_path = stated.then(|| value.to_vec()),
            b"size" => self.size = if stated { Some(decimal(value)?) } else { None },
            b"uid" => self.uid = if stated { Some(id(value)?) } else { None },
            b"gid" => self.gid = if stated { Some(id(value)?) } else { None },
            b"mtime" => self.mtime = if stated { Some(seconds(value)?) } else { None },
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => {}
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = Some(decimal(value)?);
            }
            b"GNU.sparse.numblocks" => self.sparse.has_map = true,
            b"GNU.sparse.offset" => {
                self.sparse.has_map = true;
                self.sparse.offset = Some(decimal(value)?);
            }
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take()?;
                self.sparse.map.push((offset, decimal(value)?));
            }
            b"GNU.sparse.map" => {
                self.sparse.has_map = true;
                self.sparse.map.clear();
                let numbers: Vec<u64> = value
                    .split(|&byte| byte == b',')
                    .filter(|text| !text.is_empty())
                    .map(decimal)
                    .collect::<Option<_>>()?;
                if !numbers.len().is_multiple_of(2) {
                    return None;
                }
                self.sparse
                    .map
                    .extend(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => self.apply_xattr(key, value),
        }
        Some(())
    }

    fn apply_xattr(&mut self, key: &[u8], value: &[u8]) {
        let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else {
            return;
        };
        match name.strip_prefix(b"user.") {
            Some(name) if !name.is_empty() && name.len() <= 255 && value.len() <= 65_536 => {
                self.xattrs.retain(|(known, _)| known != name);
                self.xattrs.push((name.to_vec(), value.to_vec()));
            }
            _ => self.dropped_xattrs += 1,
        }
    }
}

/// The first record's key and value, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..blank)?)?).ok()?;
    let line = bytes.get(..length)?;
    let line = line.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = line.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (line.get(..equals)?, line.get(equals + 1..)?);
    (!key.is_empty()).then_some((key, value, bytes.get(length..)?))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn id(text: &[u8]) -> Option<u32> {
    u32::try_from(decimal(text)?).ok()
}

/// Whole seconds, rounded down; the text may be negative and have a fraction.
fn seconds(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let below = negative && fraction.iter().any(|&digit| digit != b'0');
    Some(if negative {
        -whole - i64::from(below)
    } else {
        whole
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Pax {
        let mut pax = Pax::default();
        pax.parse(bytes);
        pax
    }

    #[test]
    fn records_that_are_right() {
        let pax = parse(b"12 path=a b\n11 size=42\n13 uid=70000\n16 mtime=-1.500\n");
        assert!(!pax.malformed);
        assert_eq!(pax.path.as_deref(), Some(&b"a b"[..]));
        assert_eq!(
            (pax.size, pax.uid, pax.mtime),
            (Some(42), Some(70000), Some(-2))
        );
    }

    #[test]
    fn values_may_hold_newlines_equals_and_zeros() {
        let pax = parse(b"29 SCHILY.xattr.user.x=a=\n\0b\n");
        assert_eq!(pax.xattrs, [(b"x".to_vec(), b"a=\n\0b".to_vec())]);
        assert!(!pax.malformed);
    }

    #[test]
    fn privileged_attributes_are_dropped_and_counted() {
        let pax = parse(b"36 SCHILY.xattr.security.capability=x\n".as_slice());
        assert!(pax.malformed, "the length above is wrong by intent");
        let pax = parse(b"38 SCHILY.xattr.security.capability=x\n29 SCHILY.xattr.trusted.ab=\n\n");
        assert_eq!((pax.dropped_xattrs, pax.xattrs.len()), (2, 0));
    }

    #[test]
    fn malformed_records_end_the_header_and_keep_what_came_before() {
        for bad in [
            &b"x"[..],
            b"5 a=b\n",
            b"99999999999999999999 a=b\n",
            b"7 a=b\n",
            b"3 \n",
            b"6 a=b!",
            b"5 ab\n",
            b"5 =b\n",
            b"-6 a=b\n",
        ] {
            let pax = parse(&[b"10 path=a\n", bad].concat());
            assert!(pax.malformed, "{bad:?}");
            assert_eq!(pax.path.as_deref(), Some(&b"a"[..]));
        }
    }

    #[test]
    fn sparse_maps_of_both_old_formats() {
        let new = parse(b"28 GNU.sparse.map=0,5,10,20\n");
        assert_eq!(new.sparse.map, [(0, 5), (10, 20)]);
        let old = parse(b"23 GNU.sparse.offset=3\n25 GNU.sparse.numbytes=4\n");
        assert_eq!((old.sparse.map, old.malformed), (vec![(3, 4)], false));
        assert!(parse(b"23 GNU.sparse.map=0,5,1\n").malformed);
    }
}
