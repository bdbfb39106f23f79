//! The q8 block: 32 weights as signed bytes and one f16 scale; a weight is `byte * scale`.
//!
//! The scale is the smallest f16 that is not below `absmax / 127`: no weight is clipped, and each is restored to
//! within half a scale. Bytes are `weight / scale` rounded to nearest, ties to even, in -127..=127
//! (-128 is never written: kernels rely on it). A block of zeros has scale 0 and bytes 0. If `absmax / 127` is
//! below the smallest f16 subnormal, 2^-24, the scale is 2^-24; above 65504, the largest f16, there is no scale.

use crate::encoding::{Description, InputForm, PANEL_ROWS};
use crate::pack_q8;
use half::f16;

/// Columns that share one scale.
pub const Q8_BLOCK: usize = 32;

/// Columns of one superblock: two blocks, whose scales come first.
pub const Q8_SUPERBLOCK: usize = 64;

/// Bytes of one superblock of a panel: 2 x 16 f16 scales, then 64 x 16 signed bytes. 17 cache lines.
pub const Q8_SUPERBLOCK_BYTES: usize = 2 * PANEL_ROWS * 2 + Q8_SUPERBLOCK * PANEL_ROWS;

/// Signed bytes with one f16 scale for each block.
pub(crate) static Q8: Description = Description {
    code: 2,
    name: "q8",
    exact: false,
    largest: 127.0 * 65504.0,
    step: |largest| f64::from(largest) / 127.0,
    input: InputForm::Bytes32,
    panel_bytes: |cols| cols.div_ceil(Q8_SUPERBLOCK).checked_mul(Q8_SUPERBLOCK_BYTES),
    pack: pack_q8::pack,
    unpack_row,
};

/// The scale of a block whose largest magnitude is `absmax`: the smallest f16 with `127 * scale >= absmax`.
///
/// None when no f16 is large enough, that is past 127 * 65504, or when `absmax` is not finite.
#[inline]
pub fn scale(absmax: f32) -> Option<f16> {
    let near = f16::from_f32(absmax / 127.0);
    // The product is exact: 7 bits x 11 bits fit f32's 24.
    let enough = near.to_f32() * 127.0 >= absmax;
    let scale = if enough { near } else { f16::from_bits(near.to_bits() + 1) };
    (absmax.is_finite() && scale.is_finite()).then_some(scale)
}

/// The byte of `weight` at a block's `scale`.
#[inline(always)]
pub fn quantize(weight: f32, scale: f32) -> i8 {
    // Adding 1.5 * 2^23 leaves no bits for a fraction: the sum is rounded to a whole number, ties to even, and its low
    // byte is the result. Compilers vectorize this on any machine; for a rounding function they would emit calls.
    const SHIFT: f32 = 12_582_912.0;
    if scale == 0.0 { 0 } else { (weight / scale + SHIFT).to_bits() as i8 }
}

/// The weight that a byte stands for. Exact: 8 bits x 11 bits fit f32.
#[inline]
pub fn dequantize(byte: i8, scale: f16) -> f32 {
    f32::from(byte) * scale.to_f32()
}

