//! NEON, which every aarch64 has: 16 lanes are four registers. Bytes are multiplied with base instructions, or with the
//! dot product that most processors since 2018 have; the rest is the same for both.
//!
//! A tile takes one panel at a time and must fit in 32 registers of 128 bits:
//! - with the dot product, six tokens: 24 sums, four of weights, and two with the six tokens' words;
//! - without it, two tokens: 16 sums, eight of weights, four of words, and some products;
//! - in floats, six tokens: 24 sums, four of weights, and one activation at a time.

mod bytes;

use super::generic::{self, Block, GROUPS, Group, Simd};
use super::isa::Kernels;
use super::math::LANES;
use bytes::{Bytes, Dotprod, Mull};
use half::f16;
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// NEON with one of the ways to multiply bytes. Proof that this machine has the instructions for both.
#[derive(Clone, Copy)]
struct Neon<B>(B);

impl<B: Bytes> Neon<B> {
    /// The proof, if the machine has NEON and the instructions of `B`.
    fn detect() -> Option<Self> {
        if is_aarch64_feature_detected!("neon") { B::detect().map(Neon) } else { None }
    }

    /// The proof without a check.
    ///
    /// # Safety
    /// The machine has every feature that [`Neon::detect`] looks for. This holds in a function compiled with them.
    unsafe fn assume() -> Self {
        // SAFETY: the caller's promise includes the features that `B` needs.
        Neon(unsafe { B::assume() })
    }
}

/// Four registers of 32-bit lanes.
type Four<T> = [T; 4];

super::isa::entry_points! {
    Neon<Mull>, "neon",
    features: "neon",
    bytes: 1, [2, 1],
    codes: [2 by 1, 1 by 1],
    float: 1, [6, 4, 2, 1],
    attend: 6,
}

/// With the dot product.
mod dotprod {
    use super::{Dotprod, Neon, f16, generic};
    use crate::cpu::isa;

    isa::entry_points! {
        Neon<Dotprod>, "dotprod",
        features: "neon,dotprod",
        bytes: 1, [6, 4, 2, 1],
        codes: [6 by 1, 2 by 1, 1 by 1],
        float: 1, [6, 4, 2, 1],
        attend: 6,
    }
}

/// The kernels without and with the dot product, each if the machine can run it.
pub fn tables() -> [Option<&'static Kernels>; 2] {
    [table(), dotprod::table()]
}

// The SAFETY argument of every function below: a `Neon` exists, so the machine has the instructions; loads and stores
// stay within the array they are given.
macro_rules! with_neon {
    ($e:expr) => {
        // SAFETY: see above: the instructions are proven by self, the addresses by the array's type.
        unsafe { $e }
    };
}

/// Applies an intrinsic to all four registers.
macro_rules! each {
    ($f:path, $($a:expr),+) => {
        with_neon!([$f($($a[0]),+), $f($($a[1]),+), $f($($a[2]),+), $f($($a[3]),+)])
    };
}
use {each, with_neon};

/// The lower and the upper half of eight f16 as f32, exactly. In assembly, because Rust's stable intrinsics have no
/// f16. A signalling NaN sets a flag of the status register, so the options do not include `preserves_flags`.
#[inline(always)]
fn widen(x: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high);
    with_neon!({
        asm!("fcvtl {y:v}.4s, {x:v}.4h", x = in(vreg) x, y = lateout(vreg) low, options(pure, nomem, nostack));
        asm!("fcvtl2 {y:v}.4s, {x:v}.8h", x = in(vreg) x, y = lateout(vreg) high, options(pure, nomem, nostack));
    });
    [low, high]
}

impl<B: Bytes> Simd for Neon<B> {
    type F = Four<float32x4_t>;
    type I = B::Sums;
    type W = Four<int8x16_t>;
    type B = Four<uint8x16_t>;

