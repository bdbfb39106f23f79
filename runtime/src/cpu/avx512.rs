//! AVX-512 with VNNI: the 16 lanes are one register.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes, but weights are signed. Their top bit is flipped when they are
//! loaded, which adds 128 to each; sums begin with -128 times the sum of the block's activations, which cancels that.

use super::generic::{self, Group, Simd};
use super::math::LANES;
use half::f16;
use std::arch::x86_64::*;

/// Proof that this machine has every feature named in [`Avx512::detect`].
#[derive(Clone, Copy)]
struct Avx512(());

impl Avx512 {
    /// The proof, if the machine has the features.
    fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("f16c");
        found.then_some(Avx512(()))
    }

    /// The proof without a check.
    ///
    /// # Safety
    /// The machine has every feature that [`Avx512::detect`] looks for. This holds in a function compiled with them.
    unsafe fn assume() -> Self {
        Avx512(())
    }
}

super::isa::entry_points! {
    Avx512, "avx512",
    features: "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
    bytes: 2, [6, 4, 2, 1],
    codes: [12 by 1, 6 by 1, 2 by 2, 1 by 2],
    float: 2, [12, 8, 4, 2, 1],
    attend: 6,
}

// The SAFETY argument of every method below: an `Avx512` exists, so the machine has the intrinsics' features; loads and
// stores stay within the array they are given; a prefetch reads nothing.
macro_rules! with_avx512 {
    ($e:expr) => {
        // SAFETY: see above: the features are proven by self, the addresses by the array's type.
        unsafe { $e }
    };
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type W = __m512i;
    type B = __m512i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        with_avx512!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        with_avx512!(_mm512_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> __m512 {
        with_avx512!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn store(self, x: __m512, out: &mut [f32; LANES]) {
        with_avx512!(_mm512_storeu_ps(out.as_mut_ptr(), x))
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        with_avx512!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        with_avx512!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        with_avx512!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        with_avx512!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        with_avx512!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        with_avx512!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        with_avx512!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        with_avx512!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        with_avx512!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    fn if_less(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        with_avx512!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }

    #[inline(always)]
    fn to_bytes(self, a: __m512, out: &mut [i8; LANES]) -> i32 {
        with_avx512!({
            let whole = _mm512_cvtps_epi32(a);
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(whole));
            _mm512_reduce_add_epi32(whole)
        })
    }

    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        with_avx512!(_mm512_reduce_max_ps(a))
    }

    #[inline(always)]
    fn weights(self, w: &[u8; 4 * LANES]) -> __m512i {
        with_avx512!(_mm512_xor_si512(_mm512_loadu_si512(w.as_ptr().cast()), _mm512_set1_epi8(-128)))
    }

    #[inline(always)]
    fn dot_start(self, correction: i32) -> __m512i {
        with_avx512!(_mm512_set1_epi32(correction))
    }

    #[inline(always)]
    fn dot(self, sum: __m512i, w: __m512i, y: i32) -> __m512i {
        with_avx512!(_mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(y)))
    }

    #[inline(always)]
    fn line(self, line: &Group) -> __m512i {
        with_avx512!(_mm512_loadu_si512(line.as_ptr().cast()))
    }

    #[inline(always)]
    fn low(self, x: __m512i) -> __m512i {
        with_avx512!(_mm512_and_si512(x, _mm512_set1_epi8(15)))
    }

    #[inline(always)]
    fn high(self, x: __m512i) -> __m512i {
        self.low(with_avx512!(_mm512_srli_epi16::<4>(x)))
    }

    #[inline(always)]
    fn with_bits(self, codes: __m512i, plane: __m512i, at: usize, mask: u8) -> __m512i {
        with_avx512!({
            let shifted = match at {
                0..4 => _mm512_sll_epi16(plane, _mm_cvtsi32_si128(4 - at as i32)),
                _ => _mm512_srl_epi16(plane, _mm_cvtsi32_si128(at as i32 - 4)),
            };
            _mm512_or_si512(codes, _mm512_and_si512(shifted, _mm512_set1_epi8((mask << 4) as i8)))
        })
    }

    #[inline(always)]
    fn codes(self, codes: __m512i) -> __m512i {
        codes
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], codes: __m512i) -> __m512i {
        with_avx512!({
            let table = _mm_xor_si128(_mm_loadu_si128(table.as_ptr().cast()), _mm_set1_epi8(-128));
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes)
        })
    }

    #[inline(always)]
    fn sum_start(self, sum: i32) -> __m512i {
        with_avx512!(_mm512_set1_epi32(sum))
    }

    #[inline(always)]
    fn load_u8(self, x: &[u8; LANES]) -> __m512 {
        with_avx512!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> __m512 {
        with_avx512!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }

    #[inline(always)]
    fn to_float(self, a: __m512i) -> __m512 {
        with_avx512!(_mm512_cvtepi32_ps(a))
    }
}
