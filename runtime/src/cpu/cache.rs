//! The KV cache, laid out for the attention kernels: lanes of keys are positions, lanes of values are dimensions.
//!
//! Memory is zeroed and allocated lazily: a position that no token has reached costs nothing.

use super::disjoint::each_row_of_two;
use super::isa::RowsView;
use super::lines::Zeroed;
use super::pool::Pool;
use crate::backend::room::saturated;
use crate::backend::{KvShape, KvType};
use crate::error::{Result, RuntimeError};
use bytemuck::Pod;
use half::f16;
use nanoserve_format::PANEL_ROWS;

/// The cache of all layers.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    /// For each layer, `[n_kv_heads, positions / 16, head_dim, 16]`.
    keys: Vec<Zeroed>,
    /// For each layer, `[n_kv_heads, positions, head_dim rounded up to 16]`.
    values: Vec<Zeroed>,
}

impl KvCache {
    /// An empty cache.
    ///
    /// # Errors
    /// When the system refuses the allocation, for example under a limit on address space. A system may also promise
    /// more memory than it has, which shows only when the memory is used: [`room`](crate::backend::room) checks before.
    pub fn new(shape: KvShape) -> Result<Self> {
        let bytes = shape.bytes();
        let refused = || RuntimeError::Allocation { what: "keys and values", bytes: saturated(bytes) };
        if bytes > isize::MAX as u128 {
            return Err(refused());
        }
        let mut cache = KvCache { shape, keys: Vec::new(), values: Vec::new() };
        for layer in 0..cache.shape.positions.len() {
            let heads = |bytes: usize| Zeroed::new(cache.shape.n_kv_heads * bytes).ok_or_else(refused);
            let (keys, values) = (heads(cache.key_bytes(layer))?, heads(cache.value_bytes(layer))?);
            cache.keys.push(keys);
            cache.values.push(values);
        }
        Ok(cache)
    }

    /// Its sizes.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    fn value_size(&self) -> usize {
        match self.shape.kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }

    /// Bytes of one head's keys in a layer.
    fn key_bytes(&self, layer: usize) -> usize {
        self.shape.positions[layer] * self.shape.head_dim * self.value_size()
    }

    /// Bytes of one head's values in a layer.
    fn value_bytes(&self, layer: usize) -> usize {
        self.shape.positions[layer] * self.shape.head_dim.next_multiple_of(PANEL_ROWS) * self.value_size()
    }

    /// Keys and values of one head, as [`AttendJob`](super::isa::AttendJob) takes them.
    pub(super) fn head(&self, layer: usize, head: usize) -> (&[u8], &[u8]) {
        let (k, v) = (self.key_bytes(layer), self.value_bytes(layer));
        (&self.keys[layer][head * k..(head + 1) * k], &self.values[layer][head * v..(head + 1) * v])
    }

    /// For each layer and head, the bytes of the keys and of the values of `len` positions, keys in whole lanes. Of a
    /// ring with fewer positions, all bytes.
    pub(super) fn parts(&self, len: usize) -> Vec<&[u8]> {
        let mut parts = Vec::new();
        for layer in 0..self.shape.positions.len() {
            let [k, v] = self.part_bytes(layer, len);
            for head in 0..self.shape.n_kv_heads {
                let (keys, values) = self.head(layer, head);
                parts.extend([&keys[..k], &values[..v]]);
            }
        }
        parts
    }

    /// Puts back what [`KvCache::parts`] returned; false if the number of bytes does not match.
    pub(super) fn set_parts(&mut self, len: usize, mut bytes: &[u8]) -> bool {
        let layers = 0..self.shape.positions.len();
        let per_head: usize = layers.clone().map(|layer| self.part_bytes(layer, len).iter().sum::<usize>()).sum();
        if bytes.len() != per_head * self.shape.n_kv_heads {
            return false;
        }
        for layer in layers {
            let [k, v] = self.part_bytes(layer, len);
            let (head_keys, head_values) = (self.key_bytes(layer), self.value_bytes(layer));
            let keys = self.keys[layer].chunks_exact_mut(head_keys);
            for (keys, values) in keys.zip(self.values[layer].chunks_exact_mut(head_values)) {
                for part in [&mut keys[..k], &mut values[..v]] {
                    let (own, rest) = bytes.split_at(part.len());
                    part.copy_from_slice(own);
                    bytes = rest;
                }
            }
        }
        true
    }

    /// Bytes of one head's keys and of its values for `len` positions of a layer.
    fn part_bytes(&self, layer: usize, len: usize) -> [usize; 2] {
        let positions = self.shape.positions[layer];
        let prefix = |all: usize, len: usize| all / positions * len.min(positions);
        [prefix(self.key_bytes(layer), len.next_multiple_of(PANEL_ROWS)), prefix(self.value_bytes(layer), len)]
    }

    /// Stores keys and values (`[tokens, n_kv_heads * head_dim]`) at positions from `first` on.
    pub(super) fn store(&mut self, pool: &Pool, layer: usize, k: RowsView, v: RowsView, first: usize) {
        match self.shape.kv_type {
            KvType::F32 => self.put(pool, layer, k, v, first, |x| x),
            KvType::F16 => self.put(pool, layer, k, v, first, f16::from_f32),
        }
    }

    fn put<T: Pod + Send>(
        &mut self,
        pool: &Pool,
        layer: usize,
        k: RowsView,
        v: RowsView,
        first: usize,
        narrow: fn(f32) -> T,
    ) {
        let (dim, tokens, ring) = (self.shape.head_dim, k.rows(), self.shape.positions[layer]);
        let (head_keys, head_values) = (self.key_bytes(layer), self.value_bytes(layer));
        let (head_keys, head_values) = (head_keys / size_of::<T>(), head_values / size_of::<T>());
        let stride = head_values / ring;
        let keys: &mut [T] = bytemuck::cast_slice_mut(&mut self.keys[layer]);
        let values: &mut [T] = bytemuck::cast_slice_mut(&mut self.values[layer]);
        each_row_of_two(pool, (keys, head_keys), (values, head_values), tokens * dim, |head, keys, values| {
            for t in 0..tokens {
                let (position, own) = ((first + t) % ring, head * dim..(head + 1) * dim);
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
        for (head_dim, positions, kv_type) in [(64, 112, KvType::F16), (20, 16, KvType::F32), (128, 4096, KvType::F32)]
        {
            let shape = KvShape { positions: vec![positions, 64, positions], n_kv_heads: 2, head_dim, kv_type };
            let cache = KvCache::new(shape.clone()).unwrap();
            let bytes: usize = cache.keys.iter().chain(&cache.values).map(|heads| heads.len()).sum();
            assert_eq!(bytes as u128, shape.bytes(), "{shape:?}");
        }
    }

    #[test]
    fn what_the_system_does_not_give_is_an_error() {
        // More than the address space, and more than any system maps.
        for positions in [usize::MAX, 1 << 45] {
            let kv_type = KvType::F16;
            let shape = KvShape { positions: vec![positions; 2], n_kv_heads: 2, head_dim: 64, kv_type };
            let error = KvCache::new(shape).unwrap_err();
            assert!(matches!(error, RuntimeError::Allocation { .. }), "{error}");
        }
    }
}
