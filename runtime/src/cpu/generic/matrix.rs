//! Two panels of weights times a few tokens.
//!
//! ```text
//! matrix_q8, for N tokens and P panels of 16 rows:
//!   sum[N][P] = 0
//!   for each block of 32 columns
//!     dot[N][P] = 0                                   integers
//!     for each group of 4 columns
//!       w[P] = 16 rows x 4 bytes                      one load for each panel, used N times
//!       for each token: y = its 4 bytes, in all lanes   one load, used P times
//!         dot[token][..] += w[..] . y
//!     sum = dot * (dw * dx) + sum                     one rounding
//! ```

use super::{Block, GROUPS, Simd, Stored};
use crate::cpu::isa::{BlockScale, BytesTile, FloatTile, MatrixTile, PAIR_ROWS};
use crate::cpu::math::LANES;
use crate::cpu::scalar::FLOAT_BLOCK;
use nanoserve_format::PANEL_ROWS;
use nanoserve_format::q8::Q8_SUPERBLOCK_BYTES;

/// The bytes of one half of a q8 superblock.
#[inline(always)]
fn block_of(superblock: &[u8; Q8_SUPERBLOCK_BYTES], half: usize) -> &Block {
    // The scales of both halves take one cache line, the same size as a group.
    superblock.as_chunks().0[1 + half * GROUPS..].first_chunk().expect("a block ends in its superblock")
}

/// Adds to `sums` the products of one half of `P` superblocks and a block of `N` tokens.
#[inline(always)]
fn q8_block<S: Simd, const P: usize, const N: usize>(
    s: S,
    sums: &mut [[S::F; P]; N],
    superblocks: [&[u8; Q8_SUPERBLOCK_BYTES]; P],
    half: usize,
    words: &[[i32; N]; GROUPS],
    scales: &[BlockScale; N],
) {
    let mut dots: [[S::I; P]; N] = std::array::from_fn(|t| [s.dot_start(scales[t].correction); P]);
    s.dot_block(&mut dots, std::array::from_fn(|p| block_of(superblocks[p], half)), words);
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

/// Two panels of q8 weights times the tokens of a tile, `P` panels at a time.
#[inline(always)]
pub fn matrix_q8<S: Simd, const P: usize, const N: usize>(
    s: S,
    panels: [&[u8]; 2],
    x: BytesTile,
    out: &mut MatrixTile,
) {
    let words = x.words.as_chunks::<N>().0;
    let scales = x.scales.as_chunks::<N>().0.as_chunks::<2>().0;
    let words = words.as_chunks::<GROUPS>().0.as_chunks::<2>().0;
    for first in (0..2).step_by(P) {
        let panels: [&[[u8; Q8_SUPERBLOCK_BYTES]]; P] = std::array::from_fn(|p| panels[first + p].as_chunks().0);
        assert!(panels.iter().all(|p| p.len() == words.len()) && words.len() == scales.len());
        let mut sums = [[s.splat(0.0); P]; N];
        for (i, (words, scales)) in words.iter().zip(scales).enumerate() {
            let superblocks: [&[u8; Q8_SUPERBLOCK_BYTES]; P] = std::array::from_fn(|p| &panels[p][i]);
            // Two calls and no loop, which AVX2's compiled form kept: it took 5 % more instructions.
            q8_block(s, &mut sums, superblocks, 0, &words[0], &scales[0]);
            q8_block(s, &mut sums, superblocks, 1, &words[1], &scales[1]);
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
/// How many bytes ahead weights are prefetched when there is one token. Its chains of additions are too long for a core
/// to look that far ahead by itself. Those of q8 are short, so prefetching gains nothing there.
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

const _: () = assert!(PAIR_ROWS == 2 * LANES);
