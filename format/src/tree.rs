//! The hash tree of a tensor: BLAKE3's own, cut where a subtree covers a chunk of 1 MiB.
//!
//! A tensor's hash shows that something in it is damaged; its chunk hashes show where. They are chaining values that
//! BLAKE3 computes anyway: the tensor's hash follows from them, and a reader that ignores chunks needs only plain
//! BLAKE3. A chunk checked alone relies on the list of chunk hashes, which has a hash like every section.

use crate::header::Hash;
use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use rayon::prelude::*;

/// Bytes of a chunk; the last one of a tensor may have fewer.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Number of chunk hashes of a tensor of `len` bytes. A tensor of a single chunk has none: its own hash suffices.
pub fn chunk_count(len: usize) -> usize {
    if len <= CHUNK_BYTES { 0 } else { len.div_ceil(CHUNK_BYTES) }
}

/// The hash of chunk `index` of a tensor that has several.
///
/// # Panics
/// When `bytes` is empty or longer than a chunk.
pub fn chunk_hash(index: usize, bytes: &[u8]) -> Hash {
    assert!((1..=CHUNK_BYTES).contains(&bytes.len()), "{} bytes are no chunk", bytes.len());
    let mut hasher = Hasher::new();
    hasher.set_input_offset((index * CHUNK_BYTES) as u64).update(bytes).finalize_non_root()
}

/// The hashes of all chunks of a tensor; empty if it has a single one. Runs in the current rayon pool.
pub fn chunks(bytes: &[u8]) -> Vec<Hash> {
    match chunk_count(bytes.len()) {
        0 => Vec::new(),
        _ => bytes.par_chunks(CHUNK_BYTES).enumerate().map(|(i, chunk)| chunk_hash(i, chunk)).collect(),
    }
}

/// The hash of a whole tensor: from its chunk hashes in order, or from its bytes if it has a single chunk.
///
/// # Panics
/// When `chunks` has exactly one hash.
pub fn root(chunks: &[Hash], bytes: &[u8]) -> Hash {
    match chunks {
        [] => blake3::hash(bytes).into(),
        _ => {
            let (left, right) = split(chunks);
            merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).into()
        }
    }
}

/// BLAKE3's left subtree has the largest power of two of chunks that leaves at least one to the right.
fn split(chunks: &[Hash]) -> (&[Hash], &[Hash]) {
    assert!(chunks.len() > 1, "a tree has two sides");
    chunks.split_at(chunks.len().next_power_of_two() / 2)
}

fn subtree(chunks: &[Hash]) -> Hash {
    if let [one] = chunks {
        return *one;
    }
    let (left, right) = split(chunks);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lead_to_the_plain_hash() {
        let bytes: Vec<u8> = (0..9 * CHUNK_BYTES + 5).map(|i| (i * 31 % 251) as u8).collect();
        let lens = (1..=9).flat_map(|n| [n * CHUNK_BYTES - 1, n * CHUNK_BYTES, n * CHUNK_BYTES + 1]);
        for len in lens.chain([0, 1]) {
            let bytes = &bytes[..len];
            let chunks = chunks(bytes);
            assert_eq!(chunks.len(), chunk_count(len));
            assert_eq!(root(&chunks, bytes), *blake3::hash(bytes).as_bytes(), "{len}");
        }
    }
}
