//! The arithmetic contract in plain loops: what every kernel computes, in which order, with how many roundings.
//!
//! `docs/arithmetic.md` says the same in words. This file is never tuned; every faster kernel equals it bit for bit.

use super::isa::{
    AttendJob, BlockScale, BytesTile, CodesKernel, FloatTile, Kernels, MatrixKernel, MatrixRun, MatrixTile, PAIR_ROWS,
};
use super::math::{LANES, exp, gelu, sum_lanes, tanh};
pub use crate::backend::ATTENTION_BLOCK;
use half::f16;
use nanoserve_format::codes::{BlockScales, PanelRef};
use nanoserve_format::q8::{Q8_BLOCK, Q8_SUPERBLOCK, Q8_SUPERBLOCK_BYTES};
use nanoserve_format::{Codes, INPUT_BLOCK, PANEL_ROWS};

/// Columns of f32 and f16 weights in one block: each block has its own sum.
pub const FLOAT_BLOCK: usize = 256;

/// A block whose largest activation is below this magnitude becomes zero: the inverse of its scale would overflow.
pub const QUANTIZE_MIN: f32 = 1e-30;

/// The scalar kernels.
pub static KERNELS: Kernels = Kernels {
    name: "scalar",
    matrix_f32: MatrixKernel {
        tokens: &[4, 1],
        run: MatrixRun::Float(|panels, x, out| matrix_float(panels, x, out, |w: f32| w)),
    },
    matrix_f16: MatrixKernel {
        tokens: &[4, 1],
        run: MatrixRun::Float(|panels, x, out| matrix_float(panels, x, out, f16::to_f32)),
    },
    matrix_q8: MatrixKernel { tokens: &[4, 1], run: MatrixRun::Bytes32(matrix_q8) },
    matrix_codes: CodesKernel { tokens: &[4, 1], run: matrix_codes },
    quantize,
    rms_norm,
    rope,
    silu_mul,
    gelu_mul,
    add,
    scale,
    softcap,
    attend_f32: |job| attend(job, |k: f32| k),
    attend_f16: |job| attend(job, f16::to_f32),
    rates: None,
};

/// `out[t][r] = sum over blocks b of (sum over columns k of b of w[r][k] * x[t][k]) * (dw[r][b] * dx[t][b])`.
///
/// Inner sums are integers and exact. Each is scaled and added with one rounding, blocks in ascending order.
fn matrix_q8(panels: [&[u8]; 2], x: BytesTile, out: &mut MatrixTile) {
    for (t, out) in out.iter_mut().enumerate().take(x.tokens) {
        for (row, out) in out.iter_mut().enumerate() {
            let (panel, row) = (panels[row / PANEL_ROWS], row % PANEL_ROWS);
            let mut sum = 0f32;
            for block in 0..x.scales.len() / x.tokens {
                let superblock = &panel[block / 2 * Q8_SUPERBLOCK_BYTES..][..Q8_SUPERBLOCK_BYTES];
                let at = 2 * (block % 2 * PANEL_ROWS + row);
                let dw = f16::from_le_bytes([superblock[at], superblock[at + 1]]).to_f32();
                let dx = x.scales[block * x.tokens + t].scale;
                let mut dot = 0i32;
                for group in 0..Q8_BLOCK / 4 {
                    let first = 4 * PANEL_ROWS + (block % 2 * Q8_BLOCK + 4 * group) * PANEL_ROWS + 4 * row;
                    let y = x.words[(block * Q8_BLOCK / 4 + group) * x.tokens + t].to_le_bytes();
                    for (w, y) in superblock[first..first + 4].iter().zip(y) {
                        dot += i32::from(*w as i8) * i32::from(y as i8);
                    }
                }
                sum = (dot as f32).mul_add(dw * dx, sum);
            }
            *out = sum;
        }
    }
}

