//! The tables of an index: notes, and where the content is.

use crate::pack::blocks::{Blocks, Fragment, MAX_BLOCKS, Run, stored};
use crate::pack::index::codec::{get, get_bytes, get_u32, put, put_bytes};
use std::collections::BTreeMap;

pub fn encode(notes: &BTreeMap<String, u64>, blocks: &Blocks) -> Vec<u8> {
    let mut tables = Vec::new();
    put(&mut tables, notes.len() as u64);
    for (name, count) in notes {
        put_bytes(&mut tables, name.as_bytes());
        put(&mut tables, *count);
    }
    put(&mut tables, blocks.runs.len() as u64);
    for run in &blocks.runs {
        put(&mut tables, run.start);
        for word in [run.first, run.count, run.first_hash] {
            put(&mut tables, word.into());
        }
    }
    put(&mut tables, blocks.sizes.len() as u64);
    for size in &blocks.sizes {
        tables.extend(size.to_le_bytes());
    }
    put(&mut tables, blocks.hashes.len() as u64);
    for hash in &blocks.hashes {
        tables.extend(hash);
    }
    put(&mut tables, blocks.fragments.len() as u64);
    for fragment in &blocks.fragments {
        put(&mut tables, fragment.start);
        tables.extend(fragment.size.to_le_bytes());
        tables.extend(fragment.hash);
    }
    tables
}

/// The tables, checked against each other, the `.dat` file's length and the block size.
pub fn parse(
    mut bytes: &[u8],
    length: u64,
    block_size: u32,
) -> Option<(BTreeMap<String, u64>, Blocks)> {
    let input = &mut bytes;
    let mut notes = BTreeMap::new();
    for _ in 0..get(input)? {
        let name = String::from_utf8(get_bytes(input, 100)?).ok()?;
        notes.insert(name, get(input)?);
    }
    let mut blocks = Blocks {
        length,
        ..Blocks::default()
    };
    for _ in 0..get(input)? {
        blocks.runs.push(Run {
            start: get(input)?,
            first: get_u32(input)?,
            count: get_u32(input)?,
            first_hash: get_u32(input)?,
        });
    }
    let count = get(input).filter(|count| *count <= MAX_BLOCKS)? as usize;
    let (sizes, rest) = input.split_at_checked(count * 4)?;
    blocks.sizes = sizes
        .chunks_exact(4)
        .filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)))
        .collect();
    *input = rest;
    let count = get(input).filter(|count| *count <= MAX_BLOCKS)? as usize;
    let (hashes, rest) = input.split_at_checked(count * 20)?;
    blocks.hashes = hashes
        .chunks_exact(20)
        .filter_map(|hash| hash.try_into().ok())
        .collect();
    *input = rest;
    for _ in 0..get(input)? {
        let start = get(input)?;
        let (size, rest) = input.split_first_chunk::<4>()?;
        let (hash, rest) = rest.split_first_chunk::<20>()?;
        blocks.fragments.push(Fragment {
            start,
            size: u32::from_le_bytes(*size),
            hash: *hash,
        });
        *input = rest;
    }
    let size_fits = |size: u32| size >> 25 == 0 && stored(size) <= block_size.into();
    let all_fit = input.is_empty()
        && blocks.sizes.iter().all(|&size| size_fits(size))
        && blocks.fragments.iter().all(|fragment| {
            size_fits(fragment.size)
                && fragment
                    .start
                    .checked_add(stored(fragment.size))
                    .is_some_and(|end| end <= length)
        })
        && runs_fit(&blocks);
    all_fit.then_some((notes, blocks))
}

/// Whether the runs divide the block list among themselves, in order, or repeat one that did.
fn runs_fit(blocks: &Blocks) -> bool {
    let (mut first, mut first_hash) = (0usize, 0usize);
    let mut fresh: Vec<Run> = Vec::new();
    for &run in &blocks.runs {
        if run.first as usize != first {
            match fresh.binary_search_by_key(&run.first, |known| known.first) {
                Ok(at) if fresh.get(at) == Some(&run) => continue,
                _ => return false,
            }
        }
        let sizes = blocks.sizes_of(run);
        let bytes: u64 = sizes.iter().map(|&size| stored(size)).sum();
        if run.count == 0
            || sizes.len() != run.count as usize
            || run.first_hash as usize != first_hash
            || run
                .start
                .checked_add(bytes)
                .is_none_or(|end| end > blocks.length)
        {
            return false;
        }
        first += sizes.len();
        first_hash += sizes.iter().filter(|&&size| size != 0).count();
        fresh.push(run);
    }
    first == blocks.sizes.len() && first_hash == blocks.hashes.len()
}
