//! The fast kernels, once for every instruction set: [`Simd`] is what one must bring.
//!
//! All are safe code over whole lanes: slices become arrays at the door, so that no check is left in a loop. Every
//! function is `inline(always)`, so that an instruction set's entry points, which carry its `target_feature`, compile
//! it with that set. Each computes what [`scalar`](super::scalar) defines, in the same order.
//!
//! ```text
//! matrix_q8, for N tokens and P panels of 16 rows:
//!   sum[N][P] = 0
//!   for each block of 32 columns
//!     dot[N][P] = 0                                   whole numbers
//!     for each group of 4 columns
//!       w[P] = 16 rows x 4 bytes                      one load a panel, used N times
//!       for each token: y = its 4 bytes, in all lanes   one load, used P times
//!         dot[token][..] += w[..] . y
//!     sum = dot * (dw * dx) + sum                     one rounding
//! ```

use super::isa::{AttendJob, BlockScale, FloatTile, MatrixTile, PAIR_ROWS, QuantizedTile};
use super::math::{EXP_MAX, EXP_MIN, EXP_POLY, GELU, LANES, LN2_HI, LN2_LO, LOG2_E, TANH_MAX, sum_lanes};
use super::scalar::{ATTENTION_BLOCK, FLOAT_BLOCK, QUANTIZE_MIN};
use half::f16;
use nanoserve_format::PANEL_ROWS;
use nanoserve_format::q8::{Q8_BLOCK, Q8_SUPERBLOCK_BYTES};
use std::hint::black_box;

/// Sixteen lanes. A value of the type proves that the machine has the instructions.
pub trait Simd: Copy + 'static {
    /// 16 f32.
    type F: Copy;
    /// 16 i32.
    type I: Copy;
    /// 16 rows of 4 weight bytes, as [`Simd::dot`] wants them.
    type W: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// 16 values.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// 16 f16 values, widened exactly.
    fn load_f16(self, x: &[f16; LANES]) -> Self::F;
    /// Puts 16 values.
    fn store(self, x: Self::F, out: &mut [f32; LANES]);
    /// Asks for the cache line at an address, which may be any: nothing is read.
    fn prefetch(self, at: *const u8);
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c` in one rounding.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `|a|`
    fn abs(self, a: Self::F) -> Self::F;
    /// The nearest whole number, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^n` for whole `n` in -126..=127.
    fn pow2(self, n: Self::F) -> Self::F;
    /// `x` in the lanes where `a < b`, else `y`.
    fn if_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// The nearest whole numbers as bytes, and their sum, which may wrap. All within -127..=127 where `a` is finite.
    fn to_bytes(self, a: Self::F, out: &mut [i8; LANES]) -> i32;
    /// The largest lane.
    fn max_lane(self, a: Self::F) -> f32;

    /// 16 rows of 4 weight bytes.
    fn weights(self, w: &[u8; 4 * LANES]) -> Self::W;
    /// What sums of dot products begin with, so that they end as the products of signed bytes.
    fn dot_start(self, scale: BlockScale) -> Self::I;
    /// Adds to each row's sum the product of its 4 bytes and the 4 bytes of `y`.
    fn dot(self, sum: Self::I, w: Self::W, y: i32) -> Self::I;
    /// Whole numbers to f32, rounded to nearest.
    fn to_float(self, a: Self::I) -> Self::F;
}

/// A type that weights, keys and values are stored in.
pub trait Stored: bytemuck::Pod {
    /// 16 of them as f32.
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F;
}

impl Stored for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F {
        simd.load(x)
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F {
        simd.load_f16(x)
    }
}

/// `(p, 2^n)` with `exp(x) = 2^n (1 + p)`, in every lane.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_LO), s.fma(n, s.splat(-LN2_HI), x));
    let mut p = s.splat(EXP_POLY[0]);
    for c in &EXP_POLY[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    (s.fma(p, s.mul(r, r), r), s.pow2(n))
}

/// As [`math::exp`](super::math::exp), in every lane.
#[inline(always)]
fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let (p, power) = exp_parts(s, x);
    let y = s.mul(s.add(p, s.splat(1.0)), power);
    let y = s.if_less(x, s.splat(EXP_MIN), s.splat(0.0), y);
    s.if_less(s.splat(EXP_MAX), x, s.splat(f32::INFINITY), y)
}

