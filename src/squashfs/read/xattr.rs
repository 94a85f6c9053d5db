//! Extended attributes: sets shared by inodes, values that may lie elsewhere.

use super::Image;
use super::inode::Inode;
use super::metadata::{Cursor, Held};
use crate::error::Result;
use crate::squashfs::format::{METADATA_SIZE, NONE64, flag, xattr_prefix};

/// The kernel's bounds of one value and of all names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const VALUE_MAX: u32 = 65_536;
const NAMES_MAX: usize = 65_536;
/// No inode that Linux wrote has more in all.
const TOTAL_MAX: usize = 4 << 20;
/// Index entry: position, count, size.
const ENTRY: usize = 16;

pub(super) struct Table {
    start: u64,
    count: u32,
    positions: Vec<u64>,
}

impl Image {
    /// Whether any inode can have xattrs.
    pub fn has_xattrs(&self) -> bool {
        self.superblock.xattr_table != NONE64 && self.superblock.flags & flag::NO_XATTRS == 0
    }

    /// All xattrs of an inode, full name and value, in stored order.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let Some(index) = inode.xattr.filter(|_| self.has_xattrs()) else {
            return Ok(Vec::new());
        };
        let bad = || self.damaged(format!("the xattrs of inode {} are broken", inode.number));
        let table = self.xattr_table()?;
        if index >= table.count {
            return Err(bad());
        }
        let at = (index as usize).saturating_mul(ENTRY);
        let block = *table.positions.get(at / METADATA_SIZE).ok_or_else(bad)?;
        let mut entry = [0; ENTRY];
        self.metadata_read(
            &mut Cursor {
                block,
                offset: at % METADATA_SIZE,
            },
            &mut entry,
        )?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = entry;
        let reference = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let count = u32::from_le_bytes([i, j, k, l]);

        let place = |reference: u64| Cursor {
            block: table.start.saturating_add(reference >> 16),
            offset: (reference & 0xffff) as usize,
        };
        let mut cursor = place(reference);
        let mut held = Held::default();
        let mut found = Vec::new();
        let (mut names, mut total) = (0usize, 0usize);
        for _ in 0..count {
            let mut head = [0; 4];
            self.metadata_read_held(&mut held, &mut cursor, &mut head)?;
            let [a, b, c, d] = head;
            let kind = u16::from_le_bytes([a, b]);
            let prefix: &[u8] = match kind & 0xff {
                xattr_prefix::USER => b"user.",
                xattr_prefix::TRUSTED => b"trusted.",
                xattr_prefix::SECURITY => b"security.",
                _ => return Err(bad()),
            };
            let length = usize::from(u16::from_le_bytes([c, d]));
            names = names.saturating_add(prefix.len() + length + 1);
            if names > NAMES_MAX || length > 255 {
                return Err(bad());
            }
            let mut name = vec![0; prefix.len() + length];
            let (front, rest) = name.split_at_mut(prefix.len());
            front.copy_from_slice(prefix);
            self.metadata_read_held(&mut held, &mut cursor, rest)?;
            if rest.contains(&0) || rest.is_empty() {
                return Err(bad());
            }

            let mut size = [0; 4];
            self.metadata_read_held(&mut held, &mut cursor, &mut size)?;
            let value = if kind & xattr_prefix::OUT_OF_LINE != 0 {
                let mut reference = [0; 8];
                self.metadata_read_held(&mut held, &mut cursor, &mut reference)?;
                let mut elsewhere = place(u64::from_le_bytes(reference));
                self.metadata_read(&mut elsewhere, &mut size)?;
                self.value(&mut Held::default(), &mut elsewhere, size, &mut total)?
            } else {
                self.value(&mut held, &mut cursor, size, &mut total)?
            };
            found.push((name, value));
        }
        Ok(found)
    }

    fn value(
        &self,
        held: &mut Held,
        cursor: &mut Cursor,
        size: [u8; 4],
        total: &mut usize,
    ) -> Result<Vec<u8>> {
        let size = u32::from_le_bytes(size);
        *total = total.saturating_add(size as usize);
        if size > VALUE_MAX || *total > TOTAL_MAX {
            return Err(self.damaged("an xattr is longer than Linux allows"));
        }
        let mut value = vec![0; size as usize];
        self.metadata_read_held(held, cursor, &mut value)?;
        Ok(value)
    }

    fn xattr_table(&self) -> Result<&Table> {
        if let Some(table) = self.xattrs.get() {
            return Ok(table);
        }
        let mut head = [0; 16];
        self.stored(self.superblock.xattr_table, &mut head)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = head;
        let count = u32::from_le_bytes([i, j, k, l]);
        let length = usize::try_from(u64::from(count).saturating_mul(ENTRY as u64))
            .map_err(|_| self.damaged("its xattr table is longer than memory"))?;
        let table = Table {
            start: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            count,
            positions: self.positions(self.superblock.xattr_table.saturating_add(16), length)?,
        };
        Ok(self.xattrs.get_or_init(|| table))
    }
}
