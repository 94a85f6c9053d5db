//! A stream of metadata: cut into 8 KiB blocks, each compressed behind its own two-byte size.

use crate::error::{Context, Result};
use crate::squashfs::format::{InodeReference, METADATA_SIZE, METADATA_UNCOMPRESSED};

pub struct Metadata {
    block: Vec<u8>,
    /// Stored bytes of the blocks before the current one.
    stored: u64,
    compressor: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

/// Takes stored blocks.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

impl Metadata {
    pub fn new(level: i32) -> Result<Metadata> {
        Ok(Metadata {
            block: Vec::with_capacity(METADATA_SIZE),
            stored: 0,
            compressor: zstd::bulk::Compressor::new(level).or_say(|| "cannot start zstd")?,
            scratch: Vec::with_capacity(zstd::zstd_safe::compress_bound(METADATA_SIZE)),
        })
    }

    /// Where the next byte will be: offset of its block from the start of the stream, and offset in it.
    pub fn reference(&self) -> InodeReference {
        InodeReference::new(self.stored, self.block.len() as u16)
    }

    /// Bytes that fit into the current block.
    pub fn room(&self) -> usize {
        METADATA_SIZE - self.block.len()
    }

    pub fn push(&mut self, mut bytes: &[u8], sink: &mut Sink) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.room()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == METADATA_SIZE {
                self.flush(sink)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, sink: &mut Sink) -> Result<()> {
        self.scratch.clear();
        let length = self
            .compressor
            .compress_to_buffer(&self.block, &mut self.scratch)
            .or_say(|| "cannot compress metadata")?;
        let (header, bytes) = if length < self.block.len() {
            (length as u16, &self.scratch)
        } else {
            (self.block.len() as u16 | METADATA_UNCOMPRESSED, &self.block)
        };
        sink(&header.to_le_bytes())?;
        sink(bytes)?;
        self.stored += 2 + bytes.len() as u64;
        self.block.clear();
        Ok(())
    }

    /// Ends the stream.
    pub fn finish(&mut self, sink: &mut Sink) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.flush(sink)
    }
}
