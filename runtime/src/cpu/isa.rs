//! Which instruction sets this machine has, and the table of kernels that each brings.
//!
//! The rest of the CPU backend calls through [`Kernels`] and knows no instruction set. Every table computes the same
//! bits; [`scalar`](super::scalar) defines them.

use super::scalar;
use crate::error::{Result, RuntimeError};
use nanoserve_format::PANEL_ROWS;
use nanoserve_format::q8::Q8_BLOCK;

/// Rows of weights that a matrix kernel computes at a time: two panels.
pub const PAIR_ROWS: usize = 2 * PANEL_ROWS;

/// Tokens that a matrix kernel computes at a time, at most.
pub const MAX_TOKENS: usize = 16;

/// What a matrix kernel computes at a time: for each token, 32 rows.
pub type MatrixTile = [[f32; PAIR_ROWS]; MAX_TOKENS];

/// The kernels of one instruction set. All take slices whose sizes were checked by the caller; none knows a model.
pub struct Kernels {
    /// What `--isa` calls it.
    pub name: &'static str,
    /// Tokens at which `matrix_q8` is at its best.
    pub q8_tokens: usize,
    /// Tokens at which `matrix_f16` and `matrix_f32` are at their best.
    pub float_tokens: usize,
    /// Query rows at which attention is at its best.
    pub attend_rows: usize,
    /// Two panels of q8 weights times up to `q8_tokens` quantized rows.
    pub matrix_q8: fn([&[u8]; 2], QuantizedRows, &mut MatrixTile),
    /// Two panels of f16 weights times up to `float_tokens` rows.
    pub matrix_f16: fn([&[u8]; 2], Rows, &mut MatrixTile),
    /// Two panels of f32 weights times up to `float_tokens` rows.
    pub matrix_f32: fn([&[u8]; 2], Rows, &mut MatrixTile),
    /// A row to bytes and the scales of its blocks.
    pub quantize: fn(&[f32], &mut [i8], &mut [BlockScale]),
    /// `(x, weight, eps, out)`.
    pub rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// `(head, cos, sin)`.
    pub rope: fn(&mut [f32], &[f32], &[f32]),
    /// `(gate, up)`: the result is in gate.
    pub silu_mul: fn(&mut [f32], &[f32]),
    /// `x += y`.
    pub add: fn(&mut [f32], &[f32]),
    /// Attention over an f32 cache.
    pub attend_f32: fn(AttendJob),
    /// Attention over an f16 cache.
    pub attend_f16: fn(AttendJob),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Some rows of activations, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `[rows, width]`
    pub data: &'a [f32],
    /// Values of a row.
    pub width: usize,
}

impl<'a> Rows<'a> {
    /// How many.
    pub fn rows(&self) -> usize {
        self.data.len() / self.width
    }

    /// One of them.
    pub fn row(&self, t: usize) -> &'a [f32] {
        &self.data[t * self.width..(t + 1) * self.width]
    }

    /// Rows `first..first + n`.
    pub fn part(&self, first: usize, n: usize) -> Rows<'a> {
        Rows { data: &self.data[first * self.width..(first + n) * self.width], ..*self }
    }
}

/// The scale of 32 activations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct BlockScale {
    /// What a byte of the block is multiplied by.
    pub scale: f32,
    /// -128 times the sum of the block's bytes: what a kernel adds that reads weights as unsigned.
    pub correction: i32,
}

/// Some rows of activations rounded to int8 in blocks of 32; columns padded with zeros to whole superblocks.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedRows<'a> {
    /// `[rows, columns]`
    pub bytes: &'a [i8],
    /// `[rows, columns / 32]`
    pub scales: &'a [BlockScale],
    /// Padded columns of a row.
    pub columns: usize,
}

impl<'a> QuantizedRows<'a> {
    /// How many.
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.columns
    }

    /// Rows `first..first + n`.
    pub fn part(&self, first: usize, n: usize) -> QuantizedRows<'a> {
        let blocks = self.columns / Q8_BLOCK;
        QuantizedRows {
            bytes: &self.bytes[first * self.columns..(first + n) * self.columns],
            scales: &self.scales[first * blocks..(first + n) * blocks],
            columns: self.columns,
        }
    }
}

/// Attention of some query rows over one head's keys and values.
#[derive(Debug)]
pub struct AttendJob<'a> {
    /// `[rows, head_dim]`, already divided by the root of head_dim.
    pub q: &'a [f32],
    /// Positions that each row sees, at least one; ascending.
    pub limits: &'a [usize],
    /// `[positions / 16, head_dim, 16]` in the cache's type: lanes are positions.
    pub keys: &'a [u8],
    /// `[positions, value_stride]` in the cache's type: lanes are dimensions.
    pub values: &'a [u8],
    /// Width of a head.
    pub head_dim: usize,
    /// `[rows, head_dim]`
    pub out: &'a mut [f32],
}

impl AttendJob<'_> {
    /// Values from one position to the next: head_dim rounded up to whole lanes.
    pub fn value_stride(&self) -> usize {
        self.head_dim.next_multiple_of(PANEL_ROWS)
    }
}

/// Every table this machine can run, the plain one first, the fastest last.
pub fn available() -> Vec<&'static Kernels> {
    vec![&scalar::KERNELS]
}

/// The table of that name, or the fastest.
///
/// # Errors
/// When this machine, or this program, has no such table.
pub fn choose(name: Option<&str>) -> Result<&'static Kernels> {
    let all = available();
    let found = match name {
        Some(name) => all.iter().find(|k| k.name == name),
        None => all.last(),
    };
    found.copied().ok_or_else(|| RuntimeError::Isa {
        got: name.unwrap_or_default().to_string(),
        available: all.iter().map(|k| k.name).collect::<Vec<_>>().join(", "),
    })
}
