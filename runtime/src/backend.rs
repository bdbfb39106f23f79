//! What a device must be able to do for the forward pass, and nothing about any model.
//!
//! Ten operations on buffers of rows: a row is a token, its width depends on the step. The forward pass is written once
//! over this trait; a device overrides the fused operations where it has something better.

use crate::error::Result;
use crate::memory::Room;
use crate::rope::RopeTable;
use nanoserve_format::{NsvFile, PANEL_ROWS, Shape};
use std::sync::Arc;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// As they were computed.
    F32,
    /// Rounded to the nearest f16, ties to even: half the memory.
    F16,
}

impl KvType {
    /// Every type, by the name the command line uses.
    pub const ALL: [(&str, KvType); 2] = [("f32", KvType::F32), ("f16", KvType::F16)];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
        }
    }
}

/// Sizes of a cache of keys and values.
#[derive(Clone, Copy, Debug)]
pub struct KvShape {
    /// Layers of the model.
    pub n_layers: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions it can hold.
    pub capacity: usize,
    /// How they are kept.
    pub kv_type: KvType,
}

impl KvShape {
    /// Bytes of the cache: keys and values, positions in whole lanes.
    pub fn bytes(&self) -> u128 {
        let size = match self.kv_type {
            KvType::F32 => 4,
            KvType::F16 => 2,
        };
        let lanes = |n: usize| (n as u128).next_multiple_of(PANEL_ROWS as u128);
        let widths = self.head_dim as u128 + lanes(self.head_dim);
        self.n_layers as u128 * self.n_kv_heads as u128 * lanes(self.capacity) * widths * size
    }
}

/// A weight matrix with its bias, bound once.
#[derive(Debug)]
pub struct Linear<W> {
    /// `[rows, cols]`: rows outputs of cols inputs.
    pub weight: W,
    /// `[rows]`.
    pub bias: Option<W>,
}

/// A device that can run a model.
pub trait Backend {
    /// A tensor, where kernels can read it.
    type Weight: std::fmt::Debug;
    /// Rows of f32 activations: `[tokens, width]`.
    type Buffer: std::fmt::Debug;
    /// Keys and values of all layers.
    type Cache: std::fmt::Debug;

    /// Makes a tensor of the file ready for kernels. On the CPU this borrows the map and copies nothing.
    ///
    /// # Errors
    /// When the tensor is missing, or has another shape than `expected`.
    fn weight(&mut self, file: &Arc<NsvFile>, name: &str, expected: Shape) -> Result<Self::Weight>;

    /// A buffer for rows of `width`.
    fn buffer(&mut self, width: usize) -> Self::Buffer;

    /// An empty cache.
    ///
    /// # Errors
    /// When the system gives no memory for it.
    fn cache(&mut self, shape: KvShape) -> Result<Self::Cache>;

    /// Keys and values of the first `len` positions, in parts, as they are kept: for files that this kind of backend reads
    /// back.
    fn cache_bytes<'a>(&'a self, cache: &'a Self::Cache, len: usize) -> Vec<&'a [u8]>;

    /// Puts back what [`Backend::cache_bytes`] gave for `len` positions; false, and nothing is changed, where it would not
    /// have given so many bytes.
    fn set_cache_bytes(&mut self, cache: &mut Self::Cache, len: usize, bytes: &[u8]) -> bool;

    /// What memory a session can get; None where nobody says.
    fn room(&self) -> Option<Room> {
        Room::now()
    }

    /// The rows of a buffer, on the host.
    fn read<'a>(&mut self, buffer: &'a Self::Buffer) -> std::borrow::Cow<'a, [f32]>;

    /// Puts other rows, as many as there are, into a buffer.
    fn write(&mut self, buffer: &mut Self::Buffer, rows: &[f32]);

    /// `out[t] = table[ids[t]]`: `[ids, hidden]`.
    fn embed(&mut self, table: &Self::Weight, ids: &[u32], out: &mut Self::Buffer);

    /// `out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight`.
    fn rms_norm(&mut self, x: &Self::Buffer, weight: &Self::Weight, eps: f32, out: &mut Self::Buffer);

    /// `out = weight x + bias` for each pair, all from the same `x`.
    fn linear(&mut self, x: &Self::Buffer, parts: &mut [(&Linear<Self::Weight>, &mut Self::Buffer)]);

    /// Turns every head of every row by its position; the first row stands at position `first`.
    fn rope(&mut self, x: &mut Self::Buffer, head_dim: usize, table: &RopeTable, first: usize);

    /// Puts keys and values (`[tokens, n_kv_heads * head_dim]`) into the cache from position `first` on.
    fn store(&mut self, cache: &mut Self::Cache, layer: usize, k: &Self::Buffer, v: &Self::Buffer, first: usize);

    /// Causal attention of queries (`[tokens, n_heads * head_dim]`) over the cache; row `t` sees positions up to
    /// `first + t`.
    fn attention(&mut self, q: &Self::Buffer, cache: &Self::Cache, layer: usize, first: usize, out: &mut Self::Buffer);

    /// `out = silu(gate x) * (up x)`.
    fn gated(
        &mut self,
        x: &Self::Buffer,
        gate: &Linear<Self::Weight>,
        up: &Linear<Self::Weight>,
        out: &mut Self::Buffer,
    );

    /// `x += y`.
    fn add(&mut self, x: &mut Self::Buffer, y: &Self::Buffer);

    /// Drops all rows of `x` but the last.
    fn keep_last(&mut self, x: &mut Self::Buffer);
}
