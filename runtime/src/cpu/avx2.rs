//! AVX2 with FMA: 16 lanes are two registers.
//!
//! Signed bytes are multiplied as the weights' magnitudes times activations that take over the weights' signs.
//! `vpmaddubsw` adds two products in 16 bits; 2 x 127 x 127 is below 2^15, so nothing saturates. With AVX-VNNI (see
//! [`avxvnni`](super::avxvnni)), `vpdpbusd` does it in one step, on weights whose top bit is flipped as in
//! [`avx512`](super::avx512).

use super::generic::{self, Group, Simd};
use super::math::LANES;
use half::f16;
use std::arch::x86_64::*;

/// How bytes are multiplied: [`MADD`], [`VEX`] or [`EVEX`].
type Dot = u8;
/// `vpmaddubsw` and the instructions around it.
const MADD: Dot = 0;
/// `vpdpbusd` of AVX-VNNI.
pub(super) const VEX: Dot = 1;
/// `vpdpbusd` of AVX-512, on registers of half the width.
pub(super) const EVEX: Dot = 2;

/// Proof that this machine has AVX2, FMA and F16C, and the dot product named here.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const DOT: Dot>(());

impl<const DOT: Dot> Avx2<DOT> {
    /// The proof, if the machine has the features.
    pub(super) fn detect() -> Option<Self> {
        let base =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let dot = match DOT {
            MADD => true,
            VEX => is_x86_feature_detected!("avxvnni"),
            EVEX => is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl"),
            _ => unreachable!("no such dot product"),
        };
        (base && dot).then_some(Avx2(()))
    }

    /// The proof without a check.
    ///
    /// # Safety
    /// The machine has every feature that [`Avx2::detect`] looks for. This holds in a function compiled with them.
    pub(super) unsafe fn assume() -> Self {
        Avx2(())
    }
}

super::isa::entry_points! {
    Avx2<MADD>, "avx2",
    features: "avx2,fma,f16c",
    bytes: 1, [3, 2, 1],
    codes: [3 by 1, 2 by 1, 1 by 1],
    float: 1, [6, 4, 2, 1],
    attend: 2,
}

// The SAFETY argument of every method below: an `Avx2` exists, so the machine has the intrinsics' features; loads and
// stores stay within the array they are given; a prefetch reads nothing.
macro_rules! with_avx2 {
    ($e:expr) => {
        // SAFETY: see above: the features are proven by self, the addresses by the array's type.
        unsafe { $e }
    };
}

/// Applies an intrinsic to both halves.
macro_rules! halves {
    ($f:ident, $($a:expr),+) => {
        with_avx2!([$f($($a[0]),+), $f($($a[1]),+)])
    };
}

impl<const DOT: Dot> Avx2<DOT> {
    /// `x` in all lanes of both halves, as integers.
    #[inline(always)]
    fn splat_i32(self, x: i32) -> [__m256i; 2] {
        with_avx2!([_mm256_set1_epi32(x); 2])
    }
}

