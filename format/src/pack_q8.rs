//! Packs rows into q8 panels: one plain loop, compiled again for machines with wider vectors.
//!
//! Each value is rounded by itself and sums run in fixed lanes, so the result does not depend on the instruction set.
//! The only unsafe code calls functions that are compiled for features which were just detected.

use crate::encoding::PANEL_ROWS;
use crate::panel::{OutOfRange, Squares};
use crate::q8::{self, Q8_BLOCK, Q8_SUPERBLOCK, Q8_SUPERBLOCK_BYTES};

/// Number of partial sums for the squares of a row.
const LANES: usize = 16;

/// As [`panel::pack`](crate::panel::pack), for q8.
pub fn pack(cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("f16c") {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { pack_avx512(cols, rows, out) };
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { pack_avx2(cols, rows, out) };
    }
    plain(cols, rows, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,f16c")]
fn pack_avx512(cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    plain(cols, rows, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn pack_avx2(cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    plain(cols, rows, out)
}

#[inline(always)]
fn plain(cols: usize, rows: &[f32], out: &mut [u8]) -> Result<Squares, OutOfRange> {
    if rows.len() < PANEL_ROWS * cols || !cols.is_multiple_of(Q8_SUPERBLOCK) {
        out.fill(0);
    }
    // All rows fill a superblock before the next one: rows write it four bytes at a time, and it stays in the L1 cache.
    let mut sums = [[[0f32; LANES]; 2]; PANEL_ROWS];
    for (index, superblock) in out.as_chunks_mut::<Q8_SUPERBLOCK_BYTES>().0.iter_mut().enumerate() {
        let first = index * Q8_SUPERBLOCK;
        for (row, values) in rows.chunks_exact(cols).enumerate() {
            let values = &values[first..cols.min(first + Q8_SUPERBLOCK)];
            for (half, values) in values.chunks(Q8_BLOCK).enumerate() {
                let mut padded = [0.0; Q8_BLOCK];
                let block = match values.try_into() {
                    Ok(whole) => whole,
                    Err(_) => {
                        padded[..values.len()].copy_from_slice(values);
                        &padded
                    }
                };
                if let Err(value) = pack_block(block, superblock, half, row, &mut sums[row]) {
                    return Err(OutOfRange { row, col: first + half * Q8_BLOCK, value });
                }
            }
        }
    }
    let mut total = Squares::default();
    for (signal, noise) in sums.iter().flat_map(|[signal, noise]| signal.iter().zip(noise)) {
        total = total + Squares { signal: f64::from(*signal), noise: f64::from(*noise) };
    }
    Ok(total)
}

/// Packs 32 columns of one row into their place in a superblock and adds the squares of values and errors to the sums.
/// Err is the magnitude that is too large for a scale.
#[inline(always)]
fn pack_block(
    block: &[f32; Q8_BLOCK],
    superblock: &mut [u8; Q8_SUPERBLOCK_BYTES],
    half: usize,
    row: usize,
    [signal, noise]: &mut [[f32; LANES]; 2],
) -> Result<(), f32> {
    // Magnitudes order the same as integers, and integer comparisons vectorize.
    let mut absmax = 0;
    for x in block {
        absmax = absmax.max(x.to_bits() & 0x7fff_ffff);
    }
    let absmax = f32::from_bits(absmax);
    let scale = q8::scale(absmax).ok_or(absmax)?;
    let (scales, bytes) = superblock.split_at_mut(4 * PANEL_ROWS);
    let at = 2 * (half * PANEL_ROWS + row);
    scales[at..at + 2].copy_from_slice(&scale.to_le_bytes());

    let scale = scale.to_f32();
    let mut quantized = [0i8; Q8_BLOCK];
    // A loop, not `map`: a closure may be compiled without the wider features.
    for (byte, x) in quantized.iter_mut().zip(block) {
        *byte = q8::quantize(*x, scale);
    }
    let (block_halves, quantized_halves) = (block.as_chunks::<LANES>().0, quantized.as_chunks::<LANES>().0);
    for (block, quantized) in block_halves.iter().zip(quantized_halves) {
        for i in 0..LANES {
            let error = block[i] - f32::from(quantized[i]) * scale;
            signal[i] += block[i] * block[i];
            noise[i] += error * error;
        }
    }
    let groups = bytes[half * Q8_BLOCK * PANEL_ROWS..].as_chunks_mut::<{ 4 * PANEL_ROWS }>().0;
    for (four, group) in quantized.as_chunks::<4>().0.iter().zip(groups) {
        group[4 * row..4 * row + 4].copy_from_slice(bytemuck::cast_slice(four));
    }
    Ok(())
}
