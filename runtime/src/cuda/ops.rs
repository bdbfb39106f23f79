//! The operations of a step as the CUDA backend queues them: plain data, so that two steps can be compared.
//!
//! Buffers are rows at device addresses. Positions are relative to the step's first position, which lies in device
//! memory. So the queue of one token is the same at every position.

use super::device::Span;
use crate::backend::{Attention, KvType};
use nanoserve_format::{Activation, Encoding};

/// Rows of f32 in device memory: `[rows, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRows {
    /// The address of the first row.
    pub address: u64,
    /// Number of rows.
    pub rows: usize,
    /// Values in a row.
    pub width: usize,
}

impl DeviceRows {
    /// Number of values in all rows.
    pub fn len(self) -> usize {
        self.rows * self.width
    }

    /// Their memory.
    pub fn span(self) -> Span {
        Span { address: self.address, bytes: 4 * self.len() as u64 }
    }

    fn range(self) -> std::ops::Range<u64> {
        self.address..self.address + self.span().bytes
    }

    /// True if the two share memory.
    pub fn overlaps(self, other: DeviceRows) -> bool {
        let (a, b) = (self.range(), other.range());
        a.start < b.end && b.start < a.end
    }

    /// What remains if `other` covers their beginning, or None if it covers all. Otherwise all rows remain.
    pub fn without(self, other: DeviceRows) -> Option<DeviceRows> {
        let (a, b) = (self.range(), other.range());
        if b.start > a.start || b.end <= a.start {
            return Some(self);
        }
        let left = a.end.checked_sub(b.end).filter(|left| *left > 0)?;
        Some(DeviceRows { address: b.end, rows: 1, width: (left / 4) as usize })
    }
}

/// A weight matrix in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Its panels.
    pub panels: Span,
    /// How its numbers are stored.
    pub encoding: Encoding,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// One of the matrices that share an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Projection {
    /// The matrix.
    pub matrix: Matrix,
    /// `[rows]` of f32, or none.
    pub bias: Span,
    /// `[T, rows]`
    pub out: DeviceRows,
}

/// A norm's weight and epsilon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// `[width]` of f32.
    pub weight: Span,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// Cosines and sines of a rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Angles {
    /// `[positions, rotary_dim / 2]`
    pub cos: Span,
    /// `[positions, rotary_dim / 2]`
    pub sin: Span,
    /// Number of dimensions of a head that turn.
    pub rotary_dim: usize,
}

/// Keys and values of one layer, each `[kv_heads, positions, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCache {
    /// Keys.
    pub keys: Span,
    /// Values.
    pub values: Span,
    /// Type of keys and values.
    pub kv_type: KvType,
    /// Number of KV heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of positions it holds. Position p is at p modulo this number.
    pub positions: usize,
}

/// Attention of some tokens in one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// Queries of the last tokens, or none: `[rows, heads * head_dim]`.
    pub q: DeviceRows,
    /// `[T, kv_heads * head_dim]`
    pub k: DeviceRows,
    /// `[T, kv_heads * head_dim]`
    pub v: DeviceRows,
    /// Where keys and values go.
    pub cache: LayerCache,
    /// Position of the first token, relative to the step's first.
    pub offset: i32,
    /// Number of tokens that are stored and attend before the next ones. It is less than all tokens if a ring buffer
    /// would overwrite what they see.
    pub at_a_time: usize,
    /// Scale, cap and window.
    pub how: Attention,
    /// `[rows, heads * head_dim]`
    pub out: DeviceRows,
}

/// An operation. Those marked "fused" are made by `fuse`.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceOp {
    /// `out = table[ids] * scale`; the scale is 1 unless fused.
    Embed { table: Matrix, out: DeviceRows, scale: f32 },
    /// `out = rms_norm(x)`
    Norm { x: DeviceRows, norm: Norm, out: DeviceRows },
    /// `x += factor * rms_norm(y)` (fused)
    NormAdd { x: DeviceRows, y: DeviceRows, norm: Norm, factor: f32 },
    /// `x = rms_norm(x)` for each group of `width` values.
    NormParts { x: DeviceRows, norm: Norm, width: usize },
    /// `out = W x + bias` for each part. Fused: reads `rms_norm(x)`; or, with one part, `out += residual * (W x +
    /// bias)`, where `residual` is the factor.
    Linear { x: DeviceRows, norm: Option<Norm>, parts: Vec<Projection>, residual: Option<f32> },
    /// `out = activation(gate x) * (up x)`; the `out` of each part is not used. Fused: reads `rms_norm(x)`.
    Gated {
        x: DeviceRows,
        norm: Option<Norm>,
        gate: Projection,
        up: Projection,
        activation: Activation,
        out: DeviceRows,
    },
    /// RoPE of every head. The first row is `offset` positions after the step's first.
    Rope { x: DeviceRows, head_dim: usize, angles: Angles, offset: i32 },
    /// Stores keys and values, then computes attention.
    Attend(Attend),
    /// Norms of heads, RoPE, store and attention of one token (fused).
    Decode { attend: Attend, angles: Option<Angles>, norms: Option<[Norm; 2]> },
    /// `x *= factor`
    Scale { x: DeviceRows, factor: f32 },
    /// `x = cap * tanh(x / cap)`
    Softcap { x: DeviceRows, cap: f32 },
    /// `x += y`
    Add { x: DeviceRows, y: DeviceRows },
}

/// Removes the rows that an operation fills from the rows left out.
pub fn filled(left_out: &mut Vec<DeviceRows>, op: &DeviceOp) {
    for written in op.writes() {
        *left_out = left_out.iter().filter_map(|rows| rows.without(written)).collect();
    }
}

impl DeviceOp {
    /// Rows that it reads, including those that it changes in place.
    pub fn reads(&self) -> Vec<DeviceRows> {
        match self {
            DeviceOp::Embed { .. } => vec![],
            DeviceOp::Norm { x, .. } | DeviceOp::Gated { x, .. } => vec![*x],
            DeviceOp::Linear { x, parts, residual, .. } => {
                let residual = residual.and_then(|_| parts.first()).map(|part| part.out);
                std::iter::once(*x).chain(residual).collect()
            }
            DeviceOp::NormAdd { x, y, .. } | DeviceOp::Add { x, y } => vec![*x, *y],
            DeviceOp::NormParts { x, .. }
            | DeviceOp::Rope { x, .. }
            | DeviceOp::Scale { x, .. }
            | DeviceOp::Softcap { x, .. } => vec![*x],
            DeviceOp::Attend(attend) | DeviceOp::Decode { attend, .. } => vec![attend.q, attend.k, attend.v],
        }
    }

    /// Rows that it fills or changes.
    pub fn writes(&self) -> Vec<DeviceRows> {
        match self {
            DeviceOp::Embed { out, .. } | DeviceOp::Norm { out, .. } | DeviceOp::Gated { out, .. } => vec![*out],
            DeviceOp::Linear { parts, .. } => parts.iter().map(|part| part.out).collect(),
            DeviceOp::NormAdd { x, .. } | DeviceOp::Add { x, .. } => vec![*x],
            DeviceOp::NormParts { x, .. }
            | DeviceOp::Rope { x, .. }
            | DeviceOp::Scale { x, .. }
            | DeviceOp::Softcap { x, .. } => vec![*x],
            DeviceOp::Attend(attend) | DeviceOp::Decode { attend, .. } => vec![attend.out],
        }
    }
}
