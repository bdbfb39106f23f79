//! Keys and values, laid out for the attention kernels: lanes of keys are positions, lanes of values are dimensions.
//!
//! Memory is taken zeroed and lazily: a position that no token has reached costs nothing.

use super::disjoint::each_row_of_two;
use super::isa::Rows;
use super::pool::Pool;
use crate::backend::{KvShape, KvType};
use crate::error::{Result, RuntimeError};
use crate::memory::saturated;
use bytemuck::{Pod, Zeroable};
use half::f16;
use nanoserve_format::PANEL_ROWS;

/// A cache line: what aligns the cache for whole-lane reads.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// The cache of all layers.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    /// Of each layer, keys `[n_kv_heads, capacity / 16, head_dim, 16]`.
    keys: Vec<Vec<Line>>,
    /// Of each layer, values `[n_kv_heads, capacity, head_dim rounded up to 16]`.
    values: Vec<Vec<Line>>,
}

impl KvCache {
    /// An empty cache; its capacity is rounded up to whole lanes.
    ///
    /// # Errors
    /// When the system gives no memory for it, as under a limit on address space. Where it promises more than it has,
    /// that shows when the memory is used: [`memory`](crate::memory) asks before.
    pub fn new(shape: KvShape) -> Result<Self> {
        let bytes = shape.bytes();
        let refused = || RuntimeError::Allocation { what: "keys and values", bytes: saturated(bytes) };
        if bytes > isize::MAX as u128 {
            return Err(refused());
        }
        let shape = KvShape { capacity: shape.capacity.next_multiple_of(PANEL_ROWS), ..shape };
        let mut cache = KvCache { shape, keys: Vec::new(), values: Vec::new() };
        let lines = |bytes: usize| {
            let lines = shape.n_kv_heads * bytes / size_of::<Line>();
            bytemuck::try_zeroed_vec(lines).map_err(|()| refused())
        };
        for _ in 0..shape.n_layers {
            cache.keys.push(lines(cache.key_bytes())?);
            cache.values.push(lines(cache.value_bytes())?);
        }
        Ok(cache)
    }

    /// Its sizes.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    fn value_size(&self) -> usize {
        match self.shape.kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }

    /// Bytes of one head's keys.
    fn key_bytes(&self) -> usize {
        self.shape.capacity * self.shape.head_dim * self.value_size()
    }

    /// Bytes of one head's values.
    fn value_bytes(&self) -> usize {
        self.shape.capacity * self.shape.head_dim.next_multiple_of(PANEL_ROWS) * self.value_size()
    }

    /// Keys and values of one head, as a kernel's job takes them.
    pub(super) fn head(&self, layer: usize, head: usize) -> (&[u8], &[u8]) {
        let (k, v) = (self.key_bytes(), self.value_bytes());
        let (keys, values) = (bytemuck::cast_slice(&self.keys[layer]), bytemuck::cast_slice(&self.values[layer]));
        (&keys[head * k..(head + 1) * k], &values[head * v..(head + 1) * v])
    }

    /// Of each layer and head, the bytes of keys and values that `len` positions take, keys in whole lanes.
    pub(super) fn parts(&self, len: usize) -> Vec<&[u8]> {
        let [k, v] = self.part_bytes(len);
        let heads =
            (0..self.shape.n_layers).flat_map(|layer| (0..self.shape.n_kv_heads).map(move |head| (layer, head)));
        heads
            .map(|(layer, head)| self.head(layer, head))
            .flat_map(|(keys, values)| [&keys[..k], &values[..v]])
            .collect()
    }

    /// Puts back what [`KvCache::parts`] gave; false where that would have been more or fewer bytes.
    pub(super) fn set_parts(&mut self, len: usize, mut bytes: &[u8]) -> bool {
        let ([k, v], heads) = (self.part_bytes(len), self.shape.n_layers * self.shape.n_kv_heads);
        let (head_keys, head_values) = (self.key_bytes(), self.value_bytes());
        if len > self.shape.capacity || bytes.len() != heads * (k + v) {
            return false;
        }
        for (keys, values) in self.keys.iter_mut().zip(&mut self.values) {
            let (keys, values) = (bytemuck::cast_slice_mut::<_, u8>(keys), bytemuck::cast_slice_mut::<_, u8>(values));
            for (keys, values) in keys.chunks_exact_mut(head_keys).zip(values.chunks_exact_mut(head_values)) {
                for part in [&mut keys[..k], &mut values[..v]] {
                    let (own, rest) = bytes.split_at(part.len());
                    part.copy_from_slice(own);
                    bytes = rest;
                }
            }
        }
        true
    }

    /// Bytes of one head's keys and of its values that `len` positions take.
    fn part_bytes(&self, len: usize) -> [usize; 2] {
        let of = |all: usize, positions: usize| all / self.shape.capacity * positions;
        [of(self.key_bytes(), len.next_multiple_of(PANEL_ROWS)), of(self.value_bytes(), len)]
    }

    /// Puts keys and values (`[tokens, n_kv_heads * head_dim]`) at positions from `first` on.
    pub(super) fn store(&mut self, pool: &Pool, layer: usize, k: Rows, v: Rows, first: usize) {
        match self.shape.kv_type {
            KvType::F32 => self.put(pool, layer, k, v, first, |x| x),
            KvType::F16 => self.put(pool, layer, k, v, first, f16::from_f32),
        }
    }

    fn put<T: Pod + Send>(&mut self, pool: &Pool, layer: usize, k: Rows, v: Rows, first: usize, narrow: fn(f32) -> T) {
        let (dim, tokens) = (self.shape.head_dim, k.rows());
        let (head_keys, head_values) = (self.key_bytes() / size_of::<T>(), self.value_bytes() / size_of::<T>());
        let stride = head_values / self.shape.capacity;
        let keys: &mut [T] = bytemuck::cast_slice_mut(&mut self.keys[layer]);
        let values: &mut [T] = bytemuck::cast_slice_mut(&mut self.values[layer]);
        each_row_of_two(pool, (keys, head_keys), (values, head_values), tokens * dim, |head, keys, values| {
            for t in 0..tokens {
                let (position, own) = (first + t, head * dim..(head + 1) * dim);
                let (panel, lane) = (position / PANEL_ROWS, position % PANEL_ROWS);
                for (d, (k, v)) in k.row(t)[own.clone()].iter().zip(&v.row(t)[own]).enumerate() {
                    keys[(panel * dim + d) * PANEL_ROWS + lane] = narrow(*k);
                    values[position * stride + d] = narrow(*v);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_the_bytes_that_its_shape_says() {
        for (head_dim, capacity, kv_type) in [(64, 100, KvType::F16), (20, 1, KvType::F32), (128, 4096, KvType::F32)] {
            let shape = KvShape { n_layers: 3, n_kv_heads: 2, head_dim, capacity, kv_type };
            let cache = KvCache::new(shape).unwrap();
            let lines: usize = cache.keys.iter().chain(&cache.values).map(Vec::len).sum();
            assert_eq!((lines * size_of::<Line>()) as u128, shape.bytes(), "{shape:?}");
        }
    }

    #[test]
    fn what_the_system_does_not_give_is_an_error() {
        // More than an address has bits for, and more than any system maps.
        for capacity in [usize::MAX, 1 << 45] {
            let kv_type = KvType::F16;
            let shape = KvShape { n_layers: 2, n_kv_heads: 2, head_dim: 64, capacity, kv_type };
            let error = KvCache::new(shape).unwrap_err();
            assert!(matches!(error, RuntimeError::Allocation { .. }), "{error}");
        }
    }
}
