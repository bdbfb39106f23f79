//! Loops that each do a single thing, to measure an instruction set's peak rates.

use super::Simd;
use crate::cpu::math::LANES;
use std::hint::black_box;

/// Runs `N` independent chains of `rounds` dot products and returns the number of multiply-accumulates.
///
/// Weights change from round to round, as in a matrix: an instruction set that must prepare them pays for that once for
/// all chains.
#[inline(always)]
pub fn dot_rate<S: Simd, const N: usize>(s: S, rounds: usize) -> usize {
    let bytes: [[u8; 4 * LANES]; 8] = black_box([[3; 4 * LANES]; 8]);
    let weights: [S::W; 8] = std::array::from_fn(|i| s.weights(&bytes[i]));
    let words: [i32; N] = black_box(std::array::from_fn(|t| 0x0101_0101 * (1 + t as i32 % 4)));
    let mut sums: [S::I; N] = [s.dot_start(0); N];
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

/// Runs `N` independent chains of `rounds` fused multiply-adds and returns their number.
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

/// Reads bytes as weights and does as little with them as possible.
#[inline(always)]
pub fn read<S: Simd>(s: S, bytes: &[u8]) {
    let mut sums: [S::I; 4] = [s.dot_start(0); 4];
    for lines in bytes.as_chunks().0.as_chunks::<4>().0 {
        for (sum, line) in sums.iter_mut().zip(lines) {
            *sum = s.touch(*sum, s.weights(line));
        }
    }
    for sum in sums {
        s.store(s.to_float(sum), black_box(&mut [0.0; LANES]));
    }
}
