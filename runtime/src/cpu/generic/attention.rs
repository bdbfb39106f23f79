//! Attention over a KV cache, in blocks of positions.

use super::{Simd, Stored, exp, padded, tanh};
use crate::cpu::isa::AttendJob;
use crate::cpu::math::{self, LANES, sum_lanes};
use crate::cpu::scalar::ATTENTION_BLOCK;

/// The running softmax of one query row.
#[derive(Clone, Copy)]
struct RowState {
    max: f32,
    total: f32,
}

/// Attention of all rows of a job, block by block, so that every row uses a block's keys and values while they are in
/// L1.
///
/// Neighbouring rows that see the same part of a block are computed together, at most `MAX` of them: the heads of a
/// token, or those of several tokens if they see the whole block.
#[inline(always)]
pub fn attend<S: Simd, T: Stored, const MAX: usize>(s: S, job: AttendJob) {
    let (dim, stride) = (job.head_dim, job.value_stride());
    let keys: &[[T; LANES]] = bytemuck::cast_slice::<u8, T>(job.keys).as_chunks().0;
    let values: &[[T; LANES]] = bytemuck::cast_slice::<u8, T>(job.values).as_chunks().0;
    let rows = job.limits.len();
    let most = job.limits[rows - 1];
    let held = most.min(job.ring);
    assert!(most == held || job.ring.is_multiple_of(ATTENTION_BLOCK));
    assert!(held.div_ceil(LANES) * dim <= keys.len() && held * stride <= values.len() * LANES);
    assert!(job.q.len() == rows * dim && job.out.len() == rows * dim);
    job.out.fill(0.0);
    let mut states = vec![RowState { max: f32::NEG_INFINITY, total: 0.0 }; rows];
    let start = |limit: usize| limit.saturating_sub(job.window);
    for first in (start(job.limits[0]) / ATTENTION_BLOCK * ATTENTION_BLOCK..most).step_by(ATTENTION_BLOCK) {
        // Limits ascend: rows before `row` do not reach this block yet, rows from `end` on have left it behind.
        let mut row = job.limits.partition_point(|&l| l <= first);
        let end = job.limits.partition_point(|&l| start(l) < first + ATTENTION_BLOCK);
        let at = first % job.ring;
        // The range of the block's positions that a row sees.
        let seen = |limit: usize| (start(limit).saturating_sub(first), ATTENTION_BLOCK.min(limit - first));
        while row < end {
            let (skip, n) = seen(job.limits[row]);
            let alike = job.limits[row..end].iter().take_while(|&&l| seen(l) == (skip, n)).take(MAX).count();
            let together = [6, 4, 3, 2].into_iter().find(|&size| size <= alike).unwrap_or(1);
            let block = Block {
                q: &job.q[row * dim..(row + together) * dim],
                keys: &keys[at / LANES * dim..][..n.div_ceil(LANES) * dim],
                values: &values[at * stride / LANES..][..n * stride / LANES],
                skip,
                n,
                softcap: job.softcap,
                dim,
                states: &mut states[row..row + together],
                out: &mut job.out[row * dim..(row + together) * dim],
            };
            match together {
                6 if MAX >= 6 => attend_block::<S, T, 6>(s, block),
                4 if MAX >= 4 => attend_block::<S, T, 4>(s, block),
                3 if MAX >= 3 => attend_block::<S, T, 3>(s, block),
                2 if MAX >= 2 => attend_block::<S, T, 2>(s, block),
                _ => attend_block::<S, T, 1>(s, block),
            }
            row += together;
        }
    }
    for (out, state) in job.out.chunks_exact_mut(dim).zip(&states) {
        for out in out {
            *out /= state.total;
        }
    }
}

/// Some query rows and the positions `skip..n` of one block.
struct Block<'a, T> {
    /// `[rows, dim]`
    q: &'a [f32],
    /// `[n / 16, dim]` lanes of positions
    keys: &'a [[T; LANES]],
    /// `[n, dim / 16]` lanes of dimensions
    values: &'a [[T; LANES]],
    skip: usize,
    n: usize,
    softcap: Option<f32>,
    dim: usize,
    states: &'a mut [RowState],
    /// `[rows, dim]`
    out: &'a mut [f32],
}

/// Panels of positions in a block.
const PANELS: usize = ATTENTION_BLOCK / LANES;

/// How many of the `left` panels of positions, or lanes of dimensions, one pass over `rows` rows takes if registers are
/// few: as many as keep all accumulators in registers.
const fn together(rows: usize, left: usize) -> usize {
    match (rows, left) {
        (1, 4..) => 4,
        (..=3, 2..) => 2,
        _ => 1,
    }
}

