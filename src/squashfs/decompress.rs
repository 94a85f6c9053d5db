//! Stored bytes → block, for every compressor that mksquashfs writes.
//!
//! Each block is bounded before it is touched: the output never grows beyond the buffer given, and no decoder allocates
//! for what a stream claims about itself. Legacy `lzma` is absent: only patched kernels ever read it.

use super::format::Compressor;
use std::io::Read;

/// Dictionaries of squashfs' xz streams are at most one block (1 MiB); with the decoder's own tables this is ample.
const XZ_MEMORY_KIB: u32 = 4096;

/// A reusable decoder. One per thread at work; not shared.
pub struct Decompressor(Decoder);

enum Decoder {
    Gzip(Box<flate2::Decompress>),
    Lzo,
    Xz,
    Lz4,
    Zstd(Box<zstd::bulk::Decompressor<'static>>),
}

impl Decompressor {
    /// `None` when this compressor is not supported, or the library has no memory.
    pub fn new(compressor: Compressor) -> Option<Decompressor> {
        Some(Decompressor(match compressor {
            Compressor::Gzip => Decoder::Gzip(Box::new(flate2::Decompress::new(true))),
            Compressor::Lzma => return None,
            Compressor::Lzo => Decoder::Lzo,
            Compressor::Xz => Decoder::Xz,
            Compressor::Lz4 => Decoder::Lz4,
            Compressor::Zstd => Decoder::Zstd(Box::new(zstd::bulk::Decompressor::new().ok()?)),
        }))
    }

    /// Fills the start of `out` and tells how much of it; `None` when the stream is broken or does not fit.
    pub fn decompress(&mut self, stored: &[u8], out: &mut [u8]) -> Option<usize> {
        if stored.is_empty() {
            return None;
        }
        match &mut self.0 {
            Decoder::Gzip(inflate) => {
                inflate.reset(true);
                let status = inflate
                    .decompress(stored, out, flate2::FlushDecompress::Finish)
                    .ok()?;
                (status == flate2::Status::StreamEnd)
                    .then(|| usize::try_from(inflate.total_out()).ok())?
            }
            Decoder::Lzo => lzokay::decompress::decompress(stored, out).ok(),
            Decoder::Xz => {
                let mut stream = lzma_rust2::XzReader::new_mem_limit(stored, false, XZ_MEMORY_KIB);
                let mut filled = 0;
                while filled < out.len() {
                    match stream.read(out.get_mut(filled..)?).ok()? {
                        0 => return Some(filled),
                        count => filled = filled.checked_add(count)?,
                    }
                }
                // Reads the stream's end, which holds its checksum.
                (stream.read(&mut [0]).ok()? == 0).then_some(filled)
            }
            Decoder::Lz4 => lz4_flex::block::decompress_into(stored, out).ok(),
            Decoder::Zstd(decoder) => decoder.decompress_to_buffer(stored, out).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_streams_are_refused_and_good_ones_still_decode_after() {
        let text = b"one block, one block, one block, one block".repeat(20);
        let stored = zstd::bulk::compress(&text, 3).unwrap();
        let mut decoder = Decompressor::new(Compressor::Zstd).unwrap();
        let mut out = vec![0; text.len()];
        assert_eq!(
            decoder.decompress(&stored[..stored.len() / 2], &mut out),
            None
        );
        assert_eq!(
            decoder.decompress(&stored, &mut out[..10]),
            None,
            "too small"
        );
        assert_eq!(decoder.decompress(&stored, &mut out), Some(text.len()));
        assert_eq!(out, text);
    }

    #[test]
    fn no_decoder_takes_noise() {
        let noise: Vec<u8> = (0..5000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for compressor in [Compressor::Gzip, Compressor::Xz, Compressor::Zstd] {
            let mut decoder = Decompressor::new(compressor).unwrap();
            assert_eq!(
                decoder.decompress(&noise, &mut [0; 8192]),
                None,
                "{compressor:?}"
            );
            assert_eq!(
                decoder.decompress(&[], &mut [0; 8192]),
                None,
                "{compressor:?}"
            );
        }
        assert!(Decompressor::new(Compressor::Lzma).is_none());
    }
}