/// Like [`matrix_q8`], for weights `scale * number + min`: each block, or each half of one if halves have scales of their
/// own, adds `(sum of number * x) * (scale * dx)`, then `min * ((sum of x) * dx)`.
fn matrix_codes(codes: Codes, panels: [&[u8]; 2], x: BytesTile, out: &mut MatrixTile) {
    let form = codes.form();
    let columns = if form.has_halves() { INPUT_BLOCK / 2 } else { INPUT_BLOCK };
    for row in 0..2 * PANEL_ROWS {
        let panel = PanelRef::new(form, panels[row / PANEL_ROWS]);
        for block in 0..x.scales.len() / x.tokens {
            let numbers = panel.codes(row % PANEL_ROWS, block).map(|code| form.value(code));
            let BlockScales { scales, min } = panel.scales(row % PANEL_ROWS, block);
            for (t, out) in out.iter_mut().enumerate().take(x.tokens) {
                let word = |group: usize| x.words[(block * INPUT_BLOCK / 4 + group) * x.tokens + t].to_le_bytes();
                let bytes: [i32; INPUT_BLOCK] = std::array::from_fn(|k| i32::from(word(k / 4)[k % 4] as i8));
                let dx = x.scales[block * x.tokens + t].scale;
                let mut sum = if block == 0 { 0.0 } else { out[row] };
                for ((numbers, bytes), scale) in numbers.chunks(columns).zip(bytes.chunks(columns)).zip(scales) {
                    let dot: i32 = numbers.iter().zip(bytes).map(|(number, byte)| number * byte).sum();
                    sum = (dot as f32).mul_add(scale * dx, sum);
                }
                if let Some(min) = min {
                    sum = min.mul_add(bytes.iter().sum::<i32>() as f32 * dx, sum);
                }
                out[row] = sum;
            }
        }
    }
}

/// `out[t][r] = sum over k of w[r][k] * x[t][k]`: chains of fused multiply-adds over blocks of 256 columns, the blocks'
/// sums added in ascending order.
fn matrix_float<W: bytemuck::Pod>(panels: [&[u8]; 2], x: FloatTile, out: &mut MatrixTile, widen: fn(W) -> f32) {
    let panels = panels.map(bytemuck::cast_slice::<u8, W>);
    let columns = x.values.len() / x.tokens;
    for (t, out) in out.iter_mut().enumerate().take(x.tokens) {
        for (row, out) in out.iter_mut().enumerate() {
            let (panel, row) = (panels[row / PANEL_ROWS], row % PANEL_ROWS);
            let mut total = 0f32;
            for block in (0..columns).step_by(FLOAT_BLOCK) {
                let mut sum = 0f32;
                for k in block..columns.min(block + FLOAT_BLOCK) {
                    sum = widen(panel[k * PANEL_ROWS + row]).mul_add(x.values[k * x.tokens + t], sum);
                }
                total += sum;
            }
            *out = total;
        }
    }
}

/// Rounds a row to int8 in blocks of 32: `dx = absmax / 127`, bytes `x * (127 / absmax)` to nearest, ties to even.
///
/// A block whose absmax is below [`QUANTIZE_MIN`] is all zero with scale 0. Columns past the row's end are zero. The
/// correction is `-128` times the sum of a block's bytes; kernels that read weights as unsigned add it. `first` is the
/// same of the block's first half, and `sum` the sum times `dx`.
fn quantize(x: &[f32], bytes: &mut [i8], scales: &mut [BlockScale]) {
    bytes.fill(0);
    scales.fill(BlockScale::default());
    for ((x, bytes), scale) in x.chunks(INPUT_BLOCK).zip(bytes.chunks_exact_mut(INPUT_BLOCK)).zip(scales) {
        let absmax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        if absmax < QUANTIZE_MIN {
            continue;
        }
        scale.scale = absmax / 127.0;
        let inverse = 127.0 / absmax;
        for (x, byte) in x.iter().zip(&mut *bytes) {
            *byte = (x * inverse).round_ties_even() as i8;
        }
        let sum = |bytes: &[i8]| bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>();
        (scale.correction, scale.first) = (-128 * sum(bytes), -128 * sum(&bytes[..INPUT_BLOCK / 2]));
        scale.sum = sum(bytes) as f32 * scale.scale;
    }
}

