//! Products of bytes, with and without an instruction for four of them. A panel's group of four columns is four
//! registers; each register has four rows, with a row's four columns side by side.

use super::{Four, each, with_neon};
use crate::cpu::generic::{Block, GROUPS};
use crate::cpu::math::LANES;
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// A way to multiply 16 rows of bytes by a token's bytes. A value of the type proves that the machine has the
/// instructions.
pub(super) trait Bytes: Copy + 'static {
    /// The proof, if the machine has the features needed besides NEON.
    fn detect() -> Option<Self>;
    /// The proof without a check.
    ///
    /// # Safety
    /// The machine has NEON and what [`Bytes::detect`] looks for.
    unsafe fn assume() -> Self;
    /// The accumulators for 16 rows of a block.
    type Sums: Copy;

    /// Sums of all rows that begin with a number.
    fn start(self, sum: i32) -> Self::Sums;
    /// See [`Simd::dot`](super::Simd::dot).
    fn dot(self, sums: Self::Sums, w: Four<int8x16_t>, y: i32) -> Self::Sums;
    /// See [`Simd::touch`](super::Simd::touch).
    #[inline(always)]
    fn touch(self, sums: Self::Sums, w: Four<int8x16_t>) -> Self::Sums {
        self.dot(sums, w, 1)
    }
    /// See [`Simd::dot_block`](super::Simd::dot_block).
    fn dot_block<const P: usize, const N: usize>(
        self,
        sums: &mut [[Self::Sums; P]; N],
        blocks: [&Block; P],
        words: &[[i32; N]; GROUPS],
    );
    /// One sum for each of the 16 rows.
    fn totals(self, sums: Self::Sums) -> Four<int32x4_t>;

    /// Loads a group of a panel.
    #[inline(always)]
    fn load(self, w: &[u8; 4 * LANES]) -> Four<int8x16_t> {
        let at = w.as_ptr().cast();
        with_neon!([vld1q_s8(at), vld1q_s8(at.add(16)), vld1q_s8(at.add(32)), vld1q_s8(at.add(48))])
    }
}

/// `smull` and `smlal`: products in 16 bits, two of them added, then `sadalp` to sums in 32 bits.
///
/// Rounding keeps activations within -127..=127, and weights are within -128..=127 whatever a file holds. Two products
/// are at most 2 x 128 x 127 = 32512, below 2^15, so nothing wraps. A third product would not fit.
#[derive(Clone, Copy)]
pub(super) struct Mull(());

impl Mull {
    /// A token's four bytes in all lanes.
    #[inline(always)]
    fn splat(self, y: i32) -> int8x16_t {
        with_neon!(vreinterpretq_s8_s32(vdupq_n_s32(y)))
    }

    /// `v x + w y` for each byte: the sums of the first eight bytes and those of the last eight. The latter are in
    /// assembly: with intrinsics the compiler first moves all the last bytes to the front and then runs out of
    /// registers.
    #[inline(always)]
    fn products(self, [v, w]: [int8x16_t; 2], [x, y]: [int8x16_t; 2]) -> [int16x8_t; 2] {
        with_neon!({
            let low = vmlal_s8(vmull_s8(vget_low_s8(v), vget_low_s8(x)), vget_low_s8(w), vget_low_s8(y));
            let mut high: int16x8_t;
            asm!("smull2 {h:v}.8h, {v:v}.16b, {x:v}.16b", h = lateout(vreg) high, v = in(vreg) v, x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags));
            asm!("smlal2 {h:v}.8h, {w:v}.16b, {y:v}.16b", h = inout(vreg) high, w = in(vreg) w, y = in(vreg) y,
                options(pure, nomem, nostack, preserves_flags));
            [low, high]
        })
    }
}

impl Bytes for Mull {
    /// Two sums for each row, side by side: of its first two columns and of its last two.
    type Sums = [int32x4_t; 8];

    /// Base instructions are enough.
    fn detect() -> Option<Self> {
        Some(Mull(()))
    }

    unsafe fn assume() -> Self {
        Mull(())
    }

    /// A row's two sums are neighbours: the first begins with the number.
    #[inline(always)]
    fn start(self, sum: i32) -> Self::Sums {
        with_neon!([vreinterpretq_s32_s64(vdupq_n_s64(i64::from(sum as u32))); 8])
    }