    const FEW_REGISTERS: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        with_neon!([vdupq_n_f32(x); 4])
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let at = x.as_ptr();
        with_neon!([vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))])
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        let at: *const u16 = x.as_ptr().cast();
        let (low, high) = with_neon!((vld1q_u16(at), vld1q_u16(at.add(8))));
        let ([a, b], [c, d]) = (widen(low), widen(high));
        [a, b, c, d]
    }

    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        for (x, out) in x.into_iter().zip(out.as_chunks_mut::<4>().0) {
            with_neon!(vst1q_f32(out.as_mut_ptr(), x));
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch reads nothing and never faults, whatever the address.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nomem, nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vaddq_f32, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vmulq_f32, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vdivq_f32, a, b)
    }

    // If one of the two is NaN, the other: like f32::max.
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each!(vmaxnmq_f32, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(vfmaq_f32, c, a, b)
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        each!(vabsq_f32, a)
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        each!(vrndnq_f32, a)
    }

    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        let (whole, bias) = (each!(vcvtnq_s32_f32, n), with_neon!([vdupq_n_s32(127); 4]));
        let biased = each!(vaddq_s32, whole, bias);
        let bits = each!(vshlq_n_s32::<23>, biased);
        each!(vreinterpretq_f32_s32, bits)
    }

    #[inline(always)]
    fn if_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        let less = each!(vcltq_f32, a, b);
        each!(vbslq_f32, less, x, y)
    }

    #[inline(always)]
    fn to_bytes(self, a: Self::F, out: &mut [i8; LANES]) -> i32 {
        // NaN has become 0, and infinity the largest integer: sums of these wrap.
        let whole = each!(vcvtnq_s32_f32, a);
        let [a, b, c, d] = each!(vqmovn_s32, whole);
        with_neon!({
            let (low, high) = (vqmovn_s16(vcombine_s16(a, b)), vqmovn_s16(vcombine_s16(c, d)));
            vst1q_s8(out.as_mut_ptr(), vcombine_s8(low, high));
            vaddvq_s32(vaddq_s32(vaddq_s32(whole[0], whole[1]), vaddq_s32(whole[2], whole[3])))
        })
    }

    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        with_neon!(vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a[0], a[1]), vmaxnmq_f32(a[2], a[3]))))
    }

    #[inline(always)]
    fn weights(self, w: &[u8; 4 * LANES]) -> Self::W {
        self.0.load(w)
    }

    #[inline(always)]
    fn dot_start(self, _: i32) -> Self::I {
        self.0.start(0)
    }

    #[inline(always)]
    fn dot(self, sum: Self::I, w: Self::W, y: i32) -> Self::I {
        self.0.dot(sum, w, y)
    }

    #[inline(always)]
    fn touch(self, sum: Self::I, w: Self::W) -> Self::I {
        self.0.touch(sum, w)
    }

    #[inline(always)]
    fn dot_block<const P: usize, const N: usize>(
        self,
        sums: &mut [[Self::I; P]; N],
        blocks: [&Block; P],
        words: &[[i32; N]; GROUPS],
    ) {
        self.0.dot_block(sums, blocks, words);
    }

    #[inline(always)]
    fn line(self, line: &Group) -> Self::B {
        let at = line.as_ptr();
        with_neon!([vld1q_u8(at), vld1q_u8(at.add(16)), vld1q_u8(at.add(32)), vld1q_u8(at.add(48))])
    }

    #[inline(always)]
    fn low(self, x: Self::B) -> Self::B {
        let mask = with_neon!([vdupq_n_u8(15); 4]);
        each!(vandq_u8, x, mask)
    }

    #[inline(always)]
    fn high(self, x: Self::B) -> Self::B {
        each!(vshrq_n_u8::<4>, x)
    }

    #[inline(always)]
    fn with_bits(self, codes: Self::B, plane: Self::B, at: usize, mask: u8) -> Self::B {
        let shift = with_neon!([vdupq_n_s8(4 - at as i8); 4]);
        let (shifted, mask) = (each!(vshlq_u8, plane, shift), with_neon!([vdupq_n_u8(mask << 4); 4]));
        let bits = each!(vandq_u8, shifted, mask);
        each!(vorrq_u8, codes, bits)
    }

    #[inline(always)]
    fn codes(self, codes: Self::B) -> Self::W {
        with_neon!(codes.map(|x| vreinterpretq_s8_u8(x)))
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], codes: Self::B) -> Self::W {
        let table = with_neon!([vld1q_s8(table.as_ptr()); 4]);
        each!(vqtbl1q_s8, table, codes)
    }

    #[inline(always)]
    fn sum_start(self, sum: i32) -> Self::I {
        self.0.start(sum)
    }

    #[inline(always)]
    fn load_u8(self, x: &[u8; LANES]) -> Self::F {
        let wide = with_neon!({
            let x = vld1q_u8(x.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x));
            [vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)]
        });
        each!(vcvtq_f32_u32, wide)
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::F {
        let wide = with_neon!({
            let x = vld1q_s8(x.as_ptr().cast());
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
        });
        each!(vcvtq_f32_s32, wide)
    }

    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        let totals = self.0.totals(a);
        each!(vcvtq_f32_s32, totals)
    }
}