/// As [`math::tanh`](super::math::tanh), in every lane.
#[inline(always)]
fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let (y, most) = (s.mul(s.splat(2.0), s.abs(x)), s.splat(TANH_MAX));
    let (p, power) = exp_parts(s, s.if_less(most, y, most, y));
    let q = s.fma(p, power, s.add(power, s.splat(-1.0)));
    let t = s.div(q, s.add(q, s.splat(2.0)));
    s.if_less(x, s.splat(0.0), s.mul(t, s.splat(-1.0)), t)
}

/// The first `n` of 16 values, the others zero.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

/// `a = f(a, b)`, or `a = f(a)`, over whole lanes, the last ones padded. A macro and not a function with a closure: a closure is a
/// function of its own, which the compiler may leave outside the code that has the instruction set's features.
macro_rules! change {
    ($s:ident, $a:expr, $b:expr, |$x:ident, $y:ident| $f:expr) => {
        let ((a, a_rest), (b, b_rest)) = ($a.as_chunks_mut::<LANES>(), $b.as_chunks::<LANES>());
        for (a, b) in a.iter_mut().zip(b) {
            let ($x, $y) = ($s.load(a), $s.load(b));
            $s.store($f, a);
        }
        if !a_rest.is_empty() {
            let (mut a, b) = (padded(a_rest), padded(b_rest));
            let ($x, $y) = ($s.load(&a), $s.load(&b));
            $s.store($f, &mut a);
            a_rest.copy_from_slice(&a[..a_rest.len()]);
        }
    };
    ($s:ident, $a:expr, |$x:ident| $f:expr) => {
        let (a, a_rest) = $a.as_chunks_mut::<LANES>();
        for a in a {
            let $x = $s.load(a);
            $s.store($f, a);
        }
        if !a_rest.is_empty() {
            let mut a = padded(a_rest);
            let $x = $s.load(&a);
            $s.store($f, &mut a);
            a_rest.copy_from_slice(&a[..a_rest.len()]);
        }
    };
}

