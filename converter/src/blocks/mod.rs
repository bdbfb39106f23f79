//! Values in blocks, as GGUF files store them: 32 or 256 consecutive values of a row share one or two f16.
//!
//! Every type is read as parts of 32 columns ([`Part`]): a whole number for each value, and what it is multiplied by. From
//! a part come both the values as f32 ([`Blocks::widen`]) and the same numbers in our own panels ([`carry`]), which then
//! stand for the same values to the last bit. The layouts are those of `ggml-common.h` and `gguf-py/gguf/quants.py` of
//! llama.cpp.

mod carry;
mod parts;
#[cfg(test)]
mod tests;

pub(crate) use carry::{carry, fits};

use half::f16;
use nanoserve_format::{Codes, Encoding};

/// Columns of a part.
pub(crate) const PART: usize = 32;

/// A type of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
}

/// 32 values of a row: value `i` is `d * scale[i / 16] * numbers[i]`, plus the minimum of its half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Part {
    pub numbers: [i8; PART],
    /// The number that the block's values share; an f16, but for MXFP4 a power of two.
    pub d: f32,
    /// Whole numbers of columns 0..16 and 16..32; both 1 where the type has none.
    pub scale: [i16; 2],
    pub min: Min,
}

/// What is added to the values of a part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Min {
    None,
    /// This f16.
    Flat(f32),
    /// The negated product of an f16 and a whole number for each half.
    Nested(f32, [u8; 2]),
}

impl Blocks {
    /// Every type.
    pub const ALL: [Blocks; 15] = [
        Blocks::Q4_0,
        Blocks::Q4_1,
        Blocks::Q5_0,
        Blocks::Q5_1,
        Blocks::Q8_0,
        Blocks::Q2K,
        Blocks::Q3K,
        Blocks::Q4K,
        Blocks::Q5K,
        Blocks::Q6K,
        Blocks::Iq4Nl,
        Blocks::Iq4Xs,
        Blocks::Tq1_0,
        Blocks::Tq2_0,
        Blocks::Mxfp4,
    ];

    /// Its name in llama.cpp, the values of a block, its bytes, and the encoding whose panels hold the same numbers.
    const fn facts(self) -> (&'static str, usize, usize, Option<Encoding>) {
        const fn codes(codes: Codes) -> Option<Encoding> {
            Some(Encoding::Codes(codes))
        }
        match self {
            Blocks::Q4_0 => ("Q4_0", 32, 18, codes(Codes::Q4_0)),
            Blocks::Q4_1 => ("Q4_1", 32, 20, codes(Codes::Q4_1)),
            Blocks::Q5_0 => ("Q5_0", 32, 22, codes(Codes::Q5_0)),
            Blocks::Q5_1 => ("Q5_1", 32, 24, codes(Codes::Q5_1)),
            Blocks::Q8_0 => ("Q8_0", 32, 34, Some(Encoding::Q8)),
            // Its minima belong to 16 columns, for which no encoding has a place.
            Blocks::Q2K => ("Q2_K", 256, 84, None),
            Blocks::Q3K => ("Q3_K", 256, 110, codes(Codes::Q6K)),
            Blocks::Q4K => ("Q4_K", 256, 144, codes(Codes::Q4K)),
            Blocks::Q5K => ("Q5_K", 256, 176, codes(Codes::Q5K)),
            Blocks::Q6K => ("Q6_K", 256, 210, codes(Codes::Q6K)),
            Blocks::Iq4Nl => ("IQ4_NL", 32, 18, codes(Codes::Iq4Nl)),
            Blocks::Iq4Xs => ("IQ4_XS", 256, 136, codes(Codes::Iq4Xs)),
            Blocks::Tq1_0 => ("TQ1_0", 256, 54, codes(Codes::Q4_0)),
            Blocks::Tq2_0 => ("TQ2_0", 256, 66, codes(Codes::Q4_0)),
            Blocks::Mxfp4 => ("MXFP4", 32, 17, codes(Codes::Mxfp4)),
        }
    }

    /// Its name in llama.cpp.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// Values of a block; rows are whole blocks.
    pub fn values(self) -> usize {
        self.facts().1
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        self.facts().2
    }

    /// The encoding whose panels hold its numbers; None if there is none. Single blocks may still not fit: see [`fits`].
    pub fn carrier(self) -> Option<Encoding> {
        self.facts().3
    }

    /// Part `index` of a row, which begins at `row`.
    #[inline]
    pub fn part(self, row: &[u8], index: usize) -> Part {
        let parts = self.values() / PART;
        let block = &row[index / parts * self.bytes()..][..self.bytes()];
        parts::read(self, block, index % parts)
    }

    /// Converts whole blocks to f32, as gguf-py does, to the last bit. `out` has one element for each value.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        for (index, out) in out.chunks_exact_mut(PART).enumerate() {
            self.part(bytes, index).values(out);
        }
    }
}

impl Part {
    /// The values, in `out`, `[32]`.
    fn values(&self, out: &mut [f32]) {
        for (half, (out, numbers)) in
            out.chunks_exact_mut(PART / 2).zip(self.numbers.chunks_exact(PART / 2)).enumerate()
        {
            let scale = self.d * f32::from(self.scale[half]);
            for (x, &number) in out.iter_mut().zip(numbers) {
                // The product is exact; only adding a minimum rounds.
                let product = scale * f32::from(number);
                *x = match self.min {
                    Min::None => product,
                    Min::Flat(min) => product + min,
                    Min::Nested(min, share) => product - min * f32::from(share[half]),
                };
            }
        }
    }

    /// Whether all its values are finite.
    fn is_finite(&self) -> bool {
        let min = match self.min {
            Min::None => 0.0,
            Min::Flat(min) | Min::Nested(min, _) => min,
        };
        self.d.is_finite() && min.is_finite()
    }
}

/// The f16 at a place, as f32.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
