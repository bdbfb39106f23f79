//! Reads 32 columns of a block of each type.

use super::{Blocks, Min, PART, Part, half_at};
use nanoserve_format::codes::{E2M1, IQ4};

/// Part `j` of a block.
#[inline]
pub(super) fn read(kind: Blocks, b: &[u8], j: usize) -> Part {
    let flat = |numbers, d, min| Part { numbers, d, scale: [1; 2], min };
    let index = |f: &dyn Fn(usize) -> i8| std::array::from_fn(f);
    match kind {
        Blocks::Q4_0 => flat(nibbles(&b[2..18], |q| q as i8 - 8), half_at(b, 0), Min::None),
        Blocks::Q4_1 => flat(nibbles(&b[4..20], |q| q as i8), half_at(b, 0), Min::Flat(half_at(b, 2))),
        Blocks::Q5_0 => flat(fifth(&b[2..6], &b[6..22], 16), half_at(b, 0), Min::None),
        Blocks::Q5_1 => flat(fifth(&b[4..8], &b[8..24], 0), half_at(b, 0), Min::Flat(half_at(b, 2))),
        Blocks::Q8_0 => flat(std::array::from_fn(|i| b[2 + i] as i8), half_at(b, 0), Min::None),
        Blocks::Iq4Nl => flat(nibbles(&b[2..18], |q| IQ4[usize::from(q)]), half_at(b, 0), Min::None),
        Blocks::Mxfp4 => flat(nibbles(&b[1..17], |q| E2M1[usize::from(q)]), power(b[0]), Min::None),
        Blocks::Tq1_0 => flat(index(&|i| trit(b, PART * j + i)), half_at(b, 52), Min::None),
        Blocks::Tq2_0 => flat(index(&|i| two_bits(&b[..64], j, i) - 1), half_at(b, 64), Min::None),
        Blocks::Q2K => {
            let share = [b[2 * j], b[2 * j + 1]];
            Part {
                numbers: index(&|i| two_bits(&b[16..80], j, i)),
                d: half_at(b, 80),
                scale: share.map(|s| i16::from(s & 15)),
                min: Min::Nested(half_at(b, 82), share.map(|s| s >> 4)),
            }
        }
        Blocks::Q3K => {
            // A set bit of the mask means that 4 is not subtracted.
            let high = |i: usize| if b[i] >> j & 1 == 1 { 0 } else { 4 };
            let scale = [2 * j, 2 * j + 1].map(|k| {
                let low = b[96 + k % 8] >> (4 * (k / 8)) & 15;
                let high = b[104 + k % 4] >> (2 * (k / 4)) & 3;
                i16::from(low | high << 4) - 32
            });
            Part {
                numbers: index(&|i| two_bits(&b[32..96], j, i) - high(i)),
                d: half_at(b, 108),
                scale,
                min: Min::None,
            }
        }
        Blocks::Q4K | Blocks::Q5K => {
            let (scale, min) = six_bits(&b[4..16], j);
            let (fifths, low) = if kind == Blocks::Q5K { (Some(&b[16..48]), &b[48..176]) } else { (None, &b[16..144]) };
            let low = &low[PART * (j / 2)..][..PART];
            let number = |i: usize| {
                let high = fifths.map_or(0, |fifths| fifths[i] >> j & 1);
                (low[i] >> (4 * (j % 2)) & 15 | high << 4) as i8
            };
            let (scale, min) = ([i16::from(scale); 2], Min::Nested(half_at(b, 2), [min; 2]));
            Part { numbers: index(&number), d: half_at(b, 0), scale, min }
        }
        Blocks::Q6K => {
            let (low, high) = (&b[64 * (j / 4) + PART * (j % 2)..][..PART], &b[128 + PART * (j / 4)..][..PART]);
            let number = |i: usize| {
                let low = low[i] >> (4 * (j % 4 / 2)) & 15;
                (low | (high[i] >> (2 * (j % 4)) & 3) << 4) as i8 - 32
            };
            let scale = [b[192 + 2 * j], b[193 + 2 * j]].map(|s| i16::from(s as i8));
            Part { numbers: index(&number), d: half_at(b, 208), scale, min: Min::None }
        }
        Blocks::Iq4Xs => {
            let low = b[4 + j / 2] >> (4 * (j % 2)) & 15;
            let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * j) & 3;
            let scale = [i16::from(low) + 16 * high as i16 - 32; 2];
            let numbers = nibbles(&b[8 + 16 * j..][..16], |q| IQ4[usize::from(q)]);
            Part { numbers, d: half_at(b, 0), scale, min: Min::None }
        }
    }
}

/// 16 bytes: the low halves, then the high ones.
#[inline]
fn nibbles(bytes: &[u8], number: impl Fn(u8) -> i8) -> [i8; PART] {
    std::array::from_fn(|i| number(if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 }))
}

/// As [`nibbles`], with a fifth bit each from 4 other bytes, minus `offset`.
#[inline]
fn fifth(bits: &[u8], bytes: &[u8], offset: i8) -> [i8; PART] {
    let mut numbers = nibbles(bytes, |q| q as i8);
    for (i, number) in numbers.iter_mut().enumerate() {
        *number += ((bits[i / 8] >> (i % 8) & 1) << 4) as i8 - offset;
    }
    numbers
}

/// Two bits of 64 bytes: 32 bytes hold four parts.
#[inline]
fn two_bits(bytes: &[u8], j: usize, i: usize) -> i8 {
    (bytes[PART * (j / 4) + i] >> (2 * (j % 4)) & 3) as i8
}

/// Scale and minimum `j` of the eight pairs of six bits in 12 bytes.
#[inline]
fn six_bits(b: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (b[j] & 63, b[j + 4] & 63)
    } else {
        (b[j + 4] & 15 | (b[j - 4] >> 6) << 4, b[j + 4] >> 4 | (b[j] >> 6) << 4)
    }
}

/// Value `i` of a block of ternary numbers, of which a byte holds five as a fraction to base 3; the last bytes hold four.
#[inline]
fn trit(b: &[u8], i: usize) -> i8 {
    let (byte, place) = match i {
        0..160 => (b[i % 32], i / 32),
        160..240 => (b[32 + (i - 160) % 16], (i - 160) / 16),
        _ => (b[48 + (i - 240) % 4], (i - 240) / 4),
    };
    let rest = byte.wrapping_mul([1, 3, 9, 27, 81][place]);
    ((u16::from(rest) * 3) >> 8) as i8 - 1
}

/// Two to the power `e - 128`: half of what the exponent stands for, because the table holds doubled values.
#[inline]
fn power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}
