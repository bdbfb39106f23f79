//! The hashes of a section's tables: they are part of the layout, so they never change.

use nanoserve_format::splitmix::mix;

/// The home slot of a hash in a table of `slots`: the first one to look at.
pub(super) fn home(hash: u64, slots: usize) -> usize {
    (((hash >> 32) * slots as u64) >> 32) as usize
}

/// Hash of a pair of ids.
pub(super) fn hash_pair(left: u32, right: u32) -> u64 {
    mix(u64::from(left) << 32 | u64::from(right))
}

/// Hash of a piece's bytes: FNV-1a, mixed.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}