/// Two panels of q8 weights times the tokens of a tile, `P` panels at a time.
#[inline(always)]
pub fn matrix_q8<S: Simd, const P: usize, const N: usize>(
    s: S,
    panels: [&[u8]; 2],
    x: QuantizedTile,
    out: &mut MatrixTile,
) {
    let words = x.words.as_chunks::<N>().0;
    let scales = x.scales.as_chunks::<N>().0.as_chunks::<2>().0;
    let words = words.as_chunks::<{ Q8_BLOCK / 4 }>().0.as_chunks::<2>().0;
    for first in (0..2).step_by(P) {
        let panels: [&[[u8; Q8_SUPERBLOCK_BYTES]]; P] = std::array::from_fn(|p| panels[first + p].as_chunks().0);
        assert!(panels.iter().all(|p| p.len() == words.len()) && words.len() == scales.len());
        let mut sums = [[s.splat(0.0); P]; N];
        for (i, (words, scales)) in words.iter().zip(scales).enumerate() {
            let superblocks: [&[u8; Q8_SUPERBLOCK_BYTES]; P] = std::array::from_fn(|p| &panels[p][i]);
            for half in 0..2 {
                let (words, scales) = (&words[half], &scales[half]);
                let mut dots: [[S::I; P]; N] = std::array::from_fn(|t| [s.dot_start(scales[t]); P]);
                for (group, words) in words.iter().enumerate() {
                    let at = 4 * PANEL_ROWS + (half * Q8_BLOCK + 4 * group) * PANEL_ROWS;
                    let w: [S::W; P] = std::array::from_fn(|p| {
                        s.weights(superblocks[p][at..].first_chunk().expect("a group ends in its superblock"))
                    });
                    for t in 0..N {
                        for p in 0..P {
                            dots[t][p] = s.dot(dots[t][p], w[p], words[t]);
                        }
                    }
                }
                let dw: [S::F; P] = std::array::from_fn(|p| {
                    let bytes: &[u8; 2 * PANEL_ROWS] =
                        superblocks[p][half * 2 * PANEL_ROWS..].first_chunk().expect("scales begin a superblock");
                    s.load_f16(bytemuck::cast_ref(bytes))
                });
                for t in 0..N {
                    let dx = s.splat(scales[t].scale);
                    for p in 0..P {
                        sums[t][p] = s.fma(s.to_float(dots[t][p]), s.mul(dw[p], dx), sums[t][p]);
                    }
                }
            }
        }
        for (sums, out) in sums.iter().zip(out.iter_mut()) {
            for (sum, out) in sums.iter().zip(&mut out.as_chunks_mut::<LANES>().0[first..]) {
                s.store(*sum, out);
            }
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;
/// How far ahead of the sums of one token weights are asked for. Their chains are too long for a core to look as far by
/// itself; those of q8 are short, and gain nothing.
const AHEAD: usize = 4096;

/// Two panels of f32 or f16 weights times the tokens of a tile, `P` panels at a time.
#[inline(always)]
pub fn matrix_float<S: Simd, W: Stored, const P: usize, const N: usize>(
    s: S,
    panels: [&[u8]; 2],
    x: FloatTile,
    out: &mut MatrixTile,
) {
    let x = x.values.as_chunks::<N>().0;
    for first in (0..2).step_by(P) {
        let panels: [&[[W; PANEL_ROWS]]; P] =
            std::array::from_fn(|p| bytemuck::cast_slice::<u8, W>(panels[first + p]).as_chunks().0);
        assert!(panels.iter().all(|p| p.len() == x.len()));
        let mut totals = [[[0f32; LANES]; P]; N];
        for start in (0..x.len()).step_by(FLOAT_BLOCK) {
            let x = &x[start..(start + FLOAT_BLOCK).min(x.len())];
            let panels: [&[[W; PANEL_ROWS]]; P] = std::array::from_fn(|p| &panels[p][start..start + x.len()]);
            let mut sums = [[s.splat(0.0); P]; N];
            for (k, x) in x.iter().enumerate() {
                if N == 1 && (k * PANEL_ROWS * size_of::<W>()).is_multiple_of(LINE) {
                    for p in panels {
                        s.prefetch(p[k].as_ptr().cast::<u8>().wrapping_add(AHEAD));
                    }
                }
                let w: [S::F; P] = std::array::from_fn(|p| W::load(s, &panels[p][k]));
                for t in 0..N {
                    let x = s.splat(x[t]);
                    for p in 0..P {
                        sums[t][p] = s.fma(w[p], x, sums[t][p]);
                    }
                }
            }
            for (totals, sums) in totals.iter_mut().zip(&sums) {
                for (total, sum) in totals.iter_mut().zip(sums) {
                    s.store(s.add(s.load(total), *sum), total);
                }
            }
        }
        for (totals, out) in totals.iter().zip(out.iter_mut()) {
            out.as_chunks_mut::<LANES>().0[first..first + P].copy_from_slice(totals);
        }
    }
}

/// See [`scalar`](super::scalar).
#[inline(always)]
pub fn quantize<S: Simd>(s: S, x: &[f32], bytes: &mut [i8], scales: &mut [BlockScale]) {
    bytes[x.len()..].fill(0);
    scales[x.len().div_ceil(Q8_BLOCK)..].fill(BlockScale::default());
    let blocks = bytes.as_chunks_mut::<Q8_BLOCK>().0.iter_mut().zip(scales);
    for (x, (bytes, scale)) in x.chunks(Q8_BLOCK).zip(blocks) {
        let mut whole = [0.0; Q8_BLOCK];
        let x: &[f32; Q8_BLOCK] = x.try_into().unwrap_or_else(|_| {
            whole[..x.len()].copy_from_slice(x);
            &whole
        });
        let (low, high) = x.split_first_chunk().expect("half a block");
        let (low, high) = (s.load(low), s.load(high.first_chunk().expect("the other half")));
        let absmax = s.max_lane(s.max(s.abs(low), s.abs(high)));
        if absmax < QUANTIZE_MIN {
            bytes.fill(0);
            *scale = BlockScale::default();
            continue;
        }
        let inverse = s.splat(127.0 / absmax);
        let (low_bytes, high_bytes) = bytes.split_first_chunk_mut().expect("half a block");
        let high_bytes = high_bytes.first_chunk_mut().expect("the other half");
        let (low, high) = (s.to_bytes(s.mul(low, inverse), low_bytes), s.to_bytes(s.mul(high, inverse), high_bytes));
        // Of finite values nothing wraps; of others nothing is promised, but that it ends.
        *scale = BlockScale { scale: absmax / 127.0, correction: low.wrapping_add(high).wrapping_mul(-128) };
    }
}

/// See [`scalar`](super::scalar). A short last chunk is padded with zeros: their squares add nothing.
#[inline(always)]
pub fn rms_norm<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for x in whole {
        let x = s.load(x);
        sum = s.fma(x, x, sum);
    }
    if !rest.is_empty() {
        let x = s.load(&padded(rest));
        sum = s.fma(x, x, sum);
    }
    let mut lanes = [0.0; LANES];
    s.store(sum, &mut lanes);
    let r = 1.0 / (sum_lanes(lanes) / x.len() as f32 + eps).sqrt();
    out.copy_from_slice(x);
    let r = s.splat(r);
    change!(s, out, weight, |x, w| s.mul(s.mul(x, r), w));
}

/// Turns 16 pairs.
#[inline(always)]
fn turn<S: Simd>(s: S, x: &mut [f32; LANES], y: &mut [f32; LANES], cos: &[f32; LANES], sin: &[f32; LANES]) {
    let (a, b, c, d) = (s.load(x), s.load(y), s.load(cos), s.load(sin));
    s.store(s.fma(s.mul(b, s.splat(-1.0)), d, s.mul(a, c)), x);
    s.store(s.fma(a, d, s.mul(b, c)), y);
}

/// See [`scalar`](super::scalar).
#[inline(always)]
pub fn rope<S: Simd>(s: S, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    let ((low, low_rest), (high, high_rest)) = (low.as_chunks_mut(), high.as_chunks_mut());
    let ((cos, cos_rest), (sin, sin_rest)) = (cos.as_chunks(), sin.as_chunks());
    for (((x, y), c), d) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        turn(s, x, y, c, d);
    }
    if !low_rest.is_empty() {
        let (mut x, mut y) = (padded(low_rest), padded(high_rest));
        turn(s, &mut x, &mut y, &padded(cos_rest), &padded(sin_rest));
        low_rest.copy_from_slice(&x[..low_rest.len()]);
        high_rest.copy_from_slice(&y[..high_rest.len()]);
    }
}

/// See [`scalar`](super::scalar).
#[inline(always)]
pub fn silu_mul<S: Simd>(s: S, gate: &mut [f32], up: &[f32]) {
    let one = s.splat(1.0);
    change!(s, gate, up, |g, u| s.mul(s.div(g, s.add(one, exp(s, s.mul(g, s.splat(-1.0))))), u));
}

/// See [`scalar`](super::scalar).
#[inline(always)]
pub fn add<S: Simd>(s: S, x: &mut [f32], y: &[f32]) {
    change!(s, x, y, |x, y| s.add(x, y));
}

/// See [`scalar`](super::scalar).
#[inline(always)]
pub fn gelu_mul<S: Simd>(s: S, gate: &mut [f32], up: &[f32]) {
    let [c0, c1] = GELU.map(|c| s.splat(c));
    let one = s.splat(1.0);
    change!(s, gate, up, |g, u| s.mul(s.div(g, s.add(one, exp(s, s.mul(g, s.fma(c1, s.mul(g, g), c0))))), u));
}

/// See [`scalar`](super::scalar).
#[inline(always)]
pub fn scale<S: Simd>(s: S, x: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    change!(s, x, |x| s.mul(x, factor));
}

/// See [`scalar`](super::scalar).
#[inline(always)]
pub fn softcap<S: Simd>(s: S, x: &mut [f32], cap: f32) {
    let cap = s.splat(cap);
    change!(s, x, |x| s.mul(cap, tanh(s, s.div(x, cap))));
}

/// The softmax of one query row so far.
#[derive(Clone, Copy)]
struct RowState {
    max: f32,
    total: f32,
}

/// Attention of all rows of a job, block by block, so that a block's keys and values serve every row while in L1.
///
/// Neighbouring rows that see as much of a block go together, at most `MAX` of them: the heads of a token, and where a
/// block is seen whole, the heads of several tokens.
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
        // Limits ascend: rows before `row` see nothing of this block yet, rows from `end` on nothing of it any more.
        let mut row = job.limits.partition_point(|&l| l <= first);
        let end = job.limits.partition_point(|&l| start(l) < first + ATTENTION_BLOCK);
        let at = first % job.ring;
        // The block's positions that a row sees.
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

/// Some rows and the positions `skip..n` of one block.
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

/// Adds a block to the softmax and the sums of its `R` rows.
#[inline(always)]
fn attend_block<S: Simd, T: Stored, const R: usize>(s: S, block: Block<T>) {
    let Block { q, keys, values, skip, n, softcap, dim, states, out } = block;
    const PANELS: usize = ATTENTION_BLOCK / LANES;
    let q: [&[f32]; R] = std::array::from_fn(|r| &q[r * dim..(r + 1) * dim]);
    let mut weights = [[[f32::NEG_INFINITY; LANES]; PANELS]; R];
    if skip == 0 && n == ATTENTION_BLOCK {
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
        keep[r] = super::math::exp(states[r].max - max);
        states[r] = RowState { max, total: states[r].total.mul_add(keep[r], sum_lanes(sums)) };
    }
    let stride = dim.div_ceil(LANES);
    let weights: [&[f32]; R] = std::array::from_fn(|r| &weights[r].as_flattened()[skip..n]);
    let values = &values[skip * stride..];
    let mut at = 0;
    while at < stride {
        if at + 4 <= stride {
            mix::<S, T, R, 4>(s, weights, values, stride, at, dim, &keep, out);
            at += 4;
        } else {
            mix::<S, T, R, 1>(s, weights, values, stride, at, dim, &keep, out);
            at += 1;
        }
    }
}

/// Scores of `R` queries for `P` panels of positions, from panel `first` of the block on.
#[inline(always)]
fn scores<S: Simd, T: Stored, const R: usize, const P: usize>(
    s: S,
    q: [&[f32]; R],
    keys: &[[T; LANES]],
    dim: usize,
    out: &mut [[[f32; LANES]; ATTENTION_BLOCK / LANES]; R],
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

/// `out = out * keep + weights . values` for `R` rows and `C` lanes of dimensions from lane `at` on.
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

/// `N` chains of dot products and nothing else, `rounds` long; their number as multiply-accumulates.
///
/// Weights change from round to round, as they do in a matrix: an instruction set that prepares them pays for it once
/// for all chains.
#[inline(always)]
pub fn dot_rate<S: Simd, const N: usize>(s: S, rounds: usize) -> usize {
    let bytes: [[u8; 4 * LANES]; 8] = black_box([[3; 4 * LANES]; 8]);
    let weights: [S::W; 8] = std::array::from_fn(|i| s.weights(&bytes[i]));
    let words: [i32; N] = black_box(std::array::from_fn(|t| 0x0101_0101 * (1 + t as i32 % 4)));
    let mut sums: [S::I; N] = [s.dot_start(BlockScale::default()); N];
    for round in 0..rounds {
        for t in 0..N {
            sums[t] = s.dot(sums[t], weights[round % 8], words[t]);
        }
    }
    for sum in sums {
        s.store(s.to_float(sum), black_box(&mut [0.0; LANES]));
    }
    rounds * N * 4 * LANES
}

/// `N` chains of fused multiply-adds and nothing else, `rounds` long; their number.
#[inline(always)]
pub fn fma_rate<S: Simd, const N: usize>(s: S, rounds: usize) -> usize {
    let starts: [f32; N] = black_box(std::array::from_fn(|t| t as f32));
    let (a, b) = (s.splat(black_box(0.5)), s.splat(black_box(0.01)));
    let mut sums: [S::F; N] = std::array::from_fn(|t| s.splat(starts[t]));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = s.fma(a, b, *sum);
        }
    }
    for sum in sums {
        s.store(sum, black_box(&mut [0.0; LANES]));
    }
    rounds * N * LANES
}

/// Reads bytes as weights, and does the least with them.
#[inline(always)]
pub fn read<S: Simd>(s: S, bytes: &[u8]) {
    let mut sums: [S::I; 4] = [s.dot_start(BlockScale::default()); 4];
    for lines in bytes.as_chunks().0.as_chunks::<4>().0 {
        for (sum, line) in sums.iter_mut().zip(lines) {
            *sum = s.dot(*sum, s.weights(line), 1);
        }
    }
    for sum in sums {
        s.store(s.to_float(sum), black_box(&mut [0.0; LANES]));
    }
}

const _: () = assert!(PAIR_ROWS == 2 * LANES);