/// Adds a block to the running softmax and the output of its `R` rows.
#[inline(always)]
fn attend_block<S: Simd, T: Stored, const R: usize>(s: S, block: Block<T>) {
    let Block { q, keys, values, skip, n, softcap, dim, states, out } = block;
    let q: [&[f32]; R] = std::array::from_fn(|r| &q[r * dim..(r + 1) * dim]);
    let mut weights = [[[f32::NEG_INFINITY; LANES]; PANELS]; R];
    if S::FEW_REGISTERS {
        let (mut panel, end) = (skip / LANES, n.div_ceil(LANES));
        while panel < end {
            let panels = together(R, end - panel);
            let keys = &keys[panel * dim..];
            match panels {
                4 => scores::<S, T, R, 4>(s, q, keys, dim, &mut weights, panel),
                2 => scores::<S, T, R, 2>(s, q, keys, dim, &mut weights, panel),
                _ => scores::<S, T, R, 1>(s, q, keys, dim, &mut weights, panel),
            }
            panel += panels;
        }
    } else if skip == 0 && n == ATTENTION_BLOCK {
        scores::<S, T, R, PANELS>(s, q, keys, dim, &mut weights, 0);
    } else {
        for panel in skip / LANES..n.div_ceil(LANES) {
            scores::<S, T, R, 1>(s, q, &keys[panel * dim..], dim, &mut weights, panel);
        }
    }
    if let Some(cap) = softcap {
        let cap = s.splat(cap);
        for weights in weights.as_flattened_mut() {
            s.store(s.mul(cap, tanh(s, s.div(s.load(weights), cap))), weights);
        }
    }
    if skip != 0 || n != ATTENTION_BLOCK {
        for weights in &mut weights {
            weights.as_flattened_mut()[..skip].fill(f32::NEG_INFINITY);
            weights.as_flattened_mut()[n..].fill(f32::NEG_INFINITY);
        }
    }
    let mut keep = [0.0; R];
    for r in 0..R {
        let lanes: [S::F; PANELS] = std::array::from_fn(|p| s.load(&weights[r][p]));
        let max = lanes.iter().fold(s.splat(states[r].max), |m, x| s.max(m, *x));
        let max = s.max_lane(max);
        let mut sum = s.splat(0.0);
        for p in 0..PANELS {
            let weight = exp(s, s.add(lanes[p], s.splat(-max)));
            s.store(weight, &mut weights[r][p]);
            sum = s.add(sum, weight);
        }
        let mut sums = [0.0; LANES];
        s.store(sum, &mut sums);
        keep[r] = math::exp(states[r].max - max);
        states[r] = RowState { max, total: states[r].total.mul_add(keep[r], sum_lanes(sums)) };
    }
    let stride = dim.div_ceil(LANES);
    let weights: [&[f32]; R] = std::array::from_fn(|r| &weights[r].as_flattened()[skip..n]);
    let values = &values[skip * stride..];
    let mut at = 0;
    while at < stride {
        if S::FEW_REGISTERS {
            let lanes = together(R, stride - at);
            match lanes {
                4 => mix::<S, T, R, 4>(s, weights, values, stride, at, dim, &keep, out),
                2 => mix::<S, T, R, 2>(s, weights, values, stride, at, dim, &keep, out),
                _ => mix::<S, T, R, 1>(s, weights, values, stride, at, dim, &keep, out),
            }
            at += lanes;
        } else if at + 4 <= stride {
            mix::<S, T, R, 4>(s, weights, values, stride, at, dim, &keep, out);
            at += 4;
        } else {
            mix::<S, T, R, 1>(s, weights, values, stride, at, dim, &keep, out);
            at += 1;
        }
    }
}

/// Scores of `R` queries against `P` panels of positions, starting at panel `first` of the block.
#[inline(always)]
fn scores<S: Simd, T: Stored, const R: usize, const P: usize>(
    s: S,
    q: [&[f32]; R],
    keys: &[[T; LANES]],
    dim: usize,
    out: &mut [[[f32; LANES]; PANELS]; R],
    first: usize,
) {
    let keys: [&[[T; LANES]]; P] = std::array::from_fn(|p| &keys[p * dim..][..dim]);
    let q: [&[f32]; R] = std::array::from_fn(|r| &q[r][..dim]);
    let mut sums = [[s.splat(0.0); P]; R];
    for d in 0..dim {
        let k: [S::F; P] = std::array::from_fn(|p| T::load(s, &keys[p][d]));
        for r in 0..R {
            let q = s.splat(q[r][d]);
            for p in 0..P {
                sums[r][p] = s.fma(q, k[p], sums[r][p]);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (sum, out) in sums.iter().zip(&mut out[first..]) {
            s.store(*sum, out);
        }
    }
}

/// `out = out * keep + weights . values` for `R` rows and `C` lanes of dimensions, starting at lane `at`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the inner loop of attend_block, kept apart for its lane counts")]
fn mix<S: Simd, T: Stored, const R: usize, const C: usize>(
    s: S,
    weights: [&[f32]; R],
    values: &[[T; LANES]],
    stride: usize,
    at: usize,
    dim: usize,
    keep: &[f32; R],
    out: &mut [f32],
) {
    let n = weights[0].len();
    let weights: [&[f32]; R] = std::array::from_fn(|r| &weights[r][..n]);
    let mut sums = [[s.splat(0.0); C]; R];
    for (i, values) in values.chunks_exact(stride).take(n).enumerate() {
        let values: &[[T; LANES]; C] = values[at..].first_chunk().expect("lanes within a head");
        let v: [S::F; C] = std::array::from_fn(|c| T::load(s, &values[c]));
        for r in 0..R {
            let w = s.splat(weights[r][i]);
            for c in 0..C {
                sums[r][c] = s.fma(w, v[c], sums[r][c]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let out = &mut out[r * dim + at * LANES..(r + 1) * dim];
        for (sum, out) in sums.iter().zip(out.chunks_mut(LANES)) {
            let mut lanes = padded(out);
            s.store(s.fma(s.load(&lanes), s.splat(keep[r]), *sum), &mut lanes);
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}
