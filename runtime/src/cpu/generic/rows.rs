//! Operations along one row: rounding to bytes, norm, RoPE, gates, sums.

use super::{Simd, exp, padded, tanh};
use crate::cpu::isa::BlockScale;
use crate::cpu::math::{GELU, LANES, sum_lanes};
use crate::cpu::scalar::QUANTIZE_MIN;
use nanoserve_format::INPUT_BLOCK;

/// `a = f(a, b)` or `a = f(a)` over whole lanes, the last ones padded. It is a macro because a closure is a function of
/// its own, which the compiler may leave outside the code that is compiled with the instruction set's features.
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

/// See [`scalar`](crate::cpu::scalar).
#[inline(always)]
pub fn quantize<S: Simd>(s: S, x: &[f32], bytes: &mut [i8], scales: &mut [BlockScale]) {
    bytes[x.len()..].fill(0);
    scales[x.len().div_ceil(INPUT_BLOCK)..].fill(BlockScale::default());
    let blocks = bytes.as_chunks_mut::<INPUT_BLOCK>().0.iter_mut().zip(scales);
    for (x, (bytes, scale)) in x.chunks(INPUT_BLOCK).zip(blocks) {
        let mut whole = [0.0; INPUT_BLOCK];
        let x: &[f32; INPUT_BLOCK] = x.try_into().unwrap_or_else(|_| {
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
        // With finite values nothing wraps. With others the result is unspecified.
        let (sum, of_bytes) = (low.wrapping_add(high), absmax / 127.0);
        *scale = BlockScale {
            scale: of_bytes,
            correction: sum.wrapping_mul(-128),
            first: low.wrapping_mul(-128),
            sum: sum as f32 * of_bytes,
        };
    }
}

/// See [`scalar`](crate::cpu::scalar). A short last chunk is padded with zeros, whose squares add nothing.
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

/// See [`scalar`](crate::cpu::scalar).
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

/// See [`scalar`](crate::cpu::scalar).
#[inline(always)]
pub fn silu_mul<S: Simd>(s: S, gate: &mut [f32], up: &[f32]) {
    let one = s.splat(1.0);
    change!(s, gate, up, |g, u| s.mul(s.div(g, s.add(one, exp(s, s.mul(g, s.splat(-1.0))))), u));
}

/// See [`scalar`](crate::cpu::scalar).
#[inline(always)]
pub fn add<S: Simd>(s: S, x: &mut [f32], y: &[f32]) {
    change!(s, x, y, |x, y| s.add(x, y));
}

/// See [`scalar`](crate::cpu::scalar).
#[inline(always)]
pub fn gelu_mul<S: Simd>(s: S, gate: &mut [f32], up: &[f32]) {
    let [c0, c1] = GELU.map(|c| s.splat(c));
    let one = s.splat(1.0);
    change!(s, gate, up, |g, u| s.mul(s.div(g, s.add(one, exp(s, s.mul(g, s.fma(c1, s.mul(g, g), c0))))), u));
}

/// See [`scalar`](crate::cpu::scalar).
#[inline(always)]
pub fn scale<S: Simd>(s: S, x: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    change!(s, x, |x| s.mul(x, factor));
}

/// See [`scalar`](crate::cpu::scalar).
#[inline(always)]
pub fn softcap<S: Simd>(s: S, x: &mut [f32], cap: f32) {
    let cap = s.splat(cap);
    change!(s, x, |x| s.mul(cap, tanh(s, s.div(x, cap))));
}