/// Writes block `block` of a row of a panel.
///
/// # Panics
/// When the panel has no such block, or a byte is -128.
pub fn set_block(panel: &mut [u8], row: usize, block: usize, scale: f16, bytes: &[i8; Q8_BLOCK]) {
    assert!(row < PANEL_ROWS && !bytes.contains(&-128));
    let superblock = &mut panel[block / 2 * Q8_SUPERBLOCK_BYTES..][..Q8_SUPERBLOCK_BYTES];
    let (scales, groups) = superblock.split_at_mut(2 * 2 * PANEL_ROWS);
    let at = 2 * (block % 2 * PANEL_ROWS + row);
    scales[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    let groups = groups[block % 2 * Q8_BLOCK * PANEL_ROWS..].chunks_exact_mut(4 * PANEL_ROWS);
    for (group, four) in groups.zip(bytes.as_chunks::<4>().0) {
        group[4 * row..][..4].copy_from_slice(&four.map(|byte| byte as u8));
    }
}

/// Reads block `block` of a row of a panel: its scale and its bytes.
///
/// # Panics
/// When the panel has no such block.
pub fn block(panel: &[u8], row: usize, block: usize) -> (f16, [i8; Q8_BLOCK]) {
    assert!(row < PANEL_ROWS);
    let superblock = &panel[block / 2 * Q8_SUPERBLOCK_BYTES..][..Q8_SUPERBLOCK_BYTES];
    let (scales, groups) = superblock.split_at(2 * 2 * PANEL_ROWS);
    let at = 2 * (block % 2 * PANEL_ROWS + row);
    let groups = &groups[block % 2 * Q8_BLOCK * PANEL_ROWS..];
    let byte = |column: usize| groups[column / 4 * 4 * PANEL_ROWS + 4 * row + column % 4] as i8;
    (f16::from_le_bytes([scales[at], scales[at + 1]]), std::array::from_fn(byte))
}

/// Decodes one row of a panel, `[cols]`.
fn unpack_row(panel: &[u8], row: usize, out: &mut [f32]) {
    let superblocks = panel.chunks_exact(Q8_SUPERBLOCK_BYTES);
    for (values, superblock) in out.chunks_mut(Q8_SUPERBLOCK).zip(superblocks) {
        let (scales, bytes) = superblock.split_at(2 * 2 * PANEL_ROWS);
        for (half, block) in values.chunks_mut(Q8_BLOCK).enumerate() {
            let at = 2 * (half * PANEL_ROWS + row);
            let scale = f16::from_le_bytes([scales[at], scales[at + 1]]);
            let groups = bytes[half * Q8_BLOCK * PANEL_ROWS..].chunks_exact(4 * PANEL_ROWS);
            for (four, group) in block.chunks_mut(4).zip(groups) {
                for (x, &byte) in four.iter_mut().zip(&group[4 * row..]) {
                    *x = dequantize(byte as i8, scale);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_block() {
        assert_eq!(scale(0.0), Some(f16::ZERO));
        assert_eq!(quantize(0.0, 0.0), 0);
        assert_eq!(quantize(-0.0, 0.0), 0);
    }

    #[test]
    fn scale_never_clips_and_is_the_smallest() {
        let mut x = 1e-12f32;
        while x < 127.0 * 65504.0 {
            let s = scale(x).unwrap();
            assert!(s.to_f64() * 127.0 >= f64::from(x), "{x} clips at {s}");
            let below = f16::from_bits(s.to_bits() - 1);
            assert!(below.to_f64() * 127.0 < f64::from(x), "{x}: {below} would do");
            assert!((-127..=127).contains(&quantize(x, s.to_f32())));
            x *= 1.0009;
        }
    }

    #[test]
    fn subnormal_scales() {
        // 2^-24. `powi` does not guarantee an exact power.
        let least = f16::from_bits(1).to_f32();
        assert_eq!(scale(f32::from_bits(1)), Some(f16::from_bits(1)));
        assert_eq!(scale(127.0 * least), Some(f16::from_bits(1)));
        assert_eq!(scale(127.5 * least), Some(f16::from_bits(2)));
        // Half the smallest scale is a tie and rounds to even, zero.
        assert_eq!(quantize(least / 2.0, least), 0);
    }

    #[test]
    fn ties_go_to_even() {
        for (weight, byte) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (126.5, 126)] {
            assert_eq!(quantize(weight, 1.0), byte, "{weight}");
        }
    }

    #[test]
    fn beyond_f16_there_is_no_scale() {
        assert_eq!(scale(127.0 * 65504.0), Some(f16::MAX));
        assert_eq!(scale(127.0 * 65504.0 * 1.0001), None);
        assert_eq!(scale(f32::INFINITY), None);
        assert_eq!(scale(f32::NAN), None);
    }

    #[test]
    fn every_weight_comes_back_within_half_a_scale() {
        let mut state = 7u32;
        for _ in 0..2000 {
            let block: Vec<f32> = (0..Q8_BLOCK)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state as f32 / u32::MAX as f32 - 0.5) * 0.1
                })
                .collect();
            let s = scale(block.iter().fold(0.0, |m, x| x.abs().max(m))).unwrap();
            for &x in &block {
                let back = dequantize(quantize(x, s.to_f32()), s);
                assert!((f64::from(back) - f64::from(x)).abs() <= s.to_f64() * 0.500001);
            }
        }
    }
}
