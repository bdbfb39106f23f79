//! Products of bytes, with and without an instruction for four of them. A panel's group of four columns is four
//! registers: in each four rows, a row's four columns side by side.

use super::{Four, each, with_neon};
use crate::cpu::generic::{Block, GROUPS};
use crate::cpu::math::LANES;
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// A way to multiply 16 rows of bytes by a token's. A value of the type proves that the machine has its instructions.
pub(super) trait Bytes: Copy + 'static {
    /// The proof, where the machine has what this way needs besides NEON.
    fn detect() -> Option<Self>;
    /// The proof, for who has it already.
    ///
    /// # Safety
    /// The machine has NEON and what [`Bytes::detect`] looks for.
    unsafe fn assume() -> Self;
    /// What is kept for 16 rows of a block.
    type Sums: Copy;

    /// Sums of no products.
    fn zero(self) -> Self::Sums;
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

    /// A group of a panel.
    #[inline(always)]
    fn load(self, w: &[u8; 4 * LANES]) -> Four<int8x16_t> {
        let at = w.as_ptr().cast();
        with_neon!([vld1q_s8(at), vld1q_s8(at.add(16)), vld1q_s8(at.add(32)), vld1q_s8(at.add(48))])
    }
}

/// `smull` and `smlal`: products in 16 bits, two of them added, then `sadalp` to sums in 32 bits.
///
/// Activations are within -127..=127, as rounding makes them, and weights within -128..=127 whatever a file holds: two
/// products are at most 2 x 128 x 127 = 32512, below 2^15, so nothing wraps. A third would not fit.
#[derive(Clone, Copy)]
pub(super) struct Mull(());

impl Mull {
    /// A token's four bytes, in all lanes.
    #[inline(always)]
    fn splat(self, y: i32) -> int8x16_t {
        with_neon!(vreinterpretq_s8_s32(vdupq_n_s32(y)))
    }

    /// The sums of two products each, of `v` by `x` and of `w` by `y`, of the first eight bytes and of the last. The latter
    /// in assembly: as intrinsics of equal halves the compiler moves all last bytes to the front first, and then has too few
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
    /// Of each row two, side by side: of its first two columns and of its last two.
    type Sums = [int32x4_t; 8];

    /// Base instructions do.
    fn detect() -> Option<Self> {
        Some(Mull(()))
    }

    unsafe fn assume() -> Self {
        Mull(())
    }

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        with_neon!([vdupq_n_s32(0); 8])
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

    /// Two groups at once: three instructions for each 16 products.
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

/// `sdot`: the products of four bytes, added to a sum in 32 bits, exactly.
#[derive(Clone, Copy)]
pub(super) struct Dotprod(());

/// Adds to four rows' sums the products of their bytes and of the word in one lane of `y`. In assembly, for Rust has no
/// stable intrinsic of it.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: i32>(mut sum: int32x4_t, w: int8x16_t, y: int32x4_t) -> int32x4_t {
    // SAFETY: an instruction that the function's features have, from registers to a register.
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
    /// The words of 0, 1, 2 or 4 tokens in the first lanes.
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
    fn zero(self) -> Self::Sums {
        with_neon!([vdupq_n_s32(0); 4])
    }

    #[inline(always)]
    fn dot(self, sums: Self::Sums, w: Four<int8x16_t>, y: i32) -> Self::Sums {
        let y = with_neon!([vdupq_n_s32(y); 4]);
        each!(sdot::<0>, sums, w, y)
    }

    /// Up to four tokens' words are one load, of which each product takes a lane.
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