/// `out = x * (1 / sqrt(sum(x^2) / n + eps)) * weight`; the squares are summed in 16 lanes, lane = index modulo 16.
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0f32; LANES];
    for (i, x) in x.iter().enumerate() {
        lanes[i % LANES] = x.mul_add(*x, lanes[i % LANES]);
    }
    let mean = sum_lanes(lanes) / x.len() as f32;
    let r = 1.0 / (mean + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * r * weight;
    }
}

/// Turns one head: pair `(x[j], x[j + n])` by the angle whose cosine and sine are `cos[j]` and `sin[j]`.
fn rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = (-y).mul_add(*sin, x * cos);
        *b = x.mul_add(*sin, y * cos);
    }
}

/// `gate = gate / (1 + exp(-gate)) * up`.
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// `gate = gate / (1 + exp(gate * (c0 + c1 * gate^2))) * up`: gelu in its tanh form.
fn gelu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = gelu(*gate) * up;
    }
}

/// `x *= factor`.
fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// `x = cap * tanh(x / cap)`.
fn softcap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * tanh(*x / cap);
    }
}

/// `x += y`.
fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Softmax attention of each query over the positions before its limit, or the last `window` of them, in blocks of 64
/// positions.
///
/// For each block of which the query sees a part: scores are chains of fused multiply-adds over the head's dimensions.
/// With `m` the largest score so far, the block's weights are `exp(score - m)`, and their sum is taken in 16 lanes
/// (lane = position modulo 16). Earlier sums are scaled by `exp(old m - m)` in the same rounding that adds the block's
/// part.
fn attend<T: bytemuck::Pod>(job: AttendJob, widen: fn(T) -> f32) {
    let dim = job.head_dim;
    let (keys, values) = (bytemuck::cast_slice::<u8, T>(job.keys), bytemuck::cast_slice::<u8, T>(job.values));
    let stride = job.value_stride();
    for (row, &limit) in job.limits.iter().enumerate() {
        let q = &job.q[row * dim..(row + 1) * dim];
        let out = &mut job.out[row * dim..(row + 1) * dim];
        let (mut max, mut total) = (f32::NEG_INFINITY, 0f32);
        out.fill(0.0);
        let start = limit.saturating_sub(job.window);
        for first in (start / ATTENTION_BLOCK * ATTENTION_BLOCK..limit).step_by(ATTENTION_BLOCK) {
            // The block's positions that the query sees, and where the block is in the ring.
            let (seen, at) = (start.saturating_sub(first)..ATTENTION_BLOCK.min(limit - first), first % job.ring);
            let mut weights = [f32::NEG_INFINITY; ATTENTION_BLOCK];
            for i in seen.clone() {
                let (panel, lane) = ((at + i) / LANES, (at + i) % LANES);
                let mut sum = 0f32;
                for (d, q) in q.iter().enumerate() {
                    sum = q.mul_add(widen(keys[(panel * dim + d) * LANES + lane]), sum);
                }
                weights[i] = job.softcap.map_or(sum, |cap| cap * tanh(sum / cap));
            }
            let new_max = weights.iter().fold(max, |m, s| m.max(*s));
            let keep = exp(max - new_max);
            let mut lanes = [0f32; LANES];
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = exp(*weight - new_max);
                lanes[i % LANES] += *weight;
            }
            total = total.mul_add(keep, sum_lanes(lanes));
            for (d, out) in out.iter_mut().enumerate() {
                let mut sum = 0f32;
                for i in seen.clone() {
                    sum = weights[i].mul_add(widen(values[(at + i) * stride + d]), sum);
                }
                *out = out.mul_add(keep, sum);
            }
            max = new_max;
        }
        for out in out {
            *out /= total;
        }
    }
}

/// Columns of an input row in the bytes form: padded with zeros to whole pairs of blocks, because panels of bytes
/// consist of such pairs.
pub fn bytes_columns(cols: usize) -> usize {
    cols.next_multiple_of(2 * INPUT_BLOCK)
}

const _: () = assert!(Q8_BLOCK == INPUT_BLOCK && Q8_SUPERBLOCK == 2 * INPUT_BLOCK);

const _: () = assert!(PAIR_ROWS == 2 * PANEL_ROWS);
