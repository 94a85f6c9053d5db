//! `[conversion]`: how layers become squashfs.

use super::Size;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// The form of new images. Changing level or block size changes the bytes, not the content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conversion {
    /// zstd level, 1 to 22. 3 has smaller tables than the library's.
    #[serde(deserialize_with = "level")]
    pub level: i32,
    /// Squashfs block size, 4K to 1M, a power of two.
    #[serde(deserialize_with = "block_size")]
    pub block_size: Size,
    /// Threads that compress; 0: as many as this process may use, at most 16.
    pub threads: usize,
    /// Whether converted layers stay in the cache for the next image.
    pub keep_packs: bool,
}

impl Default for Conversion {
    fn default() -> Self {
        Conversion {
            level: 3,
            block_size: Size(128 << 10),
            threads: 0,
            keep_packs: true,
        }
    }
}

/// Refuses levels that zstd does not have.
pub fn check_level(level: i32) -> Result<i32, String> {
    if (1..=22).contains(&level) {
        Ok(level)
    } else {
        Err(format!("zstd level {level} is not in 1 to 22"))
    }
}

/// Refuses block sizes that squashfs does not have.
pub fn check_block_size(size: Size) -> Result<Size, String> {
    if size.0.is_power_of_two() && (4 << 10..=1 << 20).contains(&size.0) {
        Ok(size)
    } else {
        Err(format!(
            "block size {size} is not a power of two from 4K to 1M"
        ))
    }
}

fn level<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    check_level(i32::deserialize(from)?).map_err(D::Error::custom)
}

fn block_size<'de, D: Deserializer<'de>>(from: D) -> Result<Size, D::Error> {
    check_block_size(Size::deserialize(from)?).map_err(D::Error::custom)
}