    #[inline(always)]
    fn dot(self, mut sums: Self::Sums, w: Four<int8x16_t>, y: i32) -> Self::Sums {
        let y = self.splat(y);
        for (sums, w) in sums.as_chunks_mut::<2>().0.iter_mut().zip(w) {
            with_neon!({
                sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(w), vget_low_s8(y)));
                sums[1] = vpadalq_s16(sums[1], vmull_high_s8(w, y));
            });
        }
        sums
    }

    #[inline(always)]
    fn touch(self, mut sums: Self::Sums, w: Four<int8x16_t>) -> Self::Sums {
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum = with_neon!(vaddq_s32(*sum, vreinterpretq_s32_s8(w)));
        }
        sums
    }

    /// Takes two groups at once: three instructions for every 16 products.
    #[inline(always)]
    fn dot_block<const P: usize, const N: usize>(
        self,
        sums: &mut [[Self::Sums; P]; N],
        blocks: [&Block; P],
        words: &[[i32; N]; GROUPS],
    ) {
        for (i, words) in words.as_chunks::<2>().0.iter().enumerate() {
            for p in 0..P {
                let [v, w] = [2 * i, 2 * i + 1].map(|group| self.load(&blocks[p][group]));
                for r in 0..4 {
                    for t in 0..N {
                        let [low, high] =
                            self.products([v[r], w[r]], [words[0][t], words[1][t]].map(|y| self.splat(y)));
                        let sums = &mut sums[t][p];
                        with_neon!(sums[2 * r] = vpadalq_s16(sums[2 * r], low));
                        with_neon!(sums[2 * r + 1] = vpadalq_s16(sums[2 * r + 1], high));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn totals(self, s: Self::Sums) -> Four<int32x4_t> {
        let (first, last) = ([s[0], s[2], s[4], s[6]], [s[1], s[3], s[5], s[7]]);
        each!(vpaddq_s32, first, last)
    }
}

/// `sdot`: adds the products of four bytes to a 32-bit sum, exactly.
#[derive(Clone, Copy)]
pub(super) struct Dotprod(());

/// Adds to four rows' sums the products of their bytes with the word in one lane of `y`. In assembly, because Rust has
/// no stable intrinsic for it.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: i32>(mut sum: int32x4_t, w: int8x16_t, y: int32x4_t) -> int32x4_t {
    // SAFETY: the function's features include the instruction, which works only on registers.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {y:v}.4b[{lane}]",
            sum = inout(vreg) sum, w = in(vreg) w, y = in(vreg) y, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

impl Dotprod {
    /// Loads the words of 0, 1, 2 or 4 tokens into the first lanes.
    #[inline(always)]
    fn lanes(self, words: &[i32]) -> int32x4_t {
        let at = words.as_ptr();
        with_neon!(match words.len() {
            0 => vdupq_n_s32(0),
            1 => vld1q_lane_s32::<0>(at, vdupq_n_s32(0)),
            2 => vcombine_s32(vld1_s32(at), vdup_n_s32(0)),
            4 => vld1q_s32(at),
            n => unreachable!("{n} tokens"),
        })
    }
}

impl Bytes for Dotprod {
    type Sums = Four<int32x4_t>;

    fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("dotprod").then_some(Dotprod(()))
    }

    unsafe fn assume() -> Self {
        Dotprod(())
    }

    #[inline(always)]
    fn start(self, sum: i32) -> Self::Sums {
        with_neon!([vdupq_n_s32(sum); 4])
    }

    #[inline(always)]
    fn dot(self, sums: Self::Sums, w: Four<int8x16_t>, y: i32) -> Self::Sums {
        let y = with_neon!([vdupq_n_s32(y); 4]);
        each!(sdot::<0>, sums, w, y)
    }

    /// One load brings the words of up to four tokens; each product takes one lane of it.
    #[inline(always)]
    fn dot_block<const P: usize, const N: usize>(
        self,
        sums: &mut [[Self::Sums; P]; N],
        blocks: [&Block; P],
        words: &[[i32; N]; GROUPS],
    ) {
        const { assert!(N <= 6, "a token for each line below") };
        for (group, words) in words.iter().enumerate() {
            let (four, rest) = words.split_at(N.min(4));
            let y = [self.lanes(four), self.lanes(rest)];
            for p in 0..P {
                let w = self.load(&blocks[p][group]);
                macro_rules! token {
                    ($t:literal) => {
                        if let Some(sums) = sums.get_mut($t) {
                            sums[p] = each!(sdot::<{ $t % 4 }>, sums[p], w, [y[$t / 4]; 4]);
                        }
                    };
                }
                token!(0);
                token!(1);
                token!(2);
                token!(3);
                token!(4);
                token!(5);
            }
        }
    }

    #[inline(always)]
    fn totals(self, sums: Self::Sums) -> Four<int32x4_t> {
        sums
    }
}
