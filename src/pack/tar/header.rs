//! One 512-byte tar header ↔ its fields: ustar, GNU, v7; nothing that spans blocks.

pub const BLOCK: usize = 512;

/// What may be wrong with a header, in the words of an error's cause.
pub type Malformed = &'static str;

/// Offsets and lengths of the pieces of a sparse file that have content.
pub type Pieces = Vec<(u64, u64)>;

/// A header whose checksum is right.
pub struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// `None` for a block of zeros.
    pub fn parse(block: &'a [u8; BLOCK]) -> Result<Option<Header<'a>>, Malformed> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Header(block);
        let stated = octal(header.field(148, 8)).ok_or("its checksum is not a number")?;
        // Some old writers summed signed characters.
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        if i64::try_from(stated).is_ok_and(|sum| sum == unsigned || sum == signed) {
            Ok(Some(header))
        } else {
            Err("its checksum is wrong")
        }
    }

    fn field(&self, at: usize, length: usize) -> &'a [u8] {
        self.0.get(at..at + length).unwrap_or_default()
    }

    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    pub fn name(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        // GNU headers use the prefix field for other things.
        if self.field(257, 6) == b"ustar\0" {
            let prefix = text(self.field(345, 155));
            if !prefix.is_empty() {
                return [prefix, b"/", name].concat();
            }
        }
        name.to_vec()
    }

    pub fn link_name(&self) -> &'a [u8] {
        text(self.field(157, 100))
    }

    pub fn mode(&self) -> Result<u16, Malformed> {
        // Only the low 12 bits mean anything; some writers put the file type above them.
        Ok((number(self.field(100, 8)).ok_or("its mode is not a number")? & 0o7777) as u16)
    }

    pub fn uid(&self) -> Result<u32, Malformed> {
        id(self.field(108, 8)).ok_or("its uid is not a number below 2^32")
    }

    pub fn gid(&self) -> Result<u32, Malformed> {
        id(self.field(116, 8)).ok_or("its gid is not a number below 2^32")
    }

    pub fn size(&self) -> Result<u64, Malformed> {
        number(self.field(124, 12))
            .and_then(|size| u64::try_from(size).ok())
            .ok_or("its size is not a number")
    }

    pub fn mtime(&self) -> Result<i64, Malformed> {
        number(self.field(136, 12)).ok_or("its time is not a number")
    }

    /// The real size of an old GNU sparse file, the pieces that fit into this header, and whether more blocks follow.
    pub fn gnu_sparse(&self) -> Result<(u64, Pieces, bool), Malformed> {
        let real = number(self.field(483, 12))
            .and_then(|size| u64::try_from(size).ok())
            .ok_or("its real size is not a number")?;
        let pieces = sparse_pieces(self.field(386, 96))?;
        Ok((real, pieces, self.0[482] != 0))
    }
}

/// The pieces of a GNU sparse extension block, and whether another one follows.
pub fn gnu_sparse_extension(block: &[u8; BLOCK]) -> Result<(Pieces, bool), Malformed> {
    Ok((sparse_pieces(&block[..504])?, block[504] != 0))
}

fn sparse_pieces(bytes: &[u8]) -> Result<Pieces, Malformed> {
    let mut pieces = Vec::new();
    for pair in bytes.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if offset[0] == 0 && length[0] == 0 {
            break;
        }
        let value = |field| number(field).and_then(|value| u64::try_from(value).ok());
        match (value(offset), value(length)) {
            (Some(offset), Some(length)) => pieces.push((offset, length)),
            _ => return Err("its sparse map is not made of numbers"),
        }
    }
    Ok(pieces)
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn id(field: &[u8]) -> Option<u32> {
    u32::try_from(number(field)?).ok()
}

/// Octal text, or base 256 when the top bit is set. Empty is 0.
fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        return i64::try_from(octal(field)?).ok();
    }
    // The first byte's bit 6 is the sign.
    let negative = first & 0x40 != 0;
    let mut value = i128::from(first & 0x3f);
    if negative {
        value -= 0x40;
    }
    for &byte in rest {
        value = (value << 8) + i128::from(byte);
        // Twelve bytes fit i128 with room; anything outside i64 is refused below.
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = field
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default()
        .trim_ascii();
    // Some writers end a number with a blank and leave rubbish behind it.
    let digits = digits
        .split(|&byte| byte == b' ')
        .next()
        .unwrap_or_default();
    digits.iter().try_fold(0u64, |value, &digit| {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value.checked_mul(8)?.checked_add(u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_dresses() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644 \0xyz", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"12x45678", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\x02\0\0\0\0\0\0\0", Some(0x0200_0000_0000_0000)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    #[test]
    fn checksum_decides() {
        let mut block = [0u8; BLOCK];
        assert!(matches!(Header::parse(&block), Ok(None)));
        block[0] = b'a';
        assert!(Header::parse(&block).is_err());
        let sum = u32::from(b'a') + 8 * 32;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(
            Header::parse(&block).ok().flatten().map(|h| h.name()),
            Some(b"a".to_vec())
        );
        block[1] = b'b';
        assert!(Header::parse(&block).is_err());
    }
}