impl<const DOT: Dot> Simd for Avx2<DOT> {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type W = [__m256i; 2];
    type B = [__m256i; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        with_avx2!([_mm256_set1_ps(x); 2])
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        with_avx2!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        let at: *const __m128i = x.as_ptr().cast();
        with_avx2!([_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))])
    }

    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        with_avx2!({
            _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
        })
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        with_avx2!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        halves!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        let sign = self.splat(-0.0);
        halves!(_mm256_andnot_ps, sign, a)
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        with_avx2!([_mm256_round_ps::<MODE>(a[0]), _mm256_round_ps::<MODE>(a[1])])
    }

    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        let (whole, bias) = (halves!(_mm256_cvtps_epi32, n), self.splat_i32(127));
        let biased = halves!(_mm256_add_epi32, whole, bias);
        with_avx2!(biased.map(|b| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(b))))
    }

    #[inline(always)]
    fn if_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        let less = with_avx2!([_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])]);
        halves!(_mm256_blendv_ps, y, x, less)
    }

    #[inline(always)]
    fn to_bytes(self, a: Self::F, out: &mut [i8; LANES]) -> i32 {
        let whole = halves!(_mm256_cvtps_epi32, a);
        let mut lanes = [0i32; LANES];
        with_avx2!({
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), whole[0]);
            _mm256_storeu_si256(lanes.as_mut_ptr().add(8).cast(), whole[1]);
        });
        for (out, lane) in out.iter_mut().zip(lanes) {
            *out = lane as i8;
        }
        // Values that are not finite have become -2^31; the sum of many of them can overflow.
        lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
    }

    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        lanes.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x))
    }

    #[inline(always)]
    fn weights(self, w: &[u8; 4 * LANES]) -> Self::W {
        let at: *const __m256i = w.as_ptr().cast();
        let bytes = with_avx2!([_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]);
        if DOT == MADD {
            return bytes;
        }
        let top = with_avx2!([_mm256_set1_epi8(-128); 2]);
        halves!(_mm256_xor_si256, bytes, top)
    }

    #[inline(always)]
    fn dot_start(self, correction: i32) -> Self::I {
        self.splat_i32(if DOT == MADD { 0 } else { correction })
    }

    #[inline(always)]
    fn dot(self, sum: Self::I, w: Self::W, y: i32) -> Self::I {
        let y = self.splat_i32(y);
        match DOT {
            VEX => return halves!(_mm256_dpbusd_avx_epi32, sum, w, y),
            EVEX => return halves!(_mm256_dpbusd_epi32, sum, w, y),
            _ => {}
        }
        let signed = halves!(_mm256_sign_epi8, y, w);
        let magnitude = halves!(_mm256_abs_epi8, w);
        let pairs = halves!(_mm256_maddubs_epi16, magnitude, signed);
        let ones = with_avx2!([_mm256_set1_epi16(1); 2]);
        let fours = halves!(_mm256_madd_epi16, pairs, ones);
        halves!(_mm256_add_epi32, sum, fours)
    }

    #[inline(always)]
    fn line(self, line: &Group) -> Self::B {
        let at: *const __m256i = line.as_ptr().cast();
        with_avx2!([_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))])
    }

    #[inline(always)]
    fn low(self, x: Self::B) -> Self::B {
        let mask = with_avx2!([_mm256_set1_epi8(15); 2]);
        halves!(_mm256_and_si256, x, mask)
    }

    #[inline(always)]
    fn high(self, x: Self::B) -> Self::B {
        // Without closures, which would be compiled without the features.
        self.low(with_avx2!([_mm256_srli_epi16::<4>(x[0]), _mm256_srli_epi16::<4>(x[1])]))
    }

    #[inline(always)]
    fn with_bits(self, codes: Self::B, plane: Self::B, at: usize, mask: u8) -> Self::B {
        with_avx2!({
            let shifted = match at {
                0..4 => {
                    let by = _mm_cvtsi32_si128(4 - at as i32);
                    [_mm256_sll_epi16(plane[0], by), _mm256_sll_epi16(plane[1], by)]
                }
                _ => {
                    let by = _mm_cvtsi32_si128(at as i32 - 4);
                    [_mm256_srl_epi16(plane[0], by), _mm256_srl_epi16(plane[1], by)]
                }
            };
            let mask = _mm256_set1_epi8((mask << 4) as i8);
            let bits = [_mm256_and_si256(shifted[0], mask), _mm256_and_si256(shifted[1], mask)];
            [_mm256_or_si256(codes[0], bits[0]), _mm256_or_si256(codes[1], bits[1])]
        })
    }

    #[inline(always)]
    fn codes(self, codes: Self::B) -> Self::W {
        codes
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], codes: Self::B) -> Self::W {
        let table = with_avx2!({
            let table = _mm_loadu_si128(table.as_ptr().cast());
            let top = _mm_set1_epi8(if DOT == MADD { 0 } else { -128 });
            [_mm256_broadcastsi128_si256(_mm_xor_si128(table, top)); 2]
        });
        halves!(_mm256_shuffle_epi8, table, codes)
    }

    #[inline(always)]
    fn sum_start(self, sum: i32) -> Self::I {
        self.splat_i32(sum)
    }

    /// Without AVX-VNNI two groups share what widens to 32 bits: four products of at most 63 x 127 are below 2^15.
    #[inline(always)]
    fn dot_codes(self, sum: Self::I, w: [Self::W; 2], y: [i32; 2]) -> Self::I {
        if DOT != MADD {
            return self.dot(self.dot(sum, w[0], y[0]), w[1], y[1]);
        }
        let y = y.map(|y| self.splat_i32(y));
        let (first, second) = (halves!(_mm256_maddubs_epi16, w[0], y[0]), halves!(_mm256_maddubs_epi16, w[1], y[1]));
        let pairs = halves!(_mm256_add_epi16, first, second);
        let ones = with_avx2!([_mm256_set1_epi16(1); 2]);
        let fours = halves!(_mm256_madd_epi16, pairs, ones);
        halves!(_mm256_add_epi32, sum, fours)
    }

    #[inline(always)]
    fn load_u8(self, x: &[u8; LANES]) -> Self::F {
        let x = with_avx2!(_mm_loadu_si128(x.as_ptr().cast()));
        let wide = with_avx2!([_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(x))]);
        halves!(_mm256_cvtepi32_ps, wide)
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::F {
        let x = with_avx2!(_mm_loadu_si128(x.as_ptr().cast()));
        let wide = with_avx2!([_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(x))]);
        halves!(_mm256_cvtepi32_ps, wide)
    }

    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        halves!(_mm256_cvtepi32_ps, a)
    }
}
