//! The fast kernels, written once for all instruction sets. [`Simd`] is what an instruction set must provide.
//!
//! All kernels are safe code over whole lanes: slices become arrays on entry, so that no bounds check is left in a
//! loop. Every function is `inline(always)`, so that it is compiled with the instruction set of the entry point that
//! calls it, which has the `target_feature`. Each computes what [`scalar`](super::scalar) defines, in the same order.

mod attention;
mod codes;
mod matrix;
mod rates;
mod rows;

pub use attention::attend;
pub use codes::matrix_codes;
pub use matrix::{matrix_float, matrix_q8};
pub use rates::{dot_rate, fma_rate, read};
pub use rows::{add, gelu_mul, quantize, rms_norm, rope, scale, silu_mul, softcap};

use super::math::{EXP_MAX, EXP_MIN, EXP_POLY, LANES, LN2_HI, LN2_LO, LOG2_E, TANH_MAX};
use half::f16;
use nanoserve_format::INPUT_BLOCK;

/// Groups of four columns in a block.
pub const GROUPS: usize = INPUT_BLOCK / 4;

/// A panel's bytes of 32 columns: for each group of four columns, 16 rows of 4 bytes.
pub type Block = [Group; GROUPS];

/// A panel's bytes of four columns: 16 rows of 4 bytes.
pub type Group = [u8; 4 * LANES];

/// Sixteen lanes. A value of the type proves that the machine has the instructions.
pub trait Simd: Copy + 'static {
    /// 16 f32.
    type F: Copy;
    /// 16 i32.
    type I: Copy;
    /// 16 rows of 4 weight bytes, as [`Simd::dot`] takes them.
    type W: Copy;
    /// 64 bytes.
    type B: Copy;

    /// True if only about six accumulators of 16 lanes fit in registers; false if those of six rows by 64 positions
    /// fit.
    const FEW_REGISTERS: bool = false;

    /// `x` in all lanes.
    fn splat(self, x: f32) -> Self::F;
    /// Loads 16 values.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// Loads 16 f16 values, widened exactly.
    fn load_f16(self, x: &[f16; LANES]) -> Self::F;
    /// Stores 16 values.
    fn store(self, x: Self::F, out: &mut [f32; LANES]);
    /// Prefetches the cache line at an address. Any address is allowed: nothing is read.
    fn prefetch(self, at: *const u8);
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger of `a` and `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c` in one rounding.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `|a|`
    fn abs(self, a: Self::F) -> Self::F;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^n` for integer `n` in -126..=127.
    fn pow2(self, n: Self::F) -> Self::F;
    /// `x` in the lanes where `a < b`, else `y`.
    fn if_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Stores the nearest integers as bytes and returns their sum, which may wrap. They are within -127..=127 if `a` is
    /// finite.
    fn to_bytes(self, a: Self::F, out: &mut [i8; LANES]) -> i32;
    /// The largest lane.
    fn max_lane(self, a: Self::F) -> f32;

    /// Loads 16 rows of 4 weight bytes.
    fn weights(self, w: &[u8; 4 * LANES]) -> Self::W;
    /// The initial value for sums of dot products, such that they end as products of signed bytes. `correction` is -128
    /// times the sum of the activations' bytes.
    fn dot_start(self, correction: i32) -> Self::I;
    /// Adds to each row's sum the dot product of its 4 bytes and the 4 bytes of `y`.
    fn dot(self, sum: Self::I, w: Self::W, y: i32) -> Self::I;
    /// Adds something of its weights to each row's sum: the cheapest operation that keeps the read from being optimised
    /// away.
    #[inline(always)]
    fn touch(self, sum: Self::I, w: Self::W) -> Self::I {
        self.dot(sum, w, 1)
    }
    /// Adds the products of a block to the sums of `N` tokens and `P` panels.
    #[inline(always)]
    fn dot_block<const P: usize, const N: usize>(
        self,
        sums: &mut [[Self::I; P]; N],
        blocks: [&Block; P],
        words: &[[i32; N]; GROUPS],
    ) {
        for (group, words) in words.iter().enumerate() {
            let w: [Self::W; P] = std::array::from_fn(|p| self.weights(&blocks[p][group]));
            for t in 0..N {
                for p in 0..P {
                    sums[t][p] = self.dot(sums[t][p], w[p], words[t]);
                }
            }
        }
    }
    /// Loads a line of codes, 16 rows of 4 bytes.
    fn line(self, line: &Group) -> Self::B;
    /// The low four bits of each byte.
    fn low(self, x: Self::B) -> Self::B;
    /// The high four bits of each byte.
    fn high(self, x: Self::B) -> Self::B;
    /// Sets bits 4 and up of each code to the bits of `plane` that `mask` selects after a shift right by `at`: `mask` is
    /// 1 or 3.
    fn with_bits(self, codes: Self::B, plane: Self::B, at: usize, mask: u8) -> Self::B;
    /// Codes, at most 63, as weights that sums which begin with [`Simd::sum_start`] take.
    fn codes(self, codes: Self::B) -> Self::W;
    /// The table's number for each code, 0 to 15, as weights that sums which begin with [`Simd::dot_start`] take.
    fn lookup(self, table: &[i8; 16], codes: Self::B) -> Self::W;
    /// A sum for each row, all starting at this number.
    fn sum_start(self, sum: i32) -> Self::I;
    /// As [`Simd::dot`], for two groups of codes.
    #[inline(always)]
    fn dot_codes(self, sum: Self::I, w: [Self::W; 2], y: [i32; 2]) -> Self::I {
        self.dot(self.dot(sum, w[0], y[0]), w[1], y[1])
    }
    /// Loads 16 unsigned bytes.
    fn load_u8(self, x: &[u8; LANES]) -> Self::F;
    /// Loads 16 signed bytes.
    fn load_i8(self, x: &[u8; LANES]) -> Self::F;

    /// Integers to f32, rounded to nearest.
    fn to_float(self, a: Self::I) -> Self::F;
}

/// A type that weights, keys and values are stored in.
pub trait Stored: bytemuck::Pod {
    /// Loads 16 of them as f32.
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

/// [`math::exp`](super::math::exp) in every lane.
#[inline(always)]
fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let (p, power) = exp_parts(s, x);
    let y = s.mul(s.add(p, s.splat(1.0)), power);
    let y = s.if_less(x, s.splat(EXP_MIN), s.splat(0.0), y);
    s.if_less(s.splat(EXP_MAX), x, s.splat(f32::INFINITY), y)
}

/// [`math::tanh`](super::math::tanh) in every lane.
#[inline(always)]
fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let (y, most) = (s.mul(s.splat(2.0), s.abs(x)), s.splat(TANH_MAX));
    let (p, power) = exp_parts(s, s.if_less(most, y, most, y));
    let q = s.fma(p, power, s.add(power, s.splat(-1.0)));
    let t = s.div(q, s.add(q, s.splat(2.0)));
    s.if_less(x, s.splat(0.0), s.mul(t, s.splat(-1.0)), t)
}

/// At most 16 values, padded with zeros.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}
